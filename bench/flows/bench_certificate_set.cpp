// SPDX-License-Identifier: MIT
// How far the certificate of steps can be trusted: flows, half of them hard, every step of which is solved again in
// another way, and what it misses is set beside what its report says.
//
//   particles  no internal energy: the optimum on the particles of the cloud, from them and from the step's end
//   quantiles  one dimension: Newton's method on 4000 quantiles of the law, the flow's map on the same
//   affine     laws that stay Gaussian: the best affine map of 4096 particles of the law
//   long       else: the same step again from where it began, in double precision by a larger network and 1500 gradients,
//              on particles of the law
//
// A step is silent where it misses more than 3 % of its possible decrease and is called solved, and false where it
// misses less than 0.3 %, ends within 3 % of its length from the optimum where that is known, and is called unsolved. Of
// steps that can gain less than StepReport::floor, shares are of that.
// Prints a table, and ends with status 1 where a step is silent or false.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "bench/timing.hpp"
#include "brenier/brenier.hpp"
#include "engine/src/flow/solve/affine.hpp"
#include "engine/src/flow/solve/particles.hpp"
#include "engine/src/flow/solve/scale.hpp"
#include "kernels/operations.hpp"

namespace {

using namespace brenier;
using Solver = InnerOptions::Solver;

enum class Reference { particles, quantiles, affine, longer };

/// V of one dimension with its derivatives, for Newton's method.
struct Well {
  std::function<double(double)> value = [](double) { return 0.0; };
  double slope(double x, double h) const { return (value(x + h) - value(x - h)) / (2 * h); }
  double bend(double x, double h) const { return (value(x + h) - 2 * value(x) + value(x - h)) / (h * h); }
};

struct Case {
  std::string name;
  Functional functional;
  Density start;
  Index particles;
  int steps;
  double tau;
  Reference reference;
  std::vector<int> hidden = {32, 16};
  int rank = 0;
  Sampling sampling = Sampling::stratified;
  std::function<void(FlowOptions&)> change = [](FlowOptions&) {};
  Well well = {};        // quantiles
  double diffusion = 1;  // quantiles: weight of the internal energy, entropy at m = 1
  double exponent = 1;
  std::optional<Cloud> cloud = {};
  bool density = true;  // whether the flow knows it
};

double transport(const Matrix<double>& x, const Matrix<double>& y, double tau) {
  double sum = 0;
  for (std::size_t k = 0; k < x.elements().size(); ++k) {
    const double move = y.elements()[k] - x.elements()[k];
    sum += move * move;
  }
  return sum / (2 * tau * static_cast<double>(x.rows()));
}

/// F + transport of monotone maps of the line, by quantiles: mass 1/N lies between neighbours.
class Quantiles {
 public:
  Quantiles(const Case& problem, std::vector<double> x) : problem_(problem), x_(std::move(x)) {
    share_ = 1 / static_cast<double>(x_.size());
    length_ = 1e-4 * (x_[x_.size() * 3 / 4] - x_[x_.size() / 4]);
  }

  double value(const std::vector<double>& y) const {
    double sum = 0;
    for (std::size_t k = 0; k < y.size(); ++k) {
      sum += share_ * (problem_.well.value(y[k]) + (y[k] - x_[k]) * (y[k] - x_[k]) / (2 * problem_.tau));
      if (k + 1 == y.size()) break;
      const double width = y[k + 1] - y[k];
      if (!(width > 0)) return std::numeric_limits<double>::infinity();
      const double m = problem_.exponent;
      sum += share_ * problem_.diffusion *
             (m == 1 ? std::log(share_ / width) : std::pow(share_ / width, m - 1) / (m - 1));
    }
    return sum;
  }

