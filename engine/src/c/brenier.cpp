// SPDX-License-Identifier: MIT
// The C interface: handles, statuses and strides over the C++ one.
#include "brenier/brenier.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "brenier/atomic_file.hpp"
#include "brenier/base/out_of_memory.hpp"
#include "brenier/device.hpp"
#include "brenier/flow.hpp"
#include "brenier/flow_density.hpp"
#include "brenier/text_file.hpp"
#include "brenier/version.hpp"
#include "engine/src/c/settings.hpp"
#include "engine/src/config/config.hpp"
#include "engine/src/flow/cloud/cloud_view.hpp"
#include "engine/src/flow/report_fields.hpp"
#include "kernels/base/floating_point.hpp"
#include "kernels/base/nearest_name.hpp"
#include "kernels/base/of_file.hpp"
#include "kernels/base/ranks.hpp"
#include "kernels/base/show.hpp"

using namespace brenier;

struct brenier_settings {
  std::string text;
  std::filesystem::path folder;
  std::vector<std::string> overrides;
  std::map<std::string, HostInput::Potential> potentials;
  std::shared_ptr<Communicator> communicator{};
};

struct brenier_flow {
  std::variant<std::unique_ptr<Flow<float>>, std::unique_ptr<Flow<double>>> flow;
  Config config;
  std::optional<Density> law;  // of the cloud that the maps start from
  Matrix<double> start;        // some of that cloud
  Matrix<double> first;        // some of the cloud that the flow was made with
  std::optional<StepReport> report;
  bool held_out = false;
  mutable std::string json;
  mutable std::atomic<bool> busy = false;
};

struct brenier_maps {
  std::vector<BrenierMap> maps;
  std::unique_ptr<FlowDensity> density;
  bool law = false;
};

