// SPDX-License-Identifier: Apache-2.0
// CRC-32 by folding: 64 bytes are carried over the next 64 by carry-less products with x^n mod P (V.
// Gopal et al., Fast CRC Computation Using PCLMULQDQ, Intel 2009). What is left, 16 bytes and a tail,
// goes through a table.
#include "crc32.h"

#include <array>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define FEEDSR_CRC32 1
#endif

namespace feedsr {

namespace {

constexpr std::uint32_t kPolynomial = 0xEDB88320;  // bits reversed, as everything here

constexpr std::uint32_t times_x(std::uint32_t value) {
  return (value >> 1) ^ ((value & 1U) != 0 ? kPolynomial : 0);
}

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) {
      value = times_x(value);
    }
    table[byte] = value;
  }
  return table;
}

constexpr std::array<std::uint32_t, 256> kTable = make_table();

std::uint32_t by_table(const std::uint8_t* data, std::size_t size, std::uint32_t value) {
  for (std::size_t i = 0; i < size; ++i) {
    value = kTable[(value ^ data[i]) & 0xFFU] ^ (value >> 8);
  }
  return value;
}

#ifdef FEEDSR_CRC32

// x^n mod P, moved by the bit that a product of reversed operands loses.
constexpr long long power(int n) {
  std::uint32_t value = 0x80000000U;
  for (int i = 0; i < n; ++i) {
    value = times_x(value);
  }
  return static_cast<long long>(value) << 1;
}

__m128i load(const std::uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

// `value` moved over the distance that `factors` stand for, and `next` added.
__m128i fold(__m128i value, __m128i factors, __m128i next) {
  const __m128i low = _mm_clmulepi64_si128(value, factors, 0x00);
  const __m128i high = _mm_clmulepi64_si128(value, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

#endif

}  // namespace

#ifdef FEEDSR_CRC32

bool crc32_usable() {
  return __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("sse4.1") != 0;
}

std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t value) {
  value = ~value;
  if (size >= 64) {
    constexpr long long kFar[] = {power(512 + 32), power(512 - 32)};
    constexpr long long kNear[] = {power(128 + 32), power(128 - 32)};
    const __m128i far = _mm_set_epi64x(kFar[1], kFar[0]);
    const __m128i near = _mm_set_epi64x(kNear[1], kNear[0]);
    __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(value)));
    __m128i b = load(data + 16);
    __m128i c = load(data + 32);
    __m128i d = load(data + 48);
    for (data += 64, size -= 64; size >= 64; data += 64, size -= 64) {
      a = fold(a, far, load(data));
      b = fold(b, far, load(data + 16));
      c = fold(c, far, load(data + 32));
      d = fold(d, far, load(data + 48));
    }
    std::uint8_t rest[16];
    const __m128i folded = fold(fold(fold(a, near, b), near, c), near, d);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rest), folded);
    value = by_table(rest, sizeof(rest), 0);
  }
  return ~by_table(data, size, value);
}

#else

bool crc32_usable() { return false; }

std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t value) {
  return ~by_table(data, size, ~value);
}

#endif

}  // namespace feedsr
