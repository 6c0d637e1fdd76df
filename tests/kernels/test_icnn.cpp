// SPDX-License-Identifier: MIT
// The reference network against an independent one written in nested dual numbers, against central
// differences, and against closed forms.
#include <doctest/doctest.h>

#include "brenier/base/error.hpp"
#include "kernels/operations.hpp"
#include "kernels/ref/ref.hpp"
#include "tests/support/dual.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

template <class S>
S softplus(const S& s) {
  return plain(s) > 0 ? s + dual_log(S(1) + dual_exp(S(0) - s)) : dual_log(S(1) + dual_exp(s));
}

template <class S>
S activation(const Activation& sigma, const S& s) {
  switch (sigma.kind) {
    case Activation::softplus:
      return softplus(s);
    case Activation::squareplus:
      return (s + dual_sqrt(s * s + S(4))) * S(0.5);
    case Activation::leaky_softplus:
      return S(sigma.parameter) * s + S(1 - sigma.parameter) * softplus(s);
    case Activation::leaky_relu:
      return plain(s) > 0 ? s : S(sigma.parameter) * s;
    case Activation::squared_leaky_relu:
      return plain(s) > 0 ? s * s : S(sigma.parameter) * s * (S(sigma.parameter) * s);
  }
  throw ValueError("an activation without an oracle");
}

/// u(x), written down from the definition for any number type.
template <class S>
S potential(const Icnn& net, const std::vector<S>& theta, const std::vector<S>& x) {
  const Index d = net.dim();
  std::vector<std::vector<S>> z;
  int l = 0;
  for (const Layer& layer : net.layers()) {
    std::vector<S> out;
    const Activation sigma = net.activation(l++);
    for (Index i = 0; i < layer.width; ++i) {
      S s = theta[layer.bias + i];
      for (Index c = 0; layer.input_weight >= 0 && c < d; ++c)
        s = s + theta[layer.input_weight + i * d + c] * x[c];
      const Index before = z.empty() ? 0 : static_cast<Index>(z.back().size());
      for (Index j = 0; j < before; ++j) s = s + theta[layer.weight + i * before + j] * z.back()[j];
      if (layer.skip >= 0) s = s + theta[layer.scale + i] * z[layer.skip][i];
      out.push_back(activation(sigma, s));
    }
    z.push_back(out);
  }
  S u = theta[net.output_bias()];
  for (std::size_t i = 0; i < z.back().size(); ++i) u = u + theta[net.output_weight() + i] * z.back()[i];
  for (Index c = 0; c < d; ++c) {
    u = u + theta[net.output_input() + c] * x[c] + S(0.5) * theta[net.alpha()] * x[c] * x[c];
  }
  for (Index r = 0; r < net.rank(); ++r) {
    S bx = S(0);
    for (Index c = 0; c < d; ++c) bx = bx + theta[net.factor() + r * d + c] * x[c];
    u = u + S(0.5) * bx * bx;
  }
  return u;
}

using D1 = Dual<double>;
using D2 = Dual<D1>;
using D3 = Dual<D2>;

/// d/deps of p^T H(x) q at theta + eps direction.
double hessian_slope(const Icnn& net, const std::vector<double>& theta, const std::vector<double>& direction,
                     const std::vector<double>& x, const std::vector<double>& p,
                     const std::vector<double>& q) {
  std::vector<D3> t, y;
  for (std::size_t k = 0; k < theta.size(); ++k) t.push_back(D3(D2(D1(theta[k], direction[k])), D2(0.0)));
  for (std::size_t c = 0; c < x.size(); ++c) y.push_back(D3(D2(D1(x[c]), D1(p[c])), D2(D1(q[c]))));
  return potential(net, t, y).slope.slope.slope;
}

/// d/deps of v . grad u(x), and of u(x).
double gradient_slope(const Icnn& net, const std::vector<double>& theta, const std::vector<double>& direction,
                      const std::vector<double>& x, const std::vector<double>& v) {
  std::vector<D2> t, y;
  for (std::size_t k = 0; k < theta.size(); ++k) t.push_back(D2(D1(theta[k], direction[k])));
  for (std::size_t c = 0; c < x.size(); ++c) y.push_back(D2(D1(x[c]), D1(v[c])));
  return potential(net, t, y).slope.slope;
}
double value_slope(const Icnn& net, const std::vector<double>& theta, const std::vector<double>& direction,
                   const std::vector<double>& x) {
  std::vector<D1> t, y;
  for (std::size_t k = 0; k < theta.size(); ++k) t.push_back(D1(theta[k], direction[k]));
  for (const double c : x) y.push_back(D1(c));
  return potential(net, t, y).slope;
}

