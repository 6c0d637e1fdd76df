// SPDX-License-Identifier: MIT
// Whole experiments on the emulated device beside the same on the CPU, runs that change the device on their
// way, and runs that do not fit the device's memory.
#include <doctest/doctest.h>

#include <brenier/brenier.hpp>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "kernels/device/device.hpp"
#include "tests/support/app.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/capture.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"
#include "tests/support/run_files.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;
namespace emulator = brenier::device::emulator;

namespace {

using Overrides = std::vector<std::string>;

/// An experiment of the paper, as bench/paper has it, with fewer particles, steps and iterations.
Config experiment(const std::string& name, Overrides overrides) {
  const std::string iterations = kReduced ? "4" : "20";
  const Overrides small = {"cloud.particles=80", "flow.steps=" + std::to_string(kReduced ? 2 : 3),
                           "inner.iterations=" + iterations, "inner.solver=adam", "inner.accept=1",
                           // An affine map after that of a warm start is found by a search whose path carries
                           // rounding on a hundredfold. Where clouds are not normalised there is none.
                           "network.normalise=false", "held_out.particles=0", "threads=1"};
  if (kReduced) overrides.insert(overrides.begin(), "network.hidden=[20,6]");
  overrides.insert(overrides.begin(), small.begin(), small.end());
  return load_config(std::string(BRENIER_SOURCE_DIR) + "/bench/paper/" + name + ".toml", overrides);
}

/// How far two backends may be apart after so many inner iterations in T, relative to the largest number. An
/// iteration moves a parameter by at most Adam's rate, 1e-3 here, in units of the normalised cloud. The
/// relative error of that move is that of a gradient's component, which Adam divides by its own size: for a
/// component a hundred times smaller than the largest, a few thousand rounding units. An iteration adds a few
/// rounding units, then, and the sum of their magnitudes bounds what they add up to.
template <class T>
double distance_allowed(int iterations) {
  return tol<T>(4 * iterations);
}

/// Device memory that nobody holds any more once this is over.
struct NothingHeld {
  std::size_t before = emulator::memory_in_use();
  ~NothingHeld() { CHECK(emulator::memory_in_use() == before); }
};

template <class T>
void check_same_flow(const std::string& name, const Overrides& overrides, const Functional& more = {}) {
  CAPTURE(name);
  const NothingHeld held;
  const Config config = experiment(name, overrides);
  const auto flow_on = [&](const char* device) {
    FlowOptions options = config.flow;
    options.device = device;
    Flow<T> flow(config.functional + more, config.initial_cloud(), options);
    if (options.inner.refresh > 0)
      flow.set_source([&config](std::uint32_t draw) { return config.fresh_cloud(draw); });
    return flow;
  };
  Flow<T> expected = flow_on("cpu"), actual = flow_on("cuda");
  const Matrix<double> start = expected.trajectory().x();
  int iterations = 0;
  const std::uint64_t before = emulator::device_launches(0);
  for (int step = 1; step <= config.steps; ++step) {
    CAPTURE(step);
    const std::optional<StepReport> a = actual.step(), e = expected.step();
    REQUIRE(a.has_value());
    REQUIRE(e.has_value());
    CHECK(a->iterations == e->iterations);
    CHECK(a->retries == 0);
    iterations += e->iterations;
    const double tolerance = distance_allowed<T>(iterations);
    CHECK_CLOSE(actual.trajectory().x(), expected.trajectory().x(), tolerance);
    CHECK_CLOSE(actual.trajectory().log_density(), expected.trajectory().log_density(), tolerance);
    CHECK_REL(a->functional.total(), e->functional.total(), tolerance);
    REQUIRE(actual.maps().size() == expected.maps().size());
    CHECK_CLOSE(actual.maps().back().theta, expected.maps().back().theta, tolerance);
    // The flow moves, by far more than the backends may differ.
    CHECK(worst_error(expected.trajectory().x(), start) > 20 * tolerance);
  }
  CHECK(emulator::device_launches(0) > before);
  // The clouds alone stay.
  const std::size_t cloud = static_cast<std::size_t>(start.rows() * (start.cols() + 1)) * sizeof(double);
  const std::size_t clouds = 1 + static_cast<std::size_t>(config.flow.inner.pool);
  CHECK(emulator::memory_in_use() - held.before <= clouds * cloud);
}

/// What a finished run has come to: the cloud, and F of every step.
struct Outcome {
  Matrix<double> cloud;
  std::vector<double> functional;
  explicit Outcome(const fs::path& run) : cloud(read_npy(run / "clouds" / "step_000004.npy")) {
    for (const HistoryRow& row : history_of(run)) functional.push_back(row.functional.total());
  }
};

constexpr int kIterations = kReduced ? 3 : 10;
Config four_steps(const std::string& device, const Overrides& more = {}) {
  // The network of every build: a smaller one would fit where a test takes memory away.
  Overrides overrides = {"precision=double",
                         "flow.steps=4",
                         "cloud.particles=64",
                         "network.hidden=[100,20]",
                         "inner.iterations=" + std::to_string(kIterations),
                         "device=" + device};
  overrides.insert(overrides.end(), more.begin(), more.end());
  return experiment("porous_medium", overrides);
}
constexpr int kFourSteps = 4 * kIterations;

}  // namespace

