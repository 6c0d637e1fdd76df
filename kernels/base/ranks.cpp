// SPDX-License-Identifier: MIT
#include "kernels/base/ranks.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace brenier {
namespace {

constexpr std::size_t kMessage = 480;  // bytes of what failed, that the others hear

Index bound(Index count, int rank, int size) {
  return count * rank / size;
}

/// The first item of a process.
Index first_item(const RankPart& part, int rank, int size) {
  if (part.blocks == 0) return 0;
  const Index block = bound(part.blocks, rank, size);
  return std::min(part.items, part.groups * block / part.blocks * part.per);
}

std::size_t packed(const RankPart& part, Index first, Index last, std::byte* to, bool pack) {
  std::byte* from = static_cast<std::byte*>(part.data) + static_cast<std::size_t>(first) * part.stride;
  const std::size_t count = static_cast<std::size_t>(last - first), all = count * part.bytes;
  const std::size_t run = part.stride == part.bytes ? all : part.bytes;
  for (std::size_t at = 0; run > 0 && at < all; at += run, from += part.stride) {
    std::memcpy(pack ? to + at : from, pack ? from : to + at, run);
  }
  return all;
}

}  // namespace

Communicator::~Communicator() = default;

void Communicator::exchange(std::span<const std::byte> send, std::span<const std::size_t> send_offsets,
                            std::span<std::byte> receive, std::span<const std::size_t> receive_offsets) {
  const std::size_t count = static_cast<std::size_t>(size()), me = static_cast<std::size_t>(rank());
  // Sizes of what each sends to each, then all of it.
  std::vector<std::size_t> sizes(count * count), rows(count + 1), offsets(count + 1);
  for (std::size_t r = 0; r < count; ++r) {
    sizes[me * count + r] = send_offsets[r + 1] - send_offsets[r];
    rows[r + 1] = (r + 1) * count * sizeof(std::size_t);
  }
  gather(std::as_writable_bytes(std::span(sizes)), rows);
  for (std::size_t r = 0; r < count; ++r) {
    offsets[r + 1] = offsets[r];
    for (std::size_t to = 0; to < count; ++to) offsets[r + 1] += sizes[r * count + to];
  }
  std::vector<std::byte> all(offsets.back());
  std::copy(send.begin(), send.end(), all.begin() + static_cast<std::ptrdiff_t>(offsets[me]));
  gather(all, offsets);
  for (std::size_t r = 0; r < count; ++r) {
    std::size_t at = offsets[r];
    for (std::size_t to = 0; to < me; ++to) at += sizes[r * count + to];
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(at), sizes[r * count + me],
                receive.begin() + static_cast<std::ptrdiff_t>(receive_offsets[r]));
  }
}

RankPart RankPart::rows(void* data, std::size_t bytes, Index count) {
  return {data, bytes, bytes, count, 1, count, count};
}
RankPart RankPart::tiles(void* data, std::size_t bytes, std::size_t stride, Index items, Index per) {
  const Index tiles = (items + per - 1) / per;
  return {data, bytes, stride, items, per, tiles, tiles};
}
RankPart RankPart::chunks(void* data, std::size_t bytes, Index tiles, Index chunks) {
  return {data, bytes, bytes, tiles, 1, tiles, chunks};
}

struct Ranks::State {
  Communicator& communicator;
  const std::atomic<bool>* asked = nullptr;
  std::atomic<bool> interrupted{false};
  std::exception_ptr failure{};
  std::vector<std::byte> send{}, receive{};
  std::vector<std::size_t> offsets{}, receive_offsets{};  // the first one is 0
  std::shared_ptr<void> kept{};
};

Ranks::Ranks(Communicator& communicator) : state_(new State{communicator}) {
  const std::size_t bounds = static_cast<std::size_t>(communicator.size()) + 1;
  state_->offsets.resize(bounds);
  state_->receive_offsets.resize(bounds);
}
Ranks::~Ranks() {
  delete state_;
}

int Ranks::rank() const {
  return state_->communicator.rank();
}
int Ranks::size() const {
  return state_->communicator.size();
}

std::pair<Index, Index> Ranks::share(Index count) const {
  return {bound(count, rank(), size()), bound(count, rank() + 1, size())};
}

std::pair<Index, Index> Ranks::share(Index count, int thread, int threads) const {
  const auto [first, last] = share(count);
  return {first + bound(last - first, thread, threads), first + bound(last - first, thread + 1, threads)};
}

void Ranks::agree() {
  static_cast<void>(any(false));
}

bool Ranks::any(bool said) {
  State& s = *state_;
  const bool asked = s.asked && s.asked->load(std::memory_order_relaxed);
  double flags[3] = {0, asked ? 1.0 : 0.0, said ? 1.0 : 0.0};
  s.communicator.sum(flags);
  if (flags[1] > 0) s.interrupted.store(true, std::memory_order_relaxed);
  if (flags[0] > 0) fail(nullptr);
  return flags[2] > 0;
}

void Ranks::fail(const char* message) {
  State& s = *state_;
  const std::size_t count = static_cast<std::size_t>(size()), me = static_cast<std::size_t>(rank());
  double flags[3] = {1, 0, 0};
  if (message) s.communicator.sum(flags);
  // All are here now, those that have failed and those that heard of it.
  std::vector<char> said(count * kMessage);
  for (std::size_t r = 0; r < count; ++r) s.offsets[r + 1] = (r + 1) * kMessage;
  if (message) {
    said[me * kMessage] = 1;
    std::strncpy(said.data() + me * kMessage + 1, message, kMessage - 2);
  }
  s.communicator.gather(std::as_writable_bytes(std::span(said)), s.offsets);
  std::string what;
  bool all = true;
  for (std::size_t r = 0; r < count; ++r) {
    if (said[r * kMessage] == 0) {
      all = false;
    } else if (what.empty()) {
      what = "rank " + std::to_string(r) + " has failed: " + (said.data() + r * kMessage + 1);
    }
  }
  if (!all) throw RankError(what);
}

