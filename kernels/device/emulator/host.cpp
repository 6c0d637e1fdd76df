// SPDX-License-Identifier: MIT
// The host's side of the emulated device: streams, events, graphs, copies and matrix products.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "kernels/device/emulator/impl.hpp"

namespace brenier::device::emulator {
namespace {

std::atomic<std::uint64_t> synchronisations{0};
std::atomic<std::uint64_t> traffic{0};
std::atomic<int> captures{0};             // open in this process
std::atomic<bool> capture_broken{false};  // by a call that cannot be recorded
constexpr int kMaxDevices = 8;
std::atomic<std::uint64_t> launches[kMaxDevices];
std::atomic<std::uint64_t> handles{0};
thread_local int chosen_device = 0;
constexpr std::size_t kMostArguments = 4096;  // bytes of a launch, before CUDA 12.1 on any device

}  // namespace

// --- work that waits ---------------------------------------------------------------------------------------

/// The work of one stream that has not run. Outlives the stream, as on a device.
struct Queue {
  std::deque<Task> tasks;
};
/// A place in a stream: where it is recorded, and when it was reached.
struct Mark {
  std::shared_ptr<Queue> queue;
  bool reached = false;
  std::chrono::steady_clock::time_point time;
};

namespace {

struct Pending {
  std::recursive_mutex mutex;
  std::set<std::shared_ptr<Queue>> queues;  // those that are not empty
  std::exception_ptr failure;               // of work that ran while nobody could be told
};
Pending& pending() {
  static Pending instance;
  return instance;
}

/// Executes the work of a queue, up to a place in it where one is given.
void drain(std::shared_ptr<Queue> queue, const Mark* until = nullptr) noexcept {
  Pending& p = pending();
  const std::lock_guard lock(p.mutex);
  while (!queue->tasks.empty() && !(until && until->reached)) {
    const Task task = std::move(queue->tasks.front());
    queue->tasks.pop_front();
    try {
      task.run();
    } catch (...) {
      if (!p.failure) p.failure = std::current_exception();
      queue->tasks.clear();
    }
  }
  if (queue->tasks.empty()) p.queues.erase(queue);
}

void throw_failure() {
  Pending& p = pending();
  const std::lock_guard lock(p.mutex);
  if (p.failure) std::rethrow_exception(std::exchange(p.failure, nullptr));
}

// --- the limits of kernels ---------------------------------------------------------------------------------

struct SharedLimits {
  std::mutex mutex;
  std::map<std::pair<const void*, int>, std::size_t> bytes;  // of a kernel on a device
};
SharedLimits& shared_limits() {
  static SharedLimits instance;
  return instance;
}

/// DeviceError where a kernel may not have the shared memory of its launch.
void check_shared_limit(const Task& task) {
  SharedLimits& limits = shared_limits();
  const std::lock_guard lock(limits.mutex);
  const auto found = limits.bytes.find({task.kernel, chosen_device});
  const std::size_t limit = found == limits.bytes.end() ? detail::kSharedWithoutAsking : found->second;
  if (task.shared_bytes > limit)
    throw DeviceError(task.name + ": its limit of shared memory has been set to " + std::to_string(limit) +
                      " bytes; a limit lasts until it is set again");
}

}  // namespace

void run_pending() noexcept {
  Pending& p = pending();
  const std::lock_guard lock(p.mutex);
  while (!p.queues.empty()) drain(*p.queues.begin());
}

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

std::uint64_t handles_made() {
  return handles;
}

}  // namespace brenier::device::emulator

