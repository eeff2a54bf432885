// y = x Wᵀ + b with W in 8 or 4 bits, for a few rows of x.
//
// W stays as it lies on disk: unsigned bytes, or nibbles with the even element low, of which 128 or 8 is
// zero. Each 32 elements of x become signed bytes with a scale of their own (as llama.cpp's Q8_0), and
// bytes are multiplied by bytes: exact sums of integers, scaled in fp32. That W's zero is not 0 is put
// right at the start of each sum, by −zero · Σ x. A vector of W holds 64 bytes or 128 nibbles: the even
// nibbles are multiplied with x's even elements, the odd with the odd, so nothing is unpacked in order.
//
// VNNI (AVX512) does four products in one instruction. AVX2 sums pairs in 16 bits first, which unsigned
// bytes of 128 and more would overflow: there the sign of W goes to x (|W| ≤ 128, |x| ≤ 127).
//
// One sum over k in one order per y, whatever n, the threads and the other rows are.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bf16.h"
#include "tape.h"
#include "upcoming.h"

#if (defined(__AVX512VNNI__) && defined(__AVX512BW__)) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>

namespace {

constexpr int64_t GROUP = 32;       // elements of x that share a scale
constexpr int64_t WORTH_THREADS = 1 << 17;
constexpr int64_t MOST_PARTS = 8;

inline void store(float* to, float value) { *to = value; }
inline void store(bits* to, float value) { *to = narrow(value); }
inline float value(const float* from) { return *from; }
inline float value(const bits* from) { return widen(*from); }

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

constexpr int ROWS = 4, COLUMNS = 4;
constexpr int32_t BYTES_ZERO = -128;

inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }
inline __m512 load(const bits* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// GROUP elements of x as bytes of their largest magnitude's 127th, which is returned times 127.
template <class T>
float to_bytes(const T* x, int8_t* out) {
  const __m512 low = load(x), high = load(x + 16);
  const float most = std::max(_mm512_reduce_max_ps(_mm512_abs_ps(low)), _mm512_reduce_max_ps(_mm512_abs_ps(high)));
  const __m512 inverse = _mm512_set1_ps(most > 0 ? 127 / most : 0);
  const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
  const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
  _mm_store_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtsepi32_epi8(first));
  _mm_store_si128(reinterpret_cast<__m128i*>(out + 16), _mm512_cvtsepi32_epi8(second));
  return most;
}

#else

constexpr int ROWS = 4, COLUMNS = 2;  // sixteen registers hold their sums
constexpr int32_t BYTES_ZERO = 0;     // the sign of W goes to x

template <class T>
float to_bytes(const T* x, int8_t* out) {
  float most = 0;
  for (int64_t i = 0; i < GROUP; ++i) {
    const float size = std::fabs(widen(x[i]));
    most = size > most ? size : most;
  }
  const float inverse = most > 0 ? 127 / most : 0;
  for (int64_t i = 0; i < GROUP; ++i) {
    // Adding 1.5 · 2^23 rounds to the nearest whole number, ties to even, as the vectors' conversion does.
    const float shifted = widen(x[i]) * inverse + 12582912.f;
    int32_t word;
    std::memcpy(&word, &shifted, 4);
    out[i] = int8_t(word);
  }
  return most;
}

#endif

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
    const float most = to_bytes(x + group * GROUP, whole + group * GROUP);
    const int lanes = GROUP / 4 / P;  // of the sixteen
    for (int lane = 0; lane < lanes; ++lane) out.scale[group * lanes + lane] = most / 127;
  }
  for (int64_t at = 0; at < 64; ++at)
    for (int part = 0; part < P; ++part) out.parts[part][at] = whole[at * P + part];
  for (int lane = 0; lane < 16; ++lane) {
    int32_t sum = 0;
    for (int at = 0; at < 4 * P; ++at) sum += whole[lane * 4 * P + at];
    out.start[lane] = sum * (P == 1 ? BYTES_ZERO : -8);
  }
}

struct Matrix {
  const uint8_t* packed;  // [out, stride]
  const bits* scale;      // [out, groups]
  int64_t in, out, stride, groups;
};

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

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

