// One client and one server with 60 000 TCP connections at a time, each opened by a whole handshake: nearly all ports
// that an address has towards one destination. Every one keeps its own way, both ways, for as long as TCP connections
// live.
#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "tests/path/world.h"

namespace penstock::path {
namespace {

using namespace std::chrono_literals;

constexpr std::uint16_t kConnections = 60000;
constexpr std::uint16_t kFirstPort = 2000;  // of the client
constexpr std::uint16_t kServerPort = 443;

struct Ends {
  const char* client;
  const char* proxy;  // as which the client knows the server
  const char* server;
};

Octets segment(const IpAddress& from, const IpAddress& to, std::uint16_t from_port, std::uint16_t to_port,
               std::uint8_t flags, std::uint32_t sequence, std::uint32_t acknowledgement) {
  TcpHeader tcp{};
  tcp.source_port = be16::from_host(from_port);
  tcp.destination_port = be16::from_host(to_port);
  tcp.sequence = be32::from_host(sequence);
  tcp.acknowledgement = be32::from_host(acknowledgement);
  tcp.offset_reserved = 5U << 4;
  tcp.flags = flags;
  const Bytes bytes{reinterpret_cast<const std::uint8_t*>(&tcp), sizeof tcp};
  tcp.checksum =
      checksum_finish(checksum_add(checksum_pseudo_header(from, to, ip_protocol::tcp, sizeof tcp), bytes));
  Octets out;
  if (from.is_v4()) {
    Ipv4Header ip{};
    ip.version_ihl = 0x45;
    ip.total_length = be16::from_host(sizeof ip + sizeof tcp);
    ip.flags_offset = be16::from_host(kIpv4DontFragment);
    ip.ttl = 64;
    ip.protocol = ip_protocol::tcp;
    std::memcpy(ip.source.data(), from.wire().data(), 4);
    std::memcpy(ip.destination.data(), to.wire().data(), 4);
    const Bytes header{reinterpret_cast<const std::uint8_t*>(&ip), sizeof ip};
    ip.checksum = checksum_finish(checksum_add(0, header));
    out.assign(header.begin(), header.end());
  } else {
    Ipv6Header ip{};
    ip.version_class_flow = be32::from_host(6U << 28);
    ip.payload_length = be16::from_host(sizeof tcp);
    ip.next_header = ip_protocol::tcp;
    ip.hop_limit = 64;
    ip.source = from.bytes();
    ip.destination = to.bytes();
    const Bytes header{reinterpret_cast<const std::uint8_t*>(&ip), sizeof ip};
    out.assign(header.begin(), header.end());
  }
  out.insert(out.end(), bytes.begin(), bytes.end());
  return out;
}

TcpHeader tcp_of(const Octets& packet) {
  TcpHeader out;
  std::memcpy(&out, packet.data() + (packet[0] >> 4 == 6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header)), sizeof out);
  return out;
}

class ManyConnections : public testing::TestWithParam<Ends> {
 protected:
  ManyConnections() {
    world.config.max_flows = 65536;
    world.config.max_flows_per_peer = 65536;
    policy::PeerPolicy& peer = world.peers[1];
    (client.is_v4() ? peer.tunnel_v4 : peer.tunnel_v6) = client;
    policy::Authorisation& all = peer.authorisations.emplace_back();
    all.kind = policy::ResourceKind::dns;
    all.id = all.resource = std::string{"corp"};
    all.pattern = std::string{"**"};
    policy::Translation& name = peer.translations.emplace_back();
    name.resource = "corp";
    name.id = name.name = "server";
    name.state = policy::TranslationState::active;
    (proxy.is_v4() ? name.proxy_v4 : name.proxy_v6) = proxy;
    (server.is_v4() ? name.real_v4 : name.real_v6).push_back(server);
    ours = (server.is_v4() ? world.config.source_v4 : world.config.source_v6).front();
  }

