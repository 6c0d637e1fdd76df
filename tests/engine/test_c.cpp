// SPDX-License-Identifier: MIT
// The C interface, from C++: the same numbers as the C++ interface gives, and statuses for all that can go wrong.
#include <brenier/brenier.h>
#include <doctest/doctest.h>
#include <fenv.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <brenier/brenier.hpp>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/near.hpp"
#include "tests/support/temporary_folder.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

constexpr const char* kSettings = R"(
threads = 1
precision = "double"
[[functional]]
term = "black_box"
name = "well"
weight = 2
[[functional]]
term = "entropy"
[flow]
tau = 0.05
[network]
hidden = [10, 5]
[inner]
iterations = 25
)";
constexpr const char* kLaw = R"(
[cloud]
density = "gaussian"
dim = 2
mean = 0.4
variance = 0.3
)";

/// Without a function of the host, with two threads.
constexpr const char* kPlain = R"toml(
threads = 2
[cloud]
density = "gaussian"
dim = 2
mean = 0.4
variance = 0.3
particles = 300
[[functional]]
term = "potential"
expression = "0.5*sum(x^2)"
[[functional]]
term = "entropy"
[flow]
tau = 0.05
order = 2
[network]
hidden = [8]
quadratic_rank = 2
[inner]
iterations = 25
)toml";

struct Host {
  int calls = 0;
  int code = 0;  // what it returns from call number `at` on
  int at = 1000000;
  bool throws = false;
};

int well(ptrdiff_t n, int d, const double* x, double* v, double* gradient, void* context) {
  auto* host = static_cast<Host*>(context);
  if (++host->calls >= host->at) {
    if (host->throws) throw 7;
    return host->code;
  }
  for (ptrdiff_t i = 0; i < n; ++i) {
    if (v) v[i] = 0;
    for (int c = 0; c < d; ++c) {
      const double y = x[i * d + c];
      if (v) v[i] += y * y / 2;
      if (gradient) gradient[i * d + c] = y;
    }
  }
  return 0;
}

struct Settings {
  brenier_settings* handle = nullptr;
  explicit Settings(const std::string& text, Host* host = nullptr) {
    REQUIRE(brenier_settings_create(&handle, text.c_str(), nullptr) == BRENIER_OK);
    if (host) REQUIRE(brenier_settings_potential(handle, "well", well, host, 0) == BRENIER_OK);
  }
  ~Settings() { brenier_settings_destroy(handle); }
};

Cloud start() {
  return Density::gaussian(2, 0.4, 0.3).sample(80, Sampling::stratified, 1);
}

struct Handle {
  brenier_flow* flow = nullptr;
  Handle(const Settings& settings, const Cloud& cloud) {
    const int status = brenier_flow_create(&flow, settings.handle, cloud.x.rows(), 2, BRENIER_DOUBLE,
                                           cloud.x.data(), 2, 1, cloud.log_density.data());
    INFO(brenier_last_error());
    REQUIRE(status == BRENIER_OK);
  }
  ~Handle() { brenier_flow_destroy(flow); }
};

std::vector<double> cloud_of(const brenier_flow* flow) {
  std::vector<double> x(static_cast<std::size_t>(2 * brenier_flow_particles(flow)));
  REQUIRE(brenier_flow_get_cloud(flow, BRENIER_DOUBLE, x.data(), 2, 1, nullptr) == BRENIER_OK);
  return x;
}

double value_of(const brenier_flow* flow, const char* name) {
  double value = 0;
  const int status = brenier_flow_value(flow, name, &value);
  INFO(brenier_last_error());
  REQUIRE(status == BRENIER_OK);
  return value;
}

#define CHECK_STATUS(call, status, text)                  \
  do {                                                    \
    CHECK((call) == (status));                            \
    const std::string check_error = brenier_last_error(); \
    INFO(check_error);                                    \
    CHECK(check_error.find(text) != std::string::npos);   \
  } while (false)

}  // namespace

