// Real packets through the NAT model: what the lab's wire relies on. Checksums are judged by recomputing them whole.
#include <gtest/gtest.h>

#include "dataplane/core/packet/checksum.h"
#include "tests/model/packet_nat.h"
#include "tests/model/packet_rewrite.h"
#include "tests/model/seeded_random.h"
#include "tests/unit/gateway/builder.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;
using namespace gateway::test;

constexpr Instant kStart{1h};

Octets octets(Bytes bytes) {
  return {bytes.begin(), bytes.end()};
}

struct Bench {
  explicit Bench(bool six, NatBehaviour behaviour = {}, bool ttl = true)
      : host{ip(six ? "2001:db8:1::2" : "10.1.0.2"), 40000},
        outside{ip(six ? "2001:db8:2::7" : "203.0.113.7")},
        server{ip(six ? "2001:db8:3::9" : "198.51.100.9"), 7},
        box(behaviour, {outside}, random),
        nat(box, {ip("10.1.0.1"), ip("2001:db8:1::1"), ttl}) {}

  std::vector<SidedPacket> pass(Side from, const Octets& packet, Instant now = kStart) {
    std::vector<SidedPacket> out;
    nat.handle(from, packet, now, out);
    return out;
  }

  Endpoint host;
  IpAddress outside;
  Endpoint server;
  SeededRandom random{5};
  NatBox box;
  PacketNat nat;
};

bool checksums_right(const Octets& packet) {
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none) return false;
  const IpView& view = parse.view;
  if (!view.v6() && !ipv4_header_checksum_ok(packet)) return false;
  const Bytes transport = Bytes{packet}.subspan(view.header_length);
  ChecksumSum sum = checksum_add(0, transport);
  if (view.protocol != ip_protocol::icmp)
    sum += checksum_pseudo_header(ip_source(packet, view), ip_destination(packet, view), view.protocol,
                                  static_cast<std::uint32_t>(transport.size()));
  return checksum_fold(sum) == 0xffff;
}

Endpoint source_of(const Octets& packet) {
  const IpParse parse = parse_ip(packet);
  const Octets ports(packet.begin() + parse.view.header_length, packet.end());
  return {ip_source(packet, parse.view), static_cast<std::uint16_t>(ports[0] << 8 | ports[1])};
}
Endpoint destination_of(const Octets& packet) {
  const IpParse parse = parse_ip(packet);
  const Octets ports(packet.begin() + parse.view.header_length, packet.end());
  return {ip_destination(packet, parse.view), static_cast<std::uint16_t>(ports[2] << 8 | ports[3])};
}

class Families : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(PacketNat, Families, ::testing::Bool());

TEST_P(Families, UdpAndTcpGoOutAndComeBack) {
  for (const bool tcp : {false, true}) {
    Bench bench{GetParam()};
    const auto out = bench.pass(Side::inside, tcp ? tcp_packet(bench.host, bench.server, tcp_flag::syn)
                                                  : udp_packet(bench.host, bench.server, text("hello")));
    ASSERT_EQ(out.size(), 1u);
    EXPECT_EQ(out[0].leaves, Side::outside);
    EXPECT_TRUE(checksums_right(out[0].bytes));
    const Endpoint shown = source_of(out[0].bytes);
    EXPECT_EQ(shown.address, bench.outside);
    EXPECT_EQ(destination_of(out[0].bytes), bench.server);
    EXPECT_EQ(parse_ip(out[0].bytes).view.ttl, 63);

    const auto back = bench.pass(Side::outside, tcp ? tcp_packet(bench.server, shown, tcp_flag::syn | tcp_flag::ack)
                                                    : udp_packet(bench.server, shown, text("world")));
    ASSERT_EQ(back.size(), 1u);
    EXPECT_EQ(back[0].leaves, Side::inside);
    EXPECT_TRUE(checksums_right(back[0].bytes));
    EXPECT_EQ(destination_of(back[0].bytes), bench.host);
    EXPECT_EQ(source_of(back[0].bytes), bench.server);
  }
}

