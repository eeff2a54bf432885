// y = x Wᵀ + b for a few rows of x, where reading W is all the work.
//
// W [out, in] lies as torch keeps it. A thread takes blocks of rows of W and reads each once from
// memory for all of x; what comes next is asked for while a step is multiplied. Every y is one sum over
// k in one order, whatever n, the threads and the other rows of x are: a row's result does not depend
// on its batch. Which of the two ways (tiles, where the CPU has AMX and the matrix fits them, or
// vectors) depends on the matrix alone.
//
// Compiled without -ffast-math and without contraction, which could order instances differently.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "bf16.h"
#include "tape.h"
#include "tiles.h"
#include "upcoming.h"

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16, ROWS = 4, COLUMNS = 4;
#else
constexpr int LANES = 8, ROWS = 2, COLUMNS = 4;  // there are sixteen registers
#if defined(__FMA__)
#include <immintrin.h>
#endif
#endif
#if defined(WHORL_AMX) && defined(__AMX_BF16__)
#define WHORL_TILES
#endif

namespace {

constexpr int64_t AHEAD = 512;  // bytes of each row of a tile that are on their way
constexpr int64_t WORTH_THREADS = 1 << 17;  // weights read: less is done before a second thread wakes
typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef bits Halves __attribute__((vector_size(LANES * 2)));

inline void multiply_add(Floats& sum, Floats a, Floats b) {
#if defined(__AVX512F__)
  sum = (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__)
  sum = (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
  sum += a * b;
#endif
}

inline float total(Floats sum) {  // halves onto halves, in this order
  float lane[LANES];
  std::memcpy(lane, &sum, sizeof lane);
  for (int width = LANES / 2; width; width /= 2)
    for (int at = 0; at < width; ++at) lane[at] += lane[at + width];
  return lane[0];
}

struct Single {
  using element = float;
  using vector = Floats;
  static constexpr int STEP = LANES;
  static vector load(const element* from) {
    vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  static void dot(Floats& sum, vector w, vector x) { multiply_add(sum, w, x); }
  static float in(element value) { return value; }
  static element out(float value) { return value; }
};

struct Brain {
  using element = bits;
#if defined(__AVX512BF16__)
  using vector = __m512bh;
  static constexpr int STEP = 2 * LANES;
  static vector load(const element* from) { return (__m512bh)_mm512_loadu_si512(from); }
  static void dot(Floats& sum, vector w, vector x) { sum = (Floats)_mm512_dpbf16_ps((__m512)sum, w, x); }
#else
  using vector = Floats;
  static constexpr int STEP = LANES;
  static vector load(const element* from) {
    Halves half;
    std::memcpy(&half, from, sizeof half);
    const Words wide = __builtin_convertvector(half, Words) << 16;
    vector value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
  static void dot(Floats& sum, vector w, vector x) { multiply_add(sum, w, x); }
#endif
  static float in(element value) { return widen(value); }
  static element out(float value) { return narrow(value); }
};

// Where, from the block's start, its first row will be read AHEAD bytes after k: further on in the row,
// or in the block that follows. Past the matrix a prefetch does nothing.
inline int64_t ahead(int64_t k, int64_t in, int64_t rows, int64_t bytes) {
  const int64_t target = k + AHEAD / bytes;
  return target < in ? target : target + (rows - 1) * in;
}

// The last, partial step of a row, with zeros after it.
template <class T>
typename T::vector load_tail(const typename T::element* from, int64_t count) {
  alignas(64) typename T::element padded[T::STEP] = {};
  std::memcpy(padded, from, count * sizeof *padded);
  return T::load(padded);
}

template <class T, int R, int N>
void block(const typename T::element* x, const typename T::element* w, const typename T::element* bias,
           typename T::element* y, int64_t in, int64_t out, Upcoming& upcoming) {
  Floats sum[R][N] = {};
  const int64_t whole = in / T::STEP * T::STEP;
  for (int64_t k = 0; k < whole; k += T::STEP) {
    upcoming.ask(R * T::STEP * sizeof *w);
    typename T::vector row[R];
    for (int r = 0; r < R; ++r) row[r] = T::load(w + r * in + k);
    for (int n = 0; n < N; ++n) {
      const auto column = T::load(x + n * in + k);
      for (int r = 0; r < R; ++r) T::dot(sum[r][n], row[r], column);
    }
  }
  if (whole < in)
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n)
        T::dot(sum[r][n], load_tail<T>(w + r * in + whole, in - whole),
               load_tail<T>(x + n * in + whole, in - whole));
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n)
      y[n * out + r] = T::out(total(sum[r][n]) + (bias ? T::in(bias[r]) : 0.f));
}

template <class T, int R>
void rows(const typename T::element* x, const typename T::element* w, const typename T::element* bias,
          typename T::element* y, int64_t n, int64_t in, int64_t out, const typename T::element* next) {
  Upcoming upcoming(next, R * in * sizeof *w, n > COLUMNS);
  int64_t at = 0;
  for (; at + COLUMNS <= n; at += COLUMNS)
    block<T, R, COLUMNS>(x + at * in, w, bias, y + at * out, in, out, upcoming);
  const auto* rest = x + at * in;
  auto* target = y + at * out;
  switch (n - at) {
    case 1: return block<T, R, 1>(rest, w, bias, target, in, out, upcoming);
    case 2: return block<T, R, 2>(rest, w, bias, target, in, out, upcoming);
    case 3: return block<T, R, 3>(rest, w, bias, target, in, out, upcoming);
  }
}

// One of the matrices that x is multiplied with: `rows(row, count)` are rows of W, [count, in], and
// `rows.next(row)` is where those from `row` on are read from memory, if they are read as they lie.
template <class E, class Rows>
struct Part {
  Rows rows;
  const E* bias;
  E* y;
  int64_t out;
};

template <class T, class Rows>
void linear(const typename T::element* x, const Part<typename T::element, Rows>* parts, int64_t count, int64_t n,
            int64_t in, int threads) {
#pragma omp parallel num_threads(threads)
  for (int64_t part = 0; part < count; ++part) {
    const auto [rows_of, bias, y, out] = parts[part];
    const int64_t blocks = (out + ROWS - 1) / ROWS;
#pragma omp for schedule(static) nowait
    for (int64_t number = 0; number < blocks; ++number) {
      const int64_t row = number * ROWS;
      const auto* shift = bias ? bias + row : nullptr;
      const auto* w = rows_of(row, std::min<int64_t>(ROWS, out - row));
      if (row + ROWS <= out) {
        rows<T, ROWS>(x, w, shift, y + row, n, in, out, rows_of.next(row + ROWS));
      } else {
        for (int64_t one = row; one < out; ++one)
          rows<T, 1>(x, w + (one - row) * in, bias ? bias + one : nullptr, y + one, n, in, out, nullptr);
      }
    }
  }
}

#if defined(WHORL_TILES)

// -- tiles: 16 rows of W times 16 rows of x, 32 of k a step ------------------------------------------

constexpr int64_t TILE = 16, TILE_K = 32, TILE_ROWS = 2 * TILE;
constexpr TileConfig whole_tiles;

// 32 of k of x [n, in] → [strips][16 pairs][16 rows][2]: strips of 16 rows of x, pairs of k side by
// side. Places of rows past n keep what was there: no other row's sum sees them.
void pack_pairs(const bits* x, int64_t n, int64_t in, bits* out) {
  auto* pairs = reinterpret_cast<uint32_t*>(out);
  for (int64_t row = 0; row < n; ++row)
    for (int64_t pair = 0; pair < TILE; ++pair)
      std::memcpy(pairs + (row / TILE * TILE + pair) * TILE + row % TILE, x + row * in + 2 * pair, 4);
}

// Rows [0, 32) of w times S (1 or 2) strips of x, of which `first` is the first.
template <int S>
void tile_block(const bits* pairs, int64_t strips, int64_t first, const bits* w, const bits* bias, bits* y,
                int64_t n, int64_t in, int64_t out) {
  const int64_t stride = in * 2;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (S == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < in; k += TILE_K) {
    const bits* x = pairs + (k / TILE_K * strips + first) * TILE * TILE_K;
    const bits* next = w + ahead(k, in, TILE_ROWS, sizeof *w);
    _tile_loadd(6, x, 64);
    _tile_loadd(4, w + k, stride);
    for (int64_t row = 0; row < TILE; ++row) __builtin_prefetch(next + row * in);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, w + TILE * in + k, stride);
    for (int64_t row = TILE; row < TILE_ROWS; ++row) __builtin_prefetch(next + row * in);
    _tile_dpbf16ps(1, 5, 6);
    if constexpr (S == 2) {
      _tile_loadd(7, x + TILE * TILE_K, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  alignas(64) float sums[S][TILE_ROWS][TILE];
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[0][TILE], 64);
  if constexpr (S == 2) {
    _tile_stored(2, sums[1], 64);
    _tile_stored(3, sums[1][TILE], 64);
  }
  for (int64_t strip = 0; strip < S; ++strip)
    for (int64_t row = (first + strip) * TILE; row < std::min(n, (first + strip + 1) * TILE); ++row)
      for (int64_t at = 0; at < TILE_ROWS; ++at)
        y[row * out + at] = narrow(sums[strip][at][row % TILE] + (bias ? widen(bias[at]) : 0.f));
}

template <class Rows>
void tiled(const bits* x, const Part<bits, Rows>* parts, int64_t count, int64_t n, int64_t in, int threads) {
  const int64_t strips = (n + TILE - 1) / TILE;
  static thread_local std::vector<bits> space;  // kept: fresh pages cost more than the packing
  if (int64_t(space.size()) < strips * TILE * in + TILE_K) space.resize(strips * TILE * in + TILE_K);
  bits* pairs = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64) / sizeof(bits);
  // Alone where it is little: at each barrier a busy machine may let the other thread wait for a time slice.
#pragma omp parallel for schedule(static) num_threads(threads) if (n * in > WORTH_THREADS)
  for (int64_t k = 0; k < in; k += TILE_K) pack_pairs(x + k, n, in, pairs + k * strips * TILE);
#pragma omp parallel num_threads(threads)
  {
    const Tiles tiles(whole_tiles);
    for (int64_t part = 0; part < count; ++part) {
      const auto [rows_of, bias, y, out] = parts[part];
      const int64_t blocks = (out + TILE_ROWS - 1) / TILE_ROWS;
#pragma omp for schedule(static) nowait
      for (int64_t number = 0; number < blocks; ++number) {
        const int64_t row = std::min(number * TILE_ROWS, out - TILE_ROWS);  // the last one reaches back
        const bits *shift = bias ? bias + row : nullptr, *w = rows_of(row, TILE_ROWS);
        for (int64_t strip = 0; strip < strips; strip += 2) {
          if (strip + 2 <= strips) tile_block<2>(pairs, strips, strip, w, shift, y + row, n, in, out);
          else tile_block<1>(pairs, strips, strip, w, shift, y + row, n, in, out);
        }
      }
    }
  }
}

inline bool fits_tiles(int64_t in, int64_t out) {
  // A last block that reaches back is computed by two threads at once where blocks overlap: both store
  // the same bits.
  return in % TILE_K == 0 && out >= TILE_ROWS && tiles_allowed();
}
#else
inline bool fits_tiles(int64_t, int64_t) { return false; }
template <class Rows>
void tiled(const bits*, const Part<bits, Rows>*, int64_t, int64_t, int64_t, int) {}
#endif

// -- rows of W from 8 or 4 bits -----------------------------------------------------------------------

struct Packed {
  const uint8_t* codes;  // [out, stride] bytes: code + 128, or nibbles + 8, the even element low
  const bits* scale;     // [out, groups]
  int64_t in, stride, groups;
  int bit;
};

inline void put(float value, float* to) { *to = value; }
inline void put(float value, bits* to) { *to = narrow_finite(value); }

// As many of the first of `count` codes as fit whole vectors; the rest is the plain loop's.
template <class E>
int64_t unpack_whole(const uint8_t*, int64_t, int, float, E*) { return 0; }

#if defined(__AVX512BF16__)
template <>
int64_t unpack_whole(const uint8_t* codes, int64_t count, int bit, float scale, bits* out) {
  const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(scale * (bit == 8 ? -128 : -8));
  const __m128i nibble = _mm_set1_epi8(15);
  const auto value = [&](__m128i code) {  // code · scale − zero · scale, rounded once
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(code)), factor, shift);
  };
  int64_t k = 0;
  for (; k + 32 <= count; k += 32) {
    const auto* from = reinterpret_cast<const __m128i*>(codes + k * bit / 8);
    __builtin_prefetch(codes + k * bit / 8 + 2 * AHEAD);
    __m128i first = _mm_loadu_si128(from), second;
    if (bit == 8) {
      second = _mm_loadu_si128(from + 1);
    } else {
      const __m128i even = _mm_and_si128(first, nibble), odd = _mm_and_si128(_mm_srli_epi16(first, 4), nibble);
      first = _mm_unpacklo_epi8(even, odd);
      second = _mm_unpackhi_epi8(even, odd);
    }
    _mm512_storeu_si512(out + k, (__m512i)_mm512_cvtne2ps_pbh(value(second), value(first)));
  }
  return k;
}
#endif

