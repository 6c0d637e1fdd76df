// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>

#include "brenier/base/out_of_memory.hpp"
#include "tools/command/commands.hpp"

namespace {

thread_local std::size_t last_refused = 0;  // bytes

[[noreturn]] void end(const std::bad_alloc& error) noexcept {
  for (const char* piece : {"brenier: ", error.what(), "\n"})
    static_cast<void>(!::write(2, piece, std::strlen(piece)));
  ::_exit(brenier::app::ExitCode::bad_input);
}

/// Where an exception leaves a static initialiser or what must not throw. Memory that ran out is no fault of the program.
[[noreturn]] void terminate() noexcept {
  try {
    if (const std::exception_ptr error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::bad_alloc& error) {
    end(error);
  } catch (...) {
    std::abort();
  }
  // Inside of the standard library's own functions that must not throw, the exception is on its way still.
  if (last_refused > 0 && std::uncaught_exceptions() > 0) end(brenier::OutOfMemory(last_refused));
  std::abort();
}

// Before the static initialisers, some of which allocate.
[[gnu::constructor(101)]] void set_terminate() {
  std::set_terminate(terminate);
}

}  // namespace

// Memory that runs out says how much was asked for. The address sanitizer has an operator of its own.
#ifndef __SANITIZE_ADDRESS__
void* operator new(std::size_t bytes) {
  if (void* memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  last_refused = bytes;
  throw brenier::OutOfMemory(bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
#endif

int main(int argc, char** argv) {
  return brenier::app::run_command_line(argc, argv, std::cout, std::cerr, ::isatty(1) == 1);
}
