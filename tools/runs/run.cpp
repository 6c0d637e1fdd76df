// SPDX-License-Identifier: MIT
#include "tools/runs/run.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <new>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sstream>
#include <utility>

#include "brenier/base/out_of_memory.hpp"
#include "brenier/checksum.hpp"
#include "brenier/device.hpp"
#include "brenier/npy.hpp"
#include "kernels/base/moments.hpp"
#include "kernels/base/show.hpp"
#include "kernels/operations.hpp"
#include "tools/runs/interrupt.hpp"
#include "tools/runs/jump.hpp"
#include "tools/runs/manifest.hpp"
#include "tools/runs/progress.hpp"
#include "tools/runs/reference.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Index kMostPairs = 100'000;  // particles whose pairs are all taken at the end of a run

/// One run, from a checked configuration to a finished folder.
template <class T>
class Runner {
 public:
  /// Everything that can be wrong with a problem is found here, before a file is written.
  Runner(const Config& config, const RunOptions& options)
      : config_(config),
        options_(options),
        reference_(find_reference(config)),
        flow_(config.functional, config.initial_cloud(), shared(config.flow, options)) {
    if (!config_.flow.keep_maps)
      throw ConfigError(config_.name +
                        ": flow.keep_maps = false; it must be true here: a run writes all maps");
    if (config_.cloud.density) flow_.set_initial_density(*config_.cloud.density);
    if (config_.held_out.particles > 0) {
      Cloud cloud = config_.held_out_cloud(config_.held_out.particles);
      // Densities cost a Hessian a particle and map, and at the second order d^2 numbers to keep.
      if (!config_.functional.needs_density()) cloud.log_density.clear();
      held_out_ = flow_.track(std::move(cloud));
    }
    if (config_.flow.inner.refresh > 0) {
      flow_.set_source([this](std::uint32_t draw) { return config_.fresh_cloud(draw); });
    }
  }

  RunResult start() {
    // From before the first file to after the last one; what is asked for meanwhile is remembered.
    const InterruptScope scope(ask, this);
    const RunFolder folder = !first()               ? RunFolder::beside(options_.out)
                             : options_.out.empty() ? RunFolder::create_numbered(options_.name)
                                                    : RunFolder::create(options_.out);
    try {
      begin(folder);
    } catch (...) {
      folder.remove();
      throw;
    }
    return loop(folder);
  }

  /// `manifest` is what the folder has; `damage` is said, and kept in the summary.
  RunResult continue_in(const RunFolder& folder, Manifest manifest, std::vector<std::string> damage) {
    const InterruptScope scope(ask, this);
    damage_ = std::move(damage);
    if (std::filesystem::exists(folder.checkpoint())) {
      manifest_ = std::move(manifest);
      manifest_.settings = config_.resolved;
      manifest_.inputs = inputs_of(config_);
      load(folder);  // first: what it refuses leaves config.toml as it was
      write_config(folder);
    } else {
      folder.forget_after(-1);  // ended within its first step
      begin(folder);
    }
    return loop(folder);
  }

 private:
  static FlowOptions shared(FlowOptions flow, const RunOptions& options) {
    flow.communicator = options.communicator;
    return flow;
  }
  bool alone() const { return !options_.communicator || options_.communicator->size() == 1; }
  /// The process that writes and speaks.
  bool first() const { return alone() || options_.communicator->rank() == 0; }
  void write_manifest(const RunFolder& folder) const {
    if (folder.writes()) manifest_.write(folder.path());
  }
  /// What one process was asked for or has seen, all do: they go on or end together. A call that all make.
  void agree() {
    if (alone()) return;
    double asked = interrupted_.load(std::memory_order_relaxed) ? 1 : 0;
    options_.communicator->sum({&asked, 1});
    agreed_ = agreed_ || asked > 0;
  }

  /// The signal that one of the processes was sent, on all; 0: none. A call that all make.
  int signal_of_all() const {
    const int own = signal_.load(std::memory_order_relaxed);
    if (alone()) return own;
    std::vector<double> all(static_cast<std::size_t>(options_.communicator->size()), 0.0);
    all[static_cast<std::size_t>(options_.communicator->rank())] = own;
    options_.communicator->sum(all);
    return static_cast<int>(*std::max_element(all.begin(), all.end()));
  }

