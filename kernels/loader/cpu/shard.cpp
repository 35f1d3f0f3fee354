// SPDX-License-Identifier: Apache-2.0
#include "shard.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace feedsr {

namespace {

void check_starts(const Part& part, const Sizes& sizes) {
  if (part.starts[0] != 0 || part.starts[part.rows] != sizes.impressions) {
    throw std::invalid_argument("offsets do not span the impressions");
  }
  for (std::int64_t row = 0; row < part.rows; ++row) {
    if (part.starts[row] > part.starts[row + 1]) {
      throw std::invalid_argument("offsets do not rise");
    }
  }
}

void check_known(const Part& part) {
  bool wrong = false;
  for (std::int64_t row = 0; row < part.rows; ++row) {
    const std::int64_t start = part.starts[row];
    const auto length = static_cast<std::int32_t>(part.starts[row + 1] - start);
    for (std::int32_t place = 0; place < length; ++place) {
      const std::int32_t known = load(part.known + start + place);
      wrong |= (known < 0) | (known > place);
    }
  }
  if (wrong) {
    throw std::invalid_argument("'known' is below zero or above an impression's own place");
  }
}

void check_loss(const Part& part, std::int64_t impressions) {
  bool wrong = false;
  for (std::int64_t i = 0; i < impressions; ++i) {
    wrong |= (part.loss[i] < 0) | (part.loss[i] > kAuxiliary);
  }
  if (wrong) {
    throw std::invalid_argument("'loss' holds a value other than 0, 1 and 2");
  }
}

void count_targets(Part& part) {
  part.cu_targets.assign(static_cast<std::size_t>(part.rows) + 1, 0);
  for (std::int64_t row = 0; row < part.rows; ++row) {
    const auto count = std::count(part.loss + part.starts[row], part.loss + part.starts[row + 1],
                                  kTarget);
    part.cu_targets[static_cast<std::size_t>(row) + 1] =
        part.cu_targets[static_cast<std::size_t>(row)] + count;
  }
}

void check_context(const Part& part, const Sizes& sizes, std::int64_t width) {
  bool wrong = part.cu_targets.back() * width != sizes.context_floats;
  for (std::size_t row = 0; row < part.cu_targets.size(); ++row) {
    wrong |= sizes.context_starts[row] != part.cu_targets[row] * width;
  }
  if (wrong) {
    throw std::invalid_argument("'context' wants " + std::to_string(width) +
                                " values for each target");
  }
}

}  // namespace

void Shard::check(Part& part, const Sizes& sizes) const {
  // a length must fit the places that `known` counts
  if (part.rows < 0 || sizes.impressions < 0 || sizes.impressions > INT32_MAX) {
    throw std::invalid_argument("a record batch holds more than 2147483647 impressions");
  }
  check_starts(part, sizes);
  check_known(part);
  check_loss(part, sizes.impressions);
  count_targets(part);
  check_context(part, sizes, context_width_);
}

void Shard::append(Part part) {
  ends_.push_back(rows() + part.rows);
  parts_.push_back(std::move(part));
}

const Part& Shard::find(std::int64_t row, std::int64_t* inside) const {
  const auto at = std::upper_bound(ends_.begin(), ends_.end(), row) - ends_.begin();
  const Part& part = parts_[static_cast<std::size_t>(at)];
  *inside = row - (ends_[static_cast<std::size_t>(at)] - part.rows);
  return part;
}

}  // namespace feedsr
