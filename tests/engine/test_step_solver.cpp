// SPDX-License-Identifier: MIT
// Steps far from the identity, in any unit: solved to what is known, or said not to be.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/flow.hpp"
#include "brenier/oracles.hpp"
#include "tests/support/near.hpp"

using namespace brenier;
using namespace brenier::test;
using Solver = InnerOptions::Solver;

namespace {

double mean_of(const Matrix<double>& x, Index c = 0) {
  double sum = 0;
  for (Index i = 0; i < x.rows(); ++i) sum += x(i, c) / static_cast<double>(x.rows());
  return sum;
}
double variance_of(const Matrix<double>& x, Index c = 0) {
  const double mean = mean_of(x, c);
  double sum = 0;
  for (Index i = 0; i < x.rows(); ++i)
    sum += (x(i, c) - mean) * (x(i, c) - mean) / static_cast<double>(x.rows());
  return sum;
}

FlowOptions basic(double tau, std::vector<int> hidden = {24, 12}) {
  FlowOptions options;
  options.tau = tau;
  options.network.hidden = std::move(hidden);
  options.threads = 1;
  options.device = "cpu";
  return options;
}

struct Outcome {
  Matrix<double> x;
  std::vector<StepReport> reports;
  int evaluations = 0;
  bool solved = true;
};

template <class T = float>
Outcome run(const Functional& f, const Cloud& cloud, const FlowOptions& options, int steps,
            const Density* initial = nullptr) {
  Flow<T> flow(f, cloud, options);
  if (initial) flow.set_initial_density(*initial);
  Outcome out;
  for (int k = 0; k < steps; ++k) {
    out.reports.push_back(*flow.step());
    out.evaluations += out.reports.back().iterations;
    out.solved = out.solved && out.reports.back().solved;
  }
  out.x = flow.trajectory().x();
  return out;
}

/// Mean over particles of the lowest V(y) + |y - x|^2/(2 tau) of a V that is a sum of g over coordinates.
template <class G>
double proximal_value(const G& g, const Matrix<double>& x, double tau, double low, double high) {
  double sum = 0;
  for (const double at : x.elements()) {
    double best = g(at);
    constexpr int kGrid = 4000;
    for (int k = 0; k <= kGrid; ++k) {
      const double y = low + (high - low) * k / kGrid;
      best = std::min(best, g(y) + (y - at) * (y - at) / (2 * tau));
    }
    sum += best / static_cast<double>(x.rows());
  }
  return sum;
}

}  // namespace

TEST_CASE("heat from a narrow Gaussian") {
  const Density start = Density::gaussian(1, 0, 0.01);
  FlowOptions options = basic(0.1, {16});
  options.network.quadratic_rank = 1;
  const Outcome out = run(entropy(), start.sample(500, Sampling::whitened), options, 5, &start);
  double variance = 0.01;
  for (int k = 0; k < 5; ++k) {  // (1/tau) s^2 - (1/tau) s - 1/variance = 0
    const double s = (1 + std::sqrt(1 + 4 * options.tau / variance)) / 2;
    variance *= s * s;
  }
  CHECK_REL(variance_of(out.x), variance, 0.01);
  CHECK(out.solved);
  CHECK(out.reports[0].basis == StepBasis::residual);
  CHECK(out.reports[0].solver == Solver::lbfgs);
  CHECK(out.evaluations < 300);
}

TEST_CASE("a Gaussian far from the minimum of its well") {
  const Density start = Density::gaussian(1, 30, 1);
  const Outcome out = run(entropy() + potential("0.5*sum(x^2)", 1), start.sample(500, Sampling::whitened),
                          basic(0.1), 5, &start);
  CHECK_REL(mean_of(out.x), 30 / std::pow(1.1, 5), 1e-3);
  CHECK_REL(variance_of(out.x), 1, 0.01);
  CHECK(out.solved);
  CHECK(out.evaluations < 100);
}

TEST_CASE("an oscillating potential: solved, or the share that is missed is that of the proximal map") {
  const auto styblinski = [](double x) { return 0.5 * (x * x * x * x - 16 * x * x + 5 * x); };
  const Functional f = potential("0.5*sum(x^4 - 16*x^2 + 5*x)", 2);
  const Cloud cloud = Density::uniform({-4, -4}, {4, 4}).sample(500, Sampling::random, 1);
  const FlowOptions options = basic(0.01, {60, 20});
  const Outcome out = run(f, cloud, options, 1);
  double before = 0;
  for (const double x : cloud.x.elements()) before += styblinski(x) / 500;
  const double best = before - proximal_value(styblinski, cloud.x, options.tau, -4.5, 4.5);
  const StepReport& report = out.reports[0];
  const double missed = 1 - report.decrease / best;
  CAPTURE(missed);
  CAPTURE(report.missed_share);
  CHECK(missed < 0.05);
  CHECK((!report.solved || missed < 0.02));
  CHECK(report.missed_share == doctest::Approx(missed).epsilon(0.5));
}

