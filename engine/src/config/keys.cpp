// SPDX-License-Identifier: MIT
#include "engine/src/config/keys.hpp"

#include <cmath>

#include "engine/src/fit/fit_options.hpp"
#include "engine/src/flow/options.hpp"
#include "kernels/base/show.hpp"
#include "kernels/model/keys.hpp"

namespace brenier {
namespace {

Choice sampling(Sampling& value) {
  return {
      value,
      {{"random", Sampling::random}, {"stratified", Sampling::stratified}, {"whitened", Sampling::whitened}}};
}

Choice names(std::string& value, const std::vector<std::string>& words) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const std::string& word : words) pairs.emplace_back(word, word);
  return {value, pairs};
}

const char* const kCoordinates = "a number, or a list of d numbers";
constexpr double kMost = 1e9;

}  // namespace

const Keys<Config>& top_keys() {
  using O = Config;
  static const Keys<O> keys = {
      {"precision",
       [](O& o) -> Slot {
         return names(o.precision, {"float", "double"});
       },
       {},
       "of the inner loops; clouds, maps and densities are double in any case"},
  };
  return keys;
}

const Keys<Config>& step_keys() {
  using O = Config;
  const Range range = between(1, 999'999);
  static const Keys<O> keys = {
      {"steps",
       at<&O::steps>,
       range,
       "how many",
       {.required = true, .only = {"number"}, .fallback = "required, or end_time"}},
      {"steps", at<&O::steps>, range, "most of them", {.only = {"auto"}, .fallback = "10000"}},
  };
  return keys;
}

const Keys<CloudConfig>& cloud_keys() {
  using O = CloudConfig;
  static const Keys<O> keys = {
      {"density",
       [](O& o) -> Slot {
         return names(o.kind,
                      {"gaussian", "uniform", "mixture", "barenblatt", "file", "kde", "gaussian_mixture"});
       },
       {},
       "where the particles come from",
       {.required = true}},
      {"dim", at<&O::dim>, between(1, 100'000), "dimension d", {.fallback = "what the other keys say, or 1"}},
      {"mean",
       [](O&) -> Slot { return Special{kCoordinates}; },
       {},
       "of a Gaussian",
       {.only = {"gaussian"}, .fallback = "0"}},
      {"variance",
       [](O&) -> Slot {
         return Special{"a number, a list of d, a matrix of d rows, or the .npy file of one; above 0"};
       },
       {},
       "of a Gaussian: variance, variances or covariance",
       {.only = {"gaussian"}, .fallback = "1"}},
      {"lower",
       [](O&) -> Slot { return Special{kCoordinates}; },
       {},
       "corner of the box",
       {.required = true, .only = {"uniform"}}},
      {"upper",
       [](O&) -> Slot { return Special{kCoordinates}; },
       {},
       "corner of the box",
       {.required = true, .only = {"uniform"}}},
      {"weights",
       [](O&) -> Slot { return Special{"a list of numbers above 0"}; },
       {},
       "of the components, up to a factor",
       {.required = true, .only = {"mixture"}}},
      {"components",
       [](O&) -> Slot { return Special{"tables [[cloud.components]]"}; },
       {},
       "each with `density` (gaussian, uniform or barenblatt) and that density's keys",
       {.required = true, .only = {"mixture"}}},
      {"path", at<&O::file>, {}, ".npy file of the particles, (N, d)", {.required = true, .only = {"file"}}},
      {"path",
       at<&O::file>,
       {},
       ".npy file of the points, (M, d), that the density is estimated from",
       {.required = true, .only = {"kde", "gaussian_mixture"}}},
      {"bandwidth",
       [](O&) -> Slot { return Special{"\"scott\", \"silverman\", or a number, above 0"}; },
       {},
       "of the Gaussian kernels: a rule that scales the covariance of the points, or a standard deviation",
       {.only = {"kde"}, .fallback = "\"scott\""}},
      {"components",
       at<&O::components>,
       between(1, 10'000),
       "how many Gaussians are fitted, by expectation maximisation",
       {.required = true, .only = {"gaussian_mixture"}}},
      {"log_density",
       at<&O::log_density>,
       {},
       ".npy file of their log-densities, (N), which internal energies need",
       {.only = {"file"}}},
  };
  return keys;
}

const Keys<BarenblattOptions>& barenblatt_keys() {
  using O = BarenblattOptions;
  static const Keys<O> keys = {
      {"m",
       at<&O::m>,
       above(1),
       "exponent of the porous medium equation",
       {.only = {"barenblatt"}, .fallback = "that of the porous_medium term, or 2"}},
      {"time", at<&O::time>, above(0), "of the profile", {.required = true, .only = {"barenblatt"}}},
      {"mass", at<&O::mass>, above(0), "of the density", {.only = {"barenblatt"}}},
  };
  return keys;
}

const Keys<CloudConfig>& particle_keys() {
  using O = CloudConfig;
  const KeyMore drawn{.only = {"gaussian", "uniform", "mixture", "barenblatt"}};
  KeyMore needed = drawn;
  needed.required = true;
  const KeyMore estimated{.only = {"kde", "gaussian_mixture"}};
  KeyMore as_many = estimated;
  as_many.fallback = "as many as the file has points";
  static const Keys<O> keys = {
      {"particles", at<&O::particles>, between(1, kMost), "N", needed},
      {"particles", at<&O::particles>, between(1, kMost), "N, drawn from the estimate", as_many},
      {"sampling",
       [](O& o) -> Slot { return sampling(o.sampling); },
       {},
       "random; spread evenly; or random with the density's very mean and covariance (of a Gaussian)",
       drawn},
      {"sampling",
       [](O& o) -> Slot { return sampling(o.sampling); },
       {},
       "random, or spread evenly",
       estimated},
  };
  return keys;
}

const Keys<TermConfig>& term_keys() {
  using O = TermConfig;
  static const Keys<O> keys = {
      {"term",
       [](O& o) -> Slot { return names(o.kind, term_names()); },
       {},
       "kind of the term",
       {.required = true}},
      {"m", at<&O::m>, above(1), "exponent", {.required = true, .only = {"porous_medium"}}},
      {"path",
       at<&O::path>,
       {},
       ".safetensors file of the network",
       {.required = true, .only = {"learned_potential"}}},
      {"name",
       [](O& o) -> Slot { return &o.name; },
       {},
       "of a potential that a host program gives with its settings (docs/embedding.md)",
       {.required = true, .only = {"black_box"}}},
      {"reference",
       [](O&) -> Slot { return Special{"the name of a .npy file, or \"initial\""}; },
       {},
       "the cloud that the distance is from, (M, d), or the initial cloud",
       {.required = true, .only = {"sinkhorn", "mmd", "energy_distance"}}},
      {"bandwidth",
       [](O&) -> Slot { return Special{"a number, above 0, or \"median\""}; },
       {},
       "of the kernel; \"median\": the median distance in the reference",
       {.only = {"mmd"}, .fallback = "\"median\""}},
      {"blur",
       [](O&) -> Slot { return Special{"a number, above 0"}; },
       {},
       "root of epsilon, in its place",
       {.only = {"sinkhorn"}}},
      {"expression",
       at<&O::expression>,
       {},
       "V in x and time, W in x or r, f in t; names of [parameters]",
       {.required = true, .only = {"potential", "interaction", "internal"}}},
      {"means",
       [](O&) -> Slot { return Special{"a list of lists of d numbers, or the name of a .npy file (K, d)"}; },
       {},
       "of the K Gaussians whose density is exp(-V): with an entropy of the same weight the infimum of F is "
       "0",
       {.required = true, .only = {"gaussian_mixture"}}},
      {"variances",
       [](O&) -> Slot { return Special{"a number, above 0, or a list of K numbers"}; },
       {},
       "of each Gaussian in all directions",
       {.only = {"gaussian_mixture"}, .fallback = "1"}},
      {"weights",
       [](O&) -> Slot { return Special{"a list of K numbers, above 0"}; },
       {},
       "of the Gaussians; divided by their sum",
       {.only = {"gaussian_mixture"}, .fallback = "equal"}},
      {"weight", at<&O::weight>, any_number(), "factor of the term"},
  };
  return keys;
}

const Keys<HeldOutConfig>& held_out_keys() {
  using O = HeldOutConfig;
  static const Keys<O> keys = {
      {"particles",
       at<&O::particles>,
       between(0, kMost),
       "of a second cloud, on which F is judged; 0: none",
       {.fallback =
            "ten times cloud.particles, at least 10000 and at most 100000; four times, at least 4000, where "
            "they are "
            "stratified in up to three dimensions; 100000 with interactions; "
            "2000 where a distance is in F, fewer at order 2 in many dimensions or with the kernels of "
            "many points, 0 for a file without `fraction`"}},
      {"fraction", at<&O::fraction>, Range{.low = 0, .high = 1, .high_excluded = true},
       "of the particles of a file: that many, drawn by the seed, are kept from the cloud; 0: none"},
      {"sampling", [](O& o) -> Slot { return sampling(o.sampling); }, {}, "as in [cloud]"},
      {"every", at<&O::every>, between(1, kMost), "steps between evaluations of F"},
      {"pair_limit", at<&O::pair_limit>, between(0, kMost),
       "particles that interactions are taken over before the last step; 0: all"},
  };
  return keys;
}

const Keys<Config>& output_keys() {
  using O = Config;
  static const Keys<O> keys = {
      {"every",
       at<&O::clouds_every>,
       between(1, kMost),
       "steps between clouds",
       {.fallback = "a tenth of the steps"}},
      {"checkpoint_every",
       at<&O::checkpoint_every>,
       between(1, kMost),
       "steps between checkpoints",
       {.fallback = "a twentieth of the steps"}},
      {"max_seconds", at<&O::max_seconds>, above(0),
       "wall time, after which the run ends with a whole step, to be resumed"},
  };
  return keys;
}

const Keys<ExactConfig>& exact_keys() {
  using O = ExactConfig;
  static const Keys<O> keys = {
      {"functional", at<&O::functional>, any_number(), "infimum of F, which a long flow reaches"},
      {"std", at<&O::deviation>, above(0), "standard deviation at the end"},
      {"density",
       [](O&) -> Slot { return Special{"an expression in x and time"}; },
       {},
       "the solution; of the steady state where it does not name the time"},
  };
  return keys;
}

// --- the reference -----------------------------------------------------------------------------------------

namespace {

/// What a value may be and what it is by default, from a slot; a type without a case does not compile.
struct Described {
  std::string values, fallback;
};
struct Describe {
  const Range& range;

  Described operator()(const double* v) const { return {number(), exact_text(*v)}; }
  Described operator()(const int* v) const { return whole(*v); }
  Described operator()(const Index* v) const { return whole(*v); }
  Described operator()(const std::uint64_t* v) const { return whole(*v); }
  Described operator()(const std::optional<double>*) const { return {number(), ""}; }
  Described operator()(const bool* v) const { return {"true or false", *v ? "true" : "false"}; }
  Described operator()(const std::string* v) const { return {"text", "\"" + *v + "\""}; }
  Described operator()(const std::filesystem::path*) const { return {"name of a file", ""}; }
  Described operator()(const Special& special) const { return {special.values, ""}; }
  Described operator()(const std::vector<int>* v) const {
    std::string list;
    for (const int one : *v) list += (list.empty() ? "[" : ", ") + std::to_string(one);
    return {"list of widths, each " + range.words(), list + "]"};
  }
  Described operator()(const Choice& choice) const {
    std::string list;
    for (const std::string& name : choice.names) list += (list.empty() ? "\"" : ", \"") + name + "\"";
    return {list, "\"" + choice.get() + "\""};
  }

 private:
  std::string number() const {
    const bool bounded = std::isfinite(range.low) || std::isfinite(range.high);
    return bounded ? "number, " + range.words() : "number";
  }
  template <class Integer>
  Described whole(Integer v) const {
    return {"whole number, " + range.words(), std::to_string(v)};
  }
};

class Reference {
 public:
  void text(const std::string& more) { out_ += more + "\n"; }
  void head(const std::string& title, const std::string& about) {
    out_ += "\n## " + title + "\n\n" + about +
            "\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
  }
  template <class Options>
  void rows(const Keys<Options>& keys) {
    Options defaults;
    for (const Key<Options>& key : keys) {
      const Described is = std::visit(Describe{key.range}, key.slot(defaults));
      const auto& more = key.more;
      const std::string fallback = !more.fallback.empty() ? more.fallback
                                   : more.required        ? "required"
                                                          : is.fallback;
      std::string kinds;
      for (const std::string& kind : more.only) kinds += (kinds.empty() ? "" : ", ") + kind;
      out_ += "| `" + key.name + "` | " + is.values + " | " + fallback + " | " +
              (kinds.empty() ? "" : "(" + kinds + ") ") + key.help + " |\n";
    }
  }
  std::string str() const { return out_; }

 private:
  std::string out_;
};

}  // namespace

std::vector<std::string> key_names() {
  std::vector<std::string> out;
  const auto add = [&](const std::string& table, const auto&... tables) {
    for (const std::string& name : names_of("", tables...)) out.push_back(table + name);
  };
  add("", run_keys(), top_keys());
  add("cloud.", cloud_keys(), barenblatt_keys(), particle_keys());
  add("functional.0.", term_keys(), sinkhorn_keys());
  add("flow.", flow_keys(), step_keys());
  add("network.", architecture_keys(), network_keys());
  add("inner.", inner_keys());
  add("held_out.", held_out_keys());
  add("output.", output_keys());
  add("exact.", exact_keys());
  return out;
}

std::string key_reference() {
  Reference out;
  out.text(
      "# Configuration\n\n"
      "Written by `brenier info --keys`. A configuration is a TOML file; `brenier info FILE.toml` checks one "
      "and\n"
      "shows every key with its value. Words in brackets before a meaning: where the key goes with some "
      "kinds only.");
  out.head("Top level", "Above all tables.");
  out.rows(run_keys());
  out.rows(top_keys());
  out.head("[cloud]", "The initial density and its particles. Kinds: `density`.");
  out.rows(cloud_keys());
  out.rows(barenblatt_keys());
  out.rows(particle_keys());
  out.text(
      "\n## [parameters]\n\nNames for expressions: a number, a list, a list of rows, or the name of a .npy "
      "file.");
  out.head("[[functional]]", "A term of F, the sum of all of them. Kinds: `term`.");
  out.rows(term_keys());
  out.rows(sinkhorn_keys());
  out.head("[flow]", "Steps in time. Kinds: auto where tau = \"auto\", number otherwise.");
  out.rows(flow_keys());
  out.rows(step_keys());
  out.head("[network]", "The convex potential of a step.");
  out.rows(architecture_keys());
  out.rows(network_keys());
  out.head("[inner]", "How the problem of a step is solved.");
  out.rows(inner_keys());
  out.head("[held_out]", "A cloud of its own on which F is judged.");
  out.rows(held_out_keys());
  out.head("[output]", "What is written while a run is on.");
  out.rows(output_keys());
  out.head("[exact]", "What is known about the solution.");
  out.rows(exact_keys());
  out.head(
      "brenier fit",
      "Options of this command, which reads no configuration: `--rate-factor` for `rate_factor`; "
      "`--regression` "
      "for the loss \"squared\", `--one-scale` for the scaling \"common\", `--last` for keep_best = false.");
  out.rows(fit_keys());
  return out.str();
}

}  // namespace brenier
