// SPDX-License-Identifier: MIT
// Divergences between a cloud and a fixed one on the device: Sinkhorn's algorithm on the logarithms, and
// kernel means.
//
//   computes   soft minima over the other cloud, forces x_i - sum_j P_ij y_j / a_i, and for MMD and energy
//              distance grad_i sum_j b_j k(x_i, y_j)
//   layout     x (n, d) and its transpose, y (m, d) and its; E = f + g - C (n, m) and its transpose, so that
//              rows and columns are one kernel, both with the potentials as they were when E was made:
//              entries that matter are small and keep their digits. A solve changes f and g by df and dg.
//              Rows of E, weights, df and dg are padded to fours (padded()), so that a lane reads four
//              elements at a time: in the padding E is as small as numbers are, the others are 0
//   warps      one for each row: its lanes take eight columns a turn, and keep a running largest exponent and
//              the sum relative to it; no lane waits for another. Costs are sums of squared differences, 8 rows
//              a warp
//   stop       a solve whose marginals are met leaves the launches that remain without work, as does an inner
//              loop that has stopped
#pragma once

#include "kernels/cuda/step/control.hpp"
#include "kernels/device/device.hpp"
#include "kernels/model/kernel_mean.hpp"

namespace brenier::cuda {

using namespace brenier::device;

inline constexpr int kRowThreads = 256;  // 8 warps
inline constexpr int kCostRows = 8;      // of a warp
inline constexpr int kForceParts = 4;    // components of a lane that are summed at once
inline constexpr int kTurn = 8;          // elements that a lane adds to a sum at once

/// Elements of an array of n that is read in fours.
BRENIER_HOST_DEVICE inline int padded(int n) {
  return (n + 3) / 4 * 4;
}

/// One of two clouds.
template <class T>
struct DevicePoints {
  const T* x = nullptr;        // (n, d)
  const T* xt = nullptr;       // (d, n)
  const T* weights = nullptr;  // (padded(n))
  int n = 0;
  int d = 0;
};

/// Of a transport problem, on the device.
struct SinkhornState {
  int met = 0;         // the marginals are met: no more steps
  int iterations = 0;  // of this solve
  int most_iterations = 0;
  int solves = 0, unconverged = 0;
  double error = 0;  // of the last update of f, before it
  double worst = 0;
};

/// A pass over the rows: f from g, or with the clouds exchanged g from f.
template <class T>
struct SoftMinimumArgs {
  DevicePoints<T> x, y;
  const double* f = nullptr;  // (n): what is in E
  const double* g = nullptr;  // (m)
  const T* df = nullptr;      // (n): the rest
  const T* dg = nullptr;      // (padded(m))
  const T* e = nullptr;       // (n, padded(m)), where costs are stored
  T* out = nullptr;           // (n): the new df
  double epsilon = 1;
  int half = 0;             // goes half of the way
  int check = 0;            // 1: measures the marginal error; 2: and may end the solve
  int last = 0;             // of a solve
  double tolerance = 0;     // 0: never
  double* error = nullptr;  // (n)
  unsigned* ticket = nullptr;
  SinkhornState* state = nullptr;
  const Control* control = nullptr;
  T* force = nullptr;              // (n, d): += factor * (offset + x_i - sum_j P_ij y_j / a_i), or null
  const double* offset = nullptr;  // (d), or null
  T factor = 1;
};

BRENIER_DEVICE inline bool stopped(const Control* control) {
  return control && control->stop;
}

/// |x_i - y_j|^2 / 2.
template <class T>
BRENIER_DEVICE T cost_between(const DevicePoints<T>& x, int i, const DevicePoints<T>& y, int j) {
  T sum = 0;
  for (int c = 0; c < x.d; ++c) {
    const T z = x.x[Index{i} * x.d + c] - y.xt[Index{c} * y.n + j];
    sum = fma(z, z, sum);
  }
  return sum / 2;
}

/// log sum_k w_k exp(v_k), as the largest v and the sum relative to it.
template <class T>
struct RunningSum {
  T top = -std::numeric_limits<T>::max();
  T sum = 0;

  /// All at once: the largest first, then exponentials, and no branch.
  BRENIER_DEVICE void add(const T (&v)[kTurn], const T (&weight)[kTurn]) {
    T high = top;
    BRENIER_UNROLL
    for (int k = 0; k < kTurn; ++k) high = fmax(high, v[k]);
    sum *= exp(top - high);
    BRENIER_UNROLL
    for (int k = 0; k < kTurn; ++k) sum = fma(weight[k], exp(v[k] - high), sum);
    top = high;
  }
  /// Over the lanes of a warp, the same in each.
  BRENIER_DEVICE void reduce() {
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
      const T other_top = shuffle_xor(top, mask), other_sum = shuffle_xor(sum, mask);
      const T high = other_top > top ? other_top : top;
      const T mine = sum * exp(top - high), theirs = other_sum * exp(other_top - high);
      top = high;
      sum = mine + theirs;
    }
  }
};

