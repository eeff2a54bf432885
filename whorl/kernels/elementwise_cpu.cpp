// What stands between the matmuls of a block, each in one pass: norms, rotations, gates, and the writing
// of keys and values into pages. As torch's own ops a decode step spent most of its time between them.
//
// A row's result depends on the row alone: it is computed the same way whatever rows stand beside it and
// however many threads there are.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "bf16.h"
#include "tape.h"

namespace {

constexpr int64_t WORTH_THREADS = 1 << 15;  // elements; less is done before a second thread wakes
constexpr int64_t LANES = 16;

inline void put(float value, float* to) { *to = value; }
inline void put(float value, bits* to) { *to = narrow_finite(value); }

// Sixteen sums side by side, then halves onto halves: in one order wherever x lies in memory.
template <class Value>
float total(int64_t size, const Value& value) {
  float lane[LANES] = {};
  int64_t at = 0;
  for (; at + LANES <= size; at += LANES)
#pragma omp simd
    for (int64_t i = 0; i < LANES; ++i) lane[i] += value(at + i);
  for (int64_t i = 0; at + i < size; ++i) lane[i] += value(at + i);
  for (int64_t width = LANES / 2; width; width /= 2)
    for (int64_t i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

template <class E, class W>
void norm_row(const E* in, const W* weight, const W* bias, E* out, int64_t size, float eps, float offset,
              bool layer) {
  const float mean = layer ? total(size, [&](int64_t i) { return widen(in[i]); }) / size : 0.f;
  const float square = total(size, [&](int64_t i) {
    const float value = widen(in[i]) - mean;
    return value * value;
  });
  const float scale = 1.f / std::sqrt(square / size + eps);
  if (bias) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i)
      put((widen(in[i]) - mean) * scale * (widen(weight[i]) + offset) + widen(bias[i]), out + i);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i)
      put((widen(in[i]) - mean) * scale * (widen(weight[i]) + offset), out + i);
  }
}

template <class E, class W>
void norm(const E* x, const W* weight, const W* bias, E* y, int64_t rows, int64_t size, float eps, float offset,
          bool layer, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > WORTH_THREADS)
  for (int64_t row = 0; row < rows; ++row)
    norm_row(x + row * size, weight, bias, y + row * size, size, eps, offset, layer);
}

// Two numbers are read before the two in their places are written, so `out` may be `x`.
template <class E>
void rotate_row(const E* x, const float* cos, const float* sin, E* out, int64_t half) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float a = widen(x[i]), b = widen(x[half + i]);
    put(a * cos[i] - b * sin[i], out + i);
    put(b * cos[i] + a * sin[i], out + half + i);
  }
}

// x and y [rows, heads, 2 half]; cos and sin [rows, half].
template <class E>
void rotate(const E* x, const float* cos, const float* sin, E* y, int64_t rows, int64_t heads, int64_t half,
            int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * heads * half > WORTH_THREADS)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t at = (row * heads + head) * 2 * half;
      rotate_row(x + at, cos + row * half, sin + row * half, y + at, half);
    }
}

inline float rounded(float value, const float*) { return value; }
inline float rounded(float value, const bits*) { return widen(narrow_finite(value)); }

struct Silu {
  float operator()(float x) const { return x / (1.f + std::exp(-x)); }
};
struct Gelu {
  float operator()(float x) const { return 0.5f * x * (1.f + std::erf(x * 0.70710678f)); }
};
struct GeluTanh {
  float operator()(float x) const { return 0.5f * x * (1.f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x))); }
};
struct Relu {  // by the bits: compilers may forget that NaN is not below 0
  float operator()(float x) const {
    uint32_t word;
    std::memcpy(&word, &x, 4);
    word = word > 0x80000000u && word <= 0xff800000u ? 0 : word;
    std::memcpy(&x, &word, 4);
    return x;
  }
};

