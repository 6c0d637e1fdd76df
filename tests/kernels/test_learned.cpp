// SPDX-License-Identifier: MIT
// Learned potentials: files, values and gradients on every backend, and as a term of F.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "brenier/base/error.hpp"
#include "brenier/flow.hpp"
#include "brenier/npy.hpp"
#include "brenier/potential.hpp"
#include "brenier/safetensors.hpp"
#include "kernels/operations.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"
#include "tests/support/temporary_folder.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

Tensor tensor(const std::string& name, std::vector<Index> shape, Numbers& numbers, double low, double high) {
  Tensor out{name, std::move(shape), {}, DType::float32};
  Index count = 1;
  for (const Index extent : out.shape) count *= extent;
  // Values that float has as well: what is stored is what is meant.
  for (Index i = 0; i < count; ++i)
    out.values.push_back(static_cast<double>(static_cast<float>(numbers(low, high))));
  return out;
}

/// A residual network of three blocks as another program writes it: no quadratic term, no metadata.
TensorFile residual_file(Index d, Index h) {
  Numbers numbers(71);
  TensorFile file;
  const auto add = [&](const std::string& name, std::vector<Index> shape, double low, double high) {
    file.tensors.push_back(tensor(name, std::move(shape), numbers, low, high));
  };
  add("layer0.input.weight", {h, d}, -1, 1);
  add("layer0.bias", {h}, -1, 1);
  for (const char* l : {"layer1.", "layer2."}) {
    const std::string layer = l;
    add(layer + "inner.weight", {h, h}, 0, 0.5);
    add(layer + "inner.bias", {h}, -1, 1);
    add(layer + "outer.weight", {h, h}, 0, 0.5);
    add(layer + "skip.scale", {h}, 0, 1);
    add(layer + "input.weight", {h, d}, -1, 1);
    add(layer + "bias", {h}, -1, 1);
  }
  add("output.hidden.weight", {1, h}, 0, 1);
  add("output.input.weight", {1, d}, -1, 1);
  add("output.bias", {1}, -1, 1);
  return file;
}

/// V of such a file, by the formulas of its format and nothing of the library: complex arithmetic gives the
/// derivative along any direction to rounding. Above `linear` softplus(s) is s.
template <class Number>
Number residual_value(const TensorFile& file, const std::vector<Number>& x, double linear = INFINITY) {
  const auto at = [&](const std::string& name) -> const std::vector<double>& { return file.at(name).values; };
  const auto softplus = [&](std::vector<Number> s) {
    for (Number& one : s) {
      if (std::real(one) > linear) continue;
      const bool positive = std::real(one) > 0;  // exp must not overflow
      one = (positive ? one : Number(0)) + std::log(Number(1) + std::exp(positive ? -one : one));
    }
    return s;
  };
  const auto affine = [&](const std::string& weight, const std::vector<Number>& z, std::vector<Number> s) {
    const std::vector<double>& w = at(weight);
    for (std::size_t i = 0; i < s.size(); ++i) {
      for (std::size_t k = 0; k < z.size(); ++k) s[i] += w[i * z.size() + k] * z[k];
    }
    return s;
  };
  const auto bias = [&](const std::string& name) {
    return std::vector<Number>(at(name).begin(), at(name).end());
  };
  std::vector<Number> z = softplus(affine("layer0.input.weight", x, bias("layer0.bias")));
  for (int l = 1; file.find("layer" + std::to_string(l) + ".bias"); ++l) {
    const std::string layer = "layer" + std::to_string(l) + ".";
    const std::vector<Number> h = softplus(affine(layer + "inner.weight", z, bias(layer + "inner.bias")));
    std::vector<Number> s = affine(layer + "outer.weight", h, bias(layer + "bias"));
    s = affine(layer + "input.weight", x, s);
    for (std::size_t i = 0; i < z.size(); ++i) s[i] += at(layer + "skip.scale")[i] * z[i];
    z = softplus(s);
  }
  std::vector<Number> v = affine("output.hidden.weight", z, bias("output.bias"));
  return affine("output.input.weight", x, v)[0];
}

