// SPDX-License-Identifier: Apache-2.0
// Dot products of bf16 pairs, summed in fp32: by AVX512_BF16, or by tiles.
//
// Both take one layout. Keys are packed in panels [depth / 2, 64 keys, 2], depth being head_dim
// rounded up to 32 with zeros, and values as [keys / 2, head_dim, 2]: a pair stands where one
// instruction wants it, and 16 rows of either are a tile. Weights are rounded to bf16, as the
// product with the values needs them, and the running sum is of the rounded ones, so that the
// result stays a mean.
#pragma once

#include "pass.h"
#include "tiles.h"

namespace feedsr {
namespace {

inline __m512bh pairs_at(const Bf16* x) { return (__m512bh)_mm512_load_si512(x); }

// One pair in all lanes.
inline __m512bh pair_at(const void* x) {
  std::int32_t bits;
  std::memcpy(&bits, x, sizeof bits);
  return (__m512bh)_mm512_set1_epi32(bits);
}

// The packing, and the weights, of both.
struct Pairs {
  using Number = Bf16;
  static constexpr int kTerms = 3;

  static std::int64_t depth(std::int64_t dims) { return (dims + 31) / 32 * 32; }

  static void load_query(const Bf16* q, std::int64_t dims, bool negative, Bf16* packed) {
    for (std::int64_t d = 0; d < depth(dims); d += 32) {
      const __m512i sign = _mm512_set1_epi16(negative ? std::int16_t{-0x8000} : std::int16_t{0});
      _mm512_store_si512(packed + d, _mm512_xor_si512(row32(q + d, dims - d), sign));
    }
  }

  static void pack(const Problem<Bf16>& p, const Span& span, Bf16* keys, Bf16* values) {
    for (std::int64_t t = 0; t < span.padded; t += 16) {
      pack_keys(p, span, t, keys + t / kPanel * kPanel * depth(p.head_dim) + t % kPanel * 2);
    }
    for (std::int64_t t = 0; t < span.padded; t += 2) {
      pack_values(p, span, t, values + t * p.head_dim);
    }
  }

  static __m512 keep(float* scores, int j, const __m512 (&w)[2], __m512 sum) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(w[1], w[0]);
    // Over scores that were read already: weights take half their room.
    _mm512_store_si512(reinterpret_cast<Bf16*>(scores) + j, (__m512i)rounded);
    return _mm512_dpbf16_ps(sum, rounded, (__m512bh)_mm512_set1_epi16(0x3f80));
  }

 private:
  // Up to 32 numbers, zeros behind the last.
  static __m512i row32(const Bf16* x, std::int64_t left) {
    return _mm512_maskz_loadu_epi16(left >= 32 ? ~0U : 0xffffU, x);
  }

  static void pack_keys(const Problem<Bf16>& p, const Span& span, std::int64_t t, Bf16* column) {
    for (std::int64_t d = 0; d < depth(p.head_dim); d += 32) {
      __m512 x[16];
      for (int i = 0; i < 16; ++i) {
        const Bf16* k = p.k.at(span.start + t + i, span.head) + d;
        x[i] = t + i < span.length ? _mm512_castsi512_ps(row32(k, p.head_dim - d))
                                   : _mm512_setzero_ps();
      }
      transpose16(x);
      for (int i = 0; i < 16; ++i) {
        _mm512_store_ps(reinterpret_cast<float*>(column) + (d / 2 + i) * kPanel, x[i]);
      }
    }
  }

  static void pack_values(const Problem<Bf16>& p, const Span& span, std::int64_t t, Bf16* row) {
    for (std::int64_t d = 0; d < p.head_dim; d += 16) {
      const auto of = [&](std::int64_t i) {
        const Bf16* v = p.v.at(span.start + i, span.head) + d;
        const __m256i x = i < span.length
                              ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v))
                              : _mm256_setzero_si256();
        return _mm512_cvtepu16_epi32(x);
      };
      _mm512_store_si512(row + 2 * d, _mm512_or_si512(of(t), _mm512_slli_epi32(of(t + 1), 16)));
    }
  }
};

struct DotProducts : Pairs {
  static constexpr int kStep = 6;

