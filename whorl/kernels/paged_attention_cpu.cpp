// Attention over paged keys and values, for the steps of a server.
//
// Few queries (a decode step): a unit is one (sequence, key head, CHUNK of keys); each makes its own
// maximum, sum and weighted values, which are combined in order. Many queries (a prompt): a unit is one
// (sequence, key head, block of query rows) that walks over tiles of keys as FlashAttention-2 does
// (arXiv 2307.08691), with oneDNN's brgemm. The query heads of a key head are rows side by side, so that
// its keys are read once. Which way a sequence goes, and how its keys are cut, depends on that sequence
// alone, so its bits depend neither on its neighbours nor on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "bf16.h"
#include "matmul.h"
#include "tape.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif
namespace {

constexpr int64_t LANES = 16;
constexpr int64_t CHUNK = 512;     // keys of a unit of few queries
constexpr int64_t FEW = 16;        // query rows (tokens times heads of a group) that count as few
constexpr int64_t ROWS = 256;      // query rows of a unit of many queries
constexpr int64_t ROW_STEP = 32;   // their number is rounded up to this: oneDNN compiles each number anew
constexpr int64_t WORTH_THREADS = 1 << 16;  // numbers of keys read by few queries; for less none is woken
constexpr int64_t KEYS = 128;      // keys of a tile
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef bits Halves __attribute__((vector_size(LANES * 2)));

inline Floats load(const float* x) {
  Floats value;
  std::memcpy(&value, x, sizeof(value));
  return value;
}
inline Floats load(const bits* x) {
  Halves value;
  std::memcpy(&value, x, sizeof(value));
  return (Floats)(__builtin_convertvector(value, Words) << 16);
}

inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof(x)); }
inline void store(bits* to, Floats x) {  // round to nearest even; NaN stays NaN
  const Words wide = (Words)x;
  const Words rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  const Halves value = __builtin_convertvector(x == x ? rounded : (wide >> 16 | 0x40), Halves);
  std::memcpy(to, &value, sizeof(value));
}
inline void store_one(float* to, float x) { *to = x; }
inline void store_one(bits* to, float x) {
  bits many[LANES];
  store(many, Floats{} + x);
  *to = many[0];
}

inline float sum(Floats x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float parts[8], total = 0;
  for (int i = 0; i < 8; ++i) parts[i] = x[i] + x[i + 8];
  for (int i = 0; i < 4; ++i) total += parts[i] + parts[i + 4];
  return total;
#endif
}
inline float largest(Floats x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float most = x[0];
  for (int i = 1; i < LANES; ++i) most = x[i] > most ? x[i] : most;
  return most;
#endif
}

