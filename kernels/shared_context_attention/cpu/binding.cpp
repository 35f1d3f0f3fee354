// SPDX-License-Identifier: Apache-2.0
// The Python face of the native kernel. Every shape and offset is checked here, once.

#include <cmath>
#include <stdexcept>
#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "attend.h"

namespace nb = nanobind;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<3>, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Lse = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool right, const std::string& what) {
  if (!right) {
    throw std::invalid_argument("shared_context_attention: " + what);
  }
}

// As fp32, in which scores are; finite, or every output is NaN.
float checked_scale(double softmax_scale) {
  const auto scale = static_cast<float>(softmax_scale);
  require(std::isfinite(scale), "softmax_scale must be a finite number");
  return scale;
}

template <class T>
feedsr::Heads<T> heads_of(const In<T>& x, const char* name, std::size_t tokens, const In<T>& like) {
  require(x.shape(0) == tokens && x.shape(1) == like.shape(1) && x.shape(2) == like.shape(2),
          std::string(name) + " has another shape than its offsets and the other tensors say");
  require(x.stride(2) == 1 || x.size() == 0, std::string(name) + " wants a last stride of 1");
  return {x.data(), x.stride(0), x.stride(1)};
}

void check_offsets(const Ints& offsets, const char* name, std::size_t total) {
  require(offsets.shape(0) >= 1 && offsets(0) == 0, std::string(name) + " must start at 0");
  for (std::size_t i = 1; i < offsets.shape(0); ++i) {
    require(offsets(i) >= offsets(i - 1), std::string(name) + " must never fall");
  }
  require(static_cast<std::size_t>(offsets(offsets.shape(0) - 1)) == total,
          std::string(name) + " must end at the number of rows");
}

template <class T>
feedsr::Problem<T> problem_of(const In<T>& q, const In<T>& k, const In<T>& v,
                              const Ints& cu_queries, const Ints& cu_keys, Out<T>& out, Lse& lse) {
  feedsr::Problem<T> p{};
  require(q.shape(2) % 16 == 0 && q.shape(2) >= 16 && q.shape(2) <= 128,
          "head_dim must be a multiple of 16 up to 128");
  require(cu_queries.shape(0) == cu_keys.shape(0), "both offsets must have one length");
  check_offsets(cu_queries, "the queries' offsets", q.shape(0));
  check_offsets(cu_keys, "the keys' offsets", k.shape(0));
  require(out.shape(0) == q.shape(0) && out.shape(1) == q.shape(1) && out.shape(2) == q.shape(2) &&
              lse.shape(0) == q.shape(0) && lse.shape(1) == q.shape(1),
          "out and lse must have the queries' shape");
  p.q = heads_of<T>(q, "q", q.shape(0), q);
  p.k = heads_of(k, "k", k.shape(0), q);
  p.v = heads_of(v, "v", k.shape(0), q);
  p.cu_queries = cu_queries.data();
  p.cu_keys = cu_keys.data();
  p.out = out.data();
  p.lse = lse.data();
  p.sequences = static_cast<std::int64_t>(cu_keys.shape(0)) - 1;
  p.heads = static_cast<std::int64_t>(q.shape(1));
  p.head_dim = static_cast<std::int64_t>(q.shape(2));
  p.group = 1;
  return p;
}

template <class T>
void check_prefix(const feedsr::Problem<T>& p, const Ints& prefix, std::size_t rows) {
  require(prefix.shape(0) == rows, "prefix must have one value a query");
  for (std::int64_t s = 0; s < p.sequences; ++s) {
    const std::int64_t length = p.cu_keys[s + 1] - p.cu_keys[s];
    for (std::int64_t i = p.cu_queries[s]; i < p.cu_queries[s + 1]; ++i) {
      const std::int64_t at = length - (p.cu_queries[s + 1] - i);
      const std::int32_t seen = prefix(static_cast<std::size_t>(i));
      require(seen >= 0 && seen <= at / p.group * p.group,
              "a prefix reaches beyond its impression");
    }
  }
}

