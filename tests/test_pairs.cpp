// SPDX-License-Identifier: MIT
// Pairs of particles on the emulated device: tiles against plain sums in double, and what the batched
// reciprocals and logarithms must survive: coincident particles, distances over 24 orders of magnitude.
#include <doctest/doctest.h>

#include "brenier/expression.hpp"
#include "kernels/cuda/pair_kernels.hpp"
#include "kernels/ops.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"

using namespace brenier;
using namespace brenier::cuda;
using namespace brenier::test;

namespace {

constexpr int kTestWarps = 8;

/// Forces of a cloud by tile_forces with tiles of P, as a kernel of our own would call it.
template <class T, int P>
BRENIER_KERNEL void forces_of_tiles(PairTerms<T> terms, const T* y, int n, T* force, int* calls) {
  T* const scratch = shared_array<T>(0, tile_scratch<T>(P, warp_count(), terms.dim));
  for (int first = block_index() * P; first < n; first += grid_size() * P) {
    tile_forces<T, P>(terms, y, n, first, scratch, [&](int p, int c, T value) {
      atomic_add(calls, 1);
      if (first + p < n) {
        force[Index{first + p} * terms.dim + c] = value;
      } else if (value != T(0)) {
        atomic_add(calls, 1000000);  // a place without a particle has no force
      }
    });
  }
}

template <class T, int P>
Matrix<T> tiled(const std::vector<InteractionTerm>& terms, const Matrix<T>& y, int warps) {
  Stream stream;
  const int n = static_cast<int>(y.rows());
  const int d = static_cast<int>(y.cols());
  const int tiles = (n + P - 1) / P;
  const int grid = tiles > 2 ? tiles - 1 : tiles;  // some block has two
  DeviceBuffer<T> cloud = upload<T>(y, stream), force(Index{n} * d);
  DeviceBuffer<int> calls(1);
  calls.fill_zero(stream);
  DevicePairs<T> pairs(terms, d, Index{grid} * warps * kWarpSize, stream);
  const std::size_t shared = sizeof(T) * static_cast<std::size_t>(tile_scratch<T>(P, warps, d));
  launch(forces_of_tiles<T, P>, {grid, warps * kWarpSize, shared, stream, "forces_of_tiles"}, pairs.terms(),
         cloud.pointer(), n, force.pointer(), calls.pointer());
  CHECK(download(calls, stream).front() == tiles * P * d);
  Matrix<T> out(n, d);
  download(force, MatrixView<T>(out), stream);
  return out;
}

/// Plain sums in long double, on the same numbers; and the sums of absolute values, which bound what rounding
/// in T can do to them.
using Wide = long double;
struct Sums {
  Matrix<Wide> force, bound;
  Wide energy = 0, energy_bound = 0;
};

/// W and grad W of one pair, with bounds of their terms.
struct Pair {
  Wide energy = 0, energy_bound = 0;
  std::vector<Wide> force, bound;
};

Pair log_pair(const PairKernel& kernel, const std::vector<Wide>& z, Wide diameter) {
  const std::size_t d = z.size();
  Pair pair{kernel.constant, std::abs(kernel.constant), std::vector<Wide>(d), std::vector<Wide>(d)};
  Wide r2 = 0;
  for (const Wide c : z) r2 += c * c;
  if (r2 == 0) return pair;
  const Wide r = std::sqrt(r2), log_r = std::log(r);
  pair.energy += kernel.quadratic * r2 + kernel.log_coefficient * log_r;
  // Rounding a product of scaled distances is an absolute error of its logarithm.
  pair.energy_bound +=
      std::abs(kernel.quadratic) * r2 +
      std::abs(kernel.log_coefficient) * (2 + std::abs(log_r) + std::abs(std::log(diameter)));
  for (std::size_t c = 0; c < d; ++c) {
    pair.force[c] = 2 * kernel.quadratic * z[c] + kernel.log_coefficient * z[c] / r2;
    pair.bound[c] = 2 * std::abs(kernel.quadratic) * r + std::abs(kernel.log_coefficient) / r;
  }
  return pair;
}

/// By the reference, in double.
Pair program_pair(const PairKernel& kernel, const std::vector<Wide>& z) {
  const Index d = static_cast<Index>(z.size());
  Matrix<double> y(2, d), force(2, d);
  for (Index c = 0; c < d; ++c) y(0, c) = static_cast<double>(z[static_cast<std::size_t>(c)]);
  double energy = 0;
  Team one(1);
  ref::operations<double>().interaction(kernel, y, &energy, force, one);
  Pair pair{2 * energy, std::abs(2 * energy) + 1, {}, {}};  // 1/(2 n (n-1)) of two equal terms
  for (Index c = 0; c < d; ++c) pair.force.push_back(force(0, c));
  pair.bound.assign(z.size(), 1);  // W of these tests changes on the scale of 1
  for (const Wide f : pair.force) {
    for (Wide& bound : pair.bound) bound += std::abs(f);
  }
  return pair;
}

template <class T>
Sums exact(const std::vector<InteractionTerm>& terms, const Matrix<T>& y) {
  const Index n = y.rows(), d = y.cols();
  Sums sums{Matrix<Wide>(n, d), Matrix<Wide>(n, d)};
  const Wide share = n > 1 ? Wide(1) / static_cast<Wide>(n - 1) : 0;
  std::vector<Wide> z(static_cast<std::size_t>(d));
  Wide diameter2 = 0;
  for (Index c = 0; c < d; ++c) {
    T low = y(0, c), high = low;
    for (Index i = 0; i < n; ++i) low = std::min(low, y(i, c)), high = std::max(high, y(i, c));
    diameter2 += (Wide(high) - Wide(low)) * (Wide(high) - Wide(low));
  }
  for (const InteractionTerm& term : terms) {
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < n; ++j) {
        if (i == j) continue;
        for (Index c = 0; c < d; ++c) z[static_cast<std::size_t>(c)] = Wide(y(i, c)) - Wide(y(j, c));
        const bool log = term.kernel.form == PairKernel::Form::quadratic_log;
        const Pair pair = log ? log_pair(term.kernel, z, std::sqrt(diameter2)) : program_pair(term.kernel, z);
        for (Index c = 0; c < d; ++c) {
          sums.force(i, c) += share * term.weight * pair.force[static_cast<std::size_t>(c)];
          sums.bound(i, c) += share * std::abs(term.weight) * pair.bound[static_cast<std::size_t>(c)];
        }
        sums.energy += share * term.weight * pair.energy / static_cast<Wide>(2 * n);
        sums.energy_bound += share * std::abs(term.weight) * pair.energy_bound / static_cast<Wide>(2 * n);
      }
    }
  }
  return sums;
}