TEST_CASE_TEMPLATE("the paper's experiments take the same course on the device as on the CPU", T, float,
                   double) {
  for (const char* name : {"porous_medium", "nonlinear_fokker_planck", "aggregation"})
    check_same_flow<T>(name, {"flow.order=1"});
}

TEST_CASE_TEMPLATE("second order in time on the device", T, float, double) {
  check_same_flow<T>("porous_medium", {"flow.order=2", "flow.steps=2"});
  // A first step, with its affine start in the coordinates of the cloud.
  for (const char* name : {"porous_medium", "aggregation"})
    check_same_flow<T>(name, {"network.normalise=true", "flow.steps=1"});
}

TEST_CASE("L-BFGS solves steps on the device as on the CPU") {
  for (const char* name : {"porous_medium", "nonlinear_fokker_planck", "aggregation"}) {
    CAPTURE(name);
    const NothingHeld held;
    const Config config = experiment(name, {"precision=double", "inner.solver=auto", "inner.iterations=40",
                                            "inner.accept=0.01", "flow.order=1", "flow.steps=2"});
    const auto flow_on = [&](const char* device) {
      FlowOptions options = config.flow;
      options.device = device;
      return Flow<double>(config.functional, config.initial_cloud(), options);
    };
    Flow<double> expected = flow_on("cpu"), actual = flow_on("cuda");
    const std::uint64_t before = emulator::device_launches(0);
    for (int step = 1; step <= (kReduced ? 1 : config.steps); ++step) {
      CAPTURE(step);
      const std::optional<StepReport> a = actual.step(), e = expected.step();
      REQUIRE(a.has_value());
      REQUIRE(e.has_value());
      CHECK(a->solver == InnerOptions::Solver::lbfgs);
      CHECK(e->solver == InnerOptions::Solver::lbfgs);
      CHECK(a->solved == e->solved);
      CHECK(a->iterations >= 3);
      // Rounding alone tells them apart: its path is another in the end, the minimum is the same.
      const double allowed = 1e-3 * e->decrease;
      CHECK(e->decrease > 0);
      CHECK(std::abs(a->functional.total() + a->transport - e->functional.total() - e->transport) < allowed);
    }
    CHECK(emulator::device_launches(0) > before);
  }
  // A few evaluations, before rounding has grown.
  for (const char* name : {"porous_medium", "aggregation"}) {
    check_same_flow<double>(name, {"inner.solver=lbfgs", "inner.iterations=4", "flow.steps=1"});
  }
}

TEST_CASE_TEMPLATE("minibatches on the device: the CPU's draws", T, float, double) {
  check_same_flow<T>("nonlinear_fokker_planck", {"inner.minibatch=48"});
  check_same_flow<T>("aggregation", {"inner.minibatch=48", "flow.steps=2"});
}

TEST_CASE_TEMPLATE("redrawn clouds on the device: each new, or from a pool", T, float, double) {
  for (const char* pool : {"inner.pool=0", "inner.pool=2"})
    check_same_flow<T>("nonlinear_fokker_planck", {"inner.refresh=3", pool, "flow.steps=2"});
}

TEST_CASE_TEMPLATE("stochastic log-determinants on the device: the CPU's probes", T, float, double) {
  check_same_flow<T>("porous_medium", {"inner.logdet=cg", "inner.probes=2", "inner.cg_iterations=3"});
  check_same_flow<T>("nonlinear_fokker_planck", {"inner.logdet=cg", "inner.minibatch=48", "flow.steps=2"});
}

