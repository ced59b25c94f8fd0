// Paged attention of prompts on a matrix unit, keys down and queries across: K q^T, then V^T weights.
//
// So keys are taken from their pages as they lie; each lane of a vector is a query of its own, whose
// maximum and sum never cross lanes; and weights become the pairs that the unit asks for by one
// shuffle of two rows. Only values are turned about, once for all rows of a part.
//
// Scores are kept as powers of two. A row's peak is raised only where weights would outgrow 2^8: until
// then sums and values go on in the old unit, which is exact.
#pragma once
#include "paged_matrix.h"

#if defined(UNIT)
namespace prompts {

constexpr int SPAN = 1024, STEP = 32, ACROSS = 32;  // keys whose values are turned at a time; keys and rows of a step
constexpr int PAIRS = (DT + 1) / 2;                // of tiles of values; that many steps are gathered together
constexpr float LOG2E = 1.44269504f, SLACK = 8, FAR = 64;

// 2^x for x <= SLACK within 7.5e-5 of itself (bf16 rounds 25 times coarser), 0 far below: the best
// cubic for the part above a whole number.
static inline vf power(vf x, __mmask16 seen = 0xFFFF) {
  const vf r = (vf)_mm512_reduce_ps((__m512)x, 0x09);
  const vf y = ((r * 7.8024527e-2f + 2.2606715e-1f) * r + 6.9583354e-1f) * r + 9.9992522e-1f;
  return (vf)_mm512_maskz_scalef_ps(seen, (__m512)y, (__m512)x);
}

// 32 keys' values, in two stretches of 16, as tiles [D / 16][16 numbers][32 keys], `apart` from each other; none from key n on.
static inline void turn_values(const kv_t *first, const kv_t *second, int n, matrix::half *to, size_t apart) {
  const __m512i none = _mm512_setzero_si512();
  for (int j = 0; j < D; j += 32) {
    __m512i low[16], high[16];
    for (int i = 0; i < 16; i++) {
      const kv_t *rows = (i < 8 ? first : second) + (size_t)(2 * i % 16) * D;
      const __m512i even = 2 * i < n ? some(rows, j) : none, odd = 2 * i + 1 < n ? some(rows + D, j) : none;
      low[i] = _mm512_unpacklo_epi16(even, odd), high[i] = _mm512_unpackhi_epi16(even, odd);
    }
    turn(low), turn(high);
    for (int i = 0; i < 16; i++) {  // four numbers of each eighth are low, then four high
      const int d = j + i / 4 * 8 + i % 4;
      if (d < D) _mm512_storeu_si512(to + d / 16 * apart + d % 16 * 32, low[i]);
      if (d + 4 < D) _mm512_storeu_si512(to + (d + 4) / 16 * apart + (d + 4) % 16 * 32, high[i]);
    }
  }
}

struct Keys {  // up to SPAN keys
  const matrix::half *rows[SPAN / 16];  // where each 16 lie
  int ld;
  const matrix::half *values;           // tiles [SPAN / STEP][D / 16]
  const float *ks, *vs;                 // their scales (int8)
  int first, count;                     // position of the first; steps
};

struct Rows {  // ACROSS rows of a part
  const matrix::half *high, *low;  // queries as pairs [KD][2][16][32]; the second null where it is nothing
  float *acc;                      // [DT][2][16 numbers][16 rows]
  float *peak, *total;             // [ACROSS]
  const int32_t *at;               // [ACROSS] positions
};

// Weights of some steps, and which of their values' numbers are in acc.
struct Weighed {
  matrix::half *w;  // pairs [PAIRS steps][2][16 pairs][16 rows]
  int first, count, done;
};

// Vectors touch nothing that these read or write before the next BARRIER: compilers may keep what they have in
// registers.
#define ASIDE_LOAD(tile, from, apart) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"((const void *)(from)), "r"((long)(apart)))
#define ASIDE_STORE(tile, to, apart) asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"((void *)(to)), "r"((long)(apart)))
#define BARRIER() asm volatile("" ::: "memory")

// What the unit does while vectors work on something else: scores [2][2][16 keys][16 rows] of a step, then
// two tiles of numbers of some steps' values. Cut in slots of one product each.
struct Aside {
  const matrix::half *keys[2], *high, *low;
  size_t apart;  // bytes
  float *s;      // null: no scores
  const matrix::half *values, *w;
  float *to;
  int count;     // steps to gather
  bool two;

  static constexpr int SCORES = KD * 4, SLOTS = SCORES + PAIRS * 4;

