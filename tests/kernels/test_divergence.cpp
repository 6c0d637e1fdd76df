// SPDX-License-Identifier: MIT
// Divergences between clouds: closed forms, an independent loop on the logarithms, finite differences, and
// every backend against the reference.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <tuple>

#include "brenier/base/error.hpp"
#include "brenier/metrics.hpp"
#include "kernels/base/arena.hpp"
#include "kernels/model/divergence.hpp"
#include "kernels/operations.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/nets.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

DivergenceTerm sinkhorn_term(const Matrix<double>& reference, SinkhornOptions options,
                             std::vector<double> weights = {}) {
  DivergenceTerm term;
  term.reference = std::make_shared<const Matrix<double>>(reference);
  term.reference_weights = std::move(weights);
  term.sinkhorn = options;
  return term;
}

DivergenceTerm kernel_term(DivergenceTerm::Form form, const Matrix<double>& reference, double bandwidth = 1,
                           std::vector<double> weights = {}) {
  DivergenceTerm term = sinkhorn_term(reference, {}, std::move(weights));
  term.form = form;
  term.bandwidth = bandwidth;
  return term;
}

std::vector<double> random_weights(Index n, std::uint64_t seed) {
  Numbers numbers(seed);
  std::vector<double> weights(static_cast<std::size_t>(n));
  double sum = 0;
  for (double& weight : weights) sum += weight = numbers(0.5, 1.5);
  for (double& weight : weights) weight /= sum;
  return weights;
}

std::vector<double> equal_weights(Index n) {
  return std::vector<double>(static_cast<std::size_t>(n), 1.0 / static_cast<double>(n));
}

struct Evaluation {
  double value = 1e9;
  Matrix<double> force;
  SinkhornReport report;
};

template <class T>
Evaluation evaluate(const Backend<T>& backend, const DivergenceTerm& term, const Matrix<double>& x,
                    const std::vector<double>& weights = {}, DivergenceState* state = nullptr) {
  Team team(backend.threads);
  const Padded<T> points(cast<T>(x));
  Padded<T> force(x.rows(), x.cols());
  WeightedCloud<T> cloud{points};
  if (!weights.empty()) cloud.weights = weights.data();
  Evaluation out;
  out.report = backend.ops->divergence(term, cloud, &out.value, force, state, team);
  CHECK(force.guards_intact());
  const std::vector<T> elements = force.elements();
  out.force = Matrix<double>(x.rows(), x.cols());
  std::copy(elements.begin(), elements.end(), out.force.elements().begin());
  return out;
}

/// max |a_k - b_k|; infinite where any element of either is not finite.
double largest_difference(const Matrix<double>& a, const Matrix<double>& b) {
  double largest = a.elements().size() == b.elements().size() ? 0 : INFINITY;
  for (std::size_t k = 0; k < a.elements().size() && k < b.elements().size(); ++k) {
    const double difference = std::abs(a.elements()[k] - b.elements()[k]);
    largest = std::isfinite(difference) ? std::max(largest, difference) : INFINITY;
    if (largest == INFINITY) break;
  }
  return largest;
}

double half_square(const double* x, const double* y, Index d) {
  double sum = 0;
  for (Index c = 0; c < d; ++c) sum += (x[c] - y[c]) * (x[c] - y[c]);
  return sum / 2;
}

/// Entropic transport once more, as simply as it can be said: plain alternating updates at one epsilon.
double plain_sinkhorn(const Matrix<double>& x, const Matrix<double>& y, const std::vector<double>& a,
                      const std::vector<double>& b, double epsilon) {
  const Index n = x.rows(), m = y.rows();
  Matrix<double> cost(n, m);
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < m; ++j) cost(i, j) = half_square(x.row(i), y.row(j), x.cols());
  }
  std::vector<double> f(static_cast<std::size_t>(n)), g(static_cast<std::size_t>(m));
  const auto minimum = [&](const std::vector<double>& w, const auto& exponent) {
    double top = -1e300, sum = 0;
    for (std::size_t k = 0; k < w.size(); ++k) top = std::max(top, exponent(static_cast<Index>(k)));
    for (std::size_t k = 0; k < w.size(); ++k) sum += w[k] * std::exp(exponent(static_cast<Index>(k)) - top);
    return -epsilon * (top + std::log(sum));
  };
  for (int step = 0; step < 200000; ++step) {
    double change = 0;
    for (Index i = 0; i < n; ++i) {
      const double next = minimum(b, [&](Index j) { return (g[j] - cost(i, j)) / epsilon; });
      change = std::max(change, std::abs(next - f[i]));
      f[i] = next;
    }
    for (Index j = 0; j < m; ++j) g[j] = minimum(a, [&](Index i) { return (f[i] - cost(i, j)) / epsilon; });
    if (step > 0 && change < 1e-13) break;
  }
  double value = 0;
  for (Index i = 0; i < n; ++i) value += a[i] * f[i];
  for (Index j = 0; j < m; ++j) value += b[j] * g[j];
  return value;
}

