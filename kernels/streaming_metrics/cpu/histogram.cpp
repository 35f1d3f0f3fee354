// SPDX-License-Identifier: Apache-2.0
// One pass over a batch: every observed (logit, label) to a bucket's count and a task's loss.
//
// Blocks of elements go through two loops: arithmetic that the compiler vectorises, then the counts,
// which it cannot. Nothing is counted before the whole batch was checked.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

namespace nb = nanobind;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_VECTOR_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#define INLINE_INTO_EACH inline __attribute__((always_inline))
#else
#define FOR_EACH_VECTOR_WIDTH
#define INLINE_INTO_EACH inline
#endif

namespace {

constexpr std::int64_t kBlock = 1024;
constexpr std::int32_t kUnobserved = -1;

template <typename T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<std::int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// exp(-a) for a >= 0: 2^n * 2^f with |f| <= 1/2, 2^f by its Taylor polynomial (error below 2e-8).
INLINE_INTO_EACH float exp_negative(float a) {
  const float t = std::min(a, 87.0F) * -1.44269504F;
  const float n = static_cast<float>(static_cast<std::int32_t>(t - 0.5F));
  const float x = (t - n) * 0.693147181F;
  const float series =
      1.0F + x * (1.0F + x * (0.5F + x * (1.0F / 6 + x * (1.0F / 24 + x * (1.0F / 120 +
                                                                  x * (1.0F / 720))))));
  const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return series * power;
}

// log(1 + e) for 0 <= e <= 1: 2 atanh(e / (2 + e)), whose argument is at most 1/3.
INLINE_INTO_EACH float log1p_unit(float e) {
  const float s = e / (2.0F + e);
  const float z = s * s;
  return 2.0F * s *
         (1.0F + z * (1.0F / 3 + z * (1.0F / 5 + z * (1.0F / 7 + z * (1.0F / 9 + z * (1.0F / 11 +
                                                                        z * (1.0F / 13)))))));
}

INLINE_INTO_EACH float softplus_tail(float a) { return log1p_unit(exp_negative(a)); }
inline double softplus_tail(double a) { return std::log1p(std::exp(-a)); }

// Slots [label, bucket] and cross-entropies of a block; the same operations in the same order as
// StreamingMetrics._bucket, so that both count alike.
template <typename T>
INLINE_INTO_EACH void evaluate(const T* logits, const T* labels, std::int64_t count, std::int32_t buckets,
                     T spread, std::int32_t* bucket, T* loss) {
  const T half = static_cast<T>(0.5 * buckets);
  for (std::int64_t i = 0; i < count; ++i) {
    const bool observed = labels[i] == labels[i];
    const T x = observed ? logits[i] : T(0);
    const T y = observed ? labels[i] : T(0);
    const T a = std::abs(x);
    const T step = x / (spread + a);
    const auto at = static_cast<std::int32_t>((step + T(1)) * half);
    bucket[i] = observed ? std::min(at, buckets - 1) : kUnobserved;
    loss[i] = std::max(x, T(0)) - x * y + softplus_tail(a);
  }
}

// target_clones cannot mark a template.
FOR_EACH_VECTOR_WIDTH
void evaluate_block(const float* logits, const float* labels, std::int64_t count,
                    std::int32_t buckets, float spread, std::int32_t* bucket, float* loss) {
  evaluate(logits, labels, count, buckets, spread, bucket, loss);
}

void evaluate_block(const double* logits, const double* labels, std::int64_t count,
                    std::int32_t buckets, double spread, std::int32_t* bucket, double* loss) {
  evaluate(logits, labels, count, buckets, spread, bucket, loss);
}

// Whether every observed logit is finite and every observed label 0 or 1.
template <typename T>
INLINE_INTO_EACH bool fit(const T* logits, const T* labels, std::int64_t count) {
  std::int32_t wrong = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t observed = labels[i] == labels[i] ? 1 : 0;
    const std::int32_t finite = logits[i] - logits[i] == T(0) ? 1 : 0;
    const std::int32_t binary = labels[i] * labels[i] == labels[i] ? 1 : 0;
    wrong |= observed & ((finite & binary) ^ 1);
  }
  return wrong == 0;
}

FOR_EACH_VECTOR_WIDTH
bool fit_block(const float* logits, const float* labels, std::int64_t count) {
  return fit(logits, labels, count);
}

bool fit_block(const double* logits, const double* labels, std::int64_t count) {
  return fit(logits, labels, count);
}

template <typename T>
bool update(Matrix<T> logits, Matrix<T> labels, Counts counts, Sums loss, double spread) {
  const auto rows = static_cast<std::int64_t>(logits.shape(0));
  const auto tasks = static_cast<std::int64_t>(logits.shape(1));
  const auto buckets = static_cast<std::int64_t>(counts.shape(2));
  if (labels.shape(0) != logits.shape(0) || labels.shape(1) != logits.shape(1) ||
      counts.shape(0) != 2 || counts.shape(1) != logits.shape(1) ||
      loss.shape(0) != logits.shape(1) || buckets < 2 || buckets > (std::int64_t{1} << 24)) {
    throw std::invalid_argument("update: logits and labels [R, K], counts [2, K, B], loss [K]");
  }
  nb::gil_scoped_release released;
  const std::int64_t total = rows * tasks;
  for (std::int64_t first = 0; first < total; first += kBlock) {
    const std::int64_t count = std::min(kBlock, total - first);
    if (!fit_block(logits.data() + first, labels.data() + first, count)) {
      return false;
    }
  }
  std::int32_t bucket[kBlock];
  T terms[kBlock];
  std::vector<double> sums(static_cast<std::size_t>(tasks), 0.0);
  std::int64_t task = 0;
  for (std::int64_t first = 0; first < total; first += kBlock) {
    const std::int64_t count = std::min(kBlock, total - first);
    const T* y = labels.data() + first;
    evaluate_block(logits.data() + first, y, count, static_cast<std::int32_t>(buckets),
                   static_cast<T>(spread), bucket, terms);
    for (std::int64_t i = 0; i < count; ++i) {
      if (bucket[i] != kUnobserved) {
        const std::int64_t row = (y[i] == T(1) ? tasks : 0) + task;
        ++counts.data()[row * buckets + bucket[i]];
        sums[static_cast<std::size_t>(task)] += static_cast<double>(terms[i]);
      }
      task = task + 1 == tasks ? 0 : task + 1;
    }
  }
  for (std::int64_t k = 0; k < tasks; ++k) {
    loss.data()[k] += sums[static_cast<std::size_t>(k)];
  }
  return true;
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "Streaming metrics: counts and losses of a batch.";
  m.def("update", &update<float>, nb::arg("logits").noconvert(), nb::arg("labels").noconvert(),
        nb::arg("counts").noconvert(), nb::arg("loss").noconvert(), nb::arg("spread"),
        "Adds a batch; False, and nothing is added, where a logit or a label is not allowed.");
  m.def("update", &update<double>, nb::arg("logits").noconvert(), nb::arg("labels").noconvert(),
        nb::arg("counts").noconvert(), nb::arg("loss").noconvert(), nb::arg("spread"));
}
