// SPDX-License-Identifier: MIT
// Pairs of particles on the device: the forces of a tile of particles, computed by one block.
//
//   computes   sum over the terms of factor / (n-1) sum_{j != i} grad W(y_i - y_j), for P particles i
//              against all j of a cloud (n, d) in global memory, row-major, aligned to 16 bytes
//   log        q r^2 + l log r in up to 3 dimensions: a thread keeps a few particles i in registers and
//              goes through the j of its slot, four at a time, which it loads as vectors. Lanes of a warp
//              that share their i have different slots; they are summed by shuffles, the warps in shared
//              memory
//   pairwise   programs, and log in more dimensions: one thread a pair finds the weight w in
//              grad W = w (y_i - y_j), or the gradient itself; then one thread for each of the (P, d) sums
//              adds up a round of pairs
//   sums       at most 128 terms in T, longer ones in double; the order depends on P, n, d and the block
//   shared     `scratch` of the caller, tile_scratch<T>(P, warps, d) elements, aligned to 16 bytes, free for
//              other uses before and after: (P, d) sums in double, then either (warps, P, d) partial sums in
//              double or the tile's particles (P, d) and the weights of a round (32 warps) in T
//   launch     any number of whole warps
//
// Reciprocals. In one dimension 1/a + 1/b = (a + b) / (a b): a reciprocal, which only a special unit with an
// eighth of the rate of multiplications computes, serves two pairs, or four where distances have been scaled
// to at most 1 (kernels/cuda/cloud/pair_kernels.hpp). In more dimensions a pair takes so many other instructions
// that one reciprocal each costs nothing more. No branch guards them: a product or r^2 that is 0 or below the
// normal numbers has an infinite reciprocal. The sum of up to 128 pairs is then not finite, and is taken
// again, pair by pair, with exact divisions and without the pairs at r = 0. Upwards the range is that of r^2
// in T: of two pairs in one product, the nearer is lost as well where the product overflows, which takes a
// distance above 2^63 in float.
#pragma once

#include "brenier/model/objective.hpp"
#include "kernels/cuda/cloud/program.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

/// A radial or vector kernel with the factor of its term.
struct PairProgram {
  PairKernel::Form form;
  double factor;
  ProgramView program;
};

/// Interactions of clouds in R^d; factors are weights of terms, included in the coefficients of log kernels.
template <class T>
struct PairTerms {
  int dim;
  double quadratic, log_coefficient;  // of all quadratic_log terms together
  const PairProgram* programs;
  int program_count;
  T* workspace;  // (most rows of a program, threads of the launch); null without programs
};

inline constexpr int kPairQuads = 32;        // groups of four j that are summed in T
inline constexpr int kMostRegisterDims = 3;  // dimensions that fit registers
/// Particles i of a thread, called R.
template <int P>
inline constexpr int kPairRegisters = P == 8 ? 2 : 4;

/// Shared memory of tile_forces, in elements of T.
template <class T>
BRENIER_HOST_DEVICE constexpr int tile_scratch(int particles, int warps, int d) {
  const int doubles = static_cast<int>(sizeof(double) / sizeof(T));
  const int partial = d > kMostRegisterDims ? 0 : warps * particles * d * doubles;
  const int round = particles * d + kWarpSize * warps;
  return particles * d * doubles + (partial > round ? partial : round);
}

/// Coordinates of four particles in a row, particle by particle.
template <int D>
BRENIER_DEVICE void load_quad(const float* from, float (&to)[4 * D]) {
  BRENIER_UNROLL
  for (int k = 0; k < D; ++k) {
    const float4 four = load4(from + 4 * k);
    to[4 * k] = four.x;
    to[4 * k + 1] = four.y;
    to[4 * k + 2] = four.z;
    to[4 * k + 3] = four.w;
  }
}
template <int D>
BRENIER_DEVICE void load_quad(const double* from, double (&to)[4 * D]) {
  BRENIER_UNROLL
  for (int k = 0; k < 2 * D; ++k) {
    const double2 two = load2(from + 2 * k);
    to[2 * k] = two.x;
    to[2 * k + 1] = two.y;
  }
}

/// The particles i of a thread in a tile of P, and which of the threads that share them it is.
template <int P>
struct PairLanes {
  static constexpr int kAlong = P / kPairRegisters<P>;  // lanes of a warp that differ in i
  static constexpr int kSlots = kWarpSize / kAlong;     // of a warp, that differ in j

  BRENIER_DEVICE static int particle(int r) { return r * kAlong + lane() % kAlong; }
  BRENIER_DEVICE static int slot() { return warp() * kSlots + lane() / kAlong; }
  BRENIER_DEVICE static int slots() { return warp_count() * kSlots; }
};