  /// The minimum, from y.
  double minimum(std::vector<double> y) const {
    const std::size_t n = y.size();
    double now = value(y);
    for (int k = 0; k < 60; ++k) {
      std::vector<double> g(n), diagonal(n), off(n, 0.0);
      for (std::size_t i = 0; i < n; ++i) {
        g[i] = share_ * (problem_.well.slope(y[i], length_) + (y[i] - x_[i]) / problem_.tau);
        diagonal[i] = share_ * (std::max(0.0, problem_.well.bend(y[i], length_)) + 1 / problem_.tau);
      }
      const double m = problem_.exponent;
      for (std::size_t i = 0; i + 1 < n; ++i) {
        const double width = y[i + 1] - y[i];
        const double push = share_ * problem_.diffusion * std::pow(share_ / width, m - 1) / width;
        g[i] += push;
        g[i + 1] -= push;
        diagonal[i] += m * push / width;
        diagonal[i + 1] += m * push / width;
        off[i] -= m * push / width;
      }
      std::vector<double> step = g;
      for (std::size_t i = 1; i < n; ++i) {
        const double q = off[i - 1] / diagonal[i - 1];
        diagonal[i] -= q * off[i - 1];
        step[i] -= q * step[i - 1];
      }
      for (std::size_t i = n; i-- > 0;) {
        if (i + 1 < n) step[i] -= off[i] * step[i + 1];
        step[i] /= diagonal[i];
      }
      double length = 1, next = 0;
      std::vector<double> trial(n);
      for (; length > 1e-6; length /= 2) {
        for (std::size_t i = 0; i < n; ++i) trial[i] = y[i] - length * step[i];
        next = value(trial);
        if (next < now) break;
      }
      if (!(next < now)) break;
      const double gain = now - next;
      now = next;
      y = trial;
      if (gain < 1e-13 * std::abs(now) && length == 1) break;
    }
    return now;
  }

 private:
  const Case& problem_;
  std::vector<double> x_;
  double share_, length_;
};

struct Verdict {
  double possible = 0, missed = 0;  // decreases of F + transport
  double distance = 0;              // particles: to the optimum, relative to its step, root mean square
};

class Judge {
 public:
  Judge(const Case& problem, const FlowOptions& options) : problem_(problem), options_(options) {}

  /// Of the step from `before` to the flow's last state.
  Verdict judge(const Flow<float>& flow, const Trajectory& cloud_before, const Trajectory& law_before,
                std::size_t maps_before) {
    const Objective objective = problem_.functional.objective(1);
    Team team(1);
    const Operations<double>& exact = cpu::operations<double>();
    const double tau = problem_.tau;
    double before = 0, after = 0, best = 0, distance = 0;
    const Matrix<double>& x = cloud_before.x();
    const Matrix<double>& y = flow.trajectory().x();
    switch (problem_.reference) {
      case Reference::particles: {
        before = flow.functional_of(cloud_before).total();
        after = flow.functional().total() + transport(x, y, tau);
        const ParticleOptions longest{.evaluations = 1000, .tolerance = 1e-9};
        ParticleOptions from_end = longest;
        from_end.start = &y;
        const ParticleStep one = solve_on_particles(objective, x, tau, longest, exact, team);
        const ParticleStep two = solve_on_particles(objective, x, tau, from_end, exact, team);
        best = std::min(before - one.decrease, after - two.decrease);
        const Matrix<double>& optimum = before - one.decrease < after - two.decrease ? one.y : two.y;
        distance = std::sqrt(transport(optimum, y, tau) / std::max(transport(x, optimum, tau), 1e-300));
        break;
      }
      case Reference::quantiles: {
        std::vector<std::size_t> order(static_cast<std::size_t>(law_before.x().rows()));
        std::iota(order.begin(), order.end(), std::size_t{0});
        const std::vector<double>& from = law_before.x().elements();
        const std::vector<double>& to = flow.tracked(0).x().elements();
        std::sort(order.begin(), order.end(),
                  [&](std::size_t a, std::size_t b) { return from[a] < from[b]; });
        std::vector<double> start, end;
        for (const std::size_t k : order) {
          start.push_back(from[k]);
          end.push_back(to[k]);
        }
        const Quantiles law(problem_, start);
        before = law.value(start);
        after = law.value(end);
        best = std::min(law.minimum(start), law.minimum(end));
        break;
      }
      case Reference::affine: {
        before = flow.functional_of(law_before).total();
        after =
            flow.functional_of(flow.tracked(0)).total() + transport(law_before.x(), flow.tracked(0).x(), tau);
        const AffineMap map = best_affine(objective, law_before, law_before, tau,
                                          {.full = true, .particles = 4096, .evaluations = 200}, exact, team);
        best = std::min(after, before - map.decrease);
        break;
      }
      case Reference::longer: {
        before = flow.functional_of(law_before).total();
        after =
            flow.functional_of(flow.tracked(0)).total() + transport(law_before.x(), flow.tracked(0).x(), tau);
        FlowOptions options = options_;
        options.inner.iterations = objective.interaction.empty() ? 1500 : 500;
        options.inner.solver = Solver::automatic;
        options.network.hidden = {64, 32};
        options.network.quadratic_rank = static_cast<int>(x.cols());
        Cloud more =
            problem_.start.sample(objective.interaction.empty() ? 2000 : 600, Sampling::stratified, 17);
        if (!problem_.functional.needs_density()) more.log_density.clear();
        Trajectory carried(more, false);
        for (std::size_t k = 0; k < maps_before; ++k) carried.advance(flow.maps()[k], team);
        Flow<double> again(problem_.functional, Cloud{carried.x(), carried.log_density()}, options);
        again.step();
        Trajectory law = law_before;
        law.advance(again.maps().back(), team);
        best = std::min(after, flow.functional_of(law).total() + transport(law_before.x(), law.x(), tau));
        break;
      }
    }
    return {before - best, after - best, distance};
  }

