// Which queue a NIC brings a reply to: our arithmetic beside DPDK's own (rte_thash), and what a port says of its device.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rte_thash.h>

#include <array>
#include <cstring>

#include "dataplane/core/nat/reply_steering.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::io {
namespace {

using nat::ReplySteering;
using nat::RssLayout;

// The key that Microsoft's specification verifies implementations with.
const std::vector<std::uint8_t> kKey = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
                                        0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
                                        0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

RssLayout layout_of(std::vector<std::uint8_t> key, std::size_t entries = 128, std::uint16_t queues = 4) {
  RssLayout out;
  out.key = std::move(key);
  for (std::size_t i = 0; i < entries; ++i) out.queues.push_back(static_cast<std::uint16_t>(i % queues));
  out.tcp4 = out.udp4 = out.tcp6 = out.udp6 = true;
  return out;
}

TEST(Steering, HashesAsTheSpecificationOfReceiveSideScalingSays) {
  struct Case {
    const char* source;
    std::uint16_t source_port;
    const char* destination;
    std::uint16_t destination_port;
    std::uint32_t hash;
  };
  const ReplySteering steering(layout_of(kKey));
  for (const Case& c : {Case{"66.9.149.187", 2794, "161.142.100.80", 1766, 0x51ccc178},
                        Case{"199.92.111.2", 14230, "65.69.140.83", 4739, 0xc626b0ea},
                        Case{"3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x40207d3d}}) {
    const IpAddress remote = IpAddress::parse(c.source).value(), local = IpAddress::parse(c.destination).value();
    EXPECT_EQ(steering.hash(steering.without_port(remote, c.source_port, local), remote.is_v6(), c.destination_port), c.hash)
        << c.source;
  }
}

TEST(Steering, HashesAsDpdkDoes) {
  EXPECT_TRUE(rc::check([] {
    const auto key = *rc::gen::container<std::vector<std::uint8_t>>(52, rc::gen::arbitrary<std::uint8_t>());
    const bool six = *rc::gen::arbitrary<bool>();
    const auto bytes = *rc::gen::container<std::vector<std::uint8_t>>(32, rc::gen::arbitrary<std::uint8_t>());
    const auto remote_port = *rc::gen::arbitrary<std::uint16_t>(), local_port = *rc::gen::arbitrary<std::uint16_t>();
    std::array<std::uint8_t, 16> a, b;
    std::copy_n(bytes.begin(), 16, a.begin());
    std::copy_n(bytes.begin() + 16, 16, b.begin());
    const IpAddress remote = six ? IpAddress::v6(a) : IpAddress::v4({a[0], a[1], a[2], a[3]});
    const IpAddress local = six ? IpAddress::v6(b) : IpAddress::v4({b[0], b[1], b[2], b[3]});
    RC_PRE(remote.is_v6() == six && local.is_v6() == six);

    std::array<std::uint32_t, 9> tuple{};  // as rte_softrss takes it: words in host order
    const std::size_t words = six ? 4 : 1;
    for (std::size_t i = 0; i < words; ++i) {
      const auto word = [&](const std::array<std::uint8_t, 16>& of) {
        return std::uint32_t{of[4 * i]} << 24 | std::uint32_t{of[4 * i + 1]} << 16 | std::uint32_t{of[4 * i + 2]} << 8 |
               of[4 * i + 3];
      };
      tuple[i] = word(a);
      tuple[words + i] = word(b);
    }
    tuple[2 * words] = std::uint32_t{remote_port} << 16 | local_port;
    const std::uint32_t theirs = rte_softrss(tuple.data(), static_cast<std::uint32_t>(2 * words + 1), key.data());
    const ReplySteering steering(layout_of(key));
    const std::uint32_t ours = steering.hash(steering.without_port(remote, remote_port, local), six, local_port);
    RC_ASSERT(ours == theirs);
    RC_ASSERT(steering.queue(ours) == theirs % 128 % 4);
  }));
}

TEST(Steering, WhatIsOfNoUseIsRefused) {
  EXPECT_TRUE(ReplySteering::usable(layout_of(kKey), 4));
  EXPECT_FALSE(ReplySteering::usable(layout_of(std::vector<std::uint8_t>(39)), 4)) << "a key too short for IPv6";
  EXPECT_FALSE(ReplySteering::usable(layout_of(kKey, 100), 4)) << "low bits do not choose of 100";
  EXPECT_FALSE(ReplySteering::usable(layout_of(kKey, 0), 4));
  EXPECT_FALSE(ReplySteering::usable(layout_of(kKey, 128, 4), 5)) << "nothing comes to the fifth worker";
  RssLayout addresses_only = layout_of(kKey);
  addresses_only.tcp4 = addresses_only.udp4 = addresses_only.tcp6 = addresses_only.udp6 = false;
  EXPECT_FALSE(ReplySteering::usable(addresses_only, 4));
  RssLayout tcp = layout_of(kKey);
  tcp.udp4 = tcp.udp6 = false;
  const ReplySteering steering(tcp);
  EXPECT_TRUE(steering.covers(ip_protocol::tcp, true) && steering.covers(ip_protocol::tcp, false));
  EXPECT_FALSE(steering.covers(ip_protocol::udp, false));
  EXPECT_FALSE(steering.covers(ip_protocol::icmp, false));
}

}  // namespace
}  // namespace penstock::io
