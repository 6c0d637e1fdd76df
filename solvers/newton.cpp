// SPDX-License-Identifier: MIT
// Points are taken in blocks, to bound the memory for Hessians. In a block every point is a small machine of
// its own: each round evaluates the network once at the trial points of all that have not ended, and each of
// them then takes its trial, or halves its step.
#include "brenier/newton.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "kernels/operations.hpp"
#include "solvers/dense.hpp"

namespace brenier {
namespace {

constexpr double kArmijo = 1e-4;
constexpr double kShortest = 0x1p-40;  // of a step, relative to Newton's
constexpr double kLongest = 1e3;       // of a step, in lengths of the problem
constexpr int kPatience = 8;           // full steps that do not halve the residual: rounding

struct Point {
  Index row = 0;  // in y and x
  Eigen::VectorXd x, y, gradient, step, trial;
  double value = 0;      // u(x) - y.x
  double magnitude = 0;  // |u(x)| + |y.x|, whose rounding the value has
  double slope = 0;      // gradient . step < 0
  double length = 1;     // of the trial, relative to the step
  double scale = 1;
  double residual = std::numeric_limits<double>::infinity();
  double best = std::numeric_limits<double>::infinity();
  int iterations = 0, idle = 0;
  bool started = false, moves = false, ended = false;
  InverseStatus status = InverseStatus::unconverged;

  double reach() const { return scale + (x - y).norm(); }
  void end(InverseStatus how) {
    status = how;
    ended = true;
  }
};

/// -H^{-1} g. H may be singular to rounding, far from everything: what is added to it then is small beside
/// its largest eigenvalue.
Eigen::VectorXd newton_step(MatrixView<const double> hessian, const Eigen::VectorXd& g) {
  std::optional<dense::Cholesky> factor = dense::Cholesky::of(hessian);
  double largest = 0;
  for (Index i = 0; i < hessian.rows; ++i) largest = std::max(largest, std::abs(hessian(i, i)));
  for (double shift = 1e-14 * largest; !factor && shift > 0 && shift <= largest; shift *= 100) {
    factor = dense::Cholesky::of(hessian, shift);
  }
  Eigen::VectorXd step = -g;
  if (factor) factor->solve(step.data(), step.data());
  return step;
}

/// Sets out along `step`, made a direction of descent of at most a bounded length.
void set_out(Point& p, Eigen::VectorXd step) {
  const double longest = kLongest * p.reach();
  if (!step.allFinite() || !(step.dot(p.gradient) < 0)) step = -p.gradient * (longest / p.residual);
  const double length = step.stableNorm();  // of up to 1e308, where H is all but 0
  if (length > longest) step *= longest / length;
  p.step = std::move(step);
  p.slope = p.step.dot(p.gradient);
  p.length = 1;
  p.trial = p.x + p.step;
}

class Block {
 public:
  Block(const Operations<double>& operations, const Icnn& net, const double* theta,
        const NewtonOptions& options, Team& team)
      : operations_(operations), net_(net), theta_(theta), options_(options), team_(team) {}

  /// Until all points have ended.
  void solve(std::vector<Point>& points) {
    std::vector<Point*> active;
    for (Point& p : points) {
      if (!p.ended) active.push_back(&p);
    }
    while (!active.empty()) {
      round(active);
      std::erase_if(active, [](const Point* p) { return p->ended; });
    }
  }

 private:
  Index dim() const { return net_.dim(); }
  bool direct() const { return dim() <= options_.direct_dim; }

  template <class Body>
  void for_each(const std::vector<Point*>& active, const Body& body) {
    team_.for_each(static_cast<Index>(active.size()), [&](Index i) { body(i, *active[i]); });
  }

  /// One evaluation of the network at all trials.
  void round(const std::vector<Point*>& active) {
    const Index n = static_cast<Index>(active.size());
    const Index d = dim();
    Matrix<double> trial(n, d), displacement(n, d);
    std::vector<double> u(n);
    Matrix<double> hessian(direct() ? n : 0, d * d);
    for (Index i = 0; i < n; ++i) std::copy_n(active[i]->trial.data(), d, trial.row(i));
    MapOutputs<double> out;
    out.potential = u.data();
    out.displacement = displacement;
    if (direct()) out.hessian = hessian;
    operations_.evaluate(net_, theta_, trial, out, team_);
    for_each(active, [&](Index i, Point& p) {
      take(p, u[i], Eigen::Map<const Eigen::VectorXd>(displacement.row(i), d));
      if (p.moves && direct()) {
        const Eigen::VectorXd step = newton_step({hessian.row(i), d, d}, p.gradient);
        if (p.ended) {
          polish(p, step);
        } else {
          set_out(p, step);
        }
      }
    });
    if (!direct()) conjugate_steps(active);
  }

