// SPDX-License-Identifier: Apache-2.0
// One pass over the keys with a running maximum and sum (online softmax), for any kernel that
// scores queries against packed keys and adds weighted values:
//
//   Number              what queries, keys and values are packed as
//   kStep               queries that `score` and `add_values` take at once
//   depth(dims)         numbers of a packed query
//   load_query, pack    a query; the keys and values of a (sequence, head)
//   score               kStep queries x kPanel keys, unscaled
//   keep                weights of 32 keys, stored over their own scores; returns the sum with them
//   add_values          out += weights @ values, for kStep queries
//
// A tile is kRows queries that start at their sequence's first, so a result does not depend on its
// batch; blocks of kKeys keys beyond its largest prefix are skipped. Within a block all scores come
// first, then all weights, then all values: so a panel of keys serves the whole tile out of the
// nearest cache.
#pragma once

#include <limits>
#include <vector>

#include "simd.h"

namespace feedsr {
namespace {

constexpr int kRows = 48;   // queries of a tile
constexpr int kPanel = 64;  // keys of a packed panel
constexpr int kKeys = 128;  // keys of a block
constexpr float kNone = -std::numeric_limits<float>::infinity();

constexpr float kLog2E = 1.44269504F;
constexpr float kLn2 = 0.693147181F;

// Some of the queries of one sequence and head: a work item. Starts at a tile.
struct Item {
  std::int64_t sequence;
  std::int64_t head;
  std::int64_t first;  // of the sequence's queries
  std::int64_t last;
};

// The queries [query, query + count) of a sequence and a head.
struct Tile {
  std::int64_t query;     // first row in the packed queries
  int count;              // rows
  std::int64_t key;       // the sequence's first key
  std::int64_t position;  // of the first row among the sequence's keys; its length for candidates
  std::int64_t head;
};

// The keys [start, start + length) of a head, to be packed with zeros up to `padded`.
struct Span {
  std::int64_t start;
  std::int64_t length;
  std::int64_t padded;
  std::int64_t head;
};

// The lanes of 16 keys from j on that are among the first `seen`.
inline __mmask16 lanes(int seen, int j) {
  const int left = std::min(std::max(seen - j, 0), 16);
  return static_cast<__mmask16>((1U << left) - 1U);
}

// What one thread does: its items, in buffers of its own. Scores are kept in base 2.
template <class Kernel, class T>
class Pass {
 public:
  explicit Pass(const Problem<T>& problem)
      : p_(problem),
        dims_(problem.head_dim),
        depth_(Kernel::depth(problem.head_dim)),
        factor_((problem.scale < 0 ? -problem.scale : problem.scale) * kLog2E) {
    q_.of(kRows * depth_);
    out_.of(kRows * dims_);
  }

  void attend(const Item& item) {
    const std::int64_t start = p_.cu_queries[item.sequence];
    const std::int64_t queries = p_.cu_queries[item.sequence + 1] - start;
    const std::int64_t key = p_.cu_keys[item.sequence];
    const std::int64_t length = p_.cu_keys[item.sequence + 1] - key;
    const std::int64_t reach = p_.causal ? length - queries + item.last : length;
    const std::int64_t padded = (reach + kKeys - 1) / kKeys * kKeys;
    Kernel::pack(p_, {key, reach, padded, item.head}, keys_.of(depth_ * padded),
                 values_.of(dims_ * padded));
    for (std::int64_t first = item.first; first < item.last; first += kRows) {
      Tile tile{};
      tile.query = start + first;
      tile.count = static_cast<int>(std::min<std::int64_t>(kRows, item.last - first));
      tile.key = key;
      tile.position = p_.causal ? length - queries + first : length;
      tile.head = item.head;
      attend_tile(tile);
    }
  }

 private:
  void attend_tile(const Tile& tile) {
    std::int64_t furthest = 0;
    for (int r = 0; r < kRows; ++r) {
      start_row(tile, r);
      furthest = std::max(furthest, prefix_[r]);
    }
    for (std::int64_t first = 0; first < furthest; first += kKeys) {
      attend_block(first, tile.count);
    }
    for (int r = 0; r < tile.count; ++r) {
      finish_row(tile, r);
    }
  }

  void start_row(const Tile& tile, int r) {
    std::fill_n(out_.data() + r * dims_, dims_, 0.0F);
    max_[r] = kNone;
    sum_[r] = _mm512_setzero_ps();
    typename Kernel::Number* q = q_.data() + r * depth_;
    if (r < tile.count) {
      Kernel::load_query(p_.q.at(tile.query + r, tile.head), dims_, p_.scale < 0, q);
      prefix_[r] = prefix_of(tile, r);
    } else {
      std::fill_n(q, depth_, typename Kernel::Number{});
      prefix_[r] = 0;
    }
  }

