// SPDX-License-Identifier: MIT
// Linear solves with the Hessian and the quadrature of its log-determinant: all steps of a tile's particles
// in one kernel.
//
//   computes   solve_hessian() and log_det_lanczos() of kernels/ops.hpp, as kernels/ref/solves.cpp does
//   layout     the direction lies in the q rows, its product with H in the y rows, other vectors in the
//   `vectors`
//              rows; what a particle carries from step to step (SolveState, LanczosState) in the doubles of
//              the tile
//   launch     as tile kernels; the network is evaluated once a tile, a step is one sweep of tangents and one
//   of
//              their adjoints by the whole block, then vector operations with one warp for a particle
//   sums       dot products in double, over the lanes in a fixed order
#pragma once

#include "kernels/cuda/tile_kernels.hpp"
#include "kernels/ops.hpp"
#include "kernels/tridiagonal.hpp"

namespace brenier::cuda {

template <class T>
struct SolveArgs {
  TileArgs<T> tile;
  int count = 0;         // P
  const T* p = nullptr;  // (n, P * d)
  T* z = nullptr;        // (n, P * d): first guesses, then solutions
  CgOptions options{};
  CgReport* reports = nullptr;                      // (n)
  int steps = 0;                                    // of Lanczos, at most d
  double *estimate = nullptr, *variance = nullptr;  // (n)
};

/// One right-hand side of one particle.
struct SolveState {
  double norm2, residual2, end;
  int steps, active, indefinite, unused;
};

/// One starting vector of one particle; behind it diagonal, off-diagonal and work space, `steps` doubles
/// each.
struct LanczosState {
  double norm2, largest;
  RunningMean mean;
  int length, active;
};

template <class State>
inline constexpr int kStateDoubles = static_cast<int>((sizeof(State) + sizeof(double) - 1) / sizeof(double));

/// What the warps do with the vectors of their particles.
template <class TileType>
class Vectors {
 public:
  BRENIER_DEVICE Vectors(const TileType& tile, int d, int particle) : tile_(tile), d_(d), p_(particle) {}

  /// In every lane.
  BRENIER_DEVICE double dot(int a, int b) const {
    double sum = 0;
    for (int c = lane(); c < d_; c += 32) {
      sum += static_cast<double>(tile_.at(a + c, p_)) * static_cast<double>(tile_.at(b + c, p_));
    }
    return warp_sum(sum);
  }
  /// to[c] = f(c), then the warp sees it.
  template <class F>
  BRENIER_DEVICE void set(int to, const F& f) const {
    for (int c = lane(); c < d_; c += 32) tile_.at(to + c, p_) = f(c);
    sync_warp();
  }