TEST_CASE("a flow ends where its settings say, and takes no size but that of its [cloud]") {
  const Settings plain(kPlain);
  brenier_flow* flow = nullptr;
  for (const auto& [n, d] : {std::pair{5, 2}, std::pair{300, 3}, std::pair{-1, 0}})
    CHECK_STATUS(brenier_flow_create(&flow, plain.handle, n, d, BRENIER_DOUBLE, nullptr, 0, 0, nullptr),
                 BRENIER_SHAPE_ERROR, "n = 300, d = 2");
  const double density[300] = {};
  CHECK_STATUS(brenier_flow_create(&flow, plain.handle, 300, 2, BRENIER_DOUBLE, nullptr, 0, 0, density),
               BRENIER_VALUE_ERROR, "log_density");
  for (const auto& [end, steps] : {std::pair{"flow.end_time=0.1", 2}, std::pair{"flow.steps=3", 3}}) {
    Settings settings(kPlain);
    REQUIRE(brenier_settings_set(settings.handle, end) == BRENIER_OK);
    REQUIRE(brenier_flow_create(&flow, settings.handle, 300, 2, BRENIER_DOUBLE, nullptr, 0, 0, nullptr) ==
            BRENIER_OK);
    for (int k = 0; k < steps; ++k) REQUIRE(brenier_flow_step(flow) == BRENIER_OK);
    CHECK_STATUS(brenier_flow_step(flow), BRENIER_AT_END, "steps");
    CHECK(brenier_flow_run(flow, 9, nullptr, nullptr) == BRENIER_OK);  // as far as it goes
    CHECK(brenier_flow_steps(flow) == steps);
    brenier_flow_destroy(flow);
  }
}

TEST_CASE("a flow through C has the bits of the flow through C++") {
  Host host;
  const Settings settings(kSettings, &host);
  const Handle c(settings, start());
  const auto v = [&](MatrixView<const double> x, double* value, MatrixView<double> gradient) {
    Host other;
    well(x.rows, 2, x.data, value, gradient.data, &other);
  };
  FlowOptions options{.tau = 0.05, .threads = 1};
  options.network.hidden = {10, 5};
  options.inner.iterations = 25;
  Flow<double> flow(2.0 * potential(2, v, {.name = "well"}) + entropy(), start(), options);
  for (int k = 0; k < 2; ++k) {
    REQUIRE(brenier_flow_step(c.flow) == BRENIER_OK);
    const StepReport report = *flow.step();
    CHECK(cloud_of(c.flow) == flow.trajectory().x().elements());
    CHECK(value_of(c.flow, "missed_share") == report.missed_share);
    CHECK(value_of(c.flow, "step") == report.step);
    CHECK(value_of(c.flow, "functional") == flow.functional().total());
    CHECK(value_of(c.flow, "functional.internal") == flow.functional().internal);
  }
  CHECK(brenier_flow_time(c.flow) == flow.time());
  CHECK(brenier_flow_steps(c.flow) == 2);
  CHECK(brenier_flow_dim(c.flow) == 2);
  CHECK(std::string(brenier_flow_report(c.flow)).find("\"missed_share_held_out\":null") != std::string::npos);
  CHECK(std::string(brenier_flow_settings(c.flow)).find("hidden = [10, 5]") != std::string::npos);
  double unused = 0;
  CHECK_STATUS(brenier_flow_value(c.flow, "mised_share", &unused), BRENIER_VALUE_ERROR, "\"missed_share\"");

  // Float, component by component, with gaps.
  std::vector<float> columns(3 * 2 * 80, -1.0F);
  std::vector<double> log_density(80);
  REQUIRE(brenier_flow_get_cloud(c.flow, BRENIER_FLOAT, columns.data(), 3, 240, log_density.data()) ==
          BRENIER_OK);
  CHECK(columns[3 * 7 + 240] == static_cast<float>(flow.trajectory().x()(7, 1)));
  CHECK(columns[3 * 7 + 1] == -1.0F);
  CHECK(log_density == flow.trajectory().log_density());
  REQUIRE(brenier_flow_set_cloud(c.flow, 80, BRENIER_FLOAT, columns.data(), 3, 240, log_density.data()) ==
          BRENIER_OK);
  CHECK(cloud_of(c.flow)[15] == static_cast<double>(columns[3 * 7 + 240]));
}

