// SPDX-License-Identifier: MIT
// The process of the command, or the processes.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

#include "tools/command/commands.hpp"
#include "tools/command/memory.hpp"

#ifdef BRENIER_HAS_MPI
#include "brenier/mpi.hpp"
#endif

namespace {

/// How many processes mpirun or a batch system has started together, as they tell; 0 where there was none.
int started_together() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS"}) {
    if (const char* text = std::getenv(name)) return std::atoi(text);
  }
  return 0;
}

#ifdef BRENIER_HAS_MPI
/// Of several processes the first one speaks. It hears what has failed on another, where that can still be told; where
/// not, the other one says it itself, after a while. In any case it ends them all: nobody waits for one that is gone.
int run_together(int argc, char** argv) {
  using namespace brenier;
  const mpi::Session session;
  const std::shared_ptr<mpi::Communicator> world = session.world();
  const bool first = world->rank() == 0;
  std::ostringstream silent;
  silent.exceptions(std::ios::badbit);
  std::ostringstream errors;
  errors.exceptions(std::ios::badbit);
  const int code =
      app::run_command_line(argc, argv, first ? std::cout : silent, errors, first && ::isatty(1) == 1, world);
  if (first) std::cerr << errors.str() << std::flush;
  const bool together =
      code == app::ExitCode::ok || code == app::ExitCode::unsolved || code >= app::ExitCode::out_of_time;
  if (together) return first ? code : app::ExitCode::ok;  // mpirun ends the others where one has another code
  if (!first) {
    std::this_thread::sleep_for(std::chrono::seconds(3));
    std::cerr << "rank " << world->rank() << ": " << errors.str() << std::flush;
  }
  session.end_all(code);
}
#endif

}  // namespace

int main(int argc, char** argv) {
  brenier::app::watch_memory();
  const int processes = started_together();
#ifdef BRENIER_HAS_MPI
  if (processes > 0) return run_together(argc, argv);
#else
  if (processes > 1) {
    std::cerr
        << "brenier: " << processes
        << " processes were started together, and this build is without MPI; build it where CMake finds MPI"
        << std::endl;
    return brenier::app::ExitCode::bad_input;
  }
#endif
  return brenier::app::run_command_line(argc, argv, std::cout, std::cerr, ::isatty(1) == 1);
}
