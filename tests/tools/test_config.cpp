// SPDX-License-Identifier: MIT
// Configurations: what they mean, and what can be wrong with them.
#include <doctest/doctest.h>

#include <algorithm>
#include <clocale>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <locale>
#include <numbers>
#include <string>
#include <vector>

#include "brenier/npy.hpp"
#include "brenier/potential.hpp"
#include "engine/src/config/config.hpp"
#include "engine/src/config/keys.hpp"
#include "kernels/base/show.hpp"
#include "tests/support/app.hpp"
#include "tools/runs/reference.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;

namespace {

std::string config_error(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_config(text, "a.toml", fs::temp_directory_path(), overrides);
  } catch (const Error& error) {
    return error.what();
  }
  return "(no error)";
}

}  // namespace

TEST_CASE("configuration: malformed TOML and unknown names have their line and a suggestion") {
  check_contains(config_error("seed = 1\n[cloud\n"), {"a.toml:2:"});
  check_contains(config_error("seed = 1\nseed = 2\n"), {"a.toml:2:"});
  for (const char* header : {"[\n]", "[[[a]]]", "[[=]]", "[.a]", "  [ \r\n"})
    check_contains(config_error("seed = 1\n" + std::string(header)), {"a.toml:2:", "name of a table"});
  check_contains(config_error("seed = 1\na = \x18"), {"a.toml:2:", "control character", "24"});
  // A quote within a word begins no text, in which letters would be free.
  for (const char* quote : {"1\"", "1'", "2[\"", "1.\"", "a\"\"\"", "\"a\"\"", "true'''", "[1]\""}) {
    const std::string value = std::string(quote) + "\xCA\x9C=6x";
    check_contains(config_error("seed = 1\na = " + value), {"a.toml:2:", "outside of ASCII"});
    check_contains(config_error(kTiny, {"seed=" + value}), {"--set seed=", "outside of ASCII"});
  }
  for (const char* text :
       {"a = \"\xCA\x9C\"", "\xEF\xBB\xBF\"\xCA\x9C\"=1", "a = [\"b\",'\xCA\x9C']", "a = {'\xCA\x9C' = 1}"})
    CHECK(config_error(text).find("outside of ASCII") == std::string::npos);
  for (const char* list : {"[}", "[1, }", "{a = [1}", "{a = 1]"})
    check_contains(config_error("seed = 1\na = " + std::string(list)), {"a.toml:2:", "is to be closed"});
  CHECK(config_error("seed = 1\n[ [a]]").find("name of a table") == std::string::npos);
  for (const char* list : {"[+7, 5]", "[\n  +7,\n 5]", "[[[7]]]", "[{a = 1}]"}) {  // lists are no headers
    CHECK(config_error(tiny_with("[7, 5]", list)).find("name of a table") == std::string::npos);
    CHECK(config_error(kTiny, {"network.hidden=" + std::string(list)}).find("name of a table") ==
          std::string::npos);
  }
  check_contains(config_error(tiny_with("tau =", "tua =")),
                 {"a.toml:11:", "flow.tua", "unknown key", "'tau'"});
  check_contains(config_error(tiny_with("[network]", "[netwrok]")),
                 {"a.toml:13:", "netwrok", "table", "'network'"});
  check_contains(config_error(tiny_with("particles = 37", "particels = 37")),
                 {"a.toml:6:", "cloud.particels", "'particles'", "density = \"barenblatt\""});
  check_contains(config_error(tiny_with("particles = 37", "particles = 37\nmean = 1")),
                 {"a.toml:7:", "cloud.mean"});
  check_contains(config_error(tiny_with("\"porous_medium\"", "\"porous\"")),
                 {"a.toml:8:", "functional.0.term", "\"porous\"", "\"porous_medium\"", "entropy"});
  check_contains(config_error(tiny_with("\"barenblatt\"", "\"gausian\"")),
                 {"a.toml:4:", "\"gaussian\"", "mixture"});
}

namespace {

/// A point becomes a comma, and 10000 becomes 10.000.
struct Commas : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

/// The host's locale with commas while it lives: of C++, and of C where the system has one.
struct CommaLocale {
  CommaLocale()
      : before(std::locale::global(std::locale(std::locale(), new Commas))),
        c_before(std::setlocale(LC_ALL, nullptr)) {
    for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"})
      if (std::setlocale(LC_ALL, name)) break;
  }
  ~CommaLocale() {
    std::locale::global(before);
    std::setlocale(LC_ALL, c_before.c_str());
  }
  std::locale before;
  std::string c_before;
};

}  // namespace

TEST_CASE("configuration: numbers have a point in every locale of the host") {
  const std::string wrong = tiny_with("tau = 1e-3", "tau = -12345.678"), resolved = tiny().resolved;
  const std::string message = config_error(wrong);
  const CommaLocale commas;
  CHECK(config_error(wrong) == message);
  check_contains(message, {"-12345.678"});
  CHECK(tiny().resolved == resolved);
  CHECK(show(12345.678) == "12345.678");
}

