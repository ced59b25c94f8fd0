// A linear layer for the few rows of decoding: weights are read once, in order, and widened on the
// way; rows and outputs share what is loaded in blocks of four by four.
#include "vectors.h"

// Sums of R rows of x times O rows of w, [R][O].
template <int R, int O, typename T>
static inline void block(const float *x, int in, const T *w, float *found) {
  vf part[R][O];
  for (int r = 0; r < R; r++)
    for (int o = 0; o < O; o++) part[r][o] = (vf){};
  int i = 0;
  for (; i + W <= in; i += W) {
    vf v[O];
    for (int o = 0; o < O; o++) {
      v[o] = get(w + (size_t)o * in + i);
      if (i % (64 / (int)sizeof(T)) == 0) __builtin_prefetch(w + (size_t)(O + o) * in + i, 0, 2);  // of the next block
    }
    for (int r = 0; r < R; r++) {
      const vf y = get(x + (size_t)r * in + i);
      for (int o = 0; o < O; o++) part[r][o] += v[o] * y;
    }
  }
  for (int r = 0; r < R; r++)
    for (int o = 0; o < O; o++) {
      float s = sum(part[r][o]);
      for (int j = i; j < in; j++) s += x[(size_t)r * in + j] * one(w[(size_t)o * in + j]);
      found[r * O + o] = s;
    }
}

template <int O, typename T>
static void outputs(const float *x, const T *w, const float *scale, float *y, int rows, int in, int out, int at) {
  float found[16];
  for (int r = 0; r < rows;) {
    const int left = std::min(4, rows - r);
    const float *from = x + (size_t)r * in;
    if (left == 4) block<4, O>(from, in, w, found);
    else if (left == 3) block<3, O>(from, in, w, found);
    else if (left == 2) block<2, O>(from, in, w, found);
    else block<1, O>(from, in, w, found);
    for (int i = 0; i < left; i++)
      for (int o = 0; o < O; o++) y[(size_t)(r + i) * out + at + o] = found[i * O + o] * (scale ? scale[at + o] : 1);
    r += left;
  }
}

template <typename T>
static void linear(const float *x, const T *w, const float *scale, float *y, int rows, int in, int out) {
  const int whole = out / 4;
#pragma omp parallel for schedule(static)
  for (int b = 0; b < whole; b++) outputs<4>(x, w + (size_t)b * 4 * in, scale, y, rows, in, out, b * 4);
  for (int o = whole * 4; o < out; o++) outputs<1>(x, w + (size_t)o * in, scale, y, rows, in, out, o);
}

// y [rows][out] = x [rows][in] times w [out][in] transposed; a scale for each row of w, or null.
extern "C" void weftline_linear_fp32(const float *x, const float *w, const float *scale, float *y, int rows, int in, int out) {
  linear(x, w, scale, y, rows, in, out);
}
extern "C" void weftline_linear_bf16(const float *x, const uint16_t *w, const float *scale, float *y, int rows, int in, int out) {
  linear(x, w, scale, y, rows, in, out);
}
extern "C" void weftline_linear_int8(const float *x, const int8_t *w, const float *scale, float *y, int rows, int in, int out) {
  linear(x, w, scale, y, rows, in, out);
}
