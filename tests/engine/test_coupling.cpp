// SPDX-License-Identifier: MIT
// A flow inside of a host program: its functions as potentials, its clouds between steps, its own checkpoints.
#include <doctest/doctest.h>

#include <brenier/brenier.hpp>
#include <cmath>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <thread>

#include "tests/support/backends.hpp"
#include "tests/support/step_case.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

// A double well along each axis, not radial: V = sum(x^4/4 - x^2/2) + x_0 x_1/5.
constexpr const char* kWell = "0.25*sum(x^4) - 0.5*sum(x^2) + 0.2*x[0]*x[1]";
void well(MatrixView<const double> x, double* v, MatrixView<double> gradient) {
  for (Index i = 0; i < x.rows; ++i) {
    if (v) v[i] = 0.2 * x(i, 0) * x(i, 1);
    for (Index c = 0; c < x.cols; ++c) {
      const double square = x(i, c) * x(i, c);
      if (v) v[i] += square * square / 4 - square / 2;
      if (gradient) gradient(i, c) = x(i, c) * square - x(i, c) + (c < 2 ? 0.2 * x(i, 1 - c) : 0);
    }
  }
}

FlowOptions small(int order = 1) {
  FlowOptions options{.tau = 0.05, .order = order, .seed = 3, .threads = 1};
  options.inner.iterations = 30;
  options.network.hidden = {12, 6};
  return options;
}

Cloud start(Index n = 90) {
  return Density::gaussian(2, 0.4, 0.3).sample(n, Sampling::stratified, 1);
}

/// Everything that a flow promises to leave alone.
template <class T>
void check_same(const Flow<T>& a, const Flow<T>& b) {
  CHECK(a.steps() == b.steps());
  CHECK(a.time() == b.time());
  CHECK(a.trajectory().x().elements() == b.trajectory().x().elements());
  CHECK(a.trajectory().log_density() == b.trajectory().log_density());
  CHECK(a.checkpoint().theta == b.checkpoint().theta);
  CHECK(a.checkpoint().gradient_scale == b.checkpoint().gradient_scale);
  CHECK(a.checkpoint().problems == b.checkpoint().problems);
}

struct HostError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace

TEST_CASE_TEMPLATE(
    "a step's objective has the same value and gradient with V as a function and as an expression", T, float,
    double) {
  for (const Backend<T>& backend : all_backends<T>()) {
    if (!backend.ops->host) continue;
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    for (const Index minibatch : {0, 40}) {
      StepCase<T> step({.dim = 3, .hidden = {9, 5}, .quadratic_rank = 1}, 150,
                       {.internal = {}, .potential = false}, minibatch);
      step.objective.potential = (2.0 * potential(kWell, 3)).objective().potential;
      const std::vector<double> expected = step.gradient(*backend.ops, team);
      std::vector<double> gradient(expected.size());
      const double value =
          backend.ops->step_objective(step.problem, team)->evaluate(step.theta.data(), 4, gradient.data());
      for (const bool thread_safe : {false, true}) {
        step.objective.potential = {};
        step.objective.black_box =
            (2.0 * potential(3, well, {.thread_safe = thread_safe})).objective().black_box;
        CHECK_CLOSE(step.gradient(*backend.ops, team), expected, tol<T>(32));
        CHECK_REL(
            backend.ops->step_objective(step.problem, team)->evaluate(step.theta.data(), 4, gradient.data()),
            value, tol<T>(32));
        CHECK_CLOSE(gradient, expected, tol<T>(32));
        auto state = step.state();
        const InnerReport report = backend.ops->inner_loop(step.problem, state, 3, team);
        CHECK(report.iterations == 3);
      }
    }
  }
}

