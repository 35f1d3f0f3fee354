// SPDX-License-Identifier: Apache-2.0
// What training takes of a batch beside its columns: which impressions carry a loss, their labels
// and weights. One pass over `loss` each; numbers and arrays alone, no feature.
#pragma once

#include <cstdint>
#include <vector>

namespace feedsr {

// The impressions with one code of `loss`, and what is told of them.
struct Rows {
  std::int8_t code;
  std::int64_t count;
  std::int64_t* index;  // [count]
  float* labels;        // [count, labels]
  std::int64_t* slot;   // [count]
};

// Fills `rows` from M impressions; a label below zero was not observed and becomes NaN. Throws
// std::invalid_argument where `loss` has not exactly rows.count of the code.
void loss_rows(const std::int8_t* loss, std::int64_t impressions,
               const std::vector<const std::int8_t*>& labels, const std::int16_t* slot,
               const Rows& rows);

// weight = scale * 0.5^(back / places + age / half_life): `back` impressions lie between a target
// and its sequence's end, `places` 0 is the sequence's own length, `age` counts back from `as_of`
// and never below zero.
struct Decay {
  std::int64_t as_of;
  double half_life;
  std::int64_t places;
  double scale;
};

// The weight of each target, [count]. Throws std::invalid_argument for offsets that do not rise from
// zero to `impressions` and where there are not exactly `count` targets.
void weigh(const std::int8_t* loss, std::int64_t impressions, const std::int32_t* cu_seqlens,
           std::int64_t sequences, const std::int64_t* time, const Decay& decay, float* weight,
           std::int64_t count);

}  // namespace feedsr