  std::int64_t prefix_of(const Tile& tile, int r) const {
    if (!p_.causal) {
      return tile.position;
    }
    const std::int64_t at = tile.position + r;
    return p_.prefix == nullptr ? at / p_.group * p_.group : p_.prefix[tile.query + r];
  }

  // All rows over the keys [first, first + kKeys), each step of rows as far as one of it sees.
  void attend_block(std::int64_t first, int rows) {
    int count[kRows / Kernel::kStep] = {};
    int most = 0;
    for (int r = 0; r < rows; r += Kernel::kStep) {
      const std::int64_t reach = *std::max_element(prefix_ + r, prefix_ + r + Kernel::kStep);
      const std::int64_t in_block = std::min<std::int64_t>(reach - first, kKeys);
      count[r / Kernel::kStep] = static_cast<int>(std::max<std::int64_t>(in_block, 0));
      most = std::max(most, count[r / Kernel::kStep]);
    }
    for (int j = 0; j < most; j += kPanel) {
      const auto* panel = keys_.data() + (first + j) * depth_;
      for (int r = 0; r < rows; r += Kernel::kStep) {
        if (j < count[r / Kernel::kStep]) {
          kernel_.score(q_.data() + r * depth_, panel, depth_, scores_[r] + j);
        }
      }
    }
    for (int r = 0; r < rows; r += Kernel::kStep) {
      weigh_step(first, r, count[r / Kernel::kStep]);
    }
    const auto* values = values_.data() + first * dims_;
    for (int r = 0; r < rows; r += Kernel::kStep) {
      if (const int keys = count[r / Kernel::kStep]; keys > 0) {
        kernel_.add_values(scores_[r], values, dims_, keys, out_.data() + r * dims_);
      }
    }
  }

  // Makes weights of a step's scores, in two rounds, so that rows wait beside each other.
  void weigh_step(std::int64_t first, int r, int count) {
    const int width = (count + 31) / 32 * 32;
    int seen[Kernel::kStep];
    for (int i = 0; i < Kernel::kStep; ++i) {
      const std::int64_t left = std::max<std::int64_t>(prefix_[r + i] - first, 0);
      seen[i] = static_cast<int>(std::min<std::int64_t>(left, width));
      seen[i] == width ? raise<true>(r + i, width, width) : raise<false>(r + i, seen[i], width);
    }
    for (int i = 0; i < Kernel::kStep; ++i) {
      seen[i] == width ? weigh<true>(r + i, width, width) : weigh<false>(r + i, seen[i], width);
    }
  }

  // Raises a row's maximum to that of its first `seen` scores. It is exact: the weight of the
  // highest score is 1, which bf16 does not round.
  template <bool ALL>
  void raise(int r, int seen, int width) {
    const float* scores = scores_[r];
    __m512 top = _mm512_set1_ps(kNone);
    for (int j = 0; j < width; j += 16) {
      const __m512 s = _mm512_load_ps(scores + j);
      top = ALL ? _mm512_max_ps(top, s) : _mm512_mask_max_ps(top, lanes(seen, j), top, s);
    }
    const float highest = _mm512_reduce_max_ps(top) * factor_;
    if (highest > max_[r]) {
      rescale(r, exp2_1(max_[r] - highest));
      max_[r] = highest;
    }
  }

  // Makes weights of a row's first `seen` scores, and 0 of the rest up to `width`.
  template <bool ALL>
  void weigh(int r, int seen, int width) {
    float* scores = scores_[r];
    const __m512 shift = _mm512_set1_ps(max_[r] == kNone ? 0.0F : max_[r]);
    const __m512 factor = _mm512_set1_ps(factor_);
    __m512 sum = sum_[r];
    for (int j = 0; j < width; j += 32) {
      __m512 w[2];
      for (int h = 0; h < 2; ++h) {
        const __m512 s = _mm512_load_ps(scores + j + 16 * h);
        w[h] = exp2_512<Kernel::kTerms>(_mm512_fmsub_ps(s, factor, shift));
        w[h] = ALL ? w[h] : _mm512_maskz_mov_ps(lanes(seen, j + 16 * h), w[h]);
      }
      sum = Kernel::keep(scores, j, w, sum);
    }
    sum_[r] = sum;
  }

