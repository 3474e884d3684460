#include "arguments.h"
#include "standard.h"
#include "workspace.h"

// 16 bytes: SSE2 on x86, NEON on Arm.
#define AXIAL_D2_INSTRUCTIONS plain
#define AXIAL_D2_BYTES 16
#include "kernels.h"
