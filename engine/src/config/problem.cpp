// SPDX-License-Identifier: MIT
// The problem's side of a configuration: [cloud], [parameters] and [[functional]].
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "brenier/gaussian_mixture.hpp"
#include "brenier/metrics.hpp"
#include "brenier/npy.hpp"
#include "engine/src/config/config.hpp"
#include "engine/src/config/keys.hpp"
#include "kernels/base/show.hpp"
#include "kernels/model/keys.hpp"

namespace brenier {
namespace {

/// The kind of a section, for deciding which keys go with it; the schema check comes after.
template <class Options>
std::string peek(const Section& section, const std::string& key, const Keys<Options>& keys) {
  Options options;
  section.silent().read_first(key, keys, options);
  return options.kind;
}

/// The dimension: `dim`, or what the lists say, or 1. They must agree.
void read_dimension(Section& section, const std::vector<std::string>& list_keys, int expected,
                    CloudConfig& cloud) {
  int dim = 0;
  std::string from;
  for (const std::string& key : list_keys) {
    const Index length = section.length(key);
    if (length == 0) continue;
    if (dim != 0 && length != dim) {
      section.fail(key, "has " + std::to_string(length) + " elements, but " + from + " has " +
                            std::to_string(dim) + "; dimensions must agree");
    }
    dim = static_cast<int>(length);
    from = "'" + key + "'";
  }
  cloud.dim = expected > 0 ? expected : dim > 0 ? dim : 1;
  section.read_first("dim", cloud_keys(), cloud);
  const int given = cloud.dim;
  if (dim != 0 && given != dim) {
    section.fail(section.has("dim") ? "dim" : from.substr(1, from.size() - 2),
                 "does not fit: the dimension is " + std::to_string(given) + ", " + from + " has " +
                     std::to_string(dim) + " elements");
  }
  if (expected > 0 && given != expected) {
    section.fail("dim", "= " + std::to_string(given) +
                            "; the components of a mixture have one dimension, here " +
                            std::to_string(expected));
  }
}

/// A number for all coordinates, or a list of dim numbers.
std::vector<double> coordinates(Section& section, const std::string& key, int dim,
                                std::optional<double> fallback) {
  if (!section.has(key) && fallback) {
    section.note(key, exact_text(*fallback));
    return std::vector<double>(dim, *fallback);
  }
  const Matrix<double> value = section.matrix(key);
  if (value.rows() != 1 || (value.cols() != 1 && value.cols() != dim)) {
    section.fail(key, "must be a number or a list of " + std::to_string(dim) + " numbers");
  }
  if (value.cols() == 1) return std::vector<double>(dim, value(0, 0));
  return value.elements();
}

constexpr int kMostDense = 4096;  // dimensions; 134 MB for each of a handful of matrices

[[noreturn]] void too_many_dimensions(const Section& section, const std::string& key, int dim) {
  section.fail(key, (key == "dim" ? "= " : "has dimension ") + std::to_string(dim) +
                        "; a Gaussian keeps dense d x d matrices, so that at most " +
                        std::to_string(kMostDense) + " dimensions are allowed");
}

/// A variance, a list of variances, a covariance matrix, or the .npy file of one.
Matrix<double> covariance(Section& section, int dim) {
  if (dim > kMostDense) too_many_dimensions(section, "dim", dim);
  Matrix<double> given;
  if (section.kind("variance") == Section::Kind::text) {
    const std::filesystem::path path = section.file("variance");
    given = read_npy(path);
  } else if (!section.has("variance")) {
    section.note("variance", "1");
    given = Matrix<double>(1, 1, 1.0);
  } else {
    given = section.matrix("variance");
  }
  const std::string wanted = "; the variance is a positive number, a list of " + std::to_string(dim) +
                             ", or a symmetric matrix " + std::to_string(dim) + " x " + std::to_string(dim);
  if (given.rows() == dim && given.cols() == dim && dim > 1) return given;
  if (given.rows() != 1 || (given.cols() != 1 && given.cols() != dim)) {
    section.fail("variance",
                 "is " + std::to_string(given.rows()) + " x " + std::to_string(given.cols()) + wanted);
  }
  Matrix<double> out(dim, dim);
  for (int c = 0; c < dim; ++c) {
    out(c, c) = given.cols() == 1 ? given(0, 0) : given(0, c);
    if (!(out(c, c) > 0)) section.fail("variance", "has the value " + exact_text(out(c, c)) + wanted);
  }
  return out;
}

/// Runs `make`, and puts the place of `key` in front of what the library says.
template <class F>
auto located(const Section& section, const std::string& key, F&& make) {
  try {
    return make();
  } catch (const ConfigError&) {
    throw;
  } catch (const Error& error) {
    section.fail(key, std::string("cannot be used: ") + error.what());
  }
}

/// A density in closed form. `expected` is the dimension of the mixture it belongs to, or 0.
void read_density(Section& section, const std::string& density, int expected, CloudConfig& cloud);

void read_mixture(Section& section, CloudConfig& cloud) {
  const Matrix<double> weights = section.matrix("weights");
  std::vector<Section> parts = section.tables("components");
  if (static_cast<Index>(parts.size()) != weights.cols() || weights.rows() != 1) {
    section.fail("weights", "has " + std::to_string(weights.cols()) + " elements for " +
                                std::to_string(parts.size()) + " tables [[cloud.components]]");
  }
  const std::vector<std::string> kinds = {"gaussian", "uniform", "barenblatt"};
  std::vector<Density> densities;
  for (Section& part : parts) {
    const std::string name = part.silent().choice("density", kinds);
    part.allow(names_of(name, cloud_keys(), barenblatt_keys()), "for density = \"" + name + "\"");
    CloudConfig component;
    part.choice("density", kinds);
    read_density(part, name, cloud.dim, component);
    densities.push_back(*component.density);
  }
  cloud.density =
      located(section, "weights", [&] { return Density::mixture(weights.elements(), densities); });
}

void read_density(Section& section, const std::string& density, int expected, CloudConfig& cloud) {
  if (density == "gaussian") {
    read_dimension(section, {"mean", "variance"}, expected, cloud);
    GaussianState state{coordinates(section, "mean", cloud.dim, 0.0), covariance(section, cloud.dim)};
    cloud.density =
        located(section, "variance", [&] { return Density::gaussian(state.mean, state.covariance); });
    cloud.gaussian = std::move(state);
  } else if (density == "uniform") {
    read_dimension(section, {"lower", "upper"}, expected, cloud);
    const std::vector<double> lower = coordinates(section, "lower", cloud.dim, std::nullopt);
    const std::vector<double> upper = coordinates(section, "upper", cloud.dim, std::nullopt);
    cloud.density = located(section, "upper", [&] { return Density::uniform(lower, upper); });
  } else if (density == "barenblatt") {
    read_dimension(section, {}, expected, cloud);
    BarenblattOptions options = cloud.barenblatt.value_or(BarenblattOptions{});
    options.dim = cloud.dim;
    section.read(barenblatt_keys(), options);
    cloud.density = located(section, "time", [&] { return Density::barenblatt(options); });
    cloud.barenblatt = options;
  } else {
    read_dimension(section, {}, expected, cloud);
    read_mixture(section, cloud);
  }
}

/// The .npy file at `path`: its extents, and the dimension.
void read_points(Section& section, CloudConfig& cloud) {
  section.read_first("path", cloud_keys(), cloud, cloud.kind);
  cloud.file_place = section.place("path");
  const NpyInfo info = read_npy_info(cloud.file);
  cloud.particles = cloud.points = info.shape[0];
  cloud.dim = info.shape.size() > 1 ? static_cast<int>(info.shape[1]) : 1;
  if (cloud.particles < 1 || cloud.dim < 1)
    section.fail("path", "holds no particles; the shape must be (N, d)");
  const int dim = cloud.dim;
  section.read_first("dim", cloud_keys(), cloud);
  if (dim != cloud.dim) {
    section.fail("dim", "= " + std::to_string(cloud.dim) + ", but '" + cloud.file.string() +
                            "' has particles in dimension " + std::to_string(dim));
  }
}

std::string short_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

void read_kde(Section& section, const Matrix<double>& points, CloudConfig& cloud) {
  const std::string what =
      "kernel density estimate of " + std::to_string(points.rows()) + " points, bandwidth ";
  if (section.kind("bandwidth") == Section::Kind::number) {
    const double bandwidth = section.number("bandwidth", above(0));
    cloud.density = located(section, "bandwidth", [&] { return Density::kde(points.view(), bandwidth); });
    cloud.estimate = what + short_text(bandwidth);
    return;
  }
  std::string name = "scott";
  if (section.has("bandwidth")) {
    name = section.choice("bandwidth", {"scott", "silverman"});
  } else {
    section.note("bandwidth", toml_string(name));
  }
  const BandwidthRule rule = name == "scott" ? BandwidthRule::scott : BandwidthRule::silverman;
  const Matrix<double> covariance =
      located(section, "bandwidth", [&] { return kernel_covariance(points.view(), rule); });
  cloud.density = located(section, "bandwidth", [&] { return Density::kde(points.view(), covariance); });
  constexpr int most = 4;
  std::string deviations;
  for (int j = 0; j < std::min(cloud.dim, most); ++j)
    deviations += (j > 0 ? ", " : "") + short_text(std::sqrt(covariance(j, j)));
  cloud.estimate = what + name + ": " + short_text(bandwidth_factor(rule, points.rows(), points.cols())) +
                   " of the standard deviation, " + deviations + (cloud.dim > most ? ", ..." : "");
}

void read_gaussian_mixture(Section& section, const Matrix<double>& points, CloudConfig& cloud) {
  section.read_first("components", cloud_keys(), cloud, cloud.kind);
  const GaussianMixture fit = located(section, "components", [&] {
    return fit_gaussian_mixture(points.view(), {.components = cloud.components});
  });
  cloud.density = located(section, "components", [&] { return fit.density(); });
  cloud.estimate = "Gaussian mixture of " + std::to_string(cloud.components) + " components, fitted to " +
                   std::to_string(points.rows()) + " points in " + std::to_string(fit.iterations) +
                   " iterations, mean log-likelihood " + short_text(fit.log_likelihood) +
                   (fit.converged ? "" : " (not converged)");
}

/// A density that is estimated from the points of a file.
void read_estimate(Section& section, CloudConfig& cloud) {
  read_points(section, cloud);
  const Matrix<double> points = located(section, "path", [&] { return read_npy(cloud.file); });
  check_memory(section, "path", 3.0 * static_cast<double>(points.rows()) * cloud.dim, cloud.dim);
  if (cloud.dim > kMostDense) too_many_dimensions(section, "path", cloud.dim);
  for (Index i = 0; i < points.rows(); ++i)
    for (Index j = 0; j < points.cols(); ++j)
      if (!std::isfinite(points(i, j)))
        section.fail("path", "cannot be used: '" + cloud.file.string() + "': point " + std::to_string(i) +
                                 " has the coordinate " + exact_text(points(i, j)) +
                                 "; all coordinates must be finite");
  if (cloud.kind == "kde") {
    read_kde(section, points, cloud);
  } else {
    read_gaussian_mixture(section, points, cloud);
  }
}

void read_file(Section& section, CloudConfig& cloud) {
  read_points(section, cloud);
  section.read_first("log_density", cloud_keys(), cloud);
  if (cloud.log_density.empty()) return;
  cloud.log_density_place = section.place("log_density");
  const NpyInfo density = read_npy_info(cloud.log_density);
  if (density.shape.size() != 1 || density.shape[0] != cloud.particles) {
    section.fail("log_density", "must hold one number for each of the " + std::to_string(cloud.particles) +
                                    " particles; '" + cloud.log_density.string() + "' has another shape");
  }
}

Functional read_learned_potential(const Section& section, const std::filesystem::path& file, int dim) {
  const Functional out = located(section, "path", [&] { return learned_potential(file); });
  if (out.dimension() != dim) {
    section.fail("path", "= '" + file.string() + "' is a potential in dimension " +
                             std::to_string(out.dimension()) + ", but the cloud has dimension " +
                             std::to_string(dim));
  }
  return out;
}

/// Options of entropic transport; epsilon, or its root as a blur.
SinkhornOptions read_sinkhorn(Section& section) {
  SinkhornOptions options;
  if (section.has("blur")) {
    if (section.has("epsilon"))
      section.fail("blur", "and epsilon = blur^2 are both given; write one of them");
    const double blur = section.silent().number("blur", above(0));
    section.note("epsilon", exact_text(blur * blur));
    options.epsilon = blur * blur;
  }
  section.read(sinkhorn_keys(), options);
  return options;
}

/// The points of a file, or the initial cloud.
Matrix<double> read_reference(Section& section, int dim, const std::function<Matrix<double>()>& initial) {
  Matrix<double> reference;
  if (section.silent().text("reference") == "initial") {
    section.text("reference");
    reference = initial();
  } else {
    const std::filesystem::path file = section.file("reference");
    reference = located(section, "reference", [&] { return read_npy(file); });
  }
  if (reference.cols() != dim) {
    section.fail("reference", "has points in dimension " + std::to_string(reference.cols()) +
                                  ", but the cloud has dimension " + std::to_string(dim));
  }
  return reference;
}

double read_bandwidth(Section& section, const Matrix<double>& reference) {
  if (section.kind("bandwidth") == Section::Kind::number) return section.number("bandwidth", above(0));
  if (section.has("bandwidth")) {
    section.choice("bandwidth", {"median"});
  } else {
    section.note("bandwidth", toml_string("median"));
  }
  return median_distance(reference, reference);
}

/// The target of a mixture: means (K, d), a variance and a weight for each of them.
Functional read_mixture_potential(Section& section, int dim) {
  Matrix<double> means;
  if (section.kind("means") == Section::Kind::text) {
    const std::filesystem::path path = section.file("means");
    means = located(section, "means", [&] { return read_npy(path); });
  } else {
    means = section.matrix("means");
    // In one dimension a list is a list of means.
    if (dim == 1 && means.rows() == 1) {
      const std::vector<double> list = means.elements();
      means = Matrix<double>(static_cast<Index>(list.size()), 1);
      means.elements() = list;
    }
  }
  if (means.cols() != dim) {
    section.fail("means", "has points in dimension " + std::to_string(means.cols()) +
                              ", but the cloud has dimension " + std::to_string(dim));
  }
  const auto parts = static_cast<int>(means.rows());
  const std::vector<double> variances = coordinates(section, "variances", parts, 1.0),
                            weights = coordinates(section, "weights", parts, 1.0);
  return located(section, "variances", [&] { return gaussian_mixture_potential(means, variances, weights); });
}

/// What terms refer to.
struct Problem {
  int dim;
  const Parameters& parameters;
  const std::function<Matrix<double>()>& initial;
  const HostInput* host;
};

Functional read_black_box(const Section& section, const TermConfig& term, const Problem& problem) {
  std::string known;
  if (problem.host) {
    const auto found = problem.host->potentials.find(term.name);
    if (found != problem.host->potentials.end())
      return potential(problem.dim, found->second.function,
                       {.thread_safe = found->second.thread_safe, .name = term.name});
    for (const auto& [name, function] : problem.host->potentials) known += (known.empty() ? "" : ", ") + name;
  }
  section.fail("name", "= \"" + term.name +
                           "\" is a function of a program that embeds Brenier, and this one gives " +
                           (known.empty() ? "none" : "only: " + known) +
                           "; no file can keep it, so that a flow that goes on needs it given again");
}

/// A kind of term: its name, and what its keys make of it, without the weight.
struct TermKind {
  const char* name;
  Functional (*make)(Section& section, const TermConfig& term, const Problem& problem);
};

const TermKind kTermKinds[] = {
    {"potential",
     [](Section& section, const TermConfig& term, const Problem& problem) {
       return located(section, "expression",
                      [&] { return potential(term.expression, problem.dim, problem.parameters); });
     }},
    {"interaction",
     [](Section& section, const TermConfig& term, const Problem& problem) {
       return located(section, "expression",
                      [&] { return interaction(term.expression, problem.dim, problem.parameters); });
     }},
    {"internal",
     [](Section& section, const TermConfig& term, const Problem& problem) {
       return located(section, "expression", [&] { return internal(term.expression, problem.parameters); });
     }},
    {"entropy", [](Section&, const TermConfig&, const Problem&) { return entropy(); }},
    {"porous_medium", [](Section&, const TermConfig& term, const Problem&) { return porous_medium(term.m); }},
    {"gaussian_mixture", [](Section& section, const TermConfig&,
                            const Problem& problem) { return read_mixture_potential(section, problem.dim); }},
    {"learned_potential",
     [](Section& section, const TermConfig& term, const Problem& problem) {
       return read_learned_potential(section, term.path, problem.dim);
     }},
    {"black_box", [](Section& section, const TermConfig& term,
                     const Problem& problem) { return read_black_box(section, term, problem); }},
    {"sinkhorn",
     [](Section& section, const TermConfig&, const Problem& problem) {
       Matrix<double> reference = read_reference(section, problem.dim, problem.initial);
       return located(section, "reference",
                      [&] { return sinkhorn(std::move(reference), read_sinkhorn(section)); });
     }},
    {"mmd",
     [](Section& section, const TermConfig&, const Problem& problem) {
       Matrix<double> reference = read_reference(section, problem.dim, problem.initial);
       return located(section, "reference", [&] {
         const double bandwidth = read_bandwidth(section, reference);
         return mmd(std::move(reference), bandwidth);
       });
     }},
    {"energy_distance",
     [](Section& section, const TermConfig&, const Problem& problem) {
       Matrix<double> reference = read_reference(section, problem.dim, problem.initial);
       return located(section, "reference", [&] { return energy_distance_to(std::move(reference)); });
     }},
};

}  // namespace

void check_memory(const Section& section, const std::string& key, double numbers, int dim) {
  const double bytes = 8 * numbers;
  const double memory =
      static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  if (!(memory > 0) || bytes <= memory) return;
  section.fail(key, "takes " + show(bytes / 1e9, 3) + " GB in dimension " + std::to_string(dim) +
                        "; this machine has " + show(memory / 1e9, 3) + " GB of memory");
}

std::vector<std::string> term_names() {
  std::vector<std::string> out;
  for (const TermKind& kind : kTermKinds) out.emplace_back(kind.name);
  return out;
}

CloudConfig read_cloud(Section& section, std::optional<double> exponent, const HostInput* host) {
  const Cloud* given = host ? host->cloud : nullptr;
  if (given && !section.present()) {
    CloudConfig cloud;
    cloud.kind = "host";
    cloud.dim = static_cast<int>(given->x.cols());
    cloud.particles = given->x.rows();
    return cloud;
  }
  if (!section.present())
    section.fail("", "is missing: the table [cloud] says where the particles come from");
  CloudConfig cloud;
  cloud.kind = peek(section, "density", cloud_keys());
  section.allow(names_of(cloud.kind, cloud_keys(), barenblatt_keys(), particle_keys()),
                "for density = \"" + cloud.kind + "\"");
  section.read_first("density", cloud_keys(), cloud);
  if (cloud.kind == "file") {
    read_file(section, cloud);
    return cloud;
  }
  if (cloud.kind == "kde" || cloud.kind == "gaussian_mixture") {
    read_estimate(section, cloud);
  } else {
    if (cloud.kind == "barenblatt" && exponent) cloud.barenblatt = BarenblattOptions{.m = *exponent};
    read_density(section, cloud.kind, 0, cloud);
  }
  if (given) {
    if (given->x.cols() != cloud.dim)
      section.fail("dim", "= " + std::to_string(cloud.dim) +
                              ", but the particles that are given have dimension " +
                              std::to_string(given->x.cols()));
    cloud.particles = given->x.rows();
    section.note("particles", std::to_string(cloud.particles));
  }
  section.read(particle_keys(), cloud, cloud.kind);
  check_memory(section, "particles", static_cast<double>(cloud.particles) * cloud.dim, cloud.dim);
  if (cloud.sampling == Sampling::whitened) {
    if (!cloud.gaussian) section.fail("sampling", "= \"whitened\" is for density = \"gaussian\" only");
    if (cloud.particles <= cloud.dim) {
      section.fail("particles", "= " + std::to_string(cloud.particles) +
                                    "; whitened sampling needs more than dim = " + std::to_string(cloud.dim));
    }
  }
  return cloud;
}

Parameters read_parameters(Section& section) {
  Parameters out;
  for (const std::string& key : section.keys()) {
    Parameter parameter;
    switch (section.kind(key)) {
      case Section::Kind::number:
        parameter = Parameter::scalar(section.matrix(key)(0, 0));
        break;
      case Section::Kind::list:
        parameter = Parameter::vector(section.matrix(key).elements());
        break;
      case Section::Kind::list_of_lists:
        parameter = Parameter::matrix(section.matrix(key));
        break;
      case Section::Kind::text: {
        const std::filesystem::path path = section.file(key);
        const bool vector = read_npy_info(path).shape.size() == 1;
        Matrix<double> value = read_npy(path);
        for (const double element : value.elements()) {
          if (!std::isfinite(element))
            section.fail(key, "has the element " + exact_text(element) + "; all must be finite");
        }
        parameter = vector ? Parameter::vector(value.elements()) : Parameter::matrix(std::move(value));
        break;
      }
      case Section::Kind::absent:
      case Section::Kind::other:
        section.fail(key, "must be a number, a list, a list of rows, or the name of a .npy file");
    }
    if (key == "time") section.fail(key, "is a name that [exact] uses: choose another");
    out[key] = std::move(parameter);
  }
  // The names are checked by the language itself, on an expression that uses none of them.
  for (const auto& parameter : out) {
    located(section, parameter.first, [&] { return Expression::internal("t", {parameter}); });
  }
  return out;
}

Functional read_functional(std::vector<Section>& terms, int dim, const Parameters& parameters,
                           const std::function<Matrix<double>()>& initial, const HostInput* host) {
  const Problem problem{dim, parameters, initial, host};
  Functional sum;
  for (Section& section : terms) {
    const std::string kind = peek(section, "term", term_keys());
    section.allow(names_of(kind, term_keys(), sinkhorn_keys()), "for term = \"" + kind + "\"");
    TermConfig term;
    section.read(term_keys(), term, kind);
    const auto named = [&](const TermKind& one) { return one.name == kind; };
    const TermKind* found = std::find_if(std::begin(kTermKinds), std::end(kTermKinds), named);
    sum = sum + term.weight * found->make(section, term, problem);
  }
  return sum;
}

}  // namespace brenier
