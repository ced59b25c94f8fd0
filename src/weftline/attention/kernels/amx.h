// Products of bf16 on a matrix unit (AMX), and the packing that it asks for.
//
// A tile product adds a [16][32] b [32][16] to c [16][16] in fp32; a is rows as they are, b holds
// pairs: its row k is (b[2k][n], b[2k + 1][n]) for n in 0 .. 15.
#pragma once
#include "vectors.h"

// clang 14 calls the matrix unit __AMXBF16__.
#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__) && defined(__AVX512VBMI__) && defined(__linux__)
#define MATRIX 1
#include <sys/syscall.h>
#include <unistd.h>

// The compilers' own form does not say that it reads memory, so what was to be written there may not be yet.
#define TILE_LOAD(tile, from, apart) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"((const void *)(from)), "r"((long)(apart)) : "memory")

namespace matrix {

typedef uint16_t half;

// Linux asks a process to ask for the unit's registers, once.
static bool granted() {
  static const bool yes = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return yes;
}

// All eight tiles are 16 rows of 64 bytes: 0 .. 3 sums, 4 and 5 rows, 6 and 7 pairs.
static inline void begin() {
  alignas(64) struct { uint8_t palette, start, zero[14]; uint16_t wide[16]; uint8_t rows[16]; } set = {};
  set.palette = 1;
  for (int i = 0; i < 8; i++) set.wide[i] = 64, set.rows[i] = 16;
  asm volatile("" ::"r"(&set) : "memory");
  _tile_loadconfig(&set);
}
static inline void end() { _tile_release(); }

static inline __m512i pair_of(vf low, vf high) {
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

// 32 floats as bf16, and what that leaves out as bf16.
static inline void split(const float *x, half *high, half *low) {
  const vf a = get(x), b = get(x + 16);
  const __m512i top = pair_of(a, b);
  _mm512_storeu_si512(high, top);
  if (low == nullptr) return;
  const vf ra = a - get(high), rb = b - get(high + 16);
  _mm512_storeu_si512(low, pair_of(ra, rb));
}

// 32 stored numbers as bf16: int8 has no number that bf16 lacks.
static inline __m512i halves(const half *p) { return _mm512_loadu_si512(p); }
struct Bytes {  // of bf16's 0 .. 127, the low and the high one
  alignas(64) uint8_t low[128], high[128];
  Bytes() {
    for (int i = 0; i < 128; i++) {
      const float x = (float)i;
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      low[i] = (uint8_t)(bits >> 16), high[i] = (uint8_t)(bits >> 24);
    }
  }
};
static const Bytes BYTES;
static inline __m512i halves(const int8_t *p) {  // looked up by their size: fewer steps than by way of fp32
  const __m512i x = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p)), size = _mm512_abs_epi16(x);
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(BYTES.low), size, _mm512_load_si512(BYTES.low + 64));
  const __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(BYTES.high), size, _mm512_load_si512(BYTES.high + 64));
  const __m512i sign = _mm512_and_si512(x, _mm512_set1_epi16((short)0x8000));
  return _mm512_ternarylogic_epi64(low, _mm512_slli_epi16(high, 8), sign, 0xFE);
}
static inline __m512i halves(const float *p) { return pair_of(get(p), get(p + 16)); }

// Two rows of 32 as pairs down the rows: out[0] of columns 0 .. 15, out[1] of the rest.
static inline void zip(__m512i even, __m512i odd, half *low, half *high) {
  alignas(64) static const half first[32] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39,
                                             8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i at = _mm512_load_si512(first), next = _mm512_add_epi16(at, _mm512_set1_epi16(16));
  _mm512_storeu_si512(low, _mm512_permutex2var_epi16(even, at, odd));
  _mm512_storeu_si512(high, _mm512_permutex2var_epi16(even, next, odd));
}

}  // namespace matrix
#endif