  static void ask(void* runner, int signal) noexcept {
    auto* self = static_cast<Runner*>(runner);
    self->signal_.store(signal, std::memory_order_relaxed);
    self->interrupted_.store(true, std::memory_order_relaxed);
    self->flow_.interrupt();
  }
  /// Whether all steps are done.
  bool at_end() const {
    return flow_.steps() >= config_.steps ||
           (config_.adaptive() && flow_.time() >= config_.flow.adaptive.end_time);
  }
  /// What a run of adaptive steps did not reach because flow.steps ended it; empty where it did.
  std::string short_of_end() const {
    const double end = config_.flow.adaptive.end_time;
    if (!config_.adaptive() || flow_.steps() < config_.steps || flow_.time() >= end) return "";
    std::ostringstream out;
    out.exceptions(std::ios::badbit);
    out << "flow.steps = " << config_.steps << " ended the flow at t = " << flow_.time() << " of " << end
        << "; it goes on with: brenier resume RUN --steps N";
    return out.str();
  }
  bool unsolved() const {
    return std::any_of(history_.begin(), history_.end(), [](const HistoryRow& row) { return !row.solved; });
  }
  bool interrupted() const { return alone() ? interrupted_.load(std::memory_order_relaxed) : agreed_; }

  bool limited() const { return config_.max_seconds || options_.max_seconds; }
  /// The limit that so many seconds are beyond, in words; empty where there is none.
  std::string time_that_is_over(double spent) const {
    if (options_.max_seconds && spent > *options_.max_seconds)
      return "the time of --max-time, " + duration_text(*options_.max_seconds) + ", is over";
    if (config_.max_seconds && spent > *config_.max_seconds)
      return "output.max_seconds = " + exact_text(*config_.max_seconds) + " are over";
    return "";
  }

  double seconds() const {
    return seconds_before_ + std::chrono::duration<double>(Clock::now() - start_).count();
  }

  bool has_held_out() const { return config_.held_out.particles > 0; }
  const Trajectory& judged() const { return has_held_out() ? flow_.tracked(held_out_) : flow_.trajectory(); }

  double held_out_functional(Index pair_limit) const {
    if (!has_held_out()) return kUnknown;
    return flow_.functional_of(judged(), pair_limit).total();
  }

  /// The standard error of F on a cloud, where F is a mean over particles: from interleaved parts, which know what a
  /// stratified cloud saves.
  double standard_error(const Matrix<double>& x) const {
    const Index n = x.rows(), parts = std::min<Index>(16, n);
    double sum = 0, squares = 0;
    for (Index part = 0; part < parts; ++part) {
      Matrix<double> some((n - part + parts - 1) / parts, x.cols());
      for (Index i = 0; i < some.rows(); ++i) std::copy_n(x.row(part + i * parts), x.cols(), some.row(i));
      const double value =
          flow_.functional_of(Trajectory(Cloud{std::move(some), {}}, false), config_.held_out.pair_limit)
              .total();
      sum += value;
      squares += value * value;
    }
    const double mean = sum / static_cast<double>(parts);
    const double variance = std::max(0.0, squares / static_cast<double>(parts) - mean * mean);
    return std::sqrt(variance / std::max(1.0, static_cast<double>(parts - 1)));
  }

  /// As overfitting(), with the sampling error of potentials. Densities that a network has fitted to the sample have a
  /// spread of their own, which would excuse it.
  std::vector<std::string> overfitted(double functional, double held_out) const {
    std::vector<std::string> out = overfitting(config_, history_, functional, held_out);
    const bool mean = config_.functional.terms_of<Functional::Interaction>().empty() && distances_.empty() &&
                      !config_.functional.needs_density();
    if (out.empty() || !mean || !has_held_out()) return out;
    const double error = std::hypot(standard_error(flow_.trajectory().x()), standard_error(judged().x()));
    return overfitting(config_, history_, functional, held_out, error);
  }

  void begin(const RunFolder& folder) {
    manifest_ = {config_.resolved, inputs_of(config_), {}, {}};
    write_config(folder);
    write_cloud(folder, 0);
    StepReport initial;
    initial.time = flow_.time();
    initial.tau = initial.order = 0;
    initial.functional = flow_.functional_of(flow_.trajectory(), config_.held_out.pair_limit);
    record(initial);
    write_history(folder);
    write_summary(folder, "running");
  }

