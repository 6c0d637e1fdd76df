// SPDX-License-Identifier: MIT
// Ctrl-C and what batch systems send: the first signal asks, a second Ctrl-C kills.
#pragma once

#include <array>
#include <csignal>

namespace brenier::app {

/// While it lives, the first of SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU calls `action(argument, signal)`.
/// The second of SIGINT and SIGTERM, of either kind, has its default action; the others are warnings, which batch
/// systems and the kernel repeat, and never kill. A SIGHUP that is ignored (nohup) stays so. `action` must be safe in a
/// signal handler. One scope at a time. A reader of the progress that goes away (SIGPIPE) ends nothing: what counts is
/// in the folder.
class InterruptScope {
 public:
  using Action = void (*)(void* argument, int signal) noexcept;
  static constexpr std::array<int, 6> kSignals = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU};

  InterruptScope(Action action, void* argument);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  std::array<struct sigaction, kSignals.size()> before_{};
  struct sigaction pipe_before_ {};
};

/// "SIGUSR1", of those above.
const char* signal_name(int signal);

}  // namespace brenier::app
