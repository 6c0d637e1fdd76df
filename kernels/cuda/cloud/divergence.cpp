// SPDX-License-Identifier: MIT
// Compiled once, as CUDA into the library, and by the host compiler for the emulated device.
#include "kernels/cuda/cloud/divergence.hpp"

#include <algorithm>
#include <limits>

#include "kernels/cuda/cloud/sinkhorn_kernels.hpp"
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
      : Points(as_int(x.rows()), as_int(x.cols()), {weights.begin(), weights.end()}, stream) {
    std::vector<T> rows(x.elements().begin(), x.elements().end()), columns(rows.size());
    for (Index i = 0; i < n_; ++i) {
      for (Index c = 0; c < d_; ++c) columns[c * n_ + i] = rows[i * d_ + c];
    }
    x_ = upload(rows.data(), x_.size(), stream);
    xt_ = upload(columns.data(), xt_.size(), stream);
  }

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
  int n_, d_;
  DeviceBuffer<T> x_, xt_, weights_;
};

/// One transport problem.
template <class T>
class Transport {
 public:
  /// Costs of more than options.storage or kSmallCosts bytes are not stored; others are, twice.
  Transport(Points<T>& x, Points<T>& y, bool symmetric, const SinkhornOptions& options,
            const Control* control, Stream& stream)
      : x_(x),
        y_(y),
        symmetric_(symmetric),
        options_(options),
        control_(control),
        stream_(stream),
        stored_(Index{x.size()} * y.size() * static_cast<Index>(sizeof(T)) <=
                std::min(options.storage, kSmallCosts)),
        e_(stored_ ? Index{x.size()} * padded(y.size()) : 0, "costs of transport"),
        et_(stored_ && !symmetric ? Index{y.size()} * padded(x.size()) : 0, "costs of transport"),
        f_(x.size()),
        g_(y.size()),
        df_(padded(x.size())),
        dg_(padded(y.size())),
        next_f_(padded(x.size())),
        next_g_(padded(y.size())),
        error_(x.size()),
        ticket_(1),
        state_(1) {
    ticket_.fill_zero(stream);
    state_.fill_zero(stream);
  }

