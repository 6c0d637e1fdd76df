// SPDX-License-Identifier: MIT
// usage: planted_bugs CASE
//
// Kernels with one mistake each. A checker that finds nothing proves nothing: check_planted.py runs every
// case in a plain, a TSan and an ASan build, and knows which of them must report it. A case that the plain
// build notices, by a DeviceError, by a result that is wrong or by one that depends on the order of the
// threads, prints "reported: ..." and ends with 1; a case that nobody notices ends with 0.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "kernels/device/device.hpp"

using namespace brenier;
using namespace brenier::device;

using emulator::Order;

namespace {

constexpr int kThreads = 64;

struct Storage {
  Array<float, kThreads> values;
};
struct TwoArrays {
  Array<float, kThreads> first;
  Array<float, kThreads> second;
};

// --- mistakes in the order of shared memory ----------------------------------------------------------------

void missing_barrier(float* out) {
  auto& values = shared_storage<Storage>().values;
  const int t = thread_index();
  values[t] = static_cast<float>(t);
  // sync_block() is missing: the neighbour may not have written yet
  out[t] = values[(t + 1) % kThreads];
}

void write_after_read(float* out) {
  auto& values = shared_storage<Storage>().values;
  const int t = thread_index();
  values[t] = static_cast<float>(t);
  sync_block();
  const float neighbour = values[(t + 1) % kThreads];
  // sync_block() is missing: the value may still be needed by another thread
  values[t] = neighbour + 1;
  sync_block();
  out[t] = values[t];
}

void ordered_by_shuffle(float* out) {
  auto& values = shared_storage<Storage>().values;
  const int t = thread_index();
  values[t] = static_cast<float>(t);
  const int partner = shuffle_xor(t, 1);  // sync_warp() is missing: a shuffle does not order memory
  out[t] = values[partner];
}

// --- mistakes of place -------------------------------------------------------------------------------------

void shared_overflow(float* out) {
  auto& storage = shared_storage<Storage>();
  float* raw = storage.values.values;
  const int t = thread_index();
  raw[t + 1] = static_cast<float>(t);  // the last thread writes one past the end
  sync_block();
  out[t] = t == 0 ? 0 : raw[t];
}

void array_overflow(float* out) {
  auto& storage = shared_storage<TwoArrays>();
  const int t = thread_index();
  storage.first[t + 1] = static_cast<float>(t);  // the last thread writes into `second`
  storage.second[t] = 0;
  sync_block();
  out[t] = storage.second[t];
}

void storage_too_small(float* out) {
  auto& storage = shared_storage<TwoArrays>();  // launched with the size of Storage
  storage.second[thread_index()] = 1;
  sync_block();
  out[thread_index()] = storage.second[thread_index()];
}

void uninitialised_shared(float* out) {
  auto& values = shared_storage<Storage>().values;
  const int t = thread_index();
  if (t < kThreads - 1) values[t] = static_cast<float>(t);  // one element is forgotten
  sync_block();
  out[t] = values[kThreads - 1 - t];
}

void global_overflow(float* out) {
  out[thread_index() + 1] = static_cast<float>(thread_index());  // one past the end
}

void global_overread(float* out) {
  const float next = out[thread_index() + 1];  // one past the end
  sync_block();
  out[thread_index()] = thread_index() < kThreads - 1 ? 0 : next;
}

void misaligned(float* out) {
  store2(out + 1, {1, 2});
}

// Sound, where they are given sound memory.
void number(float* out) {
  out[thread_index()] = static_cast<float>(thread_index());
}

void identity(float* out) {
  out[thread_index()] = out[thread_index()] * 1;
}

// --- mistakes of control flow ------------------------------------------------------------------------------

void divergent_barrier(float* out) {
  if (thread_index() < kThreads / 2) {
    sync_block();  // first half
  } else {
    sync_block();  // second half
  }
  out[thread_index()] = 0;
}

void early_return(float* out) {
  if (thread_index() >= kThreads - 7) return;
  sync_block();
  out[thread_index()] = 0;
}

void divergent_shuffle(float* out) {
  float value = 1;
  if (lane() < 16) value = warp_sum(value);
  sync_block();
  out[thread_index()] = value;
}

// --- mistakes between blocks -------------------------------------------------------------------------------

void block_race(float* out) {
  // all blocks write the same elements
  out[(thread_index() + block_index()) % kThreads] = static_cast<float>(block_index());
}

// --- how they are run --------------------------------------------------------------------------------------

/// Prints and ends the process: this is where a case is over.
[[noreturn]] void report(const std::string& message) {
  std::printf("reported: %s\n", message.c_str());
  std::fflush(stdout);
  std::_Exit(1);
}

using Kernel = void (*)(float*);

std::vector<float> run(Kernel kernel, int grid, std::size_t shared, const emulator::Options& options) {
  const emulator::ScopedOptions set(options);
  Stream stream;
  DeviceBuffer<float> out(kThreads);
  launch(kernel, {grid, kThreads, shared, stream, "planted"}, out.pointer());
  std::vector<float> host(kThreads);
  out.copy_to_host(host, stream);
  return host;
}

/// Forward and reverse must give the same finite numbers.
void in_both_orders(Kernel kernel, int grid = 1, std::size_t shared = sizeof(Storage)) {
  const auto forward = run(kernel, grid, shared, {.threads = Order::forward, .blocks = Order::forward});
  const auto reverse = run(kernel, grid, shared, {.threads = Order::reverse, .blocks = Order::reverse});
  for (int i = 0; i < kThreads; ++i) {
    const float a = forward[static_cast<std::size_t>(i)];
    const float b = reverse[static_cast<std::size_t>(i)];
    const std::string values = std::to_string(a) + " forward, " + std::to_string(b) + " reverse";
    if (!(a - a == 0) || !(b - b == 0)) report("not finite: element " + std::to_string(i) + " is " + values);
    if (a != b) report("order dependent: element " + std::to_string(i) + " is " + values);
  }
}

void on_fault(int, siginfo_t* info, void*) {
  const char* text = emulator::is_device_address(info->si_addr) ? "reported: the host touched device memory\n"
                                                                : "a fault outside device memory\n";
  static_cast<void>(!::write(STDOUT_FILENO, text, std::strlen(text)));
  std::_Exit(emulator::is_device_address(info->si_addr) ? 1 : 3);
}

void host_dereference() {
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGSEGV, &action, nullptr);
  DeviceBuffer<float> buffer(kThreads);
  volatile float* address = reinterpret_cast<volatile float*>(buffer.pointer().address());
  std::printf("read %f\n", static_cast<double>(*address));
}