TEST_CASE("kinks that the network cannot follow are said, with what particles alone reach") {
  const Functional f = potential("-abs(sin(x[0])*cos(x[1])*exp(abs(1 - norm(x)/pi)))", 2);
  const Cloud cloud = Density::uniform({-4, -4}, {4, 4}).sample(300, Sampling::random, 1);
  FlowOptions options = basic(0.01, {16});
  options.inner.iterations = 60;
  const Outcome out = run(f, cloud, options, 1);
  const StepReport& report = out.reports[0];
  CHECK(!report.solved);
  CHECK(report.basis == StepBasis::optimum);
  CHECK(report.missed_share > 0.1);
  CHECK(report.particle_decrease > report.decrease);

  options.inner.on_unsolved = InnerOptions::OnUnsolved::stop;
  Flow<float> flow(f, cloud, options);
  CHECK_ERROR(flow.step(), NumericalError, "is not solved");
  CHECK(flow.steps() == 0);
  CHECK(flow.trajectory().x().elements() == cloud.x.elements());
}

TEST_CASE("clouds that are tiny, or in one place") {
  const Functional well = potential("0.5*sum(x^2)", 2);
  for (const Solver solver : {Solver::automatic, Solver::adam}) {
    FlowOptions options = basic(0.1, {12});
    options.inner.solver = solver;
    const Outcome tiny =
        run(well, Density::gaussian(2, 0, 1e-12).sample(300, Sampling::whitened), options, 5);
    for (const Index c : {0, 1}) CHECK_REL(variance_of(tiny.x, c), 1e-12 / std::pow(1.1, 10), 0.02);
    CHECK(tiny.solved);
    Cloud dots{Matrix<double>(20, 2), {}};
    for (double& x : dots.x.elements()) x = 3;
    const Outcome one = run(well, dots, options, 5);
    for (const Index c : {0, 1}) CHECK_REL(mean_of(one.x, c), 3 / std::pow(1.1, 5), 0.01);
    CHECK(one.solved);
  }
}

TEST_CASE("units of length and energy change nothing beyond rounding") {
  // Lengths are multiplied by `length`, energies by `energy`; tau has the unit length^2/energy.
  struct Terms {
    const char* name;
    Functional (*make)(double length, double energy);
    bool density;
    bool logarithms;  // of lengths: sums that are rounded otherwise in another unit
  };
  const Terms all[] = {
      {"potential",
       [](double l, double e) { return (e / (l * l)) * potential("0.5*sum(x^2) + x[0]*x[1]/4", 2); }, false,
       false},
      {"quartic", [](double l, double e) { return (e / (l * l * l * l)) * potential("0.5*sum(x^4)", 2); },
       true, false},
      {"potential and entropy",
       [](double l, double e) {
         return e * entropy() + (e / (l * l)) * potential("0.5*sum(x^2) + x[0]*x[1]/4", 2);
       },
       true, true},
      {"porous medium", [](double l, double e) { return (e * l * l) * porous_medium(2); }, true, true},
      {"quadratic interaction", [](double l, double e) { return (e / (l * l)) * interaction("0.5*r^2", 2); },
       false, false},
      {"interaction",
       [](double l, double e) {
         return (e / (l * l)) * interaction("0.5*r^2", 2) + e * interaction("-log(r)", 2);
       },
       false, true},
      {"distance",
       [](double l, double e) {
         Matrix<double> points = Density::gaussian(2, 1, 0.5).sample(40, Sampling::random, 3).x;
         for (double& x : points.elements()) x *= l;
         return (e / (l * l)) * sinkhorn(points, {.epsilon = 0.05 * l * l});
       },
       false, false},
  };
  const Density density = Density::gaussian(2, 0.3, 1);
  for (const Terms& terms : all) {
    CAPTURE(std::string(terms.name));
    for (const Solver solver : {Solver::automatic, Solver::adam}) {
      for (const int order : {1, 2}) {
        CAPTURE(order);
        const auto final = [&](double length, double energy, int iterations) {
          Cloud cloud = density.sample(100, Sampling::stratified, 5);
          for (double& x : cloud.x.elements()) x *= length;
          for (double& rho : cloud.log_density) rho -= 2 * std::log(length);
          if (!terms.density) cloud.log_density.clear();
          FlowOptions options = basic(0.1 * length * length / energy, {10});
          options.order = order;
          options.inner.solver = solver;
          options.inner.iterations = iterations;
          Outcome out = run<double>(terms.make(length, energy), cloud, options, 2);
          for (double& x : out.x.elements()) x /= length;
          return out.x;
        };
        // Multiplying by powers of two rounds nothing: not a bit may differ, at any length of the search.
        if (!terms.logarithms) {
          const Matrix<double> expected = final(1, 1, 60);
          CHECK(final(0x1p-20, 0x1p-33, 60).elements() == expected.elements());
          CHECK(final(0x1p20, 0x1p10, 60).elements() == expected.elements());
        }
        if (order == 2) continue;
        // Else rounding differs, and grows tenfold and more with every iteration: short searches.
        const Matrix<double> expected = final(1, 1, 10);
        CHECK_CLOSE(final(0x1p-20, 0x1p-33, 10), expected, 1e-6);
        CHECK_CLOSE(final(1e-6, 1e-10, 10), expected, 1e-4);
      }
    }
  }
}