 private:
  const TileType& tile_;
  int d_, p_;
};

template <class State, class TileType>
BRENIER_DEVICE State& state_of(const TileType& tile, int p) {
  return *reinterpret_cast<State*>(tile.state(p));
}

/// f(p, vectors of p), one warp for a particle; then a barrier.
template <class TileType, class F>
BRENIER_DEVICE void for_particles(const TileType& tile, int particles, int d, const F& f) {
  for (int p = warp(); p < particles; p += warp_count()) f(p, Vectors<TileType>(tile, d, p));
  sync_block();
}

template <class State, class TileType>
BRENIER_DEVICE bool any_active(const TileType& tile, int particles) {
  bool active = false;
  for (int p = 0; p < particles; ++p) active = active || state_of<State>(tile, p).active != 0;
  return active;
}

/// One right-hand side of each particle of a tile: from the residual rows (p) and the z rows (a guess).
template <class Form>
BRENIER_DEVICE void conjugate_gradients(typename Form::TileType& tile, const TilePlan& plan, int d,
                                        const CgOptions& options) {
  using T = typename Form::Type;
  constexpr int kParticles = Form::kParticles;
  const int residual = plan.vectors;
  const int z = plan.vectors + d;
  if (options.warm_start) {
    for_particles(tile, kParticles, d,
                  [&](int p, const auto& v) { v.set(plan.q, [&](int c) { return tile.at(z + c, p); }); });
    tile.tangents();
    tile.hessian_vector();
  }
  const double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
  const double tolerance = options.tolerance > unit ? options.tolerance : unit;
  // A step that long would overflow T: the curvature is 0 to rounding.
  const double longest = sqrt(static_cast<double>(std::numeric_limits<T>::max()));
  for_particles(tile, kParticles, d, [&](int p, const auto& v) {
    const double norm2 = v.dot(residual, residual);
    const bool solvable = isfinite(norm2) && norm2 != 0;
    double residual2 = norm2;
    bool guess = options.warm_start && solvable;
    if (options.warm_start) {  // y = p - H z, in place of H z
      v.set(plan.y, [&](int c) { return tile.at(residual + c, p) - tile.at(plan.y + c, p); });
      const double left = v.dot(plan.y, plan.y);
      guess = guess && left <= norm2;
      if (guess) residual2 = left;
    }
    if (guess) {
      v.set(residual, [&](int c) { return tile.at(plan.y + c, p); });
    } else {
      v.set(z, [](int) { return T(0); });
    }
    const double end = tolerance * tolerance * norm2;
    const bool active = solvable && !(residual2 <= end);
    v.set(plan.q, [&](int c) { return active ? tile.at(residual + c, p) : T(0); });
    if (lane() == 0) state_of<SolveState>(tile, p) = {norm2, residual2, end, 0, active, 0, 0};
  });
  for (int k = 0; k < options.iterations && any_active<SolveState>(tile, kParticles); ++k) {
    tile.tangents();
    tile.hessian_vector();
    for_particles(tile, kParticles, d, [&](int p, const auto& v) {
      SolveState state = state_of<SolveState>(tile, p);
      sync_warp();  // lane 0 writes it below
      if (!state.active) return;
      const double curvature = v.dot(plan.q, plan.y);
      const double length = state.residual2 / curvature;
      if (!(curvature > 0) || !(length < longest)) {
        state.indefinite = 1;
        state.active = 0;
      } else {
        v.set(z, [&](int c) { return tile.at(z + c, p) + static_cast<T>(length) * tile.at(plan.q + c, p); });
        v.set(residual, [&](int c) {
          return tile.at(residual + c, p) - static_cast<T>(length) * tile.at(plan.y + c, p);
        });
        const double next = v.dot(residual, residual);
        const T ratio = static_cast<T>(next / state.residual2);
        state.residual2 = next;
        ++state.steps;
        state.active = !(next <= state.end);
        v.set(plan.q, [&](int c) { return tile.at(residual + c, p) + ratio * tile.at(plan.q + c, p); });
      }
      if (!state.active) v.set(plan.q, [](int) { return T(0); });
      if (lane() == 0) state_of<SolveState>(tile, p) = state;
    });
  }
}

BRENIER_DEVICE inline CgReport report_of(const SolveState& state, double tolerance) {
  CgReport report;
  report.iterations = state.steps;
  report.indefinite = state.indefinite;
  if (state.norm2 == 0) return report;
  const bool finite = isfinite(state.norm2) && isfinite(state.residual2);
  report.worst_residual =
      finite ? sqrt(state.residual2 / state.norm2) : std::numeric_limits<double>::infinity();
  report.unconverged = tolerance > 0 && !(finite && state.residual2 <= state.end);
  return report;
}

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void solve_kernel(
    BRENIER_ARGUMENT SolveArgs<typename Form::Type> args) {
  const TilePlan& plan = args.tile.plan;
  const int d = args.tile.net.dim;
  const int n = args.tile.n;
  const TileMemory<Form> memory(args.tile, 0);
  auto tile = make_tile<Form>(args.tile, memory);
  const int stride = args.count * d;
  const int p = thread_index();
  for (int begin = block_index() * Form::kParticles; begin < n; begin += grid_size() * Form::kParticles) {
    gather_cloud(tile, args.tile, begin);
    gather(tile, plan.q, static_cast<const typename Form::Type*>(nullptr), n, begin, 0, 0, d, true);
    sync_block();
    tile.forward();
    tile.adjoint();
    CgReport report;
    for (int k = 0; k < args.count; ++k) {
      gather(tile, plan.vectors, args.p, n, begin, stride, k * d, d, true);
      gather(tile, plan.vectors + d, args.z, n, begin, stride, k * d, d, true);
      sync_block();
      conjugate_gradients<Form>(tile, plan, d, args.options);
      Form::TileType::for_each(d, [&](int c, int q) {
        if (begin + q < n) args.z[Index{begin + q} * stride + k * d + c] = tile.at(plan.vectors + d + c, q);
      });
      if (p < Form::kParticles) report.add(report_of(state_of<SolveState>(tile, p), args.options.tolerance));
      sync_block();
    }
    if (p < Form::kParticles && begin + p < n) args.reports[begin + p] = report;
  }
}

/// |p|^2 e_1^T log(T) e_1 for the vectors in the first `vectors` rows, into state.mean of each particle.
template <class Form>
BRENIER_DEVICE void lanczos(typename Form::TileType& tile, const TilePlan& plan, int d, int steps) {
  using T = typename Form::Type;
  constexpr int kParticles = Form::kParticles;
  const auto vector = [&](int j) { return plan.vectors + j * d; };
  const auto diagonal = [&](int p) { return tile.state(p) + kStateDoubles<LanczosState>; };
  for_particles(tile, kParticles, d, [&](int p, const auto& v) {
    const double norm2 = v.dot(vector(0), vector(0));
    const bool active = norm2 != 0;
    const double norm = sqrt(norm2);
    v.set(vector(0), [&](int c) {
      return active ? static_cast<T>(static_cast<double>(tile.at(vector(0) + c, p)) / norm) : T(0);
    });
    v.set(plan.q, [&](int c) { return tile.at(vector(0) + c, p); });
    if (lane() == 0) {
      LanczosState& state = state_of<LanczosState>(tile, p);
      state.norm2 = norm2, state.largest = 0, state.length = 0, state.active = active;
    }
  });
  for (int j = 0; j < steps && any_active<LanczosState>(tile, kParticles); ++j) {
    tile.tangents();
    tile.hessian_vector();
    for_particles(tile, kParticles, d, [&](int p, const auto& v) {
      LanczosState state = state_of<LanczosState>(tile, p);
      sync_warp();  // lane 0 writes it below
      if (!state.active) return;
      // Takes the components along v_j, ..., v_0 out of the product, twice: that is enough (Kahan and
      // Parlett).
      double alpha = 0;
      for (int pass = 0; pass < 2; ++pass) {
        for (int i = j; i >= 0; --i) {
          const double along = v.dot(vector(i), plan.y);
          const T part = static_cast<T>(along);
          v.set(plan.y, [&](int c) { return tile.at(plan.y + c, p) - part * tile.at(vector(i) + c, p); });
          if (i == j) alpha += along;
        }
      }
      const double beta = sqrt(v.dot(plan.y, plan.y));
      const double size = abs(alpha) + beta;
      if (size > state.largest) state.largest = size;
      state.length = j + 1;
      // What is left is rounding: the Krylov space is invariant.
      const double rounding = 16 * static_cast<double>(std::numeric_limits<T>::epsilon()) * state.largest;
      state.active = beta > rounding && j + 1 < steps;
      v.set(plan.q, [&](int c) {
        return state.active ? static_cast<T>(static_cast<double>(tile.at(plan.y + c, p)) / beta) : T(0);
      });
      if (state.active) v.set(vector(j + 1), [&](int c) { return tile.at(plan.q + c, p); });
      if (lane() == 0) {
        diagonal(p)[j] = alpha;
        diagonal(p)[steps + j] = beta;
        state_of<LanczosState>(tile, p) = state;
      }
    });
  }
  if (thread_index() < kParticles) {
    const int p = thread_index();
    LanczosState& state = state_of<LanczosState>(tile, p);
    double* t = diagonal(p);
    const double value =
        state.length == 0 ? 0.0 : state.norm2 * tridiagonal_log(state.length, t, t + steps, t + 2 * steps);
    state.mean.add(value);
  }
  sync_block();
}

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void lanczos_kernel(
    BRENIER_ARGUMENT SolveArgs<typename Form::Type> args) {
  const TilePlan& plan = args.tile.plan;
  const int d = args.tile.net.dim;
  const int n = args.tile.n;
  const TileMemory<Form> memory(args.tile, 0);
  auto tile = make_tile<Form>(args.tile, memory);
  const int p = thread_index();
  for (int begin = block_index() * Form::kParticles; begin < n; begin += grid_size() * Form::kParticles) {
    gather_cloud(tile, args.tile, begin);
    gather(tile, plan.q, static_cast<const typename Form::Type*>(nullptr), n, begin, 0, 0, d, true);
    if (p < Form::kParticles) state_of<LanczosState>(tile, p).mean = {};
    sync_block();
    tile.forward();
    tile.adjoint();
    for (int k = 0; k < args.count; ++k) {
      gather(tile, plan.vectors, args.p, n, begin, args.count * d, k * d, d, true);
      sync_block();
      lanczos<Form>(tile, plan, d, args.steps);
    }
    if (p < Form::kParticles && begin + p < n) {
      const RunningMean& mean = state_of<LanczosState>(tile, p).mean;
      args.estimate[begin + p] = mean.mean;
      args.variance[begin + p] = mean.variance();
    }
    sync_block();
  }
}

}  // namespace brenier::cuda
