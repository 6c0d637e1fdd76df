// SPDX-License-Identifier: MIT
// Where numbers come from: the build, and the processes that took part in a run.
#pragma once

#include <string>

namespace brenier::app {

/// The build, as text; empty where it is not known.
struct BuildRecord {
  std::string version, git, compiler, flags, type;
  bool mpi = false, cuda = false;
};
BuildRecord build_record();

/// A process that computed a part of a run.
struct ProcessRecord {
  std::string command;  // as a shell would take it
  std::string started;  // "2026-11-27T09:14:52Z"
  std::string host;
  std::string folder;  // that it was started in
  std::string job;     // its number in a batch system, or empty
  long process = 0;
};
ProcessRecord process_record(const std::string& command);

/// Words of a command line as one line for a shell.
std::string shell_line(int argc, const char* const* argv);

}  // namespace brenier::app
