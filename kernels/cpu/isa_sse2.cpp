// SPDX-License-Identifier: MIT
// The cpu backend with vectors of 16 bytes; the build gives this file the flags of its instruction set.
#define BRENIER_ISA sse2
#define BRENIER_ISA_NAME "sse2"
#define BRENIER_VECTOR_BYTES 16
#include "kernels/cpu/backend.hpp"
