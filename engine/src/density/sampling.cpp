// SPDX-License-Identifier: MIT
// From a density to a cloud.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "brenier/base/error.hpp"
#include "engine/src/density/impl.hpp"

namespace brenier {

namespace {

/// Uniform in (0, 1) from 64 bits. 52 of them, since with 53 the half that keeps 0 out would round up to 1.
double to_unit(std::uint64_t bits) {
  return (static_cast<double>(bits >> 12) + 0.5) * 0x1.0p-52;
}

std::uint64_t join(std::uint32_t high, std::uint32_t low) {
  return (std::uint64_t{high} << 32) | low;
}

/// Step numbers of the counter, apart from those of the independent particles (0).
enum : std::uint32_t { shift_draws = 1, permutation_draws = 2, jitter_draws = 3 };

/// One coordinate of the Sobol' sequence: its primitive polynomial, all coefficients as bits, and the initial
/// direction numbers.
struct Direction {
  std::uint32_t polynomial;
  std::array<std::uint32_t, 7> initial;
};

/// S. Joe and F. Kuo, "Constructing Sobol sequences with better two-dimensional projections", SIAM J. Sci.
/// Comput. 30 (2008), table new-joe-kuo-6, coordinates 2 to 21; the first is the van der Corput sequence.
constexpr std::array<Direction, 20> directions = {{
    {3, {1}},
    {7, {1, 3}},
    {11, {1, 3, 1}},
    {13, {1, 1, 1}},
    {19, {1, 1, 3, 3}},
    {25, {1, 3, 5, 13}},
    {37, {1, 1, 5, 5, 17}},
    {41, {1, 1, 5, 5, 5}},
    {47, {1, 1, 7, 11, 19}},
    {55, {1, 1, 5, 1, 1}},
    {59, {1, 1, 1, 3, 11}},
    {61, {1, 3, 5, 5, 31}},
    {67, {1, 3, 3, 9, 7, 49}},
    {91, {1, 1, 1, 15, 21, 21}},
    {97, {1, 3, 1, 13, 27, 49}},
    {103, {1, 1, 1, 15, 7, 5}},
    {109, {1, 3, 1, 15, 13, 25}},
    {115, {1, 1, 5, 5, 19, 61}},
    {131, {1, 3, 7, 11, 23, 15, 103}},
    {137, {1, 3, 7, 13, 13, 15, 69}},
}};
constexpr Index largest_sobol = static_cast<Index>(directions.size()) + 1;

/// The direction numbers of a coordinate as binary fractions of 2^64; enough for 2^40 points.
std::array<std::uint64_t, 40> direction_numbers(Index coordinate) {
  std::array<std::uint64_t, 40> v{};
  if (coordinate == 0) {
    for (std::size_t k = 0; k < v.size(); ++k) v[k] = std::uint64_t{1} << (63 - k);
    return v;
  }
  const Direction& direction = directions[static_cast<std::size_t>(coordinate - 1)];
  const auto degree = static_cast<std::size_t>(std::bit_width(direction.polynomial)) - 1;
  for (std::size_t k = 0; k < v.size(); ++k) {
    if (k < degree) {
      v[k] = std::uint64_t{direction.initial[k]} << (63 - k);
      continue;
    }
    v[k] = v[k - degree] ^ (v[k - degree] >> degree);
    for (std::size_t i = 1; i < degree; ++i)
      if ((direction.polynomial >> (degree - i)) & 1u) v[k] ^= v[k - i];
  }
  return v;
}

/// Sobol' points in Gray code order, each coordinate xor-ed with a random word (a digital shift).
Matrix<double> sobol(Index n, Index dimension, const Random& random) {
  Matrix<double> u(n, dimension);
  for (Index j = 0; j < dimension; ++j) {
    const std::array<std::uint64_t, 40> v = direction_numbers(j);
    const auto words = random.words(shift_draws, 0, static_cast<std::uint64_t>(j));
    std::uint64_t at = join(words[0], words[1]);
    for (Index i = 0; i < n; ++i) {
      u(i, j) = to_unit(at);
      at ^= v[static_cast<std::size_t>(std::countr_zero(static_cast<std::uint64_t>(i + 1)))];
    }
  }
  return u;
}

/// One point in each of n strata of every coordinate, in an independent random order, at random in its
/// stratum.
Matrix<double> latin_hypercube(Index n, Index dimension, const Random& random) {
  Matrix<double> u(n, dimension);
  std::vector<Index> order(static_cast<std::size_t>(n));
  for (Index j = 0; j < dimension; ++j) {
    const auto coordinate = static_cast<std::uint32_t>(j);
    std::iota(order.begin(), order.end(), Index{0});
    for (Index i = n - 1; i > 0; --i) {
      const double draw = random.uniform(permutation_draws, coordinate, static_cast<std::uint64_t>(i));
      const auto other = std::min(static_cast<Index>(draw * static_cast<double>(i + 1)), i);
      std::swap(order[i], order[other]);
    }
    for (Index i = 0; i < n; ++i) {
      const double jitter = random.uniform(jitter_draws, coordinate, static_cast<std::uint64_t>(i));
      // Rounding may reach 1 in the last stratum, whose quantile would be infinite.
      u(i, j) = std::min((static_cast<double>(order[i]) + jitter) / static_cast<double>(n), 1 - 0x1.0p-53);
    }
  }
  return u;
}

Matrix<double> whitened_sample(const GaussianImpl& gaussian, Index n, std::uint64_t seed,
                               RandomStream stream) {
  const Index d = gaussian.dim();
  if (n <= d)
    throw ValueError("n is " + std::to_string(n) + "; whitened sampling in dimension " + std::to_string(d) +
                     " needs at least " + std::to_string(d + 1) + " particles");
  Matrix<double> z = stratified_cube(n, d, seed, stream);
  for (double& element : z.elements()) element = normal_quantile(element);
  if (!dense::whiten(z))
    throw NumericalError("the sample covariance of " + std::to_string(n) + " particles in dimension " +
                         std::to_string(d) + " is singular; take more particles");
  Matrix<double> x = gaussian.factor.spread(z);
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < d; ++j) x(i, j) += gaussian.mean[j];
  return x;
}

/// Quantiles of (i + 1/2)/N; the upper half is counted from above, so a symmetric law gives a symmetric
/// cloud.
Matrix<double> midpoint_sample(const Density::Impl& density, Index n) {
  Matrix<double> x(n, 1);
  for (Index i = 0; i < n; ++i) {
    const bool upper = 2 * i >= n;
    const Index rank = upper ? n - 1 - i : i;
    x(i, 0) = density.quantile((static_cast<double>(rank) + 0.5) / static_cast<double>(n), upper);
  }
  return x;
}

}  // namespace

