// SPDX-License-Identifier: MIT
// `brenier fit`: trains a convex potential on labelled points.
#include "brenier/fit.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/device.hpp"
#include "brenier/npy.hpp"
#include "engine/src/fit/fit_options.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/interrupt.hpp"
#include "tools/runs/progress.hpp"

namespace brenier::app {
namespace {

using Json = nlohmann::ordered_json;

struct FitCommand {
  std::filesystem::path data, labels;  // .npy (N, d) and (N)
  std::filesystem::path out;           // .safetensors; the summary is beside it, with .json
  FitOptions options;
  bool double_precision = false;  // of the training
  bool quiet = false;
};

bool binary(const FitCommand& command) {
  return command.options.loss == FitOptions::Loss::binary;
}

/// About twenty lines in all, and every fall of the rate.
class FitLog {
 public:
  FitLog(std::ostream* out, int epochs) : out_(out), every_(epochs > 20 ? epochs / 20 : 1) {}

  void epoch(const FitEpoch& report) {
    if (!out_) return;
    if (report.epoch % every_ != 0 && report.epoch != 1 && report.rate == rate_) return;
    rate_ = report.rate;
    char text[120];
    std::snprintf(text, sizeof text, "epoch %4d   rate %-8.2g   loss %-10.5g   validation %.5g", report.epoch,
                  report.rate, report.train_loss, report.validation_loss);
    *out_ << text << std::endl;
  }

