// The short way writes what the whole way would, byte by byte, and declines what is not plain.
#include "dataplane/core/nat/fast_path.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "dataplane/core/nat/tcp_state.h"
#include "dataplane/core/nat/translate.h"
#include "dataplane/core/packet/headers.h"
#include "tests/path/packet_text.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::Octets;

const IpAddress kInside4 = IpAddress::v4({100, 64, 0, 7}), kProxy4 = IpAddress::v4({100, 96, 0, 9});
const IpAddress kInside6 = IpAddress::parse("fd00:2021:1111::7").value();
const IpAddress kProxy6 = IpAddress::parse("fd00:2021:1111:8000::9").value();
const IpAddress kOurs4 = IpAddress::v4({203, 0, 113, 1}), kServer4 = IpAddress::v4({203, 0, 113, 80});
const IpAddress kOurs6 = IpAddress::parse("2001:db8:1a::1").value();
const IpAddress kServer6 = IpAddress::parse("2001:db8:1a::50").value();

struct OneFlow {
  flow::FlowRecord record{};
  IpAddress ours;
};

OneFlow any_flow() {
  OneFlow out;
  const bool inside6 = *rc::gen::arbitrary<bool>();
  const bool outside6 = *rc::gen::arbitrary<bool>();
  flow::FlowRecord& r = out.record;
  r.inside_source = inside6 ? kInside6 : kInside4;
  r.inside_destination = inside6 ? kProxy6 : kProxy4;
  r.inside_source_port = *rc::gen::arbitrary<std::uint16_t>();
  r.inside_destination_port = *rc::gen::arbitrary<std::uint16_t>();
  r.protocol = *rc::gen::arbitrary<bool>() ? ip_protocol::tcp : ip_protocol::udp;
  r.translation = inside6 ? (outside6 ? flow::Translation::nat66 : flow::Translation::nat64)
                          : (outside6 ? flow::Translation::nat46 : flow::Translation::nat44);
  r.remote = outside6 ? kServer6 : kServer4;
  r.remote_port = r.inside_destination_port;
  r.source_port = *rc::gen::arbitrary<std::uint16_t>();
  out.ours = outside6 ? kOurs6 : kOurs4;
  prepare_rewrite(r, out.ours);
  return out;
}

// A plain packet of the flow in either direction, checksum right or wrong.
Octets any_packet(const OneFlow& setup, bool up) {
  const flow::FlowRecord& r = setup.record;
  const IpAddress& from = up ? r.inside_source : r.remote;
  const IpAddress& to = up ? r.inside_destination : setup.ours;
  const unsigned from_port = up ? r.inside_source_port : r.remote_port;
  const unsigned to_port = up ? r.inside_destination_port : r.source_port;
  std::string text = from.is_v4() ? "ip4" : "ip6";
  text += " src=" + from.to_string() + " dst=" + to.to_string();
  const std::string ttl = std::to_string(*rc::gen::inRange(2, 256));
  const std::string tos = std::to_string(*rc::gen::inRange(0, 256));
  text += from.is_v4() ? " ttl=" + ttl + " tos=" + tos + " id=" + std::to_string(*rc::gen::inRange(0, 65536)) +
                                *rc::gen::element<std::string>("", " df")
                          : " hop=" + ttl + " tc=" + tos;
  text += r.protocol == ip_protocol::tcp ? " tcp flags=A" : " udp";
  text += " sport=" + std::to_string(from_port) + " dport=" + std::to_string(to_port);
  text += " data=#" + std::to_string(*rc::gen::inRange(0, 1300)) + *rc::gen::element<std::string>("", " sum=bad");
  return path::build_packet(text).bytes;
}

TEST(FastPath, WritesWhatTheWholeWayWrites) {
  EXPECT_TRUE(rc::check([] {
    path::HeapPackets packets;
    const OneFlow setup = any_flow();
    const flow::FlowRecord& r = setup.record;
    const bool up = *rc::gen::arbitrary<bool>();
    const Octets bytes = any_packet(setup, up);
    Packet* fast = packets.make(bytes);
    Packet* whole = packets.make(bytes);
    const auto identification = *rc::gen::arbitrary<std::uint16_t>();
    const bool keep = *rc::gen::arbitrary<bool>();
    bool plain = false;
    if (up) {
      flow::InsideKey key;
      plain = read_plain(*fast, key);
      if (plain)
        RC_ASSERT(key.source == r.inside_source && key.destination == r.inside_destination &&
                           key.source_port == r.inside_source_port &&
                           key.destination_port == r.inside_destination_port && key.protocol == r.protocol);
    } else {
      flow::OutsideKey key;
      plain = read_plain(*fast, key);
      if (plain)
        RC_ASSERT(key.local == setup.ours && key.remote == r.remote && key.local_port == r.source_port &&
                           key.remote_port == r.remote_port && key.protocol == r.protocol);
    }
    const IpParse parsed = parse_ip(*whole);
    RC_ASSERT(parsed.reason == DropReason::none);
    if (!plain) {  // only a UDP checksum that happens to be zero
      RC_ASSERT(r.protocol == ip_protocol::udp);
    } else {
      const bool from6 = parsed.view.v6();
      const bool to6 = up ? r.remote.is_v6() : r.inside_source.is_v6();
      RC_ASSERT(plain_translated_length(*fast, from6, to6) == translated_length(parsed.view, to6));
      Rewrite rewrite;
      HeaderOptions options;
      options.identification = identification;
      if (up) {
        rewrite.to = Tuple{setup.ours, r.remote, r.source_port, r.remote_port};
        rewrite.delta = r.up_delta;
        options.set_identification = r.inside_source.is_v6() || !keep;
        RC_ASSERT(rewrite_up(*fast, r, setup.ours, identification, keep));
      } else {
        rewrite.to = Tuple{r.inside_destination, r.inside_source, r.inside_destination_port, r.inside_source_port};
        rewrite.delta = r.down_delta;
        options.set_identification = r.remote.is_v6() && !r.inside_source.is_v6();
        RC_ASSERT(rewrite_down(*fast, r, identification));
      }
      RC_ASSERT(translate_packet(*whole, parsed.view, rewrite, options) == DropReason::none);
      RC_ASSERT(Octets(fast->data, fast->data + fast->length) == Octets(whole->data, whole->data + whole->length));
      RC_ASSERT(fast->l4_offset == whole->l4_offset);
      RC_ASSERT(fast->l4_protocol == whole->l4_protocol);
      RC_ASSERT((fast->flags & packet_flag::ip6) == (whole->flags & packet_flag::ip6));
      RC_ASSERT(fast->headroom == whole->headroom);
    }
    packets.free(fast);
    packets.free(whole);
  }));
}

