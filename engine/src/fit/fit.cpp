// SPDX-License-Identifier: MIT
// Minibatches, the jet pass with seeds a = dLoss/du, Adam, and the clamp that keeps the network convex.
#include "brenier/fit.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <utility>

#include "brenier/base/error.hpp"
#include "brenier/base/philox.hpp"
#include "brenier/device.hpp"
#include "engine/src/flow/solve/metric.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/wall_clock.hpp"
#include "kernels/model/adam.hpp"
#include "kernels/operations.hpp"
#include "solvers/lbfgs.hpp"

namespace brenier {
namespace {

void check_data(MatrixView<const double> x, std::span<const double> labels, FitOptions::Loss loss) {
  if (x.rows != static_cast<Index>(labels.size())) {
    throw ShapeError("fit: " + std::to_string(labels.size()) + " labels for " + std::to_string(x.rows) +
                     " points; there must be one for each");
  }
  if (x.cols < 1) throw ShapeError("fit: the points have no coordinates");
  for (Index i = 0; i < x.rows; ++i) {
    for (Index c = 0; c < x.cols; ++c) {
      if (std::isfinite(x(i, c))) continue;
      throw ValueError("fit: point " + std::to_string(i) + " has the coordinate " + show(x(i, c)) +
                       "; all must be finite");
    }
  }
  Index ones = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const bool allowed =
        loss == FitOptions::Loss::binary ? labels[i] == 0 || labels[i] == 1 : std::isfinite(labels[i]);
    if (!allowed) {
      throw ValueError(
          "fit: label " + std::to_string(i) + " is " + show(labels[i]) + "; it must be " +
          (loss == FitOptions::Loss::binary ? "0 or 1 (numbers are for a regression)" : "finite"));
    }
    ones += labels[i] == 1;
  }
  if (loss != FitOptions::Loss::binary) return;
  if (ones == 0 || ones == x.rows) {
    throw ValueError("fit: all " + std::to_string(x.rows) + " labels are " + (ones == 0 ? "0" : "1") +
                     "; a classifier needs points of both classes");
  }
}

/// A permutation of 0 .. n-1 by Fisher and Yates; `draw` numbers the permutations of a purpose.
std::vector<Index> permutation(Index n, const Random& random, std::uint32_t draw) {
  std::vector<Index> out(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), Index{0});
  for (Index i = n - 1; i > 0; --i) {
    const Index j = random.below(static_cast<std::uint32_t>(i + 1), draw, 0, static_cast<std::uint64_t>(i));
    std::swap(out[static_cast<std::size_t>(i)], out[static_cast<std::size_t>(j)]);
  }
  return out;
}

/// Points, and what the network has to say of them.
template <class T>
struct Labelled {
  Matrix<T> x;
  std::vector<double> label;
  Index size() const { return x.rows(); }
};

template <class T>
Labelled<T> select(MatrixView<const T> x, std::span<const double> label, std::span<const Index> which) {
  Labelled<T> out{Matrix<T>(static_cast<Index>(which.size()), x.cols), {}};
  for (std::size_t k = 0; k < which.size(); ++k) {
    std::copy_n(x.row(which[k]), x.cols, out.x.row(static_cast<Index>(k)));
    out.label.push_back(label[static_cast<std::size_t>(which[k])]);
  }
  return out;
}

/// One point's loss and its derivative by u.
struct LossJet {
  double value, slope;
};
LossJet loss_jet(FitOptions::Loss loss, double u, double label) {
  if (loss == FitOptions::Loss::squared) return {(u - label) * (u - label), 2 * (u - label)};
  // -log of the probability 1/(1 + exp(-u)) of label 1, or of its complement; exp never overflows.
  const double t = std::exp(-std::abs(u));
  const double sigmoid = u < 0 ? t / (1 + t) : 1 / (1 + t);
  return {std::max(u, 0.0) - label * u + std::log1p(t), sigmoid - label};
}

