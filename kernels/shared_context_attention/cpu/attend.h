// SPDX-License-Identifier: Apache-2.0
// What one call computes: rows of queries over spans of keys, and where the results go.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace feedsr {

// The bits of a bfloat16.
using Bf16 = std::int16_t;

// A packed tensor [tokens, heads, head_dim] whose last dimension is dense; strides in elements.
template <class T>
struct Heads {
  const T* data = nullptr;
  std::int64_t token = 0;
  std::int64_t head = 0;

  const T* at(std::int64_t t, std::int64_t h) const { return data + t * token + h * head; }
};

// Queries of all sequences, packed. Of a sequence with `len_q` queries and `len_k` keys, query i is
// that of the key len_k - len_q + i when `causal`; else it sees every key, and its own beside them.
template <class T>
struct Problem {
  Heads<T> q, k, v;
  Heads<T> k_self, v_self;         // candidates only
  const std::int32_t* cu_queries;  // [sequences + 1]
  const std::int32_t* cu_keys;     // [sequences + 1]
  const std::int32_t* prefix;      // [queries], or null: plain causal
  T* out;                          // [queries, heads, head_dim]
  float* lse;                      // [queries, heads]
  std::int64_t sequences;
  std::int64_t heads;
  std::int64_t head_dim;
  std::int32_t group;
  float scale;
  int threads;
  bool causal;
};

// Whether this processor, and this build, can run each of them. `has_tiles` asks Linux for AMX's
// registers and multiplies once.
bool has_avx512();
bool has_avx512_bf16();
bool has_tiles();

template <class T>  // float or Bf16
void attend_avx512(const Problem<T>& problem);
void attend_dot_products(const Problem<Bf16>& problem);
void attend_tiles(const Problem<Bf16>& problem);
template <class T>
void attend_emulated(const Problem<T>& problem, const std::string& instructions);

// The instruction sets that this processor can run for a dtype, the fastest first.
template <class T>
std::vector<std::string> instructions_for();

// Those that are written out in plain C++, for tests: the same kernels on any x86-64.
template <class T>
std::vector<std::string> emulated_for();
template <>
std::vector<std::string> emulated_for<float>();
template <>
std::vector<std::string> emulated_for<Bf16>();

// Computes a problem by one of either; empty is this processor's first. Throws invalid_argument for
// another.
template <class T>
void attend(const Problem<T>& problem, std::string instructions);

}  // namespace feedsr
