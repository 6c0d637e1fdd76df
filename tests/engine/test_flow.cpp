// SPDX-License-Identifier: MIT
// Flows against exact JKO iterates, and what a flow promises: determinism, restart, rollback, interruption.
#include <doctest/doctest.h>

#include <brenier/brenier.hpp>
#include <cmath>
#include <filesystem>
#include <thread>

#include "tests/support/capture.hpp"
#include "tests/support/near.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

/// Options of a small, quick flow.
FlowOptions quick(double tau, int iterations = 200, int order = 1) {
  FlowOptions options{.tau = tau, .seed = 1, .threads = 2};
  options.order = order;
  options.network.hidden = {24, 8};
  options.inner.iterations = iterations;
  options.inner.adam.rate = 3e-3;
  return options;
}

GaussianState moments(const Matrix<double>& x) {
  const Index n = x.rows(), d = x.cols();
  GaussianState out{std::vector<double>(d), Matrix<double>(d, d)};
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) out.mean[c] += x(i, c) / static_cast<double>(n);
  }
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) {
      for (Index b = 0; b < d; ++b) {
        out.covariance(c, b) += (x(i, c) - out.mean[c]) * (x(i, b) - out.mean[b]) / static_cast<double>(n);
      }
    }
  }
  return out;
}

/// |a - b| / |b| in the 2-norm.
double norm_error(const std::vector<double>& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

double deviation(const Matrix<double>& x) {
  return std::sqrt(moments(x).covariance(0, 0));
}

struct Ornstein {
  Functional functional;
  GaussianFlow exact;
  GaussianState initial;
};

/// Potential + entropy with a stiffness matrix that is not diagonal.
Ornstein ornstein(int d) {
  Matrix<double> a(d, d), covariance(d, d);
  std::vector<double> b(d);
  for (int i = 0; i < d; ++i) {
    b[i] = 0.5 * std::sin(i + 1.0);
    for (int j = 0; j < d; ++j) {
      a(i, j) = (i == j ? 1.0 + 0.8 * std::cos(2.0 * i) : 0.0) + 0.1 * std::cos(i - j);
      covariance(i, j) = i == j ? 1.5 : 0.2;
    }
  }
  const Parameters parameters = {{"A", Parameter::matrix(a)}, {"b", Parameter::vector(b)}};
  return {entropy() + potential("dot(x - b, A*(x - b))/2", d, parameters),
          GaussianFlow(a, b),
          {std::vector<double>(d, 1.0), covariance}};
}

}  // namespace

TEST_CASE("Gaussians: mean and covariance follow the exact iterates, both orders, d = 1 to 20") {
  for (const int d : {1, 3, 20}) {
    for (const int order : {1, 2}) {
      CAPTURE(d);
      CAPTURE(order);
      const Ornstein problem = ornstein(d);
      FlowOptions options = quick(0.05, 300);
      options.order = order;
      options.network.hidden = {8};
      options.network.quadratic_rank = d;
      const Density start = Density::gaussian(problem.initial.mean, problem.initial.covariance);
      Flow<float> flow(problem.functional, start.sample(1000, Sampling::whitened, 3), options);
      const int steps = 4;
      const std::vector<GaussianState> exact =
          problem.exact.iterates(problem.initial, options.tau, steps, order);
      for (int k = 1; k <= steps; ++k) {
        const std::optional<StepReport> report = flow.step();
        REQUIRE(report.has_value());
        CHECK(report->order == order);
        const GaussianState cloud = moments(flow.trajectory().x());
        CHECK(norm_error(cloud.mean, exact[k].mean) <= 2e-3);
        CHECK(norm_error(cloud.covariance.elements(), exact[k].covariance.elements()) <= 2e-3);
      }
    }
  }
}

TEST_CASE("adaptive steps: errors fall with the tolerance, steps end where they are told to") {
  const Ornstein problem = ornstein(2);
  const Density start = Density::gaussian(problem.initial.mean, problem.initial.covariance);
  const GaussianState exact = problem.exact.exact(problem.initial, 0.8);
  std::vector<double> errors;
  std::vector<int> steps;
  for (const double tolerance : {1e-2, 1e-3}) {
    CAPTURE(tolerance);
    FlowOptions options = quick(0.5, 400);  // a first step that is far too long
    options.order = 2;
    options.start_time = 0.2;
    options.adaptive = {.tolerance = tolerance, .end_time = 1.0};
    options.network.hidden = {8};
    options.network.quadratic_rank = 2;
    Flow<float> flow(problem.functional, start.sample(500, Sampling::whitened, 3), options);
    double time = options.start_time, before = 0;
    int rejected = 0;
    while (const std::optional<StepReport> report = flow.step()) {
      REQUIRE(report->step < 200);
      CHECK(report->time_error <= tolerance);
      CHECK(report->time == doctest::Approx(time + report->tau).epsilon(1e-12));
      if (before > 0) CHECK(report->tau <= 2.0001 * before);
      if (report->order == 2 && report->step > 1)
        CHECK(flow.maps().back().ratio == doctest::Approx(report->tau / before).epsilon(1e-9));
      time = report->time;
      before = report->tau;
      rejected += report->rejected;
    }
    CHECK(flow.time() == 1.0);
    CHECK(time == 1.0);
    CHECK(rejected > 0);
    CHECK_FALSE(flow.step().has_value());
    steps.push_back(flow.steps());
    const GaussianState cloud = moments(flow.trajectory().x());
    errors.push_back(norm_error(cloud.mean, exact.mean) +
                     norm_error(cloud.covariance.elements(), exact.covariance.elements()));
    // The densities have gone the same way.
    const GaussianState found = problem.exact.exact(problem.initial, 0.8);
    CHECK(flow.functional().total() == doctest::Approx(problem.exact.energy(found)).epsilon(0.05));
  }
  CHECK(steps[1] > 2 * steps[0]);
  CHECK(errors[1] < errors[0] / 3);
  CHECK(errors[1] < 5e-3);
}

