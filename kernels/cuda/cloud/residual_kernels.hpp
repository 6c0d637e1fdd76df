// SPDX-License-Identifier: MIT
// Kernels of kernels/cuda/cloud/residuals.cpp, which alone includes this.
//
//   launch   kSumThreads threads. Those that work by the particle: a thread for each, which has its workspace a stride
//            apart. Those that sum: a block for each sum, in a fixed order
#pragma once

#include "kernels/base/subset.hpp"
#include "kernels/cuda/cloud/residuals.hpp"
#include "kernels/cuda/cloud/value.hpp"
#include "kernels/cuda/step/energies.hpp"
#include "kernels/model/tridiagonal.hpp"

namespace brenier::cuda {

struct ResidualArgs {
  CloudArrays cloud;
  const double* from = nullptr;    // (n, d): what transport is measured from
  const double* affine = nullptr;  // A (a triangle), t, m; null: the identity
  double log_det = 0;              // of A
  double tau = 1;
  bool has_potential = false;
  ProgramView potential{};
  const InternalView *energies = nullptr, *surrogates = nullptr;
  int terms = 0;
  double* y = nullptr;       // (d, n)
  double* r = nullptr;       // (d, n)
  double* values = nullptr;  // (2, n): F + transport, the surrogate's weight
  double* rows = nullptr;    // (rows of a program, threads)
};

/// r = grad V(y) + (y - from)/tau at particles.
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads,
                                     1) void residual_kernel(BRENIER_ARGUMENT ResidualArgs args) {
  const int n = args.cloud.n, d = args.cloud.d;
  const Index threads = Index{grid_size()} * block_size(),
              thread = Index{block_index()} * block_size() + thread_index();
  double* const rows = args.rows + thread;
  for (Index i = thread; i < n; i += threads) {
    const double* const x = args.cloud.x + i * d;
    double* const y = args.y + i;
    for (int a = 0; a < d; ++a) {
      double moved = x[a];
      if (args.affine) {
        const double* const shift = args.affine + triangle(d);
        const double* const centre = shift + d;
        moved = shift[a] + centre[a];
        for (int b = 0; b < d; ++b) moved += args.affine[triangle_index(a, b)] * (x[b] - centre[b]);
      }
      y[Index{a} * n] = moved;
    }
    double value = 0, weight = 0;
    if (args.has_potential) {
      run_program<double>(args.potential, {y, n}, rows, threads);
      value = rows[args.potential.value * threads];
    }
    for (int a = 0; a < d; ++a) {
      const double step = y[Index{a} * n] - args.from[i * d + a];
      const int place = args.potential.gradient + a * args.potential.gradient_stride;
      const double force = args.has_potential ? rows[place * threads] : 0.0;
      args.r[Index{a} * n + i] = force + step / args.tau;
      value += step * step / (2 * args.tau);
    }
    for (int k = 0; k < args.terms; ++k) {
      const double log_rho = args.cloud.log_density[i] - args.log_det;
      if (log_rho == -std::numeric_limits<double>::infinity()) continue;
      value += internal_energy(args.energies[k], log_rho, rows, threads);
      const InternalView& term = args.surrogates[k];
      double w = surrogate_weight(term.form, term.exponent, log_rho, NumberMath());
      if (surrogate_is_program(term.form, w)) {
        const double rho = w;
        run_program<double>(term.program, {&rho}, rows, threads);
        w = rows[term.program.value * threads];
      }
      weight += term.weight * w;
    }
    args.values[i] = value;
    args.values[n + i] = weight;
  }
}

struct ResidualSum {
  BlockScratch<double> scratch;
};

