// SPDX-License-Identifier: MIT
// Interactions on the cpu: 64 particles in lanes against every particle of the cloud, nothing of size N^2
// stored.
#pragma once

#include "brenier/model/objective.hpp"
#include "kernels/base/arena.hpp"
#include "kernels/cpu/cloud/program.hpp"
#include "kernels/cpu/simd.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// A cloud in component-major order: component c of particle j is data[c * ld + j].
template <class T>
struct Components {
  const T* data;
  Index n;
  Index d;
  Index ld;
};

/// Work arrays for one tile of pairs.
template <class T>
struct PairWorkspace {
  T* z;                 // (d, 64): y_i - y_j for one j
  T* program;           // (workspace, 64)
  T* sum;               // (d, 64): partial forces
  double* energy;       // (64)
  Vec<T>* energy_part;  // (64)

  PairWorkspace(Index d, Index program_rows, Carver& carver)
      : z(carver.take<T>(d * kLanes)),
        program(carver.take<T>((program_rows > 0 ? program_rows : 1) * kLanes)),
        sum(carver.take<T>(d * kLanes)),
        energy(carver.take<double>(kLanes)),
        energy_part(carver.take<Vec<T>>(kParts<T>)) {}
};

/// Partial sums over this many particles are taken in T; longer sums in double.
inline constexpr Index kPairBlock = 256;

/// c_log z/|z|^2 (and, for the energy, quadratic and log terms) against particles j0 .. j1.
template <class T, bool kEnergy>
void log_block(const PairKernel& kernel, const T* y, const Components<T>& cloud, Index j0, Index j1,
               const PairWorkspace<T>& ws) {
  constexpr int w = kWidth<T>;
  const Index d = cloud.d;
  const T log_coefficient = static_cast<T>(kernel.log_coefficient);
  const T quadratic = static_cast<T>(kernel.quadratic);
  const Vec<T> zero = {};
  for (int part = 0; part < kParts<T>; ++part) {
    const T* yi = y + part * w;
    Vec<T> energy = {};
    if (!kEnergy && d == 1) {
      const Vec<T> here = load(yi);
      Vec<T> sum = {};
      for (Index j = j0; j < j1; ++j) {
        const Vec<T> z = here - cloud.data[j];
        const Vec<T> reciprocal = T(1) / z;
        sum += z == zero ? zero : reciprocal;
      }
      store(ws.sum + part * w, sum * log_coefficient);
      continue;
    }
    for (Index c = 0; c < d; ++c) store(ws.sum + c * kLanes + part * w, zero);
    LogSum<T> logs;
    for (Index j = j0; j < j1; ++j) {
      Vec<T> r2 = {};
      for (Index c = 0; c < d; ++c) {
        const Vec<T> z = load(yi + c * kLanes) - cloud.data[c * cloud.ld + j];
        r2 += z * z;
      }
      if constexpr (kEnergy) {
        energy += quadratic * r2;
        if (log_coefficient == 0) continue;
        energy += r2 - r2;  // NaN of distances that are not finite, whose exponents say nothing
        logs.add(r2 > zero ? r2 : broadcast(T(1)));
        if ((j - j0) % LogSum<T>::kMost == LogSum<T>::kMost - 1) logs.fold();
      } else {
        const Vec<T> factor = r2 > zero ? log_coefficient / r2 : zero;
        for (Index c = 0; c < d; ++c) {
          const Vec<T> z = load(yi + c * kLanes) - cloud.data[c * cloud.ld + j];
          T* sum = ws.sum + c * kLanes + part * w;
          store(sum, load(sum) + factor * z);
        }
      }
    }
    if constexpr (kEnergy) {
      logs.fold();
      if (log_coefficient != 0) energy += T(0.5) * log_coefficient * logs.sum();
    }
    ws.energy_part[part] = energy;
  }
}