TEST_CASE("statuses and messages of the C interface") {
  Host host;
  const Settings settings(kSettings, &host);
  Handle c(settings, start());
  REQUIRE(brenier_flow_step(c.flow) == BRENIER_OK);
  const std::vector<double> before = cloud_of(c.flow);
  host = {.calls = 0, .code = 42, .at = 5};
  CHECK_STATUS(brenier_flow_step(c.flow), BRENIER_CALLBACK_ERROR, "potential well returned 42");
  CHECK(brenier_last_callback_code() == 42);
  host = {.at = 3, .throws = true};
  CHECK_STATUS(brenier_flow_step(c.flow), BRENIER_CALLBACK_ERROR, "no std::exception");
  host = {};
  CHECK(cloud_of(c.flow) == before);
  CHECK(brenier_flow_steps(c.flow) == 1);
  std::string there;
  std::thread([&] { there = brenier_last_error(); }).join();
  CHECK(there.empty());

  brenier_flow* none = nullptr;
  const auto create = [&](const Settings& s, const void* x, ptrdiff_t n, int d) {
    return brenier_flow_create(&none, s.handle, n, d, BRENIER_DOUBLE, x, d, 1, nullptr);
  };
  const double point[2] = {0, 1};
  CHECK_STATUS(create(Settings(kSettings), point, 1, 2), BRENIER_VALUE_ERROR,
               "is a function of a program that embeds Brenier, and this one gives none");
  CHECK_STATUS(create(settings, point, 1, 2), BRENIER_VALUE_ERROR, "log-density");
  CHECK_STATUS(create(settings, point, 0, 2), BRENIER_VALUE_ERROR, "n = 0");
  CHECK_STATUS(create(settings, nullptr, 0, 0), BRENIER_VALUE_ERROR, "[cloud]");
  CHECK_STATUS(create(Settings("[flow]\ntau = 'x'\n"), point, 1, 2), BRENIER_VALUE_ERROR,
               "functional is missing");
  CHECK_STATUS(create(Settings("a = "), point, 1, 2), BRENIER_VALUE_ERROR, "settings:1");
  Settings set(kSettings, &host);
  REQUIRE(brenier_settings_set(set.handle, "flow.tau=-1") == BRENIER_OK);
  const double density[1] = {0};
  CHECK_STATUS(brenier_flow_create(&none, set.handle, 1, 2, BRENIER_DOUBLE, point, 2, 1, density),
               BRENIER_VALUE_ERROR, "--set flow.tau=-1");
  CHECK_STATUS(brenier_settings_create(nullptr, "", nullptr), BRENIER_VALUE_ERROR, "settings is NULL");
  CHECK_STATUS(brenier_flow_step(nullptr), BRENIER_VALUE_ERROR, "flow is NULL");
  CHECK_STATUS(brenier_flow_set_cloud(c.flow, 2, 7, point, 2, 1, nullptr), BRENIER_VALUE_ERROR, "type = 7");
  CHECK_STATUS(brenier_flow_load(c.flow, point, sizeof point), BRENIER_IO_ERROR, "checkpoint");
  CHECK_STATUS(brenier_flow_load_file(c.flow, "/nowhere/x"), BRENIER_IO_ERROR, "no such file");
  CHECK_STATUS(brenier_flow_save_file(c.flow, "/nowhere/x"), BRENIER_IO_ERROR, "/nowhere");
  CHECK(none == nullptr);
  brenier_settings_destroy(nullptr);
  brenier_flow_destroy(nullptr);
  brenier_maps_destroy(nullptr);
  brenier_free(nullptr);
  CHECK(std::string(brenier_version()) == BRENIER_VERSION);
  CHECK(std::string(brenier_build_info()).find("\"version\":\"" BRENIER_VERSION "\"") != std::string::npos);
}

TEST_CASE("runs, interrupts and checkpoints through C") {
  Host host;
  const Settings settings(kSettings, &host);
  Handle a(settings, start()), b(settings, start());
  int seen = 0;
  const auto progress = [](brenier_flow*, void* context) {
    return ++*static_cast<int*>(context) == 2 ? 1 : 0;
  };
  CHECK_STATUS(brenier_flow_run(a.flow, 0.2, progress, &seen), BRENIER_INTERRUPTED, "progress");
  CHECK(brenier_flow_steps(a.flow) == 2);
  brenier_flow_interrupt(a.flow);
  CHECK_STATUS(brenier_flow_step(a.flow), BRENIER_INTERRUPTED, "after step 2");
  const TemporaryFolder folder;
  const std::string path = folder.path / "flow.bin";
  void* bytes = nullptr;
  size_t size = 0;
  REQUIRE(brenier_flow_save(a.flow, &bytes, &size) == BRENIER_OK);
  REQUIRE(brenier_flow_save_file(a.flow, path.c_str()) == BRENIER_OK);
  REQUIRE(brenier_flow_load(b.flow, bytes, size) == BRENIER_OK);
  brenier_free(bytes);
  Handle c(settings, start());
  REQUIRE(brenier_flow_load_file(c.flow, path.c_str()) == BRENIER_OK);
  for (brenier_flow* flow : {a.flow, b.flow, c.flow}) {
    REQUIRE(brenier_flow_run(flow, 0.2, nullptr, nullptr) == BRENIER_OK);
    CHECK(brenier_flow_steps(flow) == 4);
    CHECK(cloud_of(flow) == cloud_of(a.flow));
  }
  // Another functional: without the function of the host.
  const Settings other("[[functional]]\nterm = \"entropy\"\n[flow]\ntau = 1\n");
  REQUIRE(brenier_flow_set_functional(a.flow, other.handle) == BRENIER_OK);
  REQUIRE(brenier_flow_step(a.flow) == BRENIER_OK);
  CHECK(value_of(a.flow, "functional.potential") == 0);
  CHECK_REL(brenier_flow_time(a.flow), 0.25, tol<double>(4));
}

