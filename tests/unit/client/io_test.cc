// Sockets and files of the client's shell, on loopback and in a directory of the test's own.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "controlplane/io/file.h"
#include "controlplane/io/file_saver.h"
#include "controlplane/io/loop.h"
#include "controlplane/io/resolv_conf.h"
#include "controlplane/io/udp_socket.h"

namespace penstock::io {
namespace {

using namespace std::chrono_literals;

class Directory {
 public:
  Directory() {
    char name[] = "/tmp/penstock-test-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string content(const std::string& path) {
  std::string error;
  return read_file(path, error).value_or("<" + error + ">");
}

// ---- files ----------------------------------------------------------------------------------------------------------

TEST(File, IsReplacedAtomicallyWithItsMode) {
  const Directory directory;
  std::string error;
  const std::string path = directory / "state";
  ASSERT_TRUE(replace_file(path, "one", 0600, error)) << error;
  ASSERT_TRUE(overwrite_file(path + ".new", "left by a crash", 0600, error));
  ASSERT_TRUE(replace_file(path, "two", 0600, error)) << error;
  EXPECT_EQ(content(path), "two");
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
  bool missing = false;
  EXPECT_FALSE(read_file(directory / "none", error, &missing));
  EXPECT_TRUE(missing);
  ASSERT_TRUE(make_directory(directory / "a/b/c", error)) << error;
  EXPECT_FALSE(make_directory(path + "/b", error));
}

TEST(FileSaver, WritesTheNewestAndNeverWaits) {
  const Directory directory;
  const std::string path = directory / "state";
  {
    FileSaver saver(path, 0600, 0ms, [](const std::string& why) { ADD_FAILURE() << why; });
    for (int i = 0; i <= 1000; ++i) saver.save(std::to_string(i));
  }
  EXPECT_EQ(content(path), "1000");
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
}

TEST(FileSaver, LeavesTheDiskAloneForAWhile) {
  const Directory directory;
  const std::string path = directory / "state";
  {
    FileSaver saver(path, 0600, 1h, [](const std::string& why) { ADD_FAILURE() << why; });
    saver.save("one");
    std::this_thread::sleep_for(20ms);  // enough for a thread that does not wait to be seen
    saver.save("two");
    EXPECT_NE(::access(path.c_str(), F_OK), 0);
  }
  EXPECT_EQ(content(path), "two") << "ending waits for nothing";
}

TEST(FileSaver, TellsOfAFailureOnceAndWritesWhenItCan) {
  const Directory directory;
  const std::string path = directory / "later/state";
  std::atomic<int> failures = 0;
  {
    FileSaver saver(path, 0600, 0ms, [&failures](const std::string& why) {
      EXPECT_NE(why.find("later/state"), std::string::npos) << why;
      ++failures;
    });
    saver.save("one");
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    while (failures == 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    saver.save("two");
    std::string error;
    ASSERT_TRUE(make_directory(directory / "later", error)) << error;
    saver.save("three");
  }
  EXPECT_EQ(failures, 1);
  EXPECT_EQ(content(path), "three");
}

// ---- resolv.conf ----------------------------------------------------------------------------------------------------

constexpr std::string_view kOriginal = "# by dhcp\nnameserver 198.51.100.53\nnameserver 2001:db8::53\nsearch example\n";
const std::vector<IpAddress> kResolvers = {*IpAddress::parse("100.100.111.1")};

TEST(ResolvConf, IsSetAndPutBack) {
  const Directory directory;
  std::string error;
  ASSERT_TRUE(overwrite_file(directory / "resolv.conf", kOriginal, 0644, error));
  {
    ResolvConf file(directory / "resolv.conf", directory / "saved");
    ASSERT_TRUE(file.begin(error)) << error;
    ASSERT_TRUE(file.set(kResolvers, error)) << error;
    const std::string ours = content(directory / "resolv.conf");
    EXPECT_TRUE(is_our_resolv_conf(ours));
    EXPECT_EQ(parse_nameservers(ours), (std::vector<Endpoint>{{kResolvers[0], 53}}));
    EXPECT_NE(ours.find("search example"), std::string::npos);
    EXPECT_EQ(parse_nameservers(file.original()).size(), 2U);
  }
  EXPECT_EQ(content(directory / "resolv.conf"), kOriginal);
  EXPECT_FALSE(std::filesystem::exists(directory / "saved"));
}

TEST(ResolvConf, ACrashedClientsFileIsNotTakenForTheOriginal) {  // trap: dns-18
  const Directory directory;
  std::string error;
  ASSERT_TRUE(overwrite_file(directory / "resolv.conf", make_resolv_conf(kResolvers, kOriginal), 0644, error));
  ASSERT_TRUE(overwrite_file(directory / "saved", kOriginal, 0600, error));
  ResolvConf file(directory / "resolv.conf", directory / "saved");
  ASSERT_TRUE(file.begin(error)) << error;
  EXPECT_EQ(file.original(), kOriginal);
  EXPECT_EQ(content(directory / "resolv.conf"), kOriginal);
}

TEST(ResolvConf, WhatAnotherProgramWroteIsBelieved) {
  const Directory directory;
  std::string error;
  ASSERT_TRUE(overwrite_file(directory / "resolv.conf", kOriginal, 0644, error));
  ResolvConf file(directory / "resolv.conf", directory / "saved");
  ASSERT_TRUE(file.begin(error));
  ASSERT_TRUE(file.set(kResolvers, error));
  EXPECT_FALSE(file.check(error));
  ASSERT_TRUE(overwrite_file(directory / "resolv.conf", "nameserver 203.0.113.53\n", 0644, error));
  EXPECT_TRUE(file.check(error));
  EXPECT_EQ(file.original(), "nameserver 203.0.113.53\n");
  EXPECT_TRUE(is_our_resolv_conf(content(directory / "resolv.conf")));
  ASSERT_TRUE(file.restore(error));
  EXPECT_EQ(content(directory / "resolv.conf"), "nameserver 203.0.113.53\n");
}

TEST(ResolvConf, ASymbolicLinkIsFollowedNotReplaced) {
  const Directory directory;
  std::string error;
  ASSERT_TRUE(overwrite_file(directory / "real", kOriginal, 0644, error));
  std::filesystem::create_symlink(directory / "real", directory / "resolv.conf");
  ResolvConf file(directory / "resolv.conf", directory / "saved");
  ASSERT_TRUE(file.begin(error));
  ASSERT_TRUE(file.set(kResolvers, error));
  EXPECT_TRUE(std::filesystem::is_symlink(directory / "resolv.conf"));
  EXPECT_TRUE(is_our_resolv_conf(content(directory / "real")));
}

// ---- UDP ------------------------------------------------------------------------------------------------------------

class UdpFamilies : public ::testing::TestWithParam<bool> {
 protected:
  UdpSocket open(bool offload = false, bool errors = false) {
    UdpSocketOptions options;
    options.offload = offload;
    options.errors = errors;
    options.v6 = GetParam();
    options.bind = *IpAddress::parse(options.v6 ? "::1" : "127.0.0.1");
    std::string error;
    auto socket = UdpSocket::open(options, error);
    EXPECT_TRUE(socket) << error;
    return std::move(*socket);
  }
  // Everything that arrives until `count` datagrams are there.
  static std::vector<std::string> collect(Loop& loop, UdpSocket& socket, std::size_t count) {
    std::vector<std::string> out;
    const auto source = loop.add_fd(socket.fd(), EPOLLIN, [&](std::uint32_t) {
      for (const ReceivedDatagram& datagram : socket.receive())
        out.emplace_back(datagram.bytes.begin(), datagram.bytes.end());
    });
    const Instant deadline = Loop::now().monotonic + 2s;
    while (out.size() < count && Loop::now().monotonic < deadline) loop.run_once(10ms);
    return out;
  }
};

TEST_P(UdpFamilies, BatchesArriveInOrder) {  // trap: io-2
  Loop loop;
  UdpSocket from = open();
  UdpSocket to = open();
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back("datagram " + std::to_string(i));
  std::vector<DatagramToSend> batch;
  for (const std::string& text : texts)
    batch.push_back({{reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, to.local()});
  EXPECT_EQ(from.send(batch), batch.size());
  EXPECT_EQ(collect(loop, to, texts.size()), texts);
  EXPECT_EQ(from.stats().sent, texts.size());
}

TEST_P(UdpFamilies, OneRefusedDatagramDiscardsNoOther) {  // trap: io-5, io-6, io-7
  Loop loop;
  UdpSocket from = open();
  UdpSocket to = open();
  const std::string text = "fine";
  const Endpoint nowhere{*IpAddress::parse(GetParam() ? "2001:db8::1" : "203.0.113.1"), 9};  // from a loopback address
  const Bytes good{reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
  const std::vector<std::uint8_t> too_large(70000);
  std::vector<DatagramToSend> batch = {{good, to.local()}, {too_large, to.local()}, {good, to.local()}, {good, nowhere},
                                       {good, to.local()}, {too_large, to.local()}, {good, to.local()}};
  EXPECT_EQ(from.send(batch), batch.size());
  EXPECT_EQ(collect(loop, to, 4), std::vector<std::string>(4, text));
  EXPECT_GE(from.stats().send_errors, 2U);
}

TEST_P(UdpFamilies, AnIcmpErrorEndsNothing) {  // trap: io-6
  Loop loop;
  UdpSocket from = open();
  Endpoint closed;
  {
    UdpSocket gone = open();
    closed = gone.local();
  }
  UdpSocket to = open();
  const std::string text = "x";
  const Bytes good{reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
  for (int i = 0; i < 20; ++i) {
    const std::vector<DatagramToSend> batch = {{good, closed}, {good, to.local()}};
    EXPECT_EQ(from.send(batch), 2U);
    EXPECT_TRUE(from.receive().empty());
  }
  EXPECT_EQ(collect(loop, to, 20).size(), 20U);
}

// What a closed port says is given out with what it quotes, and no datagram is lost for it: neither on sending nor on
// receiving, nor does it keep the loop busy once it was taken. trap: io-5, io-6
TEST_P(UdpFamilies, IcmpErrorsAreReportedAndCostNothing) {
  for (const bool offload : {false, true}) {
    Loop loop;
    UdpSocket from = open(offload, true);
    Endpoint closed;
    {
      UdpSocket gone = open();
      closed = gone.local();
    }
    UdpSocket to = open(offload);
    std::vector<std::string> texts;
    std::vector<DatagramToSend> batch;
    for (int i = 0; i < 40; ++i) texts.push_back(std::string(200, 'd') + std::to_string(100 + i));
    const auto bytes_of = [](const std::string& text) {
      return Bytes{reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
    };
    for (const std::string& text : texts) batch.push_back({bytes_of(text), to.local()});
    const std::string lost = "to nobody " + std::string(300, 'l');
    // A socket of its own tells when the loop is at rest.
    std::size_t reported = 0, turns = 0;
    std::string quoted;
    const auto source = loop.add_fd(from.fd(), EPOLLIN, [&](std::uint32_t events) {
      ++turns;
      EXPECT_TRUE(from.receive().empty());
      if ((events & EPOLLERR) == 0) return;
      for (const IcmpErrorReport& error : from.errors()) {
        ++reported;
        EXPECT_EQ(error.kind, IcmpErrorReport::Kind::unreachable);
        EXPECT_EQ(error.to, closed);
        quoted.assign(error.quoted.begin(), error.quoted.end());
      }
    });
    for (int round = 0; round < 20; ++round) {
      // The error of the first is there before the others are sent.
      const std::vector<DatagramToSend> one = {{bytes_of(lost), closed}};
      EXPECT_EQ(from.send(one), 1U);
      EXPECT_EQ(from.send(batch), batch.size());
      ASSERT_EQ(collect(loop, to, texts.size()), texts);
    }
    const Instant deadline = Loop::now().monotonic + 2s;
    while (reported < 15 && Loop::now().monotonic < deadline) loop.run_once(10ms);
    EXPECT_GE(reported, 15U);  // the kernel limits how many it sends
    EXPECT_EQ(quoted, lost.substr(0, 128));
    EXPECT_EQ(from.stats().icmp_errors, reported);
    EXPECT_EQ(from.stats().send_errors, 0U);
    EXPECT_EQ(from.stats().refused_runs, 0U);
    EXPECT_EQ(from.segments(), offload);
    while (loop.run_once(0ms)) ASSERT_LT(turns, 1000U);
    EXPECT_TRUE(from.errors().empty());
  }
}

// A datagram that is longer than the device carries is refused alone, and is no news about anybody else.
TEST_P(UdpFamilies, TooLongIsNoReport) {  // trap: io-6
  Loop loop;
  UdpSocket from = open(false, true);
  UdpSocket to = open();
  const std::string text = "fine";
  const Bytes good{reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
  const std::vector<std::uint8_t> too_large(70000);
  const std::vector<DatagramToSend> batch = {{good, to.local()}, {too_large, to.local()}, {good, to.local()}};
  EXPECT_EQ(from.send(batch), batch.size());
  EXPECT_EQ(collect(loop, to, 2), std::vector<std::string>(2, text));
  EXPECT_EQ(from.stats().send_errors, 1U);
  EXPECT_TRUE(from.errors().empty());
  EXPECT_EQ(from.send({batch.data(), 1}), 1U);
  EXPECT_EQ(collect(loop, to, 1), std::vector<std::string>(1, text));
}

TEST_P(UdpFamilies, RunsOfOneSizeGoTogetherAndArriveInOrder) {  // trap: io-2
  Loop loop;
  UdpSocket from = open(true);
  UdpSocket to = open(true);
  UdpSocket other = open(true);
  ASSERT_TRUE(from.segments() && to.coalesces());
  std::vector<std::string> texts;
  for (int i = 0; i < 150; ++i) texts.push_back(std::string(1000, static_cast<char>('a' + i % 26)) + std::to_string(100 + i));
  texts[70].resize(500);
  texts[71].clear();
  std::vector<DatagramToSend> batch;
  std::vector<std::string> expected;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const bool elsewhere = i == 100;
    if (!elsewhere) expected.push_back(texts[i]);
    batch.push_back({{reinterpret_cast<const std::uint8_t*>(texts[i].data()), texts[i].size()},
                     elsewhere ? other.local() : to.local()});
  }
  EXPECT_EQ(from.send(batch), batch.size());
  EXPECT_EQ(collect(loop, to, expected.size()), expected);
  EXPECT_EQ(collect(loop, other, 1), std::vector<std::string>{texts[100]});
  EXPECT_EQ(from.stats().sent, texts.size());
  EXPECT_GT(from.stats().sent_in_runs, 140U);
  EXPECT_GT(to.stats().received_in_runs, 140U);
  EXPECT_EQ(to.stats().received, expected.size());
}

TEST_P(UdpFamilies, ARunThatTheKernelRefusesGoesOneByOne) {  // trap: io-5, io-13
  Loop loop;
  UdpSocket from = open(true);
  UdpSocket to = open();
  // Segmentation without checksums is what the kernel refuses.
  const int on = 1;
  if (GetParam()) {
    ASSERT_EQ(::setsockopt(from.fd(), SOL_UDP, UDP_NO_CHECK6_TX, &on, sizeof on), 0);
    ASSERT_EQ(::setsockopt(to.fd(), SOL_UDP, UDP_NO_CHECK6_RX, &on, sizeof on), 0);
  } else {
    ASSERT_EQ(::setsockopt(from.fd(), SOL_SOCKET, SO_NO_CHECK, &on, sizeof on), 0);
  }
  const std::string text(100, 'x');
  const Bytes bytes{reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
  const std::vector<DatagramToSend> batch(100, {bytes, to.local()});
  EXPECT_EQ(from.send(batch), batch.size());
  EXPECT_EQ(collect(loop, to, batch.size()), std::vector<std::string>(batch.size(), text));
  EXPECT_FALSE(from.segments());
  EXPECT_EQ(from.stats().refused_runs, 1U);
  EXPECT_EQ(from.stats().send_errors, 0U);
}

TEST(SegmentableRun, IsOfOneSizeToOnePlace) {
  const std::vector<std::uint8_t> bytes(9000);
  const Endpoint here{*IpAddress::parse("192.0.2.1"), 1};
  const Endpoint there{*IpAddress::parse("192.0.2.1"), 2};
  const auto run = [&](const std::vector<std::pair<std::size_t, Endpoint>>& given) {
    std::vector<DatagramToSend> datagrams;
    for (const auto& [size, to] : given) datagrams.push_back({Bytes{bytes}.first(size), to});
    return segmentable_run(datagrams);
  };
  EXPECT_EQ(run({}), 0U);
  EXPECT_EQ(run({{100, here}}), 1U);
  EXPECT_EQ(run({{100, here}, {100, here}, {100, here}}), 3U);
  EXPECT_EQ(run({{100, here}, {100, there}}), 1U);
  EXPECT_EQ(run({{100, here}, {101, here}}), 1U);
  EXPECT_EQ(run({{100, here}, {100, here}, {99, here}, {99, here}}), 3U);
  EXPECT_EQ(run({{100, here}, {0, here}}), 1U);
  EXPECT_EQ(run({{0, here}, {0, here}}), 1U);
  EXPECT_EQ(run(std::vector<std::pair<std::size_t, Endpoint>>(100, {10, here})), 64U);
  EXPECT_EQ(run(std::vector<std::pair<std::size_t, Endpoint>>(100, {9000, here})), 7U);
}

INSTANTIATE_TEST_SUITE_P(Both, UdpFamilies, ::testing::Bool(),
                         [](const auto& family) { return family.param ? "IPv6" : "IPv4"; });

}  // namespace
}  // namespace penstock::io