/// Values (N) and gradients (N, d) at the rows of x.
std::pair<std::vector<double>, Matrix<double>> residual_jet(const TensorFile& file, const Matrix<double>& x,
                                                            double linear = INFINITY) {
  using Complex = std::complex<double>;
  constexpr double kStep = 1e-100;
  std::pair<std::vector<double>, Matrix<double>> out{{}, Matrix<double>(x.rows(), x.cols())};
  for (Index i = 0; i < x.rows(); ++i) {
    const double* row = x.row(i);
    out.first.push_back(residual_value<double>(file, {row, row + x.cols()}, linear));
    for (Index c = 0; c < x.cols(); ++c) {
      std::vector<Complex> z(row, row + x.cols());
      z[c] += Complex(0, kStep);
      out.second(i, c) = residual_value<Complex>(file, z, linear).imag() / kStep;
    }
  }
  return out;
}

/// V and grad V at the rows of x by one backend, as the inner loop has them: relative to `shift`.
template <class T>
struct Evaluated {
  std::vector<T> value;
  Matrix<T> gradient;

  Evaluated(const Backend<T>& backend, const LearnedPotential& v, const Matrix<double>& x)
      : value(static_cast<std::size_t>(x.rows())), gradient(x.rows(), x.cols()) {
    Team team(backend.threads);
    const std::vector<T> theta(v.theta.begin(), v.theta.end());
    const Matrix<T> points = cast<T>(x);
    MapOutputs<T> out;
    out.potential = value.data();
    backend.ops->evaluate(v.net, theta.data(), points, out, team);

    std::vector<double> shift(static_cast<std::size_t>(x.cols()), 0.0), force(v.theta.size());
    for (Index i = 0; i < x.rows(); ++i) {
      for (Index c = 0; c < x.cols(); ++c) shift[c] += x(i, c) / static_cast<double>(x.rows());
    }
    Matrix<T> centred(x.rows(), x.cols());
    for (Index i = 0; i < x.rows(); ++i) {
      for (Index c = 0; c < x.cols(); ++c) centred(i, c) = static_cast<T>(x(i, c) - shift[c]);
    }
    write_as_force(v.net, v.theta, shift, force);
    const std::vector<T> rounded(force.begin(), force.end());
    MapOutputs<T> gradients;
    gradients.displacement = gradient;
    backend.ops->evaluate(v.net, rounded.data(), centred, gradients, team);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a residual network of another program: value and gradient by its formulas", T, float,
                   double) {
  const TemporaryFolder folder;
  const Index d = 3, n = 70;
  const TensorFile file = residual_file(d, 5);
  write_safetensors(folder.path / "v.safetensors", file);
  const LearnedPotential v = read_potential(folder.path / "v.safetensors");
  CHECK(v.net.dim() == d);
  CHECK(v.net.architecture().residual);
  CHECK(v.net.architecture().hidden == std::vector<int>{5, 5, 5});
  CHECK(v.theta[v.net.alpha()] == 0);

  const Matrix<double> x = Numbers(73).matrix<double>(n, d, -2, 2);
  const auto [value, gradient] = residual_jet(file, x);
  for (const Backend<T>& backend : all_backends<T>()) {
    CAPTURE(backend.ops->name);
    const Evaluated<T> found(backend, v, x);
    CHECK_CLOSE(found.value, value, tol<T>(60));
    CHECK_CLOSE(found.gradient.elements(), gradient.elements(), tol<T>(60));
  }
}

TEST_CASE_TEMPLATE("the published classifier on the published embeddings", T, float, double) {
  const char* given = std::getenv("BRENIER_DATA");
  const fs::path folder = fs::path(given ? given : "") / "molecules";
  if (!given || !fs::exists(folder / "surrogate.safetensors")) {
    MESSAGE("SKIPPED: set BRENIER_DATA to the data folder (molecules/surrogate.safetensors)");
    return;
  }
  const LearnedPotential v = read_potential(folder / "surrogate.safetensors");
  CHECK(v.net.architecture().hidden == std::vector<int>{128, 128, 128, 128});
  const Matrix<double> x = read_npy(folder / "embeddings.npy");
  const std::vector<double> value = read_npy_vector(folder / "surrogate_value.npy");
  const Matrix<double> gradient = read_npy(folder / "surrogate_gradient.npy");
  // The published numbers take softplus(s) for s above 20, which is exp(-20) = 2e-9 less than it is: to
  // rounding they are those of that function, and ours those of softplus itself.
  constexpr Index kFew = 8;
  Matrix<double> few(kFew, x.cols());
  std::copy_n(x.data(), kFew * x.cols(), few.data());
  const auto first = [&](const auto& elements, Index count) {
    return std::vector<double>(elements.begin(), elements.begin() + count);
  };
  const TensorFile file = read_safetensors(folder / "surrogate.safetensors");
  const auto [published_value, published_gradient] = residual_jet(file, few, 20.0);
  CHECK_CLOSE(published_value, first(value, kFew), 1e-12);
  CHECK_CLOSE(published_gradient.elements(), first(gradient.elements(), kFew * x.cols()), 1e-12);
  const auto [exact_value, exact_gradient] = residual_jet(file, few);
  for (const Backend<T>& backend : all_backends<T>()) {
    CAPTURE(backend.ops->name);
    const Evaluated<T> found(backend, v, x);
    const double bar = sizeof(T) == 8 ? 1e-12 : 2e-5;
    CHECK_CLOSE(first(found.value, kFew), exact_value, bar);
    CHECK_CLOSE(first(found.gradient.elements(), kFew * x.cols()), exact_gradient.elements(), bar);
    CHECK_CLOSE(found.value, value, std::max(bar, 1e-9));
    CHECK_CLOSE(found.gradient.elements(), gradient.elements(), std::max(bar, 1e-9));
  }
}

#if !defined(BRENIER_TEST_CUDA)

TEST_CASE("the gradient of a JKO step in a learned potential equals central differences of F") {
  const TemporaryFolder folder;
  const Index n = 20;
  const int d = 3;
  write_safetensors(folder.path / "v.safetensors", residual_file(d, 5));
  const LearnedPotential v = read_potential(folder.path / "v.safetensors");
  const Functional functional = 0.7 * learned_potential(v);
  const Objective objective = functional.objective();
  const Icnn net({.dim = d, .hidden = {6, 4}, .quadratic_rank = 1});
  const std::vector<double> theta = generic_parameters<double>(net, 79);
  const Matrix<double> x = Numbers(83).matrix<double>(n, d, -1, 1);
  InnerProblem<double> problem;
  problem.net = &net;
  problem.x = x;
  problem.shift = {0.5, -0.25, 1.0};
  problem.scale = 0.8;
  problem.tau = 0.3;
  problem.objective = &objective;
  Team team(1);
  const auto value = [&](const std::vector<double>& at) {
    Matrix<double> scaled = x, displacement(n, d), y(n, d);
    for (double& one : scaled.elements()) one /= problem.scale;
    MapOutputs<double> map;
    map.displacement = displacement;
    ref::operations<double>().evaluate(net, at.data(), scaled, map, team);
    double transport = 0;
    for (Index i = 0; i < n; ++i) {
      for (Index c = 0; c < d; ++c) {
        const double step = problem.scale * displacement(i, c);
        y(i, c) = x(i, c) + step + problem.shift[c];
        transport += step * step / (2 * problem.tau);
      }
    }
    std::vector<double> potential(n);
    v.evaluate(y, potential.data(), {}, team);
    double sum = 0;
    for (const double one : potential) sum += 0.7 * one;
    return (sum + transport) / static_cast<double>(n);
  };
  std::vector<double> gradient(net.parameters());
  ref::operations<double>().objective_gradient(problem, theta.data(), 0, gradient.data(), team);
  std::vector<double> differences;
  for (Index k = 0; k < net.parameters(); ++k) {
    const double h = 1e-5;
    std::vector<double> up = theta, down = theta;
    up[k] += h;
    down[k] -= h;
    differences.push_back((value(up) - value(down)) / (2 * h));
  }
  CHECK_CLOSE(gradient, differences, 1e-8);
}

TEST_CASE("a flow in a learned quadratic is the flow in the same expression") {
  const int d = 2;
  const Icnn net({.dim = d, .hidden = {3}, .learn_alpha = false});
  LearnedPotential v{net, std::vector<double>(static_cast<std::size_t>(net.parameters()), 0.0)};
  v.theta[net.alpha()] = 1;
  v.theta[net.output_input()] = -2;
  v.theta[net.output_bias()] = 3;
  const Density start = Density::gaussian(2, 1.0, 0.5);
  FlowOptions options;
  options.tau = 0.1;
  options.network.hidden = {8};
  options.network.quadratic_rank = 1;
  options.inner.iterations = 50;
  options.inner.solver =
      InnerOptions::Solver::adam;  // iteration by iteration; a search may end one trial apart
  const Cloud cloud = start.sample(60, Sampling::stratified);
  const std::string text = "0.5*sum(x^2) - 2*x[0] + 3";
  Flow<double> learned(0.5 * learned_potential(v, "v") + entropy(), cloud, options);
  Flow<double> expression(0.5 * potential(text, d) + entropy(), cloud, options);
  for (int k = 0; k < 2; ++k) {
    const std::optional<StepReport> a = learned.step(), b = expression.step();
    REQUIRE(a.has_value());
    REQUIRE(b.has_value());
    CHECK_REL(a->functional.potential, b->functional.potential, 1e-9);
    CHECK_REL(a->decrease, b->decrease, 1e-6);
  }
  CHECK_CLOSE(learned.trajectory().x().elements(), expression.trajectory().x().elements(), 1e-9);
}

TEST_CASE("functionals with learned potentials: sums, dimensions, what is not known in closed form") {
  const Icnn net({.dim = 2, .hidden = {3}});
  const LearnedPotential v{net, generic_parameters<double>(net, 3)};
  const Functional f = 2 * (learned_potential(v, "v.safetensors") + entropy());
  CHECK(f.dimension() == 2);
  CHECK(f.needs_density());
  CHECK(f.describe() == "2 * learned potential v.safetensors + 2 * internal t*log(t)");
  CHECK(f.objective().network.size() == 1);
  CHECK(f.objective().network[0].weight == 2);
  CHECK_FALSE(f.gaussian(2).has_value());
  CHECK_FALSE((porous_medium(2) + learned_potential(v)).porous_medium(2).has_value());
  CHECK_FALSE(learned_potential(v).empty());
  CHECK(Functional().empty());
  CHECK_ERROR(learned_potential(v) + potential("sum(x)", 3), ShapeError, "dimension 3");
  CHECK_ERROR(learned_potential(LearnedPotential{net, {1.0}}), ShapeError, "1 parameters");
  Team team(1);
  CHECK_ERROR(v.evaluate(Matrix<double>(4, 3), nullptr, {}, team), ShapeError, "dimension 3");
}

TEST_CASE("potential files: written and read, maps of flows, plain networks of other programs") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "v.safetensors";
  const Icnn net({.dim = 3,
                  .hidden = {4, 4},
                  .activation = Activation::squareplus,
                  .residual = true,
                  .quadratic_rank = 2});
  const LearnedPotential v{net, generic_parameters<double>(net, 5)};
  write_potential(path, v);
  const LearnedPotential again = read_potential(path);
  CHECK(again.theta == v.theta);
  CHECK(again.net.architecture().activation == Activation::squareplus);

