// SPDX-License-Identifier: MIT
// The table of operations of the cpu backend for one instruction set. The source that includes this defines
// BRENIER_ISA and BRENIER_VECTOR_BYTES.
#pragma once

#include "kernels/cpu/network/solves.hpp"
#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/step/step.hpp"

namespace brenier::cpu::BRENIER_ISA {

template <class T>
void evaluate(const Icnn& net, const T* theta, MatrixView<const T> x, const MapOutputs<T>& out, Team& team) {
  const bool curvature = out.hessian || out.log_det;
  const Index d = net.dim();
  struct Worker {
    TileNet<T> net;
    double* log_det;
    double* factor;
    T* potential;
  };
  const auto make = [&](Carver& carver) {
    Worker worker{TileNet<T>(net,
                             {.directions = curvature ? Directions::unit : Directions::none,
                              .gradient = false,
                              .value = out.potential != nullptr},
                             carver),
                  carver.take<double>(kLanes), carver.take<double>(factor_workspace(d)),
                  carver.take<T>(kLanes)};
    if (worker.log_det) worker.net.set_parameters(theta);
    return worker;
  };
  const bool spread = spread_tiles(team, tiles_of(x.rows));
  const auto body = [&](Worker& worker, Index begin, int count) {
    gather<T>(x, begin, count, 0, d, worker.net.inputs(), false);
    worker.net.forward();
    worker.net.adjoint();
    if (out.displacement) scatter<T>(worker.net.displacement(), out.displacement, begin, count, d);
    if (out.potential) {
      worker.net.potential(worker.potential);
      for (int i = 0; i < count; ++i) out.potential[begin + i] = worker.potential[i];
    }
    if (!curvature) return;
    worker.net.curvature();
    const T* h = worker.net.hessian();
    for (int i = 0; out.hessian && i < count; ++i) {
      for (Index a = 0; a < d; ++a) {
        for (Index b = 0; b < d; ++b)
          out.hessian(begin + i, a * d + b) = h[triangle_index(a, b) * kLanes + i];
      }
    }
    if (!out.log_det) return;
    factorise<T>(d, h, worker.log_det, nullptr, worker.factor);
    for (int i = 0; i < count; ++i) out.log_det[begin + i] = worker.log_det[i];
  };
  parallel_tiles(x.rows, team, make, body, spread);
  if (!spread) return;
  const auto rows = [&](void* data, Index columns, Index ld, std::size_t element) {
    return RankPart::tiles(data, static_cast<std::size_t>(columns) * element,
                           static_cast<std::size_t>(ld) * element, data ? x.rows : 0, kLanes);
  };
  const RankPart parts[] = {
      rows(out.potential, 1, 1, sizeof(T)), rows(out.displacement.data, d, out.displacement.ld, sizeof(T)),
      rows(out.hessian.data, d * d, out.hessian.ld, sizeof(T)), rows(out.log_det, 1, 1, sizeof(double))};
  team.ranks()->gather(parts, 4);
}

template <class T>
void hessian_vector(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                    MatrixView<T> out, Team& team) {
  const Index d = net.dim();
  struct Worker {
    TileNet<T> net;
    T *p, *out;
  };
  const auto make = [&](Carver& carver) {
    Worker worker{TileNet<T>(net, {.gradient = false, .product = true}, carver), carver.take<T>(d * kLanes),
                  carver.take<T>(d * kLanes)};
    if (worker.out) worker.net.set_parameters(theta);
    return worker;
  };
  parallel_tiles(x.rows, team, make, [&](Worker& worker, Index begin, int count) {
    gather<T>(x, begin, count, 0, d, worker.net.inputs(), false);
    gather<T>(p, begin, count, 0, d, worker.p, false);
    worker.net.forward();
    worker.net.adjoint();
    worker.net.hessian_vector(worker.p, worker.out);
    scatter<T>(worker.out, out, begin, count, d);
  });
}

template <class T>
void jet_gradient(const Icnn& net, const T* theta, MatrixView<const T> x, const JetSeeds<T>& seeds,
                  double* gradient, Team& team) {
  const Index d = net.dim();
  const Index tiles = tiles_of(x.rows);
  const Index parameters = net.parameters();
  const Index chunks = chunks_of(tiles, parameters);
  const Arena partials(static_cast<std::size_t>(chunks * parameters) * sizeof(double));
  double* partial = reinterpret_cast<double*>(partials.data());
  typename TileNet<T>::Plan plan;
  plan.directions = seeds.metric            ? Directions::unit
                    : seeds.directions == 0 ? Directions::none
                    : seeds.p               ? Directions::pairs
                                            : Directions::single;
  plan.count = seeds.metric ? 0 : seeds.directions;
  plan.value = seeds.a != nullptr;
  team.run([&](int rank) {
    const auto [first, last] = team.share(chunks, rank);
    if (first == last) return;
    struct Worker {
      TileNet<T> net;
      T *a, *v, *metric;
    };
    const auto make = [&](Carver& carver) {
      return Worker{TileNet<T>(net, plan, carver), carver.take<T>(kLanes), carver.take<T>(d * kLanes),
                    carver.take<T>(triangle(d) * kLanes)};
    };
    Carver count_bytes(nullptr);
    make(count_bytes);
    const Arena memory(count_bytes.used());
    Carver carver(memory.data());
    Worker worker = make(carver);
    worker.net.set_parameters(theta);
    for (Index chunk = first; chunk < last; ++chunk) {
      for (Index tile = tiles * chunk / chunks; tile < tiles * (chunk + 1) / chunks; ++tile) {
        const Index begin = tile * kLanes;
        const int count = static_cast<int>(x.rows - begin < kLanes ? x.rows - begin : kLanes);
        gather<T>(x, begin, count, 0, d, worker.net.inputs(), false);
        for (int i = 0; i < kLanes; ++i) worker.a[i] = seeds.a && i < count ? seeds.a[begin + i] : T(0);
        if (seeds.v) gather<T>(seeds.v, begin, count, 0, d, worker.v, true);
        for (int k = 0; k < plan.count; ++k) {
          T* q = worker.net.tangent_inputs();
          gather<T>(seeds.q, begin, count, k * d, d, q + k * d * kLanes, true);
          if (seeds.p) gather<T>(seeds.p, begin, count, k * d, d, q + (plan.count + k) * d * kLanes, true);
        }
        for (int i = 0; seeds.metric && i < kLanes; ++i) {
          for (Index b = 0; b < d; ++b) {
            for (Index a = 0; a <= b; ++a) {
              worker.metric[triangle_index(a, b) * kLanes + i] =
                  i < count ? seeds.metric(begin + i, a * d + b) : T(0);
            }
          }
        }
        worker.net.forward();
        worker.net.adjoint();
        if (plan.directions != Directions::none) worker.net.curvature();
        worker.net.reverse(seeds.a ? worker.a : nullptr, worker.v, worker.metric);
        worker.net.flush(partial + chunk * parameters);
      }
    }
  });
  for (Index k = 0; k < parameters; ++k) {
    gradient[k] = 0;
    for (Index chunk = 0; chunk < chunks; ++chunk) gradient[k] += partial[chunk * parameters + k];
  }
}

template <class T>
void evaluate_program(const Program& program, MatrixView<const T> x, T* value, MatrixView<T> gradient,
                      Team& team) {
  struct Worker {
    T *x, *workspace;
  };
  const auto make = [&](Carver& carver) {
    return Worker{carver.take<T>(x.cols * kLanes), carver.take<T>(program.workspace() * kLanes)};
  };
  parallel_tiles(x.rows, team, make, [&](Worker& worker, Index begin, int count) {
    gather<T>(x, begin, count, 0, x.cols, worker.x, false);
    const ProgramRows<T> result = evaluate_lanes<T>(program, worker.x, worker.workspace);
    for (int i = 0; i < count; ++i) {
      if (value) value[begin + i] = result.value[i];
      for (Index c = 0; gradient && c < x.cols; ++c) {
        gradient(begin + i, c) = result.gradient[c * kLanes + i];
      }
    }
  });
}

template <class T>
void interaction(const PairKernel& kernel, MatrixView<const T> y, double* energy, MatrixView<T> force,
                 Team& team) {
  const Index n = y.rows;
  const Index d = y.cols;
  const Index tiles = tiles_of(n);
  Carver count(nullptr);
  const auto take = [&](Carver& carver, T*& image, double*& mean, double*& partial) {
    image = carver.take<T>(d * tiles * kLanes);
    mean = carver.take<double>(d);
    partial = carver.take<double>(tiles);
  };
  T* image = nullptr;
  double *mean = nullptr, *partial = nullptr;
  take(count, image, mean, partial);
  const Arena memory(count.used());
  Carver carver(memory.data());
  take(carver, image, mean, partial);
  for (Index c = 0; c < d; ++c) {
    for (Index i = 0; i < n; ++i) {
      image[c * tiles * kLanes + i] = y(i, c);
      mean[c] += static_cast<double>(y(i, c)) / static_cast<double>(n);
    }
  }
  const Components<T> cloud{image, n, d, tiles * kLanes};
  struct Worker {
    PairWorkspace<T> pairs;
    T *y, *force;
  };
  const auto make = [&](Carver& c) {
    return Worker{PairWorkspace<T>(d, kernel.program.workspace(), c), c.take<T>(d * kLanes),
                  c.take<T>(d * kLanes)};
  };
  const bool spread = spread_tiles(team, tiles);
  const auto body = [&](Worker& worker, Index begin, int particles) {
    gather<T>(y, begin, particles, 0, d, worker.y, false);
    if (force) {
      for (Index i = 0; i < d * kLanes; ++i) worker.force[i] = T(0);
      add_pair_forces<T>(kernel, 1.0, worker.y, cloud, mean, worker.force, worker.pairs);
      scatter<T>(worker.force, force, begin, particles, d);
    }
    if (energy) partial[begin / kLanes] = pair_energies<T>(kernel, worker.y, particles, cloud, worker.pairs);
  };
  parallel_tiles(n, team, make, body, spread);
  if (spread) {
    const RankPart parts[] = {
        RankPart::rows(partial, sizeof(double), tiles),
        RankPart::tiles(force.data, static_cast<std::size_t>(d) * sizeof(T),
                        static_cast<std::size_t>(force.ld) * sizeof(T), force ? n : 0, kLanes)};
    team.ranks()->gather(parts, 2);
  }
  if (!energy) return;
  double total = 0;
  for (Index tile = 0; tile < tiles; ++tile) total += partial[tile];
  if (kernel.form != PairKernel::Form::quadratic_log)
    total -= static_cast<double>(n) * self_energy<T>(kernel, d);
  const double pairs = static_cast<double>(n) * static_cast<double>(n - 1);
  *energy =
      n > 1 ? total / (2 * pairs) + (kernel.form == PairKernel::Form::quadratic_log ? kernel.constant / 2 : 0)
            : 0.0;
}

template <class T>
const Operations<T>& table() {
  static constexpr Operations<T> operations = {.name = BRENIER_ISA_NAME,
                                               .host = true,
                                               .evaluate = evaluate<T>,
                                               .hessian_vector = hessian_vector<T>,
                                               .solve_hessian = solve_hessian<T>,
                                               .log_det_lanczos = log_det_lanczos<T>,
                                               .jet_gradient = jet_gradient<T>,
                                               .evaluate_program = evaluate_program<T>,
                                               .interaction = interaction<T>,
                                               .divergence = divergence<T>,
                                               .objective_gradient = objective_gradient<T>,
                                               .step_objective = step_objective<T>,
                                               .inner_loop = inner_loop<T>};
  return operations;
}

template const Operations<float>& table<float>();
template const Operations<double>& table<double>();

}  // namespace brenier::cpu::BRENIER_ISA