  /// Of a run that ends on the way, the manifest says nothing of the file: either one of the two may be there, whole.
  void write_config(const RunFolder& folder) {
    if (manifest_.files.erase("config.toml") > 0) write_manifest(folder);
    folder.write_text(folder.config(), config_.resolved);
    manifest_.files["config.toml"] = checksum_of(config_.resolved);
    write_manifest(folder);
  }

  void write_cloud(const RunFolder& folder, int step) {
    // A cloud of the step where a run was interrupted is for the manifest alone: checkpoints of one that was not are equal.
    const bool noted = step % config_.clouds_every == 0;
    for (const auto& [name, checksum] : folder.write_cloud(step, flow_.trajectory())) {
      manifest_.files[name] = checksum;
      if (noted) clouds_[name] = checksum;
    }
  }

  /// Of what a run must share with the one it continues.
  std::string problem_checksum() const {
    std::string all;
    for (const std::string& line : essence(config_.resolved, true)) all += line + "\n";
    for (const auto& [place, checksum] : manifest_.inputs) all += place + " " + checksum + "\n";
    return checksum_of(all);
  }

  /// Of history.csv up to now, as Saved::history has it.
  std::string history_checksum(bool whole = false) const {
    std::vector<HistoryRow> rows = history_;
    if (!rows.empty()) rows.back().held_out = kUnknown;
    for (HistoryRow& row : rows) {
      if (whole) break;
      row.held_out = kUnknown;
      row.seconds = row.inner_seconds = row.cloud_seconds = row.certificate_seconds = 0;
    }
    return checksum_of(history_text(rows));
  }

  void load(const RunFolder& folder) {
    Saved saved = folder.read_checkpoint(config_.flow.order == 2);
    for (const HistoryRow& row : parse_history(read_text(folder.history()), folder.history().string())) {
      if (row.step <= saved.step) history_.push_back(row);
    }
    if (static_cast<int>(history_.size()) != saved.step + 1) {
      throw IoError("'" + folder.history().string() + "' has " + std::to_string(history_.size()) +
                    " rows up to step " + std::to_string(saved.step) +
                    " of the checkpoint; it needs one for each step from 0");
    }
    const std::string earlier = manifest_.history[std::to_string(saved.step)];
    const bool whole = saved.history.empty();
    const std::string expected = whole ? earlier : saved.history;
    if (!expected.empty() && expected != history_checksum(whole))
      throw IoError("'" + folder.history().string() + "' is damaged: its rows up to step " +
                    std::to_string(saved.step) +
                    " are not those of the checkpoint; the maps and clouds of the run can still be used");
    if (!saved.problem.empty() && saved.problem != problem_checksum())
      throw IoError("'" + folder.checkpoint().string() + "' belongs to a run with other settings");
    if (saved.step > config_.steps) {
      throw ConfigError("'" + folder.path().string() + "' has " + std::to_string(saved.step) +
                        " steps already; flow.steps = " + std::to_string(config_.steps) +
                        " takes none of them back");
    }
    typename Flow<T>::Checkpoint state{std::move(saved.theta), saved.gradient_scale, saved.draws,
                                       saved.next_tau};
    std::vector<BrenierMap> maps;
    if (config_.flow.method == FlowOptions::Method::network) {
      maps = read_maps(folder.path(), saved.step);
    } else {
      state.step = saved.step;
      state.problems = static_cast<std::uint32_t>(saved.step);
      state.time = history_.back().time;
      state.last_length = config_.flow.tau;
    }
    flow_.restore(std::move(saved.cloud), std::move(maps), state);
    folder.forget_after(saved.step);
    manifest_.history.clear();
    for (const auto& [name, checksum] : saved.files) manifest_.files[name] = clouds_[name] = checksum;
    std::erase_if(manifest_.files, [&](const auto& file) {
      const std::string& name = file.first;
      return step_of(name) > saved.step || name.starts_with("figures/") || name == "history.csv" ||
             name == "summary.json";
    });
    write_manifest(folder);  // before these files change
    try {
      const auto before = nlohmann::ordered_json::parse(read_text(folder.summary()));
      seconds_before_ = before.value("seconds_total", 0.0);
      for (const auto& one : before.value("runs", nlohmann::ordered_json::array())) {
        processes_.insert(processes_.end() - 1,
                          {one.value("command", ""), one.value("started", ""), one.value("host", ""),
                           one.value("folder", ""), one.value("job", ""), one.value("process", 0L)});
      }
    } catch (const nlohmann::json::exception&) {
      seconds_before_ = 0;  // only a time; the run itself does not depend on it
    } catch (const IoError&) {
      seconds_before_ = 0;
    }
    write_summary(folder, "running");
  }

