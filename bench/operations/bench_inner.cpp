// SPDX-License-Identifier: MIT
// Times one inner iteration of a JKO step: map, Hessian, functional, theta-gradient, Adam, clamp; or one evaluation
// of L-BFGS in its place. Prints one JSON line. bench/peers does the same in PyTorch, on the same numbers.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/operations/flops.hpp"
#include "bench/operations/roofline.hpp"
#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"
#include "engine/src/flow/solve/metric.hpp"
#include "kernels/operations.hpp"
#include "solvers/lbfgs.hpp"

namespace {

using namespace brenier;
using brenier::bench::Flops;

struct Options {
  Index n = 1000;
  int dim = 1;
  std::vector<int> hidden = {100, 20};
  std::string functional = "porous_medium";
  std::string dtype = "float";
  std::string device = "auto";
  std::string log_det = "exact";
  std::string solver = "adam";
  int evaluations = 40;
  bool whole = false;
  LogDetOptions cg{.method = LogDetOptions::Method::cg};
  int threads = 2;
  double seconds = 1;
  double tau = 1e-3, m = 2, rate = 1e-3, floor = 0, alpha_floor = 1e-3;
  Index check = 0;
  std::uint64_t seed = 0;
  double weight = 1e4, epsilon = 0.0025;
  int transport_steps = 16;
  std::string maps, cloud, log_density, potential, dump;