/// A value that takes seconds, for all types that compare with it.
double once(const std::tuple<Index, double, bool>& which, const std::function<double()>& compute) {
  static std::map<std::tuple<Index, double, bool>, double> known;
  const auto [found, fresh] = known.try_emplace(which);
  if (fresh) found->second = compute();
  return found->second;
}

const std::vector<Index> kSizes = kReduced    ? std::vector<Index>{33}
                                  : kEmulated ? std::vector<Index>{1, 7, 33, 70}
                                              : std::vector<Index>{1, 7, 31, 33, 257};
/// On the emulated device: an epsilon at which a few steps are enough.
const std::vector<double> kEpsilons =
    kEmulated ? std::vector<double>{1.0} : std::vector<double>{1e-3, 1e-2, 0.1, 1.0};

Matrix<double> cloud(Index n, Index d, std::uint64_t seed, double low = -1, double high = 1) {
  Matrix<double> x = Numbers(seed).matrix<double>(n, d, low, high);
  for (double& value : x.elements()) value = static_cast<double>(static_cast<float>(value));
  return x;
}

/// A marginal error e of a solve, all of it at one of n particles, moves its force by 2 n e diameters; solves
/// in T end at 128 rounding units.
template <class T>
double force_error(Index n) {
  return sizeof(T) == 8 ? 1e-6 : 2 * tol<T>(128) * static_cast<double>(n);
}

template <class T>
constexpr double kValue = sizeof(T) == 8 ? 1e-6 : 1e-4;

constexpr SinkhornOptions kExact{.epsilon = 1, .iterations = 40000, .tolerance = 1e-11};

}  // namespace

TEST_CASE_TEMPLATE("transport from one point has one plan", T, float, double) {
  for (const Backend<T>& backend : all_backends<T>()) {
    CAPTURE(backend.ops->name);
    const Matrix<double> y = cloud(33, 5, 1), x = cloud(1, 5, 2, 3, 4);
    const std::vector<double> b = random_weights(33, 3);
    double value = 0;
    std::vector<double> force(x.row(0), x.row(0) + 5);
    for (Index j = 0; j < 33; ++j) {
      value += b[j] * half_square(x.row(0), y.row(j), 5);
      for (Index c = 0; c < 5; ++c) force[c] -= b[j] * y(j, c);
    }
    for (const double epsilon : {1e-3, 1.0}) {
      SinkhornOptions options = kExact;
      options.epsilon = epsilon;
      const Evaluation e = evaluate(backend, sinkhorn_term(y, options, b), x);
      CHECK_REL(e.value, value, kValue<T>);
      CHECK_CLOSE(e.force.elements(), force, tol<T>(100));
      CHECK(e.report.unconverged == 0);
    }
  }
}