TEST_CASE("configuration: a Gaussian mixture as a target, with its infimum") {
  const std::string text = R"(
[cloud]
density = "gaussian"
dim = 1
particles = 50
[[functional]]
term = "gaussian_mixture"
means = [-1, 2]
variances = [0.25, 1]
weights = [1, 3]
[[functional]]
term = "entropy"
[flow]
tau = 0.1
steps = 2
)";
  const Config config = parse_config(text, "a.toml", ".", {});
  const auto& v = std::get<Functional::Potential>(config.functional.terms()[0].kind).v;
  double mass = 0;
  for (int i = 0; i <= 4000; ++i) {
    const double x = -10 + 0.005 * i;
    const auto normal = [&](double mean, double variance) {
      return std::exp(-0.5 * (x - mean) * (x - mean) / variance) / std::sqrt(2 * std::numbers::pi * variance);
    };
    const double pi = 0.25 * normal(-1, 0.25) + 0.75 * normal(2, 1), here = v.value(std::vector{x});
    if (pi > 1e-200) CHECK(std::abs(here + std::log(pi)) < 1e-13 * (1 + std::abs(here)));
    mass += 0.005 * std::exp(-here);
  }
  CHECK(std::abs(mass - 1) < 1e-12);
  CHECK(known_infimum(config) == 0);
  const auto infimum = [&](const std::vector<std::string>& overrides) {
    return known_infimum(parse_config(text, "a.toml", ".", overrides));
  };
  CHECK(infimum({"functional.0.weight=2", "functional.1.weight=2"}) == 0);
  CHECK(infimum({"functional.0.weight=2"}) == -std::numeric_limits<double>::infinity());
  CHECK(infimum({"functional.1={term = \"porous_medium\", m = 2}"}) ==
        -std::numeric_limits<double>::infinity());
  CHECK(infimum({"exact.functional=-3"}) == -3);
  for (const char* index : {"2", "-1", "+0", "0x0", "18446744073709551616", "99999999999999999999"}) {
    check_contains(config_error(text, {"functional." + std::string(index) + ".weight=7"}),
                   {index, "'functional' is a list of ", "elements count from 0"});
  }
  check_contains(config_error(text, {"functional.0.means=[[1, 2], [3, 4]]"}),
                 {"functional.0.means", "dimension 2"});
  check_contains(config_error(text, {"functional.0.variances=[1, 2, 3]"}),
                 {"functional.0.variances", "2 numbers"});
  check_contains(config_error(text, {"functional.0.variances=0"}), {"functional.0.variances", "above 0"});
  check_contains(config_error(text, {"functional.0.weights=[1, -1]"}), {"weight 1 = -1", "above 0"});
}

