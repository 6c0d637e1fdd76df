// SPDX-License-Identifier: MIT
// Compiled once, as CUDA into the library, and by the host compiler for the emulated device.
#include "kernels/cuda/cloud/divergence.hpp"

#include <algorithm>
#include <limits>

#include "kernels/cuda/cloud/sinkhorn_kernels.hpp"
#include "kernels/cuda/cloud/value.hpp"
#include "kernels/cuda/transfer.hpp"

namespace brenier::cuda {
namespace {

int row_grid(int n) {
  constexpr int rows = kRowThreads / kWarpSize;
  return std::clamp((n + rows - 1) / rows, 1, 4096);
}

int element_grid(int n) {
  return std::clamp((n + kRowThreads - 1) / kRowThreads, 1, 1024);
}

/// Weights as kernels read them.
template <class T>
std::vector<T> with_padding(std::vector<T> weights, int n) {
  weights.resize(static_cast<std::size_t>(padded(n)), T(0));
  return weights;
}

/// weights_i (base_i + rest_i): of a potential, whose parts are these.
template <class T>
struct WeightedPotential {
  const T* weights;
  const double* base;
  const T* rest;
  BRENIER_DEVICE double operator()(Index i, const SumThread&) const {
    return static_cast<double>(weights[i]) * (base[i] + static_cast<double>(rest[i]));
  }
};
template <class T>
struct WeightedNumbers {
  const T* weights;
  const double* numbers;
  BRENIER_DEVICE double operator()(Index i, const SumThread&) const {
    return static_cast<double>(weights[i]) * numbers[i];
  }
};

/// A cloud in device memory, in both orders.
template <class T>
class Points {
 public:
  Points(int n, int d, std::vector<T> weights, Stream& stream)
      : n_(n),
        d_(d),
        x_(Index{n} * d),
        xt_(Index{n} * d),
        weights_(upload(with_padding(std::move(weights), n).data(), padded(n), stream)) {}
  Points(const Matrix<double>& x, const std::vector<double>& weights, Stream& stream)
      : n_(as_int(x.rows())),
        d_(as_int(x.cols())),
        x_(upload(std::vector<T>(x.elements().begin(), x.elements().end()).data(), Index{n_} * d_, stream)),
        xt_(upload(transposed(x).data(), Index{n_} * d_, stream)),
        weights_(upload(with_padding<T>({weights.begin(), weights.end()}, n_).data(), padded(n_), stream)) {}

  DevicePoints<T> view() { return {raw(x_), raw(xt_), raw(weights_), n_, d_}; }
  DeviceBuffer<T>& x() { return x_; }
  DeviceBuffer<T>& xt() { return xt_; }
  DeviceBuffer<T>& weights() { return weights_; }
  int size() const { return n_; }

  /// Largest |x|^2 / 2; waits.
  double largest_half_square(Stream& stream) {
    const std::vector<T> rows = download(x_, stream);
    double most = 0;
    for (Index i = 0; i < n_; ++i) {
      double square = 0;
      for (Index c = 0; c < d_; ++c)
        square += static_cast<double>(rows[i * d_ + c]) * static_cast<double>(rows[i * d_ + c]);
      most = std::max(most, square / 2);
    }
    return most;
  }

 private:
  static std::vector<T> transposed(const Matrix<double>& x) {
    std::vector<T> columns;
    columns.reserve(x.elements().size());
    for (Index c = 0; c < x.cols(); ++c) {
      for (Index i = 0; i < x.rows(); ++i) columns.push_back(static_cast<T>(x(i, c)));
    }
    return columns;
  }

