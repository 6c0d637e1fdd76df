// SPDX-License-Identifier: MIT
// Blocks and threads of the emulator. The threads of a block are fibers on the launching OS thread. A
// scheduler runs each until it waits, then completes the warp operations and barriers that all their threads
// have reached.
//
// Under TSan each fiber is a thread of its own and switches order nothing; the only happens-before edges are
// those of CUDA: launch -> threads -> end of the launch, sync_block, sync_warp. The emulator's own state
// would be full of "races" in that view, so the functions that fibers and scheduler share are not
// instrumented, and call no container.
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <numeric>
#include <vector>

#include "brenier/base/philox.hpp"
#include "kernels/device/emulator/impl.hpp"

#if BRENIER_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if BRENIER_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#define BRENIER_UNINSTRUMENTED __attribute__((no_sanitize("thread"), noinline))

namespace brenier::device::emulator {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kWarp = 32;
constexpr std::size_t kStack = 256 << 10;      // of a fiber; only touched pages cost memory
constexpr std::size_t kColour = 512;           // stacks start that much apart in a page: they share the cache
constexpr std::size_t kGuardPage = 4096;       // below the stack
constexpr std::size_t kKeptShared = 64 << 20;  // bytes of shared memory that finished blocks may keep

enum class State { fresh, ready, at_block, at_warp, done };

struct Block;

struct Thread {
  Block* block = nullptr;
  int index = 0;
  State state = State::done;
  Where where;                     // of the barrier or warp operation it waits at
  std::uint64_t slot[2] = {0, 0};  // what it gives to a warp operation; by turns, as lanes may be one ahead
  float values[2][8] = {};         // likewise, of give()
  unsigned warp_operations = 0;    // done in this block; their parity picks slots and TSan's objects
  unsigned warp_barriers = 0;
  unsigned block_barriers = 0;

  std::byte* stack = nullptr;
  void* jump[5] = {};
  bool born = false;
  void* tsan_fiber = nullptr;
  void* fake_stack = nullptr;
  ucontext_t context;
};

struct Block {
  Thread* threads[kMaxThreads] = {};
  int size = 0;
  int index = 0;
  bool finished = false;
  const SharedMemory* shared = nullptr;
  char block_sync[2] = {};  // addresses that TSan knows the barriers by
  char warp_sync[kMaxThreads / kWarp][2] = {};
};

/// Thrown in the threads of a block in which something went wrong, to unwind their stacks.
struct Cancelled {};

// The device: one per process, like the hardware it stands for. Launches hold the lock of OpenMemory.
struct Engine {
  Options options;
  const Launch* shape = nullptr;
  const std::function<void()>* body = nullptr;
  Thread* current = nullptr;
  int thread_order[kMaxThreads] = {};
  Block blocks[2];  // neighbouring blocks have their own fibers: TSan tells their threads apart
  bool failed = false;
  bool cancelling = false;
  std::string failure;
  char begin_sync = 0;
  char end_sync = 0;

