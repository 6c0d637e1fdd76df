// SPDX-License-Identifier: MIT
// Calls that processes with a device each compute together.
#pragma once

#include <exception>
#include <memory>

#include "kernels/base/ranks.hpp"
#include "kernels/device/ranks.hpp"

namespace brenier::cuda {

using namespace brenier::device;

/// A call that processes with a device each may share. Networks that go layer by layer, images and forces of whole clouds
/// are computed on all of them alike.
class BRENIER_HIDDEN SharedCall {
 public:
  explicit SharedCall(Ranks* ranks) : ranks_(ranks), exceptions_(std::uncaught_exceptions()) {
    if (!ranks_) return;
    ranks_->agree();
    if (!ranks_->kept()) ranks_->kept() = std::make_shared<DeviceRanks>(ranks_->communicator());
  }
  SharedCall(const SharedCall&) = delete;
  SharedCall& operator=(const SharedCall&) = delete;

  DeviceRanks* devices() const { return ranks_ ? static_cast<DeviceRanks*>(ranks_->kept().get()) : nullptr; }
  /// RankError where another process has failed, for which the work of this device would wait.
  void agree() const {
    if (ranks_) ranks_->agree();
  }
  /// Whether one of them says so.
  bool any(bool said) const { return ranks_ ? ranks_->any(said) : said; }

  /// Lives in the call, behind what its launches use: memory is released only when they have ended, and where an exception
  /// leaves the call they might wait for ever.
  struct End {
    const SharedCall& call;
    ~End() {
      if (!call.ranks_ || std::uncaught_exceptions() <= call.exceptions_) return;
      call.devices()->give_up();
      call.ranks_->kept().reset();
    }
  };

 private:
  Ranks* ranks_;
  int exceptions_;
};

}  // namespace brenier::cuda