void use_after_free() {
  Stream stream;
  DevicePointer<float> dangling;
  {
    DeviceBuffer<float> buffer(kThreads);
    buffer.fill_zero(stream);
    dangling = buffer.pointer();
  }
  const DeviceBuffer<float> other(kThreads);  // would fit where the first was
  launch(number, {1, kThreads, 0, stream, "planted"}, dangling);
}

void out_of_memory() {
  const emulator::ScopedOptions set({.memory = 1000});
  const DeviceBuffer<float> first(100);
  try {
    const DeviceBuffer<double> second(100);
  } catch (const OutOfDeviceMemory& error) {
    const bool right = error.requested == 800 && error.free == 600 && error.total == 1000;
    const DeviceBuffer<float> third(150);  // what is free can be had
    if (right) report(error.what());
  }
}

void wait_in_capture() {
  Stream stream;
  Graph::capture(stream, [&] { stream.synchronise(); });
}

void release_in_capture() {
  Stream stream;
  DeviceBuffer<float> buffer(kThreads);
  Graph::capture(stream, [&] { buffer = DeviceBuffer<float>(); });
}

void copy_too_far() {
  Stream stream;
  DeviceBuffer<float> buffer(kThreads);
  std::vector<float> host(kThreads);
  copy_to_host<float>(host, static_cast<const DeviceBuffer<float>&>(buffer).pointer(1), stream);
}

// --- mistakes between the host and the device -------------------------------------------------------------

/// What `program` reads from the device, in finite numbers, whether the device is fast or slow.
template <class Program>
void at_once_and_late(const Program& program) {
  std::vector<float> found[2];
  for (const bool late : {false, true}) {
    const emulator::ScopedOptions set({.delay = late});
    found[late] = program();
  }
  for (std::size_t i = 0; i < found[0].size(); ++i) {
    const std::string values = "element " + std::to_string(i) + " is " + std::to_string(found[0][i]) +
                               " at once, " + std::to_string(found[1][i]) + " late";
    if (!(found[1][i] == found[0][i])) report("not waited for: " + values);
  }
}

std::vector<float> read(const DeviceBuffer<float>& buffer, Stream& stream) {
  std::vector<float> host(static_cast<std::size_t>(buffer.size()));
  buffer.copy_to_host(host, stream);
  return host;
}

