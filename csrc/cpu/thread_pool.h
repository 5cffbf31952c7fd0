// Parallel jobs on the OpenMP team that torch's own operations use, else on a small pool that sleeps when idle.
#pragma once

#include <functional>

namespace fastlog::cpu {

// Runs `work` on the calling thread and on up to `helpers` others beside it, and returns when all that have begun have
// returned. While another thread's job runs, only the calling thread works: `work` must share itself out dynamically,
// so that any number of participants finishes it. An exception of any of them is rethrown here. Outlives fork.
void run_parallel(int helpers, const std::function<void()>& work);

}  // namespace fastlog::cpu