template <class E>
void unpack_row(const Packed& w, int64_t row, E* out) {
  const int64_t group = w.in / w.groups;
  for (int64_t at = 0; at < w.groups; ++at, out += group) {
    const float scale = widen(w.scale[row * w.groups + at]);
    const uint8_t* codes = w.codes + row * w.stride + at * group * w.bit / 8;
    const int64_t done = unpack_whole(codes, group, w.bit, scale, out);
    if (w.bit == 8) {
#pragma omp simd
      for (int64_t k = done; k < group; ++k) put(float(int(codes[k]) - 128) * scale, out + k);
    } else {
      const int64_t pairs = group / 2;
#pragma omp simd
      for (int64_t k = done / 2; k < pairs; ++k) {
        put(float(int(codes[k] & 15) - 8) * scale, out + 2 * k);
        put(float(int(codes[k] >> 4) - 8) * scale, out + 2 * k + 1);
      }
      if (group % 2) put(float(int(codes[pairs] & 15) - 8) * scale, out + 2 * pairs);
    }
  }
}

// The rows asked for, unpacked into this thread's own memory, which a core's caches hold.
template <class E>
struct Unpacking {
  Packed w;
  const E* operator()(int64_t row, int64_t count) const {
    static thread_local std::vector<E> space;
    if (int64_t(space.size()) < count * w.in) space.resize(count * w.in);
    for (int64_t at = 0; at < count; ++at) unpack_row(w, row + at, space.data() + at * w.in);
    return space.data();
  }
  const E* next(int64_t) const { return nullptr; }
};