  // The same tensors without brenier's metadata.
  TensorFile bare = read_safetensors(path);
  bare.metadata = {{"activation", "squareplus"}, {"what", "something else"}};
  write_safetensors(path, bare);
  CHECK(read_potential(path).theta == v.theta);

  // With and without them, also where only the tensors say which layers there are.
  for (const bool residual : {false, true}) {
    const Icnn authors({.dim = 2,
                        .hidden = {4, 4},
                        .activation = {Activation::leaky_relu, 0.05},
                        .first_layer = FirstLayer::squared,
                        .output_activation = true,
                        .residual = residual});
    const BrenierMap map{authors, generic_parameters<double>(authors, 9)};
    write_map(path, map);
    CHECK(read_map(path).theta == map.theta);
    bare = read_safetensors(path);
    bare.metadata = {
        {"activation", "leaky_relu(0.05)"}, {"first_layer", "squared"}, {"output_activation", "yes"}};
    write_safetensors(path, bare);
    const Architecture found = read_potential(path).net.architecture();
    CHECK(found.hidden == std::vector<int>{4, 4});
    CHECK(found.activation == Activation(Activation::leaky_relu, 0.05));
    CHECK(found.first_layer == FirstLayer::squared);
    CHECK(found.output_activation);
    CHECK(found.residual == residual);
    bare.metadata["first_layer"] = "cubed";
    write_safetensors(path, bare);
    CHECK_ERROR(read_potential(path), IoError, "first_layer = \"cubed\"");
  }