 private:
  std::ostream* out_;
  int every_;
  double rate_ = 0;
};

Json score_json(const FitCommand& command, const FitScore& score) {
  Json out = Json::object();
  out["count"] = score.count;
  if (score.count == 0) return out;
  out["loss"] = score.loss;
  out[binary(command) ? "accuracy" : "r2"] = score.accuracy;
  if (binary(command)) {
    out["confusion"] = {{score.confusion[0][0], score.confusion[0][1]},
                        {score.confusion[1][0], score.confusion[1][1]}};
  }
  return out;
}

Json summary(const FitCommand& command, const FitResult& result) {
  const FitOptions& options = command.options;
  Json out = Json::object();
  out["data"] = command.data.string();
  out["labels"] = command.labels.string();
  out["network"] = command.out.string();
  out["loss"] = binary(command) ? "binary cross-entropy" : "mean squared error";
  out["points"] = result.train.count + result.validation.count + result.test.count;
  out["dim"] = result.potential.net.dim();
  out["hidden"] = options.hidden;
  out["residual"] = options.residual;
  out["parameters"] = result.potential.net.parameters();
  out["batch"] = options.batch;
  out["rate"] = options.rate;
  out["patience"] = options.patience;
  out["seed"] = options.seed;
  out["precision"] = command.double_precision ? "double" : "float";
  out["device"] = resolved_device(options.device);
  out["status"] = result.interrupted ? "interrupted" : "done";
  out["epochs"] = result.history.size();
  out["best_epoch"] = result.best_epoch;
  out["parameters_of_epoch"] =
      options.keep_best ? result.best_epoch : static_cast<int>(result.history.size());
  out["seconds"] = result.seconds;
  // [label][prediction]; the loss in the units of the labels
  out["train"] = score_json(command, result.train);
  out["validation"] = score_json(command, result.validation);
  out["test"] = score_json(command, result.test);
  Json& history = out["history"] = Json::object();
  for (const char* column : {"rate", "train_loss", "validation_loss"}) history[column] = Json::array();
  for (const FitEpoch& epoch : result.history) {
    history["rate"].push_back(epoch.rate);
    history["train_loss"].push_back(epoch.train_loss);
    history["validation_loss"].push_back(epoch.validation_loss);
  }
  return out;
}

void print(const FitCommand& command, const FitResult& result, std::ostream& out) {
  const FitScore& best = result.test.count > 0 ? result.test : result.validation;
  char text[160];
  std::snprintf(text, sizeof text, "%s %.4f and loss %.5g on %td points of the %s set, after %s\n",
                binary(command) ? "accuracy" : "R^2", best.accuracy, best.loss, best.count,
                result.test.count > 0 ? "test" : "validation", duration_text(result.seconds).c_str());
  out << text;
  if (!binary(command)) return;
  std::snprintf(text, sizeof text, "%16s %12s %12s\n", "", "predicted 0", "predicted 1");
  out << text;
  for (const int label : {0, 1}) {
    std::snprintf(text, sizeof text, "%16s %12td %12td\n", label == 0 ? "label 0" : "label 1",
                  best.confusion[label][0], best.confusion[label][1]);
    out << text;
  }
}

/// Trains a convex potential, writes it and a summary. Returns the signal that interrupted it, or 0: what there is then
/// is written. Errors as for fit(), and of the files.
int fit(const FitCommand& command, std::ostream& out) {
  const Matrix<double> x = read_npy(command.data), labels = read_npy(command.labels);
  if (labels.cols() != 1) {
    throw ShapeError("'" + command.labels.string() + "' has " + std::to_string(labels.cols()) +
                     " columns; labels are one number for each point, (N)");
  }
  std::filesystem::path summary_file = command.out;
  summary_file.replace_extension(".json");
  if (summary_file == command.out) {
    throw ValueError("'" + command.out.string() +
                     "' ends in .json, which the summary beside the network does; choose NAME.safetensors");
  }
  for (const std::filesystem::path& input : {command.data, command.labels}) {
    std::error_code code;
    if (std::filesystem::equivalent(command.out, input, code)) {
      throw ValueError("'" + command.out.string() + "' is one of the inputs; choose another file with --out");
    }
  }
  // Where nothing can be written, say so before the work.
  { const AtomicFile probe(command.out); }
  { const AtomicFile probe(summary_file); }
  std::atomic<int> stop{0};
  const InterruptScope scope(
      [](void* flag, int signal) noexcept {
        static_cast<std::atomic<int>*>(flag)->store(signal, std::memory_order_relaxed);
      },
      &stop);
  FitLog log(command.quiet ? nullptr : &out, command.options.epochs);
  const FitProgress progress = [&](const FitEpoch& epoch) {
    log.epoch(epoch);
    return stop.load(std::memory_order_relaxed) == 0;
  };
  const FitResult result = command.double_precision
                               ? fit<double>(x, labels.elements(), command.options, progress)
                               : fit<float>(x, labels.elements(), command.options, progress);
  write_potential(command.out, result.potential);
  const std::string text = summary(command, result).dump(2) + "\n";
  write_file_atomically(summary_file, std::as_bytes(std::span<const char>(text)));
  if (!command.quiet) print(command, result, out);
  out << (result.interrupted ? "interrupted: " : "") << command.out.string() << " and "
      << summary_file.string() << "\n";
  return result.interrupted ? stop.load() : 0;
}

/// The row of an option as an option of the command line; none for those with a flag of their own.
void add_option(CLI::App& command, const Key<FitOptions>& key, FitOptions& options) {
  std::string name = "--" + key.name;
  std::replace(name.begin(), name.end(), '_', '-');
  const auto add = [&]<class Place>(const Place& place) {
    if constexpr (std::is_same_v<Place, std::vector<int>*>) {
      command.add_option(name, *place, key.help)->delimiter(',')->capture_default_str();
    } else if constexpr (std::is_same_v<Place, bool*>) {
      if (!*place) command.add_flag(name, *place, key.help);
    } else if constexpr (std::is_same_v<Place, std::uint64_t*>) {
      command.add_option(name, *place, key.help)->check(CLI::Validator(check_seed, "0..9223372036854775807"));
    } else if constexpr (std::is_same_v<Place, Choice>) {
      if (key.name == "loss" || key.name == "scaling") return;
      command.add_option_function<std::string>(name, place.set, key.help)
          ->check(place.checks ? CLI::Validator() : CLI::IsMember(place.names))
          ->default_str(place.get());
    } else if constexpr (std::is_pointer_v<Place> && requires { command.add_option(name, *place); }) {
      command.add_option(name, *place, key.help)->capture_default_str();
    }
  };
  std::visit(add, key.slot(options));
}

}  // namespace

Command add_fit(CLI::App& app) {
  CLI::App* command = app.add_subcommand("fit", "train a convex potential on labelled points");
  struct Arguments : FitCommand {
    bool regression = false, last = false, one_scale = false, plot = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  FitOptions& options = arguments->options;
  command->add_option("DATA", arguments->data, ".npy file of the points, (N, d)")->required();
  command->add_option("LABELS", arguments->labels, ".npy file of their labels, (N): 0 and 1, or numbers")
      ->required();
  command
      ->add_option("-o,--out", arguments->out, ".safetensors file to write; a summary beside it, with .json")
      ->required();
  command->add_flag("--regression", arguments->regression,
                    "mean squared error; otherwise a classifier, the potential is the logit of label 1");
  for (const Key<FitOptions>& key : fit_keys()) add_option(*command, key, options);
  command->add_flag("--one-scale", arguments->one_scale,
                    "normalise all coordinates alike: quiet ones stay quiet");
  command->add_flag("--last", arguments->last, "keep the last epoch's parameters, not those of the best one");
  command->add_flag("--double", arguments->double_precision, "train in double precision");
  command->add_flag("-q,--quiet", arguments->quiet, "no progress");
  command->add_flag("--plot", arguments->plot,
                    "draw confusion matrix and losses beside the network, as .png");
  return {command, [arguments](const Console& console) {
            FitOptions& chosen = arguments->options;
            if (arguments->regression) chosen.loss = FitOptions::Loss::squared;
            if (arguments->one_scale) chosen.scaling = FitOptions::Scaling::common;
            chosen.keep_best = !arguments->last;
            if (const int signal = fit(*arguments, console.out)) return ExitCode::by_signal(signal);
            console.out.flush();
            std::filesystem::path written = arguments->out;
            written.replace_extension(".json");
            if (!arguments->plot) return ExitCode::ok;
            return after(ExitCode::ok, "the network '" + arguments->out.string() + "'",
                         "the script plot_fit.py with " + written.string(), console.err,
                         [&] { return plot_fit(written); });
          }};
}

}  // namespace brenier::app
