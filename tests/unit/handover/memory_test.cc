// How the bytes get from one process to the next: memory that gives its content once, and who holds it meanwhile.
#include "dataplane/runtime/handover_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <thread>

#include "dataplane/io/handover_link.h"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using Octets = std::vector<std::uint8_t>;

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

class Directory {
 public:
  Directory() {
    char name[] = "/tmp/penstock-handover-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string socket() const { return path_ + "/socket"; }

 private:
  std::string path_;
};

// trap: wg nonce reuse — two processes never go on with the same sessions.
TEST(HandoverMemory, GivesItsContentOnce) {
  const Octets content(200'000, 7);
  const runtime::Descriptor memory = runtime::make_handover_memory(content);
  ASSERT_TRUE(memory.valid());
  const runtime::Descriptor second(::dup(memory.get()));
  EXPECT_EQ(runtime::take_handover_memory(memory.get()), content);
  EXPECT_EQ(runtime::take_handover_memory(second.get()), Octets(content.size(), 0));
}

TEST(HandoverMemory, CannotBeResizedNorMistaken) {
  const runtime::Descriptor memory = runtime::make_handover_memory(Octets(100, 1));
  EXPECT_NE(::ftruncate(memory.get(), 10), 0);
  EXPECT_NE(::ftruncate(memory.get(), 10'000), 0);
  const runtime::Descriptor plain(::memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_FALSE(runtime::take_handover_memory(plain.get())) << "not sealed";
  const runtime::Descriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(runtime::take_handover_memory(null.get()));
  EXPECT_FALSE(runtime::take_handover_memory(-1));
}

TEST(HandoverLink, TheKeeperHoldsItForTheNextProcessOnly) {
  const Directory directory;
  const Octets content = {1, 2, 3, 4, 5};
  {
    io::HandoverLink before(directory.socket(), 10s);
    EXPECT_FALSE(before.take()) << "nobody was there before";
    EXPECT_EQ(before.leave(content), "");
    struct stat status {};
    ASSERT_EQ(::lstat(directory.socket().c_str(), &status), 0);
    EXPECT_TRUE(S_ISSOCK(status.st_mode));
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
  }
  io::HandoverLink next(directory.socket(), 10s);
  EXPECT_EQ(next.take(), content);
  io::HandoverLink third(directory.socket(), 10s);
  EXPECT_FALSE(third.take());
  EXPECT_TRUE(eventually([&] { return !std::filesystem::exists(directory.socket()); })) << "the keeper has ended";
}

TEST(HandoverLink, WhatNobodyTakesIsGoneInTime) {
  const Directory directory;
  io::HandoverLink before(directory.socket(), 100ms);
  EXPECT_EQ(before.leave(Octets{1}), "");
  EXPECT_TRUE(std::filesystem::exists(directory.socket()));
  EXPECT_TRUE(eventually([&] { return !std::filesystem::exists(directory.socket()); }));
  EXPECT_FALSE(io::HandoverLink(directory.socket(), 0s).take());
}

std::set<std::string> children() {
  std::ifstream list("/proc/thread-self/children");
  return {std::istream_iterator<std::string>(list), {}};
}

// The process after was stopped as well, before anybody had taken what the first one left.
TEST(HandoverLink, AKeeperWhoseTimeIsUpLeavesTheNextOneAlone) {
  const Directory directory;
  const Octets content = {7};
  const std::set<std::string> before = children();
  io::HandoverLink first(directory.socket(), 100ms);
  EXPECT_EQ(first.leave(Octets{1}), "");
  std::string keeper;
  for (const std::string& pid : children())
    if (!before.contains(pid)) keeper = pid;
  ASSERT_NE(keeper, "");
  io::HandoverLink second(directory.socket(), 10s);
  EXPECT_EQ(second.leave(content), "");
  ASSERT_TRUE(eventually([&] { return !children().contains(keeper); }));
  EXPECT_EQ(io::HandoverLink(directory.socket(), 0s).take(), content);
}

TEST(HandoverLink, TurnedOffThereIsNothing) {
  const Directory directory;
  io::HandoverLink link(directory.socket(), 0s);
  EXPECT_FALSE(link.leaves());
  EXPECT_NE(link.leave(Octets{1}), "");
  EXPECT_FALSE(std::filesystem::exists(directory.socket()));
}

// A service manager: descriptors are stored by a message with a name.
TEST(HandoverLink, AServiceManagersStoreIsUsedWhereThereIsOne) {
  const Directory directory;
  const runtime::Descriptor manager(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  directory.socket().copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(manager.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ::setenv("NOTIFY_SOCKET", directory.socket().c_str(), 1);
  const Octets content = {9, 8, 7};
  {
    io::HandoverLink before(directory.socket() + ".keeper", 10s);
    EXPECT_EQ(before.leave(content), "");
    EXPECT_FALSE(std::filesystem::exists(directory.socket() + ".keeper")) << "no keeper besides";
  }
  ::unsetenv("NOTIFY_SOCKET");
  char text[256] = {};
  iovec data{text, sizeof text - 1};
  alignas(cmsghdr) char control[256] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ASSERT_GT(::recvmsg(manager.get(), &message, MSG_CMSG_CLOEXEC), 0);
  EXPECT_EQ(std::string(text), "FDSTORE=1\nFDNAME=handover");
  int fd = -1;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header))
    if (header->cmsg_type == SCM_RIGHTS) std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(runtime::take_handover_memory(fd), content);
  ::close(fd);
}

}  // namespace
}  // namespace penstock