  /// From nothing, steered by the host.
  void solve_cold(T factor, DevicePointer<T> force, const double* offset) {
    for (DeviceBuffer<double>* buffer : {&f_, &g_}) buffer->fill_zero(stream_);
    for (DeviceBuffer<T>* buffer : {&df_, &dg_, &next_f_, &next_g_}) buffer->fill_zero(stream_);
    ++schedules_;
    const double bound = 2 * (x_.largest_half_square(stream_) + y_.largest_half_square(stream_));
    const double first = first_epsilon(bound, options_);
    for (double epsilon = first; epsilon > options_.epsilon; epsilon = next_epsilon(epsilon, options_)) {
      costs();
      update_rows(epsilon, {.half = true}, next_f_);
      if (!symmetric_) update_columns(epsilon, true, next_g_);
      fold(next_f_, symmetric_ ? next_f_ : next_g_);
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
    fold(df_, dg_);
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

  /// <a, f> + <b, g>; waits.
  double value() {
    double sum = 0;
    const auto add = [&](Points<T>& points, DeviceBuffer<double>& f, DeviceBuffer<T>& df) {
      const std::vector<T> weights = download(points.weights(), stream_), rest = download(df, stream_);
      const std::vector<double> base = download(f, stream_);
      for (std::size_t i = 0; i < base.size(); ++i) {
        sum += static_cast<double>(weights[i]) * (base[i] + static_cast<double>(rest[i]));
      }
    };
    add(x_, f_, df_);
    add(y_, g_, dg_);
    return sum;
  }

 private:
  struct Pass {
    bool half = false;
    int check = 0;
    bool last = false;
  };

  double tolerance() const {
    const double floor = 128 * static_cast<double>(std::numeric_limits<T>::epsilon());
    return options_.tolerance > 0 ? std::max(options_.tolerance, floor) : 0;
  }

  SoftMinimumArgs<T> arguments(double epsilon, const Pass& pass) {
    SoftMinimumArgs<T> args{.x = x_.view(), .y = y_.view()};
    args.f = raw(f_);
    args.g = raw(g_);
    args.df = raw(df_);
    args.dg = raw(dg_);
    args.e = stored_ ? raw(e_) : nullptr;
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
  void update_rows(double epsilon, const Pass& pass, DeviceBuffer<T>& out) {
    SoftMinimumArgs<T> args = arguments(epsilon, pass);
    args.out = raw(out);
    run(args, "soft minimum over columns");
  }
  void update_columns(double epsilon, bool half, DeviceBuffer<T>& out) {
    SoftMinimumArgs<T> args = arguments(epsilon, {.half = half});
    std::swap(args.x, args.y);
    std::swap(args.f, args.g);
    std::swap(args.df, args.dg);
    args.e = stored_ ? raw(et_) : nullptr;
    args.out = raw(out);
    run(args, "soft minimum over rows");
  }

  /// Step k of a solve: f, then g.
  void step(int k) {
    // Before the first step of all, the second marginal is not met.
    const Pass pass{.half = symmetric_, .check = k > 0 ? 2 : 1};
    if (symmetric_) {
      update_rows(options_.epsilon, pass, next_f_);
      launch(copy_kernel<T>, {element_grid(x_.size()), kRowThreads, 0, stream_, "copy potentials"},
             next_f_.pointer(), df_.pointer(), dg_.pointer(), x_.size());
      return;
    }
    update_rows(options_.epsilon, pass, df_);
    update_columns(options_.epsilon, false, dg_);
  }

  /// A last, whole update of f, with the forces.
  void finish(T factor, DevicePointer<T> force, const double* offset) {
    SoftMinimumArgs<T> args = arguments(options_.epsilon, {.check = 1, .last = true});
    args.out = raw(df_);
    args.force = force ? raw(force) : nullptr;
    args.offset = offset;
    args.factor = factor;
    run(args, "transport forces");
  }

  void costs() {
    if (!stored_) return;
    const int across = (padded(y_.size()) + kWarpSize - 1) / kWarpSize;
    constexpr int rows = kCostRows * kRowThreads / kWarpSize;
    const Index tiles = Index{(padded(x_.size()) + rows - 1) / rows} * across;
    const DevicePointer<T> transposed = symmetric_ ? DevicePointer<T>() : et_.pointer();
    launch(cost_kernel<T>,
           {static_cast<int>(std::min<Index>(tiles, 8192)), kRowThreads, 0, stream_, "transport costs"},
           x_.view(), y_.view(), f_.pointer(), g_.pointer(), e_.pointer(), transposed,
           DevicePointer<const Control>(reinterpret_cast<detail::Address>(control_)));
  }

  void fold_one(DeviceBuffer<double>& f, DeviceBuffer<T>& df, DeviceBuffer<T>& next,
                DevicePointer<SinkhornState> state) {
    const int n = as_int(f.size());
    launch(fold_kernel<T>, {element_grid(n), kRowThreads, 0, stream_, "fold potentials"}, f.pointer(),
           df.pointer(), next.pointer(), n, state,
           DevicePointer<const Control>(reinterpret_cast<detail::Address>(control_)));
  }
  void fold(DeviceBuffer<T>& next_f, DeviceBuffer<T>& next_g) {
    fold_one(g_, dg_, next_g, {});
    fold_one(f_, df_, next_f, {});
  }
  /// Nothing left to fold, but a new solve.
  void begin() { fold_one(f_, df_, df_, state_.pointer()); }

  Points<T>&x_, &y_;
  bool symmetric_;
  const SinkhornOptions& options_;
  const Control* control_;
  Stream& stream_;
  bool stored_;
  DeviceBuffer<T> e_, et_;
  DeviceBuffer<double> f_, g_;
  DeviceBuffer<T> df_, dg_, next_f_, next_g_;
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
        sinkhorn_(term.form == DivergenceTerm::Form::sinkhorn),
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
    if (!sinkhorn_) return;
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

  /// After forces(); waits.
  double value(SinkhornReport& report) {
    if (!sinkhorn_) return kernel_value(x_, x_) - 2 * kernel_value(x_, *y_) + kernel_value(*y_, *y_);
    double total = cross_->value();
    for (const double z : download(offset_, stream_)) total += z * z / 2;
    if (!self_) return total;
    Transport<T> reference(*y_, *y_, true, term_.sinkhorn, control_, stream_);
    reference.solve_cold(0, {}, nullptr);
    report.add(reference.report());
    return total - self_->value() / 2 - reference.value() / 2;
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
    KernelMeanArgs<T> args{.x = x.view(), .y = y.view()};
    args.mmd = term_.form == DivergenceTerm::Form::mmd;
    args.rate = static_cast<T>(1 / (term_.bandwidth * term_.bandwidth));
    args.factor = factor;
    args.force = force ? raw(force) : nullptr;
    args.value = value ? raw(value) : nullptr;
    args.control = control_;
    launch(kernel_mean_kernel<T>, {row_grid(x.size()), kRowThreads, 0, stream_, "kernel means"}, args);
  }
  double kernel_value(Points<T>& x, Points<T>& y) {
    DeviceBuffer<double> values(x.size());
    kernel_mean(x, y, 0, {}, values.pointer());
    const std::vector<double> rows = download(values, stream_);
    const std::vector<T> weights = download(x.weights(), stream_);
    double sum = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) sum += static_cast<double>(weights[i]) * rows[i];
    return sum;
  }

  const DivergenceTerm& term_;
  bool sinkhorn_, started_ = false;
  int n_, d_;
  const Control* control_;
  Stream& stream_;
  Points<T> x_;
  std::unique_ptr<Points<T>> y_;
  DeviceBuffer<double> moved_, offset_;
  std::unique_ptr<Transport<T>> cross_, self_;
};

template <class T>
class Force final : public DivergenceForce<T> {
 public:
  Force(const DivergenceTerm& term, const std::vector<double>& shift, int n, const Control* control,
        Stream& stream)
      : weight_(static_cast<T>(term.weight)),
        divergence_(term, shift.data(), n, std::vector<T>(n, T(1) / static_cast<T>(n)), control, stream) {}

  void launch(DevicePointer<const T> image, DevicePointer<T> external, Stream&) override {
    divergence_.forces(image, weight_, external);
  }
  SinkhornReport report(Stream&) override { return divergence_.report(); }

 private:
  T weight_;
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
  if (value) *value = device.value(report);
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