namespace {

/// What a host's function returned.
struct CallbackError : Error {
  CallbackError(const std::string& message, int code_in) : Error(message), code(code_in) {}
  int code;
};

struct LastFailure {
  std::string text;
  int callback_code = 0;
};

/// A text of the calling thread: the only state that no handle has, as errno is.
LastFailure& last_failure() noexcept {
  static thread_local LastFailure failure;
  return failure;
}

int fail(int status, const char* text, int callback_code = 0) noexcept {
  try {
    last_failure().text = text;
  } catch (...) {
    last_failure().text.clear();  // no memory for its own message
  }
  last_failure().callback_code = callback_code;
  return status;
}

/// Runs `body`, which returns a status, and turns what it throws into one.
template <class Body>
int guarded(Body&& body) noexcept {
  const PlainFloatingPoint plain;
  try {
    return body();
  } catch (const CallbackError& error) {
    return fail(BRENIER_CALLBACK_ERROR, error.what(), error.code);
  } catch (const OutOfDeviceMemory& error) {
    return fail(BRENIER_OUT_OF_MEMORY, error.what());
  } catch (const ShapeError& error) {
    return fail(BRENIER_SHAPE_ERROR, error.what());
  } catch (const IoError& error) {
    return fail(BRENIER_IO_ERROR, error.what());
  } catch (const NumericalError& error) {
    return fail(BRENIER_NUMERICAL_ERROR, error.what());
  } catch (const NotAvailable& error) {
    return fail(BRENIER_NOT_AVAILABLE, error.what());
  } catch (const RankError& error) {
    return fail(BRENIER_RANK_ERROR, error.what());
  } catch (const DeviceError& error) {
    return fail(BRENIER_DEVICE_ERROR, error.what());
  } catch (const Error& error) {  // values, expressions, settings
    return fail(BRENIER_VALUE_ERROR, error.what());
  } catch (const OutOfMemory& error) {
    return fail(BRENIER_OUT_OF_MEMORY, error.what());
  } catch (const std::bad_alloc&) {
    return fail(BRENIER_OUT_OF_MEMORY, "out of memory");
  } catch (const std::length_error&) {
    return fail(BRENIER_OUT_OF_MEMORY, "out of memory: more elements than can be addressed");
  } catch (const std::exception& error) {
    return fail(BRENIER_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(BRENIER_CALLBACK_ERROR, "a function of the host threw what is no std::exception", -1);
  }
}

void need(const void* pointer, const char* name) {
  if (!pointer) throw ValueError(std::string(name) + " is NULL");
}

/// Of a call that uses a flow. Ends at once inside of another one: a function of the host is asked while the flow is between
/// two states.
class Turn {
 public:
  explicit Turn(const brenier_flow* flow) : busy_(of(flow)) {
    if (busy_.exchange(true))
      throw ValueError(
          "this flow is inside of another call, from a function of the host or another thread; use it when "
          "that call "
          "has ended");
  }
  ~Turn() { busy_ = false; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  static std::atomic<bool>& of(const brenier_flow* flow) {
    need(flow, "flow");
    return flow->busy;
  }
  std::atomic<bool>& busy_;
};

/// Points of the host.
template <class Pointer>
struct Points {
  Pointer* data;
  int type;
  ptrdiff_t particle_stride, component_stride;

  void check_type() const {
    if (type != BRENIER_DOUBLE && type != BRENIER_FLOAT)
      throw ValueError("type = " + std::to_string(type) + "; it must be BRENIER_DOUBLE or BRENIER_FLOAT");
  }
  template <class Visit>
  void visit(Index n, Index d, Visit&& visit) const {
    check_type();
    const auto each = [&]<class T>(T* first) {
      for (Index i = 0; i < n; ++i) {
        for (Index c = 0; c < d; ++c) visit(first[i * particle_stride + c * component_stride], i, c);
      }
    };
    constexpr bool constant = std::is_const_v<Pointer>;
    if (type == BRENIER_DOUBLE)
      each(static_cast<std::conditional_t<constant, const double, double>*>(data));
    else
      each(static_cast<std::conditional_t<constant, const float, float>*>(data));
  }
};
using Source = Points<const void>;
using Target = Points<void>;

Matrix<double> read(const Source& from, ptrdiff_t n, Index d) {
  if (n < 0) throw ValueError("n = " + std::to_string(n) + "; it must be at least 0");
  Matrix<double> out(n, d);
  if (n > 0) need(from.data, "the address of the points");
  from.visit(n, d, [&](auto value, Index i, Index c) { out(i, c) = static_cast<double>(value); });
  return out;
}

void write(const Matrix<double>& values, const Target& to) {
  if (values.rows() > 0) need(to.data, "the address of the points");
  to.visit(values.rows(), values.cols(),
           [&]<class T>(T& value, Index i, Index c) { value = static_cast<T>(values(i, c)); });
}

Cloud cloud_of(const Source& from, ptrdiff_t n, Index d, const double* log_density) {
  Cloud out{read(from, n, d), {}};
  if (log_density) out.log_density.assign(log_density, log_density + n);
  return out;
}

constexpr const char* kText = "settings";  // its name in messages

Config parse(const brenier_settings& settings, const Cloud* cloud) {
  const HostInput host{settings.potentials, cloud};
  Config config = parse_config(settings.text, kText, settings.folder, settings.overrides, &host);
  config.flow.communicator = settings.communicator;
  return config;
}

/// Runs what other processes do meanwhile; where it fails they hear of it with their next call.
template <class Body>
auto told(const std::shared_ptr<Communicator>& communicator, Body&& body) {
  try {
    return body();
  } catch (...) {
    Ranks::tell(communicator.get());
    throw;
  }
}

/// Processes that the host connects.
class HostRanks final : public Communicator {
 public:
  HostRanks(int rank, int size, brenier_sum sum_in, brenier_gather gather_in, void* context)
      : rank_(rank), size_(size), sum_(sum_in), gather_(gather_in), context_(context) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void sum(std::span<double> values) override {
    const HostFloatingPoint host;
    check(sum_(values.data(), static_cast<ptrdiff_t>(values.size()), context_), "sum");
  }
  void gather(std::span<std::byte> data, std::span<const std::size_t> offsets) override {
    const HostFloatingPoint host;
    check(gather_(data.data(), offsets.data(), context_), "gather");
  }
  void broadcast(std::span<std::byte> data, int root) override {
    std::vector<std::size_t> offsets(static_cast<std::size_t>(size_) + 1, 0);
    std::fill(offsets.begin() + root + 1, offsets.end(), data.size());
    gather(data, offsets);
  }

 private:
  static void check(int code, const char* what) {
    if (code != 0)
      throw CallbackError(
          std::string("the host's ") + what + " over processes returned " + std::to_string(code), code);
  }
  int rank_, size_;
  brenier_sum sum_;
  brenier_gather gather_;
  void* context_;
};

void give_bytes(const std::vector<std::byte>& from, void** bytes, size_t* size) {
  need(bytes, "bytes");
  need(size, "size");
  void* const memory = std::malloc(std::max<std::size_t>(from.size(), 1));
  if (!memory) throw OutOfMemory(from.size());
  std::copy(from.begin(), from.end(), static_cast<std::byte*>(memory));
  *bytes = memory;
  *size = from.size();
}
std::span<const std::byte> bytes_of(const void* bytes, size_t size) {
  if (size > 0) need(bytes, "bytes");
  return {static_cast<const std::byte*>(bytes), size};
}
std::vector<std::byte> bytes_of_file(const char* path) {
  need(path, "path");
  const std::string text = read_text_file(path, std::uint64_t{1} << 40);
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}
void write_bytes(const char* path, const std::vector<std::byte>& bytes) {
  need(path, "path");
  write_file_atomically(path, std::span<const std::byte>(bytes));
}

/// Calls body with the flow in its precision.
template <class Body>
decltype(auto) with(brenier_flow* flow, Body&& body) {
  need(flow, "flow");
  return std::visit([&](auto& one) -> decltype(auto) { return body(*one); }, flow->flow);
}
template <class Body>
decltype(auto) with(const brenier_flow* flow, Body&& body) {
  need(flow, "flow");
  return std::visit([&](const auto& one) -> decltype(auto) { return body(std::as_const(*one)); }, flow->flow);
}

/// Particles that densities of order 2 start from.
Matrix<double> some_of(const CloudView& cloud) {
  std::vector<Index> rows(static_cast<std::size_t>(std::min<Index>(cloud.rows(), 1024)));
  const Index n = static_cast<Index>(rows.size());
  for (Index i = 0; i < n; ++i) rows[static_cast<std::size_t>(i)] = cloud.rows() * i / n;
  return cloud.take(rows);
}

/// Goes on from a checkpoint. The law of the settings is that of the first cloud, not of one that was set later.
void load(brenier_flow* flow, std::span<const std::byte> bytes) {
  with(flow, [&](auto& f) {
    f.load(bytes);
    flow->report.reset();
    flow->law.reset();
    flow->held_out = false;
    if (f.has_initial_cloud()) {
      flow->start = flow->first;
      flow->law = flow->config.cloud.density;
      flow->held_out = flow->config.held_out.particles > 0;
      return;
    }
    // Where it started is not known: the particles now are nearer to it than those of another cloud.
    flow->start = {};
    const DeviceScope scope(f.options().device);
    flow->start = some_of(f.trajectory());
  });
}

/// Another cloud, of the host or on the device.
template <class Particles>
void set_cloud(brenier_flow* flow, Particles cloud) {
  with(flow, [&](auto& f) {
    f.set_cloud(std::move(cloud));
    // Nothing of the cloud before is left where the rest fails.
    flow->law.reset();
    flow->held_out = false;
    flow->start = {};
    const DeviceScope scope(f.options().device);
    flow->start = some_of(f.trajectory());
  });
}

/// Points and log-densities at addresses of the device.
template <class Address, class Density>
DeviceParticles<Address> on_device(const Points<Address>& points, Index n, Index d, Density* log_density,
                                   void* stream) {
  points.check_type();
  DeviceParticles<Address> out;
  using Float = std::conditional_t<std::is_const_v<Address>, const float, float>;
  const auto [data, type, down, across] = points;
  if (type == BRENIER_FLOAT)
    out.x = {static_cast<Float*>(data), n, d, down, across};
  else
    out.x = {static_cast<Density*>(data), n, d, down, across};
  out.log_density = {log_density, n, 1};
  out.stream = stream;
  return out;
}

nlohmann::ordered_json number_or_null(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

/// As brenier_number() has it.
std::string name_of_part(const std::string& part) {
  return part == "functional" ? part : "functional." + part;
}

std::string json_of(const StepReport& report) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  const auto add = [&](const std::string& name, const auto& value) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
      out[name] = number_or_null(static_cast<double>(value));
    } else {
      out[name] = value;
    }
  };
  for_each_field(report, add);
  for_each_part(report.functional, [&](const char* part, double value) { add(name_of_part(part), value); });
  return out.dump();
}

double named_value(const brenier_flow* flow, const std::string& name) {
  std::vector<std::string> names{"held_out"};
  std::optional<double> found;
  const auto look = [&](const std::string& other, double value) {
    names.push_back(other);
    if (name == other) found = value;
  };
  const auto look_at_parts = [&](const ObjectiveValue& value) {
    for_each_part(value, [&](const char* part, double of_part) { look(name_of_part(part), of_part); });
  };
  look_at_parts({});
  if (found) {  // F itself only for who asks for it: all processes compute it together
    look_at_parts(with(flow, [](const auto& f) { return f.functional(); }));
    return *found;
  }
  if (name == "held_out") {
    if (!flow->held_out) throw ValueError("held_out: the settings name no held_out.particles");
    return with(flow, [](const auto& f) { return f.functional_of(f.tracked(0)).total(); });
  }
  for_each_field(flow->report.value_or(StepReport()), [&](const char* other, const auto& value) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>)
      look(other, static_cast<double>(value));
  });
  if (!found)
    throw ValueError("no number \"" + name + "\"; did you mean \"" + nearest_name(name, names) + "\"?");
  if (!flow->report) throw ValueError(name + " is a number of the last step, and there was none");
  return *found;
}

