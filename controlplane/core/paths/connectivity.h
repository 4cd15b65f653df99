// Connectivity: everything below WireGuard at the client. One object per client, over the tunnel's own sockets.
//
// Theory of operation (paths.md). It owns what all gateways share - the STUN gatherer and one TURN client per relay -
// and one PathAgent per gateway, which pairs local and remote candidates into paths, proves them with in-tunnel probes,
// and chooses a primary and a warm standby. WireGuard itself is not in here: the client agent owns the Device and
//
//   1. passes every UDP datagram to handle_datagram() and what comes out as `wireguard` on to its Device;
//   2. tells of sessions (handle_session_up/down), of authenticated packets (note_received: also keepalives and probe
//      replies, with the Path they came by) and of application packets it seals (through data_paths());
//   3. sends a sealed data message over every path that data_paths() names (two while the primary is suspect), each
//      put into the envelope of route();
//   4. drains poll_transmit() (before sending anything newer: resent packets must not be overtaken) and poll_event()
//      after every call, and calls handle_timeout() at poll_timeout().
//
// What the client agent does with events:
//   send_probe          seal `probe` (an inner IPv6 packet) for the gateway and send it over exactly `path`
//   path_changed        primary changed: device.set_endpoint(peer, path) (also for keepalives and rekeys)
//   handshake_paths     the list of handshake_paths() changed: device.set_handshake_paths(); while there is no session,
//                       try again at once (the Device keeps 25 ms between tries)
//   candidates_changed  local candidates changed: send local_candidates() to the portal and in-tunnel
//   suspect             the path in use does not answer: dial a second stream to the portal now, rather than wait for
//                       the first one's keepalive
//   stalled             no path answers: start a fresh handshake now over handshake_paths() (the gateway may have
//                       lost its session); ask the portal again as well (RequestConnection, over a second stream when
//                       the first is in doubt), so that the gateway punches - its NAT may have forgotten us
//   unreachable         every path has been dead for a while: the next packet starts at "First packet", naming this
//                       gateway; probing goes on with back-off for ever, and `path_changed` tells of a return
//   relay_refused       credentials rejected: ask the portal for new ones
//
// Sans-IO, single thread. Errors are DropReasons; nothing throws except on memory exhaustion.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "controlplane/core/paths/types.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/drop_reason.h"

namespace penstock::paths {

struct ConnectivityConfig {
  bool allow_loopback = false;    // candidates on 127/8 and ::1
  bool mobility = true;           // RFC 8016, where the relay grants it
  std::size_t max_relays = 2;     // relays with an allocation at a time
  std::uint16_t inner_mtu = 1280;  // of the TUN device; paths are asked whether they carry it
  std::vector<Prefix> forbidden;  // never a candidate: the tunnel's own ranges when nobody uses them outside
};

// Where a relay listens for TURN over TCP, or over TLS as `name`.
struct StreamServer {
  Endpoint server;
  bool tls = false;
  std::string name;  // TLS: in the relay's certificate
  bool operator==(const StreamServer&) const = default;
};

// A relay of the portal's list: TURN and STUN server.
struct RelayConfig {
  std::string id;
  std::vector<Endpoint> udp;  // of either family; the first of each is used
  std::string username;       // empty: STUN only
  std::string password;
  std::string realm;  // what the server says wins
  std::vector<StreamServer> streams;  // for networks that let no UDP out
  bool operator==(const RelayConfig&) const = default;
};

// What the shell is to do with connections to relays. An opened stream answers with handle_stream_up() or _down().
struct StreamRequest {
  bool open = false;  // false: close, no answer
  StreamId id = 0;
  StreamServer server;  // open
};

struct Event {
  enum class Kind : std::uint8_t {
    send_probe,
    path_changed,
    handshake_paths,
    punched,
    candidates_changed,
    suspect,
    stalled,
    unreachable,
    relay_refused,
  };
  Kind kind{};
  GatewayHandle gateway = 0;        // all but candidates_changed and relay_refused
  Path path;                        // send_probe, path_changed, punched, suspect
  std::string_view why;             // path_changed: words for a log
  std::vector<std::uint8_t> probe;  // send_probe: a whole inner IPv6 packet
  bool report = false;              // send_probe: its last kReportSize bytes are to say what has arrived from there
};

// For `show paths`.
struct PathInfo {
  Path path;
  enum class Role : std::uint8_t { none, primary, standby } role = Role::none;
  enum class State : std::uint8_t { unproved, alive, suspect, down } state = State::unproved;
  Duration rtt{};
  unsigned loss_permille = 0;
  std::uint16_t mtu = 0;    // of inner packets, as far as is known
  bool mtu_proved = false;  // by an answer of that length
  bool mtu_counts = false;  // for what may be sent now
};

// Which path was taken last, when and why.
struct PathSwitch {
  Path to;
  std::string_view why;
  Instant at{};
};

class PathAgent;
class StunGatherer;
class TurnClient;

class Connectivity {
 public:
  Connectivity(const ConnectivityConfig& config, Random& random);
  ~Connectivity();
  Connectivity(const Connectivity&) = delete;
  Connectivity& operator=(const Connectivity&) = delete;