TEST_CASE_TEMPLATE("a flow takes a function of the host as a potential: same flow as with the expression", T,
                   float, double) {
  using Solver = InnerOptions::Solver;
  // Ten iterations: what rounding makes of an iteration grows with each, and of where a step ends within its tolerance.
  for (const auto& [solver, energy] :
       {std::pair(Solver::lbfgs, false), std::pair(Solver::lbfgs, true), std::pair(Solver::adam, true)}) {
    const int which = static_cast<int>(solver);
    CAPTURE(which);
    FlowOptions options = small();
    options.threads = 2;
    options.inner.solver = solver;
    options.inner.iterations = 10;
    const bool entropies = energy;
    const auto flow_of = [&](const Functional& v) {
      Flow<T> flow(entropies ? v + entropy() : v, start(), options);
      flow.set_initial_density(Density::gaussian(2, 0.4, 0.3));
      flow.track(start(100));
      return flow;
    };
    std::set<std::thread::id> callers;
    std::mutex mutex;
    const auto watched = [&](MatrixView<const double> x, double* v, MatrixView<double> gradient) {
      const std::lock_guard lock(mutex);
      callers.insert(std::this_thread::get_id());
      well(x, v, gradient);
    };
    Flow<T> expected = flow_of(potential(kWell, 2)), flow = flow_of(potential(2, watched));
    Flow<T> threaded = flow_of(potential(2, well, {.thread_safe = true}));
    for (int k = 0; k < 2; ++k) {
      const StepReport a = *expected.step(), b = *flow.step();
      threaded.step();
      const double tolerance = tol<T>(k == 0 ? 3e3 : 3e5);
      CHECK_CLOSE(flow.trajectory().x(), expected.trajectory().x(), tolerance);
      CHECK_CLOSE(flow.tracked(0).x(), expected.tracked(0).x(), tolerance);
      CHECK_REL(b.functional.total(), a.functional.total(), 10 * tolerance);
      CHECK(a.basis == b.basis);
      CHECK(a.basis != StepBasis::none);
      CHECK(std::abs(a.missed_share - b.missed_share) <= 100 * tolerance);
    }
    CHECK(callers == std::set{std::this_thread::get_id()});
    check_same(threaded, flow);
  }
}

TEST_CASE("a potential that fails ends the step in its own error, and the flow is as before") {
  for (const auto solver : {InnerOptions::Solver::lbfgs, InnerOptions::Solver::adam}) {
    for (const char* device : {"cpu", "ref"}) {
      CAPTURE(device);
      FlowOptions options = small();
      options.inner.solver = solver;
      options.inner.iterations = 12;
      options.device = device;
      int calls = 0, fails_at = -1;
      bool nan = false;
      const auto v = [&](MatrixView<const double> x, double* value, MatrixView<double> gradient) {
        well(x, value, gradient);
        if (++calls != fails_at) return;
        if (!nan) throw HostError("the table ends here");
        (value ? value[7] : gradient(7, 1)) = std::numeric_limits<double>::quiet_NaN();
      };
      const Functional f = potential(2, v, {.name = "table"}) + entropy();
      Flow<double> flow(f, start(100), options), expected(f, start(100), options);
      flow.step();
      calls = 0;
      expected.step();
      expected.step();
      calls = 0;
      Flow<double> twin(f, start(100), options);
      twin.step();
      const int first = calls;
      twin.step();
      const int in_step = calls - first;
      REQUIRE(in_step > 12);
      for (const int at : {1, 2, in_step / 3, in_step / 2, in_step}) {
        CAPTURE(at);
        nan = false;
        calls = 0;
        fails_at = at;
        CHECK_ERROR(flow.step(), HostError, "the table ends here");
        nan = true;
        calls = 0;
        CHECK_ERROR(flow.step(), NumericalError, "potential table: ");
        fails_at = -1;
        CHECK(flow.steps() == 1);
      }
      flow.step();
      check_same(flow, expected);
    }
  }
}

TEST_CASE("what a potential of the host must be") {
  CHECK_ERROR(potential(2, PotentialFunction()), ValueError, "no function");
  CHECK_ERROR(potential(0, well), ValueError, "dimension 0");
  CHECK_ERROR(Flow<float>(potential(3, well), start(10), small()), ShapeError, "dimension 3");
  const Functional f = 2.0 * potential(2, well, {.name = "of MyCode"});
  CHECK(f.describe() == "2 * potential of MyCode");
  CHECK(f.dimension() == 2);
  CHECK_FALSE(f.needs_density());
  CHECK_FALSE(f.gaussian(2));
  const auto infinite = [](MatrixView<const double> x, double* v, MatrixView<double> gradient) {
    well(x, v, gradient);
    if (v) v[3] = std::numeric_limits<double>::infinity();
  };
  Flow<float> flow(potential(2, infinite), start(10), small());
  CHECK_ERROR(flow.step(), NumericalError, "at particle 3");
}

TEST_CASE("direct optimisation asks a function of the host as well") {
  Descent expected(potential(kWell, 2), start(50).x), descent(potential(2, well), start(50).x);
  for (int k = 0; k < 5; ++k) {
    expected.step();
    descent.step();
  }
  CHECK_CLOSE(descent.x(), expected.x(), tol<double>(64));
  CHECK_REL(descent.functional().total(), expected.functional().total(), tol<double>(64));
}

