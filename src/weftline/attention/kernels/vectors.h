// Vectors of floats of whatever width the compiler's target has, and what is read into them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int W = 16, ROWS = 6, COLS = 4;
#elif defined(__AVX__)
constexpr int W = 8, ROWS = 6, COLS = 2;
#else
constexpr int W = 4, ROWS = 6, COLS = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef float vfu __attribute__((vector_size(4 * W), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W), aligned(2)));
typedef int8_t vb __attribute__((vector_size(W), aligned(1)));


static inline vf all(float x) { return x - (vf){}; }
static inline vf get(const float *p) { return *(const vfu *)p; }
static inline void put(float *p, vf x) { *(vfu *)p = x; }
// Compilers turn the portable forms into many instructions where a machine has one.
#if defined(__AVX512F__)
static inline vf get(const uint16_t *p) {
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
static inline vf get(const int8_t *p) {
  return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
#elif defined(__AVX2__)
static inline vf get(const uint16_t *p) {
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}
static inline vf get(const int8_t *p) {
  return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
#else
static inline vf get(const uint16_t *p) {
  return (vf)(__builtin_convertvector(*(const vh *)p, vu) << 16);
}
static inline vf get(const int8_t *p) {
  return __builtin_convertvector(__builtin_convertvector(*(const vb *)p, vi), vf);
}
#endif
// A number alone, for what is left of a row.
static inline float one(float x) { return x; }
static inline float one(int8_t x) { return x; }
static inline float one(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float found;
  std::memcpy(&found, &bits, 4);
  return found;
}
static inline vf larger(vf a, vf b) { return a > b ? a : b; }

// e^x for x <= 0 within 3 units in the last place, 0 where it has no normal number.
#if defined(__AVX512F__)
// What is over the nearest whole number: one instruction where a rounding takes two.
static inline __m512 reduced(__m512 x) {
#if defined(__AVX512DQ__)
  return _mm512_reduce_ps(x, 8);
#else
  return _mm512_sub_ps(x, _mm512_roundscale_ps(x, 8));
#endif
}
static inline vf exp_of(vf x) {  // 2^n times a polynomial of the rest, |rest| <= 1/2, off by 7.5e-8 at most
  const vf t = x * 1.44269504f, r = (vf)reduced((__m512)t);
  vf y = r * 1.32765e-3f + 9.67554e-3f;
  y = y * r + 5.550713e-2f;
  y = y * r + 2.402212e-1f;
  y = y * r + 6.9314697e-1f;
  y = y * r + 1.00000007f;
  return (vf)_mm512_scalef_ps((__m512)y, (__m512)(t - r));
}
#else
// 2^n times a polynomial of the rest (Cephes).
static inline vf exp_of(vf given) {
  vf x = larger(given, all(-87.0f));
  vf n = x * 1.44269504f + 12582912.0f;
  vi whole = (vi)n - 0x4B400000;
  n = n - 12582912.0f;
  vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vf y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  y = y * (vf)((whole + 127) << 23);
  return given < -87.0f ? (vf){} : y;
}
#endif

// Numbers of x and, from place W on, of y. The places are constants, so that it is one instruction.
template <typename Places, int... I>
static inline vf picked(vf x, vf y, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(x, y, Places::of(I)...);
#else
  return __builtin_shuffle(x, y, vi{Places::of(I)...});
#endif
}
template <typename Places>
static inline vf picked(vf x, vf y) { return picked<Places>(x, y, std::make_integer_sequence<int, W>{}); }

template <int BY>
struct Turned { static constexpr int of(int i) { return (i + BY) % W; } };
template <int FROM>
struct EveryOther { static constexpr int of(int i) { return 2 * i + FROM; } };
template <int FROM>
struct Zipped { static constexpr int of(int i) { return FROM + i / 2 + i % 2 * W; } };

template <int BY>
static inline vf turned(vf x) { return picked<Turned<BY>>(x, x); }
template <int BY = W / 2>
static inline vf sums_everywhere(vf x) {
  x += turned<BY>(x);
  if constexpr (BY > 1) x = sums_everywhere<BY / 2>(x);
  return x;
}
template <int BY = W / 2>
static inline vf most_everywhere(vf x) {
  x = larger(x, turned<BY>(x));
  if constexpr (BY > 1) x = most_everywhere<BY / 2>(x);
  return x;
}
static inline float sum(vf x) { return sums_everywhere(x)[0]; }

// Sums of W vectors as one vector: neighbours are added pair by pair, halving their count.
static inline vf sums(vf *v) {
  for (int n = W; n > 1; n /= 2)
    for (int i = 0; i < n / 2; i++)
      v[i] = picked<EveryOther<0>>(v[2 * i], v[2 * i + 1]) + picked<EveryOther<1>>(v[2 * i], v[2 * i + 1]);
  return v[0];
}

#if defined(__AVX512F__)
// 16 rows of 16 words turned about, [row][word] to [word][row].
static inline void turn(__m512i *x) {
  __m512i y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xDD);
    y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; i++) {
    x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
    x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xDD);
    x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xDD);
  }
}
#endif