TEST_CASE("configuration: types and ranges") {
  struct Case {
    const char* from;
    const char* to;
    std::initializer_list<const char*> pieces;
  };
  const Case cases[] = {
      {"tau = 1e-3", "tau = 0.0", {"a.toml:11:", "flow.tau", "above 0"}},
      {"tau = 1e-3", "tau = -1", {"a.toml:11:", "flow.tau = -1", "above 0"}},
      {"every = 2", "every = 4294967296", {"output.every = 4294967296", "1e+09"}},
      {"every = 2", "checkpoint_every = 4294967296", {"output.checkpoint_every"}},
      {"particles = 101", "every = 4294967296", {"held_out.every"}},
      {"tau = 1e-3", "tau = nan", {"a.toml:11:", "flow.tau", "above 0"}},
      {"tau = 1e-3", "tau = \"small\"", {"a.toml:11:", "flow.tau", "\"small\"", "a number"}},
      {"tau = 1e-3", "", {"flow.tau", "missing"}},
      {"tau = 1e-3", "tau = \"auto\"", {"flow.end_time", "missing"}},
      {"tau = 1e-3", "tau = \"auto\"\nend_time = 1e-4", {"a.toml:12:", "flow.end_time", "above 0.001"}},
      {"tau = 1e-3", "tau = \"auto\"\nend_time = 1\norder = 1", {"a.toml:13:", "flow.order = 1", "2"}},
      {"tau = 1e-3", "tau = \"auto\"\nend_time = 1\ntolerance = 0", {"flow.tolerance", "above 0"}},
      {"tau = 1e-3", "tau = \"auto\"\nend_time = 1\nfirst_tau = 2", {"flow.first_tau = 2", "0.999"}},
      {"tau = 1e-3", "tau = 1e-3\ntolerance = 1", {"a.toml:12:", "flow.tolerance", "where tau is a number"}},
      {"tau = 1e-3", "tau = 1e-3\nend_time = 1", {"a.toml:12:", "flow.end_time = 1", "beside steps"}},
      {"steps = 5", "end_time = 0.0045", {"a.toml:12:", "end_time = 0.0045", "whole", "0.004 and 0.005"}},
      {"steps = 5", "end_time = 0.0015", {"a.toml:12:", "whole", "0.002 and 0.003"}},
      {"steps = 5", "end_time = 1e-3", {"a.toml:12:", "above 0.001"}},
      {"steps = 5", "end_time = 1e4", {"a.toml:12:", "999999"}},
      {"tau = 1e-3",
       "tau = 1e-3\nstart_time = 1e17",
       {"a.toml:12:", "flow.start_time = 1e+17", "0.001", "rounding"}},
      {"tau = 1e-3",
       "tau = \"auto\"\nstart_time = 1e17\nend_time = 100000000000000128.0",
       {"a.toml:12:", "flow.start_time = 1e+17", "rounding", "begin at 0"}},
      {"steps = 5", "end_time = \"late\"", {"a.toml:12:", "flow.end_time", "a number"}},
      {"steps = 5", "steps = 0", {"a.toml:12:", "flow.steps = 0", "at least 1"}},
      {"steps = 5", "steps = 5.5", {"a.toml:12:", "flow.steps", "whole number"}},
      {"steps = 5", "steps = 5\norder = 3", {"a.toml:13:", "flow.order = 3", "at most 2"}},
      {"particles = 37", "particles = 0", {"a.toml:6:", "cloud.particles = 0", "at least 1"}},
      {"time = 1e-3", "time = 0", {"a.toml:5:", "cloud.time", "above 0"}},
      {"time = 1e-3", "time = 1e-3\nm = 1", {"a.toml:6:", "cloud.m", "above 1"}},
      {"hidden = [7, 5]", "hidden = []", {"a.toml:14:", "network.hidden", "empty"}},
      {"hidden = [7, 5]", "hidden = [7, 0]", {"a.toml:14:", "network.hidden", "at least 1"}},
      {"hidden = [7, 5]", "hidden = 7", {"a.toml:14:", "network.hidden", "list of widths"}},
      {"hidden = [7, 5]",
       "hidden = [7, 5]\nresidual = 1",
       {"a.toml:15:", "network.residual", "true or false"}},
      {"hidden = [7, 5]",
       "hidden = [7, 5]\nresidual = true",
       {"a.toml:14:", "network.hidden", "no valid network"}},
      {"iterations = 23", "iterations = 0", {"a.toml:16:", "inner.iterations", "at least 1"}},
      {"rate = 1e-2", "rate = 1e-2\nminibatch = 38", {"a.toml:18:", "inner.minibatch = 38", "at most", "37"}},
      {"rate = 1e-2", "rate = 1e-2\nbeta1 = 1", {"a.toml:18:", "inner.beta1", "below 1"}},
      {"rate = 1e-2",
       "rate = 1e-2\nlogdet = \"hutchinson\"",
       {"a.toml:18:", "inner.logdet", "\"hutchinson\"", "auto", "exact", "cg"}},
      {"rate = 1e-2", "rate = 1e-2\nprobes = 0", {"a.toml:18:", "inner.probes", "at least 1"}},
      {"rate = 1e-2", "rate = 1e-2\ncg_iterations = 1001", {"a.toml:18:", "inner.cg_iterations", "1000"}},
      {"rate = 1e-2", "rate = 1e-2\ncg_tolerance = 1.0", {"a.toml:18:", "inner.cg_tolerance", "below 1"}},
      {"every = 2", "every = 0", {"a.toml:23:", "output.every", "at least 1"}},
      {"seed = 3", "seed = -3", {"a.toml:1:", "seed", "at least 0"}},
      {"seed = 3", "device = \"gpu\"", {"a.toml:1:", "device", "gpu", "auto"}},
      {"\"double\"", "\"half\"", {"a.toml:2:", "precision", "float"}},
      {"[[functional]]", "[functional]", {"a.toml:7:", "functional", "[[functional]]"}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.to);
    check_contains(config_error(tiny_with(c.from, c.to)), c.pieces);
  }
  check_contains(config_error("seed = 1\n"), {"cloud", "missing"});
  check_contains(config_error(kTiny, {"network.hidden=[20000, 20000]"}),
                 {"network.hidden", "400100003 parameters", "at most 50000000"});
  check_contains(config_error(kTiny, {"seed=18446744073709551615"}), {"--set seed", "not TOML"});
}