TEST_P(Families, EchoGoesOutAndComesBackWithItsIdentifier) {
  Bench bench{GetParam()};
  const auto out = bench.pass(Side::inside, echo_request(bench.host.address, bench.server.address, 77));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_TRUE(checksums_right(out[0].bytes));
  const std::size_t header = GetParam() ? 40 : 20;
  const auto id = static_cast<std::uint16_t>(out[0].bytes[header + 4] << 8 | out[0].bytes[header + 5]);
  const auto back = bench.pass(Side::outside, icmp_packet(bench.server.address, bench.outside,
                                                          GetParam() ? icmp6::echo_reply : icmp4::echo_reply, 0, id, 1,
                                                          text("are you there?")));
  ASSERT_EQ(back.size(), 1u);
  EXPECT_TRUE(checksums_right(back[0].bytes));
  EXPECT_EQ(back[0].bytes[header + 4] << 8 | back[0].bytes[header + 5], 77);
}

TEST_P(Families, ErrorsFindTheirWayBothWaysWithTheQuotationAsItsSenderKnowsIt) {
  Bench bench{GetParam(), {}, false};
  const Octets sent = udp_packet(bench.host, bench.server, text("hello"));
  const Octets shown = bench.pass(Side::inside, sent).at(0).bytes;
  const IpAddress router = ip(GetParam() ? "2001:db8:77::1" : "198.51.100.77");
  const auto inward = bench.pass(Side::outside, too_big_error(shown, router, 1300));
  ASSERT_EQ(inward.size(), 1u);
  EXPECT_TRUE(checksums_right(inward[0].bytes));
  EXPECT_EQ(inward[0].bytes, too_big_error(sent, router, 1300)) << "as if there were no NAT";

  // The other way: the host has no such port.
  const Octets answer = udp_packet(bench.server, source_of(shown), text("answer"));
  const Octets delivered = bench.pass(Side::outside, answer).at(0).bytes;
  const std::uint8_t type = GetParam() ? icmp6::unreachable : icmp4::unreachable;
  const auto outward = bench.pass(Side::inside, icmp_error(delivered, bench.host.address, type, 3));
  ASSERT_EQ(outward.size(), 1u);
  EXPECT_EQ(outward[0].leaves, Side::outside);
  EXPECT_TRUE(checksums_right(outward[0].bytes));
  EXPECT_EQ(outward[0].bytes, icmp_error(answer, bench.outside, type, 3));
}

TEST_P(Families, UnexpectedInboundIsDroppedOrRejected) {
  for (const bool rejects : {false, true})
    for (const bool tcp : {false, true}) {
      NatBehaviour behaviour;
      behaviour.rejects = rejects;
      Bench bench{GetParam(), behaviour};
      const Endpoint target{bench.outside, 5000};
      const auto out = bench.pass(Side::outside, tcp ? tcp_packet(bench.server, target, tcp_flag::syn)
                                                     : udp_packet(bench.server, target, text("hello")));
      ASSERT_EQ(out.size(), rejects ? 1u : 0u);
      if (!rejects) continue;
      EXPECT_EQ(out[0].leaves, Side::outside);
      EXPECT_TRUE(checksums_right(out[0].bytes));
      const IpView view = parse_ip(out[0].bytes).view;
      EXPECT_EQ(ip_source(out[0].bytes, view), bench.outside);
      EXPECT_EQ(ip_destination(out[0].bytes, view), bench.server.address);
      EXPECT_EQ(view.protocol, tcp          ? ip_protocol::tcp
                               : GetParam() ? ip_protocol::icmpv6
                                            : ip_protocol::icmp);
    }
}

TEST_P(Families, NeighboursMeetOverTheOutsideAddress) {
  for (const bool hairpins : {false, true}) {
    NatBehaviour behaviour;
    behaviour.hairpins = hairpins;
    Bench bench{GetParam(), behaviour};
    const Endpoint neighbour{ip(GetParam() ? "2001:db8:1::3" : "10.1.0.3"), 50000};
    const Endpoint shown =
        source_of(bench.pass(Side::inside, udp_packet(neighbour, bench.server, text("open"))).at(0).bytes);
    const auto out = bench.pass(Side::inside, udp_packet(bench.host, shown, text("hello")));
    ASSERT_EQ(out.size(), hairpins ? 1u : 0u);
    if (!hairpins) continue;
    EXPECT_EQ(out[0].leaves, Side::inside);
    EXPECT_TRUE(checksums_right(out[0].bytes));
    EXPECT_EQ(destination_of(out[0].bytes), neighbour);
    EXPECT_EQ(source_of(out[0].bytes).address, bench.outside) << "RFC 4787 REQ-9a";
  }
}

