// SPDX-License-Identifier: MIT
// Time to accuracy of whole flows: gradients, seconds and processor seconds, and the error at the end against the exact
// JKO iterate or the steady state, with the solver of the defaults and with Adam at several numbers of iterations, in
// one run. Problems of the paper's section 5, Ornstein-Uhlenbeck flows and, with the files of the authors' release, its
// molecules in latent space. --log-dets compares exact log-determinants with stochastic ones instead, at d = 24 to 128.
// Prints a table, the cheapest run below each error and, last, one JSON line. Mixtures have a program of their own.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/flows/draws.hpp"
#include "bench/flows/flow_arguments.hpp"
#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"

namespace {

using namespace brenier;
using Solver = InnerOptions::Solver;

struct Problem {
  std::string name;
  Functional functional;
  std::optional<Density> start;
  Index particles;
  Sampling sampling;
  int steps;
  FlowOptions options;
  /// Largest relative error of what is known of the last iterate. It may track more clouds.
  std::function<double(Flow<float>&)> error;
  Cloud cloud = {};  // where there is no density
};

/// How the steps of a run are solved.
struct Solve {
  std::optional<Solver> solver = {};  // without, and with 0 iterations: those of the problem
  int iterations = 0;
  LogDetOptions::Method log_det = LogDetOptions::Method::automatic;
  double rate = 0;  // of Adam; 0: that of the problem

