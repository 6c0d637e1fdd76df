// SPDX-License-Identifier: MIT
// How far the host launches ahead of a device that decides by itself when to stop.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "kernels/cuda/step/control.hpp"
#include "kernels/cuda/transfer.hpp"

namespace brenier::cuda {

/// Keeps the host two launches ahead of the device, instead of all of them: what it decides (an interruption,
/// an end of the launching) then comes soon. It waits for a launch behind which two others are queued, and
/// reads the flag through a stream of its own, which waits for nothing. Whether two are enough for the shortest
/// launches is to be measured on a device.
class LaunchPace {
 public:
  /// After a launch into `stream`; from the third on two waits of the host. Whether the device has decided to
  /// stop, two launches back or since: later iterations do nothing.
  bool launched(const DeviceBuffer<Control>& control, Stream& stream) {
    if (ends_.empty()) ends_ = std::vector<Event>(kAhead);
    Event& end = ends_[count_ % kAhead];
    bool stop = false;
    if (count_++ >= kAhead) {
      end.synchronise();
      if (!beside_) beside_.emplace();
      // The device may be writing: an aligned word comes whole.
      int word = 0;
      const DevicePointer<const int> there(control.pointer().address() + offsetof(Control, stop));
      copy_to_host(std::span<int>(&word, 1), there, *beside_);
      stop = word != 0;
    }
    end.record(stream);
    return stop;
  }

 private:
  static constexpr std::size_t kAhead = 2;
  std::vector<Event> ends_;
  std::size_t count_ = 0;
  std::optional<Stream> beside_;
};

}  // namespace brenier::cuda
