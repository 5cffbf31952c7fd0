// The fiber runtime. Built without -fsanitize=thread: what it does itself must order nothing.
#include "runtime.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

extern "C" {
// Present where the program is linked with the sanitizer.
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void* fiber);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* address);
__attribute__((weak)) void __tsan_release(void* address);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* address, size_t size);
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
}

namespace cuda_on_cpu {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kTsanNoSync = 1;  // a switch of fibers orders no memory
constexpr std::size_t kStackBytes = 256 * 1024;

struct Block;

[[noreturn]] void fault(const char* format, ...) {
  std::va_list args;
  va_start(args, format);
  std::fputs("cuda_on_cpu: ", stderr);
  std::vfprintf(stderr, format, args);
  std::fputc('\n', stderr);
  va_end(args);
  std::abort();
}

enum class State { kReady, kWaiting, kExited };

struct Fiber {
  ThreadIds ids{};
  Block* block = nullptr;
  int thread = 0;
  State state = State::kReady;
  int waits_at_line = 0;
  ucontext_t context{};
  unsigned char* stack = nullptr;
  void* tsan = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Meeting {
  unsigned mask = 0;
  unsigned arrived = 0;
  unsigned left = 0;
  int line = 0;
  std::array<std::uint64_t, kWarp> values{};
};

struct Warp {
  std::array<Meeting, kWarp> meetings{};
  unsigned exited = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> shared;  // on the heap, exactly as long as asked: red zones, fresh addresses
  int waiting = 0;
  int exited = 0;
  int barrier_line = 0;
  std::array<char, 2> barrier_order{};  // addresses that ThreadSanitizer orders by, in turn
  unsigned barriers = 0;
};

struct Scheduler {
  std::mt19937_64 random;
  std::vector<Fiber*> ready;
  std::vector<unsigned char*> free_stacks;
  Fiber* running = nullptr;
  ucontext_t main{};
  void* tsan_main = nullptr;
  void* fake_stack = nullptr;
  const void* main_bottom = nullptr;
  std::size_t main_size = 0;
  const std::function<void()>* body = nullptr;
};

thread_local Scheduler* scheduler = nullptr;
char fence_order;

void wake(Fiber& fiber) {
  fiber.state = State::kReady;
  scheduler->ready.push_back(&fiber);
}

void to_main(Fiber& fiber) {
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(scheduler->tsan_main, kTsanNoSync);
  if (__sanitizer_start_switch_fiber) {
    __sanitizer_start_switch_fiber(fiber.state == State::kExited ? nullptr : &fiber.fake_stack, scheduler->main_bottom,
                                   scheduler->main_size);
  }
  swapcontext(&fiber.context, &scheduler->main);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
}

void wait_here(Fiber& fiber, int line) {
  fiber.state = State::kWaiting;
  fiber.waits_at_line = line;
  to_main(fiber);
}

void fiber_main() {
  Fiber& fiber = *scheduler->running;
  if (__sanitizer_finish_switch_fiber) {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler->main_bottom, &scheduler->main_size);
  }
  (*scheduler->body)();
  Block& block = *fiber.block;
  fiber.state = State::kExited;
  ++block.exited;
  Warp& warp = block.warps[fiber.thread / kWarp];
  const unsigned bit = 1u << (fiber.thread % kWarp);
  warp.exited |= bit;
  for (const Meeting& meeting : warp.meetings) {
    if ((meeting.mask & ~meeting.left & ~meeting.arrived) & bit) {
      fault("thread %d exited while lanes of its warp wait for it at line %d", fiber.thread, meeting.line);
    }
  }
  if (block.waiting) {
    fault("divergent barrier: thread %d exited while others wait at line %d", fiber.thread, block.barrier_line);
  }
  to_main(fiber);
}

unsigned char* take_stack() {
  if (!scheduler->free_stacks.empty()) {
    unsigned char* const stack = scheduler->free_stacks.back();
    scheduler->free_stacks.pop_back();
    return stack;
  }
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (stack == MAP_FAILED) fault("no memory for the stack of a fiber");
  return static_cast<unsigned char*>(stack);
}

void start_block(Block& block, const ThreadIds& ids, std::size_t shared_bytes) {
  const int threads = static_cast<int>(ids.block_dim.x);
  block.fibers = std::vector<Fiber>(threads);
  block.warps = std::vector<Warp>((threads + kWarp - 1) / kWarp);
  block.shared.reset(new unsigned char[shared_bytes]);
  std::memset(block.shared.get(), 0xA5, shared_bytes);  // poison: nobody clears shared memory
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = block.fibers[t];
    fiber.ids = ids;
    fiber.ids.thread = {static_cast<unsigned>(t), 0, 0};
    fiber.block = &block;
    fiber.thread = t;
    fiber.stack = take_stack();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    if (__tsan_create_fiber) fiber.tsan = __tsan_create_fiber(0);
    scheduler->ready.push_back(&fiber);
  }
}

