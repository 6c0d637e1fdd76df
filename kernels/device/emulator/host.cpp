// SPDX-License-Identifier: MIT
// The host's side of the emulated device: streams, events, graphs, copies and matrix products.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "kernels/device/emulator/impl.hpp"

namespace brenier::device::emulator {
namespace {

std::atomic<std::uint64_t> synchronisations{0};
std::atomic<int> captures{0};             // open in this process
std::atomic<bool> capture_broken{false};  // by a call that cannot be recorded
constexpr int kMaxDevices = 8;
std::atomic<std::uint64_t> launches[kMaxDevices];
thread_local int chosen_device = 0;

}  // namespace

void count_synchronisation(const char* what) {
  if (captures > 0) {
    capture_broken = true;
    throw DeviceError(std::string(what) +
                      " during the capture of a graph: it cannot be recorded; do it before");
  }
  ++synchronisations;
}

std::uint64_t device_launches(int k) {
  return k >= 0 && k < kMaxDevices ? launches[k].load() : 0;
}

}  // namespace brenier::device::emulator

namespace brenier::device {
inline namespace BRENIER_DIALECT {

using emulator::OpenMemory;

struct Graph::State {
  std::vector<std::function<void()>> nodes;
};
struct Stream::State {
  StreamOptions options;
  Graph::State* recording = nullptr;
};
struct Event::State {
  std::chrono::steady_clock::time_point time;
  bool recorded = false;
};
struct Blas::State {};

int device_count() noexcept {
  return std::clamp(emulator::options().devices, 0, emulator::kMaxDevices);
}

std::string device_trouble() {
  return device_count() == 0 ? "the emulator has been told to have no device" : "";
}

namespace {
void check_device(int k) {
  const int count = device_count();
  if (k < 0 || k >= count)
    throw NotAvailable("device " + std::to_string(k) + " does not exist: the emulator has " +
                       std::to_string(count) + ", numbered from 0");
}
}  // namespace

void use_device(int k) {
  check_device(k);
  emulator::chosen_device = k;
}

int current_device() {
  return emulator::chosen_device;
}

DeviceProperties properties() {
  DeviceProperties p = properties_of(current_device());
  const std::size_t used = emulator::memory_in_use();
  p.memory_free = p.memory_total > used ? p.memory_total - used : 0;
  return p;
}

DeviceProperties properties_of(int k) {
  check_device(k);
  const emulator::Options& options = emulator::options();
  return {.name = "emulated",
          .compute_major = 9,
          .compute_minor = 0,
          .multiprocessors = 4,  // few, so that grids sized by them stay small
          .max_threads_per_block = 1024,
          .max_grid = 0x7FFFFFFF,
          .shared_per_block = 48 * 1024,
          .shared_per_block_opt_in = options.shared_memory,
          .shared_per_multiprocessor = options.shared_memory + 1024,
          .memory_total = options.memory,
          .memory_free = 0};
}

std::size_t most_shared_bytes() {
  return emulator::options().shared_memory;
}

std::uint64_t host_synchronisations() noexcept {
  return emulator::synchronisations;
}

Stream::Stream(StreamOptions options) : state_(new State{options}) {}
void Stream::Delete::operator()(State* state) const noexcept {
  delete state;
}
void Stream::synchronise() {
  if (MemoryProbe::active()) return;
  emulator::count_synchronisation("Stream::synchronise");
}
void Stream::wait(const Event& event) {
  if (!event.state().recorded) return;  // as CUDA: nothing to wait for
}
bool Stream::capturing() const {
  return state_->recording != nullptr;
}
const StreamOptions& Stream::options() const {
  return state_->options;
}
void* Stream::native() const {
  return nullptr;
}

Event::Event() : state_(new State) {}
void Event::Delete::operator()(State* state) const noexcept {
  delete state;
}
void Event::record(Stream&) {
  state_->time = std::chrono::steady_clock::now();
  state_->recorded = true;
}
void Event::synchronise() {
  if (MemoryProbe::active()) return;
  emulator::count_synchronisation("Event::synchronise");
}
double Event::milliseconds_since(const Event& start) {
  synchronise();
  if (!state_->recorded || !start.state_->recorded)
    throw ValueError("milliseconds_since: both events must have been recorded");
  return std::chrono::duration<double, std::milli>(state_->time - start.state_->time).count();
}

Graph Graph::capture(Stream& stream, const std::function<void()>& work) {
  if (stream.capturing()) throw DeviceError("Graph::capture: the stream is capturing already");
  Graph graph(new State);
  if (MemoryProbe::active()) return graph;
  struct Recording {
    explicit Recording(Stream::State& in, Graph::State* to) : stream(in) {
      stream.recording = to;
      emulator::capture_broken = false;
      ++emulator::captures;
    }
    ~Recording() {
      stream.recording = nullptr;
      --emulator::captures;
    }
    Stream::State& stream;
  };
  {
    const Recording recording(stream.state(), graph.state_.get());
    work();
  }
  if (emulator::capture_broken)
    throw DeviceError("Graph::capture: the work waited, allocated, released or copied to or from the host");
  return graph;
}

void Graph::Delete::operator()(State* state) const noexcept {
  delete state;
}

void Graph::launch(Stream& stream) {
  if (stream.capturing()) throw DeviceError("Graph::launch into a stream that is capturing");
  for (const auto& node : state_->nodes) node();
}

int Graph::nodes() const {
  return static_cast<int>(state_->nodes.size());
}

Blas::Blas() : state_(new State) {}
void Blas::Delete::operator()(State* state) const noexcept {
  delete state;
}

template <class T>
void gemm(Blas&, Stream& stream, Transpose transpose_a, Transpose transpose_b, int m, int n, int k,
          std::type_identity_t<T> alpha, DevicePointer<const T> a, int lda,
          std::type_identity_t<DevicePointer<const T>> b, int ldb, std::type_identity_t<T> beta,
          std::type_identity_t<DevicePointer<T>> c, int ldc) {
  if (MemoryProbe::active()) return;
  emulator::enqueue(stream, [=] {
    const OpenMemory access;
    const auto* a_at = reinterpret_cast<const T*>(a.address());
    const auto* b_at = reinterpret_cast<const T*>(b.address());
    auto* c_at = reinterpret_cast<T*>(c.address());
    for (Index i = 0; i < m; ++i) {
      for (Index j = 0; j < n; ++j) {
        T sum = 0;
        for (Index l = 0; l < k; ++l) {
          const T left = a_at[transpose_a == Transpose::no ? i * lda + l : l * lda + i];
          const T right = b_at[transpose_b == Transpose::no ? l * ldb + j : j * ldb + l];
          sum += left * right;
        }
        T& out = c_at[i * ldc + j];
        out = beta == 0 ? alpha * sum : alpha * sum + beta * out;
      }
    }
    const std::string found = emulator::check_device_guards();
    if (!found.empty()) throw DeviceError("gemm: " + found);
  });
}
template void gemm<float>(Blas&, Stream&, Transpose, Transpose, int, int, int, float,
                          DevicePointer<const float>, int, DevicePointer<const float>, int, float,
                          DevicePointer<float>, int);
template void gemm<double>(Blas&, Stream&, Transpose, Transpose, int, int, int, double,
                           DevicePointer<const double>, int, DevicePointer<const double>, int, double,
                           DevicePointer<double>, int);

namespace detail {

void copy_to_device(Address to, const void* from, std::size_t bytes, Stream&) {
  if (MemoryProbe::active()) return;
  emulator::count_synchronisation("copy_to_device");
  emulator::check_range(to, bytes, "copy_to_device");
  const OpenMemory access;
  if (bytes > 0) std::memcpy(reinterpret_cast<void*>(to), from, bytes);
}

void copy_to_host(void* to, Address from, std::size_t bytes, Stream&) {
  if (MemoryProbe::active()) {
    if (bytes > 0) std::memset(to, 0, bytes);
    return;
  }
  emulator::count_synchronisation("copy_to_host");
  emulator::check_range(from, bytes, "copy_to_host");
  const OpenMemory access;
  if (bytes > 0) std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
}

void copy_on_device(Address to, Address from, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active()) return;
  emulator::check_range(to, bytes, "copy_on_device");
  emulator::check_range(from, bytes, "copy_on_device");
  emulator::enqueue(stream, [=] {
    const OpenMemory access;
    if (bytes > 0) std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  });
}

void fill_zero(Address to, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active()) return;
  emulator::check_range(to, bytes, "fill_zero");
  emulator::enqueue(stream, [=] {
    const OpenMemory access;
    if (bytes > 0) std::memset(reinterpret_cast<void*>(to), 0, bytes);
  });
}

}  // namespace detail
}  // namespace BRENIER_DIALECT
}  // namespace brenier::device

namespace brenier::device::emulator {

void enqueue(Stream& stream, std::function<void()> task) {
  if (stream.capturing()) {
    stream.state().recording->nodes.push_back(std::move(task));
  } else {
    task();
  }
}

void submit(const Launch& shape, std::function<void()> body) {
  if (shape.shared_bytes > options().shared_memory)
    throw DeviceError(detail::describe(shape) + ": the device has " +
                      std::to_string(options().shared_memory) + " bytes of shared memory for a block");
  if (MemoryProbe::active()) return;
  enqueue(shape.stream, [shape, body = std::move(body)] {
    ++launches[chosen_device];
    run_launch(shape, body);
  });
  if (shape.stream.options().synchronise_launches && !shape.stream.capturing()) shape.stream.synchronise();
}

}  // namespace brenier::device::emulator
