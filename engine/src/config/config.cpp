// SPDX-License-Identifier: MIT
// The method's side of a configuration, and its clouds.
#include "engine/src/config/config.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "brenier/device.hpp"
#include "brenier/npy.hpp"
#include "brenier/text_file.hpp"
#include "engine/src/config/keys.hpp"
#include "engine/src/flow/options.hpp"
#include "kernels/base/show.hpp"
#include "kernels/model/keys.hpp"

namespace brenier {
namespace {

/// What fixed steps have in place of `steps`: where the last one ends.
void read_end_time(Section& section, const FlowOptions& flow, Config& config) {
  Section silent = section.silent();  // `steps` is noted, which a longer run may change
  const double end = silent.number("end_time", any_number());
  const auto fail = [&](const std::string& what) { section.fail("end_time", "= " + exact_text(end) + what); };
  if (section.has("steps")) fail(" stands beside steps; write one of the two");
  const double count = (end - flow.start_time) / flow.tau, whole = std::round(count);
  if (!(count > 0)) fail("; it must be above " + exact_text(flow.start_time) + ", where the flow starts");
  if (!(whole < 1e6))
    fail(": " + exact_text(count) + " steps of tau = " + exact_text(flow.tau) +
         " lead there; at most 999999 are allowed");
  // The rounding of the difference counts as none.
  const double rounding = 0x1p-52 * (std::abs(end) + std::abs(flow.start_time)) / flow.tau;
  if (!(whole >= 1 && std::abs(count - whole) <= 1e-9 + rounding)) {
    const double before = std::max(1.0, std::floor(count));
    fail("; it must be a whole number of steps of tau = " + exact_text(flow.tau) + " after " +
         exact_text(flow.start_time) + ", as " + show(flow.start_time + before * flow.tau, 12) + " and " +
         show(flow.start_time + (before + 1) * flow.tau, 12) + " are");
  }
  config.steps = static_cast<int>(whole);
  section.note("steps", std::to_string(config.steps));
}

/// A host takes steps itself, as many as it wants: `steps` and held-out particles are for those who name them.
void read_flow(Section& section, const CloudConfig& cloud, bool host, Config& config) {
  section.allow(names_of("", flow_keys(), step_keys()));
  if (!section.present()) section.fail("", "is missing: the table [flow] needs tau and steps");
  FlowOptions& flow = config.flow;
  flow.start_time = cloud.barenblatt ? cloud.barenblatt->time : 0.0;
  section.read_first("start_time", flow_keys(), flow);
  std::string kind = "number";
  if (section.kind("tau") == Section::Kind::text) {
    kind = section.text("tau");
    if (kind != "auto") section.fail("tau", "= \"" + kind + "\"; it must be a number above 0, or \"auto\"");
    flow.order = 2;
    section.read_first("order", flow_keys(), flow);
    if (flow.order != 2) section.fail("order", "= 1; it must be 2 where tau = \"auto\"");
    section.read_first("end_time", flow_keys(), flow);
    const double duration = flow.adaptive.end_time - flow.start_time;
    if (!(duration > 0)) {
      section.fail("end_time", "= " + exact_text(flow.adaptive.end_time) + "; it must be above " +
                                   exact_text(flow.start_time) + ", where the flow starts");
    }
    flow.adaptive.tolerance = 2e-3;
    flow.tau = 1e-3 * duration;
    section.read_first("tolerance", flow_keys(), flow);
    section.read_first("first_tau", flow_keys(), flow);
    if (flow.tau > duration) {
      section.fail("first_tau", "= " + exact_text(flow.tau) + "; it must be at most " + exact_text(duration));
    }
    config.steps = 10'000;
  } else {
    section.allow(names_of(kind, flow_keys(), step_keys()), "where tau is a number");
    section.read_first("tau", flow_keys(), flow, kind);
    if (section.has("end_time")) read_end_time(section, flow, config);
  }
  if (host && !section.noted("steps") && !section.has("steps")) {
    config.ends = false;
    config.steps = 999'999;
    section.note("steps", std::to_string(config.steps));
  }
  section.read(step_keys(), config, kind);
  section.read(flow_keys(), flow, kind);
  // Where 1/tau is a number in float too.
  constexpr double shortest = 1e-30;
  if (flow.tau < shortest)
    section.fail("tau",
                 "= " + exact_text(flow.tau) + "; it must be at least 1e-30: choose another unit of time");
  if (!std::isfinite(flow.start_time + config.duration()))
    section.fail("steps",
                 "= " + std::to_string(config.steps) + " of this tau end at a time that is not finite");
  const double shown = 1000 * std::numeric_limits<double>::epsilon() * std::abs(flow.start_time);
  if (const double step = config.adaptive() ? config.duration() : flow.tau; step < shown) {
    section.fail("start_time", "= " + exact_text(flow.start_time) + "; a step of " + exact_text(step) +
                                   " is lost in its rounding: let the time begin at 0, or take another unit "
                                   "of it");
  }
  flow.mass = cloud.mass();
}

void read_network(Section& section, FlowOptions& flow) {
  section.allow(names_of("", architecture_keys(), network_keys()));
  section.read(architecture_keys(), flow.network);
  section.read(network_keys(), flow);
  Index parameters = 0;
  try {
    parameters = Icnn(flow.network).parameters();
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

void read_inner(Section& section, const CloudConfig& cloud, FlowOptions& flow) {
  section.allow(names_of("", inner_keys()));
  section.read(inner_keys(), flow);
  if (flow.inner.minibatch > cloud.particles && cloud.particles > 0) {
    section.fail("minibatch", "= " + std::to_string(flow.inner.minibatch) +
                                  "; it must be at most the number of particles, " +
                                  std::to_string(cloud.particles) + ", and 0 takes all of them");
  }
  if (flow.inner.refresh > 0 && !cloud.density) {
    section.fail("refresh", "= " + std::to_string(flow.inner.refresh) +
                                "; a cloud from a file cannot be drawn again, so it must be 0; or estimate a "
                                "density from it: cloud.density = \"kde\" or \"gaussian_mixture\"");
  }
}

/// Which particles of a file are kept from its cloud: as many as there are held-out ones, in no order.
std::vector<char> kept_apart(Index n, Index apart, std::uint64_t seed) {
  const Random random(seed, RandomStream::held_out);
  std::vector<std::pair<double, Index>> draws;
  for (Index i = 0; i < n; ++i) draws.emplace_back(random.uniform(0, 0, static_cast<std::uint64_t>(i)), i);
  std::nth_element(draws.begin(), draws.begin() + apart, draws.end());
  std::vector<char> out(static_cast<std::size_t>(n), 0);
  for (Index k = 0; k < apart; ++k) out[draws[k].second] = 1;
  return out;
}

/// The key `fraction`, which comes before all that asks for the initial cloud.
void read_fraction(Section& section, bool host, Config& config) {
  section.allow(names_of("", held_out_keys()));
  HeldOutConfig& held_out = config.held_out;
  section.read_first("fraction", held_out_keys(), held_out);
  if (held_out.fraction == 0) return;
  CloudConfig& cloud = config.cloud;
  if (cloud.density || host)
    section.fail("fraction",
                 "= " + exact_text(held_out.fraction) +
                     " is for cloud.density = \"file\", whose particles it divides; write how many "
                     "held-out particles there are in particles");
  const double wanted = std::round(held_out.fraction * static_cast<double>(cloud.points));
  if (!(wanted >= 1 && wanted < static_cast<double>(cloud.points)))
    section.fail("fraction", "= " + exact_text(held_out.fraction) + " of " + std::to_string(cloud.points) +
                                 " particles leaves nothing on one side");
  held_out.particles = static_cast<Index>(wanted);
  cloud.particles = cloud.points - held_out.particles;
}

void read_held_out(Section& section, const Config& config, bool host, HeldOutConfig& held_out) {
  const Index apart = held_out.particles;  // by `fraction`
  // Second order keeps d^2 numbers a particle.
  const double dim = config.cloud.dim;
  const bool jacobians = config.flow.order == 2 && config.functional.needs_density();
  const bool distances = !config.functional.terms_of<Functional::Divergence>().empty();
  // F is judged three times as exactly as it is sampled, for the cost of a few gradients: on ten times the cloud, or four
  // times where errors of stratified points fall with their number and not with its root. F of pairs has a bias of the order 1/N, and takes more. A kernel estimate takes all its points for every particle.
  const bool pairs = !config.functional.terms_of<Functional::Interaction>().empty();
  const double kernels = config.cloud.kind == "kde" ? 1e8 / static_cast<double>(config.cloud.points) : 1e5;
  const double times = config.cloud.sampling == Sampling::stratified && dim <= 3 ? 4 : 10;
  const double several = std::min(
      std::max(kernels, 1000.0),
      pairs ? 100'000
            : std::clamp(times * static_cast<double>(config.cloud.particles), 1000 * times, 100'000.0));
  const bool particles = config.flow.method == FlowOptions::Method::particles;  // without maps
  const double fallback = !config.cloud.density || host || particles ? 0
                          : distances                                ? 2000  // all pairs with the reference
                          : jacobians ? std::clamp(5e7 / (dim * dim), 1000.0, several)
                                      : several;
  if (held_out.fraction == 0) held_out.particles = static_cast<Index>(fallback);
  section.read(held_out_keys(), held_out);
  if (held_out.particles > 0 && particles)
    section.fail("particles",
                 "= " + std::to_string(held_out.particles) +
                     "; it must be 0 where flow.method = \"particles\", whose steps are no maps");
  check_memory(section, "particles", static_cast<double>(held_out.particles) * (jacobians ? dim * dim : dim),
               config.cloud.dim);
  if (held_out.particles != apart && held_out.fraction > 0) {
    section.fail("particles", "= " + std::to_string(held_out.particles) +
                                  ", but fraction = " + exact_text(held_out.fraction) + " of the file are " +
                                  std::to_string(apart) + "; write one of them");
  }
  if (held_out.particles > 0 && !config.cloud.density && held_out.fraction == 0) {
    section.fail(
        "particles",
        "= " + std::to_string(held_out.particles) +
            "; held-out particles cannot be drawn for a cloud from a file: write fraction = 0.2 to "
            "keep a part of the file for them, or estimate a density with cloud.density = \"kde\" or "
            "\"gaussian_mixture\"");
  }
  if (held_out.sampling == Sampling::whitened &&
      (!config.cloud.gaussian || held_out.particles <= config.cloud.dim)) {
    section.fail("sampling",
                 "= \"whitened\" needs cloud.density = \"gaussian\" and more particles than dimensions");
  }
}

void read_output(Section& section, Config& config) {
  section.allow(names_of("", output_keys()));
  config.clouds_every = std::max(1, config.steps / 10);
  config.checkpoint_every = std::max(1, config.steps / 20);
  section.read(output_keys(), config);
}

void read_exact(Section& section, const Config& config, ExactConfig& exact) {
  section.allow(names_of("", exact_keys()));
  section.read(exact_keys(), exact);
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

void read_top(Section& root, Config& config) {
  std::vector<std::string> names = names_of("", run_keys(), top_keys());
  names.insert(names.end(), {"cloud", "parameters", "functional", "flow", "network", "inner", "held_out",
                             "output", "exact"});
  root.allow(names);
  root.read(run_keys(), config.flow);
  root.read(top_keys(), config);
  try {
    static_cast<void>(backend<float>(config.flow.device));
  } catch (const Error& error) {
    root.fail("device", std::string("cannot be used: ") + error.what());
  }
}

std::uint64_t mixed(std::uint64_t seed, std::uint64_t draw) {
  return seed + 0x9E3779B97F4A7C15ull * draw;
}

/// The exponent of the first porous medium term, if there is one.
std::optional<double> exponent_of(const Section& root) {
  for (Section& term : root.silent().tables("functional")) {
    const bool has_both = term.kind("term") == Section::Kind::text && term.kind("m") == Section::Kind::number;
    if (has_both && term.text("term") == "porous_medium") {
      const double m = term.number("m", {});
      if (m > 1) return m;  // what is wrong with it is said where the term is read
    }
  }
  return {};
}

/// [parameters] and [[functional]], for clouds of that dimension; `initial` gives one where a term wants it.
template <class Initial>
void read_terms(Section& root, const Initial& initial, const HostInput* host, Config& config) {
  Section parameters = root.table("parameters");
  config.parameters = read_parameters(parameters);
  std::vector<Section> terms = root.tables("functional");
  if (terms.empty())
    root.fail("functional", "is missing: write at least one [[functional]] table with a term");
  config.functional = read_functional(terms, config.cloud.dim, config.parameters, initial, host);
}

}  // namespace

Config parse_config(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                    const std::vector<std::string>& overrides, const HostInput* host) {
  Document document(text, name, folder, overrides);
  Section root = document.root();
  Config config;
  config.name = name;
  read_top(root, config);

  // Unknown keys come first: a missing key is often a misspelt one.
  Section cloud = root.table("cloud");
  config.cloud = read_cloud(cloud, exponent_of(root), host);
  Section held_out = root.table("held_out");
  read_fraction(held_out, host != nullptr, config);
  const auto initial = [&] { return host && host->cloud ? host->cloud->x : config.initial_cloud().x; };
  read_terms(root, initial, host, config);
  const bool given = host && host->cloud && !host->cloud->log_density.empty();
  if (!given && config.functional.needs_density() && !config.cloud.density &&
      config.cloud.log_density.empty()) {
    cloud.fail("log_density",
               "is missing: the functional has an internal energy, which needs the log-density of "
               "every particle. Write density = \"kde\" or density = \"gaussian_mixture\" with the same "
               "path to estimate a density from the points; or give log-densities that are known, as a .npy "
               "file of N numbers, or with the particles where a program gives these");
  }

  Section flow = root.table("flow");
  read_flow(flow, config.cloud, host != nullptr, config);
  Section network = root.table("network");
  config.flow.network.dim = config.cloud.dim;
  read_network(network, config.flow);
  Section inner = root.table("inner");
  read_inner(inner, config.cloud, config.flow);
  read_held_out(held_out, config, host != nullptr, config.held_out);
  Section output = root.table("output");
  read_output(output, config);
  Section exact = root.table("exact");
  read_exact(exact, config, config.exact);
  config.resolved = document.resolved();
  config.files = document.files();
  return config;
}

Config parse_law(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                 const std::vector<std::string>& overrides, const HostInput& host) {
  Document document(text, name, folder, overrides);
  Section root = document.root();
  Config config;
  config.name = name;
  read_top(root, config);
  Section cloud = root.table("cloud");
  config.cloud = read_cloud(cloud, exponent_of(root), &host);
  config.resolved = document.resolved();
  return config;
}

Config parse_functional(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                        const std::vector<std::string>& overrides, const HostInput& host) {
  Document document(text, name, folder, overrides);
  Section root = document.root();
  Config config;
  config.name = name;
  read_top(root, config);
  const Cloud& cloud = *host.cloud;
  config.cloud.kind = "host";
  config.cloud.dim = static_cast<int>(cloud.x.cols());
  config.cloud.particles = cloud.x.rows();
  read_terms(
      root, [&] { return cloud.x; }, &host, config);
  config.resolved = document.resolved();
  return config;
}

std::string with_functional(const std::string& resolved, const std::string& other) {
  // Blocks are apart by an empty line; what is in quotes has none.
  const auto blocks = [](const std::string& text) {
    std::vector<std::string> out;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = std::min(text.find("\n\n", begin), text.size() - 1);
      out.push_back(text.substr(begin, end + 1 - begin));
      begin = end + 2;
    }
    return out;
  };
  const auto is_of_functional = [](const std::string& block) {
    return block.starts_with("[parameters]") || block.starts_with("[[functional]]");
  };
  std::string out;
  const auto add = [&](const std::string& block) { out += (out.empty() ? "" : "\n") + block; };
  bool written = false;
  for (const std::string& block : blocks(resolved)) {
    if (!is_of_functional(block)) {
      add(block);
      continue;
    }
    if (std::exchange(written, true)) continue;
    for (const std::string& mine : blocks(other)) {
      if (is_of_functional(mine)) add(mine);
    }
  }
  return out;
}

Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  std::error_code code;
  if (std::filesystem::is_directory(path, code))
    throw IoError("'" + path.string() + "' is a folder, not a TOML file");
  return parse_config(read_text_file(path), path.string(), std::filesystem::absolute(path).parent_path(),
                      overrides);
}

Cloud Config::initial_cloud() const {
  if (cloud.density)
    return cloud.density->sample(cloud.particles, cloud.sampling, flow.seed, RandomStream::cloud);
  return part_of_file(false);
}

Cloud Config::part_of_file(bool apart) const {
  Cloud all = whole_file();
  if (held_out.fraction == 0) return all;
  const std::vector<char> is_apart = kept_apart(all.x.rows(), held_out.particles, flow.seed);
  Cloud out;
  out.x = Matrix<double>(apart ? held_out.particles : cloud.particles, all.x.cols());
  Index rows = 0;
  for (Index i = 0; i < all.x.rows(); ++i) {
    if ((is_apart[i] != 0) != apart) continue;
    std::copy_n(all.x.row(i), all.x.cols(), out.x.row(rows++));
    if (!all.log_density.empty()) out.log_density.push_back(all.log_density[i]);
  }
  return out;
}

Cloud Config::whole_file() const {
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
  if (!cloud.density) return part_of_file(true);
  return cloud.density->sample(particles, held_out.sampling, flow.seed, RandomStream::held_out);
}

Cloud Config::fresh_cloud(std::uint32_t draw) const {
  // In d = 1 a stratified cloud is always the same one.
  const Sampling how =
      cloud.sampling == Sampling::stratified && cloud.dim == 1 ? Sampling::random : cloud.sampling;
  return cloud.density->sample(cloud.particles, how, mixed(flow.seed, draw), RandomStream::fresh);
}

}  // namespace brenier
