// The client as a state machine: from an application's first packet to an authorised tunnel, and everything that keeps
// it up.
//
// Theory of operation. Applications' packets come in from the TUN device; their destination tells the Resource (proxy
// addresses through the name map, other addresses by longest prefix). A packet that cannot go yet waits in the queue of
// its *target* (Resource and name) while the client asks the portal for an authorisation (one request per Resource),
// sets up one tunnel per gateway and tells the gateway names it has not heard of (in-tunnel ResolveName). When all that
// stands, the queue is flushed in order. What is refused is answered with an ICMP error at once.
//
// It composes: ResourceSet, Access (authorisations), dns::NameMap and dns::StubResolver, wireguard::Device,
// paths::Connectivity (candidates, relays, probes, path switching), ControlChannel (in-tunnel requests).
//
// Shape (docs/agreements.md): handle_*(input, now), then drain every poll_*, then arm one timer for poll_timeout().
// Nothing here reads a clock or a socket. One thread. Inputs from outside may be malformed; they end as counted drops.
//
// The portal being away stops only what needs a new authorisation. A new Welcome is authoritative: Resources that are
// not in it are gone, with their authorisations.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "controlplane/core/broker/version.h"
#include "controlplane/core/client_agent/resource_set.h"
#include "controlplane/core/dns/name_map.h"
#include "controlplane/core/dns/stub_resolver.h"
#include "controlplane/core/offload/vnet_header.h"
#include "controlplane/core/paths/connectivity.h"
#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/wireguard/device.h"
#include "penstock/v1/inspect.pb.h"
#include "penstock/v1/signaling.pb.h"

namespace penstock::client {

struct ClientAgentConfig {
  wireguard::PrivateKey private_key{};
  std::string hostname;
  std::uint16_t mtu = 1280;               // inner
  wireguard::Timestamp last_timestamp{};  // of the latest initiation of earlier runs; ours are later
  std::string aead = "auto";
  ProtocolVersion protocol = kProtocolVersion;  // 1.0: eager, nothing is repaired (docs/protocol.md, Versions)
  dns::NameMapConfig names;
  dns::StubResolverConfig resolver;
  paths::ConnectivityConfig paths;
};

// A gateway given by file instead of by a portal: a standard WireGuard peer without in-tunnel control, for which every
// Resource is authorised.
struct StaticGateway {
  wireguard::PublicKey public_key{};
  wireguard::PresharedKey preshared_key{};  // zeroes: none
  std::vector<Endpoint> endpoints;
  IpAddress tunnel_v4;  // unspecified: none
  IpAddress tunnel_v6;
  std::vector<Resource> resources;
};

// What the TUN device and the routing table should look like.
struct InterfaceState {
  IpAddress tunnel_v4;
  IpAddress tunnel_v6;
  IpAddress resolver_v4;
  IpAddress resolver_v6;
  std::vector<Prefix> routes;         // into the tunnel
  std::vector<IpAddress> exceptions;  // gateways and relays: never into the tunnel
  std::uint16_t mtu = 1280;
};

// `storage` is larger than the datagram, so that sealing and relaying happen in place.
struct OutDatagram {
  std::vector<std::uint8_t> storage;
  std::size_t offset = 0;
  std::size_t length = 0;
  Endpoint local;  // which of the shell's sockets
  Endpoint remote;
  paths::StreamId stream = 0;  // not 0: a message for this connection instead

  [[nodiscard]] Bytes bytes() const { return Bytes{storage}.subspan(offset, length); }
};

struct TunPacket {
  Bytes bytes;
  offload::VnetHeader vnet;
};

struct InDatagram {
  MutableBytes bytes;
  Endpoint local;
  Endpoint remote;
  paths::StreamId stream = 0;  // not 0: a message from this connection
};

using DnsOutput = std::variant<dns::Answer, dns::UpstreamSend, dns::UpstreamClose>;

enum class AgentEvent : std::uint8_t {
  interface_changed,  // read interface()
  upstreams_changed,  // the portal set upstream resolvers, or took them back: read portal_upstreams()
  portal_suspect,     // the network failed under us: dial the portal anew
  timestamp_used,     // persist last_timestamp()
  resolver_rebuilt,   // pools changed: NameMap and StubResolver are new objects
};

struct LogLine {
  enum class Level : std::uint8_t { info, warning } level = Level::info;
  std::string text;
};

class ClientAgent {
 public:
  ClientAgent(ClientAgentConfig config, Random& random);
  ~ClientAgent();
  ClientAgent(const ClientAgent&) = delete;
  ClientAgent& operator=(const ClientAgent&) = delete;

