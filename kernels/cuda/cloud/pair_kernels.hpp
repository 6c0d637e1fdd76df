// SPDX-License-Identifier: MIT
// Interactions of a whole cloud (n, d) on the device: forces and energy.
//
//   log        in up to 3 dimensions: a block has 128 particles i, each thread four of them, each warp a
//              share of the j (kernels/cuda/cloud/pairs.hpp); small clouds are also split along j, so that every
//              multiprocessor has work. Each block writes its sums in double, pair_sum_kernel adds the
//              splits in order.
//   quadratic  from the moments of the cloud, in any dimension: sum_j (y_i - y_j) = n (y_i - mean)
//   scaling    distances are scaled by a power of 2 to at most about 1, so that products of four of them
//              can only underflow, which shows (kernels/cuda/cloud/pairs.hpp)
//   energy     of log kernels from the logarithm of a product of 8 distances (4 beyond one dimension)
//   programs   and log kernels in more dimensions: tile_forces, and one pair after the other for the energy
//   shared     BlockScratch, or the sums of the warps (8, 128, d) in double, or tile_scratch
//   launch     kPairThreads; the grid, which fixes the order of sums, depends on n and d only
//
// Predicted, never measured. nvcc 13.0 for sm_90, float, one dimension, forces: 225 instructions for 64 pairs
// in the inner loop (16 of them reciprocals) and some 50 for a run of 512 pairs around it, 3.6 issue slots a
// pair. A multiprocessor issues for 128 lanes a clock: at most 35 pairs a clock, 8.2e12 pairs/s on 132
// multiprocessors at 1.755 GHz. Its special units alone would allow 64 pairs a clock, one reciprocal a pair
// 16 (3.7e12 pairs/s). Two dimensions: 475 instructions for 64 pairs, a reciprocal each, 16 pairs a
// clock, 3.7e12. Energy in one dimension: 188 instructions for 32 pairs, 21 pairs a clock, 5.0e12. All of it
// without the host's copies.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "kernels/cuda/cloud/pairs.hpp"
#include "kernels/cuda/transfer.hpp"

namespace brenier::cuda {

inline constexpr int kPairThreads = 256;
inline constexpr int kMomentThreads = 1024;
inline constexpr int kCloudTile = 128;  // particles i of a block
inline constexpr int kForceTile = 32;   // of a block that computes pair by pair

/// Of one component of a cloud. The mean is origin + offset: the offset keeps its digits far from 0.
struct PairMoments {
  double origin, offset;
  double square;  // sum of squares about the mean
  double low, high;
};

struct MomentsShared {
  BlockScratch<double> scratch;
};

/// moments (d): block c has component c.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kMomentThreads) void pair_moments_kernel(const T* y, int n, int d,
                                                                              PairMoments* moments) {
  MomentsShared& shared = shared_storage<MomentsShared>();
  const int c = block_index();
  const double origin = static_cast<double>(y[c]);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double sum = 0, low = infinity, high = -infinity;
  for (int i = thread_index(); i < n; i += block_size()) {
    const double value = static_cast<double>(y[Index{i} * d + c]);
    sum += value - origin;
    if (isfinite(value)) {  // one diverged particle leaves the scale of the others alone
      low = value < low ? value : low;
      high = value > high ? value : high;
    }
  }
  const double offset = block_reduce_sum(sum, shared.scratch) / n;
  double square = 0;
  for (int i = thread_index(); i < n; i += block_size()) {
    const double from_mean = static_cast<double>(y[Index{i} * d + c]) - origin - offset;
    square = fma(from_mean, from_mean, square);
  }
  square = block_reduce_sum(square, shared.scratch);
  low = -block_reduce_max(-low, shared.scratch);
  high = block_reduce_max(high, shared.scratch);
  if (thread_index() == 0) moments[c] = {origin, offset, square, low, high};
}