  const Icnn plain({.dim = 2, .hidden = {5, 3}});
  const BrenierMap map{plain, generic_parameters<double>(plain, 7)};
  write_map(path, map);
  CHECK(read_potential(path).theta == map.theta);
  bare = read_safetensors(path);
  bare.metadata.clear();
  write_safetensors(path, bare);
  const LearnedPotential found = read_potential(path);
  CHECK(found.theta == map.theta);
  CHECK(found.net.architecture().hidden == std::vector<int>{5, 3});
  CHECK_FALSE(found.net.architecture().residual);
  CHECK_ERROR(read_map(path), IoError, "has no metadata \"format\"");
}

TEST_CASE("potential files: what is wrong is said, with the tensor and the value") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "v.safetensors";
  const auto error_of = [&](const auto& change) -> std::string {
    TensorFile file = residual_file(3, 4);
    change(file);
    write_safetensors(path, file);
    try {
      read_potential(path);
    } catch (const IoError& error) {
      return error.what();
    }
    return "(nothing was thrown)";
  };
  const auto find = [](TensorFile& file, const std::string& name) -> Tensor& {
    return *std::find_if(file.tensors.begin(), file.tensors.end(),
                         [&](const Tensor& t) { return t.name == name; });
  };
  const auto contains = [](const std::string& message, std::initializer_list<const char*> pieces) {
    CAPTURE(message);
    for (const char* piece : pieces) {
      CAPTURE(piece);
      CHECK(message.find(piece) != std::string::npos);
    }
  };
  CHECK(error_of([](TensorFile&) {}) == "(nothing was thrown)");
  contains(error_of([&](TensorFile& f) { find(f, "layer1.inner.weight").values[6] = -0.25; }),
           {"v.safetensors", "-0.25", "\"layer1.inner.weight\"", "row 1", "column 2", "not convex"});
  contains(error_of([&](TensorFile& f) { find(f, "layer2.skip.scale").values[1] = -1; }),
           {"-1", "\"layer2.skip.scale\""});
  CHECK(error_of([&](TensorFile& f) { find(f, "layer1.input.weight").values[1] = -9; }) ==
        "(nothing was thrown)");
  contains(error_of([&](TensorFile& f) { find(f, "layer2.bias").values[3] = NAN; }),
           {"nan", "\"layer2.bias\"", "finite"});
  contains(error_of([&](TensorFile& f) { f.tensors.pop_back(); }), {"no tensor", "\"output.bias\""});
  contains(error_of([&](TensorFile& f) {
             std::erase_if(f.tensors, [](const Tensor& t) { return t.name == "layer2.outer.weight"; });
           }),
           {"no tensor", "\"layer2.outer.weight\""});
  contains(error_of([&](TensorFile& f) {
             find(f, "layer1.outer.weight").shape = {2, 8};
           }),
           {"\"layer1.outer.weight\"", "2 x 8", "expected 4 x 4"});
  contains(error_of([&](TensorFile& f) {
             f.tensors.push_back({"layer1.hidden.weight", {1}, {1.0}});
           }),
           {"\"layer1.hidden.weight\"", "residual"});
  contains(error_of([&](TensorFile& f) { f.metadata["activation"] = "relu"; }), {"relu", "softplus"});
  contains(error_of([&](TensorFile& f) { f.metadata["format"] = "brenier map 7"; }), {"brenier map 7"});
  contains(error_of([&](TensorFile& f) { f.tensors = {{"x", {1}, {1.0}}}; }), {"layer0.input.weight"});
  contains(error_of([&](TensorFile& f) { find(f, "layer0.input.weight").shape = {12}; }),
           {"layer0.input.weight", "expected a matrix"});
  // A quadratic term, if it is there, must be convex as well.
  contains(error_of([&](TensorFile& f) {
             f.tensors.push_back({"quadratic.alpha", {1}, {-0.5}});
           }),
           {"\"quadratic.alpha\"", "-0.5"});
}

#endif
