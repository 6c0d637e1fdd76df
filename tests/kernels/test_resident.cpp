// SPDX-License-Identifier: MIT
// Clouds that stay on a device, against the same in host memory with the reference.
#include <doctest/doctest.h>

#include <brenier/brenier.hpp>
#include <cmath>
#include <limits>

#include "engine/src/flow/cloud/cloud_view.hpp"
#include "engine/src/flow/cloud_objective.hpp"
#include "kernels/device/device.hpp"
#include "kernels/operations.hpp"
#include "kernels/resident_cloud.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/capture.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

/// More than a block's threads, and no multiple of anything.
const std::vector<Index> kSizes = kReduced ? std::vector<Index>{1, 37} : std::vector<Index>{1, 37, 301};

std::vector<double> log_densities(Index n) {
  Numbers numbers(5);
  std::vector<double> out;
  for (Index i = 0; i < n; ++i) out.push_back(numbers(-2, 1));
  return out;
}

/// body(ops, what they reside) for every backend that has clouds of its own.
template <class Body>
void for_residents(MatrixView<const double> x, const double* log_density, const Body& body) {
  for (const Backend<double>& backend : backends<double>()) {
    if (!backend.ops->reside) continue;
    CAPTURE_BOUND(backend.ops->name);
    body(*backend.ops->reside(x, log_density));
  }
}

}  // namespace

TEST_CASE("a cloud on a device moves through a map as on the host") {
  Team team(1);
  for (const NetCase& one : net_cases()) {
    const Icnn net(one.architecture);
    if (!net.smooth()) continue;
    CAPTURE_BOUND(one.name);
    const std::vector<double> theta = generic_parameters<double>(net, 3);
    for (const Index n : kSizes) {
      CAPTURE(n);
      const Index d = net.dim();
      Numbers numbers(7);
      const Matrix<double> x = numbers.matrix<double>(n, d, -2, 1);
      const std::vector<double> before = log_densities(n);
      Matrix<double> displacement(n, d), y(n, d);
      std::vector<double> log_det(n), after(n);
      MapOutputs<double> out;
      out.displacement = displacement;
      out.log_det = log_det.data();
      ref::operations<double>().evaluate(net, theta.data(), x, out, team);
      double squares = 0, least = std::numeric_limits<double>::infinity();
      for (Index i = 0; i < n; ++i) {
        after[i] = before[i] - log_det[i];
        least = std::min(least, log_det[i]);
        for (Index c = 0; c < d; ++c) {
          y(i, c) = x(i, c) + displacement(i, c);
          squares += displacement(i, c) * displacement(i, c);
        }
      }
      const double tolerance = net_tolerance<double>(net, n);
      for_residents(Padded<double>(x), before.data(), [&](const ResidentCloud& cloud) {
        const ResidentCloud::Image image = cloud.image(net, theta.data());
        Matrix<double> found(n, d), unmoved(n, d);
        std::vector<double> densities(n);
        image.cloud->download(found, densities.data());
        CHECK_CLOSE(found, y, tolerance);
        CHECK_CLOSE(densities, after, tolerance);
        CHECK_REL(image.squares, squares, tolerance);
        CHECK(std::abs(image.least_log_det - least) <= tolerance * std::max(1.0, std::abs(least)));
        cloud.download(unmoved, nullptr);
        CHECK(unmoved.elements() == x.elements());
      });
      for_residents(x, nullptr, [&](const ResidentCloud& cloud) {
        const ResidentCloud::Image image = cloud.image(net, theta.data());
        CHECK_FALSE(image.cloud->has_density());
        CHECK(image.cloud->log_density() == nullptr);
        CHECK(image.least_log_det == 0);
        Matrix<double> found(n, d);
        image.cloud->download(found, nullptr);
        CHECK_CLOSE(found, y, tolerance);
      });
    }
  }
}

TEST_CASE("a map that is not convex at some particle leaves no density there, and says so") {
  const Icnn net({.dim = 1, .hidden = {3}});
  std::vector<double> theta = generic_parameters<double>(net, 3);
  theta[net.alpha()] = -1;
  const Matrix<double> x(3, 1);
  const std::vector<double> before(3, 0.0);
  for_residents(x, before.data(), [&](const ResidentCloud& cloud) {
    const ResidentCloud::Image image = cloud.image(net, theta.data());
    CHECK(std::isnan(image.least_log_det));
    std::vector<double> densities(3);
    image.cloud->download({}, densities.data());
    CHECK(std::isnan(densities[1]));
  });
}