/// The mean loss of the best constant.
double constant_loss(const std::vector<double>& labels, FitOptions::Loss loss) {
  const double n = static_cast<double>(labels.size());
  double mean = 0, out = 0;
  for (const double label : labels) mean += label / n;
  const double u = loss == FitOptions::Loss::squared ? mean : std::log(mean / (1 - mean));
  if (!std::isfinite(u)) return std::numeric_limits<double>::infinity();  // one class only
  for (const double label : labels) out += loss_jet(loss, u, label).value / n;
  return out;
}

/// What the network sees of points, and what its value means.
struct Frame {
  std::vector<double> shift, scale;  // (d)
  double label_shift = 0, label_scale = 1;

  Frame(MatrixView<const double> x, std::span<const double> labels, std::span<const Index> which,
        const FitOptions& options)
      : shift(static_cast<std::size_t>(x.cols), 0.0), scale(static_cast<std::size_t>(x.cols), 0.0) {
    const double n = static_cast<double>(which.size());
    double common = 0;
    for (Index c = 0; c < x.cols; ++c) {
      for (const Index i : which) shift[c] += x(i, c) / n;
      for (const Index i : which) scale[c] += (x(i, c) - shift[c]) * (x(i, c) - shift[c]) / n;
      common += scale[c] / static_cast<double>(x.cols);
    }
    const bool each = options.scaling == FitOptions::Scaling::coordinates;
    for (std::size_t c = 0; c < scale.size(); ++c) {
      scale[c] = std::sqrt(each ? scale[c] : common);
      if (!(scale[c] > 1e-12 * std::abs(shift[c]))) scale[c] = 1;  // it does not vary
    }
    if (options.loss != FitOptions::Loss::squared) return;
    double variance = 0;
    for (const Index i : which) label_shift += labels[static_cast<std::size_t>(i)] / n;
    for (const Index i : which) {
      const double off = labels[static_cast<std::size_t>(i)] - label_shift;
      variance += off * off / n;
    }
    if (variance > 0) label_scale = std::sqrt(variance);
  }
};

Architecture architecture(const FitOptions& options, Index dim) {
  Architecture a;
  a.dim = static_cast<int>(dim);
  a.hidden = options.hidden;
  a.activation = options.activation;
  a.residual = options.residual;
  a.quadratic_rank = options.quadratic_rank;
  a.learn_alpha = false;
  return a;
}

/// The network, its optimiser, and the points it learns from, in normalised coordinates.
template <class T>
class Training {
 public:
  Training(const Icnn& net, const FitOptions& options)
      : net_(net),
        options_(options),
        ops_(backend<T>(options.device)),
        team_(options.threads),
        scope_(options.device),
        gradient_(static_cast<std::size_t>(net.parameters())) {
    begin();
  }

  /// From the initial parameters.
  void begin() {
    const std::vector<double> start =
        initial_parameters(net_, Initialisation::identity, options_.seed, 0, 0.0);
    theta_.assign(start.begin(), start.end());
    first_moment_.assign(theta_.size(), T(0));
    second_moment_.assign(theta_.size(), T(0));
    iteration_ = 0;
  }

  /// Scales the output so that u has the mean of the labels and their deviation, or 1 for logits: deep networks start
  /// far above.
  void match(const Labelled<T>& points) {
    std::vector<T> u(points.label.size());
    evaluate(theta_, points, u);
    const double n = static_cast<double>(u.size());
    double mean = 0, squares = 0, label = 0;
    for (std::size_t i = 0; i < u.size(); ++i) {
      mean += static_cast<double>(u[i]) / n;
      label += points.label[i] / n;
    }
    for (const T value : u)
      squares += (static_cast<double>(value) - mean) * (static_cast<double>(value) - mean) / n;
    if (!(squares > 0) || !std::isfinite(squares)) return;
    const double factor = 1 / std::sqrt(squares);
    const bool squared = options_.loss == FitOptions::Loss::squared;
    for (int k = 0; k < net_.layers().back().width; ++k)
      theta_[net_.output_weight() + k] *= static_cast<T>(factor);
    for (int c = 0; c < net_.dim(); ++c) theta_[net_.output_input() + c] *= static_cast<T>(factor);
    for (Index k = 0; k < Index{net_.rank()} * net_.dim(); ++k)
      theta_[net_.factor() + k] *= static_cast<T>(std::sqrt(factor));
    T& constant = theta_[net_.output_bias()];
    constant = static_cast<T>(factor * (static_cast<double>(constant) - mean) + (squared ? label : 0));
  }

