// SPDX-License-Identifier: MIT
// The method's side of a configuration, and its clouds.
#include "tools/config/config.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "brenier/device.hpp"
#include "brenier/npy.hpp"

namespace brenier::app {
namespace {

void read_flow(Section& section, const CloudConfig& cloud, Config& config) {
  if (!section.present()) section.fail("", "is missing: the table [flow] needs tau and steps");
  FlowOptions& flow = config.flow;
  flow.start_time =
      section.number("start_time", any_number(), cloud.barenblatt ? cloud.barenblatt->time : 0.0);
  if (section.kind("tau") == Section::Kind::text) {
    const std::string word = section.text("tau");
    if (word != "auto") section.fail("tau", "= \"" + word + "\"; it must be a number above 0, or \"auto\"");
    flow.order = static_cast<int>(section.integer("order", {2, 2}, 2));
    flow.adaptive.end_time = section.number("end_time", above(flow.start_time));
    flow.adaptive.tolerance = section.number("tolerance", above(0), 2e-3);
    const double duration = flow.adaptive.end_time - flow.start_time;
    flow.tau = section.number("first_tau", {0, duration, true, false}, 1e-3 * duration);
    config.steps = static_cast<int>(section.integer("steps", {1, 999'999}, 10'000));
  } else {
    section.allow({"tau", "steps", "order", "start_time", "certificates"}, "where tau is a number");
    flow.tau = section.number("tau", above(0));
    config.steps = static_cast<int>(section.integer("steps", {1, 999'999}));
    flow.order = static_cast<int>(section.integer("order", {1, 2}, 1));
  }
  flow.certificates = section.boolean("certificates", flow.certificates);
  flow.mass = cloud.mass();
}

void read_network(Section& section, FlowOptions& flow) {
  Architecture& net = flow.network;
  net.hidden = section.widths("hidden", net.hidden);
  net.activation = section.choice("activation", {"softplus", "squareplus"}, "softplus") == "softplus"
                       ? Activation::softplus
                       : Activation::squareplus;
  net.residual = section.boolean("residual", net.residual);
  net.quadratic_rank = static_cast<int>(section.integer("quadratic_rank", {0, 100'000}, net.quadratic_rank));
  flow.inner.alpha = section.number("alpha", at_least(0), flow.inner.alpha);
  net.learn_alpha = section.boolean("learn_alpha", net.learn_alpha);
  net.alpha_min = section.number("alpha_min", at_least(0), net.alpha_min);
  net.floor = section.number("floor", at_least(0), net.floor);
  net.sharpness = section.number("sharpness", above(0), net.sharpness);
  flow.normalise = section.boolean("normalise", flow.normalise);
  Index parameters = 0;
  try {
    parameters = Icnn(net).parameters();
  } catch (const ValueError& error) {
    section.fail("hidden", std::string("gives no valid network: ") + error.what());
  }
  // Adam, checkpoints and a map for each step take some tens of bytes a parameter.
  constexpr Index most = 50'000'000;
  if (parameters > most) {
    section.fail("hidden", "gives a network of " + std::to_string(parameters) + " parameters; at most " +
                               std::to_string(most) + " are allowed: use narrower layers");
  }
}

void read_inner(Section& section, const CloudConfig& cloud, InnerOptions& inner) {
  constexpr double most = 2'000'000'000;
  inner.iterations = static_cast<int>(section.integer("iterations", {1, most}, inner.iterations));
  inner.adam.rate = section.number("rate", above(0), inner.adam.rate);
  inner.adam.final_fraction = section.number("final_fraction", between(0, 1), inner.adam.final_fraction);
  const Range decay{0, 1, false, true};
  inner.adam.beta1 = section.number("beta1", decay, inner.adam.beta1);
  inner.adam.beta2 = section.number("beta2", decay, inner.adam.beta2);
  inner.adam.epsilon = section.number("epsilon", above(0), inner.adam.epsilon);
  inner.warm_start = section.boolean("warm_start", inner.warm_start);
  inner.initialisation = section.choice("initialisation", {"identity", "paper"}, "identity") == "identity"
                             ? Initialisation::identity
                             : Initialisation::paper;
  inner.minibatch = section.integer("minibatch", {0, most}, inner.minibatch);
  inner.refresh = static_cast<int>(section.integer("refresh", {0, most}, inner.refresh));
  if (inner.refresh > 0 && !cloud.density) {
    section.fail("refresh", "= " + std::to_string(inner.refresh) +
                                "; a cloud from a file cannot be drawn again, so it must be 0");
  }
  inner.tolerance = section.number("tolerance", at_least(0), inner.tolerance);
  inner.retries = static_cast<int>(section.integer("retries", {0, 100}, inner.retries));
  LogDetChoice& log_det = inner.log_det;
  const std::string method = section.choice("logdet", {"auto", "exact", "cg"}, "auto");
  log_det.method = method == "auto"    ? LogDetChoice::Method::automatic
                   : method == "exact" ? LogDetChoice::Method::exact
                                       : LogDetChoice::Method::cg;
  log_det.probes = static_cast<int>(section.integer("probes", {1, 1000}, log_det.probes));
  log_det.iterations = static_cast<int>(section.integer("cg_iterations", {1, 1000}, log_det.iterations));
  log_det.tolerance = section.number("cg_tolerance", {0, 1, false, true}, log_det.tolerance);
}

void read_held_out(Section& section, const Config& config, HeldOutConfig& held_out) {
  constexpr double most = 1e9;
  // Second order keeps d^2 numbers a particle.
  const double dim = config.cloud.dim;
  const bool jacobians = config.flow.order == 2 && config.functional.needs_density();
  const double fallback = !config.cloud.density                    ? 0
                          : !config.functional.distances().empty() ? 2000  // all pairs with the reference
                          : jacobians ? std::clamp(5e7 / (dim * dim), 1000.0, 100'000.0)
                                      : 100'000;
  held_out.particles = section.integer("particles", {0, most}, static_cast<long long>(fallback));
  if (held_out.particles > 0 && !config.cloud.density) {
    section.fail("particles",
                 "= " + std::to_string(held_out.particles) +
                     "; held-out particles cannot be drawn for a cloud from a file, so it must be 0");
  }
  held_out.sampling =
      sampling_of(section.choice("sampling", {"random", "stratified", "whitened"}, "stratified"));
  if (held_out.sampling == Sampling::whitened &&
      (!config.cloud.gaussian || held_out.particles <= config.cloud.dim)) {
    section.fail("sampling",
                 "= \"whitened\" needs cloud.density = \"gaussian\" and more particles than dimensions");
  }
  held_out.every = static_cast<int>(section.integer("every", {1, most}, 1));
  // All pairs of 100,000 particles take seconds: up to the last step some of them stand for all.
  held_out.pair_limit = section.integer("pair_limit", {0, most}, 8192);
}

void read_output(Section& section, Config& config) {
  constexpr double most = 1e9;
  config.clouds_every = static_cast<int>(section.integer("every", {1, most}, std::max(1, config.steps / 10)));
  config.checkpoint_every =
      static_cast<int>(section.integer("checkpoint_every", {1, most}, std::max(1, config.steps / 20)));
}

void read_exact(Section& section, const Config& config, ExactConfig& exact) {
  if (section.has("functional")) exact.functional = section.number("functional", any_number());
  if (section.has("std")) exact.deviation = section.number("std", above(0));
  if (!section.has("density")) return;
  exact.density = section.text("density");
  try {
    Parameters parameters = config.parameters;
    try {
      static_cast<void>(Expression::potential(exact.density, config.cloud.dim, parameters));
    } catch (const Error&) {
      exact.steady = false;
      parameters["time"] = Parameter::scalar(config.flow.start_time);
      static_cast<void>(Expression::potential(exact.density, config.cloud.dim, parameters));
    }
  } catch (const Error& error) {
    section.fail("density", std::string("cannot be used (variables are x and time): ") + error.what());
  }
}

void read_device(Section& root, Config& config) {
  config.flow.seed = static_cast<std::uint64_t>(root.integer("seed", at_least(0), 0));
  config.precision = root.choice("precision", {"float", "double"}, "float");
  config.flow.device = root.text("device", "auto");
  try {
    static_cast<void>(backend<float>(config.flow.device));
  } catch (const Error& error) {
    root.fail("device", std::string("cannot be used: ") + error.what());
  }
  config.flow.threads = static_cast<int>(root.integer("threads", {0, 4096}, 0));
}

std::uint64_t mixed(std::uint64_t seed, std::uint64_t draw) {
  return seed + 0x9E3779B97F4A7C15ull * draw;
}

}  // namespace

Config parse_config(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                    const std::vector<std::string>& overrides) {
  Document document(text, name, folder, overrides);
  Section root = document.root({"seed", "precision", "device", "threads", "cloud", "parameters", "functional",
                                "flow", "network", "inner", "held_out", "output", "exact"});
  Config config;
  config.name = name;
  read_device(root, config);

  // Unknown keys come first: a missing key is often a misspelt one.
  Section cloud = root.table("cloud", {});
  config.cloud = read_cloud(cloud);
  Section parameters = root.table("parameters", {});
  config.parameters = read_parameters(parameters);
  std::vector<Section> terms = root.tables("functional");
  if (terms.empty())
    root.fail("functional", "is missing: write at least one [[functional]] table with a term");
  config.functional =
      read_functional(terms, config.cloud.dim, config.parameters, [&] { return config.initial_cloud().x; });
  if (config.functional.needs_density() && !config.cloud.density && config.cloud.log_density.empty()) {
    cloud.fail("log_density",
               "is missing: the functional has an internal energy, which needs the log-density of "
               "every particle, a .npy file of N numbers");
  }

  Section flow = root.table(
      "flow", {"tau", "steps", "order", "start_time", "end_time", "tolerance", "first_tau", "certificates"});
  read_flow(flow, config.cloud, config);
  Section network = root.table("network", {"hidden", "activation", "residual", "quadratic_rank", "alpha",
                                           "learn_alpha", "alpha_min", "floor", "sharpness", "normalise"});
  config.flow.network.dim = config.cloud.dim;
  read_network(network, config.flow);
  Section inner = root.table("inner", {"iterations", "rate", "final_fraction", "beta1", "beta2", "epsilon",
                                       "warm_start", "initialisation", "minibatch", "refresh", "tolerance",
                                       "retries", "logdet", "probes", "cg_iterations", "cg_tolerance"});
  read_inner(inner, config.cloud, config.flow.inner);
  Section held_out = root.table("held_out", {"particles", "sampling", "every", "pair_limit"});
  read_held_out(held_out, config, config.held_out);
  Section output = root.table("output", {"every", "checkpoint_every"});
  read_output(output, config);
  Section exact = root.table("exact", {"functional", "std", "density"});
  read_exact(exact, config, config.exact);
  config.resolved = document.resolved();
  return config;
}

Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  std::error_code code;
  if (!std::filesystem::exists(path, code)) throw IoError("'" + path.string() + "': no such file");
  if (std::filesystem::is_directory(path, code))
    throw IoError("'" + path.string() + "' is a folder, not a TOML file");
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw IoError("'" + path.string() + "': cannot be read");
  return parse_config(text.str(), path.string(), std::filesystem::absolute(path).parent_path(), overrides);
}

Cloud Config::initial_cloud() const {
  if (cloud.density)
    return cloud.density->sample(cloud.particles, cloud.sampling, flow.seed, RandomStream::cloud);
  const auto fail = [](const std::string& place, const std::filesystem::path& file, const std::string& what) {
    throw ConfigError(place + " cannot be used: '" + file.string() + "': " + what);
  };
  Cloud out;
  try {
    out.x = read_npy(cloud.file);
  } catch (const Error& error) {
    throw ConfigError(cloud.file_place + " cannot be used: " + error.what());
  }
  for (Index i = 0; i < out.x.rows(); ++i) {
    for (Index c = 0; c < out.x.cols(); ++c) {
      if (std::isfinite(out.x(i, c))) continue;
      fail(cloud.file_place, cloud.file,
           "particle " + std::to_string(i) + " has the coordinate " + exact_text(out.x(i, c)) +
               "; all coordinates must be finite");
    }
  }
  if (cloud.log_density.empty()) return out;
  try {
    out.log_density = read_npy_vector(cloud.log_density);
  } catch (const Error& error) {
    throw ConfigError(cloud.log_density_place + " cannot be used: " + error.what());
  }
  for (std::size_t i = 0; i < out.log_density.size(); ++i) {
    const double value = out.log_density[i];
    if (!std::isnan(value) && value < std::numeric_limits<double>::infinity()) continue;
    fail(cloud.log_density_place, cloud.log_density,
         "particle " + std::to_string(i) + " has the log-density " + exact_text(value) +
             "; log-densities must be finite, or -inf where the density vanishes");
  }
  return out;
}

Cloud Config::held_out_cloud(Index particles) const {
  return cloud.density->sample(particles, held_out.sampling, flow.seed, RandomStream::held_out);
}

Cloud Config::fresh_cloud(std::uint32_t draw) const {
  // In d = 1 a stratified cloud is always the same one.
  const Sampling how =
      cloud.sampling == Sampling::stratified && cloud.dim == 1 ? Sampling::random : cloud.sampling;
  return cloud.density->sample(cloud.particles, how, mixed(flow.seed, draw), RandomStream::fresh);
}

}  // namespace brenier::app
