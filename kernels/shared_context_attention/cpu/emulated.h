// SPDX-License-Identifier: Apache-2.0
// The AVX-512 instructions that the kernels use, in the compiler's own vectors: so the same sources
// are tested on processors that have none. Each does what Intel's guide says of the name it has; it
// takes the place of <immintrin.h>, whose names it gives. Slow, and for tests alone.
#pragma once

#include <xmmintrin.h>  // _mm_malloc and the control register, which x86-64 always has

#include <cmath>
#include <cstdint>
#include <cstring>

// Inlined into loops that are unrolled, they would take the compiler minutes.
#define FEEDSR_CALL [[gnu::noinline]] inline

namespace feedsr {
namespace {

using __m512 = float __attribute__((vector_size(64)));
using __m512i = std::int32_t __attribute__((vector_size(64)));
using __m512bh = std::int16_t __attribute__((vector_size(64)));
using __m256i = std::int16_t __attribute__((vector_size(32)));
using Unsigned = std::uint32_t __attribute__((vector_size(64)));
using __mmask16 = std::uint16_t;
using __mmask32 = std::uint32_t;
constexpr int _CMP_UNORD_Q = 3;

// A vector whose lane i is at(i).
template <class V, class At>
inline V lanes_of(const At& at) {
  V v{};
  for (int i = 0; i < static_cast<int>(sizeof v / sizeof v[0]); ++i) {
    v[i] = at(i);
  }
  return v;
}
template <class V>
inline V loaded(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class V>
inline void stored(void* to, V v) {
  std::memcpy(to, &v, sizeof v);
}
inline bool has(std::uint32_t mask, int lane) { return ((mask >> lane) & 1U) != 0; }

FEEDSR_CALL __m512 _mm512_load_ps(const float* x) { return loaded<__m512>(x); }
FEEDSR_CALL __m512 _mm512_loadu_ps(const float* x) { return loaded<__m512>(x); }
inline void _mm512_store_ps(float* x, __m512 v) { stored(x, v); }
inline void _mm512_storeu_ps(float* x, __m512 v) { stored(x, v); }
FEEDSR_CALL __m512i _mm512_load_si512(const void* x) { return loaded<__m512i>(x); }
inline void _mm512_store_si512(void* x, __m512i v) { stored(x, v); }
FEEDSR_CALL __m256i _mm256_loadu_si256(const __m256i* x) { return loaded<__m256i>(x); }
inline void _mm256_storeu_si256(__m256i* x, __m256i v) { stored(x, v); }
FEEDSR_CALL __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const std::int16_t* x) {
  return (__m512i)lanes_of<__m512bh>(
      [=](int i) { return has(mask, i) ? x[i] : std::int16_t{0}; });
}

FEEDSR_CALL __m512 _mm512_setzero_ps() { return __m512{}; }
FEEDSR_CALL __m256i _mm256_setzero_si256() { return __m256i{}; }
FEEDSR_CALL __m512 _mm512_set1_ps(float x) {
  return lanes_of<__m512>([=](int) { return x; });
}
FEEDSR_CALL __m512i _mm512_set1_epi32(std::int32_t x) {
  return lanes_of<__m512i>([=](int) { return x; });
}
FEEDSR_CALL __m512i _mm512_set1_epi16(std::int16_t x) {
  return (__m512i)lanes_of<__m512bh>([=](int) { return x; });
}
template <class... Lane>
FEEDSR_CALL __m512i _mm512_setr_epi32(Lane... lane) {
  return __m512i{lane...};
}

FEEDSR_CALL __m512 _mm512_castsi512_ps(__m512i v) { return (__m512)v; }
FEEDSR_CALL __m512i _mm512_castps_si512(__m512 v) { return (__m512i)v; }
inline float _mm512_cvtss_f32(__m512 v) { return v[0]; }

FEEDSR_CALL __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
FEEDSR_CALL __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
FEEDSR_CALL __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
FEEDSR_CALL __m512 _mm512_max_ps(__m512 a, __m512 b) { return a > b ? a : b; }
FEEDSR_CALL __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return lanes_of<__m512>([&](int i) { return std::fma(a[i], b[i], c[i]); });
}
FEEDSR_CALL __m512 _mm512_fmsub_ps(__m512 a, __m512 b, __m512 c) {
  return _mm512_fmadd_ps(a, b, -c);
}
FEEDSR_CALL float _mm512_reduce_add_ps(__m512 v) {
  float sum = v[0];
  for (int i = 1; i < 16; ++i) {
    sum += v[i];
  }
  return sum;
}
FEEDSR_CALL float _mm512_reduce_max_ps(__m512 v) {
  float top = v[0];
  for (int i = 1; i < 16; ++i) {
    top = v[i] > top ? v[i] : top;
  }
  return top;
}

FEEDSR_CALL __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  return (__m512i)((Unsigned)a + (Unsigned)b);
}
FEEDSR_CALL __m512i _mm512_and_si512(__m512i a, __m512i b) { return a & b; }
FEEDSR_CALL __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }
FEEDSR_CALL __m512i _mm512_xor_si512(__m512i a, __m512i b) { return a ^ b; }
FEEDSR_CALL __m512i _mm512_slli_epi32(__m512i a, unsigned n) { return (__m512i)((Unsigned)a << n); }
FEEDSR_CALL __m512i _mm512_srli_epi32(__m512i a, unsigned n) { return (__m512i)((Unsigned)a >> n); }
FEEDSR_CALL __m512i _mm512_cvtepu16_epi32(__m256i v) {
  return lanes_of<__m512i>([=](int i) { return std::int32_t{static_cast<std::uint16_t>(v[i])}; });
}
FEEDSR_CALL __m256i _mm512_cvtepi32_epi16(__m512i v) {
  return lanes_of<__m256i>([&](int i) { return static_cast<std::int16_t>(v[i]); });
}
FEEDSR_CALL __m512 _mm512_permutex2var_ps(__m512 a, __m512i at, __m512 b) {
  return lanes_of<__m512>([&](int i) { return at[i] % 32 < 16 ? a[at[i] % 16] : b[at[i] % 16]; });
}

