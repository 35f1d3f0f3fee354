// SPDX-License-Identifier: Apache-2.0
// A batch: which sequences in which order, how long each is after its cut, and writing it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "shard.h"
#include "shuffle.h"

namespace feedsr {

// One sequence of a batch: where its kept impressions and their context begin in its part.
struct Item {
  const Part* part;
  std::int64_t begin;
  std::int64_t context;
  std::int64_t number;  // counted over all shards
  std::int64_t targets;
  std::int32_t size;
  std::int32_t cut;
};

// Where a batch is written; every buffer has room for exactly the plan's impressions and targets.
struct Output {
  std::vector<std::uint8_t*> columns;  // [M]
  std::int32_t* known;                 // [M]
  std::uint8_t* context;               // [R, context_width]
};

class Plan {
 public:
  // The sequences (shards[source[s]], rows[s]), each cut to its last `limit` impressions. Throws
  // std::invalid_argument for an index that is out of range or a batch that is too large.
  Plan(const std::vector<const Shard*>& shards, const std::int64_t* source, const std::int64_t* rows,
       std::int64_t sequences, std::int64_t limit);

  // Writes the batch, the same at any number of threads; `shuffle` is null for none. Throws
  // std::invalid_argument for a shuffle of shards without a session column.
  void write(const Output& out, const Shuffle* shuffle, int threads) const;

  const std::vector<Item>& items() const { return items_; }
  const std::vector<std::int64_t>& cu_seqlens() const { return cu_seqlens_; }
  const std::vector<std::int64_t>& widths() const { return widths_; }
  std::int64_t context_width() const { return context_width_; }
  std::int64_t impressions() const { return cu_seqlens_.back(); }
  std::int64_t targets() const { return cu_targets_.back(); }

 private:
  std::vector<Item> items_;
  std::vector<std::int64_t> cu_seqlens_;  // [S + 1]
  std::vector<std::int64_t> cu_targets_;  // [S + 1]
  std::vector<std::int64_t> widths_;
  std::int64_t context_width_;  // in floats
};

}  // namespace feedsr
