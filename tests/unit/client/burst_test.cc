// Bursts through the agent: super-packets of the device, and what a tunnel brings without a copy.
#include <gtest/gtest.h>

#include "tests/unit/client/agent_harness.h"

namespace penstock::client {
namespace {

using testing::Gateway;
using testing::kClient4;
using testing::kSocket;
using testing::make_ip;
using testing::make_udp;
using testing::Network;

class Burst : public ::testing::Test {
 protected:
  void SetUp() override {
    net.on_request = [this](const v1::RequestConnection& request) { net.grant(request, net.gw()); };
    net.connect({Network::cidr_resource("lan", "203.0.113.0/24")});
  }

  // A TCP segment of the application's, its checksum left open, as a device with offloads gives it.
  static std::vector<std::uint8_t> segment(std::size_t payload, std::uint32_t sequence = 1) {
    std::vector<std::uint8_t> l4(20 + payload, std::uint8_t{7});
    auto* tcp = view_as<TcpHeader>(MutableBytes{l4});
    tcp->source_port = be16::from_host(4000);
    tcp->destination_port = be16::from_host(443);
    tcp->sequence = be32::from_host(sequence);
    tcp->offset_reserved = 0x50;
    tcp->flags = tcp_flag::ack;
    return make_ip(kClient4, "203.0.113.80", ip_protocol::tcp, l4);
  }
  static TunPacket super(const std::vector<std::uint8_t>& packet, std::uint16_t size) {
    return {packet, {true, offload::VnetHeader::Gso::tcp4, 40, size, 20, 16}};
  }
  void send(const std::vector<TunPacket>& packets) {
    net.agent->handle_packets(packets, net.now);
    net.pump();
  }
  [[nodiscard]] std::vector<std::size_t> sizes() {
    std::vector<std::size_t> out;
    for (const auto& packet : net.gw().packets) out.push_back(packet.size());
    return out;
  }

  Network net;
};

TEST_F(Burst, ASuperPacketIsCutAlsoWhileItWaits) {
  const auto packet = segment(2500);
  // the first packets of all: a tunnel is set up for them
  send({super(packet, 1000), super(segment(100, 2501), 1000)});
  EXPECT_EQ(sizes(), (std::vector<std::size_t>{1040, 1040, 540, 140}));
  net.gw().packets.clear();
  send({super(packet, 1000), super(segment(100, 2501), 1000)});  // and through it
  EXPECT_EQ(sizes(), (std::vector<std::size_t>{1040, 1040, 540, 140}));
  for (std::uint32_t i = 0; i < 3; ++i) {
    const Bytes got{net.gw().packets[i]};
    EXPECT_EQ(view_as<TcpHeader>(got.subspan(20))->sequence.host(), 1 + i * 1000);
    EXPECT_TRUE(parse_inner(got));
  }
  EXPECT_EQ(net.requests.size(), 1U);
}

TEST_F(Burst, ASegmentThatIsTooLargeIsToldOfPerPacket) {
  send({super(segment(100), 1000)});
  net.gw().packets.clear();
  net.to_applications.clear();
  send({super(segment(4000), 1300)});  // the device's MTU is 1280
  EXPECT_TRUE(sizes().empty() || sizes() == std::vector<std::size_t>{140});
  ASSERT_FALSE(net.to_applications.empty());
  const Bytes error{net.to_applications.front()};
  EXPECT_EQ(error[9], ip_protocol::icmp);
  EXPECT_EQ(error[20], icmp4::unreachable);
  EXPECT_EQ(error[21], 4);  // fragmentation needed
}

TEST_F(Burst, ASuperPacketForNobodyIsRefusedAndDamagedOnesAreCounted) {
  auto elsewhere = segment(2500);
  elsewhere[16] = 192;  // no Resource
  send({super(elsewhere, 1000)});
  EXPECT_FALSE(net.to_applications.empty());
  EXPECT_TRUE(sizes().empty());
  const auto before = net.agent->drops(DropReason::inner_malformed);
  send({super(segment(2500), 0)});
  EXPECT_EQ(net.agent->drops(DropReason::inner_malformed), before + 1);
}

TEST_F(Burst, WhatATunnelBringsIsNotCopied) {
  net.send(make_udp(kClient4, "203.0.113.80", 4000, 7, "hello"));
  ASSERT_EQ(net.gw().packets.size(), 1U);
  Gateway& gateway = net.gw();
  std::vector<std::vector<std::uint8_t>> expected, wire;
  for (int i = 0; i < 100; ++i) {
    expected.push_back(make_udp("203.0.113.80", kClient4, 7, 4000, std::to_string(i)));
    gateway.device->send(0, expected.back(), net.now);
    while (auto out = gateway.device->poll_output()) wire.push_back(std::move(out->bytes));
  }
  ASSERT_EQ(wire.size(), expected.size());
  wire.push_back(wire[50]);  // a copy
  std::vector<InDatagram> burst;
  for (auto& bytes : wire) burst.push_back({bytes, kSocket, gateway.endpoint});
  std::vector<Bytes> inner;
  net.agent->handle_datagrams(burst, inner, net.now);
  ASSERT_EQ(inner.size(), expected.size());
  for (std::size_t i = 0; i < inner.size(); ++i) {
    EXPECT_EQ(std::vector<std::uint8_t>(inner[i].begin(), inner[i].end()), expected[i]);
    EXPECT_TRUE(inner[i].data() > wire[i].data() && inner[i].data() < wire[i].data() + wire[i].size());
  }
  EXPECT_FALSE(net.agent->poll_packet());
  EXPECT_EQ(net.agent->drops(DropReason::wg_replay), 1U);
}

}  // namespace
}  // namespace penstock::client