  static void score(const Bf16* q, const Bf16* keys, std::int64_t depth, float* scores) {
    __m512 s[kStep][4] = {};
    for (std::int64_t d = 0; d < depth; d += 2) {
      const Bf16* column = keys + d * kPanel;
      const __m512bh k[4] = {pairs_at(column), pairs_at(column + 32), pairs_at(column + 64),
                             pairs_at(column + 96)};
#pragma GCC unroll 6
      for (int r = 0; r < kStep; ++r) {
        const __m512bh x = pair_at(q + r * depth + d);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          s[r][j] = _mm512_dpbf16_ps(s[r][j], x, k[j]);
        }
      }
    }
    store_rows(scores, kKeys, s);
  }

  static void add_values(const float* weights, const Bf16* values, std::int64_t dims, int count,
                         float* out) {
    in_vectors(dims, [&](auto vectors, std::int64_t d) {
      add<vectors.value>(weights, values + 2 * d, dims, count, out + d);
    });
  }

  // Of VECS * 16 dimensions.
  template <int VECS>
  static void add(const float* weights, const Bf16* values, std::int64_t dims, int count,
                  float* out) {
    __m512 o[kStep][VECS];
    load_rows(out, dims, o);
    for (int t = 0; t < count; t += 2, values += 2 * dims) {
      __m512bh v[VECS];
#pragma GCC unroll 4
      for (int j = 0; j < VECS; ++j) {
        v[j] = pairs_at(values + 32 * j);
      }
#pragma GCC unroll 6
      for (int r = 0; r < kStep; ++r) {
        const __m512bh w = pair_at(reinterpret_cast<const Bf16*>(weights + r * kKeys) + t);
#pragma GCC unroll 4
        for (int j = 0; j < VECS; ++j) {
          o[r][j] = _mm512_dpbf16_ps(o[r][j], w, v[j]);
        }
      }
    }
    store_rows(out, dims, o);
  }
};

// Four tiles of sums, one of queries or weights, the others of keys or values in turn.
template <class Tiles>
struct TileProducts : Pairs {
  static constexpr int kStep = 16;

  void score(const Bf16* q, const Bf16* keys, std::int64_t depth, float* scores) {
    clear<4>();
    for (std::int64_t d = 0; d < depth; d += 32) {
      tiles_.template load<4>(q + d, depth * kBf16);
      multiply<4>(keys + d * kPanel, kPanel * 2 * kBf16);
    }
    store<4>(scores, kKeys * kFloat);
  }

  void add_values(const float* weights, const Bf16* values, std::int64_t dims, int count,
                  float* out) {
    in_vectors(dims, [&](auto vectors, std::int64_t d) {
      add<vectors.value>(weights, values + 2 * d, dims, count, out + d);
    });
  }

 private:
  static constexpr std::int64_t kBf16 = sizeof(Bf16);
  static constexpr std::int64_t kFloat = sizeof(float);

  // Of N * 16 dimensions.
  template <int N>
  void add(const float* weights, const Bf16* values, std::int64_t dims, int count, float* out) {
    load<N>(out, dims * kFloat);
    for (int t = 0; t < count; t += 32) {
      tiles_.template load<4>(reinterpret_cast<const Bf16*>(weights) + t, kKeys * kFloat);
      multiply<N>(values + t * dims, dims * 2 * kBf16);
    }
    store<N>(out, dims * kFloat);
  }

  // Sums += tile 4 x the N tiles that lie side by side at `b`.
  template <int N>
  void multiply(const Bf16* b, std::int64_t stride) {
    multiply_one<0, 5>(b, stride);
    if constexpr (N > 1) multiply_one<1, 6>(b, stride);
    if constexpr (N > 2) {
      multiply_one<2, 7>(b, stride);
      multiply_one<3, 5>(b, stride);
    }
  }
  template <int C, int B>
  void multiply_one(const Bf16* b, std::int64_t stride) {
    tiles_.template load<B>(b + 32 * C, stride);
    tiles_.template dot<C, 4, B>();
  }

  template <int N>
  void clear() {
    if constexpr (N > 1) clear<N - 1>();
    tiles_.template zero<N - 1>();
  }
  template <int N>
  void load(const float* from, std::int64_t stride) {
    if constexpr (N > 1) load<N - 1>(from, stride);
    tiles_.template load<N - 1>(from + 16 * (N - 1), stride);
  }
  template <int N>
  void store(float* to, std::int64_t stride) const {
    if constexpr (N > 1) store<N - 1>(to, stride);
    tiles_.template store<N - 1>(to + 16 * (N - 1), stride);
  }

  Tiles tiles_;
};

}  // namespace
}  // namespace feedsr