FEEDSR_CALL __m512i _mm512_mask_mov_epi32(__m512i a, __mmask16 mask, __m512i b) {
  return lanes_of<__m512i>([&](int i) { return has(mask, i) ? b[i] : a[i]; });
}
FEEDSR_CALL __m512 _mm512_maskz_mov_ps(__mmask16 mask, __m512 a) {
  return lanes_of<__m512>([&](int i) { return has(mask, i) ? a[i] : 0.0F; });
}
FEEDSR_CALL __m512 _mm512_mask_max_ps(__m512 source, __mmask16 mask, __m512 a, __m512 b) {
  const __m512 top = _mm512_max_ps(a, b);
  return lanes_of<__m512>([&](int i) { return has(mask, i) ? top[i] : source[i]; });
}
// The one predicate that is used: which lanes are NaN.
FEEDSR_CALL __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) {
    const bool unordered = std::isnan(a[i]) || std::isnan(b[i]);
    mask |= (predicate == _CMP_UNORD_Q && unordered ? 1U : 0U) << i;
  }
  return static_cast<__mmask16>(mask);
}

inline float widened(std::int16_t half) {
  const std::uint32_t bits = std::uint32_t{static_cast<std::uint16_t>(half)} << 16;
  return loaded<float>(&bits);
}
inline std::int16_t rounded(float x) {
  const auto bits = loaded<std::uint32_t>(&x);
  const std::uint32_t even = bits + 0x7fffU + ((bits >> 16) & 1U);
  return static_cast<std::int16_t>((std::isnan(x) ? bits | 0x400000U : even) >> 16);
}
// The low half is of the second argument.
FEEDSR_CALL __m512bh _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
  return lanes_of<__m512bh>([&](int i) { return rounded(i < 16 ? low[i] : high[i - 16]); });
}
// Odd products first, each sum rounded.
FEEDSR_CALL __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  return lanes_of<__m512>([&](int i) {
    const float odd = sum[i] + widened(a[2 * i + 1]) * widened(b[2 * i + 1]);
    return odd + widened(a[2 * i]) * widened(b[2 * i]);
  });
}

}  // namespace
}  // namespace feedsr
