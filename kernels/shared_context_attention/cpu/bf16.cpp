// SPDX-License-Identifier: Apache-2.0
// `pairs.h` in AVX512_BF16, and in AMX.

#include "attend.h"

#if defined(__AVX512BF16__)

#include "pairs.h"

namespace feedsr {

bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

void attend_dot_products(const Problem<Bf16>& p) { run_pass<DotProducts>(p); }

bool has_tiles() {
  static const bool real = has_avx512_bf16() && amx_permitted() && multiplies<AmxTiles>();
  return real;
}

void attend_tiles(const Problem<Bf16>& p) { run_pass<TileProducts<AmxTiles>>(p); }

}  // namespace feedsr

#else

namespace feedsr {
bool has_avx512_bf16() { return false; }
bool has_tiles() { return false; }
void attend_dot_products(const Problem<Bf16>&) {}
void attend_tiles(const Problem<Bf16>&) {}
}  // namespace feedsr

#endif