  RunResult loop(const RunFolder& folder) {
    RunResult result;
    Progress progress(options_.log, options_.terminal,
                      {flow_.time(), config_.flow.start_time + config_.duration(), config_.equal_steps()});
    const int threads = flow_.team().size();
    progress.line(
        "device " + device_ + ", " + config_.precision + ", " + std::to_string(threads) +
        (threads == 1 ? " thread" : " threads") +
        (alone() ? "" : " in each of " + std::to_string(options_.communicator->size()) + " processes"));
    if (!unbounded_.empty()) progress.line("WARNING: " + unbounded_);
    look_for_jumps();
    jump_told_ = !jump_.empty();
    if (jump_told_) progress.line("WARNING: " + jump_);
    for (const std::string& one : damage_) progress.line("WARNING: " + one);
    try {
      while (!at_end()) {
        const std::size_t maps = flow_.maps().size();
        const std::optional<StepReport> report = flow_.step();
        if (!report) break;
        record(*report);
        save_step(folder, maps);
        const HistoryRow& row = history_.back();
        // Where F is judged on held-out particles, steps between its evaluations say nothing.
        const bool known = !has_held_out() || !std::isnan(row.held_out);
        const bool below =
            known && below_infimum(config_, history_, row.functional.total(), row.held_out).flag;
        progress.step(row, below);
        if (report->basis == StepBasis::affine && weak_.empty()) {
          weak_ =
              "the shares that steps miss are lower bounds, the gain of one more affine map: scores are not "
              "known, "
              "which takes a cloud whose density the configuration states, of up to 64 dimensions";
          progress.line("WARNING: " + weak_);
        }
        const std::string solves = trouble_of_solves(row);
        if (!solves.empty() && !told_) progress.line(solves);  // once: history.csv has all of them
        told_ = told_ || !solves.empty();
        if (options_.on_step) options_.on_step(flow_.steps());
        const double spent = std::chrono::duration<double>(Clock::now() - start_).count();
        if (limited() && !at_end() && first()) {
          out_of_time_ = time_that_is_over(spent);
          if (!out_of_time_.empty()) {
            progress.line(out_of_time_);
            interrupted_ = true;
          }
        }
        agree();
        if (limited() && interrupted()) break;
      }
      agree();
      if (interrupted()) result.status = RunStatus::interrupted;
    } catch (const NumericalError& error) {
      result.status = RunStatus::failed;
      result.reason = error.what();
    } catch (const DeviceError& error) {
      // The flow is as it was before the step, in the host's memory: another device can go on with it.
      result.status = RunStatus::failed;
      result.reason = error.what();
      device_failed_ = true;
    } catch (const RankError&) {
      folder.mark_failed();  // without a last F, which takes all processes
      throw;
    } catch (const Error& error) {
      fail(folder, error.what());
      throw;
    } catch (const OutOfMemory& error) {
      fail(folder, error.what());
      throw;
    } catch (const std::bad_alloc&) {
      fail(folder, "out of memory");
      throw;
    }
    result.steps = flow_.steps();
    result.folder = folder.path();
    finish(folder, result, progress);
    return result;
  }

  /// As much as can still be written where writing itself fails. The first error is the one to report.
  void fail(const RunFolder& folder, const std::string& reason) noexcept {
    if (!alone()) return folder.mark_failed();  // the others do not evaluate F with this process
    try {
      // The manifest of a finished run may be there already, and only its flush have failed.
      if (manifest_.files.erase("summary.json") > 0) manifest_.write(folder.path());
    } catch (const std::exception&) {
      // Then the summary is the one that it lists, or there is no room for either.
    }
    try {
      write_summary(folder, "failed", reason);
    } catch (const std::exception&) {
      folder.mark_failed();
    }
  }

