// SPDX-License-Identifier: MIT
// The device dialect: the only header that kernel sources include. Under nvcc it is CUDA; under another
// compiler (or with BRENIER_EMULATE) the same source runs on the host, one block after another, and its
// mistakes are reported (kernels/runtime/emulator.hpp says which).
//
// In device code
//   thread_index() block_index() block_size() grid_size()   one dimension; grid_size() counts blocks
//   lane() warp() warp_count()                              of 32 threads
//   sync_block() sync_warp()                                barriers; they order memory
//   shuffle(v, lane) shuffle_xor(v, mask) shuffle_down(v, n) ballot(p) any(p) all(p)
//                                                           whole warps; they do NOT order memory
//   warp_sum warp_max block_reduce_sum block_reduce_max                   fixed order: the same bits on every
//   run atomic_add(address, v) atomic_max(address, v)           relaxed; see below shared_storage<S>() the
//   block's shared memory, one struct per kernel shared_array<T>(offset, count) run-time sized shared memory
//   behind that struct Array<T, n>                                             index checked under emulation
//   load4 store4 load2 store2                               aligned vector accesses, checked under emulation
//   fma rsqrt exp log ...                                   kernels/runtime/device_math.hpp
//   Random (kernels/runtime/philox.hpp)                     the host's bits
//
// Rules
//   * Launch by launch() only. Blocks are whole warps, grids and blocks have one dimension.
//   * Every thread of a block passes every sync_block(), every lane of a warp every warp operation. No
//   `return` before
//     the last of them: guard the work, not the thread.
//   * One SharedStorage struct per kernel, trivial, uninitialised at the start of the block. No
//   function-local statics.
//   * Nothing is ordered between the blocks of one launch. What needs an order between blocks is another
//   kernel.
//   * atomic_add on floating point depends on the order of the threads: its results are not reproducible. Use
//   it on
//     integers; sum floating point with block_reduce_sum and a second kernel.
//   * No exceptions, no noexcept, no __CUDA_ARCH__ in kernels.
#pragma once

#include "kernels/runtime/device_host.hpp"
#include "kernels/runtime/philox.hpp"
#include "kernels/runtime/portable.hpp"

#if BRENIER_CUDA
#include "kernels/runtime/device_cuda.hpp"
#else
#include "kernels/runtime/device_emulator.hpp"
#endif

#include "kernels/runtime/device_block.hpp"
#include "kernels/runtime/device_math.hpp"