TEST_CASE("adaptive steps: a first step that goes all the way at once is shortened, not given up") {
  FlowOptions options;
  options.tau = 1000;
  options.order = 2;
  options.adaptive = {.tolerance = 0.02, .end_time = 1e6};
  options.network = {.hidden = {8}, .quadratic_rank = 1};
  Flow<float> flow(potential("0.5*sum(x^2)", 1), Density::gaussian(1, 2.0, 0.01).sample(100), options);
  const std::optional<StepReport> report = flow.step();
  REQUIRE(report.has_value());
  CHECK(report->rejected > 1);
  CHECK(report->time_error <= 0.02);
}

TEST_CASE(
    "a potential that curves down: an error where a step has no minimum, a flow along the saddle otherwise") {
  const Functional saddle = entropy() + potential("x[0]^2 - x[1]^2", 2);  // eigenvalues 2 and -2
  const Cloud start = Density::gaussian(2, 0, 1).sample(200, Sampling::whitened);
  FlowOptions options = quick(0.5, 100);
  CHECK_ERROR(Flow<float>(saddle, start, options), ValueError, "curves down by -2");
  CHECK_ERROR(Flow<float>(saddle, start, options), ValueError, "tau below 0.5");
  options.order = 2;
  options.tau = 0.75;
  CHECK_ERROR(Flow<float>(saddle, start, options), ValueError, "tau below 0.75");
  options.tau = 0.7;
  CHECK_NOTHROW(Flow<float>(saddle, start, options));
  options.order = 1;
  options.tau = 0.05;
  Flow<float> flow(saddle, start, options);
  const double before = flow.functional().total();
  REQUIRE(flow.step().has_value());
  CHECK(flow.functional().total() < before);
  CHECK(smallest_eigenvalue(moments(flow.trajectory().x()).covariance) < 1);
}

namespace {

FlowOptions adapting(double end_time, double longest) {
  FlowOptions options;
  options.network.hidden = {12};
  options.network.quadratic_rank = 1;
  options.threads = 1;
  options.device = "cpu";
  options.order = 2;
  options.tau = 1e-3 * end_time;
  options.adaptive = {.tolerance = 2e-3, .end_time = end_time, .longest = longest};
  return options;
}

}  // namespace

TEST_CASE("adaptive steps of a flow that rests first, and is pushed later") {
  // x'' of the mean is known: m' = -m + max(t - 1, 0), or 3 (t - 1).
  const auto end = [](const char* v, double end_time, double longest, bool spread) {
    const FlowOptions options = adapting(end_time, longest);
    const Density start = Density::gaussian(1, 0, 1);
    const Functional f = spread ? potential(v, 1) + entropy() : potential(v, 1);
    Flow<float> flow(f, start.sample(300, Sampling::whitened), options);
    int steps = 0;
    while (const std::optional<StepReport> report = flow.step()) {
      CHECK(report->solved);
      CHECK((longest == 0 || report->tau <= longest));
      REQUIRE(++steps < 400);
    }
    return moments(flow.trajectory().x()).mean[0];
  };
  CHECK(std::abs(end("0.5*x[0]^2 - max(time - 1, 0)*x[0]", 3, 0, true) - (1 + std::exp(-2.0))) < 4e-3);
  CHECK(std::abs(end("where(time < 1, 0, -3*(time - 1)*x[0])", 2, 0, false) - 1.5) < 1e-2);
  // A push for 0.1 at t = 2, which steps of 1 do not see.
  const char* pulse = "-10*exp(-((time - 2.03)/0.05)^2)*x[0]";
  const double push = 10 * 0.05 * std::sqrt(std::acos(-1.0));
  CHECK(std::abs(end(pulse, 4, 0.02, false) - push) < 0.02 * push);
}

TEST_CASE("adaptive steps: a cloud that ends in a point, to the rounding of float") {
  const FlowOptions options = adapting(30, 0);
  Flow<float> flow(potential("0.5*(x[0] - 1)^2", 1),
                   Density::gaussian(1, 0, 1).sample(300, Sampling::stratified), options);
  int steps = 0;
  while (flow.step()) REQUIRE(++steps < 1000);
  CHECK(flow.time() == 30);
  CHECK(std::abs(moments(flow.trajectory().x()).mean[0] - 1) < 1e-7);
}

