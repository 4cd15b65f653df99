#include "dataplane/rpc/warm_locks.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <absl/synchronization/mutex.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <ctime>
#include <string_view>
#include <thread>

// Sleeps of a millisecond and more, as measuring a frequency takes; what waits for a lock sleeps for microseconds.
static std::atomic<int> long_sleeps{0};

extern "C" int nanosleep(const timespec* wanted, timespec* left) {
  if (wanted->tv_sec > 0 || wanted->tv_nsec >= 1'000'000) ++long_sleeps;
  errno = ::clock_nanosleep(CLOCK_REALTIME, 0, wanted, left);
  return errno == 0 ? 0 : -1;
}

// No system tells the frequency of its clock here, so that it has to be measured. (The headers call it open64.)
extern "C" int open_of_libraries(const char* path, int flags, ...) __asm__("open");
int open_of_libraries(const char* path, int flags, ...) {
  if (std::string_view(path).starts_with("/sys/devices/system/cpu/")) {
    errno = ENOENT;
    return -1;
  }
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return ::openat(AT_FDCWD, path, flags, mode);
}

namespace penstock::rpc {
namespace {

// Three threads at one lock: two of them queue.
void contend() {
  absl::Mutex mutex;
  int queued = 0;
  bool open = false;
  const auto pass = [&] {
    const absl::MutexLock lock(&mutex);
    ++queued;
    mutex.Await(absl::Condition(&open));
  };
  std::thread one(pass), two(pass);
  const auto both = +[](int* n) { return *n == 2; };
  {
    const absl::MutexLock lock(&mutex, absl::Condition(both, &queued));
    open = true;
  }
  one.join();
  two.join();
}

// In a process of its own, whose locks nobody has used yet: how often it slept.
template <typename Before>
int sleeps_of_contention(Before before) {
  const pid_t child = ::fork();
  if (child == 0) {
    before();
    const int so_far = long_sleeps;
    contend();
    ::_exit(long_sleeps - so_far);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

TEST(WarmLocks, NobodySleepsInTheFirstQueueForALock) {
  ASSERT_GT(sleeps_of_contention([] {}), 0);
  EXPECT_EQ(sleeps_of_contention(warm_locks), 0);
}

}  // namespace
}  // namespace penstock::rpc