/// out (grid) = the means of DeviceResiduals::affine_sums().
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void affine_sums_kernel(const double* x, int n, int d,
                                                                          const double* r,
                                                                          const double* values,
                                                                          const double* centre, double* out) {
  ResidualSum& shared = shared_storage<ResidualSum>();
  const int which = block_index();
  double sum = 0;
  if (which < 2 + d) {
    const double* const of = which < 2 ? values + Index{which} * n : r + Index{which - 2} * n;
    for (int i = thread_index(); i < n; i += block_size()) sum += of[i];
  } else {
    const int e = which - 2 - d, b = triangle_column(e), a = e - triangle(b);
    for (int i = thread_index(); i < n; i += block_size()) {
      const double* const at = x + Index{i} * d;
      sum += r[Index{a} * n + i] * (at[b] - centre[b]) + r[Index{b} * n + i] * (at[a] - centre[a]);
    }
  }
  sum = block_reduce_sum(sum, shared.scratch);
  if (thread_index() == 0) out[which] = sum / n;
}

/// Displacements as kernels see them: means, deviations (d) and waves (count, d) after each other.
struct WavesView {
  const double* mean;
  const double* deviation;
  const double* wave;
};

/// out (grid) = the means of DeviceResiduals::slopes().
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void slopes_kernel(const double* x, int n, int d,
                                                                     const double* r, const double* weight,
                                                                     BRENIER_ARGUMENT WavesView waves,
                                                                     double* out) {
  ResidualSum& shared = shared_storage<ResidualSum>();
  const int which = block_index();
  double sum = 0;
  if (which < 2 * d) {
    const int c = which % d;
    for (int i = thread_index(); i < n; i += block_size()) {
      const double along = r[Index{c} * n + i];
      sum +=
          which < d ? along * waves.deviation[c] : along * (x[Index{i} * d + c] - waves.mean[c]) - weight[i];
    }
  } else {
    const int k = (which - 2 * d) / 2;
    const double* const wave = waves.wave + Index{k} * d;
    for (int i = thread_index(); i < n; i += block_size()) {
      double phase = 0, square = 0, along = 0;
      for (int c = 0; c < d; ++c) {
        phase += wave[c] * (x[Index{i} * d + c] - waves.mean[c]);
        square += wave[c] * wave[c];
        along += wave[c] * r[Index{c} * n + i];
      }
      const double s = sin(phase), t = cos(phase);
      sum +=
          (which - 2 * d) % 2 == 0 ? s / square * along - weight[i] * t : t / square * along + weight[i] * s;
    }
  }
  sum = block_reduce_sum(sum, shared.scratch);
  if (thread_index() == 0) out[which] = sum / n;
}

/// out (m) = the mean of the rows of (n, m).
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void mean_kernel(const double* rows, int n, int m,
                                                                   double* out) {
  const int k = block_index() * block_size() + thread_index();
  if (k >= m) return;
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += rows[Index{i} * m + k];
  out[k] = sum / n;
}

/// The smallest eigenvalue of symmetric matrix i of (n, d*d): Householder's tridiagonal form, then its eigenvalues. NaN where
/// that is not finite. `work` (d*d + 4 d, n).
BRENIER_DEVICE inline double least_eigenvalue_of(const double* matrices, int i, int n, int d, double* work) {
  const auto a = [&](int row, int col) -> double& { return work[(Index{row} * d + col) * n + i]; };
  const auto w = [&](int row) -> double& { return work[(Index{d} * d + row) * n + i]; };
  // What tridiagonal_eigen() wants lies without gaps.
  double* const diagonal = work + (Index{d} * d + d) * n + Index{i} * 3 * d;
  double* const off = diagonal + d;
  for (int e = 0; e < d * d; ++e) work[Index{e} * n + i] = matrices[Index{i} * d * d + e];
  for (int k = 0; k + 1 < d; ++k) {
    double below = 0;
    for (int r = k + 2; r < d; ++r) below += a(r, k) * a(r, k);
    const double first = a(k + 1, k);
    diagonal[k] = a(k, k);
    off[k] = first;
    if (below == 0) continue;
    const double size = sqrt(first * first + below), alpha = first > 0 ? -size : size;
    off[k] = alpha;
    // v in the place of the column: 1 - 2 v v^T/|v|^2 takes it to (alpha, 0, ...).
    a(k + 1, k) = first - alpha;
    const double beta = 2 / (below + (first - alpha) * (first - alpha));
    double along = 0;
    for (int r = k + 1; r < d; ++r) {
      double product = 0;
      for (int c = k + 1; c < d; ++c) product += a(r, c) * a(c, k);
      w(r) = beta * product;
      along += w(r) * a(r, k);
    }
    for (int r = k + 1; r < d; ++r) w(r) -= 0.5 * beta * along * a(r, k);
    for (int r = k + 1; r < d; ++r) {
      for (int c = k + 1; c < d; ++c) a(r, c) -= a(r, k) * w(c) + w(r) * a(c, k);
    }
  }
  diagonal[d - 1] = a(d - 1, d - 1);
  double least = std::numeric_limits<double>::quiet_NaN();
  if (tridiagonal_eigen(d, diagonal, off, off + d)) {
    least = diagonal[0];
    for (int k = 1; k < d; ++k) least = diagonal[k] < least ? diagonal[k] : least;
  }
  return least;
}

