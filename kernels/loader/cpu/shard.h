// SPDX-License-Identifier: Apache-2.0
// One decoded shard: the buffers of its record batches as they lie in Arrow's memory, checked once.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

namespace feedsr {

constexpr std::int8_t kTarget = 1;
constexpr std::int8_t kAuxiliary = 2;

// Buffers come from files, so nothing is known of their alignment.
template <class T>
inline T load(const T* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// The elements of a list column, one an impression, `width` bytes each.
struct Column {
  const std::uint8_t* data;
  std::int64_t width;
};

// One record batch. M impressions of `rows` sequences; `starts` [rows + 1] are offsets in M,
// `cu_targets` [rows + 1] in the rows of context.
struct Part {
  std::int64_t rows;
  const std::int64_t* starts;
  const std::int32_t* known;   // [M]
  const std::int8_t* loss;     // [M]
  const std::int64_t* session;  // [M], or null
  std::vector<Column> columns;  // [M]
  const std::uint8_t* context;  // [R, context_width]
  std::vector<std::int64_t> cu_targets;
};

// What a record batch claims beside its buffers: how many elements each of them holds.
struct Sizes {
  std::int64_t impressions;
  std::int64_t context_floats;
  const std::int64_t* context_starts;  // [rows + 1], in floats
};

class Shard {
 public:
  // `widths`: bytes of an element of each column; `context_width` in floats; `first`: the number of
  // the first sequence over all shards.
  Shard(std::vector<std::int64_t> widths, std::int64_t context_width, std::int64_t first)
      : widths_(std::move(widths)), context_width_(context_width), first_(first) {}

  // Checks every offset and value that is an index later, and fills cu_targets. Throws
  // std::invalid_argument with the sentence that says what is wrong.
  void check(Part& part, const Sizes& sizes) const;

  // Keeps a part that was checked; those kept before stay where they are.
  void append(Part part);

  // The part that holds a row, and the row's place in it; the row must be in [0, rows()).
  const Part& find(std::int64_t row, std::int64_t* inside) const;

  std::int64_t rows() const { return ends_.empty() ? 0 : ends_.back(); }
  std::int64_t first() const { return first_; }
  std::int64_t context_width() const { return context_width_; }
  const std::vector<std::int64_t>& widths() const { return widths_; }

 private:
  std::vector<std::int64_t> widths_;
  std::int64_t context_width_;
  std::int64_t first_;
  std::deque<Part> parts_;
  std::vector<std::int64_t> ends_;  // rows up to and with each part
};

}  // namespace feedsr