 private:
  const Case& problem_;
  const FlowOptions& options_;
};

double square(double x) {
  return x * x;
}

std::vector<Case> cases() {
  using R = Reference;
  std::vector<Case> out;
  const auto gaussian = [](Index d, double mean, double variance) {
    return Density::gaussian(d, mean, variance);
  };
  const auto adam = [](int iterations) {
    return [iterations](FlowOptions& o) {
      o.inner.solver = Solver::adam;
      o.inner.iterations = iterations;
    };
  };
  const auto few = [](int iterations) {
    return [iterations](FlowOptions& o) { o.inner.iterations = iterations; };
  };
  const Well half{[](double x) { return x * x / 2; }};
  const Well twin{[](double x) { return square(x * x - 1); }};
  const Functional ou = entropy() + potential("x[0]^2/2", 1);
  const Functional double_well = 0.3 * entropy() + potential("(x[0]^2 - 1)^2", 1);

  // The line, with internal energies.
  out.push_back({"porous medium",
                 porous_medium(2),
                 Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3}),
                 1000,
                 10,
                 1e-3,
                 R::quantiles,
                 {100, 20}});
  out.back().exponent = 2;
  out.push_back({"heat, narrow", entropy(), gaussian(1, 0, 0.01), 500, 5, 0.1, R::quantiles, {16}, 1});
  out.push_back({"far from the well", ou, gaussian(1, 30, 1), 500, 5, 0.1, R::quantiles});
  out.back().well = half;
  out.push_back({"OU, late", ou, gaussian(1, 3, 0.2), 500, 50, 0.2, R::quantiles});
  out.back().well = half;
  out.push_back({"porous in a well, late", porous_medium(2) + potential("x[0]^2/2", 1), gaussian(1, 1, 0.3),
                 500, 40, 0.2, R::quantiles});
  out.back().well = half;
  out.back().exponent = 2;
  out.push_back({"double well", double_well, gaussian(1, 0.2, 0.5), 500, 25, 0.05, R::quantiles});
  out.back().well = twin;
  out.back().diffusion = 0.3;
  out.push_back(
      {"stiff well", entropy() + potential("500*x[0]^2", 1), gaussian(1, 1, 1), 500, 4, 0.1, R::quantiles});
  out.back().well = {[](double x) { return 500 * x * x; }};
  out.push_back({"a long step", ou, gaussian(1, 3, 0.2), 500, 4, 10, R::quantiles});
  out.back().well = half;
  out.push_back({"two bumps", ou, Density::mixture({1, 1}, {gaussian(1, -2, 0.1), gaussian(1, 2, 0.1)}), 1000,
                 6, 0.1, R::quantiles});
  out.back().well = half;
  out.push_back({"porous m = 3", porous_medium(3), gaussian(1, 0, 1), 500, 5, 0.05, R::quantiles});
  out.back().exponent = 3;
  // The same, made hard.
  out.push_back({"two neurons", double_well, gaussian(1, 0.2, 0.5), 500, 6, 0.2, R::quantiles, {2}});
  out.back().well = twin;
  out.back().diffusion = 0.3;
  out.push_back({"eight gradients", double_well, gaussian(1, 0.2, 0.5), 500, 6, 0.2, R::quantiles});
  out.back().well = twin;
  out.back().diffusion = 0.3;
  out.back().change = few(8);
  out.push_back({"Adam 50", double_well, gaussian(1, 0.2, 0.5), 500, 6, 0.2, R::quantiles});
  out.back().well = twin;
  out.back().diffusion = 0.3;
  out.back().change = adam(50);
  out.push_back({"60 random particles", ou, gaussian(1, 1, 2), 60, 6, 0.2, R::quantiles});
  out.back().well = half;
  out.back().sampling = Sampling::random;
  out.push_back({"300 random particles", double_well, gaussian(1, 0.2, 0.5), 300, 6, 0.2, R::quantiles});
  out.back().well = twin;
  out.back().diffusion = 0.3;
  out.back().sampling = Sampling::random;
  out.push_back({"Adam 400, late", ou, gaussian(1, 1, 0.5), 500, 20, 0.2, R::quantiles});
  out.back().well = half;
  out.back().change = adam(400);

  // Short steps, whose decrease is a small part of the largest soon.
  const auto line = [&](const std::string& name, const Functional& f, const Density& start, const Well& well,
                        int steps, double tau) -> Case& {
    out.push_back({name, f, start, 500, steps, tau, R::quantiles});
    out.back().well = well;
    return out.back();
  };
  line("OU, short steps", ou, gaussian(1, 3, 0.2), half, 100, 0.02);
  line("OU, very short steps", ou, gaussian(1, 1, 0.5), half, 60, 1e-3);
  line("OU, short steps, random", ou, gaussian(1, 3, 0.2), half, 60, 0.04).sampling = Sampling::random;
  line("porous in a well, short steps", porous_medium(2) + potential("x[0]^2/2", 1), gaussian(1, 1, 0.3),
       half, 60, 0.03)
      .exponent = 2;
  line("double well, short steps", double_well, gaussian(1, 0.2, 0.5), twin, 60, 5e-3).diffusion = 0.3;
  // The same, made hard.
  line("OU, short steps, Adam 40", ou, gaussian(1, 3, 0.2), half, 80, 0.04).change = adam(40);
  line("OU, short steps, three gradients", ou, gaussian(1, 3, 0.2), half, 80, 0.04).change = few(3);
  line("double well, short, two neurons", double_well, gaussian(1, 0.2, 0.5), twin, 60, 0.02).diffusion = 0.3;
  out.back().hidden = {2};

  // Without internal energies.
  const auto box = [](double half_width) {
    return Density::uniform({-half_width, -half_width}, {half_width, half_width});
  };
  const auto add = [&](const std::string& name, const Functional& f, const Density& start, Index n, int steps,
                       double tau) -> Case& {
    out.push_back({name, f, start, n, steps, tau, R::particles});
    return out.back();
  };
  add("sphere, late", potential("sum(x^2)", 2), gaussian(2, 1, 1), 400, 30, 0.2);
  add("Styblinski-Tang", potential("0.5*sum(x^4 - 16*x^2 + 5*x)", 2), box(4), 500, 4, 0.01).hidden = {60, 20};
  add("Holder table", potential("-abs(sin(x[0])*cos(x[1])*exp(abs(1 - norm(x)/pi)))", 2), box(4), 300, 3,
      0.05);
  add("Bohachevsky", potential("x[0]^2 + 2*x[1]^2 - 0.3*cos(3*pi*x[0]) - 0.4*cos(4*pi*x[1]) + 0.7", 2),
      box(4), 300, 3, 0.05);
  add("Rastrigin", potential("sum(x^2 - 10*cos(2*pi*x))", 2), box(3), 300, 3, 0.01);
  add("N(0, 1e-12)", potential("sum(x^2)/2", 2), gaussian(2, 0, 1e-12), 300, 5, 0.1);
  Cloud dots{Matrix<double>(20, 2), {}};
  for (double& x : dots.x.elements()) x = 3;
  add("20 points in one place", potential("sum(x^2)/2", 2), gaussian(2, 3, 1), 20, 5, 0.1).cloud = dots;
  out.back().density = false;
  add("stiff, rank 2", potential("x[0]^2/2 + 5e3*x[1]^2", 2), gaussian(2, 1, 1), 400, 4, 0.1).rank = 2;
  add("stiff, rank 0", potential("x[0]^2/2 + 5e3*x[1]^2", 2), gaussian(2, 1, 1), 400, 3, 0.1);
  add("constant", potential("1 + 0*sum(x)", 2), gaussian(2, 1, 1), 200, 3, 0.1);
  add("a kink", potential("abs(x[0])", 1), gaussian(1, 0.5, 1), 400, 6, 0.1);
  add("Rosenbrock", potential("(1 - x[0])^2 + 10*(x[1] - x[0]^2)^2", 2), gaussian(2, 0, 1), 400, 4, 0.02);
  add("aggregation", interaction("r^2/2 - log(r)", 2), gaussian(2, 0, 0.3), 300, 4, 0.2).reference =
      R::longer;
  add("quartic aggregation", interaction("r^4/4 - r^2/2", 2), gaussian(2, 0, 0.3), 300, 12, 0.1);
  add("pairs in a well", interaction("-log(r)", 2) + potential("sum(x^2)", 2), gaussian(2, 1, 1), 300, 4, 0.1)
      .reference = R::longer;
  add("aggregation, 40 random particles", interaction("r^2/2 - log(r)", 2), gaussian(2, 0, 0.3), 40, 4, 0.2)
      .reference = R::longer;
  out.back().sampling = Sampling::random;
  add("quartic aggregation, 25 random particles", interaction("r^4/4 - r^2/2", 2), gaussian(2, 0, 0.3), 25, 4,
      0.3)
      .reference = R::longer;
  out.back().sampling = Sampling::random;
  add("quartic aggregation, 100 random particles", interaction("r^4/4 - r^2/2", 2), gaussian(2, 0, 0.3), 100,
      6, 0.1)
      .reference = R::longer;
  out.back().sampling = Sampling::random;
  add("quartic aggregation, short steps", interaction("r^4/4 - r^2/2", 2), gaussian(2, 0, 0.3), 300, 40,
      0.01);
  add("quartic aggregation, short, three gradients", interaction("r^4/4 - r^2/2", 2), gaussian(2, 0, 0.3),
      300, 40, 0.02)
      .change = few(3);
  add("Styblinski-Tang, 40 random particles", potential("0.5*sum(x^4 - 16*x^2 + 5*x)", 2), box(4), 40, 3,
      0.01)
      .reference = R::longer;
  out.back().sampling = Sampling::random;
  const Matrix<double> target = Density::mixture({1, 1}, {gaussian(2, -2, 0.2), gaussian(2, 2, 0.2)})
                                    .sample(150, Sampling::random, 5)
                                    .x;
  add("to two bumps, Sinkhorn", sinkhorn(target, {.epsilon = 0.5}), gaussian(2, 0, 1), 150, 3, 0.3);
  add("to two bumps, energy distance", energy_distance_to(target), gaussian(2, 0, 1), 150, 3, 0.5);
  add("saddle, Adam 20", potential("x[0]^2 - x[1]^2/2 + x[1]^4/4", 2), gaussian(2, 0.5, 1), 300, 4, 0.2)
      .change = adam(20);

  // More dimensions, with internal energies.
  const auto whitened = [&](const std::string& name, const Functional& f, const Density& start, Index n,
                            int steps, double tau, Reference reference, int rank) {
    out.push_back({name, f, start, n, steps, tau, reference, {16}, rank, Sampling::whitened});
  };
  whitened("OU, d = 2", entropy() + potential("sum(x^2)/2 + x[0]*x[1]/4", 2), gaussian(2, 1, 0.3), 1000, 8,
           0.2, R::affine, 2);
  whitened("OU, d = 12", entropy() + potential("sum(x^2)/2 + x[0]*x[1]/4", 12), gaussian(12, 1, 0.3), 2000, 5,
           0.1, R::affine, 12);
  whitened("OU, d = 30", entropy() + potential("sum(x^2)/2 + x[0]*x[1]/4", 30), gaussian(30, 1, 0.3), 1000, 2,
           0.1, R::affine, 30);
  Matrix<double> flat(2, 2);
  flat.elements() = {1, 0, 0, 1e-4};
  whitened("heat, flat start, rank 2", entropy(), Density::gaussian({0, 0}, flat), 500, 3, 0.1, R::affine, 2);
  whitened("heat, flat start, rank 0", entropy(), Density::gaussian({0, 0}, flat), 500, 3, 0.1, R::affine, 0);
  out.push_back(
      {"towards two bumps, d = 2",
       entropy() + potential("-log(exp(-2*((x[0] - 1)^2 + x[1]^2)) + exp(-2*((x[0] + 1)^2 + x[1]^2)))", 2),
       gaussian(2, 0, 1), 500, 2, 0.1, R::longer});
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("what steps miss beside what their reports say");
  std::string only;
  bool verbose = false, check = false;
  app.add_option("--only", only, "flows whose name has this");
  app.add_flag("--verbose", verbose, "a line a step");
  app.add_flag("--check", check, "the first step of each flow only");
  CLI11_PARSE(app, argc, argv);
  std::printf("| %-30s | steps | %9s | %9s | at floor | flagged | silent | false | gradients |\n", "flow",
              "missed", "said");
  std::printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
  int silent = 0, wrong = 0, steps = 0, flagged = 0, flows = 0;
  const double begin = bench::now();
  try {
    for (const Case& problem : cases()) {
      if (problem.name.find(only) == std::string::npos) continue;
      FlowOptions options;
      options.tau = problem.tau;
      options.network.hidden = problem.hidden;
      options.network.quadratic_rank = problem.rank;
      options.threads = 1;
      options.device = "cpu";
      problem.change(options);
      Cloud cloud = problem.cloud ? *problem.cloud
                                  : problem.start.sample(problem.particles, problem.sampling, options.seed);
      if (!problem.functional.needs_density()) cloud.log_density.clear();
      Flow<float> flow(problem.functional, cloud, options);
      if (problem.density) flow.set_initial_density(problem.start);
      flow.track(problem.start.sample(4000, Sampling::stratified, 3));
      Judge judge(problem, options);
      int own_floor = 0, own_silent = 0, own_false = 0, own_flagged = 0;
      long gradients = 0;
      double worst = 0, said = 0;
      for (int k = 0; k < (check ? 1 : problem.steps); ++k) {
        const Trajectory before = flow.trajectory(), law = flow.tracked(0);
        const std::size_t maps = flow.maps().size();
        const StepReport report = *flow.step();
        const Verdict verdict = judge.judge(flow, before, law, maps);
        const double share = std::fmax(report.missed_share, report.missed_share_held_out);
        const double missed = verdict.missed / std::max({verdict.possible, report.floor, 1e-300});
        const bool is_silent = report.solved && missed > 0.03,
                   is_false = !report.solved && missed < 0.003 && verdict.distance < 0.03;
        own_floor += verdict.possible < report.floor;
        own_silent += is_silent;
        own_false += is_false;
        own_flagged += !report.solved;
        gradients += report.iterations;
        worst = std::max(worst, missed);
        said = std::fmax(said, share);
        if (verbose) {
          std::printf(
              "  %3d %-8s missed %9.2e possible %9.2e floor %9.2e said %9.2e %9.2e distance %9.2e %s%s%s\n",
              report.step, report.start, missed, verdict.possible, report.floor, report.missed_share,
              report.missed_share_held_out, report.displacement_error, report.solved ? "" : "unsolved",
              is_silent ? " SILENT" : "", is_false ? " FALSE" : "");
        }
      }
      std::printf("| %-30s | %5d | %9.2e | %9.2e | %8d | %7d | %6d | %5d | %9ld |\n", problem.name.c_str(),
                  flow.steps(), worst, said, own_floor, own_flagged, own_silent, own_false, gradients);
      std::fflush(stdout);
      silent += own_silent;
      wrong += own_false;
      steps += flow.steps();
      flagged += own_flagged;
      ++flows;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::printf("%d flows, %d steps, %d flagged, %d silent, %d false, %.0f s\n", flows, steps, flagged, silent,
              wrong, bench::now() - begin);
  return silent + wrong > 0;
}