TEST_CASE("configuration: expressions, parameters and dimensions") {
  const auto potential = [](const std::string& text) {
    return tiny_with("term = \"porous_medium\"\nm = 2",
                     "term = \"potential\"\nexpression = \"" + text + "\"");
  };
  check_contains(config_error(potential("sum(x^2")), {"a.toml:9:", "functional.0.expression", "column 8"});
  check_contains(config_error(potential("k*sum(x^2)")), {"a.toml:9:", "'k'", "column 1"});
  check_contains(config_error(potential("x[3]")), {"a.toml:9:", "functional.0.expression"});
  check_contains(config_error(tiny_with("term = \"porous_medium\"\nm = 2", "term = \"potential\"")),
                 {"functional.0.expression", "missing"});
  check_contains(config_error(kTiny + "[parameters]\nsum = 2\n"), {"a.toml:25:", "parameters.sum", "taken"});
  check_contains(config_error(kTiny + "[parameters]\nA = [[1, 2], [3]]\n"),
                 {"a.toml:25:", "parameters.A", "equal length"});
  check_contains(config_error(kTiny + "[parameters]\nA = \"no-such.npy\"\n"),
                 {"no-such.npy", "no such file"});
  check_contains(config_error(kTiny + "[exact]\ndensity = \"max(1 - x, t)\"\n"),
                 {"a.toml:25:", "exact.density", "time"});

  const std::string gaussian =
      tiny_with("density = \"barenblatt\"\ntime = 1e-3", "density = \"gaussian\"\nmean = [1, 2]");
  check_contains(config_error(gaussian + "[parameters]\n", {"cloud.dim=3"}), {"cloud.dim", "2 elements"});
  check_contains(config_error(gaussian, {"cloud.variance=[[1,2,3],[1,2,3],[1,2,3]]"}),
                 {"cloud.variance", "dimensions"});
  check_contains(config_error(gaussian, {"cloud.variance=[[1,2],[2,1]]"}),
                 {"cloud.variance", "positive definite"});
  check_contains(config_error(gaussian, {"cloud.variance=-1"}), {"cloud.variance", "positive"});
  check_contains(config_error(gaussian, {"cloud.sampling=whitened", "cloud.particles=2"}),
                 {"cloud.particles", "more than"});
  check_contains(config_error(kTiny, {"cloud.sampling=whitened"}), {"cloud.sampling", "gaussian"});
  CHECK(config_error(gaussian) == "(no error)");
}

TEST_CASE("configuration: a Barenblatt profile is that of the equation, unless it says another") {
  const auto exponent = [](const std::string& cloud_m, const std::string& term_m) {
    const Config config =
        parse_config(tiny_with("density = \"barenblatt\"\ntime = 1e-3\nparticles = 37\n[[functional]]\n"
                               "term = \"porous_medium\"\nm = 2",
                               "density = \"barenblatt\"\ntime = 1e-3\nparticles = 37\n" + cloud_m +
                                   "[[functional]]\nterm = " + term_m),
                     "a.toml", "/");
    const Config again = parse_config(config.resolved, "b.toml", "/");
    CHECK(again.cloud.barenblatt->m == config.cloud.barenblatt->m);
    CHECK(again.resolved == config.resolved);
    return config.cloud.barenblatt->m;
  };
  CHECK(exponent("", "\"porous_medium\"\nm = 3") == 3);
  CHECK(exponent("m = 2\n", "\"porous_medium\"\nm = 3") == 2);
  CHECK(exponent("", "\"entropy\"") == 2);
  CHECK(exponent("", "\"entropy\"\n[[functional]]\nterm = \"porous_medium\"\nm = 1.5") == 1.5);
  check_contains(config_error(tiny_with("m = 2", "m = 1")), {"functional.0.m", "above 1"});
}

TEST_CASE("configuration: learned potentials") {
  const TemporaryFolder folder;
  const Icnn net({.dim = 2, .hidden = {3}});
  std::vector<double> theta = initial_parameters(net, Initialisation::identity, 1);
  write_potential(folder.path / "v.safetensors", {net, theta});
  const auto text = [](const std::string& path, int dim) {
    return tiny_with(
        "density = \"barenblatt\"\ntime = 1e-3\nparticles = 37\n[[functional]]\n"
        "term = \"porous_medium\"\nm = 2",
        "density = \"gaussian\"\ndim = " + std::to_string(dim) +
            "\nparticles = 37\n[[functional]]\nterm = \"learned_potential\"\npath = \"" + path +
            "\"\nweight = 0.25");
  };
  const auto error = [&](const std::string& toml) {
    try {
      parse_config(toml, "a.toml", folder.path);
    } catch (const Error& failure) {
      return std::string(failure.what());
    }
    return std::string("(no error)");
  };
  // Paths are relative to the file's folder, and absolute in the resolved configuration.
  const Config config = parse_config(text("v.safetensors", 2), "a.toml", folder.path);
  const auto parameters = [](const Config& of) {
    return *std::get<Functional::Network>(of.functional.terms().at(0).kind).term.theta;
  };
  CHECK(config.functional.terms()[0].weight == 0.25);
  CHECK(parameters(config) == theta);
  check_contains(config.resolved, {"learned_potential", (folder.path / "v.safetensors").c_str()});
  const Config again = parse_config(config.resolved, "b.toml", "/");
  CHECK(parameters(again) == theta);

  check_contains(error(text("v.safetensors", 3)),
                 {"a.toml:9:", "functional.0.path", "dimension 2", "dimension 3"});
  check_contains(error(text("w.safetensors", 2)), {"functional.0.path", "w.safetensors", "no such file"});
  check_contains(error(tiny_with("term = \"porous_medium\"\nm = 2", "term = \"learned_potential\"")),
                 {"functional.0.path", "the name of a file"});
  theta[net.output_weight()] = -0.5;
  write_potential(folder.path / "v.safetensors", {net, theta});
  check_contains(error(text("v.safetensors", 2)), {"a.toml:9:", "output.hidden.weight", "-0.5"});
}

