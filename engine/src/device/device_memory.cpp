// SPDX-License-Identifier: MIT
#include "engine/src/device/device_memory.hpp"

#include <bit>
#include <charconv>

#include "kernels/cuda_devices.hpp"

namespace brenier {

std::string bytes_text(std::size_t bytes) {
  constexpr const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return std::to_string(bytes) + " bytes";
  double value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::fixed,
                                 value < 10    ? 2
                                 : value < 100 ? 1
                                               : 0);
  return std::string(text, end.ptr) + " " + units[unit];
}

template <class T>
InnerProblemTooLarge does_not_fit(const InnerProblem<T>& problem, int step, const OutOfDeviceMemory& cause,
                                  std::size_t needed,
                                  const std::function<std::size_t(Index n)>& with_minibatch) {
  const Index particles = problem.x.rows;
  const std::size_t free = cuda::memory_free();
  const auto count = [](Index n) { return std::to_string(n); };
  const std::string message =
      "flow: step " + count(step) + ": the inner problem of " + count(particles) +
      " particles in dimension " + count(problem.x.cols) +
      (problem.minibatch > 0 ? " with minibatches of " + count(problem.minibatch) : "") +
      " does not fit the CUDA device: it needs " + bytes_text(needed) + ", and " + bytes_text(free) + " of " +
      bytes_text(cause.total) + " are free (" + bytes_text(cause.requested) + " for " + cause.purpose +
      " were refused); use ";
  // Powers of two, and a reserve for what allocations lose between each other.
  const Index now = problem.minibatch > 0 ? problem.minibatch : particles;
  constexpr Index kSmallest = 32;
  for (Index n = static_cast<Index>(std::bit_floor(static_cast<std::size_t>(now - 1))); n >= kSmallest;
       n /= 2) {
    const std::size_t less = with_minibatch(n);
    if (less > free - free / 16) continue;
    return {message + "inner.minibatch = " + count(n) + ", which needs " + bytes_text(less) +
                ", fewer particles, or the device \"cpu\"",
            cause};
  }
  return {message + "fewer particles, a smaller network or the device \"cpu\"; no minibatch would fit",
          cause};
}

OutOfDeviceMemory evaluation_does_not_fit(Index particles, Index dim, int step,
                                          const OutOfDeviceMemory& cause) {
  return {"flow: step " + std::to_string(step) + ": F and the maps of " + std::to_string(particles) +
              " particles in dimension " + std::to_string(dim) +
              ", in double precision, do not fit the CUDA device: " + bytes_text(cause.requested) + " for " +
              cause.purpose + " were refused, and " + bytes_text(cause.free) + " of " +
              bytes_text(cause.total) +
              " are free; use fewer particles, a smaller network or the device \"cpu\"",
          cause};
}

template InnerProblemTooLarge does_not_fit(const InnerProblem<float>&, int, const OutOfDeviceMemory&,
                                           std::size_t, const std::function<std::size_t(Index)>&);
template InnerProblemTooLarge does_not_fit(const InnerProblem<double>&, int, const OutOfDeviceMemory&,
                                           std::size_t, const std::function<std::size_t(Index)>&);

}  // namespace brenier