std::vector<float> missing_wait() {
  Stream first, second;
  DeviceBuffer<float> numbers(kThreads), copies(kThreads);
  launch(number, {1, kThreads, 0, first, "number"}, numbers.pointer());
  // second.wait(...) is missing: the kernel may not have run yet
  copy_on_device<float>(copies.pointer(), numbers.pointer(), kThreads, second);
  return read(copies, second);
}

std::vector<float> reused_staging() {
  Stream work, copies;
  DeviceBuffer<float> staging(kThreads), first(kThreads), second(kThreads);
  staging.copy_to_device(std::vector<float>(kThreads, 1), copies);
  copy_on_device<float>(first.pointer(), staging.pointer(), kThreads, work);
  // the first copy from the staging memory may not have been made yet
  staging.copy_to_device(std::vector<float>(kThreads, 2), copies);
  copy_on_device<float>(second.pointer(), staging.pointer(), kThreads, work);
  return read(first, work);
}

void lowered_limit() {
  const auto limit = [](std::size_t bytes) {
    device::detail::set_shared_limit(reinterpret_cast<const void*>(number), bytes);
  };
  Stream stream;
  DeviceBuffer<float> out(kThreads);
  const auto run = [&](std::size_t shared) {
    launch(number, {1, kThreads, shared, stream, "planted"}, out.pointer());
  };
  Graph graph = Graph::capture(stream, [&] { run(100'000); });
  limit(60'000);  // for a launch of its own; the graph needs more
  run(60'000);
  graph.launch(stream);
}

struct Many {
  float values[1025];
};
void many_arguments(Many numbers, float* out) {
  out[thread_index()] = numbers.values[thread_index()];
}

void large_arguments() {
  Stream stream;
  DeviceBuffer<float> out(kThreads);
  launch(many_arguments, {1, kThreads, 0, stream, "planted"}, Many{}, out.pointer());
}

/// Whatever the emulator found, the device is as good as new.
void check_device_afterwards() {
  const emulator::ScopedOptions set({});
  Stream stream;
  DeviceBuffer<float> buffer(kThreads);
  buffer.fill_zero(stream);
  launch(identity, {1, kThreads, 16, stream, "identity"}, buffer.pointer());
  std::vector<float> host(kThreads, 1);
  buffer.copy_to_host(host, stream);
  if (host != std::vector<float>(kThreads, 0)) std::_Exit(4);
}

struct Case {
  const char* name;
  void (*run)();
};

const Case kCases[] = {
    {"missing_barrier", [] { in_both_orders(missing_barrier); }},
    {"write_after_read", [] { in_both_orders(write_after_read); }},
    {"ordered_by_shuffle", [] { in_both_orders(ordered_by_shuffle); }},
    {"shared_overflow", [] { in_both_orders(shared_overflow); }},
    {"array_overflow", [] { in_both_orders(array_overflow, 1, sizeof(TwoArrays)); }},
    {"storage_too_small", [] { in_both_orders(storage_too_small); }},
    {"uninitialised_shared", [] { in_both_orders(uninitialised_shared); }},
    {"uninitialised_buffer", [] { in_both_orders(identity); }},
    {"global_overflow", [] { in_both_orders(global_overflow); }},
    {"global_overread", [] { in_both_orders(global_overread); }},
    {"misaligned", [] { in_both_orders(misaligned); }},
    {"divergent_barrier", [] { in_both_orders(divergent_barrier); }},
    {"early_return", [] { in_both_orders(early_return); }},
    {"divergent_shuffle", [] { in_both_orders(divergent_shuffle); }},
    {"block_race", [] { in_both_orders(block_race, 3); }},
    {"too_much_shared", [] { in_both_orders(identity, 1, 228 * 1024); }},
    {"host_dereference", host_dereference},
    {"host_access", [] { static_cast<void>(DeviceBuffer<float>(1).pointer().get()); }},
    {"use_after_free", use_after_free},
    {"out_of_memory", out_of_memory},
    {"wait_in_capture", wait_in_capture},
    {"release_in_capture", release_in_capture},
    {"copy_too_far", copy_too_far},
    {"missing_wait", [] { at_once_and_late(missing_wait); }},
    {"reused_staging", [] { at_once_and_late(reused_staging); }},
    {"lowered_limit", lowered_limit},
    {"large_arguments", large_arguments},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Case& planted : kCases) {
    if (argc != 2 || std::strcmp(argv[1], planted.name) != 0) continue;
    try {
      planted.run();
    } catch (const Error& error) {
      check_device_afterwards();
      report(error.what());
    }
    std::puts("nothing noticed");
    return 0;
  }
  for (const Case& planted : kCases) std::puts(planted.name);
  return 2;
}