TEST(FastPath, DeclinesWhatIsNotPlain) {
  struct Row {
    const char* what;
    const char* packet;
  };
  constexpr Row kRows[] = {
      {"TTL used up", "ip4 src=100.64.0.7 dst=100.96.0.9 ttl=1 udp sport=1 dport=2 data=#8"},
      {"hop limit used up", "ip6 src=fd00:2021:1111::7 dst=fd00:2021:1111:8000::9 hop=1 udp sport=1 dport=2 data=#8"},
      {"a first fragment", "ip4 src=100.64.0.7 dst=100.96.0.9 mf udp sport=1 dport=2 data=#8"},
      {"another protocol", "ip4 src=100.64.0.7 dst=100.96.0.9 icmp type=echo id=1 data=#8"},
  };
  path::HeapPackets packets;
  for (const Row& row : kRows) {
    Packet* packet = packets.make(path::build_packet(row.packet).bytes);
    flow::InsideKey key;
    EXPECT_FALSE(read_plain(*packet, key)) << row.what;
    packets.free(packet);
  }
}

// Any single byte of the headers turned into anything: the key is right or the packet is declined, and nothing is read
// behind a packet that is cut short.
TEST(FastPath, TakesNothingThatTheParserRefuses) {
  EXPECT_TRUE(rc::check([] {
    path::HeapPackets packets;
    const OneFlow setup = any_flow();
    Octets bytes = any_packet(setup, true);
    const auto at = *rc::gen::inRange<std::size_t>(0, std::min<std::size_t>(bytes.size(), 64));
    bytes[at] = *rc::gen::arbitrary<std::uint8_t>();
    bytes.resize(*rc::gen::element(bytes.size(), *rc::gen::inRange<std::size_t>(1, bytes.size() + 1)));
    Packet* packet = packets.make(bytes);
    flow::InsideKey key;
    if (read_plain(*packet, key)) {
      const IpParse parsed = parse_ip(*packet);
      // v4-mapped addresses in IPv6 are told apart by the flow's family.
      const bool mapped = packet->data[0] >> 4 == 6 && (key.source.is_v4() || key.destination.is_v4());
      RC_ASSERT(mapped || parsed.reason == DropReason::none);
      if (!mapped) {
        RC_ASSERT(!parsed.view.fragment() && parsed.view.ttl > 1 && parsed.view.source_route == 0);
        RC_ASSERT(parsed.view.v6() || ipv4_header_checksum_ok(packet->bytes()));
        RC_ASSERT(parsed.view.protocol == key.protocol);
        RC_ASSERT(ip_source(packet->bytes(), parsed.view) == key.source);
      }
    }
    packets.free(packet);
  }));
}

TEST(FastPath, TcpIsPlainWhenTheStateMachineSaysSo) {
  for (unsigned state = 0; state <= static_cast<unsigned>(TcpState::transitory); ++state)
    for (unsigned flags = 0; flags < 256; ++flags) {
      if (!tcp_is_plain(static_cast<std::uint8_t>(state), static_cast<std::uint8_t>(flags))) continue;
      for (const bool inside : {false, true}) {
        const TcpStep step = tcp_step(static_cast<TcpState>(state), inside, static_cast<std::uint8_t>(flags));
        EXPECT_EQ(step.state, static_cast<TcpState>(state));
        EXPECT_NE(step.lifetime, TcpLifetime::unchanged);
        EXPECT_EQ(flags & tcp_flag::syn, 0U) << "its MSS would have to be looked at";
      }
    }
  EXPECT_TRUE(tcp_is_plain(static_cast<std::uint8_t>(TcpState::established), tcp_flag::ack | tcp_flag::psh));
}

}  // namespace
}  // namespace penstock::nat