TEST_CASE("another cloud keeps the network, and goes on from there") {
  const Functional f = potential(kWell, 2) + entropy();
  Flow<double> flow(f, start(), small());
  flow.track(start(50));
  flow.step();
  flow.step();
  Cloud moved{flow.trajectory().x(), flow.trajectory().log_density()};
  for (double& x : moved.x.elements()) x += 0.25;
  const std::vector<double> theta = flow.checkpoint().theta;
  CHECK_ERROR(flow.set_cloud({Matrix<double>(10, 3), {}}), ShapeError, "dimension 3");
  CHECK_ERROR(flow.set_cloud({moved.x, {}}), ValueError, "log-density");
  Cloud broken = moved;
  broken.x(4, 1) = std::numeric_limits<double>::infinity();
  CHECK_ERROR(flow.set_cloud(broken), ValueError, "particle 4");
  CHECK(flow.maps().size() == 2);
  CHECK(flow.tracked(0).x().rows() == 50);

  flow.set_cloud(moved);
  CHECK(flow.checkpoint().theta == theta);
  CHECK(flow.maps().empty());
  CHECK(flow.steps() == 2);
  CHECK_REL(flow.time(), 0.1, tol<double>(2));
  CHECK_ERROR(flow.tracked(0), ValueError, "0 are tracked");
  // The same as a flow that is restored at that cloud.
  Flow<double> other(f, start(), small());
  auto checkpoint = flow.checkpoint();
  other.restore(Trajectory(moved, false), {}, checkpoint);
  check_same(flow, other);
  flow.set_initial_density(Density::gaussian(2, 0.6, 0.3));
  other.set_initial_density(Density::gaussian(2, 0.6, 0.3));
  const StepReport a = *flow.step();
  other.step();
  check_same(flow, other);
  CHECK(a.step == 3);
  CHECK(flow.maps().size() == 1);
  CHECK(flow.maps()[0].step == 3);
  // Another number of particles, and order 2, which starts up again.
  Flow<float> second(f, start(), small(2));
  second.step();
  second.step();
  second.set_cloud(start(120));
  CHECK(second.step()->order == 2);
  CHECK(second.maps().size() == 8);
  FlowOptions redrawn = small();
  redrawn.inner.refresh = 10;
  Flow<float> drawing(potential(kWell, 2), start(), redrawn);
  CHECK_ERROR(drawing.set_cloud(start()), ValueError, "inner.refresh");
}

TEST_CASE("another functional keeps the network") {
  Flow<double> flow(potential(kWell, 2), Cloud{start().x, {}}, small());
  flow.step();
  const auto before = flow.checkpoint();
  CHECK_ERROR(flow.set_functional(potential(kWell, 2) + entropy()), ValueError, "log-density");
  CHECK_ERROR(flow.set_functional(potential(kWell, 3)), ShapeError, "dimension 3");
  CHECK_ERROR(flow.set_functional(Functional()), ValueError, "no terms");
  CHECK_ERROR(flow.set_functional(-100.0 * potential("sum(x^2)", 2)), ValueError, "curves down");
  CHECK(flow.checkpoint().gradient_scale == before.gradient_scale);
  flow.set_functional(0.5 * potential("sum((x - 1)^2)", 2));
  CHECK(flow.checkpoint().theta == before.theta);
  CHECK(flow.step()->start != std::string(""));
  while (flow.steps() < 30) flow.step();
  // Exact steps of a quadratic V: (x - 1) / (1 + tau) each; 29 of them.
  Matrix<double> mean(1, 2);
  for (Index i = 0; i < flow.trajectory().x().rows(); ++i) {
    for (Index c = 0; c < 2; ++c) mean(0, c) += flow.trajectory().x()(i, c) / 90;
  }
  for (const double m : mean.elements()) CHECK(std::abs(m - 1) < 0.2);
}

TEST_CASE("a flow that drops its maps is the same flow") {
  const Functional f = potential(kWell, 2) + entropy();
  for (const int order : {1, 2}) {
    FlowOptions options = small(order);
    Flow<double> expected(f, start(), options);
    options.keep_maps = false;
    Flow<double> flow(f, start(), options);
    for (Flow<double>* one : {&expected, &flow}) {
      one->track(start(60));
      one->set_initial_density(Density::gaussian(2, 0.4, 0.3));
      for (int k = 0; k < 3; ++k) one->step();
    }
    CHECK(flow.maps().empty());
    check_same(flow, expected);
    CHECK(flow.tracked(0).x().elements() == expected.tracked(0).x().elements());
    CHECK_ERROR(flow.track(start(10)), ValueError, "keep_maps");
  }
  FlowOptions redrawn = small();
  redrawn.keep_maps = false;
  redrawn.inner.refresh = 10;
  CHECK_ERROR(Flow<float>(f, start(), redrawn), ValueError, "keep_maps");
}

