// SPDX-License-Identifier: MIT
// Entropic optimal transport on the cpu: Sinkhorn's algorithm on the logarithms. What is stored of the cost
// is E = f + g - C with the potentials as they were when epsilon last fell (Schmitzer, SIAM J. Sci. Comput.
// 41, 2019, section 3.1): entries that matter are small, and keep their digits in single precision. The steps
// change f and g by df and dg. While epsilon falls, f and g are updated from the same potentials and go half
// of the way, as symmetric problems do at any epsilon: between equal clouds f = g stays true, where updates
// in turns would take thousands of steps to find back to it. Most exponents are far below those that matter,
// and their blocks are left out.
//
// All threads of a team run solve() together, and those of all processes where it has such. Rows are dealt out in tiles of
// 64, and so are columns; every sum is taken by one thread, in one order. Processes tell each other the potentials of their
// rows and columns after each half of a step.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/cpu/cloud/costs.hpp"
#include "kernels/model/divergence.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// What one thread of a solve owns.
template <class T>
struct TransportScratch {
  T* block;    // (64, 64)
  T* weights;  // (64, 64)
  T* product;  // (64, ld)
  T* sum;      // (64, ld)
  double* z;   // (64)

  TransportScratch(Index ld, Carver& carver)
      : block(carver.take<T>(kLanes * kLanes)),
        weights(carver.take<T>(kLanes * kLanes)),
        product(carver.take<T>(kLanes * ld)),
        sum(carver.take<T>(kLanes * ld)),
        z(carver.take<double>(kLanes)) {}
};

template <class T>
class Transport {
 public:
  /// Potentials start at 0. `symmetric`: x and y are one cloud.
  Transport(const CostPoints<T>& x, const CostPoints<T>& y, bool symmetric, Carver& carver, bool stored)
      : x_(x),
        y_(y),
        symmetric_(symmetric),
        ld_(y.tiles * kLanes + kWidth<T>),
        stored_(stored),
        e_(carver.take<T>(stored_ ? x.tiles * kLanes * ld_ : 1)),
        f_(carver.take<double>(x.tiles * kLanes)),
        g_(carver.take<double>(y.tiles * kLanes)),
        df_(carver.take<T>(x.tiles * kLanes)),
        dg_(carver.take<T>(y.tiles * kLanes)),
        next_(carver.take<T>(x.tiles * kLanes)),
        error_(carver.take<double>(x.tiles)) {}

  /// Takes over potentials, before the threads start.
  void start_from(const TransportDuals& duals) {
    warm_ = duals.fit(x_.n, y_.n);
    schedule_error_ = duals.schedule_error;
    for (Index i = 0; warm_ && i < x_.n; ++i) f_[i] = duals.f[i];
    for (Index j = 0; warm_ && j < y_.n; ++j) g_[j] = duals.g[j];
  }
  /// Hands them out, `duals` of the right sizes.
  void keep(TransportDuals& duals) const {
    for (Index i = 0; i < x_.n; ++i) duals.f[i] = f_[i] + static_cast<double>(df_[i]);
    for (Index j = 0; j < y_.n; ++j) duals.g[j] = g_[j] + static_cast<double>(dg_[j]);
    duals.schedule_error = schedule_error_;
  }

  /// Whether processes share the solve, and the tiles of one thread: forces come for these alone.
  bool spread(const Team& team) const {
    return spread_tiles(team, x_.tiles > y_.tiles ? x_.tiles : y_.tiles);
  }
  std::pair<Index, Index> share(const Team& team, Index tiles, int rank) const {
    return spread(team) ? share_of_all(team, tiles, rank) : team.share(tiles, rank);
  }

  /// <a, f> + <b, g>, after a solve.
  double value() const {
    double sum = 0;
    for (Index i = 0; i < x_.n; ++i) {
      sum += static_cast<double>(x_.weights[i]) * (f_[i] + static_cast<double>(df_[i]));
    }
    for (Index j = 0; j < y_.n; ++j) {
      sum += static_cast<double>(y_.weights[j]) * (g_[j] + static_cast<double>(dg_[j]));
    }
    return sum;
  }