TEST_CASE("adaptive steps: a tolerance below the noise ends with an error, and the flow is as before") {
  const Ornstein problem = ornstein(1);
  const Density start = Density::gaussian(problem.initial.mean, problem.initial.covariance);
  FlowOptions options = quick(0.1, 3, 2);
  options.adaptive = {.tolerance = 1e-9, .end_time = 1.0};
  Flow<float> flow(problem.functional, start.sample(50, Sampling::whitened, 3), options);
  const std::vector<double> before = flow.trajectory().x().elements();
  CHECK_ERROR(flow.step(), NumericalError, "adaptive.tolerance");
  CHECK_ERROR(flow.step(), NumericalError, "flow.tolerance");
  CHECK_ERROR(flow.step(), NumericalError, "flow.first_tau");
  CHECK(flow.trajectory().x().elements() == before);
  CHECK(flow.maps().empty());
  // Steps too short for the network to move the cloud at all have no error that could be told.
  options.network.quadratic_rank = 1;
  options.inner.iterations = 400;
  options.adaptive.tolerance = 1e-9;
  Flow<float> still(potential("0.5*sum(x^2)", 1) + entropy(),
                    Density::gaussian(1, 2.0, 0.25).sample(50, Sampling::whitened, 3), options);
  CHECK_ERROR(still.step(), NumericalError, "adaptive.tolerance");
  options.order = 1;
  CHECK_ERROR(Flow<float>(problem.functional, start.sample(50), options), ValueError, "order = 1");
  options.order = 2, options.adaptive.end_time = 0;
  CHECK_ERROR(Flow<float>(problem.functional, start.sample(50), options), ValueError, "end_time = 0");
}

TEST_CASE("Gaussians, d = 20: the stochastic log-determinant reaches the exact iterates as well") {
  const int d = 20;
  const Ornstein problem = ornstein(d);
  const Density start = Density::gaussian(problem.initial.mean, problem.initial.covariance);
  const std::vector<GaussianState> exact = problem.exact.iterates(problem.initial, 0.05, 4, 1);
  for (const LogDetOptions::Method method :
       {LogDetOptions::Method::exact, LogDetOptions::Method::cg, LogDetOptions::Method::automatic}) {
    const bool cg = method == LogDetOptions::Method::cg;
    const char* name = cg ? "cg" : method == LogDetOptions::Method::automatic ? "automatic" : "exact";
    FlowOptions options = quick(0.05, 300);
    options.network.hidden = {8};
    options.network.quadratic_rank = d;
    options.inner.log_det.method = method;
    Flow<float> flow(problem.functional, start.sample(1000, Sampling::whitened, 3), options);
    double mean_error = 0, covariance_error = 0;
    for (int k = 1; k <= 4; ++k) {
      const std::optional<StepReport> report = flow.step();
      REQUIRE(report.has_value());
      const GaussianState cloud = moments(flow.trajectory().x());
      mean_error = norm_error(cloud.mean, exact[k].mean);
      covariance_error = norm_error(cloud.covariance.elements(), exact[k].covariance.elements());
      CHECK(mean_error <= (cg ? 1e-2 : 2e-3));
      CHECK(covariance_error <= (cg ? 1e-2 : 2e-3));
      // d = 20 is below the threshold of `automatic`.
      CHECK(report->log_det_method == (cg ? LogDetOptions::Method::cg : LogDetOptions::Method::exact));
      CHECK(report->cg.indefinite == 0);
      CHECK((report->cg.iterations > 0) == cg);
      CHECK((report->log_det_deviation > 0) == (method != LogDetOptions::Method::exact));
      // Three standard errors, and the rounding of H in float.
      CHECK(std::abs(report->log_det_error) <= 3 * report->log_det_deviation + 1e-5);
    }
    MESSAGE(std::string(name), ": errors after 4 steps: mean ", mean_error, ", covariance ",
            covariance_error);
  }
}

TEST_CASE("the stochastic log-determinant: porous medium, minibatches, and what automatic takes") {
  const BarenblattFlow exact(Barenblatt(2, 2), 0.01);
  FlowOptions options = quick(2e-3, 300);
  options.network.hidden = {12};
  options.inner.log_det = {.method = LogDetOptions::Method::cg, .probes = 2, .iterations = 4};
  const Cloud cloud =
      Density::barenblatt({.dim = 2, .m = 2, .time = 0.01}).sample(1024, Sampling::stratified);
  const std::vector<double> scales = exact.iterates(2e-3, 3, 1);
  for (const Index minibatch : {0, 512}) {
    options.inner.minibatch = minibatch;
    std::vector<double> first;
    for (const int threads : {1, 2, 3}) {
      options.threads = threads;
      Flow<float> flow(porous_medium(2), cloud, options);
      for (int k = 1; k <= 3; ++k) REQUIRE(flow.step().has_value());
      if (first.empty()) first = flow.trajectory().x().elements();
      CHECK(flow.trajectory().x().elements() == first);  // bit for bit
      const GaussianState state = moments(flow.trajectory().x());
      const double size = std::sqrt((state.covariance(0, 0) + state.covariance(1, 1)) / 2);
      CHECK_REL(size, exact.standard_deviation(scales[3]), minibatch > 0 ? 2e-2 : 1e-2);
      CHECK_REL(flow.functional().total(), exact.energy(scales[3]), minibatch > 0 ? 4e-2 : 2e-2);
    }
  }
  for (const int d : {23, 24}) {
    FlowOptions few = quick(0.05, 3);
    few.network.hidden = {4};
    few.inner.solver = InnerOptions::Solver::adam;
    Flow<float> flow(entropy(), Density::gaussian(d, 0, 1).sample(100, Sampling::whitened, 3), few);
    const std::optional<StepReport> report = flow.step();
    REQUIRE(report.has_value());
    CHECK((report->log_det_method == LogDetOptions::Method::cg) == (d == 24));
  }
  // L-BFGS needs the gradient of a function.
  FlowOptions exactly = quick(0.05, 3);
  exactly.network.hidden = {4};
  Flow<float> flow(entropy(), Density::gaussian(24, 0, 1).sample(100, Sampling::whitened, 3), exactly);
  const std::optional<StepReport> report = flow.step();
  REQUIRE(report.has_value());
  CHECK(report->log_det_method == LogDetOptions::Method::exact);
}

