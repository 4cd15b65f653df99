// Packets of applications, and random numbers that are the same in every run.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::client::testing {

class CountingRandom final : public Random {
 public:
  explicit CountingRandom(std::uint64_t seed = 1) : state_(seed) {}
  void fill(std::span<std::uint8_t> out) override {
    for (auto& byte : out) {  // splitmix64
      std::uint64_t z = state_ += 0x9e3779b97f4a7c15ULL;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
      byte = static_cast<std::uint8_t>(z ^ (z >> 31));
    }
  }

 private:
  std::uint64_t state_;
};

inline IpAddress ip(std::string_view text) {
  return *IpAddress::parse(text);
}

inline std::vector<std::uint8_t> make_ip(std::string_view from, std::string_view to, std::uint8_t protocol,
                                         const std::vector<std::uint8_t>& l4) {
  const IpAddress source = ip(from);
  const IpAddress destination = ip(to);
  const bool v6 = source.is_v6();
  const std::size_t size = v6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  std::vector<std::uint8_t> out(size + l4.size());
  const auto copy = [](const IpAddress& address, auto& field) {
    const Bytes wire = address.wire();
    std::copy(wire.begin(), wire.end(), field.begin());
  };
  if (v6) {
    auto* header = view_as<Ipv6Header>(MutableBytes{out});
    header->version_class_flow = be32::from_host(0x60000000);
    header->payload_length = be16::from_host(static_cast<std::uint16_t>(l4.size()));
    header->next_header = protocol;
    header->hop_limit = 64;
    copy(source, header->source);
    copy(destination, header->destination);
  } else {
    auto* header = view_as<Ipv4Header>(MutableBytes{out});
    header->version_ihl = 0x45;
    header->total_length = be16::from_host(static_cast<std::uint16_t>(out.size()));
    header->flags_offset = be16::from_host(kIpv4DontFragment);
    header->ttl = 64;
    header->protocol = protocol;
    copy(source, header->source);
    copy(destination, header->destination);
    header->checksum = checksum_finish(checksum_add(0, Bytes{out}.first(size)));
  }
  std::copy(l4.begin(), l4.end(), out.begin() + static_cast<std::ptrdiff_t>(size));
  return out;
}

inline std::vector<std::uint8_t> make_udp(std::string_view from, std::string_view to, std::uint16_t source_port,
                                          std::uint16_t destination_port, std::string_view payload) {
  std::vector<std::uint8_t> l4(sizeof(UdpHeader) + payload.size());
  auto* udp = view_as<UdpHeader>(MutableBytes{l4});
  udp->source_port = be16::from_host(source_port);
  udp->destination_port = be16::from_host(destination_port);
  udp->length = be16::from_host(static_cast<std::uint16_t>(sizeof(UdpHeader) + payload.size()));
  std::copy(payload.begin(), payload.end(), l4.begin() + sizeof(UdpHeader));
  return make_ip(from, to, ip_protocol::udp, l4);
}

// With a timestamp option of eight bytes behind the header.
inline std::vector<std::uint8_t> make_tcp(std::string_view from, std::string_view to, std::uint16_t source_port,
                                          std::uint16_t destination_port, std::uint32_t sequence, std::uint8_t flags) {
  std::vector<std::uint8_t> l4(sizeof(TcpHeader) + 8);
  auto* tcp = view_as<TcpHeader>(MutableBytes{l4});
  tcp->source_port = be16::from_host(source_port);
  tcp->destination_port = be16::from_host(destination_port);
  tcp->sequence = be32::from_host(sequence);
  tcp->offset_reserved = 7 << 4;
  tcp->flags = flags;
  return make_ip(from, to, ip_protocol::tcp, l4);
}

inline std::vector<std::uint8_t> make_echo(std::string_view from, std::string_view to, std::uint16_t id,
                                           std::uint16_t sequence) {
  std::vector<std::uint8_t> l4(sizeof(IcmpHeader));
  const bool v6 = ip(from).is_v6();
  auto* icmp = view_as<IcmpHeader>(MutableBytes{l4});
  icmp->type = v6 ? icmp6::echo : icmp4::echo;
  icmp->field1 = be16::from_host(id);
  icmp->field2 = be16::from_host(sequence);
  return make_ip(from, to, v6 ? ip_protocol::icmpv6 : ip_protocol::icmp, l4);
}

}  // namespace penstock::client::testing