  void add_to(CLI::App& app) {
    app.add_option("--n", n, "particles")->check(CLI::PositiveNumber);
    app.add_option("--dim", dim, "dimension d; that of --cloud where given")->check(CLI::PositiveNumber);
    app.add_option("--hidden", hidden, "widths, e.g. 100,20")->delimiter(',')->check(CLI::PositiveNumber);
    app.add_option("--functional", functional)
        ->check(CLI::IsMember({"porous_medium", "entropy", "potential", "aggregation", "latent"}));
    app.add_option("--dtype", dtype)->check(CLI::IsMember({"float", "double"}));
    bench::add_device(app, device, threads);
    app.add_option("--log-det", log_det, "exact, or cg: one solve a probe (LogDetOptions)")
        ->check(CLI::IsMember({"exact", "cg"}));
    app.add_option("--probes", cg.probes, "of --log-det cg")->check(CLI::PositiveNumber);
    app.add_option("--cg-iterations", cg.iterations, "of --log-det cg")->check(CLI::PositiveNumber);
    app.add_option(
           "--solver", solver,
           "adam; lbfgs, by the device where it can; lbfgs_host, decided by the host after each evaluation")
        ->check(CLI::IsMember({"adam", "lbfgs", "lbfgs_host"}));
    app.add_option("--evaluations", evaluations, "most of a search by L-BFGS")->check(CLI::Range(1, 10000));
    app.add_flag("--whole", whole,
                 "a whole search by L-BFGS, with what it sets up, rather than an evaluation");
    app.add_option("--seconds", seconds, "time spent on measuring")->check(CLI::PositiveNumber);
    app.add_option("--tau", tau)->check(CLI::PositiveNumber);
    app.add_option("--m", m, "exponent of porous_medium");
    app.add_option("--lr", rate, "rate of Adam")->check(CLI::PositiveNumber);
    app.add_option("--floor", floor, "lower bound of the non-negative weights");
    app.add_option("--alpha-floor", alpha_floor, "lower bound of alpha");
    app.add_option("--check", check,
                   "particles whose gradient is compared with the reference in double; 0: 2000, or 5000 of "
                   "more than 4096, for which the cuda backend has other kernels")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--seed", seed);
    app.add_option("--maps", maps, "parameters, .safetensors")->check(CLI::ExistingFile);
    app.add_option("--cloud", cloud, "particles (N, d), .npy")->check(CLI::ExistingFile);
    app.add_option("--log-density", log_density, "log-densities (N), .npy")->check(CLI::ExistingFile);
    app.add_option("--potential", potential, "V of the latent functional, .safetensors")
        ->check(CLI::ExistingFile);
    app.add_option("--weight", weight, "of its transport")->check(CLI::NonNegativeNumber);
    app.add_option("--epsilon", epsilon, "of its transport")->check(CLI::PositiveNumber);
    app.add_option("--transport-steps", transport_steps,
                   "of Sinkhorn in an iteration of the latent functional")
        ->check(CLI::PositiveNumber);
    app.add_option("--dump", dump, "folder for maps.safetensors, cloud.npy and log_density.npy");
  }
};

/// E[V] + 10,000 OT to the cloud itself (the paper's section 6); without a file V is a random network.
Functional latent(const Options& o, const Cloud& cloud) {
  const SinkhornOptions options{.epsilon = o.epsilon,
                                .iterations = o.transport_steps,
                                .warm_iterations = o.transport_steps,
                                .tolerance = 0};
  if (!o.potential.empty()) return learned_potential(o.potential) + o.weight * sinkhorn(cloud.x, options);
  const Icnn net({.dim = o.dim, .hidden = {128, 128, 128, 128}});
  const LearnedPotential v{net, initial_parameters(net, Initialisation::paper, o.seed + 1)};
  return learned_potential(v) + o.weight * sinkhorn(cloud.x, options);
}

/// The functionals of bench/peers/pytorch_icnn.py, and the aggregation of the paper's section 5.3.
Functional functional_of(const Options& o, const Cloud& cloud) {
  if (o.functional == "latent") return latent(o, cloud);
  if (o.functional == "porous_medium") return porous_medium(o.m);
  if (o.functional == "aggregation") return interaction("0.5*r^2 - log(r)", o.dim);
  const Functional well = 0.5 * potential("sum(x^2)", o.dim);
  return o.functional == "entropy" ? entropy() + well : well;
}

Cloud cloud_of(const Options& o) {
  if (!o.cloud.empty()) {
    Cloud cloud{read_npy(o.cloud), {}};
    cloud.log_density.assign(cloud.x.rows(), 0.0);
    if (!o.log_density.empty()) cloud.log_density = read_npy_vector(o.log_density);
    if (static_cast<Index>(cloud.log_density.size()) != cloud.x.rows()) {
      throw ShapeError(o.log_density + " has " + std::to_string(cloud.log_density.size()) +
                       " log-densities, the cloud " + std::to_string(cloud.x.rows()) + " particles");
    }
    return cloud;
  }
  const Density density = o.functional == "porous_medium"
                              ? Density::barenblatt({.dim = o.dim, .m = o.m, .time = 0.1})
                              : Density::gaussian(o.dim, 0.0, 1.0);
  return density.sample(o.n, Sampling::random, o.seed);
}

std::vector<double> parameters_of(const Options& o, const Icnn& net) {
  if (o.maps.empty()) return initial_parameters(net, Initialisation::identity, o.seed);
  const TensorFile file = read_safetensors(o.maps);
  std::vector<double> theta(net.parameters());
  for (const ParameterTensor& tensor : net.tensors()) {
    const std::vector<double>& values = file.at(tensor.name).values;
    if (static_cast<Index>(values.size()) != tensor.size()) {
      throw ShapeError(o.maps + ": " + tensor.name + " has " + std::to_string(values.size()) +
                       " elements; --hidden and --dim need " + std::to_string(tensor.size()));
    }
    std::copy(values.begin(), values.end(), theta.begin() + tensor.offset);
  }
  return theta;
}

void dump(const std::filesystem::path& folder, const Icnn& net, const std::vector<double>& theta,
          const Cloud& cloud) {
  std::filesystem::create_directories(folder);
  TensorFile file;
  for (const ParameterTensor& tensor : net.tensors()) {
    const auto first = theta.begin() + tensor.offset;
    file.tensors.push_back({tensor.name, {tensor.rows, tensor.cols}, {first, first + tensor.size()}});
  }
  write_safetensors(folder / "maps.safetensors", file);
  write_npy(folder / "cloud.npy", cloud.x.view());
  write_npy(folder / "log_density.npy", std::span<const double>(cloud.log_density));
}

/// The inner problem on the first `n` particles, in one precision. Keeps what the problem points to.
template <class T>
struct Problem {
  Matrix<T> x;
  InnerProblem<T> inner;