  ucontext_t scheduler;
  void* scheduler_jump[5] = {};
  void* tsan_scheduler = nullptr;
  void* fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_size = 0;
};
Engine engine;

BRENIER_UNINSTRUMENTED void happens_before([[maybe_unused]] char& object) {
#if BRENIER_TSAN
  __tsan_release(&object);
#endif
}
BRENIER_UNINSTRUMENTED void happens_after([[maybe_unused]] char& object) {
#if BRENIER_TSAN
  __tsan_acquire(&object);
#endif
}

BRENIER_UNINSTRUMENTED void mark_failed() {
  engine.failed = true;
}

void fail(const std::string& message) {
  if (!engine.failed) engine.failure = message;
  happens_before(engine.end_sync);
  mark_failed();
}

[[noreturn]] void fail_here(const std::string& message) {
  const Thread& self = *engine.current;
  fail("block " + std::to_string(self.block->index) + ", thread " + std::to_string(self.index) + ": " +
       message);
  throw Cancelled{};
}

std::string place(const Where& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

// --- switching ------------------------------------------------------------------------------------------
// swapcontext saves the signal mask by a system call on each switch, and longjmp looks for handlers to run.
// Without the address sanitizer, which has to be told, a context only starts a fiber, and the switches are
// the compiler's own jumps: stack, frame and program counter.

#if !BRENIER_ASAN
/// From the stack that `from` remembers to where `to` was left, or to the beginning of `fresh`.
BRENIER_UNINSTRUMENTED void jump(void** from, void** to, const ucontext_t* fresh) {
  if (__builtin_setjmp(from) != 0) return;
  if (fresh) setcontext(fresh);
  __builtin_longjmp(to, 1);
}
#endif

/// Runs a thread until it waits or ends.
BRENIER_UNINSTRUMENTED void resume(Thread& thread) {
  engine.current = &thread;
#if BRENIER_TSAN
  __tsan_switch_to_fiber(thread.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#if BRENIER_ASAN
  __sanitizer_start_switch_fiber(&engine.fake_stack, thread.stack, kStack);
  swapcontext(&engine.scheduler, &thread.context);
  __sanitizer_finish_switch_fiber(engine.fake_stack, nullptr, nullptr);
#else
  const ucontext_t* fresh = thread.born ? nullptr : &thread.context;
  thread.born = true;
  jump(engine.scheduler_jump, thread.jump, fresh);
#endif
  engine.current = nullptr;
}

BRENIER_UNINSTRUMENTED void to_scheduler(Thread& self) {
#if BRENIER_TSAN
  __tsan_switch_to_fiber(engine.tsan_scheduler, __tsan_switch_to_fiber_no_sync);
#endif
#if BRENIER_ASAN
  __sanitizer_start_switch_fiber(&self.fake_stack, engine.scheduler_stack, engine.scheduler_stack_size);
  swapcontext(&self.context, &engine.scheduler);
  __sanitizer_finish_switch_fiber(self.fake_stack, &engine.scheduler_stack, &engine.scheduler_stack_size);
#else
  jump(self.jump, engine.scheduler_jump, nullptr);
#endif
}

void run_body() {
  happens_after(engine.begin_sync);
  try {
    (*engine.body)();
  } catch (const Cancelled&) {
  } catch (const std::exception& error) {
    fail(std::string("the kernel threw: ") + error.what());
  }
  happens_before(engine.end_sync);
}

/// Where a fiber starts; it then runs one body after another.
BRENIER_UNINSTRUMENTED void fiber_main() {
#if BRENIER_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &engine.scheduler_stack, &engine.scheduler_stack_size);
#endif
  for (;;) {
    run_body();
    Thread& self = *engine.current;
    self.state = State::done;
    to_scheduler(self);
  }
}

Thread* make_thread(Block& block, int index) {
  void* memory = ::mmap(nullptr, kGuardPage + kStack, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw DeviceError("emulator: no memory for the stack of a thread");
  ::mprotect(memory, kGuardPage, PROT_NONE);
  auto* thread = new Thread;  // fibers live as long as the process
  thread->block = &block;
  thread->index = index;
  thread->stack = static_cast<std::byte*>(memory) + kGuardPage;
  getcontext(&thread->context);
  thread->context.uc_stack.ss_sp = thread->stack;
  thread->context.uc_stack.ss_size = kStack - kColour * static_cast<std::size_t>(index % kWarp);
  thread->context.uc_link = nullptr;
  makecontext(&thread->context, fiber_main, 0);
#if BRENIER_TSAN
  thread->tsan_fiber = __tsan_create_fiber(0);
#endif
  return thread;
}

// --- waiting -----------------------------------------------------------------------------------------------

BRENIER_UNINSTRUMENTED Thread& current() {
  if (!engine.current) throw DeviceError("device code was called on the host: only kernels may use it");
  return *engine.current;
}

BRENIER_UNINSTRUMENTED void wait(Thread& self, State why, const Where& where) {
  self.state = why;
  self.where = where;
  to_scheduler(self);
  if (engine.cancelling) throw Cancelled{};
}

BRENIER_UNINSTRUMENTED bool same_place(const Where& a, const Where& b) {
  if (a.line() != b.line() || a.column() != b.column()) return false;
  return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
}

/// Whether `count` threads from `first` on all wait at one place.
BRENIER_UNINSTRUMENTED bool all_wait(const Block& block, int first, int count, State why) {
  for (int i = first; i < first + count; ++i) {
    const Thread& thread = *block.threads[i];
    if (thread.state != why || !same_place(thread.where, block.threads[first]->where)) return false;
  }
  return true;
}

BRENIER_UNINSTRUMENTED void make_ready(Block& block, int first, int count) {
  for (int i = first; i < first + count; ++i) block.threads[i]->state = State::ready;
}

/// Runs every thread of a warp that can run and completes warp operations, until none moves; whether any did.
/// `order`: of its lanes.
BRENIER_UNINSTRUMENTED bool advance_warp(Block& block, int first, const int* order) {
  bool moved = false;
  do {
    for (int k = 0; k < kWarp; ++k) {
      Thread& thread = *block.threads[order[k]];
      if (thread.state != State::fresh && thread.state != State::ready) continue;
      resume(thread);
      moved = true;
      if (engine.failed) return true;
    }
    if (!all_wait(block, first, kWarp, State::at_warp)) return moved;
    make_ready(block, first, kWarp);
  } while (true);
}

/// Warp by warp, so that the stacks in use stay in the cache. False where nothing moved.
BRENIER_UNINSTRUMENTED bool advance(Block& block) {
  bool moved = false;
  for (int k = 0; k < block.size && !engine.failed; k += kWarp) {
    const int* order = engine.thread_order + k;
    moved |= advance_warp(block, *order / kWarp * kWarp, order);
  }
  return moved;
}

/// The first thread of a range that is in another state, or waits elsewhere, than `thread`.
const Thread* find_other(const Block& block, int first, int count, const Thread& thread) {
  for (int i = first; i < first + count; ++i) {
    const Thread& other = *block.threads[i];
    if (other.state != thread.state || !same_place(other.where, thread.where)) return &other;
  }
  return nullptr;
}

/// Why no thread of a block can go on.
std::string explain(const Block& block) {
  const Thread* stuck = nullptr;
  for (int i = 0; i < block.size; ++i) {
    const Thread& thread = *block.threads[i];
    if (thread.state == State::at_warp || (thread.state == State::at_block && !stuck)) stuck = &thread;
    if (thread.state == State::at_warp) break;
  }
  const bool in_warp = stuck->state == State::at_warp;
  const Thread* other = in_warp ? find_other(block, stuck->index / kWarp * kWarp, kWarp, *stuck)
                                : find_other(block, 0, block.size, *stuck);
  const auto tell = [](const Thread& thread) {
    const std::string who = "thread " + std::to_string(thread.index);
    if (thread.state == State::done) return who + " has returned";
    const char* what =
        thread.state == State::at_warp ? " waits at the warp operation " : " waits at sync_block ";
    return who + what + place(thread.where);
  };
  return "block " + std::to_string(block.index) + ": deadlock by divergence: " + tell(*stuck) + ", " +
         tell(*other) + "; every thread must pass every barrier";
}

/// Nothing moved: the block is over, passes a barrier, or is stuck.
void settle(Block& block) {
  int done = 0;
  for (int i = 0; i < block.size; ++i) done += block.threads[i]->state == State::done;
  if (done == block.size) {
    block.finished = true;
  } else if (all_wait(block, 0, block.size, State::at_block)) {
    make_ready(block, 0, block.size);
  } else {
    fail(explain(block));
  }
}

void cancel(Block& block) {
  engine.cancelling = true;
  for (int i = 0; i < block.size; ++i) {
    Thread& thread = *block.threads[i];
    if (thread.state != State::fresh && thread.state != State::done) resume(thread);
    thread.state = State::done;
  }
  engine.cancelling = false;
}

// --- launches ----------------------------------------------------------------------------------------------

BRENIER_UNINSTRUMENTED void start(Block& block, int index, const SharedMemory& shared) {
  block.size = engine.shape->block;
  block.index = index;
  block.finished = false;
  block.shared = &shared;
  for (int i = 0; i < block.size; ++i) {
    if (!block.threads[i]) block.threads[i] = make_thread(block, i);
    Thread& thread = *block.threads[i];
    thread.state = State::fresh;
    thread.warp_operations = thread.warp_barriers = thread.block_barriers = 0;
  }
}

/// Runs `count` blocks by turns until all have finished or something failed.
void run_blocks(Block** blocks, int count) {
  happens_before(engine.begin_sync);
  for (int unfinished = count; unfinished > 0 && !engine.failed;) {
    unfinished = 0;
    for (int b = 0; b < count && !engine.failed; ++b) {
      Block& block = *blocks[b];
      if (!block.finished && !advance(block)) settle(block);
      unfinished += !block.finished;
    }
  }
  if (!engine.failed) return;
  happens_after(engine.end_sync);
  for (int b = 0; b < count; ++b) cancel(*blocks[b]);
}

/// 0 .. n-1 as `order` says.
void arrange(int* out, int n, Order order, std::uint64_t salt) {
  std::iota(out, out + n, 0);
  if (order == Order::reverse) std::reverse(out, out + n);
  if (order != Order::shuffled) return;
  const Random random(engine.options.seed, RandomStream::fresh);
  for (int i = n - 1; i > 0; --i) {
    const auto bound = static_cast<std::uint32_t>(i + 1);
    std::swap(out[i],
              out[random.below(bound, static_cast<std::uint32_t>(salt), 0, static_cast<std::uint32_t>(i))]);
  }
}

/// engine.thread_order: the warps in some order, each with its lanes in some order.
void arrange_threads(int threads) {
  int warps[kMaxThreads / kWarp];
  arrange(warps, threads / kWarp, engine.options.threads, 1);
  for (int k = 0; k < threads; k += kWarp) {
    const int warp = warps[k / kWarp];
    int* lanes = engine.thread_order + k;
    arrange(lanes, kWarp, engine.options.threads, 2 + static_cast<std::uint64_t>(warp));
    for (int lane = 0; lane < kWarp; ++lane) lanes[lane] += warp * kWarp;
  }
}

/// What the guard zones say, after the first failure of the kernel itself.
void check_guards(const std::string& found) {
  if (found.empty()) return;
  engine.failure += (engine.failed ? "; " : "") + found;
  engine.failed = true;
}

/// What the threads of a launch did has happened; their shared memory can go.
void join(std::deque<SharedMemory>& shared) {
  happens_after(engine.end_sync);
  for (const SharedMemory& memory : shared) check_guards(memory.check());
  shared.clear();
}

void run_grid(const Launch& shape) {
  std::vector<int> order(static_cast<std::size_t>(shape.grid));
  arrange(order.data(), shape.grid, engine.options.blocks, 0);
  arrange_threads(shape.block);
  // Kept for a while: TSan would see the reuse of shared memory as an order between blocks.
  std::deque<SharedMemory> shared;
  const std::size_t most = kKeptShared / (shape.shared_bytes + 1) + 2;
  const int together = engine.options.interleave ? 2 : 1;
  for (int i = 0; i < shape.grid && !engine.failed; i += together) {
    Block* running[2] = {};
    const int count = std::min(together, shape.grid - i);
    for (int b = 0; b < count; ++b) {
      const int index = order[static_cast<std::size_t>(i + b)];
      running[b] = &engine.blocks[(i + b) % 2];
      start(*running[b], index, shared.emplace_back(shape.shared_bytes, index));
    }
    run_blocks(running, count);
    if (shared.size() > most) join(shared);
  }
  join(shared);
}

}  // namespace

const Options& options() {
  return engine.options;
}

ScopedOptions::ScopedOptions(const Options& options) : before_(engine.options) {
  run_pending();
  engine.options = options;
}
ScopedOptions::~ScopedOptions() {
  run_pending();
  engine.options = before_;
}

void run_launch(const Launch& shape, const std::function<void()>& body) {
  const OpenMemory access;
  if (engine.shape) throw DeviceError(detail::describe(shape) + ": launched from inside a kernel");
  engine.shape = &shape;
  engine.body = &body;
  engine.failed = false;
  engine.failure.clear();
#if BRENIER_TSAN
  engine.tsan_scheduler = __tsan_get_current_fiber();
#endif
  run_grid(shape);
  check_guards(check_device_guards());
  engine.shape = nullptr;
  engine.body = nullptr;
  if (engine.failed) throw DeviceError(detail::describe(shape) + ": " + engine.failure);
}

// --- what the dialect is made of ---------------------------------------------------------------------------

BRENIER_UNINSTRUMENTED int thread_index() {
  return current().index;
}
BRENIER_UNINSTRUMENTED int block_index() {
  return current().block->index;
}
BRENIER_UNINSTRUMENTED int block_size() {
  return current().block->size;
}
BRENIER_UNINSTRUMENTED int grid_size() {
  current();
  return engine.shape->grid;
}

BRENIER_UNINSTRUMENTED void sync_block(const Where& where) {
  Thread& self = current();
  // Two objects by turns: who is already at the next barrier must not order those still at this one.
  char& object = self.block->block_sync[self.block_barriers++ % 2];
  happens_before(object);
  wait(self, State::at_block, where);
  happens_after(object);
}

BRENIER_UNINSTRUMENTED void sync_warp(const Where& where) {
  Thread& self = current();
  char& object = self.block->warp_sync[self.index / kWarp][self.warp_barriers++ % 2];
  happens_before(object);
  wait(self, State::at_warp, where);
  happens_after(object);
}

BRENIER_UNINSTRUMENTED std::uint64_t exchange(std::uint64_t value, int source_lane, const Where& where) {
  Thread& self = current();
  const unsigned turn = self.warp_operations++ % 2;
  self.slot[turn] = value;
  wait(self, State::at_warp, where);
  if (source_lane < 0 || source_lane >= kWarp) return value;
  return self.block->threads[self.index / kWarp * kWarp + source_lane]->slot[turn];
}

BRENIER_UNINSTRUMENTED unsigned ballot(bool predicate, const Where& where) {
  Thread& self = current();
  const unsigned turn = self.warp_operations++ % 2;
  self.slot[turn] = predicate;
  wait(self, State::at_warp, where);
  unsigned votes = 0;
  for (int i = 0; i < kWarp; ++i)
    votes |= static_cast<unsigned>(self.block->threads[self.index / kWarp * kWarp + i]->slot[turn]) << i;
  return votes;
}

BRENIER_UNINSTRUMENTED unsigned give(const float* values, int count, const Where& where) {
  Thread& self = current();
  const unsigned turn = self.warp_operations++ % 2;
  for (int k = 0; k < count; ++k) self.values[turn][k] = values[k];
  wait(self, State::at_warp, where);
  return turn;
}

BRENIER_UNINSTRUMENTED float given(int lane, int k, unsigned operation) {
  const Thread& self = current();
  return self.block->threads[self.index / kWarp * kWarp + lane]->values[operation][k];
}

BRENIER_UNINSTRUMENTED void* shared_memory(std::size_t offset, std::size_t bytes, std::size_t alignment,
                                           const Where& where) {
  const SharedMemory& shared = *current().block->shared;
  if (offset > shared.size() || bytes > shared.size() - offset)
    fail_here(place(where) + " asks for bytes " + std::to_string(offset) + " to " +
              std::to_string(offset + bytes) + " of shared memory, launched with " +
              std::to_string(shared.size()));
  return const_cast<void*>(aligned(shared.data() + offset, alignment, where));
}

BRENIER_UNINSTRUMENTED void* aligned(const void* address, std::size_t alignment, const Where& where) {
  current();
  if (reinterpret_cast<Address>(address) % alignment != 0)
    fail_here("misaligned access at " + place(where) + ": the address must be a multiple of " +
              std::to_string(alignment) + " bytes");
  return const_cast<void*>(address);
}

void report_index(int index, int size) {
  current();
  fail_here("index " + std::to_string(index) + " of an Array of " + std::to_string(size));
}

}  // namespace brenier::device::emulator
