// SPDX-License-Identifier: MIT
#include "kernels/base/floating_point.hpp"

#include <utility>

namespace brenier {
namespace {

/// The host's environment while this thread is inside of the library; null outside.
thread_local std::fenv_t* of_host = nullptr;

}  // namespace

PlainFloatingPoint::PlainFloatingPoint() : outermost_(!of_host) {
  if (!outermost_) return;
  std::fegetenv(&host_);
  std::fesetenv(FE_DFL_ENV);
  of_host = &host_;
}

PlainFloatingPoint::~PlainFloatingPoint() {
  if (!outermost_) return;
  of_host = nullptr;
  std::fesetenv(&host_);
}

HostFloatingPoint::HostFloatingPoint() : host_(std::exchange(of_host, nullptr)) {
  if (!host_) return;
  std::fegetenv(&plain_);
  std::fesetenv(host_);
}

HostFloatingPoint::~HostFloatingPoint() {
  if (!host_) return;
  std::fegetenv(host_);
  std::fesetenv(&plain_);
  of_host = host_;
}

}  // namespace brenier
