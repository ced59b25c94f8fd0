// What both ways of paged attention share: a call, its parts, and softmax as keys come.
#pragma once
#include "vectors.h"

constexpr int D = DIM, NV = DIM / W, PANEL = COLS * W;
static_assert(DIM % 16 == 0, "head sizes are padded to whole vectors");

#if KV == 0
typedef float kv_t;
#elif KV == 1
typedef uint16_t kv_t;
#else
typedef int8_t kv_t;
#endif

// Keys a decode part reads, rows of a prefill part, keys it weighs at a time (256 bounds a page too).
constexpr int STRETCH = 2048, TILE_ROWS = 192, BLOCK = 256;

constexpr float NONE = -1e30f;  // less than any score, and finite

struct Call {
  const float *q;          // [tokens][heads][D]
  float *out;              // the same
  const kv_t *cache;       // [pages][kv][2][page][D]
  const float *scales;     // [pages][kv][2][page] for int8
  const int32_t *starts;   // [requests + 1], first query row of each
  const int32_t *lens;     // [requests], keys
  const int32_t *tables;   // [requests][width]
  const float *sinks;      // [heads] logits that only take part in the sum, or null
  int requests, heads, kv, page, width, window;
  float scale, softcap;
};

struct Part {  // queries [from, to) of a request, keys [first, last), one kv head
  int request, head, from, to, first, last, slot;
};

static inline const kv_t *keys(const Call &c, int page, int head) {
  return c.cache + ((size_t)page * c.kv + head) * 2 * c.page * D;
}
static inline const float *scale_of(const Call &c, int page, int head) {
  return c.scales ? c.scales + ((size_t)page * c.kv + head) * 2 * c.page : nullptr;
}
static inline void soften(const Call &c, float *s, int n) {
  if (c.softcap <= 0) return;
  for (int t = 0; t < n; t++) s[t] = c.softcap * std::tanh(s[t] / c.softcap);
}

// Softmax of a row's scores [from, to) joined to what it has; the rest of their vectors becomes 0.
// `l` gathers the sum by lanes. Returns the factor for the values gathered before; `most`, where it is
// asked for, becomes the largest weight.
static inline float join(float *s, int from, int to, float &m, vf &l, float *most = nullptr) {
  const int low = from - from % W, high = (to + W - 1) / W * W;
  for (int t = low; t < from; t++) s[t] = NONE;
  for (int t = to; t < high; t++) s[t] = NONE;
  vf top = all(NONE), other = top;
  int at = low;
  for (; at + 2 * W <= high; at += 2 * W) top = larger(top, get(s + at)), other = larger(other, get(s + at + W));
  if (at < high) top = larger(top, get(s + at));
  const vf found = most_everywhere(larger(top, other)), peaks = larger(found, all(m));
  const float peak = peaks[0];
  if (most != nullptr) *most = exp_of(found - peaks)[0];
  vf total = {};
  for (int t = low; t < high; t += W) {
    const vf e = exp_of(get(s + t) - peaks);
    put(s + t, e);
    total += e;
  }
  const float factor = peak == m ? 1 : exp_of(all(m) - peaks)[0];
  m = peak;
  l = l * factor + total;
  return factor;
}

// Scores of the query at key `at` of a block become weights; what it does not see becomes 0.
static inline void weigh(const Call &c, float *row, int at, int keys, int whole, float *acc, float &m, float *lanes) {
  const int to = std::min(keys, at + 1), from = c.window > 0 ? std::max(0, at - c.window + 1) : 0;
  if (to <= from) { std::memset(row, 0, sizeof(float) * whole); return; }
  soften(c, row, keys);
  vf total = get(lanes);
  const float factor = join(row, from, to, m, total);
  put(lanes, total);
  for (int t = 0; t < from - from % W; t++) row[t] = 0;
  for (int t = (to + W - 1) / W * W; t < whole; t++) row[t] = 0;
  if (factor != 1)
    for (int j = 0; j < D; j += W) put(acc + j, get(acc + j) * factor);
}

// The row of queries, and of what comes out, that is row r of a part: heads of a group lie side by side.
static inline size_t row_of(const Call &c, const Part &p, int r) {
  const int group = c.heads / c.kv;
  return ((size_t)(c.starts[p.request] + p.from + r / group) * c.heads + (size_t)p.head * group + r % group) * D;
}
