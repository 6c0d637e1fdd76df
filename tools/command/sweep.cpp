// SPDX-License-Identifier: MIT
#include "tools/command/sweep.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/base/team.hpp"
#include "engine/src/config/config.hpp"
#include "kernels/base/show.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/interrupt.hpp"
#include "tools/runs/progress.hpp"
#include "tools/runs/provenance.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMostRuns = 100'000;

/// A swept key with its values, as they are written.
struct Axis {
  std::string key;
  std::vector<std::string> values;
};

/// Parts between the commas outside brackets and quotes.
std::vector<std::string> parts_of(const std::string& text) {
  std::vector<std::string> out(1);
  int depth = 0;
  char quote = 0;
  for (const char c : text) {
    if (quote) {
      quote = c == quote ? 0 : quote;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' && depth == 0) {
      out.emplace_back();
      continue;
    }
    out.back() += c;
  }
  return out;
}

std::vector<Axis> axes_of(const std::vector<std::string>& sweeps) {
  std::vector<Axis> out;
  for (const std::string& text : sweeps) {
    const std::size_t equal = text.find('=');
    if (equal == std::string::npos || equal == 0)
      throw ValueError("--sweep " + text + ": it must be KEY=VALUE,VALUE, for example flow.tau=0.2,0.05");
    Axis axis{text.substr(0, equal), parts_of(text.substr(equal + 1))};
    if (axis.key == "seed") throw ValueError("--sweep " + text + ": seeds are given with --seed 1:5");
    for (const Axis& other : out) {
      if (other.key == axis.key) throw ValueError("--sweep " + text + ": the key is swept twice");
    }
    std::set<std::string> seen;
    for (const std::string& value : axis.values) {
      if (value.empty()) throw ValueError("--sweep " + text + ": a value is empty");
      if (!seen.insert(value).second)
        throw ValueError("--sweep " + text + ": the value " + value + " is there twice");
    }
    out.push_back(std::move(axis));
  }
  return out;
}

/// What a folder may be called after: "network.hidden=16-8" of [16, 8].
std::string file_name(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '_' || c == '+' || c == '-' || c == '=';
    if (plain) out += c;
    if (c == ',') out += '-';
    if (c == '/' || c == '*' || c == '(' || c == ')') out += '_';
  }
  return out.substr(0, 80);
}

/// One run of a sweep.
struct Member {
  std::string name;                 // of its folder
  std::vector<std::string> values;  // of the axes, in their order
  std::optional<long long> seed;
  std::vector<std::string> set;  // KEY=VALUE of these
  int code = -1;                 // -1: not ended
  std::string message;           // what it said
};

std::vector<Member> members_of(const std::vector<Axis>& axes, const std::vector<long long>& seeds) {
  std::vector<Member> out(1);
  const auto check = [](double count) {
    if (count > kMostRuns)
      throw ValueError("the sweep has " + show(count) + " runs; at most " + std::to_string(kMostRuns) +
                       " are allowed");
  };
  for (const Axis& axis : axes) {
    check(static_cast<double>(out.size()) * static_cast<double>(axis.values.size()));
    std::vector<Member> next;
    for (const Member& member : out) {
      for (const std::string& value : axis.values) {
        Member one = member;
        one.values.push_back(value);
        one.set.push_back(axis.key + "=" + value);
        one.name += (one.name.empty() ? "" : ",") + file_name(axis.key + "=" + value);
        next.push_back(std::move(one));
      }
    }
    out = std::move(next);
  }
  if (seeds.empty()) return out;
  check(static_cast<double>(out.size()) * static_cast<double>(seeds.size()));
  std::vector<Member> all;
  for (const Member& member : out) {
    for (const long long seed : seeds) {
      Member one = member;
      one.seed = seed;
      one.name += (one.name.empty() ? "" : ",") + ("seed=" + std::to_string(seed));
      all.push_back(std::move(one));
    }
  }
  return all;
}

/// Two values may lead to one name.
void make_names_differ(std::vector<Member>& members) {
  std::set<std::string> names;
  for (Member& member : members) {
    const std::string first = member.name;
    for (int k = 2; !names.insert(member.name).second; ++k) member.name = first + "-" + std::to_string(k);
  }
}

// --- the processes -----------------------------------------------------------------------------------------