/// A power of 2, s: s times any distance in the cloud is at most about 1.
template <class T, int D>
BRENIER_DEVICE T distance_scale(const PairMoments* moments) {
  double square = 0;
  for (int c = 0; c < D; ++c) {
    const double range = moments[c].high - moments[c].low;
    square = fma(range, range, square);
  }
  const double range = sqrt(square);
  if (!(range > 0) || !isfinite(range)) return T(1);
  // range < 2^exponent. Above 2^120 (float) the scale itself would overflow; distances that small relative to
  // 1 are the largest of their cloud, so that fewer bits of scaling do.
  const int exponent = static_cast<int>(std::bit_cast<std::uint64_t>(range) >> 52) - 1022;
  constexpr int least = sizeof(T) == 4 ? -126 : -1022, most = sizeof(T) == 4 ? 120 : 1000;
  const int power = -exponent < least ? least : -exponent > most ? most : -exponent;
  return static_cast<T>(std::bit_cast<double>(static_cast<std::uint64_t>(power + 1023) << 52));
}

/// A tile of a cloud and a share of the j against it: block = tile * splits + split.
template <class T>
struct CloudPairArgs {
  const T* y;
  int n, splits;
  const PairMoments* moments;  // (d)
  double* partial;             // forces (splits, n, d), or energies (grid)
};

/// partial = sum_j z/r^2 over the j of the block's split.
template <class T, int D>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kPairThreads) void log_force_kernel(CloudPairArgs<T> args) {
  using Lanes = PairLanes<kCloudTile>;
  const int first = block_index() / args.splits * kCloudTile;
  const int split = block_index() % args.splits;
  ForceSums<T, D, kCloudTile, true> sums(args.y, args.n, first, 0, 1, distance_scale<T, D>(args.moments));
  walk_pairs<T, D>(args.y, args.n, first, kCloudTile, split * Lanes::slots() + Lanes::slot(),
                   args.splits * Lanes::slots(), sums);
  double* const of_warps = shared_array<double>(0, warp_count() * kCloudTile * D);
  store_warp_sums(sums, of_warps);
  sync_block();
  const int count = (args.n - first < kCloudTile ? args.n - first : kCloudTile) * D;
  double* const to = args.partial + (Index{split} * args.n + first) * D;
  for (int k = thread_index(); k < count; k += block_size()) {
    double sum = 0;
    for (int w = 0; w < warp_count(); ++w) sum += of_warps[w * kCloudTile * D + k];
    to[k] = sum;
  }
}

/// force (n, d) = 1/(n-1) (l * sum of partial over the splits + 2 q sum_j (y_i - y_j)); partial null: l = 0.
template <class T>
struct PairSumArgs {
  const T* y;
  int n, d, splits;
  double quadratic, log_coefficient;
  const PairMoments* moments;
  const double* partial;
  T* force;
};

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kPairThreads) void pair_sum_kernel(PairSumArgs<T> args) {
  const Index count = Index{args.n} * args.d;
  const double share = args.n > 1 ? 1.0 / (args.n - 1) : 0.0;
  for (Index k = Index{block_index()} * block_size() + thread_index(); k < count;
       k += Index{grid_size()} * block_size()) {
    double log_force = 0;
    for (int s = 0; args.partial && s < args.splits; ++s) log_force += args.partial[s * count + k];
    double force = args.log_coefficient * log_force;
    if (args.quadratic != 0) {
      const PairMoments& m = args.moments[k % args.d];
      force += 2 * args.quadratic * args.n * (static_cast<double>(args.y[k]) - m.origin - m.offset);
    }
    args.force[k] = static_cast<T>(share * force);
  }
}

/// Sums of log r over j for the R particles i of a thread; pairs at distance 0 are left out.
template <class T, int D, int P>
class LogSums {
 public:
  static constexpr int R = kPairRegisters<P>;
  static constexpr int kAhead = 2;  // logarithms want the registers
  double total[R] = {};