TEST_CASE("steps without a minimum, and values that are not finite, are refused with the reason") {
  const Cloud cloud = Density::gaussian(1, 0, 1).sample(64, Sampling::stratified);
  CHECK_ERROR(Flow<float>(interaction("-r^2/2", 1), cloud, basic(1.5)), ValueError, "has no minimum");
  CHECK_ERROR(Flow<float>(-1.0 * entropy(), cloud, basic(0.1)), ValueError, "backwards in time");
  CHECK_ERROR(Flow<float>(-2.0 * sinkhorn(cloud.x), cloud, basic(0.6)), ValueError, "has no minimum");
  Flow<float> quartic(potential("-x^4", 1), cloud, basic(0.1));
  CHECK_ERROR(quartic.step(), NumericalError, "falls without end");
  Flow<float> root(potential("sqrt(x[0])", 1), cloud, basic(0.1));
  CHECK_ERROR(root.step(), NumericalError, "at particle 0, x = (");
  FlowOptions single = basic(0.1);
  single.inner.minibatch = 1;
  CHECK_ERROR(Flow<float>(interaction("r^2/2", 1), cloud, single), ValueError, "minibatch = 1");
  FlowOptions mixed = basic(0.1);
  mixed.inner.solver = Solver::lbfgs;
  mixed.inner.refresh = 10;
  CHECK_ERROR(Flow<float>(entropy(), cloud, mixed), ValueError, "inner.refresh = 10");
}

TEST_CASE("particles in one place under a singular kernel are counted, under others they are not") {
  Cloud cloud = Density::gaussian(2, 0, 1).sample(30, Sampling::random, 4);
  cloud.log_density.clear();
  for (const Index twin : {4, 9, 17}) std::copy_n(cloud.x.row(0), 2, cloud.x.row(twin));
  cloud.x(20, 0) = cloud.x(21, 0);
  cloud.x(20, 1) = cloud.x(21, 1) + 1e-12;  // one place in float
  const auto counted = [&](const std::string& w, auto type) {
    return run<decltype(type)>(interaction(w, 2), cloud, basic(0.05), 1).reports[0].coincident;
  };
  for (const char* w : {"r^2/2 - log(r)", "r^2/2 + 1/r", "r^2/2 + exp(-r)/sqrt(r)"}) {
    CAPTURE(w);
    CHECK(counted(w, float()) == 6);
    CHECK(counted(w, double()) == 4);
  }
  for (const char* w : {"r^2/2 + exp(-r)", "r^2*log(r) + r^4", "r^4/4 - r^2/2"})
    CHECK(counted(w, float()) == 0);
  CHECK(run(interaction("-log(norm(x))", 2) + potential("sum(x^2)", 2), cloud, basic(0.05), 1)
            .reports[0]
            .coincident == 6);
  FlowOptions particles = basic(0.05);
  particles.method = FlowOptions::Method::particles;
  CHECK(run(interaction("r^2/2 - log(r)", 2), cloud, particles, 1).reports[0].coincident == 4);
  CHECK(run(potential("sum(x^2)", 2), cloud, basic(0.05), 1).reports[0].coincident == 0);
}