std::vector<double> row(const Matrix<double>& m, Index i) {
  return {m.row(i), m.row(i) + m.cols()};
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

template <class T>
void check_activation(const Activation& sigma, double s) {
  CAPTURE(static_cast<int>(sigma.kind));
  CAPTURE(sigma.parameter);
  CAPTURE(s);
  // Of an argument that T can hold.
  const double at = static_cast<double>(static_cast<T>(s));
  const D3 exact = activation(sigma, D3(D2(D1(at, 1.0), D1(1.0)), D2(D1(1.0))));
  const ActivationJet<T> jet =
      with_activation<T>(sigma, [&](const auto& formulas) { return formulas.jet(static_cast<T>(s)); });
  T value = 0, d1 = 0;
  activate(sigma, static_cast<T>(s), value, d1);
  const double unit = std::numeric_limits<T>::epsilon();
  const auto near = [&](T got, double wanted) { return std::abs(double(got) - wanted) <= 8 * unit; };
  const double size = 1 + std::max(std::abs(s), std::abs(exact.value.value.value));
  CHECK(std::abs(double(jet.value) - exact.value.value.value) <= 8 * unit * size);
  CHECK(std::abs(double(value) - exact.value.value.value) <= 8 * unit * size);
  CHECK(std::abs(double(jet.d1) - exact.value.value.slope) <= 8 * unit * size);
  CHECK(std::abs(double(d1) - exact.value.value.slope) <= 8 * unit * size);
  CHECK(near(jet.d2, exact.value.slope.slope));
  CHECK(near(second_derivative(sigma, d1), exact.value.slope.slope));
  CHECK(near(jet.d3, exact.slope.slope.slope));
  CHECK(near(third_derivative(sigma, d1), exact.slope.slope.slope));
}

}  // namespace

TEST_CASE("activations: all derivatives, from s and from sigma', against nested dual numbers") {
  for (const ActivationRow& row : kActivations) {
    for (const double s : {-30.0, -5.0, -1.3, -0.2, 0.0, 0.4, 1.7, 6.0, 25.0}) {
      check_activation<float>(row.kind, s);
      check_activation<double>(row.kind, s);
      if (row.parameter == nullptr) continue;
      check_activation<float>({row.kind, row.least}, s);
      check_activation<double>({row.kind, (row.least + 3 * row.below) / 4}, s);
    }
  }
  for (const double s : {-30.0, -1.3, -0.2, 0.0, 0.4, 25.0}) {
    check_activation<float>({Activation::squared_leaky_relu, 0.25}, s);
    check_activation<double>({Activation::squared_leaky_relu, 0.01}, s);
  }
}

TEST_CASE("activations with bends: NaN stays NaN") {
  for (const Activation::Kind kind : {Activation::leaky_relu, Activation::squared_leaky_relu}) {
    double value = 0, d1 = 0;
    activate({kind, 0.1}, std::nan(""), value, d1);
    CHECK(std::isnan(value));
    CHECK(std::isnan(d1));
  }
}

TEST_CASE("the network of Alvarez-Melis, Schiff and Mroueh, written out for one unit a layer") {
  const Icnn net({.dim = 1,
                  .hidden = {1, 1},
                  .activation = Activation::leaky_relu,
                  .first_layer = FirstLayer::squared,
                  .output_activation = true,
                  .learn_alpha = false});
  REQUIRE(net.layers().size() == 3);
  CHECK_FALSE(net.smooth());
  // A_0, b_0, W_1, A_1, b_1, W_2, A_2, b_2, w, a, b, alpha.
  const std::vector<double> theta = {2, 1, 0.5, -3, 0.25, 0.75, 1, -0.5, 1, 0, 0, 0};
  REQUIRE(net.parameters() == 12);
  Team team(1);
  for (const double at : {-2.0, -0.4, 0.6, 3.0}) {
    CAPTURE(at);
    const auto relu = [](double s) { return s > 0 ? s : 0.01 * s; };
    const auto slope = [](double s) { return s > 0 ? 1 : 0.01; };
    const double s0 = 2 * at + 1, z0 = relu(s0) * relu(s0);
    const double s1 = 0.5 * z0 - 3 * at + 0.25, z1 = relu(s1);
    const double s2 = 0.75 * z1 + at - 0.5;
    const double gradient = slope(s2) * (0.75 * slope(s1) * (0.5 * 2 * relu(s0) * slope(s0) * 2 - 3) + 1);
    Matrix<double> x(1, 1, at), displacement(1, 1);
    double u = 0;
    MapOutputs<double> out;
    out.potential = &u;
    out.displacement = displacement;
    ref::evaluate<double>(net, theta.data(), x, out, team);
    CHECK_REL(u, relu(s2), 1e-14);
    CHECK_REL(at + displacement(0, 0), gradient, 1e-13);
  }
  for (const Initialisation how : {Initialisation::identity, Initialisation::paper}) {
    const std::vector<double> first = initial_parameters(net, how, 3, 0, 0.0);
    CHECK(first[8] == 1);
    for (const std::size_t fixed : {9, 10, 11}) CHECK(first[fixed] == 0);
    for (const ParameterTensor& tensor : net.tensors()) CHECK((tensor.rate == 0) == (tensor.offset >= 8));
  }
}