namespace brenier::device {
inline namespace BRENIER_DIALECT {

using emulator::OpenMemory;

struct Graph::State {
  std::vector<emulator::Task> nodes;
};
struct Stream::State {
  StreamOptions options;
  Graph::State* recording = nullptr;
  std::shared_ptr<emulator::Queue> queue = std::make_shared<emulator::Queue>();
};
struct Event::State {
  std::shared_ptr<emulator::Mark> mark;  // the last one that was recorded
};
struct Blas::State {
  int device = 0;
};

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

std::size_t most_shared_bytes(int blocks) {
  const std::size_t most = emulator::options().shared_memory, reserved = 1024;
  const std::size_t share = (most + reserved) / static_cast<std::size_t>(blocks);
  return std::min(most, share > reserved ? share - reserved : 0);
}

std::uint64_t host_synchronisations() noexcept {
  return emulator::synchronisations;
}
std::uint64_t host_traffic() noexcept {
  return emulator::traffic;
}

Stream::Stream(StreamOptions options) : state_(new State{.options = options}) {}
void Stream::Delete::operator()(State* state) const noexcept {
  delete state;
}
void Stream::synchronise() {
  if (MemoryProbe::active()) return;
  emulator::count_synchronisation("Stream::synchronise");
  emulator::drain(state_->queue);
  emulator::throw_failure();
}
void Stream::wait(const Event& event) {
  const std::shared_ptr<emulator::Mark> mark = event.state().mark;
  if (!mark) return;  // as CUDA: nothing to wait for
  emulator::enqueue(*state_, {.run = [mark] { emulator::drain(mark->queue, mark.get()); }});
}
namespace {
/// A place in a stream, after all that it has been given so far.
std::shared_ptr<emulator::Mark> mark_in(Stream::State& stream) {
  const auto mark = std::make_shared<emulator::Mark>();
  mark->queue = stream.queue;
  emulator::enqueue(stream, {.run = [mark] {
                      mark->time = std::chrono::steady_clock::now();
                      mark->reached = true;
                    }});
  return mark;
}
/// Later work of `then` starts after all that `first` has been given so far.
void order(void* first, void* then) {
  if (MemoryProbe::active() || !first || !then) return;
  const std::shared_ptr<emulator::Mark> mark = mark_in(*static_cast<Stream::State*>(first));
  emulator::enqueue(*static_cast<Stream::State*>(then),
                    {.run = [mark] { emulator::drain(mark->queue, mark.get()); }});
}
}  // namespace
void Stream::follow(void* other) {
  order(other, native());
}
void Stream::lead(void* other) {
  order(native(), other);
}
bool Stream::capturing() const {
  return state_->recording != nullptr;
}
const StreamOptions& Stream::options() const {
  return state_->options;
}
void* Stream::native() const {
  return state_.get();
}

Event::Event() : state_(new State) {}
void Event::Delete::operator()(State* state) const noexcept {
  delete state;
}
void Event::record(Stream& stream) {
  if (MemoryProbe::active()) return;
  state_->mark = mark_in(stream.state());
}
void Event::synchronise() {
  if (MemoryProbe::active()) return;
  emulator::count_synchronisation("Event::synchronise");
  if (state_->mark) emulator::drain(state_->mark->queue, state_->mark.get());
  emulator::throw_failure();
}
double Event::milliseconds_since(const Event& start) {
  if (MemoryProbe::active()) return 0;
  synchronise();
  if (!state_->mark || !start.state_->mark)
    throw ValueError("milliseconds_since: both events must have been recorded");
  if (!start.state_->mark->reached)
    throw DeviceError("milliseconds_since: the work before the first event has not been waited for");
  return std::chrono::duration<double, std::milli>(state_->mark->time - start.state_->mark->time).count();
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
  for (const emulator::Task& node : state_->nodes) {
    if (node.kernel) emulator::check_shared_limit(node);
  }
  for (const emulator::Task& node : state_->nodes) emulator::enqueue(stream.state(), node);
  if (stream.options().synchronise_launches) stream.synchronise();
}

int Graph::nodes() const {
  return static_cast<int>(state_->nodes.size());
}

Blas::Blas() : state_(detail::idle<State>().take(current_device())) {
  if (state_) return;
  state_.reset(new State{.device = current_device()});
  ++emulator::handles;
}
void Blas::Delete::operator()(State* state) const noexcept {
  emulator::run_pending();
  detail::idle<State>().give(std::unique_ptr<State>(state), !MemoryProbe::active());
}

template <class T>
void gemm(Blas&, Stream& stream, const Product<T>& product) {
  if (MemoryProbe::active()) return;
  emulator::enqueue(
      stream.state(), {.run = [product] {
        const OpenMemory access;
        const auto& [m, n, k, a, b, c, ldc, alpha, beta] = product;
        const auto* a_at = reinterpret_cast<const T*>(a.data.address());
        const auto* b_at = reinterpret_cast<const T*>(b.data.address());
        auto* c_at = reinterpret_cast<T*>(c.address());
        // Distances between elements of a row and of a column of op(A), and of op(B).
        const Index a_row = a.transpose == Transpose::no ? a.ld : 1, a_column = a.ld + 1 - a_row;
        const Index b_row = b.transpose == Transpose::no ? b.ld : 1, b_column = b.ld + 1 - b_row;
        for (Index i = 0; i < m; ++i) {
          for (Index j = 0; j < n; ++j) {
            T sum = 0;
            for (Index l = 0; l < k; ++l) {
              sum += a_at[i * a_row + l * a_column] * b_at[l * b_row + j * b_column];
            }
            T& out = c_at[i * ldc + j];
            out = beta == 0 ? alpha * sum : alpha * sum + beta * out;
          }
        }
        const std::string found = emulator::check_device_guards();
        if (!found.empty()) throw DeviceError("gemm: " + found);
      }});
}
template void gemm(Blas&, Stream&, const Product<float>&);
template void gemm(Blas&, Stream&, const Product<double>&);

namespace detail {

void set_shared_limit(const void* kernel, std::size_t bytes) {
  if (bytes > most_shared_bytes())
    throw DeviceError("set_shared_limit: " + std::to_string(bytes) + " bytes; the device has " +
                      std::to_string(most_shared_bytes()) + " for a block");
  emulator::SharedLimits& limits = emulator::shared_limits();
  const std::lock_guard lock(limits.mutex);
  limits.bytes[{kernel, current_device()}] = bytes;
}

void copy_to_device(Address to, const void* from, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active()) return;
  emulator::count_synchronisation("copy_to_device");
  emulator::traffic += bytes;
  emulator::check_range(to, bytes, "copy_to_device");
  emulator::drain(stream.state().queue);
  emulator::throw_failure();
  const OpenMemory access;
  if (bytes > 0) std::memcpy(reinterpret_cast<void*>(to), from, bytes);
}

void copy_to_host(void* to, Address from, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active()) {
    if (bytes > 0) std::memset(to, 0, bytes);
    return;
  }
  emulator::count_synchronisation("copy_to_host");
  emulator::traffic += bytes;
  emulator::check_range(from, bytes, "copy_to_host");
  emulator::drain(stream.state().queue);
  emulator::throw_failure();
  const OpenMemory access;
  if (bytes > 0) std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
}

void copy_on_device(Address to, Address from, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active()) return;
  emulator::check_range(to, bytes, "copy_on_device");
  emulator::check_range(from, bytes, "copy_on_device");
  emulator::enqueue(stream.state(), {.run = [=] {
                      const OpenMemory access;
                      if (bytes > 0)
                        std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
                    }});
}

