// SPDX-License-Identifier: MIT
// Training of a convex potential on labelled points: a classifier whose logit is convex, or a convex
// regression (the surrogate of the paper's appendix E.1).
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "brenier/export.h"
#include "brenier/potential.hpp"

namespace BRENIER_API brenier {

/// What is trained, and how.
struct FitOptions {
  enum class Loss {
    binary,   // cross-entropy of labels 0 and 1: V is the logit of label 1
    squared,  // mean squared error of V
  };
  /// What the network sees: (x - mean) / scale.
  enum class Scaling {
    coordinates,  // the deviation of each coordinate; 1 where that does not vary
    common,       // one for all, the rms of the deviations: noise in a quiet coordinate stays small
  };

  enum class Solver {
    automatic,  // lbfgs for up to 16,384 points, adam above
    lbfgs,      // all points at once; an epoch is 10 evaluations
    adam,       // minibatches
  };

  Loss loss = Loss::binary;
  Solver solver = Solver::automatic;
  /// `dim` is taken from the points; without alpha, which would be a curvature that data cannot take away.
  std::vector<int> hidden = {128, 128, 128, 128};
  bool residual = false;
  int quadratic_rank = 0;
  Activation activation = Activation::softplus;
  Scaling scaling = Scaling::coordinates;
  int epochs = 100;    // most, >= 1
  Index batch = 1024;  // most points of a minibatch, >= 1; an epoch is cut into equal ones
  double rate = 0.01;  // of Adam, > 0; a tenth, and again, where the loss does not fall below a constant's
  double rate_factor = 0.1;  // in (0, 1]: of the rate, after each `patience` epochs in which the validation
  int patience = 10;         // loss has not fallen by 1e-4 of itself; >= 1
  int stop = 30;             // ends after so many such epochs in a row; 0: never
  bool keep_best = true;     // the parameters of the best validation loss; false: the last ones
  double validation = 0.1;   // share of the points, in (0, 1)
  double test = 0.1;         // share of the points, in [0, 1)
  std::uint64_t seed = 0;    // of the start, the parts and the minibatches
  std::string device = "auto";  // see backend()
  int threads = 0;              // 0: all processors

  /// Throws ValueError that names the option, the value and the range.
  void validate() const;
};

/// One epoch.
struct FitEpoch {
  int epoch = 0;  // from 1
  double rate = 0;
  double train_loss = 0;       // mean over the minibatches, each before its update; normalised labels
  double validation_loss = 0;  // after the epoch, likewise
};

/// How a potential does on some points.
struct FitScore {
  Index count = 0;
  double loss = std::numeric_limits<double>::quiet_NaN();  // cross-entropy (nats), or mean squared error
  /// Binary: share of the points whose label is V > 0. Squared: R^2, 1 - loss / variance of the labels.
  double accuracy = std::numeric_limits<double>::quiet_NaN();
  Index confusion[2][2] = {};  // binary: points by [label][prediction]
};

struct FitResult {
  LearnedPotential potential;  // in the coordinates and units of the data
  std::vector<FitEpoch> history;
  int best_epoch = 0;
  FitScore train, validation, test;  // of `potential`, in double precision
  bool interrupted = false;
  double seconds = 0;
};

/// Called after every epoch; false ends the training, which then has the result so far.
using FitProgress = std::function<bool(const FitEpoch&)>;

/// V(x) on points x (N, d), with a label each (N). T is the precision of the training. The same seed gives
/// the same bits, whatever the number of threads. ShapeError: sizes that do not agree. ValueError: options;
/// points or labels that are not finite; with Loss::binary labels other than 0 and 1, or of one class only;
/// parts of the points that would be empty. NumericalError: a loss that is not finite, or on the training points above
/// that of the best constant. NotAvailable: the device.
template <class T = float>
FitResult fit(MatrixView<const double> x, std::span<const double> labels, const FitOptions& options = {},
              const FitProgress& progress = {});

/// How V does on labelled points. ShapeError.
FitScore score(const LearnedPotential& v, MatrixView<const double> x, std::span<const double> labels,
               FitOptions::Loss loss, Team& team);

extern template FitResult fit<float>(MatrixView<const double>, std::span<const double>, const FitOptions&,
                                     const FitProgress&);
extern template FitResult fit<double>(MatrixView<const double>, std::span<const double>, const FitOptions&,
                                      const FitProgress&);

}  // namespace brenier