  /// Takes the trial as the new point, or shortens the step to it.
  void take(Point& p, double u, const Eigen::VectorXd& displacement) const {
    const double linear = p.y.dot(p.trial);
    const double value = u - linear;
    const double magnitude = std::abs(u) + std::abs(linear);
    const Eigen::VectorXd gradient = p.trial + displacement - p.y;
    p.moves = false;
    if (!std::isfinite(value) || !gradient.allFinite()) {
      shorten(p);
      return;
    }
    if (p.started) {
      const double rounding = 8 * std::numeric_limits<double>::epsilon() * std::max(magnitude, p.magnitude);
      const bool falls = value <= p.value + kArmijo * p.length * p.slope;
      const bool flat = value <= p.value + rounding &&
                        std::abs(p.step.dot(gradient)) <= (1 - 2 * kArmijo) * std::abs(p.slope);
      if (!falls && !flat) {
        shorten(p);
        return;
      }
      ++p.iterations;
    }
    p.started = p.moves = true;
    p.x = p.trial;
    p.value = value;
    p.magnitude = magnitude;
    p.gradient = gradient;
    p.residual = gradient.norm();
    p.idle = p.residual > 0.5 * p.best && p.length == 1 ? p.idle + 1 : 0;
    p.best = std::min(p.best, p.residual);
    if (p.residual <= options_.tolerance * p.scale) {
      p.end(InverseStatus::converged);
    } else if ((p.x - p.y).norm() > options_.far * p.scale) {
      p.end(InverseStatus::outside);
    } else if (p.iterations >= options_.iterations || p.idle >= kPatience) {
      p.end(InverseStatus::unconverged);
    }
  }

  void shorten(Point& p) const {
    p.length /= 2;
    if (!p.started || p.length < kShortest) {
      p.end(InverseStatus::unconverged);
      return;
    }
    p.trial = p.x + p.length * p.step;
  }

  /// The step from a point that has converged: quadratically closer, unless H is as good as singular.
  static void polish(Point& p, const Eigen::VectorXd& step) {
    if (p.status == InverseStatus::converged && step.norm() <= 1e-6 * p.reach()) p.x += step;
  }

  /// Steps by conjugate gradients for all that have moved. One tolerance for the call: that of the point
  /// which is nearest to its solution.
  void conjugate_steps(const std::vector<Point*>& active) {
    std::vector<Point*> moving;
    double forcing = 0.5;
    for (Point* p : active) {
      if (!p->moves || (p->ended && p->status != InverseStatus::converged)) continue;
      moving.push_back(p);
      forcing = std::min(forcing, std::sqrt(p->residual / p->scale));
    }
    if (moving.empty()) return;
    const Index n = static_cast<Index>(moving.size());
    Matrix<double> x(n, dim()), g(n, dim()), z(n, dim());
    for (Index i = 0; i < n; ++i) {
      std::copy_n(moving[i]->x.data(), dim(), x.row(i));
      std::copy_n(moving[i]->gradient.data(), dim(), g.row(i));
    }
    const CgOptions cg{.iterations = static_cast<int>(4 * dim()), .tolerance = std::max(forcing, 1e-10)};
    operations_.solve_hessian(net_, theta_, x, g, z, cg, team_);
    for_each(moving, [&](Index i, Point& p) {
      const Eigen::VectorXd step = -Eigen::Map<const Eigen::VectorXd>(z.row(i), dim());
      if (p.ended) {
        polish(p, step);
      } else {
        set_out(p, step);
      }
    });
  }

  const Operations<double>& operations_;
  const Icnn& net_;
  const double* theta_;
  const NewtonOptions& options_;
  Team& team_;
};

double root_mean_square(MatrixView<const double> y) {
  double sum = 0;
  Index finite = 0;
  for (Index i = 0; i < y.rows; ++i) {
    double square = 0;
    for (Index c = 0; c < y.cols; ++c) square += y(i, c) * y(i, c);
    if (!std::isfinite(square)) continue;
    sum += square;
    ++finite;
  }
  return finite > 0 && sum > 0 ? std::sqrt(sum / static_cast<double>(finite)) : 1.0;
}

}  // namespace

Index NewtonReport::count(InverseStatus which) const {
  return std::count(status.begin(), status.end(), which);
}

NewtonReport invert_gradient(const Operations<double>& operations, const Icnn& net, const double* theta,
                             MatrixView<const double> y, MatrixView<double> x, bool guess,
                             const NewtonOptions& options, Team& team) {
  const Index n = y.rows;
  const Index d = net.dim();
  NewtonReport report{std::vector<InverseStatus>(n), std::vector<int>(n), std::vector<double>(n)};
  const double scale = options.scale > 0 ? options.scale : root_mean_square(y);
  const Index block = std::clamp<Index>((Index{1} << 22) / (d * d), 64, 16384);
  Block solver(operations, net, theta, options, team);
  std::vector<Point> points;
  for (Index begin = 0; begin < n; begin += block) {
    const Index end = std::min(begin + block, n);
    points.assign(end - begin, {});
    for (Index i = begin; i < end; ++i) {
      Point& p = points[i - begin];
      p.row = i;
      p.y = Eigen::Map<const Eigen::VectorXd>(y.row(i), d);
      p.trial = guess ? Eigen::VectorXd(Eigen::Map<const Eigen::VectorXd>(x.row(i), d)) : p.y;
      if (guess && !p.trial.allFinite()) p.trial = p.y;
      p.x = p.trial;
      p.scale = scale + p.y.norm();
      if (!std::isfinite(p.scale)) p.end(InverseStatus::outside);
    }
    solver.solve(points);
    for (const Point& p : points) {
      std::copy_n(p.x.data(), d, x.row(p.row));
      report.status[p.row] = p.status;
      report.iterations[p.row] = p.iterations;
      report.residual[p.row] = p.residual;
    }
  }
  return report;
}

}  // namespace brenier