TEST_CASE("the paper's first values: each weight within 1/sqrt(fan in), biases within 1/sqrt(dim)") {
  const Icnn net({.dim = 4, .hidden = {64, 64}, .output_activation = true});
  const std::vector<double> theta = initial_parameters(net, Initialisation::paper, 1);
  for (const ParameterTensor& tensor : net.tensors()) {
    if (tensor.rate == 0 || tensor.name == "quadratic.alpha") continue;
    CAPTURE(tensor.name);
    const double bound = tensor.name.ends_with("hidden.weight") ? 1.0 / 8 : 1.0 / 2;
    double largest = 0;
    for (Index k = 0; k < tensor.size(); ++k) largest = std::max(largest, std::abs(theta[tensor.offset + k]));
    CHECK(largest <= bound);
    if (tensor.size() > 1) CHECK(largest > 0.25 * bound);
  }
}

TEST_CASE("activations: their texts are read again; others are refused") {
  for (const ActivationRow& row : kActivations) {
    CHECK(parse_activation(row.name) == Activation(row.kind));
    CHECK(parse_activation(text_of(row.kind)) == Activation(row.kind));
  }
  CHECK(text_of(Activation::softplus) == "softplus");
  CHECK(text_of({Activation::leaky_softplus, 0.25}) == "leaky_softplus(0.25)");
  CHECK(parse_activation("leaky_softplus(1e-3)") == Activation(Activation::leaky_softplus, 1e-3));
  for (const char* bad : {"1", "-0.1", "nan", "", "0.5, 1"}) {
    CAPTURE(bad);
    CHECK_ERROR(parse_activation("leaky_softplus(" + std::string(bad) + ")"), ValueError,
                "the slope in brackets is a number, at least 0 and below 1");
  }
  CHECK_ERROR(parse_activation("leaky_softplus(0.5"), ValueError, "the slope in brackets");
  CHECK_ERROR(Icnn({.dim = 1, .hidden = {2}, .activation = {Activation::leaky_softplus, 1.5}}), ValueError,
              "leaky_softplus(1.5)");
  CHECK_ERROR(parse_activation("relu"), ValueError, "\"relu\" is unknown; did you mean");
  CHECK_ERROR(parse_activation("softplus(1)"), ValueError,
              "\"softplus(1)\" is unknown; did you mean \"softplus\"?");
  CHECK_ERROR(parse_activation(""), ValueError, "is unknown");
}

