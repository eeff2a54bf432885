// y = x Wᵀ + b with W in 8 or 4 bits, for more rows of x than vectors multiply well: AMX tiles of bytes.
//
// x is rounded as in quantise_cpu.cpp: signed bytes, each 32 elements of a row with a scale of their own. A
// step multiplies 16 rows of W by 16 rows of x over such a group: exact sums of integers, which start at
// −zero · Σ x, are stored, scaled and added in fp32. One sum over the groups in their order per y, whatever
// n, the threads and the other rows are.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bf16.h"
#include "tape.h"
#include "tiles.h"

#if defined(WHORL_AMX) && defined(__AMX_INT8__) && defined(__AVX512BW__) && defined(__AVX512VL__)

namespace {

constexpr int64_t GROUP = 32, TILE = 16;  // elements of x that share a scale; rows of a tile
constexpr int64_t CHUNK = 1024;           // elements of k whose codes of 16 rows stay in the first cache
constexpr int64_t AHEAD = 512;            // bytes of each row of W that are on their way
constexpr int64_t WORTH_THREADS = 1 << 17;
// Tiles 0 and 1 are sums, 4 rows of W over a group, 6 rows of x: a group's bytes in fours.
constexpr TileConfig group_tiles{1, 0, {}, {64, 64, 0, 0, 32, 0, 64, 0}, {16, 16, 0, 0, 16, 0, 8, 0}};

inline void put(float value, float* to) { *to = value; }
inline void put(float value, bits* to) { *to = narrow(value); }

// A group of 16 rows of x.
struct alignas(64) Strip {
  int8_t codes[GROUP / 4][TILE][4];
  int32_t start[TILE];
  float scale[TILE];
};

struct Matrix {
  const uint8_t* packed;  // [out, stride]
  const bits* scale;      // [out, groups]
  int64_t in, out, stride, groups;
};

inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }
inline __m512 load(const bits* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

template <class T>
void quantise(const T* x, int64_t row, int zero, Strip& strip) {
  const __m512 low = load(x), high = load(x + 16);
  const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
  const __m512 inverse = _mm512_set1_ps(most > 0 ? 127 / most : 0);
  const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
  const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
  alignas(32) int8_t codes[GROUP];
  _mm_store_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtsepi32_epi8(first));
  _mm_store_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtsepi32_epi8(second));
  for (int64_t four = 0; four < GROUP / 4; ++four) std::memcpy(strip.codes[four][row], codes + 4 * four, 4);
  strip.start[row] = -zero * _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
  strip.scale[row] = most / 127;
}

// The codes of 16 rows of W from k on, a byte each, [16, CHUNK].
inline void unpack(const Matrix& w, int64_t row, int64_t k, int64_t count, uint8_t* out) {
  const __m512i nibble = _mm512_set1_epi16(0x0f0f);
  for (int64_t r = 0; r < TILE; ++r) {
    const uint8_t* from = w.packed + (row + r) * w.stride + k / 2;
    for (int64_t at = 0; at < count; at += 64) {
      const __mmask32 known = at + 64 <= count ? ~0u : 0xffffu;  // a chunk is whole groups
      const __m512i wide = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(known, from + at / 2));
      __builtin_prefetch(from + at / 2 + AHEAD);
      const __m512i pairs = _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)), nibble);
      _mm512_storeu_si512(out + r * CHUNK + at, pairs);
    }
  }
}

