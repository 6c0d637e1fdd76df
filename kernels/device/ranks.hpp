// SPDX-License-Identifier: MIT
// The devices of several processes, one each, that bring each other data in stream order.
#pragma once

#include <memory>

#include "brenier/communicator.hpp"
#include "kernels/device/host.hpp"

namespace brenier::device {
inline namespace BRENIER_DIALECT {

/// One of them. By NCCL where the build has it; under emulation by the communicator itself.
class DeviceRanks {
 public:
  /// Whether this build can.
  static bool available() noexcept;
  /// All processes of the communicator, which outlives this, call it with their device as the current one. NotAvailable
  /// where the build cannot, DeviceError in NCCL's words.
  explicit DeviceRanks(Communicator& communicator);

  int rank() const;
  int size() const;

  /// Brings the parts of an array to all, in stream order, also while a graph is captured: process r has filled bytes
  /// r * share .. (r + 1) * share from `data` on. All make the same calls in the same order, and the first one not in a
  /// capture. What is moved is not changed.
  void gather(detail::Address data, std::size_t share, Stream& stream);
  /// Ends what waits on this device for a process that will not come. Only destruction may follow.
  void give_up() noexcept;

  struct State;

 private:
  struct Delete {
    void operator()(State* state) const noexcept;
  };
  std::unique_ptr<State, Delete> state_;
};

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device