  template <int I>
  void slot() const {
    if constexpr (I < SCORES) {
      if (s != nullptr) score<I>();
    } else {
      if (count > (I - SCORES) / 4) gather<I - SCORES>();
      if (I == SLOTS - 1 && count > 0) {
        ASIDE_STORE(0, to, 64);
        ASIDE_STORE(1, to + 256, 64);
        if (two) {
          ASIDE_STORE(2, to + 512, 64);
          ASIDE_STORE(3, to + 768, 64);
        }
      }
    }
  }

  template <int I>
  void score() const {
    constexpr int j = I / 4;
    if constexpr (I == 0) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    if constexpr (I % 4 == 0) {
      ASIDE_LOAD(4, keys[0] + j * 32, apart);
      ASIDE_LOAD(6, high + j * 1024, 64);
      _tile_dpbf16ps(0, 4, 6);
    } else if constexpr (I % 4 == 1) {
      ASIDE_LOAD(7, high + j * 1024 + 512, 64);
      _tile_dpbf16ps(1, 4, 7);
    } else if constexpr (I % 4 == 2) {
      ASIDE_LOAD(5, keys[1] + j * 32, apart);
      _tile_dpbf16ps(2, 5, 6);
    } else {
      _tile_dpbf16ps(3, 5, 7);
    }
    if constexpr (I == SCORES - 1) {
      if (low != nullptr) rest();
      ASIDE_STORE(0, s, 64);
      ASIDE_STORE(1, s + 256, 64);
      ASIDE_STORE(2, s + 512, 64);
      ASIDE_STORE(3, s + 768, 64);
    }
  }

  void rest() const {  // what bf16 leaves out of queries
    for (int j = 0; j < KD; j++) {
      ASIDE_LOAD(4, keys[0] + j * 32, apart);
      ASIDE_LOAD(6, low + j * 1024, 64);
      _tile_dpbf16ps(0, 4, 6);
      ASIDE_LOAD(7, low + j * 1024 + 512, 64);
      _tile_dpbf16ps(1, 4, 7);
      ASIDE_LOAD(5, keys[1] + j * 32, apart);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }

  template <int I>
  void gather() const {
    constexpr int t = I / 4;
    if constexpr (I == 0) {
      ASIDE_LOAD(0, to, 64);
      ASIDE_LOAD(1, to + 256, 64);
      if (two) {
        ASIDE_LOAD(2, to + 512, 64);
        ASIDE_LOAD(3, to + 768, 64);
      }
    }
    if constexpr (I % 4 == 0) {
      ASIDE_LOAD(4, values + (size_t)t * DT * 512, 64);
      ASIDE_LOAD(6, w + (size_t)t * 1024, 64);
      _tile_dpbf16ps(0, 4, 6);
    } else if constexpr (I % 4 == 1) {
      ASIDE_LOAD(7, w + (size_t)t * 1024 + 512, 64);
      _tile_dpbf16ps(1, 4, 7);
    } else if constexpr (I % 4 == 2) {
      if (two) {
        ASIDE_LOAD(5, values + (size_t)t * DT * 512 + 512, 64);
        _tile_dpbf16ps(2, 5, 6);
      }
    } else {
      if (two) _tile_dpbf16ps(3, 5, 7);
    }
  }

  void score_step(const Keys &k, const Rows &r, int step, float *at) {
    keys[0] = k.rows[step * 2], keys[1] = k.rows[step * 2 + 1], apart = (size_t)k.ld * 2;
    high = r.high, low = r.low, s = at;
  }
  void gather_next(const Keys &k, const Rows &r, Weighed &x) {
    const int j = 2 * x.done++;
    values = k.values + ((size_t)x.first * DT + j) * 512, w = x.w, to = r.acc + (size_t)j * 512;
    count = x.count, two = j + 1 < DT;
  }

  template <int FROM, int TO>
  inline __attribute__((always_inline)) void run() const {
    if constexpr (FROM < TO) {
      slot<FROM>();
      run<FROM + 1, TO>();
    }
  }
};

// Gathers what is left of some steps.
static void finish(const Keys &k, const Rows &r, Weighed &x) {
  while (x.count > 0 && x.done < PAIRS) {
    Aside a = {};
    a.gather_next(k, r, x);
    BARRIER();
    a.run<Aside::SCORES, Aside::SLOTS>();
    BARRIER();
  }
  x.first += x.count, x.count = 0, x.done = 0;
}

// Which rows see a key.
struct Seen {
  __m512i at[2];
  int window;
  __mmask16 of(int key, int x) const {
    const __m512i here = _mm512_set1_epi32(key);
    const __mmask16 past = _mm512_cmple_epi32_mask(here, at[x]);
    if (window <= 0) return past;
    return past & _mm512_cmplt_epi32_mask(_mm512_sub_epi32(at[x], here), _mm512_set1_epi32(window));
  }
};

// Two rows of weights as pairs of bf16. What is cut off them is taken from their sum too, so that nothing leans
// one way; with scales of int8, whose sum is another, they are larger by what is cut off on average.
constexpr float UNCUT = 1 + 0.71f / 256;
static inline __m512i pair_weights(vf first, vf second) {
  return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32((__m512i)first, 16), (__m512i)second);
}

// Scores of a step become weights, whose sums are added to `sums`; the unit goes on aside.
template <bool MASKED>
struct Weigh {
  const Seen &seen;
  const Aside &aside;
  const float *s, *ks, *vs;
  matrix::half *w;
  vf peak[2];
  float unit;
  int first;
  vf sums[2][2], top[2];

