// Softmax cross-entropy and its gradient in one pass over each row of bf16 logits, for CPUs.
//
// A row of logits stays in the first-level cache while it is read three times (maximum, sum, gradient);
// written as separate array operations the same work goes through memory eight times.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bf16.h"

// logits: [rows, vocabulary] bf16, overwritten with weight * (softmax - one_hot(target)) in bf16.
// losses: [rows], weight * (logsumexp - logits[target]).
extern "C" void whorl_softmax_gradient(bits* logits, const int64_t* targets, const float* weights, float* losses,
                                       int64_t rows, int64_t vocabulary, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> wide(vocabulary);
    float* x = wide.data();
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      bits* line = logits + row * vocabulary;
      float largest = widen(line[0]);
#pragma omp simd reduction(max : largest)
      for (int64_t i = 0; i < vocabulary; ++i) {
        x[i] = widen(line[i]);
        largest = x[i] > largest ? x[i] : largest;
      }
      const float wanted = x[targets[row]];
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < vocabulary; ++i) {
        x[i] = std::exp(x[i] - largest);
        sum += x[i];
      }
      losses[row] = weights[row] * (largest + std::log(sum) - wanted);
      const float scale = weights[row] / sum;
      const float at_target = x[targets[row]] * scale - weights[row];
#pragma omp simd
      for (int64_t i = 0; i < vocabulary; ++i) line[i] = narrow_finite(x[i] * scale);
      line[targets[row]] = narrow_finite(at_target);
    }
  }
}