  BRENIER_DEVICE LogSums(const T* cloud, int n, int first, T scale)
      : cloud_(cloud), n_(n), first_(first), scale_(scale), log_scale_(log(static_cast<double>(scale))) {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      BRENIER_UNROLL
      for (int c = 0; c < D; ++c) y_[r][c] = scale * here(r, c);
    }
  }

  BRENIER_DEVICE void clear() {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      product_[r] = T(1);
      least_[r] = T(1);
      part_[r] = T(0);
    }
  }

  BRENIER_DEVICE void add(const T (&quad)[4 * D], bool odd) {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      BRENIER_UNROLL
      for (int e = 0; e < 4; ++e) {
        T size = T(0);  // r in one dimension, r^2 beyond
        BRENIER_UNROLL
        for (int c = 0; c < D; ++c) {
          const T z = fma(quad[e * D + c], -scale_, y_[r][c]);
          size = D == 1 ? z : fma(z, z, size);
        }
        product_[r] *= size;
      }
    }
    if (D > 1 || odd) take_logarithms();
  }

  BRENIER_DEVICE bool close(int quads) {
    if (D == 1) take_logarithms();  // of a quad without a second one
    bool good = true;
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      // Scaled distances only make a product smaller: where it is a normal number, it was so all the way.
      const bool normal = least_[r] >= std::numeric_limits<T>::min() && isfinite(part_[r]);
      good = good && (normal || first_ + PairLanes<P>::particle(r) >= n_);
    }
    if (!good) return false;
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      total[r] += (D == 1 ? 1.0 : 0.5) * static_cast<double>(part_[r]) - 4 * quads * log_scale_;
    }
    return true;
  }

  BRENIER_DEVICE void one(const T* y) {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      T size = T(0);
      BRENIER_UNROLL
      for (int c = 0; c < D; ++c) {
        const T z = here(r, c) - y[c];
        size = D == 1 ? abs(z) : fma(z, z, size);
      }
      if (size != T(0)) total[r] += (D == 1 ? 1.0 : 0.5) * static_cast<double>(log(size));
    }
  }

  /// Over the particles that there are.
  BRENIER_DEVICE double sum() const {
    double all = 0;
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) all += first_ + PairLanes<P>::particle(r) < n_ ? total[r] : 0.0;
    return all;
  }

 private:
  BRENIER_DEVICE T here(int r, int c) const {
    const int i = first_ + PairLanes<P>::particle(r);
    return cloud_[Index{i < n_ ? i : n_ - 1} * D + c];
  }

  BRENIER_DEVICE void take_logarithms() {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      const T product = abs(product_[r]);
      least_[r] = product < least_[r] ? product : least_[r];
      part_[r] += log(product);
      product_[r] = T(1);
    }
  }

  const T* cloud_;
  int n_, first_;
  T scale_;
  double log_scale_;
  T y_[R][D];
  T product_[R], least_[R], part_[R];
};

/// partial (grid) = sums of log r over the block's tile and the j of its split.
template <class T, int D>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kPairThreads) void log_energy_kernel(CloudPairArgs<T> args) {
  using Lanes = PairLanes<kCloudTile>;
  MomentsShared& shared = shared_storage<MomentsShared>();
  const int first = block_index() / args.splits * kCloudTile;
  const int split = block_index() % args.splits;
  LogSums<T, D, kCloudTile> sums(args.y, args.n, first, distance_scale<T, D>(args.moments));
  walk_pairs<T, D>(args.y, args.n, first, kCloudTile, split * Lanes::slots() + Lanes::slot(),
                   args.splits * Lanes::slots(), sums);
  const double total = block_reduce_sum(sums.sum(), shared.scratch);
  if (thread_index() == 0) args.partial[block_index()] = total;
}

/// force (n, d): tile_forces on tiles of kForceTile particles; blocks take tiles in turn.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kPairThreads) void tile_force_kernel(PairTerms<T> terms, const T* y,
                                                                          int n, T* force) {
  T* const scratch = shared_array<T>(0, tile_scratch<T>(kForceTile, warp_count(), terms.dim));
  for (int first = block_index() * kForceTile; first < n; first += grid_size() * kForceTile) {
    tile_forces<T, kForceTile>(terms, y, n, first, scratch, [&](int p, int c, T value) {
      if (first + p < n) force[Index{first + p} * terms.dim + c] = value;
    });
  }
}