template <class E>
struct Dense {
  const E* w;
  int64_t in;
  const E* operator()(int64_t row, int64_t) const { return w + row * in; }
  const E* next(int64_t row) const { return w + row * in; }
};

template <class E, class Rows>
void vectors(const E* x, const Part<E, Rows>* parts, int64_t count, int64_t n, int64_t in, int threads) {
  linear<std::conditional_t<std::is_same_v<E, float>, Single, Brain>>(x, parts, count, n, in, threads);
}

// Which way a matrix goes depends on that matrix alone; those that go one way go together.
template <class E, class Rows>
void multiply(const E* x, const Part<E, Rows>* parts, int64_t count, int64_t n, int64_t in, int threads) {
  int64_t weights = 0;
  for (int64_t part = 0; part < count; ++part) weights += in * parts[part].out;
  if (weights < WORTH_THREADS) threads = 1;
  const auto in_tiles = [&](int64_t part) { return std::is_same_v<E, bits> && fits_tiles(in, parts[part].out); };
  for (int64_t first = 0, stop; first < count; first = stop) {
    for (stop = first + 1; stop < count && in_tiles(stop) == in_tiles(first);) ++stop;
    if constexpr (std::is_same_v<E, bits>) {
      if (in_tiles(first)) {
        tiled(x, parts + first, stop - first, n, in, threads);
        continue;
      }
    }
    vectors(x, parts + first, stop - first, n, in, threads);
  }
}

