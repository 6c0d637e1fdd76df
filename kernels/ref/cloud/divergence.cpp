// SPDX-License-Identifier: MIT
// Reference: divergences between a cloud and a fixed one, all sums in double and all costs stored.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/model/kernel_mean.hpp"
#include "kernels/ref/ref.hpp"

namespace brenier::ref {
namespace {

/// Points in double, with weights.
struct Points {
  Matrix<double> x;
  std::vector<double> weights;
};

template <class T>
Points points_of(const WeightedCloud<T>& cloud) {
  const Index n = cloud.x.rows;
  Points out{Matrix<double>(n, cloud.x.cols), std::vector<double>(n, 1.0 / static_cast<double>(n))};
  for (Index i = 0; i < n; ++i) {
    if (cloud.weights) out.weights[i] = cloud.weights[i];
    for (Index c = 0; c < cloud.x.cols; ++c) {
      out.x(i, c) = static_cast<double>(cloud.x(i, c)) + (cloud.shift ? cloud.shift[c] : 0.0);
    }
  }
  return out;
}

double half_square(const double* x, const double* y, Index d) {
  double sum = 0;
  for (Index c = 0; c < d; ++c) sum += (x[c] - y[c]) * (x[c] - y[c]);
  return sum / 2;
}

/// max |x_i - mean|^2 / 2. For two clouds about their own means |x - y|^2 / 2 is at most twice the sum of
/// theirs, and that is where epsilon starts: moving a cloud as a whole changes no plan.
double largest_half_square(const Points& points) {
  std::vector<double> mean(points.x.cols(), 0.0);
  for (Index i = 0; i < points.x.rows(); ++i) {
    for (Index c = 0; c < points.x.cols(); ++c) mean[c] += points.weights[i] * points.x(i, c);
  }
  double largest = 0;
  for (Index i = 0; i < points.x.rows(); ++i) {
    largest = std::fmax(largest, half_square(points.x.row(i), mean.data(), points.x.cols()));
  }
  return largest;
}

/// Entropic transport between two clouds of points.
class Transport {
 public:
  Transport(const Points& x, const Points& y, bool symmetric, TransportDuals& duals, double floor)
      : x_(x), y_(y), symmetric_(symmetric), duals_(duals), floor_(floor), cost_(x.x.rows(), y.x.rows()) {
    for (Index i = 0; i < n(); ++i) {
      for (Index j = 0; j < m(); ++j) {
        cost_(i, j) = half_square(x.x.row(i), y.x.row(j), x.x.cols());
      }
    }
    largest_ = 2 * (largest_half_square(x) + largest_half_square(y));
  }

  SinkhornReport solve(SinkhornOptions options) {
    SinkhornReport report{.solves = 1};
    options.epsilon = solved_epsilon(largest_, std::numeric_limits<double>::epsilon(), options);
    const bool warm = duals_.fit(n(), m());
    if (warm) iterate(options, options.warm_iterations, report);
    if (!warm || !(report.marginal_error <= warm_limit(duals_.schedule_error))) {
      duals_.reset(n(), m());
      report.schedules = 1;
      for (epsilon_ = first_epsilon(largest_, options); epsilon_ > options.epsilon;
           epsilon_ = next_epsilon(epsilon_, options)) {
        halfway();
      }
      iterate(options, options.iterations, report);
      duals_.schedule_error = report.marginal_error;
    }
    report.unconverged =
        options.tolerance > 0 && !(report.marginal_error <= std::fmax(options.tolerance, floor_)) ? 1 : 0;
    return report;
  }

  /// <a, f> + <b, g>: the dual value, as the plan has mass 1 after an update of f.
  double value() const {
    double sum = 0;
    for (Index i = 0; i < n(); ++i) sum += x_.weights[i] * duals_.f[i];
    for (Index j = 0; j < m(); ++j) sum += y_.weights[j] * duals_.g[j];
    return sum;
  }

  /// out_i (n, d) += factor * (x_i - sum_j P_ij y_j / a_i).
  void add_force(double factor, Matrix<double>& out) const {
    for (Index i = 0; i < n(); ++i) {
      for (Index j = 0; j < m(); ++j) {
        const double p = y_.weights[j] * std::exp((duals_.f[i] + duals_.g[j] - cost_(i, j)) / epsilon_);
        for (Index c = 0; c < out.cols(); ++c) out(i, c) += factor * p * (x_.x(i, c) - y_.x(j, c));
      }
    }
  }

 private:
  Index n() const { return x_.x.rows(); }
  Index m() const { return y_.x.rows(); }

  /// Steps at the last epsilon, and a last update of f.
  void iterate(const SinkhornOptions& options, int most, SinkhornReport& report) {
    epsilon_ = options.epsilon;
    report.iterations = 0;
    bool met = false;
    for (int k = 0; k < most && !met; ++k) {
      const double error = update_rows();
      // Before the first step of all, the second marginal is not met.
      met = k > 0 && error <= std::fmax(options.tolerance, floor_) && options.tolerance > 0;
      if (met) report.marginal_error = error;
      if (met) break;
      update_columns();
      ++report.iterations;
    }
    // The last update of f is whole also where the steps of a symmetric problem are halves.
    const bool symmetric = symmetric_;
    symmetric_ = false;
    const double error = update_rows();
    symmetric_ = symmetric;
    if (!met) report.marginal_error = error;
  }