TEST_CASE("maps, densities and samples through C") {
  Host host;
  const Settings settings(std::string(kSettings) + kLaw, &host);
  const Cloud cloud = start();
  Handle c(settings, cloud);
  brenier_maps *maps = nullptr, *back = nullptr, *lawless = nullptr;
  CHECK_STATUS(brenier_maps_of_flow(&maps, c.flow), BRENIER_VALUE_ERROR, "no step");
  REQUIRE(brenier_flow_run(c.flow, 0.1, nullptr, nullptr) == BRENIER_OK);
  CHECK_FALSE(std::isnan(value_of(c.flow, "missed_share_held_out")));  // the law gives certificates
  REQUIRE(brenier_maps_of_flow(&maps, c.flow) == BRENIER_OK);
  CHECK(brenier_maps_dim(maps) == 2);
  std::vector<double> y(160), x(160), density(80), expected(80);
  REQUIRE(brenier_maps_push(maps, 80, BRENIER_DOUBLE, cloud.x.data(), 2, 1, y.data(), 1, 80) == BRENIER_OK);
  REQUIRE(brenier_flow_get_cloud(c.flow, BRENIER_DOUBLE, x.data(), 1, 80, expected.data()) == BRENIER_OK);
  CHECK(x == y);
  REQUIRE(brenier_maps_log_density(maps, 80, BRENIER_DOUBLE, y.data(), 1, 80, density.data()) == BRENIER_OK);
  CHECK_CLOSE(density, expected, 1e-9);
  REQUIRE(brenier_maps_pull(maps, 80, BRENIER_DOUBLE, y.data(), 1, 80, y.data(), 2, 1) == BRENIER_OK);
  CHECK_CLOSE(y, cloud.x.elements(), 1e-9);
  REQUIRE(brenier_maps_sample(maps, 80, 5, BRENIER_DOUBLE, x.data(), 2, 1, density.data()) == BRENIER_OK);
  void* bytes = nullptr;
  size_t size = 0;
  REQUIRE(brenier_maps_save(maps, &bytes, &size) == BRENIER_OK);
  REQUIRE(brenier_maps_load(&back, bytes, size, settings.handle) == BRENIER_OK);
  REQUIRE(brenier_maps_load(&lawless, bytes, size, nullptr) == BRENIER_OK);
  brenier_free(bytes);
  REQUIRE(brenier_maps_sample(back, 80, 5, BRENIER_DOUBLE, y.data(), 2, 1, expected.data()) == BRENIER_OK);
  CHECK(x == y);
  CHECK(density == expected);
  CHECK_STATUS(brenier_maps_sample(lawless, 80, 5, BRENIER_DOUBLE, y.data(), 2, 1, nullptr),
               BRENIER_VALUE_ERROR, "[cloud]");
  REQUIRE(brenier_maps_push(lawless, 80, BRENIER_DOUBLE, cloud.x.data(), 2, 1, y.data(), 2, 1) == BRENIER_OK);
  CHECK(y == cloud_of(c.flow));
  const TemporaryFolder folder;
  const std::string path = folder.path / "maps.safetensors";
  REQUIRE(brenier_maps_save_file(maps, path.c_str()) == BRENIER_OK);
  brenier_maps_destroy(back);
  REQUIRE(brenier_maps_load_file(&back, path.c_str(), nullptr) == BRENIER_OK);
  for (brenier_maps* one : {maps, back, lawless}) brenier_maps_destroy(one);

  // A cloud of the host has another law, also in a flow that goes on from a checkpoint of it.
  void* first = nullptr;
  size_t first_size = 0;
  REQUIRE(brenier_flow_save(c.flow, &first, &first_size) == BRENIER_OK);
  REQUIRE(brenier_flow_set_cloud(c.flow, 80, BRENIER_DOUBLE, cloud.x.data(), 2, 1,
                                 cloud.log_density.data()) == BRENIER_OK);
  REQUIRE(brenier_flow_step(c.flow) == BRENIER_OK);
  Handle later(settings, cloud);
  REQUIRE(brenier_flow_save(c.flow, &bytes, &size) == BRENIER_OK);
  REQUIRE(brenier_flow_load(later.flow, bytes, size) == BRENIER_OK);
  brenier_free(bytes);
  for (brenier_flow* flow : {c.flow, later.flow}) {
    REQUIRE(brenier_maps_of_flow(&maps, flow) == BRENIER_OK);
    CHECK_STATUS(brenier_maps_sample(maps, 80, 5, BRENIER_DOUBLE, y.data(), 2, 1, nullptr),
                 BRENIER_VALUE_ERROR, "law");
    REQUIRE(brenier_maps_push(maps, 80, BRENIER_DOUBLE, cloud.x.data(), 2, 1, y.data(), 2, 1) == BRENIER_OK);
    CHECK(y == cloud_of(flow));
    brenier_maps_destroy(maps);
    // Back at the first cloud the law is known again.
    REQUIRE(brenier_flow_load(flow, first, first_size) == BRENIER_OK);
    REQUIRE(brenier_maps_of_flow(&maps, flow) == BRENIER_OK);
    REQUIRE(brenier_maps_sample(maps, 80, 5, BRENIER_DOUBLE, y.data(), 2, 1, density.data()) == BRENIER_OK);
    CHECK(y == x);
    CHECK(density == expected);
    brenier_maps_destroy(maps);
  }
  brenier_free(first);
}