int step(brenier_flow* flow) {
  const Turn turn(flow);
  const int before = with(flow, [](auto& f) { return f.steps(); });
  if (flow->config.ends && before >= flow->config.steps) {
    return fail(BRENIER_AT_END, ("the flow has taken the " + std::to_string(flow->config.steps) +
                                 " steps that flow.steps or flow.end_time names")
                                    .c_str());
  }
  const std::optional<StepReport> report = with(flow, [](auto& f) { return f.step(); });
  if (report) {
    flow->report = report;
    return BRENIER_OK;
  }
  const bool adaptive = flow->config.adaptive();
  const bool at_end =
      adaptive && with(flow, [](auto& f) { return f.time() >= f.options().adaptive.end_time; });
  if (at_end) return fail(BRENIER_AT_END, "flow.end_time is reached");
  return fail(BRENIER_INTERRUPTED,
              ("interrupted; the flow is as after step " + std::to_string(before)).c_str());
}

template <class T>
std::unique_ptr<Flow<T>> make_flow(const brenier_flow& made, Cloud cloud) {
  const Config& config = made.config;
  auto flow = std::make_unique<Flow<T>>(config.functional, std::move(cloud), config.flow);
  if (made.law) flow->set_initial_density(*made.law);
  if (made.held_out) {
    Cloud other = config.held_out_cloud(config.held_out.particles);
    if (!config.functional.needs_density()) other.log_density.clear();
    flow->track(std::move(other));
  }
  if (config.flow.inner.refresh > 0)
    flow->set_source([config](std::uint32_t draw) { return config.fresh_cloud(draw); });
  return flow;
}

