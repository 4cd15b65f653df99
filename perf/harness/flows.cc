#include "perf/harness/flows.h"

#include <fmt/format.h>

#include <cstring>

#include "dataplane/core/packet/checksum.h"

namespace penstock::perf {
namespace {

constexpr std::uint8_t kHopLimit = 64;
constexpr std::uint8_t kTos = 0x28;

// Low bits of `n` added to a base address: ranges of 2^21 hosts.
IpAddress plus(const IpAddress& base, std::uint32_t n) {
  if (base.is_v4()) return IpAddress::v4(base.v4_value() + n);
  auto bytes = base.bytes();
  for (int i = 0; i < 4; ++i) bytes[static_cast<std::size_t>(15 - i)] |= static_cast<std::uint8_t>(n >> (8 * i));
  return IpAddress::v6(bytes);
}

IpAddress parse(const char* text) {
  return *IpAddress::parse(text);
}

std::uint16_t ip_size(bool v6) {
  return v6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
}
std::uint16_t transport_size(bool tcp) {
  return tcp ? sizeof(TcpHeader) : sizeof(UdpHeader);
}

std::uint64_t pattern(std::uint32_t number, std::size_t at) {
  return (std::uint64_t{number} + at) * 0x9e3779b97f4a7c15ULL;
}

void write_payload(std::uint8_t* out, std::size_t size, std::uint32_t number) {
  std::memcpy(out, &number, 4);
  for (std::size_t at = 4; at < size; at += 8) {
    const std::uint64_t word = pattern(number, at);
    std::memcpy(out + at, &word, std::min<std::size_t>(8, size - at));
  }
}

void write_ip(const IpAddress& from, const IpAddress& to, std::uint16_t size, std::uint8_t protocol,
              std::uint8_t* out) {
  if (from.is_v4()) {
    auto* header = new (out) Ipv4Header{};
    header->version_ihl = 0x45;
    header->tos = kTos;
    header->total_length = be16::from_host(size);
    header->identification = be16::from_host(0x1234);
    header->flags_offset = be16::from_host(kIpv4DontFragment);
    header->ttl = kHopLimit;
    header->protocol = protocol;
    std::memcpy(header->source.data(), from.wire().data(), 4);
    std::memcpy(header->destination.data(), to.wire().data(), 4);
    header->checksum = checksum_finish(checksum_add(0, {out, sizeof *header}));
  } else {
    auto* header = new (out) Ipv6Header{};
    header->version_class_flow = be32::from_host(0x60000000U | std::uint32_t{kTos} << 20);
    header->payload_length = be16::from_host(static_cast<std::uint16_t>(size - sizeof *header));
    header->next_header = protocol;
    header->hop_limit = kHopLimit;
    header->source = from.bytes();
    header->destination = to.bytes();
  }
}

void write_packet(const Endpoint& from, const Endpoint& to, bool tcp, std::uint16_t size, std::uint32_t number,
                  std::uint8_t tcp_flags, std::uint8_t* out) {
  const bool v6 = from.address.is_v6();
  const std::uint8_t protocol = tcp ? ip_protocol::tcp : ip_protocol::udp;
  write_ip(from.address, to.address, size, protocol, out);
  std::uint8_t* transport = out + ip_size(v6);
  const auto length = static_cast<std::uint16_t>(size - ip_size(v6));
  write_payload(transport + transport_size(tcp), static_cast<std::size_t>(length - transport_size(tcp)), number);
  be16* checksum = nullptr;
  if (tcp) {
    auto* header = new (transport) TcpHeader{};
    header->source_port = be16::from_host(from.port);
    header->destination_port = be16::from_host(to.port);
    header->sequence = be32::from_host(number);
    header->acknowledgement = be32::from_host(1);
    header->offset_reserved = 0x50;
    header->flags = tcp_flags;
    header->window = be16::from_host(0xffff);
    checksum = &header->checksum;
  } else {
    auto* header = new (transport) UdpHeader{};
    header->source_port = be16::from_host(from.port);
    header->destination_port = be16::from_host(to.port);
    header->length = be16::from_host(length);
    checksum = &header->checksum;
  }
  const be16 sum = checksum_finish(
      checksum_add(checksum_pseudo_header(from.address, to.address, protocol, length), {transport, length}));
  *checksum = !tcp && sum == be16{} ? be16::from_host(0xffff) : sum;
}

// RFC 1071, as plainly as it can be written: the judge shares no code with the judged.
std::uint16_t plain_sum(Bytes bytes, std::uint32_t sum) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    sum += i % 2 == 0 ? std::uint32_t{bytes[i]} << 8 : bytes[i];
    if (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<std::uint16_t>(sum);
}

std::uint16_t word_at(Bytes bytes, std::size_t at) {
  return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}

std::string check(const Endpoint& from, const Endpoint& to, bool tcp, std::uint16_t size, std::uint32_t number,
                  Bytes packet) {
  const bool v6 = from.address.is_v6();
  const std::uint8_t protocol = tcp ? ip_protocol::tcp : ip_protocol::udp;
  if (packet.size() != size) return fmt::format("{} bytes instead of {}", packet.size(), size);
  if (packet[0] >> 4 != (v6 ? 6 : 4)) return "wrong family";
  const std::uint8_t tos = v6 ? static_cast<std::uint8_t>(word_at(packet, 0) >> 4) : packet[1];
  if (tos != kTos) return "traffic class";
  if (packet[v6 ? 7 : 8] != kHopLimit - 1) return "hop limit";
  if (packet[v6 ? 6 : 9] != protocol) return "protocol";
  if (v6 ? word_at(packet, 4) != size - 40 : word_at(packet, 2) != size) return "length field";
  if (!v6 && plain_sum(packet.first(20), 0) != 0xffff) return "IPv4 header checksum";
  const std::size_t width = v6 ? 16 : 4;
  const std::size_t addresses = v6 ? 8 : 12;
  if (std::memcmp(packet.data() + addresses, from.address.wire().data(), width) != 0) return "source address";
  if (std::memcmp(packet.data() + addresses + width, to.address.wire().data(), width) != 0)
    return "destination address";
  const Bytes transport = packet.subspan(ip_size(v6));
  if (word_at(transport, 0) != from.port) return "source port";
  if (word_at(transport, 2) != to.port) return "destination port";
  if (plain_sum(transport, plain_sum(packet.subspan(addresses, 2 * width),
                                     static_cast<std::uint32_t>(protocol + transport.size()))) != 0xffff)
    return "transport checksum";
  const Bytes payload = transport.subspan(transport_size(tcp));
  std::uint8_t expected[9216];
  write_payload(expected, payload.size(), number);
  if (std::memcmp(payload.data(), expected, payload.size()) != 0) return "payload";
  return {};
}

}  // namespace

IpAddress gateway_wan() {
  return IpAddress::v4({192, 0, 2, 1});
}
IpAddress wan_router() {
  return IpAddress::v4({192, 0, 2, 254});
}
IpAddress gateway_lan(bool v6) {
  return v6 ? parse("2001:db8:1a::1") : IpAddress::v4({203, 0, 113, 1});
}
IpAddress server_address(unsigned server, bool v6) {
  return plus(v6 ? parse("2001:db8:1a::") : IpAddress::v4({203, 0, 113, 0}), 16 + server);
}
MacAddress server_mac(unsigned server) {
  return {0x02, 0, 0, 0, 0x20, static_cast<std::uint8_t>(server)};
}
IpAddress proxy_address(unsigned server, bool v6) {
  return plus(v6 ? parse("fd00:2021:1111:8000::") : IpAddress::v4({100, 96, 0, 0}), 1 + server);
}
IpAddress tunnel_address(std::uint32_t peer, bool v6) {
  return plus(v6 ? parse("fd00:2021:1111::") : IpAddress::v4({100, 64, 0, 0}), 1 + peer);
}
Endpoint client_endpoint(std::uint32_t peer) {
  return {IpAddress::v4({198, 51, 100, static_cast<std::uint8_t>(2 + peer % 250)}),
          static_cast<std::uint16_t>(1024 + peer / 250)};
}

Flow flow_of(std::uint32_t number, std::uint32_t peers) {
  Flow out;
  out.number = number;
  out.peer = number % peers;
  const std::uint32_t n = number / peers;
  out.server = (n + out.peer) % kServers;  // so that many peers with a flow each do not all meet at one
  out.tcp = n / kServers % 2 != 0;
  out.service_port = static_cast<std::uint16_t>(kServicePort + n / kServers / 2 % 64);
  out.port = static_cast<std::uint16_t>(10000 + n / kServers / 2 / 64);
  return out;
}

std::uint16_t outside_size(const Families& families, std::uint16_t inside_size) {
  return static_cast<std::uint16_t>(inside_size - ip_size(families.inside6) + ip_size(families.outside6));
}

void write_from_client(const Flow& flow, const Families& families, std::uint16_t size, std::uint32_t number,
                       std::uint8_t tcp_flags, std::uint8_t* out) {
  write_packet({tunnel_address(flow.peer, families.inside6), flow.port},
               {proxy_address(flow.server, families.inside6), flow.service_port}, flow.tcp, size, number, tcp_flags,
               out);
}

std::uint16_t write_from_server(const Flow& flow, const Families& families, std::uint16_t size, std::uint16_t port,
                                std::uint32_t number, std::uint8_t tcp_flags, std::uint8_t* out) {
  const std::uint16_t length = outside_size(families, size);
  write_packet({server_address(flow.server, families.outside6), flow.service_port},
               {gateway_lan(families.outside6), port}, flow.tcp, length, number, tcp_flags, out);
  return length;
}

std::string check_on_lan(const Flow& flow, const Families& families, std::uint16_t size, std::uint32_t number,
                         std::uint16_t port, Bytes packet) {
  return check({gateway_lan(families.outside6), port},
               {server_address(flow.server, families.outside6), flow.service_port}, flow.tcp,
               outside_size(families, size), number, packet);
}

std::string check_in_tunnel(const Flow& flow, const Families& families, std::uint16_t size, std::uint32_t number,
                            Bytes packet) {
  return check({proxy_address(flow.server, families.inside6), flow.service_port},
               {tunnel_address(flow.peer, families.inside6), flow.port}, flow.tcp, size, number, packet);
}

std::optional<std::uint32_t> number_of(Bytes packet) {
  if (packet.size() < sizeof(Ipv4Header)) return std::nullopt;
  const bool v6 = packet[0] >> 4 == 6;
  const bool tcp = packet[v6 ? 6 : 9] == ip_protocol::tcp;
  const std::size_t at = std::size_t{ip_size(v6)} + transport_size(tcp);
  if (packet.size() < at + 4) return std::nullopt;
  return load_le<std::uint32_t>(packet.data() + at);
}

std::uint16_t source_port_of(Bytes packet) {
  return word_at(packet, packet[0] >> 4 == 6 ? 40 : (packet[0] & 15U) * 4U);
}

}  // namespace penstock::perf
