// Paged attention on a CPU, in vectors of whatever width the compiler's target has.
//
// The cache of one layer is [pages][kv heads][2: keys, values][page][dim], which is the memory of
// vLLM's CPU backend: a head's keys of one page, then its values, without a gap. It holds fp32,
// bf16, or int8 with one scale a row (a token's key or value in one head) in an array of its own,
// [pages][kv heads][2][page].
//
// A request is rows of queries, a length and a table of pages. Query i of n stands at position
// length - n + i and sees keys 0 .. its own; with a window, the last `window` of those. Which pages
// a table names is the caller's affair, so a table that leaves pages out is sparse attention.
//
// Built with DIM (head size, a multiple of 16) and KV (0 fp32, 1 bf16, 2 int8) defined.
#include "paged.h"
#include "paged_bytes.h"
#include "paged_matrix.h"
#include "prompts_matrix.h"

#if defined(_OPENMP)
#include <omp.h>
static int threads() { return omp_get_max_threads(); }
#else
static int threads() { return 1; }
#endif

// ---- one query: bandwidth decides, so keys and values are read once, in order ----

static void score_page(const Call &c, const float *q, int group, const kv_t *k, const float *ks, int n, float *s,
                       int stride) {
  alignas(64) float block[W * D];
  const char *ahead = (const char *)(k + (size_t)c.page * D);  // the values, wanted next
  for (int t = 0; t < n; t += W) {
    const float *rows;
    for (size_t b = 0; b < sizeof(kv_t) * W * D; b += 64) __builtin_prefetch(ahead + sizeof(kv_t) * t * D + b);
    if (KV == 0) rows = (const float *)(k + (size_t)t * D);
    else {
      for (int i = 0; i < W * D; i += W) put(block + i, get(k + (size_t)t * D + i));
      rows = block;
    }
    for (int g = 0; g < group; g++) {
      vf part[W];
      for (int i = 0; i < W; i++) {
        vf a = get(q + g * D) * get(rows + i * D);
        for (int j = 1; j < NV; j++) a += get(q + g * D + j * W) * get(rows + i * D + j * W);
        part[i] = a;
      }
      vf x = sums(part);
      if (KV == 2) x *= get(ks + t);
      put(s + g * stride + t, x);
    }
  }
}

template <int G>
static inline void add_values(const kv_t *v, const float *vs, int from, int n, const float *p, int stride, float *acc,
                              const char *ahead) {
  vf a[G][NV];
  for (int g = 0; g < G; g++)
    for (int j = 0; j < NV; j++) a[g][j] = get(acc + g * D + j * W);
  for (int t = from; t < n; t++) {
    for (size_t b = 0; b < sizeof(kv_t) * D; b += 64) __builtin_prefetch(ahead + sizeof(kv_t) * t * D + b);
    vf x[NV];
    for (int j = 0; j < NV; j++) x[j] = get(v + (size_t)t * D + j * W);
    for (int g = 0; g < G; g++) {
      vf w = all(KV == 2 ? p[g * stride + t] * vs[t] : p[g * stride + t]);
      for (int j = 0; j < NV; j++) a[g][j] += w * x[j];
    }
  }
  for (int g = 0; g < G; g++)
    for (int j = 0; j < NV; j++) put(acc + g * D + j * W, a[g][j]);
}

static void decode(const Call &c, const Part &p, float *acc, float *m, float *l) {
  const int group = c.heads / c.kv;
  const int32_t *table = c.tables + (size_t)p.request * c.width;
  const float *q = c.q + ((size_t)c.starts[p.request] * c.heads + (size_t)p.head * group) * D;
  std::vector<float> room((size_t)group * (D + c.page)), lanes((size_t)group * W);
  float *scaled = room.data(), *s = scaled + (size_t)group * D;
  for (int i = 0; i < group * D; i += W) put(scaled + i, get(q + i) * c.scale), put(acc + i, (vf){});
  for (int g = 0; g < group; g++) m[g] = NONE;
  for (int key = p.first; key < p.last;) {
    const int slot = key / c.page, from = key % c.page, n = std::min(c.page, p.last - slot * c.page);
    const kv_t *k = keys(c, table[slot], p.head), *v = k + (size_t)c.page * D;
    const float *ks = scale_of(c, table[slot], p.head);
    const bool more = (slot + 1) * c.page < p.last;
    const char *ahead = (const char *)(more ? keys(c, table[slot + 1], p.head) : k);
    score_page(c, scaled, group, k, ks, n, s, c.page);
    for (int g = 0; g < group; g++) {
      soften(c, s + g * c.page, n);
      vf total = get(&lanes[g * W]);
      const float factor = join(s + g * c.page, from, n, m[g], total);
      put(&lanes[g * W], total);
      if (factor != 1)
        for (int j = 0; j < D; j += W) put(acc + g * D + j, get(acc + g * D + j) * factor);
    }
    const float *vs = ks ? ks + c.page : nullptr;
    int g = 0;
    constexpr int G4 = NV <= 5 ? 4 : 2;
    for (; g + G4 <= group; g += G4) add_values<G4>(v, vs, from, n, s + g * c.page, c.page, acc + g * D, ahead);
    if (G4 == 4 && g + 3 <= group) { add_values<3>(v, vs, from, n, s + g * c.page, c.page, acc + g * D, ahead); g += 3; }
    if (g + 2 <= group) { add_values<2>(v, vs, from, n, s + g * c.page, c.page, acc + g * D, ahead); g += 2; }
    if (g < group) add_values<1>(v, vs, from, n, s + g * c.page, c.page, acc + g * D, ahead);
    key = slot * c.page + n;
  }
  for (int g = 0; g < group; g++) l[g] = sum(get(&lanes[g * W]));
}