  /// Every thread calls this with the points in place and a barrier behind it; begins with a barrier of its
  /// own and ends without one. force (64 tiles, ld of x) += factor * (x_i - sum_j P_ij y_j / a_i), or null.
  SinkhornReport solve(SinkhornOptions options, T factor, T* force, int rank, Team& team,
                       TransportScratch<T>& scratch) {
    SinkhornReport report;
    report.solves = 1;
    const double bound = 2 * (x_.largest_half_square() + y_.largest_half_square());
    options.epsilon = solved_epsilon(bound, static_cast<double>(std::numeric_limits<T>::epsilon()), options);
    const bool warm = warm_;
    const double limit = warm_limit(schedule_error_);
    begin(rank, team, !warm);
    bool done = false;
    if (warm) {
      iterate(options, options.warm_iterations, rank, team, scratch, report);
      done = report.marginal_error <= limit;
      if (!done) begin(rank, team, true);
    }
    if (!done) {
      report.schedules = 1;
      const double first = first_epsilon(bound, options);
      for (double epsilon = first; epsilon > options.epsilon; epsilon = next_epsilon(epsilon, options)) {
        rows(epsilon, Pass::half, true, rank, team, scratch);
        columns(epsilon, Pass::half, rank, team, scratch);
        begin(rank, team, false);
      }
      iterate(options, options.iterations, rank, team, scratch, report);
    }
    const auto [first_tile, last_tile] = share(team, x_.tiles, rank);
    for (Index tile = first_tile; force && tile < last_tile; ++tile) {
      force_tile(tile, options.epsilon, factor, force + tile * kLanes * x_.ld, scratch);
    }
    if (rank == 0) {
      warm_ = true;
      if (!done) schedule_error_ = report.marginal_error;
    }
    report.unconverged = options.tolerance > 0 && !(report.marginal_error <= tolerance(options)) ? 1 : 0;
    return report;
  }

 private:
  static constexpr int w = kWidth<T>;
  static constexpr int kGroup = 4 * w;  // entries that are left out together
  /// How far an update goes: half of the way where epsilon falls and where the problem is symmetric.
  enum class Pass { half, step, last };

  static double tolerance(const SinkhornOptions& options) {
    const double floor = 128 * static_cast<double>(std::numeric_limits<T>::epsilon());
    return options.tolerance > floor ? options.tolerance : floor;
  }

  /// The potentials of the last solve in one place, or 0; no potential reaches the padding of y.
  void begin(int rank, Team& team, bool reset) {
    const auto [first_row, last_row] = team.share(x_.tiles, rank);
    for (Index i = first_row * kLanes; i < last_row * kLanes; ++i) {
      f_[i] = reset ? 0 : f_[i] + static_cast<double>(df_[i]);
      df_[i] = T(0);
    }
    const auto [first_column, last_column] = team.share(y_.tiles, rank);
    for (Index j = first_column * kLanes; j < last_column * kLanes; ++j) {
      g_[j] = reset ? 0 : g_[j] + static_cast<double>(dg_[j]);
      dg_[j] = T(0);
      if (j >= y_.n) g_[j] = -1e30;
    }
    if (rank == 0) {
      const double least =
          static_cast<double>(x_.least_weight() < y_.least_weight() ? x_.least_weight() : y_.least_weight());
      // All that is left out of a sum of at least 1/16 is below its rounding.
      negligible_ =
          static_cast<T>(std::log(static_cast<double>(std::numeric_limits<T>::epsilon()) * least / 16));
    }
    team.barrier();
  }