template <class T>
void context(const In<T>& q, const In<T>& k, const In<T>& v, const Ints& cu_queries,
             const Ints& cu_seqlens, const std::optional<Ints>& prefix, int group,
             double softmax_scale, int threads, const std::string& instructions, Out<T> out,
             Lse lse) {
  feedsr::Problem<T> p = problem_of<T>(q, k, v, cu_queries, cu_seqlens, out, lse);
  require(group >= 1 && threads >= 1, "group and threads must be at least 1");
  p.group = group;
  p.causal = true;
  p.scale = checked_scale(softmax_scale);
  p.threads = threads;
  for (std::int64_t s = 0; s < p.sequences; ++s) {
    require(p.cu_queries[s + 1] - p.cu_queries[s] <= p.cu_keys[s + 1] - p.cu_keys[s],
            "a sequence has more queries than tokens");
  }
  if (prefix) {
    check_prefix(p, *prefix, q.shape(0));
    p.prefix = prefix->data();
  }
  nb::gil_scoped_release released;
  feedsr::attend(p, instructions);
}

template <class T>
void candidates(const In<T>& q, const In<T>& k_self, const In<T>& v_self, const In<T>& k,
                const In<T>& v, const Ints& cu_candidates, const Ints& cu_seqlens,
                double softmax_scale, int threads, const std::string& instructions, Out<T> out,
                Lse lse) {
  feedsr::Problem<T> p = problem_of<T>(q, k, v, cu_candidates, cu_seqlens, out, lse);
  require(threads >= 1, "threads must be at least 1");
  p.k_self = heads_of(k_self, "k_self", q.shape(0), q);
  p.v_self = heads_of(v_self, "v_self", q.shape(0), q);
  p.scale = checked_scale(softmax_scale);
  p.threads = threads;
  nb::gil_scoped_release released;
  feedsr::attend(p, instructions);
}

std::vector<std::string> instructions(bool bfloat16) {
  return bfloat16 ? feedsr::instructions_for<feedsr::Bf16>() : feedsr::instructions_for<float>();
}

std::vector<std::string> emulated(bool bfloat16) {
  return bfloat16 ? feedsr::emulated_for<feedsr::Bf16>() : feedsr::emulated_for<float>();
}

// The two calls for one dtype; bfloat16 comes as its bits.
template <class T>
void define(nb::module_& m) {
  m.def("context", &context<T>, nb::arg("q").noconvert(), nb::arg("k").noconvert(),
        nb::arg("v").noconvert(), nb::arg("cu_queries"), nb::arg("cu_seqlens"),
        nb::arg("prefix").none(), nb::arg("group"), nb::arg("softmax_scale"), nb::arg("threads"),
        nb::arg("instructions"), nb::arg("out").noconvert(), nb::arg("lse").noconvert());
  m.def("candidates", &candidates<T>, nb::arg("q").noconvert(), nb::arg("k_self").noconvert(),
        nb::arg("v_self").noconvert(), nb::arg("k").noconvert(), nb::arg("v").noconvert(),
        nb::arg("cu_candidates"), nb::arg("cu_seqlens"), nb::arg("softmax_scale"),
        nb::arg("threads"), nb::arg("instructions"), nb::arg("out").noconvert(),
        nb::arg("lse").noconvert());
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "Shared-context attention in one pass, fp32 and bf16, in AVX-512 or AMX.";
  m.def("instructions", &instructions, nb::arg("bfloat16"),
        "The instruction sets that this processor can run for a dtype, the fastest first.");
  m.def("emulated", &emulated, nb::arg("bfloat16"),
        "Those written out in plain C++, slow and for tests: the same kernels on any x86-64.");
  define<float>(m);
  define<feedsr::Bf16>(m);
}
