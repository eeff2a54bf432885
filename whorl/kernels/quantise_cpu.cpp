// y = x Wᵀ + b with W in 8 or 4 bits, for a few rows of x.
//
// W stays as it lies on disk: unsigned bytes, or nibbles with the even element low, of which 128 or 8 is
// zero. Each 32 elements of x become signed bytes with a scale of their own (as llama.cpp's Q8_0), and
// VNNI multiplies bytes by bytes: exact sums of integers, scaled in fp32. That W's zero is not 0 is put
// right at the start of each sum, by −zero · Σ x. A vector of W holds 64 bytes or 128 nibbles: the even
// nibbles are multiplied with x's even elements, the odd with the odd, so nothing is unpacked in order.
//
// One sum over k in one order per y, whatever n, the threads and the other rows are.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bf16.h"
#include "tape.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>

namespace {

constexpr int64_t GROUP = 32;       // elements of x that share a scale
constexpr int64_t AHEAD = 512;      // bytes of each row of W that are on their way
constexpr int64_t WORTH_THREADS = 1 << 17;
constexpr int ROWS = 4, COLUMNS = 4;

inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }
inline __m512 load(const bits* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline void store(float* to, float value) { *to = value; }
inline void store(bits* to, float value) { *to = narrow(value); }
inline float value(const float* from) { return *from; }
inline float value(const bits* from) { return widen(*from); }

// What meets one vector of W: P parts of 64 bytes (P = 2: even and odd elements), where each of the
// sixteen sums of four products starts, and its scale.
template <int P>
struct alignas(64) Column {
  int8_t parts[P][64];
  int32_t start[16];
  float scale[16];
};

template <int P>
constexpr int64_t WIDTH = 64 * P;  // elements of k to a vector of W

// Elements [0, count) of x, the rest of the vector 0. P = 1: bytes, zero at 128; 2: nibbles, at 8.
template <int P, class T>
void quantise(const T* x, int64_t count, Column<P>& out) {
  alignas(64) T padded[WIDTH<P>] = {};
  alignas(64) int8_t whole[WIDTH<P>];
  if (count < WIDTH<P>) {
    std::memcpy(padded, x, count * sizeof(T));
    x = padded;
  }
  for (int64_t group = 0; group < WIDTH<P> / GROUP; ++group) {
    const __m512 low = load(x + group * GROUP), high = load(x + group * GROUP + 16);
    const float most = std::max(_mm512_reduce_max_ps(_mm512_abs_ps(low)), _mm512_reduce_max_ps(_mm512_abs_ps(high)));
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 127 / most : 0);
    const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
    const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
    _mm_store_si128(reinterpret_cast<__m128i*>(whole + group * GROUP), _mm512_cvtsepi32_epi8(first));
    _mm_store_si128(reinterpret_cast<__m128i*>(whole + group * GROUP + 16), _mm512_cvtsepi32_epi8(second));
    const int lanes = GROUP / 4 / P;  // of the sixteen
    for (int lane = 0; lane < lanes; ++lane) out.scale[group * lanes + lane] = most / 127;
  }
  for (int64_t at = 0; at < 64; ++at)
    for (int part = 0; part < P; ++part) out.parts[part][at] = whole[at * P + part];
  for (int lane = 0; lane < 16; ++lane) {
    int32_t sum = 0;
    for (int at = 0; at < 4 * P; ++at) sum += whole[lane * 4 * P + at];
    out.start[lane] = sum * (P == 1 ? -128 : -8);
  }
}

// `count` scales of a vector of W, in bf16, each in the lanes it is for.
inline __m512 scales(const bits* from, int64_t count, __m512i spread) {
  uint64_t few = 0;
  std::memcpy(&few, from, count * sizeof(bits));
  return _mm512_castsi512_ps(_mm512_shuffle_epi8(_mm512_set1_epi64(int64_t(few)), spread));
}

// Bytes of the shuffle that puts scale i / (16 / per) into the upper half of lane i.
inline __m512i spreading(int64_t per) {
  alignas(64) uint8_t order[64];
  for (int lane = 0; lane < 16; ++lane) {
    const uint8_t scale = uint8_t(lane * per / 16);
    const uint8_t bytes[4] = {0x80, 0x80, uint8_t(2 * scale), uint8_t(2 * scale + 1)};
    std::memcpy(order + 4 * lane, bytes, 4);
  }
  return _mm512_load_si512(order);
}

struct Matrix {
  const uint8_t* packed;  // [out, stride]
  const bits* scale;      // [out, groups]
  int64_t in, out, stride, groups;
  __m512i spread;
};

