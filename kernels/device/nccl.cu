// SPDX-License-Identifier: MIT
// Data between the devices of processes by NCCL. The only file that calls it; without it, the refusal.
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/device/device.hpp"
#include "kernels/device/ranks.hpp"

#if BRENIER_NCCL
#include <nccl.h>

#include <span>

namespace brenier::device {
inline namespace BRENIER_DIALECT {

struct DeviceRanks::State {
  ncclComm_t communicator = nullptr;
  int rank = 0, size = 1;
};

namespace {

void check(ncclResult_t status, const char* what, ncclComm_t communicator = nullptr) {
  if (status == ncclSuccess) return;
  const std::string more = ncclGetLastError(communicator);
  throw DeviceError(std::string(what) + ": " + ncclGetErrorString(status) +
                    (more.empty() ? "" : ": " + more));
}

}  // namespace

bool DeviceRanks::available() noexcept {
  return true;
}

DeviceRanks::DeviceRanks(Communicator& communicator) : state_(new State) {
  state_->rank = communicator.rank();
  state_->size = communicator.size();
  // With its status, since the others wait for it.
  struct Invitation {
    ncclResult_t status = ncclSuccess;
    ncclUniqueId id{};
  } invitation;
  if (state_->rank == 0) invitation.status = ncclGetUniqueId(&invitation.id);
  communicator.broadcast(std::as_writable_bytes(std::span(&invitation, 1)), 0);
  check(invitation.status, "ncclGetUniqueId");
  check(ncclCommInitRank(&state_->communicator, state_->size, invitation.id, state_->rank),
        "ncclCommInitRank (one device for each process; CUDA_VISIBLE_DEVICES can tell them apart)");
}

void DeviceRanks::Delete::operator()(State* state) const noexcept {
  if (state->communicator) ncclCommDestroy(state->communicator);
  delete state;
}

int DeviceRanks::rank() const {
  return state_->rank;
}
int DeviceRanks::size() const {
  return state_->size;
}

void DeviceRanks::gather(detail::Address data, std::size_t share, Stream& stream) {
  if (MemoryProbe::active()) return;
  auto* const all = reinterpret_cast<std::byte*>(data);
  check(ncclAllGather(all + static_cast<std::size_t>(state_->rank) * share, all, share, ncclChar,
                      state_->communicator, static_cast<cudaStream_t>(stream.native())),
        "ncclAllGather", state_->communicator);
}

void DeviceRanks::give_up() noexcept {
  if (state_->communicator) ncclCommAbort(state_->communicator);
  state_->communicator = nullptr;
}

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device

#else

namespace brenier::device {
inline namespace BRENIER_DIALECT {

struct DeviceRanks::State {};

bool DeviceRanks::available() noexcept {
  return false;
}
DeviceRanks::DeviceRanks(Communicator&) {
  throw NotAvailable("this build has no NCCL, by which the devices of several processes exchange data");
}
void DeviceRanks::Delete::operator()(State* state) const noexcept {
  delete state;
}
int DeviceRanks::rank() const {
  return 0;
}
int DeviceRanks::size() const {
  return 1;
}
void DeviceRanks::gather(detail::Address, std::size_t, Stream&) {}
void DeviceRanks::give_up() noexcept {}

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device

#endif