TEST_CASE_TEMPLATE("learned potentials on the device", T, float, double) {
  const Icnn net({.dim = 1, .hidden = {6, 6}, .residual = true});
  const Functional learned = 2 * learned_potential({net, generic_parameters<double>(net, 9)});
  check_same_flow<T>("nonlinear_fokker_planck", {}, learned);
  check_same_flow<T>("aggregation", {"inner.minibatch=48", "flow.steps=2"}, learned);
}

// Bytes are those of every build; the address sanitizer sees the kernels in test_resident.
#if !defined(BRENIER_TEST_REDUCED)
namespace {

/// A flow of first order, in all that its bytes depend on.
struct Residence {
  std::string name;
  Index d = 1;
  std::string solver = "auto";
  std::vector<int> hidden{6, 5};
  int iterations = 8;
  bool entropic = true;
  bool judged = true;  // by particles of its law
  bool solved = true;  // false: a step that misses too much looks at its whole cloud for the reason
};

std::vector<Residence> residences() {
  std::vector<Residence> out;
  for (const Index d : {1, 2, 12}) {
    const std::string name = std::to_string(d) + (d == 1 ? " dimension" : " dimensions");
    for (const std::string solver : {"adam", "auto"}) {
      out.push_back({.name = name + ", " + solver, .d = d, .solver = solver, .iterations = d == 1 ? 8 : 4});
      // In a large network an iteration takes the emulator long, and no byte.
      out.push_back({.name = name + ", large, " + solver,
                     .d = d,
                     .solver = solver,
                     .hidden = {100, 20},
                     .iterations = 2});
    }
    out.push_back({.name = name + ", no density", .d = d, .iterations = 4, .entropic = false});
    out.push_back({.name = name + ", not judged", .d = d, .iterations = 4, .judged = false});
    out.push_back({.name = name + ", not solved", .d = d, .iterations = d == 1 ? 24 : 6, .solved = false});
  }
  return out;
}

template <class T>
void check_residence(const Residence& one) {
  CAPTURE_BOUND(one.name);
  const NothingHeld held;
  const Density initial = Density::gaussian(static_cast<int>(one.d), 0.5, 0.3);
  const Functional v = potential("sum(x^2)", static_cast<int>(one.d));
  const Functional functional = one.entropic ? v + entropy() : v;
  FlowOptions options;
  options.network.hidden = one.hidden;
  options.tau = 0.02;
  options.inner.iterations = one.iterations;
  options.inner.accept = one.solved ? 1 : 1e-9;
  // More than a step looks at of any cloud, and more than may cross; of large networks the parameters are what matters.
  const bool small = one.hidden.front() < 100;
  const Index n = !small ? 1100 : one.d == 1 ? 8000 : one.d == 2 ? 5000 : 1400;
  options.inner.solver = one.solver == "auto" ? InnerOptions::Solver::automatic : InnerOptions::Solver::adam;
  options.threads = 1;
  const auto flow_on = [&](const char* device) {
    options.device = device;
    Flow<T> flow(functional, initial.sample(n, Sampling::random, 3), options);
    if (one.judged) flow.set_initial_density(initial);
    flow.track(initial.sample(100, Sampling::random, 4));
    return flow;
  };
  Flow<T> expected = flow_on("cpu"), actual = flow_on("cuda");
  const std::uint64_t bound = 64 * 1024 + 16 * static_cast<std::uint64_t>(actual.network().parameters());
  const std::uint64_t cloud = static_cast<std::uint64_t>(n * (one.d + 1)) * sizeof(double);
  if (small) CHECK(bound < cloud);
  for (int step = 1; step <= (small && one.d == 1 ? 3 : 2); ++step) {
    CAPTURE(step);
    const std::uint64_t before = device::host_traffic();
    const std::optional<StepReport> a = actual.step();
    const std::uint64_t crossed = device::host_traffic() - before;
    const std::optional<StepReport> e = expected.step();
    REQUIRE(a.has_value());
    REQUIRE(e.has_value());
    CHECK(a->solved == one.solved);
    CHECK(e->solved == one.solved);
    MESSAGE(one.name << " step " << step << ": " << crossed << " bytes, bound " << bound);
    if (step == 1) {
      CHECK(crossed > cloud);  // the cloud has to come to the device
    } else {
      CHECK(crossed <= bound);
    }
  }
  // Whoever looks brings it back, once.
  std::uint64_t before = device::host_traffic();
  const double away = worst_error(actual.trajectory().x(), expected.trajectory().x());
  CHECK(device::host_traffic() - before == cloud);
  before = device::host_traffic();
  const double density_away =
      worst_error(actual.trajectory().log_density(), expected.trajectory().log_density());
  CHECK(device::host_traffic() == before);
  // A search in float ends at another place where many evaluations or directions have told its path from the other's, with
  // the same value.
  const bool in_double = std::is_same_v<T, double>;
  if (in_double || one.solver == "adam" || (one.solved && one.d == 1)) {
    const double tolerance = in_double ? 1e-12 : 1e-3;
    CHECK(away < tolerance);
    CHECK(density_away < 10 * tolerance);
    CHECK(worst_error(actual.tracked(0).x(), expected.tracked(0).x()) < tolerance);
  }
  CHECK_REL(actual.functional().total(), expected.functional().total(), in_double ? 1e-12 : 1e-3);
}

}  // namespace

