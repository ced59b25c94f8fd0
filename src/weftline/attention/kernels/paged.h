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
// Rows of a part on a matrix unit, whose values are turned about once for all of them: where every
// thread still has several parts.
constexpr int MANY_ROWS = 512, SEVERAL = 8;

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
// Capped scores, in whole vectors: tanh by e^-2|x|, off by 1e-7 at most.
static inline void soften(const Call &c, float *s, int n) {
  if (c.softcap <= 0) return;
  for (int t = 0; t < n; t += W) {
    const vf x = get(s + t) * (1 / c.softcap), e = exp_of(larger(x, -x) * -2.0f), size = (1.0f - e) / (1.0f + e) * c.softcap;
    put(s + t, x < (vf){} ? -size : size);
  }
}

// Softmax of scores [from, to) of G rows joined to what they have; the rest of their vectors becomes 0.
// `l` gathers sums by lanes. `factor` becomes that for the values gathered before, `most` the largest
// weight. Rows take turns, so that none waits for its maximum alone.
template <int G>
static inline void join(float *s, int stride, int from, int to, float *m, vf *l, float *factor, float *most) {
  const int low = from - from % W, high = (to + W - 1) / W * W;
  vf top[G][2], peaks[G], total[G];
  for (int g = 0; g < G; g++) {
    float *row = s + (size_t)g * stride;
    for (int t = low; t < from; t++) row[t] = NONE;
    for (int t = to; t < high; t++) row[t] = NONE;
    top[g][0] = top[g][1] = all(NONE);
    total[g] = (vf){};
  }
  int at = low;
  for (; at + 2 * W <= high; at += 2 * W)
    for (int g = 0; g < G; g++)
      for (int i = 0; i < 2; i++) top[g][i] = larger(top[g][i], get(s + (size_t)g * stride + at + i * W));
  for (int g = 0; g < G; g++) {
    if (at < high) top[g][0] = larger(top[g][0], get(s + (size_t)g * stride + at));
    const vf found = most_everywhere(larger(top[g][0], top[g][1]));
    peaks[g] = larger(found, all(m[g]));
    most[g] = exp_of(found - peaks[g])[0];
    const float peak = peaks[g][0];
    factor[g] = peak == m[g] ? 1 : exp_of(all(m[g]) - peaks[g])[0];
    m[g] = peak;
  }
  for (int t = low; t < high; t += W)
    for (int g = 0; g < G; g++) {
      float *here = s + (size_t)g * stride + t;
      const vf e = exp_of(get(here) - peaks[g]);
      put(here, e);
      total[g] += e;
    }
  for (int g = 0; g < G; g++) l[g] = l[g] * factor[g] + total[g];
}
static inline float join(float *s, int from, int to, float &m, vf &l) {
  float factor, most;
  join<1>(s, 0, from, to, &m, &l, &factor, &most);
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