// ---- many queries: arithmetic decides, so pages are packed and multiplied in register tiles ----

template <int R, int C>
static inline void tile(const float *a, int lda, const float *b, int ldb, float *o, int ldo, int depth, bool add) {
  vf x[R][C];
  for (int r = 0; r < R; r++)
    for (int j = 0; j < C; j++) x[r][j] = add ? get(o + r * ldo + j * W) : (vf){};
  for (int d = 0; d < depth; d++) {
    vf y[C];
    for (int j = 0; j < C; j++) y[j] = get(b + (size_t)d * ldb + j * W);
    for (int r = 0; r < R; r++) {
      const vf w = all(a[r * lda + d]);
      for (int j = 0; j < C; j++) x[r][j] += w * y[j];
    }
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < C; j++) put(o + r * ldo + j * W, x[r][j]);
}

template <int C>
static void columns(const float *a, int lda, const float *b, int ldb, float *o, int ldo, int rows, int depth, bool add) {
  int r = 0;
  for (; r + ROWS <= rows; r += ROWS) tile<ROWS, C>(a + (size_t)r * lda, lda, b, ldb, o + (size_t)r * ldo, ldo, depth, add);
  for (; r + 2 <= rows; r += 2) tile<2, C>(a + (size_t)r * lda, lda, b, ldb, o + (size_t)r * ldo, ldo, depth, add);
  for (; r < rows; r++) tile<1, C>(a + (size_t)r * lda, lda, b, ldb, o + (size_t)r * ldo, ldo, depth, add);
}

// o[rows][cols] (+)= a[rows][depth] b[depth][cols]; cols is a multiple of W, at most a panel.
static void multiply(const float *a, int lda, const float *b, int ldb, float *o, int ldo, int rows, int cols, int depth,
                     bool add) {
  int j = 0;
  if (cols == PANEL) { columns<COLS>(a, lda, b, ldb, o, ldo, rows, depth, add); return; }
  for (; j + 2 * W <= cols; j += 2 * W) columns<2>(a, lda, b + j, ldb, o + j, ldo, rows, depth, add);
  for (; j < cols; j += W) columns<1>(a, lda, b + j, ldb, o + j, ldo, rows, depth, add);
}

// W rows of W numbers turned about: each pass zips the first half of the rows with the second.
static inline void transpose(vf *x) {
  for (int pass = 1; pass < W; pass *= 2) {
    vf y[W];
    for (int i = 0; i < W / 2; i++) {
      y[2 * i] = picked<Zipped<0>>(x[i], x[i + W / 2]);
      y[2 * i + 1] = picked<Zipped<W / 2>>(x[i], x[i + W / 2]);
    }
    for (int i = 0; i < W; i++) x[i] = y[i];
  }
}

// A page's n keys as columns [at, at + n) of panels [D][PANEL], its values as rows [at, at + n).
static void pack(const Call &c, const kv_t *k, const float *ks, int n, int at, float *kt, float *v) {
  const kv_t *values = k + (size_t)c.page * D;
  for (int t = 0; t < n; t += W) {
    float *to = kt + (size_t)((at + t) / PANEL) * D * PANEL + (at + t) % PANEL;
    for (int j = 0; j < D; j += W) {
      vf x[W];
      for (int i = 0; i < W; i++) {
        const size_t row = (size_t)std::min(t + i, n - 1) * D + j;
        x[i] = KV == 2 ? get(k + row) * ks[std::min(t + i, n - 1)] : get(k + row);
      }
      transpose(x);
      for (int i = 0; i < W; i++) put(to + (size_t)(j + i) * PANEL, x[i]);
    }
  }
  for (int t = 0; t < n; t++)
    for (int j = 0; j < D; j += W) {
      const vf x = get(values + (size_t)t * D + j);
      put(v + (size_t)(at + t) * D + j, KV == 2 ? x * ks[c.page + t] : x);
    }
}