/// A run in a process of its own. What it says goes into a file without a name.
class Child {
 public:
  Child(const fs::path& program, const std::vector<std::string>& words)
      : said_(std::tmpfile(), &std::fclose) {
    if (!said_) throw WriteError(std::string("no temporary file: ") + std::strerror(errno), errno);
    std::vector<char*> arguments = {const_cast<char*>(program.c_str())};
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    const pid_t parent = ::getpid();
    process_ = ::fork();
    if (process_ < 0) throw NotAvailable("no new process: " + std::system_category().message(errno));
    if (process_ > 0) return;
    // A group of its own: Ctrl-C reaches it by way of this process alone, once.
    ::setpgid(0, 0);
#ifdef __linux__
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(ExitCode::by_signal(SIGTERM));
#endif
    static_cast<void>(parent);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, 0);
    ::dup2(::fileno(said_.get()), 1);
    ::dup2(::fileno(said_.get()), 2);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }

  pid_t process() const {
    return process_;
  }

  /// Its exit code once it has ended.
  std::optional<int> ended() const {
    int status = 0;
    const pid_t done = ::waitpid(process_, &status, WNOHANG);
    if (done == 0 || (done < 0 && errno == EINTR)) return std::nullopt;
    if (done < 0) return ExitCode::failed;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  std::string said() const {
    std::string out;
    std::rewind(said_.get());
    char text[4096];
    for (std::size_t count; (count = std::fread(text, 1, sizeof text, said_.get())) > 0;)
      out.append(text, count);
    while (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
  }

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> said_;
  pid_t process_ = 0;
};

/// What a run's summary.json says; null where there is none.
Json summary_of(const fs::path& run) {
  try {
    Json out = Json::parse(read_text(run / "summary.json"));
    return out.is_object() ? out : Json();
  } catch (const nlohmann::json::exception&) {
    return {};
  } catch (const IoError&) {
    return {};
  }
}

bool has_ended(const fs::path& run) {
  const Json summary = summary_of(run);
  if (!summary.contains("status")) return false;
  return summary["status"] == "done" || summary["status"] == "unsolved";
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

/// A number or a text of a summary as a field; empty where it has none. `path`: "/functional/total".
std::string field(const Json& summary, const std::string& path) {
  const Json::json_pointer pointer(path);
  if (!summary.is_object() || !summary.contains(pointer)) return "";
  const Json& value = summary[pointer];
  if (value.is_string()) return csv_field(value.get<std::string>());
  if (value.is_number_integer() || value.is_number_unsigned()) return value.dump();
  return value.is_number() ? exact_text(value.get<double>()) : "";
}

constexpr std::pair<const char*, const char*> kColumns[] = {
    {"status", "/status"},
    {"steps", "/steps"},
    {"time", "/time"},
    {"F", "/functional/total"},
    {"F_heldout", "/heldout_functional"},
    {"F_exact", "/exact/functional"},
    {"std", "/std"},
    {"std_exact", "/exact/std"},
    {"missed_share", "/certificates/missed_share"},
    {"seconds", "/seconds_total"},
};

/// The sweep while it runs.
class Sweep {
 public:
  Sweep(const SweepOptions& options, const Console& console)
      : options_(options),
        console_(console),
        axes_(axes_of(options.sweep)),
        members_(members_of(axes_, options.seeds)) {
    make_names_differ(members_);
    check();
  }

  int run() {
    const InterruptScope scope(ask, this);
    make_folder();
    begin_ = Clock::now();
    write_summary();
    while (next_ < members_.size() || !running_.empty()) {
      start_more();
      bool ended = false;
      for (std::size_t i = 0; i < running_.size();) {
        const std::optional<int> code = running_[i].second->ended();
        if (!code) {
          ++i;
          continue;
        }
        end(running_[i].first, *code, running_[i].second->said());
        running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
        ended = true;
      }
      if (ended) write_summary();
      tell(ended);
      if (!running_.empty() && !ended) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      pass_on();
      if (signal_.load() && running_.empty()) break;
    }
    write_summary();
    return finish();
  }

 private:
  static void ask(void* sweep, int signal) noexcept {
    static_cast<Sweep*>(sweep)->signal_.store(signal, std::memory_order_relaxed);
  }

  /// Every configuration once, before a file is written: seeds make none that is wrong.
  void check() const {
    std::set<std::vector<std::string>> seen;
    for (const Member& member : members_) {
      if (!seen.insert(member.values).second) continue;
      std::vector<std::string> overrides = options_.set;
      overrides.insert(overrides.end(), member.set.begin(), member.set.end());
      static_cast<void>(load_config(options_.config, overrides));
    }
  }

  void make_folder() {
    std::error_code code;
    folder_ = options_.out;
    if (folder_.empty()) {
      for (int n = 1;; ++n) {
        folder_ = fs::path("runs") / (options_.config.stem().string() + "-sweep-" + std::to_string(n));
        if (!fs::exists(folder_, code)) break;
      }
    }
    if (fs::exists(folder_, code) && !fs::is_directory(folder_, code))
      throw ValueError("'" + folder_.string() +
                       "' exists and is not a folder; choose another one with --out");
    if (!options_.resume && fs::is_directory(folder_, code) && !fs::is_empty(folder_, code))
      throw ValueError("'" + folder_.string() +
                       "' exists and is not empty; choose another folder with --out, or continue that sweep "
                       "with --resume");
    fs::create_directories(folder_, code);
    if (code)
      throw WriteError(
          "'" + folder_.string() + "': the folder cannot be made: " + why_not_made(folder_, code.value()),
          code.value());
  }

  std::vector<std::string> words_of(const Member& member) const {
    std::vector<std::string> words = {"run", options_.config.string(), "--quiet", "--out",
                                      (folder_ / member.name).string()};
    words.insert(words.end(), options_.arguments.begin(), options_.arguments.end());
    for (const auto* list : {&options_.set, &member.set}) {
      for (const std::string& one : *list) words.insert(words.end(), {"--set", one});
    }
    if (member.seed) words.insert(words.end(), {"--seed", std::to_string(*member.seed)});
    const int threads =
        options_.threads > 0 ? options_.threads : std::max(1, Team::available() / options_.jobs);
    words.insert(words.end(), {"--threads", std::to_string(threads)});
    if (options_.resume) words.emplace_back("--resume");
    return words;
  }

  void start_more() {
    while (!signal_.load() && next_ < members_.size() && running_.size() < std::size_t(options_.jobs)) {
      Member& member = members_[next_++];
      if (options_.resume && has_ended(folder_ / member.name)) {
        member.code =
            summary_of(folder_ / member.name)["status"] == "done" ? ExitCode::ok : ExitCode::unsolved;
        ++ended_;
        continue;
      }
      running_.emplace_back(&member, std::make_unique<Child>("/proc/self/exe", words_of(member)));
    }
  }

  /// A signal goes on to the runs, once.
  void pass_on() {
    if (!signal_.load() || passed_on_) return;
    passed_on_ = true;
    for (const auto& [member, child] : running_) ::kill(child->process(), SIGTERM);
  }

  void end(Member* member, int code, const std::string& said) {
    member->code = code;
    member->message = said;
    ++ended_;
    ++ended_here_;
    if (code != ExitCode::ok && code != ExitCode::unsolved && code < ExitCode::out_of_time) {
      line((said.empty() ? member->name + " ended with the exit code " + std::to_string(code) : said));
    }
  }

  void line(const std::string& text) {
    if (drawn_) console_.out << "\n";
    drawn_ = false;
    console_.err << text << std::endl;
  }

  /// How far the sweep is: one line that is redrawn on a terminal, about twenty in a log.
  void tell(bool ended) {
    if (options_.quiet) return;
    const double spent = std::chrono::duration<double>(Clock::now() - begin_).count();
    const std::size_t all = members_.size();
    if (console_.terminal) {
      if (!ended && spent < told_at_ + 1) return;
    } else {
      const std::size_t twentieths = 20 * ended_ / all;
      if (!ended || (twentieths == twentieths_ && ended_ < all)) return;
      twentieths_ = twentieths;
    }
    told_at_ = spent;
    std::string text = std::to_string(ended_) + " of " + std::to_string(all) + " runs";
    const std::size_t running = running_.size();
    if (running > 0) text += ", " + std::to_string(running) + " running";
    for (const auto& [code, what] :
         {std::pair{ExitCode::unsolved, "unsolved"}, {ExitCode::failed, "failed"}}) {
      const auto count = std::count_if(members_.begin(), members_.end(),
                                       [c = code](const Member& m) { return m.code == c; });
      if (count > 0) text += ", " + std::to_string(count) + " " + what;
    }
    if (ended_here_ > 0 && ended_ < all) {
      const double left = spent / static_cast<double>(ended_here_) * static_cast<double>(all - ended_);
      text += "  " + duration_text(left) + " left";
    }
    if (console_.terminal) {
      console_.out << "\r\x1b[K" << text << std::flush;
      drawn_ = true;
    } else {
      console_.out << text << std::endl;
    }
  }

  /// summary.csv: a row a run, empty fields for what is not known.
  void write_summary() const {
    std::string text = "run";
    for (const Axis& axis : axes_) text += "," + csv_field(axis.key);
    text += ",seed";
    for (const auto& [name, path] : kColumns) text += std::string(",") + name;
    text += ",warnings,exit_code\n";
    for (const Member& member : members_) {
      text += csv_field(member.name);
      for (const std::string& value : member.values) text += "," + csv_field(value);
      const Json summary = summary_of(folder_ / member.name);
      text += "," + (member.seed ? std::to_string(*member.seed) : field(summary, "/seed"));
      for (const auto& [name, path] : kColumns) text += "," + field(summary, path);
      const bool known = summary.is_object() && summary.contains("warnings");
      text += "," + (known ? std::to_string(summary["warnings"].size()) : "");
      text += "," + (member.code >= 0 ? std::to_string(member.code) : "") + "\n";
    }
    write_file_atomically(folder_ / "summary.csv", std::as_bytes(std::span<const char>(text)));
  }

  int finish() {
    if (drawn_) console_.out << "\n";
    drawn_ = false;
    const auto count = [&](auto&& which) { return std::count_if(members_.begin(), members_.end(), which); };
    const auto unsolved = count([](const Member& m) { return m.code == ExitCode::unsolved; });
    const auto done = count([](const Member& m) { return m.code == ExitCode::ok; });
    const auto other = static_cast<std::ptrdiff_t>(ended_) - done - unsolved;
    const int signal = signal_.load();
    if (!options_.quiet) {
      const double spent = std::chrono::duration<double>(Clock::now() - begin_).count();
      console_.out << members_.size() << " runs in " << duration_text(spent) << ": " << done << " done";
      if (unsolved > 0) console_.out << ", " << unsolved << " unsolved";
      if (other > 0) console_.out << ", " << other << " not ended well";
      if (ended_ < members_.size()) console_.out << ", " << members_.size() - ended_ << " not started";
      console_.out << "\nnumbers in " << (folder_ / "summary.csv").string() << "\n";
      if (signal)
        console_.out << "interrupted by " << signal_name(signal)
                     << "; continue with the same command and --resume\n";
    }
    if (signal) return ExitCode::by_signal(signal);
    int code = ExitCode::ok;
    // What is worst: a failure, an end before its time, wrong input, unsolved steps.
    const auto any = [&](int wanted) { return count([=](const Member& m) { return m.code == wanted; }) > 0; };
    if (any(ExitCode::unsolved)) code = ExitCode::unsolved;
    if (any(ExitCode::bad_input)) code = ExitCode::bad_input;
    if (any(ExitCode::out_of_time)) code = ExitCode::out_of_time;
    const bool failed = count([](const Member& m) {
      return m.code != ExitCode::ok && m.code != ExitCode::unsolved && m.code != ExitCode::bad_input &&
             m.code != ExitCode::out_of_time;
    });
    if (failed) code = ExitCode::failed;
    return draw(code);
  }

  /// One figure of all runs, a line for each combination of values.
  int draw(int code) {
    if (!options_.plot) return code;
    std::vector<fs::path> runs;
    for (const Member& member : members_) {
      if (has_ended(folder_ / member.name)) runs.push_back(folder_ / member.name);
    }
    if (runs.empty()) return code;
    std::string by;
    for (const Axis& axis : axes_) {
      if (axis.values.size() > 1) by += (by.empty() ? "" : ",") + axis.key;
    }
    console_.out.flush();
    const std::string folder = folder_.string();
    const char* const words[] = {"brenier", "plot", folder.c_str()};
    return after(code, "the sweep '" + folder + "'", shell_line(3, words), console_.err, [&] {
      return plot(runs, folder_ / "figures", console_.out,
                  by.empty() ? std::vector<std::string>{} : std::vector{"--by=" + by});
    });
  }

  const SweepOptions& options_;
  const Console& console_;
  std::vector<Axis> axes_;
  std::vector<Member> members_;
  fs::path folder_;
  std::vector<std::pair<Member*, std::unique_ptr<Child>>> running_;
  std::size_t next_ = 0, ended_ = 0, ended_here_ = 0, twentieths_ = 0;
  double told_at_ = -1;
  Clock::time_point begin_{};
  bool drawn_ = false, passed_on_ = false;
  std::atomic<int> signal_{0};
};

}  // namespace

std::vector<long long> seeds_of(const std::string& text) {
  const auto bad = [&](const std::string& why) {
    return ValueError("--seed " + text + ": " + why +
                      "; it must be a whole number, a range 1:5 (both ends), or a list 1,4,9");
  };
  const auto number = [&](std::string part) {
    const std::string wrong = check_seed(part);
    if (!wrong.empty()) throw bad(wrong);
    return std::stoll(part);
  };
  std::vector<long long> out;
  for (const std::string& part : parts_of(text)) {
    const std::size_t colon = part.find(':');
    const long long first = number(part.substr(0, colon));
    const long long last = colon == std::string::npos ? first : number(part.substr(colon + 1));
    if (last < first) throw bad("the range ends before it starts");
    if (last - first >= static_cast<long long>(kMostRuns)) throw bad("the range has too many seeds");
    for (long long seed = first; seed <= last; ++seed) {
      if (std::find(out.begin(), out.end(), seed) != out.end())
        throw bad("the seed " + std::to_string(seed) + " is there twice");
      out.push_back(seed);
    }
  }
  return out;
}

int sweep(const SweepOptions& options, const Console& console) {
  return Sweep(options, console).run();
}

}  // namespace brenier::app