// PER scales to a vector of W; 0: one for the row.
template <int P, int PER, int R, int N, class T>
void block(const Column<P>* x, const Matrix& w, int64_t row, const T* bias, T* y, Upcoming& upcoming) {
  const int64_t vectors = (w.in + WIDTH<P> - 1) / WIDTH<P>, whole = w.in / WIDTH<P>;
  const uint8_t* packed = w.packed + row * w.stride;
  const bits* scale = w.scale + row * w.groups;
  const __m512i nibble = _mm512_set1_epi8(15), spread = spreading(PER);
  __m512 sum[R][N] = {};
  const auto step = [&](int64_t k, __mmask64 mask, int64_t known) __attribute__((always_inline)) {
    upcoming.ask(R * 64);
    for (int r = 0; r < R; ++r) {
      const __m512i raw = _mm512_maskz_loadu_epi8(mask, packed + r * w.stride + k * 64);
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

#else

// Eight sums of four products each, of unsigned bytes with signed ones: no pair may pass 16 bits.
inline __m256i dot(__m256i unsigned_bytes, __m256i signed_bytes) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned_bytes, signed_bytes), _mm256_set1_epi16(1));
}

// The scales of half a vector of W, each in the lanes it is for: two of them, or one.
template <int PER>
__m256 half_scales(const bits* from, int half, int64_t known) {
  if constexpr (PER == 4) {
    const float low = 2 * half < known ? widen(from[2 * half]) : 0, high = 2 * half + 1 < known ? widen(from[2 * half + 1]) : 0;
    return _mm256_set_m128(_mm_set1_ps(high), _mm_set1_ps(low));
  }
  const int at = PER == 2 ? half : 0;
  return _mm256_set1_ps(at < known ? widen(from[at]) : 0);
}

// PER scales to a vector of W; 0: one for the row.
template <int P, int PER, int R, int N, class T>
void block(const Column<P>* x, const Matrix& w, int64_t row, const T* bias, T* y, Upcoming& upcoming) {
  const int64_t vectors = (w.in + WIDTH<P> - 1) / WIDTH<P>, whole = w.in / WIDTH<P>;
  const uint8_t* packed = w.packed + row * w.stride;
  const bits* scale = w.scale + row * w.groups;
  const __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(int8_t(0x80));
  __m256 sum[R][N] = {};
  const auto step = [&](int64_t k, const uint8_t* const* from, int64_t known) __attribute__((always_inline)) {
    upcoming.ask(R * 64);
    for (int half = 0; half < 2; ++half)
      for (int r = 0; r < R; ++r) {
        const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from[r] + 32 * half));
        const __m256i code = P == 1 ? _mm256_xor_si256(raw, top) : _mm256_and_si256(raw, nibble);
        const __m256i other = P == 1 ? _mm256_abs_epi8(code) : _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble);
        const __m256 factor = PER ? half_scales<PER>(scale + r * w.groups + k * PER, half, known) : _mm256_setzero_ps();
        for (int n = 0; n < N; ++n) {
          const Column<P>& column = x[n * vectors + k];
          const auto part = [&](int p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(column.parts[p]) + half); };
          __m256i made;
          if constexpr (P == 1) {
            made = dot(other, _mm256_sign_epi8(part(0), code));
          } else {
            const __m256i start = _mm256_load_si256(reinterpret_cast<const __m256i*>(column.start) + half);
            made = _mm256_add_epi32(start, _mm256_add_epi32(dot(code, part(0)), dot(other, part(1))));
          }
          const __m256 unit = _mm256_load_ps(column.scale + 8 * half);
          sum[r][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(made), PER ? _mm256_mul_ps(factor, unit) : unit, sum[r][n]);
        }
      }
  };
  const uint8_t* from[R];
  for (int64_t k = 0; k < whole; ++k) {
    for (int r = 0; r < R; ++r) from[r] = packed + r * w.stride + k * 64;
    step(k, from, PER);
  }
  if (whole < vectors) {  // x is 0 past the end: what W seems to be there does not matter
    alignas(32) uint8_t padded[R][64] = {};
    for (int r = 0; r < R; ++r) {
      std::memcpy(padded[r], packed + r * w.stride + whole * 64, w.stride - whole * 64);
      from[r] = padded[r];
    }
    step(whole, from, std::min<int64_t>(PER, w.groups - whole * PER));
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) {
      alignas(32) float lane[8];
      _mm256_store_ps(lane, sum[r][n]);
      const float all = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
      store(y + n * w.out + r, all * (PER ? 1.f : widen(scale[r * w.groups])) + (bias ? value(bias + r) : 0.f));
    }
}

