// SPDX-License-Identifier: MIT
// Kernels of clouds that stay on the device: a step of a map, coordinates for an inner problem, some rows.
//
//   launch   threads take elements in turn; carry_kernel: kSumThreads threads, at most kSumBlocks blocks, of which the
//            last adds up, in order: the same bits on every run
#pragma once

#include "kernels/cuda/cloud/value.hpp"
#include "kernels/cuda/step/energies.hpp"

namespace brenier::cuda {

/// What carry_kernel finds, and what its blocks do.
struct CarrySums {
  double squares;        // sum of |y - x|^2
  double least_log_det;  // over those that are numbers
  double undefined;      // how many log-determinants are not
};

template <class T>
struct CarryArgs {
  const T* x = nullptr;                 // (n, d)
  const double* log_density = nullptr;  // (n), or null
  T* y = nullptr;                       // (n, d): displacements before, x + displacements after
  double* log_density_after = nullptr;  // (n), where there are densities: log-determinants before
  int n = 0, d = 0;
  CarrySums* partial = nullptr;  // (grid)
  CarrySums* sums = nullptr;
  unsigned* ticket = nullptr;  // 0
};

/// Sums over the block, in every thread.
BRENIER_DEVICE inline CarrySums reduce_carry(const CarrySums& of_thread, BlockScratch<double>& scratch) {
  const double squares = block_reduce_sum(of_thread.squares, scratch);
  const double least = -block_reduce_max(-of_thread.least_log_det, scratch);
  return {squares, least, block_reduce_sum(of_thread.undefined, scratch)};
}

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void carry_kernel(BRENIER_ARGUMENT CarryArgs<T> args) {
  SumShared& shared = shared_storage<SumShared>();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CarrySums sums{0, infinity, 0};
  const Index threads = Index{grid_size()} * block_size();
  for (Index i = Index{block_index()} * block_size() + thread_index(); i < args.n; i += threads) {
    for (Index k = i * args.d; k < (i + 1) * args.d; ++k) {
      const T y = args.x[k] + args.y[k];
      const double step = y - args.x[k];
      sums.squares = fma(step, step, sums.squares);
      args.y[k] = y;
    }
    if (!args.log_density) continue;
    const double log_det = args.log_density_after[i];
    args.log_density_after[i] = args.log_density[i] - log_det;
    sums.undefined += log_det == log_det ? 0 : 1;  // NaN
    sums.least_log_det = log_det < sums.least_log_det ? log_det : sums.least_log_det;
  }
  sums = reduce_carry(sums, shared.scratch);
  if (thread_index() == 0) args.partial[block_index()] = sums;
  if (!last_block(args.ticket, shared.last)) return;
  sums = thread_index() < grid_size() ? args.partial[thread_index()] : CarrySums{0, infinity, 0};
  sums = reduce_carry(sums, shared.scratch);
  if (thread_index() == 0) *args.sums = sums;
}

/// out (n, d) = x - shift, rounded to T after the difference.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void shift_kernel(const double* x, const double* shift,
                                                                    int n, int d, T* out) {
  const Index threads = Index{grid_size()} * block_size();
  for (Index k = Index{block_index()} * block_size() + thread_index(); k < Index{n} * d; k += threads)
    out[k] = static_cast<T>(x[k] - shift[k % d]);
}

/// out (count, d) = rows of x (n, d).
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void take_rows_kernel(const T* x, const int* rows,
                                                                        int count, int d, T* out) {
  const Index threads = Index{grid_size()} * block_size();
  for (Index k = Index{block_index()} * block_size() + thread_index(); k < Index{count} * d; k += threads)
    out[k] = x[Index{rows[k / d]} * d + k % d];
}

/// A host program's matrix (n, d), wherever its elements lie.
template <class T>
struct StridedMatrix {
  T* data;
  int n, d;
  Index row_stride, col_stride;  // in elements

  /// body(element, k, row) for the k-th element, row by row: threads take them in turn.
  template <class Body>
  BRENIER_DEVICE void each(const Body& body) const {
    const Index threads = Index{grid_size()} * block_size();
    for (Index k = Index{block_index()} * block_size() + thread_index(); k < Index{n} * d; k += threads) {
      const Index i = k / d;
      body(data[i * row_stride + (k - i * d) * col_stride], k, i);
    }
  }
};

/// out (n, d) = the matrix. `refused` becomes the maximum with n - i for each row i that has what is below `least`,
/// infinite or NaN.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void gather_kernel(
    BRENIER_ARGUMENT StridedMatrix<const T> from, double* out, double least, unsigned* refused) {
  from.each([&](T element, Index k, Index i) {
    const double value = element;
    out[k] = value;
    if (!(value >= least && value <= std::numeric_limits<double>::max()))
      atomic_max(refused, static_cast<unsigned>(from.n - i));
  });
}

/// The matrix = from (n, d), rounded to T.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void scatter_kernel(const double* from,
                                                                      BRENIER_ARGUMENT StridedMatrix<T> to) {
  to.each([&](T& element, Index k, Index) { element = static_cast<T>(from[k]); });
}

/// Elements of a sum: an expression at each particle. `rows`: workspace of the program.
struct ProgramValues {
  ProgramView program;
  const double* x;
  double* rows;
  BRENIER_DEVICE double operator()(Index i, const SumThread& thread) const {
    run_program<double>(program, {x + i * program.input_size}, rows + thread.index, thread.count);
    return rows[program.value * thread.count + thread.index];
  }
};

/// Elements of a sum: f(rho)/rho of one internal energy at each particle, weight included.
struct InternalValues {
  InternalView term;
  const double* log_density;
  double* rows;
  BRENIER_DEVICE double operator()(Index i, const SumThread& thread) const {
    return internal_energy(term, log_density[i], rows + thread.index, thread.count);
  }
};

}  // namespace brenier::cuda