/// Takes the pairs of this thread's particles with every j of `cloud` that its slot has, each j in one slot.
///   Sums::kAhead          even: quads that are loaded before the first of them is used
///   sums.clear()          before a run of quads
///   sums.add(quad, odd)   four j; odd: the second of two quads, or there is no second one
///   sums.close(quads)     after the run; false: this thread wants its j again, one by one
///   sums.one(y_j)         one j. Also for the j of the tile itself, where some r = 0 for sure, and the last
///   few
template <class T, int D, class Sums>
BRENIER_DEVICE void walk_pairs(const T* cloud, int n, int first, int particles, int slot, int slots,
                               Sums& sums) {
  constexpr int kAhead = Sums::kAhead;
  const int in_tile = n - first < particles ? n - first : particles;
  const int before = first / 4;      // whole quads in front of the tile,
  const int inside = in_tile / 4;    // in it,
  const int count = n / 4 - inside;  // and outside of it
  const auto place = [&](int k) { return Index{4} * (k < before ? k : k + inside); };
  for (int begin = slot; begin < count; begin += kPairQuads * slots) {
    const int end = count - begin < kPairQuads * slots ? count : begin + kPairQuads * slots;
    sums.clear();
    int quads = 0;
    int k = begin;
    T quad[kAhead][4 * D];
    if (begin >= before || end <= before) {  // the tile does not lie in between
      const T* from = cloud + place(begin) * D;
      for (; k + (kAhead - 1) * slots < end; k += kAhead * slots) {
        BRENIER_UNROLL
        for (int u = 0; u < kAhead; ++u) load_quad<D>(from + u * (4 * D * slots), quad[u]);
        BRENIER_UNROLL
        for (int u = 0; u < kAhead; ++u) sums.add(quad[u], u % 2 == 1);
        from += kAhead * (4 * D * slots);
        quads += kAhead;
      }
    }
    for (; k < end; k += kAhead * slots) {
      BRENIER_UNROLL
      for (int u = 0; u < kAhead; ++u) {
        const int there = k + u * slots;
        load_quad<D>(cloud + place(there < end ? there : k) * D, quad[u]);
      }
      BRENIER_UNROLL
      for (int u = 0; u < kAhead; ++u) {
        if (k + u * slots >= end) continue;
        sums.add(quad[u], u % 2 == 1);
        ++quads;
      }
    }
    if (sums.close(quads)) continue;
    for (k = begin; k < end; k += slots) {
      for (int e = 0; e < 4; ++e) sums.one(cloud + (place(k) + e) * D);
    }
  }
  const int rest = first + in_tile < n ? n % 4 : 0;
  for (int k = slot; k < in_tile + rest; k += slots) {
    sums.one(cloud + Index{k < in_tile ? first + k : n - rest + k - in_tile} * D);
  }
}

/// Sums of l z/r^2 + 2 q z over j for R particles i, z = y_i - y_j.
///   kScaled   q = 0 and l = 1; `scale` is a power of 2 that makes every distance at most about 1
template <class T, int D, int P, bool kScaled>
class ForceSums {
 public:
  static constexpr int R = kPairRegisters<P>;
  static constexpr int kAhead = sizeof(T) * D <= 8 ? 4 : 2;
  double total[R][D] = {};

