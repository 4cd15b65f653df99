// The control half of WireGuard (whitepaper; roles of both initiator and responder): peers, handshakes, cookies, timers
// and endpoints. Sans-IO; one thread owns a Device. Workers meet it only through data_path().
//
// After every call that takes `Now`, drain poll_output() and poll_event(), and arm a timer for poll_timeout().
// No input that is not authenticated changes anything but the load and rate accounting, and nothing that is not
// authenticated is answered, save by a cookie reply to a message with a valid mac1, as the protocol demands.
//
// Sessions. Per peer: `current` (sending and receiving), `next` (ours as responder until its first message arrives) and
// `previous` ones (receiving only). When both ends initiate at once, both handshakes may complete; the end with the
// larger public key is the one whose initiation counts: it keeps its own session current, the other adopts it with the
// first message. So one initiator is left, whichever messages were lost or late. path_switch peers try again sooner than
// an answer takes over a long way: the initiator takes the answer to any of its latest tries, and the responder keeps
// the sessions of those it has answered (`waiting`) until one of them is used.
//
// Endpoints. Standard peers: source of the newest authenticated handshake message, or of a data message that passed the
// replay window. `path_switch` and `pinned_endpoint` peers: a handshake message, and the first message on the session
// it made, set the endpoint only while no session is live; after that, path_switch peers move by set_endpoint() alone
// and pinned ones not at all.
//
// Two ways of use:
//  - gateway: workers use data_path(); the owner thread calls handle_handshake for types 1–3, handle_note and
//    want_session.
//  - client and tests, one thread: handle_datagram (all types), seal/open for bursts, send (with a small staging
//    queue).
//
// TAI64N timestamps: max(clock, last + 1). An initiator persists last_timestamp() and hands it back in DeviceConfig.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/wireguard/aead.h"
#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/core/wireguard/keys.h"
#include "dataplane/core/wireguard/peer.h"

namespace penstock::wireguard {

struct PeerHandover;  // handover.h

using Timestamp = std::array<std::uint8_t, 12>;  // TAI64N, compares as bytes

class KnownSources;
struct GateLimits;
struct InitiationWork;

struct DeviceConfig {
  PrivateKey private_key{};
  std::size_t max_peers = 1024;
  std::size_t max_sessions = 0;     // handshakes under way and sessions; 0: 4 per peer
  std::size_t handshakes_in_flight = 0;  // in handshake threads, each with an index before it has a session
  unsigned traffic_writers = 1;     // 1 + workers, see DataPath
  std::uint32_t mtu = 1280;         // inner; padding never exceeds it
  Duration activity_granularity{};  // 0: exact (single thread); 100 ms where workers report
  std::string aead = "auto";        // for seal, open and handle_datagram
  Timestamp last_timestamp{};       // what the previous run of this initiator persisted

  // Handshake messages with a valid mac1 per second, over all sources, from which on we are under load; and per source
  // (IPv4 /32, IPv6 /64) the rate and burst from which on that source alone must show a cookie (or, showing one, is
  // limited).
  std::uint32_t under_load_per_s = 1000;
  std::uint32_t per_source_per_s = 20;
  std::uint32_t per_source_burst = 5;
  std::uint32_t cookies_per_s = 20000;  // replies to all together

  std::size_t staged_packets = 64;  // per peer, for send()

  // Takes sessions no longer in any table; must end in destroy_session() once no worker can hold the pointer. Empty:
  // destroyed at once (one thread only).
  std::function<void(Session*)> retire;
};

// The limits above as the gate takes them.
[[nodiscard]] GateLimits gate_limits(const DeviceConfig& config);

enum class PeerError : std::uint8_t { none, key_known, own_key, key_invalid, table_full, unknown_peer };
[[nodiscard]] std::string_view text_of(PeerError error);

struct AddPeerResult {
  PeerIndex peer = kNoPeer;
  PeerError error = PeerError::none;
};

struct OutputDatagram {
  std::vector<std::uint8_t> bytes;  // UDP payload
  Path path;
  PeerIndex peer = kNoPeer;  // kNoPeer: a cookie reply
};

enum class EventType : std::uint8_t {
  session_up,        // there was no usable session, now there is; path: where the handshake took place
  session_renewed,   // a new one replaced a usable one
  session_down,      // the last usable one ended
  handshake_failed,  // no answer for REKEY-ATTEMPT-TIME; starts again with the next want_session
  endpoint_changed,  // path: the new one
};

struct Event {
  EventType type{};
  PeerIndex peer = kNoPeer;
  Path path{};
};

enum class TimerReason : std::uint8_t {
  none,
  handshake_retry,  // no answer to an initiation
  keepalive,        // data received, nothing sent back
  persistent_keepalive,
  new_handshake,  // data sent, nothing heard
  session_expiry,
  activity_check,  // looks at what workers reported
};
[[nodiscard]] std::string_view text_of(TimerReason reason);

struct Deadline {
  Instant at = kNever;
  TimerReason why = TimerReason::none;
};

// A received datagram for the burst interface; the upper part is input.
struct Inbound {
  MutableBytes datagram;
  Path from;
  // Result. none: `inner` is an inner IP packet (inside `datagram`) of `peer`.
  DropReason reason = DropReason::none;
  PeerIndex peer = kNoPeer;
  MutableBytes inner{};
};

// An inner packet to seal in place: 16 bytes writable before it, kPaddingMultiple - 1 + kTagSize behind it.
struct Outbound {
  std::uint8_t* inner = nullptr;
  std::uint32_t length = 0;
  MutableBytes datagram{};  // result
};

class Device {
 public:
  Device(DeviceConfig config, Random& random);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] const PublicKey& public_key() const;
  [[nodiscard]] DataPath& data_path();
  // Maps memory that the next handshakes will use, so that they do not wait for the system. Any thread, now and then.
  void map_ahead();

