// SPDX-License-Identifier: Apache-2.0
// The door: every shape is checked here once, every index by Shard::check and Plan; then the GIL
// is released. Arrays are read and written where they lie.

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "crc32.h"
#include "pack.h"
#include "shard.h"
#include "shuffle.h"
#include "targets.h"

namespace nb = nanobind;

namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr std::int64_t kNoLimit = INT64_MAX;

void require(bool holds, const char* what) {
  if (!holds) {
    throw std::invalid_argument(what);
  }
}

template <class Array>
std::int64_t length(const Array& array) {
  return static_cast<std::int64_t>(array.shape(0));
}

// A shard and the arrays whose memory it reads.
class HeldShard {
 public:
  HeldShard(std::vector<std::int64_t> widths, std::int64_t context_width, std::int64_t first)
      : shard_(std::move(widths), context_width, first) {
    for (const std::int64_t width : shard_.widths()) {
      require(width > 0, "Shard: an element of a column has one byte or more");
    }
    require(context_width >= 0, "Shard: context_width is zero or more");
  }

  void add(Vector<const std::int64_t> starts, std::vector<Matrix<const std::uint8_t>> columns,
           Vector<const std::int32_t> known, Vector<const std::int8_t> loss,
           std::optional<Vector<const std::int64_t>> session,
           Vector<const std::int64_t> context_starts, Vector<const float> context) {
    const std::int64_t total = length(loss);
    require(length(starts) > 0 && length(context_starts) == length(starts),
            "Shard.add: starts and context_starts [rows + 1]");
    require(length(known) == total && (!session || length(*session) == total),
            "Shard.add: known, loss and session [impressions]");
    require(columns.size() == shard_.widths().size(), "Shard.add: as many columns as widths");
    feedsr::Part part{length(starts) - 1, starts.data(),    known.data(), loss.data(),
                      session ? session->data() : nullptr,  {},
                      reinterpret_cast<const std::uint8_t*>(context.data()), {}};
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const auto width = static_cast<std::int64_t>(columns[c].shape(1));
      require(length(columns[c]) == total && width == shard_.widths()[c],
              "Shard.add: columns [impressions, width]");
      part.columns.push_back({columns[c].data(), width});
    }
    const feedsr::Sizes sizes{total, length(context), context_starts.data()};
    {
      nb::gil_scoped_release released;
      shard_.check(part, sizes);
    }
    shard_.append(std::move(part));
    held_.push_back({starts, known, loss, session, context, std::move(columns)});
  }

  const feedsr::Shard& shard() const { return shard_; }

 private:
  struct Held {
    Vector<const std::int64_t> starts;
    Vector<const std::int32_t> known;
    Vector<const std::int8_t> loss;
    std::optional<Vector<const std::int64_t>> session;
    Vector<const float> context;
    std::vector<Matrix<const std::uint8_t>> columns;
  };

  feedsr::Shard shard_;
  std::vector<Held> held_;
};

// A plan and the shards that it points into.
class HeldPlan {
 public:
  HeldPlan(std::vector<nb::object> shards, Vector<const std::int64_t> source,
           Vector<const std::int64_t> rows, std::optional<std::int64_t> limit)
      : held_(std::move(shards)) {
    require(length(source) == length(rows), "Plan: source and rows [S]");
    std::vector<const feedsr::Shard*> pointers;
    for (const nb::object& object : held_) {
      pointers.push_back(&nb::cast<const HeldShard&>(object).shard());
    }
    plan_.emplace(pointers, source.data(), rows.data(), length(rows), limit.value_or(kNoLimit));
  }

  std::int64_t impressions() const { return plan_->impressions(); }
  std::int64_t targets() const { return plan_->targets(); }

  void write(std::vector<Matrix<std::uint8_t>> columns, Vector<std::int32_t> known,
             Matrix<float> context, Vector<std::int32_t> cu_seqlens, Vector<std::int64_t> numbers,
             std::optional<std::pair<std::int64_t, bool>> shuffle, int threads) const {
    const auto sequences = static_cast<std::int64_t>(plan_->items().size());
    feedsr::Output out{{}, known.data(), reinterpret_cast<std::uint8_t*>(context.data())};
    require(columns.size() == plan_->widths().size(), "Plan.write: as many columns as the shards");
    for (std::size_t c = 0; c < columns.size(); ++c) {
      require(length(columns[c]) == impressions() &&
                  static_cast<std::int64_t>(columns[c].shape(1)) == plan_->widths()[c],
              "Plan.write: columns [impressions, width]");
      out.columns.push_back(columns[c].data());
    }
    require(length(known) == impressions(), "Plan.write: known [impressions]");
    require(length(context) == targets() &&
                static_cast<std::int64_t>(context.shape(1)) == plan_->context_width(),
            "Plan.write: context [targets, context_width]");
    require(length(cu_seqlens) == sequences + 1 && length(numbers) == sequences,
            "Plan.write: cu_seqlens [S + 1], numbers [S]");
    nb::gil_scoped_release released;
    std::optional<feedsr::Shuffle> order;
    if (shuffle) {
      order.emplace(shuffle->first, shuffle->second);
    }
    plan_->write(out, order ? &*order : nullptr, threads);
    for (std::int64_t s = 0; s <= sequences; ++s) {
      const auto at = static_cast<std::size_t>(s);
      cu_seqlens.data()[s] = static_cast<std::int32_t>(plan_->cu_seqlens()[at]);
      if (s < sequences) {
        numbers.data()[s] = plan_->items()[at].number;
      }
    }
  }