#endif

template <int P, int PER, int R, class T>
void rows(const Column<P>* x, const Matrix& w, int64_t row, const T* bias, T* y, int64_t n) {
  const int64_t vectors = (w.in + WIDTH<P> - 1) / WIDTH<P>;
  Upcoming upcoming(w.packed + (row + R) * w.stride, R * w.stride, n > COLUMNS);
  for (; n >= COLUMNS; n -= COLUMNS, x += COLUMNS * vectors, y += COLUMNS * w.out)
    block<P, PER, R, COLUMNS>(x, w, row, bias, y, upcoming);
  switch (n) {
    case 1: return block<P, PER, R, 1>(x, w, row, bias, y, upcoming);
    case 2: return block<P, PER, R, 2>(x, w, row, bias, y, upcoming);
    case 3: return block<P, PER, R, 3>(x, w, row, bias, y, upcoming);
  }
}

// One of the matrices that x is multiplied with; all are packed alike.
template <class T>
struct Part {
  Matrix w;
  const T* bias;
  T* y;
};

template <int P, int PER, class T>
void linear(const T* x, const Part<T>* parts, int64_t count, int64_t n, int threads) {
  const int64_t in = parts[0].w.in, vectors = (in + WIDTH<P> - 1) / WIDTH<P>;
  static thread_local std::vector<Column<P>> space;
  if (int64_t(space.size()) < n * vectors) space.resize(n * vectors);
  Column<P>* columns = space.data();
  // Alone: at each barrier a busy machine may let the other thread wait for a time slice.
  for (int64_t at = 0; at < n * vectors; ++at) {
    const int64_t from = at % vectors * WIDTH<P>;
    quantise<P>(x + at / vectors * in + from, std::min(in - from, WIDTH<P>), columns[at]);
  }
#pragma omp parallel num_threads(threads)
  for (int64_t part = 0; part < count; ++part) {
    const auto [w, bias, y] = parts[part];
    const int64_t blocks = (w.out + ROWS - 1) / ROWS;
#pragma omp for schedule(static) nowait
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
}

template <class T>
void choose(const T* x, const uint8_t* const* packed, const bits* const* scale, const T* const* bias, T* const* y,
            const int64_t* out, int64_t count, int64_t n, int64_t in, int64_t stride, int64_t groups, int bit,
            int threads) {
  const int64_t per = groups == 1 ? 0 : WIDTH<2> / (in / groups);
  Part<T> parts[MOST_PARTS];
  int64_t weights = 0;
  for (int64_t part = 0; part < count; ++part) {
    parts[part] = {{packed[part], scale[part], in, out[part], stride, groups}, bias[part], y[part]};
    weights += in * out[part];
  }
  if (weights < WORTH_THREADS) threads = 1;
  if (bit == 8) return linear<1, 0>(x, parts, count, n, threads);
  switch (per) {
    case 0: return linear<2, 0>(x, parts, count, n, threads);
    case 1: return linear<2, 1>(x, parts, count, n, threads);
    case 2: return linear<2, 2>(x, parts, count, n, threads);
    case 4: return linear<2, 4>(x, parts, count, n, threads);
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

// x [n, in] with `count` (at most 8) matrices packed alike: packed[i] [out[i], stride] bytes, scale[i]
// [out[i], groups] in bf16 → y[i] [n, out[i]]; bias[i] may be null. With 4 bits a group is 32, 64 or 128
// elements or the row, with 8 bits the row.
#define WHORL_QUANTISED(name, T)                                                                                \
  extern "C" void name(const T* x, const uint8_t* const* packed, const bits* const* scale, const T* const* bias, \
                       T* const* y, const int64_t* out, int64_t count, int64_t n, int64_t in, int64_t stride,   \
                       int64_t groups, int bit, int threads) {                                                  \
    choose(x, packed, scale, bias, y, out, count, n, in, stride, groups, bit, threads);                         \
  }
WHORL_QUANTISED(whorl_quantised_bf16, bits)
WHORL_QUANTISED(whorl_quantised_f32, float)
WHORL_WORDS(whorl_quantised_bf16)
WHORL_WORDS(whorl_quantised_f32)
