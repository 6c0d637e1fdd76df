// SPDX-License-Identifier: MIT
// Every operation of kernels/operations.hpp as a case: its name, its inputs, its work, how exact it has to be.
// Benchmarks time the list and tests compare it with the reference: an operation is added here. (Divergences
// have an order of convergence of their own: bench_sinkhorn.cpp, test_divergence.cpp.)
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/operations/flops.hpp"
#include "brenier/base/philox.hpp"
#include "brenier/expression.hpp"
#include "kernels/operations.hpp"

namespace brenier::bench {

/// Inputs of all operations, rounded to T, and room for their outputs.
template <class T>
struct OperationData {
  Icnn net;
  Index n, d;
  std::vector<T> theta, values;
  std::vector<T> steep;  // theta of a map far from the identity: solves have work to do
  Matrix<T> x, v, q, p, metric, signs;
  Matrix<T> out;
  std::vector<double> log_det, gradient;
  std::vector<double> energy = {0};

  OperationData(const Icnn& of, Index count)
      : net(of),
        n(count),
        d(net.dim()),
        values(n),
        x(n, d),
        v(n, d),
        q(n, d),
        p(n, d),
        metric(n, d * d),
        signs(n, d),
        out(n, d),
        log_det(n),
        gradient(net.parameters()) {
    for (const double t : initial_parameters(net, Initialisation::identity, 3))
      theta.push_back(static_cast<T>(t));
    steep = theta;
    for (Index j = 0; j < net.layers().back().width; ++j) steep[net.output_weight() + j] *= T(2000);
    steep[net.alpha()] = T(0.1);
    const Random random(7, RandomStream::cloud);
    std::uint32_t stream = 0;
    for (Matrix<T>* matrix : {&x, &v, &q, &p}) {
      std::uint64_t next = 0;
      for (T& element : matrix->elements()) {
        element = static_cast<T>(2 * random.uniform(stream, 0, next++) - 1);
      }
      ++stream;
    }
    for (std::size_t k = 0; k < signs.elements().size(); ++k) {
      signs.elements()[k] = p.elements()[k] < 0 ? T(-1) : T(1);
    }
    for (Index i = 0; i < n; ++i) {
      for (Index a = 0; a < d; ++a) {
        for (Index b = 0; b < d; ++b) metric(i, a * d + b) = q(i, a) * q(i, b) + (a == b ? T(1) : T(0));
      }
    }
  }

  /// The same numbers in double, of the first `count` particles.
  OperationData<double> exact(Index count) const {
    OperationData<double> other(net, count);
    other.theta.assign(theta.begin(), theta.end());
    other.steep.assign(steep.begin(), steep.end());
    const auto copy = [&](Matrix<double>& to, const Matrix<T>& from) {
      std::copy_n(from.elements().begin(), to.elements().size(), to.elements().begin());
    };
    copy(other.x, x);
    copy(other.v, v);
    copy(other.q, q);
    copy(other.p, p);
    copy(other.metric, metric);
    copy(other.signs, signs);
    return other;
  }
};

/// One operation, in both precisions.
class OperationCase {
 public:
  enum class Result { vectors, log_det, gradient, energy };  // which output of OperationData it writes

  std::string name;
  double flops = 0;   // of a particle
  double values = 0;  // numbers read and written a particle
  Result result = Result::vectors;
  double scale = 0;    // what errors are relative to; 0: the largest result
  bool many = false;   // timed for clouds without a network too, of more particles
  bool pairs = false;  // the flops are of a pair, and there are n (n - 1)
  bool solve = false;  // `out` solves H z = signs, at the steep parameters

  template <class Call>
  OperationCase(std::string called, double flops_in, double values_in, const Call& call)
      : name(std::move(called)), flops(flops_in), values(values_in), float_(call), double_(call) {}

  void call(const Operations<float>& ops, OperationData<float>& data, Team& team) const {
    float_(ops, data, team);
  }
  void call(const Operations<double>& ops, OperationData<double>& data, Team& team) const {
    double_(ops, data, team);
  }

  /// Largest error that rounding may leave, in accuracy(): sums over small networks, with room.
  template <class T>
  double tolerance() const {
    return (sizeof(T) == 4 ? 250 : 450) * static_cast<double>(std::numeric_limits<T>::epsilon());
  }

  /// Accuracy on the first particles, at most `count`. `error`: largest difference from the reference in double,
  /// over `scale`. `residual`, of a solve: largest |p - H z| / |p| in double, what is left after the steps.
  struct Accuracy {
    double error = 0, residual = 0;
  };
  template <class T>
  Accuracy accuracy(const Operations<T>& ops, const OperationData<T>& data, Index count, Team& team) const {
    count = std::min(count, data.n);
    OperationData<double> expected = data.exact(count);
    // Both clouds start with the same particles as `data`, whatever their size.
    OperationData<T> actual(data.net, count);
    call(ops, actual, team);
    call(ref::operations<double>(), expected, team);
    double worst = 0, largest = 0;
    const auto compare = [&](const auto& a, const auto& b) {
      for (std::size_t i = 0; i < b.size(); ++i) {
        const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
        if (!(difference <= worst)) worst = difference;  // a NaN stays
        largest = std::max(largest, std::abs(static_cast<double>(b[i])));
      }
    };
    switch (result) {
      case Result::vectors:
        compare(actual.out.elements(), expected.out.elements());
        break;
      case Result::log_det:
        compare(actual.log_det, expected.log_det);
        break;
      case Result::gradient:
        compare(actual.gradient, expected.gradient);
        break;
      case Result::energy:
        compare(actual.energy, expected.energy);
        break;
    }
    Accuracy found{.error = worst / (scale > 0 ? scale : largest)};
    if (!solve) return found;
    const Matrix<double> z = cast<double>(actual.out);
    ref::operations<double>().hessian_vector(data.net, expected.steep.data(), expected.x, z, expected.out,
                                             team);
    for (Index i = 0; i < count; ++i) {
      double left = 0;
      for (Index c = 0; c < data.d; ++c) left += std::pow(expected.signs(i, c) - expected.out(i, c), 2);
      found.residual = std::max(found.residual, std::sqrt(left / static_cast<double>(data.d)));
    }
    return found;
  }

