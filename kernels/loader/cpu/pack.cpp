// SPDX-License-Identifier: Apache-2.0
// Each sequence is cut, shuffled and copied column by column in one go, while its index is in cache.
// Sequences own their places in the output, so threads share nothing but the counter they draw from.
#include "pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace feedsr {

namespace {

constexpr std::size_t kDraw = 4;  // sequences that a thread takes at a time

Item make_item(const Shard& shard, std::int64_t row, std::int64_t limit) {
  std::int64_t inside = 0;
  const Part& part = shard.find(row, &inside);
  const auto at = static_cast<std::size_t>(inside);
  const std::int64_t start = part.starts[inside];
  const std::int64_t length = part.starts[inside + 1] - start;
  const std::int64_t size = std::min(length, limit);
  const std::int64_t begin = start + length - size;
  // the context of targets that are cut is dropped
  const std::int64_t dropped = std::count(part.loss + start, part.loss + begin, kTarget);
  const std::int64_t context = part.cu_targets[at] + dropped;
  return {&part, begin, context, shard.first() + row, part.cu_targets[at + 1] - context,
          static_cast<std::int32_t>(size), static_cast<std::int32_t>(length - size)};
}

// Elements of a width known when compiled become single moves.
template <std::size_t kWidth>
void gather(const std::uint8_t* from, const std::int32_t* order, std::size_t count,
            std::uint8_t* to) {
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(to + i * kWidth, from + static_cast<std::size_t>(order[i]) * kWidth, kWidth);
  }
}

void gather(const std::uint8_t* from, std::size_t width, const std::vector<std::int32_t>& order,
            std::uint8_t* to) {
  // what the bytes written cannot alias stays in registers
  const std::int32_t* at = order.data();
  const std::size_t count = order.size();
  switch (width) {
    case 1: return gather<1>(from, at, count, to);
    case 2: return gather<2>(from, at, count, to);
    case 4: return gather<4>(from, at, count, to);
    case 8: return gather<8>(from, at, count, to);
    default:
      for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(to + i * width, from + static_cast<std::size_t>(at[i]) * width, width);
      }
  }
}

// memcpy of nothing may have null pointers, which it does not allow.
void copy(const std::uint8_t* from, std::int64_t bytes, std::uint8_t* to) {
  if (bytes > 0) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
}

// Writes sequences one after the other; one a thread, it owns the scratch.
class Writer {
 public:
  Writer(const Plan& plan, const Output& out, const Shuffle* shuffle)
      : plan_(plan), out_(out), shuffles_(shuffle != nullptr), shuffle_(0, false) {
    if (shuffles_) {
      shuffle_ = *shuffle;
    }
  }

  void write(const Item& item, std::int64_t place, std::int64_t target) {
    std::int32_t* known = out_.known + place;
    for (std::int32_t i = 0; i < item.size; ++i) {
      known[i] = std::max(load(item.part->known + item.begin + i) - item.cut, 0);
    }
    order_.clear();
    if (shuffles_) {
      const Sequence sequence{known, item.part->session + item.begin, item.size, item.number};
      shuffle_.order(sequence, order_);
    }
    write_columns(item, place);
    const std::int64_t width = plan_.context_width() * static_cast<std::int64_t>(sizeof(float));
    const std::uint8_t* from = item.part->context + item.context * width;
    std::uint8_t* to = out_.context + target * width;
    if (order_.empty()) {
      copy(from, item.targets * width, to);
    } else {
      rank_targets(item);
      gather(from, static_cast<std::size_t>(width), ranks_, to);
    }
  }

 private:
  void write_columns(const Item& item, std::int64_t place) {
    for (std::size_t c = 0; c < out_.columns.size(); ++c) {
      const Column& column = item.part->columns[c];
      const std::uint8_t* from = column.data + item.begin * column.width;
      std::uint8_t* to = out_.columns[c] + place * column.width;
      if (order_.empty()) {
        copy(from, item.size * column.width, to);
      } else {
        gather(from, static_cast<std::size_t>(column.width), order_, to);
      }
    }
  }