TEST_CASE("a function of the host that forgets to write its results is noticed") {
  struct Kind {
    bool value, gradient;
    const char* text;
  };
  for (const Kind& kind : {Kind{false, true, "V is NaN at all points"},
                           Kind{true, false, "the gradient of V is NaN at all points"}}) {
    const auto forgets = [](ptrdiff_t n, int d, const double* x, double* v, double* gradient, void* context) {
      const Kind& writes = *static_cast<const Kind*>(context);
      Host host;
      return well(n, d, x, writes.value ? v : nullptr, writes.gradient ? gradient : nullptr, &host);
    };
    Settings settings(kSettings);
    REQUIRE(brenier_settings_potential(settings.handle, "well", forgets, const_cast<Kind*>(&kind), 0) ==
            BRENIER_OK);
    brenier_flow* flow = nullptr;
    const Cloud cloud = start();
    int status = brenier_flow_create(&flow, settings.handle, cloud.x.rows(), 2, BRENIER_DOUBLE,
                                     cloud.x.data(), 2, 1, cloud.log_density.data());
    if (status == BRENIER_OK) status = brenier_flow_step(flow);
    CHECK_STATUS(status, BRENIER_NUMERICAL_ERROR, kind.text);
    brenier_flow_destroy(flow);
  }
}

TEST_CASE("sizes that no memory has are statuses of C") {
  constexpr ptrdiff_t huge = ptrdiff_t{1} << 61;
  Host host;
  const Settings settings(std::string(kSettings) + kLaw, &host);
  const double x[8] = {};
  double y[8] = {};
  brenier_flow* none = nullptr;
  // 8 * 2^61 is 0 in 64 bits.
  CHECK_STATUS(brenier_flow_create(&none, settings.handle, huge, 8, BRENIER_DOUBLE, x, 8, 1, nullptr),
               BRENIER_OUT_OF_MEMORY, "more elements");
  CHECK_STATUS(brenier_flow_create(&none, settings.handle, huge, 8, BRENIER_DOUBLE, x, 8, 1, x),
               BRENIER_OUT_OF_MEMORY, "more elements");
  CHECK(none == nullptr);
  Handle c(settings, start());
  REQUIRE(brenier_flow_step(c.flow) == BRENIER_OK);
  brenier_maps* maps = nullptr;
  REQUIRE(brenier_maps_of_flow(&maps, c.flow) == BRENIER_OK);
  for (const ptrdiff_t n : {huge, 2 * huge, PTRDIFF_MAX}) {
    CHECK_STATUS(brenier_flow_set_cloud(c.flow, n, BRENIER_DOUBLE, x, 2, 1, x), BRENIER_OUT_OF_MEMORY,
                 "more elements");
    CHECK_STATUS(brenier_maps_push(maps, n, BRENIER_DOUBLE, x, 2, 1, y, 2, 1), BRENIER_OUT_OF_MEMORY,
                 "more elements");
    CHECK_STATUS(brenier_maps_pull(maps, n, BRENIER_DOUBLE, x, 2, 1, y, 2, 1), BRENIER_OUT_OF_MEMORY,
                 "more elements");
    CHECK_STATUS(brenier_maps_log_density(maps, n, BRENIER_DOUBLE, x, 2, 1, y), BRENIER_OUT_OF_MEMORY,
                 "more elements");
    CHECK_STATUS(brenier_maps_sample(maps, n, 0, BRENIER_DOUBLE, y, 2, 1, nullptr), BRENIER_OUT_OF_MEMORY,
                 "more elements");
    CHECK_STATUS(brenier_flow_set_device_cloud(c.flow, n, BRENIER_DOUBLE, x, 2, 1, nullptr, nullptr),
                 BRENIER_VALUE_ERROR, "CUDA");
  }
  CHECK_STATUS(brenier_maps_sample(maps, -1, 0, BRENIER_DOUBLE, y, 2, 1, nullptr), BRENIER_VALUE_ERROR, "-1");
  CHECK_STATUS(brenier_flow_set_cloud(c.flow, -1, BRENIER_DOUBLE, x, 2, 1, x), BRENIER_VALUE_ERROR, "n = -1");
  brenier_maps_destroy(maps);
}