BRENIER_DEVICE inline void read_four(const float* from, float* to) {
  const float4 four = load4(from);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}
BRENIER_DEVICE inline void read_four(const double* from, double* to) {
  const double2 front = load2(from), back = load2(from + 2);
  to[0] = front.x, to[1] = front.y, to[2] = back.x, to[3] = back.y;
}

/// log sum_j w_j exp((E_ij + dg_j)/epsilon) of row i, in every lane, with `inverse` = 1/epsilon.
template <class T>
BRENIER_DEVICE RunningSum<T> sum_of_stored(const SoftMinimumArgs<T>& args, int i, T inverse) {
  const int columns = padded(args.y.n);
  const T* row = args.e + Index{i} * columns;
  RunningSum<T> sum;
  for (int first = 0; first < columns; first += kTurn * kWarpSize) {
    T e[kTurn], dg[kTurn], v[kTurn], weight[kTurn];
    BRENIER_UNROLL
    for (int part = 0; part < kTurn; part += 4) {
      const int j = first + part * kWarpSize + 4 * lane();
      const int at = j < columns ? j : columns - 4;  // once more, with weight 0
      read_four(row + at, e + part);
      read_four(args.dg + at, dg + part);
      read_four(args.y.weights + at, weight + part);
      BRENIER_UNROLL
      for (int k = part; k < part + 4; ++k) {
        v[k] = (e[k] + dg[k]) * inverse;
        if (j >= columns) weight[k] = T(0);
      }
    }
    sum.add(v, weight);
  }
  sum.reduce();
  return sum;
}

/// The same where costs are not stored.
template <class T>
BRENIER_DEVICE RunningSum<T> sum_of_computed(const SoftMinimumArgs<T>& args, int i, T inverse) {
  const DevicePoints<T>&x = args.x, &y = args.y;
  RunningSum<T> sum;
  for (int first = 0; first < y.n; first += kTurn * kWarpSize) {
    int at[kTurn];
    T square[kTurn] = {}, v[kTurn], weight[kTurn];
    BRENIER_UNROLL
    for (int k = 0; k < kTurn; ++k) {
      const int j = first + k * kWarpSize + lane();
      at[k] = j < y.n ? j : y.n - 1;
    }
    for (int c = 0; c < x.d; ++c) {
      const T a = x.x[Index{i} * x.d + c];
      const T* row = y.xt + Index{c} * y.n;
      BRENIER_UNROLL
      for (int k = 0; k < kTurn; ++k) square[k] = fma(a - row[at[k]], a - row[at[k]], square[k]);
    }
    BRENIER_UNROLL
    for (int k = 0; k < kTurn; ++k) {
      const T e = static_cast<T>(args.f[i] + args.g[at[k]] - static_cast<double>(square[k] / 2));
      v[k] = (e + args.dg[at[k]]) * inverse;
      weight[k] = first + k * kWarpSize + lane() < y.n ? y.weights[at[k]] : T(0);
    }
    sum.add(v, weight);
  }
  sum.reduce();
  return sum;
}

struct SoftMinimumShared {
  BlockScratch<double> scratch;
  int last;
};

/// force_i += factor (sum_j w_j (x_i - y_j) / sum_j w_j + offset), w_j = weight(j) of the other cloud; a
/// warp's work. The weights of 32 columns at a time go round the lanes, which hold components.
template <class T, class Weight>
BRENIER_DEVICE void add_weighted_differences(const DevicePoints<T>& x, int i, const DevicePoints<T>& y,
                                             bool normalised, T factor, const double* offset, T* force,
                                             const Weight& weight) {
  for (int c0 = 0; c0 < x.d; c0 += kForceParts * kWarpSize) {
    T sum[kForceParts] = {};
    T z = 0;
    for (int j0 = 0; j0 < y.n; j0 += kWarpSize) {
      const int own = j0 + lane();
      const T w = own < y.n ? weight(own) : T(0);
      z += w;
      const unsigned active = ballot(w != T(0));
      for (int l = 0; l < kWarpSize; ++l) {
        if (!(active >> l & 1u)) continue;
        const T of_column = shuffle(w, l);
        BRENIER_UNROLL
        for (int k = 0; k < kForceParts; ++k) {
          const int c = c0 + k * kWarpSize + lane();
          if (c >= x.d) continue;
          sum[k] = fma(of_column, x.x[Index{i} * x.d + c] - y.x[Index{j0 + l} * y.d + c], sum[k]);
        }
      }
    }
    z = warp_sum(z);
    const T share = normalised ? factor / z : factor;
    for (int k = 0; k < kForceParts; ++k) {
      const int c = c0 + k * kWarpSize + lane();
      if (c >= x.d) continue;
      T& out = force[Index{i} * x.d + c];
      out += share * sum[k] + (offset ? factor * static_cast<T>(offset[c]) : T(0));
    }
  }
}