 private:
  std::vector<nb::object> held_;
  std::optional<feedsr::Plan> plan_;
};

void loss_rows(Vector<const std::int8_t> loss, std::vector<Vector<const std::int8_t>> labels,
               Vector<const std::int16_t> slot, std::int8_t code, Vector<std::int64_t> index,
               Matrix<float> labels_out, Vector<std::int64_t> slot_out) {
  require(length(slot) == length(loss), "loss_rows: loss and slot [impressions]");
  std::vector<const std::int8_t*> columns;
  for (const auto& column : labels) {
    require(length(column) == length(loss), "loss_rows: labels [impressions]");
    columns.push_back(column.data());
  }
  require(length(labels_out) == length(index) && labels_out.shape(1) == columns.size() &&
              length(slot_out) == length(index),
          "loss_rows: index [rows], labels_out [rows, labels], slot_out [rows]");
  nb::gil_scoped_release released;
  feedsr::loss_rows(loss.data(), length(loss), columns, slot.data(),
                    {code, length(index), index.data(), labels_out.data(), slot_out.data()});
}

void weigh(Vector<const std::int8_t> loss, Vector<const std::int32_t> cu_seqlens,
           Vector<const std::int64_t> time, std::pair<std::int64_t, double> age,
           std::int64_t places, double scale, Vector<float> weight) {
  require(length(time) == length(loss) && length(cu_seqlens) > 0,
          "weigh: loss and time [impressions], cu_seqlens [S + 1]");
  nb::gil_scoped_release released;
  feedsr::weigh(loss.data(), length(loss), cu_seqlens.data(), length(cu_seqlens) - 1, time.data(),
                {age.first, age.second, places, scale}, weight.data(), length(weight));
}

std::uint32_t crc32(Vector<const std::uint8_t> data, std::uint32_t value) {
  nb::gil_scoped_release released;
  return feedsr::crc32(data.data(), data.size(), value);
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "The loader: shards as they lie in Arrow's memory, batches written in one pass.";
  m.def("crc32_usable", &feedsr::crc32_usable, "Whether crc32 is fast on this processor.");
  m.def("crc32", &crc32, nb::arg("data").noconvert(), nb::arg("value"), "zlib's, continued.");
  m.def("loss_rows", &loss_rows, nb::arg("loss").noconvert(), nb::arg("labels").noconvert(),
        nb::arg("slot").noconvert(), nb::arg("code"), nb::arg("index").noconvert(),
        nb::arg("labels_out").noconvert(), nb::arg("slot_out").noconvert(),
        "The impressions whose loss is `code`: their places, labels and slots.");
  m.def("weigh", &weigh, nb::arg("loss").noconvert(), nb::arg("cu_seqlens").noconvert(),
        nb::arg("time").noconvert(), nb::arg("age"), nb::arg("places"), nb::arg("scale"),
        nb::arg("weight").noconvert(),
        "The weight of each target; `age` is (as_of, half life).");
  nb::class_<HeldShard>(m, "Shard")
      .def(nb::init<std::vector<std::int64_t>, std::int64_t, std::int64_t>(), nb::arg("widths"),
           nb::arg("context_width"), nb::arg("first"))
      .def("add", &HeldShard::add, nb::arg("starts").noconvert(), nb::arg("columns").noconvert(),
           nb::arg("known").noconvert(), nb::arg("loss").noconvert(),
           nb::arg("session").noconvert().none(), nb::arg("context_starts").noconvert(),
           nb::arg("context").noconvert(),
           "Adds a record batch; ValueError says what is wrong with it, and nothing is added.");
  nb::class_<HeldPlan>(m, "Plan")
      .def(nb::init<std::vector<nb::object>, Vector<const std::int64_t>, Vector<const std::int64_t>,
                    std::optional<std::int64_t>>(),
           nb::arg("shards"), nb::arg("source").noconvert(), nb::arg("rows").noconvert(),
           nb::arg("limit").none())
      .def_prop_ro("impressions", &HeldPlan::impressions)
      .def_prop_ro("targets", &HeldPlan::targets)
      .def("write", &HeldPlan::write, nb::arg("columns").noconvert(), nb::arg("known").noconvert(),
           nb::arg("context").noconvert(), nb::arg("cu_seqlens").noconvert(),
           nb::arg("numbers").noconvert(), nb::arg("shuffle").none(), nb::arg("threads"),
           "Writes the batch into arrays of exactly its sizes; `shuffle` is (salt, trade_slots).");
}