  /// L-BFGS on all points, `evaluations` of them; seen(loss) after each, with the parameters in theta(). False ends it.
  void search(const Labelled<T>& points, int evaluations, const std::function<bool(double)>& seen) {
    std::atomic<bool> stop = false;
    const std::vector<T> start = theta_;
    const ParameterMetric<T> parameters(net_, start);
    std::vector<T> found = start;
    const BoundedProblem<T> problem{[&](const T* at, double* gradient) {
                                      theta_.assign(at, at + start.size());
                                      const double loss = gradient_of(points, gradient);
                                      if (!seen(loss)) stop.store(true);
                                      return loss;
                                    },
                                    parameters.lower, parameters.metric};
    minimise(problem, {.evaluations = evaluations, .tolerance = 1e-6, .window = 10, .interrupt = &stop},
             found);
    theta_ = std::move(found);
  }

  Team& team() { return team_; }
  const std::vector<T>& theta() const { return theta_; }

  double loss(const Labelled<T>& points) { return loss_at(theta_, points); }

  double loss_at(const std::vector<T>& theta, const Labelled<T>& points) {
    std::vector<T> u(points.label.size());
    evaluate(theta, points, u);
    double sum = 0;
    for (std::size_t i = 0; i < u.size(); ++i) {
      sum += loss_jet(options_.loss, static_cast<double>(u[i]), points.label[i]).value;
    }
    return sum / static_cast<double>(u.size());
  }

  /// One pass over the points; the mean loss on the way.
  double epoch(const Labelled<T>& points, int number, double rate) {
    const std::vector<Index> order = permutation(
        points.size(), Random(options_.seed, RandomStream::minibatch), static_cast<std::uint32_t>(number));
    const Index batch = std::min<Index>(options_.batch, points.size());
    const Index batches = (points.size() + batch - 1) / batch;
    double sum = 0;
    for (Index b = 0; b < batches; ++b) {
      const Index first = points.size() * b / batches;
      const Index count = points.size() * (b + 1) / batches - first;
      sum += update(select<T>(points.x, points.label, std::span<const Index>(order).subspan(first, count)),
                    rate);
    }
    return sum / static_cast<double>(points.size());
  }

 private:
  void evaluate(const std::vector<T>& theta, const Labelled<T>& points, std::vector<T>& u) {
    MapOutputs<T> out;
    out.potential = u.data();
    ops_.evaluate(net_, theta.data(), points.x, out, team_);
  }

  /// The mean loss at theta(), and its gradient.
  double gradient_of(const Labelled<T>& batch, double* gradient) {
    const double n = static_cast<double>(batch.size());
    std::vector<T> u(batch.label.size());
    evaluate(theta_, batch, u);
    double sum = 0;
    std::vector<T> seeds(u.size());
    for (std::size_t i = 0; i < u.size(); ++i) {
      const LossJet jet = loss_jet(options_.loss, static_cast<double>(u[i]), batch.label[i]);
      sum += jet.value;
      seeds[i] = static_cast<T>(jet.slope / n);
    }
    JetSeeds<T> jet;
    jet.a = seeds.data();
    ops_.jet_gradient(net_, theta_.data(), batch.x, jet, gradient, team_);
    return sum / n;
  }

  /// One step of Adam; the sum of the losses before it.
  double update(const Labelled<T>& batch, double rate) {
    const double mean = gradient_of(batch, gradient_.data());
    AdamOptions adam;
    adam.rate = rate;
    const AdamStep<T> step(adam, iteration_++, 1);
    for (const ParameterTensor& tensor : net_.tensors()) {
      for (Index k = tensor.offset; k < tensor.offset + tensor.size(); ++k) {
        step.update(theta_[k], first_moment_[k], second_moment_[k], static_cast<T>(gradient_[k]),
                    static_cast<T>(tensor.lower), static_cast<T>(tensor.rate));
      }
    }
    return mean * static_cast<double>(batch.size());
  }