template <class E, class Rows>
void multiply(const E* x, const Rows& rows, const E* bias, E* y, int64_t n, int64_t in, int64_t out, int threads) {
  const Part<E, Rows> part{rows, bias, y, out};
  multiply(x, &part, 1, n, in, threads);
}

constexpr int64_t MOST_PARTS = 8;

template <class E>
void several(const E* x, const E* const* w, const E* const* bias, E* const* y, const int64_t* out, int64_t count,
             int64_t n, int64_t in, int threads) {
  Part<E, Dense<E>> parts[MOST_PARTS];
  for (int64_t part = 0; part < count; ++part) parts[part] = {{w[part], in}, bias[part], y[part], out[part]};
  multiply(x, parts, count, n, in, threads);
}

}  // namespace

// Whether a bf16 matrix of this shape is multiplied in tiles.
extern "C" bool whorl_linear_tiles(int64_t in, int64_t out) { return fits_tiles(in, out); }

// x [n, in], w [out, in], y [n, out], bias [out] or null; all contiguous and of one type.
extern "C" void whorl_linear_bf16(const bits* x, const bits* w, const bits* bias, bits* y, int64_t n, int64_t in,
                                  int64_t out, int threads) {
  multiply(x, Dense<bits>{w, in}, bias, y, n, in, out, threads);
}