void end_block(Block& block) {
  for (Fiber& fiber : block.fibers) {
    if (__tsan_destroy_fiber) __tsan_destroy_fiber(fiber.tsan);
    // A fiber ends inside of its frames, which AddressSanitizer takes for live.
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(fiber.stack, kStackBytes);
    scheduler->free_stacks.push_back(fiber.stack);
  }
  block.fibers.clear();
}

void resume(Fiber& fiber) {
  scheduler->running = &fiber;
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(fiber.tsan, kTsanNoSync);
  if (__sanitizer_start_switch_fiber) {
    __sanitizer_start_switch_fiber(&scheduler->fake_stack, fiber.stack, kStackBytes);
  }
  swapcontext(&scheduler->main, &fiber.context);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(scheduler->fake_stack, nullptr, nullptr);
  scheduler->running = nullptr;
}

// Unwinding of a deadlock: says who waits where.
[[noreturn]] void deadlock(const std::deque<Block>& blocks) {
  for (const Block& block : blocks) {
    for (const Fiber& fiber : block.fibers) {
      if (fiber.state == State::kWaiting) {
        fault("deadlock: block %u thread %d waits for ever at line %d", fiber.ids.block.x, fiber.thread,
              fiber.waits_at_line);
      }
    }
  }
  fault("deadlock");
}

}  // namespace

Options& options() {
  static Options made;
  return made;
}

const ThreadIds& ids() { return scheduler->running->ids; }
unsigned char* shared_memory() { return scheduler->running->block->shared.get(); }
int lane_id() { return scheduler->running->thread % kWarp; }

void run_grid(dim3 grid, dim3 block_dim, std::size_t shared_bytes, const std::function<void()>& thread_body) {
  if (grid.x == 0 || block_dim.x == 0 || block_dim.x > 1024) fault("a grid of %u x %u", grid.x, block_dim.x);
  Scheduler made;
  scheduler = &made;
  made.random.seed(options().seed);
  if (__tsan_get_current_fiber) made.tsan_main = __tsan_get_current_fiber();
  // The launch comes before all of its threads, and what follows it on the stream comes after them.
  char launch_order = 0;
  char end_order = 0;
  if (__tsan_release) __tsan_release(&launch_order);
  const std::function<void()> ordered_body = [&] {
    if (__tsan_acquire) __tsan_acquire(&launch_order);
    thread_body();
    if (__tsan_release) __tsan_release(&end_order);
  };
  made.body = &ordered_body;

  std::vector<unsigned> order(grid.x);
  for (unsigned b = 0; b < grid.x; ++b) order[b] = b;
  std::shuffle(order.begin(), order.end(), made.random);
  std::deque<Block> blocks;
  std::size_t next = 0;
  int resident = 0;
  while (next < order.size() || resident > 0) {
    while (next < order.size() && resident < options().resident_blocks) {
      blocks.emplace_back();
      start_block(blocks.back(), ThreadIds{{}, {order[next], 0, 0}, block_dim, grid}, shared_bytes);
      ++next;
      ++resident;
    }
    if (made.ready.empty()) deadlock(blocks);
    std::swap(made.ready[made.random() % made.ready.size()], made.ready.back());
    Fiber& fiber = *made.ready.back();
    made.ready.pop_back();
    resume(fiber);
    Block& block = *fiber.block;
    if (block.exited == static_cast<int>(block_dim.x) && fiber.state == State::kExited) {
      --resident;
      // ThreadSanitizer would take a reused stack for shared memory: there fibers live until the launch ends.
      if (!__tsan_create_fiber) end_block(block);
    }
  }
  if (__tsan_acquire) __tsan_acquire(&end_order);
  for (Block& block : blocks) end_block(block);
  for (unsigned char* stack : made.free_stacks) munmap(stack, kStackBytes);
  scheduler = nullptr;
}

