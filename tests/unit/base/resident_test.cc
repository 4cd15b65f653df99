// stay_in_memory(): in a child, as it is for the whole process and for ever.
#include "dataplane/core/base/resident.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace penstock {
namespace {

// Of this process, kilobytes.
long status(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) return std::stol(line.substr(key.size() + 1));
  return -1;
}

// 0: as it should be.
int in_a_child(int (*look)()) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(look());
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

TEST(StayInMemory, LocksWhatIsUsedAndNothingElse) {
  EXPECT_EQ(in_a_child([] {
    constexpr std::size_t kReserved = std::size_t{1} << 30;
    const bool locked = stay_in_memory();
    void* reserved = ::mmap(nullptr, kReserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reserved == MAP_FAILED) return 1;
    if ((status("VmLck:") > 0) != locked) return 2;
    return status("VmRSS:") < 256 * 1024 ? 0 : 3;
  }), 0);
}

#if !defined(__SANITIZE_ADDRESS__)  // has a heap of its own
TEST(StayInMemory, TheNextHalfMegabyteOfHeapIsThere) {
  EXPECT_EQ(in_a_child([] {
    static_cast<void>(stay_in_memory());
    const auto faults = [] {
      rusage usage{};
      ::getrusage(RUSAGE_SELF, &usage);
      return usage.ru_minflt;
    };
    std::vector<std::unique_ptr<volatile char[]>> parts;
    parts.reserve(512);
    const long before = faults();
    for (int n = 0; n < 512; ++n) parts.emplace_back(new volatile char[1024])[0] = 1;
    return faults() - before < 32 ? 0 : 1;  // and 128 pages
  }), 0);
}
#endif

TEST(StayInMemory, FindsTheCode) {
  const auto segments = resident_detail::read_only_segments();
  const auto here = reinterpret_cast<std::uintptr_t>(&resident_detail::may_lock);
  EXPECT_TRUE(std::any_of(segments.begin(), segments.end(),
                          [&](const auto& range) { return range.first <= here && here < range.second; }));
}

}  // namespace
}  // namespace penstock
