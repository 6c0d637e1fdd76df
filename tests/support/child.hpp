// SPDX-License-Identifier: MIT
// Work in a process of its own, which may end before the test does.
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace brenier::test {

/// Runs `body` in a process of its own; its return value is the exit code.
template <class Body>
pid_t in_child(Body&& body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(body());
  return child;
}

/// Waits for its end; as waitpid() tells it.
inline int status_of(pid_t child) {
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace brenier::test