TEST_CASE("the same bits for any number of threads, and after a restart") {
  const Density start = Density::gaussian(2, 0.5, 0.2);
  const Functional diffusion = entropy() + potential("0.5*sum(x^2)", 2);
  const std::pair<int, Functional> cases[] = {
      {1, diffusion}, {2, diffusion}, {2, diffusion + interaction("0.05*r^2", 2)}};
  for (const std::pair<int, Functional>& one_case : cases) {
    const int order = one_case.first;
    const Functional& f = one_case.second;
    CAPTURE(order);
    FlowOptions options = basic(0.05, {12, 6});
    options.order = order;
    const Cloud cloud = start.sample(1000, Sampling::stratified);
    const Outcome one = run(f, cloud, options, 4, &start);
    options.threads = 3;
    const Outcome three = run(f, cloud, options, 4, &start);
    CHECK(one.x.elements() == three.x.elements());
    CHECK(one.reports.back().missed_share == three.reports.back().missed_share);

    Flow<float> first(f, cloud, options), second(f, cloud, options);
    first.set_initial_density(start);
    second.set_initial_density(start);
    first.step();
    first.step();
    second.restore(first.trajectory(), first.maps(), first.checkpoint());
    Flow<float> third(f, cloud, options);
    third.load(first.save());
    for (Flow<float>* flow : {&second, &third}) flow->step();
    const StepReport last = *second.step(), loaded = *third.step();
    CHECK(second.trajectory().x().elements() == one.x.elements());
    CHECK(loaded.missed_share_held_out == last.missed_share_held_out);
    CHECK(last.missed_share == one.reports.back().missed_share);
    CHECK(last.missed_share_held_out == one.reports.back().missed_share_held_out);
    CHECK(one.solved);
  }
}

TEST_CASE("without the initial density the certificate is the gain of one more affine map") {
  const Functional f = entropy() + potential("0.5*sum(x^2)", 1);
  const Cloud cloud = Density::gaussian(1, 3, 1).sample(300, Sampling::whitened);
  FlowOptions options = basic(0.1, {12});
  CHECK(run(f, cloud, options, 1).reports[0].basis == StepBasis::affine);
  CHECK(run(f, cloud, options, 1).reports[0].solved);
  options.certificates = false;
  CHECK(run(f, cloud, options, 1).reports[0].basis == StepBasis::none);
  // One iteration of Adam from the identity has moved nowhere.
  options.certificates = true;
  options.inner.solver = Solver::adam;
  options.inner.iterations = 1;
  options.normalise = false;  // no affine start
  const StepReport report = run(f, cloud, options, 1).reports[0];
  CHECK(report.iterations == 1);
  CHECK(!report.solved);
  CHECK(report.missed_share > 0.5);
}

TEST_CASE("late steps are judged by their own decrease, down to what particles leave open of their law") {
  // Adam of few iterations follows a deterministic flow at first, and misses most of its late steps.
  const Functional well = potential("0.5*sum((x - 1)^2)", 1);
  const Cloud cloud = Density::gaussian(1, 0, 1).sample(100, Sampling::stratified);
  FlowOptions options = basic(0.5, {12});
  options.inner.solver = Solver::adam;
  options.inner.iterations = 30;
  options.inner.adam.rate = 1e-3;
  const Outcome adam = run(well, cloud, options, 14);
  double worst = 0;
  for (const StepReport& report : adam.reports) {
    CAPTURE(report.step);
    // Of V alone the step is known: every particle to (x + tau)/(1 + tau).
    const double possible = report.decrease / (1 - report.missed_share);
    CHECK(report.floor < 1e-2 * possible);
    worst = std::max(worst, report.missed_share);
    CHECK((report.missed_share < 0.03 || !report.solved));
  }
  options.inner.solver = Solver::automatic;
  options.inner.iterations = 400;
  const Outcome solved = run(well, cloud, options, 14);
  CHECK(solved.solved);
  CHECK_REL(variance_of(solved.x), std::pow(1.5, -28) * variance_of(cloud.x), 0.02);

  // With an internal energy the floor is sampling's once steps are shorter than that: those to the stationary state are
  // solved, and say what their shares are of.
  const Density start = Density::gaussian(1, 3, 0.2);
  const Functional f = entropy() + well;
  const Outcome late = run(f, start.sample(500, Sampling::stratified), basic(0.4, {16}), 16, &start);
  CHECK(late.solved);
  CHECK(late.reports[0].floor < 0.02 * late.reports[0].decrease);
  CHECK(late.reports.back().floor > late.reports.back().decrease);
  CHECK(late.reports.back().floor <= 1.01 * late.reports[0].decrease);

  // Of a short step it is as small as the step: three gradients follow the flow at first, miss half of each step in the end,
  // a hundredth of the first decrease, and are said to.
  FlowOptions few = basic(0.04, {16});
  few.inner.iterations = 3;
  const Functional ou = entropy() + potential("0.5*sum(x^2)", 1);
  const Outcome brief = run(ou, start.sample(500, Sampling::stratified), few, 60, &start);
  CHECK(brief.reports[0].solved);
  CHECK(brief.reports.back().decrease < 0.02 * brief.reports[0].decrease);
  CHECK(brief.reports.back().floor < 0.02 * brief.reports[0].decrease);
  CHECK(brief.reports.back().missed_share > 0.2);
  CHECK(!brief.reports.back().solved);
  few.inner.iterations = 400;
  double floors[2];
  for (const int k : {0, 1}) {
    few.tau = k == 0 ? 2e-3 : 2e-2;
    floors[k] = run(ou, start.sample(500, Sampling::stratified), few, 1, &start).reports[0].floor;
  }
  CHECK(floors[1] > 8 * floors[0]);
  CHECK(floors[1] < 10 * floors[0]);
}