  void record(const StepReport& report) {
    HistoryRow row{report};
    row.functional.distances.clear();
    const bool checked = config_.functional.needs_density() && row.step > 0 &&
                         config_.flow.inner.log_det.method != LogDetOptions::Method::exact;
    if (!checked) row.log_det_error = row.log_det_deviation = kUnknown;
    row.held_out = kUnknown;
    const Clock::time_point begin = Clock::now();
    if (at_end() || row.step % config_.held_out.every == 0)
      row.held_out = held_out_functional(config_.held_out.pair_limit);
    const double judging = std::chrono::duration<double>(Clock::now() - begin).count();
    row.seconds += judging;
    row.cloud_seconds += judging;
    row.std = moments(judged().x()).deviation;
    row.exact = row.scheme = row.std_exact = row.std_scheme = kUnknown;
    if (reference_) {
      const Known exact = known([&] { return reference_->exact(row.time - config_.flow.start_time); });
      const bool equal = row.step <= config_.equal_steps();
      const Known scheme = equal ? known([&] { return reference_->scheme(row.step); }) : Known{};
      row.exact = exact.functional;
      row.std_exact = exact.deviation;
      row.scheme = scheme.functional;
      row.std_scheme = scheme.deviation;
    }
    history_.push_back(std::move(row));
  }

  /// A run does not end because its closed form does.
  template <class Closed>
  static Known known(Closed&& closed) {
    try {
      return closed();
    } catch (const Error&) {
      return {};
    }
  }

  void save_step(const RunFolder& folder, std::size_t first_map) {
    const int step = flow_.steps();
    folder.write_maps(flow_.maps(), first_map);
    if (step % config_.clouds_every == 0 || at_end()) write_cloud(folder, step);
    const bool checkpoint = step % config_.checkpoint_every == 0 && !at_end();
    // The whole file is written each time: at most a few times a second.
    if (checkpoint || std::chrono::duration<double>(Clock::now() - written_).count() > 0.25)
      write_history(folder);
    if (!checkpoint) return;
    write_checkpoint(folder);
    write_summary(folder, "running");
  }

  void write_checkpoint(const RunFolder& folder) {
    if (flow_.steps() == 0) return;
    const typename Flow<T>::Checkpoint now = flow_.checkpoint();
    folder.write_checkpoint({flow_.trajectory(), now.theta, now.gradient_scale, now.next_tau, now.draws,
                             flow_.steps(), problem_checksum(), history_checksum(), clouds_});
  }

  void write_history(const RunFolder& folder) {
    history_written_ = folder.write_text(folder.history(), history_text(history_));
    written_ = Clock::now();
  }

  /// Pairs of the last evaluations: all pairs take seconds, which an interrupt does not wait for.
  Index last_pairs() const { return interrupted() ? config_.held_out.pair_limit : kMostPairs; }
  /// Transport takes hundreds of passes over them.
  Index last_held_out_pairs() const {
    return distances_.empty() ? last_pairs() : config_.held_out.pair_limit;
  }

  void look_for_jumps() {
    if (jump_.empty()) jump_ = jump_between(config_.functional, flow_.trajectory().x(), flow_.time());
  }

  void write_summary(const RunFolder& folder, const std::string& status, const std::string& reason = "") {
    const HistoryRow& row = history_.back();
    const bool running = status == "running";
    SummaryInput input;
    input.status = status;
    input.reason = reason;
    input.config = &config_;
    input.reference = reference_.get();
    input.history = &history_;
    input.functional = row.functional;
    input.held_out = row.held_out;
    if (!running) {
      input.functional = last_ = flow_.functional_of(flow_.trajectory(), last_pairs());
      if (!finished_) input.held_out = held_out_functional(last_held_out_pairs());
    }
    input.warnings = overfitted(input.functional.total(), input.held_out);
    for (std::string& warning : troubled_steps(config_, history_, size()))
      input.warnings.push_back(std::move(warning));
    if (!unbounded_.empty()) input.warnings.push_back(unbounded_);
    if (!running) look_for_jumps();
    if (!jump_.empty()) input.warnings.push_back(jump_);
    if (!weak_.empty()) input.warnings.push_back(weak_);
    input.warnings.insert(input.warnings.end(), damage_.begin(), damage_.end());
    if (const std::string early = short_of_end(); !early.empty()) input.warnings.push_back(early);
    input.std = row.std;
    input.judged = running ? nullptr : &judged().x();
    input.steps = flow_.steps();
    input.time = flow_.time();
    input.seconds = seconds();
    input.backend = backend_;
    input.device = device_;
    input.threads = flow_.team().size();
    input.processes = processes_;
    summary_written_ = folder.write_text(folder.summary(), summary_text(input));
  }