TEST_CASE("configuration: potentials, particles and maps of a host program") {
  const std::string text =
      tiny_with("term = \"porous_medium\"\nm = 2", "term = \"black_box\"\nname = \"field\"");
  const auto error = [&](const std::string& toml, const HostInput* host) {
    try {
      parse_config(toml, "a.toml", ".", {}, host);
    } catch (const ConfigError& failure) {
      return std::string(failure.what());
    }
    return std::string("(no error)");
  };
  check_contains(error(text, nullptr),
                 {"a.toml:", "functional.0.name = \"field\"", "gives none", "given again"});
  HostInput host;
  host.potentials["force"] = {[](MatrixView<const double>, double*, MatrixView<double>) {}, true};
  check_contains(error(text, &host), {"only: force"});
  host.potentials["field"] = host.potentials["force"];
  const Config config = parse_config(text, "a.toml", ".", {}, &host);
  const BlackBoxTerm& term = std::get<Functional::BlackBox>(config.functional.terms().at(0).kind).term;
  CHECK((term.thread_safe && term.name == "field" && term.dim == config.cloud.dim));
  check_contains(error(tiny_with("term = \"porous_medium\"\nm = 2", "term = \"black_box\""), &host),
                 {"functional.0.name is missing"});
  // Particles in the place of [cloud], or with it as their law.
  const Cloud cloud{Matrix<double>(5, 3), {}};
  host.cloud = &cloud;
  const char* own = "[[functional]]\nterm = \"potential\"\nexpression = \"x[2]^2\"\n[flow]\ntau = 1\n";
  CHECK(parse_config(own, "b.toml", ".", {}, &host).cloud.particles == 5);
  check_contains(error(text, &host), {"cloud.dim = 1", "dimension 3"});
  check_contains(config_error(own, {}), {"cloud is missing"});
  CHECK_THROWS_WITH_AS(run(tiny({"flow.keep_maps=false"}), {}),
                       "tiny.toml: flow.keep_maps = false; it must be true here: a run writes all maps",
                       ConfigError);
}

TEST_CASE("configuration: distances from a cloud") {
  const TemporaryFolder folder;
  Matrix<double> points(3, 1);
  points(1, 0) = 1;
  points(2, 0) = 3;
  write_npy(folder.path / "y.npy", points.view());
  write_npy(folder.path / "plane.npy", Matrix<double>(3, 2).view());
  const auto text = [](const std::string& term) {
    return tiny_with("term = \"porous_medium\"\nm = 2", term + "\nweight = 0.25");
  };
  const auto parse = [&](const std::string& term) { return parse_config(text(term), "a.toml", folder.path); };
  const auto error = [&](const std::string& term) {
    try {
      parse(term);
    } catch (const Error& failure) {
      return std::string(failure.what());
    }
    return std::string("(no error)");
  };
  const Config config = parse(
      "term = \"sinkhorn\"\nreference = \"y.npy\"\nblur = 0.5\nscaling = 0.7\niterations = 7\n"
      "warm_iterations = 3\ntolerance = 1e-3\ndebiased = true");
  const auto divergence = [](const Config& of) {
    return std::get<Functional::Divergence>(of.functional.terms().at(0).kind).term;
  };
  const DivergenceTerm term = divergence(config);
  CHECK(config.functional.terms()[0].weight == 0.25);
  CHECK(term.reference->elements() == points.elements());
  CHECK(term.sinkhorn.epsilon == 0.25);
  CHECK(term.sinkhorn.scaling == 0.7);
  CHECK(term.sinkhorn.iterations == 7);
  CHECK(term.sinkhorn.warm_iterations == 3);
  CHECK(term.sinkhorn.tolerance == 1e-3);
  CHECK(term.sinkhorn.debiased);
  const Config again = parse_config(config.resolved, "b.toml", "/");
  CHECK(again.functional.describe() == config.functional.describe());
  CHECK(divergence(again).reference->elements() == points.elements());

  const Config initial = parse("term = \"mmd\"\nreference = \"initial\"");
  CHECK(divergence(initial).reference->elements() == initial.initial_cloud().x.elements());
  CHECK(parse_config(initial.resolved, "b.toml", "/").functional.describe() == initial.functional.describe());
  // Distances 1, 2 and 3.
  CHECK(divergence(parse("term = \"mmd\"\nreference = \"y.npy\"\nbandwidth = \"median\"")).bandwidth == 2);
  CHECK(divergence(parse("term = \"energy_distance\"\nreference = \"y.npy\"")).form ==
        DivergenceTerm::Form::energy);

  check_contains(error("term = \"sinkhorn\""), {"functional.0.reference", "missing"});
  check_contains(error("term = \"sinkhorn\"\nreference = \"z.npy\""), {"functional.0.reference", "z.npy"});
  check_contains(error("term = \"sinkhorn\"\nreference = \"plane.npy\""),
                 {"functional.0.reference", "dimension 2", "dimension 1"});
  check_contains(error("term = \"sinkhorn\"\nreference = \"y.npy\"\nepsilon = 0"),
                 {"functional.0.epsilon", "above 0"});
  check_contains(error("term = \"sinkhorn\"\nreference = \"y.npy\"\nepsilon = 1\nblur = 1"),
                 {"functional.0.blur", "epsilon = blur^2"});
  check_contains(error("term = \"mmd\"\nreference = \"y.npy\"\nbandwidth = -1"),
                 {"functional.0.bandwidth", "above 0"});
  check_contains(error("term = \"energy_distance\"\nreference = \"y.npy\"\nepsilon = 1"),
                 {"functional.0.epsilon", "unknown key"});
}