TEST_CASE_TEMPLATE("a flow that was saved to memory goes on bit for bit", T, float, double) {
  const auto f = [] { return potential(2, well) + entropy(); };
  for (const int kind : {0, 1, 2}) {  // order 1, order 2, lengths that adapt
    CAPTURE(kind);
    FlowOptions options = small(kind > 0 ? 2 : 1);
    options.keep_maps = kind == 0;
    if (kind == 2) options.adaptive = {.tolerance = 0.05, .end_time = 1};
    const auto make = [&] { return Flow<T>(f(), start(), options); };
    Flow<T> flow = make();
    flow.set_initial_density(Density::gaussian(2, 0.4, 0.3));
    flow.track(start(60));
    Flow<T> early = make();
    early.load(flow.save());  // before the first step
    flow.step();
    flow.step();
    const std::vector<std::byte> saved = flow.save();
    Flow<T> other = make();
    other.load(saved);
    check_same(flow, other);
    for (int k = 0; k < 2; ++k) {
      const std::optional<StepReport> step = flow.step(), again = other.step();
      REQUIRE((step && again));  // not at the end of time
      const StepReport &a = *step, &b = *again;
      early.step();
      CHECK(a.tau == b.tau);
      CHECK(a.missed_share_held_out == b.missed_share_held_out);
      CHECK(a.basis == StepBasis::residual);
    }
    early.step();
    early.step();
    check_same(flow, other);
    check_same(flow, early);
    CHECK(flow.tracked(0).log_density() == other.tracked(0).log_density());
    CHECK(flow.maps().size() == other.maps().size());

    // What does not fit is refused, and changes nothing.
    const std::vector<std::byte> now = other.save();
    std::vector<std::byte> damaged = saved;
    damaged[saved.size() / 2] ^= std::byte{1};
    CHECK_ERROR(other.load(damaged), IoError, "checksum");
    CHECK_ERROR(other.load(std::span(saved).first(saved.size() / 3)), IoError, "checkpoint");
    CHECK_ERROR(other.load({}), IoError, "truncated");
    FlowOptions wide = options;
    wide.network.hidden = {13, 6};
    CHECK_ERROR(Flow<T>(f(), start(), wide).load(saved), ShapeError, "parameters");
    CHECK_ERROR(Flow<T>(f() + 1.0 * potential(kWell, 2), start(), options).load(saved), ValueError, "F = ");
    if (kind == 1) CHECK_ERROR(Flow<T>(f(), start(), small(1)).load(saved), ValueError, "order 2");
    CHECK(other.save() == now);

    // Nor a flow from another density, also where the cloud was another in between. Where none is known, none is asked for.
    Flow<T> elsewhere = make();
    elsewhere.set_initial_density(Density::gaussian(2, 0.4, 0.31));
    const std::vector<std::byte> untouched = elsewhere.save();
    CHECK_ERROR(elsewhere.load(saved), ValueError, "another initial density");
    CHECK(elsewhere.save() == untouched);
    elsewhere.set_cloud(start(70));
    const std::vector<std::byte> replaced = elsewhere.save();
    CHECK_ERROR(elsewhere.load(saved), ValueError, "another initial density");
    elsewhere.load(untouched);
    CHECK(elsewhere.save() == untouched);
    elsewhere.load(replaced);
    CHECK(elsewhere.save() == replaced);
    Flow<T> same = make();
    same.set_initial_density(Density::gaussian(2, 0.4, 0.3));
    same.load(saved);
    CHECK(same.save() == saved);
  }
}

TEST_CASE("the maps of a flow as bytes") {
  Flow<double> flow(potential(kWell, 2) + entropy(), start(), small(2));
  flow.step();
  flow.step();
  const std::vector<BrenierMap> back = parse_maps(map_bytes(flow.maps()));
  REQUIRE(back.size() == flow.maps().size());
  for (std::size_t k = 0; k < back.size(); ++k) {
    const BrenierMap &a = back[k], &b = flow.maps()[k];
    CHECK(a.theta == b.theta);
    CHECK((a.base == b.base && a.closes_step == b.closes_step && a.step == b.step));
    CHECK((a.time == b.time && a.tau == b.tau && a.ratio == b.ratio));
  }
  CHECK_ERROR(map_bytes({}), ValueError, "none");
  CHECK_ERROR(parse_maps(flow.save()), IoError, "format");
  std::vector<std::byte> bytes = map_bytes(flow.maps());
  bytes.pop_back();
  CHECK_ERROR(parse_maps(bytes, "mine"), IoError, "'mine'");
}