/// kStored: whether E lies in memory.
template <class T, bool kStored>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kRowThreads,
                                     1) void soft_minimum_kernel(BRENIER_ARGUMENT SoftMinimumArgs<T> args) {
  SoftMinimumShared& shared = shared_storage<SoftMinimumShared>();
  const bool idle = stopped(args.control) || (args.state->met && !args.last);
  const T inverse = static_cast<T>(1 / args.epsilon);
  const int rows = warp_count();
  for (int i = block_index() * rows + warp(); !idle && i < args.x.n; i += grid_size() * rows) {
    const auto entry = [&](int j) {
      if constexpr (kStored) return args.e[Index{i} * padded(args.y.n) + j];
      return static_cast<T>(args.f[i] + args.g[j] - static_cast<double>(cost_between(args.x, i, args.y, j)));
    };
    RunningSum<T> sum;
    if constexpr (kStored) {
      sum = sum_of_stored(args, i, inverse);
    } else {
      sum = sum_of_computed(args, i, inverse);
    }
    const double before = static_cast<double>(args.df[i]);
    const double after = -args.epsilon * (static_cast<double>(sum.top) + log(static_cast<double>(sum.sum)));
    const T next = static_cast<T>(args.half ? (before + after) / 2 : after);
    sync_warp();  // all lanes have read df
    if (lane() == 0) {
      args.out[i] = next;
      if (args.check) {
        args.error[i] =
            static_cast<double>(args.x.weights[i]) * abs(exp((before - after) / args.epsilon) - 1) / 2;
      }
    }
    if (args.force) {
      add_weighted_differences(args.x, i, args.y, true, args.factor, args.offset, args.force, [&](int j) {
        return args.y.weights[j] * exp((entry(j) + (args.dg[j] + next)) * inverse);
      });
    }
  }
  // The block that comes last sums the errors, in one order.
  if (args.check && last_block(args.ticket, shared.last) && !idle) {
    double error = 0;
    for (int i = thread_index(); i < args.x.n; i += block_size()) error += args.error[i];
    error = block_reduce_sum(error, shared.scratch);
    if (thread_index() == 0) {
      SinkhornState& state = *args.state;
      const bool before = state.met;
      if (!before) state.error = error;
      if (args.check == 2 && args.tolerance > 0 && error <= args.tolerance) state.met = 1;
      if (!args.last && !state.met) ++state.iterations;
      if (args.last) {
        ++state.solves;
        if (args.tolerance > 0 && !(state.error <= args.tolerance)) ++state.unconverged;
        if (!(state.error <= state.worst)) state.worst = state.error;
        if (state.iterations > state.most_iterations) state.most_iterations = state.iterations;
      }
    }
  }
}

/// What begins a solve: one block for each component of the cloud.
template <class T>
struct CentreArgs {
  const T* image = nullptr;  // (n, d)
  const T* weights = nullptr;
  int n = 0, d = 0;
  const double* moved = nullptr;  // (d): the cloud's shift less the mean of the reference
  int about_own_mean = 1;         // else about the reference's
  T* x = nullptr;                 // (n, d)
  T* xt = nullptr;                // (d, n)
  double* offset = nullptr;       // (d): the distance of the means, 0 where about the reference's
  const Control* control = nullptr;
};

template <class T>
BRENIER_KERNEL void centre_kernel(BRENIER_ARGUMENT CentreArgs<T> args) {
  SoftMinimumShared& shared = shared_storage<SoftMinimumShared>();
  const int c = block_index();
  double sum = 0;
  for (int i = thread_index(); i < args.n; i += block_size()) {
    sum += static_cast<double>(args.weights[i]) * static_cast<double>(args.image[Index{i} * args.d + c]);
  }
  sum = block_reduce_sum(sum, shared.scratch);
  // The weights, rounded to T, sum to 1 only nearly; what is left over is in the offset's rounding.
  const double origin = args.about_own_mean ? sum : -args.moved[c];
  const bool idle = stopped(args.control);
  for (int i = thread_index(); !idle && i < args.n; i += block_size()) {
    const T value = static_cast<T>(static_cast<double>(args.image[Index{i} * args.d + c]) - origin);
    args.x[Index{i} * args.d + c] = value;
    args.xt[Index{c} * args.n + i] = value;
  }
  if (!idle && thread_index() == 0) args.offset[c] = args.about_own_mean ? sum + args.moved[c] : 0.0;
}

