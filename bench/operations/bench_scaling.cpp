// SPDX-License-Identifier: MIT
// How time and memory grow with the number of particles: an inner iteration and a whole JKO step, at a small
// and a large N in turn, and the resident memory that a step of the large one needs beside its cloud. The
// functional is entropy + |x|^2/2, from a normal density. Prints a table and, last, one JSON line.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"
#include "kernels/operations.hpp"

namespace {

using namespace brenier;

struct Options {
  Index small = 16'000;
  Index large = 1'000'000;
  int dim = 2;
  std::vector<int> hidden = {100, 20};
  std::string device = "auto";
  int threads = 2;
  double seconds = 10;
  int step_iterations = 10;
  int memory_iterations = 3;
  double tau = 0.01;
  std::uint64_t seed = 0;

  void add_to(CLI::App& app) {
    app.add_option("--small", small, "fewer particles")->check(CLI::PositiveNumber);
    app.add_option("--large", large, "more particles")->check(CLI::PositiveNumber);
    app.add_option("--dim", dim, "dimension d")->check(CLI::PositiveNumber);
    app.add_option("--hidden", hidden, "widths, e.g. 100,20")->delimiter(',')->check(CLI::PositiveNumber);
    bench::add_device(app, device, threads);
    app.add_option("--seconds", seconds, "time spent on each of the two kinds of timing")
        ->check(CLI::PositiveNumber);
    app.add_option("--step-iterations", step_iterations, "inner iterations of a timed step")
        ->check(CLI::PositiveNumber);
    app.add_option("--memory-iterations", memory_iterations, "inner iterations of the step for memory")
        ->check(CLI::PositiveNumber);
    app.add_option("--tau", tau)->check(CLI::PositiveNumber);
    app.add_option("--seed", seed);
  }
};

Cloud cloud_of(const Options& o, Index n) {
  return Density::gaussian(o.dim, 0.0, 4.0).sample(n, Sampling::random, o.seed);
}

Functional functional_of(const Options& o) {
  return entropy() + 0.5 * potential("sum(x^2)", o.dim);
}

Flow<float> flow_of(const Options& o, Index n, int iterations) {
  FlowOptions options;
  options.tau = o.tau;
  options.network.hidden = o.hidden;
  options.inner.iterations = iterations;
  options.seed = o.seed;
  options.device = o.device;
  options.threads = o.threads;
  return Flow<float>(functional_of(o), cloud_of(o, n), options);
}

/// A line of /proc/self/status in bytes, e.g. "VmHWM:", the peak of the resident memory so far. NotAvailable
/// where the system has no such file.
double status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) == 0) return 1024 * std::stod(line.substr(key.size()));
  }
  throw NotAvailable("memory: /proc/self/status has no line " + key + "; this needs Linux");
}

struct Memory {
  double step = 0;   // peak bytes a particle while the cloud is drawn and a step is taken
  double cloud = 0;  // of which the cloud
};

/// The peak is that of the process, so this must come before anything else that is large. A small flow goes
/// first: code, threads and the allocator's own memory are not the cloud's.
Memory memory_of(const Options& o) {
  flow_of(o, std::min<Index>(o.small, 1000), o.memory_iterations).step();
  const double before = status_bytes("VmRSS:");
  Flow<float> flow = flow_of(o, o.large, o.memory_iterations);
  flow.step();
  const double n = static_cast<double>(o.large);
  return {(status_bytes("VmHWM:") - before) / n, static_cast<double>(sizeof(double)) * (o.dim + 1)};
}

/// Inner iterations on one cloud; keeps what the problem points to.
class Inner {
 public:
  Inner(const Options& o, Index n, const Icnn& net, const Objective& objective)
      : ops_(backend<float>(o.device)), cloud_(cloud_of(o, n)), x_(cast<float>(cloud_.x)) {
    const std::vector<double> theta = initial_parameters(net, Initialisation::identity, o.seed);
    state_.theta.assign(theta.begin(), theta.end());
    state_.first_moment.assign(theta.size(), 0.0f);
    state_.second_moment.assign(theta.size(), 0.0f);
    problem_.net = &net;
    problem_.x = x_;
    problem_.log_density = cloud_.log_density.data();
    problem_.shift.assign(o.dim, 0.0);
    problem_.scale = 2;
    problem_.tau = o.tau;
    problem_.objective = &objective;
    problem_.iterations = 1 << 30;  // the rate is constant
  }
  Inner(const Inner&) = delete;
  Inner& operator=(const Inner&) = delete;

