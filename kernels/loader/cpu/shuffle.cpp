// SPDX-License-Identifier: Apache-2.0
#include "shuffle.h"

#include <algorithm>
#include <numeric>

#include "shard.h"

namespace feedsr {

namespace {

// The splitmix64 finaliser.
std::uint64_t mix(std::uint64_t value) {
  std::uint64_t z = value + 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

}  // namespace

Shuffle::Shuffle(std::int64_t salt, bool trade_slots)
    : salt_(mix(static_cast<std::uint64_t>(salt))), trade_slots_(trade_slots) {}

// Whether an impression and the one before it are of one run (session_runs in reference.py).
bool Shuffle::joined(const Sequence& sequence, std::int32_t place) const {
  const std::int64_t session = load(sequence.session + place);
  if (session < 0 || session != load(sequence.session + place - 1) ||
      ends_[static_cast<std::size_t>(place)] != 0) {
    return false;
  }
  const std::int32_t known = sequence.known[place];
  const std::int32_t before = sequence.known[place - 1];
  return known == before || (trade_slots_ && known == place && before == place - 1);
}

void Shuffle::sort_run(std::int32_t low, std::int32_t high, std::uint64_t base,
                       std::vector<std::int32_t>& order) {
  run_.clear();
  for (std::int32_t place = low; place < high; ++place) {
    run_.emplace_back(mix(base ^ static_cast<std::uint64_t>(place)), place);
  }
  std::sort(run_.begin(), run_.end());
  for (std::int32_t place = low; place < high; ++place) {
    order[static_cast<std::size_t>(place)] = run_[static_cast<std::size_t>(place - low)].second;
  }
}

bool Shuffle::order(const Sequence& sequence, std::vector<std::int32_t>& order) {
  const std::int32_t size = sequence.size;
  ends_.assign(static_cast<std::size_t>(size), 0);
  for (std::int32_t place = 0; place < size; ++place) {
    const std::int32_t known = sequence.known[place];
    if (!(trade_slots_ && known == place)) {
      ends_[static_cast<std::size_t>(known)] = 1;
    }
  }
  const std::uint64_t base = mix(static_cast<std::uint64_t>(sequence.number) ^ salt_);
  bool moves = false;
  for (std::int32_t low = 0; low < size;) {
    std::int32_t high = low + 1;
    while (high < size && joined(sequence, high)) {
      ++high;
    }
    if (high - low > 1) {
      if (!moves) {
        order.resize(static_cast<std::size_t>(size));
        std::iota(order.begin(), order.end(), 0);
        moves = true;
      }
      sort_run(low, high, base, order);
    }
    low = high;
  }
  return moves;
}

}  // namespace feedsr