/// out (2, grid): the smallest eigenvalue of all that a block has, and how many it has that are no numbers.
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void least_eigenvalue_kernel(const double* matrices, int n,
                                                                               int d, double* work,
                                                                               double* out) {
  ResidualSum& shared = shared_storage<ResidualSum>();
  const int i = block_index() * block_size() + thread_index();
  double least = std::numeric_limits<double>::infinity(), undefined = 0;
  if (i < n) {
    const double own = least_eigenvalue_of(matrices, i, n, d, work);
    undefined = own == own ? 0 : 1;
    least = undefined > 0 ? least : own;
  }
  least = -block_reduce_max(-least, shared.scratch);
  undefined = block_reduce_sum(undefined, shared.scratch);
  if (thread_index() != 0) return;
  out[2 * block_index()] = least;
  out[2 * block_index() + 1] = undefined;
}

/// score (groups, d) of points in groups of 1 + 2 d, neighbours by twos: (dx)^T score = d log rho between them, by
/// elimination with the largest pivot of rows whose largest element is 1. `work` (d (d + 1), groups).
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void scores_kernel(BRENIER_ARGUMENT CloudArrays cloud,
                                                                     int groups, double* work,
                                                                     double* score) {
  const int i = block_index() * block_size() + thread_index();
  if (i >= groups) return;
  const int d = cloud.d;
  const auto m = [&](int row, int col) -> double& { return work[(Index{row} * (d + 1) + col) * groups + i]; };
  for (int c = 0; c < d; ++c) {
    const Index up = Index{i} * (2 * d + 1) + 1 + 2 * c;
    double largest = 0;
    for (int a = 0; a < d; ++a) {
      m(c, a) = cloud.x[up * d + a] - cloud.x[(up + 1) * d + a];
      const double size = abs(m(c, a));
      largest = size > largest ? size : largest;
    }
    m(c, d) = cloud.log_density[up] - cloud.log_density[up + 1];
    for (int a = 0; a <= d; ++a) m(c, a) /= largest;
  }
  for (int k = 0; k < d; ++k) {
    int pivot = k;
    for (int r = k + 1; r < d; ++r) pivot = abs(m(r, k)) > abs(m(pivot, k)) ? r : pivot;
    for (int a = k; a <= d && pivot != k; ++a) {
      const double held = m(k, a);
      m(k, a) = m(pivot, a);
      m(pivot, a) = held;
    }
    for (int r = k + 1; r < d; ++r) {
      const double factor = m(r, k) / m(k, k);
      for (int a = k + 1; a <= d; ++a) m(r, a) -= factor * m(k, a);
    }
  }
  for (int k = d - 1; k >= 0; --k) {
    double left = m(k, d);
    for (int a = k + 1; a < d; ++a) left -= m(k, a) * score[Index{i} * d + a];
    score[Index{i} * d + k] = left / m(k, k);
  }
}

/// rows (count) = the numbers of spread() (kernels/base/subset.hpp).
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads) void spread_kernel(Index n, Index count, std::uint64_t seed,
                                                                     int* rows) {
  const Index i = Index{block_index()} * block_size() + thread_index();
  if (i >= count) return;
  rows[i] = static_cast<int>(spread_place(n, count, i, Random(seed, RandomStream::pairs)));
}

}  // namespace brenier::cuda
