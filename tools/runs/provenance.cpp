// SPDX-License-Identifier: MIT
#include "tools/runs/provenance.hpp"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <system_error>

#include "brenier/device.hpp"
#include "brenier_build.hpp"

namespace brenier::app {

BuildRecord build_record() {
  const BuildInfo info = build_info();
  BuildRecord out;
  out.version = info.version;
  out.git = BRENIER_BUILD_GIT;
  out.compiler = info.compiler;
  out.flags = BRENIER_BUILD_FLAGS;
  out.type = BRENIER_BUILD_TYPE;
#ifdef BRENIER_HAS_MPI
  out.mpi = true;
#endif
  out.cuda = info.cuda;
  return out;
}

ProcessRecord process_record(const std::string& command) {
  ProcessRecord out;
  out.command = command;
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  char text[64] = "";
  if (::gmtime_r(&now, &utc)) std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  out.started = text;
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  out.host = name;
  std::error_code code;
  out.folder = std::filesystem::current_path(code).string();
  for (const char* variable : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"}) {
    const char* job = std::getenv(variable);
    if (job && out.job.empty()) out.job = job;
  }
  out.process = ::getpid();
  return out;
}

std::string shell_line(int argc, const char* const* argv) {
  constexpr const char* plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  std::string out;
  for (int i = 0; i < argc; ++i) {
    if (i > 0) out += ' ';
    const std::string word = argv[i];
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) {
      out += word;
      continue;
    }
    out += '\'';
    for (const char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
    out += '\'';
  }
  return out;
}

}  // namespace brenier::app