  const Icnn& net_;
  const FitOptions& options_;
  const Operations<T>& ops_;
  Team team_;
  DeviceScope scope_;
  std::vector<double> gradient_;
  std::vector<T> theta_, first_moment_, second_moment_;
  int iteration_ = 0;
};

/// The numbers of the points of each part.
struct Parts {
  std::vector<Index> train, validation, test;

  Parts(Index n, const FitOptions& options) {
    const std::vector<Index> order = permutation(n, Random(options.seed, RandomStream::held_out), 0);
    const auto count = [&](double share) {
      return static_cast<Index>(std::llround(share * static_cast<double>(n)));
    };
    const Index held_out = count(options.validation), tested = count(options.test);
    if (held_out < 1 || (options.test > 0 && tested < 1) || held_out + tested >= n) {
      throw ValueError("fit: " + std::to_string(n) + " points give " + std::to_string(n - held_out - tested) +
                       " for training, " + std::to_string(held_out) + " for validation and " +
                       std::to_string(tested) +
                       " for the test; none of them may be empty: give more points or other shares");
    }
    const auto at = [&](Index k) { return order.begin() + k; };
    validation.assign(at(0), at(held_out));
    test.assign(at(held_out), at(held_out + tested));
    train.assign(at(held_out + tested), order.end());
  }
};

}  // namespace

FitScore score(const LearnedPotential& v, MatrixView<const double> x, std::span<const double> labels,
               FitOptions::Loss loss, Team& team) {
  if (x.rows != static_cast<Index>(labels.size())) {
    throw ShapeError("score: " + std::to_string(labels.size()) + " labels for " + std::to_string(x.rows) +
                     " points; there must be one for each");
  }
  FitScore out;
  out.count = x.rows;
  if (x.rows == 0) return out;
  std::vector<double> u(labels.size());
  v.evaluate(x, u.data(), {}, team);
  const double n = static_cast<double>(x.rows);
  double sum = 0, mean = 0, variance = 0;
  for (const double label : labels) mean += label / n;
  for (std::size_t i = 0; i < u.size(); ++i) {
    sum += loss_jet(loss, u[i], labels[i]).value / n;
    variance += (labels[i] - mean) * (labels[i] - mean) / n;
    if (loss == FitOptions::Loss::binary) ++out.confusion[labels[i] == 1][u[i] > 0];
  }
  out.loss = sum;
  out.accuracy = loss == FitOptions::Loss::binary
                     ? static_cast<double>(out.confusion[0][0] + out.confusion[1][1]) / n
                     : 1 - sum / variance;
  return out;
}

