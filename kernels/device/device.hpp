// SPDX-License-Identifier: MIT
// The device dialect: the only header that kernel sources include. Under nvcc it is CUDA; under another
// compiler (or with BRENIER_EMULATE) the same source runs on the host, one block after another, and its
// mistakes are reported (kernels/device/emulator/emulator.hpp says which).
//
// In device code
//   thread_index() block_index() block_size()    one dimension
//   grid_size()                                  number of blocks
//   lane() warp() warp_count()                   of 32 threads
//   sync_block() sync_warp()                     barriers; they order memory
//   shuffle(v, lane) shuffle_xor(v, mask)        whole warps; they do NOT order memory
//   shuffle_down(v, n) ballot(p) any(p) all(p)   (likewise)
//   warp_sum warp_max                            fixed order: the same bits on every run
//   block_reduce_sum block_reduce_max            (likewise; device_block.hpp)
//   last_block(ticket, scratch)                  which block of a launch comes last (device_block.hpp)
//   multiply_add_tf32 round_tf32                 the matrix instruction (device_matrix.hpp)
//   atomic_add(address, v) atomic_max(...)       relaxed; see the rules
//   shared_storage<S>()                          the block's shared memory, one struct per kernel
//   shared_array<T>(offset, count)               behind that struct, of run-time size
//   Array<T, n>                                  its index is checked under emulation
//   load4 store4 load2 store2                    vector accesses; alignment checked under emulation
//   fma rsqrt exp log ...                        device_math.hpp
//   Random                                       philox.hpp: the host's bits
//
// Rules
// * Launch by launch() only. Blocks are whole warps; grids and blocks have one dimension.
// * Every thread of a block passes every sync_block(), every lane of a warp every warp operation. No `return`
//   before the last of them: guard the work, not the thread.
// * One SharedStorage struct per kernel, trivial, not initialised. No function-local statics.
// * Nothing is ordered between the blocks of a launch, but for what the last of them does after last_block().
//   What needs another order is another kernel.
// * atomic_add on floating point depends on the order of the threads: its results are not reproducible. Use
//   it on integers; sum floating point by block_reduce_sum and a second kernel.
// * No exceptions, no noexcept, no __CUDA_ARCH__ in kernels.
#pragma once

#include "brenier/base/philox.hpp"
#include "brenier/base/portable.hpp"
#include "kernels/device/block.hpp"
#include "kernels/device/dialect.hpp"
#include "kernels/device/host.hpp"
#include "kernels/device/math.hpp"
#include "kernels/device/matrix.hpp"
