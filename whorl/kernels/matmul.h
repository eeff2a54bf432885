// C[m, n] (+)= A[m, k] B[k, n] for the tiles of attention, summed in fp32.
//
// In bf16 B holds pairs of rows interleaved, [k / 2][n][2], and k is even. oneDNN's brgemm does it where it
// has one for the CPU (AMX, AVX512-bf16, or AVX512 alone), else vectors do, in which each element of C is
// one sum in the order of k. A call of brgemm on a lesser CPU ends the process.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "bf16.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

namespace c10 { struct BFloat16; }
namespace at::native::cpublas {
void brgemm(int64_t M, int64_t N, int64_t K, int64_t ld_a, int64_t ld_b, int64_t ld_c, const bool add_C,
            const c10::BFloat16* A, const c10::BFloat16* B, float* C, bool is_vnni);
void brgemm(int64_t M, int64_t N, int64_t K, int64_t ld_a, int64_t ld_b, int64_t ld_c, const bool add_C,
            const float* A, const float* B, float* C, bool is_vnni);
void brgemm_release(bool is_vnni);
}

namespace {

inline void matmul(int64_t m, int64_t n, int64_t k, const bits* a, int64_t ld_a, const bits* b, float* c,
                   int64_t ld_c, bool add) {
  at::native::cpublas::brgemm(m, n, k, ld_a, n, ld_c, add, reinterpret_cast<const c10::BFloat16*>(a),
                              reinterpret_cast<const c10::BFloat16*>(b), c, true);
}
inline void matmul(int64_t m, int64_t n, int64_t k, const float* a, int64_t ld_a, const float* b, float* c,
                   int64_t ld_c, bool add) {
  at::native::cpublas::brgemm(m, n, k, ld_a, n, ld_c, add, a, b, c, false);
}

// After a thread's last matmul of type T: gives AMX's tiles back.
template <class T>
void end_matmuls() {
  at::native::cpublas::brgemm_release(sizeof(T) == sizeof(bits));
}

}  // namespace

#else

namespace {

typedef float Eight __attribute__((vector_size(32)));
typedef uint32_t EightWords __attribute__((vector_size(32)));

template <class V, class T>
V read(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Two rows of A and of B at a time, so that bf16's pairs are met as they lie.
inline void pair_of_rows(const float* b, int64_t n, Eight& even, Eight& odd) {
  even = read<Eight>(b);
  odd = read<Eight>(b + n);
}
inline void pair_of_rows(const bits* b, int64_t, Eight& even, Eight& odd) {
  const auto pairs = read<EightWords>(b);
  even = (Eight)(pairs << 16);
  odd = (Eight)(pairs & 0xffff0000u);
}
inline const float* at_pair(const float* b, int64_t k, int64_t n, int64_t column) { return b + k * n + column; }
inline const bits* at_pair(const bits* b, int64_t k, int64_t n, int64_t column) { return b + k * n + 2 * column; }
inline float element(const float* b, int64_t k, int64_t n, int64_t column) { return b[k * n + column]; }
inline float element(const bits* b, int64_t k, int64_t n, int64_t column) {
  return widen(b[k / 2 * 2 * n + 2 * column + k % 2]);
}

// R rows by V vectors of C stay in registers.
template <int R, int V, class T>
void matmul_block(int64_t n, int64_t k, const float* a, int64_t ld_a, const T* b, int64_t column, float* c,
                  int64_t ld_c, bool add) {
  Eight sum[R][V] = {};
  if (add)
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = read<Eight>(c + r * ld_c + column + 8 * v);
  int64_t at = 0;
  for (; at + 2 <= k; at += 2) {
    Eight even[V], odd[V];
    for (int v = 0; v < V; ++v) pair_of_rows(at_pair(b, at, n, column + 8 * v), n, even[v], odd[v]);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) {
        sum[r][v] += a[r * ld_a + at] * even[v];
        sum[r][v] += a[r * ld_a + at + 1] * odd[v];
      }
  }
  for (; at < k; ++at)  // fp32 alone has an odd k
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v)
        for (int lane = 0; lane < 8; ++lane) sum[r][v][lane] += a[r * ld_a + at] * element(b, at, n, column + 8 * v + lane);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) std::memcpy(c + r * ld_c + column + 8 * v, &sum[r][v], sizeof(Eight));
}

template <int R, class T>
void matmul_rows(int64_t n, int64_t k, const float* a, int64_t ld_a, const T* b, float* c, int64_t ld_c, bool add) {
  int64_t column = 0;
  for (; column + 16 <= n; column += 16) matmul_block<R, 2>(n, k, a, ld_a, b, column, c, ld_c, add);
  for (; column + 8 <= n; column += 8) matmul_block<R, 1>(n, k, a, ld_a, b, column, c, ld_c, add);
  for (; column < n; ++column)
    for (int r = 0; r < R; ++r) {
      float sum = add ? c[r * ld_c + column] : 0;
      for (int64_t at = 0; at < k; ++at) sum += a[r * ld_a + at] * element(b, at, n, column);
      c[r * ld_c + column] = sum;
    }
}

template <class T>
void matmul_in_vectors(int64_t m, int64_t n, int64_t k, const float* a, int64_t ld_a, const T* b, float* c,
                       int64_t ld_c, bool add) {
  int64_t row = 0;
  for (; row + 4 <= m; row += 4) matmul_rows<4>(n, k, a + row * ld_a, ld_a, b, c + row * ld_c, ld_c, add);
  for (; row < m; ++row) matmul_rows<1>(n, k, a + row * ld_a, ld_a, b, c + row * ld_c, ld_c, add);
}

inline void matmul(int64_t m, int64_t n, int64_t k, const float* a, int64_t ld_a, const float* b, float* c,
                   int64_t ld_c, bool add) {
  matmul_in_vectors(m, n, k, a, ld_a, b, c, ld_c, add);
}
inline void matmul(int64_t m, int64_t n, int64_t k, const bits* a, int64_t ld_a, const bits* b, float* c,
                   int64_t ld_c, bool add) {
  static thread_local std::vector<float> wide;
  if (int64_t(wide.size()) < m * k) wide.resize(m * k);
  for (int64_t row = 0; row < m; ++row)
    for (int64_t at = 0; at < k; ++at) wide[row * k + at] = widen(a[row * ld_a + at]);
  matmul_in_vectors(m, n, k, wide.data(), k, b, c, ld_c, add);
}

template <class T>
void end_matmuls() {}

}  // namespace

#endif