  /// -epsilon log sum_j w_j exp((h_j - C_j)/epsilon).
  template <class H, class C>
  double soft_minimum(const std::vector<double>& w, const H& h, const C& cost) const {
    double top = -std::numeric_limits<double>::infinity();
    for (std::size_t j = 0; j < w.size(); ++j) top = std::fmax(top, h(j) - cost(j));
    double sum = 0;
    for (std::size_t j = 0; j < w.size(); ++j) sum += w[j] * std::exp((h(j) - cost(j) - top) / epsilon_);
    return -top - epsilon_ * std::log(sum);
  }

  /// f and g from the same potentials, half of the way: f = g stays true between equal clouds, where updates
  /// in turns would take thousands of steps to find back to it.
  void halfway() {
    const std::vector<double> f = duals_.f, g = duals_.g;
    update_rows();
    const std::vector<double> next = duals_.f;
    duals_.f = f;
    update_columns();
    for (std::size_t i = 0; i < f.size(); ++i) duals_.f[i] = symmetric_ ? next[i] : (f[i] + next[i]) / 2;
    for (std::size_t j = 0; j < g.size(); ++j) duals_.g[j] = symmetric_ ? next[j] : (g[j] + duals_.g[j]) / 2;
  }

  /// f = soft minimum of C - g, or half of the way where f and g are one; the marginal error before.
  double update_rows() {
    double error = 0;
    std::vector<double> next(n());
    for (Index i = 0; i < n(); ++i) {
      const double f = soft_minimum(
          y_.weights, [&](std::size_t j) { return duals_.g[j]; }, [&](std::size_t j) { return cost_(i, j); });
      error += x_.weights[i] * std::abs(1 - std::exp((duals_.f[i] - f) / epsilon_)) / 2;
      next[i] = symmetric_ ? (duals_.f[i] + f) / 2 : f;
    }
    duals_.f = next;
    return error;
  }

  void update_columns() {
    if (symmetric_) {
      duals_.g = duals_.f;
      return;
    }
    for (Index j = 0; j < m(); ++j) {
      duals_.g[j] = soft_minimum(
          x_.weights, [&](std::size_t i) { return duals_.f[i]; }, [&](std::size_t i) { return cost_(i, j); });
    }
  }

  const Points &x_, &y_;
  bool symmetric_;
  TransportDuals& duals_;
  double floor_;
  Matrix<double> cost_;
  double largest_ = 0;  // bound of the costs, up to the distance of the means
  double epsilon_ = 1;
};

template <class T>
SinkhornReport sinkhorn(const DivergenceTerm& term, const Points& x, const Points& y, double* value,
                        Matrix<double>& force, DivergenceState& state) {
  const double floor = 128 * static_cast<double>(std::numeric_limits<T>::epsilon());
  Transport cross(x, y, false, state.cross, floor);
  SinkhornReport report = cross.solve(term.sinkhorn);
  cross.add_force(1, force);
  double total = cross.value();
  if (term.sinkhorn.debiased) {
    Transport self(x, x, true, state.self, floor);
    report.add(self.solve(term.sinkhorn));
    self.add_force(-1, force);
    total -= self.value() / 2;
    if (value && !state.has_reference) {
      TransportDuals duals;
      Transport reference(y, y, true, duals, floor);
      report.add(reference.solve(term.sinkhorn));
      state.reference_value = -reference.value() / 2;
      state.has_reference = true;
    }
    if (value) total += state.reference_value;
  }
  if (value) *value = total;
  return report;
}

/// sum_ij a_i b_j k(x_i, y_j), and force_i += factor grad_i sum_j b_j k(x_i, y_j).
double kernel_mean(const MeanKernel<double>& kernel, const Points& x, const Points& y, double factor,
                   Matrix<double>* force) {
  double sum = 0;
  for (Index i = 0; i < x.x.rows(); ++i) {
    for (Index j = 0; j < y.x.rows(); ++j) {
      const double c = half_square(x.x.row(i), y.x.row(j), x.x.cols());
      double k = 0, q = 0;
      evaluate_kernel(kernel, c, k, q);
      sum += x.weights[i] * y.weights[j] * k;
      if (!force) continue;
      q *= -factor * y.weights[j];
      for (Index a = 0; a < x.x.cols(); ++a) (*force)(i, a) += q * (x.x(i, a) - y.x(j, a));
    }
  }
  return sum;
}

}  // namespace

template <class T>
SinkhornReport divergence(const DivergenceTerm& term, const WeightedCloud<T>& cloud, double* value,
                          MatrixView<T> force, DivergenceState* state, Team&) {
  const Points x = points_of(cloud);
  const Points y{*term.reference, CentredReference(term).weights};
  Matrix<double> sum(x.x.rows(), x.x.cols());
  DivergenceState none;
  SinkhornReport report;
  if (!is_kernel_mean(term.form)) {
    report = sinkhorn<T>(term, x, y, value, sum, state ? *state : none);
  } else {
    const MeanKernel<double> kernel(term);
    const double within = kernel_mean(kernel, x, x, 2, &sum), across = kernel_mean(kernel, x, y, -2, &sum);
    if (value) *value = within - 2 * across + kernel_mean(kernel, y, y, 0, nullptr);
  }
  for (Index i = 0; force && i < x.x.rows(); ++i) {
    for (Index c = 0; c < x.x.cols(); ++c) force(i, c) = static_cast<T>(sum(i, c));
  }
  return report;
}

template SinkhornReport divergence(const DivergenceTerm&, const WeightedCloud<float>&, double*,
                                   MatrixView<float>, DivergenceState*, Team&);
template SinkhornReport divergence(const DivergenceTerm&, const WeightedCloud<double>&, double*,
                                   MatrixView<double>, DivergenceState*, Team&);

}  // namespace brenier::ref