template <class T>
FitResult fit(MatrixView<const double> x, std::span<const double> labels, const FitOptions& options,
              const FitProgress& progress) {
  const double start = now();
  options.validate();
  check_data(x, labels, options.loss);
  const Parts parts(x.rows, options);
  const Frame frame(x, labels, parts.train, options);
  const Icnn net(architecture(options, x.cols));

  Matrix<T> normalised(x.rows, x.cols);
  std::vector<double> targets(labels.begin(), labels.end());
  for (Index i = 0; i < x.rows; ++i) {
    for (Index c = 0; c < x.cols; ++c)
      normalised(i, c) = static_cast<T>((x(i, c) - frame.shift[c]) / frame.scale[c]);
  }
  for (double& target : targets) target = (target - frame.label_shift) / frame.label_scale;
  const auto part = [&](const std::vector<Index>& which) { return select<T>(normalised, targets, which); };
  const Labelled<T> train = part(parts.train), validation = part(parts.validation);

  Training<T> training(net, options);
  FitResult result{{net, {}}, {}, 0, {}, {}, {}, false, 0};
  std::vector<T> best;
  double best_loss = std::numeric_limits<double>::infinity(), rate = options.rate;
  int waited = 0;  // epochs without improvement
  const auto forget = [&] {
    result.history.clear();
    best.clear();
    best_loss = std::numeric_limits<double>::infinity();
    waited = 0;
  };
  /// Takes in an epoch; false where it is the last.
  const auto take = [&](const FitEpoch& report) {
    result.history.push_back(report);
    waited = report.validation_loss < best_loss * (1 - 1e-4) ? 0 : waited + 1;
    if (report.validation_loss < best_loss) {
      best_loss = report.validation_loss;
      best = training.theta();
      result.best_epoch = report.epoch;
    }
    if (progress && !progress(report)) {
      result.interrupted = true;
      return false;
    }
    return !(options.stop > 0 && waited >= options.stop);
  };
  const double constant = constant_loss(train.label, options.loss);
  const auto improves = [&] {
    const std::vector<T>& now = options.keep_best && !best.empty() ? best : training.theta();
    return result.interrupted || training.loss_at(now, train) <= 1.02 * constant;
  };
  const bool all_at_once = options.solver == FitOptions::Solver::lbfgs ||
                           (options.solver == FitOptions::Solver::automatic && train.size() <= 16384);
  if (all_at_once) {
    constexpr int kEvaluations = 10;  // of an epoch
    training.match(train);
    int count = 0;
    training.search(train, kEvaluations * options.epochs, [&](double loss) {
      if (++count % kEvaluations != 0) return true;
      const double validation_loss = training.loss(validation);
      if (!std::isfinite(validation_loss)) return true;  // a trial that is not taken
      return take({count / kEvaluations, 0, loss, validation_loss});
    });
    if (const double at_end = training.loss(validation); at_end < best_loss && !result.interrupted) {
      const int epoch = result.history.empty() ? 1 : result.history.back().epoch + 1;
      take({epoch, 0, training.loss(train), at_end});
    }
  } else {
    for (int tries = 0; tries < 3 && (tries == 0 || !improves()); ++tries) {
      if (tries > 0) {  // the first updates were too large
        forget();
        training.begin();
        training.match(train);
      }
      rate = options.rate * std::pow(0.1, tries);
      for (int epoch = 1; epoch <= options.epochs; ++epoch) {
        FitEpoch report{epoch, rate, 0, 0};
        report.train_loss = training.epoch(train, epoch, rate);
        report.validation_loss = training.loss(validation);
        if (!std::isfinite(report.train_loss + report.validation_loss)) {
          if (tries < 2) break;
          throw NumericalError("fit: the loss of epoch " + std::to_string(epoch) + " is " +
                               show(report.train_loss) + " in training and " + show(report.validation_loss) +
                               " in validation, at the rate " + show(rate) + "; use a smaller rate");
        }
        if (!take(report)) break;
        if (waited > 0 && waited % options.patience == 0) rate *= options.rate_factor;
      }
    }
  }
  if (!improves()) {
    throw NumericalError(
        "fit: the network does no better than a constant: its loss on the training points is " +
        show(training.loss(train)) + ", that of the best constant " + show(constant) +
        "; labels that are concave in the points cannot be fitted, otherwise use more epochs or "
        "another network");
  }

  const std::vector<T>& last = options.keep_best && !best.empty() ? best : training.theta();
  const std::vector<double> theta(last.begin(), last.end());
  result.potential.theta = reparametrised(net, theta,
                                          {.shift = frame.shift,
                                           .scale = frame.scale,
                                           .value_scale = frame.label_scale,
                                           .value_shift = frame.label_shift});
  for (const double value : result.potential.theta)
    if (!std::isfinite(value))
      throw NumericalError(
          "fit: in the units of the points and labels the network has parameters beyond the range of "
          "numbers; "
          "give both in units in which they are neither tiny nor huge");
  const auto rate_part = [&](const std::vector<Index>& which) {
    const Labelled<double> points = select<double>(x, labels, which);
    return score(result.potential, points.x, points.label, options.loss, training.team());
  };
  result.train = rate_part(parts.train);
  result.validation = rate_part(parts.validation);
  result.test = rate_part(parts.test);
  result.seconds = now() - start;
  return result;
}

template FitResult fit<float>(MatrixView<const double>, std::span<const double>, const FitOptions&,
                              const FitProgress&);
template FitResult fit<double>(MatrixView<const double>, std::span<const double>, const FitOptions&,
                               const FitProgress&);

}  // namespace brenier
