// SPDX-License-Identifier: Apache-2.0
// Multiply-adds of fp32, sixteen at a time; bf16 is widened as it is packed.
//
// Keys are packed in panels [head_dim, 64 keys], so that scores of 6 queries x 64 keys are 24
// registers of multiply-adds; values are packed too, since rows that are a power of two apart fight
// for the same lines of the cache.
#pragma once

#include "pass.h"

namespace feedsr {
namespace {

struct MultiplyAdds {
  using Number = float;
  static constexpr int kStep = 6;
  static constexpr int kTerms = 5;

  static std::int64_t depth(std::int64_t dims) { return dims; }

  template <class T>
  static void load_query(const T* q, std::int64_t dims, bool negative, float* packed) {
    const __m512 sign = _mm512_set1_ps(negative ? -1.0F : 1.0F);
    for (std::int64_t d = 0; d < dims; d += 16) {
      _mm512_store_ps(packed + d, _mm512_mul_ps(load16(q + d), sign));
    }
  }

  template <class T>
  static void pack(const Problem<T>& p, const Span& span, float* keys, float* values) {
    for (std::int64_t t = 0; t < span.padded; t += 16) {
      for (std::int64_t d = 0; d < p.head_dim; d += 16) {
        __m512 x[16];
        for (int i = 0; i < 16; ++i) {
          const bool real = t + i < span.length;
          const std::int64_t token = span.start + t + i;
          x[i] = real ? load16(p.k.at(token, span.head) + d) : _mm512_setzero_ps();
          const __m512 v = real ? load16(p.v.at(token, span.head) + d) : _mm512_setzero_ps();
          _mm512_store_ps(values + (t + i) * p.head_dim + d, v);
        }
        transpose16(x);
        float* column = keys + t / kPanel * kPanel * p.head_dim + t % kPanel + d * kPanel;
        for (int i = 0; i < 16; ++i) {
          _mm512_store_ps(column + i * kPanel, x[i]);
        }
      }
    }
  }

  static void score(const float* q, const float* keys, std::int64_t depth, float* scores) {
    __m512 s[kStep][4] = {};
    for (std::int64_t d = 0; d < depth; ++d) {
      const float* column = keys + d * kPanel;
      const __m512 k[4] = {_mm512_load_ps(column), _mm512_load_ps(column + 16),
                           _mm512_load_ps(column + 32), _mm512_load_ps(column + 48)};
#pragma GCC unroll 6
      for (int r = 0; r < kStep; ++r) {
        const __m512 x = _mm512_set1_ps(q[r * depth + d]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          s[r][j] = _mm512_fmadd_ps(x, k[j], s[r][j]);
        }
      }
    }
    store_rows(scores, kKeys, s);
  }

  static __m512 keep(float* scores, int j, const __m512 (&w)[2], __m512 sum) {
    _mm512_store_ps(scores + j, w[0]);
    _mm512_store_ps(scores + j + 16, w[1]);
    return _mm512_add_ps(sum, _mm512_add_ps(w[0], w[1]));
  }

  static void add_values(const float* weights, const float* values, std::int64_t dims, int count,
                         float* out) {
    in_vectors(dims, [&](auto vectors, std::int64_t d) {
      add<vectors.value>(weights, values + d, dims, count, out + d);
    });
  }

  // Of VECS * 16 dimensions.
  template <int VECS>
  static void add(const float* weights, const float* values, std::int64_t dims, int count,
                  float* out) {
    __m512 o[kStep][VECS];
    load_rows(out, dims, o);
    for (int t = 0; t < count; ++t, values += dims) {
      __m512 v[VECS];
#pragma GCC unroll 4
      for (int j = 0; j < VECS; ++j) {
        v[j] = _mm512_load_ps(values + 16 * j);
      }
#pragma GCC unroll 6
      for (int r = 0; r < kStep; ++r) {
        const __m512 w = _mm512_set1_ps(weights[r * kKeys + t]);
#pragma GCC unroll 4
        for (int j = 0; j < VECS; ++j) {
          o[r][j] = _mm512_fmadd_ps(w, v[j], o[r][j]);
        }
      }
    }
    store_rows(out, dims, o);
  }
};

}  // namespace
}  // namespace feedsr
