// Decoding from an int8 cache by products of bytes (AVX-512 VNNI): nothing stored is widened.
//
// A query's numbers, and the weights of a page, are whole numbers of 24 bits: three bytes each, so
// that what is lost is less than fp32 loses. Sixteen keys are turned about, four numbers of each side
// by side, and a product adds those four for all keys at once; four rows of values are zipped, and a
// product adds those four keys' for sixteen numbers at once.
#pragma once
#include "paged.h"

#if KV == 2 && defined(__AVX512VNNI__) && defined(__AVX512VBMI__) && defined(__AVX512BW__)
#define BYTEWISE 1

namespace bytes {

constexpr int DB = (D + 63) / 64 * 64, HEADS = 4, PARTS = 3;
constexpr int AHEAD = 2;  // pages between what is weighed and what is asked for, into the second cache
constexpr float FULL = 127 << 16, WHOLE = (1 << 24) - 256;  // of queries, signed, and of weights

// Bytes [j, j + 64) of a row, zeros from D on.
static inline __m512i row(const int8_t *p, int j) {
  if (D - j >= 64) return _mm512_loadu_si512(p + j);
  return _mm512_maskz_loadu_epi8((1ull << (D - j)) - 1, p + j);
}

static inline vf joined(const __m512i *part) {
  return (vf)_mm512_cvtepi32_ps(part[2]) * 65536.0f + (vf)_mm512_cvtepi32_ps(part[1]) * 256.0f + (vf)_mm512_cvtepi32_ps(part[0]);
}

struct Asked {  // some heads of one query
  alignas(64) int8_t parts[HEADS][PARTS][DB];
  int32_t start[HEADS][PARTS];  // takes away that keys are counted from -128
  float unit[HEADS];
};

static void ask(const float *q, int heads, float scale, Asked &a) {
  std::memset(&a, 0, sizeof a);
  for (int g = 0; g < heads; g++) {
    float top = 0;
    for (int d = 0; d < D; d++) top = std::max(top, std::fabs(q[g * D + d]));
    a.unit[g] = top * scale / FULL;
    for (int d = 0; d < D; d++) {
      int32_t left = top > 0 ? (int32_t)std::lrint(q[g * D + d] * (FULL / top)) : 0;
      for (int i = 0; i < PARTS; i++) {
        a.parts[g][i][d] = (int8_t)left;
        a.start[g][i] -= 128 * a.parts[g][i][d];
        left = (left - a.parts[g][i][d]) >> 8;
      }
    }
  }
}

static inline void fetch(const char *from, size_t count) {
  for (size_t b = 0; b < count; b += 64) __builtin_prefetch(from + b, 0, 2);
}

// Scores [G][stride] of a page's first n keys.
template <int G>
static void score(const Asked &a, const int8_t *k, const float *ks, int n, float *s, int stride, const char *ahead) {
  const __m512i flip = _mm512_set1_epi8((char)0x80);
  for (int t = 0; t < n; t += W) {
    fetch(ahead + (size_t)t * D, W * D);
    __m512i found[G][PARTS];
    for (int g = 0; g < G; g++)
      for (int i = 0; i < PARTS; i++) found[g][i] = _mm512_set1_epi32(a.start[g][i]);
    for (int j = 0; j < D; j += 64) {
      __m512i x[16];
      for (int i = 0; i < 16; i++) x[i] = _mm512_xor_si512(row(k + (size_t)(t + i) * D, j), flip);
      turn(x);
      for (int d = 0; d < 16 && j + 4 * d < D; d++)
        for (int g = 0; g < G; g++)
          for (int i = 0; i < PARTS; i++) {
            int32_t four;
            std::memcpy(&four, &a.parts[g][i][j + 4 * d], 4);
            found[g][i] = _mm512_dpbusd_epi32(found[g][i], x[d], _mm512_set1_epi32(four));
          }
    }
    for (int g = 0; g < G; g++) put(s + g * stride + t, joined(found[g]) * (get(ks + t) * a.unit[g]));
  }
}

// Weights [from, n) of a page times their values' scales as bytes [page / 16][PARTS + 1][16]; the
// unit they are counted in.
static inline float weights(const float *p, const float *vs, int from, int n, float top, uint8_t *to) {
  alignas(64) static const uint8_t places[64] = {
      0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61,
      2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46, 50, 54, 58, 62, 3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59, 63};
  const __m512i at = _mm512_load_si512(places);
  const float each = top > 0 ? WHOLE / top : 0;
  for (int t = from / W * W; t < n; t += W) {
    const __m512i x = _mm512_cvtps_epi32((__m512)(get(p + t) * (get(vs + t) * each)));
    _mm512_storeu_si512(to + (size_t)t * 4, _mm512_permutexvar_epi8(at, x));
  }
  return top / WHOLE;
}

// Weighted values of a page are added to acc [G][DB], whose order of each 64 numbers is that of `zip`.
template <int G>
static void add(const int8_t *v, int from, int n, const uint8_t *w, int stride, const float *unit, float *acc, const char *ahead) {
  for (int j = 0; j < D; j += 64)
    for (int half = 0; half < 2; half++) {
      __m512i found[G][2][PARTS];
      for (int g = 0; g < G; g++)
        for (int x = 0; x < 2; x++)
          for (int i = 0; i < PARTS; i++) found[g][x][i] = _mm512_setzero_si512();
      for (int t = from / W * W; t < n; t += 4) {
        if (j == 0) fetch(ahead + (size_t)t * D + half * 2 * D, 2 * D);
        const int8_t *rows = v + (size_t)t * D;
        const __m512i a = row(rows, j), b = row(rows + D, j), c = row(rows + 2 * D, j), d = row(rows + 3 * D, j);
        const __m512i ab = half ? _mm512_unpackhi_epi8(a, b) : _mm512_unpacklo_epi8(a, b);
        const __m512i cd = half ? _mm512_unpackhi_epi8(c, d) : _mm512_unpacklo_epi8(c, d);
        const __m512i low = _mm512_unpacklo_epi16(ab, cd), high = _mm512_unpackhi_epi16(ab, cd);
        for (int g = 0; g < G; g++)
          for (int i = 0; i < PARTS; i++) {
            int32_t four;
            std::memcpy(&four, w + (size_t)g * stride + t / W * 64 + i * 16 + t % W, 4);
            const __m512i weight = _mm512_set1_epi32(four);
            found[g][0][i] = _mm512_dpbusd_epi32(found[g][0][i], weight, low);
            found[g][1][i] = _mm512_dpbusd_epi32(found[g][1][i], weight, high);
          }
      }
      for (int g = 0; g < G; g++)
        for (int x = 0; x < 2; x++) {
          float *to = acc + (size_t)g * DB + j + (half * 2 + x) * W;
          put(to, get(to) + joined(found[g][x]) * unit[g]);
        }
    }
}

template <int G>
static void stretch(const Call &c, const Part &p, const float *q, float *out, float *m, float *l) {
  const int32_t *table = c.tables + (size_t)p.request * c.width;
  Asked a;
  alignas(64) float s[G * BLOCK], acc[G * DB] = {};
  alignas(64) uint8_t w[G * BLOCK * 4];
  float unit[G];
  vf lanes[G] = {};
  ask(q, G, c.scale, a);
  for (int g = 0; g < G; g++) m[g] = NONE;
  for (int key = p.first; key < p.last;) {
    const int slot = key / c.page, from = key % c.page, n = std::min(c.page, p.last - slot * c.page);
    const int8_t *k = keys(c, table[slot], p.head), *v = k + (size_t)c.page * D;
    const float *ks = scale_of(c, table[slot], p.head), *vs = ks + c.page;
    const int far = (slot + AHEAD) * c.page < c.lens[p.request] ? table[slot + AHEAD] : table[slot];
    const int8_t *next = keys(c, far, p.head);
    fetch((const char *)scale_of(c, far, p.head), sizeof(float) * 2 * c.page);
    score<G>(a, k, ks, n, s, c.page, (const char *)next);
    vf tops = {};
    for (int t = from / W * W; t < n; t += W) tops = larger(tops, get(vs + t));
    const float top = most_everywhere(tops)[0];
    float factor[G], most[G];
    for (int g = 0; g < G; g++) soften(c, s + g * c.page, n);
    join<G>(s, c.page, from, n, m, lanes, factor, most);
    for (int g = 0; g < G; g++) {
      unit[g] = weights(s + g * c.page, vs, from, n, top * most[g], w + (size_t)g * BLOCK * 4);
      if (factor[g] != 1)
        for (int j = 0; j < DB; j += W) put(acc + g * DB + j, get(acc + g * DB + j) * factor[g]);
    }
    add<G>(v, from, n, w, BLOCK * 4, unit, acc, (const char *)(next + (size_t)c.page * D));
    key = slot * c.page + n;
  }
  for (int g = 0; g < G; g++) {
    l[g] = sum(lanes[g]);
    for (int d = 0; d < D; d += 4)  // lanes of four numbers, back from the order of `zip`
      std::memcpy(out + (size_t)g * D + d, acc + (size_t)g * DB + d / 64 * 64 + d % 16 / 4 * 16 + d % 64 / 16 * 4, 16);
  }
}

}  // namespace bytes

static void decode_bytes(const Call &c, const Part &p, float *acc, float *m, float *l) {
  const int group = c.heads / c.kv;
  const float *q = c.q + ((size_t)c.starts[p.request] * c.heads + (size_t)p.head * group) * D;
  for (int g = 0; g < group; g += bytes::HEADS) {
    const int left = std::min(bytes::HEADS, group - g);
    float *to = acc + (size_t)g * D;
    if (left == 4) bytes::stretch<4>(c, p, q + g * D, to, m + g, l + g);
    else if (left == 3) bytes::stretch<3>(c, p, q + g * D, to, m + g, l + g);
    else if (left == 2) bytes::stretch<2>(c, p, q + g * D, to, m + g, l + g);
    else bytes::stretch<1>(c, p, q + g * D, to, m + g, l + g);
  }
}
#endif