void fill_zero(Address to, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active()) return;
  emulator::check_range(to, bytes, "fill_zero");
  emulator::enqueue(stream.state(), {.run = [=] {
                      const OpenMemory access;
                      if (bytes > 0) std::memset(reinterpret_cast<void*>(to), 0, bytes);
                    }});
}

}  // namespace detail
}  // namespace BRENIER_DIALECT
}  // namespace brenier::device

namespace brenier::device::emulator {

void enqueue(Stream::State& state, Task task) {
  if (state.recording) {
    state.recording->nodes.push_back(std::move(task));
    return;
  }
  if (!options().delay) {
    task.run();
    return;
  }
  Pending& p = pending();
  const std::lock_guard lock(p.mutex);
  state.queue->tasks.push_back(std::move(task));
  p.queues.insert(state.queue);
}

void submit(const void* kernel, const Launch& shape, std::size_t argument_bytes, std::function<void()> body) {
  if (shape.shared_bytes > options().shared_memory)
    throw DeviceError(detail::describe(shape) + ": the device has " +
                      std::to_string(options().shared_memory) + " bytes of shared memory for a block");
  if (argument_bytes > kMostArguments)
    throw DeviceError(detail::describe(shape) + ": " + std::to_string(argument_bytes) +
                      " bytes of arguments; more than " + std::to_string(kMostArguments) +
                      " travel with no launch on every device: leave large ones in device memory");
  if (MemoryProbe::active()) return;
  detail::require_shared(kernel, shape.shared_bytes);
  Task task{.kernel = kernel, .shared_bytes = shape.shared_bytes, .name = detail::describe(shape)};
  check_shared_limit(task);
  // A copy without the stream, which may be gone when a delayed launch runs.
  task.run = [grid = shape.grid, block = shape.block, bytes = shape.shared_bytes, name = shape.name,
              device = chosen_device, body = std::move(body)] {
    ++launches[device];
    Stream none{StreamOptions{}};
    run_launch({grid, block, bytes, none, name}, body);
  };
  enqueue(shape.stream.state(), std::move(task));
  if (shape.stream.options().synchronise_launches && !shape.stream.capturing()) shape.stream.synchronise();
}

}  // namespace brenier::device::emulator
