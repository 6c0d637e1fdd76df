// SPDX-License-Identifier: MIT
// Divergences between a cloud and a fixed one on the cpu: entropic transport, MMD and energy distance.
#pragma once

#include <new>

#include "kernels/cpu/cloud/transport.hpp"
#include "kernels/model/kernel_mean.hpp"
#include "kernels/operations.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// Means of a kernel: see kernels/model/kernel_mean.hpp.
template <class T>
class KernelMeans {
 public:
  explicit KernelMeans(const DivergenceTerm& term) : kernel_(term) {}

  /// sum_i a_i sum_j b_j k(x_i, y_j) over the points x_i of a tile; force (64, ld of x), or null, gets
  /// factor * grad_i sum_j b_j k(x_i, y_j) added.
  double add(const CostPoints<T>& x, Index tile, const CostPoints<T>& y, T factor, T* force,
             TransportScratch<T>& scratch) const {
    constexpr int w = kWidth<T>;
    const int count = x.count(tile);
    double value = 0;
    for (Index panel = 0; panel < y.tiles; ++panel) {
      cost_block<T>(x, tile, y, panel, nullptr, nullptr, scratch.block, kLanes);
      with_kernel(kernel_, [&](const auto& kernel) {
        for (int i = 0; i < count; ++i) {
          Vec<T> k_sum = {}, q_sum = {};
          for (int j = 0; j < kLanes; j += w) {
            const Vec<T> c = max<T>(-load(scratch.block + i * kLanes + j), Vec<T>{});
            const Vec<T> b = load(y.weights + panel * kLanes + j);
            Vec<T> k, q;
            kernel.evaluate(c, VectorMath<T>(), k, q);
            k_sum += b * k;
            store(scratch.weights + i * kLanes + j, b * q);
            q_sum += b * q;
          }
          const std::size_t at = static_cast<std::size_t>(tile * kLanes + i);
          value += static_cast<double>(x.weights[at]) * static_cast<double>(sum_of<T>(k_sum));
          scratch.z[i] = static_cast<double>(sum_of<T>(q_sum));
        }
      });
      if (!force) continue;
      gemm<T>(count, x.ld, kLanes, as_is(scratch.weights, kLanes), y.rows + panel * kLanes * y.ld, y.ld,
              scratch.product, x.ld);
      for (int i = 0; i < count; ++i) {
        const T z = static_cast<T>(scratch.z[i]);
        for (Index c = 0; c < x.ld; c += w) {
          const Vec<T> here = load(x.rows + (tile * kLanes + i) * x.ld + c);
          T* out = force + i * x.ld + c;
          store(out, load(out) - factor * (z * here - load(scratch.product + i * x.ld + c)));
        }
      }
    }
    return value;
  }

 private:
  MeanKernel<T> kernel_;
};

/// One term and the memory of its evaluations: what all threads share.
template <class T>
class Divergence {
 public:
  /// For clouds of n particles of the weights given, or 1/n each; `team` is that of all calls. Potentials
  /// start from those of `state`, or null.
  Divergence(const DivergenceTerm& term, Index n, const double* weights, const DivergenceState* state,
             Team& team)
      : term_(term),
        reference_(term),
        n_(n),
        d_(term.reference->cols()),
        sinkhorn_(!is_kernel_mean(term.form)),
        debiased_(sinkhorn_ && term.sinkhorn.debiased),
        weights_(weights),
        stores_(sinkhorn_) {
    try {
      place(team.size());
    } catch (const std::bad_alloc&) {
      if (!stores_) throw;
      stores_ = false;
      place(team.size());
    }
    CostPoints<T>& y = parts().y;
    for (Index tile = 0; tile < y.tiles; ++tile) {
      y.set_tile(
          tile, [&](Index j, Index c) { return reference_.y(j, c); },
          [&](Index j) { return reference_.weights[static_cast<std::size_t>(j)]; });
    }
    if (!state) return;
    parts().cross.start_from(state->cross);
    parts().self.start_from(state->self);
  }
  ~Divergence() { parts().~Parts(); }
  Divergence(const Divergence&) = delete;
  Divergence& operator=(const Divergence&) = delete;