  /// Steps at the last epsilon, and a last update of f.
  void iterate(const SinkhornOptions& options, int most, int rank, Team& team, TransportScratch<T>& scratch,
               SinkhornReport& report) {
    bool met = false;
    for (report.iterations = 0; report.iterations < most; ++report.iterations) {
      const bool fresh = report.iterations == 0;
      report.marginal_error = rows(options.epsilon, Pass::step, fresh, rank, team, scratch);
      // Before the first step of all, the second marginal is not met.
      met = !fresh && options.tolerance > 0 && report.marginal_error <= tolerance(options);
      if (met) break;
      columns(options.epsilon, Pass::step, rank, team, scratch);
    }
    // f is up to date where the marginals are met, but for the halves of a symmetric problem.
    if (met && !symmetric_) return;
    team.barrier();  // all have read the errors
    const double last = rows(options.epsilon, Pass::last, false, rank, team, scratch);
    if (!met) report.marginal_error = last;
  }

  double error() const {
    double sum = 0;
    for (Index tile = 0; tile < x_.tiles; ++tile) sum += error_[tile];
    return sum;
  }

  /// Updates f; returns the marginal error before. `fresh`: computes E first. Ends with a barrier.
  double rows(double epsilon, Pass pass, bool fresh, int rank, Team& team, TransportScratch<T>& scratch) {
    const auto [first, last] = share(team, x_.tiles, rank);
    for (Index tile = first; tile < last; ++tile) row_tile(tile, epsilon, pass, fresh, scratch);
    if (!spread(team)) {
      team.barrier();
      return error();
    }
    if (fresh && stored_ && !symmetric_) store_columns(rank, team);
    const bool half = pass == Pass::half && !symmetric_;
    const RankPart parts[] = {RankPart::rows(half ? next_ : df_, kLanes * sizeof(T), x_.tiles),
                              RankPart::rows(error_, sizeof(double), x_.tiles)};
    meet(team, rank, parts);
    return error();
  }

  /// E of this process's columns in the rows of the others.
  void store_columns(int rank, Team& team) {
    const auto [first, last] = share(team, y_.tiles, rank);
    const auto [mine, others] = team.ranks()->share(x_.tiles);
    for (Index x_tile = 0; x_tile < x_.tiles; ++x_tile) {
      if (x_tile >= mine && x_tile < others) continue;
      for (Index tile = first; tile < last; ++tile) {
        cost_block(x_, x_tile, y_, tile, f_, g_, e_ + x_tile * kLanes * ld_ + tile * kLanes, ld_);
      }
    }
  }

  /// Updates g. Ends with a barrier.
  void columns(double epsilon, Pass pass, int rank, Team& team, TransportScratch<T>& scratch) {
    const auto [first, last] = symmetric_ ? team.share(y_.tiles, rank) : share(team, y_.tiles, rank);
    for (Index tile = first; tile < last; ++tile) {
      if (symmetric_) {
        for (Index j = tile * kLanes; j < tile * kLanes + y_.count(tile); ++j) {
          g_[j] = f_[j];
          dg_[j] = df_[j];
        }
      } else {
        column_tile(tile, epsilon, pass, scratch);
      }
    }
    if (symmetric_ || !spread(team)) {
      team.barrier();
    } else {
      const RankPart parts[] = {RankPart::rows(dg_, kLanes * sizeof(T), y_.tiles)};
      meet(team, rank, parts);
    }
    if (symmetric_ || pass != Pass::half) return;
    const auto [first_row, last_row] = team.share(x_.tiles, rank);
    for (Index i = first_row * kLanes; i < last_row * kLanes; ++i) df_[i] = next_[i];
  }

  /// E of a tile of rows and one of columns.
  const T* block(Index x_tile, Index y_tile, Index& ld, TransportScratch<T>& scratch) const {
    ld = stored_ ? ld_ : kLanes;
    if (stored_) return e_ + x_tile * kLanes * ld_ + y_tile * kLanes;
    cost_block(x_, x_tile, y_, y_tile, f_, g_, scratch.block, kLanes);
    return scratch.block;
  }

