#include "instructions.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <type_traits>

#include "workspace.h"

namespace axial_d2 {

void* Workspace::take_bytes(size_t bytes) {
  constexpr size_t line = 64;
  parts_.emplace_back(bytes + line, char(0));
  const auto address = reinterpret_cast<uintptr_t>(parts_.back().data());
  return reinterpret_cast<void*>((address + line - 1) / line * line);
}

#define AXIAL_D2_DECLARE(instructions) \
  namespace instructions {             \
  Kernels<float> float_kernels();      \
  Kernels<double> double_kernels();    \
  }
AXIAL_D2_DECLARE(plain)
AXIAL_D2_DECLARE(avx2)
AXIAL_D2_DECLARE(avx512)
#undef AXIAL_D2_DECLARE

namespace {

bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#else
  return false;
#endif
}

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

std::string& chosen_instructions() {
  static std::string name = instruction_sets().front();
  return name;
}

template <class T>
Kernels<T> kernels_of(Kernels<float> (*of_float)(), Kernels<double> (*of_double)()) {
  if constexpr (std::is_same_v<T, float>) {
    return of_float();
  } else {
    return of_double();
  }
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  if (has_avx512()) names.push_back("avx512");
  if (has_avx2()) names.push_back("avx2");
  names.push_back("plain");
  return names;
}

void use_instructions(std::string name) {
  const auto names = instruction_sets();
  TORCH_CHECK_VALUE(
      std::find(names.begin(), names.end(), name) != names.end(), "this processor has no ", name);
  chosen_instructions() = name;
}

template <class T>
Kernels<T> kernels() {
#if defined(__x86_64__)
  if (chosen_instructions() == "avx512")
    return kernels_of<T>(avx512::float_kernels, avx512::double_kernels);
  if (chosen_instructions() == "avx2")
    return kernels_of<T>(avx2::float_kernels, avx2::double_kernels);
#endif
  return kernels_of<T>(plain::float_kernels, plain::double_kernels);
}

template Kernels<float> kernels<float>();
template Kernels<double> kernels<double>();

}  // namespace axial_d2