TEST_CASE("a singular repulsion hides no step that is not solved") {
  // Forces of pairs have no variance in one dimension: the nearest pair decides all of it.
  const Density start = Density::gaussian(1, 0.5, 1);
  const Cloud cloud = start.sample(200, Sampling::whitened);
  for (const char* w : {"-log(r)", "0.2*r^(-0.4)", "0.01/r", "1e-4/r^2"}) {
    CAPTURE(w);
    const Functional f = potential("(x[0]^2 - 1)^2", 1) + interaction(w, 1);
    FlowOptions options = basic(0.2, {16});
    options.inner.iterations = 1;
    for (const Density* law : {&start, static_cast<const Density*>(nullptr)}) {
      const Outcome brief = run(f, cloud, options, 6, law);
      for (const StepReport& report : brief.reports) CHECK(!report.solved);
    }
  }
  FlowOptions options = basic(0.2);
  options.method = FlowOptions::Method::particles;
  const Outcome exact =
      run(potential("(x[0]^2 - 1)^2", 1) + interaction("-log(r)", 1), cloud, options, 6, &start);
  CHECK(exact.solved);
}

TEST_CASE("a map that fails beyond the cloud is seen at the outermost particles of its law") {
  // 40 particles of N(0, 1), and a well that is steep from 2.5 on, where they are not.
  const Density start = Density::gaussian(1, 0, 1);
  Cloud cloud = start.sample(40, Sampling::stratified);
  for (double& x : cloud.x.elements()) x = std::clamp(x, -1.8, 1.8);
  cloud.log_density = start.log_density(cloud.x);
  const Functional walls = potential("softplus(40*(x[0] - 2.5)) + softplus(40*(-2.5 - x[0]))", 1);
  const Outcome out = run(walls, cloud, basic(0.02, {12}), 1, &start);
  CHECK(!(out.reports[0].missed_share > 0.01));
  CHECK(out.reports[0].missed_share_held_out > 0.5);
  CHECK(!out.solved);
  CHECK(out.reports[0].fitted);
  // Beside interactions as well.
  const StepReport pairs =
      run(walls + interaction("r^2/2 + exp(-r)", 1), cloud, basic(0.02, {12}), 1, &start).reports[0];
  CHECK(pairs.missed_share < 0.01);
  CHECK(pairs.missed_share_held_out > 0.5);
  CHECK(!pairs.solved);
  // Where maps of pairs are right they are so at held-out particles, whatever the noise of forces there.
  for (const char* w : {"r^4/4 - r^2/2", "r^2/2 + exp(-r)"}) {
    const Density disc = Density::gaussian(2, 0, 0.3);
    Cloud many = disc.sample(300, Sampling::stratified);
    many.log_density.clear();
    const StepReport report = run(interaction(w, 2), many, basic(0.1), 1, &disc).reports[0];
    CHECK(report.missed_share_held_out < 0.01);
    CHECK(report.solved);
  }
}

TEST_CASE("a cloud fitted closer than its law is said to be, without more gradients") {
  const Functional f = entropy() + potential("0.5*sum(x^2)", 1);
  const Density start = Density::gaussian(1, 1, 2);
  const StepReport few =
      run(f, start.sample(60, Sampling::random), basic(0.2, {32, 16}), 1, &start).reports[0];
  CHECK(!few.solved);
  CHECK(few.fitted);
  CHECK(few.retries == 0);
  CHECK(few.missed_share_held_out > 0.05);
  // Gradients are what is missing here.
  FlowOptions brief = basic(0.2, {32, 16});
  brief.inner.iterations = 8;
  const Density narrow = Density::gaussian(1, 0.2, 0.5);
  const StepReport early = run(0.3 * entropy() + potential("(x[0]^2 - 1)^2", 1),
                               narrow.sample(500, Sampling::stratified), brief, 1, &narrow)
                               .reports[0];
  CHECK(!early.solved);
  CHECK(!early.fitted);
}

