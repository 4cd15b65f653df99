// Inside of Device: state per peer and the steps that its files share. device_peers.cc (peers and queries),
// device_handshake.cc (messages 1–3 and their gate), device_sessions.cc (which session is used), device_timers.cc,
// device_data.cc (one-thread data). One thread.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "dataplane/core/wireguard/cookie.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/core/wireguard/handshake.h"
#include "dataplane/core/wireguard/handshake_gate.h"
#include "dataplane/core/wireguard/handshake_work.h"
#include "dataplane/core/wireguard/index_table.h"
#include "dataplane/core/wireguard/key_index.h"
#include "dataplane/core/wireguard/known_sources.h"
#include "dataplane/core/wireguard/limits.h"
#include "dataplane/core/wireguard/rate_limit.h"
#include "dataplane/core/wireguard/timer_heap.h"

namespace penstock::wireguard {

struct Device::Impl {
  // An initiation of ours that may be answered.
  struct Try {
    InitiatorState state;
    std::uint32_t index = 0;
    Mac mac1{};
    Instant sent_at{};

    ~Try() { wipe(state.noise.chain); }
  };
  // What a peer has once something has happened with it; a peer that is only configured does without.
  struct Live {
    std::optional<Hash> static_static;  // DH of the static keys, computed when first needed

    // Responder.
    Timestamp greatest_timestamp{};
    std::optional<Instant> initiation_received_at;
    Mac response_mac1{};
    std::optional<ResponseMessage> response;  // path_switch peers: for copies of its initiation on other paths
    std::vector<Path> answered_to;            // where it went

    // Initiator. `pending` outlives the attempt for a while: a late response may still count.
    bool attempting = false;
    unsigned tries = 0;
    Instant attempt_started_at{};
    Instant retry_at = kNever;
    std::optional<Instant> start_at;  // asked for, but too soon after the last initiation
    std::optional<Instant> initiation_sent_at;
    std::unique_ptr<Try> pending;
    std::vector<std::unique_ptr<Try>> earlier;      // path_switch peers: what `pending` replaced, oldest first
    std::unique_ptr<InitiationMessage> initiation;  // of `pending`, for paths that are found while it is under way
    std::vector<Path> sent_over;
    CookieTaker cookies;

    Session* current = nullptr;
    Session* next = nullptr;
    std::array<Session*, kEarlierTries> waiting{};  // path_switch peers: what `next` replaced, newest first
    std::array<Session*, 2> previous{};
    WallTime handshake_at{};

    std::vector<std::vector<std::uint8_t>> staged;  // in order; no deque, which takes memory while empty
  };

  struct Peer {
    PeerConfig config;
    PeerIndex index = kNoPeer;
    bool wanted = false;  // data waits for a session
    TimerReason why = TimerReason::none;
    Instant keepalive_base{};  // persistent keepalive counts from here at the earliest
    std::vector<Path> handshake_paths;
    std::unique_ptr<Live> live;

    [[nodiscard]] bool follows_source() const { return !config.path_switch && !config.pinned_endpoint; }
  };

  Impl(DeviceConfig device_config, Random& device_random);
  ~Impl();

  // --- device_peers.cc
  [[nodiscard]] Peer* find(PeerIndex index) const;
  [[nodiscard]] Peer* find(const PublicKey& key) const;
  [[nodiscard]] auto key_of() const {
    return [this](PeerIndex index) -> const PublicKey& { return peers[index]->config.public_key; };
  }
  Live& live(Peer& peer) const;
  void move_endpoint(Peer& peer, const Path& path);
  void know_sources(const Peer& peer);    // adds the peer's addresses to known_sources ...
  void forget_sources(const Peer& peer);  // ... and takes them out, before they change
  void emit(EventType type, const Peer& peer, const Path& path = {});