// 16 rows of W times a strip of x over groups [first, last): `codes` are W's from the first on, in rows of
// `stride` bytes; PER: `factors` [16, groups] are W's scales, each for `span` groups of x. `prefetch`: 0, or
// the length of rows that come from memory.
template <bool PER>
void multiply(const Strip* x, int64_t first, int64_t last, const uint8_t* codes, int64_t stride,
              const float* factors, int64_t groups, int64_t span, int64_t prefetch, __m512* sum) {
  alignas(64) int32_t made[2][TILE][TILE];
  const auto add = [&](int64_t group, const int32_t (*products)[TILE]) __attribute__((always_inline)) {
    const __m512 unit = _mm512_load_ps(x[group].scale);
    const float* factor = PER ? factors + group / span : nullptr;
    for (int64_t r = 0; r < TILE; ++r) {
      const __m512 value = _mm512_cvtepi32_ps(_mm512_load_si512(products[r]));
      sum[r] = _mm512_fmadd_ps(value, PER ? _mm512_mul_ps(unit, _mm512_set1_ps(factor[r * groups])) : unit, sum[r]);
    }
  };
  int64_t group = first;
  for (; group + 2 <= last; group += 2, codes += 2 * GROUP) {
    _tile_loadd(0, x[group].start, 0);
    _tile_loadd(4, codes, stride);
    _tile_loadd(6, x[group].codes, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(1, x[group + 1].start, 0);
    _tile_loadd(4, codes + GROUP, stride);
    _tile_loadd(6, x[group + 1].codes, 64);
    _tile_dpbusd(1, 4, 6);
    if (prefetch) {  // AHEAD bytes on in each row, or in the rows of the block that follows
      const int64_t on = group * GROUP + AHEAD, next = on < prefetch ? AHEAD : AHEAD + (TILE - 1) * stride;
      for (int64_t r = 0; r < TILE; ++r) __builtin_prefetch(codes + r * stride + next);
    }
    _tile_stored(0, made[0], 64);
    _tile_stored(1, made[1], 64);
    add(group, made[0]);
    add(group + 1, made[1]);
  }
  if (group < last) {
    _tile_loadd(0, x[group].start, 0);
    _tile_loadd(4, codes, stride);
    _tile_loadd(6, x[group].codes, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_stored(0, made[0], 64);
    add(group, made[0]);
  }
}

// Rows [row, row + 16) of W times every strip.
template <class T>
void block(const Strip* x, int64_t strips, const Matrix& w, int64_t row, const T* bias, T* y, int64_t n, int bit) {
  alignas(64) static thread_local uint8_t codes[TILE * CHUNK];
  static thread_local std::vector<float> factors;
  const int64_t steps = w.in / GROUP, span = steps / w.groups;
  const bool per = w.groups > 1;
  if (int64_t(factors.size()) < TILE * w.groups) factors.resize(TILE * w.groups);
  for (int64_t at = 0; at < TILE * w.groups; ++at) factors[at] = widen(w.scale[row * w.groups + at]);
  for (int64_t strip = 0; strip < strips; ++strip, x += steps) {
    __m512 sum[TILE] = {};
    if (bit == 8) {
      const uint8_t* from = w.packed + row * w.stride;
      multiply<false>(x, 0, steps, from, w.stride, nullptr, 0, 1, strip == 0 ? w.in : 0, sum);
    } else {
      for (int64_t k = 0; k < w.in; k += CHUNK) {
        const int64_t count = std::min(CHUNK, w.in - k), first = k / GROUP, last = (k + count) / GROUP;
        if (strip == 0 || w.in > CHUNK) unpack(w, row, k, count, codes);
        if (per) multiply<true>(x, first, last, codes, CHUNK, factors.data(), w.groups, span, 0, sum);
        else multiply<false>(x, first, last, codes, CHUNK, nullptr, 0, 1, 0, sum);
      }
    }
    alignas(64) float out[TILE][TILE];
    for (int64_t r = 0; r < TILE; ++r) _mm512_store_ps(out[r], sum[r]);
    const int64_t rows = std::min(TILE, n - strip * TILE);
    for (int64_t at = 0; at < rows; ++at)
      for (int64_t r = 0; r < TILE; ++r)
        put(out[r][at] * (per ? 1.f : factors[r]) + (bias ? widen(bias[r]) : 0.f), y + (strip * TILE + at) * w.out + r);
  }
}

template <class T>
void linear(const T* x, const uint8_t* const* packed, const bits* const* scale, const T* const* bias, T* const* y,
            const int64_t* out, int64_t count, int64_t n, int64_t in, int64_t stride, int64_t groups, int bit,
            int threads) {
  const int64_t strips = (n + TILE - 1) / TILE, steps = in / GROUP;
  static thread_local std::vector<Strip> space;  // kept: fresh pages cost more than the packing
  if (int64_t(space.size()) < strips * steps) space.resize(strips * steps);
  Strip* rounded = space.data();
  int64_t weights = 0;
  for (int64_t part = 0; part < count; ++part) weights += in * out[part];
  if (weights < WORTH_THREADS) threads = 1;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t step = 0; step < steps; ++step)
      for (int64_t row = 0; row < strips * TILE; ++row) {
        Strip& strip = rounded[row / TILE * steps + step];
        if (row < n) quantise(x + row * in + step * GROUP, row % TILE, bit == 8 ? 128 : 8, strip);
        else strip.scale[row % TILE] = 0;  // what its codes are is the same then
      }
    const Tiles tiles(group_tiles);
    for (int64_t part = 0; part < count; ++part) {
      const Matrix w{packed[part], scale[part], in, out[part], stride, groups};
      const int64_t blocks = (w.out + TILE - 1) / TILE;
#pragma omp for schedule(static) nowait
      for (int64_t number = 0; number < blocks; ++number) {
        const int64_t row = std::min(number * TILE, w.out - TILE);  // the last one reaches back
        block(rounded, strips, w, row, bias[part] ? bias[part] + row : nullptr, y[part] + row, n, bit);
      }
    }
  }
}

inline bool fits(int64_t in, int64_t out, int64_t groups) {
  return in % GROUP == 0 && in / GROUP % groups == 0 && out >= TILE && tiles_allowed();
}

}  // namespace
#else
namespace {
template <class... Arguments>
void linear(Arguments...) {}
inline bool fits(int64_t, int64_t, int64_t) { return false; }
}  // namespace
#endif

// Whether a quantised matrix of this shape is multiplied in tiles.
extern "C" bool whorl_quantised_tiles_fit(int64_t in, int64_t out, int64_t groups) { return fits(in, out, groups); }

// As whorl_quantised, for shapes that fit.
#define WHORL_QUANTISED_TILES(name, T)                                                                          \
  extern "C" void name(const T* x, const uint8_t* const* packed, const bits* const* scale, const T* const* bias, \
                       T* const* y, const int64_t* out, int64_t count, int64_t n, int64_t in, int64_t stride,   \
                       int64_t groups, int bit, int threads) {                                                  \
    linear(x, packed, scale, bias, y, out, count, n, in, stride, groups, bit, threads);                         \
  }
WHORL_QUANTISED_TILES(whorl_quantised_tiles_bf16, bits)
WHORL_QUANTISED_TILES(whorl_quantised_tiles_f32, float)
WHORL_WORDS(whorl_quantised_tiles_bf16)
WHORL_WORDS(whorl_quantised_tiles_f32)