  // The row of context, counted from the sequence's first, of each target in the new order.
  void rank_targets(const Item& item) {
    const std::int8_t* loss = item.part->loss + item.begin;
    before_.resize(order_.size());
    std::int32_t count = 0;
    for (std::size_t i = 0; i < order_.size(); ++i) {
      before_[i] = count;
      count += loss[i] == kTarget ? 1 : 0;
    }
    ranks_.clear();
    for (const std::int32_t i : order_) {
      if (loss[i] == kTarget) {
        ranks_.push_back(before_[static_cast<std::size_t>(i)]);
      }
    }
  }

  const Plan& plan_;
  const Output& out_;
  bool shuffles_;
  Shuffle shuffle_;
  std::vector<std::int32_t> order_, before_, ranks_;
};

// `work` on this thread and on others, as many as can be had; rethrows what any of them threw.
template <class Work>
void run_on(std::size_t threads, const Work& work) {
  std::vector<std::exception_ptr> errors(std::max<std::size_t>(threads, 1));
  const auto guarded = [&](std::size_t t) {
    try {
      work();
    } catch (...) {
      errors[t] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(errors.size());
  try {
    for (std::size_t t = 1; t < threads; ++t) {
      others.emplace_back(guarded, t);
    }
  } catch (const std::system_error&) {
    // the system has no more threads: those that run do the work
  }
  guarded(0);
  for (std::thread& thread : others) {
    thread.join();
  }
  for (const std::exception_ptr& error : errors) {
    if (error) {
      std::rethrow_exception(error);
    }
  }
}

}  // namespace

Plan::Plan(const std::vector<const Shard*>& shards, const std::int64_t* source,
           const std::int64_t* rows, std::int64_t sequences, std::int64_t limit)
    : cu_seqlens_{0}, cu_targets_{0}, context_width_(0) {
  if (limit < 0 || shards.empty()) {
    throw std::invalid_argument("a batch wants at least one shard and a limit of zero or more");
  }
  widths_ = shards.front()->widths();
  context_width_ = shards.front()->context_width();
  for (const Shard* shard : shards) {
    if (shard->widths() != widths_ || shard->context_width() != context_width_) {
      throw std::invalid_argument("the shards of a batch differ in their columns");
    }
  }
  for (std::int64_t s = 0; s < sequences; ++s) {
    if (source[s] < 0 || source[s] >= static_cast<std::int64_t>(shards.size())) {
      throw std::invalid_argument("a sequence is of a shard that is not there");
    }
    const Shard& shard = *shards[static_cast<std::size_t>(source[s])];
    if (rows[s] < 0 || rows[s] >= shard.rows()) {
      throw std::invalid_argument("a row is beyond its shard");
    }
    items_.push_back(make_item(shard, rows[s], limit));
    cu_seqlens_.push_back(cu_seqlens_.back() + items_.back().size);
    cu_targets_.push_back(cu_targets_.back() + items_.back().targets);
  }
  if (impressions() > INT32_MAX) {
    throw std::invalid_argument("a batch holds more than 2147483647 impressions; make it smaller");
  }
}

void Plan::write(const Output& out, const Shuffle* shuffle, int threads) const {
  for (const Item& item : items_) {
    if (shuffle != nullptr && item.part->session == nullptr) {
      throw std::invalid_argument("a shuffle inside sessions wants the column of sessions");
    }
  }
  const std::size_t sequences = items_.size();
  std::atomic<std::size_t> drawn{0};
  const auto work = [&] {
    Writer writer(*this, out, shuffle);
    for (std::size_t low = drawn.fetch_add(kDraw); low < sequences; low = drawn.fetch_add(kDraw)) {
      for (std::size_t s = low; s < std::min(low + kDraw, sequences); ++s) {
        writer.write(items_[s], cu_seqlens_[s], cu_targets_[s]);
      }
    }
  };
  run_on(std::min<std::size_t>(static_cast<std::size_t>(std::max(threads, 1)),
                               (sequences + kDraw - 1) / kDraw),
         work);
}

}  // namespace feedsr