std::unique_ptr<brenier_maps> make_maps(std::vector<BrenierMap> maps, const std::optional<Density>& law,
                                        const Matrix<double>& start, int threads) {
  auto out = std::make_unique<brenier_maps>();
  out->maps = maps;
  out->law = law.has_value();
  const FlowDensityOptions options{.threads = threads};
  if (law) {
    out->density = std::make_unique<FlowDensity>(std::move(maps), *law, options);
  } else {
    out->density = std::make_unique<FlowDensity>(std::move(maps), FlowDensity::Function(), start, options);
  }
  return out;
}

std::unique_ptr<brenier_maps> load_maps(std::span<const std::byte> bytes, const std::string& name,
                                        const brenier_settings* settings) {
  std::vector<BrenierMap> maps = parse_maps(bytes, name);
  std::optional<Density> law;
  int threads = 0;
  if (settings) {
    // Only its law is asked for; whitened ones want more particles than dimensions.
    const Index d = maps.front().net.dim();
    const Cloud few{Matrix<double>(d + 1, d), {}};
    const Config config =
        parse_law(settings->text, kText, settings->folder, settings->overrides, {settings->potentials, &few});
    law = config.cloud.density;
    threads = config.flow.threads;
  }
  // Where nothing is known of the law, order 2 looks for origins from 0.
  const Matrix<double> start(1, maps.front().net.dim());
  return make_maps(std::move(maps), law, start, threads);
}

