// SPDX-License-Identifier: MIT
// Linear solves with the Hessian and the quadrature of its log-determinant: all steps of a tile's particles
// in one kernel.
//
//   computes   solve_hessian() and log_det_lanczos() of kernels/operations.hpp, as
//              kernels/ref/network/solves.cpp does
//   layout     the direction lies in the q rows, its product with H in the y rows, other vectors in the
//              `vectors` rows; what a particle carries from step to step (SolveState, LanczosState) in the
//              doubles of the tile
//   launch     as tile kernels; the network is evaluated once a tile, a step is one sweep of tangents and
//              one of their adjoints by the whole block, then vector operations with one warp for a particle
//   sums       dot products in double, over the lanes in a fixed order
#pragma once

#include "kernels/cuda/network/gather.hpp"
#include "kernels/model/tridiagonal.hpp"
#include "kernels/operations.hpp"

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

/// One right-hand side of one particle; `report` of those before it.
struct SolveState {
  double norm2, residual2, end;
  int steps, active, indefinite, unused;
  CgReport report;
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

template <class State, class Owner>
BRENIER_DEVICE State& state_of(const Owner& owner, int p) {
  return *reinterpret_cast<State*>(owner.state(p));
}

/// Vectors of one particle, in the hands of a warp.
template <class Owner>
class Vectors {
 public:
  BRENIER_DEVICE Vectors(const Owner& owner, int d, int particle) : owner_(owner), d_(d), p_(particle) {}

  /// In every lane.
  BRENIER_DEVICE double dot(int a, int b) const {
    double sum = 0;
    for (int c = lane(); c < d_; c += 32) {
      sum += static_cast<double>(owner_.at(a + c, p_)) * static_cast<double>(owner_.at(b + c, p_));
    }
    return warp_sum(sum);
  }
  /// to[c] = f(c), then the warp sees it.
  template <class F>
  BRENIER_DEVICE void set(int to, const F& f) const {
    for (int c = lane(); c < d_; c += 32) owner_.at(to + c, p_) = f(c);
    sync_warp();
  }

 private:
  const Owner& owner_;
  int d_, p_;
};

/// Conjugate gradients on the vectors of one particle; every function is called by its warp. Rows: residual
/// (before the start the right-hand side) and z in `vectors`, direction in q, its product with H in y.
template <class T>
struct ConjugateGradients {
  CgOptions options;

  template <class Owner>
  BRENIER_DEVICE void guess(const Owner& owner, const PlanShape& plan, int d, int p) const {
    Vectors<Owner>(owner, d, p).set(plan.q, [&](int c) { return owner.at(plan.vectors + d + c, p); });
  }

  /// With a warm start y = H z.
  template <class Owner>
  BRENIER_DEVICE void start(const Owner& owner, const PlanShape& plan, int d, int p) const {
    const Vectors<Owner> v(owner, d, p);
    const int residual = plan.vectors;
    const int z = plan.vectors + d;
    const double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
    const double tolerance = options.tolerance > unit ? options.tolerance : unit;
    const double norm2 = v.dot(residual, residual);
    const bool solvable = isfinite(norm2) && norm2 != 0;
    double residual2 = norm2;
    bool keep = options.warm_start && solvable;
    if (options.warm_start) {  // y = p - H z, in place of H z
      v.set(plan.y, [&](int c) { return owner.at(residual + c, p) - owner.at(plan.y + c, p); });
      const double left = v.dot(plan.y, plan.y);
      keep = keep && left <= norm2;
      if (keep) residual2 = left;
    }
    if (keep) {
      v.set(residual, [&](int c) { return owner.at(plan.y + c, p); });
    } else {
      v.set(z, [](int) { return T(0); });
    }
    const double end = tolerance * tolerance * norm2;
    const bool active = solvable && !(residual2 <= end);
    v.set(plan.q, [&](int c) { return active ? owner.at(residual + c, p) : T(0); });
    if (lane() != 0) return;
    SolveState& state = state_of<SolveState>(owner, p);
    state.norm2 = norm2, state.residual2 = residual2, state.end = end;
    state.steps = 0, state.active = active, state.indefinite = 0;
  }