/// Potentials in one place: f += df, df = 0. Begins a solve where `state` is given.
template <class T>
BRENIER_KERNEL void fold_kernel(double* f, T* df, const T* next, int n, SinkhornState* state,
                                const Control* control) {
  const bool idle = stopped(control);
  for (int i = block_index() * block_size() + thread_index(); !idle && i < n;
       i += grid_size() * block_size()) {
    f[i] += static_cast<double>(next[i]);
    df[i] = T(0);
  }
  if (!idle && state && block_index() == 0 && thread_index() == 0) {
    state->met = 0;
    state->iterations = 0;
  }
}

/// df = dg = next, of a symmetric problem.
template <class T>
BRENIER_KERNEL void copy_kernel(const T* next, T* df, T* dg, int n) {
  for (int i = block_index() * block_size() + thread_index(); i < n; i += grid_size() * block_size()) {
    df[i] = next[i];
    dg[i] = next[i];
  }
}

/// E = f + g - C and its transpose, or null, with their padding; 8 rows a warp, 64 a block, 32 columns.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kRowThreads, 1) void cost_kernel(DevicePoints<T> x, DevicePoints<T> y,
                                                                      const double* f, const double* g, T* e,
                                                                      T* et, const Control* control) {
  const int rows = padded(x.n), columns = padded(y.n);
  const int across = (columns + kWarpSize - 1) / kWarpSize;
  const int block_rows = kCostRows * warp_count();
  const int tiles = (rows + block_rows - 1) / block_rows * across;
  const bool idle = stopped(control);
  for (int tile = block_index(); !idle && tile < tiles; tile += grid_size()) {
    const int i0 = tile / across * block_rows + warp() * kCostRows;
    const int j = tile % across * kWarpSize + lane();
    if (i0 >= rows || j >= columns) continue;
    const int from = j < y.n ? j : y.n - 1;
    T sum[kCostRows] = {};
    for (int c = 0; c < x.d; ++c) {
      const T b = y.xt[Index{c} * y.n + from];
      BRENIER_UNROLL
      for (int r = 0; r < kCostRows; ++r) {
        const int i = i0 + r < x.n ? i0 + r : x.n - 1;
        const T z = x.x[Index{i} * x.d + c] - b;
        sum[r] = fma(z, z, sum[r]);
      }
    }
    BRENIER_UNROLL
    for (int r = 0; r < kCostRows; ++r) {
      const int i = i0 + r;
      const bool padding = i >= x.n || j >= y.n;
      const T value = padding ? -std::numeric_limits<T>::max()
                              : static_cast<T>(f[i] + g[j] - static_cast<double>(sum[r]) / 2);
      if (i < x.n) e[Index{i} * columns + j] = value;
      if (et && i < rows && j < y.n) et[Index{j} * rows + i] = value;
    }
  }
}

/// MMD and energy distance: force_i += factor * grad_i sum_j b_j k(x_i, y_j), and value_i = sum_j b_j k.
template <class T>
struct KernelMeanArgs {
  DevicePoints<T> x, y;
  MeanKernel<T> kernel{};
  T factor = 1;
  T* force = nullptr;       // (n, d), or null
  double* value = nullptr;  // (n), or null
  const Control* control = nullptr;
};

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kRowThreads,
                                     1) void kernel_mean_kernel(BRENIER_ARGUMENT KernelMeanArgs<T> args) {
  const bool idle = stopped(args.control);
  for (int i = block_index() * warp_count() + warp(); !idle && i < args.x.n;
       i += grid_size() * warp_count()) {
    if (args.value) {
      double sum = 0;
      for (int j = lane(); j < args.y.n; j += kWarpSize) {
        T k = 0, q = 0;
        evaluate_kernel(args.kernel, cost_between(args.x, i, args.y, j), k, q);
        sum += static_cast<double>(args.y.weights[j] * k);
      }
      sum = warp_sum(sum);
      if (lane() == 0) args.value[i] = sum;
    }
    if (!args.force) continue;
    const T factor = -args.factor;
    add_weighted_differences(args.x, i, args.y, false, factor, nullptr, args.force, [&](int j) {
      const T c = cost_between(args.x, i, args.y, j);
      T k = 0, q = 0;
      evaluate_kernel(args.kernel, c, k, q);
      return args.y.weights[j] * (q + (c - c));  // not finite where the cost is not
    });
  }
}

}  // namespace brenier::cuda