  // The one packet that comes of it, if it goes on.
  static std::optional<Octets> only(const std::vector<World::Result>& results, nat::Action action) {
    if (results.size() != 1 || results[0].action != action) return std::nullopt;
    return results[0].bytes;
  }
  std::optional<Octets> up(std::uint16_t port, std::uint8_t flags, std::uint32_t sequence, std::uint32_t acknowledges) {
    return only(world.up(1, segment(client, proxy, port, kServerPort, flags, sequence, acknowledges)),
                nat::Action::to_outside);
  }
  std::optional<Octets> down(std::uint16_t port, std::uint8_t flags, std::uint32_t sequence,
                             std::uint32_t acknowledges) {
    return only(world.down(segment(server, ours, kServerPort, port, flags, sequence, acknowledges)),
                nat::Action::to_inside);
  }

  const IpAddress client = *IpAddress::parse(GetParam().client);
  const IpAddress proxy = *IpAddress::parse(GetParam().proxy);
  const IpAddress server = *IpAddress::parse(GetParam().server);
  IpAddress ours;
  World world;
};

TEST_P(ManyConnections, SixtyThousandToOneServer) {
  std::vector<std::uint16_t> ports(kConnections);  // of ours
  for (std::uint16_t i = 0; i < kConnections; ++i) {
    const auto port = static_cast<std::uint16_t>(kFirstPort + i);
    const std::uint32_t here = i * 1000U;
    const std::uint32_t there = i * 777U;
    const auto syn = up(port, tcp_flag::syn, here, 0);
    ASSERT_TRUE(syn) << i;
    ports[i] = tcp_of(*syn).source_port.host();
    ASSERT_TRUE(down(ports[i], tcp_flag::syn | tcp_flag::ack, there, here + 1)) << i;
    ASSERT_TRUE(up(port, tcp_flag::ack, here + 1, there + 1)) << i;
  }
  EXPECT_EQ(world.translator().flow_count(), kConnections);
  EXPECT_EQ(std::set<std::uint16_t>(ports.begin(), ports.end()).size(), kConnections);
  // Two hours later all are there still, and what the server says on one comes to nobody else.
  world.after(2h);
  EXPECT_EQ(world.translator().flow_count(), kConnections);
  for (std::uint16_t i = 0; i < kConnections; i = static_cast<std::uint16_t>(i + 7)) {
    const auto data = down(ports[i], tcp_flag::ack | tcp_flag::psh, i * 777U + 1, i * 1000U + 1);
    ASSERT_TRUE(data) << i;
    EXPECT_EQ(tcp_of(*data).destination_port.host(), kFirstPort + i);
    EXPECT_EQ(tcp_of(*data).sequence.host(), i * 777U + 1);
  }
  // A reset ends its own connection alone. trap: nat-24
  ASSERT_TRUE(down(ports[0], tcp_flag::rst | tcp_flag::ack, 1, 1));
  for (std::uint16_t i = 1; i < kConnections; i = static_cast<std::uint16_t>(i + 7))
    ASSERT_TRUE(up(static_cast<std::uint16_t>(kFirstPort + i), tcp_flag::ack, i * 1000U + 1, i * 777U + 1)) << i;
  world.after(5min);
  // Those that spoke since live on, the others are older than 2 h 4 min now.
  EXPECT_GT(world.translator().flow_count(), 2U * (kConnections / 7U) - 10U);
  EXPECT_LT(world.translator().flow_count(), 2U * (kConnections / 7U) + 10U);
}

INSTANTIATE_TEST_SUITE_P(AllTranslations, ManyConnections,
                         testing::Values(Ends{"100.64.0.2", "100.96.0.1", "203.0.113.80"},
                                         Ends{"fd00:2021:1111::2", "fd00:2021:1111:8000::1", "203.0.113.80"},
                                         Ends{"100.64.0.2", "100.96.0.1", "2001:db8:1a::80"},
                                         Ends{"fd00:2021:1111::2", "fd00:2021:1111:8000::1", "2001:db8:1a::80"}));

}  // namespace
}  // namespace penstock::path