TEST_CASE("the density of C at NaN is not known") {
  Host host;
  const Settings settings(std::string(kSettings) + kLaw, &host);
  Handle c(settings, start());
  REQUIRE(brenier_flow_step(c.flow) == BRENIER_OK);
  brenier_maps* maps = nullptr;
  REQUIRE(brenier_maps_of_flow(&maps, c.flow) == BRENIER_OK);
  const double y[6] = {NAN, 0, INFINITY, 0, 0.1, 0.2};
  double at[3] = {};
  REQUIRE(brenier_maps_log_density(maps, 3, BRENIER_DOUBLE, y, 2, 1, at) == BRENIER_OK);
  CHECK(std::isnan(at[0]));
  CHECK(at[1] == -INFINITY);
  CHECK(std::isfinite(at[2]));
  brenier_maps_destroy(maps);
}

TEST_CASE("settings of a law alone, and of a functional alone, are enough for what takes no more of them") {
  const Settings settings(kPlain);
  brenier_flow* flow = nullptr;
  REQUIRE(brenier_flow_create(&flow, settings.handle, 0, 0, BRENIER_DOUBLE, nullptr, 1, 1, nullptr) ==
          BRENIER_OK);
  REQUIRE(brenier_flow_step(flow) == BRENIER_OK);
  brenier_maps* maps = nullptr;
  REQUIRE(brenier_maps_of_flow(&maps, flow) == BRENIER_OK);
  void* bytes = nullptr;
  size_t size = 0;
  REQUIRE(brenier_maps_save(maps, &bytes, &size) == BRENIER_OK);
  brenier_maps_destroy(maps);
  for (const char* sampling : {"stratified", "whitened"}) {
    const Settings law(
        "[cloud]\ndensity = \"gaussian\"\ndim = 2\nmean = 0.4\nvariance = 0.3\nparticles = 300\nsampling = "
        "\"" +
        std::string(sampling) + "\"\n");
    const int status = brenier_maps_load(&maps, bytes, size, law.handle);
    INFO(brenier_last_error());
    REQUIRE(status == BRENIER_OK);
    double y[2] = {0.3, 0.3}, at = 0;
    CHECK(brenier_maps_log_density(maps, 1, BRENIER_DOUBLE, y, 2, 1, &at) == BRENIER_OK);
    CHECK(std::isfinite(at));
    brenier_maps_destroy(maps);
  }
  brenier_free(bytes);
  CHECK_STATUS(brenier_maps_load_file(&maps, nullptr, nullptr), BRENIER_VALUE_ERROR, "path is NULL");

  const Settings other(
      "[parameters]\nk = 7.0\n[[functional]]\nterm = \"potential\"\nexpression = \"k*sum(x^2)\"\n");
  const int status = brenier_flow_set_functional(flow, other.handle);
  INFO(brenier_last_error());
  REQUIRE(status == BRENIER_OK);
  CHECK(value_of(flow, "functional.internal") == 0);
  const std::string resolved = brenier_flow_settings(flow);
  CHECK(resolved.find("k*sum(x^2)") != std::string::npos);
  CHECK(resolved.find("0.5*sum(x^2)") == std::string::npos);
  CHECK(resolved.find("entropy") == std::string::npos);
  // The whole text makes such a flow again.
  const Settings again(resolved);
  brenier_flow* copy = nullptr;
  REQUIRE(brenier_flow_create(&copy, again.handle, 0, 0, BRENIER_DOUBLE, nullptr, 1, 1, nullptr) ==
          BRENIER_OK);
  CHECK(std::string(brenier_flow_settings(copy)) == resolved);
  CHECK(brenier_flow_step(flow) == BRENIER_OK);
  brenier_flow_destroy(copy);
  brenier_flow_destroy(flow);
}