TEST_CASE("forces between particles are judged by those of the law") {
  // W = |x - y|^2/2: the law shrinks about its mean to 1/(1 + tau), and gains d s^2 tau/(1 + tau)/2. A cloud that lies
  // off by delta draws it there instead: the law loses tau |delta|^2/(1 + tau)^2/2.
  const double tau = 0.3, deviation = 0.5;
  const Density start = Density::gaussian(2, 1, deviation * deviation);
  for (const double off : {0.0, 0.3}) {
    CAPTURE(off);
    Cloud cloud = start.sample(64, Sampling::whitened);
    cloud.log_density.clear();
    for (double& x : cloud.x.elements()) x += off * deviation;
    const StepReport report = run(interaction("0.5*r^2", 2), cloud, basic(tau), 1, &start).reports[0];
    const double missed = off * off / (1 + tau), share = missed / (1 + missed);
    CAPTURE(report.missed_share_held_out);
    CHECK(report.missed_share < 0.01);
    CHECK(report.solved == (off == 0));
    CHECK(report.fitted == (off != 0));
    CHECK(report.retries == 0);
    // A lower bound, by two deviations of what 2048 particles tell.
    CHECK(report.missed_share_held_out >= 0.6 * share);
    CHECK(report.missed_share_held_out <= 1.05 * share + 0.002);
  }
}

TEST_CASE("scores are carried up to 64 dimensions; beyond, the certificate is a lower bound and says so") {
  for (const int d : {30, 64, 65}) {
    CAPTURE(d);
    const Density start = Density::gaussian(d, 0.5, 1);
    FlowOptions options = basic(0.1, {4});
    options.inner.iterations = 4;
    const Outcome out = run(entropy() + potential("0.5*sum(x^2)", d), start.sample(100, Sampling::random, 1),
                            options, 1, &start);
    CHECK(out.reports[0].basis == (d <= 64 ? StepBasis::residual : StepBasis::affine));
    CHECK(out.reports[0].missed_share >= 0);
    CHECK(std::isnan(out.reports[0].missed_share_held_out) == (d > 64));
  }
}

/// N(0, diag(variances)) turned by `angle` in the plane of the first two coordinates, and 1/2 x^T S x for a diagonal S turned
/// likewise.
struct Turned {
  Turned(std::vector<double> variances, std::vector<double> stiffness, double angle)
      : variances_(std::move(variances)), stiffness_(std::move(stiffness)), angle_(angle) {}

  Index dim() const { return static_cast<Index>(variances_.size()); }
  Density start() const {
    return Density::gaussian(std::vector<double>(variances_.size(), 0.0), turned(variances_));
  }
  Functional well() const {
    const Matrix<double> s = turned(stiffness_);
    std::string text;
    char part[64];
    for (Index a = 0; a < dim(); ++a) {
      for (Index b = 0; b < dim(); ++b) {
        std::snprintf(part, sizeof part, "%s%.17g*x[%d]*x[%d]", text.empty() ? "" : " + ", s(a, b) / 2,
                      static_cast<int>(a), static_cast<int>(b));
        text += part;
      }
    }
    return potential(text, static_cast<int>(dim()));
  }
  /// Standard deviation along axis k.
  double deviation(const Matrix<double>& x, Index k) const {
    const Matrix<double> q = axes();
    Matrix<double> along(x.rows(), 1);
    for (Index i = 0; i < x.rows(); ++i) {
      for (Index a = 0; a < dim(); ++a) along(i, 0) += q(a, k) * x(i, a);
    }
    return std::sqrt(variance_of(along));
  }
  /// The same of the exact iterates with `weight` times the entropy and a quadratic W: s (1/tau + S + W) - s_before/tau = weight/s.
  double exact(Index k, double weight, double tau, int steps, double pairs) const {
    double s = std::sqrt(variances_[static_cast<std::size_t>(k)]);
    const double a = 1 / tau + stiffness_[static_cast<std::size_t>(k)] + pairs;
    for (int step = 0; step < steps; ++step)
      s = (s / tau + std::sqrt(s * s / (tau * tau) + 4 * a * weight)) / (2 * a);
    return s;
  }

