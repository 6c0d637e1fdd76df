// SPDX-License-Identifier: MIT
// Processes that compute one flow together: what the library asks of MPI, or of anything else that connects them.
#pragma once

#include <cstddef>
#include <span>

#include "brenier/base/error.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// One process has failed and others have not, or they have come apart: the same error on all of them.
class RankError : public Error {
 public:
  using Error::Error;
};

/// A group of processes, each with a copy of an object like this. All of them make the same calls in the same order, from
/// one thread at a time; a call returns when this process has its part. Errors are exceptions of any kind, which then
/// leave the call of the library on this process. brenier/mpi.hpp has the one for MPI.
class Communicator {
 public:
  Communicator() = default;
  virtual ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// This process, in [0, size()), and how many there are; they do not change.
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// values_k becomes the sum of all processes' values_k, in any order: the library takes sums of small whole numbers alone
  /// this way, and all others in an order of its own.
  virtual void sum(std::span<double> values) = 0;

  /// Brings the parts of an array to all: process r has filled bytes offsets[r] .. offsets[r + 1] of data, and the others
  /// get them in the same place. offsets (size() + 1) is the same on all; some parts may be empty.
  virtual void gather(std::span<std::byte> data, std::span<const std::size_t> offsets) = 0;

  /// From each to each: bytes send_offsets[r] .. send_offsets[r + 1] of `send` go to process r, and what process r sends
  /// here arrives at receive_offsets[r] .. receive_offsets[r + 1] of `receive`; offsets (size() + 1). Where it is not
  /// overridden, everything goes to all.
  virtual void exchange(std::span<const std::byte> send, std::span<const std::size_t> send_offsets,
                        std::span<std::byte> receive, std::span<const std::size_t> receive_offsets);

  /// data of process `root` to all.
  virtual void broadcast(std::span<std::byte> data, int root) = 0;
};

}  // namespace brenier
