// SPDX-License-Identifier: Apache-2.0
#include "targets.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "shard.h"

namespace feedsr {

namespace {

void check_count(const std::int8_t* loss, std::int64_t impressions, std::int8_t code,
                 std::int64_t count) {
  if (std::count(loss, loss + impressions, code) != count) {
    throw std::invalid_argument("'loss' has another number of such impressions than the output");
  }
}

double exponent_of_age(std::int64_t as_of, std::int64_t time, double half_life) {
  // wraps as NumPy does: a time is a value of a file
  const auto age = static_cast<std::int64_t>(static_cast<std::uint64_t>(as_of) -
                                             static_cast<std::uint64_t>(time));
  return static_cast<double>(std::max<std::int64_t>(age, 0)) / half_life;
}

}  // namespace

void loss_rows(const std::int8_t* loss, std::int64_t impressions,
               const std::vector<const std::int8_t*>& labels, const std::int16_t* slot,
               const Rows& rows) {
  check_count(loss, impressions, rows.code, rows.count);
  float* label = rows.labels;
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < impressions; ++i) {
    if (loss[i] != rows.code) {
      continue;
    }
    rows.index[row] = i;
    rows.slot[row] = load(slot + i);
    for (const std::int8_t* column : labels) {
      *label++ = column[i] < 0 ? std::numeric_limits<float>::quiet_NaN()
                               : static_cast<float>(column[i]);
    }
    ++row;
  }
}

void weigh(const std::int8_t* loss, std::int64_t impressions, const std::int32_t* cu_seqlens,
           std::int64_t sequences, const std::int64_t* time, const Decay& decay, float* weight,
           std::int64_t count) {
  if (cu_seqlens[0] != 0 || cu_seqlens[sequences] != impressions ||
      !std::is_sorted(cu_seqlens, cu_seqlens + sequences + 1)) {
    throw std::invalid_argument("cu_seqlens do not rise from zero to the number of impressions");
  }
  check_count(loss, impressions, kTarget, count);
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t end = cu_seqlens[s + 1];
    const auto places =
        static_cast<double>(decay.places > 0 ? decay.places : end - cu_seqlens[s]);
    for (std::int64_t i = cu_seqlens[s]; i < end; ++i) {
      if (loss[i] == kTarget) {
        const double back = static_cast<double>(end - 1 - i) / places;
        const double age = exponent_of_age(decay.as_of, load(time + i), decay.half_life);
        *weight++ = static_cast<float>(decay.scale * std::exp2(-(back + age)));
      }
    }
  }
}

}  // namespace feedsr