void sync_threads(int line) {
  Fiber& fiber = *scheduler->running;
  Block& block = *fiber.block;
  if (block.exited) fault("divergent barrier: line %d reached after a thread of the block exited", line);
  if (block.waiting && block.barrier_line != line) {
    fault("divergent barrier: threads of a block meet at lines %d and %d", block.barrier_line, line);
  }
  block.barrier_line = line;
  char* order = &block.barrier_order[block.barriers % 2];
  if (__tsan_release) __tsan_release(order);
  if (++block.waiting == static_cast<int>(block.fibers.size())) {
    block.waiting = 0;
    ++block.barriers;
    for (Fiber& other : block.fibers) {
      if (&other != &fiber) wake(other);
    }
    wake(fiber);
    to_main(fiber);
  } else {
    wait_here(fiber, line);
  }
  if (__tsan_acquire) __tsan_acquire(order);
}

void fence() {
  if (__tsan_release) __tsan_release(&fence_order);
  if (__tsan_acquire) __tsan_acquire(&fence_order);
}

std::uint64_t meet_warp(unsigned mask, std::uint64_t value, int source_lane, Meet meet, int line) {
  Fiber& fiber = *scheduler->running;
  Block& block = *fiber.block;
  Warp& warp = block.warps[fiber.thread / kWarp];
  const int lane = fiber.thread % kWarp;
  const unsigned bit = 1u << lane;
  if (!(mask & bit)) fault("line %d: lane %d is not in its own mask %08x", line, lane, mask);
  if (mask & warp.exited) fault("line %d: mask %08x names lanes that have exited", line, mask);
  if (source_lane < 0 || source_lane >= kWarp || !(mask >> source_lane & 1)) {
    fault("line %d: lane %d shuffles from lane %d, outside of mask %08x", line, lane, source_lane, mask);
  }
  // The lanes of a mask that are still on their way; one that has all come only waits to be read.
  Meeting* meeting = nullptr;
  for (Meeting& open : warp.meetings) {
    if (open.mask == mask && open.arrived != mask) meeting = &open;
  }
  if (!meeting) {
    meeting = std::find_if(warp.meetings.begin(), warp.meetings.end(), [](const Meeting& m) { return m.mask == 0; });
    if (meeting == warp.meetings.end()) fault("line %d: too many warp meetings", line);
    *meeting = Meeting{};
    meeting->mask = mask;
    meeting->line = line;
  }
  if (meeting->line != line) {
    fault("lanes of mask %08x meet at lines %d and %d", mask, meeting->line, line);
  }
  meeting->arrived |= bit;
  meeting->values[lane] = value;
  if (meet == Meet::kOrdered && __tsan_release) __tsan_release(meeting);
  if (meeting->arrived == mask) {
    for (int other = 0; other < kWarp; ++other) {
      if (mask >> other & 1 && other != lane) wake(block.fibers[fiber.thread - lane + other]);
    }
    wake(fiber);
    to_main(fiber);
  } else {
    wait_here(fiber, line);
  }
  if (meet == Meet::kOrdered && __tsan_acquire) __tsan_acquire(meeting);
  const std::uint64_t result = meeting->values[source_lane];
  meeting->left |= bit;
  if (meeting->left == mask) meeting->mask = 0;
  return result;
}

}  // namespace cuda_on_cpu
