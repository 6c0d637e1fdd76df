// SPDX-License-Identifier: MIT
#include "brenier/base/team.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "brenier/base/error.hpp"
#include "kernels/base/floating_point.hpp"

namespace brenier {
namespace {

constexpr int kMost = 4096;  // as settings have it

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// While it lives, threads start with the host's signals blocked: these are for threads of the host, which may wait for them
/// with sigwait(). Signals that a thread causes itself stay, so that a crash is reported as any other.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS}) sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

int Team::available() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

struct Team::Workers {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable done;
  const std::function<void(int)>* body = nullptr;
  unsigned round = 0;
  int running = 0;
  bool closing = false;
  std::exception_ptr failure;
  bool oversubscribed = false;
  const pid_t process = getpid();  // that has the threads: fork() does not copy them
  std::vector<std::thread> threads;

  static std::unique_ptr<Workers> start(int size) {
    auto out = std::make_unique<Workers>();
    out->oversubscribed = size > available();
    const NoSignals blocked;
    try {
      for (int rank = 1; rank < size; ++rank)
        out->threads.emplace_back([w = out.get(), rank] { w->work(rank); });
    } catch (const std::system_error& error) {
      const std::size_t started = out->threads.size() + 1;
      out->close();
      throw NotAvailable("threads = " + std::to_string(size) + ": the system gave " +
                         std::to_string(started) + " and no more (" + error.what() + "); ask for fewer");
    } catch (...) {
      out->close();
      throw;
    }
    return out;
  }

  bool of_another_process() const { return !threads.empty() && process != getpid(); }

  void record_failure() {
    const std::lock_guard lock(mutex);
    if (!failure) failure = std::current_exception();
  }

  void close() {
    {
      const std::lock_guard lock(mutex);
      closing = true;
    }
    wake.notify_all();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  void work(int rank) {
    const PlainFloatingPoint plain;
    unsigned seen = 0;
    for (;;) {
      const std::function<void(int)>* job = nullptr;
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return closing || round != seen; });
        if (closing) return;
        seen = round;
        job = body;
      }
      try {
        (*job)(rank);
      } catch (...) {
        record_failure();
      }
      const std::lock_guard lock(mutex);
      if (--running == 0) done.notify_one();
    }
  }
};

Team::Team(int threads) : size_(threads == 0 ? available() : threads) {
  if (threads < 0 || threads > kMost) {
    throw ValueError("threads = " + std::to_string(threads) + "; it must be at least 1 and at most " +
                     std::to_string(kMost) + ", or 0 for all");
  }
  workers_ = Workers::start(size_);
}

Team::~Team() {
  // Threads of the parent cannot be joined here, nor what they hold be destroyed.
  if (workers_->of_another_process()) {
    static_cast<void>(workers_.release());
    return;
  }
  workers_->close();
}

void Team::run(const std::function<void(int)>& body) {
  if (workers_->of_another_process()) {
    std::unique_ptr<Workers> own = Workers::start(size_);
    static_cast<void>(workers_.release());
    workers_ = std::move(own);
    arrived_ = 0;
  }
  // As the threads have it: results do not depend on who computes what.
  const PlainFloatingPoint plain;
  Workers& w = *workers_;
  {
    const std::lock_guard lock(w.mutex);
    w.body = &body;
    w.running = size_ - 1;
    ++w.round;
    w.failure = nullptr;
  }
  w.wake.notify_all();
  try {
    body(0);
  } catch (...) {
    w.record_failure();
  }
  std::unique_lock lock(w.mutex);
  w.done.wait(lock, [&] { return w.running == 0; });
  if (w.failure) std::rethrow_exception(std::exchange(w.failure, nullptr));
}

void Team::barrier() {
  if (size_ == 1) return;
  const unsigned generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    generation_.notify_all();
    return;
  }
  // Threads arrive within microseconds of each other when each has a processor: spin that long before asking
  // the system to wait. Longer spins would burn the processor that a thread of another process holds us up
  // with.
  const int spins = workers_->oversubscribed ? 0 : 1000;
  for (int i = 0; i < spins; ++i) {
    if (generation_.load(std::memory_order_acquire) != generation) return;
    pause_briefly();
  }
  generation_.wait(generation, std::memory_order_acquire);
}

}  // namespace brenier
