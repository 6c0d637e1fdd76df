// SPDX-License-Identifier: MIT
// Ctrl-C: the first one asks, the second one kills.
#pragma once

#include <csignal>

namespace brenier::app {

/// While it lives, the first SIGINT or SIGTERM calls `action(argument)`; a second one, of either kind, has
/// the signal's default action. `action` must be safe in a signal handler. One scope at a time. A reader of the
/// progress that goes away (SIGPIPE) ends nothing: what counts is in the folder.
class InterruptScope {
 public:
  using Action = void (*)(void* argument) noexcept;
  InterruptScope(Action action, void* argument);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  struct sigaction interrupt_before_ {};
  struct sigaction terminate_before_ {};
  struct sigaction pipe_before_ {};
};

}  // namespace brenier::app