  BRENIER_DEVICE ForceSums(const T* cloud, int n, int first, double quadratic, double log_coefficient,
                           T scale)
      : cloud_(cloud),
        n_(n),
        first_(first),
        stiffness_(2 * quadratic),
        log_(log_coefficient),
        weight_(static_cast<T>(log_coefficient)),
        base_(static_cast<T>(2 * quadratic)),
        scale_(scale) {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      BRENIER_UNROLL
      for (int c = 0; c < D; ++c) y_[r][c] = D == 1 && kScaled ? scale * here(r, c) : here(r, c);
    }
  }

  BRENIER_DEVICE void clear() {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      straight_[r] = T(0);
      BRENIER_UNROLL
      for (int c = 0; c < D; ++c) part_[r][c] = T(0);
    }
  }

  BRENIER_DEVICE void add(const T (&quad)[4 * D], bool) {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      if constexpr (D == 1 && kScaled) {
        // Products of scaled distances only shrink: where that of all four is normal, so are the others.
        const T a = fma(quad[0], -scale_, y_[r][0]), b = fma(quad[1], -scale_, y_[r][0]);
        const T c = fma(quad[2], -scale_, y_[r][0]), d = fma(quad[3], -scale_, y_[r][0]);
        const T ab = a * b, cd = c * d;
        part_[r][0] = fma(fma(a + b, cd, (c + d) * ab), reciprocal(ab * cd), part_[r][0]);
      } else if constexpr (D == 1) {
        BRENIER_UNROLL
        for (int e = 0; e < 4; e += 2) {
          const T a = y_[r][0] - quad[e], b = y_[r][0] - quad[e + 1];
          part_[r][0] = fma(a + b, reciprocal(a * b), part_[r][0]);
          straight_[r] += a + b;
        }
      } else {
        BRENIER_UNROLL
        for (int e = 0; e < 4; ++e) {
          T z[D];
          T r2 = T(0);
          BRENIER_UNROLL
          for (int c = 0; c < D; ++c) {
            z[c] = y_[r][c] - quad[e * D + c];
            r2 = c == 0 ? z[c] * z[c] : fma(z[c], z[c], r2);
          }
          const T w = kScaled ? reciprocal(r2) : fma(weight_, reciprocal(r2), base_);
          BRENIER_UNROLL
          for (int c = 0; c < D; ++c) part_[r][c] = fma(w, z[c], part_[r][c]);
        }
      }
    }
  }

  BRENIER_DEVICE bool close(int) {
    bool finite = true;
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      T sum = part_[r][0];
      BRENIER_UNROLL
      for (int c = 1; c < D; ++c) sum += part_[r][c];
      finite = finite && (isfinite(sum) || first_ + PairLanes<P>::particle(r) >= n_);
    }
    if (!finite) return false;
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      BRENIER_UNROLL
      for (int c = 0; c < D; ++c) {
        const double part = static_cast<double>(part_[r][c]);
        if constexpr (D > 1) {
          total[r][c] += part;
        } else if constexpr (kScaled) {
          total[r][c] = fma(static_cast<double>(scale_), part, total[r][c]);
        } else {
          total[r][c] = fma(log_, part, fma(stiffness_, static_cast<double>(straight_[r]), total[r][c]));
        }
      }
    }
    return true;
  }

  BRENIER_DEVICE void one(const T* y) {
    BRENIER_UNROLL
    for (int r = 0; r < R; ++r) {
      T z[D];
      T r2 = T(0);
      BRENIER_UNROLL
      for (int c = 0; c < D; ++c) {
        z[c] = here(r, c) - y[c];
        r2 = fma(z[c], z[c], r2);
      }
      if constexpr (D == 1) r2 = z[0];  // for 1/z: its square has half the range
      const T inverse = r2 != T(0) ? T(1) / r2 : T(0);
      BRENIER_UNROLL
      for (int c = 0; c < D; ++c) {
        const double force = static_cast<double>(D == 1 ? inverse : inverse * z[c]);
        total[r][c] = fma(log_, force, fma(stiffness_, static_cast<double>(z[c]), total[r][c]));
      }
    }
  }

 private:
  /// Places of the tile behind the last particle repeat it; nobody asks for their sums.
  BRENIER_DEVICE T here(int r, int c) const {
    const int i = first_ + PairLanes<P>::particle(r);
    return cloud_[Index{i < n_ ? i : n_ - 1} * D + c];
  }

  const T* cloud_;
  int n_, first_;
  double stiffness_, log_;
  T weight_, base_, scale_;
  T y_[R][D];
  T part_[R][D], straight_[R];  // of one run: log forces (beyond one dimension all forces), sum of z
};

/// partial (warps, P, D) = the warps' sums of a tile, the slots of a warp added up.
template <class T, int D, int P, bool kScaled>
BRENIER_DEVICE void store_warp_sums(ForceSums<T, D, P, kScaled>& sums, double* partial) {
  using Lanes = PairLanes<P>;
  BRENIER_UNROLL
  for (int r = 0; r < kPairRegisters<P>; ++r) {
    BRENIER_UNROLL
    for (int c = 0; c < D; ++c) {
      double sum = sums.total[r][c];
      for (int mask = Lanes::kAlong; mask < kWarpSize; mask *= 2) sum += shuffle_xor(sum, mask);
      if (lane() < Lanes::kAlong) partial[(warp() * P + Lanes::particle(r)) * D + c] = sum;
    }
  }
}

/// Adds the quadratic_log terms to total (P, D), each element by the thread that owns it: k = thread + m
/// block.
template <class T, int D, int P>
BRENIER_DEVICE void add_log_forces(const PairTerms<T>& terms, const T* cloud, int n, int first, double* total,
                                   double* partial) {
  using Lanes = PairLanes<P>;
  ForceSums<T, D, P, false> sums(cloud, n, first, terms.quadratic, terms.log_coefficient, T(1));
  walk_pairs<T, D>(cloud, n, first, P, Lanes::slot(), Lanes::slots(), sums);
  store_warp_sums(sums, partial);
  sync_block();
  for (int k = thread_index(); k < P * D; k += block_size()) {
    for (int w = 0; w < warp_count(); ++w) total[k] += partial[w * P * D + k];
  }
  sync_block();  // partial is free again
}

