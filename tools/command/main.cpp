// SPDX-License-Identifier: MIT
// The process of the command. Here alone operator new is replaced: a failed allocation says its size.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <new>
#include <sstream>
#include <string>
#include <thread>

#include "brenier/base/out_of_memory.hpp"
#include "tools/command/commands.hpp"

#ifdef BRENIER_HAS_MPI
#include "brenier/mpi.hpp"
#endif

namespace {

constinit bool begun = false;                   // main()
constinit thread_local std::size_t missed = 0;  // bytes of the last allocation that failed

/// Without a handler above it, and without memory. Files are as after a kill: whole, and a run resumes.
[[noreturn]] void end_with(const char* text) {
  for (const char* part : {"brenier: ", text, "\n"}) {
    if (::write(2, part, std::strlen(part)) < 0) break;
  }
  ::_exit(brenier::app::ExitCode::bad_input);
}

[[noreturn]] void fail(std::size_t bytes) {
  const brenier::OutOfMemory error(bytes);
  if (!begun) end_with(error.what());  // nothing can catch what the constructor of a global object throws
  missed = bytes;
  throw error;
}

void* allocate(std::size_t bytes) noexcept {
  return std::malloc(bytes > 0 ? bytes : 1);
}

void* allocate(std::size_t bytes, std::align_val_t alignment) noexcept {
  void* block = nullptr;
  return ::posix_memalign(&block, static_cast<std::size_t>(alignment), bytes > 0 ? bytes : 1) == 0 ? block
                                                                                                   : nullptr;
}

/// An exception that nothing may catch, in a noexcept function or a thread: where memory is the cause, no abort.
[[noreturn]] void terminate() noexcept {
  try {
    if (const std::exception_ptr error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::bad_alloc& error) {
    end_with(error.what());
  } catch (...) {
    std::abort();
  }
  // Where noexcept functions are inlined the exception is on its way and not to be had.
  if (missed > 0 && std::uncaught_exceptions() > 0) end_with(brenier::OutOfMemory(missed).what());
  std::abort();
}

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
  std::ostringstream silent, errors;
  const int code =
      app::run_command_line(argc, argv, first ? std::cout : silent, errors, first && ::isatty(1) == 1, world);
  if (first) std::cerr << errors.str() << std::flush;
  if (code != app::ExitCode::failed && code != app::ExitCode::bad_input)
    return first ? code : app::ExitCode::ok;  // mpirun ends the others where one has another code
  if (!first) {
    std::this_thread::sleep_for(std::chrono::seconds(3));
    std::cerr << "rank " << world->rank() << ": " << errors.str() << std::flush;
  }
  session.end_all(code);
}
#endif

}  // namespace

void* operator new(std::size_t bytes) {
  void* const block = allocate(bytes);
  return block ? block : (fail(bytes), nullptr);
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return allocate(bytes);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  void* const block = allocate(bytes, alignment);
  return block ? block : (fail(bytes), nullptr);
}
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocate(bytes, alignment);
}
void operator delete(void* block) noexcept {
  std::free(block);
}
void operator delete(void* block, std::size_t) noexcept {
  std::free(block);
}
void operator delete(void* block, std::align_val_t) noexcept {
  std::free(block);
}
void operator delete(void* block, std::size_t, std::align_val_t) noexcept {
  std::free(block);
}

int main(int argc, char** argv) {
  begun = true;
  std::set_terminate(terminate);
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