  /// Every thread of the team calls this: forces at the points at(i, c) + shift, of the mean given (of at).
  /// Begins after and ends with a barrier of all.
  template <class At>
  SinkhornReport evaluate(const At& at, const double* mean, const double* shift, int rank, Team& team) {
    Parts& p = parts();
    TransportScratch<T> scratch = scratch_of(rank);
    const auto [first, last] = team.share(p.x.tiles, rank);
    const auto moved = [&](Index c) { return shift ? shift[c] : 0.0; };
    const double* origin = reference_.mean.data();
    for (Index tile = first; tile < last; ++tile) {
      p.x.set_tile(
          tile,
          // About its own mean for transport, whose plans do not see it, else about the reference's.
          [&](Index i, Index c) { return at(i, c) - (sinkhorn_ ? mean[c] : origin[c] - moved(c)); },
          [&](Index i) { return weights_ ? weights_[i] : 1.0 / static_cast<double>(n_); });
      T* force = p.force + tile * kLanes * p.x.ld;
      for (int i = 0; i < kLanes; ++i) {
        for (Index c = 0; c < p.x.ld; ++c) {
          force[i * p.x.ld + c] = sinkhorn_ && c < d_ ? static_cast<T>(mean[c] + moved(c) - origin[c]) : T(0);
        }
      }
    }
    if (rank == 0) {
      p.offset[0] = 0;
      for (Index c = 0; sinkhorn_ && c < d_; ++c) {
        const double z = mean[c] + moved(c) - origin[c];
        p.offset[0] += z * z / 2;
      }
    }
    team.barrier();
    SinkhornReport report;
    if (sinkhorn_) {
      report = p.cross.solve(term_.sinkhorn, T(1), p.force, rank, team, scratch);
      if (debiased_) report.add(p.self.solve(term_.sinkhorn, T(-1), p.force, rank, team, scratch));
    } else {
      const KernelMeans<T> means(term_);
      const auto [begin, end] = p.cross.share(team, p.x.tiles, rank);
      for (Index tile = begin; tile < end; ++tile) {
        T* force = p.force + tile * kLanes * p.x.ld;
        const double within = means.add(p.x, tile, p.x, T(2), force, scratch);
        p.value[tile] = within - 2 * means.add(p.x, tile, p.y, T(-2), force, scratch);
      }
    }
    if (p.cross.spread(team)) {
      const RankPart parts[] = {
          RankPart::rows(p.force, static_cast<std::size_t>(kLanes * p.x.ld) * sizeof(T), p.x.tiles),
          RankPart::rows(p.value, sizeof(double), p.x.tiles)};
      meet(team, rank, parts);
    } else {
      team.barrier();
    }
    return report;
  }

  /// Row i of the last forces, d elements.
  const T* force(Index i) const { return parts().force + i * parts().x.ld; }

  /// D at the last points, less what depends on the reference alone.
  double value() const {
    const Parts& p = parts();
    if (sinkhorn_) return p.offset[0] + p.cross.value() - (debiased_ ? p.self.value() / 2 : 0.0);
    double sum = 0;
    for (Index tile = 0; tile < p.x.tiles; ++tile) sum += p.value[tile];
    return sum;
  }

  /// What depends on the reference alone.
  double reference_value(Team& team, SinkhornReport& report);

  bool has_reference_value() const { return !sinkhorn_ || debiased_; }

  void keep(DivergenceState& state) const {
    if (!sinkhorn_) return;
    state.cross.reset(n_, parts().y.n);
    parts().cross.keep(state.cross);
    if (!debiased_) return;
    state.self.reset(n_, n_);
    parts().self.keep(state.self);
  }

 private:
  struct Parts {
    CostPoints<T> x, y;
    T* force;        // (64 tiles, ld)
    double* value;   // (tiles)
    double* offset;  // half the squared distance of the means
    Transport<T> cross, self;

    Parts(const Divergence& owner, Carver& carver)
        : x(owner.n_, owner.d_, carver),
          y(owner.term_.reference->rows(), owner.d_, carver),
          force(carver.take<T>(x.tiles * kLanes * x.ld)),
          value(carver.take<double>(x.tiles)),
          offset(carver.take<double>(1)),
          cross(x, y, false, carver, owner.stores(x, y)),
          self(x, x, true, carver, owner.debiased_ && owner.stores(x, x)) {}
  };

  bool stores(const CostPoints<T>& x, const CostPoints<T>& y) const {
    return stores_ && stores_costs(x.n, y.n, d_, sizeof(T), term_.sinkhorn);
  }

