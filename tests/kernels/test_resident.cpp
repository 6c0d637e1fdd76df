// SPDX-License-Identifier: MIT
// Clouds that stay on a device, against the same in host memory with the reference.
#include <doctest/doctest.h>

#include <algorithm>
#include <brenier/brenier.hpp>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "engine/src/flow/cloud/cloud_view.hpp"
#include "engine/src/flow/cloud_objective.hpp"
#include "kernels/base/subset.hpp"
#include "kernels/device/device.hpp"
#include "kernels/operations.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/dense.hpp"
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

/// A matrix of a host program on the device, with any strides: memory before and behind it is watched.
template <class T>
class OnDevice {
 public:
  OnDevice(Index rows, Index cols, Index row_stride, Index col_stride)
      : rows_(rows), cols_(cols), down_(row_stride), across_(col_stride) {
    const Index down = (rows - 1) * row_stride, across = (cols - 1) * col_stride;
    first_ = kAround - std::min<Index>(down, 0) - std::min<Index>(across, 0);
    memory_ =
        device::DeviceBuffer<T>(first_ + std::max<Index>(down, 0) + std::max<Index>(across, 0) + 1 + kAround);
    fill([](Index, Index) { return kGuard; });
  }
  template <class Value>
  void fill(const Value& value) {
    std::vector<T> all(static_cast<std::size_t>(memory_.size()), kGuard);
    for (Index i = 0; i < rows_; ++i) {
      for (Index c = 0; c < cols_; ++c) all[place(i, c)] = value(i, c);
    }
    device::Stream stream;
    memory_.copy_to_device(all, stream);
  }
  /// Of the elements; the rest has to be as it was.
  Matrix<double> read(device::Stream& stream) const {
    std::vector<T> all(static_cast<std::size_t>(memory_.size()));
    memory_.copy_to_host(all, stream);
    Matrix<double> out(rows_, cols_);
    for (Index i = 0; i < rows_; ++i) {
      for (Index c = 0; c < cols_; ++c) out(i, c) = std::exchange(all[place(i, c)], kGuard);
    }
    CHECK(std::count(all.begin(), all.end(), kGuard) == memory_.size());
    return out;
  }
  T* data() const { return reinterpret_cast<T*>(memory_.pointer(first_).address()); }
  DeviceArray<const void> array() const { return {data(), rows_, cols_, down_, across_}; }
  DeviceArray<void> results() { return {data(), rows_, cols_, down_, across_}; }

 private:
  static constexpr Index kAround = 5;
  static constexpr T kGuard = T(-12345.5);
  std::size_t place(Index i, Index c) const {
    return static_cast<std::size_t>(first_ + i * down_ + c * across_);
  }
  Index rows_, cols_, down_, across_, first_ = 0;
  device::DeviceBuffer<T> memory_;
};

/// body(ops) for every backend that has clouds of its own.
template <class Body>
void for_residing(const Body& body) {
  for (const Backend<double>& backend : backends<double>()) {
    if (!backend.ops->reside) continue;
    CAPTURE_BOUND(backend.ops->name);
    body(*backend.ops);
  }
}

/// body(ops, what they reside) for every backend that has clouds of its own.
template <class Body>
void for_residents(MatrixView<const double> x, const double* log_density, const Body& body) {
  for_residing([&](const Operations<double>& ops) { body(*ops.reside(x, log_density)); });
}

}  // namespace