TEST_CASE("configuration: clouds from files") {
  const TemporaryFolder folder;
  Matrix<double> points(5, 2);
  for (Index i = 0; i < 5; ++i) points(i, 0) = static_cast<double>(i), points(i, 1) = 0.5;
  write_npy(folder.path / "x.npy", points.view());
  const std::vector<double> density(5, -1.0), short_density(4, -1.0);
  write_npy(folder.path / "rho.npy", std::span<const double>(density));
  write_npy(folder.path / "short.npy", std::span<const double>(short_density));
  const std::string text =
      "[cloud]\ndensity = \"file\"\npath = \"x.npy\"\n[[functional]]\nterm = \"entropy\"\n[flow]\ntau = "
      "0.1\nsteps = 1\n"
      "[inner]\niterations = 2\n[network]\nhidden = [3]\n";
  const auto error = [&](const std::vector<std::string>& overrides) -> std::string {
    try {
      const Config config = parse_config(text, "f.toml", folder.path, overrides);
      RunOptions options;
      options.out = folder.path / "run";
      run(config, options);
    } catch (const Error& e) {
      return e.what();
    }
    return "(no error)";
  };
  check_contains(error({}), {"f.toml:1:", "cloud.log_density", "missing", "internal energy", "\"kde\"",
                             "\"gaussian_mixture\""});
  check_contains(error({"cloud.log_density=short.npy"}), {"cloud.log_density", "5 particles"});
  check_contains(error({"cloud.log_density=rho.npy", "cloud.dim=3"}), {"cloud.dim", "dimension 2"});
  check_contains(error({"cloud.log_density=rho.npy", "cloud.path=none.npy"}), {"none.npy", "no such file"});
  check_contains(error({"cloud.log_density=rho.npy", "held_out.particles=7"}),
                 {"held_out.particles", "fraction"});
  check_contains(error({"cloud.log_density=rho.npy", "inner.refresh=1"}), {"inner.refresh", "must be 0"});
  check_contains(error({"cloud.log_density=rho.npy", "cloud.particles=3"}),
                 {"cloud.particles", "unknown key"});

  const std::string whole = read_text(folder.path / "x.npy");
  put(folder.path / "x.npy", whole.substr(0, whole.size() - 3));
  check_contains(error({"cloud.log_density=rho.npy"}), {"x.npy"});
  put(folder.path / "x.npy", "PK\x03\x04 not an array");
  check_contains(error({"cloud.log_density=rho.npy"}), {"x.npy"});
  points(3, 1) = NAN;
  write_npy(folder.path / "x.npy", points.view());
  check_contains(error({"cloud.log_density=rho.npy"}),
                 {"f.toml:3: cloud.path", "x.npy", "particle 3", "nan", "finite"});
  CHECK_FALSE(fs::exists(folder.path / "run"));  // nothing half-written

  points(3, 1) = 1;
  write_npy(folder.path / "x.npy", points.view());
  const std::vector<double> holes = {-1, -INFINITY, NAN, -1, -1};
  write_npy(folder.path / "holes.npy", std::span<const double>(holes));
  check_contains(error({"cloud.log_density=holes.npy"}),
                 {"--set cloud.log_density=holes.npy", "holes.npy", "particle 2", "nan", "finite, or -inf"});
  CHECK(error({"cloud.log_density=rho.npy"}) == "(no error)");
  const Config again =
      load_config(folder.path / "run" / "config.toml");  // relative names have become absolute
  CHECK(again.initial_cloud().x.elements() == points.elements());
}

TEST_CASE("--set replaces values, and says what is wrong with them") {
  CHECK(tiny({"flow.tau=2.5e-4"}).flow.tau == 2.5e-4);
  CHECK(tiny({"flow.order=2"}).flow.order == 2);
  CHECK(tiny({"network.hidden=[4, 3, 2]"}).flow.network.hidden == std::vector<int>{4, 3, 2});
  CHECK(tiny({"functional.0.weight=2"}).functional.terms()[0].weight == 2);
  CHECK(tiny({"device=ref"}).flow.device == "ref");  // a bare word
  CHECK(tiny({"device=\"ref\""}).flow.device == "ref");
  const std::string well =
      tiny_with("term = \"porous_medium\"\nm = 2", "term = \"potential\"\nexpression = \"0\"");
  CHECK(parse_config(well, "a.toml", ".", {"functional.0.expression=0.5*sum(x^2)"}).functional.gaussian(1));
  CHECK(tiny({"parameters.k=3"}).parameters.at("k").value(0, 0) == 3);  // a new table
  CHECK(tiny({"flow.tau=1", "flow.tau=2"}).flow.tau == 2);              // the last one counts
  check_contains(config_error(kTiny, {"flow.tau=-1"}), {"--set flow.tau=-1", "above 0"});
  check_contains(config_error(kTiny, {"flow.tua=1"}), {"--set flow.tua=1", "'tau'"});
  check_contains(config_error(kTiny, {"flow.tau"}), {"--set flow.tau", "key=value"});
  check_contains(config_error(kTiny, {"flow..tau=1"}), {"empty"});
  check_contains(config_error(kTiny, {"flow.tau.x=1"}), {"--set flow.tau.x=1", "no keys"});
  check_contains(config_error(kTiny, {"functional.1.weight=2"}), {"list of 1"});
  check_contains(config_error(kTiny, {"network.hidden=[4,"}), {"not TOML"});
  check_contains(config_error(kTiny, {"device=o'neil"}), {"o'neil"});  // as it stands
}

