// SPDX-License-Identifier: MIT
// Conjugate gradients and Lanczos on a tile of 64 particles, each lane a problem of its own. The network is
// evaluated once a tile; all steps then work on what forward() and adjoint() left, in the nearest caches.
// Lanes that have ended are masked, never multiplied by 0: what is not finite stays in its lane.
//
// Dot products are summed in T: four sums side by side over blocks of 128 components, so that their relative
// error is at most (35 + d/128) rounding units. That of the product with H that each of them follows is as
// large, so sums in double would cost conversions and buy no digit.
#pragma once

#include "kernels/cpu/network/tile.hpp"
#include "kernels/cpu/parallel.hpp"
#include "kernels/model/tridiagonal.hpp"
#include "kernels/operations.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// sum_c a_c b_c over d rows of a tile, in the lanes of one vector.
template <class T>
inline Vec<T> dot_rows(Index d, const T* a, const T* b) {
  constexpr Index kBlock = 128;
  Vec<T> total = {};
  for (Index first = 0; first < d; first += kBlock) {
    const Index last = d - first < kBlock ? d : first + kBlock;
    Vec<T> sum[4] = {};
    Index c = first;
    for (; c + 4 <= last; c += 4) {
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) sum[n] += load(a + (c + n) * kLanes) * load(b + (c + n) * kLanes);
    }
    for (; c < last; ++c) sum[0] += load(a + c * kLanes) * load(b + c * kLanes);
    total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
  return total;
}

/// out = p / scale, with scale the largest |p_c| of each lane (at least the smallest normal number), so that
/// squares neither overflow nor vanish; norm2 = |out|^2, 0 for p = 0 and not finite where p is not.
template <class T>
inline void normalise_rows(Index d, const T* p, T* out, T* scale, T* norm2) {
  constexpr int w = kWidth<T>;
  for (int part = 0; part < kLanes; part += w) {
    Vec<T> largest = broadcast(std::numeric_limits<T>::min());
    for (Index c = 0; c < d; ++c) largest = max<T>(largest, abs<T>(load(p + c * kLanes + part)));
    const Vec<T> inverse = T(1) / largest;
    for (Index c = 0; c < d; ++c) {
      const Index at = c * kLanes + part;
      store(out + at, load(p + at) * inverse);
    }
    store(scale + part, largest);
    store(norm2 + part, dot_rows<T>(d, out + part, out + part));
  }
}

template <class T>
inline bool is_positive_finite(T value) {
  return value > 0 && value <= std::numeric_limits<T>::max();
}

/// Conjugate gradients for one right-hand side a lane.
template <class T>
class TileCg {
 public:
  /// `recorded` steps of each solve are kept for log_quadrature().
  TileCg(Index d, int recorded, Carver& carver)
      : d_(d),
        recorded_(recorded),
        residual_(carver.take<T>(d * kLanes)),
        direction_(carver.take<T>(d * kLanes)),
        product_(carver.take<T>(d * kLanes)),
        lengths_(carver.take<T>(recorded * kLanes)),
        ratios_(carver.take<T>(recorded * kLanes)),
        work_(carver.take<double>(3 * recorded)) {}

  /// z ~ H^{-1} p, both (d, 64), for a network after adjoint(); z holds the guesses of a warm start. Takes
  /// the first `count` lanes into the report.
  void solve(TileNet<T>& net, const T* p, T* z, const CgOptions& options, int count, CgReport& report) {
    start(net, p, z, options);
    bool open = any_active();
    for (int k = 0; k < options.iterations && open; ++k) {
      net.hessian_vector(direction_, product_);
      choose_lengths();
      move(z);
      choose_directions(k);
      open = any_active();
    }
    for (int part = 0; part < kLanes; part += w) {
      for (Index c = 0; c < d_; ++c) {
        T* row = z + c * kLanes + part;
        store(row, load(row) * load(scale_ + part));
      }
    }
    for (int i = 0; i < count; ++i) add_lane(i, options.tolerance > 0, report);
  }

  /// p^T log(H) p of lane i of the last solve, which had no warm start, by the Gauss quadrature that belongs
  /// to its steps; 0 where there were none.
  double log_quadrature(int i) const {
    if (steps_[i] == 0) return 0;
    double* off_diagonal = work_ + recorded_;
    double carry = 0;
    for (int j = 0; j < steps_[i]; ++j) {
      cg_lanczos_row(static_cast<double>(lengths_[j * kLanes + i]),
                     static_cast<double>(ratios_[j * kLanes + i]), carry, work_[j], off_diagonal[j]);
    }
    const double scale = static_cast<double>(scale_[i]);
    return scale * scale * static_cast<double>(norm2_[i]) *
           host::tridiagonal_log(steps_[i], work_, off_diagonal, off_diagonal + recorded_);
  }