  void rescale(int r, float kept) {
    const __m512 share = _mm512_set1_ps(kept);
    float* out = out_.data() + r * dims_;
    for (std::int64_t d = 0; d < dims_; d += 16) {
      _mm512_store_ps(out + d, _mm512_mul_ps(_mm512_load_ps(out + d), share));
    }
    sum_[r] = _mm512_mul_ps(sum_[r], share);
  }

  // Its own keys, outside the prefix; then the mean.
  void finish_row(const Tile& tile, int r) {
    const std::int64_t query = tile.query + r;
    float sum = _mm512_reduce_add_ps(sum_[r]);
    if (p_.causal) {
      const std::int64_t at = tile.position + r;
      for (std::int64_t t = at / p_.group * p_.group; t <= at; ++t) {
        add_own(r, p_.k.at(tile.key + t, tile.head), p_.v.at(tile.key + t, tile.head), sum);
      }
    } else {
      add_own(r, p_.k_self.at(query, tile.head), p_.v_self.at(query, tile.head), sum);
    }
    const float* mean = out_.data() + r * dims_;
    T* out = p_.out + (query * p_.heads + tile.head) * dims_;
    const __m512 share = _mm512_set1_ps(1.0F / sum);
    for (std::int64_t d = 0; d < dims_; d += 16) {
      store16(out + d, _mm512_mul_ps(_mm512_load_ps(mean + d), share));
    }
    p_.lse[query * p_.heads + tile.head] = max_[r] * kLn2 + __builtin_logf(sum);
  }

  // One more key and value of a row, in fp32.
  void add_own(int r, const T* key, const T* value, float& sum) {
    const auto* q = q_.data() + r * depth_;
    __m512 dot = _mm512_setzero_ps();
    for (std::int64_t d = 0; d < dims_; d += 16) {
      dot = _mm512_fmadd_ps(load16(q + d), load16(key + d), dot);
    }
    const float score = _mm512_reduce_add_ps(dot) * factor_;
    const float highest = std::max(max_[r], score);
    const float kept = exp2_1(max_[r] - highest);
    const float weight = exp2_1(score - highest);
    float* out = out_.data() + r * dims_;
    for (std::int64_t d = 0; d < dims_; d += 16) {
      const __m512 o = _mm512_mul_ps(_mm512_load_ps(out + d), _mm512_set1_ps(kept));
      _mm512_store_ps(out + d, _mm512_fmadd_ps(_mm512_set1_ps(weight), load16(value + d), o));
    }
    sum = sum * kept + weight;
    max_[r] = highest;
  }

  const Problem<T>& p_;
  const std::int64_t dims_;
  const std::int64_t depth_;
  const float factor_;  // of scores, so that weights are powers of two
  Kernel kernel_;
  Lines<typename Kernel::Number> keys_;    // panels of kPanel keys
  Lines<typename Kernel::Number> values_;  // [keys, head_dim], in the kernel's order
  Lines<typename Kernel::Number> q_;       // [kRows, depth]
  Lines<float> out_;                       // [kRows, head_dim]
  alignas(64) float scores_[kRows][kKeys];
  __m512 sum_[kRows];
  float max_[kRows];
  std::int64_t prefix_[kRows];
};

// One item a (sequence, head), or several where that would leave threads without work.
template <class T>
std::vector<Item> items_of(const Problem<T>& p) {
  const std::int64_t pairs = p.sequences * p.heads;
  const bool even = p.threads == 1 || pairs >= 4 * p.threads || pairs % p.threads == 0;
  const std::int64_t parts = even ? 1 : (4 * p.threads + pairs - 1) / pairs;
  std::vector<Item> items;
  for (std::int64_t s = 0; s < p.sequences; ++s) {
    const std::int64_t queries = p.cu_queries[s + 1] - p.cu_queries[s];
    const std::int64_t tiles = (queries + kRows - 1) / kRows;
    const std::int64_t size = (tiles + parts - 1) / parts * kRows;
    for (std::int64_t h = 0; h < p.heads; ++h) {
      for (std::int64_t first = 0; first < queries; first += size) {
        items.push_back({s, h, first, std::min(first + size, queries)});
      }
    }
  }
  return items;
}

template <class Kernel, class T>
void run_pass(const Problem<T>& p) {
  const std::vector<Item> items = items_of(p);
  const auto count = static_cast<std::int64_t>(items.size());
#pragma omp parallel num_threads(p.threads) if (p.threads > 1 && count > 1)
  {
    const FlushDenormals flush;
    Pass<Kernel, T> pass(p);
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < count; ++i) {
      pass.attend(items[static_cast<std::size_t>(i)]);
    }
  }
}

}  // namespace
}  // namespace feedsr