  void row_tile(Index tile, double epsilon, Pass pass, bool fresh, TransportScratch<T>& scratch) {
    const int count = x_.count(tile);
    const Index i0 = tile * kLanes;
    T* e = e_ + i0 * ld_;
    for (int i = 0; i < kLanes; ++i) scratch.z[i] = 0;
    for (Index panel = 0; fresh && stored_ && panel < y_.tiles; ++panel) {
      cost_block(x_, tile, y_, panel, f_, g_, e + panel * kLanes, ld_);
    }
    if (stored_) {
      row_sums(e, ld_, tile, 0, y_.tiles * kLanes, epsilon, scratch.z);
    } else {
      for (Index panel = 0; panel < y_.tiles; ++panel) {
        Index ld;
        const T* from = block(tile, panel, ld, scratch);
        row_sums(from, ld, tile, panel * kLanes, kLanes, epsilon, scratch.z);
      }
    }
    double after[kLanes];
    bool far[kLanes], any_far = false;
    for (int i = 0; i < count; ++i) {
      const double z = scratch.z[i];
      after[i] = static_cast<double>(df_[i0 + i]) - epsilon * std::log(z);
      far[i] = !(z >= 0.0625 && z < 1e30);
      any_far = any_far || far[i];
    }
    if (any_far) rows_from_top(tile, far, epsilon, after, scratch);
    double error = 0;
    for (int i = 0; i < count; ++i) {
      const double before = static_cast<double>(df_[i0 + i]);
      if (far[i]) scratch.z[i] = std::exp((before - after[i]) / epsilon);
      error += static_cast<double>(x_.weights[i0 + i]) * std::abs(scratch.z[i] - 1) / 2;
      // The columns are still to see the old f where both go half of the way; a symmetric problem has g.
      const bool half = pass == Pass::half || (symmetric_ && pass == Pass::step);
      (half && !symmetric_ ? next_ : df_)[i0 + i] = static_cast<T>(half ? (before + after[i]) / 2 : after[i]);
    }
    error_[tile] = error;
  }