static void prefill(const Call &c, const Part &p, std::vector<float> &room) {
  const int group = c.heads / c.kv, rows = (p.to - p.from) * group;
  const int32_t *table = c.tables + (size_t)p.request * c.width;
  const int queries = c.starts[p.request + 1] - c.starts[p.request], before = c.lens[p.request] - queries;
  room.resize((size_t)rows * (2 * D + BLOCK + W + 1) + 2 * (size_t)BLOCK * D);
  float *q = room.data(), *acc = q + (size_t)rows * D, *s = acc + (size_t)rows * D, *kt = s + (size_t)rows * BLOCK;
  float *v = kt + (size_t)BLOCK * D, *lanes = v + (size_t)BLOCK * D, *m = lanes + (size_t)rows * W;
  for (int r = 0; r < rows; r++) {
    const float *from = c.q + row_of(c, p, r);
    for (int j = 0; j < D; j += W) put(q + (size_t)r * D + j, get(from + j) * c.scale), put(acc + (size_t)r * D + j, (vf){});
    m[r] = c.sinks ? c.sinks[p.head * group + r % group] : NONE;
    put(lanes + r * W, (vf){});
    lanes[r * W] = c.sinks ? 1 : 0;
  }
  const int last = before + p.to;  // keys the tile's last query sees end here
  const int first = c.window > 0 ? std::max(0, before + p.from - c.window + 1) / c.page : 0;
  const int pages = BLOCK / c.page;
  for (int slot = first; slot * c.page < last; slot += pages) {
    const int base = slot * c.page, keys_here = std::min(pages * c.page, last - base);
    for (int i = 0; i * c.page < keys_here; i++) {
      const int n = std::min(c.page, keys_here - i * c.page);
      pack(c, keys(c, table[slot + i], p.head), scale_of(c, table[slot + i], p.head), n, i * c.page, kt, v);
    }
    for (int k = 0; k < keys_here; k += PANEL)
      multiply(q, D, kt + (size_t)k * D, PANEL, s + k, BLOCK, rows,
               std::min(PANEL, (keys_here - k + W - 1) / W * W), D, false);
    const int whole = (keys_here + W - 1) / W * W;
    for (int r = 0; r < rows; r++)
      weigh(c, s + (size_t)r * BLOCK, before + p.from - base + r / group, keys_here, whole, acc + (size_t)r * D, m[r], lanes + r * W);
    for (int j = 0; j < D; j += PANEL)
      multiply(s, BLOCK, v + j, D, acc + j, D, rows, std::min(PANEL, D - j), keys_here, true);
  }
  for (int r = 0; r < rows; r++) {
    float *to = c.out + row_of(c, p, r);
    const float total = sum(get(lanes + r * W)), one = total > 0 ? 1 / total : 0;
    for (int j = 0; j < D; j += W) put(to + j, get(acc + (size_t)r * D + j) * one);
  }
}

// Parts of one query over stretches of its keys, joined by their peaks.
static void merge(const Call &c, const Part *p, int count, const float *acc, const float *m, const float *l) {
  const int group = c.heads / c.kv;
  for (int g = 0; g < group; g++) {
    const int head = p->head * group + g;
    float peak = c.sinks ? c.sinks[head] : NONE;
    for (int i = 0; i < count; i++) peak = std::max(peak, m[(size_t)i * group + g]);
    float total = c.sinks ? std::exp(c.sinks[head] - peak) : 0;
    float *out = c.out + ((size_t)c.starts[p->request] * c.heads + head) * D;
    for (int j = 0; j < D; j += W) put(out + j, (vf){});
    for (int i = 0; i < count; i++) {
      const float w = std::exp(m[(size_t)i * group + g] - peak);
      total += w * l[(size_t)i * group + g];
      const float *a = acc + ((size_t)i * group + g) * D;
      for (int j = 0; j < D; j += W) put(out + j, get(out + j) + get(a + j) * w);
    }
    for (int j = 0; j < D; j += W) put(out + j, get(out + j) * (1 / total));
  }
}


