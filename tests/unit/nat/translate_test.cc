#include "dataplane/core/nat/translate.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

#include "dataplane/core/nat/mss.h"
#include "dataplane/core/nat/rate_limiter.h"
#include "tests/path/packet_text.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::Fields;
using path::Octets;

const IpAddress kA4 = IpAddress::v4({192, 0, 2, 33}), kB4 = IpAddress::v4({198, 51, 100, 2});
const IpAddress kA6 = IpAddress::parse("2001:db8:1c0:2:21::").value(), kB6 = IpAddress::parse("2001:db8::b").value();

// An address map without ports, as RFC 7915 knows it.
DropReason translate(path::HeapPackets& packets, Octets& bytes, const IpAddress& source, const IpAddress& destination) {
  Packet* packet = packets.make(bytes);
  const IpParse parsed = parse_ip(*packet);
  DropReason reason = parsed.reason;
  if (reason == DropReason::none) {
    Rewrite rewrite;
    rewrite.ports = false;
    rewrite.to = {source, destination, 0, 0};
    const Tuple from{ip_source(packet->bytes(), parsed.view), ip_destination(packet->bytes(), parsed.view), 0, 0};
    rewrite.delta = transport_delta(from, rewrite.to, parsed.view.protocol, false);
    reason = translate_packet(*packet, parsed.view, rewrite, HeaderOptions{});
    bytes.assign(packet->data, packet->data + packet->length);
  }
  packets.free(packet);
  return reason;
}

std::string transport_text() {
  const std::string data = " data=#" + std::to_string(*rc::gen::inRange(0, 1100));
  const std::string sum = *rc::gen::element<std::string>("", " sum=bad");
  const std::string ports =
      " sport=" + std::to_string(*rc::gen::inRange(0, 65536)) + " dport=" + std::to_string(*rc::gen::inRange(0, 65536));
  switch (*rc::gen::inRange(0, 3)) {
    case 0:
      return " udp" + ports + data + sum;
    case 1:
      return " tcp flags=PA seq=" + std::to_string(*rc::gen::arbitrary<std::uint32_t>()) + ports + data + sum;
    default:
      return " icmp type=" + *rc::gen::element<std::string>("echo", "echo_reply") +
             " id=" + std::to_string(*rc::gen::inRange(0, 65536)) + data + sum;
  }
}

Fields without(Fields fields, const std::vector<std::string>& names) {
  std::erase_if(fields, [&](const auto& f) { return std::find(names.begin(), names.end(), f.first) != names.end(); });
  return fields;
}

std::string sum_of(const Fields& fields) {
  for (const auto& [name, value] : fields)
    if (name.ends_with(".sum") && name != "ip4.sum") return value;
  return "";
}

TEST(Translate, FromIpv4ThereAndBackGivesThePacketBack) {
  EXPECT_TRUE(rc::check([] {
    const std::string header = "ip4 src=192.0.2.33 dst=198.51.100.2 tos=" + std::to_string(*rc::gen::inRange(0, 256)) +
                               " ttl=" + std::to_string(*rc::gen::inRange(3, 256)) +
                               *rc::gen::element<std::string>("", " df", " opts=94040000", " opts=010101");
    const auto built = path::build_packet(header + transport_text());
    RC_ASSERT(built.error.empty());
    path::HeapPackets packets;
    Octets bytes = built.bytes;
    RC_ASSERT(translate(packets, bytes, kA6, kB6) == DropReason::none);
    const Fields six = path::describe_packet(bytes);
    RC_ASSERT(sum_of(six) == sum_of(path::describe_packet(built.bytes)));  // right stays right, wrong stays as wrong
    RC_ASSERT(translate(packets, bytes, kA4, kB4) == DropReason::none);
    // Lost by RFC 7915: TTL (two hops), options and so the length, identification, DF up to 1260 bytes.
    const std::vector<std::string> lost = {"ip4.ttl", "ip4.opts", "ip4.len", "ip4.id", "ip4.df"};
    RC_ASSERT(without(path::describe_packet(bytes), lost) == without(path::describe_packet(built.bytes), lost));
    RC_ASSERT(bytes[8] == built.bytes[8] - 2);
  }));
}

