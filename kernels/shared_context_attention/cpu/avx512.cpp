// SPDX-License-Identifier: Apache-2.0
// `multiply_adds.h` in AVX-512.

#include "attend.h"

#if defined(__AVX512F__)

#include "multiply_adds.h"

namespace feedsr {

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

template <class T>
void attend_avx512(const Problem<T>& p) {
  run_pass<MultiplyAdds>(p);
}

template void attend_avx512(const Problem<float>&);
template void attend_avx512(const Problem<Bf16>&);

}  // namespace feedsr

#else

namespace feedsr {
bool has_avx512() { return false; }
template <class T>
void attend_avx512(const Problem<T>&) {}
template void attend_avx512(const Problem<float>&);
template void attend_avx512(const Problem<Bf16>&);
}  // namespace feedsr

#endif