TEST_CASE_TEMPLATE(
    "particles of a host program on the device: any strides, and nothing beside them is touched", T, float,
    double) {
  for (const Index n : kSizes) {
    const Index d = 3;
    Numbers numbers(3);
    Matrix<double> x = numbers.matrix<double>(n, d, -2, 1);
    for (double& value : x.elements()) value = static_cast<T>(value);
    std::vector<double> log_density = log_densities(n);
    log_density[0] = -std::numeric_limits<double>::infinity();
    OnDevice<double> densities(n, 1, 2, 0);
    densities.fill([&](Index i, Index) { return log_density[static_cast<std::size_t>(i)]; });
    // Rows, rows with gaps, columns, backwards.
    const std::pair<Index, Index> strides[] = {{d, 1}, {d + 2, 1}, {1, n}, {-2, -2 * n - 1}};
    for (const auto& [down, across] : strides) {
      CAPTURE(n);
      CAPTURE_BOUND(down);
      OnDevice<T> from(n, d, down, across), to(n, d, across == 1 ? 1 : d, across == 1 ? n : 1);
      OnDevice<T> density(n, 1, -3, 1);
      from.fill([&](Index i, Index c) { return static_cast<T>(x(i, c)); });
      for_residing([&](const Operations<double>& ops) {
        const auto cloud = ops.gather({from.array(), densities.array()});
        Matrix<double> found(n, d);
        std::vector<double> found_densities(static_cast<std::size_t>(n));
        cloud->download(found, found_densities.data());
        CHECK(found.elements() == x.elements());
        CHECK(found_densities == log_density);
        device::Stream stream;
        cloud->write({to.results(), density.results(), stream.native()});
        CHECK(to.read(stream).elements() == x.elements());
        const Matrix<double> rounded = density.read(stream);
        for (Index i = 0; i < n; ++i)
          CHECK(rounded(i, 0) == static_cast<T>(log_density[static_cast<std::size_t>(i)]));
        const auto bare = ops.gather({from.array()});
        CHECK_FALSE(bare->has_density());
        CHECK(bare->rows() == n);
        CHECK(bare->cols() == d);
      });
    }
  }
}

TEST_CASE("particles that are no numbers are refused by their number") {
  const double bad[] = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                        std::numeric_limits<double>::quiet_NaN()};
  OnDevice<double> x(300, 2, 2, 1), densities(300, 1, 1, 1);
  const DeviceCloud cloud{x.array(), densities.array()};
  for_residing([&](const Operations<double>& ops) {
    for (const double value : bad) {
      densities.fill([](Index, Index) { return 0.5; });
      x.fill([&](Index i, Index c) { return c == 1 && (i == 17 || i == 290) ? value : 0.25; });
      CHECK_ERROR(ops.gather(cloud), ValueError, "particle 17 has a coordinate");
      x.fill([](Index, Index) { return 0.25; });
      densities.fill([&](Index i, Index) { return i >= 200 ? value : 0.5; });
      if (value == bad[1])
        CHECK(ops.gather(cloud)->has_density());
      else
        CHECK_ERROR(ops.gather(cloud), ValueError, "particle 200 has a log-density");
    }
  });
}

TEST_CASE("addresses that are not of the device are refused") {
  std::vector<double> host(60);
  OnDevice<double> there(20, 3, 3, 1);
  for_residing([&](const Operations<double>& ops) {
    const auto cloud = ops.gather({there.array()});
    CHECK_ERROR(ops.gather({{host.data(), 20, 3}}), ValueError, "no memory of a CUDA device");
    CHECK_ERROR(ops.gather({there.array(), {host.data(), 20, 1}}), ValueError, "the log-densities");
    CHECK_ERROR(cloud->write({{host.data(), 20, 3}}), ValueError, "the positions");
    // Ends that lie outside.
    double* const first = there.data();
    constexpr Index far = Index{1} << 40;
    CHECK_ERROR(ops.gather({{first, 20, 3, far, 1}}), ValueError, "the last byte of the positions");
    CHECK_ERROR(cloud->write({{first, 20, 3, 3, -far}}), ValueError, "the first byte of the positions");
    const auto* odd = reinterpret_cast<const double*>(reinterpret_cast<std::uintptr_t>(first) + 4);
    CHECK_ERROR(ops.gather({{odd, 2, 3}}), ValueError, "no multiple of 8");
  });
#if defined(BRENIER_TEST_EMULATED)
  device::emulator::Options options = device::emulator::options();
  options.devices = 2;
  const device::emulator::ScopedOptions two(options);
  for_residing([&](const Operations<double>& ops) {
    device::use_device(1);
    CHECK_ERROR(ops.gather({there.array()}), ValueError, "the memory of CUDA device 0");
    CHECK_ERROR(ops.gather({there.array()}), ValueError, "on device 1");
    {
      OnDevice<double> here(20, 3, 3, 1);
      const auto cloud = ops.gather({here.array()});
      device::use_device(0);
      cloud->write({here.results()});  // on the cloud's own device, whichever is current
      CHECK_ERROR(cloud->write({there.results()}), ValueError, "the memory of CUDA device 0");
    }
  });
#endif
}