  void iterate(int count, Team& team) {
    const InnerReport report = ops_.inner_loop(problem_, state_, state_.iteration + count, team);
    if (!report.finite) throw NumericalError("the iteration diverged; use a smaller --tau");
  }

 private:
  const Operations<float>& ops_;
  Cloud cloud_;
  Matrix<float> x_;
  InnerProblem<float> problem_;
  InnerState<float> state_;
};

/// Nanoseconds per particle, and the ratio of the medians.
struct Growth {
  bench::Timing small, large;
  double n_small, n_large;

  double small_ns() const { return small.median / n_small * 1e9; }
  double large_ns() const { return large.median / n_large * 1e9; }
  double ratio() const { return large_ns() / small_ns(); }
};

/// Samples the two in turn, each block about as long as one repetition of the large one, until both have had
/// about `seconds`; at least three samples each.
Growth measure(const Options& o, std::function<void(int)> small, std::function<void(int)> large) {
  bench::Subject a(std::move(small)), b(std::move(large));
  const double start = bench::now();
  b.prepare(0);
  const double block = (bench::now() - start) / 2;
  a.prepare(block);
  for (int k = 0; k < 3 || a.spent() + b.spent() < o.seconds; ++k) {
    a.sample();
    b.sample();
  }
  return {a.timing(), b.timing(), static_cast<double>(o.small), static_cast<double>(o.large)};
}

Growth measure_inner(const Options& o) {
  const Icnn net({.dim = o.dim, .hidden = o.hidden});
  const Objective objective = functional_of(o).objective();
  Team team(o.threads);
  Inner small(o, o.small, net, objective), large(o, o.large, net, objective);
  return measure(
      o, [&](int count) { small.iterate(count, team); }, [&](int count) { large.iterate(count, team); });
}

Growth measure_step(const Options& o) {
  Flow<float> small = flow_of(o, o.small, o.step_iterations), large = flow_of(o, o.large, o.step_iterations);
  const auto steps = [](Flow<float>& flow, int count) {
    for (int k = 0; k < count; ++k) flow.step();
  };
  return measure(
      o, [&](int count) { steps(small, count); }, [&](int count) { steps(large, count); });
}

nlohmann::ordered_json json_of(const Growth& g) {
  return {{"small_ns", g.small_ns()},
          {"large_ns", g.large_ns()},
          {"ratio", g.ratio()},
          {"small_ns_min", g.small.least / g.n_small * 1e9},
          {"large_ns_min", g.large.least / g.n_large * 1e9},
          {"samples", g.large.samples}};
}

void print(const char* what, const Growth& g) {
  std::printf("%-28s %12.1f %12.1f %8.3f\n", what, g.small_ns(), g.large_ns(), g.ratio());
  std::fflush(stdout);
}

void run(const Options& o) {
  if (o.large < o.small) {
    throw ValueError("--large is " + std::to_string(o.large) + "; it must be at least --small, " +
                     std::to_string(o.small));
  }
  const Memory memory = memory_of(o);
  std::printf("%-28s %12td %12td %8s\n", "ns a particle at N =", o.small, o.large, "ratio");
  const Growth inner = measure_inner(o);
  print("inner iteration", inner);
  const Growth step = measure_step(o);
  print(("step of " + std::to_string(o.step_iterations) + " iterations").c_str(), step);
  std::printf("memory of a step at N = %td: %.1f bytes a particle beside the cloud's %.0f\n", o.large,
              memory.step - memory.cloud, memory.cloud);
  std::string widths;
  for (const int width : o.hidden) widths += (widths.empty() ? "" : ",") + std::to_string(width);
  const nlohmann::ordered_json line = {{"small", o.small},
                                       {"large", o.large},
                                       {"dim", o.dim},
                                       {"hidden", widths},
                                       {"inner", json_of(inner)},
                                       {"step", json_of(step)},
                                       {"step_iterations", o.step_iterations},
                                       {"memory_bytes", memory.step - memory.cloud},
                                       {"cloud_bytes", memory.cloud},
                                       {"threads", o.threads > 0 ? o.threads : Team::available()},
                                       {"backend", backend<float>(o.device).name},
                                       {"version", BRENIER_VERSION}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_on_device(
      argc, argv,
      "Time per particle of an inner iteration and of a JKO step at two sizes, and memory per particle.",
      Options(), run);
}
