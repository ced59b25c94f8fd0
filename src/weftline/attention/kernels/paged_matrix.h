// Decoding from bf16 on a matrix unit, and what prompts on it share: products are bf16 with sums in fp32.
//
// Keys and values are what they are (int8 has no number that bf16 lacks; its scales meet scores and
// weights). Queries are taken in two parts where bf16 does not hold them, and so are the weights of a
// decoding query; weights of prompts are rounded to bf16.
#pragma once
#include "amx.h"
#include "paged.h"

#if defined(MATRIX) && KV != 0
#define UNIT 1

constexpr int DP = (D + 31) / 32 * 32, KD = DP / 32, DT = D / 16;

static inline float *aligned(std::vector<float> &room, size_t floats) {
  if (room.size() < floats + 16) room.resize(floats + 16);
  return (float *)(((uintptr_t)room.data() + 63) / 64 * 64);
}

// A row's D numbers, and zeros up to DP, as bf16 in two parts; whether the second has any.
static inline bool split_row(const float *x, matrix::half *high, matrix::half *low) {
  __m512i any = _mm512_setzero_si512();
  for (int j = 0; j < DP; j += 32) {
    alignas(64) float wide[32] = {};
    if (j + 32 > D) std::memcpy(wide, x + j, sizeof(float) * (D - j));
    matrix::split(j + 32 > D ? wide : x + j, high + j, low + j);
    any = _mm512_or_si512(any, _mm512_loadu_si512(low + j));
  }
  return _mm512_test_epi16_mask(any, _mm512_set1_epi16(0x7FFF)) != 0;
}

// Stored numbers [at, at + 32) of a row, zeros from D on.
static inline __m512i some(const kv_t *row, int at) {
  if (D % 32 == 0 || at + 32 <= D) return matrix::halves(row + at);
  alignas(64) kv_t wide[32] = {};
  std::memcpy(wide, row + at, sizeof(kv_t) * (D - at));
  return matrix::halves(wide);
}

// Rows [t, t + 32) of a page's values as pairs down the rows, a tile for 16
// numbers each; none from row `n` on.
static inline void pair_values(const kv_t *v, int t, int n, matrix::half *to) {
  const __m512i none = _mm512_setzero_si512();
  alignas(64) matrix::half spare[32];
  for (int k = 0; k < 16; k++) {
    const int row = t + 2 * k;
    for (int j = 0; j < D; j += 32) {
      const __m512i even = row < n ? some(v + (size_t)row * D, j) : none;
      const __m512i odd = row + 1 < n ? some(v + (size_t)(row + 1) * D, j) : none;
      matrix::half *tile = to + (size_t)(j / 16) * 512 + k * 32;
      matrix::zip(even, odd, tile, j + 16 < D ? tile + 512 : spare);
    }
  }
}

// ---- one query: its heads are few, so tiles of scores hold several stretches of 16 keys ----

constexpr int MANY = 8;   // heads of a group from which the unit decodes bf16 faster than vectors: measured
constexpr int HEADS = 8;  // at a time; a weight's two parts make 16 rows

struct Asked {  // some heads of one query as pairs, once for each place among the columns
  int heads, lanes, places;
  bool rest;               // whether bf16 leaves something of them out
  matrix::half *high, *low;  // [places][KD][16][32]
};

static void ask(const float *q, Asked &a) {
  alignas(64) matrix::half rows[2][HEADS][DP];
  a.rest = false;
  for (int g = 0; g < a.heads; g++) a.rest |= split_row(q + (size_t)g * D, rows[0][g], rows[1][g]);
  std::memset(a.high, 0, sizeof(matrix::half) * a.places * KD * 512);
  std::memset(a.low, 0, sizeof(matrix::half) * a.places * KD * 512);
  for (int i = 0; i < a.places; i++)
    for (int g = 0; g < a.heads; g++)
      for (int j = 0; j < DP; j += 2) {
        const size_t at = ((size_t)i * KD + j / 32) * 512 + j % 32 * 16 + (i * a.lanes + g) * 2;
        std::memcpy(a.high + at, &rows[0][g][j], 4);
        std::memcpy(a.low + at, &rows[1][g][j], 4);
      }
}