// The first factor is rounded as torch rounds it.
template <class Function, class E>
void activate(const E* x, const E* up, E* out, int64_t rows, int64_t size, int threads) {
  const Function function;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > WORTH_THREADS)
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t start = row * size, stop = start + size;
    if (up) {
#pragma omp simd
      for (int64_t i = start; i < stop; ++i) put(rounded(function(widen(x[i])), out) * widen(up[i]), out + i);
    } else {
#pragma omp simd
      for (int64_t i = start; i < stop; ++i) put(function(widen(x[i])), out + i);
    }
  }
}

template <class E>
void activate(const E* x, const E* up, E* out, int64_t rows, int64_t size, int kind, int threads) {
  switch (kind) {
    case 0: return activate<Silu>(x, up, out, rows, size, threads);
    case 1: return activate<Gelu>(x, up, out, rows, size, threads);
    case 2: return activate<GeluTanh>(x, up, out, rows, size, threads);
    case 3: return activate<Relu>(x, up, out, rows, size, threads);
  }
}

template <class E>
void add(const E* x, const E* y, E* out, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) put(widen(x[i]) + widen(y[i]), out + i);
}

// k and v [tokens, heads, dim] → pages [P, heads, places, dim]; a negative slot goes nowhere.
template <class E>
void store(const E* k, const E* v, E* k_pages, E* v_pages, const int64_t* slots, int64_t tokens, int64_t heads,
           int64_t places, int64_t dim) {
  for (int64_t token = 0; token < tokens; ++token) {
    if (slots[token] < 0) continue;
    const int64_t page = slots[token] / places, place = slots[token] % places;
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t from = (token * heads + head) * dim, to = ((page * heads + head) * places + place) * dim;
      std::memcpy(k_pages + to, k + from, dim * sizeof(E));
      std::memcpy(v_pages + to, v + from, dim * sizeof(E));
    }
  }
}

}  // namespace

#define WHORL_NORM(name, E, W)                                                                              \
  extern "C" void whorl_norm_##name(const E* x, const W* weight, const W* bias, E* y, int64_t rows,         \
                                    int64_t size, float eps, float offset, bool layer, int threads) {       \
    norm(x, weight, bias, y, rows, size, eps, offset, layer, threads);                                      \
  }
WHORL_NORM(f32, float, float)
WHORL_NORM(bf16, bits, bits)
WHORL_NORM(bf16_f32, bits, float)

#define WHORL_ELEMENTWISE(name, E)                                                                          \
  extern "C" void whorl_rotate_##name(const E* x, const float* cos, const float* sin, E* y, int64_t rows,   \
                                      int64_t heads, int64_t half, int threads) {                           \
    rotate(x, cos, sin, y, rows, heads, half, threads);                                                     \
  }                                                                                                         \
  extern "C" void whorl_activate_##name(const E* x, const E* up, E* out, int64_t rows, int64_t size,        \
                                        int kind, int threads) {                                            \
    activate(x, up, out, rows, size, kind, threads);                                                        \
  }                                                                                                         \
  extern "C" void whorl_add_##name(const E* x, const E* y, E* out, int64_t count) { add(x, y, out, count); }  \
  extern "C" void whorl_store_##name(const E* k, const E* v, E* k_pages, E* v_pages, const int64_t* slots,  \
                                     int64_t tokens, int64_t heads, int64_t places, int64_t dim) {          \
    store(k, v, k_pages, v_pages, slots, tokens, heads, places, dim);                                       \
  }
WHORL_ELEMENTWISE(f32, float)
WHORL_ELEMENTWISE(bf16, bits)
WHORL_WORDS(whorl_norm_f32)
WHORL_WORDS(whorl_norm_bf16)
WHORL_WORDS(whorl_norm_bf16_f32)
WHORL_WORDS(whorl_rotate_f32)
WHORL_WORDS(whorl_rotate_bf16)
WHORL_WORDS(whorl_activate_f32)
WHORL_WORDS(whorl_activate_bf16)
WHORL_WORDS(whorl_store_f32)
WHORL_WORDS(whorl_store_bf16)
WHORL_WORDS(whorl_add_f32)
WHORL_WORDS(whorl_add_bf16)