TEST_CASE_TEMPLATE("transport between pairs of points, and of a cloud to itself", T, float, double) {
  for (Backend<T> backend : all_backends<T>()) {
    backend.threads = 1;  // thousands of small steps
    CAPTURE(backend.ops->name);
    // Two and two in the corners of a rectangle: half the mass p of the plan goes straight, with
    // (1/2 - p)/p = exp(-D/epsilon), D the cost of crossing less that of going straight.
    Matrix<double> x(2, 2), y(2, 2);
    x(1, 1) = 0.5;
    y(0, 0) = y(1, 0) = 2;
    y(1, 1) = 0.5;
    for (const double epsilon : {0.01, 0.1, 1.0}) {
      SinkhornOptions options = kExact;
      options.epsilon = epsilon;
      const double crossing = 0.125, p = 0.5 / (1 + std::exp(-crossing / epsilon)), q = 0.5 - p;
      const double entropy = 2 * p * std::log(4 * p) + (q > 0 ? 2 * q * std::log(4 * q) : 0.0);
      const double value = 2 + 2 * q * crossing + epsilon * entropy;
      const Evaluation e = evaluate(backend, sinkhorn_term(y, options), x);
      CHECK_REL(e.value, value, kValue<T> / 10);
      Matrix<double> force(2, 2);
      force(0, 0) = force(1, 0) = -2;
      force(0, 1) = -2 * q * 0.5;
      force(1, 1) = 2 * q * 0.5;
      CHECK_CLOSE(e.force, force, tol<T>(1000));
    }
    // Points further apart than epsilon sees: the plan is the identity.
    Matrix<double> grid(31, 7);
    for (Index i = 0; i < 31; ++i) grid(i, i % 7) = static_cast<double>(3 + i);
    SinkhornOptions options = kExact;
    options.epsilon = 0.0025;
    const Evaluation still = evaluate(backend, sinkhorn_term(grid, options), grid);
    CHECK_REL(still.value, 0.0025 * std::log(31.0), kValue<T>);
    for (const double f : still.force.elements()) CHECK(std::abs(f) <= tol<T>(40));
    options.debiased = true;
    options.epsilon = kEmulated ? 1 : 0.1;
    const Matrix<double> y2 = cloud(40, 4, 9);
    const Evaluation none = evaluate(backend, sinkhorn_term(y2, options), y2);
    CHECK(std::abs(none.value) <= kValue<T> * 0.1 * std::log(40.0));
    for (const double f : none.force.elements()) CHECK(std::abs(f) <= force_error<T>(40));
  }
}