TEST_CASE("the parts of F of a cloud on a device") {
  const Icnn net({.dim = 2, .hidden = {6, 5}});
  const Functional terms[] = {
      potential("0.5*sum(x^2) + cos(x[0])", 2),
      2 * learned_potential({net, generic_parameters<double>(net, 9)}),
      entropy() + 0.5 * porous_medium(2.5),
      internal("t*log(t) + t^3") + potential("sum(x^4)", 2),
      potential("sum(x^2)", 2) + learned_potential({net, generic_parameters<double>(net, 9)}) + entropy(),
  };
  Team team(1);
  for (const Functional& functional : terms) {
    const Objective objective = functional.objective();
    CAPTURE_BOUND(functional.describe());
    for (const Index n : kSizes) {
      CAPTURE(n);
      Numbers numbers(7);
      const Matrix<double> x = numbers.matrix<double>(n, 2, -2, 1);
      std::vector<double> log_density = log_densities(n);
      if (n > 1) log_density[1] = -std::numeric_limits<double>::infinity();  // counts f(0) = 0
      CloudObjective reference(objective, ref::operations<double>());
      const ObjectiveValue expected = reference.value(x, log_density, 0, team);
      for_residents(x, log_density.data(), [&](const ResidentCloud& cloud) {
        const ObjectiveValue value = cloud.value(objective);
        const double tolerance = tol<double>(60);
        CHECK_REL(value.potential, expected.potential, tolerance);
        CHECK_REL(value.internal, expected.internal, tolerance);
        CHECK(value.interaction == 0);
        CHECK(value.divergence == 0);
      });
    }
  }
}

TEST_CASE("moments and rows of a cloud on a device, and what an inner problem takes of it") {
  for (const Index n : kSizes) {
    CAPTURE(n);
    const Index d = 3;
    Numbers numbers(11);
    Matrix<double> x = numbers.matrix<double>(n, d, 1e6, 1e6 + 1);  // far from 0
    for (Index i = 0; i < n; ++i) x(i, 2) *= -1e-3;
    const std::vector<double> log_density = log_densities(n);
    const CloudView expected(x);
    std::vector<double> mean;
    double scale = 0;
    expected.location_and_scale(mean, scale);
    for_residents(x, log_density.data(), [&](const ResidentCloud& cloud) {
      const ResidentCloud::Spread spread = cloud.spread();
      CHECK(cloud.rows() == n);
      CHECK(cloud.cols() == d);
      CHECK_CLOSE(spread.mean, mean, tol<double>(4 * std::sqrt(static_cast<double>(n))));
      const CloudView::Widths widths = expected.widths();
      for (Index c = 0; c < d; ++c) {
        // Rounding of means far away is that of the coordinates.
        const double rounding = tol<double>(64) * std::abs(mean[c]);
        CHECK(std::abs(std::sqrt(spread.squares[c] / static_cast<double>(n)) - widths.deviation[c]) <=
              rounding);
      }
      double largest = 0;
      for (const double value : x.elements()) largest = std::max(largest, std::abs(value));
      CHECK(spread.largest == largest);

      const std::vector<Index> rows{n - 1, 0, n / 2, 0};
      Matrix<double> some(4, d);
      std::vector<double> densities(4);
      cloud.download(rows, some, densities.data());
      for (std::size_t k = 0; k < rows.size(); ++k) {
        CHECK(densities[k] == log_density[rows[k]]);
        for (Index c = 0; c < d; ++c) CHECK(some(static_cast<Index>(k), c) == x(rows[k], c));
      }

      const std::vector<double> shift{1e6, 1e6 + 0.25, -1000};
      const ResidentCloud::Centred<float> single = cloud.centred<float>(shift);
      const ResidentCloud::Centred<double> whole = cloud.centred<double>(shift);
      CHECK(single.x.rows == n);
      CHECK(whole.x.cols == d);
      device::Stream stream;
      std::vector<float> floats(static_cast<std::size_t>(n * d));
      std::vector<double> doubles(floats.size());
      const auto address = [](const auto* at) { return reinterpret_cast<std::uintptr_t>(at); };
      device::copy_to_host(std::span<float>(floats),
                           device::DevicePointer<const float>(address(single.x.data)), stream);
      device::copy_to_host(std::span<double>(doubles),
                           device::DevicePointer<const double>(address(whole.x.data)), stream);
      for (std::size_t k = 0; k < floats.size(); ++k) {
        const double exact = x.elements()[k] - shift[k % 3];
        CHECK(doubles[k] == exact);
        CHECK(floats[k] == static_cast<float>(exact));
      }
    });
  }
}

TEST_CASE("the moments of a cloud that has diverged are no numbers") {
  Matrix<double> x(5, 2);
  x(3, 1) = std::numeric_limits<double>::infinity();
  for_residents(x, nullptr, [&](const ResidentCloud& cloud) {
    CHECK(std::isnan(cloud.spread().largest));
    CHECK_FALSE(std::isfinite(cloud.spread().squares[1]));
  });
}