#if defined(BRENIER_TEST_EMULATED)
TEST_CASE("the host program's stream is waited for, and waits") {
  device::emulator::Options options = device::emulator::options();
  options.delay = true;
  const device::emulator::ScopedOptions late(options);
  OnDevice<double> x(50, 2, 2, 1), before(50, 2, 2, 1), after(50, 2, 2, 1);
  before.fill([](Index i, Index c) { return static_cast<double>(2 * i + c); });
  const auto copy = [](OnDevice<double>& to, const OnDevice<double>& from, device::Stream& stream) {
    const auto pointer = [](const double* at) {
      return device::DevicePointer<double>(reinterpret_cast<std::uintptr_t>(at));
    };
    device::copy_on_device<double>(pointer(to.data()), pointer(from.data()), 100, stream);
  };
  for_residing([&](const Operations<double>& ops) {
    device::Stream stream;
    x.fill([](Index, Index) { return 7.0; });
    copy(x, before, stream);  // has not run yet
    const auto cloud = ops.gather({x.array(), {}, stream.native()});
    Matrix<double> found(50, 2);
    cloud->download(found, nullptr);
    CHECK(found(49, 1) == 99);
    x.fill([](Index, Index) { return 7.0; });
    cloud->write({x.results(), {}, stream.native()});
    copy(after, x, stream);
    CHECK(after.read(stream)(49, 1) == 99);
    // Work of the program that still reads what is to be written, on a device that runs late streams as they lie in memory:
    // that of write() takes the place of an earlier one.
    auto earlier = std::make_unique<device::Stream>();
    device::Stream last;
    x.fill([](Index, Index) { return 7.0; });
    copy(after, x, last);
    earlier.reset();
    cloud->write({x.results(), {}, last.native()});
    { const device::DeviceBuffer<double> released(1); }  // waits for all
    CHECK(after.read(last)(49, 1) == 7);
    CHECK(x.read(last)(49, 1) == 99);
  });
}
#endif

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