/// partial (grid) = sums over the block's tiles and all j != i of W(y_i - y_j), l log r for log kernels; what
/// is singular at r = 0 is left out there. Lanes have i, warps j.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kPairThreads) void pairwise_energy_kernel(PairTerms<T> terms, const T* y,
                                                                               int n, double* partial) {
  MomentsShared& shared = shared_storage<MomentsShared>();
  const int d = terms.dim;
  const Index stride = Index{grid_size()} * block_size();
  const Index thread = Index{block_index()} * block_size() + thread_index();
  const auto row = [&](int r) -> T& { return terms.workspace[r * stride + thread]; };
  double energy = 0;
  for (int first = block_index() * kWarpSize; first < n; first += grid_size() * kWarpSize) {
    const int i = first + lane();
    for (int j = warp(); j < n && i < n; j += warp_count()) {
      if (j == i) continue;
      const auto z = [&](int c) { return y[Index{i} * d + c] - y[Index{j} * d + c]; };
      T r2 = T(0);
      for (int c = 0; c < d; ++c) r2 = fma(z(c), z(c), r2);
      if (terms.log_coefficient != 0 && r2 != T(0)) {
        energy += 0.5 * terms.log_coefficient * static_cast<double>(log(r2));
      }
      for (int k = 0; k < terms.program_count; ++k) {
        const PairProgram& term = terms.programs[k];
        const T r = sqrt(r2);
        const bool vector = term.form == PairKernel::Form::vector;
        const ProgramInput<T> input =
            vector ? ProgramInput<T>{y + Index{i} * d, 1, y + Index{j} * d} : ProgramInput<T>{&r};
        run_program<T>(term.program, input, &row(0), stride);
        const T value = row(term.program.value);
        if (r2 != T(0) || isfinite(value)) energy += term.factor * static_cast<double>(value);
      }
    }
  }
  const double total = block_reduce_sum(energy, shared.scratch);
  if (thread_index() == 0) partial[block_index()] = total;
}

/// Blocks of the kernels that take tiles of 32 particles in turn: four for each multiprocessor of a large
/// device. Each of their threads has a workspace for programs, so that more of them would cost memory.
inline int pair_grid(int n) {
  return std::clamp((n + kForceTile - 1) / kForceTile, 1, 528);
}
/// Threads of these kernels.
inline Index pair_threads(int n) {
  return Index{pair_grid(n)} * kPairThreads;
}

/// The interaction terms of an objective on the device, for kernels that call tile_forces.
template <class T>
class DevicePairs {
 public:
  /// Clouds in R^d; `threads`: most threads (grid * block) of a launch that uses it, each of which has its
  /// own part of the workspace. Throws OutOfDeviceMemory.
  DevicePairs(const std::vector<InteractionTerm>& terms, int d, Index threads, Stream& stream) {
    std::vector<PairProgram> host;
    int rows = 0;
    terms_.dim = d;
    for (const InteractionTerm& term : terms) {
      const PairKernel& kernel = term.kernel;
      if (kernel.form == PairKernel::Form::quadratic_log) {
        terms_.quadratic += term.weight * kernel.quadratic;
        terms_.log_coefficient += term.weight * kernel.log_coefficient;
        constant_ += term.weight * kernel.constant;
        continue;
      }
      programs_.emplace_back(kernel.program, stream);
      host.push_back({kernel.form, term.weight, programs_.back().view});
      rows = std::max(rows, programs_.back().view.rows);
    }
    if (host.empty()) return;
    views_ = upload(host.data(), static_cast<Index>(host.size()), stream);
    workspace_ = DeviceBuffer<T>(rows * threads);
    terms_.programs = raw(views_);
    terms_.program_count = static_cast<int>(host.size());
    terms_.workspace = raw(workspace_);
  }

  /// Valid as long as this object.
  const PairTerms<T>& terms() const { return terms_; }
  /// What is added to every W(y_i - y_j).
  double constant() const { return constant_; }
  /// No force at all.
  bool empty() const {
    return terms_.quadratic == 0 && terms_.log_coefficient == 0 && terms_.program_count == 0;
  }

 private:
  std::vector<DeviceProgram> programs_;
  DeviceBuffer<PairProgram> views_;
  DeviceBuffer<T> workspace_;
  PairTerms<T> terms_{};
  double constant_ = 0;
};

}  // namespace brenier::cuda
