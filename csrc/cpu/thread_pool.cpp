#include "cpu/thread_pool.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace fastlog::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// The work of one call, and the first exception out of it.
class Job {
 public:
  explicit Job(const std::function<void()>& work) : work_(work) {}

  void take_part() noexcept {
    try {
      work_();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    if (std::this_thread::get_id() == caller_) caller_done_ = Clock::now();
  }

  // For how long the caller has had nothing left to do.
  Clock::duration waited() const { return Clock::now() - caller_done_; }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  const std::function<void()>& work_;
  const std::thread::id caller_ = std::this_thread::get_id();
  Clock::time_point caller_done_;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

// The threads of the OpenMP runtime that torch has loaded with global symbols. After each operation of torch these
// threads spin for some milliseconds, on the cores that helpers need. As long as they spin they begin a job at once,
// and threads of our own would have to wait for a core. Once they sleep, the caller has to wait until they wake. So
// after a late job the team rests, twice as long after each further one.
class Team {
 public:
  Team() : parallel_(reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"))) {}

  // False where the job has to be done by others: no runtime, or late ones.
  bool run(int helpers, Job& job) {
    if (parallel_ == nullptr) return false;
    if (Clock::now() < rest_until_) return false;
    parallel_([](void* data) { static_cast<Job*>(data)->take_part(); }, &job, static_cast<unsigned>(helpers) + 1, 0);
    if (job.waited() < kLate) {
      rest_ = std::max<Clock::duration>(rest_ - rest_ / 8, kShortestRest);  // waiting once costs more than help saves
    } else {
      rest_until_ = Clock::now() + rest_;
      rest_ = std::min<Clock::duration>(2 * rest_, kLongestRest);
    }
    return true;
  }

  // An OpenMP runtime does not outlive fork.
  void forget() { parallel_ = nullptr; }

 private:
  static constexpr std::chrono::microseconds kLate{200};  // a chunk takes less, a scheduler's time slice more
  static constexpr std::chrono::seconds kShortestRest{1};
  static constexpr std::chrono::seconds kLongestRest{60};
  using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
  Parallel parallel_;
  Clock::time_point rest_until_;
  Clock::duration rest_ = kShortestRest;  // after the next late job
};

// A helper that gets no core before the calling thread has finished the job is not waited for.
class Pool {
 public:
  void run(int helpers, Job& job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(threads_.size()) < helpers) {
        threads_.emplace_back(&Pool::serve, this, static_cast<int>(threads_.size()) + 1, generation_);
      }
      job_ = &job;
      invited_ = helpers;
      ++generation_;
    }
    wake_.notify_all();
    job.take_part();
    std::unique_lock<std::mutex> lock(mutex_);
    invited_ = 0;
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void serve(int index, std::uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (index > invited_) continue;
      ++running_;
      Job& job = *job_;
      lock.unlock();
      job.take_part();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  int invited_ = 0;
  int running_ = 0;
  std::uint64_t generation_ = 0;
};

struct Helpers {
  std::mutex busy;  // held by the caller whose job runs
  Team team;
  Pool pool;
};

// Never destroyed: the pool's threads sleep until the process ends, and a forked child, in which they do not exist,
// leaves the parent's alone and gets its own.
Helpers* current = nullptr;

void in_child() {
  current = new Helpers;
  current->team.forget();
}

}  // namespace

void run_parallel(int helpers, const std::function<void()>& work) {
  static std::once_flag once;
  std::call_once(once, [] {
    current = new Helpers;
    pthread_atfork(nullptr, nullptr, in_child);
  });
  Job job(work);
  const std::unique_lock<std::mutex> turn(current->busy, std::try_to_lock);
  if (helpers < 1 || !turn.owns_lock()) {
    job.take_part();
  } else if (!current->team.run(helpers, job)) {
    current->pool.run(helpers, job);
  }
  job.rethrow();
}

}  // namespace fastlog::cpu
