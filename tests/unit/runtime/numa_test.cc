// Where memory lies: asked of the system, which knows.
#include "dataplane/runtime/numa.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace penstock::runtime {
namespace {

// The node of the page at `address`; -1: the system does not tell.
int node_of_page(void* address) {
  int node = -1;
  if (::syscall(SYS_get_mempolicy, &node, nullptr, 0UL, address, MPOL_F_NODE | MPOL_F_ADDR) != 0) return -1;
  return node;
}

int policy_of_thread() {
  int mode = -1;
  return ::syscall(SYS_get_mempolicy, &mode, nullptr, 0UL, nullptr, 0) == 0 ? mode : -1;
}

TEST(Numa, EveryProcessorHasANodeOrTheSystemHasNone) {
  const bool known = ::access("/sys/devices/system/node/node0", F_OK) == 0;
  EXPECT_EQ(node_of_cpu(static_cast<unsigned>(::sched_getcpu())).has_value(), known);
  EXPECT_FALSE(node_of_cpu(1'000'000));
}

TEST(Numa, PagesComeFromTheNodeThatWasAskedFor) {
  const auto node = node_of_cpu(static_cast<unsigned>(::sched_getcpu()));
  constexpr std::size_t kSize = 1 << 20;
  void* memory = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  {
    const OnNode near(node);
    EXPECT_EQ(policy_of_thread(), node ? MPOL_PREFERRED : MPOL_DEFAULT);
    *static_cast<volatile char*>(memory) = 1;
    EXPECT_EQ(node_of_page(memory), static_cast<int>(node.value_or(0)));
  }
  EXPECT_EQ(policy_of_thread(), MPOL_DEFAULT) << "what comes later is nobody's in particular";
  ::munmap(memory, kSize);
}

// Who started the process may have said where its memory shall be.
TEST(Numa, ThePolicyOfBeforeComesBack) {
  const unsigned long first = 1;
  ASSERT_EQ(::syscall(SYS_set_mempolicy, MPOL_BIND, &first, 64UL), 0);
  { const OnNode near(0U); }
  EXPECT_EQ(policy_of_thread(), MPOL_BIND);
  EXPECT_EQ(::syscall(SYS_set_mempolicy, MPOL_DEFAULT, nullptr, 0UL), 0);
}

TEST(Numa, AWishThatCannotBeGrantedDoesNoHarm) {
  for (const std::optional<unsigned> node : {std::optional<unsigned>{}, std::optional<unsigned>{1023}, std::optional<unsigned>{1U << 20}}) {
    const OnNode near(node);
    int value = 0;
    *static_cast<volatile int*>(&value) = 1;
    EXPECT_EQ(value, 1);
  }
  EXPECT_EQ(policy_of_thread(), MPOL_DEFAULT);
}

}  // namespace
}  // namespace penstock::runtime
