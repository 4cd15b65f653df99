// What holds for every packet that is translated without state: there and back again, checksums along chains of
// rewrites, lengths. Packets come from the text notation of tests/path, maps from the runner of foreign packets.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

#include "tests/path/foreign/siit.h"

namespace penstock::path {
namespace {

const char* const kOurs4 = "192.0.2.33";
const char* const kTheirs4 = "198.51.100.2";
const char* const kOurs6 = "2001:db8:1c0:2:21::";
const char* const kTheirs6 = "2001:db8::b";

SiitConfig config(std::uint16_t mtu4 = 1500, std::uint16_t mtu6 = 1500, std::uint16_t lowest6 = 1500) {
  SiitConfig out;
  std::string error;
  RC_ASSERT(out.map.add(std::string{kOurs4} + "=" + kOurs6, error));
  RC_ASSERT(out.map.add(std::string{kTheirs4} + "=" + kTheirs6, error));
  RC_ASSERT(out.map.add("2001:db8:64::/96", error));
  out.mtu4 = mtu4;
  out.mtu6 = mtu6;
  out.lowest_mtu6 = lowest6;
  return out;
}

std::string number(int from, int to) {
  return std::to_string(*rc::gen::inRange(from, to));
}

std::string ports() {
  return " sport=" + number(0, 65536) + " dport=" + number(0, 65536);
}

// A transport header with data; `most` bytes of it.
std::string transport(int most, bool v6) {
  const std::string data = " data=#" + number(0, most);
  const std::string sum = *rc::gen::element<std::string>("", "", " sum=bad");
  switch (*rc::gen::inRange(0, 4)) {
    case 0:
      return " udp" + ports() + data + sum;
    case 1:
      return " tcp flags=PA seq=" + std::to_string(*rc::gen::arbitrary<std::uint32_t>()) + ports() + data + sum;
    case 2:
      return " icmp type=" + *rc::gen::element<std::string>("echo", "echo_reply") + " id=" + number(0, 65536) + data +
             sum;
    default:  // one that has no checksum over addresses
      return std::string{v6 ? " raw" : " raw protocol=132"} + data;
  }
}

std::string header(bool v6, bool from_us, const std::string& more = {}) {
  const char* us = v6 ? kOurs6 : kOurs4;
  const char* them = v6 ? kTheirs6 : kTheirs4;
  return std::string{v6 ? "ip6" : "ip4"} + " src=" + (from_us ? us : them) + " dst=" + (from_us ? them : us) + more;
}

std::string outer(bool v6) {
  return v6 ? header(true, true, " tc=" + number(0, 256) + " hop=" + number(3, 256))
            : header(false, true, " tos=" + number(0, 256) + " ttl=" + number(3, 256));
}

Octets built(const std::string& text) {
  const BuiltPacket packet = build_packet(text);
  RC_LOG() << text << "\n";
  RC_ASSERT(packet.error.empty());
  return packet.bytes;
}

Octets only(const ForeignResult& result) {
  RC_ASSERT(result.outputs.size() == 1U);
  RC_ASSERT(!result.outputs[0].answer);
  return result.outputs[0].bytes;
}

// Fields of both families under one name, without what the RFC says is lost.
Fields kept(const Octets& packet, const std::vector<std::string>& lost) {
  Fields fields = describe_packet(packet);
  std::erase_if(fields, [&](const auto& field) {
    return std::any_of(lost.begin(), lost.end(), [&](const std::string& name) {
      return field.first == name || field.first == "quoted." + name;
    });
  });
  return fields;
}

void there_and_back(const std::string& text, const std::vector<std::string>& lost) {
  const Octets first = built(text);
  Siit out{config()};
  Siit back{config()};
  const Octets there = only(out.send(first));
  RC_ASSERT(there[0] >> 4 != first[0] >> 4);
  const Octets again = only(back.send(there));
  RC_ASSERT(kept(again, lost) == kept(first, lost));
}

// Two hops; options; lengths of what had options; identification and DF of short packets (RFC 7915 §4.1, §5.1).
const std::vector<std::string> kLost4 = {"ip4.ttl", "ip4.opts", "ip4.len", "ip4.id", "ip4.df"};
const std::vector<std::string> kLost6 = {"ip6.hop", "ip6.fl", "ip6.len", "ip6.nh", "extension.0", "extension.60"};

TEST(TranslationProperties, Ipv4PacketsComeBack) {
  EXPECT_TRUE(rc::check([] {
    const std::string flags = *rc::gen::element<std::string>("", " df", " opts=94040000");
    there_and_back(outer(false) + flags + transport(1100, false), kLost4);
  }));
}

TEST(TranslationProperties, Ipv6PacketsComeBack) {
  EXPECT_TRUE(rc::check([] {
    const std::string more = *rc::gen::element<std::string>("", " hbh", " dest", " hbh dest");
    there_and_back(outer(true) + more + transport(1100, true), kLost6);
  }));
}

// Fragments one by one: first, middle and last, of a datagram that is never whole here.
TEST(TranslationProperties, FragmentsComeBack) {
  EXPECT_TRUE(rc::check([] {
    const bool v6 = *rc::gen::arbitrary<bool>();
    const std::string offset = std::to_string(8 * *rc::gen::inRange(1, 4000));
    const std::string id = " id=" + number(0, 65536);
    const std::string data = " data=#" + std::to_string(8 * *rc::gen::inRange(1, 100));
    switch (*rc::gen::inRange(0, 3)) {
      case 0:  // its length has to be a multiple of eight
        there_and_back(outer(v6) + (v6 ? " frag mf" : " mf") + id + " udp" + ports() + data + " over=00",
                       v6 ? kLost6 : std::vector<std::string>{"ip4.ttl", "ip4.df"});
        break;
      case 1:
        there_and_back(v6 ? outer(v6) + " frag nh=17 mf off=" + offset + id + " raw" + data
                          : outer(v6) + " mf off=" + offset + id + " raw protocol=17" + data,
                       v6 ? kLost6 : std::vector<std::string>{"ip4.ttl", "ip4.df"});
        break;
      default:
        there_and_back(v6 ? outer(v6) + " frag nh=6 off=" + offset + id + " raw data=#" + number(1, 500)
                          : outer(v6) + " off=" + offset + id + " raw protocol=6 data=#" + number(1, 500),
                       v6 ? kLost6 : std::vector<std::string>{"ip4.ttl", "ip4.df"});
    }
  }));
}

// Errors whose type has one counterpart both ways, whatever they quote, however much of it.
TEST(TranslationProperties, ErrorsComeBack) {
  EXPECT_TRUE(rc::check([] {
    const bool v6 = *rc::gen::arbitrary<bool>();
    const std::string kind =
        *rc::gen::element<std::string>("time_exceeded", "unreachable code=" + std::string{v6 ? "4" : "3"});
    const std::string cut = *rc::gen::element<std::string>("", " cut=8", " cut=4", " cut=20");
    const std::string quoted = header(v6, false, v6 ? " tc=" + number(0, 256) : " tos=" + number(0, 256)) +
                               *rc::gen::element<std::string>(" udp", " tcp flags=A") + ports() + " data=#" +
                               number(0, 300) + cut;
    std::vector<std::string> lost = v6 ? kLost6 : kLost4;
    lost.insert(lost.end(), {"ip4.df", "ip4.id"});
    there_and_back(outer(v6) + " icmp type=" + kind + " [ " + quoted + " ]", lost);
  }));
}

// Whatever is sent, nothing longer than the MTU of its way comes out, nothing is cut that must not be, and what its
// sender is told is shorter than what it sent.
TEST(TranslationProperties, NothingIsLongerThanItsWay) {
  EXPECT_TRUE(rc::check([] {
    const auto mtu4 = static_cast<std::uint16_t>(*rc::gen::inRange(576, 1600));
    const auto mtu6 = static_cast<std::uint16_t>(*rc::gen::inRange(1280, 1600));
    const auto lowest = static_cast<std::uint16_t>(*rc::gen::inRange(1280, 1600));
    const bool v6 = *rc::gen::arbitrary<bool>();
    const bool whole = v6 || *rc::gen::arbitrary<bool>();
    const Octets sent = built(outer(v6) + (whole && !v6 ? " df" : "") + transport(2000, v6));
    Siit siit{config(mtu4, mtu6, lowest)};
    const ForeignResult result = siit.send(sent);
    for (const ForeignOutput& output : result.outputs) {
      const bool to6 = output.bytes[0] >> 4 == 6;
      if (output.answer) {
        RC_ASSERT(output.bytes.size() <= (to6 ? 1280U : 576U));
        continue;
      }
      const std::size_t limit = to6 ? (whole ? mtu6 : std::min(mtu6, lowest)) : mtu4;
      RC_ASSERT(output.bytes.size() <= limit);
      if (whole && to6) RC_ASSERT(result.outputs.size() == 1U);
    }
    if (result.reason != DropReason::too_big) return;
    RC_ASSERT(result.outputs.size() == 1U);
    const Octets& answer = result.outputs[0].bytes;
    const std::size_t at = v6 ? 44 : 26;
    const unsigned told = v6 ? static_cast<unsigned>(answer[at] << 24 | answer[at + 1] << 16 | answer[at + 2] << 8 |
                                                     answer[at + 3])
                             : static_cast<unsigned>(answer[at] << 8 | answer[at + 1]);
    RC_ASSERT(told < sent.size());
    RC_ASSERT(told >= (v6 ? 1280U : 68U));
  }));
}

// A right checksum is right after any number of rewrites, across families and within, with ports and without; a wrong
// one is wrong by the same difference.
TEST(TranslationProperties, ChecksumsAlongChainsOfRewrites) {
  EXPECT_TRUE(rc::check([] {
    const auto address = [](bool v6) {
      auto bytes = *rc::gen::container<std::vector<std::uint8_t>>(16, rc::gen::arbitrary<std::uint8_t>());
      std::array<std::uint8_t, 16> wire{};
      std::copy(bytes.begin(), bytes.end(), wire.begin());
      wire[0] = 0x20;
      return v6 ? IpAddress::v6(wire) : IpAddress::v4({wire[1], wire[2], wire[3], wire[4]});
    };
    const auto sum_of = [](const Octets& packet) {
      for (const auto& [name, value] : describe_packet(packet))
        if (name.ends_with(".sum") && name != "ip4.sum") return value;
      return std::string{};
    };
    HeapPackets packets;
    bool v6 = *rc::gen::arbitrary<bool>();
    const Octets first = built(outer(v6) + transport(200, v6));
    RC_PRE(!sum_of(first).empty());
    Packet* packet = packets.make(first);
    const int steps = *rc::gen::inRange(1, 9);
    for (int step = 0; step < steps; ++step) {
      const IpParse parsed = parse_ip(*packet);
      RC_ASSERT(parsed.reason == DropReason::none);
      const bool to6 = *rc::gen::arbitrary<bool>();
      const auto port = [&](std::size_t at) {
        const std::uint8_t* transport = packet->data + parsed.view.header_length;
        return static_cast<std::uint16_t>(transport[at] << 8 | transport[at + 1]);
      };
      nat::Tuple from{ip_source(packet->bytes(), parsed.view), ip_destination(packet->bytes(), parsed.view)};
      nat::Rewrite rewrite;
      rewrite.ports = *rc::gen::arbitrary<bool>();
      rewrite.to = {address(to6), address(to6), *rc::gen::arbitrary<std::uint16_t>(),
                    *rc::gen::arbitrary<std::uint16_t>()};
      if (parsed.view.protocol == ip_protocol::icmp || parsed.view.protocol == ip_protocol::icmpv6) {
        // The identifier is the port of the side that asks.
        const std::uint8_t type = packet->data[parsed.view.header_length];
        const bool asks = type == icmp4::echo || type == icmp6::echo;
        (asks ? from.source_port : from.destination_port) = port(4);
        (asks ? rewrite.to.destination_port : rewrite.to.source_port) = 0;
      } else {
        from.source_port = port(0);
        from.destination_port = port(2);
      }
      rewrite.delta = nat::transport_delta(from, rewrite.to, parsed.view.protocol, rewrite.ports);
      nat::HeaderOptions options;
      options.forward = false;
      RC_ASSERT(nat::translate_packet(*packet, parsed.view, rewrite, options) == DropReason::none);
      const Octets now(packet->data, packet->data + packet->length);
      RC_ASSERT(sum_of(now) == sum_of(first));
      if (!to6) RC_ASSERT(ipv4_header_checksum_ok(Bytes{now}));
    }
    packets.free(packet);
  }));
}

// No bytes crash a stateless translator, and it keeps nothing of them.
TEST(TranslationProperties, NoBytesCrashAnAddressMap) {
  EXPECT_TRUE(rc::check([] {
    const bool v6 = *rc::gen::arbitrary<bool>();
    Octets bytes = built(outer(v6) + transport(300, v6));
    const int changes = *rc::gen::inRange(0, 6);
    for (int i = 0; i < changes; ++i)
      bytes[*rc::gen::inRange<std::size_t>(0, std::min<std::size_t>(bytes.size(), 80))] =
          *rc::gen::arbitrary<std::uint8_t>();
    bytes.resize(*rc::gen::inRange<std::size_t>(0, bytes.size() + 1));
    if (bytes.size() >= 20 && bytes[0] == 0x45) {
      bytes[10] = bytes[11] = 0;
      const be16 sum = checksum_finish(checksum_add(0, Bytes{bytes}.first(20)));
      std::memcpy(bytes.data() + 10, &sum, 2);
    }
    Siit siit{config()};
    for (const ForeignOutput& output : siit.send(bytes).outputs)
      RC_ASSERT(parse_ip(Bytes{output.bytes}, ParseMode::piecewise).reason == DropReason::none);
    RC_ASSERT(siit.held() == 0U);
  }));
}

}  // namespace
}  // namespace penstock::path