  /// After y = H q.
  template <class Owner>
  BRENIER_DEVICE void advance(const Owner& owner, const PlanShape& plan, int d, int p) const {
    advance(owner, plan, d, p, [](int, double, double) {});
  }
  /// The same; record(step, length, ratio of |r|^2 after to before) is called by every lane for a step that
  /// was taken.
  template <class Owner, class Record>
  BRENIER_DEVICE void advance(const Owner& owner, const PlanShape& plan, int d, int p,
                              const Record& record) const {
    const Vectors<Owner> v(owner, d, p);
    const int residual = plan.vectors;
    const int z = plan.vectors + d;
    SolveState state = state_of<SolveState>(owner, p);
    sync_warp();  // lane 0 writes it below
    if (!state.active) return;
    // A step that long would overflow T: the curvature is 0 to rounding.
    const double longest = sqrt(static_cast<double>(std::numeric_limits<T>::max()));
    const double curvature = v.dot(plan.q, plan.y);
    const double length = state.residual2 / curvature;
    if (!(curvature > 0) || !(length < longest)) {
      state.indefinite = 1;
      state.active = 0;
    } else {
      const T step = static_cast<T>(length);
      v.set(z, [&](int c) { return owner.at(z + c, p) + step * owner.at(plan.q + c, p); });
      v.set(residual, [&](int c) { return owner.at(residual + c, p) - step * owner.at(plan.y + c, p); });
      const double next = v.dot(residual, residual);
      const double fraction = next / state.residual2;
      const T ratio = static_cast<T>(fraction);
      record(state.steps, length, fraction);
      state.residual2 = next;
      ++state.steps;
      state.active = !(next <= state.end);
      v.set(plan.q, [&](int c) { return owner.at(residual + c, p) + ratio * owner.at(plan.q + c, p); });
    }
    if (!state.active) v.set(plan.q, [](int) { return T(0); });
    if (lane() == 0) state_of<SolveState>(owner, p) = state;
  }

  /// Adds this solve to the particle's report; one thread.
  template <class Owner>
  BRENIER_DEVICE void finish(const Owner& owner, int p) const {
    SolveState& state = state_of<SolveState>(owner, p);
    CgReport report;
    report.iterations = state.steps;
    report.indefinite = state.indefinite;
    if (state.norm2 != 0) {
      const bool finite = isfinite(state.norm2) && isfinite(state.residual2);
      report.worst_residual =
          finite ? sqrt(state.residual2 / state.norm2) : std::numeric_limits<double>::infinity();
      report.unconverged = options.tolerance > 0 && !(finite && state.residual2 <= state.end);
    }
    state.report.add(report);
  }
};

/// Lanczos on the vectors of one particle. Rows: v_0, v_1, ... in `vectors`, the latest in q, its product
/// with H in y.
template <class T>
struct Lanczos {
  int steps;

  template <class Owner>
  BRENIER_DEVICE static double* matrix(const Owner& owner, int p) {
    return owner.state(p) + kStateDoubles<LanczosState>;
  }

  template <class Owner>
  BRENIER_DEVICE void start(const Owner& owner, const PlanShape& plan, int d, int p) const {
    const Vectors<Owner> v(owner, d, p);
    const double norm2 = v.dot(plan.vectors, plan.vectors);
    const bool active = norm2 != 0;
    const double norm = sqrt(norm2);
    v.set(plan.vectors, [&](int c) {
      return active ? static_cast<T>(static_cast<double>(owner.at(plan.vectors + c, p)) / norm) : T(0);
    });
    v.set(plan.q, [&](int c) { return owner.at(plan.vectors + c, p); });
    if (lane() != 0) return;
    LanczosState& state = state_of<LanczosState>(owner, p);
    state.norm2 = norm2, state.largest = 0, state.length = 0, state.active = active;
  }

  /// Step j, after y = H v_j.
  template <class Owner>
  BRENIER_DEVICE void advance(const Owner& owner, const PlanShape& plan, int d, int p, int j) const {
    const Vectors<Owner> v(owner, d, p);
    LanczosState state = state_of<LanczosState>(owner, p);
    sync_warp();  // lane 0 writes it below
    if (!state.active) return;
    // Takes the components along v_j, ..., v_0 out of the product, twice: that is enough (Kahan and Parlett).
    double alpha = 0;
    for (int pass = 0; pass < 2; ++pass) {
      for (int i = j; i >= 0; --i) {
        const int before = plan.vectors + i * d;
        const double along = v.dot(before, plan.y);
        const T part = static_cast<T>(along);
        v.set(plan.y, [&](int c) { return owner.at(plan.y + c, p) - part * owner.at(before + c, p); });
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
      return state.active ? static_cast<T>(static_cast<double>(owner.at(plan.y + c, p)) / beta) : T(0);
    });
    if (state.active) {
      v.set(plan.vectors + (j + 1) * d, [&](int c) { return owner.at(plan.q + c, p); });
    }
    if (lane() != 0) return;
    matrix(owner, p)[j] = alpha;
    matrix(owner, p)[steps + j] = beta;
    state_of<LanczosState>(owner, p) = state;
  }