/// Largest error of a force in rounding units of T times its bound.
template <class T>
double force_error(const Matrix<T>& actual, const Sums& sums) {
  double worst = 0;
  for (std::size_t k = 0; k < actual.elements().size(); ++k) {
    const Wide error = std::abs(Wide(actual.elements()[k]) - sums.force.elements()[k]);
    if (error == 0) continue;
    const Wide unit = tol<T>(1) * sums.bound.elements()[k];
    worst = std::max(worst, std::isfinite(error) && unit > 0 ? static_cast<double>(error / unit) : 1e300);
  }
  return worst;
}
// A pair takes up to 3 + 3 d roundings, of half a unit each, and a sum in T up to 128 terms, whose errors of
// random sign are far from 64 units.
constexpr double kForceUnits = 8;
constexpr double kEnergyUnits = 2;

PairKernel log_kernel(double quadratic, double log_coefficient, double constant = 0) {
  PairKernel kernel;
  kernel.quadratic = quadratic;
  kernel.log_coefficient = log_coefficient;
  kernel.constant = constant;
  return kernel;
}

PairKernel program_kernel_of(PairKernel::Form form, const char* text, int d) {
  PairKernel kernel{.form = form};
  kernel.program = Expression::interaction(text, d).program();
  return kernel;
}

