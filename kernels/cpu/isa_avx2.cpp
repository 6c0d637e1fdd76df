// SPDX-License-Identifier: MIT
// The cpu backend with vectors of 32 bytes; the build gives this file the flags of its instruction set.
#define BRENIER_ISA avx2
#define BRENIER_ISA_NAME "avx2"
#define BRENIER_VECTOR_BYTES 32
#include "kernels/cpu/backend.hpp"