  /// z_i += sum_j b_j exp((E_ij + df_i + dg_j) / epsilon) over columns j0 .. j0 + columns; e begins at j0.
  void row_sums(const T* e, Index ld, Index tile, Index j0, Index columns, double epsilon, double* z) const {
    const T inverse = static_cast<T>(1 / epsilon);
    for (int i = 0; i < x_.count(tile); ++i) {
      const T* row = e + i * ld;
      const T df = df_[tile * kLanes + i];
      Vec<T> sum = {};
      for (Index j = 0; j < columns; j += kGroup) {
        Vec<T> s[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          s[k] = (load(row + j + k * w) + (load(dg_ + j0 + j + k * w) + df)) * inverse;
        }
        if (!any_above<T>(max<T>(max<T>(s[0], s[1]), max<T>(s[2], s[3])), negligible_)) continue;
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) sum += load(y_.weights + j0 + j + k * w) * exp<T>(s[k]);
      }
      z[i] += static_cast<double>(sum_of<T>(sum));
    }
  }

  /// The new df of the rows of a tile that are `far`, whose old ones are too far off to measure the exponents
  /// by: by the largest of each row. All rows of a block together, for it may have to be formed.
  void rows_from_top(Index tile, const bool* far, double epsilon, double* after,
                     TransportScratch<T>& scratch) const {
    const T inverse = static_cast<T>(1 / epsilon);
    T top[kLanes];
    double sum[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      top[i] = -std::numeric_limits<T>::infinity();
      sum[i] = 0;
    }
    for (const bool sums : {false, true}) {
      for (Index panel = 0; panel < y_.tiles; ++panel) {
        Index ld;
        const T* e = block(tile, panel, ld, scratch);
        for (int i = 0; i < x_.count(tile); ++i) {
          if (!far[i]) continue;
          Vec<T> most = Vec<T>{} + top[i];
          for (int j = 0; j < kLanes; j += w) {
            const Vec<T> s = load(e + i * ld + j) + load(dg_ + panel * kLanes + j);
            if (!sums) {
              most = max<T>(s, most);
              continue;
            }
            const Vec<T> t = (s - top[i]) * inverse;
            if (!any_above<T>(t, negligible_)) continue;
            sum[i] += static_cast<double>(sum_of<T>(load(y_.weights + panel * kLanes + j) * exp<T>(t)));
          }
          for (int l = 0; !sums && l < w; ++l) top[i] = most[l] > top[i] ? most[l] : top[i];
        }
      }
    }
    for (int i = 0; i < x_.count(tile); ++i) {
      if (far[i]) after[i] = -static_cast<double>(top[i]) - epsilon * std::log(sum[i]);
    }
  }

  void column_tile(Index tile, double epsilon, Pass pass, TransportScratch<T>& scratch) {
    const T inverse = static_cast<T>(1 / epsilon);
    for (int j = 0; j < kLanes; ++j) scratch.z[j] = 0;
    for (Index x_tile = 0; x_tile < x_.tiles; ++x_tile) {
      Index ld;
      const T* e = block(x_tile, tile, ld, scratch);
      for (int j = 0; j < kLanes; j += kGroup) {
        Vec<T> dg[4], sum[4] = {};
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) dg[k] = load(dg_ + tile * kLanes + j + k * w);
        bool any = false;
        for (int i = 0; i < x_.count(x_tile); ++i) {
          const T df = df_[x_tile * kLanes + i];
          Vec<T> s[4];
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) s[k] = (load(e + i * ld + j + k * w) + (dg[k] + df)) * inverse;
          if (!any_above<T>(max<T>(max<T>(s[0], s[1]), max<T>(s[2], s[3])), negligible_)) continue;
          any = true;
          const T weight = x_.weights[x_tile * kLanes + i];
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) sum[k] += weight * exp<T>(s[k]);
        }
        for (int k = 0; any && k < 4; ++k) {
          for (int l = 0; l < w; ++l) scratch.z[j + k * w + l] += static_cast<double>(sum[k][l]);
        }
      }
    }
    double after[kLanes];
    bool sound = true;
    for (int j = 0; j < y_.count(tile); ++j) {
      const double z = scratch.z[j];
      after[j] = static_cast<double>(dg_[tile * kLanes + j]) - epsilon * std::log(z);
      sound = sound && z >= 0.0625 && z < 1e30;
    }
    if (!sound) columns_from_top(tile, epsilon, after, scratch);
    for (int j = 0; j < y_.count(tile); ++j) {
      T& dg = dg_[tile * kLanes + j];
      dg = static_cast<T>(pass == Pass::half ? (static_cast<double>(dg) + after[j]) / 2 : after[j]);
    }
  }

  /// All new dg of a tile by the largest exponent of each column.
  void columns_from_top(Index tile, double epsilon, double* after, TransportScratch<T>& scratch) const {
    const T inverse = static_cast<T>(1 / epsilon);
    T* top = scratch.weights;
    for (int j = 0; j < kLanes; ++j) {
      top[j] = -std::numeric_limits<T>::infinity();
      scratch.z[j] = 0;
    }
    for (const bool sums : {false, true}) {
      for (Index x_tile = 0; x_tile < x_.tiles; ++x_tile) {
        Index ld;
        const T* e = block(x_tile, tile, ld, scratch);
        for (int i = 0; i < x_.count(x_tile); ++i) {
          const T df = df_[x_tile * kLanes + i];
          const T weight = x_.weights[x_tile * kLanes + i];
          for (int j = 0; j < kLanes; j += w) {
            const Vec<T> s = load(e + i * ld + j) + df;
            if (!sums) {
              store(top + j, max<T>(s, load(top + j)));
              continue;
            }
            const Vec<T> t = (s - load(top + j)) * inverse;
            if (!any_above<T>(t, negligible_)) continue;
            const Vec<T> part = weight * exp<T>(t);
            for (int l = 0; l < w; ++l) scratch.z[j + l] += static_cast<double>(part[l]);
          }
        }
      }
    }
    for (int j = 0; j < y_.count(tile); ++j) {
      after[j] = -static_cast<double>(top[j]) - epsilon * std::log(scratch.z[j]);
    }
  }

  /// force (64, ld) += factor / z_i sum_j w_ij (x_i - y_j), w_ij = b_j exp(s_ij), z_i = sum_j w_ij.
  void force_tile(Index tile, double epsilon, T factor, T* force, TransportScratch<T>& scratch) const {
    const int count = x_.count(tile);
    const Index i0 = tile * kLanes;
    const Index ld = x_.ld;
    const T inverse = static_cast<T>(1 / epsilon);
    for (int i = 0; i < kLanes; ++i) scratch.z[i] = 0;
    for (Index k = 0; k < kLanes * ld; ++k) scratch.sum[k] = T(0);
    for (Index panel = 0; panel < y_.tiles; ++panel) {
      Index e_ld;
      const T* e = block(tile, panel, e_ld, scratch);
      int active = 0;
      double panel_z[kLanes];
      for (int i = 0; i < count; ++i) {
        panel_z[i] = 0;
        for (int j = 0; j < kLanes; j += w) {
          const Vec<T> s =
              (load(e + i * e_ld + j) + (load(dg_ + panel * kLanes + j) + df_[i0 + i])) * inverse;
          Vec<T> weight = {};
          if (any_above<T>(s, negligible_)) {
            weight = load(y_.weights + panel * kLanes + j) * exp<T>(s);
            panel_z[i] += static_cast<double>(sum_of<T>(weight));
          }
          store(scratch.weights + i * kLanes + j, weight);
        }
        active += panel_z[i] != 0;
        scratch.z[i] += panel_z[i];
      }
      const bool dense = active * 8 > count;
      if (dense) {
        gemm<T>(count, ld, kLanes, as_is(scratch.weights, kLanes), y_.rows + panel * kLanes * ld, ld,
                scratch.product, ld);
      }
      for (int i = 0; i < count; ++i) {
        T* sum = scratch.sum + i * ld;
        if (panel_z[i] == 0) continue;
        if (!dense) {
          add_differences(scratch.weights + i * kLanes, i0 + i, panel, sum);
          continue;
        }
        const T z = static_cast<T>(panel_z[i]);
        for (Index c = 0; c < ld; c += w) {
          const Vec<T> here = load(x_.rows + (i0 + i) * ld + c);
          store(sum + c, load(sum + c) + (z * here - load(scratch.product + i * ld + c)));
        }
      }
    }
    for (int i = 0; i < count; ++i) {
      const T share = static_cast<T>(static_cast<double>(factor) / scratch.z[i]);
      for (Index c = 0; c < ld; c += w) {
        T* out = force + i * ld + c;
        store(out, load(out) + share * load(scratch.sum + i * ld + c));
      }
    }
  }

  /// sum += w_j (x_i - y_j) over the columns of a panel where w_j > 0.
  void add_differences(const T* weights, Index i, Index panel, T* sum) const {
    const T* x = x_.rows + i * x_.ld;
    for (int j = 0; j < kLanes; ++j) {
      if (!(weights[j] > T(0))) continue;
      const T* y = y_.rows + (panel * kLanes + j) * y_.ld;
      for (Index c = 0; c < x_.ld; c += w) {
        store(sum + c, load(sum + c) + weights[j] * (load(x + c) - load(y + c)));
      }
    }
  }

  const CostPoints<T>& x_;
  const CostPoints<T>& y_;
  bool symmetric_;
  Index ld_;  // of E; not a power of two
  bool stored_;
  T* e_;            // (64 tiles of x, ld)
  double *f_, *g_;  // (64 tiles): what is in E
  T *df_, *dg_;     // (64 tiles): the rest of the potentials
  T* next_;         // (64 tiles of x): df to be
  double* error_;   // (tiles of x)
  T negligible_ = 0;
  bool warm_ = false;
  double schedule_error_ = 0;
};

}  // namespace brenier::cpu::BRENIER_ISA
