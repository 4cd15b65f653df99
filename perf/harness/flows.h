// The network that measurements take place in, as arithmetic: peer n, its flow m, the packets of both directions.
//
// WAN 192.0.2.1/24 with a router, behind which the clients are (250 addresses, many ports each), LAN 203.0.113.1/24 and
// 2001:db8:1a::1/64 with sixteen servers on the link. Every peer knows sixteen names, one per server. Flow f belongs to
// peer f % peers; half of a peer's flows are TCP, half UDP. A packet's payload begins with a 32-bit number and
// continues with a pattern of it, so that the other end can say whether what arrived is what was sent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::perf {

inline constexpr MacAddress kWanMac = {0x02, 0, 0, 0, 0, 0x01};
inline constexpr MacAddress kLanMac = {0x02, 0, 0, 0, 0, 0x02};
inline constexpr MacAddress kRouterMac = {0x02, 0, 0, 0, 0x10, 0x01};  // of the WAN
inline constexpr PortIndex kWan = 0;
inline constexpr PortIndex kLan = 1;
inline constexpr std::uint16_t kListenPort = 51820;
inline constexpr unsigned kServers = 16;
inline constexpr std::uint16_t kServicePort = 8000;  // and the ones behind it

[[nodiscard]] IpAddress gateway_wan();
[[nodiscard]] IpAddress wan_router();
[[nodiscard]] IpAddress gateway_lan(bool v6);
[[nodiscard]] IpAddress server_address(unsigned server, bool v6);
[[nodiscard]] MacAddress server_mac(unsigned server);
[[nodiscard]] IpAddress proxy_address(unsigned server, bool v6);
[[nodiscard]] IpAddress tunnel_address(std::uint32_t peer, bool v6);
[[nodiscard]] Endpoint client_endpoint(std::uint32_t peer);

// Families of a translation; "64": IPv6 inside, IPv4 outside.
struct Families {
  bool inside6 = true;
  bool outside6 = false;
};

struct Flow {
  std::uint32_t number = 0;
  std::uint32_t peer = 0;
  unsigned server = 0;
  bool tcp = false;
  std::uint16_t port = 0;          // the client's
  std::uint16_t service_port = 0;  // the server's
};
[[nodiscard]] Flow flow_of(std::uint32_t number, std::uint32_t peers);

// Shortest inner packet that carries a number.
inline constexpr std::uint16_t kShortest = 64;

// Writes the inner packet of `flow` from the client, `size` bytes in all, with payload `number`. `tcp_flags`: for TCP.
void write_from_client(const Flow& flow, const Families& families, std::uint16_t size, std::uint32_t number,
                       std::uint8_t tcp_flags, std::uint8_t* out);
// Writes the server's packet to the gateway's translated `port`, so long that the inner packet will have `size` bytes.
// Returns its length.
std::uint16_t write_from_server(const Flow& flow, const Families& families, std::uint16_t size, std::uint16_t port,
                                std::uint32_t number, std::uint8_t tcp_flags, std::uint8_t* out);
[[nodiscard]] std::uint16_t outside_size(const Families& families, std::uint16_t inside_size);

// Whether `packet` is what write_from_client's packet must have become on the LAN, or write_from_server's in the
// tunnel: every header field, checksums computed anew byte by byte, the payload. Empty: yes; otherwise what is wrong.
// `port`: the translated one.
[[nodiscard]] std::string check_on_lan(const Flow& flow, const Families& families, std::uint16_t size,
                                       std::uint32_t number, std::uint16_t port, Bytes packet);
[[nodiscard]] std::string check_in_tunnel(const Flow& flow, const Families& families, std::uint16_t size,
                                          std::uint32_t number, Bytes packet);
// The number in the payload of either; nullopt when it is no such packet.
[[nodiscard]] std::optional<std::uint32_t> number_of(Bytes packet);
// The translated source port of a packet on the LAN.
[[nodiscard]] std::uint16_t source_port_of(Bytes packet);

}  // namespace penstock::perf
