// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at a time: loads and stores of both dtypes, a transposition, 2^x. Each source file
// has its own copy, compiled for its own instructions; hence the unnamed namespace.
#pragma once

#if defined(FEEDSR_EMULATED)
#include "emulated.h"
#else
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <new>
#include <type_traits>

#include "attend.h"

namespace feedsr {
namespace {

inline __m512 load16(const float* x) { return _mm512_loadu_ps(x); }
inline void store16(float* x, __m512 v) { _mm512_storeu_ps(x, v); }

// bf16 is the upper half of a float; stored rounded to nearest even, NaN kept.
inline __m512 load16(const Bf16* x) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store16(Bf16* x, __m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                            _mm512_set1_epi32(0x7fc00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(x),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

// 2^x for x <= 0, at least 2^-126: the nearest integer goes to the exponent, a polynomial takes the
// rest. Off by at most 2e-7, or in three terms 8e-5, a 26th of a rounding to bf16. Additions run
// beside the multiply-adds of the products, which `scalef` and `reduce` do not on every processor.
template <int TERMS>
inline __m512 exp2_512(__m512 x) {
  static_assert(TERMS == 3 || TERMS == 5, "no coefficients");
  constexpr float three[] = {5.517166853e-02F, 2.426111251e-01F, 6.932609677e-01F,
                             9.999280572e-01F};
  constexpr float five[] = {1.327647245e-03F, 9.675540961e-03F, 5.550713092e-02F,
                            2.402212024e-01F, 6.931469440e-01F, 1.000000119e+00F};
  const float* c = TERMS == 3 ? three : five;
  x = _mm512_max_ps(_mm512_set1_ps(-126.0F), x);
  const __m512 magic = _mm512_set1_ps(12582912.0F);  // 1.5 * 2^23: its last bit is worth 1
  const __m512 shifted = _mm512_add_ps(x, magic);
  const __m512 r = _mm512_sub_ps(x, _mm512_sub_ps(shifted, magic));
  __m512 p = _mm512_set1_ps(c[0]);
#pragma GCC unroll 5
  for (int i = 1; i <= TERMS; ++i) {
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c[i]));
  }
  const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), power));
}

// 2^x of one number.
inline float exp2_1(float x) { return _mm512_cvtss_f32(exp2_512<5>(_mm512_set1_ps(x))); }

// Columns of 16 rows of 16: four rounds of interleaving halves.
inline void transpose16(__m512 (&x)[16]) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int round = 0; round < 4; ++round) {
    __m512 y[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = _mm512_permutex2var_ps(x[i], low, x[i + 8]);
      y[2 * i + 1] = _mm512_permutex2var_ps(x[i], high, x[i + 8]);
    }
    std::copy(y, y + 16, x);
  }
}

// ROWS x VECS registers from and to rows that are `stride` floats apart.
template <int ROWS, int VECS>
inline void load_rows(const float* from, std::int64_t stride, __m512 (&x)[ROWS][VECS]) {
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < VECS; ++j) {
      x[r][j] = _mm512_load_ps(from + r * stride + 16 * j);
    }
  }
}
template <int ROWS, int VECS>
inline void store_rows(float* to, std::int64_t stride, const __m512 (&x)[ROWS][VECS]) {
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < VECS; ++j) {
      _mm512_store_ps(to + r * stride + 16 * j, x[r][j]);
    }
  }
}

// Cuts a row of `dims` into parts of 4, 2 and 1 times 16: part(number of vectors, first dimension).
template <class Part>
inline void in_vectors(std::int64_t dims, const Part& part) {
  std::int64_t d = 0;
  for (; d + 64 <= dims; d += 64) {
    part(std::integral_constant<int, 4>{}, d);
  }
  for (; d + 32 <= dims; d += 32) {
    part(std::integral_constant<int, 2>{}, d);
  }
  for (; d + 16 <= dims; d += 16) {
    part(std::integral_constant<int, 1>{}, d);
  }
}

// Weights below 2^-126 are 0 while this lives: arithmetic on them would be a hundred times slower.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040U); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

// Numbers that start at a line of the cache, so that no load of a line's width touches two.
template <class T>
class Lines {
 public:
  Lines() = default;
  ~Lines() { _mm_free(data_); }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  // At least `count` of them; what was there is lost when they have to grow.
  T* of(std::int64_t count) {
    if (count > size_) {
      _mm_free(data_);
      size_ = 0;
      data_ = static_cast<T*>(_mm_malloc(static_cast<std::size_t>(count) * sizeof(T), 64));
      if (data_ == nullptr) {
        throw std::bad_alloc();
      }
      size_ = count;
    }
    return data_;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace
}  // namespace feedsr