  Problem(const Options& o, const Icnn& net, const Objective& objective, const Cloud& cloud, Index n)
      : x(cast<T>(cloud.x)) {
    inner.net = &net;
    inner.x = MatrixView<const T>(x).rows_from(0, n);
    inner.log_density = cloud.log_density.data();
    inner.shift.assign(net.dim(), 0.0);
    inner.tau = o.tau;
    inner.objective = &objective;
    inner.adam = {.rate = o.rate};
    if (o.log_det == "cg") inner.log_det = o.cg;
    inner.seed = o.seed;
    inner.iterations = 1 << 30;  // the rate is constant
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;
};

template <class T>
std::vector<T> converted(const std::vector<double>& values) {
  std::vector<T> out;
  for (const double value : values) out.push_back(static_cast<T>(value));
  return out;
}

/// |gradient in T - reference in double| / |reference|, 2-norms, on the first particles.
template <class T>
double gradient_error(const Options& o, const Operations<T>& ops, const Icnn& net, const Objective& objective,
                      const Cloud& cloud, const std::vector<double>& theta, Team& team) {
  const Index few = cloud.x.rows() > 4096 ? 5000 : 2000;
  const Index n = std::min(o.check > 0 ? o.check : few, cloud.x.rows());
  const Problem<T> problem(o, net, objective, cloud, n);
  const Problem<double> exact(o, net, objective, cloud, n);
  std::vector<double> actual(net.parameters()), expected(net.parameters());
  ops.objective_gradient(problem.inner, converted<T>(theta).data(), 0, actual.data(), team);
  ref::operations<double>().objective_gradient(exact.inner, theta.data(), 0, expected.data(), team);
  double difference = 0, scale = 0;
  for (std::size_t k = 0; k < expected.size(); ++k) {
    difference += (actual[k] - expected[k]) * (actual[k] - expected[k]);
    scale += expected[k] * expected[k];
  }
  return std::sqrt(difference / scale);
}

/// One search by L-BFGS; the evaluations that it took.
template <class T>
int search(const Options& o, const Operations<T>& ops, const InnerProblem<T>& inner, std::vector<T> theta,
           int evaluations, Team& team) {
  const ParameterMetric<T> bounds(*inner.net, theta);
  const LbfgsOptions options{.evaluations = evaluations};
  SinkhornReport transports;
  LbfgsReport report;
  if (ops.search && o.solver == "lbfgs") {
    report = ops.search(inner, {bounds.lower, bounds.metric}, options, theta, transports, team);
  } else {
    const auto step = ops.step_objective(inner, team);
    report = minimise<T>({[&](const T* at, double* gradient) { return step->evaluate(at, 0, gradient); },
                          bounds.lower, bounds.metric},
                         options, theta);
  }
  if (report.end == LbfgsReport::End::not_finite)
    throw NumericalError("the search has nothing finite to start from");
  return report.evaluations;
}

/// Of a whole search, or of one evaluation: what more of them take, divided by how many more they are.
template <class T>
bench::Timing time_search(const Options& o, const Operations<T>& ops, const InnerProblem<T>& inner,
                          const std::vector<T>& theta, Team& team) {
  int taken = 0;
  const auto timed = [&](int evaluations, double seconds) {
    return bench::measure(
        [&](int count) {
          for (int k = 0; k < count; ++k) taken = search(o, ops, inner, theta, evaluations, team);
        },
        seconds);
  };
  bench::Timing timing = timed(o.evaluations, o.seconds);
  if (o.whole) return timing;
  const int all = taken;
  const bench::Timing few = timed(std::max(1, o.evaluations / 4), o.seconds / 4);
  if (all <= taken)
    throw NumericalError("the search ended after " + std::to_string(all) + " evaluations; give --whole");
  timing.median = (timing.median - few.median) / (all - taken);
  timing.least = (timing.least - few.least) / (all - taken);
  return timing;
}

template <class T>
nlohmann::ordered_json run(Options o) {
  const Operations<T>& ops = backend<T>(o.device);
  Team team(o.threads);
  const Cloud cloud = cloud_of(o);
  o.n = cloud.x.rows();
  o.dim = static_cast<int>(cloud.x.cols());
  const Icnn net({.dim = o.dim, .hidden = o.hidden, .alpha_min = o.alpha_floor, .floor = o.floor});
  const std::vector<double> theta = parameters_of(o, net);
  if (!o.dump.empty()) dump(o.dump, net, theta, cloud);
  const Objective objective = functional_of(o, cloud).objective();

  const Problem<T> problem(o, net, objective, cloud, o.n);
  const std::vector<T> zero(theta.size(), T(0));
  const InnerState<T> start{converted<T>(theta), zero, zero, 0};
  const double peak_before = bench::peak_flops<T>(ops.name, team);
  CgReport solves;
  const auto iterate = [&](int count) {
    InnerState<T> state = start;
    const InnerReport report = ops.inner_loop(problem.inner, state, count, team);
    if (!report.finite) throw NumericalError("the iteration diverged; lower --lr");
    solves.add(report.cg);
  };
  // A loop on a device begins with copies and the recording of a graph, and ends when the host has the
  // result: what a loop of one iteration takes is measured beside the others and taken off. Long loops too
  // where the first iteration lowers epsilon.
  const bool on_device = std::string(ops.name) == "cuda";
  const bool adam = o.solver == "adam";
  bench::Timing timing = adam ? bench::measure([&](int count) { iterate(on_device ? count + 1 : count); },
                                               o.seconds, on_device || o.functional == "latent" ? 0.2 : 0.02)
                              : time_search<T>(o, ops, problem.inner, start.theta, team);
  double start_seconds = 0;
  if (on_device && adam) {
    const auto loops_of_one = [&](int count) {
      for (int k = 0; k < count; ++k) iterate(1);
    };
    const double shortest = bench::measure(loops_of_one, 0.1).median;
    timing.median -= shortest / timing.repetitions;
    timing.least -= shortest / timing.repetitions;
    start_seconds = shortest - timing.median;
  }
  const double peak = std::max(peak_before, bench::peak_flops<T>(ops.name, team)) * 1e-9;

  const double n = static_cast<double>(o.n);
  const bool internal = !objective.internal.empty();
  const Flops count(net);
  double flops = n * (internal && o.log_det == "cg" ? count.iteration_cg(o.cg.probes, solves.iterations)
                                                    : count.iteration(internal));
  for (const InteractionTerm& term : objective.interaction) {
    flops += n * (n - 1) * bench::pair_flops(term.kernel, o.dim);
  }
  const double gflops = flops / timing.median * 1e-9;
  std::string widths;
  for (const int width : o.hidden) widths += (widths.empty() ? "" : ",") + std::to_string(width);
  nlohmann::ordered_json line = {
      {"form", "brenier"},
      {"n", o.n},
      {"dim", o.dim},
      {"hidden", widths},
      {"functional", o.functional},
      {"log_det", o.log_det},
      {"solver", o.solver},
      {"dtype", o.dtype},
      {"seconds_median", timing.median},
      {"seconds_min", timing.least},
      {"gradient_rel_error", gradient_error<T>(o, ops, net, objective, cloud, theta, team)},
      {"threads", team.size()},
      {"backend", ops.name},
      {"version", BRENIER_VERSION}};
  if (o.functional == "latent") {  // the work of which is not counted
    line["transport_steps"] = o.transport_steps;
  } else if (!o.whole) {
    line["gflops"] = gflops;
    line["peak_gflops"] = peak;
    line["share"] = gflops / peak;
  }
  if (solves.iterations > 0) {
    line["cg_steps"] = solves.iterations;
    line["cg_worst_residual"] = solves.worst_residual;
  }
  if (on_device && adam) line["start_seconds"] = start_seconds;  // of a loop, without its iterations
  return line;
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_on_device(
      argc, argv, "Times one inner iteration of a JKO step and prints one JSON line.", Options(),
      [](const Options& o) { bench::print(o.dtype == "float" ? run<float>(o) : run<double>(o)); });
}