  // --- device_handshake.cc
  HandshakeGate& gate();
  DropReason pass_gate(Bytes message, const Path& from, Now now);
  DropReason take(Bytes message, const Path& from, Now now);  // behind the gate
  DropReason take_initiation(const InitiationMessage& message, const Path& from, Now now);
  DropReason claim(InitiationWork& work, Now now);
  DropReason finish(InitiationWork& work, Now now);
  DropReason take_copy(Peer& peer, const Path& from, Now now);
  DropReason take_response(const ResponseMessage& message, const Path& from, Now now);
  DropReason take_cookie(const CookieMessage& message, const Path& from, Now now);
  const Hash* static_static(Peer& peer) const;  // nullptr: the peer's key is unusable
  void begin_attempt(Peer& peer, Now now);
  void send_initiation(Peer& peer, Now now);
  void copy_again(Peer& peer, const Path& path);
  void hurry(Peer& peer);         // there may be a path the latest initiation was not sent over
  void send_copies(Peer& peer, std::span<const Path> paths, Instant now);
  void end_attempt(Peer& peer);   // stops trying; a late response still counts
  // Forgets the initiation and those before it. `keep`: an index that has a session now.
  void drop_pending(Peer& peer, std::optional<std::uint32_t> keep = std::nullopt);
  void drop_earlier(Live& live, std::optional<std::uint32_t> keep);
  void set_pending_aside(Peer& peer, Instant now);  // for the next try
  [[nodiscard]] static const Try* try_of(const Live& live, std::uint32_t index);
  void fail_attempt(Peer& peer, Now now);
  [[nodiscard]] std::vector<Path> initiation_paths(const Peer& peer, unsigned tries, Instant now) const;
  [[nodiscard]] Timestamp new_timestamp(WallTime wall);

  // --- device_sessions.cc
  Session* make_session(const Peer& peer, TransportKeys& keys, std::uint32_t local, std::uint32_t remote,
                        bool initiator, Instant now);
  void retire(Session* session);
  void push_previous(Live& peer, Session* session);
  void handshake_authenticated(Peer& peer, const Path& from, Now now);
  void install_as_responder(Peer& peer, Session* session, Instant now);
  bool install_as_initiator(Peer& peer, const Try& answered, TransportKeys& keys, std::uint32_t remote_index,
                            const Path& from, Now now);
  [[nodiscard]] static bool awaits_first_message(const Live& live, const Session& session);
  void confirm(Peer& peer, Session& session, Now now);
  void drop_waiting(Live& live);
  void session_usable(Peer& peer, bool renewed, Now now);
  void expire_sessions(Peer& peer, Instant now);
  void drop_all_sessions(Peer& peer);
  [[nodiscard]] static bool session_live(const Peer& peer, Instant now);
  // Where there is none left, what this peer keeps of earlier tries gives way.
  std::optional<std::uint32_t> allocate_index(Peer& peer);

  // --- device_timers.cc
  void update_timer(Peer& peer, Instant now);
  void run_timers(Peer& peer, Now now);
  [[nodiscard]] Deadline deadline_of(const Peer& peer, Instant now) const;
  [[nodiscard]] Instant persistent_keepalive_at(const Peer& peer) const;

  // --- device_data.cc
  bool send_keepalive(Peer& peer, const std::optional<Path>& path, Now now);
  DropReason send(Peer& peer, Bytes inner, Now now);
  void flush_staged(Peer& peer, Now now);
  void apply_notes(NoteBits bits, Session& session, const Path& from, Now now);
  void open_batch(std::span<Inbound*> batch, std::span<Session*> sessions, Now now);
  void accept_run(Session& session, std::span<Inbound*> run, std::span<const AeadJob> jobs, Now now);

  DeviceConfig config;
  Random& random;
  DhKey own;
  std::unique_ptr<HandshakeGate> own_gate;  // made when first needed: handshake threads have theirs
  bool load_forced = false;
  KnownSources known_sources;
  DataPath data;
  std::unique_ptr<AeadContext> aead;
  IndexTable indices;
  std::atomic<bool> front_mapped = false;
  KeyIndex keys;
  std::vector<std::unique_ptr<Peer>> peers;  // by PeerIndex; nullptr: free
  std::deque<PeerIndex> free_slots;          // oldest first
  std::size_t peer_count = 0;
  TimerHeap timers;
  Timestamp last_timestamp{};
  Instant last_now{};
  std::deque<OutputDatagram> output;
  std::deque<Event> events;
};

}  // namespace penstock::wireguard