/// The same pair by pair: for a program, or, where `program` is null, for the quadratic_log terms.
template <class T, int P>
BRENIER_DEVICE void add_pairwise_forces(const PairTerms<T>& terms, const PairProgram* program, const T* cloud,
                                        int n, int first, double* total, T* scratch) {
  const int d = terms.dim;
  const int round = block_size() / P;  // j at a time
  const int p = thread_index() % P;
  const int slot = thread_index() / P;
  const Index stride = Index{grid_size()} * block_size();
  const Index column = Index{block_index()} * block_size();
  const auto row = [&](int r) -> T& { return terms.workspace[r * stride + column + thread_index()]; };
  T* const y = scratch;               // (P, d)
  T* const weight = scratch + P * d;  // (round, P): w, or whether there is a gradient
  const bool vector = program && program->form == PairKernel::Form::vector;
  const T base = static_cast<T>(2 * terms.quadratic);
  const T log_coefficient = static_cast<T>(terms.log_coefficient);
  const double factor = program ? program->factor : 1.0;

  for (int k = thread_index(); k < P * d; k += block_size()) {
    const int i = first + k / d;
    y[k] = cloud[Index{i < n ? i : n - 1} * d + k % d];
  }
  sync_block();
  for (int begin = 0; begin < n; begin += round) {
    const int j = begin + slot;
    T w = T(0);
    if (j < n && first + p < n && j != first + p) {
      const T* other = cloud + Index{j} * d;
      T r2 = T(0);
      for (int c = 0; c < d; ++c) {
        const T z = y[p * d + c] - other[c];
        r2 = fma(z, z, r2);
      }
      if (!program) {
        w = r2 != T(0) ? base + log_coefficient / r2 : T(0);
      } else if (r2 != T(0)) {
        const T r = sqrt(r2);
        const ProgramInput<T> input = vector ? ProgramInput<T>{y + p * d, 1, other} : ProgramInput<T>{&r};
        run_program<T>(program->program, input, &row(0), stride);
        w = vector ? T(1) : row(program->program.gradient) / r;
      }
    }
    weight[thread_index()] = w;
    sync_block();
    const int count = n - begin < round ? n - begin : round;
    for (int k = thread_index(); k < P * d; k += block_size()) {
      T sum = T(0);
      const int c = k % d;
      for (int s = 0; s < count; ++s) {
        const int pair = s * P + k / d;
        if (!vector) {
          sum = fma(weight[pair], y[k] - cloud[Index{begin + s} * d + c], sum);
        } else if (weight[pair] != T(0)) {
          const int r = program->program.gradient + c * program->program.gradient_stride;
          sum += terms.workspace[r * stride + column + pair];
        }
      }
      total[k] += factor * static_cast<double>(sum);
    }
    sync_block();  // weights and gradients are free again
  }
}

/// Forces on the particles first .. first + P of `cloud` (n, terms.dim), P = 8, 16 or 32, `first` a multiple of
/// 4 below n: out(p, c, value) once for each p < P and c < terms.dim, by some thread; value is 0 where there is
/// no particle first + p. All threads of the block take part, and have passed a barrier since `scratch`,
/// tile_scratch<T>(P, warps, terms.dim) elements, was last used. `cloud` was written by an earlier launch.
/// Ends with a barrier.
template <class T, int P, class Out>
BRENIER_DEVICE void tile_forces(const PairTerms<T>& terms, const T* cloud, int n, int first, T* scratch,
                                const Out& out) {
  const int d = terms.dim;
  double* const total = reinterpret_cast<double*>(scratch);
  double* const partial = total + P * d;
  T* const rest = reinterpret_cast<T*>(partial);
  for (int k = thread_index(); k < P * d; k += block_size()) total[k] = 0;
  if (terms.quadratic != 0 || terms.log_coefficient != 0) {
    switch (d) {
      case 1:
        add_log_forces<T, 1, P>(terms, cloud, n, first, total, partial);
        break;
      case 2:
        add_log_forces<T, 2, P>(terms, cloud, n, first, total, partial);
        break;
      case 3:
        add_log_forces<T, 3, P>(terms, cloud, n, first, total, partial);
        break;
      default:
        add_pairwise_forces<T, P>(terms, nullptr, cloud, n, first, total, rest);
        break;
    }
  }
  for (int k = 0; k < terms.program_count; ++k) {
    add_pairwise_forces<T, P>(terms, terms.programs + k, cloud, n, first, total, rest);
  }
  const double share = n > 1 ? 1.0 / (n - 1) : 0.0;
  for (int k = thread_index(); k < P * d; k += block_size()) {
    out(k / d, k % d, first + k / d < n ? static_cast<T>(share * total[k]) : T(0));
  }
  sync_block();
}

}  // namespace brenier::cuda