TEST_CASE("u, grad u, H and H p equal nested dual numbers and central differences") {
  Team team(1);
  for (const NetCase& net_case : net_cases()) {
    CAPTURE(net_case.name);
    const Icnn net(net_case.architecture);
    const Index d = net.dim();
    const std::vector<double> theta = generic_parameters<double>(net, 3);
    Numbers numbers(5);
    const Matrix<double> x = numbers.matrix<double>(2, d, -1.5, 1.5);
    const Matrix<double> p = numbers.matrix<double>(2, d, -1, 1);
    Matrix<double> displacement(2, d), hessian(2, d * d), hp(2, d);
    std::vector<double> u(2);
    MapOutputs<double> out;
    out.potential = u.data();
    out.displacement = displacement;
    out.hessian = hessian;
    ref::evaluate<double>(net, theta.data(), x, out, team);
    ref::hessian_vector<double>(net, theta.data(), x, p, hp, team);
    for (Index i = 0; i < 2; ++i) {
      CHECK_REL(u[i], potential(net, theta, row(x, i)), tol<double>(100));
      for (Index c = 0; c < d; ++c) {
        std::vector<D2> t(theta.begin(), theta.end()), y;
        for (Index e = 0; e < d; ++e) y.push_back(D2(D1(x(i, e), e == c ? 1.0 : 0.0), D1(p(i, e))));
        const D2 jet = potential(net, t, y);
        CHECK_REL(x(i, c) + displacement(i, c), jet.value.slope, 1e-12);
        CHECK_REL(hp(i, c), jet.slope.slope, 1e-11);
        double product = 0;
        for (Index e = 0; e < d; ++e) product += hessian(i, c * d + e) * p(i, e);
        CHECK_REL(product, hp(i, c), 1e-11);
        // Fourth-order central difference of u.
        const auto shifted = [&](double h) {
          std::vector<double> moved = row(x, i);
          moved[c] += h;
          return potential(net, theta, moved);
        };
        const double h = 1e-3;
        const double difference =
            (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);
        CHECK_REL(x(i, c) + displacement(i, c), difference, 1e-7);
      }
    }
  }
}

TEST_CASE("the theta-gradient of the jet equals nested dual numbers") {
  Team team(1);
  for (const NetCase& net_case : net_cases()) {
    CAPTURE(net_case.name);
    const Icnn net(net_case.architecture);
    const Index d = net.dim();
    const Index n = 2;
    const std::vector<double> theta = generic_parameters<double>(net, 7);
    Numbers numbers(11);
    const Matrix<double> x = numbers.matrix<double>(n, d, -1.5, 1.5);
    const Matrix<double> v = numbers.matrix<double>(n, d, -1, 1);
    const Matrix<double> q = numbers.matrix<double>(n, 2 * d, -1, 1);
    const Matrix<double> p = numbers.matrix<double>(n, 2 * d, -1, 1);
    const Matrix<double> a = numbers.matrix<double>(n, 1, -1, 1);
    const Matrix<double> direction_matrix = numbers.matrix<double>(net.parameters(), 1, -1, 1);
    const std::vector<double>& direction = direction_matrix.elements();
    std::vector<double> gradient(net.parameters());
    const auto part = [&](const Matrix<double>& m, Index i, Index k) {
      return std::vector<double>(m.row(i) + k * d, m.row(i) + (k + 1) * d);
    };

    JetSeeds<double> seeds;
    seeds.a = a.data();
    seeds.v = v;
    seeds.directions = 2;
    seeds.q = q;
    seeds.p = p;
    ref::jet_gradient<double>(net, theta.data(), x, seeds, gradient.data(), team);
    double expected = 0;
    for (Index i = 0; i < n; ++i) {
      expected += a(i, 0) * value_slope(net, theta, direction, row(x, i)) +
                  gradient_slope(net, theta, direction, row(x, i), row(v, i));
      for (Index k = 0; k < 2; ++k) {
        expected += hessian_slope(net, theta, direction, row(x, i), part(p, i, k), part(q, i, k));
      }
    }
    CHECK_REL(dot(gradient, direction), expected, 1e-10);

    // Without partners, q pairs with itself; a metric sum_k q_k q_k^T is the same thing.
    seeds.p = {};
    ref::jet_gradient<double>(net, theta.data(), x, seeds, gradient.data(), team);
    JetSeeds<double> with_metric = seeds;
    with_metric.directions = 0;
    with_metric.q = {};
    Matrix<double> metric(n, d * d);
    for (Index i = 0; i < n; ++i) {
      for (Index k = 0; k < 2; ++k) {
        for (Index b = 0; b < d * d; ++b) metric(i, b) += q(i, k * d + b / d) * q(i, k * d + b % d);
      }
    }
    with_metric.metric = metric;
    std::vector<double> same(net.parameters());
    ref::jet_gradient<double>(net, theta.data(), x, with_metric, same.data(), team);
    CHECK_CLOSE(same, gradient, 1e-12);
  }
}

