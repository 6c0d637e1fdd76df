// SPDX-License-Identifier: MIT
// The floating-point environment: what the library computes in, whatever the host has set.
#pragma once

#include <cfenv>

namespace brenier {

/// While it lives, this thread rounds to nearest and no floating-point exception traps; then it has the host's environment
/// again. Invalid operations and divisions by 0 are of use inside, and the same bits come out whatever the host rounds to.
/// Inside of another one it does nothing.
class PlainFloatingPoint {
 public:
  PlainFloatingPoint();
  ~PlainFloatingPoint();
  PlainFloatingPoint(const PlainFloatingPoint&) = delete;
  PlainFloatingPoint& operator=(const PlainFloatingPoint&) = delete;

 private:
  std::fenv_t host_;
  bool outermost_;
};

/// Inside of a PlainFloatingPoint, while a function of the host runs: the host's environment. What that changes stays.
class HostFloatingPoint {
 public:
  HostFloatingPoint();
  ~HostFloatingPoint();
  HostFloatingPoint(const HostFloatingPoint&) = delete;
  HostFloatingPoint& operator=(const HostFloatingPoint&) = delete;

 private:
  std::fenv_t plain_;
  std::fenv_t* host_;
};

}  // namespace brenier
