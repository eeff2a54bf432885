// The likeliest token of each row of logits and the logarithm of the sum of their exponentials, in one pass
// over memory. A row is cut the same way whatever the threads are, and its parts are put together in order.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t CHUNK = 8192;  // logits that stay in the first-level cache between maximum and sum
constexpr int64_t WORTH_THREADS = 1 << 15;

struct Part {
  float most, sum;
  int64_t at;
};

Part look(const float* x, int64_t first, int64_t last) {
  float most = x[first];
#pragma omp simd reduction(max : most)
  for (int64_t i = first; i < last; ++i) most = x[i] > most ? x[i] : most;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = first; i < last; ++i) sum += std::exp(x[i] - most);
  const int64_t at = std::find(x + first, x + last, most) - x;
  return {most, sum, std::min(at, last - 1)};
}

}  // namespace

// logits [rows, size] → best [rows], the first where several are equal; lse [rows].
extern "C" void whorl_likeliest(const float* logits, int64_t* best, float* lse, int64_t rows, int64_t size,
                                int threads) {
  const int64_t chunks = (size + CHUNK - 1) / CHUNK;
  std::vector<Part> parts(rows * chunks);
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * size > WORTH_THREADS)
  for (int64_t unit = 0; unit < rows * chunks; ++unit) {
    const int64_t first = unit % chunks * CHUNK;
    parts[unit] = look(logits + unit / chunks * size, first, std::min(first + CHUNK, size));
  }
  for (int64_t row = 0; row < rows; ++row) {
    const Part* part = parts.data() + row * chunks;
    int64_t first = 0;
    for (int64_t chunk = 1; chunk < chunks; ++chunk) first = part[chunk].most > part[first].most ? chunk : first;
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      sum += double(part[chunk].sum) * std::exp(double(part[chunk].most) - double(part[first].most));
    best[row] = part[first].at;
    lse[row] = float(double(part[first].most) + std::log(sum));
  }
}
