// SPDX-License-Identifier: Apache-2.0
// The order inside the sessions of one sequence; the same as reference.py's, place by place.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace feedsr {

// One sequence after its cut.
struct Sequence {
  const std::int32_t* known;    // [size], counted from the window's start
  const std::int64_t* session;  // [size], of any alignment
  std::int32_t size;
  std::int64_t number;  // counted over all shards
};

class Shuffle {
 public:
  // `salt`: what is the same for a whole epoch, before it is hashed.
  Shuffle(std::int64_t salt, bool trade_slots);

  // Which impression comes into each slot; false where none moves, and `order` is not written then.
  bool order(const Sequence& sequence, std::vector<std::int32_t>& order);

 private:
  bool joined(const Sequence& sequence, std::int32_t place) const;
  void sort_run(std::int32_t low, std::int32_t high, std::uint64_t base,
                std::vector<std::int32_t>& order);

  std::uint64_t salt_;
  bool trade_slots_;
  std::vector<std::uint8_t> ends_;                          // a known prefix ends before this place
  std::vector<std::pair<std::uint64_t, std::int32_t>> run_;  // key and place
};

}  // namespace feedsr