  int n_, d_;
  DeviceBuffer<T> x_, xt_, weights_;
};

/// One transport problem.
template <class T>
class Transport {
 public:
  /// Costs of more than options.storage or kSmallCosts bytes are not stored; others are, twice.
  Transport(Points<T>& x, Points<T>& y, bool symmetric, SinkhornOptions options, const Control* control,
            Stream& stream)
      : symmetric_(symmetric),
        options_(options),
        control_(control),
        stream_(stream),
        stored_(Index{x.size()} * y.size() * static_cast<Index>(sizeof(T)) <=
                std::min(options.storage, kSmallCosts)),
        x_(x, stored_ ? padded(y.size()) : 0),
        y_(y, stored_ && !symmetric ? padded(x.size()) : 0),
        error_(x.size()),
        ticket_(1),
        state_(1) {
    ticket_.fill_zero(stream);
    state_.fill_zero(stream);
  }

  /// From nothing, steered by the host.
  void solve_cold(T factor, DevicePointer<T> force, const double* offset) {
    for (Side* side : {&x_, &y_}) {
      side->base.fill_zero(stream_);
      side->rest.fill_zero(stream_);
      side->next.fill_zero(stream_);
    }
    ++schedules_;
    const double bound =
        2 * (x_.points.largest_half_square(stream_) + y_.points.largest_half_square(stream_));
    options_.epsilon =
        solved_epsilon(bound, static_cast<double>(std::numeric_limits<T>::epsilon()), options_);
    const double first = first_epsilon(bound, options_);
    for (double epsilon = first; epsilon > options_.epsilon; epsilon = next_epsilon(epsilon, options_)) {
      costs();
      update(x_, y_, epsilon, {.half = true}, x_.next);
      if (!symmetric_) update(y_, x_, epsilon, {.half = true}, y_.next);
      fold(x_.next, symmetric_ ? x_.next : y_.next);
    }
    costs();
    begin();
    for (int k = 0; k < options_.iterations; ++k) {
      step(k);
      // A look now and then: steps after the last one have no work.
      if (k % 16 == 15 && options_.tolerance > 0 && state().met) break;
    }
    finish(factor, force, offset);
  }

  /// From the potentials of the last solve; may be captured.
  void solve_warm(T factor, DevicePointer<T> force, const double* offset) {
    fold(x_.rest, y_.rest);
    costs();
    begin();
    for (int k = 0; k < options_.warm_iterations; ++k) step(k);
    finish(factor, force, offset);
  }

  SinkhornState state() { return download(state_, stream_).front(); }
  SinkhornReport report() {
    const SinkhornState s = state();
    return {s.most_iterations, s.worst, s.solves, schedules_, s.unconverged};
  }

  /// value += factor * (<a, f> + <b, g>).
  void add_value(double factor, DeviceValue& value) {
    for (Side* side : {&x_, &y_}) {
      value.add("potentials", factor, side->points.size(),
                WeightedPotential<T>{raw(side->points.weights()), raw(side->base), raw(side->rest)}, stream_);
    }
  }

 private:
  /// One of the two clouds with its potential: `base`, which is in E, and `rest`. `next` is a rest that does not
  /// count yet. Rows of E belong to the points of this cloud, columns to those of the other.
  struct Side {
    Points<T>& points;
    DeviceBuffer<T> costs;
    DeviceBuffer<double> base;
    DeviceBuffer<T> rest, next;

    Side(Points<T>& of, int columns)
        : points(of),
          costs(Index{of.size()} * columns, "costs of transport"),
          base(of.size()),
          rest(padded(of.size())),
          next(padded(of.size())) {}
  };
  struct Pass {
    bool half = false;
    int check = 0;
    bool last = false;
  };

  double tolerance() const {
    const double floor = 128 * static_cast<double>(std::numeric_limits<T>::epsilon());
    return options_.tolerance > 0 ? std::max(options_.tolerance, floor) : 0;
  }