TEST_CASE("between its steps a flow of first order leaves its cloud on the device") {
  for (const Residence& one : residences()) {
    // Of small networks what crosses in double is more; of large ones the parameters count, and the bound is for float.
    if (one.hidden.front() < 100 && (one.d > 1 || !one.solved)) {
      check_residence<double>(one);
    } else {
      check_residence<float>(one);
    }
  }
}
#endif

TEST_CASE("the density of a flow on a device") {
  const Density initial = Density::gaussian(1, 0.5, 0.3);
  for (const int order : {1, 2}) {
    CAPTURE(order);
    const NothingHeld held;
    FlowOptions options;
    options.network.hidden = {5, 4};
    options.tau = 0.05;
    options.order = order;
    options.threads = 1;
    Flow<double> flow(potential("sum(x^2)", 1) + entropy(), initial.sample(60), options);
    for (int step = 0; step < 2; ++step) REQUIRE(flow.step().has_value());
    const auto density_on = [&](const char* device) {
      return FlowDensity(flow.maps(), initial, {.particles = 20, .threads = 1, .device = device});
    };
    FlowDensity expected = density_on("cpu"), actual = density_on("cuda");
    const Matrix<double> y = initial.sample(9, Sampling::random, 8).x;
    // Up to ten maps after each other, each with the rounding of sums over its network.
    const double tolerance = tol<double>(1e4);
    const std::uint64_t before = emulator::device_launches(0);
    CHECK_CLOSE(actual.push(y), expected.push(y), tolerance);
    CHECK_CLOSE(actual.pull(y).x, expected.pull(y).x, 1e-11);
    CHECK_CLOSE(actual.log_density(y).values, expected.log_density(y).values, 1e-11);
    const Cloud sample = actual.sample(7);
    CHECK_CLOSE(sample.x, expected.sample(7).x, tolerance);
    CHECK_CLOSE(sample.log_density, expected.sample(7).log_density, tolerance);
    const Expression square = Expression::potential("sum(x^2)", 1);
    CHECK_REL(actual.expectation(square, 50).value, expected.expectation(square, 50).value, tolerance);
    CHECK(emulator::device_launches(0) > before);
  }
}

TEST_CASE("a device cannot call functions of the host program, and says what can") {
  const Functional v =
      potential(1, [](MatrixView<const double>, double*, MatrixView<double>) {}, {.name = "field"});
  const Cloud cloud{Matrix<double>(4, 1), {}};
  FlowOptions options;
  options.device = "cuda";
  CHECK_ERROR(Flow<float>(v, cloud, options), NotAvailable, "use device = \"cpu\"");
  Flow<float> flow(potential("sum(x^2)", 1), cloud, options);
  CHECK_ERROR(flow.set_functional(v), NotAvailable, "potential field");
}

TEST_CASE("a run that was begun on one device goes on with another one") {
  const TemporaryFolder folder;
  RunOptions options;
  const auto whole_on = [&](const char* device) {
    options.out = folder.path / ("whole-" + std::string(device));
    REQUIRE(run(four_steps(device), options).status == RunStatus::done);
    return Outcome(options.out);
  };
  const Outcome cpu = whole_on("cpu"), cuda = whole_on("cuda");
  CHECK(
      summary_of(folder.path / "whole-cuda")["device"].get<std::string>().starts_with("cuda:0 (emulated, "));
  CHECK(summary_of(folder.path / "whole-cuda")["backend"] == "cuda");
  CHECK(summary_of(folder.path / "whole-cpu")["device"].get<std::string>().starts_with("cpu:"));

  for (const auto& [first, second] : {std::pair("cpu", "cuda"), std::pair("cuda", "cpu")}) {
    CAPTURE_BOUND(first);
    options.out = folder.path / (std::string(first) + "-" + second);
    options.on_step = [](int step) {
      if (step == 2) std::raise(SIGINT);
    };
    REQUIRE(run(four_steps(first), options).status == RunStatus::interrupted);
    options.on_step = nullptr;
    REQUIRE(resume(four_steps(second), options).status == RunStatus::done);
    CHECK(summary_of(options.out)["device"].get<std::string>().starts_with(second));
    const Outcome changed(options.out);
    const Outcome& unchanged = first == std::string("cpu") ? cpu : cuda;
    CHECK_CLOSE(changed.cloud, unchanged.cloud, distance_allowed<double>(kFourSteps));
    CHECK_CLOSE(changed.functional, unchanged.functional, distance_allowed<double>(kFourSteps));
    for (int step = 0; step <= 2; ++step) CHECK(changed.functional[step] == unchanged.functional[step]);
  }
}