  template <int U>
  inline __attribute__((always_inline)) void run() {  // two keys of 16 rows
    if constexpr (U < STEP) {
      constexpr int t = U / 2 * 2, x = U % 2;
      vf e[2];
      for (int i = 0; i < 2; i++) {
        const __mmask16 mask = MASKED ? seen.of(first + t + i, x) : 0xFFFF;
        vf y = get(s + t / 16 * 512 + x * 256 + (t % 16 + i) * 16);
        if (KV == 2) y *= all(ks[t + i]);
        top[x] = (vf)_mm512_mask_max_ps((__m512)top[x], mask, (__m512)top[x], (__m512)y);
        e[i] = power(y * unit - peak[x], mask);
      }
      if (KV == 2) {
        sums[x][0] += e[0], sums[x][1] += e[1];
        for (int i = 0; i < 2; i++) e[i] *= all(vs[t + i]);
      }
      const __m512i both = pair_weights(e[0], e[1]);
      vf &total = sums[x][t / 2 % 2];
      if (KV == 1) total = (vf)_mm512_dpbf16_ps((__m512)total, (__m512bh)both, (__m512bh)_mm512_set1_epi32(0x3F803F80));
      _mm512_store_si512(w + x * 512 + t * 16, both);
      aside.run<U * Aside::SLOTS / STEP, (U + 1) * Aside::SLOTS / STEP>();
      run<U + 1>();
    }
  }
};
// Returns the largest of them by rows in `top`, in powers of two.
template <bool MASKED>
static void weigh_step(const Seen &seen, const Aside &aside, int first, const float *ks, const float *vs, float unit, const float *s,
                       const vf *peak, vf *total, vf *top, matrix::half *w) {
  Weigh<MASKED> go = {seen, aside, s, ks, vs, w, {peak[0], peak[1]}, unit, first, {}, {all(NONE), all(NONE)}};
  BARRIER();
  go.template run<0>();
  BARRIER();
  for (int x = 0; x < 2; x++) total[x] = go.sums[x][0] + go.sums[x][1], top[x] = go.top[x] * unit;
}

// Whether any row has more than `over` above its peak.
static inline bool above(const vf *top, const vf *peak, float over) {
  return _mm512_cmp_ps_mask((__m512)top[0], (__m512)(peak[0] + over), _CMP_GT_OQ) |
         _mm512_cmp_ps_mask((__m512)top[1], (__m512)(peak[1] + over), _CMP_GT_OQ);
}

// Peaks become what is largest so far; what is in acc and total follows.
static void raise(const Rows &r, const vf *top, vf *peak, vf *total) {
  for (int x = 0; x < 2; x++) {
    const vf higher = larger(peak[x], top[x]), factor = higher > peak[x] ? power(peak[x] - higher) : all(1);
    peak[x] = higher, total[x] *= factor;
    for (int d = 0; d < D; d++) {
      float *at = r.acc + (size_t)(d / 16) * 512 + x * 256 + d % 16 * 16;
      put(at, get(at) * factor);
    }
  }
}

// Where scores are capped, they are so in place.
static void cap(const Call &c, const float *ks, float *s) {
  for (int t = 0; t < STEP; t++)
    for (int x = 0; x < 2; x++) {
      float *row = s + t / 16 * 512 + x * 256 + t % 16 * 16;
      put(row, get(row) * (c.scale * (KV == 2 ? ks[t] : 1)));
      soften(c, row, 16);
    }
}

// One group of rows over a span of keys. While a step's weights are made, the unit makes the scores of
// the next and gathers what was weighed before.
static void attend(const Call &c, const Keys &k, const Rows &r, float *s, matrix::half *w) {
  const int low = r.at[0], high = r.at[ACROSS - 1];
  const int to = std::min(k.count, (high - k.first) / STEP + 1);
  int step = c.window > 0 ? std::max(0, low - c.window + 1 - k.first) / STEP : 0;
  if (high < k.first || step >= to) return;
  alignas(64) static const struct Ones { float of[STEP]; Ones() { std::fill(of, of + STEP, 1.0f); } } ones;
  const Seen seen = {{_mm512_loadu_si512(r.at), _mm512_loadu_si512(r.at + 16)}, c.window};
  const float unit = (c.softcap > 0 ? 1 : c.scale) * LOG2E;
  Weighed one = {w, step, 0, 0}, other = {w + PAIRS * 1024, step, 0, 0}, *now = &one, *before = &other;
  vf peak[2] = {get(r.peak), get(r.peak + 16)}, total[2] = {get(r.total), get(r.total + 16)};
  Aside aside = {};
  aside.score_step(k, r, step, s + step % 2 * 1024);
  BARRIER();
  aside.run<0, Aside::SCORES>();
  BARRIER();
  for (; step < to; step++) {
    float *here = s + step % 2 * 1024;
    const float *ks = k.ks + step * STEP, *vs = k.vs + step * STEP;
    if (c.softcap > 0) cap(c, ks, here), ks = ones.of;
    const int first = k.first + step * STEP;
    const bool masked = first + STEP - 1 > low || (c.window > 0 && first <= high - c.window);
    vf top[2], sums[2];
    const auto weigh = [&] {
      matrix::half *to = now->w + (size_t)now->count * 1024;
      if (masked) weigh_step<true>(seen, aside, first, ks, vs, unit, here, peak, sums, top, to);
      else weigh_step<false>(seen, aside, first, ks, vs, unit, here, peak, sums, top, to);
    };
    aside.s = nullptr, aside.count = 0;
    if (step + 1 < to) aside.score_step(k, r, step + 1, s + (step + 1) % 2 * 1024);
    if (before->count > 0 && before->done < PAIRS) aside.gather_next(k, r, *before);
    weigh();
    if (__builtin_expect(above(top, peak, SLACK), 0)) {
      // What was weighed by old peaks goes before them, with this step unless it is out of all bounds.
      const bool again = above(top, peak, FAR);
      if (!again)
        for (int x = 0; x < 2; x++) total[x] += sums[x];
      if (!again) now->count++;
      finish(k, r, *before), finish(k, r, *now);
      raise(r, top, peak, total);
      if (!again) continue;
      aside.s = nullptr, aside.count = 0;
      weigh();
    }
    now->count++;
    for (int x = 0; x < 2; x++) total[x] += sums[x];
    if (now->count == PAIRS) {
      finish(k, r, *before);
      std::swap(now, before);
      now->first = step + 1;
    }
  }
  finish(k, r, *before), finish(k, r, *now);
  for (int x = 0; x < 2; x++) put(r.peak + x * 16, peak[x]), put(r.total + x * 16, total[x]);
}

}  // namespace prompts