  /// Of an update of one side from the other.
  SoftMinimumArgs<T> arguments(Side& to, Side& from, double epsilon, const Pass& pass, DeviceBuffer<T>& out) {
    SoftMinimumArgs<T> args{.x = to.points.view(), .y = from.points.view()};
    args.f = raw(to.base);
    args.g = raw(from.base);
    args.df = raw(to.rest);
    args.dg = raw(from.rest);
    args.e = stored_ ? raw(to.costs) : nullptr;
    args.out = raw(out);
    args.epsilon = epsilon;
    args.half = pass.half;
    args.check = pass.check;
    args.last = pass.last;
    args.tolerance = tolerance();
    args.error = raw(error_);
    args.ticket = raw(ticket_);
    args.state = raw(state_);
    args.control = control_;
    return args;
  }
  void run(const SoftMinimumArgs<T>& args, const char* name) {
    launch(stored_ ? soft_minimum_kernel<T, true> : soft_minimum_kernel<T, false>,
           {row_grid(args.x.n), kRowThreads, sizeof(SoftMinimumShared), stream_, name}, args);
  }
  void update(Side& to, Side& from, double epsilon, const Pass& pass, DeviceBuffer<T>& out) {
    run(arguments(to, from, epsilon, pass, out),
        &to == &x_ ? "soft minimum over columns" : "soft minimum over rows");
  }

  /// Step k of a solve: f, then g.
  void step(int k) {
    // Before the first step of all, the second marginal is not met.
    const Pass pass{.half = symmetric_, .check = k > 0 ? 2 : 1};
    if (symmetric_) {
      const int n = x_.points.size();
      update(x_, y_, options_.epsilon, pass, x_.next);
      launch(copy_kernel<T>, {element_grid(n), kRowThreads, 0, stream_, "copy potentials"}, x_.next.pointer(),
             x_.rest.pointer(), y_.rest.pointer(), n);
      return;
    }
    update(x_, y_, options_.epsilon, pass, x_.rest);
    update(y_, x_, options_.epsilon, {}, y_.rest);
  }

  /// A last, whole update of f, with the forces.
  void finish(T factor, DevicePointer<T> force, const double* offset) {
    SoftMinimumArgs<T> args = arguments(x_, y_, options_.epsilon, {.check = 1, .last = true}, x_.rest);
    args.force = force ? raw(force) : nullptr;
    args.offset = offset;
    args.factor = factor;
    run(args, "transport forces");
  }

  void costs() {
    if (!stored_) return;
    const int across = (padded(y_.points.size()) + kWarpSize - 1) / kWarpSize;
    constexpr int rows = kCostRows * kRowThreads / kWarpSize;
    const Index tiles = Index{(padded(x_.points.size()) + rows - 1) / rows} * across;
    launch(cost_kernel<T>,
           {static_cast<int>(std::min<Index>(tiles, 8192)), kRowThreads, 0, stream_, "transport costs"},
           x_.points.view(), y_.points.view(), x_.base.pointer(), y_.base.pointer(), x_.costs.pointer(),
           y_.costs.pointer(), DevicePointer<const Control>(reinterpret_cast<detail::Address>(control_)));
  }

  void fold_one(Side& side, DeviceBuffer<T>& next, DevicePointer<SinkhornState> state) {
    const int n = side.points.size();
    launch(fold_kernel<T>, {element_grid(n), kRowThreads, 0, stream_, "fold potentials"}, side.base.pointer(),
           side.rest.pointer(), next.pointer(), n, state,
           DevicePointer<const Control>(reinterpret_cast<detail::Address>(control_)));
  }
  void fold(DeviceBuffer<T>& next_x, DeviceBuffer<T>& next_y) {
    fold_one(y_, next_y, {});
    fold_one(x_, next_x, {});
  }
  /// Nothing left to fold, but a new solve.
  void begin() { fold_one(x_, x_.rest, state_.pointer()); }

