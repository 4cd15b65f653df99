// Sleeping on descriptors that fail: the thread wakes for what it can read, and sleeps all the same.
#include "dataplane/runtime/wakeup.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

namespace penstock::runtime {
namespace {

using namespace std::chrono_literals;

// How often a thread that finds nothing to do wakes within 200 ms.
unsigned wakes(Wakeup& wakeup, std::span<pollfd> others) {
  const auto end = std::chrono::steady_clock::now() + 200ms;
  unsigned count = 0;
  for (; std::chrono::steady_clock::now() < end; ++count) {
    wakeup.prepare();
    wakeup.wait(others, 50ms);
    wakeup.finish();
  }
  return count;
}

// trap: paths-21. The writing end of a pipe that nobody reads reports an error for ever.
TEST(Wakeup, AnErrorThatStaysDoesNotKeepACoreBusy) {
  std::array<int, 2> broken{}, good{};
  ASSERT_EQ(::pipe(broken.data()), 0);
  ASSERT_EQ(::pipe(good.data()), 0);
  ::close(broken[0]);
  Wakeup wakeup;
  std::array<pollfd, 2> others{pollfd{broken[1], POLLIN, 0}, pollfd{good[0], POLLIN, 0}};
  EXPECT_LE(wakes(wakeup, others), 60U) << "twice per pause";
  EXPECT_EQ(others[0].fd, broken[1]) << "it is looked at again";

  ASSERT_EQ(::write(good[1], "x", 1), 1);
  bool seen = false;
  for (int i = 0; i < 2 && !seen; ++i) {  // the first may be woken by the error
    wakeup.wait(others, 50ms);
    seen = (others[1].revents & POLLIN) != 0;
  }
  EXPECT_TRUE(seen) << "the others wake as ever";
  for (const int descriptor : {broken[1], good[0], good[1]}) ::close(descriptor);
}

// As a packet socket reports that its interface went down: once taken, the socket is as good as before.
TEST(Wakeup, AnErrorOfASocketIsTakenFromIt) {
  const int closed = ::socket(AF_INET, SOCK_DGRAM, 0), socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(closed, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::getsockname(closed, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ::close(closed);
  ASSERT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::send(socket, "x", 1, 0), 1);  // refused: nobody is there

  Wakeup wakeup;
  std::array<pollfd, 1> others{pollfd{socket, POLLIN, 0}};
  wakeup.wait(others, 5s);
  EXPECT_NE(others[0].revents & POLLERR, 0);
  pollfd again{socket, POLLIN, 0};
  EXPECT_EQ(::poll(&again, 1, 0), 0) << "it was reported once";
  ::close(socket);
}

}  // namespace
}  // namespace penstock::runtime