// e^x - 1 is 2^n (e^r - 1) + (2^n - 1) with |r| <= ln(2) / 2; gives e^r - 1 and 2^n.
inline Floats split_exp(Floats x, Floats& power) {
  const Floats shift = Floats{} + 12582912.f;  // 1.5 * 2^23: adding it rounds to whole numbers
  const Floats n = (x * 1.44269504f + shift) - shift;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  power = (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
  Floats series = r * (1.f / 5040) + 1.f / 720;
  series = series * r + 1.f / 120;
  series = series * r + 1.f / 24;
  series = series * r + 1.f / 6;
  series = series * r + 0.5f;
  return series * r * r + r;
}

inline Floats exp(Floats x) {  // of x <= 0; below -87 it is 0, also of minus infinity
  Floats power;
  const Floats bounded = x < -87.f ? Floats{} - 87.f : x;
  const Floats part = split_exp(bounded, power);
  return x < -87.f ? Floats{} : part * power + power;
}

inline Floats tanh(Floats x) {
  const Floats size = x < 0.f ? -x : x;
  Floats power;
  const Floats twice = size > 20.f ? Floats{} + 40.f : size * 2.f;
  const Floats part = split_exp(twice, power);
  const Floats change = part * power + (power - 1.f);
  const Floats value = change / (change + 2.f);
  return x < 0.f ? -value : value;
}

template <class T>
struct Call {
  const T *q, *k, *v;
  T* out;
  const int32_t *tables, *offsets, *lengths;
  int64_t sequences, columns, heads, key_heads, slots, d;
  float scale;
  int64_t window;  // 0: none
  float cap;       // 0: none

  int64_t group() const { return heads / key_heads; }
  int64_t queries(int64_t sequence) const { return offsets[sequence + 1] - offsets[sequence]; }
  int64_t rows(int64_t sequence) const { return queries(sequence) * group(); }
  int64_t position(int64_t sequence, int64_t query) const { return lengths[sequence] - queries(sequence) + query; }
  int64_t first_key(int64_t position) const { return window ? std::max(int64_t(0), position - window + 1) : 0; }
  // The first head of a key head, of a sequence's query.
  int64_t query_at(int64_t sequence, int64_t query, int64_t head) const {
    return ((offsets[sequence] + query) * heads + head * group()) * d;
  }
  const T* page(const T* pool, int64_t sequence, int64_t key, int64_t head) const {
    return pool + ((tables[sequence * columns + key / slots] * key_heads + head) * slots + key % slots) * d;
  }
  // run(first key, number, rows of keys, rows of values) for the stretches of [first, stop) in one page.
  template <class Run>
  void over_pages(int64_t sequence, int64_t head, int64_t first, int64_t stop, Run run) const {
    while (first < stop) {
      const int64_t count = std::min(stop - first, slots - first % slots);
      run(first, count, page(k, sequence, first, head), page(v, sequence, first, head));
      first += count;
    }
  }
  Floats squash(Floats raw) const {
    raw *= scale;
    return cap ? cap * tanh(raw / cap) : raw;
  }
};

// ---- few queries -------------------------------------------------------------------------------

template <int COUNT>
inline void dots(const float* q, const float* keys, int64_t d, float* out) {
  Floats sums[COUNT] = {};
  int64_t c = 0;
  for (; c + LANES <= d; c += LANES) {
    const Floats query = load(q + c);
    for (int i = 0; i < COUNT; ++i) sums[i] += query * load(keys + i * d + c);
  }
  for (int i = 0; i < COUNT; ++i) {
    float total = sum(sums[i]);
    for (int64_t tail = c; tail < d; ++tail) total += q[tail] * keys[i * d + tail];
    out[i] = total;
  }
}

template <int COUNT>
inline void dots(const bits* q, const bits* keys, int64_t d, float* out) {
  Floats sums[COUNT] = {};
  int64_t c = 0;
#if defined(__AVX512BF16__)
  for (; c + 2 * LANES <= d; c += 2 * LANES) {
    const auto query = (__m512bh)_mm512_loadu_si512(q + c);
    for (int i = 0; i < COUNT; ++i)
      sums[i] = (Floats)_mm512_dpbf16_ps((__m512)sums[i], query, (__m512bh)_mm512_loadu_si512(keys + i * d + c));
  }
#endif
  for (; c + LANES <= d; c += LANES) {
    const Floats query = load(q + c);
    for (int i = 0; i < COUNT; ++i) sums[i] += query * load(keys + i * d + c);
  }
  for (int i = 0; i < COUNT; ++i) {
    float total = sum(sums[i]);
    for (int64_t tail = c; tail < d; ++tail) total += widen(q[tail]) * widen(keys[i * d + tail]);
    out[i] = total;
  }
}

// made[row] += weights[row] * values, for COUNT rows and `keys` keys.
template <int COUNT, class T>
inline void add_values(const float* weights, const T* values, int64_t keys, int64_t d, float* made, int64_t stride) {
  constexpr int WIDE = 4;
  int64_t c = 0;
  for (; c + WIDE * LANES <= d; c += WIDE * LANES) {
    Floats sums[COUNT][WIDE];
    for (int r = 0; r < COUNT; ++r)
      for (int w = 0; w < WIDE; ++w) sums[r][w] = load(made + r * stride + c + w * LANES);
    for (int64_t key = 0; key < keys; ++key)
      for (int w = 0; w < WIDE; ++w) {
        const Floats value = load(values + key * d + c + w * LANES);
        for (int r = 0; r < COUNT; ++r) sums[r][w] += weights[r * CHUNK + key] * value;
      }
    for (int r = 0; r < COUNT; ++r)
      for (int w = 0; w < WIDE; ++w) store(made + r * stride + c + w * LANES, sums[r][w]);
  }
  for (; c + LANES <= d; c += LANES)
    for (int r = 0; r < COUNT; ++r) {
      Floats sums = load(made + r * stride + c);
      for (int64_t key = 0; key < keys; ++key) sums += weights[r * CHUNK + key] * load(values + key * d + c);
      store(made + r * stride + c, sums);
    }
  for (; c < d; ++c)
    for (int r = 0; r < COUNT; ++r)
      for (int64_t key = 0; key < keys; ++key) made[r * stride + c] += weights[r * CHUNK + key] * widen(values[key * d + c]);
}

// Scores [first, stop) become weights; those outside what the row sees become 0. Gives maximum and sum.
void weigh(float* scores, int64_t first, int64_t stop, int64_t padded, float* maximum, float* total) {
  std::fill(scores, scores + first, MINUS_INFINITY);
  std::fill(scores + stop, scores + padded, MINUS_INFINITY);
  Floats most = Floats{} + MINUS_INFINITY;
  for (int64_t c = 0; c < padded; c += LANES) {
    const Floats score = load(scores + c);
    most = score > most ? score : most;
  }
  *maximum = largest(most);
  Floats sums = {};
  for (int64_t c = 0; c < padded; c += LANES) {
    const Floats weight = first < stop ? exp(load(scores + c) - *maximum) : Floats{};
    sums += weight;
    store(scores + c, weight);
  }
  *total = sum(sums);
}

struct Unit {
  int64_t sequence, head, first, stop;  // keys [first, stop), or query tokens of many
  int64_t part;                         // where its parts lie
};

inline void ask_for(const void* row, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(row) + at);
}