  /// Allocates, for a team of that many threads. Throws std::bad_alloc.
  void place(int threads) {
    Carver count(nullptr);
    new (parts_) Parts(*this, count);
    parts().~Parts();
    const std::size_t shared = count.used();
    Carver one(nullptr);
    const TransportScratch<T> sizes((d_ + kWidth<T> - 1) / kWidth<T> * kWidth<T>, one);
    scratch_bytes_ = (one.used() + 4095) / 4096 * 4096;
    memory_ = Arena(shared + 64 + scratch_bytes_ * static_cast<std::size_t>(threads));
    Carver carver(memory_.data());
    new (parts_) Parts(*this, carver);
    scratch_ = memory_.data() + (shared + 63) / 64 * 64;
  }

  Parts& parts() { return *std::launder(reinterpret_cast<Parts*>(parts_)); }
  const Parts& parts() const { return *std::launder(reinterpret_cast<const Parts*>(parts_)); }
  TransportScratch<T> scratch_of(int rank) const {
    Carver carver(scratch_ + scratch_bytes_ * static_cast<std::size_t>(rank));
    return TransportScratch<T>((d_ + kWidth<T> - 1) / kWidth<T> * kWidth<T>, carver);
  }

  const DivergenceTerm& term_;
  CentredReference reference_;
  Index n_, d_;
  bool sinkhorn_, debiased_;
  const double* weights_;
  bool stores_;  // costs, where that pays
  std::size_t scratch_bytes_ = 0;
  Arena memory_;
  std::byte* scratch_ = nullptr;
  alignas(Parts) unsigned char parts_[sizeof(Parts)];
};

/// D of the reference with itself: its kernel mean, or -1/2 of its transport.
template <class T>
double Divergence<T>::reference_value(Team& team, SinkhornReport& report) {
  if (!has_reference_value()) return 0;
  const CostPoints<T>& y = parts().y;
  bool stored = stores(y, y);
  const auto allocate = [&] {
    Carver count(nullptr);
    const Transport<T> sizes(y, y, true, count, stored);
    count.take<double>(y.tiles);
    return Arena(count.used());
  };
  Arena memory;
  try {
    memory = allocate();
  } catch (const std::bad_alloc&) {
    if (!stored) throw;
    stored = false;
    memory = allocate();
  }
  Carver carver(memory.data());
  Transport<T> self(y, y, true, carver, stored);
  double* partial = carver.take<double>(y.tiles);
  SinkhornReport of_zero;
  const KernelMeans<T> means(term_);
  team.run([&](int rank) {
    TransportScratch<T> scratch = scratch_of(rank);
    if (sinkhorn_) {
      const SinkhornReport mine = self.solve(term_.sinkhorn, T(0), nullptr, rank, team, scratch);
      if (rank == 0) of_zero = mine;
      return;
    }
    const auto [first, last] = team.share(y.tiles, rank);
    for (Index tile = first; tile < last; ++tile)
      partial[tile] = means.add(y, tile, y, T(0), nullptr, scratch);
  });
  if (sinkhorn_) {
    report.add(of_zero);
    return -self.value() / 2;
  }
  double sum = 0;
  for (Index tile = 0; tile < y.tiles; ++tile) sum += partial[tile];
  return sum;
}

template <class T>
SinkhornReport divergence(const DivergenceTerm& term, const WeightedCloud<T>& cloud, double* value,
                          MatrixView<T> force, DivergenceState* state, Team& team) {
  const Index n = cloud.x.rows, d = cloud.x.cols;
  Divergence<T> solver(term, n, cloud.weights, state, team);
  const Arena storage(static_cast<std::size_t>(d) * sizeof(double));
  double* mean = reinterpret_cast<double*>(storage.data());
  for (Index i = 0; i < n; ++i) {
    const double weight = cloud.weights ? cloud.weights[i] : 1.0 / static_cast<double>(n);
    for (Index c = 0; c < d; ++c) mean[c] += weight * static_cast<double>(cloud.x(i, c));
  }
  SinkhornReport report;
  team.run([&](int rank) {
    const SinkhornReport mine = solver.evaluate(
        [&](Index i, Index c) { return static_cast<double>(cloud.x(i, c)); }, mean, cloud.shift, rank, team);
    if (rank == 0) report = mine;
  });
  for (Index i = 0; force && i < n; ++i) {
    for (Index c = 0; c < d; ++c) force(i, c) = solver.force(i)[c];
  }
  if (value) {
    *value = solver.value();
    if (state && state->has_reference) {
      *value += state->reference_value;
    } else {
      const double of_reference = solver.reference_value(team, report);
      *value += of_reference;
      if (state) {
        state->reference_value = of_reference;
        state->has_reference = true;
      }
    }
  }
  if (state) solver.keep(*state);
  return report;
}

}  // namespace brenier::cpu::BRENIER_ISA