TEST_CASE("the resolved configuration loads again and means the same") {
  const std::string mixture =
      "[cloud]\ndensity = \"mixture\"\ndim = 2\nparticles = 9\nweights = [1, 3]\n[[cloud.components]]\n"
      "density = \"gaussian\"\nmean = [1, -1]\nvariance = [[2, 0.5], [0.5, 1]]\n[[cloud.components]]\n"
      "density = \"uniform\"\nlower = -1\nupper = [1, 2.5]\n[parameters]\na = [1, 2]\nM = [[1, 0], [0, "
      "2]]\nk = 0.1\n"
      "[[functional]]\nterm = \"potential\"\nexpression = \"k*dot(x - a, M*x)\"\n[[functional]]\nterm = "
      "\"interaction\"\n"
      "expression = \"r^2\"\nweight = 0.5\n[[functional]]\nterm = \"internal\"\nexpression = \"t*log(t)\"\n"
      "[flow]\ntau = 0.1\nsteps = 3\n[exact]\ndensity = \"exp(-time)\"\nstd = 2\nfunctional = -1.5\n";
  for (const std::string& text : {kTiny, mixture}) {
    const Config first = parse_config(text, "a.toml", ".", {"flow.order=2"});
    const Config second = parse_config(first.resolved, "b.toml", "/");
    CHECK(second.resolved == first.resolved);
    CHECK(second.flow.order == 2);
    CHECK(second.functional.describe() == first.functional.describe());
    CHECK(second.initial_cloud().x.elements() == first.initial_cloud().x.elements());
    CHECK(second.held_out_cloud(11).log_density == first.held_out_cloud(11).log_density);
  }
  check_contains(
      parse_config(kTiny, "a.toml", ".").resolved,
      {"tau = 0.001", "start_time = 0.001", "beta2 = 0.999", "activation = \"softplus\"", "every = 2"});
}

TEST_CASE("configuration: the log-determinant of the inner loop") {
  const auto choice = [](const std::vector<std::string>& overrides) {
    return parse_config(kTiny, "a.toml", fs::temp_directory_path(), overrides).flow.inner.log_det;
  };
  CHECK(choice({}).method == LogDetOptions::Method::automatic);
  CHECK(choice({"inner.logdet=exact"}).method == LogDetOptions::Method::exact);
  const LogDetOptions cg =
      choice({"inner.logdet=cg", "inner.probes=3", "inner.cg_iterations=7", "inner.cg_tolerance=1e-2"});
  CHECK(cg.method == LogDetOptions::Method::cg);
  CHECK(cg.probes == 3);
  CHECK(cg.iterations == 7);
  CHECK(cg.tolerance == 1e-2);
  CHECK(parse_config(kTiny, "a.toml", fs::temp_directory_path(), {}).resolved.find("logdet = \"auto\"") !=
        std::string::npos);
}

TEST_CASE("docs/configuration.md is what the rows of keys say") {
  const std::string reference = key_reference();
  CHECK(command({"info", "--keys"}).out == reference);
  const fs::path file = fs::path(BRENIER_SOURCE_DIR) / "docs" / "configuration.md";
  INFO("write it again: brenier info --keys > docs/configuration.md");
  CHECK(read_text(file) == reference);
  // Every key that a configuration ends up with has its row.
  const std::string resolved = tiny({"flow.tau=auto", "flow.end_time=2e-3", "exact.std=1"}).resolved;
  std::istringstream lines(resolved);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t equals = line.find(" = ");
    if (equals == std::string::npos) continue;
    check_contains(reference, {("| `" + line.substr(0, equals) + "` |").c_str()});
  }
}