/// n particles in (-1, 1)^d, two of them in one place.
template <class T>
Matrix<T> cloud_of(Index n, Index d, std::uint64_t seed = 71) {
  Numbers numbers(seed);
  Matrix<T> y = numbers.matrix<T>(n, d, -1, 1);
  for (Index c = 0; c < d && n > 5; ++c) y(n - 1, c) = y(1, c);
  return y;
}

template <class T>
void check_operation(const PairKernel& kernel, const Matrix<T>& y) {
  Team one(1);
  Matrix<T> force(y.rows(), y.cols());
  double energy = 1e9;
  cuda::operations<T>().interaction(kernel, y, &energy, force, one);
  const Sums sums = exact<T>({{1.0, kernel}}, y);
  CHECK(force_error(force, sums) <= kForceUnits);
  CHECK(std::abs(energy - sums.energy) <= tol<T>(kEnergyUnits) * sums.energy_bound);
}

}  // namespace

TEST_CASE_TEMPLATE("forces of a tile, several terms", T, float, double) {
  for (const int d : {1, 2, 3, 5}) {
    const std::vector<InteractionTerm> logs = {{0.7, log_kernel(0.5, -1)}, {-0.4, log_kernel(0.3, 0.8, 2)}};
    std::vector<InteractionTerm> all = logs;
    all.push_back({0.6, program_kernel_of(PairKernel::Form::radial, "r^3/3 - exp(-r)", d)});
    const char* even = d == 1 ? "exp(-sum(x^2))" : "exp(-sum(x^2)) + cos(x[0])";
    all.push_back({-0.5, program_kernel_of(PairKernel::Form::vector, even, d)});
    for (const std::vector<InteractionTerm>& terms : {logs, all, {all[2]}}) {
      for (const Index n : {1, 2, 3, 7, 8, 33, 70}) {
        CAPTURE(d);
        CAPTURE(n);
        CAPTURE(terms.size());
        const Matrix<T> y = cloud_of<T>(n, d);
        const Sums sums = exact(terms, y);
        for (const int warps : {1, 4, kTestWarps}) {
          CAPTURE(warps);
          CHECK(force_error(tiled<T, 8>(terms, y, warps), sums) <= kForceUnits);
          CHECK(force_error(tiled<T, 32>(terms, y, warps), sums) <= kForceUnits);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("forces of a tile in a cloud of many runs", T, float, double) {
  // One warp has 8 or 4 slots: more than 32 groups of four for each, and the tile in the middle of a run.
  const std::vector<InteractionTerm> terms = {{1.0, log_kernel(0.5, -1)}};
  for (const int d : {1, 2, 3}) {
    CAPTURE(d);
    const Matrix<T> y = cloud_of<T>(1111, d);
    const Sums sums = exact(terms, y);
    CHECK(force_error(tiled<T, 8>(terms, y, 1), sums) <= kForceUnits);
    CHECK(force_error(tiled<T, 32>(terms, y, 1), sums) <= kForceUnits);
  }
}

TEST_CASE_TEMPLATE("forces and energy of a cloud", T, float, double) {
  for (const int d : {1, 2, 3, 5}) {
    for (const Index n : {1, 2, 3, 4, 5, 127, 128, 129, 300, 1030}) {
      CAPTURE(d);
      CAPTURE(n);
      const Matrix<T> y = cloud_of<T>(n, d);
      check_operation(log_kernel(0.5, -1, 0.25), y);
      check_operation(log_kernel(0, 1.5), y);
      check_operation(log_kernel(-0.75, 0), y);
      Matrix<T> far = y;  // moments must not lose the digits of the differences
      for (T& element : far.elements()) element += T(1000);
      check_operation(log_kernel(0.5, -1), far);
    }
  }
}

TEST_CASE_TEMPLATE("distances from 1e-12 to 1e12, in any order", T, float, double) {
  for (const int d : {1, 2, 3}) {
    for (const bool sorted : {false, true}) {
      Numbers numbers(83);
      Matrix<T> y(203, d);
      for (Index i = 0; i < y.rows(); ++i) {
        // The exponent goes with the place: in the sorted cloud all four of a group are close, or far.
        const double exponent = sorted ? -12 + 24 * static_cast<double>(i) / 202 : numbers(-12, 12);
        for (Index c = 0; c < d; ++c) {
          y(i, c) = static_cast<T>(std::pow(10, exponent) * (numbers(0, 1) < 0.5 ? -1 : 1) * numbers(0.5, 1));
        }
      }
      CAPTURE(d);
      CAPTURE(sorted);
      check_operation(log_kernel(0, -1), y);
      const std::vector<InteractionTerm> terms = {{1.0, log_kernel(0, -1)}};
      const Sums sums = exact(terms, y);
      CHECK(force_error(tiled<T, 8>(terms, y, 2), sums) <= kForceUnits);
      CHECK(force_error(tiled<T, 32>(terms, y, 2), sums) <= kForceUnits);
    }
  }
}

TEST_CASE_TEMPLATE("particles in one place exert no force on each other", T, float, double) {
  for (const int d : {1, 2, 3, 5}) {
    CAPTURE(d);
    Matrix<T> y(150, d);
    for (T& element : y.elements()) element = T(0.3);
    Matrix<T> force(150, d);
    double energy = 1e9;
    Team one(1);
    cuda::operations<T>().interaction(log_kernel(0.5, -1, 0.25), y, &energy, force, one);
    for (const T f : force.elements()) CHECK(f == T(0));
    CHECK(energy == 0.125);

    for (Index i = 0; i < 150; ++i) {  // fifty places of three particles each
      for (Index c = 0; c < d; ++c) y(i, c) = static_cast<T>((i % 50) * (c + 1)) / T(50);
    }
    check_operation(log_kernel(0.5, -1, 0.25), y);
    const std::vector<InteractionTerm> terms = {{1.0, log_kernel(0.5, -1)}};
    CHECK(force_error(tiled<T, 8>(terms, y, 4), exact(terms, y)) <= kForceUnits);
  }
}

TEST_CASE_TEMPLATE("forces have the same bits whatever the order of the threads", T, float, double) {
  const Matrix<T> y = cloud_of<T>(300, 2);
  std::vector<InteractionTerm> terms = {{1.0, log_kernel(0.5, -1)}};
  terms.push_back({0.5, program_kernel_of(PairKernel::Form::radial, "exp(-r)", 2)});
  std::vector<Matrix<T>> forces;
  std::vector<double> energies;
  Team one(1);
  for (const auto order : {emulator::Order::forward, emulator::Order::reverse, emulator::Order::shuffled}) {
    emulator::Options options = emulator::options();
    options.threads = options.blocks = order;
    const emulator::ScopedOptions scope(options);
    forces.push_back(tiled<T, 8>(terms, y, 4));
    Matrix<T> force(300, 2);
    double energy = 0;
    cuda::operations<T>().interaction(terms[0].kernel, y, &energy, force, one);
    forces.push_back(force);
    energies.push_back(energy);
  }
  for (std::size_t k = 2; k < forces.size(); ++k) {
    CHECK(std::equal(forces[k].elements().begin(), forces[k].elements().end(),
                     forces[k - 2].elements().begin()));
  }
  CHECK(energies[1] == energies[0]);
  CHECK(energies[2] == energies[0]);
}

TEST_CASE_TEMPLATE("a particle that is not a number shows in every force", T, float, double) {
  for (const int d : {1, 2, 3, 5}) {
    CAPTURE(d);
    Matrix<T> y = cloud_of<T>(140, d);
    y(77, 0) = std::numeric_limits<T>::quiet_NaN();
    const std::vector<InteractionTerm> terms = {{1.0, log_kernel(0, -1)}};
    const Matrix<T> force = tiled<T, 8>(terms, y, 4);
    for (Index i = 0; i < 140; ++i) CHECK(std::isnan(force(i, 0)));
    Team one(1);
    Matrix<T> whole(140, d);
    cuda::operations<T>().interaction(terms[0].kernel, y, nullptr, whole, one);
    for (Index i = 0; i < 140; ++i) CHECK(std::isnan(whole(i, 0)));
  }
}
