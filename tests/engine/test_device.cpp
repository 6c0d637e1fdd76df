// SPDX-License-Identifier: MIT
// Which device computes: every name, in builds without the cuda backend, with it where there is no device,
// and (built for the emulated device) with one and with several devices; what happens where the memory of one
// is full.
#include <brenier/brenier.h>
#include <doctest/doctest.h>

#include <brenier/brenier.hpp>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "engine/src/device/device_arrays.hpp"
#include "engine/src/device/device_memory.hpp"
#include "kernels/cuda_devices.hpp"
#include "kernels/device/device.hpp"
#include "kernels/operations.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/near.hpp"
#include "tests/support/step_case.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

/// A step of this takes milliseconds, on the emulated device too.
template <class T>
Flow<T> small_flow(const std::string& device, Index minibatch = 0, Index particles = 200,
                   InnerOptions::Solver solver = InnerOptions::Solver::automatic) {
  FlowOptions options;
  options.tau = 1e-2;
  options.seed = 5;
  options.device = device;
  options.threads = 1;
  options.network.hidden = {9, 5};
  options.inner.iterations = 3;
  options.inner.minibatch = minibatch;
  options.inner.solver = solver;
  return Flow<T>(porous_medium(2), Density::gaussian(2, 0.0, 1.0).sample(particles, Sampling::random, 3),
                 options);
}

template <class Type, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Type& error) {
    return error.what();
  }
  return "(nothing was thrown)";
}