// part: for each row its maximum, its sum and d weighted values.
template <class T>
void few(const Call<T>& in, const Unit& unit, float* part) {
  const int64_t d = in.d, stride = d + 2, group = in.group(), rows = in.rows(unit.sequence);
  alignas(64) static thread_local float scores[FEW * CHUNK];
  const int64_t keys = unit.stop - unit.first, padded = (keys + LANES - 1) / LANES * LANES;
  in.over_pages(unit.sequence, unit.head, unit.first, unit.stop, [&](int64_t key, int64_t count, const T* k, const T*) {
    const T* next = key + count < unit.stop ? in.page(in.k, unit.sequence, key + count, unit.head) : nullptr;
    int64_t i = 0;
    for (; i < count; i += 4) {
      if (next) ask_for(next + i * d, 4 * d * int64_t(sizeof(T)));
      for (int64_t row = 0; row < rows; ++row) {
        const T* q = in.q + in.query_at(unit.sequence, row / group, unit.head) + row % group * d;
        float* out = scores + row * CHUNK + key - unit.first + i;
        if (count - i >= 4) {
          dots<4>(q, k + i * d, d, out);
        } else {
          for (int64_t j = 0; j < count - i; ++j) dots<1>(q, k + (i + j) * d, d, out + j);
        }
      }
    }
  });
  for (int64_t row = 0; row < rows; ++row) {
    float* score = scores + row * CHUNK;
    for (int64_t c = 0; c < padded; c += LANES) store(score + c, in.squash(load(score + c)));
    const int64_t position = in.position(unit.sequence, row / group);
    const int64_t stop = std::clamp(position + 1 - unit.first, int64_t(0), keys);
    const int64_t first = std::clamp(in.first_key(position) - unit.first, int64_t(0), stop);
    weigh(score, first, stop, padded, part + row * stride, part + row * stride + 1);
    std::fill_n(part + row * stride + 2, d, 0.f);
  }
  in.over_pages(unit.sequence, unit.head, unit.first, unit.stop, [&](int64_t key, int64_t count, const T*, const T* v) {
    if (key + count < unit.stop) ask_for(in.page(in.v, unit.sequence, key + count, unit.head), count * d * int64_t(sizeof(T)));
    int64_t row = 0;
    const float* weights = scores + key - unit.first;
    for (; row + 4 <= rows; row += 4) add_values<4>(weights + row * CHUNK, v, count, d, part + row * stride + 2, stride);
    for (; row + 2 <= rows; row += 2) add_values<2>(weights + row * CHUNK, v, count, d, part + row * stride + 2, stride);
    for (; row < rows; ++row) add_values<1>(weights + row * CHUNK, v, count, d, part + row * stride + 2, stride);
  });
}