extern "C" void whorl_linear_f32(const float* x, const float* w, const float* bias, float* y, int64_t n, int64_t in,
                                 int64_t out, int threads) {
  multiply(x, Dense<float>{w, in}, bias, y, n, in, out, threads);
}

// x [n, in] with `count` (at most 8) matrices: w[i] [out[i], in] → y[i] [n, out[i]]; bias[i] may be null.
extern "C" void whorl_linears_bf16(const bits* x, const bits* const* w, const bits* const* bias, bits* const* y,
                                   const int64_t* out, int64_t count, int64_t n, int64_t in, int threads) {
  several(x, w, bias, y, out, count, n, in, threads);
}

extern "C" void whorl_linears_f32(const float* x, const float* const* w, const float* const* bias,
                                  float* const* y, const int64_t* out, int64_t count, int64_t n, int64_t in,
                                  int threads) {
  several(x, w, bias, y, out, count, n, in, threads);
}

// W in bf16 or fp32 from its codes, rows [0, rows).
extern "C" void whorl_unpack_bf16(const uint8_t* packed, const bits* scale, bits* w, int64_t in, int64_t rows,
                                  int64_t stride, int64_t groups, int bit, int threads) {
  const Packed from{packed, scale, in, stride, groups, bit};
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows; ++row) unpack_row(from, row, w + row * in);
}

extern "C" void whorl_unpack_f32(const uint8_t* packed, const bits* scale, float* w, int64_t in, int64_t rows,
                                 int64_t stride, int64_t groups, int bit, int threads) {
  const Packed from{packed, scale, in, stride, groups, bit};
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows; ++row) unpack_row(from, row, w + row * in);
}

// The same with W [out, in] in 8 or 4 bits, in rows of `stride` bytes, and its scales [out, groups] in bf16;
// x is not rounded, W is, to x's type.
extern "C" void whorl_unpacked_bf16(const bits* x, const uint8_t* packed, const bits* scale, const bits* bias,
                                    bits* y, int64_t n, int64_t in, int64_t out, int64_t stride, int64_t groups,
                                    int bit, int threads) {
  multiply(x, Unpacking<bits>{{packed, scale, in, stride, groups, bit}}, bias, y, n, in, out, threads);
}

extern "C" void whorl_unpacked_f32(const float* x, const uint8_t* packed, const bits* scale, const float* bias,
                                   float* y, int64_t n, int64_t in, int64_t out, int64_t stride, int64_t groups,
                                   int bit, int threads) {
  multiply(x, Unpacking<float>{{packed, scale, in, stride, groups, bit}}, bias, y, n, in, out, threads);
}
WHORL_WORDS(whorl_linear_bf16)
WHORL_WORDS(whorl_linear_f32)
WHORL_WORDS(whorl_linears_bf16)
WHORL_WORDS(whorl_linears_f32)
WHORL_WORDS(whorl_unpacked_bf16)
WHORL_WORDS(whorl_unpacked_f32)
WHORL_WORDS(whorl_unpack_bf16)
WHORL_WORDS(whorl_unpack_f32)
