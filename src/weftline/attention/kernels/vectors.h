// Vectors of floats of whatever width the compiler's target has, and what is read into them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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
static inline vf larger(vf a, vf b) { return a > b ? a : b; }
