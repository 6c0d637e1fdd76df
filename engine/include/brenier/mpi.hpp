// SPDX-License-Identifier: MIT
// Flows over the processes of MPI: FlowOptions::communicator. Compiled where CMake finds MPI; link brenier::mpi. A program
// with MPI of its own passes MPI_Comm_c2f(comm), one in Fortran its communicator. The thread that calls flows calls MPI:
// MPI_THREAD_FUNNELED from the main thread, MPI_THREAD_SERIALIZED from others.
#pragma once

#include <memory>

#include "brenier/communicator.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {
namespace mpi {

/// What has gone through a communicator, to this process: bytes from others.
struct Traffic {
  long long calls = 0, bytes = 0;
};

class Communicator final : public brenier::Communicator {
 public:
  /// All processes of the communicator, which is duplicated: a call that all of them make. ValueError: MPI does not run,
  /// or no such communicator.
  explicit Communicator(int fortran_handle);
  ~Communicator() override;

  int rank() const override;
  int size() const override;
  void sum(std::span<double> values) override;
  void gather(std::span<std::byte> data, std::span<const std::size_t> offsets) override;
  void exchange(std::span<const std::byte> send, std::span<const std::size_t> send_offsets,
                std::span<std::byte> receive, std::span<const std::size_t> receive_offsets) override;
  void broadcast(std::span<std::byte> data, int root) override;

  Traffic traffic() const;

 private:
  struct BRENIER_HIDDEN State;
  std::unique_ptr<State> state_;
};

/// MPI for a program that has none of its own: begins with it and ends with it.
class Session {
 public:
  /// NotAvailable: MPI runs already, or cannot be started.
  Session();
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// All processes; to be given up before the session ends.
  std::shared_ptr<Communicator> world() const;
  /// Ends all processes, as a program does that cannot go on: they may be waiting for this one.
  [[noreturn]] void end_all(int code) const noexcept;
};

}  // namespace mpi
}  // namespace brenier