TEST_CASE("log det H and its theta-gradient against central differences, d = 1 to 20, depth 1 to 4") {
  Team team(1);
  for (const NetCase& net_case : net_cases()) {
    CAPTURE(net_case.name);
    const Icnn net(net_case.architecture);
    const Index d = net.dim();
    const std::vector<double> theta = generic_parameters<double>(net, 13);
    Numbers numbers(17);
    const Matrix<double> x = numbers.matrix<double>(1, d, -1, 1);
    const std::vector<double> direction = numbers.matrix<double>(net.parameters(), 1, -1, 1).elements();
    const auto log_det_at = [&](double eps) {
      std::vector<double> moved = theta;
      for (std::size_t k = 0; k < moved.size(); ++k) moved[k] += eps * direction[k];
      double log_det = 0;
      MapOutputs<double> out;
      out.log_det = &log_det;
      ref::evaluate<double>(net, moved.data(), x, out, team);
      return log_det;
    };
    Matrix<double> hessian(1, d * d), inverse(1, d * d);
    MapOutputs<double> out;
    out.hessian = hessian;
    ref::evaluate<double>(net, theta.data(), x, out, team);
    double log_det = 0;
    REQUIRE(ref::cholesky_log_det(hessian.data(), d, &log_det, inverse.data()));
    CHECK_REL(log_det, log_det_at(0), 1e-12);
    JetSeeds<double> seeds;
    seeds.metric = inverse;
    std::vector<double> gradient(net.parameters());
    ref::jet_gradient<double>(net, theta.data(), x, seeds, gradient.data(), team);
    const double h = 1e-4;
    const double difference =
        (8 * (log_det_at(h) - log_det_at(-h)) - (log_det_at(2 * h) - log_det_at(-2 * h))) / (12 * h);
    CHECK_REL(dot(gradient, direction), difference, 1e-7);
  }
}

TEST_CASE("Cholesky: a known matrix, and one that is not positive definite") {
  const double h[] = {4, 2, 2, 3};
  double inverse[4], log_det = 0;
  REQUIRE(ref::cholesky_log_det(h, 2, &log_det, inverse));
  CHECK_REL(log_det, std::log(8.0), tol<double>(4));
  const std::vector<double> expected = {3. / 8, -2. / 8, -2. / 8, 4. / 8};
  CHECK_CLOSE(std::vector<double>(inverse, inverse + 4), expected, tol<double>(8));

  const double indefinite[] = {1, 2, 2, 1};
  CHECK_FALSE(ref::cholesky_log_det(indefinite, 2, &log_det, inverse));
  CHECK(std::isnan(log_det));
}

TEST_CASE("denormalised parameters give S^2 u((x-m)/S) + m.x") {
  Team team(1);
  for (const NetCase& net_case : net_cases()) {
    CAPTURE(net_case.name);
    const Icnn net(net_case.architecture);
    const Index d = net.dim();
    const std::vector<double> theta = generic_parameters<double>(net, 19);
    Numbers numbers(23);
    const Matrix<double> x = numbers.matrix<double>(3, d, -1, 1);
    const std::vector<double> shift = numbers.matrix<double>(d, 1, -2, 2).elements();
    const double scale = 0.3;
    const std::vector<double> physical = denormalised(net, theta, shift, scale);
    for (Index i = 0; i < 3; ++i) {
      std::vector<double> x_hat(d);
      double expected = 0;
      for (Index c = 0; c < d; ++c) {
        x_hat[c] = (x(i, c) - shift[c]) / scale;
        expected += shift[c] * x(i, c);
      }
      expected += scale * scale * potential(net, theta, x_hat);
      CHECK_REL(potential(net, physical, row(x, i)), expected, 1e-11);
    }
  }
}

TEST_CASE("reparametrised potentials are c + s u((x-m)/S); forces give grad u(x+m)") {
  for (const NetCase& net_case : net_cases()) {
    CAPTURE(net_case.name);
    const Icnn net(net_case.architecture);
    const Index d = net.dim();
    std::vector<double> theta = generic_parameters<double>(net, 91);
    Numbers numbers(93);
    std::vector<double> shift(d), one(d, 0.3), each(d), zero(d, 0.0);
    for (double& m : shift) m = numbers(-3, 3);
    for (double& s : each) s = numbers(0.1, 2);
    const Matrix<double> x = numbers.matrix<double>(5, d, -2, 2);
    const auto evaluate = [&](const std::vector<double>& parameters, const Matrix<double>& at) {
      std::pair<std::vector<double>, Matrix<double>> out{std::vector<double>(5), Matrix<double>(5, d)};
      Team team(1);
      MapOutputs<double> map;
      map.potential = out.first.data();
      map.displacement = out.second;
      ref::operations<double>().evaluate(net, parameters.data(), at, map, team);
      return out;
    };
    for (const bool common : {true, false}) {
      if (!common) {
        if (d > 1)
          CHECK_ERROR(reparametrised(net, theta, {.shift = shift, .scale = each}), ValueError, "alpha = 0.7");
        theta[net.alpha()] = 0;
      }
      const std::vector<double>& scale = common ? one : each;
      Matrix<double> inner(5, d);
      for (Index i = 0; i < 5; ++i) {
        for (Index c = 0; c < d; ++c) inner(i, c) = (x(i, c) - shift[c]) / scale[c];
      }
      std::vector<double> expected = evaluate(theta, inner).first;
      for (double& value : expected) value = -7 + 2.5 * value;
      CHECK_CLOSE(
          evaluate(reparametrised(net, theta,
                                  {.shift = shift, .scale = scale, .value_scale = 2.5, .value_shift = -7}),
                   x)
              .first,
          expected, 1e-12);

      Matrix<double> moved(5, d);
      for (Index i = 0; i < 5; ++i) {
        for (Index c = 0; c < d; ++c) moved(i, c) = x(i, c) + shift[c];
      }
      Matrix<double> gradient = evaluate(theta, moved).second;
      for (Index k = 0; k < 5 * d; ++k) gradient.elements()[k] += moved.elements()[k];
      std::vector<double> force(theta.size());
      write_as_force(net, theta, shift, force);
      CHECK_CLOSE(evaluate(force, x).second.elements(), gradient.elements(), 1e-13);
    }
  }
}

