// SPDX-License-Identifier: MIT
// The problem's side of a configuration: [cloud], [parameters] and [[functional]].
#include <algorithm>
#include <cmath>

#include "brenier/metrics.hpp"
#include "brenier/npy.hpp"
#include "tools/config/config.hpp"

namespace brenier::app {
namespace {

const std::vector<std::string> kDensities = {"gaussian", "uniform", "mixture", "barenblatt", "file"};
const std::vector<std::string> kComponents = {"gaussian", "uniform", "barenblatt"};

/// Keys of a density, beside `density` and `dim`.
std::vector<std::string> density_keys(const std::string& density) {
  if (density == "gaussian") return {"mean", "variance"};
  if (density == "uniform") return {"lower", "upper"};
  if (density == "mixture") return {"weights", "components"};
  if (density == "barenblatt") return {"m", "time", "mass"};
  return {"path", "log_density"};
}

std::vector<std::string> with(std::vector<std::string> keys, const std::vector<std::string>& more) {
  keys.insert(keys.end(), more.begin(), more.end());
  return keys;
}

/// The text of a key, for deciding which keys go with it; the schema check comes after.
std::string peek(Section section, const std::string& key, const std::vector<std::string>& names) {
  Section copy = section.silent();
  return copy.choice(key, names);
}

/// The dimension: `dim`, or what the lists say, or 1. They must agree.
int dimension(Section& section, const std::vector<std::string>& list_keys, int expected) {
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
  const long long fallback = expected > 0 ? expected : dim > 0 ? dim : 1;
  const int given = static_cast<int>(section.integer("dim", {1, 100'000}, fallback));
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
  return given;
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

/// A variance, a list of variances, a covariance matrix, or the .npy file of one.
Matrix<double> covariance(Section& section, int dim) {
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
  std::vector<Density> densities;
  for (Section& part : parts) {
    const std::string name = peek(part, "density", kComponents);
    part.allow(with({"density", "dim"}, density_keys(name)), "for density = \"" + name + "\"");
    CloudConfig component;
    part.choice("density", kComponents);
    read_density(part, name, cloud.dim, component);
    densities.push_back(*component.density);
  }
  cloud.density =
      located(section, "weights", [&] { return Density::mixture(weights.elements(), densities); });
}

void read_density(Section& section, const std::string& density, int expected, CloudConfig& cloud) {
  if (density == "gaussian") {
    cloud.dim = dimension(section, {"mean", "variance"}, expected);
    GaussianState state{coordinates(section, "mean", cloud.dim, 0.0), covariance(section, cloud.dim)};
    cloud.density =
        located(section, "variance", [&] { return Density::gaussian(state.mean, state.covariance); });
    cloud.gaussian = std::move(state);
  } else if (density == "uniform") {
    cloud.dim = dimension(section, {"lower", "upper"}, expected);
    const std::vector<double> lower = coordinates(section, "lower", cloud.dim, std::nullopt);
    const std::vector<double> upper = coordinates(section, "upper", cloud.dim, std::nullopt);
    cloud.density = located(section, "upper", [&] { return Density::uniform(lower, upper); });
  } else if (density == "barenblatt") {
    cloud.dim = dimension(section, {}, expected);
    BarenblattOptions options;
    options.dim = cloud.dim;
    options.m = section.number("m", above(1), 2.0);
    options.time = section.number("time", above(0));
    options.mass = section.number("mass", above(0), 1.0);
    cloud.density = located(section, "time", [&] { return Density::barenblatt(options); });
    cloud.barenblatt = options;
  } else {
    cloud.dim = dimension(section, {}, expected);
    read_mixture(section, cloud);
  }
}

void read_file(Section& section, CloudConfig& cloud) {
  cloud.file = section.file("path");
  cloud.file_place = section.place("path");
  const NpyInfo info = read_npy_info(cloud.file);
  cloud.particles = info.shape[0];
  cloud.dim = info.shape.size() > 1 ? static_cast<int>(info.shape[1]) : 1;
  if (cloud.particles < 1 || cloud.dim < 1)
    section.fail("path", "holds no particles; the shape must be (N, d)");
  const long long dim = section.integer("dim", at_least(1), cloud.dim);
  if (dim != cloud.dim) {
    section.fail("dim", "= " + std::to_string(dim) + ", but '" + cloud.file.string() +
                            "' has particles in dimension " + std::to_string(cloud.dim));
  }
  if (!section.has("log_density")) return;
  cloud.log_density = section.file("log_density");
  cloud.log_density_place = section.place("log_density");
  const NpyInfo density = read_npy_info(cloud.log_density);
  if (density.shape.size() != 1 || density.shape[0] != cloud.particles) {
    section.fail("log_density", "must hold one number for each of the " + std::to_string(cloud.particles) +
                                    " particles; '" + cloud.log_density.string() + "' has another shape");
  }
}

Functional read_learned_potential(Section& section, int dim) {
  const std::filesystem::path file = section.file("path");
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
    const double blur = section.number("blur", above(0));
    options.epsilon = blur * blur;
  } else {
    options.epsilon = section.number("epsilon", above(0), options.epsilon);
  }
  options.scaling = section.number("scaling", {0, 1, true, true}, options.scaling);
  options.iterations = static_cast<int>(section.integer("iterations", {1, 1e9}, options.iterations));
  options.warm_iterations =
      static_cast<int>(section.integer("warm_iterations", {1, 1e9}, options.warm_iterations));
  options.tolerance = section.number("tolerance", at_least(0), options.tolerance);
  options.debiased = section.boolean("debiased", options.debiased);
  return options;
}

/// The distance from a file's points, or from the initial cloud.
Functional read_distance(Section& section, const std::string& term, int dim,
                         const std::function<Matrix<double>()>& initial) {
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
  return located(section, "reference", [&] {
    if (term == "sinkhorn") return sinkhorn(std::move(reference), read_sinkhorn(section));
    if (term == "energy_distance") return energy_distance_to(std::move(reference));
    double bandwidth = 0;
    if (section.kind("bandwidth") == Section::Kind::number) {
      bandwidth = section.number("bandwidth", above(0));
    } else {
      section.choice("bandwidth", {"median"}, "median");
      bandwidth = median_distance(reference, reference);
    }
    return mmd(std::move(reference), bandwidth);
  });
}

}  // namespace

Sampling sampling_of(const std::string& name) {
  if (name == "random") return Sampling::random;
  return name == "stratified" ? Sampling::stratified : Sampling::whitened;
}

CloudConfig read_cloud(Section& section) {
  if (!section.present())
    section.fail("", "is missing: the table [cloud] says where the particles come from");
  CloudConfig cloud;
  const std::string density = peek(section, "density", kDensities);
  const bool file = density == "file";
  const std::vector<std::string> common =
      file ? std::vector<std::string>{"density", "dim"}
           : std::vector<std::string>{"density", "dim", "particles", "sampling"};
  section.allow(with(common, density_keys(density)), "for density = \"" + density + "\"");
  section.choice("density", kDensities);
  if (file) {
    read_file(section, cloud);
    return cloud;
  }
  read_density(section, density, 0, cloud);
  cloud.particles = section.integer("particles", {1, 1e9});
  cloud.sampling =
      sampling_of(section.choice("sampling", {"random", "stratified", "whitened"}, "stratified"));
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
                           const std::function<Matrix<double>()>& initial) {
  const std::vector<std::string> names = {"potential", "interaction",   "internal",
                                          "entropy",   "porous_medium", "learned_potential",
                                          "sinkhorn",  "mmd",           "energy_distance"};
  Functional sum;
  for (Section& section : terms) {
    const std::string term = peek(section, "term", names);
    std::vector<std::string> keys = {"term", "weight"};
    if (term == "porous_medium") keys.push_back("m");
    if (term == "learned_potential") keys.push_back("path");
    const bool distance = term == "sinkhorn" || term == "mmd" || term == "energy_distance";
    if (distance) keys.push_back("reference");
    if (term == "mmd") keys.push_back("bandwidth");
    if (term == "sinkhorn") {
      keys = with(keys,
                  {"epsilon", "blur", "scaling", "iterations", "warm_iterations", "tolerance", "debiased"});
    }
    if (term == "potential" || term == "interaction" || term == "internal") keys.push_back("expression");
    section.allow(keys, "for term = \"" + term + "\"");
    section.choice("term", names);
    Functional one;
    if (term == "entropy") {
      one = entropy();
    } else if (term == "porous_medium") {
      one = porous_medium(section.number("m", above(1)));
    } else if (term == "learned_potential") {
      one = read_learned_potential(section, dim);
    } else if (distance) {
      one = read_distance(section, term, dim, initial);
    } else {
      const std::string text = section.text("expression");
      one = located(section, "expression", [&] {
        if (term == "potential") return potential(text, dim, parameters);
        if (term == "interaction") return interaction(text, dim, parameters);
        return internal(text, parameters);
      });
    }
    sum = sum + section.number("weight", any_number(), 1.0) * one;
  }
  return sum;
}

}  // namespace brenier::app
