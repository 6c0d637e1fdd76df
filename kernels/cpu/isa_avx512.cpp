// SPDX-License-Identifier: MIT
// The cpu backend with vectors of 64 bytes; the build gives this file the flags of its instruction set.
#define BRENIER_ISA avx512
#define BRENIER_ISA_NAME "avx512"
#define BRENIER_VECTOR_BYTES 64
#include "kernels/cpu/backend.hpp"