TEST_CASE_TEMPLATE("the entropic value equals that of an independent loop", T, float, double) {
  for (const Index d : {1, 2, 3, 10, 128}) {
    for (const double epsilon : kEpsilons) {
      for (const bool equal : {false, true}) {
        if (kReduced && (d != 3 || equal)) continue;
        const Index n = equal ? 19 : 17;
        const Matrix<double> x = cloud(n, d, 5), y = equal ? x : cloud(19, d, 6, -0.5, 1.5);
        const std::vector<double> a = equal_weights(n), b = equal ? a : random_weights(19, 7);
        const double expected =
            once({d, epsilon, equal}, [&] { return plain_sinkhorn(x, y, a, b, epsilon); });
        SinkhornOptions options = kExact;
        options.epsilon = epsilon;
        for (Backend<T> backend : all_backends<T>()) {
          backend.threads = 1;  // tens of thousands of small steps
          CAPTURE(backend.ops->name);
          CAPTURE(d);
          CAPTURE(epsilon);
          CAPTURE(equal);
          const Evaluation e = evaluate(backend, sinkhorn_term(y, options, b), x);
          CAPTURE(e.report.iterations);
          // Updates in turns take up to 31,000 steps here. Between equal clouds at a small epsilon points
          // that hardly see each other keep an error of 1e-7 for more than 100,000.
          CHECK((equal ? e.report.marginal_error <= 1e-4 : e.report.unconverged == 0));
          CHECK_REL(e.value, expected, kValue<T>);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("every backend follows the reference", T, float, double) {
  const Backend<T> oracle{&ref::operations<T>(), 1};
  for (const Backend<T>& backend : backends<T>()) {
    for (const Index n : kSizes) {
      for (const Index m : {n, n + 5}) {
        if (n > 100 && m > n) continue;
        for (const Index d : {2, 9}) {
          for (const bool weighted : {false, true}) {
            CAPTURE(backend.ops->name);
            CAPTURE(n);
            CAPTURE(m);
            CAPTURE(d);
            CAPTURE(weighted);
            const Matrix<double> x = cloud(n, d, 11), y = cloud(m, d, 12, -0.7, 1);
            const std::vector<double> a = weighted ? random_weights(n, 13) : std::vector<double>{};
            const std::vector<double> b = weighted ? random_weights(m, 14) : std::vector<double>{};
            SinkhornOptions options{.epsilon = kEmulated ? 1 : 0.2, .iterations = 20000, .tolerance = 1e-8};
            options.debiased = true;
            if (weighted) options.storage = 0;  // costs are computed whenever they are needed
            for (const DivergenceTerm& term :
                 {sinkhorn_term(y, options, b), kernel_term(DivergenceTerm::Form::mmd, y, 0.8, b),
                  kernel_term(DivergenceTerm::Form::energy, y, 1, b)}) {
              const Evaluation expected = evaluate(oracle, term, x, a),
                               actual = evaluate(backend, term, x, a);
              // The terms of a divergence cancel; each is of the size of the clouds.
              CHECK(std::abs(actual.value - expected.value) <= (sizeof(T) == 8 ? 1e-8 : 2e-5));
              CHECK(largest_difference(actual.force, expected.force) <= force_error<T>(n));
            }
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("costs that are stored and costs that are computed anew give the same transport", T, float,
                   double) {
  const Index n = kEmulated ? 40 : 150, m = kEmulated ? 33 : 97;
  for (const Backend<T>& backend : all_backends<T>()) {
    for (const Index d : {2, 20}) {
      for (const bool debiased : {false, true}) {
        CAPTURE(backend.ops->name);
        CAPTURE(d);
        CAPTURE(debiased);
        // From the bound of all costs to a small epsilon at once: the first exponents there are far off.
        const Matrix<double> x = cloud(n, d, 61), y = cloud(m, d, 62, -1.5, 1);
        SinkhornOptions options{.epsilon = 0.05, .scaling = 0.01, .iterations = 30, .tolerance = 0};
        options.debiased = debiased;
        Evaluation all[2];
        for (const bool stored : {false, true}) {
          if (!stored) options.storage = 0;
          all[stored] = evaluate(backend, sinkhorn_term(y, options), x);
          options.storage = SinkhornOptions{}.storage;
        }
        CHECK(relative_error(all[0].value, all[1].value) <= tol<T>(64));
        CHECK(largest_difference(all[0].force, all[1].force) <= (sizeof(T) == 8 ? 1e-11 : 1e-4));
      }
    }
  }
}

TEST_CASE("costs are stored up to a limit, and where that pays") {
  const SinkhornOptions options;
  CHECK(options.storage == std::ptrdiff_t{1} << 30);
  CHECK(stores_costs(2000, 2000, 2, 8, options));
  CHECK(stores_costs(5000, 5000, 128, 8, options));
  CHECK(stores_costs(5000, 5000, 128, 4, options));
  CHECK(stores_costs(5000, 5000, 2, 4, options));
  CHECK_FALSE(stores_costs(5000, 5000, 2, 8, options));
  CHECK(stores_costs(16384, 16384, 128, 4, options));
  CHECK_FALSE(stores_costs(16384, 16385, 128, 4, options));
  CHECK_FALSE(stores_costs(Index{1} << 40, Index{1} << 40, 128, 4, options));
  CHECK_FALSE(stores_costs(10, 10, 128, 4, {.storage = 399}));
  CHECK(stores_costs(10, 10, 128, 4, {.storage = 400}));
}

TEST_CASE("transport finds its way where there is no memory for the costs") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  MESSAGE("SKIPPED: sanitizers need the address space that this test takes away");
#else
  if (kEmulated) return;
  const Index n = 5000;  // 100 MB of costs in single precision: more than malloc holds back
  for (const bool debiased : {false, true}) {
    DivergenceTerm term = sinkhorn_term(cloud(n, 3, 63), {.epsilon = 0.5, .scaling = 0.01, .iterations = 1});
    term.sinkhorn.debiased = debiased;
    const Matrix<float> x = cast<float>(cloud(n, 3, 64));
    double expected = 0;
    {
      Team team(1);
      DivergenceTerm formed = term;
      formed.sinkhorn.storage = 0;
      cpu::operations<float>().divergence(formed, {x}, &expected, {}, nullptr, team);
    }
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      Team team(1);
      long pages = 0;
      std::ifstream("/proc/self/statm") >> pages;
      const rlim_t bytes = static_cast<rlim_t>(pages * ::sysconf(_SC_PAGESIZE)) + (rlim_t{24} << 20);
      const rlimit limit{bytes, bytes};
      ::setrlimit(RLIMIT_AS, &limit);
      try {
        const Arena costs(std::size_t{4} * n * n);
        ::_exit(costs.data() ? 1 : 2);  // the limit does not bite
      } catch (const std::bad_alloc&) {
      }
      double value = 0;
      try {
        cpu::operations<float>().divergence(term, {x}, &value, {}, nullptr, team);
      } catch (const std::exception&) {
        ::_exit(3);
      }
      ::_exit(value == expected ? 0 : 4);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  }
#endif
}

TEST_CASE("forces are the derivatives of the value") {
  for (Backend<double> backend : all_backends<double>()) {
    backend.threads = 1;  // thousands of small steps
    const Index n = 9, d = 4;
    const std::vector<double> a = random_weights(n, 21);
    for (const double epsilon : kEpsilons) {
      if (epsilon < 0.01) continue;
      for (const bool debiased : {false, true}) {
        const Matrix<double> x = cloud(n, d, 22), y = cloud(12, d, 23);
        SinkhornOptions options = kExact;
        options.tolerance = 1e-13;
        options.epsilon = epsilon;
        options.debiased = debiased;
        std::vector<DivergenceTerm> terms = {sinkhorn_term(y, options, random_weights(12, 24))};
        if (debiased) terms.push_back(kernel_term(DivergenceTerm::Form::mmd, y, epsilon + 0.5));
        if (debiased) terms.push_back(kernel_term(DivergenceTerm::Form::energy, y));
        for (const DivergenceTerm& term : terms) {
          CAPTURE(backend.ops->name);
          CAPTURE(epsilon);
          CAPTURE(debiased);
          const Matrix<double> force = evaluate(backend, term, x, a).force;
          for (const Index k : {Index{0}, Index{7}, n * d - 1}) {
            if (kReduced && k > 0) continue;
            const double h = 1e-4;
            double difference = 0;
            for (const double sign : {1.0, -1.0}) {
              Matrix<double> moved = x;
              moved.elements()[k] += sign * h;
              difference += sign * evaluate(backend, term, moved, a).value / (2 * h * a[k / d]);
            }
            CHECK(std::abs(force.elements()[k] - difference) <= 1e-5 * std::max(1.0, std::abs(difference)));
          }
        }
      }
    }
  }
}

TEST_CASE("MMD and energy distance equal the sums over all pairs") {
  const Matrix<double> x = cloud(31, 3, 31), y = cloud(40, 3, 32, -0.5, 2);
  Team one(1);
  const auto mean = [](const Matrix<double>& p, const Matrix<double>& q) {
    double sum = 0;
    for (Index i = 0; i < p.rows(); ++i) {
      for (Index j = 0; j < q.rows(); ++j) sum += std::sqrt(2 * half_square(p.row(i), q.row(j), p.cols()));
    }
    return sum / static_cast<double>(p.rows() * q.rows());
  };
  const double mmd = mmd_empirical(x, y, 0.7, one);
  for (const Backend<double>& backend : all_backends<double>()) {
    CAPTURE(backend.ops->name);
    CHECK_REL(evaluate(backend, kernel_term(DivergenceTerm::Form::mmd, y, 0.7), x).value, mmd * mmd, 1e-11);
    CHECK_REL(evaluate(backend, kernel_term(DivergenceTerm::Form::energy, y), x).value,
              2 * mean(x, y) - mean(x, x) - mean(y, y), 1e-11);
  }
}

TEST_CASE_TEMPLATE("clouds far from the origin and far apart keep their digits", T, float, double) {
  for (Backend<T> backend : all_backends<T>()) {
    backend.threads = 1;  // thousands of small steps
    CAPTURE(backend.ops->name);
    const Matrix<double> x = cloud(20, 10, 41), y = cloud(25, 10, 42);
    SinkhornOptions options{.epsilon = 0.1, .iterations = kEmulated ? 40 : 5000, .tolerance = 1e-10};
    const Evaluation near = evaluate(backend, sinkhorn_term(y, options), x);
    Matrix<double> far = y;
    for (double& value : far.elements()) value += 1000;
    // The cloud in T is given relative to a shift in double.
    Team team(backend.threads);
    const Matrix<T> points = cast<T>(x);
    const std::vector<double> shift(10, 1000.0);
    double value = 0;
    Matrix<T> force(20, 10);
    backend.ops->divergence(sinkhorn_term(far, options), {points, shift.data()}, &value, force, nullptr,
                            team);
    CHECK_REL(value, near.value, kValue<T> / 10);
    CHECK_CLOSE(force.elements(), near.force.elements(), tol<T>(1e4));
    // Costs of 1e10 against an epsilon of 0.1: exponents of 1e11.
    const Evaluation apart =
        evaluate(backend, sinkhorn_term(cloud(7, 2, 43, 1e5, 3e5), options), cloud(9, 2, 44));
    CHECK(std::isfinite(apart.value));
    CHECK(apart.value > 1e10);
    for (const double f : apart.force.elements()) CHECK(std::isfinite(f));
  }
}

TEST_CASE_TEMPLATE("an epsilon far above all costs: the plan is independent, and the value keeps its digits",
                   T, float, double) {
  for (const Backend<T>& backend : all_backends<T>()) {
    CAPTURE(backend.ops->name);
    const Matrix<double> x = cloud(20, 3, 71), y = cloud(25, 3, 72, 0, 3);
    double mean = 0, apart = 0, force_0 = x(0, 1);
    for (Index i = 0; i < 20; ++i) {
      for (Index j = 0; j < 25; ++j) mean += half_square(x.row(i), y.row(j), 3) / 500;
    }
    for (Index c = 0; c < 3; ++c) {
      double z = 0;
      for (Index i = 0; i < 20; ++i) z += x(i, c) / 20;
      for (Index j = 0; j < 25; ++j) z -= y(j, c) / 25;
      apart += z * z / 2;
    }
    for (Index j = 0; j < 25; ++j) force_0 -= y(j, 1) / 25;
    // From where the costs are a thousandth of epsilon: to first order in that.
    for (const double epsilon : {1e4, 1e8, 1e12, 1e20, 1e290}) {
      CAPTURE(epsilon);
      SinkhornOptions options = kExact;
      options.epsilon = epsilon;
      const double error = sizeof(T) == 8 ? std::max(1e-7, 1 / epsilon) : 1e-3;
      DivergenceState state;
      for (int warm = 0; warm < 2; ++warm) {
        const Evaluation e = evaluate(backend, sinkhorn_term(y, options), x, {}, &state);
        CHECK_REL(e.value, mean, error);
        CHECK(std::abs(e.force(0, 1) - force_0) <= error * std::abs(force_0));
        CHECK(e.report.unconverged == 0);
      }
      options.debiased = true;
      CHECK(std::abs(evaluate(backend, sinkhorn_term(y, options), x).value - apart) <= error * mean);
    }
  }
}

TEST_CASE_TEMPLATE("a cloud that is not finite ends a solve, and its forces say so", T, float, double) {
  const Matrix<double> y = cloud(12, 5, 45);
  for (const Backend<T>& backend : all_backends<T>()) {
    for (const double bad : {std::numeric_limits<double>::infinity(), double(NAN)}) {
      CAPTURE(backend.ops->name);
      CAPTURE(bad);
      Matrix<double> x = cloud(9, 5, 46);
      x(4, 2) = bad;
      for (const DivergenceTerm& term : {sinkhorn_term(y, {.epsilon = 0.5, .iterations = 20}),
                                         kernel_term(DivergenceTerm::Form::energy, y)}) {
        const Matrix<double> force = evaluate(backend, term, x).force;
        CHECK_FALSE(std::isfinite(force(4, 2)));
      }
    }
  }
}

#if !defined(BRENIER_TEST_CUDA)  // the cuda backend keeps potentials within an inner loop only

TEST_CASE_TEMPLATE("a warm start ends where a cold one does, and is dropped where it is bad", T, float,
                   double) {
  for (Backend<T> backend : all_backends<T>()) {
    backend.threads = 1;  // thousands of small steps
    CAPTURE(backend.ops->name);
    const Matrix<double> y = cloud(33, 3, 51);
    Matrix<double> x = cloud(31, 3, 52);
    SinkhornOptions options{.epsilon = 0.05, .iterations = 3000, .warm_iterations = 3000, .tolerance = 1e-8};
    const DivergenceTerm term = sinkhorn_term(y, options);
    DivergenceState state;
    CHECK(evaluate(backend, term, x, {}, &state).report.schedules == 1);
    for (double& value : x.elements()) value += 1e-3 * std::sin(100 * value);
    const Evaluation warm = evaluate(backend, term, x, {}, &state), cold = evaluate(backend, term, x);
    CHECK(warm.report.schedules == 0);
    CHECK(warm.report.iterations <= cold.report.iterations);
    CHECK_REL(warm.value, cold.value, kValue<T> / 10);
    CHECK_CLOSE(warm.force.elements(), cold.force.elements(), force_error<T>(31));
    const Matrix<double> other = cloud(31, 3, 53, -3, 2);
    options.warm_iterations = 1;
    options.epsilon = 0.01;
    const Evaluation dropped = evaluate(backend, sinkhorn_term(y, options), other, {}, &state);
    CHECK(dropped.report.schedules == 1);
    CHECK_CLOSE(dropped.force.elements(),
                evaluate(backend, sinkhorn_term(y, options), other).force.elements(),
                sizeof(T) == 8 ? 1e-12 : 1e-4);
  }
}

#endif

TEST_CASE("a solve that ends early says so") {
  for (const Backend<double>& backend : all_backends<double>()) {
    CAPTURE(backend.ops->name);
    const Matrix<double> x = cloud(33, 1, 61), y = cloud(31, 1, 62);
    const Evaluation e =
        evaluate(backend, sinkhorn_term(y, {.epsilon = 1e-3, .iterations = 3, .tolerance = 1e-8}), x);
    CHECK(e.report.iterations == 3);
    CHECK(e.report.unconverged == 1);
    CHECK(e.report.marginal_error > 1e-8);
  }
}

#if !defined(BRENIER_TEST_CUDA)

TEST_CASE("bits do not depend on the number of threads") {
  const Matrix<double> x = cloud(330, 9, 71), y = cloud(270, 9, 72);
  SinkhornOptions options{.epsilon = 0.02, .iterations = 20};
  options.debiased = true;
  for (const DivergenceTerm& term :
       {sinkhorn_term(y, options), kernel_term(DivergenceTerm::Form::mmd, y, 0.5)}) {
    for (const Backend<double>& backend : backends<double>()) {
      const Evaluation one = evaluate(Backend<double>{backend.ops, 1}, term, x);
      for (const int threads : {2, 3, 4}) {
        const Evaluation more = evaluate(Backend<double>{backend.ops, threads}, term, x);
        CHECK(more.value == one.value);
        CHECK(more.force.elements() == one.force.elements());
      }
    }
  }
}

#endif

TEST_CASE("terms and clouds that cannot be used are named") {
  const Matrix<double> y = cloud(3, 2, 81);
  const auto check = [](const DivergenceTerm& term) { check_divergence(term, "sinkhorn"); };
  check(sinkhorn_term(y, {}));
  CHECK_ERROR(check(sinkhorn_term(y, {.epsilon = 0})), ValueError, "epsilon = 0; it must be above 0");
  CHECK_ERROR(check(sinkhorn_term(y, {.epsilon = NAN})), ValueError, "epsilon = nan");
  CHECK_ERROR(check(sinkhorn_term(y, {.scaling = 1})), ValueError, "scaling = 1");
  CHECK_ERROR(check(sinkhorn_term(y, {.iterations = 0})), ValueError, "iterations = 0");
  CHECK_ERROR(check(sinkhorn_term(y, {.tolerance = -1})), ValueError, "tolerance = -1");
  CHECK_ERROR(check(sinkhorn_term(y, {}, {0.5, 0.5})), ShapeError, "2 weights for 3 points");
  CHECK_ERROR(check(sinkhorn_term(y, {}, {0.5, 0.5, 0})), ValueError, "weight 2 is 0");
  CHECK_ERROR(check(sinkhorn_term(y, {}, {0.5, 0.5, 0.5})), ValueError, "sum to 1.5");
  CHECK_ERROR(check(sinkhorn_term(Matrix<double>(0, 2), {})), ShapeError, "0 points");
  Matrix<double> bad = y;
  bad(1, 1) = NAN;
  CHECK_ERROR(check(sinkhorn_term(bad, {})), ValueError, "point 1 has the coordinate nan");
  bad(1, 1) = 1e200;
  CHECK_ERROR(check(sinkhorn_term(bad, {})), ValueError, "the cost overflows");
  CHECK_ERROR(check(kernel_term(DivergenceTerm::Form::mmd, y, 0)), ValueError, "bandwidth = 0");
  DivergenceTerm none;
  CHECK_ERROR(check(none), ValueError, "no reference");
}