TEST_CASE("options of the log-determinant are checked") {
  const auto message = [](LogDetOptions choice) -> std::string {
    FlowOptions options;
    options.inner.log_det = choice;
    try {
      options.validate();
    } catch (const ValueError& error) {
      return error.what();
    }
    return "(no error)";
  };
  using Method = LogDetOptions::Method;
  CHECK(message({.method = Method::cg}) == "(no error)");
  CHECK(message({.probes = 0}) == "flow: inner.log_det.probes = 0; it must be at least 1 and at most 1000");
  CHECK(message({.iterations = 0}) ==
        "flow: inner.log_det.iterations = 0; it must be at least 1 and at most 1000");
  CHECK(message({.tolerance = 1}) == "flow: inner.log_det.tolerance = 1; it must be at least 0 and below 1");
  CHECK(message({.tolerance = std::nan("")}).find("inner.log_det.tolerance = nan") != std::string::npos);
}

TEST_CASE("porous medium: standard deviation and F follow the exact iterates, both orders") {
  const BarenblattFlow exact(Barenblatt(1, 2), 1e-3);
  const Density start = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3});
  for (const int order : {1, 2}) {
    CAPTURE(order);
    FlowOptions options = quick(1e-3, 300);
    options.order = order;
    options.start_time = 1e-3;
    Flow<float> flow(porous_medium(2), start.sample(500, Sampling::stratified), options);
    const std::size_t held_out = flow.track(start.sample(20000, Sampling::stratified));
    const std::vector<double> scales = exact.iterates(1e-3, 6, order);
    for (int k = 1; k <= 6; ++k) {
      REQUIRE(flow.step().has_value());
      CHECK_REL(flow.time(), 1e-3 * (k + 1), 1e-12);
      CHECK_REL(deviation(flow.tracked(held_out).x()), exact.standard_deviation(scales[k]), 1e-3);
      CHECK_REL(flow.functional_of(flow.tracked(held_out)).total(), exact.energy(scales[k]), 2e-3);
    }
    CHECK(flow.maps().size() == (order == 1 ? 6 : 5 + startup_steps));
  }
}

TEST_CASE("porous medium in d = 2 and 3, m = 2 and 3: densities along second-order trajectories") {
  for (const auto& [d, m] : {std::pair<Index, double>{2, 2.0}, {3, 3.0}}) {
    CAPTURE_BOUND(d);
    CAPTURE_BOUND(m);
    const Barenblatt profile(d, m);
    const BarenblattFlow exact(profile, 0.01);
    FlowOptions options = quick(2e-3, 300, 2);
    options.network.hidden = {12};
    Flow<float> flow(porous_medium(m),
                     Density::barenblatt({.dim = d, .m = m, .time = 0.01}).sample(2048, Sampling::stratified),
                     options);
    const std::vector<double> scales = exact.iterates(2e-3, 4, 2);
    for (int k = 1; k <= 4; ++k) REQUIRE(flow.step().has_value());
    const GaussianState cloud = moments(flow.trajectory().x());
    double variance = 0;
    for (Index c = 0; c < d; ++c) variance += cloud.covariance(c, c) / static_cast<double>(d);
    CHECK_REL(std::sqrt(variance), exact.standard_deviation(scales[4]), 1e-2);
    CHECK_REL(flow.functional().total(), exact.energy(scales[4]), 2e-2);
    // The log-density of each particle is that of the profile of its own scale.
    const double s = scales[4];
    for (const Index i : {Index{0}, Index{100}, Index{2047}}) {
      std::vector<double> y(d);
      double r2 = 0;
      for (Index c = 0; c < d; ++c) {
        y[c] = flow.trajectory().x()(i, c) / s;
        r2 += y[c] * y[c];
      }
      if (std::sqrt(r2) > 0.8 * profile.radius(0.01)) continue;  // steep near the edge
      const double expected = profile.log_density(y, 0.01) - static_cast<double>(d) * std::log(s);
      CHECK(std::abs(flow.trajectory().log_density()[i] - expected) < 0.1);
    }
  }
}

TEST_CASE("the paper's convention: a Barenblatt profile of mass 2") {
  const Barenblatt profile(1, 2, 2);
  const BarenblattFlow exact(profile, 1e-3);
  FlowOptions options = quick(1e-3, 300);
  options.mass = 2;
  Flow<float> flow(
      porous_medium(2),
      Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3, .mass = 2}).sample(500, Sampling::stratified),
      options);
  CHECK_REL(flow.functional().total(), profile.energy(1e-3), 2e-3);
  for (int k = 0; k < 3; ++k) REQUIRE(flow.step().has_value());
  const double scale = exact.iterates(1e-3, 3, 1).back();
  CHECK_REL(flow.functional().total(), exact.energy(scale), 3e-3);
  CHECK_REL(deviation(flow.trajectory().x()), exact.standard_deviation(scale), 2e-3);
}