TEST_CASE("a flow that is inside of a call refuses another one") {
  struct Inside {
    brenier_flow* flow = nullptr;
    const double* x = nullptr;
    std::vector<int> statuses;
    std::string text;
  } inside;
  const auto nosy = [](ptrdiff_t n, int d, const double* x, double* v, double* gradient, void* context) {
    Inside& in = *static_cast<Inside*>(context);
    if (in.flow && in.statuses.empty()) {
      void* bytes = nullptr;
      size_t size = 0;
      double value = 0;
      brenier_maps* maps = nullptr;
      in.statuses = {brenier_flow_step(in.flow),
                     brenier_flow_run(in.flow, 1, nullptr, nullptr),
                     brenier_flow_set_cloud(in.flow, n, BRENIER_DOUBLE, x, d, 1, nullptr),
                     brenier_flow_get_cloud(in.flow, BRENIER_DOUBLE, &value, 1, 1, nullptr),
                     brenier_flow_value(in.flow, "functional", &value),
                     brenier_flow_save(in.flow, &bytes, &size),
                     brenier_flow_load(in.flow, x, 8),
                     brenier_maps_of_flow(&maps, in.flow)};
      in.text = brenier_last_error();
      CHECK(brenier_flow_steps(in.flow) == 0);
    }
    Host host;
    return well(n, d, x, v, gradient, &host);
  };
  Settings settings(kSettings);
  REQUIRE(brenier_settings_potential(settings.handle, "well", nosy, &inside, 0) == BRENIER_OK);
  Handle c(settings, start()), quiet(settings, start());
  inside.flow = c.flow;
  REQUIRE(brenier_flow_step(c.flow) == BRENIER_OK);
  CHECK(inside.statuses == std::vector<int>(8, BRENIER_VALUE_ERROR));
  CHECK(inside.text.find("inside of another call") != std::string::npos);
  REQUIRE(brenier_flow_step(quiet.flow) == BRENIER_OK);
  CHECK(cloud_of(c.flow) == cloud_of(quiet.flow));
  // Between two steps a progress function may do what it likes.
  const auto progress = [](brenier_flow* flow, void*) { return brenier_flow_step(flow); };
  REQUIRE(brenier_flow_run(c.flow, 0.15, progress, nullptr) == BRENIER_OK);
  CHECK(brenier_flow_steps(c.flow) == 3);
}

// Thread sanitizers do not follow a child of a process with threads.
#if !defined(__SANITIZE_THREAD__)
TEST_CASE("a flow goes on in a child process, with threads of its own") {
  const Settings settings(kPlain);
  brenier_flow* flow = nullptr;
  REQUIRE(brenier_flow_create(&flow, settings.handle, 0, 0, BRENIER_DOUBLE, nullptr, 1, 1, nullptr) ==
          BRENIER_OK);
  REQUIRE(brenier_flow_step(flow) == BRENIER_OK);
  const auto in_child = [&](const auto& body) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      _exit(body());
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return status;
  };
  CHECK(in_child([&] {
          brenier_flow_destroy(flow);
          return 0;
        }) == 0);
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  CHECK(in_child([&] {
          if (brenier_flow_step(flow) != BRENIER_OK) return 1;
          const std::vector<double> x = cloud_of(flow);
          const auto size = static_cast<ssize_t>(x.size() * sizeof(double));
          if (write(ends[1], x.data(), x.size() * sizeof(double)) != size) return 2;
          brenier_flow_destroy(flow);
          return 0;
        }) == 0);
  REQUIRE(brenier_flow_step(flow) == BRENIER_OK);
  const std::vector<double> x = cloud_of(flow);
  std::vector<double> of_child(x.size());
  CHECK(read(ends[0], of_child.data(), x.size() * sizeof(double)) ==
        static_cast<ssize_t>(x.size() * sizeof(double)));
  CHECK(x == of_child);
  close(ends[0]);
  close(ends[1]);
  brenier_flow_destroy(flow);
}
#endif

namespace {
volatile sig_atomic_t handled = 0;
}

