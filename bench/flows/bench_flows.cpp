// SPDX-License-Identifier: MIT
// Time to accuracy of whole flows: gradients and seconds, and the error against the exact JKO iterate at the end,
// with the solver of the defaults and with Adam, in one run. Problems of the paper's section 5 and an
// Ornstein-Uhlenbeck flow. Prints a table and, last, one JSON line.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/flows/draws.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"

namespace {

using namespace brenier;
using Solver = InnerOptions::Solver;

struct Problem {
  std::string name;
  Functional functional;
  Density start;
  Index particles;
  Sampling sampling;
  int steps;
  FlowOptions options;
  /// Largest relative error of what is known of the last iterate.
  std::function<double(const Flow<float>&)> error;
};

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
          [=](const Flow<float>& flow) {
            return std::max(std::abs(flow.functional().total() / exact.energy(scale) - 1),
                            std::abs(deviation(flow.trajectory().x()) / exact.standard_deviation(scale) - 1));
          }};
}

/// V = 1/2 sum a_c (x_c - b_c)^2 + entropy from N(0, I): iterates are Gaussian with independent components.
Problem ornstein_uhlenbeck(int d, int steps) {
  bench::Draws draws(0, d, 0);
  Matrix<double> stiffness(d, d);
  std::vector<double> target, mean(static_cast<std::size_t>(d), 0.0), scale(static_cast<std::size_t>(d), 1.0);
  FlowOptions options;
  options.tau = 0.05;
  options.network.hidden = {16};
  options.network.quadratic_rank = d;
  for (int c = 0; c < d; ++c) {
    stiffness(c, c) = 0.5 + draws.uniform();
    target.push_back(draws.normal());
    for (int k = 0; k < steps; ++k) {
      const double a = stiffness(c, c), t = 1 / options.tau;
      mean[c] = (mean[c] + options.tau * a * target[c]) / (1 + options.tau * a);
      scale[c] = (t * scale[c] + std::sqrt(t * t * scale[c] * scale[c] + 4 * (t + a))) / (2 * (t + a));
    }
  }
  return {
      "Ornstein-Uhlenbeck, d = " + std::to_string(d),
      entropy() + potential("dot(x - b, A*(x - b))/2", d,
                            {{"A", Parameter::matrix(stiffness)}, {"b", Parameter::vector(target)}}),
      Density::gaussian(d, 0, 1),
      4096,
      Sampling::whitened,
      steps,
      options,
      [=](const Flow<float>& flow) {
        const Matrix<double>& x = flow.trajectory().x();
        double worst = 0;
        for (Index c = 0; c < d; ++c) {
          double m = 0, s = 0;
          for (Index i = 0; i < x.rows(); ++i) m += x(i, c) / static_cast<double>(x.rows());
          for (Index i = 0; i < x.rows(); ++i)
            s += (x(i, c) - m) * (x(i, c) - m) / static_cast<double>(x.rows());
          worst = std::max({worst, std::abs(m - mean[c]) / scale[c], std::abs(std::sqrt(s) / scale[c] - 1)});
        }
        return worst;
      }};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("gradients and seconds of whole flows, and how exact they are");
  int steps = 30, threads = 0, seeds = 1;
  app.add_option("--steps", steps, "of each flow")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "0: all processors")->check(CLI::NonNegativeNumber);
  app.add_option("--seeds", seeds)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  nlohmann::ordered_json out;
  std::printf("%-30s %-6s %4s %10s %9s %10s %8s\n", "flow", "solver", "seed", "gradients", "seconds", "error",
              "unsolved");
  try {
    for (const Problem& problem :
         {porous(1, steps), porous(2, steps), ornstein_uhlenbeck(12, std::min(steps, 20))}) {
      for (int seed = 0; seed < seeds; ++seed) {
        for (const Solver solver : {Solver::automatic, Solver::adam}) {
          FlowOptions options = problem.options;
          options.seed = static_cast<std::uint64_t>(seed);
          options.threads = threads;
          options.inner.solver = solver;
          const Cloud cloud = problem.start.sample(problem.particles, problem.sampling, options.seed);
          const double begin = bench::now();
          Flow<float> flow(problem.functional, cloud, options);
          flow.set_initial_density(problem.start);
          long gradients = 0;
          int unsolved = 0;
          for (int k = 0; k < problem.steps; ++k) {
            const StepReport report = *flow.step();
            gradients += report.iterations;
            unsolved += !report.solved;
          }
          const double seconds = bench::now() - begin, error = problem.error(flow);
          const char* name = solver == Solver::adam ? "adam" : "auto";
          std::printf("%-30s %-6s %4d %10ld %9.3f %10.2e %8d\n", problem.name.c_str(), name, seed, gradients,
                      seconds, error, unsolved);
          out["rows"].push_back({{"flow", problem.name},
                                 {"solver", name},
                                 {"seed", seed},
                                 {"gradients", gradients},
                                 {"seconds", seconds},
                                 {"error", error},
                                 {"unsolved", unsolved}});
        }
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::printf("%s\n", out.dump().c_str());
}
