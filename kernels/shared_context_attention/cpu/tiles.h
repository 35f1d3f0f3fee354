// SPDX-License-Identifier: Apache-2.0
// Eight tiles of 16 rows x 64 bytes: AMX's, and the same in plain C++. One template over either is
// what the kernel runs, so that its layout and indices are tested where there is no AMX.
//
//   zero<R>, load<R>, store<R>  tile R; rows in memory are `stride` bytes apart
//   dot<C, A, B>                C[m][n] += sum over k of A[m][2k] B[k][2n] + A[m][2k+1] B[k][2n+1],
//                               C 16 floats a row, A and B 32 bf16: B has its rows in pairs
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "attend.h"

#if defined(__AMX_BF16__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace feedsr {
namespace {

// TDPBF16PS as the Software Developer's Manual has it: fused multiply-adds, even and odd products
// summed apart. It flushes denormals, which here is left to the caller (`FlushDenormals`).
class EmulatedTiles {
 public:
  template <int R>
  void zero() {
    std::memset(tile_[R], 0, sizeof tile_[R]);
  }

  template <int R>
  void load(const void* from, std::int64_t stride) {
    for (int m = 0; m < 16; ++m) {
      std::memcpy(tile_[R][m], static_cast<const char*>(from) + m * stride, 64);
    }
  }

  template <int R>
  void store(void* to, std::int64_t stride) const {
    for (int m = 0; m < 16; ++m) {
      std::memcpy(static_cast<char*>(to) + m * stride, tile_[R][m], 64);
    }
  }

  template <int C, int A, int B>
  void dot() {
    for (int m = 0; m < 16; ++m) {
      float sums[32] = {};
      for (int k = 0; k < 16; ++k) {
        for (int n = 0; n < 32; ++n) {
          sums[n] = std::fma(number(A, m, 2 * k + n % 2), number(B, k, n), sums[n]);
        }
      }
      float row[16];
      std::memcpy(row, tile_[C][m], sizeof row);
      for (int n = 0; n < 16; ++n) {
        row[n] += sums[2 * n] + sums[2 * n + 1];
      }
      std::memcpy(tile_[C][m], row, sizeof row);
    }
  }

 private:
  // The bf16 in a column of a row.
  float number(int tile, int row, int column) const {
    std::uint16_t half;
    std::memcpy(&half, &tile_[tile][row][2 * column], sizeof half);
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }

  alignas(64) char tile_[8][16][64];
};

#if defined(__AMX_BF16__) && defined(__linux__)

// The thread's tiles, configured while this lives. Written as assembly because the intrinsics of
// GCC 12 do not say that they read and write memory: stores to what they load may be dropped.
class AmxTiles {
 public:
  AmxTiles() {
    Configuration c{};
    c.palette = 1;
    for (int r = 0; r < 8; ++r) {
      c.bytes[r] = 64;
      c.rows[r] = 16;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(c) : "memory");
  }
  ~AmxTiles() { __asm__ volatile("tilerelease" : : : "memory"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int R>
  void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(R));
  }

  template <int R>
  void load(const void* from, std::int64_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(R), "r"(from), "r"(stride) : "memory");
  }

  template <int R>
  void store(void* to, std::int64_t stride) const {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(R), "r"(to), "r"(stride) : "memory");
  }

  template <int C, int A, int B>
  void dot() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }

 private:
  struct Configuration {
    std::uint8_t palette;
    std::uint8_t start_row;
    std::uint8_t reserved[14];
    std::uint16_t bytes[16];  // a row
    std::uint8_t rows[16];
  };
  static_assert(sizeof(Configuration) == 64, "what ldtilecfg reads");
};

// What the processor says of AMX, and whether Linux lets this process have the tiles' registers.
[[maybe_unused]] bool amx_permitted() {
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;               // XFEATURE_XTILEDATA
  constexpr unsigned bf16_and_tiles = (1U << 22) | (1U << 24);
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & bf16_and_tiles) == bf16_and_tiles &&
         syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

#else

using AmxTiles = EmulatedTiles;
[[maybe_unused]] bool amx_permitted() { return false; }

#endif

// The bits of a whole number below 256.
[[maybe_unused]] Bf16 whole_bf16(int x) {
  const auto wide = static_cast<float>(x);
  std::uint32_t bits;
  std::memcpy(&bits, &wide, sizeof bits);
  return static_cast<Bf16>(bits >> 16);
}

// Whether a product of whole numbers, which no order of sums rounds, comes out as it must.
template <class Tiles>
bool multiplies() {
  const auto a_at = [](int m, int k) { return (m * 32 + k) * 7 % 11; };
  const auto b_at = [](int k, int n) { return (k * 16 + n) * 5 % 13; };
  Bf16 a[16][32];
  Bf16 b[16][32];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 32; ++j) {
      a[i][j] = whole_bf16(a_at(i, j));
      b[i][j] = whole_bf16(b_at(2 * i + j % 2, j / 2));
    }
  }
  float c[16][16];
  Tiles tiles;
  tiles.template zero<2>();
  tiles.template load<5>(a, sizeof a[0]);
  tiles.template load<6>(b, sizeof b[0]);
  tiles.template dot<2, 5, 6>();
  tiles.template store<2>(c, sizeof c[0]);
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      int sum = 0;
      for (int k = 0; k < 32; ++k) {
        sum += a_at(m, k) * b_at(k, n);
      }
      if (c[m][n] != static_cast<float>(sum)) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace
}  // namespace feedsr
