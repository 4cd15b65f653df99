// What a Translator is set up with. Plain values; fixed for the life of a Translator, but for what `site` says.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"

namespace penstock::nat {

class PeerHomes;
class ReplySteering;
class BindingLog;
class SharedSiteSettings;

// Lifetimes of idle flows.
struct Timers {
  Duration tcp_established = std::chrono::minutes{124};  // RFC 5382 REQ-5, RFC 6146 §4: TCP_EST
  Duration tcp_transitory = std::chrono::minutes{4};     // RFC 6146 §4: TCP_TRANS
  Duration tcp_incoming = std::chrono::seconds{6};       // RFC 6146 §4: TCP_INCOMING_SYN
  Duration udp = std::chrono::minutes{5};                // RFC 4787 REQ-5 (>= 2 min)
  Duration icmp_query = std::chrono::seconds{60};        // RFC 5508 REQ-2
  Duration fragments = std::chrono::seconds{2};          // RFC 6146 §4: FRAGMENT_MIN
};

struct FragmentLimits {
  std::uint16_t datagrams = 256;  // being collected at one time, per worker
  std::uint16_t packets = 2048;   // held in all of them together
  std::uint16_t per_source = 32;  // datagrams of one peer (or all of the LAN's) at one time
};

// How much of a flow a port of ours stands for, and who may then send to it (RFC 4787 §4.1, §5).
enum class Mapping : std::uint8_t { address_and_port_dependent, endpoint_independent };
enum class Filtering : std::uint8_t { address_and_port_dependent, address_dependent, endpoint_independent };

// What a packet from outside that no flow and no binding waits for comes to. `pass`: it is nobody's (not_ours), in
// silence as far as the translator is concerned (RFC 5382 REQ-4a). `answer`: its sender is told Port Unreachable, at once
// or, for a TCP SYN, after the time in which the client may still open from its side (RFC 5382 REQ-4, RFC 6146 §3.5.2.2).
enum class Unsolicited : std::uint8_t { pass, answer };

struct TranslatorConfig {
  std::uint16_t worker = 0;   // this one
  std::uint16_t workers = 1;  // of this many
  // Shared by them all (peer_homes.h): a peer's flows live with one worker. nullptr: spread by a hash of the tuple.
  PeerHomes* homes = nullptr;

  // To whom the NIC of the LAN brings replies (reply_steering.h): ports are chosen so that it is this worker, where one is to
  // be had. nullptr: it is not known. Must outlive the translator.
  const ReplySteering* steering = nullptr;

  // Addresses of the gateway that clients appear under, per family; empty: no translation into that family.
  std::vector<IpAddress> source_v4;
  std::vector<IpAddress> source_v6;
  std::uint16_t first_port = 1024;  // of all workers together
  std::uint16_t last_port = 65535;

  // Never given to a UDP flow: the tunnel's own port, where a source address may also be the tunnel's. 0: none.
  std::uint16_t reserved_udp_port = 0;

  std::uint32_t max_flows = 262144;  // this worker's; memory is taken at construction
  std::uint32_t max_flows_per_peer = 65536;
  std::uint32_t max_peers = 65536;  // peer indices at or above are refused

  // SYNs that are kept until one of a name's addresses has answered, at one time; each holds a buffer.
  std::uint16_t max_openings = 256;

  // Where records of bindings go; nullptr: nowhere. Must outlive the translator.
  BindingLog* log = nullptr;

  Timers timers;
  FragmentLimits fragments;

  // Largest IP packets that fit: the tunnel's inner MTU, and the LAN's.
  std::uint16_t mtu_inside = 1280;
  std::uint16_t mtu_outside = 1500;

  // RFC 7915 §4.1 lowest-ipv6-mtu: IPv4 packets without DF are cut so that they are no longer than this in IPv6.
  std::uint16_t lowest_ipv6_mtu = 1280;

  // Source addresses of ICMP errors made here and sent into the tunnel. Defaults lie in the ranges that clients route
  // into the tunnel anyway.
  IpAddress own_inside_v4 = IpAddress::v4({100, 100, 111, 2});
  IpAddress own_inside_v6 =
      IpAddress::v6({0xfd, 0, 0x20, 0x21, 0x11, 0x11, 0x80, 0, 0x01, 0, 0x01, 0, 0x01, 0x11, 0, 0x02});

  // An IPv4 router that answers about a translated packet of an IPv6 client appears under this prefix (RFC 6052, length
  // 32, 40, 48, 56, 64 or 96). An IPv6 router cannot appear to an IPv4 client: an address of the pool stands for it, always
  // the same, so that a route's hops can be told apart (RFC 6791 §3.1). Clients route the pool into the tunnel; nobody
  // answers there.
  Prefix hop_prefix{IpAddress::v6({0x00, 0x64, 0xff, 0x9b}), 96};
  Prefix hop_pool_v4{IpAddress::v4({100, 100, 111, 128}), 25};

  // Ranges of protocol.md "Addresses".
  Prefix tunnel_v4{IpAddress::v4({100, 64, 0, 0}), 11};
  Prefix tunnel_v6{IpAddress::v6({0xfd, 0, 0x20, 0x21, 0x11, 0x11}), 107};
  Prefix proxy_v4{IpAddress::v4({100, 96, 0, 0}), 11};
  Prefix proxy_v6{IpAddress::v6({0xfd, 0, 0x20, 0x21, 0x11, 0x11, 0x80, 0}), 107};
  std::vector<IpAddress> own_addresses;  // the gateway's on its ports: no destination of a flow
  std::vector<Prefix> nat64_prefixes;    // further ones of this network, besides 64:ff9b::/96 and 64:ff9b:1::/48

  // ICMP errors and RSTs made here, per source (a peer; an outside address): a bucket of `burst` filled at
  // `per_second`.
  std::uint32_t icmp_errors_per_second = 20;
  std::uint32_t icmp_errors_burst = 20;

  // `source_nat: off`: within a family a client's address stays as it is, because the LAN routes the tunnel range back.
  // Across families one of `source_*` stands for it nevertheless.
  bool keep_source = false;

  // keep_source, mapping and filtering as the site has them now (site_settings.h); nullptr: they stay as they are here. Must
  // outlive the translator.
  const SharedSiteSettings* site = nullptr;

  Mapping mapping = Mapping::address_and_port_dependent;
  Filtering filtering = Filtering::address_and_port_dependent;  // looser ones only with an endpoint-independent mapping

  Unsolicited unsolicited = Unsolicited::pass;
  std::uint16_t max_unsolicited = 64;  // SYNs kept until they are answered, at one time; each holds a buffer

  // RFC 4787 REQ-9, RFC 6146 §3.8: clients reach each other at `source_*` addresses, where the policy of both allows these
  // as destinations. Off: refused.
  bool hairpinning = false;

  bool rewrite_identification = true;  // RFC 6864, 7857 §10: peers behind one address must not collide
};

}  // namespace penstock::nat