 private:
  Matrix<double> axes() const {
    Matrix<double> q(dim(), dim());
    for (Index a = 0; a < dim(); ++a) q(a, a) = 1;
    q(0, 0) = q(1, 1) = std::cos(angle_);
    q(0, 1) = -std::sin(angle_);
    q(1, 0) = std::sin(angle_);
    return q;
  }
  Matrix<double> turned(const std::vector<double>& diagonal) const {
    const Matrix<double> q = axes();
    Matrix<double> out(dim(), dim());
    for (Index a = 0; a < dim(); ++a) {
      for (Index b = 0; b <= a; ++b) {
        for (Index k = 0; k < dim(); ++k)
          out(a, b) += q(a, k) * diagonal[static_cast<std::size_t>(k)] * q(b, k);
        out(b, a) = out(a, b);
      }
    }
    return out;
  }

  std::vector<double> variances_, stiffness_;
  double angle_;
};

TEST_CASE("coordinates of different units: every axis is right, or the step is said not to be solved") {
  struct Case {
    std::vector<double> variances, stiffness;
    double angle, weight, tau;
    double pairs = 0;  // stiffness of W
  };
  const std::vector<Case> cases{
      {{4e-6, 4, 4e6}, {1e6, 1, 1e-6}, 0, 1, 0.1},
      {{4e-4, 4, 4e4}, {1e4, 1, 1e-4}, 0, 1, 1e-3},
      {{1e8, 1}, {1, 1}, 0, 0.1, 0.1},
      {{1e6, 1}, {1, 1}, 0.7, 0.1, 0.1},
      {{4e-4, 4}, {1e4, 1}, 0.7, 1, 0.01},
      {{1e4, 1}, {1, 1}, 0, 0.1, 0.1},
      {{1, 1}, {1e6, 1}, 0, 0.2, 0.1},
      {{4e-4, 4}, {1e4, 1}, 0.7, 1, 0.01, 2},
      {{1e6, 1}, {0, 0}, 0, 0.1, 0.1, 1},
  };
  for (const Case& c : cases) {
    const Turned gaussian(c.variances, c.stiffness, c.angle);
    const Density start = gaussian.start();
    Functional f = c.weight * entropy() + gaussian.well();
    if (c.pairs > 0) f = f + c.pairs * interaction("0.5*r^2", static_cast<int>(gaussian.dim()));
    const Cloud cloud = start.sample(500, Sampling::whitened, 2);
    CAPTURE(c.variances[0]);
    CAPTURE(c.angle);
    FlowOptions options = basic(c.tau, {16});
    constexpr int kSteps = 4;
    for (const int rank : {0, static_cast<int>(gaussian.dim())}) {
      CAPTURE(rank);
      options.network.quadratic_rank = rank;
      const Outcome out = run(f, cloud, options, kSteps, &start);
      if (rank > 0) CHECK(out.solved);  // maps between Gaussians are quadratic
      for (Index k = 0; out.solved && k < gaussian.dim(); ++k) {
        CAPTURE(k);
        CHECK_REL(gaussian.deviation(out.x, k), gaussian.exact(k, c.weight, c.tau, kSteps, c.pairs), 0.03);
      }
    }
  }
}

TEST_CASE("a long way along one coordinate hides nothing of another") {
  const Density start = Density::gaussian(2, 0, 1);
  FlowOptions options = basic(0.1, {16});
  options.network.quadratic_rank = 2;
  const Cloud cloud = start.sample(500, Sampling::whitened, 1);
  double deviation[2] = {};
  bool solved[2] = {};
  for (const int far : {0, 1}) {
    const Functional f =
        0.1 * entropy() +
        potential("0.25*(x[0]^2 - 1)^2 + x[0]^2 + 0.5*(x[1] - " + std::to_string(100 * far) + ")^2", 2);
    const Outcome out = run(f, cloud, options, 10, &start);
    deviation[far] = std::sqrt(variance_of(out.x, 0));
    solved[far] = out.solved;
  }
  CAPTURE(deviation[0]);
  CAPTURE(deviation[1]);
  // The coordinates do not know of each other.
  CHECK((!solved[1] || std::abs(deviation[1] / deviation[0] - 1) < 0.03));

  // From 1e5 deviations away, as maps between Gaussians do.
  const Density away = Density::gaussian(2, 1e5, 1);
  options.network.hidden = {16};
  const Functional well = 0.1 * entropy() + potential("0.5*sum(x^2)", 2);
  const Outcome out = run(well, away.sample(500, Sampling::whitened, 1), options, 5, &away);
  double s = 1;
  for (int k = 0; k < 5; ++k) s = (10 * s + std::sqrt(100 * s * s + 4 * 11 * 0.1)) / 22;
  for (const Index c : {0, 1})
    CHECK((!out.solved || std::abs(std::sqrt(variance_of(out.x, c)) / s - 1) < 0.05));
}

