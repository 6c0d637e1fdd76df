// SPDX-License-Identifier: MIT
// What a run tells: history.csv, a row per step, and summary.json.
#pragma once

#include <string>
#include <vector>

#include "brenier/flow.hpp"
#include "engine/src/config/config.hpp"
#include "tools/runs/provenance.hpp"
#include "tools/runs/reference.hpp"

namespace brenier::app {

/// A row of history.csv: the report of a step, or what a run starts from, and what the run adds. Of log det H by
/// conjugate gradients alone it has the error, and no distances by themselves. NaN (an empty field) where a number is
/// not known or was not computed.
struct HistoryRow : StepReport {
  double held_out = 0;  // F on the held-out cloud
  double exact = 0;     // F of the PDE's solution
  double scheme = 0;    // F of the exact iterate
  double std = 0;       // of the held-out cloud where there is one, otherwise of the cloud
  double std_exact = 0, std_scheme = 0;
};

/// history.csv as text, with its header.
std::string history_text(const std::vector<HistoryRow>& rows);
/// The reverse, for resuming. IoError: a header or a field that history_text() does not write.
std::vector<HistoryRow> parse_history(const std::string& text, const std::string& name);

/// What summary.json is made from.
struct SummaryInput {
  std::string status;  // running, done, unsolved, interrupted or failed
  std::string reason;  // why a run failed, or ended before flow.end_time
  const Config* config = nullptr;
  const Reference* reference = nullptr;  // may be nullptr
  const std::vector<HistoryRow>* history = nullptr;
  ObjectiveValue functional{};  // on the cloud, now; distances: none while a run is on
  double held_out = 0;          // F on the held-out cloud; NaN where there is none
  double std = 0;
  const Matrix<double>* judged = nullptr;  // the held-out cloud where there is one; nullptr: no errors yet
  int steps = 0;
  double time = 0;
  double seconds = 0;
  std::string backend, device;  // the table of operations; what it runs on
  int threads = 1;
  std::vector<std::string> warnings;
  std::vector<ProcessRecord> processes;  // that computed the run, in their order
};
std::string summary_text(const SummaryInput& input);

/// How far F, held-out where there is such a cloud, lies below known_infimum(), and whether that is more than
/// the cloud's own error: 0.1 % of |infimum| + |F_0 - infimum|, with 3/sqrt(particles) of it more for a
/// random cloud. Below the infimum there is no density.
struct BelowInfimum {
  double infimum = 0;  // -infinity where not known
  double by = 0;       // >= 0
  bool flag = false;
};
BelowInfimum below_infimum(const Config& config, const std::vector<HistoryRow>& history, double functional,
                           double held_out);

/// What says that the maps have fitted the sample instead of the density. Empty where nothing does:
///   F below its infimum, as below_infimum() says; held-out F above F on the particles, and by more than at the start, whose
///   gap is the sampling error of the two clouds. A flow may shrink that error, so that a gap which merely went back to 0
///   says nothing. More is 1 % of what held-out F has changed since the start, 0.1 % of |F_0| + |F| and three times
///   `sampling_error`, the standard error of the difference now, as far as it is known.
std::vector<std::string> overfitting(const Config& config, const std::vector<HistoryRow>& history,
                                     double functional, double held_out, double sampling_error = 0);

/// What the history says of steps, in words for warnings: those that are not solved, those that raised F +
/// W^2/(2 tau) by more than rounding, those where more than a tenth of the transport solves ended above their tolerance.
/// `size` is the largest coordinate of the cloud, which has rounding of that.
std::vector<std::string> troubled_steps(const Config& config, const std::vector<HistoryRow>& history,
                                        double size = 0);

/// Whether F has no minimum because a quadratic V curves down somewhere; empty where it does not.
std::string unbounded(const Config& config);

/// What went wrong with the solves of a step, and what helps; empty where nothing did.
std::string trouble_of_solves(const HistoryRow& row);

/// A median; NaN of nothing.
double median(std::vector<double> values);

}  // namespace brenier::app