TEST_P(Families, HopLimitEndsHere) {
  Bench bench{GetParam()};
  IpOptions options;
  options.ttl = 1;
  const auto out = bench.pass(Side::inside, udp_packet(bench.host, bench.server, text("traceroute"), options));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].leaves, Side::inside);
  EXPECT_TRUE(checksums_right(out[0].bytes));
  EXPECT_EQ(ip_source(out[0].bytes, parse_ip(out[0].bytes).view), ip(GetParam() ? "2001:db8:1::1" : "10.1.0.1"));
}

// trap: nat-21
TEST(PacketNat, FragmentsFollowTheirFirstPieceInAnyOrder) {
  Bench bench{false};
  const Octets whole = udp_packet(bench.host, bench.server, Octets(2000, 0x55), {64, 0, false});
  const Octets payload(whole.begin() + 20, whole.end());
  const auto piece = [&](std::size_t from, std::size_t size, bool more) {
    IpOptions options;
    options.dont_fragment = false;
    options.offset = static_cast<std::uint16_t>(from);
    options.more_fragments = more;
    const auto start = payload.begin() + static_cast<std::ptrdiff_t>(from);
    return ip_packet(bench.host.address, bench.server.address, ip_protocol::udp,
                     Octets(start, start + static_cast<std::ptrdiff_t>(size)), options);
  };
  EXPECT_TRUE(bench.pass(Side::inside, piece(1400, payload.size() - 1400, false)).empty()) << "not yet";
  const auto out = bench.pass(Side::inside, piece(0, 1400, true));
  ASSERT_EQ(out.size(), 2u);
  Octets joined(out[0].bytes.begin() + 20, out[0].bytes.end());
  joined = joined + Octets(out[1].bytes.begin() + 20, out[1].bytes.end());
  for (const auto& packet : out) {
    EXPECT_TRUE(ipv4_header_checksum_ok(packet.bytes));
    EXPECT_EQ(ip_source(packet.bytes, parse_ip(packet.bytes).view), bench.outside);
  }
  EXPECT_TRUE(checksums_right(ip_packet(bench.outside, bench.server.address, ip_protocol::udp, joined)));
  EXPECT_EQ(bench.pass(Side::inside, piece(1400, payload.size() - 1400, false)).size(), 1u) << "known by now";
}

TEST(PacketNat, ZeroUdpChecksumStaysAndAWrongOneStaysWrong) {
  Bench bench{false};
  Octets packet = udp_packet(bench.host, bench.server, text("hello"));
  packet[26] ^= 0x5a;
  EXPECT_FALSE(checksums_right(bench.pass(Side::inside, packet).at(0).bytes));
  packet[26] = packet[27] = 0;
  const Octets out = bench.pass(Side::inside, packet).at(0).bytes;
  EXPECT_EQ(out[26] | out[27], 0);
}

// Established TCP is kept for hours, a handshake for minutes (RFC 5382 REQ-5).
TEST(PacketNat, TcpLivesLongOnceEstablished) {
  Bench bench{false};
  const Endpoint shown =
      source_of(bench.pass(Side::inside, tcp_packet(bench.host, bench.server, tcp_flag::syn)).at(0).bytes);
  EXPECT_TRUE(bench.pass(Side::outside, tcp_packet(bench.server, shown, tcp_flag::ack), kStart + 5min).empty());
  const Endpoint again =
      source_of(bench.pass(Side::inside, tcp_packet(bench.host, bench.server, tcp_flag::ack), kStart + 6min)
                    .at(0)
                    .bytes);
  EXPECT_EQ(bench.pass(Side::outside, tcp_packet(bench.server, again, tcp_flag::ack), kStart + 2h).size(), 1u);
}

TEST(PacketNat, GarbageNeitherPassesNorHurts) {
  Bench bench{false};
  SeededRandom random{11};
  const Octets good[] = {udp_packet(bench.host, bench.server, text("hello")),
                         echo_request(bench.host.address, bench.server.address),
                         octets(too_big_error(udp_packet(bench.host, bench.server, text("hello")),
                                              ip("198.51.100.77"), 1300))};
  for (int i = 0; i < 20'000; ++i) {
    Octets packet = good[i % 3];
    for (unsigned n = 1 + random.below(4); n > 0; --n)
      packet[random.below(static_cast<std::uint32_t>(packet.size()))] = static_cast<std::uint8_t>(random.below(256));
    if (random.chance(300)) packet.resize(random.below(static_cast<std::uint32_t>(packet.size())));
    for (const auto& out : bench.pass(i % 2 == 0 ? Side::inside : Side::outside, packet))
      EXPECT_EQ(parse_ip(out.bytes).reason, DropReason::none);
  }
}

}  // namespace
}  // namespace penstock::model
