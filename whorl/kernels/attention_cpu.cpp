// Backward of packed attention in bf16 for CPUs, one (document, key head) at a time.
//
// Everything is held transposed (keys are rows, queries are columns), so that the two products that
// need P and dS transposed find them as they were made, and lse and delta run along the vector lanes.
// Tiles of BLOCK x BLOCK stay in the first-level cache. Follows FlashAttention-2 (arXiv 2307.08691), algorithm 2.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "bf16.h"
#include "matmul.h"

namespace {

constexpr int64_t BLOCK = 64;

// Rows of one head of x [T, heads, d], from `start`, into [padded, d]; rows past `length` are 0.
void copy_rows(const bits* x, int64_t stride, int64_t length, int64_t padded, int64_t d, bits* out) {
  for (int64_t row = 0; row < length; ++row) std::memcpy(out + row * d, x + row * stride, d * sizeof(bits));
  std::memset(out + length * d, 0, (padded - length) * d * sizeof(bits));
}

// [rows, d] → [rows / 2][d][2]
void interleave(const bits* x, int64_t rows, int64_t d, bits* out) {
  for (int64_t row = 0; row < rows; row += 2)
    for (int64_t column = 0; column < d; ++column) {
      out[row * d + 2 * column] = x[row * d + column];
      out[row * d + 2 * column + 1] = x[(row + 1) * d + column];
    }
}

// A block [BLOCK, d] → its transpose with pairs of rows interleaved, [d / 2][BLOCK][2]
void interleave_transposed(const bits* x, int64_t d, bits* out) {
  const auto* pairs = reinterpret_cast<const uint32_t*>(x);
  auto* target = reinterpret_cast<uint32_t*>(out);
  for (int64_t row = 0; row < BLOCK; ++row)
    for (int64_t pair = 0; pair < d / 2; ++pair) target[pair * BLOCK + row] = pairs[row * (d / 2) + pair];
}

struct Scratch {
  std::vector<bits> q, k, v, grad, k_t, q_pairs, grad_pairs, q_t_pairs, grad_t_pairs;
  std::vector<float> lse, delta, dq_t, dk, dv;
  alignas(64) float score[BLOCK * BLOCK], dscore[BLOCK * BLOCK];
  alignas(64) bits p[BLOCK * BLOCK], ds[BLOCK * BLOCK], ds_pairs[BLOCK * BLOCK];