const FlowDensity& lawful(const brenier_maps* maps) {
  need(maps, "maps");
  if (!maps->law)
    throw ValueError(
        "maps: the law of the cloud that they start from is not known; give it with [cloud] in the settings");
  return *maps->density;
}

}  // namespace

int brenier::set_communicator(brenier_settings* settings,
                              const std::function<std::shared_ptr<Communicator>()>& make) {
  return guarded([&] {
    need(settings, "settings");
    settings->communicator = make();
    return BRENIER_OK;
  });
}

extern "C" {

int brenier_settings_ranks(brenier_settings* settings, int rank, int size, brenier_sum sum,
                           brenier_gather gather, void* context) {
  return set_communicator(settings, [=] {
    if (size < 1 || rank < 0 || rank >= size)
      throw ValueError("rank = " + std::to_string(rank) + " of size = " + std::to_string(size) +
                       "; ranks go from 0 to size - 1");
    if (!sum || !gather) throw ValueError("sum or gather is NULL");
    return std::make_shared<HostRanks>(rank, size, sum, gather, context);
  });
}

const char* brenier_last_error(void) {
  return last_failure().text.c_str();
}
int brenier_fail(int status, const char* text) {
  return fail(status, text ? text : "");
}
int brenier_last_callback_code(void) {
  return last_failure().callback_code;
}
const char* brenier_version(void) {
  return BRENIER_VERSION;
}
const char* brenier_build_info(void) {
  static thread_local std::string text;
  const int status = guarded([] {
    const BuildInfo info = build_info();
    nlohmann::ordered_json out = nlohmann::ordered_json::object();
    out["version"] = info.version;
    out["compiler"] = info.compiler;
    out["cuda"] = info.cuda;
    out["cuda_devices"] = info.cuda_devices;
    out["cpu_variants"] = info.cpu_variants;
    out["threads"] = info.threads;
    text = out.dump();
    return BRENIER_OK;
  });
  return status == BRENIER_OK ? text.c_str() : "{}";
}
void brenier_free(void* bytes) {
  std::free(bytes);
}

int brenier_settings_create(brenier_settings** settings, const char* toml, const char* folder) {
  return guarded([&] {
    need(settings, "settings");
    need(toml, "toml");
    *settings = new brenier_settings{toml, folder ? folder : ".", {}, {}, {}};
    return BRENIER_OK;
  });
}
int brenier_settings_set(brenier_settings* settings, const char* assignment) {
  return guarded([&] {
    need(settings, "settings");
    need(assignment, "assignment");
    settings->overrides.emplace_back(assignment);
    return BRENIER_OK;
  });
}
int brenier_settings_potential(brenier_settings* settings, const char* name, brenier_potential v,
                               void* context, int thread_safe) {
  return guarded([&] {
    need(settings, "settings");
    need(name, "name");
    if (!v) throw ValueError(std::string("potential ") + name + " is NULL");
    const std::string text = name;
    const auto call = [v, context, text](MatrixView<const double> x, double* value,
                                         MatrixView<double> gradient) {
      const Index d = x.cols;
      // C sees dense rows.
      Matrix<double> points, slopes;
      const double* at = x.data;
      if (x.ld != d) {
        points = Matrix<double>(x.rows, d);
        for (Index i = 0; i < x.rows; ++i) std::copy_n(x.row(i), d, points.row(i));
        at = points.data();
      }
      double* slope = gradient.data;
      if (gradient && gradient.ld != d) {
        slopes = Matrix<double>(x.rows, d);
        slope = slopes.data();
      }
      const int code = v(x.rows, static_cast<int>(d), at, value, slope, context);
      if (code != 0) throw CallbackError("potential " + text + " returned " + std::to_string(code), code);
      for (Index i = 0; !slopes.empty() && i < x.rows; ++i) std::copy_n(slopes.row(i), d, gradient.row(i));
    };
    settings->potentials[text] = {call, thread_safe != 0};
    return BRENIER_OK;
  });
}
void brenier_settings_destroy(brenier_settings* settings) {
  delete settings;
}

int brenier_flow_create(brenier_flow** flow, const brenier_settings* settings, ptrdiff_t n, int d, int type,
                        const void* x, ptrdiff_t particle_stride, ptrdiff_t component_stride,
                        const double* log_density) {
  return guarded([&] {
    need(flow, "flow");
    need(settings, "settings");
    *flow = told(settings->communicator, [&] {
      auto made = std::make_unique<brenier_flow>();
      Cloud cloud;
      if (x) {
        if (n < 1 || d < 1)
          throw ValueError("n = " + std::to_string(n) + ", d = " + std::to_string(d) +
                           "; both must be at least 1");
        cloud = cloud_of({x, type, particle_stride, component_stride}, n, d, log_density);
        made->config = parse(*settings, &cloud);
        if (made->config.cloud.density && cloud.log_density.empty())
          cloud.log_density = made->config.cloud.density->log_density(cloud.x);
      } else {
        made->config = parse(*settings, nullptr);
        cloud = made->config.initial_cloud();
        if ((n != 0 && n != cloud.x.rows()) || (d != 0 && d != cloud.x.cols())) {
          throw ShapeError("x is NULL with n = " + std::to_string(n) + ", d = " + std::to_string(d) +
                           "; they must be 0, or those of [cloud], n = " + std::to_string(cloud.x.rows()) +
                           ", d = " + std::to_string(cloud.x.cols()));
        }
        if (log_density)
          throw ValueError(
              "log_density is given without x; it must be NULL where [cloud] draws the particles");
      }
      made->law = made->config.cloud.density;
      made->start = made->first = some_of(cloud.x);
      made->held_out = made->config.held_out.particles > 0;
      if (made->config.precision == "double")
        made->flow = make_flow<double>(*made, std::move(cloud));
      else
        made->flow = make_flow<float>(*made, std::move(cloud));
      return made.release();
    });
    return BRENIER_OK;
  });
}
void brenier_flow_destroy(brenier_flow* flow) {
  delete flow;
}

int brenier_flow_step(brenier_flow* flow) {
  return guarded([&] { return step(flow); });
}
int brenier_flow_run(brenier_flow* flow, double time, brenier_progress progress, void* context) {
  return guarded([&]() -> int {
    need(flow, "flow");
    if (!std::isfinite(time)) throw ValueError("time = " + show(time) + "; it must be finite");
    const auto reached = [&] {
      return with(flow, [&](auto& f) { return f.time() >= time - 1e-9 * f.options().tau; });
    };
    while (!reached()) {
      const int status = step(flow);
      if (status == BRENIER_AT_END) return BRENIER_OK;
      if (status != BRENIER_OK) return status;
      if (!progress) continue;
      int ends = 0;
      {
        const HostFloatingPoint host;
        ends = progress(flow, context);
      }
      if (ends != 0)
        return fail(BRENIER_INTERRUPTED, "interrupted by the progress function, after a whole step");
    }
    return BRENIER_OK;
  });
}
void brenier_flow_interrupt(brenier_flow* flow) {
  if (flow) std::visit([](auto& one) { one->interrupt(); }, flow->flow);
}

int brenier_flow_dim(const brenier_flow* flow) {
  return flow ? flow->config.cloud.dim : 0;
}
ptrdiff_t brenier_flow_particles(const brenier_flow* flow) {
  return flow ? with(flow, [](const auto& f) { return f.trajectory().size(); }) : 0;
}
int brenier_flow_steps(const brenier_flow* flow) {
  return flow ? with(flow, [](const auto& f) { return f.steps(); }) : 0;
}
double brenier_flow_time(const brenier_flow* flow) {
  return flow ? with(flow, [](const auto& f) { return f.time(); }) : 0;
}

int brenier_flow_get_cloud(const brenier_flow* flow, int type, void* x, ptrdiff_t particle_stride,
                           ptrdiff_t component_stride, double* log_density) {
  return guarded([&] {
    const Turn turn(flow);
    const Trajectory& cloud = with(flow, [](const auto& f) -> const Trajectory& { return f.trajectory(); });
    if (log_density && !cloud.has_density())
      throw ValueError("the log-densities of this cloud are not known: it was given without");
    if (x) write(cloud.x(), {x, type, particle_stride, component_stride});
    if (log_density) std::copy(cloud.log_density().begin(), cloud.log_density().end(), log_density);
    return BRENIER_OK;
  });
}
int brenier_flow_set_cloud(brenier_flow* flow, ptrdiff_t n, int type, const void* x,
                           ptrdiff_t particle_stride, ptrdiff_t component_stride, const double* log_density) {
  return guarded([&] {
    const Turn turn(flow);
    Cloud cloud =
        cloud_of({x, type, particle_stride, component_stride}, n, flow->config.cloud.dim, log_density);
    set_cloud(flow, std::move(cloud));
    return BRENIER_OK;
  });
}
int brenier_flow_get_device_cloud(const brenier_flow* flow, int type, void* x, ptrdiff_t particle_stride,
                                  ptrdiff_t component_stride, double* log_density, void* stream) {
  return guarded([&] {
    const Turn turn(flow);
    with(flow, [&](const auto& f) {
      const Index n = f.trajectory().size(), d = f.trajectory().dim();
      f.get_cloud(on_device<void>({x, type, particle_stride, component_stride}, n, d, log_density, stream));
    });
    return BRENIER_OK;
  });
}
int brenier_flow_set_device_cloud(brenier_flow* flow, ptrdiff_t n, int type, const void* x,
                                  ptrdiff_t particle_stride, ptrdiff_t component_stride,
                                  const double* log_density, void* stream) {
  return guarded([&] {
    const Turn turn(flow);
    need(x, "the address of the points");
    const DeviceCloud cloud = on_device<const void>({x, type, particle_stride, component_stride}, n,
                                                    flow->config.cloud.dim, log_density, stream);
    set_cloud(flow, cloud);
    return BRENIER_OK;
  });
}
int brenier_flow_set_functional(brenier_flow* flow, const brenier_settings* settings) {
  return guarded([&] {
    const Turn turn(flow);
    need(settings, "settings");
    with(flow, [&](auto& f) {
      const Cloud cloud{f.trajectory().x(), f.trajectory().log_density()};
      Config given = parse_functional(settings->text, kText, settings->folder, settings->overrides,
                                      {settings->potentials, &cloud});
      std::string resolved = with_functional(flow->config.resolved, given.resolved);
      f.set_functional(given.functional);
      flow->config.functional = std::move(given.functional);
      flow->config.parameters = std::move(given.parameters);
      flow->config.resolved = std::move(resolved);
    });
    return BRENIER_OK;
  });
}

int brenier_flow_value(const brenier_flow* flow, const char* name, double* value) {
  return guarded([&] {
    const Turn turn(flow);
    need(name, "name");
    need(value, "value");
    *value = named_value(flow, name);
    return BRENIER_OK;
  });
}
const char* brenier_flow_report(const brenier_flow* flow) {
  const int status = guarded([&] {
    need(flow, "flow");
    flow->json = flow->report ? json_of(*flow->report) : "{}";
    return BRENIER_OK;
  });
  return status == BRENIER_OK ? flow->json.c_str() : nullptr;
}
const char* brenier_flow_settings(const brenier_flow* flow) {
  return flow ? flow->config.resolved.c_str() : "";
}

int brenier_flow_save(const brenier_flow* flow, void** bytes, size_t* size) {
  return guarded([&] {
    const Turn turn(flow);
    give_bytes(with(flow, [](const auto& f) { return f.save(); }), bytes, size);
    return BRENIER_OK;
  });
}
int brenier_flow_load(brenier_flow* flow, const void* bytes, size_t size) {
  return guarded([&] {
    const Turn turn(flow);
    load(flow, bytes_of(bytes, size));
    return BRENIER_OK;
  });
}
int brenier_flow_save_file(const brenier_flow* flow, const char* path) {
  return guarded([&] {
    const Turn turn(flow);
    write_bytes(path, with(flow, [](const auto& f) { return f.save(); }));
    return BRENIER_OK;
  });
}
int brenier_flow_load_file(brenier_flow* flow, const char* path) {
  return guarded([&] {
    const Turn turn(flow);
    const std::vector<std::byte> bytes = bytes_of_file(path);
    of_file(path, [&] { load(flow, bytes); });
    return BRENIER_OK;
  });
}

int brenier_maps_of_flow(brenier_maps** maps, const brenier_flow* flow) {
  return guarded([&] {
    need(maps, "maps");
    const Turn turn(flow);
    std::vector<BrenierMap> all = with(flow, [](const auto& f) { return f.maps(); });
    if (all.empty())
      throw ValueError(flow->config.flow.keep_maps ? "maps: there was no step since the cloud was given"
                                                   : "maps: flow.keep_maps = false, so that there are none");
    *maps = make_maps(std::move(all), flow->law, flow->start, flow->config.flow.threads).release();
    return BRENIER_OK;
  });
}
int brenier_maps_load_file(brenier_maps** maps, const char* path, const brenier_settings* settings) {
  return guarded([&] {
    need(maps, "maps");
    const std::vector<std::byte> bytes = bytes_of_file(path);
    *maps = load_maps(bytes, path, settings).release();
    return BRENIER_OK;
  });
}
int brenier_maps_load(brenier_maps** maps, const void* bytes, size_t size, const brenier_settings* settings) {
  return guarded([&] {
    need(maps, "maps");
    *maps = load_maps(bytes_of(bytes, size), "maps", settings).release();
    return BRENIER_OK;
  });
}
int brenier_maps_save_file(const brenier_maps* maps, const char* path) {
  return guarded([&] {
    need(maps, "maps");
    write_bytes(path, map_bytes(maps->maps));
    return BRENIER_OK;
  });
}
int brenier_maps_save(const brenier_maps* maps, void** bytes, size_t* size) {
  return guarded([&] {
    need(maps, "maps");
    give_bytes(map_bytes(maps->maps), bytes, size);
    return BRENIER_OK;
  });
}
void brenier_maps_destroy(brenier_maps* maps) {
  delete maps;
}
int brenier_maps_dim(const brenier_maps* maps) {
  return maps ? maps->density->dim() : 0;
}

int brenier_maps_push(const brenier_maps* maps, ptrdiff_t n, int type, const void* x,
                      ptrdiff_t x_particle_stride, ptrdiff_t x_component_stride, void* y,
                      ptrdiff_t y_particle_stride, ptrdiff_t y_component_stride) {
  return guarded([&] {
    need(maps, "maps");
    if (n == 0) return BRENIER_OK;
    const Matrix<double> from =
        read({x, type, x_particle_stride, x_component_stride}, n, maps->density->dim());
    write(maps->density->push(from), {y, type, y_particle_stride, y_component_stride});
    return BRENIER_OK;
  });
}
int brenier_maps_pull(const brenier_maps* maps, ptrdiff_t n, int type, const void* y,
                      ptrdiff_t y_particle_stride, ptrdiff_t y_component_stride, void* x,
                      ptrdiff_t x_particle_stride, ptrdiff_t x_component_stride) {
  return guarded([&] {
    need(maps, "maps");
    if (n == 0) return BRENIER_OK;
    const Matrix<double> from =
        read({y, type, y_particle_stride, y_component_stride}, n, maps->density->dim());
    write(maps->density->pull(from).x, {x, type, x_particle_stride, x_component_stride});
    return BRENIER_OK;
  });
}
int brenier_maps_log_density(const brenier_maps* maps, ptrdiff_t n, int type, const void* y,
                             ptrdiff_t particle_stride, ptrdiff_t component_stride, double* log_density) {
  return guarded([&] {
    const FlowDensity& density = lawful(maps);
    if (n == 0) return BRENIER_OK;
    need(log_density, "log_density");
    const FlowDensity::LogDensities found =
        density.log_density(read({y, type, particle_stride, component_stride}, n, density.dim()));
    for (std::size_t i = 0; i < found.values.size(); ++i) {
      log_density[i] = found.status[i] == InverseStatus::unconverged
                           ? std::numeric_limits<double>::quiet_NaN()
                           : found.values[i];
    }
    return BRENIER_OK;
  });
}
int brenier_maps_sample(const brenier_maps* maps, ptrdiff_t n, unsigned long long seed, int type, void* x,
                        ptrdiff_t particle_stride, ptrdiff_t component_stride, double* log_density) {
  return guarded([&] {
    const FlowDensity& density = lawful(maps);
    if (n == 0) return BRENIER_OK;
    const Cloud drawn = density.sample(n, Sampling::random, seed);
    if (x) write(drawn.x, {x, type, particle_stride, component_stride});
    if (log_density) std::copy(drawn.log_density.begin(), drawn.log_density.end(), log_density);
    return BRENIER_OK;
  });
}

}  // extern "C"