  // --- from the shell ---
  // `sockets`: the tunnel's bound sockets as they are named in Path::local and Transmit::local; usually one per family,
  // bound to the wildcard address. `hosts`: addresses of the interfaces with the socket's port, as host candidates.
  // Call at start and on every change of addresses or sockets, also when idle: any difference counts as roaming.
  void handle_local_addresses(std::span<const Endpoint> sockets, std::span<const Endpoint> hosts, Now now);
  // The portal's full list; changed credentials are taken over without giving up live allocations.
  void handle_relays(std::span<const RelayConfig> relays, Now now);
  // Further STUN servers (no credentials).
  void handle_stun_servers(std::span<const Endpoint> servers, Now now);

  struct Incoming {
    DropReason reason = DropReason::none;  // none: `wireguard` is to be handed to the Device with `path`
    MutableBytes wireguard;                // within the datagram
    Path path;
  };
  // Every datagram from the tunnel's sockets. STUN and TURN are consumed (reason local_consumed).
  Incoming handle_datagram(MutableBytes datagram, const Endpoint& local, const Endpoint& remote, Now now);

  // TURN over TCP and TLS (connectivity_streams.cc): used when UDP leads nowhere. Messages come one by one, as
  // TurnStreamFramer cuts them. A stream that is down is forgotten: its id never comes again.
  void handle_stream_up(StreamId stream, Now now);
  void handle_stream_down(StreamId stream, Now now);
  Incoming handle_stream_message(MutableBytes message, StreamId stream, Now now);
  std::optional<StreamRequest> poll_stream();

  // The portal is asking a gateway with these candidates about us: relays are asked to let it in, and where it punches
  // from is kept for the handle_remote_candidates() that follows, so that an initiation finds the way open. A few at a
  // time, for kExpectFor (connectivity_expected.cc).
  static constexpr Duration kExpectFor = std::chrono::seconds{5};
  void expect_gateway(std::span<const Candidate> candidates, Now now);

  // --- from the client agent, per gateway ---
  void add_gateway(GatewayHandle gateway, Now now);  // idempotent
  void remove_gateway(GatewayHandle gateway, Now now);
  // The gateway's full list, from a grant or trickled. Repeating it starts the checks of unproved paths anew.
  void handle_remote_candidates(GatewayHandle gateway, std::span<const Candidate> candidates, Now now);
  void handle_session_up(GatewayHandle gateway, const Path& path, Now now);
  void handle_session_down(GatewayHandle gateway, Now now);
  // A packet of this gateway was authenticated. `is_data`: an application's packet (not keepalive, control, handshake).
  void note_received(GatewayHandle gateway, const Path& path, bool is_data, Now now);
  // Payload (from the type byte on) of an in-tunnel ProbeReply. Call note_received() for its packet as well.
  DropReason handle_probe_reply(GatewayHandle gateway, Bytes payload, const Path& path, Now now);

  // Where an initiation is to be copied to: usable relay paths first, then direct ones. At most 12.
  [[nodiscard]] std::vector<Path> handshake_paths(GatewayHandle gateway) const;
  // Where this sealed application packet goes now (1 or 2 paths; none without a session). Records activity (wakes from
  // idle) and keeps a copy in the resend ring.
  [[nodiscard]] std::span<const Path> data_paths(GatewayHandle gateway, Bytes sealed, Now now);
  // A punch or an authenticated packet of the gateway came over a relay, which lets it in therefore.
  [[nodiscard]] bool heard_over_relay(GatewayHandle gateway) const;
  [[nodiscard]] std::optional<Path> primary(GatewayHandle gateway) const;
  // An application waits for something else than a packet of its own (a name, an answer): as much a reason not to be
  // idle.
  void wake(GatewayHandle gateway, Now now);

  // The envelope for a datagram of `size` bytes over `path`; nullopt when the path is gone (relay lost, no permission).
  [[nodiscard]] std::optional<Envelope> route(const Path& path, std::size_t size);
  // The same, copied together; for rare datagrams (handshakes, probes).
  [[nodiscard]] std::optional<Transmit> wrap(const Path& path, Bytes datagram);
  // Bytes that TURN adds per datagram on the worst path in use (0, 4, 36 or 48): for the inner MTU.
  [[nodiscard]] std::size_t overhead(GatewayHandle gateway) const;

  [[nodiscard]] std::vector<Candidate> local_candidates() const;  // at most 8, best first
  [[nodiscard]] std::vector<PathInfo> show(GatewayHandle gateway) const;
  [[nodiscard]] std::optional<PathSwitch> last_switch(GatewayHandle gateway) const;

  // The gateways' relays, sockets and everything were suspended (or may have been): verify all now. handle_timeout()
  // notices by itself when it is called late or wall time has jumped.
  void handle_resume(Now now);
  // An ICMP error about an outer packet that matched a live session came from `remote`: a hint to suspect, no proof.
  void handle_unreachable_hint(const Endpoint& remote, Now now);
  // Gives back all allocations; drain poll_transmit() once more afterwards.
  void close(Now now);

  std::optional<Transmit> poll_transmit();
  std::optional<Event> poll_event();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Now now);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::paths