/// The same for a kernel given as a program.
template <class T, bool kEnergy>
void program_block(const PairKernel& kernel, const T* y, const Components<T>& cloud, Index j0, Index j1,
                   const PairWorkspace<T>& ws) {
  constexpr int w = kWidth<T>;
  const Index d = cloud.d;
  const bool radial = kernel.form == PairKernel::Form::radial;
  const Vec<T> zero = {};
  for (int part = 0; part < kParts<T>; ++part) ws.energy_part[part] = zero;
  for (Index i = 0; i < d * kLanes; i += w) store(ws.sum + i, zero);
  alignas(64) T distance[kLanes];
  for (Index j = j0; j < j1; ++j) {
    for (int i = 0; i < kLanes; i += w) {
      Vec<T> r2 = {};
      for (Index c = 0; c < d; ++c) {
        const Vec<T> z = load(y + c * kLanes + i) - cloud.data[c * cloud.ld + j];
        store(ws.z + c * kLanes + i, z);
        r2 += z * z;
      }
      store(distance + i, sqrt<T>(r2));
    }
    const ProgramRows<T> result = evaluate_lanes<T>(kernel.program, radial ? distance : ws.z, ws.program);
    for (int i = 0; i < kLanes; i += w) {
      const Vec<T> r = load(distance + i);
      if constexpr (kEnergy) {
        // Coincident particles count where W(0) is finite; x - x is 0 for finite x only.
        const Vec<T> value = load(result.value + i);
        ws.energy_part[i / w] += ((r > zero) | (value - value == zero)) ? value : zero;
      } else {
        for (Index c = 0; c < d; ++c) {
          const T* slope = result.gradient + (radial ? 0 : c * kLanes) + i;
          Vec<T> force = load(slope);
          if (radial) force = force / r * load(ws.z + c * kLanes + i);
          T* sum = ws.sum + c * kLanes + i;
          store(sum, load(sum) + (r > zero ? force : zero));
        }
      }
    }
  }
}

template <class T, bool kEnergy>
void pair_block(const PairKernel& kernel, const T* y, const Components<T>& cloud, Index j0, Index j1,
                const PairWorkspace<T>& ws) {
  if (kernel.form == PairKernel::Form::quadratic_log) {
    log_block<T, kEnergy>(kernel, y, cloud, j0, j1, ws);
  } else {
    program_block<T, kEnergy>(kernel, y, cloud, j0, j1, ws);
  }
}

/// force (d, 64) += factor * 1/(n-1) sum_{j != i} grad W(y_i - y_j), for the tile y (d, 64) of the cloud.
/// mean (d): of the cloud; the quadratic part of a kernel needs no more.
template <class T>
void add_pair_forces(const PairKernel& kernel, double factor, const T* y, const Components<T>& cloud,
                     const double* mean, T* force, const PairWorkspace<T>& ws) {
  constexpr int w = kWidth<T>;
  if (cloud.n < 2) return;
  const double share = factor / static_cast<double>(cloud.n - 1);
  const bool fast = kernel.form == PairKernel::Form::quadratic_log;
  if (fast && kernel.quadratic != 0) {
    const T stiffness = static_cast<T>(2 * kernel.quadratic * share * static_cast<double>(cloud.n));
    for (Index c = 0; c < cloud.d; ++c) {
      const T centre = static_cast<T>(mean[c]);
      for (Index i = c * kLanes; i < (c + 1) * kLanes; i += w) {
        store(force + i, load(force + i) + stiffness * (load(y + i) - centre));
      }
    }
  }
  if (fast && kernel.log_coefficient == 0) return;
  const T scale = static_cast<T>(share);
  for (Index j = 0; j < cloud.n; j += kPairBlock) {
    const Index end = j + kPairBlock < cloud.n ? j + kPairBlock : cloud.n;
    pair_block<T, false>(kernel, y, cloud, j, end, ws);
    for (Index i = 0; i < cloud.d * kLanes; i += w)
      store(force + i, load(force + i) + scale * load(ws.sum + i));
  }
}

/// Sum over the first `count` lanes i and all j of W(y_i - y_j), self pairs at their W(0) where that is
/// finite and 0 otherwise, the constant of a quadratic_log kernel left out.
template <class T>
double pair_energies(const PairKernel& kernel, const T* y, int count, const Components<T>& cloud,
                     const PairWorkspace<T>& ws) {
  for (int i = 0; i < kLanes; ++i) ws.energy[i] = 0;
  for (Index j = 0; j < cloud.n; j += kPairBlock) {
    const Index end = j + kPairBlock < cloud.n ? j + kPairBlock : cloud.n;
    pair_block<T, true>(kernel, y, cloud, j, end, ws);
    for (int i = 0; i < kLanes; ++i) {
      ws.energy[i] += static_cast<double>(ws.energy_part[i / kWidth<T>][i % kWidth<T>]);
    }
  }
  double total = 0;
  for (int i = 0; i < count; ++i) total += ws.energy[i];
  return total;
}

/// W(0) of a kernel given as a program; 0 where it is not finite.
template <class T>
double self_energy(const PairKernel& kernel, Index d) {
  Carver count(nullptr);
  const PairWorkspace<T> sizes(d, kernel.program.workspace(), count);
  const Arena memory(count.used());
  Carver carver(memory.data());
  const PairWorkspace<T> ws(d, kernel.program.workspace(), carver);  // z is zeroed memory
  const T value = *evaluate_lanes<T>(kernel.program, ws.z, ws.program).value;
  return std::isfinite(value) ? static_cast<double>(value) : 0.0;
}

}  // namespace brenier::cpu::BRENIER_ISA