 private:
  static constexpr int w = kWidth<T>;

  void start(TileNet<T>& net, const T* p, T* z, const CgOptions& options) {
    normalise_rows<T>(d_, p, residual_, scale_, norm2_);
    const T least = std::numeric_limits<T>::epsilon();
    const T tolerance =
        options.tolerance > static_cast<double>(least) ? static_cast<T>(options.tolerance) : least;
    for (int i = 0; i < kLanes; ++i) {
      solvable_[i] = is_positive_finite(norm2_[i]) ? T(1) : T(0);
      residual2_[i] = norm2_[i];
      end_[i] = tolerance * tolerance * norm2_[i];
      steps_[i] = 0;
      indefinite_[i] = 0;
    }
    for (int part = 0; part < kLanes; part += w) {
      const Vec<T> solvable = load(solvable_ + part);
      store(scale_ + part, solvable > T(0) ? load(scale_ + part) : broadcast(T(1)));
      const Vec<T> inverse = T(1) / load(scale_ + part);
      for (Index at = part; at < d_ * kLanes; at += kLanes) {
        store(residual_ + at, solvable > T(0) ? load(residual_ + at) : Vec<T>{});
        store(z + at, options.warm_start ? load(z + at) * inverse : Vec<T>{});
      }
    }
    if (options.warm_start) take_guess(net, z);
    copy_rows(direction_, residual_, d_);
    for (int i = 0; i < kLanes; ++i) active_[i] = solvable_[i] > 0 && !(residual2_[i] <= end_[i]);
  }

  /// Keeps the guess in z where it is better than 0, and puts 0 there elsewhere.
  void take_guess(TileNet<T>& net, T* z) {
    net.hessian_vector(z, product_);
    for (int part = 0; part < kLanes; part += w) {
      for (Index at = part; at < d_ * kLanes; at += kLanes) {
        store(product_ + at, load(residual_ + at) - load(product_ + at));
      }
      const Vec<T> left = dot_rows<T>(d_, product_ + part, product_ + part);
      const VecInt<T> better = (left <= load(norm2_ + part)) & (load(solvable_ + part) > T(0));
      for (Index at = part; at < d_ * kLanes; at += kLanes) {
        store(residual_ + at, better ? load(product_ + at) : load(residual_ + at));
        store(z + at, better ? load(z + at) : Vec<T>{});
      }
      store(residual2_ + part, better ? left : load(residual2_ + part));
    }
  }

  /// length = |r|^2 / s^T H s; 0 in the lanes that have ended or end here.
  void choose_lengths() {
    for (int part = 0; part < kLanes; part += w) {
      store(curvature_ + part, dot_rows<T>(d_, direction_ + part, product_ + part));
    }
    // A step that long would overflow T: the curvature is 0 to rounding. The square root of the largest
    // number is about 2^64 or 2^512.
    const T longest = sizeof(T) == 4 ? T(0x1p64) : static_cast<T>(0x1p512);
    for (int i = 0; i < kLanes; ++i) {
      const T length = residual2_[i] / curvature_[i];
      const bool good = curvature_[i] > 0 && length < longest;
      length_[i] = active_[i] && good ? length : T(0);
      indefinite_[i] |= active_[i] && !good;
      active_[i] = active_[i] && good;
      steps_[i] += active_[i];
    }
  }

  /// z += length s and r -= length H s, and the new |r|^2.
  void move(T* z) {
    for (int part = 0; part < kLanes; part += w) {
      const Vec<T> length = load(length_ + part);
      for (Index at = part; at < d_ * kLanes; at += kLanes) {
        const Vec<T> r = load(residual_ + at);
        const Vec<T> from = load(z + at);
        store(z + at, length > T(0) ? from + length * load(direction_ + at) : from);
        store(residual_ + at, length > T(0) ? r - length * load(product_ + at) : r);
      }
      store(curvature_ + part, dot_rows<T>(d_, residual_ + part, residual_ + part));
    }
  }

  /// s = r + |r|^2 / |r before|^2 s. A preconditioner would act on r here, and in |r|^2.
  void choose_directions(int step) {
    if (step < recorded_) {
      for (int i = 0; i < kLanes; i += w) {
        store(lengths_ + step * kLanes + i, load(length_ + i));
        store(ratios_ + step * kLanes + i, load(curvature_ + i) / load(residual2_ + i));
      }
    }
    for (int i = 0; i < kLanes; ++i) {
      const T next = curvature_[i];
      active_[i] = active_[i] && !(next <= end_[i]);
      ratio_[i] = active_[i] ? next / residual2_[i] : T(-1);  // -1: ended
      residual2_[i] = next;
    }
    for (int part = 0; part < kLanes; part += w) {
      const Vec<T> ratio = load(ratio_ + part);
      for (Index at = part; at < d_ * kLanes; at += kLanes) {
        const Vec<T> moved = load(residual_ + at) + ratio * load(direction_ + at);
        store(direction_ + at, ratio >= T(0) ? moved : Vec<T>{});
      }
    }
  }