  // ---- set-up ----
  void use_static_gateway(const StaticGateway& gateway, Now now);
  // As paths::Connectivity::handle_local_addresses.
  void handle_local_addresses(std::span<const Endpoint> sockets, std::span<const Endpoint> hosts, Now now);

  // ---- packets ----
  // A burst from the TUN device, in order; the bytes are not kept. With its device's headers a packet may stand for
  // many (offload/segment.h), or lack its checksum.
  void handle_packets(std::span<const Bytes> packets, Now now);
  void handle_packets(std::span<const TunPacket> packets, Now now);
  // A burst from the tunnel's sockets, in order; decrypted in place.
  void handle_datagrams(std::span<const InDatagram> datagrams, Now now);
  // The same without a copy: what is for the TUN device is added to `inner`, in order, instead of to poll_packet(). It
  // points into the datagrams.
  void handle_datagrams(std::span<const InDatagram> datagrams, std::vector<Bytes>& inner, Now now);
  // An ICMP error says that a datagram of ours does not reach `remote`; `quoted`: the beginning of its payload. Ignored
  // (false) unless that is a message which a live session has sent lately; else a hint to doubt the path.
  bool handle_unreachable(Bytes quoted, const Endpoint& remote, Now now);
  // What became of a connection that poll_stream asked for.
  void handle_stream_up(paths::StreamId stream, Now now);
  void handle_stream_down(paths::StreamId stream, Now now);

  // ---- portal ----
  void handle_portal_connected(Now now);  // send what poll_portal gives: Hello first
  void handle_portal_message(const v1::PortalToClient& message, Now now);
  void handle_portal_disconnected(Now now);

  // ---- names: as dns::StubResolver ----
  [[nodiscard]] Bytes handle_query(Bytes message, const dns::Client& client, Now now);
  void handle_upstream(std::uint64_t exchange, const Endpoint& from, Bytes message, Now now);
  void handle_upstream_failed(std::uint64_t exchange, Now now);
  void set_upstreams(std::vector<Endpoint> upstreams, Now now);
  [[nodiscard]] dns::NameMap& names();
  [[nodiscard]] const dns::StubResolver& resolver() const;

  // ---- outputs: drain after every handle_* ----
  std::optional<OutDatagram> poll_datagram();
  void poll_datagrams(std::deque<OutDatagram>& into);  // all that there are, to its end
  std::optional<paths::StreamRequest> poll_stream();  // after poll_datagram: the last words go before the close
  std::optional<std::vector<std::uint8_t>> poll_packet();  // for the TUN device
  std::optional<v1::ClientToPortal> poll_portal();
  std::optional<DnsOutput> poll_dns();
  std::optional<AgentEvent> poll_event();
  std::optional<LogLine> poll_log();
  // Give a drained buffer back; optional, saves allocations.
  void recycle(std::vector<std::uint8_t> buffer);

  [[nodiscard]] paths::Deadline poll_timeout(Now now) const;
  void handle_timeout(Now now);
  // Tells gateways goodbye and gives relays back their allocations; drain poll_datagram once more.
  void close(Now now);

  // ---- state ----
  [[nodiscard]] InterfaceState interface() const;
  [[nodiscard]] std::vector<IpAddress> portal_upstreams() const;
  [[nodiscard]] const wireguard::Timestamp& last_timestamp() const;
  [[nodiscard]] std::uint64_t drops(DropReason reason) const;
  [[nodiscard]] bool welcomed() const;  // the portal's snapshot stands (or there is a static gateway)

  void show_status(v1::StatusReply& out, Now now) const;  // adds lines; `state` is the shell's
  [[nodiscard]] v1::PeersReply show_peers(std::uint32_t limit, Now now) const;
  [[nodiscard]] v1::NamesReply show_names(std::uint32_t limit, Now now) const;
  [[nodiscard]] v1::DropsReply show_drops() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::client
