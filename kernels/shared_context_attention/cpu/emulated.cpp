// SPDX-License-Identifier: Apache-2.0
// The same kernels over `emulated.h`, compiled for any x86-64: their layouts, indices and rounding
// are tested where the processor has none of their instructions.

#include "attend.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define FEEDSR_EMULATED 1
#include "multiply_adds.h"
#include "pairs.h"

namespace feedsr {

template <>
std::vector<std::string> emulated_for<float>() {
  return {"avx512_emulated"};
}

template <>
std::vector<std::string> emulated_for<Bf16>() {
  return {"amx_emulated", "avx512_bf16_emulated", "avx512_emulated"};
}

template <class T>
void attend_emulated(const Problem<T>& p, const std::string& instructions) {
  if constexpr (sizeof(T) == sizeof(Bf16)) {
    if (instructions == "amx_emulated") {
      return run_pass<TileProducts<EmulatedTiles>>(p);
    }
    if (instructions == "avx512_bf16_emulated") {
      return run_pass<DotProducts>(p);
    }
  }
  run_pass<MultiplyAdds>(p);
}

#else

namespace feedsr {

template <>
std::vector<std::string> emulated_for<float>() {
  return {};
}

template <>
std::vector<std::string> emulated_for<Bf16>() {
  return {};
}

template <class T>
void attend_emulated(const Problem<T>&, const std::string&) {}

#endif

template void attend_emulated(const Problem<float>&, const std::string&);
template void attend_emulated(const Problem<Bf16>&, const std::string&);

}  // namespace feedsr