static void prefill_matrix(const Call &c, const Part &p, std::vector<float> &room) {
  using namespace prompts;
  const int group = c.heads / c.kv, rows = (p.to - p.from) * group, tall = (rows + ACROSS - 1) / ACROSS * ACROSS;
  const int32_t *table = c.tables + (size_t)p.request * c.width;
  const int queries = c.starts[p.request + 1] - c.starts[p.request], before = c.lens[p.request] - queries;
  const bool straight = KV == 1 && D % 32 == 0;  // keys can be read where they lie
  const size_t each = (size_t)KD * 1024;         // halves of ACROSS queries
  const size_t halves = tall / ACROSS * 2 * each + 2 * PAIRS * 1024 + (size_t)SPAN * (D + DP);
  float *acc = aligned(room, (size_t)tall * (D + 3) + 2 * 1024 + 2 * SPAN + halves / 2);
  float *s = acc + (size_t)tall * D, *ks = s + 2 * 1024, *vs = ks + SPAN, *peak = vs + SPAN, *total = peak + tall;
  int32_t *at = (int32_t *)(total + tall);
  matrix::half *high = (matrix::half *)(at + tall), *low = high + tall / ACROSS * each, *w = low + tall / ACROSS * each;
  matrix::half *values = w + 2 * PAIRS * 1024, *copied = values + (size_t)SPAN * D;
  std::memset(acc, 0, sizeof(float) * tall * D);
  std::memset(ks, 0, sizeof(float) * 2 * SPAN);
  bool rest = false;
  for (int r = 0; r < tall; r += 16) {
    alignas(64) matrix::half parts[2][16][DP] = {};
    for (int i = 0; i < 16; i++) {
      const int row = std::min(r + i, rows - 1), next = std::min(row + 16, rows - 1);
      fetch((const char *)(c.q + row_of(c, p, next)), sizeof(float) * D);  // rows are far from each other
      rest |= split_row(c.q + row_of(c, p, row), parts[0][i], parts[1][i]);
      at[r + i] = before + p.from + row / group;
      peak[r + i] = c.sinks ? c.sinks[p.head * group + row % group] * LOG2E : NONE;
      total[r + i] = c.sinks ? 1 : 0;
    }
    for (int half = 0; half < 2; half++)
      for (int j = 0; j < KD; j++) {
        __m512i x[16];
        for (int i = 0; i < 16; i++) x[i] = _mm512_load_si512(parts[half][i] + j * 32);
        turn(x);
        matrix::half *to = (half ? low : high) + r / ACROSS * each + j * 1024 + r % ACROSS / 16 * 512;
        for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * 32, x[i]);
      }
  }
  const int last = before + p.to;
  const int begin = c.window > 0 ? std::max(0, before + p.from - c.window + 1) / STEP * STEP : 0;
  for (int first = begin; first < last; first += SPAN) {
    const int n = std::min(SPAN, last - first);
    Keys k = {{}, straight ? D : DP, values, ks, vs, first, (n + STEP - 1) / STEP};
    for (int t = 0; t < n; t += STEP) {
      const kv_t *found[2];
      for (int i = 0; i < 2; i++) {
        const int key = t + i * 16 < n ? first + t + i * 16 : first + t, page = table[key / c.page], place = key % c.page;
        found[i] = keys(c, page, p.head) + (size_t)place * D;
        if (straight) k.rows[t / 16 + i] = (const matrix::half *)found[i];
        else widen(found[i], 16, copied + (size_t)(t + i * 16) * DP), k.rows[t / 16 + i] = copied + (size_t)(t + i * 16) * DP;
        if (KV == 2) {
          const float *from = scale_of(c, page, p.head) + place;
          std::memcpy(ks + t + i * 16, from, sizeof(float) * 16);
          put(vs + t + i * 16, get(from + c.page) * UNCUT);
        }
        found[i] += (size_t)c.page * D;
      }
      turn_values(found[0], found[1], n - t, values + (size_t)t / STEP * DT * 512, 512);
    }
    for (int r = 0; r < tall; r += ACROSS) {
      const matrix::half *q = high + r / ACROSS * each;
      attend(c, k, {q, rest ? q + (low - high) : nullptr, acc + (size_t)r * D, peak + r, total + r, at + r}, s, w);
    }
  }
  for (int r = 0; r < rows; r += 16) {
    const vf sums = get(total + r), one = sums > 0.0f ? all(1) / sums : (vf){};
    for (int j = 0; j < DT; j++) {
      const float *from = acc + (size_t)(r / ACROSS) * ACROSS * D + j * 512 + r % ACROSS / 16 * 256;
      __m512i x[16];
      for (int d = 0; d < 16; d++) x[d] = (__m512i)(get(from + d * 16) * one);
      turn(x);
      for (int i = 0; i < std::min(16, rows - r); i++) put(c.out + row_of(c, p, r + i) + j * 16, (vf)x[i]);
    }
  }
}

// What bounds a prompt, for rates in the same process: `steps` of ACROSS rows and STEP keys, their
// products alone with nothing loaded, or (1) their weights alone.
extern "C" void weftline_bound(int weights, long steps) {
  using namespace prompts;
  if (!matrix::granted()) return;
  matrix::begin();
  alignas(64) static float s[STEP * ACROSS], scales[STEP];
  alignas(64) static matrix::half w[STEP * ACROSS];
  const Seen seen = {};
  const Aside none = {};
  const vf peak[2] = {};
  vf total[2], top[2];
  for (long i = 0; i < steps; i++) {
    if (weights) weigh_step<false>(seen, none, 0, scales, scales, 1, s, peak, total, top, w);
    else
      for (int j = 0; j < KD + PAIRS; j++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
  }
  matrix::end();
}
#endif