  bool any_active() const {
    int sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += active_[i];
    return sum > 0;
  }

  void add_lane(int i, bool has_tolerance, CgReport& report) const {
    CgReport lane;
    lane.iterations = steps_[i];
    lane.indefinite = indefinite_[i];
    if (norm2_[i] != 0) {
      const T square = residual2_[i] / norm2_[i];
      const bool finite = solvable_[i] > 0 && square <= std::numeric_limits<T>::max();
      lane.worst_residual = finite ? __builtin_sqrt(static_cast<double>(square)) : __builtin_inf();
      lane.unconverged = has_tolerance && !(finite && residual2_[i] <= end_[i]);
    }
    report.add(lane);
  }

  Index d_;
  int recorded_;
  T *residual_, *direction_, *product_;  // (d, 64), of p / scale
  T *lengths_, *ratios_;                 // (recorded, 64): of each step, and of |r|^2 after it to before
  double* work_;                         // (3, recorded)
  alignas(64) T scale_[kLanes], norm2_[kLanes], end_[kLanes], solvable_[kLanes];
  alignas(64) T residual2_[kLanes], curvature_[kLanes], length_[kLanes], ratio_[kLanes];
  int active_[kLanes], steps_[kLanes], indefinite_[kLanes];
};

/// Lanczos for one starting vector a lane, with full re-orthogonalisation.
template <class T>
class TileLanczos {
 public:
  /// Steps beyond d would find nothing.
  TileLanczos(Index d, int steps, Carver& carver)
      : d_(d),
        steps_(steps < d ? steps : static_cast<int>(d)),
        basis_(carver.take<T>((steps_ + 1) * d * kLanes)),
        diagonal_(carver.take<double>(steps_ * kLanes)),
        off_diagonal_(carver.take<double>(steps_ * kLanes)),
        work_(carver.take<double>(3 * steps_)) {}

  /// value (64) = |p|^2 e_1^T log(T) e_1 for p (d, 64), and a network after adjoint().
  void solve(TileNet<T>& net, const T* p, double* value) {
    normalise_rows<T>(d_, p, basis_, scale_, norm2_);
    bool open = false;
    for (int i = 0; i < kLanes; ++i) {
      length_[i] = 0;
      largest_[i] = T(0);
      inverse_[i] =
          norm2_[i] != 0 ? static_cast<T>(1 / __builtin_sqrt(static_cast<double>(norm2_[i]))) : T(0);
      active_[i] = norm2_[i] != 0;
      open = open || active_[i];
    }
    scale_vector(basis_);
    for (int j = 0; j < steps_ && open; ++j) {
      T* rest = vector(j + 1);
      net.hessian_vector(vector(j), rest);
      orthogonalise(j);
      open = false;
      for (int i = 0; i < kLanes; ++i) {
        close_step(j, i);
        open = open || active_[i];
      }
      scale_vector(rest);
    }
    for (int i = 0; i < kLanes; ++i) value[i] = quadrature(i);
  }

 private:
  static constexpr int w = kWidth<T>;

  T* vector(int j) { return basis_ + j * d_ * kLanes; }

  void scale_vector(T* v) {
    for (int part = 0; part < kLanes; part += w) {
      const Vec<T> inverse = load(inverse_ + part);
      for (Index at = part; at < d_ * kLanes; at += kLanes) {
        store(v + at, inverse > T(0) ? load(v + at) * inverse : Vec<T>{});
      }
    }
  }

  /// Takes the components along v_j, ..., v_0 out of vector j + 1, twice: that is enough (Kahan and Parlett).
  /// alpha is what lies along v_j, beta what is left.
  void orthogonalise(int j) {
    T* rest = vector(j + 1);
    for (int part = 0; part < kLanes; part += w) {
      Vec<T> alpha = {};
      for (int pass = 0; pass < 2; ++pass) {
        for (int i = j; i >= 0; --i) {
          const T* v = vector(i);
          const Vec<T> along = dot_rows<T>(d_, v + part, rest + part);
          if (i == j) alpha += along;
          for (Index at = part; at < d_ * kLanes; at += kLanes) {
            store(rest + at, load(rest + at) - along * load(v + at));
          }
        }
      }
      store(alpha_ + part, alpha);
      store(beta_ + part, sqrt<T>(dot_rows<T>(d_, rest + part, rest + part)));
    }
  }