  void fit(int64_t padded, int64_t d) {
    const size_t size = padded * d;
    if (q.size() >= size) return;
    for (auto* part : {&q, &k, &v, &grad, &k_t, &q_pairs, &grad_pairs, &q_t_pairs, &grad_t_pairs})
      part->resize(size);
    for (auto* part : {&dq_t, &dk, &dv}) part->resize(size);
    lse.resize(padded);
    delta.resize(padded);
  }
};

// P and dS of keys [key, key + BLOCK) and queries [query, query + BLOCK), from raw scores and dP.
void softmax_tile(Scratch& s, int64_t key, int64_t query, float scale, bool causal, int64_t length) {
  const float* lse = s.lse.data() + query;
  const float* delta = s.delta.data() + query;
  const bool edge = (causal && key + BLOCK > query) || key + BLOCK > length;
  for (int64_t row = 0; row < BLOCK; ++row) {
    float* score = s.score + row * BLOCK;
    float* dscore = s.dscore + row * BLOCK;
    bits* p = s.p + row * BLOCK;
    bits* ds = s.ds + row * BLOCK;
#pragma omp simd
    for (int64_t column = 0; column < BLOCK; ++column) score[column] = std::exp(score[column] * scale - lse[column]);
    if (edge) {
      const int64_t hidden = key + row >= length ? BLOCK : (causal ? std::clamp(key + row - query, int64_t(0), BLOCK) : 0);
      for (int64_t column = 0; column < hidden; ++column) score[column] = 0;
    }
#pragma omp simd
    for (int64_t column = 0; column < BLOCK; ++column) {
      p[column] = narrow_finite(score[column]);
      ds[column] = narrow_finite(score[column] * (dscore[column] - delta[column]) * scale);
    }
  }
  interleave(s.ds, BLOCK, BLOCK, s.ds_pairs);
}

struct Inputs {
  const bits *grad, *q, *k, *v, *out;
  const float* lse;
  bits *dq, *dk, *dv;
  int64_t heads, key_heads, d;
  float scale;
  bool causal;
};

void load_keys(const Inputs& in, Scratch& s, int64_t start, int64_t length, int64_t padded, int64_t head) {
  const int64_t stride = in.key_heads * in.d, offset = start * stride + head * in.d;
  copy_rows(in.k + offset, stride, length, padded, in.d, s.k.data());
  copy_rows(in.v + offset, stride, length, padded, in.d, s.v.data());
  for (int64_t block = 0; block < padded; block += BLOCK)  // each block's transpose, [d, BLOCK]
    for (int64_t row = 0; row < BLOCK; ++row)
      for (int64_t column = 0; column < in.d; ++column)
        s.k_t[block * in.d + column * BLOCK + row] = s.k[(block + row) * in.d + column];
  std::fill_n(s.dk.data(), padded * in.d, 0.f);
  std::fill_n(s.dv.data(), padded * in.d, 0.f);
}

void load_queries(const Inputs& in, Scratch& s, int64_t start, int64_t length, int64_t padded, int64_t head) {
  const int64_t stride = in.heads * in.d, offset = start * stride + head * in.d;
  copy_rows(in.q + offset, stride, length, padded, in.d, s.q.data());
  copy_rows(in.grad + offset, stride, length, padded, in.d, s.grad.data());
  interleave(s.q.data(), padded, in.d, s.q_pairs.data());
  interleave(s.grad.data(), padded, in.d, s.grad_pairs.data());
  for (int64_t block = 0; block < padded; block += BLOCK) {
    interleave_transposed(s.q.data() + block * in.d, in.d, s.q_t_pairs.data() + block * in.d);
    interleave_transposed(s.grad.data() + block * in.d, in.d, s.grad_t_pairs.data() + block * in.d);
  }
  for (int64_t row = 0; row < padded; ++row) {
    float sum = 0;
    if (row < length) {
      const bits *grad = in.grad + offset + row * stride, *out = in.out + offset + row * stride;
#pragma omp simd reduction(+ : sum)
      for (int64_t column = 0; column < in.d; ++column) sum += widen(grad[column]) * widen(out[column]);
    }
    s.delta[row] = sum;
    s.lse[row] = row < length ? in.lse[(start + row) * in.heads + head] : 1e30f;  // weight 0 past the end
  }
  std::fill_n(s.dq_t.data(), padded * in.d, 0.f);
}

void one_head(const Inputs& in, Scratch& s, int64_t length, int64_t padded) {
  const int64_t d = in.d;
  for (int64_t key = 0; key < padded; key += BLOCK)
    for (int64_t query = in.causal ? key : 0; query < padded; query += BLOCK) {
      matmul(BLOCK, BLOCK, d, s.k.data() + key * d, d, s.q_t_pairs.data() + query * d, s.score, BLOCK, false);
      matmul(BLOCK, BLOCK, d, s.v.data() + key * d, d, s.grad_t_pairs.data() + query * d, s.dscore, BLOCK, false);
      softmax_tile(s, key, query, in.scale, in.causal, length);
      matmul(BLOCK, d, BLOCK, s.p, BLOCK, s.grad_pairs.data() + query * d, s.dv.data() + key * d, d, true);
      matmul(BLOCK, d, BLOCK, s.ds, BLOCK, s.q_pairs.data() + query * d, s.dk.data() + key * d, d, true);
      matmul(d, BLOCK, BLOCK, s.k_t.data() + key * d, BLOCK, s.ds_pairs, s.dq_t.data() + query * d, BLOCK, true);
    }
}

void store_rows(const float* x, int64_t length, int64_t d, bits* out, int64_t stride) {
  for (int64_t row = 0; row < length; ++row)
#pragma omp simd
    for (int64_t column = 0; column < d; ++column) out[row * stride + column] = narrow_finite(x[row * d + column]);
}

void store_queries(const Inputs& in, const Scratch& s, int64_t start, int64_t length, int64_t head) {
  const int64_t stride = in.heads * in.d;
  for (int64_t row = 0; row < length; ++row) {
    const float* block = s.dq_t.data() + row / BLOCK * BLOCK * in.d + row % BLOCK;  // [d, BLOCK]
    bits* out = in.dq + (start + row) * stride + head * in.d;
    for (int64_t column = 0; column < in.d; ++column) out[column] = narrow_finite(block[column * BLOCK]);
  }
}

}  // namespace

// grad, q, out, dq: [T, heads, d]; k, v, dk, dv: [T, key_heads, d]; lse: [T, heads]; all contiguous.
// offsets: [documents + 1]. d is a multiple of 32.
extern "C" void whorl_attention_backward(
    const bits* grad, const bits* q, const bits* k, const bits* v, const bits* out, const float* lse, bits* dq,
    bits* dk, bits* dv, const int32_t* offsets, int64_t documents, int64_t heads, int64_t key_heads, int64_t d,
    float scale, bool causal, int threads) {
  const Inputs in{grad, q, k, v, out, lse, dq, dk, dv, heads, key_heads, d, scale, causal};
  std::vector<int64_t> order(documents);
  for (int64_t i = 0; i < documents; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return offsets[a + 1] - offsets[a] > offsets[b + 1] - offsets[b];  // longest first, for an even finish
  });
#pragma omp parallel num_threads(threads)
  {
    static thread_local std::unique_ptr<Scratch> scratch;
    if (!scratch) scratch = std::make_unique<Scratch>();
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < documents * key_heads; ++unit) {
      const int64_t document = order[unit / key_heads], key_head = unit % key_heads;
      const int64_t start = offsets[document], length = offsets[document + 1] - start;
      if (length == 0) continue;
      const int64_t padded = (length + BLOCK - 1) / BLOCK * BLOCK;
      scratch->fit(padded, d);
      load_keys(in, *scratch, start, length, padded, key_head);
      const int64_t group = heads / key_heads;
      for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
        load_queries(in, *scratch, start, length, padded, head);
        one_head(in, *scratch, length, padded);
        store_queries(in, *scratch, start, length, head);
      }
      const int64_t stride = key_heads * d, offset = start * stride + key_head * d;
      store_rows(scratch->dk.data(), length, d, dk + offset, stride);
      store_rows(scratch->dv.data(), length, d, dv + offset, stride);
    }
    end_matmuls<bits>();
  }
}