// The parts of one row, in the order of their keys.
template <class T>
void combine(const float* parts, int64_t count, int64_t apart, int64_t d, T* out) {
  float most = MINUS_INFINITY, total = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, parts[i * apart]);
  std::vector<float> made(d, 0.f);
  for (int64_t i = 0; i < count; ++i) {
    const float share = std::exp(parts[i * apart] - most);
    total += share * parts[i * apart + 1];
    for (int64_t c = 0; c < d; ++c) made[c] += share * parts[i * apart + 2 + c];
  }
  for (int64_t c = 0; c < d; ++c) store_one(out + c, made[c] / total);
}

// ---- many queries ------------------------------------------------------------------------------

// 16 rows of 16 words, transposed.
inline void transpose(Words* rows) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int step = 1; step < LANES; step *= 2) {
    const Ints odd = (lane & step) != 0;
    const Ints low = odd ? lane + int32_t(LANES) - step : lane, high = odd ? lane + int32_t(LANES) : lane + step;
    for (int i = 0; i < LANES; ++i) {
      if (i & step) continue;
      const Words a = rows[i], b = rows[i + step];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + step] = __builtin_shuffle(a, b, high);
    }
  }
}

// matmul wants the second matrix in fp32 plain, in bf16 with pairs of rows interleaved, [k / 2][n][2]:
// a pair of a key is one word, so both types are a transpose of words.
template <class T>
void pack_keys(const T* const* keys, int64_t d, int64_t padded, T* out) {
  constexpr int64_t EACH = 4 / sizeof(T);
  for (int64_t key = 0; key < KEYS; key += LANES)
    for (int64_t c = 0; c < padded; c += LANES * EACH) {
      Words rows[LANES] = {};
      const int64_t bytes = std::min(LANES * EACH, d - c) * int64_t(sizeof(T));
      for (int i = 0; i < LANES && bytes > 0; ++i) {
        if (bytes == sizeof(Words)) {
          std::memcpy(rows + i, keys[key + i] + c, sizeof(Words));
        } else {
          std::memcpy(rows + i, keys[key + i] + c, bytes);
        }
      }
      transpose(rows);
      for (int i = 0; i < LANES; ++i) std::memcpy(out + (c / EACH + i) * KEYS * EACH + key * EACH, rows + i, sizeof(Words));
    }
}
void pack_values(const float* const* values, int64_t d, float* out) {
  for (int64_t key = 0; key < KEYS; ++key) std::memcpy(out + key * d, values[key], d * sizeof(float));
}
void pack_values(const bits* const* values, int64_t d, bits* out) {
  for (int64_t key = 0; key < KEYS; key += 2) {
    const bits *even = values[key], *odd = values[key + 1];
    bits* row = out + key * d;
    int64_t c = 0;
    for (; c + LANES <= d; c += LANES) {
      const Words pairs = (Words)load(even + c) >> 16 | (Words)load(odd + c);
      std::memcpy(row + 2 * c, &pairs, sizeof(pairs));
    }
    for (; c < d; ++c) {
      row[2 * c] = even[c];
      row[2 * c + 1] = odd[c];
    }
  }
}

template <class T>
struct Scratch {
  std::vector<T> q, keys, values, weights, nothing;
  std::vector<float> scores, made, maxima, sums;

