// SPDX-License-Identifier: MIT
// Pairs of particles on the emulated device: tiles against plain sums in double, and what the batched
// reciprocals and logarithms must survive: coincident particles, distances over 24 orders of magnitude.
#include <doctest/doctest.h>

#include "brenier/expression.hpp"
#include "kernels/cuda/cloud/pair_kernels.hpp"
#include "kernels/operations.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"
#include "tests/support/pair_oracle.hpp"

// Not at global scope, where the names of the dialect (sqrt, sin, ...) would get in CUDA's way.
namespace brenier::cuda {

using namespace brenier::test;

namespace {

// With a sanitizer over the emulator: the sizes around a tile and a run.
#if defined(BRENIER_TEST_REDUCED)
const std::vector<Index> kTileSizes = {2, 33};
const std::vector<Index> kCloudSizes = {5, 129};
#else
const std::vector<Index> kTileSizes = {1, 2, 3, 7, 8, 33, 70};
const std::vector<Index> kCloudSizes = {1, 2, 3, 4, 5, 127, 128, 129, 300, 1030};
#endif

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

template <class T>
PairSums exact(const std::vector<InteractionTerm>& terms, const Matrix<T>& y) {
  Matrix<double> wide(y.rows(), y.cols());
  std::copy_n(y.elements().begin(), y.elements().size(), wide.elements().begin());
  return exact_pair_sums(terms, wide);
}

/// Largest error of a force in rounding units of T times its bound.
template <class T>
double force_error(const Matrix<T>& actual, const PairSums& sums) {
  double worst = 0;
  for (std::size_t k = 0; k < actual.elements().size(); ++k) {
    const double error = std::abs(static_cast<double>(actual.elements()[k]) - sums.force.elements()[k]);
    if (error == 0) continue;
    const double unit = tol<T>(1) * sums.bound.elements()[k];
    worst = std::max(worst, std::isfinite(error) && unit > 0 ? error / unit : 1e300);
  }
  return worst;
}
// Units of error: a pair takes about ten roundings of half a unit (r^2 has a longer sum, but of positive
// terms), a sum in T up to 128 terms. Roundings have random signs: sqrt(10)/2 + sqrt(128)/2 = 7.2. The
// logarithm of a product of 8 distances has their 8 roundings, spread over as many pairs.
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
  const PairSums sums = exact<T>({{1.0, kernel}}, y);
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
      for (const Index n : kTileSizes) {
        CAPTURE(d);
        CAPTURE(n);
        CAPTURE(terms.size());
        const Matrix<T> y = cloud_of<T>(n, d);
        const PairSums sums = exact(terms, y);
        for (const int warps : {1, 4, kTestWarps}) {
          CAPTURE(warps);
          CHECK(force_error(tiled<T, 8>(terms, y, warps), sums) <= kForceUnits);
          CHECK(force_error(tiled<T, 16>(terms, y, warps), sums) <= kForceUnits);
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
    const PairSums sums = exact(terms, y);
    CHECK(force_error(tiled<T, 8>(terms, y, 1), sums) <= kForceUnits);
    CHECK(force_error(tiled<T, 32>(terms, y, 1), sums) <= kForceUnits);
  }
}

TEST_CASE_TEMPLATE("forces and energy of a cloud", T, float, double) {
  for (const int d : {1, 2, 3, 5}) {
    for (const Index n : kCloudSizes) {
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

TEST_CASE_TEMPLATE("forces in many dimensions", T, float, double) {
  const Matrix<T> y = cloud_of<T>(45, 128);
  check_operation(log_kernel(0.5, -1), y);
  const std::vector<InteractionTerm> terms = {{1.0, log_kernel(0.5, -1)}};
  const PairSums sums = exact(terms, y);
  CHECK(force_error(tiled<T, 8>(terms, y, 4), sums) <= kForceUnits);
  CHECK(force_error(tiled<T, 32>(terms, y, kTestWarps), sums) <= kForceUnits);
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
      const PairSums sums = exact(terms, y);
      CHECK(force_error(tiled<T, 8>(terms, y, 2), sums) <= kForceUnits);
      CHECK(force_error(tiled<T, 16>(terms, y, 2), sums) <= kForceUnits);
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

#if !BRENIER_CUDA  // a device has no order to choose
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
#endif

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

}  // namespace brenier::cuda
