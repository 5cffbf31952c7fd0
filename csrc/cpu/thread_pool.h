// A small pool that sleeps when idle, outlives fork, and never runs two jobs at once.
#pragma once

#include <functional>

namespace fastlog::cpu {

// Runs work(0) on the calling thread and work(1 .. helpers) beside it, and returns when all that have begun by the
// end of work(0) have returned: a helper that gets no core is not waited for.
// If the pool is busy with another thread's job, only work(0) runs: work must share itself out dynamically,
// so that any number of participants finishes it. An exception of any of them is rethrown here.
void run_parallel(int helpers, const std::function<void(int)>& work);

}  // namespace fastlog::cpu