  /// figures/exact_density.npy: columns t, x, rho at the times of the clouds, for plots in d = 1.
  void write_exact_density(const RunFolder& folder) {
    if (!reference_ || config_.cloud.dim != 1 || !folder.writes()) return;
    double half = 0;
    for (const double x : judged().x().elements()) half = std::max(half, std::abs(x));
    const Cloud initial = config_.initial_cloud();
    for (const double x : initial.x.elements()) half = std::max(half, std::abs(x));
    constexpr int points = 801;
    std::vector<double> x(points), rows;
    for (int i = 0; i < points; ++i) x[i] = 1.2 * half * (2.0 * i / (points - 1) - 1);
    for (int step = 0; step <= flow_.steps(); ++step) {
      if (step % config_.clouds_every != 0 && step != flow_.steps()) continue;
      const double elapsed = history_.at(step).time - config_.flow.start_time;
      const std::vector<double> rho = reference_->exact_density(elapsed, x);
      for (std::size_t i = 0; i < rho.size(); ++i) {
        rows.insert(rows.end(), {config_.flow.start_time + elapsed, x[i], rho[i]});
      }
    }
    if (rows.empty()) return;
    manifest_.files["figures/exact_density.npy"] =
        write_npy(folder.figures() / "exact_density.npy",
                  MatrixView<const double>(rows.data(), static_cast<Index>(rows.size() / 3), 3));
  }

  void finish(const RunFolder& folder, RunResult& result, Progress& progress) {
    try {
      // The state comes first: whatever ends the process later, the run can be continued.
      write_cloud(folder, flow_.steps());
      write_history(folder);
      write_checkpoint(folder);
      if (result.status == RunStatus::done && has_held_out()) {
        history_.back().held_out = held_out_functional(last_held_out_pairs());
        finished_ = true;
        write_history(folder);
      }
      agree();
      if (!interrupted()) write_exact_density(folder);
      if (result.status == RunStatus::done && interrupted()) result.status = RunStatus::interrupted;
      if (result.status == RunStatus::interrupted) {
        result.out_of_time = !out_of_time_.empty();
        const int signal = signal_of_all();
        result.signal = result.out_of_time ? 0 : signal;
        result.reason = result.out_of_time ? out_of_time_ : result.signal ? signal_name(result.signal) : "";
      }
      if (result.status == RunStatus::done) {
        result.reason = short_of_end();
        if (unsolved() || !result.reason.empty()) result.status = RunStatus::unsolved;
      }
      const char* status = result.status == RunStatus::done          ? "done"
                           : result.status == RunStatus::unsolved    ? "unsolved"
                           : result.status == RunStatus::interrupted ? "interrupted"
                                                                     : "failed";
      write_summary(folder, status, result.reason);
      manifest_.files["history.csv"] = history_written_;
      manifest_.files["summary.json"] = summary_written_;
      write_manifest(folder);
    } catch (const Error& error) {
      fail(folder, error.what());
      throw;
    }
    tell(result, progress);
  }

  /// The largest coordinate.
  double size() const {
    double out = 0;
    for (const double value : flow_.trajectory().x().elements()) out = std::max(out, std::abs(value));
    return out;
  }