TEST_CASE("signals of the host are left to its own threads") {
  const Settings settings(kPlain);
  brenier_flow* flow = nullptr;
  REQUIRE(brenier_flow_create(&flow, settings.handle, 0, 0, BRENIER_DOUBLE, nullptr, 1, 1, nullptr) ==
          BRENIER_OK);
  REQUIRE(brenier_flow_step(flow) == BRENIER_OK);
  struct sigaction ours = {}, before = {};
  ours.sa_handler = [](int) { handled = handled + 1; };
  REQUIRE(sigaction(SIGUSR1, &ours, &before) == 0);
  sigset_t one, mask;
  sigemptyset(&one);
  sigaddset(&one, SIGUSR1);
  REQUIRE(pthread_sigmask(SIG_BLOCK, &one, &mask) == 0);
  handled = 0;
  REQUIRE(kill(getpid(), SIGUSR1) == 0);
  REQUIRE(brenier_flow_step(flow) == BRENIER_OK);
  // It is still there, for this thread to take.
  const timespec second = {1, 0};
  CHECK(sigtimedwait(&one, nullptr, &second) == SIGUSR1);
  CHECK(handled == 0);
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  sigaction(SIGUSR1, &before, nullptr);
  brenier_flow_destroy(flow);
}

TEST_CASE("a host may round as it likes, and trap floating-point exceptions") {
  struct Seen {
    int traps = 0, rounding = 0;
  };
  const auto progress = [](brenier_flow*, void* context) {
    auto* seen = static_cast<Seen*>(context);
#if defined(__GLIBC__)
    seen->traps = fegetexcept();
#endif
    seen->rounding = fegetround();
    return 0;
  };
  const Settings settings(kPlain);
  // Without a law the certificates of a step have numbers that are not known.
  const std::string text = kPlain;
  const Settings lawless("threads = 2\n" + text.substr(text.find("[[functional]]")));
  const Cloud cloud = start();
  const auto run = [&](Seen& seen) {
    brenier_flow* flow = nullptr;
    int status = brenier_flow_create(&flow, settings.handle, 0, 0, BRENIER_DOUBLE, nullptr, 1, 1, nullptr);
    if (status == BRENIER_OK) status = brenier_flow_run(flow, 0.1, progress, &seen);
    std::vector<double> x(600), at(300);
    brenier_maps* maps = nullptr;
    if (status == BRENIER_OK) status = brenier_flow_get_cloud(flow, BRENIER_DOUBLE, x.data(), 2, 1, nullptr);
    if (status == BRENIER_OK) status = brenier_maps_of_flow(&maps, flow);
    if (status == BRENIER_OK)
      status = brenier_maps_log_density(maps, 300, BRENIER_DOUBLE, x.data(), 2, 1, at.data());
    double worst = 0;
    if (status == BRENIER_OK) status = brenier_flow_value(flow, "missed_share", &worst);
    brenier_flow_report(flow);
    brenier_maps_destroy(maps);
    brenier_flow_destroy(flow);
    flow = nullptr;
    x.insert(x.end(), at.begin(), at.end());
    if (status == BRENIER_OK)
      status = brenier_flow_create(&flow, lawless.handle, cloud.x.rows(), 2, BRENIER_DOUBLE, cloud.x.data(),
                                   2, 1, cloud.log_density.data());
    if (status == BRENIER_OK) status = brenier_flow_step(flow);
    at.resize(160);
    if (status == BRENIER_OK) status = brenier_flow_get_cloud(flow, BRENIER_DOUBLE, at.data(), 2, 1, nullptr);
    x.insert(x.end(), at.begin(), at.end());
    brenier_flow_destroy(flow);
    return std::pair(status, x);
  };
  Seen plain, host;
  const auto expected = run(plain);
  REQUIRE(expected.first == BRENIER_OK);
  fenv_t before;
  REQUIRE(fegetenv(&before) == 0);
  fesetround(FE_UPWARD);
#if defined(__GLIBC__)
  constexpr int traps = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW;
  feenableexcept(traps);
#endif
  const auto found = run(host);
  const int rounding = fegetround();
#if defined(__GLIBC__)
  const int left = fegetexcept();
#endif
  fesetenv(&before);
  CHECK(rounding == FE_UPWARD);
  CHECK(host.rounding == FE_UPWARD);
#if defined(__GLIBC__)
  CHECK(left == traps);
  CHECK(host.traps == traps);
#endif
  CHECK(found == expected);
}

TEST_CASE("a failure that a binding finds has a text as well") {
  CHECK_STATUS(brenier_fail(BRENIER_SHAPE_ERROR, "x is (3, 4)"), BRENIER_SHAPE_ERROR, "x is (3, 4)");
}