TEST_CASE("a run that outgrows the device's memory keeps its steps and goes on elsewhere") {
  const TemporaryFolder folder;
  RunOptions options;
  options.out = folder.path / "whole";
  REQUIRE(run(four_steps("cuda"), options).status == RunStatus::done);
  const Outcome whole(options.out);

  std::optional<emulator::ScopedOptions> scarce;
  const auto fill_device_at = [&](int when) {
    options.on_step = [&scarce, when](int step) {
      if (step != when) return;
      emulator::Options now = emulator::options();
      now.memory = 60'000;  // enough for maps and F
      scarce.emplace(now);
    };
  };
  // Checkpoints are far apart: the one of the failure is written by the failure.
  const Overrides rare = {"output.checkpoint_every=3"};
  for (const char* second : {"cpu", "cuda"}) {
    CAPTURE_BOUND(second);
    options.out = folder.path / (std::string("part-") + second);
    fill_device_at(2);
    const RunResult result = run(four_steps("cuda", rare), options);
    scarce.reset();
    options.on_step = nullptr;
    CHECK(emulator::memory_in_use() == 0);
    CHECK(result.status == RunStatus::failed);
    CHECK(result.steps == 2);
    check_contains(result.reason,
                   {"step 3", "64 particles", "58.6 KiB", "no minibatch would fit", "\"cpu\""});
    const nlohmann::json summary = summary_of(options.out);
    CHECK(summary["status"] == "failed");
    CHECK(summary["reason"] == result.reason);
    CHECK(summary["steps"] == 2);
    CHECK(read_maps(options.out).size() == 2);
    CHECK(history_of(options.out).size() == 3);

    REQUIRE(resume(four_steps(second, rare), options).status == RunStatus::done);
    const Outcome resumed(options.out);
    CHECK_CLOSE(resumed.cloud, whole.cloud, distance_allowed<double>(kFourSteps));
    CHECK_CLOSE(resumed.functional, whole.functional, distance_allowed<double>(kFourSteps));
    if (second == std::string("cuda"))
      CHECK(resumed.cloud.elements() == whole.cloud.elements());  // to the bit
  }
}

TEST_CASE("the command says which device computes, and how to leave one that failed") {
  const TemporaryFolder folder;
  const std::string config = (folder.path / "tiny.toml").string(), out = (folder.path / "run").string();
  put(config, kTiny);
  const auto command = [](std::vector<std::string> words, std::string& said) {
    words.insert(words.begin(), "brenier");
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());
    std::ostringstream output, errors;
    const int code = run_command_line(static_cast<int>(argv.size()), argv.data(), output, errors);
    said = output.str() + errors.str();
    return code;
  };
  std::string said;
  CHECK(command({"run", config, "--device", "cuda:7", "--out", out}, said) == ExitCode::bad_input);
  check_contains(said, {"cuda:7", "1 CUDA device", "cuda:0"});
  CHECK_FALSE(fs::exists(out));
  {
    emulator::Options scarce = emulator::options();
    scarce.memory = 3000;
    const emulator::ScopedOptions scope(scarce);
    CHECK(command({"run", config, "--device", "cuda", "--out", out}, said) == ExitCode::failed);
  }
  CHECK(said.starts_with("device cuda:0 (emulated, 2.93 KiB), double, "));
  check_contains(said, {"failed: flow: step 1", "37 particles", "brenier resume", "--device cpu"});
  CHECK(command({"resume", out, "--device", "cpu"}, said) == ExitCode::ok);
  CHECK(said.starts_with("device cpu:"));
  CHECK(summary_of(out)["status"] == "done");
  CHECK(command({"info"}, said) == ExitCode::ok);
  check_contains(said, {"cuda       cuda:0 emulated"});
}