  std::string name() const {
    const std::string log_dets = log_det == LogDetOptions::Method::cg ? ", cg" : "";
    return (!solver ? "default" : solver == Solver::adam ? "adam" : "lbfgs") + log_dets;
  }
  std::string label() const { return name() + (iterations > 0 ? " " + std::to_string(iterations) : ""); }
};

/// Of all threads of this process.
double processor_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

double deviation(const Matrix<double>& x) {
  double mean = 0, squares = 0;
  const double share = 1 / static_cast<double>(x.rows());
  for (Index i = 0; i < x.rows(); ++i) mean += share * x(i, 0);
  for (Index i = 0; i < x.rows(); ++i) squares += share * (x(i, 0) - mean) * (x(i, 0) - mean);
  return std::sqrt(squares);
}

Problem porous(int order, int steps) {
  BarenblattOptions profile;
  profile.time = 1e-3;
  FlowOptions options;
  options.tau = 1e-3;
  options.order = order;
  options.start_time = profile.time;
  const BarenblattFlow exact(Barenblatt(1, 2), profile.time);
  const double scale = exact.iterates(options.tau, steps, order).back();
  return {"porous medium, order " + std::to_string(order),
          porous_medium(2),
          Density::barenblatt(profile),
          1000,
          Sampling::stratified,
          steps,
          options,
          [=](Flow<float>& flow) {
            return std::max(std::abs(flow.functional().total() / exact.energy(scale) - 1),
                            std::abs(deviation(flow.trajectory().x()) / exact.standard_deviation(scale) - 1));
          }};
}

/// Worst error of a component's mean and deviation, in deviations.
double moments_error(const Matrix<double>& x, const std::vector<double>& mean,
                     const std::vector<double>& scale) {
  const double n = static_cast<double>(x.rows());
  double worst = 0;
  for (Index c = 0; c < x.cols(); ++c) {
    double m = 0, s = 0;
    for (Index i = 0; i < x.rows(); ++i) m += x(i, c) / n;
    for (Index i = 0; i < x.rows(); ++i) s += (x(i, c) - m) * (x(i, c) - m) / n;
    worst = std::max({worst, std::abs(m - mean[c]) / scale[c], std::abs(std::sqrt(s) / scale[c] - 1)});
  }
  return worst;
}

/// V = 1/2 sum a_c (x_c - b_c)^2 + entropy from N(0, variance I), a_c uniform in `stiff` + [0, 1]: iterates are Gaussian
/// with independent components.
Problem ornstein_uhlenbeck(const std::string& name, int d, int steps, Index particles = 4096,
                           std::vector<int> hidden = {16}, double tau = 0.05, double variance = 1,
                           double stiff = 0.5) {
  bench::Draws draws(0, d, 0);
  Matrix<double> stiffness(d, d);
  std::vector<double> target, mean(static_cast<std::size_t>(d), 0.0),
      scale(static_cast<std::size_t>(d), std::sqrt(variance));
  FlowOptions options;
  options.tau = tau;
  options.network.hidden = std::move(hidden);
  options.network.quadratic_rank = d;
  for (int c = 0; c < d; ++c) {
    stiffness(c, c) = stiff + draws.uniform();
    target.push_back(draws.normal());
    for (int k = 0; k < steps; ++k) {
      const double a = stiffness(c, c), t = 1 / options.tau;
      mean[c] = (mean[c] + options.tau * a * target[c]) / (1 + options.tau * a);
      scale[c] = (t * scale[c] + std::sqrt(t * t * scale[c] * scale[c] + 4 * (t + a))) / (2 * (t + a));
    }
  }
  return {name,
          entropy() + potential("dot(x - b, A*(x - b))/2", d,
                                {{"A", Parameter::matrix(stiffness)}, {"b", Parameter::vector(target)}}),
          Density::gaussian(d, 0, variance),
          particles,
          Sampling::whitened,
          steps,
          options,
          [=](Flow<float>& flow) { return moments_error(flow.trajectory().x(), mean, scale); }};
}

/// entropy + |x|^2/2 from N(0, 4 I), the flow that bench/peers/pytorch_flow.py has as well.
Problem isotropic(int d, int steps) {
  FlowOptions options;
  options.tau = 0.05;
  double scale = 2;
  const double t = 1 / options.tau;
  for (int k = 0; k < steps; ++k)
    scale = (t * scale + std::sqrt(t * t * scale * scale + 4 * (t + 1))) / (2 * (t + 1));
  return {"isotropic OU, d = " + std::to_string(d),
          entropy() + potential("sum(x^2)/2", d),
          Density::gaussian(d, 0, 4),
          1024,
          Sampling::whitened,
          steps,
          options,
          [=](Flow<float>& flow) {
            return moments_error(flow.trajectory().x(), std::vector<double>(d, 0.0),
                                 std::vector<double>(d, scale));
          }};
}

/// The paper's section 5.2 to its steady state, F on particles that the flow has not seen.
Problem nonlinear_fokker_planck(int steps) {
  FlowOptions options;
  options.tau = 0.05;
  const Density start = Density::gaussian(1, 0, 0.2);
  return {"nonlinear Fokker-Planck",
          porous_medium(2) + potential("sum(x^2)", 1),
          start,
          1000,
          Sampling::stratified,
          steps,
          options,
          [=](Flow<float>& flow) {
            const std::size_t more =
                flow.track(start.sample(10'000, Sampling::stratified, 0, RandomStream::held_out));
            return std::abs(
                flow.functional_of(flow.tracked(more)).total() / porous_steady_state(1, 2, 2).energy - 1);
          }};
}

/// The paper's section 5.3 to its steady state. F of a cloud leaves pairs i = j out: the deviation is compared.
Problem aggregation(int steps) {
  FlowOptions options;
  options.tau = 0.1;
  return {"aggregation",
          interaction("0.5*r^2 - log(r)", 1),
          Density::gaussian(1, 0, 1),
          1000,
          Sampling::stratified,
          steps,
          options,
          [](Flow<float>& flow) { return std::abs(deviation(flow.trajectory().x()) / std::sqrt(0.5) - 1); }};
}

/// The paper's molecules (bench/paper/molecules.toml), from the files of the authors' release. The error is the part of the
/// decrease to F = 170.515 that is missed, where exact steps of the particles end.
Problem molecules(const std::string& cloud, const std::string& potential, int steps) {
  FlowOptions options;
  options.tau = 1e-4;
  options.network.hidden = {100, 100};
  options.network.quadratic_rank = 128;  // the best affine map of the cloud is where a step starts then
  options.inner.solver = Solver::lbfgs;
  options.inner.iterations = 60;
  options.inner.warm_start = false;
  const Matrix<double> x = read_npy(cloud);
  const Functional f = learned_potential(potential) + 1e4 * sinkhorn(x);
  return {"molecules",
          f,
          {},
          0,
          {},
          steps,
          options,
          [](Flow<float>& flow) {
            const double least = 170.515, before = 181.0;
            return (flow.functional().total() - least) / (before - least);
          },
          Cloud{x, {}}};
}

/// The row of least cost among those below an error, by solver.
void print_cheapest(const nlohmann::ordered_json& rows) {
  std::printf("\ncheapest run below an error, processor seconds (gradients)\n");
  std::vector<std::string> flows, solvers;
  const auto add = [](std::vector<std::string>& names, const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  for (const auto& row : rows) {
    add(flows, row["flow"]);
    add(solvers, row["solver"]);
  }
  for (const std::string& flow : flows) {
    for (const double error : {1e-3, 1e-4}) {
      std::printf("%-30s %.0e", flow.c_str(), error);
      for (const std::string& solver : solvers) {
        double least = std::numeric_limits<double>::infinity();
        long gradients = 0;
        for (const auto& row : rows) {
          if (row["flow"] != flow || row["solver"] != solver || !(row["error"] < error)) continue;
          if (row["processor_seconds"] < least) {
            least = row["processor_seconds"];
            gradients = row["gradients"];
          }
        }
        if (std::isfinite(least)) {
          std::printf("  %s %.2f (%ld)", solver.c_str(), least, gradients);
        } else {
          std::printf("  %s never", solver.c_str());
        }
      }
      std::printf("\n");
    }
  }
}

/// A whole flow, as a row of the table.
nlohmann::ordered_json run(const Problem& problem, const Solve& solve, int seed, int threads) {
  FlowOptions options = problem.options;
  options.seed = static_cast<std::uint64_t>(seed);
  options.threads = threads;
  if (solve.solver) options.inner.solver = *solve.solver;
  options.inner.log_det.method = solve.log_det;
  if (solve.iterations > 0) options.inner.iterations = solve.iterations;
  if (solve.rate > 0) options.inner.adam.rate = solve.rate;
  const Cloud cloud = problem.start ? problem.start->sample(problem.particles, problem.sampling, options.seed)
                                    : problem.cloud;
  const double begin = bench::now(), processor_begin = processor_seconds();
  Flow<float> flow(problem.functional, cloud, options);
  if (problem.start) flow.set_initial_density(*problem.start);
  long gradients = 0;
  int unsolved = 0;
  bench::Profile profile;
  for (int k = 0; k < problem.steps; ++k) {
    const StepReport report = *flow.step();
    gradients += report.iterations;
    unsolved += !report.solved;
    profile.add(report);
  }
  const double seconds = bench::now() - begin, processor = processor_seconds() - processor_begin;
  const double error = problem.error(flow);
  std::printf("%-30s %-14s %4d %10ld %9.3f %10.3f %10.2e %8d\n", problem.name.c_str(), solve.label().c_str(),
              seed, gradients, seconds, processor, error, unsolved);
  std::fflush(stdout);
  return {{"flow", problem.name},
          {"solver", solve.name()},
          {"iterations", solve.iterations},
          {"seed", seed},
          {"gradients", gradients},
          {"seconds", seconds},
          {"processor_seconds", processor},
          {"error", error},
          {"functional", flow.functional().total()},
          {"unsolved", unsolved},
          {"profile", profile.json()}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("gradients and seconds of whole flows, and how exact they are");
  int steps = 0, threads = 0, seeds = 1;
  std::vector<int> adam = {100, 400};
  std::string only, cloud, potential;
  double rate = 0;
  bool log_dets = false;
  app.add_option("--steps", steps, "most of each flow; 0: as many as it has")->check(CLI::NonNegativeNumber);
  app.add_option("--adam", adam, "iterations a step of the runs with Adam, e.g. 50,400; 0: none")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  app.add_option("--rate", rate, "of Adam; 0: the default")->check(CLI::NonNegativeNumber);
  app.add_option("--only", only, "flows with this in their name");
  app.add_flag("--log-dets", log_dets, "exact log-determinants beside stochastic ones, instead");
  app.add_option("--cloud", cloud, "molecules: embeddings, .npy")->check(CLI::ExistingFile);
  app.add_option("--potential", potential, "molecules: V, .safetensors")->check(CLI::ExistingFile);
  bench::add_threads(app, threads);
  app.add_option("--seeds", seeds)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  using Method = LogDetOptions::Method;
  nlohmann::ordered_json out;
  const auto capped = [&](int count) { return steps > 0 ? std::min(steps, count) : count; };
  std::printf("%-30s %-14s %4s %10s %9s %10s %10s %8s\n", "flow", "solver", "seed", "gradients", "seconds",
              "processor", "error", "unsolved");
  try {
    std::vector<Solve> runs = {{}};
    std::vector<Problem> problems;
    if (log_dets) {
      runs = {{.solver = Solver::lbfgs, .log_det = Method::exact}};
      for (const int iterations : adam) {
        if (iterations > 0)
          runs.push_back(
              {.solver = Solver::adam, .iterations = iterations, .log_det = Method::cg, .rate = rate});
      }
      for (const int d : {24, 32, 48, 64, 96, 128, 192})
        problems.push_back(
            ornstein_uhlenbeck("Ornstein-Uhlenbeck, d = " + std::to_string(d), d, capped(3), 1024));
    } else {
      for (const int iterations : adam) {
        if (iterations > 0) runs.push_back({.solver = Solver::adam, .iterations = iterations, .rate = rate});
      }
      problems = {porous(1, capped(30)),
                  porous(2, capped(30)),
                  ornstein_uhlenbeck("Ornstein-Uhlenbeck, d = 12", 12, capped(20)),
                  isotropic(12, capped(10)),
                  ornstein_uhlenbeck("Fokker-Planck, d = 20", 20, capped(40), 4096, {100, 20}, 0.02, 4, 1),
                  nonlinear_fokker_planck(capped(60)),
                  aggregation(capped(60))};
      if (!cloud.empty() && !potential.empty()) problems.push_back(molecules(cloud, potential, capped(100)));
    }
    for (const Problem& problem : problems) {
      if (problem.name.find(only) == std::string::npos) continue;
      for (int seed = 0; seed < seeds; ++seed) {
        for (const Solve& solve : runs) out["rows"].push_back(run(problem, solve, seed, threads));
      }
    }
    if (out.contains("rows")) print_cheapest(out["rows"]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::printf("%s\n", out.dump().c_str());
}
