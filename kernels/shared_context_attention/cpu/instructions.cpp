// SPDX-License-Identifier: Apache-2.0
// Which instruction sets there are, and which of them computes.

#include <algorithm>
#include <stdexcept>

#include "attend.h"

namespace feedsr {

template <>
std::vector<std::string> instructions_for<float>() {
  return has_avx512() ? std::vector<std::string>{"avx512"} : std::vector<std::string>{};
}

template <>
std::vector<std::string> instructions_for<Bf16>() {
  std::vector<std::string> names;
  if (has_tiles()) {
    names.emplace_back("amx_bf16");
  }
  if (has_avx512_bf16()) {
    names.emplace_back("avx512_bf16");
  }
  if (has_avx512()) {
    names.emplace_back("avx512");
  }
  return names;
}

template <class T>
void attend(const Problem<T>& p, std::string instructions) {
  const std::vector<std::string> names = instructions_for<T>();
  const std::vector<std::string> emulated = emulated_for<T>();
  const auto among = [&](const std::vector<std::string>& all) {
    return std::find(all.begin(), all.end(), instructions) != all.end();
  };
  if (instructions.empty() && !names.empty()) {
    instructions = names.front();
  }
  if (among(emulated)) {
    return attend_emulated(p, instructions);
  }
  if (!among(names)) {
    throw std::invalid_argument("shared_context_attention: this processor has no instructions '" +
                                instructions + "' for this dtype");
  }
  if constexpr (sizeof(T) == sizeof(Bf16)) {
    if (instructions == "avx512_bf16") {
      return attend_dot_products(p);
    }
    if (instructions == "amx_bf16") {
      return attend_tiles(p);
    }
  }
  attend_avx512(p);
}

template void attend(const Problem<float>&, std::string);
template void attend(const Problem<Bf16>&, std::string);

}  // namespace feedsr
