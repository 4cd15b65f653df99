// Packets of any content into a Translator that has live flows of all four kinds: every packet handed in comes out
// once, none is lost or longer than its way allows, state stays bounded, and a flow of before still carries data
// afterwards.
//
// The input is a list of packets: a byte that says where it comes from and what is done to it, two of length, the
// packet. Half of the sources give the packet a right IPv4 header checksum, so that more gets past the first check.
#include <cstdint>
#include <cstring>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "tests/fuzz/require.h"
#include "tests/path/world.h"

namespace penstock::path {
namespace {

policy::Translation name(const char* text, const char* proxy4, const char* proxy6, const char* real) {
  policy::Translation out;
  out.resource = "corp";
  out.id = out.name = text;
  out.state = policy::TranslationState::active;
  out.proxy_v4 = *IpAddress::parse(proxy4);
  out.proxy_v6 = *IpAddress::parse(proxy6);
  const IpAddress address = *IpAddress::parse(real);
  (address.is_v4() ? out.real_v4 : out.real_v6).push_back(address);
  return out;
}

void set_up(World& world, std::uint8_t kind) {
  if ((kind & 1) != 0) {
    world.config.mapping = nat::Mapping::endpoint_independent;
    world.config.filtering = nat::Filtering::endpoint_independent;
    world.config.hairpinning = (kind & 2) != 0;
    world.config.unsolicited = (kind & 4) != 0 ? nat::Unsolicited::answer : nat::Unsolicited::pass;
  }
  world.config.keep_source = (kind & 8) != 0;
  world.config.mtu_inside = (kind & 16) != 0 ? 1400 : 1280;
  world.config.max_flows = 64;
  world.config.first_port = 3968;  // few: what a translator costs to make is what its ports cost
  world.config.last_port = 4095;
  policy::PeerPolicy& peer = world.peers[1];
  peer.tunnel_v4 = *IpAddress::parse("100.64.0.2");
  peer.tunnel_v6 = *IpAddress::parse("fd00:2021:1111::2");
  policy::Authorisation& corp = peer.authorisations.emplace_back();
  corp.kind = policy::ResourceKind::dns;
  corp.id = corp.resource = std::string{"corp"};
  corp.pattern = std::string{"**"};
  policy::Authorisation& lan = peer.authorisations.emplace_back();
  lan.kind = policy::ResourceKind::cidr;
  lan.id = lan.resource = std::string{"lan"};
  lan.prefix = *Prefix::parse("203.0.113.0/24");
  peer.translations = {name("four", "100.96.0.1", "fd00:2021:1111:8000::1", "203.0.113.80"),
                       name("six", "100.96.0.2", "fd00:2021:1111:8000::2", "2001:db8:1a::80")};
}

Octets datagram(const char* source, const char* destination) {
  const std::map<std::string, std::string> none;
  std::map<std::string, std::string> values;
  const std::string family = std::strchr(source, ':') != nullptr ? "ip6" : "ip4";
  const BuiltPacket built = build_packet(
      family + " src=" + source + " dst=" + destination + " udp sport=4000 dport=53 data=#20", values);
  require(built.error.empty());
  return built.bytes;
}

const std::array<Octets, 4>& flows() {
  static const std::array<Octets, 4> list = {datagram("100.64.0.2", "100.96.0.1"), datagram("100.64.0.2", "100.96.0.2"),
                                             datagram("fd00:2021:1111::2", "fd00:2021:1111:8000::1"),
                                             datagram("fd00:2021:1111::2", "fd00:2021:1111:8000::2")};
  return list;
}

bool goes_out(World& world, const Octets& packet) {
  for (const World::Result& result : world.up(1, packet))
    if (result.action == nat::Action::to_outside) return true;
  return false;
}

void check(const World& world, const std::vector<World::Result>& results) {
  for (const World::Result& result : results) {
    if (result.action == nat::Action::to_outside) require(result.bytes.size() <= world.config.mtu_outside);
    if (result.action == nat::Action::to_inside) require(result.bytes.size() <= world.config.mtu_inside);
  }
}

void repair_checksum(Octets& packet) {
  if (packet.size() < sizeof(Ipv4Header) || packet[0] >> 4 != 4) return;
  const std::size_t length = std::min<std::size_t>((packet[0] & 0x0fU) * 4U, packet.size());
  packet[10] = packet[11] = 0;
  const be16 sum = checksum_finish(checksum_add(0, Bytes{packet}.first(length)));
  std::memcpy(&packet[10], &sum, 2);
}

void run(Bytes input) {
  if (input.empty()) return;
  World world;
  set_up(world, input[0]);
  for (const Octets& flow : flows()) require(goes_out(world, flow));
  std::size_t at = 1;
  for (unsigned count = 0; count < 64 && at + 3 <= input.size(); ++count) {
    const std::uint8_t what = input[at];
    const std::size_t length =
        std::min((input[at + 1] | std::size_t{input[at + 2]} << 8) % 2048, input.size() - at - 3);
    Octets packet(input.begin() + static_cast<std::ptrdiff_t>(at) + 3,
                  input.begin() + static_cast<std::ptrdiff_t>(at + 3 + length));
    at += 3 + length;
    if ((what & 2) != 0) repair_checksum(packet);
    check(world, (what & 1) != 0 ? world.up(1, packet) : world.down(packet));
    if ((what & 4) != 0) check(world, world.after(std::chrono::milliseconds{what * 10}));
    require(world.translator().flow_count() <= world.config.max_flows);
  }
  check(world, world.after(std::chrono::seconds{8}));
  world.release();
  require(world.packets().outstanding() == 0);
  // Whatever it was: who may speak may speak, in a flow of before or a new one, while there is room.
  if (world.translator().flow_count() < world.config.max_flows)
    for (const Octets& flow : flows()) require(goes_out(world, flow));
}

}  // namespace
}  // namespace penstock::path

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  penstock::path::run({data, size});
  return 0;
}