void Ranks::tell() {
  try {
    throw;
  } catch (const RankError&) {
  } catch (const std::exception& error) {
    fail(error.what());
  } catch (...) {
    fail("what it threw is no std::exception");
  }
}

void Ranks::tell(Communicator* communicator) {
  if (communicator && communicator->size() > 1) Ranks(*communicator).tell();
}

void Ranks::gather(const RankPart* parts, int count) {
  agree();
  State& s = *state_;
  const int size = this->size(), me = rank();
  for (int r = 0; r < size; ++r) {
    std::size_t bytes = 0;
    for (int k = 0; k < count; ++k)
      bytes += static_cast<std::size_t>(first_item(parts[k], r + 1, size) - first_item(parts[k], r, size)) *
               parts[k].bytes;
    s.offsets[static_cast<std::size_t>(r) + 1] = s.offsets[static_cast<std::size_t>(r)] + bytes;
  }
  s.receive.resize(s.offsets.back());
  const auto copy = [&](int r, bool pack) {
    std::byte* at = s.receive.data() + s.offsets[static_cast<std::size_t>(r)];
    for (int k = 0; k < count; ++k)
      at += packed(parts[k], first_item(parts[k], r, size), first_item(parts[k], r + 1, size), at, pack);
  };
  copy(me, true);
  s.communicator.gather(s.receive, s.offsets);
  for (int r = 0; r < size; ++r) {
    if (r != me) copy(r, false);
  }
}

void Ranks::sum_blocks(const double* partial, const double* extra, Index blocks, Index length, double* out) {
  agree();
  State& s = *state_;
  const int size = this->size();
  const Index columns = length + 1;  // the last one is `extra`
  const auto [first, last] = share(blocks);
  const auto [left, right] = share(columns);
  for (int r = 0; r < size; ++r) {
    const Index width = bound(columns, r + 1, size) - bound(columns, r, size);
    const Index rows = bound(blocks, r + 1, size) - bound(blocks, r, size);
    const std::size_t to = static_cast<std::size_t>(r) + 1;
    s.offsets[to] = s.offsets[to - 1] + static_cast<std::size_t>((last - first) * width) * sizeof(double);
    s.receive_offsets[to] =
        s.receive_offsets[to - 1] + static_cast<std::size_t>(rows * (right - left)) * sizeof(double);
  }
  s.send.resize(s.offsets.back());
  s.receive.resize(s.receive_offsets.back());
  std::byte* at = s.send.data();
  for (int r = 0; r < size; ++r) {
    const Index begin = bound(columns, r, size), end = bound(columns, r + 1, size);
    const std::size_t plain = static_cast<std::size_t>(std::min(end, length) - begin) * sizeof(double);
    for (Index block = first; block < last; ++block) {
      if (begin < length) std::memcpy(at, partial + block * length + begin, plain);
      if (end == columns && end > begin)
        std::memcpy(at + (begin < length ? plain : 0), extra + block, sizeof(double));
      at += static_cast<std::size_t>(end - begin) * sizeof(double);
    }
  }
  s.communicator.exchange(s.send, s.offsets, s.receive, s.receive_offsets);
  const Index width = right - left;
  for (Index k = left; k < right; ++k) out[k] = 0;
  for (Index block = 0; block < blocks; ++block) {
    const std::byte* row = s.receive.data() + static_cast<std::size_t>(block * width) * sizeof(double);
    for (Index k = 0; k < width; ++k) {
      double value;
      std::memcpy(&value, row + static_cast<std::size_t>(k) * sizeof(double), sizeof value);
      out[left + k] += value;
    }
  }
  for (int r = 0; r < size; ++r)
    s.offsets[static_cast<std::size_t>(r) + 1] =
        static_cast<std::size_t>(bound(columns, r + 1, size)) * sizeof(double);
  s.communicator.gather(std::as_writable_bytes(std::span(out, static_cast<std::size_t>(columns))), s.offsets);
}

std::shared_ptr<void>& Ranks::kept() {
  return state_->kept;
}
Communicator& Ranks::communicator() {
  return state_->communicator;
}

bool Ranks::same(std::uint64_t number) {
  std::vector<std::uint64_t> all(static_cast<std::size_t>(size()));
  all[static_cast<std::size_t>(rank())] = number;
  const RankPart part = RankPart::rows(all.data(), sizeof number, size());
  gather(&part, 1);
  return std::all_of(all.begin(), all.end(), [&](std::uint64_t one) { return one == number; });
}

void Ranks::gather_between(const RankPart* parts, int count) noexcept {
  state_->failure = nullptr;
  try {
    gather(parts, count);
  } catch (...) {
    state_->failure = std::current_exception();
  }
}

void Ranks::sum_blocks_between(const double* partial, const double* extra, Index blocks, Index length,
                               double* out) noexcept {
  state_->failure = nullptr;
  try {
    sum_blocks(partial, extra, blocks, length, out);
  } catch (...) {
    state_->failure = std::current_exception();
  }
}

void Ranks::rethrow() const {
  if (state_->failure) std::rethrow_exception(state_->failure);
}

void Ranks::listen(const std::atomic<bool>* asked) {
  state_->asked = asked;
}
const std::atomic<bool>& Ranks::interrupted() const {
  return state_->interrupted;
}
void Ranks::forget_interrupt() {
  state_->interrupted.store(false, std::memory_order_relaxed);
}

}  // namespace brenier
