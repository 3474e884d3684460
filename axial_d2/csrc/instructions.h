// Which instruction sets the processor has, and the kernels of the one that is used.
#pragma once

#include <string>
#include <vector>

#include "arguments.h"

namespace axial_d2 {

// Those that this processor has, the best first, which is used unless another is asked for.
std::vector<std::string> instruction_sets();

void use_instructions(std::string name);

template <class T>
Kernels<T> kernels();

}  // namespace axial_d2
