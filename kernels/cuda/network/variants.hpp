// SPDX-License-Identifier: MIT
// The compiled forms of the cuda backend, one source file each.
#pragma once

#include "kernels/operations.hpp"

namespace brenier::cuda {

struct Fma;
struct Tf32x3;
struct Cublas;  // no tiles: layer by layer for every network (kernels/cuda/layered/layered.hpp)

/// The operations with products by `Policy` (kernels/cuda/network/product.hpp).
template <class T, class Policy>
const Operations<T>& table();

}  // namespace brenier::cuda