  bool symmetric_;
  SinkhornOptions options_;
  const Control* control_;
  Stream& stream_;
  bool stored_;
  Side x_, y_;  // their potentials are called f and g
  DeviceBuffer<double> error_;
  DeviceBuffer<unsigned> ticket_;
  DeviceBuffer<SinkhornState> state_;
  Index schedules_ = 0;
};

/// A term with its clouds and problems.
template <class T>
class Divergence {
 public:
  Divergence(const DivergenceTerm& term, const double* shift, int n, std::vector<T> weights,
             const Control* control, Stream& stream)
      : term_(term),
        sinkhorn_(!is_kernel_mean(term.form)),
        n_(n),
        d_(as_int(term.reference->cols())),
        control_(control),
        stream_(stream),
        x_(n, d_, std::move(weights), stream),
        offset_(d_) {
    const CentredReference reference(term);
    y_ = std::make_unique<Points<T>>(reference.y, reference.weights, stream);
    std::vector<double> moved(d_);
    for (int c = 0; c < d_; ++c) moved[c] = (shift ? shift[c] : 0.0) - reference.mean[c];
    moved_ = upload(moved.data(), d_, stream);
    if (!sinkhorn_) {
      kernel_values_ = DeviceBuffer<double>(std::max(n, y_->size()));
      return;
    }
    cross_ = std::make_unique<Transport<T>>(x_, *y_, false, term.sinkhorn, control, stream);
    if (term.sinkhorn.debiased) {
      self_ = std::make_unique<Transport<T>>(x_, x_, true, term.sinkhorn, control, stream);
    }
  }

  /// force (n, d) += factor * gradient of the first variation.
  void forces(DevicePointer<const T> image, T factor, DevicePointer<T> force) {
    CentreArgs<T> args{};
    args.image = reinterpret_cast<const T*>(image.address());
    args.weights = raw(x_.weights());
    args.n = n_;
    args.d = d_;
    args.moved = raw(moved_);
    args.about_own_mean = sinkhorn_;
    args.x = raw(x_.x());
    args.xt = raw(x_.xt());
    args.offset = raw(offset_);
    args.control = control_;
    launch(centre_kernel<T>, {d_, kRowThreads, sizeof(SoftMinimumShared), stream_, "centre of the images"},
           args);
    if (!sinkhorn_) {
      kernel_mean(x_, x_, 2 * factor, force, {});
      kernel_mean(x_, *y_, -2 * factor, force, {});
      return;
    }
    for (const auto& [problem, sign] : {std::pair{cross_.get(), T(1)}, std::pair{self_.get(), T(-1)}}) {
      if (!problem) continue;
      const double* offset = problem == cross_.get() ? raw(offset_) : nullptr;
      if (started_) {
        problem->solve_warm(sign * factor, force, offset);
      } else {
        problem->solve_cold(sign * factor, force, offset);
      }
    }
    started_ = true;
  }

  /// After forces(): value += factor * D, but for what depends on the reference alone.
  void add_value(double factor, DeviceValue& value) {
    if (!sinkhorn_) {
      add_kernel_value(factor, x_, x_, value);
      add_kernel_value(-2 * factor, x_, *y_, value);
      return;
    }
    cross_->add_value(factor, value);
    value.add("distance of the means", factor / 2, d_, WeightedNumbers<double>{raw(offset_), raw(offset_)},
              stream_);
    if (self_) self_->add_value(-factor / 2, value);
  }
  /// What add_value() leaves out.
  void add_reference_value(DeviceValue& value, SinkhornReport& report) {
    if (!sinkhorn_) return add_kernel_value(1, *y_, *y_, value);
    if (!self_) return;
    Transport<T> reference(*y_, *y_, true, term_.sinkhorn, control_, stream_);
    reference.solve_cold(0, {}, nullptr);
    report.add(reference.report());
    reference.add_value(-0.5, value);
  }

  SinkhornReport report() {
    SinkhornReport sum;
    if (cross_) sum.add(cross_->report());
    if (self_) sum.add(self_->report());
    return sum;
  }

