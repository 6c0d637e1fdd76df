// SPDX-License-Identifier: MIT
#include "brenier/mpi.hpp"

#include <mpi.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "brenier/brenier_mpi.h"
#include "engine/src/c/settings.hpp"

namespace brenier::mpi {
namespace {

constexpr std::size_t kMost = std::numeric_limits<int>::max();

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw RankError(std::string(call) + ": " + std::string(text, static_cast<std::size_t>(length)));
}

bool runs() {
  int begun = 0, ended = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&ended);
  return begun != 0 && ended == 0;
}

/// Counts and displacements of MPI; offsets.back() is at most kMost.
struct Layout {
  std::vector<int> counts, places;
  explicit Layout(std::span<const std::size_t> offsets) {
    for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
      counts.push_back(static_cast<int>(offsets[r + 1] - offsets[r]));
      places.push_back(static_cast<int>(offsets[r]));
    }
  }
};

}  // namespace

struct Communicator::State {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  Traffic traffic;

  void count(std::size_t bytes) {
    ++traffic.calls;
    traffic.bytes += static_cast<long long>(bytes);
  }
};

Communicator::Communicator(int fortran_handle) : state_(std::make_unique<State>()) {
  if (!runs()) throw ValueError("mpi: MPI does not run; call MPI_Init_thread() first");
  const MPI_Comm given = MPI_Comm_f2c(fortran_handle);
  if (given == MPI_COMM_NULL) throw ValueError("mpi: the communicator is MPI_COMM_NULL");
  // An error of a handle that is none is one of MPI_COMM_WORLD, whose handler ends the process unless told otherwise.
  MPI_Errhandler before = MPI_ERRHANDLER_NULL;
  check(MPI_Comm_get_errhandler(MPI_COMM_WORLD, &before), "MPI_Comm_get_errhandler");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  const int duplicated = given ? MPI_Comm_dup(given, &state_->comm) : MPI_ERR_COMM;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, before);
  MPI_Errhandler_free(&before);
  if (duplicated == MPI_ERR_COMM)
    throw ValueError("mpi: " + std::to_string(fortran_handle) +
                     " is no communicator; give MPI_Comm_c2f(comm)");
  check(duplicated, "MPI_Comm_dup");
  MPI_Comm_set_errhandler(state_->comm, MPI_ERRORS_RETURN);
  check(MPI_Comm_rank(state_->comm, &state_->rank), "MPI_Comm_rank");
  check(MPI_Comm_size(state_->comm, &state_->size), "MPI_Comm_size");
}

Communicator::~Communicator() {
  if (runs()) MPI_Comm_free(&state_->comm);
}

int Communicator::rank() const {
  return state_->rank;
}
int Communicator::size() const {
  return state_->size;
}
Traffic Communicator::traffic() const {
  return state_->traffic;
}

void Communicator::sum(std::span<double> values) {
  state_->count(values.size_bytes());
  check(MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM,
                      state_->comm),
        "MPI_Allreduce");
}

void Communicator::gather(std::span<std::byte> data, std::span<const std::size_t> offsets) {
  const std::size_t me = static_cast<std::size_t>(state_->rank);
  state_->count(offsets.back() - (offsets[me + 1] - offsets[me]));
  if (offsets.back() <= kMost) {
    const Layout layout(offsets);
    check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, data.data(), layout.counts.data(), layout.places.data(),
                         MPI_BYTE, state_->comm),
          "MPI_Allgatherv");
    return;
  }
  // More than its counts can say.
  for (int r = 0; r < state_->size; ++r) {
    const std::size_t begin = offsets[static_cast<std::size_t>(r)];
    for (std::size_t at = begin; at < offsets[static_cast<std::size_t>(r) + 1]; at += kMost / 2) {
      const std::size_t count = std::min(kMost / 2, offsets[static_cast<std::size_t>(r) + 1] - at);
      check(MPI_Bcast(data.data() + at, static_cast<int>(count), MPI_BYTE, r, state_->comm), "MPI_Bcast");
    }
  }
}

void Communicator::exchange(std::span<const std::byte> send, std::span<const std::size_t> send_offsets,
                            std::span<std::byte> receive, std::span<const std::size_t> receive_offsets) {
  // Partial gradients of a process: far less than counts can say.
  if (send_offsets.back() > kMost || receive_offsets.back() > kMost)
    throw RankError("mpi: an exchange of more than 2 GB; use more processes");
  const std::size_t me = static_cast<std::size_t>(state_->rank);
  state_->count(receive_offsets.back() - (receive_offsets[me + 1] - receive_offsets[me]));
  const Layout out(send_offsets), in(receive_offsets);
  check(MPI_Alltoallv(send.data(), out.counts.data(), out.places.data(), MPI_BYTE, receive.data(),
                      in.counts.data(), in.places.data(), MPI_BYTE, state_->comm),
        "MPI_Alltoallv");
}

void Communicator::broadcast(std::span<std::byte> data, int root) {
  state_->count(state_->rank == root ? 0 : data.size());
  for (std::size_t at = 0; at < data.size(); at += kMost) {
    const int count = static_cast<int>(std::min(kMost, data.size() - at));
    check(MPI_Bcast(data.data() + at, count, MPI_BYTE, root, state_->comm), "MPI_Bcast");
  }
}

Session::Session() {
  int begun = 0, provided = 0;
  MPI_Initialized(&begun);
  if (begun) throw NotAvailable("mpi: MPI was started already, by another part of this program");
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS ||
      provided < MPI_THREAD_FUNNELED)
    throw NotAvailable("mpi: MPI_Init_thread() does not give MPI_THREAD_FUNNELED");
}

Session::~Session() {
  if (runs()) MPI_Finalize();
}

std::shared_ptr<Communicator> Session::world() const {
  return std::make_shared<Communicator>(static_cast<int>(MPI_Comm_c2f(MPI_COMM_WORLD)));
}

void Session::end_all(int code) const noexcept {
  MPI_Abort(MPI_COMM_WORLD, code);
  for (;;) {  // until the signal arrives
  }
}

}  // namespace brenier::mpi

extern "C" int brenier_settings_mpi(brenier_settings* settings, int communicator) {
  return brenier::set_communicator(
      settings, [=] { return std::make_shared<brenier::mpi::Communicator>(communicator); });
}
