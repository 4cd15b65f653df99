// In-tunnel control: layout of probes, the frame around them, and everything that is not one.
#include "dataplane/core/wireguard/probe.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <vector>

namespace penstock::wireguard {
namespace {

TEST(Probe, LayoutOfTheAgreement) {
  const Probe probe{ControlType::probe, 0x0102, 0x03040506, 0x0708090a0b0c0d0e, 0x1112131415161718, 0x191a1b1c,
                    0x2122, true, true, true};
  const std::array<std::uint8_t, 32> expected{1,    1,    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
                                              0x0b, 0x0c, 0x0d, 0x0e, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
                                              0x19, 0x1a, 0x1b, 0x1c, 0x21, 0x22, 0,    7};
  EXPECT_EQ(encode_probe(probe), expected);
  EXPECT_EQ(parse_probe(expected), probe);
  Probe older = probe;  // without flags, and without the round-trip time
  older.doubt = older.sized = older.report = false;
  older.inner_mtu = 0;
  EXPECT_EQ(parse_probe(Bytes{expected}.first(28)), older);
  older.rtt_us = 0;
  EXPECT_EQ(parse_probe(Bytes{expected}.first(24)), older);
  Probe reply = probe;
  reply.type = ControlType::probe_reply;
  EXPECT_EQ(reply_to(probe), reply);
  EXPECT_EQ(encode_probe(reply)[0], 2);
}

RC_GTEST_PROP(Probe, RoundTrip, (std::uint16_t path, std::uint32_t sequence, std::uint64_t id, std::uint64_t sent_at,
                                std::uint32_t rtt, std::uint16_t inner_mtu, bool doubt, bool sized, bool report)) {
  const Probe probe{ControlType::probe_reply, path, sequence, id, sent_at, rtt, inner_mtu, doubt, sized, report};
  RC_ASSERT(parse_probe(encode_probe(probe)) == probe);
}

TEST(Probe, ASizedOneIsAsLongAsItIsAskedFor) {
  Probe probe;
  probe.sized = true;
  for (const std::size_t size : {std::size_t{0}, kProbePacketSize, std::size_t{1420}, std::size_t{9000}}) {
    const auto packet = make_sized_probe_packet(probe, ControlDirection::to_gateway, size);
    EXPECT_EQ(packet.size(), std::max(size, kProbePacketSize));
    const auto control = parse_control(packet);
    ASSERT_TRUE(control);
    EXPECT_EQ(control->payload.size(), packet.size() - kControlHeaderSize);
    EXPECT_EQ(parse_probe(control->payload), probe);
  }
}

TEST(Probe, RefusesWhatItDoesNotKnow) {
  auto bytes = encode_probe({});
  EXPECT_TRUE(parse_probe(bytes));
  EXPECT_EQ(parse_probe(Bytes{bytes}.first(23)), std::nullopt);
  EXPECT_EQ(parse_probe({}), std::nullopt);
  for (const int type : {0, 3, 4, 255}) {
    auto other = bytes;
    other[0] = static_cast<std::uint8_t>(type);
    EXPECT_EQ(parse_probe(other), std::nullopt) << type;
  }
  auto version = bytes;
  version[1] = 2;
  EXPECT_EQ(parse_probe(version), std::nullopt);
  std::vector<std::uint8_t> longer(bytes.begin(), bytes.end());
  longer.resize(40);
  EXPECT_TRUE(parse_probe(longer)) << "later versions may append";
}

TEST(Control, FrameBothWays) {
  const Probe probe{ControlType::probe, 7, 8, 9, 10};
  for (const auto direction : {ControlDirection::to_gateway, ControlDirection::to_client}) {
    const auto packet = make_probe_packet(probe, direction);
    ASSERT_EQ(packet.size(), kProbePacketSize);
    EXPECT_EQ(packet[0], 0x60);
    EXPECT_EQ(packet[5], kProbeSize);
    EXPECT_EQ(packet[6], 253);
    EXPECT_EQ(packet[7], 255);
    const bool to_gateway = direction == ControlDirection::to_gateway;
    EXPECT_EQ(IpAddress::from_wire(Bytes{packet}.subspan(8, 16)),
              to_gateway ? control_client_address() : control_gateway_address());
    EXPECT_EQ(IpAddress::from_wire(Bytes{packet}.subspan(24, 16)),
              to_gateway ? control_gateway_address() : control_client_address());
    EXPECT_TRUE(is_control_packet(packet));
    const auto parsed = parse_control(packet);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->direction, direction);
    EXPECT_EQ(parsed->type, ControlType::probe);
    EXPECT_EQ(parse_probe(parsed->payload), probe);
  }
  EXPECT_EQ(control_client_address().to_string(), "fe80::1");
  EXPECT_EQ(control_gateway_address().to_string(), "fe80::2");
}

TEST(Control, ExactlyThisPairAndHeader) {
  struct Case {
    const char* what;
    std::size_t offset;
    std::uint8_t value;
    bool still_claims;  // one of the two addresses is left
  };
  const auto good = make_probe_packet({}, ControlDirection::to_gateway);
  for (const Case& one :
       {Case{"version", 0, 0x40, false}, Case{"next header", 6, 17, true}, Case{"hop limit", 7, 254, true},
        Case{"source", 23, 3, true}, Case{"source is the gateway", 23, 2, true}, Case{"destination", 39, 9, true},
        Case{"longer than its packet", 5, kProbeSize + 1, true}, Case{"empty", 5, 0, true},
        Case{"unknown type", 40, 4, true},
        Case{"type 0", 40, 0, true}}) {
    auto packet = good;
    packet[one.offset] = one.value;
    EXPECT_EQ(parse_control(packet).has_value(), false) << one.what;
    EXPECT_EQ(is_control_packet(packet), one.still_claims) << one.what;
  }
  for (std::size_t length = 0; length < good.size(); ++length)
    EXPECT_FALSE(parse_control(Bytes{good}.first(length)).has_value()) << length;
  // Padding behind the packet is not its payload.
  std::vector<std::uint8_t> padded(good.begin(), good.end());
  padded.resize(80);
  EXPECT_EQ(parse_control(padded)->payload.size(), kProbeSize);
}

RC_GTEST_PROP(Control, AnyBytes, (std::vector<std::uint8_t> bytes)) {
  const auto parsed = parse_control(bytes);
  RC_ASSERT(!parsed || parsed->payload.size() <= bytes.size());
  static_cast<void>(parse_probe(bytes));
}

}  // namespace
}  // namespace penstock::wireguard