TEST_CASE("aggregation from a semicircle: the support follows the exact iterates") {
  const AggregationFlow exact(1.0);
  const Index n = 400;
  Cloud cloud{Matrix<double>(n, 1), {}};
  for (Index i = 0; i < n; ++i) {  // quantiles of the semicircle by bisection
    double low = -1, high = 1;
    for (int it = 0; it < 60; ++it) {
      const double x = (low + high) / 2;
      const double cdf = 0.5 + (x * std::sqrt(1 - x * x) + std::asin(x)) / M_PI;
      (cdf < (static_cast<double>(i) + 0.5) / static_cast<double>(n) ? low : high) = x;
    }
    cloud.x(i, 0) = low;
  }
  const double start = deviation(cloud.x);  // R/2
  FlowOptions options = quick(0.05, 300);
  Flow<float> flow(interaction("0.5*r^2 - log(r)", 1), cloud, options);
  for (int k = 0; k < 4; ++k) REQUIRE(flow.step().has_value());
  CHECK_REL(deviation(flow.trajectory().x()) / start, exact.iterates(0.05, 4, 1).back(), 5e-3);
}

TEST_CASE("every row of the paper's Table 1 takes a step that lowers F") {
  const Density start = Density::gaussian(2, 0.5, 0.6);
  const Functional v = potential("sum((x - 1)^2)", 2);
  const Functional w = interaction("0.5*r^2", 2);
  const Functional rows[] = {
      entropy(),
      v,
      entropy() + v,
      porous_medium(3) + v,
      v + internal("t*log(t) + t^2") + 0.5 * w,
      potential(2, [](Var x) { return sum(exp(x)); }) + interaction(2, [](Var x) { return norm(x); })};
  for (const Functional& functional : rows) {
    CAPTURE(functional.describe());
    Flow<float> flow(functional, start.sample(300, Sampling::stratified), quick(0.02, 100));
    const double before = flow.functional().total();
    const std::optional<StepReport> report = flow.step();
    REQUIRE(report.has_value());
    CHECK(report->functional.total() + report->transport < before);
    CHECK_REL(report->functional.total(), flow.functional().total(), 1e-12);
    CHECK_REL(report->decrease, before - report->functional.total() - report->transport, 1e-9);
  }
}

TEST_CASE("a general f gives what the built-in form gives") {
  const Density start = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-2});
  const Cloud cloud = start.sample(200, Sampling::stratified);
  Flow<double> built_in(porous_medium(2), cloud, quick(1e-3, 50));
  // The tape does not recognise t^2 in this disguise.
  Flow<double> general(internal("exp(2*log(t + 1e-300))"), cloud, quick(1e-3, 50));
  REQUIRE(built_in.step().has_value());
  REQUIRE(general.step().has_value());
  CHECK_CLOSE(general.trajectory().x(), built_in.trajectory().x(), 1e-7);
}

TEST_CASE("the same seed gives the same bits for 1, 2 and 4 threads; another seed does not") {
  const Density start = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3});
  std::vector<double> first;
  for (const int threads : {1, 2, 4}) {
    FlowOptions options = quick(1e-3, 30, 2);
    options.threads = threads;
    options.inner.minibatch = 333;
    Flow<float> flow(porous_medium(2) + interaction("0.1*r^2", 1), start.sample(700, Sampling::random, 5),
                     options);
    for (int k = 0; k < 2; ++k) REQUIRE(flow.step().has_value());
    if (first.empty()) first = flow.trajectory().x().elements();
    CHECK(flow.trajectory().x().elements() == first);
    options.seed = 2;
    Flow<float> other(porous_medium(2) + interaction("0.1*r^2", 1), start.sample(700, Sampling::random, 5),
                      options);
    for (int k = 0; k < 2; ++k) REQUIRE(other.step().has_value());
    CHECK(other.trajectory().x().elements() != first);
  }
}

TEST_CASE("restored from its checkpoint, a flow continues bit for bit; held-out clouds too") {
  const Ornstein problem = ornstein(2);
  const Density start = Density::gaussian(problem.initial.mean, problem.initial.covariance);
  FlowOptions options = quick(0.05, 40, 2);
  options.inner.minibatch = 100;
  options.inner.tolerance = 1e-6;
  const Cloud cloud = start.sample(300, Sampling::random, 1);
  const Cloud held = start.sample(50, Sampling::random, 1, RandomStream::held_out);
  Flow<float> whole(problem.functional, cloud, options);
  whole.track(held);
  for (int k = 0; k < 2; ++k) REQUIRE(whole.step().has_value());

  Flow<float> continued(problem.functional, cloud, options);
  continued.track(held);
  const Trajectory& at = whole.trajectory();
  continued.restore(Trajectory::restore(at.x(), at.log_density(), at.previous(), at.jacobian(), true),
                    whole.maps(), whole.checkpoint());
  CHECK(continued.steps() == 2);
  for (int k = 0; k < 2; ++k) {
    REQUIRE(whole.step().has_value());
    REQUIRE(continued.step().has_value());
  }
  CHECK(continued.trajectory().x().elements() == whole.trajectory().x().elements());
  CHECK(continued.trajectory().log_density() == whole.trajectory().log_density());
  CHECK(continued.tracked(0).x().elements() == whole.tracked(0).x().elements());
}