TEST_CASE("initial parameters: identity maps, bounds, reproducible draws") {
  Team team(1);
  Numbers numbers(29);
  for (const NetCase& net_case : net_cases()) {
    CAPTURE(net_case.name);
    const Icnn net(net_case.architecture);
    const Matrix<double> x = numbers.matrix<double>(50, net.dim(), -2, 2);
    for (const Initialisation how : {Initialisation::identity, Initialisation::paper}) {
      const std::vector<double> theta = initial_parameters(net, how, 1);
      CHECK(theta == initial_parameters(net, how, 1));
      CHECK(theta != initial_parameters(net, how, 2));
      CHECK(theta != initial_parameters(net, how, 1, 1));
      for (const ParameterTensor& tensor : net.tensors()) {
        for (Index k = 0; k < tensor.size(); ++k) CHECK(theta[tensor.offset + k] >= tensor.lower);
      }
    }
    const std::vector<double> theta = initial_parameters(net, Initialisation::identity, 4);
    Matrix<double> displacement(50, net.dim());
    MapOutputs<double> out;
    out.displacement = displacement;
    ref::evaluate<double>(net, theta.data(), x, out, team);
    double worst = 0;
    for (const double step : displacement.elements()) worst = std::max(worst, std::abs(step));
    CHECK(worst < 0.25);
    CHECK(worst > 0);
  }
}

TEST_CASE("no row of B starts at its saddle, B = 0") {
  for (const int rank : {1, 2, 3, 7}) {
    for (const bool learn : {true, false}) {
      for (const double alpha : {0.0, 1e-4, 1.0}) {
        const Icnn net({.dim = 3, .hidden = {4}, .quadratic_rank = rank, .learn_alpha = learn});
        const std::vector<double> theta = initial_parameters(net, Initialisation::identity, 1, 0, alpha);
        for (int r = 0; r < rank; ++r) {
          double size = 0;
          for (int c = 0; c < 3; ++c) size += std::abs(theta[net.factor() + r * 3 + c]);
          CHECK(size > 0);
        }
      }
    }
  }
}

TEST_CASE("architectures that are not valid name the value") {
  CHECK_ERROR(Icnn({.dim = 0}), ValueError, "dim = 0");
  CHECK_ERROR(Icnn({.hidden = {}}), ValueError, "no hidden layers");
  CHECK_ERROR(Icnn({.hidden = {5, -3}}), ValueError, "-3");
  CHECK_ERROR(Icnn({.hidden = {5, 6}, .residual = true}), ValueError, "equal widths");
  CHECK_ERROR(Icnn({.first_layer = FirstLayer::squared}), ValueError,
              "first_layer = squared with activation = softplus");
  CHECK_ERROR(Icnn({.hidden = std::vector<int>(64, 3), .output_activation = true}), ValueError,
              "65 hidden layers");
  CHECK_ERROR(Icnn({.activation = Activation::squared_leaky_relu}), ValueError, "no row");
  CHECK_ERROR(Icnn({.quadratic_rank = -1}), ValueError, "quadratic_rank = -1");
  CHECK_ERROR(Icnn({.hidden = std::vector<int>(65, 3)}), ValueError, "65 hidden layers");
}
