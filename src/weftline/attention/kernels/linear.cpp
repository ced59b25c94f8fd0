// A linear layer whose weights are bytes, for the few rows of decoding: weights are read once, in
// order, and widened on the way; rows share each vector of them.
#include "vectors.h"

constexpr int SHARED = 4;

template <int R>
static inline void rows_of(const float *x, int in, const int8_t *w, float scale, float *y, int out) {
  vf sums_of[R];
  for (int r = 0; r < R; r++) sums_of[r] = (vf){};
  int i = 0;
  for (; i + W <= in; i += W) {
    const vf v = get(w + i);
    for (int r = 0; r < R; r++) sums_of[r] += v * get(x + (size_t)r * in + i);
  }
  for (int r = 0; r < R; r++) {
    float s = sum(sums_of[r]);
    for (int j = i; j < in; j++) s += x[(size_t)r * in + j] * w[j];
    y[(size_t)r * out] = s * scale;
  }
}

// y [rows][out] = x [rows][in] times w [out][in] transposed, a scale for each row of w.
extern "C" void weftline_linear_int8(const float *x, const int8_t *w, const float *scale, float *y,
                                     int rows, int in, int out) {
#pragma omp parallel for schedule(static)
  for (int o = 0; o < out; o++) {
    const int8_t *row = w + (size_t)o * in;
    int r = 0;
    for (; r + SHARED <= rows; r += SHARED)
      rows_of<SHARED>(x + (size_t)r * in, in, row, scale[o], y + (size_t)r * out + o, out);
    for (; r < rows; r++)
      rows_of<1>(x + (size_t)r * in, in, row, scale[o], y + (size_t)r * out + o, out);
  }
}