TEST(Translate, FromIpv6ThereAndBackGivesThePacketBack) {
  EXPECT_TRUE(rc::check([] {
    const std::string header =
        "ip6 src=2001:db8:1c0:2:21:: dst=2001:db8::b tc=" + std::to_string(*rc::gen::inRange(0, 256)) +
        " hop=" + std::to_string(*rc::gen::inRange(3, 256)) + " fl=7" +
        *rc::gen::element<std::string>("", " hbh", " dest dest", " frag id=77");
    const auto built = path::build_packet(header + transport_text());
    RC_ASSERT(built.error.empty());
    path::HeapPackets packets;
    Octets bytes = built.bytes;
    RC_ASSERT(translate(packets, bytes, kA4, kB4) == DropReason::none);
    RC_ASSERT(sum_of(path::describe_packet(bytes)) == sum_of(path::describe_packet(built.bytes)));
    RC_ASSERT(translate(packets, bytes, kA6, kB6) == DropReason::none);
    const std::vector<std::string> lost = {"ip6.hop",      "ip6.fl",  "ip6.len", "ip6.nh",  "extension.0",
                                           "extension.60", "frag.nh", "frag.id", "frag.mf", "frag.off"};
    RC_ASSERT(without(path::describe_packet(bytes), lost) == without(path::describe_packet(built.bytes), lost));
  }));
}

TEST(Translate, ShortTransportHeadersAreRefused) {
  path::HeapPackets packets;
  for (const char* text : {"ip4 src=192.0.2.33 dst=198.51.100.2 raw protocol=6 data=0001",
                           "ip4 src=192.0.2.33 dst=198.51.100.2 raw protocol=17 data=000100020008",
                           "ip4 src=192.0.2.33 dst=198.51.100.2 raw protocol=1 data=08000000"}) {
    Octets bytes = path::build_packet(text).bytes;
    EXPECT_EQ(translate(packets, bytes, kA6, kB6), DropReason::transport_malformed) << text;
  }
}

TEST(ClampMss, LowersAndKeepsTheChecksumsError) {
  EXPECT_TRUE(rc::check([] {
    const std::string options = *rc::gen::element<std::string>("", " opts=0101", " opts=0402080a0102030405060708");
    const auto mss = *rc::gen::inRange(0, 65536);
    const std::string pad = *rc::gen::element<std::string>("", "01");  // an odd offset, too
    char hex[16];
    (void)std::snprintf(hex, sizeof hex, "0204%04x", static_cast<unsigned>(mss));
    const std::string text = "ip4 src=192.0.2.33 dst=198.51.100.2 tcp flags=S sport=1 dport=2 opts=" + pad + hex +
                             "0000" + *rc::gen::element<std::string>("", " sum=bad");
    const auto built = path::build_packet(text);
    RC_ASSERT(built.error.empty());
    Octets bytes = built.bytes;
    clamp_mss(MutableBytes{bytes}.subspan(20), 1220);
    RC_ASSERT(sum_of(path::describe_packet(bytes)) == sum_of(path::describe_packet(built.bytes)));
    const std::size_t at = 20 + 20 + pad.size() / 2 + 2;
    RC_ASSERT((bytes[at] << 8 | bytes[at + 1]) == std::min(mss, 1220));
  }));
}

TEST(ClampMss, MalformedOptionsAreLeftAlone) {
  EXPECT_TRUE(rc::check([](std::vector<std::uint8_t> options) {
    options.resize(std::min<std::size_t>(40, options.size() / 4 * 4));
    Octets segment(20, 0);
    segment[12] = static_cast<std::uint8_t>((20 + options.size()) / 4 << 4);
    segment.insert(segment.end(), options.begin(), options.end());
    clamp_mss(segment, 1220);
  }));
}

TEST(RateLimiter, BurstThenRate) {
  path::SeededRandom random{1};
  RateLimiter limiter{10, 5, random};
  const auto at = [](int ms) { return Instant{std::chrono::milliseconds{ms}}; };
  int sent = 0;
  for (int i = 0; i < 100; ++i) sent += limiter.allow(1, at(1000)) ? 1 : 0;
  EXPECT_EQ(sent, 5);
  EXPECT_TRUE(limiter.allow(2, at(1000)));  // another source has its own
  sent = 0;
  for (int ms = 1000; ms < 3000; ++ms) sent += limiter.allow(1, at(ms)) ? 1 : 0;
  EXPECT_NEAR(sent, 20, 1);
  RateLimiter off{0, 5, random};
  EXPECT_FALSE(off.allow(1, at(1)));
}

}  // namespace
}  // namespace penstock::nat