extern "C" void weftline_attend(const float *q, float *out, const void *cache, const float *scales,
                                const int32_t *starts, const int32_t *lens, const int32_t *tables, const float *sinks,
                                int requests, int heads, int kv, int page, int width, int window,
                                float scale, float softcap) {
  const Call c = {q, out, (const kv_t *)cache, scales, starts, lens, tables, sinks,
                  requests, heads, kv, page, width, window, scale, softcap};
#if defined(UNIT)
  const bool unit = matrix::granted();
#else
  const bool unit = false;
#endif
  const int group = heads / kv, stretch = std::max(page, STRETCH / page * page);
  long rows = 0;  // of prompts, over all heads
  for (int r = 0; r < requests; r++)
    if (starts[r + 1] - starts[r] > 1) rows += (long)(starts[r + 1] - starts[r]) * heads;
  const int step = std::max(1, (unit && rows / MANY_ROWS >= SEVERAL * threads() ? MANY_ROWS : TILE_ROWS) / group);
  std::vector<Part> parts;
  std::vector<int> firsts;  // where each query's parts begin
  int slots = 0;
  for (int r = 0; r < requests; r++)
    for (int h = 0; h < kv; h++) {
      const int n = starts[r + 1] - starts[r], length = lens[r];
      if (n == 1) {
        const int low = window > 0 ? std::max(0, length - window) : 0;
        firsts.push_back((int)parts.size());
        for (int k = low; k < length;) {
          const int end = std::min(length, k / stretch * stretch + stretch);
          parts.push_back({r, h, 0, 1, k, end, slots++});
          k = end;
        }
      } else
        for (int t = (n - 1) / step * step; t >= 0; t -= step) parts.push_back({r, h, t, std::min(n, t + step), 0, 0, -1});
    }
  std::vector<float> acc((size_t)slots * group * D), m((size_t)slots * group), l((size_t)slots * group);
#pragma omp parallel if (parts.size() > 1)
  {
    std::vector<float> room;
#if defined(UNIT)
    if (unit) matrix::begin();
#endif
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < parts.size(); i++) {
      const Part &p = parts[i];
      float *a = acc.data() + (size_t)p.slot * group * D, *peaks = m.data() + (size_t)p.slot * group, *sums = l.data() + (size_t)p.slot * group;
#if defined(UNIT)
      if (unit) {
        if (p.slot < 0) { prefill_matrix(c, p, room); continue; }
        if (KV == 1 && group >= MANY) { decode_matrix(c, p, a, peaks, sums, room); continue; }
      }
#endif
      if (p.slot < 0) prefill(c, p, room);
#if defined(BYTEWISE)
      else decode_bytes(c, p, a, peaks, sums);
#else
      else decode(c, p, a, peaks, sums);
#endif
    }
#if defined(UNIT)
    if (unit) matrix::end();
#endif
  }
  for (size_t i = 0; i < firsts.size(); i++) {
    const Part &p = parts[firsts[i]];
    int count = 1;
    while (firsts[i] + count < (int)parts.size() && parts[firsts[i] + count].slot == p.slot + count &&
           parts[firsts[i] + count].request == p.request && parts[firsts[i] + count].head == p.head)
      count++;
    merge(c, &p, count, acc.data() + (size_t)p.slot * group * D, m.data() + (size_t)p.slot * group, l.data() + (size_t)p.slot * group);
  }
}

static inline void store(float *to, const float *from, float *) { std::memcpy(to, from, sizeof(float) * D); }
static inline void store(uint16_t *to, const float *from, float *) {  // round to nearest even, as torch does
  for (int d = 0; d < D; d++) {
    uint32_t x;
    std::memcpy(&x, from + d, 4);
    to[d] = (uint16_t)((x + 0x7FFF + ((x >> 16) & 1)) >> 16);
  }
}
static inline void store(int8_t *to, const float *from, float *scale) {
  float top = 0;
  for (int d = 0; d < D; d++) top = std::max(top, std::fabs(from[d]));
  *scale = top / 127;
  for (int d = 0; d < D; d++) to[d] = (int8_t)(top > 0 ? std::lrint(from[d] * 127 / top) : 0);
}

// Keys and values [tokens][kv][D] into their slots (page * page size + offset).
extern "C" void weftline_write(const float *k, const float *v, void *cache, float *scales, const int64_t *slots,
                               int tokens, int kv, int page) {
#pragma omp parallel for if (tokens > 64)
  for (int t = 0; t < tokens; t++)
    for (int h = 0; h < kv; h++) {
      const size_t row = ((size_t)(slots[t] / page) * kv + h) * 2 * page + slots[t] % page;
      kv_t *to = (kv_t *)cache + row * D;
      float *s = KV == 2 ? scales + row : nullptr;
      store(to, k + ((size_t)t * kv + h) * D, s);
      store(to + (size_t)page * D, v + ((size_t)t * kv + h) * D, s ? s + page : nullptr);
    }
}

// What this machine reads from memory: the sum of n floats, for rates in the same process.
extern "C" float weftline_read(const float *p, size_t n) {
  float total = 0;
#pragma omp parallel for reduction(+ : total)
  for (long block = 0; block < (long)(n / 16384); block++) {
    vf a = {}, b = {}, c = {}, d = {};
    const float *x = p + block * 16384;
    for (int i = 0; i < 16384; i += 4 * W) a += get(x + i), b += get(x + i + W), c += get(x + i + 2 * W), d += get(x + i + 3 * W);
    total += sum(a + b + c + d);
  }
  return total;
}