TEST_CASE_TEMPLATE("a map that the device makes of normalised parameters is the one that the host makes", T,
                   float, double) {
  const double scale = 1.7;
  for (const NetCase& one : net_cases()) {
    const Icnn net(one.architecture);
    if (!net.smooth()) continue;
    CAPTURE_BOUND(one.name);
    const Index n = 37, d = net.dim();
    Numbers numbers(7);
    const Matrix<double> x = numbers.matrix<double>(n, d, -2, 1);
    std::vector<double> shift;
    for (Index c = 0; c < d; ++c) shift.push_back(numbers(-1, 1));
    for (const Backend<T>& backend : backends<T>()) {
      if (!backend.ops->know) continue;
      const std::unique_ptr<ResidentParameters<T>> known = backend.ops->know(net);
      for_residents(x, nullptr, [&](const ResidentCloud& cloud) {
        // Others in between: those that were there first are forgotten, and brought again.
        for (int round = 0; round < 7; ++round) {
          const std::vector<T> theta = generic_parameters<T>(net, 3 + round % 6);
          const std::vector<double> physical =
              denormalised(net, std::vector<double>(theta.begin(), theta.end()), shift, scale);
          const std::uint64_t before = device::host_traffic();
          const auto map = known->map(theta, shift, scale);
          const std::uint64_t first = device::host_traffic() - before;
          const auto again = known->map(theta, shift, scale);
          CHECK(first >= theta.size() * sizeof(T));
          CHECK(device::host_traffic() - before - first == static_cast<std::uint64_t>(d) * sizeof(double));
          const ResidentCloud::Image expected = cloud.image(net, physical.data());
          for (const auto& made : {map, again}) {
            const ResidentCloud::Image image = cloud.image(*made);
            Matrix<double> a(n, d), b(n, d);
            image.cloud->download(a, nullptr);
            expected.cloud->download(b, nullptr);
            CHECK_CLOSE(a, b, net_tolerance<double>(net, n));
            CHECK_REL(image.squares, expected.squares, net_tolerance<double>(net, n));
          }
        }
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
      // They do not cross again, alone nor together; others do.
      const std::uint64_t crossed = device::host_traffic();
      Matrix<double> again(4, d);
      std::vector<double> densities_again(4);
      cloud.download(rows, again, nullptr);
      cloud.download(rows, {}, densities_again.data());
      CHECK(device::host_traffic() == crossed);
      CHECK(again.elements() == some.elements());
      CHECK(densities_again == densities);
      cloud.download(std::vector<Index>{0, 0, 0, 0}, again, nullptr);
      CHECK(again(3, 1) == x(0, 1));
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

TEST_CASE("rows of a cloud on a device that stand for all are those that the host takes") {
  const Index n = 301, d = 3;
  Numbers numbers(7);
  const Matrix<double> x = numbers.matrix<double>(n, d, -2, 1);
  const std::vector<double> log_density = log_densities(n);
  for_residents(x, log_density.data(), [&](const ResidentCloud& cloud) {
    for (const Index count : {1, 64, 300, 301, 1000}) {
      CAPTURE(count);
      for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1} << 40}) {
        const std::vector<Index> rows = spread(n, count, seed);
        const auto some = cloud.subset(count, seed);
        REQUIRE(some->rows() == static_cast<Index>(rows.size()));
        Matrix<double> found(some->rows(), d);
        std::vector<double> densities(rows.size());
        some->download(found, densities.data());
        CHECK(found.elements() == subset(x, count, seed).elements());
        for (std::size_t k = 0; k < rows.size(); ++k)
          CHECK(densities[k] == log_density[static_cast<std::size_t>(rows[k])]);
      }
    }
  });
}

TEST_CASE("spectra of Hessians that stay on the device") {
  Team team(1);
  const auto check = [&](const Icnn& net, std::vector<double> theta, bool finite) {
    const Index n = kReduced ? 37 : 301, d = net.dim();
    Numbers numbers(7);
    const Matrix<double> x = numbers.matrix<double>(n, d, -2, 1);
    Matrix<double> displacement(n, d), hessians(n, d * d);
    MapOutputs<double> out;
    out.displacement = displacement;
    out.hessian = hessians;
    ref::operations<double>().evaluate(net, theta.data(), x, out, team);
    std::vector<double> mean(static_cast<std::size_t>(d * d));
    double least = std::numeric_limits<double>::infinity();
    for (Index i = 0; i < n && finite; ++i) {
      for (Index k = 0; k < d * d; ++k) mean[k] += hessians(i, k) / static_cast<double>(n);
      least = std::min(least, dense::symmetric_eigen({hessians.row(i), d, d}, false).values.front());
    }
    const std::vector<double> origin(static_cast<std::size_t>(d));
    for_residing([&](const Operations<double>& ops) {
      const auto map = ops.know(net)->map(theta, origin, 1);
      const auto cloud = ops.reside(x, nullptr);
      if (!finite) {
        CHECK(std::isnan(cloud->least_eigenvalue(*map)));
        return;
      }
      const double tolerance = net_tolerance<double>(net, n);
      CHECK_CLOSE(cloud->mean_hessian(*map), mean, tolerance);
      const double size = std::abs(*std::max_element(mean.begin(), mean.end()));
      CHECK(std::abs(cloud->least_eigenvalue(*map) - least) <= tolerance * size);
    });
  };
  for (const NetCase& one : net_cases()) {
    const Icnn net(one.architecture);
    if (!net.smooth()) continue;
    CAPTURE_BOUND(one.name);
    check(net, generic_parameters<double>(net, 3), true);
  }
  // More dimensions, and what is diagonal: nothing to reflect.
  const Icnn wide({.dim = 12, .hidden = {6, 5}, .quadratic_rank = 12});
  check(wide, generic_parameters<double>(wide, 3), true);
  std::vector<double> plain(static_cast<std::size_t>(wide.parameters()));
  plain[static_cast<std::size_t>(wide.alpha())] = 0.25;
  check(wide, plain, true);
  plain[static_cast<std::size_t>(wide.alpha())] = std::numeric_limits<double>::quiet_NaN();
  check(wide, plain, false);
}

TEST_CASE("scores from neighbours on a device") {
  for (const Index d : {1, 2, 5, 12}) {
    CAPTURE_BOUND(d);
    const Index groups = 9, neighbours = 2 * d;
    Numbers numbers(7);
    Matrix<double> x(groups * (neighbours + 1), d);
    std::vector<double> log_density;
    for (Index i = 0; i < groups; ++i) {
      for (Index k = 0; k <= neighbours; ++k) {
        for (Index c = 0; c < d; ++c) {
          // Where maps have taken them: along no axis, and at distances of many sizes.
          const double side = k == 0 ? 0 : k % 2 == 1 ? 1 : -1;
          const double far = c % 2 == 0 ? 1e-4 : 1e-8;
          x(i * (neighbours + 1) + k, c) =
              static_cast<double>(i) +
              side * far * ((k + 1) / 2 - 1 == c ? 1 + numbers(0, 1) : numbers(-0.3, 0.3));
        }
        log_density.push_back(numbers(-2, 1));
      }
    }
    log_density[static_cast<std::size_t>(3 * (neighbours + 1) + 1)] =
        -std::numeric_limits<double>::infinity();
    for_residents(x, log_density.data(), [&](const ResidentCloud& cloud) {
      Matrix<double> score(groups, d);
      cloud.scores(score);
      for (Index i = 0; i < groups; ++i) {
        Matrix<double> rows(d, d);
        std::vector<double> slope(static_cast<std::size_t>(d)), expected(slope),
            found(score.row(i), score.row(i) + d);
        for (Index c = 0; c < d; ++c) {
          const Index up = i * (neighbours + 1) + 1 + 2 * c;
          for (Index a = 0; a < d; ++a) rows(c, a) = (x(up, a) - x(up + 1, a)) * 1e4;
          slope[c] =
              (log_density[static_cast<std::size_t>(up)] - log_density[static_cast<std::size_t>(up + 1)]) *
              1e4;
        }
        if (i == 3) {
          CHECK(std::none_of(found.begin(), found.end(), [](double s) { return std::isfinite(s); }));
          continue;
        }
        dense::lu_solve(rows, slope.data(), expected.data());
        CHECK_CLOSE(found, expected, 1e-9);
      }
    });
  }
}

TEST_CASE("residuals of a step on a device, summed against affine and smooth displacements") {
  const Functional terms[] = {
      potential("0.5*sum(x^2) + cos(x[0])", 2),
      entropy() + 0.5 * porous_medium(2.5),
      internal("t*log(t) + t^3") + potential("sum(x^4)", 2),
  };
  Team team(1);
  for (const Functional& functional : terms) {
    const Objective objective = functional.objective();
    CHECK(has_residuals(objective));
    CAPTURE_BOUND(functional.describe());
    const bool internal_terms = !objective.internal.empty();
    for (const Index n : kSizes) {
      CAPTURE(n);
      const Index d = 2;
      const double tau = 0.3, share = 1 / static_cast<double>(n);
      Numbers numbers(7);
      const Matrix<double> x = numbers.matrix<double>(n, d, -2, 1),
                           from = numbers.matrix<double>(n, d, -2, 1);
      std::vector<double> log_density = log_densities(n);
      if (n > 1) log_density[1] = -std::numeric_limits<double>::infinity();
      const std::vector<double> centre{-0.4, 0.2}, shift{0.1, -0.3};
      Matrix<double> a(d, d);
      a(0, 0) = 1.2;
      a(0, 1) = a(1, 0) = -0.3;
      a(1, 1) = 0.8;
      const double log_det = std::log(1.2 * 0.8 - 0.09);
      CloudObjective reference(objective, ref::operations<double>());
      // r, J and the pressure at some images.
      const auto residuals = [&](const Matrix<double>& y, double lost, Matrix<double>& r, double& value) {
        reference.force(y, r, team, &value);
        std::vector<double> after = log_density;
        for (double& one : after) one -= lost;
        CloudObjective::Internal found = reference.internal(after, team);
        value += found.value;
        for (Index i = 0; i < n; ++i) {
          for (Index c = 0; c < d; ++c) {
            const double step = y(i, c) - from(i, c);
            value += share * step * step / (2 * tau);
            r(i, c) += step / tau;
          }
        }
        return found;
      };
      Matrix<double> y(n, d), r(n, d);
      for (Index i = 0; i < n; ++i) {
        for (Index c = 0; c < d; ++c) {
          y(i, c) = shift[c] + centre[c];
          for (Index b = 0; b < d; ++b) y(i, c) += a(c, b) * (x(i, b) - centre[b]);
        }
      }
      double value = 0;
      const double pressure = residuals(y, log_det, r, value).pressure;
      std::vector<double> by_shift(d);
      Matrix<double> by_matrix(d, d);
      for (Index i = 0; i < n; ++i) {
        for (Index c = 0; c < d; ++c) {
          by_shift[c] += share * r(i, c);
          for (Index b = 0; b < d; ++b)
            by_matrix(c, b) += share * (r(i, c) * (x(i, b) - centre[b]) + r(i, b) * (x(i, c) - centre[c]));
        }
      }
      const std::vector<double> mean{0.1, -0.7}, deviation{1.5, 0.4}, wave{0.4, 2.0, -3.0, 0.5};
      double still = 0;
      Matrix<double> of_still(n, d);
      const CloudObjective::Internal energy = residuals(x, 0, of_still, still);
      std::vector<double> slopes(8);
      for (Index i = 0; i < n; ++i) {
        const double w = internal_terms ? energy.surrogate[static_cast<std::size_t>(i)] : 0;
        for (Index c = 0; c < d; ++c) {
          slopes[c] += share * of_still(i, c) * deviation[c];
          slopes[d + c] += share * (of_still(i, c) * (x(i, c) - mean[c]) - w);
        }
        for (Index k = 0; k < 2; ++k) {
          const double* q = wave.data() + 2 * k;
          const double phase = q[0] * (x(i, 0) - mean[0]) + q[1] * (x(i, 1) - mean[1]);
          const double square = q[0] * q[0] + q[1] * q[1],
                       along = q[0] * of_still(i, 0) + q[1] * of_still(i, 1);
          slopes[4 + 2 * k] += share * (std::sin(phase) / square * along - w * std::cos(phase));
          slopes[5 + 2 * k] += share * (std::cos(phase) / square * along + w * std::sin(phase));
        }
      }
      const double tolerance = tol<double>(200);
      for_residing([&](const Operations<double>& ops) {
        const auto there = ops.reside(x, log_density.data()), origin = ops.reside(from, nullptr);
        const auto affine = there->affine(objective, origin, centre, tau);
        for (int call = 0; call < 2; ++call) {
          const ResidentCloud::Affine::Sums sums = affine->at(a, shift, log_det);
          CHECK_REL(sums.value, value, tolerance);
          CHECK(std::abs(sums.pressure - pressure) <= tolerance * std::abs(pressure));
          CHECK_CLOSE(sums.shift, by_shift, tolerance);
          CHECK_CLOSE(sums.matrix, by_matrix, tolerance);
        }
        CHECK_CLOSE(there->slopes(objective, *origin, tau, {mean, deviation, wave}), slopes, tolerance);
        CHECK(std::abs(there->pressure(objective) - energy.pressure) <=
              tolerance * std::abs(energy.pressure));
      });
    }
  }
  CHECK_FALSE(
      has_residuals((entropy() + potential(2, [](MatrixView<const double>, double*, MatrixView<double>) {},
                                           {.name = "field"}))
                        .objective()));
}