// PER scales to a vector of W; 0: one for the row.
template <int P, int PER, int R, int N, class T>
void block(const Column<P>* x, const Matrix& w, int64_t row, const T* bias, T* y) {
  const int64_t vectors = (w.in + WIDTH<P> - 1) / WIDTH<P>, whole = w.in / WIDTH<P>;
  const uint8_t* packed = w.packed + row * w.stride;
  const bits* scale = w.scale + row * w.groups;
  const __m512i nibble = _mm512_set1_epi8(15), spread = w.spread;
  __m512 sum[R][N] = {};
  const auto step = [&](int64_t k, __mmask64 mask, int64_t known) __attribute__((always_inline)) {
    const int64_t target = k * 64 + AHEAD < w.stride ? k * 64 + AHEAD : k * 64 + AHEAD + (R - 1) * w.stride;
    for (int r = 0; r < R; ++r) {
      const __m512i raw = _mm512_maskz_loadu_epi8(mask, packed + r * w.stride + k * 64);
      __builtin_prefetch(packed + r * w.stride + target);
      const __m512i even = P == 1 ? raw : _mm512_and_si512(raw, nibble);
      const __m512i odd = P == 1 ? raw : _mm512_and_si512(_mm512_srli_epi16(raw, 4), nibble);
      const __m512 factor = PER ? scales(scale + r * w.groups + k * PER, known, spread) : _mm512_setzero_ps();
      for (int n = 0; n < N; ++n) {
        const Column<P>& column = x[n * vectors + k];
        __m512i dot = _mm512_dpbusd_epi32(_mm512_load_si512(column.start), even, _mm512_load_si512(column.parts[0]));
        if constexpr (P == 2) dot = _mm512_dpbusd_epi32(dot, odd, _mm512_load_si512(column.parts[1]));
        const __m512 unit = _mm512_load_ps(column.scale);
        sum[r][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), PER ? _mm512_mul_ps(factor, unit) : unit, sum[r][n]);
      }
    }
  };
  for (int64_t k = 0; k < whole; ++k) step(k, ~0ull, PER);
  if (whole < vectors)
    step(whole, (1ull << (w.stride - whole * 64)) - 1, std::min<int64_t>(PER, w.groups - whole * PER));
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) {
      const float all = _mm512_reduce_add_ps(sum[r][n]) * (PER ? 1.f : widen(scale[r * w.groups]));
      store(y + n * w.out + r, all + (bias ? value(bias + r) : 0.f));
    }
}

template <int P, int PER, int R, class T>
void rows(const Column<P>* x, const Matrix& w, int64_t row, const T* bias, T* y, int64_t n) {
  const int64_t vectors = (w.in + WIDTH<P> - 1) / WIDTH<P>;
  for (; n >= COLUMNS; n -= COLUMNS, x += COLUMNS * vectors, y += COLUMNS * w.out)
    block<P, PER, R, COLUMNS>(x, w, row, bias, y);
  switch (n) {
    case 1: return block<P, PER, R, 1>(x, w, row, bias, y);
    case 2: return block<P, PER, R, 2>(x, w, row, bias, y);
    case 3: return block<P, PER, R, 3>(x, w, row, bias, y);
  }
}

template <int P, int PER, class T>
void linear(const T* x, const Matrix& w, const T* bias, T* y, int64_t n, int threads) {
  const int64_t vectors = (w.in + WIDTH<P> - 1) / WIDTH<P>, blocks = (w.out + ROWS - 1) / ROWS;
  static thread_local std::vector<Column<P>> space;
  if (int64_t(space.size()) < n * vectors) space.resize(n * vectors);
  Column<P>* columns = space.data();
  if (w.in * w.out < WORTH_THREADS) threads = 1;
  // Alone: at each barrier a busy machine may let the other thread wait for a time slice.
  for (int64_t at = 0; at < n * vectors; ++at) {
    const int64_t from = at % vectors * WIDTH<P>;
    quantise<P>(x + at / vectors * w.in + from, std::min(w.in - from, WIDTH<P>), columns[at]);
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t number = 0; number < blocks; ++number) {
    const int64_t row = number * ROWS;
    if (row + ROWS <= w.out) {
      rows<P, PER, ROWS>(columns, w, row, bias ? bias + row : nullptr, y + row, n);
    } else {
      for (int64_t one = row; one < w.out; ++one)
        rows<P, PER, 1>(columns, w, one, bias ? bias + one : nullptr, y + one, n);
    }
  }
}

template <class T>
void choose(const T* x, const uint8_t* packed, const bits* scale, const T* bias, T* y, int64_t n, int64_t in,
            int64_t out, int64_t stride, int64_t groups, int bit, int threads) {
  const int64_t per = groups == 1 ? 0 : WIDTH<2> / (in / groups);
  const Matrix w{packed, scale, in, out, stride, groups, spreading(per)};
  if (bit == 8) return linear<1, 0>(x, w, bias, y, n, threads);
  switch (per) {
    case 0: return linear<2, 0>(x, w, bias, y, n, threads);
    case 1: return linear<2, 1>(x, w, bias, y, n, threads);
    case 2: return linear<2, 2>(x, w, bias, y, n, threads);
    case 4: return linear<2, 4>(x, w, bias, y, n, threads);
  }
}

}  // namespace

extern "C" bool whorl_quantised_ready() { return true; }
#else
namespace {
template <class... Arguments>
void choose(Arguments...) {}
}  // namespace

extern "C" bool whorl_quantised_ready() { return false; }
#endif

// x [n, in], y [n, out], bias [out] or null; packed [out, stride] bytes; scale [out, groups] in bf16. With 4
// bits a group is 32, 64 or 128 elements or the row, with 8 bits the row.
extern "C" void whorl_quantised_bf16(const bits* x, const uint8_t* packed, const bits* scale, const bits* bias,
                                     bits* y, int64_t n, int64_t in, int64_t out, int64_t stride, int64_t groups,
                                     int bit, int threads) {
  choose(x, packed, scale, bias, y, n, in, out, stride, groups, bit, threads);
}

extern "C" void whorl_quantised_f32(const float* x, const uint8_t* packed, const bits* scale, const float* bias,
                                    float* y, int64_t n, int64_t in, int64_t out, int64_t stride, int64_t groups,
                                    int bit, int threads) {
  choose(x, packed, scale, bias, y, n, in, out, stride, groups, bit, threads);
}
WHORL_WORDS(whorl_quantised_bf16)
WHORL_WORDS(whorl_quantised_f32)
