// SPDX-License-Identifier: MIT
#include "tools/runs/interrupt.hpp"

#include <atomic>

namespace brenier::app {
namespace {

// A signal handler has no argument to carry these.
std::atomic<InterruptScope::Action> current_action{nullptr};
std::atomic<void*> current_argument{nullptr};
std::atomic<bool> stopped{false};  // by a SIGINT or SIGTERM

extern "C" void handle_interrupt(int signal) {
  const bool stop = signal == SIGINT || signal == SIGTERM;
  const bool again = stop && stopped.exchange(true);
  const InterruptScope::Action action = current_action.exchange(nullptr);
  if (action) {
    action(current_argument.load(), signal);
  } else if (again) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);  // is delivered when this handler returns
  }
}

}  // namespace

InterruptScope::InterruptScope(Action action, void* argument) {
  current_argument = argument;
  stopped = false;
  current_action = action;
  struct sigaction handler {};
  handler.sa_handler = handle_interrupt;
  handler.sa_flags = SA_RESTART;
  sigemptyset(&handler.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &before_[i]);
    if (kSignals[i] == SIGHUP && before_[i].sa_handler == SIG_IGN) continue;
    sigaction(kSignals[i], &handler, nullptr);
  }
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigemptyset(&ignore.sa_mask);
  sigaction(SIGPIPE, &ignore, &pipe_before_);
}

InterruptScope::~InterruptScope() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
  sigaction(SIGPIPE, &pipe_before_, nullptr);
  current_action = nullptr;
}

const char* signal_name(int signal) {
  switch (signal) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGHUP:
      return "SIGHUP";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    case SIGXCPU:
      return "SIGXCPU";
    default:
      return "a signal";
  }
}

}  // namespace brenier::app