TEST_CASE("maps written and read again move points as the flow did") {
  const Ornstein problem = ornstein(2);
  const Density start = Density::gaussian(problem.initial.mean, problem.initial.covariance);
  FlowOptions options = quick(0.05, 30, 2);
  options.network.quadratic_rank = 1;
  Flow<float> flow(problem.functional, start.sample(100, Sampling::random, 1), options);
  for (int k = 0; k < 2; ++k) REQUIRE(flow.step().has_value());
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "brenier_test_flow_maps";
  std::filesystem::create_directories(folder);
  Trajectory pushed(start.sample(100, Sampling::random, 1), true);
  Team team(1);
  for (std::size_t k = 0; k < flow.maps().size(); ++k) {
    const std::filesystem::path path = folder / (std::to_string(k) + ".safetensors");
    write_map(path, flow.maps()[k]);
    const BrenierMap map = read_map(path);
    CHECK(map.theta == flow.maps()[k].theta);
    CHECK(map.base == flow.maps()[k].base);
    CHECK(map.closes_step == flow.maps()[k].closes_step);
    CHECK(map.time == flow.maps()[k].time);
    pushed.advance(map, team);
  }
  CHECK(pushed.x().elements() == flow.trajectory().x().elements());
  CHECK(pushed.log_density() == flow.trajectory().log_density());
  std::filesystem::remove_all(folder);
}

TEST_CASE("a step that diverges is retried, then undone") {
  const Density start = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3});
  FlowOptions options = quick(1e-3, 100);
  options.inner.solver = InnerOptions::Solver::adam;
  options.inner.adam.rate = 1e6;
  options.inner.retries = 2;
  Flow<float> flow(porous_medium(2), start.sample(200, Sampling::stratified), options);
  const std::vector<double> before = flow.trajectory().x().elements();
  CHECK_ERROR(flow.step(), NumericalError, "step 1 diverged");
  CHECK(flow.steps() == 0);
  CHECK(flow.maps().empty());
  CHECK(flow.trajectory().x().elements() == before);

  options.inner.adam.rate = 2.0;  // too large by far, but not after some retries
  options.inner.retries = 8;
  Flow<float> saved(porous_medium(2), start.sample(200, Sampling::stratified), options);
  const std::optional<StepReport> report = saved.step();
  REQUIRE(report.has_value());
  CHECK(report->retries > 0);
  CHECK(report->rate < 2.0);
}

TEST_CASE("an interrupted step leaves the flow as it was, and it can go on") {
  const Density start = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3});
  const FlowOptions options = quick(1e-3, 100);
  const Cloud cloud = start.sample(300, Sampling::stratified);
  Flow<float> flow(porous_medium(2), cloud, options), plain(porous_medium(2), cloud, options);
  flow.interrupt();
  CHECK_FALSE(flow.step().has_value());
  CHECK(flow.steps() == 0);
  CHECK(flow.trajectory().x().elements() == cloud.x.elements());
  REQUIRE(flow.step().has_value());
  REQUIRE(plain.step().has_value());
  CHECK(flow.trajectory().x().elements() == plain.trajectory().x().elements());
}

TEST_CASE("redrawn clouds: used, reproducible, and less overfitted than one small cloud") {
  const Density start = Density::gaussian(2, 0.0, 1.0);
  const Functional functional = entropy() + potential("sum(x^2)", 2);
  const auto gap = [&](int refresh) {
    FlowOptions options = quick(0.1, 200);
    options.network.hidden = {48, 16};
    options.inner.refresh = refresh;
    Flow<float> flow(functional, start.sample(100, Sampling::random, 1), options);
    flow.set_source(
        [&](std::uint32_t k) { return start.sample(100, Sampling::random, 1000 + k, RandomStream::fresh); });
    const std::size_t held_out = flow.track(start.sample(4096, Sampling::stratified));
    for (int k = 0; k < 4; ++k) REQUIRE(flow.step().has_value());
    return flow.functional_of(flow.tracked(held_out)).total();
  };
  CHECK(gap(5) < gap(0));
  CHECK(gap(5) == gap(5));
}

TEST_CASE_TEMPLATE("a pool: the same clouds in turn, each through each map once", T, float, double) {
  const Density start = Density::gaussian(2, 0.0, 1.0);
  for (const int order : {1, 2}) {
    for (const bool powers : {false, true}) {
      const Functional functional =
          entropy() + potential("sum(x^2)", 2) + (powers ? 0.1 : 0.0) * porous_medium(2);
      const auto make = [&](int pool, std::vector<std::uint32_t>* numbers) {
        FlowOptions options = quick(0.1, 50);
        options.order = order;
        options.inner.solver = InnerOptions::Solver::adam;
        options.inner.retries = 0;
        options.inner.refresh = 10;
        options.inner.pool = pool;
        Flow<T> flow(functional, start.sample(100, Sampling::random, 1), options);
        flow.set_source([&start, numbers](std::uint32_t k) {
          if (numbers) numbers->push_back(k);
          return start.sample(100, Sampling::random, 1000 + k, RandomStream::fresh);
        });
        return flow;
      };
      const auto take = [](Flow<T>& flow, int steps) {
        for (int k = 0; k < steps; ++k) REQUIRE(flow.step().has_value());
        return flow.trajectory().x().elements();
      };
      std::vector<std::uint32_t> numbers;
      Flow<T> fresh = make(0, nullptr), large = make(100, nullptr), small = make(6, &numbers);
      CHECK(take(fresh, 3) == take(large, 3));  // as long as none comes twice
      take(small, 2);
      const std::vector<std::byte> saved = small.save();
      const std::vector<double> end = take(small, 2);
      CHECK(numbers == std::vector<std::uint32_t>{1, 2, 3, 4, 5, 6});
      CHECK(end != take(large, 1));
      // A pool is not kept: it is drawn again and goes through all maps.
      Flow<T> again = make(6, nullptr);
      again.load(saved);
      CHECK(take(again, 2) == end);
    }
  }
  FlowOptions options = quick(0.1, 50);
  options.inner.pool = 3;
  CHECK_ERROR(Flow<T>(entropy(), start.sample(100, Sampling::random, 1), options), ValueError,
              "inner.pool = 3");
}

