#include "arguments.h"
#include "standard.h"
#include "workspace.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define AXIAL_D2_INSTRUCTIONS avx2
#define AXIAL_D2_BYTES 32
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
