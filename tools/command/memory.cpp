// SPDX-License-Identifier: MIT
// Of the command alone, never of a library: operator new is replaced, so that a failed allocation says its size.
#include "tools/command/memory.hpp"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

#include "brenier/base/out_of_memory.hpp"
#include "tools/command/commands.hpp"

namespace {

constinit bool begun = false;                   // watch_memory()
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

}  // namespace

void brenier::app::watch_memory() {
  begun = true;
  std::set_terminate(terminate);
}

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