TEST_CASE("cold starts and a tolerance work") {
  const Density start = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3});
  FlowOptions options = quick(1e-3, 400);
  options.inner.warm_start = false;
  options.inner.tolerance = 0.02;
  Flow<float> flow(porous_medium(2), start.sample(300, Sampling::stratified), options);
  const std::optional<StepReport> report = flow.step();
  REQUIRE(report.has_value());
  CHECK(report->converged);
  CHECK(report->iterations < 400);
  CHECK(report->residual <= 0.02);
}

TEST_CASE("particles at the edge, where the density vanishes, stay finite") {
  Cloud cloud = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-2}).sample(99, Sampling::stratified);
  cloud.log_density[0] = -std::numeric_limits<double>::infinity();
  Flow<float> flow(porous_medium(2), cloud, quick(1e-3, 50));
  const std::optional<StepReport> report = flow.step();
  REQUIRE(report.has_value());
  CHECK(std::isfinite(report->functional.total()));
  CHECK(flow.trajectory().log_density()[0] == -std::numeric_limits<double>::infinity());
  for (const double x : flow.trajectory().x().elements()) CHECK(std::isfinite(x));
}

TEST_CASE("what does not fit is named") {
  const Cloud cloud = Density::gaussian(2, 0.0, 1.0).sample(10);
  const FlowOptions defaults;
  const auto with = [](const auto& change) {
    FlowOptions options;
    change(options);
    return options;
  };
  const auto flow = [&](Functional f, Cloud c, const FlowOptions& o) {
    Flow<float> made(std::move(f), std::move(c), o);
  };
  CHECK_ERROR(flow(entropy(), cloud, with([](FlowOptions& o) { o.tau = 0; })), ValueError, "tau = 0");
  CHECK_ERROR(flow(entropy(), cloud, with([](FlowOptions& o) { o.tau = -1e-3; })), ValueError,
              "tau = -0.001");
  CHECK_ERROR(flow(entropy(), cloud, with([](FlowOptions& o) { o.order = 3; })), ValueError, "order = 3");
  CHECK_ERROR(flow(entropy(), cloud, with([](FlowOptions& o) { o.threads = -1; })), ValueError,
              "threads = -1");
  CHECK_ERROR(flow(entropy(), cloud, with([](FlowOptions& o) { o.device = "cuda"; })), NotAvailable,
              "no CUDA backend");
  CHECK_ERROR(flow(entropy(), cloud, with([](FlowOptions& o) { o.device = "gpu"; })), ValueError, "\"gpu\"");
  CHECK_ERROR(flow(entropy(), cloud, with([](FlowOptions& o) { o.start_time = -1e17; })), ValueError,
              "start_time = -1e+17");
  CHECK_NOTHROW(flow(entropy(), cloud, with([](FlowOptions& o) { o.start_time = 1e9; })));
  const auto pairs = with([](FlowOptions& o) { o.inner.minibatch = 11; });
  CHECK_ERROR(flow(entropy(), cloud, pairs), ValueError,
              "minibatch = 11; it must be at most the number of particles, 10");
  FlowOptions some = with([](FlowOptions& o) { o.inner.minibatch = 10; });
  Flow<float> shrunk(entropy(), cloud, some);
  CHECK_ERROR(shrunk.set_cloud(Density::gaussian(2, 0.0, 1.0).sample(9)), ValueError, "minibatch = 10");
  CHECK(shrunk.trajectory().size() == 10);
  CHECK_ERROR(flow(Functional(), cloud, defaults), ValueError, "no terms");
  CHECK_ERROR(flow(potential("sum(x)", 3), cloud, defaults), ShapeError, "dimension 3");
  CHECK_ERROR(flow(entropy(), Cloud{cloud.x, {}}, defaults), ValueError, "log-density");
  CHECK_ERROR(flow(entropy(), Cloud{}, defaults), ValueError, "no particles");
  Cloud broken = cloud;
  broken.x(7, 1) = std::nan("");
  CHECK_ERROR(flow(entropy(), broken, defaults), ValueError, "particle 7");
  Cloud shorter = cloud;
  shorter.log_density.pop_back();
  CHECK_ERROR(flow(entropy(), shorter, defaults), ShapeError, "9 log-densities");
  CHECK_ERROR(potential("sum(x)", 2) + potential("sum(x)", 3), ShapeError, "dimension 3");
  CHECK_ERROR(porous_medium(1.0), ValueError, "m = 1");
}