  /// One step of one lane; ends it where what is left is rounding: the Krylov space is invariant.
  void close_step(int j, int i) {
    const T alpha = alpha_[i];
    const T beta = beta_[i];
    const T size = (alpha < 0 ? -alpha : alpha) + beta;
    diagonal_[j * kLanes + i] = static_cast<double>(alpha);
    off_diagonal_[j * kLanes + i] = static_cast<double>(beta);
    length_[i] += active_[i];
    largest_[i] = size > largest_[i] ? size : largest_[i];
    active_[i] = active_[i] && beta > 16 * std::numeric_limits<T>::epsilon() * largest_[i];
    inverse_[i] = active_[i] ? T(1) / beta : T(0);
  }

  double quadrature(int i) {
    if (length_[i] == 0) return 0;
    double* off_diagonal = work_ + steps_;
    for (int j = 0; j < length_[i]; ++j) {
      work_[j] = diagonal_[j * kLanes + i];
      off_diagonal[j] = off_diagonal_[j * kLanes + i];
    }
    const double scale = static_cast<double>(scale_[i]);
    return scale * scale * static_cast<double>(norm2_[i]) *
           host::tridiagonal_log(length_[i], work_, off_diagonal, off_diagonal + steps_);
  }

  Index d_;
  int steps_;
  T* basis_;                          // (steps + 1, d, 64)
  double *diagonal_, *off_diagonal_;  // (steps, 64)
  double* work_;                      // (3, steps)
  alignas(64) T scale_[kLanes], norm2_[kLanes], inverse_[kLanes], largest_[kLanes], alpha_[kLanes],
      beta_[kLanes];
  int active_[kLanes], length_[kLanes];
};

template <class T>
CgReport solve_hessian(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                       MatrixView<T> z, const CgOptions& options, Team& team) {
  const Index d = net.dim();
  const Index tiles = tiles_of(x.rows);
  struct Worker {
    TileNet<T> net;
    TileCg<T> cg;
    T *p, *z;
  };
  const auto make = [&](Carver& carver) {
    Worker worker{TileNet<T>(net, {.gradient = false, .product = true}, carver), TileCg<T>(d, 0, carver),
                  carver.take<T>(d * kLanes), carver.take<T>(d * kLanes)};
    if (worker.p) worker.net.set_parameters(theta);
    return worker;
  };
  const Arena storage(static_cast<std::size_t>(tiles) * sizeof(CgReport));
  CgReport* reports = reinterpret_cast<CgReport*>(storage.data());  // of tiles
  parallel_tiles(x.rows, team, make, [&](Worker& worker, Index begin, int count) {
    gather<T>(x, begin, count, 0, d, worker.net.inputs(), false);
    worker.net.forward();
    worker.net.adjoint();
    for (Index at = 0; at < p.cols; at += d) {
      gather<T>(p, begin, count, at, d, worker.p, true);
      if (options.warm_start) gather<T>(MatrixView<const T>(z), begin, count, at, d, worker.z, true);
      worker.cg.solve(worker.net, worker.p, worker.z, options, count, reports[begin / kLanes]);
      scatter<T>(worker.z, {z.data + at, z.rows, d, z.ld}, begin, count, d);
    }
  });
  CgReport report;
  for (Index tile = 0; tile < tiles; ++tile) report.add(reports[tile]);
  return report;
}

template <class T>
void log_det_lanczos(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p, int steps,
                     double* estimate, double* variance, Team& team) {
  const Index d = net.dim();
  struct Worker {
    TileNet<T> net;
    TileLanczos<T> lanczos;
    T* p;
    double* value;
    RunningMean* mean;
  };
  const auto make = [&](Carver& carver) {
    Worker worker{TileNet<T>(net, {.gradient = false, .product = true}, carver),
                  TileLanczos<T>(d, steps, carver), carver.take<T>(d * kLanes), carver.take<double>(kLanes),
                  carver.take<RunningMean>(kLanes)};
    if (worker.p) worker.net.set_parameters(theta);
    return worker;
  };
  parallel_tiles(x.rows, team, make, [&](Worker& worker, Index begin, int count) {
    gather<T>(x, begin, count, 0, d, worker.net.inputs(), false);
    worker.net.forward();
    worker.net.adjoint();
    for (int i = 0; i < count; ++i) worker.mean[i] = {};
    for (Index at = 0; at < p.cols; at += d) {
      gather<T>(p, begin, count, at, d, worker.p, true);
      worker.lanczos.solve(worker.net, worker.p, worker.value);
      for (int i = 0; i < count; ++i) worker.mean[i].add(worker.value[i]);
    }
    for (int i = 0; i < count; ++i) estimate[begin + i] = worker.mean[i].mean;
    for (int i = 0; variance && i < count; ++i) variance[begin + i] = worker.mean[i].variance();
  });
}

}  // namespace brenier::cpu::BRENIER_ISA