TEST_CASE("options: a value outside its row's range is named, in a file and in C++") {
  FlowOptions options;
  const auto message = [&] {
    try {
      options.validate();
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string("(no error)");
  };
  CHECK(message() == "(no error)");
  options.inner.adam.rate = 0;
  CHECK(message() == "flow: inner.adam.rate = 0; it must be above 0");
  check_contains(config_error(kTiny, {"inner.rate=0"}), {"inner.rate = 0; it must be above 0"});
  options.inner.adam.rate = 1, options.inner.minibatch = -1;
  check_contains(message(), {"flow: inner.minibatch = -1; it must be at least 0"});
  options.inner.minibatch = 0, options.tau = INFINITY;
  CHECK(message() == "flow: tau = inf; it must be above 0");
  options.tau = 1, options.order = 2, options.adaptive.tolerance = -1;
  CHECK(message() == "flow: adaptive.tolerance = -1; it must be above 0");
  options.adaptive.tolerance = 1e-3;
  CHECK(message() == "(no error)");  // without an end
  options.order = 1;
  check_contains(message(), {"flow: order = 1", "2"});
}

TEST_CASE("configuration: densities that are estimated from a file, and a part of a file held out") {
  const TemporaryFolder folder;
  Matrix<double> points(50, 2);
  for (Index i = 0; i < 50; ++i) {
    points(i, 0) = std::sin(1.3 * static_cast<double>(i)) + (i % 2 == 0 ? 9 : 0);
    points(i, 1) = std::cos(2.1 * static_cast<double>(i));
  }
  write_npy(folder.path / "x.npy", points.view());
  const std::string text =
      "[cloud]\ndensity = \"kde\"\npath = \"x.npy\"\n[[functional]]\nterm = \"entropy\"\n[flow]\ntau = "
      "0.01\nsteps = 2\n";
  const auto read = [&](const std::vector<std::string>& overrides) {
    return parse_config(text, "f.toml", folder.path, overrides);
  };
  const auto error = [&](const std::vector<std::string>& overrides) {
    try {
      static_cast<void>(read(overrides).initial_cloud());
    } catch (const Error& problem) {
      return std::string(problem.what());
    }
    return std::string("(no error)");
  };
  for (const std::vector<std::string>& overrides :
       {std::vector<std::string>{},
        {"cloud.bandwidth=silverman"},
        {"cloud.bandwidth=0.25"},
        {"cloud.density=gaussian_mixture", "cloud.components=2"}}) {
    const Config config = read(overrides);
    CAPTURE(config.resolved);
    CHECK(config.cloud.particles == 50);
    CHECK(config.held_out.particles > 0);
    CHECK(!config.cloud.estimate.empty());
    const Cloud cloud = config.initial_cloud();
    CHECK(cloud.log_density == config.cloud.density->log_density(cloud.x.view()));
    CHECK(config.held_out_cloud(7).x.rows() == 7);
    CHECK(config.fresh_cloud(1).x.elements() != cloud.x.elements());
    const Config again = parse_config(config.resolved, "again.toml", folder.path);
    CHECK(again.initial_cloud().x.elements() == cloud.x.elements());
  }
  CHECK(read({"cloud.particles=64"}).initial_cloud().x.rows() == 64);
  check_contains(read({}).cloud.estimate, {"50 points", "scott", "0.521"});
  check_contains(error({"cloud.bandwidth=0"}), {"cloud.bandwidth", "above 0"});
  check_contains(error({"cloud.bandwidth=median"}), {"cloud.bandwidth", "scott, silverman"});
  check_contains(error({"cloud.components=2"}), {"cloud.components", "unknown key", "\"kde\""});
  check_contains(error({"cloud.density=gaussian_mixture"}), {"cloud.components", "missing"});
  check_contains(error({"cloud.density=gaussian_mixture", "cloud.components=51"}),
                 {"cloud.components", "50"});
  check_contains(error({"held_out.fraction=0.2"}), {"held_out.fraction", "\"file\""});

  const std::vector<std::string> plain = {"cloud.density=file", "functional.0.term=potential",
                                          "functional.0.expression=sum(x^2)"};
  const auto with = [&](const std::string& one) {
    std::vector<std::string> out = plain;
    out.push_back(one);
    return out;
  };
  const Config part = read(with("held_out.fraction=0.2"));
  CHECK(part.cloud.particles == 40);
  CHECK(part.held_out.particles == 10);
  const Matrix<double> kept = part.initial_cloud().x, apart = part.held_out_cloud(10).x;
  std::vector<std::pair<double, double>> both, all;
  for (Index i = 0; i < 40; ++i) both.emplace_back(kept(i, 0), kept(i, 1));
  for (Index i = 0; i < 10; ++i) both.emplace_back(apart(i, 0), apart(i, 1));
  for (Index i = 0; i < 50; ++i) all.emplace_back(points(i, 0), points(i, 1));
  std::sort(both.begin(), both.end());
  std::sort(all.begin(), all.end());
  CHECK(both == all);
  const Config again = parse_config(part.resolved, "again.toml", folder.path);
  CHECK(again.held_out_cloud(10).x.elements() == apart.elements());
  CHECK(read({plain[0], plain[1], plain[2], "held_out.fraction=0.2", "seed=5"})
            .held_out_cloud(10)
            .x.elements() != apart.elements());
  check_contains(error(with("held_out.fraction=0.001")), {"held_out.fraction", "nothing"});
  check_contains(error({plain[0], plain[1], plain[2], "held_out.fraction=0.2", "held_out.particles=7"}),
                 {"held_out.particles = 7", "10"});
  check_contains(error(with("held_out.particles=7")), {"fraction", "\"kde\"", "\"gaussian_mixture\""});
}