 private:
  std::function<void(const Operations<float>&, OperationData<float>&, Team&)> float_;
  std::function<void(const Operations<double>&, OperationData<double>&, Team&)> double_;
};

inline constexpr int kCgSteps = 10;  // as in the method's paper
inline constexpr int kLanczosSteps = 15;

/// The cases for a network.
inline std::vector<OperationCase> operation_cases(const Icnn& net) {
  const Flops flops(net);
  const int d = net.dim();
  const double size = d;
  std::vector<OperationCase> list;
  const auto add = [&](const char* name, double work, double values, const auto& call) -> OperationCase& {
    return list.emplace_back(name, work, values, call);
  };
  using Result = OperationCase::Result;

  add("map", flops.map(), 2 * size,
      []<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
        MapOutputs<T> outputs;
        outputs.displacement = data.out;
        ops.evaluate(data.net, data.theta.data(), data.x, outputs, team);
      });
  OperationCase& map_log_det = add("map_log_det", flops.map_log_det(), 2 * size + 2,
                                   []<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
                                     MapOutputs<T> outputs;
                                     outputs.displacement = data.out;
                                     outputs.log_det = data.log_det.data();
                                     ops.evaluate(data.net, data.theta.data(), data.x, outputs, team);
                                   });
  map_log_det.result = Result::log_det;
  map_log_det.scale = 1;  // of a logarithm: the relative error of the determinant, however close to 1 that is
  add("hessian_vector", flops.hessian_vector(), 3 * size,
      []<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
        ops.hessian_vector(data.net, data.theta.data(), data.x, data.p, data.out, team);
      });
  // Exact after d steps: solves end there, or a step later.
  add("solve_hessian", flops.solve(std::min(kCgSteps, d)), 3 * size,
      []<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
        ops.solve_hessian(data.net, data.steep.data(), data.x, data.signs, data.out, {.iterations = kCgSteps},
                          team);
      })
      .solve = true;
  OperationCase& lanczos = add("log_det_lanczos", flops.lanczos(std::min(kLanczosSteps, d)), 2 * size + 2,
                               []<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
                                 ops.log_det_lanczos(data.net, data.steep.data(), data.x, data.signs,
                                                     kLanczosSteps, data.log_det.data(), nullptr, team);
                               });
  lanczos.result = Result::log_det;
  lanczos.scale = size;  // |p|^2, which the quadrature multiplies

  const auto jet = [&](const char* name, double work, double values, auto seeds_of) {
    add(name, work, values,
        [seeds_of]<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
          JetSeeds<T> seeds;
          seeds.v = data.v;
          seeds_of(seeds, data);
          ops.jet_gradient(data.net, data.theta.data(), data.x, seeds, data.gradient.data(), team);
        })
        .result = Result::gradient;
  };
  jet("jet_v", flops.jet(), 2 * size, [](auto&, auto&) {});
  jet("jet_metric", flops.jet_metric(), 2 * size + size * size,
      [](auto& seeds, auto& data) { seeds.metric = data.metric; });
  jet("jet_single", flops.jet_directions(1), 3 * size, [](auto& seeds, auto& data) {
    seeds.directions = 1;
    seeds.q = data.q;
  });
  jet("jet_pairs", flops.jet_directions(2), 4 * size, [](auto& seeds, auto& data) {
    seeds.directions = 1;
    seeds.q = data.q;
    seeds.p = data.p;
  });

  const Program program = Expression::potential("sum(x^2) + 0.1*sum(exp(x))", d).program();
  add("program", program_flops(program), 2 * size + 1,
      [program]<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
        ops.evaluate_program(program, data.x, data.values.data(), data.out, team);
      });
  // Forces of a kernel, and the energy.
  const auto interaction = [&](const char* name, const PairKernel& kernel) -> OperationCase& {
    OperationCase& added =
        add(name, pair_flops(kernel, d), 2 * size,
            [kernel]<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
              ops.interaction(kernel, data.x, nullptr, data.out, team);
            });
    added.pairs = true;
    return added;
  };
  const PairKernel log{.quadratic = 0.5, .log_coefficient = -1};
  interaction("interaction_log", log).many = true;
  interaction("interaction_radial",
              {.form = PairKernel::Form::radial, .program = Expression::interaction("exp(-r)", d).program()});
  OperationCase& energy = add("interaction_log_energy", pair_energy_flops(d), 2 * size,
                              [log]<class T>(const Operations<T>& ops, OperationData<T>& data, Team& team) {
                                ops.interaction(log, data.x, data.energy.data(), {}, team);
                              });
  energy.result = Result::energy;
  energy.pairs = energy.many = true;
  return list;
}

}  // namespace brenier::bench
