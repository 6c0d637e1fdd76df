// SPDX-License-Identifier: MIT
// Data between the emulated devices of processes: by the communicator, when the work of a stream comes to it.
#include "kernels/device/ranks.hpp"

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/device/emulator/impl.hpp"

namespace brenier::device {
inline namespace BRENIER_DIALECT {

struct DeviceRanks::State {
  Communicator& communicator;
  bool met = false;  // a call that is not in a capture comes first
};

bool DeviceRanks::available() noexcept {
  return true;
}

DeviceRanks::DeviceRanks(Communicator& communicator) : state_(new State{communicator}) {}
void DeviceRanks::Delete::operator()(State* state) const noexcept {
  delete state;
}

int DeviceRanks::rank() const {
  return state_->communicator.rank();
}
int DeviceRanks::size() const {
  return state_->communicator.size();
}

void DeviceRanks::gather(detail::Address data, std::size_t share, Stream& stream) {
  if (MemoryProbe::active()) return;
  emulator::check_range(data, share * static_cast<std::size_t>(size()), "DeviceRanks::gather");
  if (stream.capturing() && !state_->met)
    throw DeviceError("DeviceRanks::gather: the first one must not be in the capture of a graph");
  state_->met = true;
  Communicator& communicator = state_->communicator;
  emulator::enqueue(stream.state(), {.run = [&communicator, data, share] {
                      const emulator::OpenMemory access;
                      std::vector<std::size_t> offsets(static_cast<std::size_t>(communicator.size()) + 1);
                      for (std::size_t r = 0; r < offsets.size(); ++r) offsets[r] = r * share;
                      communicator.gather({reinterpret_cast<std::byte*>(data), offsets.back()}, offsets);
                    }});
}

void DeviceRanks::give_up() noexcept {}

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device