void check_contains(const std::string& message, const std::vector<std::string>& pieces) {
  CAPTURE(message);
  for (const std::string& piece : pieces) {
    CAPTURE(piece);
    CHECK(message.find(piece) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("arrays on a device whose end no address reaches") {
  double place = 0;
  const auto check = [&](Index rows, Index cols, Index down, Index across) {
    DeviceCloud cloud;
    cloud.x = {&place, rows, cols, down, across};
    check_device_arrays(cloud, rows, cols);
  };
  CHECK_NOTHROW(check(5, 2, -2, 1));
  CHECK_NOTHROW(check(1, 2, 0, 0));
  constexpr Index huge = Index{1} << 61;
  CHECK_ERROR(check(huge + 1, 2, 8, 1), ValueError, "what can be addressed");
  CHECK_ERROR(check(9, 2, huge, 1), ValueError, "what can be addressed");
  CHECK_ERROR(check(9, 2, -huge, 1), ValueError, "what can be addressed");
  CHECK_ERROR(check(1 << 30, 2, Index{1} << 32, 1), ValueError, "what can be addressed");
  CHECK_ERROR(check(2, 9, 1, std::numeric_limits<Index>::min()), ValueError, "what can be addressed");
}

TEST_CASE_TEMPLATE("auto is the CPU, variants and the reference have names of their own", T, float, double) {
  const std::string best = cpu::variants().front();
  CHECK(&backend<T>("auto") == &cpu::operations<T>());
  CHECK(&backend<T>("cpu") == &cpu::operations<T>());
  CHECK(&backend<T>("cpu:" + best) == &cpu::operations<T>());
  CHECK(&backend<T>("ref") == &ref::operations<T>());
  CHECK(resolved_device("auto") == "cpu:" + best);
  CHECK(resolved_device("ref") == "ref");
  for (const char* variant : cpu::variants()) {
    const std::string name = "cpu:" + std::string(variant);
    CHECK(resolved_device(name) == name);
    CHECK(describe_device(name) == name);
  }
  CHECK(small_flow<T>("auto").step().has_value());
}

TEST_CASE("names that are no device") {
  for (const char* name : {"gpu", "", "CUDA", "cuda ", "cuda0"}) {
    CAPTURE(name);
    check_contains(message_of<ValueError>([&] { backend<float>(name); }), {name, "auto, cpu", "cuda:K"});
    CHECK_THROWS_AS(small_flow<float>(name), ValueError);
  }
  for (const char* name : {"cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda: 1", "cuda:99999999999"}) {
    CAPTURE(name);
    check_contains(message_of<ValueError>([&] { backend<double>(name); }), {name, "from 0"});
    CHECK_THROWS_AS(resolved_device(name), ValueError);
    CHECK_THROWS_AS(DeviceScope{name}, ValueError);
  }
}

TEST_CASE("CUDA devices: those that there are, and why there are no others") {
  const BuildInfo info = build_info();
  CHECK(info.cuda == cuda::compiled());
  CHECK(static_cast<int>(info.cuda_devices.size()) == cuda::devices());
  CHECK(info.cuda_trouble.empty() == (cuda::devices() > 0));
  if (!cuda::compiled()) {
    for (const char* name : {"cuda", "cuda:0", "cuda:3"}) {
      CAPTURE(name);
      const std::string message = message_of<NotAvailable>([&] { backend<float>(name); });
      check_contains(message, {"no CUDA backend", "-DBRENIER_CUDA=ON", "\"cpu\""});
      CHECK(message_of<NotAvailable>([&] { small_flow<double>(name); }) == message);
      CHECK_THROWS_AS(describe_device(name), NotAvailable);
    }
    CHECK_THROWS_AS(DeviceScope{"cuda:0"}, NotAvailable);
    CHECK_THROWS_AS(cuda::device_info(0), NotAvailable);
    CHECK_THROWS_AS(cuda::memory_free(), NotAvailable);
    CHECK(cuda::current_device() == 0);
    return;
  }
  if (cuda::devices() == 0) {
    for (const char* name : {"cuda", "cuda:0", "cuda:3"}) {
      const std::string message = message_of<NotAvailable>([&] { backend<float>(name); });
      check_contains(message, {name, info.cuda_trouble.c_str(), "\"cpu\"", "\"auto\""});
    }
    CHECK_THROWS_AS(DeviceScope{"cuda:0"}, NotAvailable);
    return;
  }
  const std::string beyond = "cuda:" + std::to_string(cuda::devices() + 6);
  const std::string count = "this machine has " + std::to_string(cuda::devices()) + " CUDA device";
  check_contains(message_of<NotAvailable>([&] { backend<float>(beyond); }),
                 {beyond.c_str(), count.c_str(), "cuda:0"});
  CHECK_THROWS_AS(DeviceScope{beyond}, NotAvailable);
  CHECK(&backend<float>("cuda:0") == &cuda::operations<float>());
  CHECK(resolved_device("cuda:0") == "cuda:0");
  check_contains(describe_device("cuda:0"), {"cuda:0 (", info.cuda_devices[0].c_str()});
  CHECK(small_flow<float>("cuda:0").step().has_value());
}

TEST_CASE("sizes of memory in words") {
  CHECK(bytes_text(0) == "0 bytes");
  CHECK(bytes_text(1023) == "1023 bytes");
  CHECK(bytes_text(1024) == "1.00 KiB");
  CHECK(bytes_text(12'900'000) == "12.3 MiB");
  CHECK(bytes_text(std::size_t{80} << 30) == "80.0 GiB");
  CHECK(bytes_text(std::size_t{1000} << 30) == "1000 GiB");
}

#if defined(BRENIER_TEST_EMULATED)

namespace emulator = brenier::device::emulator;

namespace {

emulator::Options with_devices(int count) {
  emulator::Options options = emulator::options();
  options.devices = count;
  return options;
}
emulator::Options with_memory(std::size_t bytes) {
  emulator::Options options = emulator::options();
  options.memory = bytes;
  return options;
}

emulator::Options with_shared_memory(std::size_t bytes) {
  emulator::Options options = emulator::options();
  options.shared_memory = bytes;
  return options;
}

/// K of "inner.minibatch = K" in a message; 0 where there is none.
Index advised(const std::string& message) {
  const std::string key = "inner.minibatch = ";
  const std::size_t at = message.find(key);
  return at == std::string::npos ? 0 : std::stol(message.substr(at + key.size()));
}

/// The first iterations of an inner loop.
InnerReport run(const SmallStep<float>& step, int iterations) {
  InnerState<float> state = step.state();
  Team team(1);
  return cuda::operations<float>().inner_loop(step.problem, state, iterations, team);
}

}  // namespace

TEST_CASE("no device, one device, several") {
  {
    const emulator::ScopedOptions none(with_devices(0));
    const std::string message = message_of<NotAvailable>([] { backend<float>("cuda"); });
    check_contains(message, {"\"cuda\"", cuda::trouble().c_str(), "\"cpu\"", "\"auto\""});
    CHECK_FALSE(cuda::trouble().empty());
    CHECK(small_flow<float>("auto").step().has_value());
  }
  check_contains(message_of<NotAvailable>([] { backend<float>("cuda:7"); }), {"1 CUDA device, \"cuda:0\""});
  const emulator::ScopedOptions two(with_devices(2));
  check_contains(message_of<NotAvailable>([] { backend<float>("cuda:7"); }),
                 {"2 CUDA devices, \"cuda:0\" to \"cuda:1\""});
  CHECK(describe_device("cuda:1") == "cuda:1 (emulated, 2.00 GiB)");
  CHECK(build_info().cuda_devices == std::vector<std::string>{"emulated", "emulated"});
}

TEST_CASE("a flow computes on its device and leaves the program's own choice alone") {
  const emulator::ScopedOptions three(with_devices(3));
  const auto launches = [] {
    return std::vector{emulator::device_launches(0), emulator::device_launches(1),
                       emulator::device_launches(2)};
  };
  const auto step_on = [&](Flow<float>& flow) {
    const auto before = launches();
    flow.step();
    const auto after = launches();
    return std::vector<bool>{after[0] > before[0], after[1] > before[1], after[2] > before[2]};
  };
  using Used = std::vector<bool>;
  Flow<float> one = small_flow<float>("cuda:1"), current = small_flow<float>("cuda"),
              host = small_flow<float>("cpu");
  CHECK(step_on(one) == Used{false, true, false});
  CHECK(device::current_device() == 0);
  CHECK(step_on(current) == Used{true, false, false});

  device::use_device(2);
  CHECK(step_on(one) == Used{false, true, false});
  CHECK(device::current_device() == 2);
  CHECK(step_on(current) == Used{false, false, true});
  CHECK(resolved_device("cuda") == "cuda:2");
  CHECK(step_on(host) == Used{false, false, false});
  {
    // Also where the step fails.
    const emulator::ScopedOptions scarce([&] {
      emulator::Options options = with_memory(5000);
      options.devices = 3;
      return options;
    }());
    CHECK_THROWS_AS(one.step(), OutOfDeviceMemory);
    CHECK(device::current_device() == 2);
  }
  // What is current belongs to a thread: another one begins at 0, and a flow may move there.
  std::thread([&] {
    CHECK(device::current_device() == 0);
    CHECK(step_on(one) == Used{false, true, false});
    CHECK(device::current_device() == 0);
  }).join();
  CHECK(device::current_device() == 2);
  {
    const DeviceScope scope("cuda:1");
    CHECK(device::current_device() == 1);
    const DeviceScope nothing("cpu");
    CHECK(device::current_device() == 1);
  }
  CHECK(device::current_device() == 2);
  device::use_device(0);
}

namespace {

/// A host program's particles, in rows on the current device.
template <class T>
class ParticlesThere {
 public:
  explicit ParticlesThere(const Cloud& cloud)
      : rows_(cloud.x.rows()),
        cols_(cloud.x.cols()),
        x_(rows_ * cols_),
        log_density_(static_cast<Index>(cloud.log_density.size())) {
    x_.copy_to_device(cast<T>(cloud.x).elements(), stream_);
    log_density_.copy_to_device(cloud.log_density, stream_);
  }
  T* x() { return reinterpret_cast<T*>(x_.pointer().address()); }
  double* log_density() { return reinterpret_cast<double*>(log_density_.pointer().address()); }
  DeviceCloud cloud() {
    return {{static_cast<const T*>(x()), rows_, cols_},
            {static_cast<const double*>(log_density()), rows_, 1},
            stream()};
  }
  DeviceResults results() { return {{x(), rows_, cols_}, {log_density(), rows_, 1}, stream()}; }
  Matrix<double> read() {
    Matrix<T> out(rows_, cols_);
    x_.copy_to_host(out.elements(), stream_);
    return cast<double>(out);
  }
  std::vector<double> read_log_density() {
    std::vector<double> out(static_cast<std::size_t>(rows_));
    log_density_.copy_to_host(out, stream_);
    return out;
  }

  void* stream() const { return stream_.native(); }

 private:
  device::Stream stream_;
  Index rows_, cols_;
  device::DeviceBuffer<T> x_;
  device::DeviceBuffer<double> log_density_;
};

FlowOptions short_steps(int order) {
  FlowOptions options{.tau = 1e-2, .order = order, .device = "cuda", .threads = 1, .certificates = false};
  options.network.hidden = {9, 5};
  options.inner.iterations = 3;
  return options;
}

}  // namespace

TEST_CASE_TEMPLATE("a cloud from the memory of the device, and back there", T, float, double) {
  const Index n = kReduced ? 30 : 70;
  const auto sample = [&](std::uint64_t seed) {
    Cloud cloud = Density::gaussian(2, 0.0, 1.0).sample(n, Sampling::random, seed);
    cloud.x = cast<double>(cast<T>(cloud.x));
    return cloud;
  };
  const Cloud first = sample(3), second = sample(4);
  ParticlesThere<T> start(first), other(second), found(second);
  for (const int order : {1, 2}) {
    CAPTURE(order);
    const FlowOptions options = short_steps(order);
    Flow<float> expected(porous_medium(2), first, options), actual(porous_medium(2), start.cloud(), options);
    const auto check_alike = [&] {
      REQUIRE(expected.step().has_value());
      REQUIRE(actual.step().has_value());
      actual.get_cloud(found.results());
      CHECK(found.read().elements() == cast<double>(cast<T>(expected.trajectory().x())).elements());
      CHECK(found.read_log_density() == expected.trajectory().log_density());
    };
    check_alike();
    expected.set_cloud(second);
    const std::uint64_t before = device::host_traffic();
    actual.set_cloud(other.cloud());
    actual.get_cloud(found.results());
    if (order == 1) CHECK(device::host_traffic() - before < 64);
    CHECK(found.read().elements() == second.x.elements());
    CHECK_FALSE(actual.has_initial_cloud());
    CHECK(actual.maps().empty());
    check_alike();
    CHECK(actual.functional().total() == expected.functional().total());
    actual.get_cloud({{found.x(), n, 2}, {}, found.stream()});  // some of it
    Cloud shifted = second;
    for (double& value : shifted.x.elements()) value += 100;
    expected.set_cloud(shifted);
    actual.set_cloud(shifted);  // by way of the host after all
    check_alike();
  }
}

TEST_CASE("clouds on the device that a flow refuses, which is then as it was") {
  const Cloud cloud = Density::gaussian(2, 0.0, 1.0).sample(50, Sampling::random, 3);
  ParticlesThere<double> there(cloud);
  Flow<float> flow(porous_medium(2), cloud, short_steps(1));
  REQUIRE(flow.step().has_value());
  const Matrix<double> x = flow.trajectory().x();
  const auto with = [&](auto&& change) {
    DeviceCloud changed = there.cloud();
    change(changed);
    flow.set_cloud(changed);
  };
  CHECK_ERROR(with([&](DeviceCloud& c) { c.x.data = cloud.x.data(); }), ValueError,
              "no memory of a CUDA device");
  CHECK_ERROR(with([](DeviceCloud& c) { c.x = {}; }), ShapeError, "dimension 0");
  CHECK_ERROR(with([](DeviceCloud& c) { c.x.rows = 0; }), ValueError, "no particles");
  CHECK_ERROR(with([](DeviceCloud& c) { c.x.cols = 3; }), ShapeError, "dimension 3");
  CHECK_ERROR(with([](DeviceCloud& c) { c.log_density.rows = 49; }), ShapeError,
              "(49, 1); they must be (50, 1)");
  CHECK_ERROR(with([](DeviceCloud& c) { c.log_density = {}; }), ValueError, "log-density");
  DeviceResults to = there.results();
  to.x.rows = 40;
  CHECK_ERROR(flow.get_cloud(to), ShapeError, "(40, 2); they must be (50, 2)");
  to.x.rows = 50;
  to.x.row_stride = 0;
  CHECK_ERROR(flow.get_cloud(to), ValueError, "strides of results must not be 0");
  CHECK(flow.trajectory().x().elements() == x.elements());
  CHECK(flow.maps().size() == 1);

  Flow<float> bare(potential("sum(x^2)", 2), {cloud.x, {}}, short_steps(1));
  CHECK_ERROR(bare.get_cloud(there.results()), ValueError, "not known");
  FlowOptions on_cpu = short_steps(1);
  on_cpu.device = "cpu";
  Flow<float> elsewhere(porous_medium(2), cloud, on_cpu);
  CHECK_ERROR(elsewhere.set_cloud(there.cloud()), ValueError, "\"cpu\"; use device = \"cuda\"");
  CHECK_ERROR(elsewhere.get_cloud(there.results()), ValueError, "\"cpu\"; use device = \"cuda\"");
  CHECK_ERROR(Flow<float>(porous_medium(2), there.cloud(), on_cpu), ValueError, "\"cpu\"");
  const emulator::ScopedOptions two(with_devices(2));
  FlowOptions second = short_steps(1);
  second.device = "cuda:1";
  Flow<float> next(porous_medium(2), cloud, second);
  CHECK_ERROR(next.set_cloud(there.cloud()), ValueError, "the memory of CUDA device 0");
}

TEST_CASE("addresses on the device through C") {
  const Cloud cloud = Density::gaussian(2, 0.0, 1.0).sample(50, Sampling::random, 3);
  ParticlesThere<float> there(cloud), found(cloud);
  brenier_settings* settings = nullptr;
  brenier_flow* flow = nullptr;
  const char* text =
      "device = \"cuda\"\nthreads = 1\n[[functional]]\nterm = \"entropy\"\n[flow]\ntau = 0.01\n"
      "[network]\nhidden = [9, 5]\n[inner]\niterations = 3\n";
  REQUIRE(brenier_settings_create(&settings, text, nullptr) == BRENIER_OK);
  REQUIRE(brenier_flow_create(&flow, settings, 50, 2, BRENIER_DOUBLE, cloud.x.data(), 2, 1,
                              cloud.log_density.data()) == BRENIER_OK);
  CHECK(brenier_flow_set_device_cloud(flow, 50, BRENIER_FLOAT, there.x(), 2, 1, there.log_density(),
                                      there.stream()) == BRENIER_OK);
  CHECK(brenier_flow_particles(flow) == 50);
  CHECK(brenier_flow_step(flow) == BRENIER_OK);
  std::vector<double> x(100), log_density(50);
  CHECK(brenier_flow_get_cloud(flow, BRENIER_DOUBLE, x.data(), 2, 1, log_density.data()) == BRENIER_OK);
  CHECK(brenier_flow_get_device_cloud(flow, BRENIER_FLOAT, found.x(), 2, 1, found.log_density(),
                                      found.stream()) == BRENIER_OK);
  CHECK(found.read_log_density() == log_density);
  for (double& value : x) value = static_cast<float>(value);
  CHECK(found.read().elements() == x);
  const auto refused = [](int status, const char* expected) {
    CHECK(status == BRENIER_VALUE_ERROR);
    check_contains(brenier_last_error(), {expected});
  };
  refused(brenier_flow_set_device_cloud(flow, 50, BRENIER_DOUBLE, x.data(), 2, 1, nullptr, nullptr),
          "no memory");
  refused(brenier_flow_set_device_cloud(flow, 50, 5, there.x(), 2, 1, nullptr, nullptr), "type = 5");
  refused(brenier_flow_set_device_cloud(flow, 50, BRENIER_FLOAT, nullptr, 2, 1, nullptr, nullptr), "NULL");
  refused(brenier_flow_get_device_cloud(flow, BRENIER_DOUBLE, nullptr, 2, 1, log_density.data(), nullptr),
          "no memory");
  brenier_maps* maps = nullptr;
  CHECK(brenier_maps_of_flow(&maps, flow) == BRENIER_OK);
  CHECK(brenier_maps_push(maps, 50, BRENIER_DOUBLE, cloud.x.data(), 2, 1, x.data(), 2, 1) == BRENIER_OK);
  brenier_maps_destroy(maps);
  brenier_flow_destroy(flow);
  brenier_settings_destroy(settings);
}

TEST_CASE_TEMPLATE("what fits the shared memory of one device and not of another goes layer by layer there",
                   T, float, double) {
  // Tiles of 8 particles take between 163 KiB (compute capability 8.0) and 227 KiB (9.0).
  const int width = std::is_same_v<T, float> ? 120 : 72;
  const SmallStep<T> step(40, {width, width});
  const std::vector<T> theta = step.theta;
  Team team(1);
  const auto gradient = [&](const Operations<T>& ops) {
    std::vector<double> out(theta.size());
    ops.objective_gradient(step.problem, theta.data(), 0, out.data(), team);
    return out;
  };
  const std::vector<double> expected = gradient(ref::operations<T>());
  const auto launches = [&](std::size_t shared) {
    const emulator::ScopedOptions options(with_shared_memory(shared));
    const std::uint64_t before = emulator::device_launches(0);
    CHECK_CLOSE(gradient(cuda::operations<T>()), expected, tol<T>(300));
    return emulator::device_launches(0) - before;
  };
  CHECK(launches(227 * 1024) == 4);  // images, learned potential, step, update
  CHECK(launches(163 * 1024) > 11);
}

TEST_CASE("the memory that an inner loop needs is known before it has it") {
  for (const Index n : {40, kReduced ? 500 : 1000, kReduced ? 1000 : 3000}) {
    CAPTURE(n);
    const SmallStep<float> step(n);
    const std::uint64_t waits = device::host_synchronisations();
    const std::size_t needed = cuda::inner_loop_memory(step.problem);
    CHECK(device::host_synchronisations() == waits);  // nothing was allocated or copied
    CHECK(emulator::memory_in_use() == 0);
    {
      const emulator::ScopedOptions exact(with_memory(needed));
      CHECK(run(step, 2).iterations == 2);
    }
    // Each of a few tens of buffers counts as a multiple of 256 bytes; the emulator charges what was asked
    // for.
    const emulator::ScopedOptions less(with_memory(needed - 40 * 256));
    CHECK_THROWS_AS(run(step, 2), OutOfDeviceMemory);
  }
}

TEST_CASE("the memory that a search needs is known before it has it") {
  const SmallStep<float> step(kReduced ? 500 : 1000);
  const std::vector<float> lower(step.theta.size(), -std::numeric_limits<float>::infinity());
  const std::vector<double> metric(step.theta.size(), 1.0);
  const auto searched = [&] {
    std::vector<float> theta = step.theta;
    SinkhornReport transports;
    Team team(1);
    return cuda::operations<float>()
        .search(step.problem, {lower, metric}, {.evaluations = 2}, theta, transports, team)
        .evaluations;
  };
  const std::size_t needed = cuda::search_memory(step.problem);
  CHECK(needed > cuda::inner_loop_memory(step.problem));
  CHECK(emulator::memory_in_use() == 0);
  {
    const emulator::ScopedOptions exact(with_memory(needed));
    CHECK(searched() == 2);
  }
  const emulator::ScopedOptions less(with_memory(needed - 60 * 256));
  CHECK_THROWS_AS(searched(), OutOfDeviceMemory);
  CHECK(emulator::memory_in_use() == 0);
}

TEST_CASE("an inner loop has images and forces of particles only where a term asks for them") {
  constexpr Index n = 20000, d = 32;
  const auto needed = [](StepTerms terms, LogDetOptions log_det = {}) {
    StepCase<float> step({.dim = d, .hidden = {4}}, n, std::move(terms));
    step.problem.log_det = log_det;
    return cuda::inner_loop_memory(step.problem);
  };
  constexpr std::size_t cloud = n * d * sizeof(float), little = cloud / 2;
  const std::size_t alone = needed({.internal = {}});
  CHECK(alone > cloud);
  CHECK(alone < cloud + little);
  const std::size_t interacting = needed({.internal = {}, .interaction = {quadratic_log(0.5, -0.2, 0.0)}});
  CHECK(interacting > 2 * cloud);
  CHECK(interacting < 2 * cloud + little);
  // A report for each block, not for each particle.
  const LogDetOptions solves{.method = LogDetOptions::Method::cg, .probes = 1, .iterations = 2};
  CHECK(needed({.internal = {{.weight = 0.7}}}, solves) < cloud + little);
}

TEST_CASE("wherever an allocation fails, what was allocated before is released") {
  const SmallStep<float> step(300);
  const device::DeviceBuffer<float> of_the_program(100);
  const std::size_t before = emulator::memory_in_use();
  REQUIRE(before == 400);
  const std::size_t needed = cuda::inner_loop_memory(step.problem);
  const std::size_t tries = kReduced ? 40 : 200;
  std::size_t failures = 0;
  for (std::size_t memory = before; memory < before + needed; memory += needed / tries) {
    const emulator::ScopedOptions scarce(with_memory(memory));
    try {
      run(step, 1);
    } catch (const OutOfDeviceMemory& error) {
      ++failures;
      CHECK(error.total == memory);
      CHECK(error.free < error.requested);
      CHECK(error.free <= memory - before);
      CHECK_FALSE(error.purpose.empty());
    }
    CHECK(emulator::memory_in_use() == before);
  }
  CHECK(failures >= tries * 3 / 4);
  CHECK(run(step, 1).iterations == 1);
}

/// A step that does not fit is undone; the minibatch that is advised fits.
template <class T>
void check_advice(InnerOptions::Solver solver) {
  constexpr Index particles = kReduced ? 300 : 1000;
  Flow<T> flow = small_flow<T>("cuda", 0, particles, solver),
          undisturbed = small_flow<T>("cuda", 0, particles, solver);
  REQUIRE(flow.step().has_value());
  REQUIRE(undisturbed.step().has_value());
  const auto checkpoint = flow.checkpoint();
  const Matrix<double> x = flow.trajectory().x();

  // Two thirds of what the step takes, found from below, beside the clouds of these two.
  const std::size_t held = emulator::memory_in_use();
  std::size_t enough = 4096;
  for (bool fits = false; !fits; enough += fits ? 0 : enough / 8) {
    const emulator::ScopedOptions scarce(with_memory(held + enough));
    Flow<T> probe = small_flow<T>("cuda", 0, particles, solver);
    try {
      fits = probe.step().has_value();
    } catch (const OutOfDeviceMemory&) {
    }
  }
  std::string message;
  const std::size_t memory = held + enough * 2 / 3;
  {
    const emulator::ScopedOptions scarce(with_memory(memory));
    try {
      flow.step();
    } catch (const OutOfDeviceMemory& error) {
      message = error.what();
      CHECK(error.total == memory);
      CHECK(error.requested > error.free);
    }
    CHECK(emulator::memory_in_use() == held);
    check_contains(message, {"step 2", std::to_string(particles) + " particles in dimension 2", "needs",
                             "are free", "fewer particles", "inner.minibatch = ", "\"cpu\""});
    CHECK(flow.steps() == 1);
    CHECK(flow.maps().size() == 1);
    CHECK(flow.checkpoint().theta == checkpoint.theta);
    CHECK(flow.trajectory().x().elements() == x.elements());

    const Index minibatch = advised(message);
    CHECK(minibatch >= 32);
    CHECK(minibatch < particles);
    {
      // Beside the cloud of `flow`, in whose place it would be.
      const std::size_t cloud = static_cast<std::size_t>(particles) * 3 * sizeof(double);
      const emulator::ScopedOptions beside(with_memory(memory + cloud));
      Flow<T> smaller = small_flow<T>("cuda", minibatch, particles, solver);
      CHECK(smaller.step().has_value());
    }

    // On the way out: the same step, on the CPU.
    Flow<T> elsewhere = small_flow<T>("cpu", 0, particles, solver);
    elsewhere.restore(flow.trajectory(), flow.maps(), flow.checkpoint());
    CHECK(elsewhere.step()->step == 2);
  }
  // With memory again: the same bits as if nothing had happened.
  REQUIRE(flow.step().has_value());
  REQUIRE(undisturbed.step().has_value());
  CHECK(flow.trajectory().x().elements() == undisturbed.trajectory().x().elements());
  CHECK(flow.checkpoint().theta == undisturbed.checkpoint().theta);
}

TEST_CASE_TEMPLATE("a step that does not fit is undone; the minibatch that is advised fits", T, float,
                   double) {
  check_advice<T>(InnerOptions::Solver::automatic);
  // A search keeps its vectors for any number of particles: with few of them it is they that do not fit.
  if (!kReduced) check_advice<T>(InnerOptions::Solver::lbfgs);
}

#endif