 private:
  void kernel_mean(Points<T>& x, Points<T>& y, T factor, DevicePointer<T> force,
                   DevicePointer<double> value) {
    KernelMeanArgs<T> args{.x = x.view(), .y = y.view(), .kernel = MeanKernel<T>(term_)};
    args.factor = factor;
    args.force = force ? raw(force) : nullptr;
    args.value = value ? raw(value) : nullptr;
    args.control = control_;
    launch(kernel_mean_kernel<T>, {row_grid(x.size()), kRowThreads, 0, stream_, "kernel means"}, args);
  }
  void add_kernel_value(double factor, Points<T>& x, Points<T>& y, DeviceValue& value) {
    kernel_mean(x, y, 0, {}, kernel_values_.pointer());
    value.add("kernel means", factor, x.size(), WeightedNumbers<T>{raw(x.weights()), raw(kernel_values_)},
              stream_);
  }

  const DivergenceTerm& term_;
  bool sinkhorn_, started_ = false;
  int n_, d_;
  const Control* control_;
  Stream& stream_;
  Points<T> x_;
  std::unique_ptr<Points<T>> y_;
  DeviceBuffer<double> moved_, offset_, kernel_values_;
  std::unique_ptr<Transport<T>> cross_, self_;
};

template <class T>
class Force final : public DivergenceForce<T> {
 public:
  Force(const DivergenceTerm& term, const std::vector<double>& shift, int n, const Control* control,
        Stream& stream)
      : weight_(term.weight),
        divergence_(term, shift.data(), n, std::vector<T>(n, T(1) / static_cast<T>(n)), control, stream) {}

  void launch(DevicePointer<const T> image, DevicePointer<T> external, Stream&) override {
    divergence_.forces(image, static_cast<T>(weight_), external);
  }
  void launch_value(DevicePointer<const T>, DeviceValue& value, Stream&) override {
    divergence_.add_value(weight_, value);
  }
  SinkhornReport report(Stream&) override { return divergence_.report(); }

 private:
  double weight_;
  Divergence<T> divergence_;
};

}  // namespace

template <class T>
SinkhornReport divergence(const DivergenceTerm& term, const WeightedCloud<T>& cloud, double* value,
                          MatrixView<T> force, DivergenceState*, Team&) {
  Stream stream;
  const int n = as_int(cloud.x.rows);
  std::vector<T> weights(n, T(1) / static_cast<T>(n));
  for (int i = 0; cloud.weights && i < n; ++i) weights[i] = static_cast<T>(cloud.weights[i]);
  Divergence<T> device(term, cloud.shift, n, std::move(weights), nullptr, stream);
  DeviceBuffer<T> image = upload<T>(cloud.x, stream), forces(cloud.x.rows * cloud.x.cols);
  forces.fill_zero(stream);
  device.forces(image.pointer(), 1, forces.pointer());
  SinkhornReport report = device.report();
  if (force) download(forces, force, stream);
  if (!value) return report;
  DeviceBuffer<double> sum(1);
  DeviceValue total(sum.pointer(), nullptr, stream);
  device.add_value(1, total);
  device.add_reference_value(total, report);
  *value = download(sum, stream).front();
  return report;
}

template <class T>
std::unique_ptr<DivergenceForce<T>> divergence_force(const DivergenceTerm& term,
                                                     const std::vector<double>& shift, int n,
                                                     const Control* control, Stream& stream) {
  return std::make_unique<Force<T>>(term, shift, n, control, stream);
}

template SinkhornReport divergence(const DivergenceTerm&, const WeightedCloud<float>&, double*,
                                   MatrixView<float>, DivergenceState*, Team&);
template SinkhornReport divergence(const DivergenceTerm&, const WeightedCloud<double>&, double*,
                                   MatrixView<double>, DivergenceState*, Team&);
template std::unique_ptr<DivergenceForce<float>> divergence_force(const DivergenceTerm&,
                                                                  const std::vector<double>&, int,
                                                                  const Control*, Stream&);
template std::unique_ptr<DivergenceForce<double>> divergence_force(const DivergenceTerm&,
                                                                   const std::vector<double>&, int,
                                                                   const Control*, Stream&);

}  // namespace brenier::cuda
