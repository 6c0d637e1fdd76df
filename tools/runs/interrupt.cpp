// SPDX-License-Identifier: MIT
#include "tools/runs/interrupt.hpp"

#include <atomic>

namespace brenier::app {
namespace {

// A signal handler has no argument to carry these.
std::atomic<InterruptScope::Action> current_action{nullptr};
std::atomic<void*> current_argument{nullptr};

extern "C" void handle_interrupt(int signal) {
  const InterruptScope::Action action = current_action.exchange(nullptr);
  if (action) {
    action(current_argument.load());
  } else {
    std::raise(signal);  // the other of the two signals came first; this one has its default action by now
  }
}

}  // namespace

InterruptScope::InterruptScope(Action action, void* argument) {
  current_argument = argument;
  current_action = action;
  struct sigaction handler {};
  handler.sa_handler = handle_interrupt;
  handler.sa_flags = SA_RESETHAND | SA_RESTART;
  sigemptyset(&handler.sa_mask);
  sigaction(SIGINT, &handler, &interrupt_before_);
  sigaction(SIGTERM, &handler, &terminate_before_);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigemptyset(&ignore.sa_mask);
  sigaction(SIGPIPE, &ignore, &pipe_before_);
}

InterruptScope::~InterruptScope() {
  sigaction(SIGINT, &interrupt_before_, nullptr);
  sigaction(SIGTERM, &terminate_before_, nullptr);
  sigaction(SIGPIPE, &pipe_before_, nullptr);
  current_action = nullptr;
}

}  // namespace brenier::app