  void tell(const RunResult& result, Progress& progress) const {
    const HistoryRow& row = history_.back();
    std::ostringstream out;
    out.exceptions(std::ios::badbit);
    if (result.status == RunStatus::failed) out << "failed: " << result.reason << "\n";
    if (device_failed_)
      out << "continue on another device with: brenier resume " << result.folder.string()
          << " --device cpu\n";
    if (result.status == RunStatus::interrupted)
      out << "interrupted" << (result.signal ? std::string(" by ") + signal_name(result.signal) : "")
          << "; continue with: brenier resume " << result.folder.string() << "\n";
    out.precision(7);
    out << result.steps;
    if (!config_.adaptive()) out << " of " << config_.steps;
    out << " steps in " << duration_text(seconds()) << ": F = " << row.functional.total();
    if (!std::isnan(row.held_out)) out << ", held-out " << row.held_out;
    if (!std::isnan(row.scheme)) out << ", exact iterate " << row.scheme;
    if (!std::isnan(row.exact)) out << ", exact " << row.exact;
    // What F weighs against each other, without the weights of the distances.
    if (!last_.distances.empty()) out << "; potential " << last_.potential;
    for (std::size_t k = 0; k < last_.distances.size(); ++k) {
      out << ", " << distances_[k].text << " " << last_.distances[k];
    }
    for (const std::string& warning : overfitted(row.functional.total(), row.held_out)) {
      out << "\nWARNING: " << warning;
    }
    for (const std::string& warning : troubled_steps(config_, history_, size()))
      out << "\nWARNING: " << warning;
    if (!jump_.empty() && !jump_told_) out << "\nWARNING: " << jump_;  // come upon on the way
    if (const std::string early = short_of_end(); !early.empty()) out << "\nWARNING: " << early;
    if (result.status == RunStatus::unsolved && unsolved())
      out << "\nUNSOLVED: the steps that were to be taken were taken, not all as exactly as inner.accept "
             "asks for";
    if (!config_.cloud.estimate.empty()) out << "\ninitial density: " << config_.cloud.estimate;
    out << "\nresults in " << result.folder.string();
    progress.line(out.str());
  }

  const Config& config_;
  const RunOptions& options_;
  std::unique_ptr<Reference> reference_;
  std::vector<Functional::Term> distances_ = config_.functional.terms_of<Functional::Divergence>();
  Flow<T> flow_;
  // Asked once: a device that fails answers no questions afterwards.
  std::string device_ = describe_device(config_.flow.device);
  std::string backend_ = backend<T>(config_.flow.device).name;
  std::string unbounded_ = unbounded(config_);
  std::string jump_;          // of V, between particles
  bool jump_told_ = false;    // on the console
  std::string weak_;          // what certificates of this problem cannot see
  std::size_t held_out_ = 0;  // its number
  std::vector<HistoryRow> history_;
  Manifest manifest_;
  std::map<std::string, std::string> clouds_;      // among manifest_.files: of every clouds_every steps
  std::vector<std::string> damage_;                // of files that a resumed run does not need
  std::string history_written_, summary_written_;  // checksums
  ObjectiveValue last_;                            // of the last summary but those while the run is on
  Clock::time_point start_ = Clock::now();
  Clock::time_point written_ = Clock::now();
  double seconds_before_ = 0;
  std::vector<ProcessRecord> processes_ = {process_record(options_.command)};  // this one is the last
  std::string out_of_time_;                                                    // which limit is over
  bool finished_ = false;  // the last row has F over all pairs
  bool told_ = false;      // of solves that did not end well
  bool device_failed_ = false;
  bool agreed_ = false;  // with other processes: to end
  std::atomic<bool> interrupted_{false};
  std::atomic<int> signal_{0};  // that asked
};

/// Whether a run ended with an error; its inner problem may then be solved otherwise.
bool has_failed(const RunFolder& folder) {
  try {
    return nlohmann::json::parse(read_text(folder.summary())).value("status", "") == "failed";
  } catch (const nlohmann::json::exception&) {
    return false;
  } catch (const IoError&) {
    return false;  // killed before its first summary
  }
}

/// The lines of a resolved configuration that say what a run folder holds, not where it is computed.
std::vector<std::string> of_folder(const std::string& resolved) {
  std::vector<std::string> lines = essence(resolved, false, true);
  std::erase_if(lines, [](const std::string& line) {
    return line.starts_with("threads =") || line.starts_with("device =");
  });
  return lines;
}

