#include "cpu/thread_pool.h"

#include <pthread.h>

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace fastlog::cpu {
namespace {

class ThreadPool {
 public:
  void run(int helpers, const std::function<void(int)>& work) {
    const std::unique_lock<std::mutex> job(job_, std::try_to_lock);
    if (helpers < 1 || !job.owns_lock()) {
      work(0);
      return;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(threads_.size()) < helpers) {
        threads_.emplace_back(&ThreadPool::serve, this, static_cast<int>(threads_.size()) + 1, generation_);
      }
      work_ = &work;
      invited_ = helpers;
      ++generation_;
    }
    wake_.notify_all();
    attempt(work, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    invited_ = 0;  // whoever has not begun by now finds nothing left to do, and is not waited for
    done_.wait(lock, [this] { return running_ == 0; });
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  void attempt(const std::function<void(int)>& work, int index) {
    try {
      work(index);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      failure_ = std::current_exception();
    }
  }

  void serve(int index, std::uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (index > invited_) continue;
      ++running_;
      const std::function<void(int)>& work = *work_;
      lock.unlock();
      attempt(work, index);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex job_;    // held by the caller whose job runs
  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  std::exception_ptr failure_;
  int invited_ = 0;
  int running_ = 0;
  std::uint64_t generation_ = 0;
};

// Never destroyed: its threads sleep until the process ends, and a forked child, in which they do not exist,
// leaves the parent's pool alone and gets its own.
ThreadPool* pool = nullptr;

void replace_pool() { pool = new ThreadPool; }

}  // namespace

void run_parallel(int helpers, const std::function<void(int)>& work) {
  static std::once_flag once;
  std::call_once(once, [] {
    replace_pool();
    pthread_atfork(nullptr, nullptr, replace_pool);
  });
  pool->run(helpers, work);
}

}  // namespace fastlog::cpu