  // --- Peers -------------------------------------------------------------------------------------------------------

  // Slots of removed peers are used again as late as possible, oldest first.
  AddPeerResult add_peer(const PeerConfig& config, Now now);
  // Same public key required (else key_invalid). Live sessions stay; a changed preshared key restarts a handshake that
  // is under way and counts from the next one on. Hints replace an endpoint only while none is known.
  PeerError update_peer(PeerIndex peer, const PeerConfig& config, Now now);
  void remove_peer(PeerIndex peer, Now now);
  [[nodiscard]] std::optional<PeerIndex> find_peer(const PublicKey& key) const;
  [[nodiscard]] std::optional<PeerInfo> peer_info(PeerIndex peer) const;
  [[nodiscard]] std::size_t peer_count() const;
  // One past the highest slot ever used; walk [0, this) with peer_info.
  [[nodiscard]] PeerIndex peer_bound() const;

  // --- Paths -------------------------------------------------------------------------------------------------------

  // The path for everything to this peer from now on (path switch). Ignored for pinned peers with a live session.
  void set_endpoint(PeerIndex peer, const Path& path, Now now);
  // Initiations are sent as copies over these, in this order, rotated by one for each retry. Empty: the endpoint, or
  // the configured hints while there is none. A renewal's first try uses the endpoint only. Takes effect with the next
  // initiation: set it before want_session. With path_switch, paths that are new while a handshake is under way get a
  // copy of its latest initiation at once, and its answer time to come before the retry.
  void set_handshake_paths(PeerIndex peer, std::vector<Path> paths, Now now);
  // A sign, not authenticated, that the peer's NAT has just begun to let this path in: an initiation under way that went
  // there before was probably lost. With path_switch its copy goes there again, once.
  void path_opened(PeerIndex peer, const Path& path, Now now);

  // --- Input -------------------------------------------------------------------------------------------------------

  // Types 1–3. none: consumed.
  DropReason handle_handshake(Bytes datagram, const Path& from, Now now);
  // With handshake threads: the same for what their gate has let in, and the Device's two steps of a responder's
  // handshake (handshake_work.h). After a claim that gives none, finish() must follow: it wipes the work's secrets.
  DropReason handle_admitted(Bytes datagram, const Path& from, Now now);
  DropReason claim(InitiationWork& work, Now now);
  DropReason finish(InitiationWork& work, Now now);
  // Whom the gate should serve first; any thread, as long as the Device lives.
  [[nodiscard]] const KnownSources& known_sources() const;
  void handle_note(const Note& note, Now now);
  // Data waits for this peer: starts a handshake unless one is under way or was just tried (then as soon as allowed).
  void want_session(PeerIndex peer, Now now);
  // An empty data message at once, e.g. to open a NAT; over `path`, or the endpoint. False: no session or no endpoint.
  bool send_keepalive(PeerIndex peer, const std::optional<Path>& path, Now now);
  // Ends every session with the peer (keys wiped) and any handshake under way.
  void drop_sessions(PeerIndex peer, Now now);
  // Overrides the measured load: true forces cookies for everybody, e.g. while the handshake ring is nearly full.
  void set_under_load(bool forced);

  // --- One-thread interface ----------------------------------------------------------------------------------------

  // reason none: an inner packet; local_consumed: a handshake message that was taken; wg_keepalive has `peer` set.
  void open(std::span<Inbound> burst, Now now);
  struct Received {
    DropReason reason = DropReason::none;
    PeerIndex peer = kNoPeer;
    MutableBytes inner{};
  };
  Received handle_datagram(MutableBytes datagram, const Path& from, Now now);

  // Seals the burst in place and says where to send it. wg_no_session: untouched, and a handshake was asked for.
  struct Sealed {
    DropReason reason = DropReason::none;
    Path path{};
  };
  Sealed seal(PeerIndex peer, std::span<Outbound> burst, Now now);

  // Copies one packet: to poll_output() when there is a session, else to the peer's bounded staging queue, sent when
  // the session is up and dropped when the handshake fails. wg_queue_full, wg_no_endpoint or none.
  DropReason send(PeerIndex peer, Bytes inner, Now now);

  // --- Hand-over to the next process (handover.h) ------------------------------------------------------------------

  // Everything of a peer that the next process goes on with. No worker may be running.
  [[nodiscard]] std::optional<PeerHandover> export_peer(PeerIndex peer) const;
  // Into a peer that was just added, before any worker runs. What has expired, or whose index another session has, is
  // left out; returns how many sessions there are now. Each value may be imported once in the life of its keys.
  std::size_t import_peer(PeerIndex peer, const PeerHandover& from, Now now);
  // last_timestamp() of the process before: initiations of ours never go back in time.
  void import_timestamp(const Timestamp& newest);

  // --- Output ------------------------------------------------------------------------------------------------------

  std::optional<OutputDatagram> poll_output();
  std::optional<Event> poll_event();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Now now);

  // The newest timestamp used in an initiation; persist it before those poll_output() gives are sent.
  [[nodiscard]] const Timestamp& last_timestamp() const;
  [[nodiscard]] bool under_load() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::wireguard