  /// Adds |p|^2 e_1^T log(T) e_1 to the particle's mean; one thread.
  template <class Owner>
  BRENIER_DEVICE void finish(const Owner& owner, int p) const {
    LanczosState& state = state_of<LanczosState>(owner, p);
    double* t = matrix(owner, p);
    const double value =
        state.length == 0 ? 0.0 : state.norm2 * tridiagonal_log(state.length, t, t + steps, t + 2 * steps);
    state.mean.add(value);
  }
};

/// f(p) for the particles of a tile, one warp for each; then a barrier.
template <class F>
BRENIER_DEVICE void for_particles(int particles, const F& f) {
  for (int p = warp(); p < particles; p += warp_count()) f(p);
  sync_block();
}

template <class State, class Owner>
BRENIER_DEVICE bool any_active(const Owner& owner, int particles) {
  bool active = false;
  for (int p = 0; p < particles; ++p) active = active || state_of<State>(owner, p).active != 0;
  return active;
}

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void solve_kernel(
    BRENIER_ARGUMENT SolveArgs<typename Form::Type> args) {
  using T = typename Form::Type;
  constexpr int kParticles = Form::kParticles;
  const TileLayout& plan = args.tile.plan;
  const int d = args.tile.net.dim;
  const int n = args.tile.n;
  const TileMemory<Form> memory(args.tile, 0);
  auto tile = make_tile<Form>(args.tile, memory);
  const ConjugateGradients<T> cg{args.options};
  const int stride = args.count * d;
  for (int begin = block_index() * kParticles; begin < n; begin += grid_size() * kParticles) {
    gather_cloud(tile, args.tile, begin);
    gather(tile, plan.q, static_cast<const T*>(nullptr), n, begin, 0, 0, d, true);
    if (thread_index() < kParticles) state_of<SolveState>(tile, thread_index()).report = {};
    sync_block();
    tile.forward();
    tile.adjoint();
    for (int k = 0; k < args.count; ++k) {
      gather(tile, plan.vectors, args.p, n, begin, stride, k * d, d, true);
      gather(tile, plan.vectors + d, args.z, n, begin, stride, k * d, d, true);
      sync_block();
      if (args.options.warm_start) {
        for_particles(kParticles, [&](int p) { cg.guess(tile, plan, d, p); });
        tile.tangents();
        tile.hessian_vector();
      }
      for_particles(kParticles, [&](int p) { cg.start(tile, plan, d, p); });
      for (int j = 0; j < args.options.iterations && any_active<SolveState>(tile, kParticles); ++j) {
        tile.tangents();
        tile.hessian_vector();
        for_particles(kParticles, [&](int p) { cg.advance(tile, plan, d, p); });
      }
      tile.for_each(d, [&](int c, int p) {
        if (begin + p < n) args.z[Index{begin + p} * stride + k * d + c] = tile.at(plan.vectors + d + c, p);
      });
      if (thread_index() < kParticles) cg.finish(tile, thread_index());
      sync_block();
    }
    const int p = thread_index();
    if (p < kParticles && begin + p < n) args.reports[begin + p] = state_of<SolveState>(tile, p).report;
    sync_block();
  }
}

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void lanczos_kernel(
    BRENIER_ARGUMENT SolveArgs<typename Form::Type> args) {
  using T = typename Form::Type;
  constexpr int kParticles = Form::kParticles;
  const TileLayout& plan = args.tile.plan;
  const int d = args.tile.net.dim;
  const int n = args.tile.n;
  const TileMemory<Form> memory(args.tile, 0);
  auto tile = make_tile<Form>(args.tile, memory);
  const Lanczos<T> lanczos{args.steps};
  const int p = thread_index();
  for (int begin = block_index() * kParticles; begin < n; begin += grid_size() * kParticles) {
    gather_cloud(tile, args.tile, begin);
    gather(tile, plan.q, static_cast<const T*>(nullptr), n, begin, 0, 0, d, true);
    if (p < kParticles) state_of<LanczosState>(tile, p).mean = {};
    sync_block();
    tile.forward();
    tile.adjoint();
    for (int k = 0; k < args.count; ++k) {
      gather(tile, plan.vectors, args.p, n, begin, args.count * d, k * d, d, true);
      sync_block();
      for_particles(kParticles, [&](int q) { lanczos.start(tile, plan, d, q); });
      for (int j = 0; j < args.steps && any_active<LanczosState>(tile, kParticles); ++j) {
        tile.tangents();
        tile.hessian_vector();
        for_particles(kParticles, [&](int q) { lanczos.advance(tile, plan, d, q, j); });
      }
      if (p < kParticles) lanczos.finish(tile, p);
      sync_block();
    }
    if (p < kParticles && begin + p < n) {
      const RunningMean& mean = state_of<LanczosState>(tile, p).mean;
      args.estimate[begin + p] = mean.mean;
      args.variance[begin + p] = mean.variance();
    }
    sync_block();
  }
}

}  // namespace brenier::cuda