TEST_CASE("where a flow stops at a step that is not solved in one axis, it says that") {
  const Density start = Turned({1e8, 1}, {1, 1}, 0).start();
  FlowOptions options = basic(0.1, {16});
  options.inner.on_unsolved = InnerOptions::OnUnsolved::stop;
  Flow<float> flow(0.1 * entropy() + potential("0.5*sum(x^2)", 2), start.sample(500, Sampling::whitened, 2),
                   options);
  flow.set_initial_density(start);
  CHECK_ERROR(flow.step(), NumericalError, "in one axis of the cloud");
}

TEST_CASE("an axis that collapses, as it should, is no fault") {
  FlowOptions options = basic(0.1, {16});
  options.network.quadratic_rank = 2;
  const Outcome out = run(potential("0.5*(x[0] - 3)^2 + 50*x[1]^2", 2),
                          Density::gaussian(2, 0, 1).sample(500, Sampling::whitened, 1), options, 10);
  CHECK(out.solved);
  CHECK_REL(std::sqrt(variance_of(out.x, 0)), std::pow(1.1, -10), 1e-3);
}

TEST_CASE("what nothing is known of is not solved") {
  const Density start = Density::gaussian(1, 0, 1);
  FlowOptions options = basic(0.1, {16});
  options.network.quadratic_rank = 1;
  const Outcome out = run(0.1 * entropy() + potential("0.25*sum(x^4)", 1),
                          start.sample(1, Sampling::random, 1), options, 2, &start);
  CHECK(!out.solved);
}

TEST_CASE("steps of the particles themselves: exact, as reported, and the same after a restart") {
  FlowOptions options = basic(0.1);
  options.method = FlowOptions::Method::particles;
  const Density start = Density::gaussian(2, 2, 1);
  Cloud cloud = start.sample(50, Sampling::random, 4);
  for (const char* device : {"cpu", "ref"}) {
    options.device = device;
    // Every particle to x/(1 + tau), every step.
    Flow<float> flow(potential("0.5*sum(x^2)", 2), cloud, options);
    flow.set_initial_density(start);
    for (int k = 0; k < 3; ++k) {
      const double before = flow.functional().total();
      const StepReport report = *flow.step();
      CHECK(report.solved);
      CHECK(report.missed_share < 1e-6);
      CHECK(report.basis == StepBasis::residual);
      CHECK_REL(before - report.functional.total() - report.transport, report.decrease, 1e-9);
      CHECK_REL(report.decrease, before * (1 - 1 / 1.1), 1e-6);
    }
    for (Index k = 0; k < 100; ++k)
      CHECK(flow.trajectory().x().elements()[k] ==
            doctest::Approx(cloud.x.elements()[k] / std::pow(1.1, 3)).epsilon(1e-4));
    CHECK(flow.maps().empty());
    CHECK_ERROR(flow.track(cloud), ValueError, "whose steps are no maps");
  }
  // Kinks, interactions and distances: at least what a network reaches.
  const Matrix<double> target = Density::gaussian(2, -1, 0.3).sample(60, Sampling::random, 9).x;
  for (const Functional& f : {potential("abs(x[0]) + sum(x^2)", 2), interaction("0.5*r^2 - log(r)", 2),
                              energy_distance_to(target)}) {
    options.device = "cpu";
    options.method = FlowOptions::Method::particles;
    const StepReport own = run(f, cloud, options, 1).reports[0];
    options.method = FlowOptions::Method::network;
    const StepReport network = run(f, cloud, options, 1).reports[0];
    CHECK(own.decrease >= network.decrease * (1 - 1e-6));
  }
  options.method = FlowOptions::Method::particles;
  const Functional pairs = interaction("0.5*r^2 - log(r)", 2);
  Flow<float> whole(pairs, cloud, options), first(pairs, cloud, options), second(pairs, cloud, options);
  for (int k = 0; k < 4; ++k) whole.step();
  first.step();
  first.step();
  second.restore(first.trajectory(), first.maps(), first.checkpoint());
  second.step();
  const StepReport last = *second.step();
  CHECK(last.step == 4);
  CHECK(second.trajectory().x().elements() == whole.trajectory().x().elements());

  CHECK_ERROR(Flow<float>(entropy(), cloud, options), ValueError, "use method = network");
  options.order = 2;
  CHECK_ERROR(Flow<float>(pairs, cloud, options), ValueError, "it must be 1");
  options.order = 1;
  options.inner.minibatch = 10;
  CHECK_ERROR(Flow<float>(pairs, cloud, options), ValueError, "both must be 0");
}
