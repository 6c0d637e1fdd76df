// SPDX-License-Identifier: MIT
// Correct kernels in the device dialect: the emulator must find nothing wrong with them, nvcc must compile
// them.
#pragma once

#include <cstdint>

#include "kernels/device/device.hpp"

namespace brenier::test {

using device::Array;
using device::block_index;
using device::block_size;
using device::grid_size;
using device::lane;
using device::shared_storage;
using device::sync_block;
using device::sync_warp;
using device::thread_index;
using device::warp;
using device::warp_count;

/// This thread's place in the grid, and the number of threads in it.
BRENIER_DEVICE inline Index global_index() {
  return Index{block_index()} * block_size() + thread_index();
}
BRENIER_DEVICE inline Index global_size() {
  return Index{grid_size()} * block_size();
}

/// y += a x, n elements.
template <class T>
BRENIER_KERNEL void axpy(Index n, T a, const T* x, T* y) {
  for (Index i = global_index(); i < n; i += global_size()) y[i] = device::fma(a, x[i], y[i]);
}

/// sums[block] = sum of the block's elements of x (n): shuffles within warps, shared memory between them.
template <class T>
struct BlockSumStorage {
  device::BlockScratch<T> scratch;
};
template <class T>
BRENIER_KERNEL void block_sums(Index n, const T* x, T* sums) {
  auto& shared = shared_storage<BlockSumStorage<T>>();
  T mine = 0;
  for (Index i = global_index(); i < n; i += global_size()) mine += x[i];
  const T total = device::block_reduce_sum(mine, shared.scratch);
  if (thread_index() == 0) sums[block_index()] = total;
}

/// extremes[0 .. 2) = largest element and minus the smallest, by one block; it uses the scratch twice.
template <class T>
BRENIER_KERNEL void extremes(Index n, const T* x, T* out) {
  auto& shared = shared_storage<BlockSumStorage<T>>();
  T high = x[0];
  T low = -x[0];
  for (Index i = thread_index(); i < n; i += block_size()) {
    high = device::fmax(high, x[i]);
    low = device::fmax(low, -x[i]);
  }
  high = device::block_reduce_max(high, shared.scratch);
  low = device::block_reduce_max(low, shared.scratch);
  if (thread_index() == 0) {
    out[0] = high;
    out[1] = low;
  }
}

/// out (cols, rows) = transpose of in (rows, cols), both row-major. One block for each tile of 32 x 32.
template <class T>
struct TransposeStorage {
  Array<Array<T, 33>, 32> tile;  // 33: no bank conflicts
};
template <class T>
BRENIER_KERNEL void transpose(Index rows, Index cols, const T* in, T* out) {
  auto& tile = shared_storage<TransposeStorage<T>>().tile;
  const Index tiles_across = (cols + 31) / 32;
  const Index row0 = block_index() / tiles_across * 32;
  const Index col0 = block_index() % tiles_across * 32;
  for (int r = warp(); r < 32; r += warp_count()) {
    if (row0 + r < rows && col0 + lane() < cols) tile[r][lane()] = in[(row0 + r) * cols + col0 + lane()];
  }
  sync_block();
  for (int r = warp(); r < 32; r += warp_count()) {
    if (col0 + r < cols && row0 + lane() < rows) out[(col0 + r) * rows + row0 + lane()] = tile[lane()][r];
  }
}

/// out[i] = x[0] + ... + x[i] by one block (Hillis and Steele), tile by tile; shared memory of run-time size:
/// two arrays of block_size() elements behind the carried sum.
template <class T>
struct ScanStorage {
  T carry;
};
template <class T>
BRENIER_KERNEL void prefix_sum(Index n, const T* x, T* out) {
  auto& shared = shared_storage<ScanStorage<T>>();
  T* from = device::shared_array<T>(16, block_size());
  T* to = device::shared_array<T>(16 + static_cast<std::size_t>(block_size()) * sizeof(T), block_size());
  const int t = thread_index();
  if (t == 0) shared.carry = 0;
  for (Index first = 0; first < n; first += block_size()) {
    from[t] = first + t < n ? x[first + t] : T(0);
    sync_block();
    for (int distance = 1; distance < block_size(); distance *= 2) {
      to[t] = from[t] + (t >= distance ? from[t - distance] : T(0));
      T* const swapped = from;
      from = to;
      to = swapped;
      sync_block();
    }
    const T sum = shared.carry + from[t];
    if (first + t < n) out[first + t] = sum;
    sync_block();  // everybody has read the carry and the last tile
    if (t == block_size() - 1) shared.carry = sum;
  }
}

/// counts[v] += number of elements equal to v in 0 .. 15; counts of the block in shared memory first.
struct HistogramStorage {
  Array<unsigned, 16> counts;
};
inline constexpr int kBins = 16;
template <class T>  // a template only so that the header may be included twice in a program
BRENIER_KERNEL void histogram(Index n, const T* values, unsigned* counts) {
  auto& shared = shared_storage<HistogramStorage>();
  if (thread_index() < kBins) shared.counts[thread_index()] = 0;
  sync_block();
  for (Index i = global_index(); i < n; i += global_size())
    device::atomic_add(&shared.counts[static_cast<int>(values[i])], 1u);
  sync_block();
  if (thread_index() < kBins) device::atomic_add(&counts[thread_index()], shared.counts[thread_index()]);
}

/// Draws of particle i: a normal pair, a uniform, and an integer below 1000 (as double).
template <class T>
BRENIER_KERNEL void draws(Index n, Random random, T* out) {
  for (Index i = global_index(); i < n; i += global_size()) {
    const auto particle = static_cast<std::uint64_t>(i);
    const auto pair = random.normals(3, 5, particle, 1);
    out[4 * i] = pair[0];
    out[4 * i + 1] = pair[1];
    out[4 * i + 2] = random.uniform(3, 6, particle);
    out[4 * i + 3] = static_cast<double>(random.below(1000, 3, 7, particle));
  }
}

/// out[i] = x[i ^ 1] within a warp, through shared memory that sync_warp orders. n is a multiple of 32.
template <class T>
struct NeighbourStorage {
  Array<T, 1024> values;
};
template <class T>
BRENIER_KERNEL void swap_neighbours(const T* x, T* out) {
  auto& values = shared_storage<NeighbourStorage<T>>().values;
  const Index i = global_index();
  values[thread_index()] = x[i];
  sync_warp();
  out[i] = values[thread_index() ^ 1];
}

/// Votes and shuffles of one warp on predicate x[lane] > 0: out = {ballot, any, all}, shifted[lane] = x[lane
/// + 5] or x[lane] past the end, first[lane] = x[3].
template <class T>
BRENIER_KERNEL void votes(const T* x, unsigned* out, T* shifted, T* first) {
  const T mine = x[lane()];
  const unsigned ballot = device::ballot(mine > 0);
  const bool any = device::any(mine > 0);
  const bool all = device::all(mine > 0);
  if (lane() == 0) {
    out[0] = ballot;
    out[1] = any;
    out[2] = all;
  }
  shifted[lane()] = device::shuffle_down(mine, 5);
  first[lane()] = device::shuffle(mine, 3);
}

/// y = 2 x by vectors of four, and the rest one by one. x and y are aligned to 16 bytes.
template <class T>
BRENIER_KERNEL void twice(Index n, device::DevicePointer<const T> x, device::DevicePointer<T> y) {
  const Index vectors = n / 4;
  for (Index v = global_index(); v < vectors; v += global_size()) {
    device::float4 four = device::load4(x.get() + 4 * v);
    four.x *= 2;
    four.y *= 2;
    four.z *= 2;
    four.w *= 2;
    device::store4(y.get() + 4 * v, four);
  }
  for (Index i = 4 * vectors + global_index(); i < n; i += global_size()) y[i] = 2 * x[i];
}

/// largest[0] = max of the values, count[0] = how many are positive; integers, so atomics are exact.
template <class T>
BRENIER_KERNEL void count_positive(Index n, const T* x, int* largest, int* count) {
  for (Index i = global_index(); i < n; i += global_size()) {
    device::atomic_max(largest, static_cast<int>(x[i]));
    if (x[i] > 0) device::atomic_add(count, 1);
  }
}

/// out = elementary functions of x, for the names of device_math.hpp: 8 values an element.
template <class T>
BRENIER_KERNEL void elementary(Index n, const T* x, T* out) {
  for (Index i = global_index(); i < n; i += global_size()) {
    T* o = out + 8 * i;
    o[0] = device::rsqrt(x[i]);
    o[1] = device::exp(x[i]);
    o[2] = device::log(x[i]);
    o[3] = device::log1p(x[i]) + device::expm1(x[i]);
    o[4] = device::tanh(x[i]);
    o[5] = device::sin(x[i]) * device::cos(x[i]);
    o[6] = device::pow(x[i], T(1.5)) + device::sqrt(x[i]);
    o[7] = device::isfinite(x[i]) ? device::fmin(x[i], device::abs(-x[i])) : T(0);
  }
}

}  // namespace brenier::test