static inline void fetch(const char *from, size_t bytes) {
  for (size_t b = 0; b < bytes; b += 64) __builtin_prefetch(from + b, 0, 2);
}

// Scores [heads][stride] of a page's first n keys, in steps of 16 keys; rows of `k` are `ld` apart.
static void score_matrix(const Asked &a, const matrix::half *k, int ld, int n, float *s, int stride, const char *ahead,
                         size_t each) {
  alignas(64) __m512i found[16];
  for (int base = 0; base < n; base += 16 * a.places) {
    const int places = std::min(a.places, (n - base + 15) / 16);
    _tile_zero(0);
    for (int i = 0; i < places; i++) {
      fetch(ahead + (size_t)(base + 16 * i) * each, 16 * each);
      for (int j = 0; j < KD; j++) {
        const size_t at = ((size_t)i * KD + j) * 512;
        TILE_LOAD(4, k + (size_t)(base + 16 * i) * ld + j * 32, (size_t)ld * 2);
        TILE_LOAD(6, a.high + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (a.rest) { TILE_LOAD(7, a.low + at, 64); _tile_dpbf16ps(0, 4, 7); }
      }
    }
    _tile_stored(0, found, 64);
    turn(found);
    for (int i = 0; i < places; i++)
      for (int g = 0; g < a.heads; g++) _mm512_storeu_si512(s + (size_t)g * stride + base + 16 * i, found[i * a.lanes + g]);
  }
}

// Weights [from, n) of a page as bf16 rows: heads, then what bf16 leaves out of them; 0 around.
static void weights_of(float *s, int stride, int heads, int from, int n, matrix::half *to, int ld) {
  const int whole = (n + 31) / 32 * 32;
  for (int g = 0; g < heads; g++) {
    float *row = s + (size_t)g * stride;
    for (int t = from / 32 * 32; t < from; t++) row[t] = 0;
    for (int t = n; t < whole; t++) row[t] = 0;
    for (int t = from / 32 * 32; t < whole; t += 32) matrix::split(row + t, to + (size_t)g * ld + t, to + (size_t)(heads + g) * ld + t);
  }
}

// Up to four tiles of sums, 64 numbers of each row, from memory (0) or to it (1).
template <int BACK>
static inline void move_tiles(float *at, int left) {
  if (BACK) _tile_stored(0, at, D * 4); else TILE_LOAD(0, at, D * 4);
  if (left > 16) { if (BACK) _tile_stored(1, at + 16, D * 4); else TILE_LOAD(1, at + 16, D * 4); }
  if (left > 32) { if (BACK) _tile_stored(2, at + 32, D * 4); else TILE_LOAD(2, at + 32, D * 4); }
  if (left > 48) { if (BACK) _tile_stored(3, at + 48, D * 4); else TILE_LOAD(3, at + 48, D * 4); }
}

// A page's first n keys as rows of bf16, DP numbers each.
static void widen(const kv_t *k, int n, matrix::half *to) {
  for (int t = 0; t < (n + 15) / 16 * 16; t++)
    for (int j = 0; j < DP; j += 32) _mm512_store_si512(to + (size_t)t * DP + j, some(k + (size_t)t * D, j));
}

static void decode_matrix(const Call &c, const Part &p, float *out, float *peaks, float *totals, std::vector<float> &room) {
  const int group = c.heads / c.kv, ld = (c.page + 31) / 32 * 32;
  const int32_t *table = c.tables + (size_t)p.request * c.width;
  const float *q = c.q + ((size_t)c.starts[p.request] * c.heads + (size_t)p.head * group) * D;
  const bool straight = D % 32 == 0;  // keys can be read where they lie
  const size_t scores = (size_t)HEADS * ld, sums = (size_t)16 * D, tile = 256;
  float *s = aligned(room, scores + sums + HEADS * W + 4 * KD * 2 * tile + 8 * ld + (size_t)ld * (D + DP) / 2);
  float *acc = s + scores, *lanes = acc + sums;
  matrix::half *high = (matrix::half *)(lanes + HEADS * W), *low = high + 4 * KD * 512, *values = low + 4 * KD * 512;
  matrix::half *weights = values + (size_t)ld * D, *copied = weights + 16 * ld;
  std::memset(weights, 0, sizeof(matrix::half) * 16 * ld);
  for (int h = 0; h < group; h += HEADS) {
    Asked a = {std::min(HEADS, group - h), 0, 0, false, high, low};
    a.lanes = a.heads <= 4 ? 4 : 8, a.places = 16 / a.lanes;
    ask(q + (size_t)h * D, a);
    std::memset(acc, 0, sizeof(float) * sums);
    std::memset(lanes, 0, sizeof(float) * HEADS * W);
    for (int g = 0; g < a.heads; g++) peaks[h + g] = NONE;
    for (int key = p.first; key < p.last;) {
      const int slot = key / c.page, from = key % c.page, n = std::min(c.page, p.last - slot * c.page);
      const kv_t *k = keys(c, table[slot], p.head), *v = k + (size_t)c.page * D;
      const bool more = (slot + 1) * c.page < p.last;
      const kv_t *next = more ? keys(c, table[slot + 1], p.head) : k;
      // The unit waits for what was just stored: so values are paired before the softmax, and the next
      // page's keys widened after it.
      if (straight) score_matrix(a, (const matrix::half *)k, D, n, s, ld, (const char *)next, sizeof(kv_t) * D);
      else {
        if (key == p.first) widen(k, n, copied);
        score_matrix(a, copied, DP, n, s, ld, (const char *)next, sizeof(kv_t) * D);
      }
      for (int t = from / 32 * 32; t < n; t += 32) {
        fetch((const char *)(next + ((size_t)c.page + t) * D), sizeof(kv_t) * 32 * D);
        pair_values(v, t, c.page, values + (size_t)t * D);
      }
      for (int g = 0; g < a.heads; g++) {
        float *row = s + (size_t)g * ld;
        for (int t = 0; t < n; t += W) put(row + t, get(row + t) * c.scale);
        soften(c, row, n);
        vf total = get(lanes + g * W);
        const float factor = join(row, from, n, peaks[h + g], total);
        put(lanes + g * W, total);
        if (factor != 1)
          for (int part = 0; part < 2; part++) {
            float *to = acc + (size_t)(part * a.heads + g) * D;
            for (int j = 0; j < D; j += W) put(to + j, get(to + j) * factor);
          }
      }
      weights_of(s, ld, a.heads, from, n, weights, ld);
      if (!straight && more) widen(next, std::min(c.page, p.last - (slot + 1) * c.page), copied);
      for (int j = 0; j < D; j += 64) {
        move_tiles<0>(acc + j, D - j);
        for (int t = from / 32 * 32; t < n; t += 32) {
          const matrix::half *pairs = values + (size_t)t * D + j * 32;
          TILE_LOAD(4, weights + t, (size_t)ld * 2);
          TILE_LOAD(6, pairs, 64);
          _tile_dpbf16ps(0, 4, 6);
          if (D - j > 16) { TILE_LOAD(7, pairs + 512, 64); _tile_dpbf16ps(1, 4, 7); }
          if (D - j > 32) { TILE_LOAD(6, pairs + 1024, 64); _tile_dpbf16ps(2, 4, 6); }
          if (D - j > 48) { TILE_LOAD(7, pairs + 1536, 64); _tile_dpbf16ps(3, 4, 7); }
        }
        move_tiles<1>(acc + j, D - j);
      }
      key = slot * c.page + n;
    }
    for (int g = 0; g < a.heads; g++) {
      totals[h + g] = sum(get(lanes + g * W));
      for (int j = 0; j < D; j += W)
        put(out + (size_t)(h + g) * D + j, get(acc + (size_t)g * D + j) + get(acc + (size_t)(a.heads + g) * D + j));
    }
  }
}
#endif