TEST_CASE(
    "leaky ReLU: flows without internal energy, order 1 and 2, without densities; all else is refused") {
  FlowOptions options = quick(0.1);
  options.network.activation = Activation::leaky_relu;
  options.network.first_layer = FirstLayer::squared;
  options.network.output_activation = true;
  const Density initial = Density::gaussian(2, 1.0, 0.5);
  for (const int order : {1, 2}) {
    CAPTURE(order);
    options.order = order;
    Flow<double> flow(potential("0.5*sum(x^2)", 2), initial.sample(200, Sampling::random, 3), options);
    CHECK_FALSE(flow.trajectory().has_density());
    const std::size_t held_out = flow.track(initial.sample(50, Sampling::random, 4));
    const GaussianState before = moments(flow.trajectory().x());
    const auto report = flow.step();
    REQUIRE(report);
    CHECK(report->solver == InnerOptions::Solver::adam);
    CHECK(std::isnan(report->round_trip));
    CHECK(report->min_eigenvalue > 0);
    // The exact map of a step is x/(1 + tau); second order starts with several short ones.
    const double mean = moments(flow.trajectory().x()).mean[0] / before.mean[0];
    CHECK_REL(mean, order == 1 ? 1 / 1.1 : std::exp(-0.1), 2e-2);
    CHECK_FALSE(flow.tracked(held_out).has_density());
  }
  CHECK_ERROR(Flow<double>(entropy(), initial.sample(20, Sampling::random, 3), options), ValueError,
              "flow: an internal energy of a network with activation = leaky_relu(0.01)");
  options.inner.solver = InnerOptions::Solver::lbfgs;
  CHECK_ERROR(Flow<double>(potential("0.5*sum(x^2)", 2), initial.sample(20, Sampling::random, 3), options),
              ValueError, "flow: inner.solver = lbfgs with activation = leaky_relu(0.01)");
}

TEST_CASE("a potential that moves: Gaussians follow the iterates with the centre at the end of each step") {
  // V(x, time) = |x - c(time)|^2 / 2; an explicit time enters a JKO step at its end.
  const double start_time = 0.5, tau = 0.1;
  const auto centre = [](double t) { return std::vector<double>{3 * t, std::sin(2 * t)}; };
  const Matrix<double> identity = [] {
    Matrix<double> out(2, 2);
    out(0, 0) = out(1, 1) = 1;
    return out;
  }();
  const Functional moving =
      potential("0.5*((x[0] - k*time)^2 + (x[1] - sin(2*time))^2)", 2, {{"k", Parameter::scalar(3)}});
  CHECK(moving.depends_on_time());
  CHECK(moving.dimension() == 2);
  CHECK_FALSE(moving.gaussian(2).has_value());
  CHECK(moving.at(start_time).gaussian(2).has_value());
  CHECK_ERROR(moving.objective(), ValueError, "at(time)");
  CHECK_ERROR(potential("x[0]*tiem", 1), ParseError, "'tiem'");
  const Functional recorded = potential(1, [](Var x, double time) { return sum(x) * time; });
  CHECK(recorded.at(2.0).gaussian(1)->potential.linear[0] == -2);

  for (const double diffusion : {1.0, 0.0}) {
    for (const int order : {1, 2}) {
      CAPTURE(diffusion);
      CAPTURE(order);
      FlowOptions options = quick(tau, 300);
      options.order = order;
      options.start_time = start_time;
      options.network.hidden = {8};
      options.network.quadratic_rank = 2;
      const Functional f = diffusion > 0 ? entropy() + moving : moving;
      const Cloud initial = Density::gaussian({1, -1}, identity).sample(500, Sampling::whitened, 3);
      Flow<float> flow(f, initial, options);
      GaussianState exact{{1, -1}, identity}, before = exact;
      // One JKO step that ends at a time.
      const auto jko = [&](const GaussianState& from, double length, double end) {
        return GaussianFlow(identity, centre(end), diffusion).iterates(from, length, 1)[1];
      };
      for (int k = 1; k <= 3; ++k) {
        const double begin = start_time + (k - 1) * tau, end = start_time + k * tau;
        const GaussianState last = exact;
        if (order == 1) {
          exact = jko(exact, tau, end);
        } else if (k == 1) {
          for (int part = 1; part <= startup_steps; ++part)
            exact = jko(exact, tau / startup_steps, begin + part * tau / startup_steps);
        } else {  // the mean of BDF2
          for (int c = 0; c < 2; ++c) exact.mean[c] += (last.mean[c] - before.mean[c]) / 3;
          exact.mean = jko(exact, 2 * tau / 3, end).mean;
        }
        before = last;
        const std::optional<StepReport> report = flow.step();
        REQUIRE(report.has_value());
        const GaussianState cloud = moments(flow.trajectory().x());
        CHECK(norm_error(cloud.mean, exact.mean) <= 2e-3);
        if (order == 1) CHECK(norm_error(cloud.covariance.elements(), exact.covariance.elements()) <= 2e-3);
        // F is that of the flow's time, before and after.
        double expected = 0;
        for (int c = 0; c < 2; ++c) {
          const double offset = cloud.mean[c] - centre(end)[c];
          expected += 0.5 * (offset * offset + cloud.covariance(c, c));
        }
        CHECK_REL(report->functional.potential, expected, 1e-6);
        CHECK_REL(flow.functional().potential, expected, 1e-6);
      }
      // Restored flows go on with the same bits.
      Flow<float> again(f, initial, options);
      again.restore(flow.trajectory(), flow.maps(), flow.checkpoint());
      CHECK(again.functional().potential == flow.functional().potential);
      REQUIRE(again.step().has_value());
      REQUIRE(flow.step().has_value());
      CHECK(again.trajectory().x().elements() == flow.trajectory().x().elements());
    }
  }
}