  void fit(int64_t d, int64_t padded) {
    q.assign(ROWS * padded, T(0));
    keys.resize(padded * KEYS);
    values.resize(KEYS * d);
    nothing.assign(d, T(0));
    weights.resize(ROWS * KEYS);
    scores.resize(ROWS * KEYS);
    made.assign(ROWS * d, 0.f);
    maxima.assign(ROWS, MINUS_INFINITY);
    sums.assign(ROWS, 0.f);
  }
};

// One row's scores of a tile become weights; what it has so far is rescaled to the new maximum.
template <class T>
void weigh_tile(const Call<T>& in, Scratch<T>& s, int64_t row, int64_t first, int64_t stop) {
  float* scores = s.scores.data() + row * KEYS;
  T* weights = s.weights.data() + row * KEYS;
  if (first >= stop) {
    std::fill_n(weights, KEYS, T(0));
    return;
  }
  for (int64_t c = 0; c < KEYS; c += LANES) store(scores + c, in.squash(load(scores + c)));
  std::fill(scores, scores + first, MINUS_INFINITY);
  std::fill(scores + stop, scores + KEYS, MINUS_INFINITY);
  Floats most = Floats{} + s.maxima[row];
  for (int64_t c = 0; c < KEYS; c += LANES) {
    const Floats score = load(scores + c);
    most = score > most ? score : most;
  }
  const float before = s.maxima[row], now = largest(most);
  Floats sums = {};
  for (int64_t c = 0; c < KEYS; c += LANES) {
    const Floats weight = exp(load(scores + c) - now);
    sums += weight;
    store(weights + c, weight);
  }
  if (now > before) {
    const float share = std::exp(before - now);
    float* made = s.made.data() + row * in.d;
    for (int64_t c = 0; c < in.d; ++c) made[c] *= share;
    s.sums[row] *= share;
    s.maxima[row] = now;
  }
  s.sums[row] += sum(sums);
}

// Query tokens [unit.first, unit.stop) of a sequence, all heads of one key head.
template <class T>
void many(const Call<T>& in, const Unit& unit) {
  static thread_local std::unique_ptr<Scratch<T>> kept;
  if (!kept) kept = std::make_unique<Scratch<T>>();
  Scratch<T>& s = *kept;
  const int64_t d = in.d, padded = (d + 31) / 32 * 32, group = in.group();
  const int64_t rows = (unit.stop - unit.first) * group, whole = (rows + ROW_STEP - 1) / ROW_STEP * ROW_STEP;
  s.fit(d, padded);
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(s.q.data() + row * padded,
                in.q + in.query_at(unit.sequence, unit.first + row / group, unit.head) + row % group * d, d * sizeof(T));
  const int64_t start = in.position(unit.sequence, unit.first), end = in.position(unit.sequence, unit.stop - 1) + 1;
  for (int64_t tile = in.first_key(start) / KEYS * KEYS; tile < end; tile += KEYS) {
    const int64_t keys = std::min(KEYS, end - tile);
    const T *key_rows[KEYS], *value_rows[KEYS];
    std::fill_n(key_rows, KEYS, s.nothing.data());
    std::fill_n(value_rows, KEYS, s.nothing.data());
    in.over_pages(unit.sequence, unit.head, tile, tile + keys, [&](int64_t key, int64_t count, const T* k, const T* v) {
      for (int64_t i = 0; i < count; ++i) {
        key_rows[key + i - tile] = k + i * d;
        value_rows[key + i - tile] = v + i * d;
      }
    });
    pack_keys(key_rows, d, padded, s.keys.data());
    pack_values(value_rows, d, s.values.data());
    const int64_t above = std::max(int64_t(0), tile - start) * group / ROW_STEP * ROW_STEP;  // rows that see none of it
    matmul(whole - above, KEYS, padded, s.q.data() + above * padded, padded, s.keys.data(), s.scores.data() + above * KEYS, KEYS, false);
    for (int64_t row = above; row < whole; ++row) {
      const int64_t position = start + row / group;
      const int64_t stop = row < rows ? std::clamp(position + 1 - tile, int64_t(0), keys) : 0;
      weigh_tile(in, s, row, std::clamp(in.first_key(position) - tile, int64_t(0), KEYS), stop);
    }
    matmul(whole - above, d, KEYS, s.weights.data() + above * KEYS, KEYS, s.values.data(), s.made.data() + above * d, d, true);
  }
  for (int64_t row = 0; row < rows; ++row) {
    T* out = in.out + in.query_at(unit.sequence, unit.first + row / group, unit.head) + row % group * d;
    for (int64_t c = 0; c < d; ++c) store_one(out + c, s.made[row * d + c] / s.sums[row]);
  }
}