/// Whether it is so for all processes of a run.
bool all_agree(const RunOptions& options, bool here) {
  if (!options.communicator || options.communicator->size() == 1) return here;
  double others = here ? 0 : 1;
  options.communicator->sum({&others, 1});
  return others == 0;
}

/// What a summary says to people who ask a finished run to go on.
std::string text_of_ended(const nlohmann::json& summary, const RunFolder& folder) {
  std::ostringstream out;
  out.exceptions(std::ios::badbit);
  out.precision(7);
  out << summary.at("steps").get<int>() << " steps were taken before, and none is left: F = "
      << summary.at("functional").at("total").get<double>();
  if (const auto held_out = summary.find("heldout_functional");
      held_out != summary.end() && held_out->is_number())
    out << ", held-out " << held_out->get<double>();
  for (const auto& warning : summary.value("warnings", nlohmann::json::array()))
    out << "\nWARNING: " << warning.get<std::string>();
  out << "\nresults in " << folder.path().string();
  return out.str();
}

/// The result of a run that has come to its end with these very settings and whose folder is whole: no particle need go
/// through its maps again. Nothing where something is left to do, or to say.
std::optional<RunResult> ended(const Config& config, const RunFolder& folder, const Manifest& manifest,
                               std::string& text) {
  if (of_folder(config.resolved) != of_folder(manifest.settings) || !manifest.files.contains("summary.json"))
    return std::nullopt;
  try {
    const auto summary = nlohmann::json::parse(read_text(folder.summary()));
    const std::string status = summary.at("status");
    if ((status != "done" && status != "unsolved") || !std::filesystem::exists(folder.checkpoint()))
      return std::nullopt;
    RunResult result;
    result.status = status == "done" ? RunStatus::done : RunStatus::unsolved;
    result.reason = summary.value("reason", "");
    result.steps = summary.at("steps");
    result.folder = folder.path();
    if (config.flow.method == FlowOptions::Method::network) read_maps(folder.path(), result.steps);
    text = text_of_ended(summary, folder);
    return result;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  } catch (const IoError&) {
    return std::nullopt;  // said where the run goes on
  }
}

template <class Action>
RunResult with_precision(const Config& config, const RunOptions& options, Action&& action) {
  if (config.precision == "double") {
    Runner<double> runner(config, options);
    return action(runner);
  }
  Runner<float> runner(config, options);
  return action(runner);
}

}  // namespace

RunResult run(const Config& config, const RunOptions& options) {
  return with_precision(config, options, [](auto& runner) { return runner.start(); });
}

RunResult resume(const Config& config, const RunOptions& options) {
  const bool first = !options.communicator || options.communicator->rank() == 0;
  const RunFolder folder = first ? RunFolder::open_to_write(options.out) : RunFolder::beside(options.out);
  const bool failed = has_failed(folder);
  std::optional<Manifest> manifest = Manifest::read(folder.path());
  const bool older = !manifest;
  if (older) {
    const Config then = load_config(folder.config());
    manifest = Manifest{then.resolved, inputs_of(then), {}, {}};
  }
  check_settings(folder.path(), *manifest, config, failed);
  const FileCheck check = check_files(folder.path(), true);
  if (const auto history = check.damaged.find("history.csv"); history != check.damaged.end())
    throw IoError(history->second + "; the maps and clouds of the run can still be used");
  std::vector<std::string> damage;
  for (const auto& [name, what] : check.damaged) damage.push_back(what);
  // Maps and checkpoints of a run with a manifest had checksums when they were written.
  for (const std::string& name : check.unchecked) {
    if (!older && name.ends_with(".safetensors"))
      damage.push_back("'" + (folder.path() / name).string() + "' has no checksum, and is read unchecked");
  }
  if (older) damage.push_back("'" + options.out.string() + "' has no manifest.json, and is read unchecked");
  std::string text;
  std::optional<RunResult> before;
  if (damage.empty()) before = ended(config, folder, *manifest, text);
  if (all_agree(options, before.has_value())) {
    Progress(options.log, options.terminal, {}).line(text);
    return *before;
  }
  return with_precision(config, options, [&](auto& runner) {
    return runner.continue_in(folder, std::move(*manifest), std::move(damage));
  });
}

}  // namespace brenier::app
