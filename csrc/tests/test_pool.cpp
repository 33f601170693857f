// The pool covers a range once, whoever calls it.
#undef NDEBUG
#include "pool.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cassert>
#include <cstdio>
#include <thread>
#include <vector>

namespace {

void every_index_is_visited_once() {
  for (std::size_t threads : {1u, 2u, 5u}) {
    rl::Pool pool(threads);
    for (std::size_t count : {0u, 1u, 3u, 100u}) {
      std::vector<int> visits(count);
      pool.run(count, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i)
          ++visits[i];
      });
      for (int n : visits)
        assert(n == 1);
    }
  }
}

void callers_take_turns() {
  rl::Pool pool(2);
  std::vector<std::thread> callers;
  std::vector<std::vector<int>> visits(3, std::vector<int>(64));
  for (auto &mine : visits)
    callers.emplace_back([&pool, &mine] {
      for (int turn = 0; turn < 50; ++turn)
        pool.run(mine.size(), [&](std::size_t begin, std::size_t end) {
          for (std::size_t i = begin; i < end; ++i)
            ++mine[i];
        });
    });
  for (auto &caller : callers)
    caller.join();
  for (const auto &mine : visits)
    for (int n : mine)
      assert(n == 50);
}

void so_many_threads_nobody_means() {
  for (std::size_t wrong : {std::size_t{0}, rl::Workers::kMost + 1}) {
    bool refused = false;
    try {
      rl::Workers::check(wrong);
    } catch (const std::invalid_argument &) {
      refused = true;
    }
    assert(refused);
  }
  rl::Workers::check(rl::Workers::kMost);
}

#if !defined(__SANITIZE_THREAD__)  // which refuses threads in the child of a process that has some
void a_child_has_its_own() {
  rl::Workers workers;
  assert(workers.of(1) == nullptr);
  const auto sum = [&workers] {
    std::atomic<std::size_t> total{0};
    workers.of(2)->run(100, [&](std::size_t begin, std::size_t end) { total += end - begin; });
    return total.load();
  };
  assert(sum() == 100);
  const pid_t child = fork();
  if (child == 0) _exit(sum() == 100 ? 0 : 1);
  int status = -1;
  assert(waitpid(child, &status, 0) == child && status == 0);
  assert(workers.of(3)->size() == 3);
}
#endif

}  // namespace

int main() {
  every_index_is_visited_once();
  callers_take_turns();
  so_many_threads_nobody_means();
#if !defined(__SANITIZE_THREAD__)
  a_child_has_its_own();
#endif
  std::puts("ok");
}