template <class T>
void attend(const Call<T>& in, int threads) {
  std::vector<Unit> short_units, long_units, sums;  // of `sums`: first is the number of parts
  int64_t floats = 0;
  const int64_t group = in.group();
  for (int64_t sequence = 0; sequence < in.sequences; ++sequence) {
    const int64_t queries = in.queries(sequence), rows = in.rows(sequence);
    for (int64_t head = 0; queries > 0 && head < in.key_heads; ++head) {
      if (rows > FEW) {
        const int64_t step = std::max(int64_t(1), ROWS / group);
        for (int64_t query = 0; query < queries; query += step)
          long_units.push_back({sequence, head, query, std::min(query + step, queries), 0});
        continue;
      }
      const int64_t begin = in.first_key(in.position(sequence, 0)), length = in.lengths[sequence];
      sums.push_back({sequence, head, 0, 0, floats});
      for (int64_t chunk = begin / CHUNK * CHUNK; chunk < length; chunk += CHUNK, ++sums.back().first) {
        short_units.push_back({sequence, head, std::max(chunk, begin), std::min(chunk + CHUNK, length), floats});
        floats += rows * (in.d + 2);
      }
    }
  }
  std::vector<float> parts(floats);
  int64_t keys = 0;
  for (const Unit& unit : short_units) keys += unit.stop - unit.first;
  if (long_units.empty() && keys * in.d < WORTH_THREADS) threads = 1;
  const int64_t d = in.d, short_count = short_units.size(), long_count = long_units.size(), sum_count = sums.size();
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic) nowait
    for (int64_t i = 0; i < long_count; ++i) many(in, long_units[long_count - 1 - i]);  // the long ends first
    if (long_count) end_matmuls<T>();
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < short_count; ++i) few(in, short_units[i], parts.data() + short_units[i].part);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < sum_count; ++i) {
      const Unit& unit = sums[i];
      const int64_t rows = in.rows(unit.sequence);
      for (int64_t row = 0; row < rows; ++row)
        combine(parts.data() + unit.part + row * (d + 2), unit.first, rows * (d + 2), d,
                in.out + in.query_at(unit.sequence, row / group, unit.head) + row % group * d);
    }
  }
}

}  // namespace

// What comes after the last sequence is padding, and 0.
// q, out: [T, heads, d]; k, v: [pages, key_heads, slots, d]; tables: [sequences, columns]; all contiguous.
#define WHORL_PAGED(name, T)                                                                                      \
  extern "C" void name(const T* q, const T* k, const T* v, T* out, const int32_t* tables, const int32_t* offsets, \
                       const int32_t* lengths, int64_t tokens, int64_t sequences, int64_t columns,                \
                       int64_t heads, int64_t key_heads, int64_t slots, int64_t d, int64_t window, float scale,   \
                       float cap, int threads) {                                                                  \
    const int64_t last = sequences ? offsets[sequences] : 0;                                                      \
    std::memset(out + last * heads * d, 0, (tokens - last) * heads * d * sizeof(T));                              \
    attend<T>({q, k, v, out, tables, offsets, lengths, sequences, columns, heads, key_heads, slots, d, scale,     \
               window, cap},                                                                                      \
              threads);                                                                                           \
  }
WHORL_PAGED(whorl_paged_bf16, bits)
WHORL_PAGED(whorl_paged_f32, float)
WHORL_WORDS(whorl_paged_bf16)
WHORL_WORDS(whorl_paged_f32)