void random_cube_point(std::uint64_t seed, RandomStream stream, Index i, std::span<double> u) {
  const Random random(seed, stream);
  for (std::size_t j = 0; j < u.size(); j += 2) {
    // A block holds two uniforms; above 65,536 blocks the iteration counts on.
    const auto block = static_cast<std::uint32_t>(j / 2);
    const auto words = random.words(0, block >> 16, static_cast<std::uint64_t>(i), block & 0xFFFFu);
    u[j] = to_unit(join(words[0], words[1]));
    if (j + 1 < u.size()) u[j + 1] = to_unit(join(words[2], words[3]));
  }
}

Matrix<double> stratified_cube(Index n, Index dimension, std::uint64_t seed, RandomStream stream) {
  const Random random(seed, stream);
  if (dimension > largest_sobol) return latin_hypercube(n, dimension, random);
  if (dimension > 1) return sobol(n, dimension, random);
  Matrix<double> u(n, 1);
  for (Index i = 0; i < n; ++i) u(i, 0) = (static_cast<double>(i) + 0.5) / static_cast<double>(n);
  return u;
}

Cloud Density::sample(Index n, Sampling how, std::uint64_t seed, RandomStream stream) const {
  if (n < 1) throw ValueError("n is " + std::to_string(n) + "; a cloud has at least 1 particle");
  Cloud cloud;
  if (how == Sampling::whitened) {
    const auto* gaussian = dynamic_cast<const GaussianImpl*>(impl_.get());
    if (gaussian == nullptr)
      throw ValueError("whitened sampling is for Gaussian densities; use random or stratified");
    cloud.x = whitened_sample(*gaussian, n, seed, stream);
  } else if (how == Sampling::stratified && dim() == 1) {
    cloud.x = midpoint_sample(*impl_, n);
  } else {
    cloud.x = Matrix<double>(n, dim());
    const Index uniforms = impl_->uniforms();
    Matrix<double> cube;
    if (how == Sampling::stratified) cube = stratified_cube(n, uniforms, seed, stream);
    std::vector<double> u(static_cast<std::size_t>(uniforms));
    for (Index i = 0; i < n; ++i) {
      if (how == Sampling::random) random_cube_point(seed, stream, i, u);
      impl_->transport(how == Sampling::random ? u.data() : cube.row(i), cloud.x.row(i));
    }
  }
  cloud.log_density = log_density(cloud.x.view());
  return cloud;
}

}  // namespace brenier
