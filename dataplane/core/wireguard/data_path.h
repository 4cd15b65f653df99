// The data half of WireGuard: what workers call for every burst. All functions are O(1), lock-free, do not allocate and
// may be called from any thread, while the Device (control half, one thread) adds and removes peers and sessions.
//
// Life of pointers: a Session* is valid until the calling thread's next RCU quiescent state (see DeviceConfig::retire).
// Order on receiving: find_session → check_receive → (AEAD open) → accept_receive → note_received.
// Order on sending: sending_session → reserve_counters → prepare_seal → (AEAD seal) → note_sent.
//
// Notes. Some things only the Device may do: confirm a responder's session, move an endpoint, renew a session. The
// functions that notice them return NoteBits; the caller passes `Note {bits, session's local index, peer, from}` to the
// Device's thread (Device::handle_note) *before* it passes anything else it does there because of the packet. A lost
// note is repeated with a later packet, and notes are debounced here, so a full ring is harmless.
//
// Activity. The Device's keepalive and renewal timers work from four per-peer times, which are written only when they
// change by more than `granularity` (100 ms in the data plane, 0 in the client: exact). Coarseness errs towards one
// keepalive too many and never towards a spurious handshake.
//
// Times are monotonic nanoseconds; lengths are bytes; counters are WireGuard's.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/aead.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/peer.h"
#include "dataplane/core/wireguard/reception_report.h"
#include "dataplane/core/wireguard/session.h"
#include "dataplane/core/wireguard/zeroed_array.h"

namespace penstock::wireguard {

using NoteBits = std::uint8_t;
namespace note_bit {
inline constexpr NoteBits confirmed = 0x01;       // first message on a responder's session
inline constexpr NoteBits endpoint_moved = 0x02;  // a standard peer speaks from elsewhere
inline constexpr NoteBits renew = 0x04;           // the session is due for a new handshake
}  // namespace note_bit

struct Note {
  NoteBits bits = 0;
  std::uint32_t session = 0;  // Session::local_index
  PeerIndex peer = kNoPeer;
  Path from{};  // where the packet that showed it came from
};

struct ReceiveResult {
  DropReason reason = DropReason::none;
  NoteBits notes = 0;
};

inline constexpr std::uint64_t kNoCounter = ~std::uint64_t{0};

class DataPath {
 public:
  // `traffic_writers`: threads that report traffic, each under its own number below this; 0 is the Device's thread,
  // worker w is w + 1.
  DataPath(std::size_t max_peers, std::size_t session_slots, unsigned traffic_writers, Duration granularity);
  ~DataPath();
  DataPath(const DataPath&) = delete;
  DataPath& operator=(const DataPath&) = delete;

  // --- Receiving ---------------------------------------------------------------------------------------------------

  // The session whose index (slot and tag) a data message carries; nullptr: wg_unknown_index.
  [[nodiscard]] Session* find_session(std::uint32_t receiver_index) const {
    Session* session = sessions_[receiver_index & slot_mask_].load(std::memory_order_acquire);
    return session != nullptr && session->local_index == receiver_index ? session : nullptr;
  }
  // For bursts: the slot first, then (it has come) what find_session and check_receive read of the session.
  void prefetch_session_slot(std::uint32_t receiver_index) const {
    prefetch_read(&sessions_[receiver_index & slot_mask_]);
  }
  void prefetch_session(std::uint32_t receiver_index, std::uint64_t counter) const {
    const Session* session = sessions_[receiver_index & slot_mask_].load(std::memory_order_acquire);
    if (session == nullptr) return;
    prefetch_read(&session->receive_key);
    session->window.prefetch(counter);
  }
  // And what is read and written of its peer, for one that receives or sends as `writer`.
  void prefetch_peer(unsigned writer, PeerIndex peer) const {
    if (peer >= peers_.size()) return;
    prefetch_read(&peers_[peer]);
    prefetch_write(&peers_[peer].sent);
    prefetch_write(&(*traffic_[writer])[peer]);
  }
  // Behind it: the session that packets to the peer are sealed with.
  void prefetch_sending(PeerIndex peer) const {
    if (peer < peers_.size()) prefetch_write(peers_[peer].sending.load(std::memory_order_acquire));
  }

  // Before decryption: wg_session_expired, wg_replay (hopeless counters) or none.
  [[nodiscard]] static DropReason check_receive(const Session& session, std::uint64_t counter, Instant now) {
    if (session.expired(now) || counter >= kRejectAfterMessages) return DropReason::wg_session_expired;
    return session.window.would_accept(counter) ? DropReason::none : DropReason::wg_replay;
  }

  // After authentication: wg_replay or none, and what the Device must be told.
  ReceiveResult accept_receive(Session& session, std::uint64_t counter, const Path& from, Instant now) {
    if (!session.window.accept(counter)) return {DropReason::wg_replay, 0};
    return {DropReason::none, receive_notes(session, from, now)};
  }

  // For bursts: session.window.accept_burst for the run of one session, then this once per run with the path of the
  // last accepted packet of the run.
  [[nodiscard]] NoteBits receive_notes(Session& session, const Path& from, Instant now);

  // --- Sending -----------------------------------------------------------------------------------------------------

  // nullptr: none usable (wg_no_session); the caller keeps the packet and asks Device::want_session.
  [[nodiscard]] Session* sending_session(PeerIndex peer, Instant now) const {
    if (peer >= peers_.size()) return nullptr;
    Session* session = peers_[peer].sending.load(std::memory_order_acquire);
    return session != nullptr && now < session->send_until ? session : nullptr;
  }

  // The first of `n` counters that nobody else will ever use; kNoCounter when the session has no more
  // (wg_session_expired; treat as no session).
  [[nodiscard]] static std::uint64_t reserve_counters(Session& session, std::uint32_t n);

  // Whether the peer's endpoint is where its packets come from; if not, receive_notes does not look at `from`.
  [[nodiscard]] bool follows_source(PeerIndex peer) const {
    return (peers_[peer].flags.load(std::memory_order_relaxed) & kEndpointFollowsSource) != 0;
  }

  // Whether it is known where the peer is.
  [[nodiscard]] bool has_endpoint(PeerIndex peer) const {
    return (peers_[peer].flags.load(std::memory_order_acquire) & kEndpointKnown) != 0;
  }
  // Where the peer is; nullopt: not known (wg_no_endpoint).
  [[nodiscard]] std::optional<Path> endpoint(PeerIndex peer) const;

  // Whether copies of what is sent to the peer are to be kept for sending again (gateway/resend.h). Any thread may
  // switch it; it stands beside what prepare_run reads anyway.
  [[nodiscard]] bool keeps(PeerIndex peer) const { return peers_[peer].keeps.load(std::memory_order_relaxed) != 0; }
  void set_keeps(PeerIndex peer, bool on) { peers_[peer].keeps.store(on ? 1 : 0, std::memory_order_relaxed); }

  // The longest inner packet that reaches the peer, as far as it has said; no bound until then. Any thread.
  [[nodiscard]] std::uint16_t inner_mtu(PeerIndex peer) const {
    const std::uint16_t said = peers_[peer].inner_mtu.load(std::memory_order_relaxed);
    return said == 0 ? std::uint16_t{0xffff} : said;
  }
  void set_inner_mtu(PeerIndex peer, std::uint16_t mtu) {  // less than 1280 is no IPv6 link (RFC 8200 §5)
    peers_[peer].inner_mtu.store(std::max(mtu, kLeastInnerMtu), std::memory_order_relaxed);
  }

  // Once per burst after sending data on `session`: note_bit::renew when a handshake is due by age or counters.
  [[nodiscard]] NoteBits send_notes(Session& session, Instant now);

  // What has arrived on the session that is also sent on; nothing without one. Any thread.
  [[nodiscard]] ReceptionReport reception(PeerIndex peer, Instant now) const {
    const Session* session = sending_session(peer, now);
    return session == nullptr ? ReceptionReport{} : ReceptionReport{session->local_index, session->window.snapshot()};
  }

  // --- Activity and traffic ----------------------------------------------------------------------------------------

  // `packets` authenticated data messages of `bytes` outer UDP payload; `data`: at least one was no keepalive.
  void note_received(unsigned writer, PeerIndex peer, std::uint32_t packets, std::uint64_t bytes, bool data,
                     Instant now);
  void note_sent(unsigned writer, PeerIndex peer, std::uint32_t packets, std::uint64_t bytes, bool data, Instant now);

  // Sums over all writers; any thread.
  [[nodiscard]] PeerTraffic traffic(PeerIndex peer) const;

 private:
  friend class Device;

  // Per peer and shared. First line: read by workers, written by the Device. Second: activity.
  struct alignas(64) PeerSlot {
    std::atomic<Session*> sending;
    std::atomic<std::uint32_t> endpoint_version;         // odd while it is being written
    std::atomic<std::uint32_t> flags;                    // PeerFlag
    std::array<std::atomic<std::uint64_t>, 5> endpoint;  // a Path, word by word
    std::atomic<std::uint16_t> keeps;
    std::atomic<std::uint16_t> inner_mtu;  // 0: not said

    // Nanoseconds; 0: never. "Unanswered": first data message in one direction since anything went in the other.
    alignas(64) std::atomic<std::int64_t> sent;
    std::atomic<std::int64_t> received;
    std::atomic<std::int64_t> unanswered_received;
    std::atomic<std::int64_t> unanswered_sent;
  };
  static_assert(sizeof(PeerSlot) == 128);
  static_assert(sizeof(Path) == 40);

  struct alignas(32) TrafficSlot {  // one writer each: plain loads and stores, no locked instructions
    std::atomic<std::uint64_t> received_packets, received_bytes, sent_packets, sent_bytes;
  };

  static constexpr std::uint16_t kLeastInnerMtu = 1280;
  static constexpr std::uint32_t kEndpointKnown = 1;
  static constexpr std::uint32_t kEndpointFollowsSource = 2;  // standard peers

  [[nodiscard]] static bool is_endpoint(const PeerSlot& slot, const Path& path);

  void map_front() const;

  // The Device's side.
  void publish_session(Session* session);         // into its index slot
  void withdraw_session(const Session& session);  // out of it
  [[nodiscard]] bool slot_used(std::uint32_t index) const {
    return sessions_[index & slot_mask_].load(std::memory_order_relaxed) != nullptr;
  }
  void set_sending(PeerIndex peer, Session* session);  // nullptr: none
  void set_endpoint(PeerIndex peer, const std::optional<Path>& path, bool follows_source);
  void reset_peer(PeerIndex peer);
  void clear_unanswered_sent(PeerIndex peer);

  std::uint32_t slot_mask_;
  std::int64_t granularity_;  // of activity
  std::int64_t debounce_;     // of notes
  ZeroedArray<std::atomic<Session*>> sessions_;
  ZeroedArray<PeerSlot> peers_;
  std::vector<std::unique_ptr<ZeroedArray<TrafficSlot>>> traffic_;
};

// --- Bytes and AEAD jobs ---------------------------------------------------------------------------------------------

// Sealing in place. `inner` points at the inner packet; 16 bytes before it become the header, it is padded with zeroes
// from `length` to `padded` (see padded_length), and kTagSize bytes behind that become the tag. The datagram is then
// inner - 16, length 16 + padded + 16.
inline void prepare_seal(const Session& session, std::uint64_t counter, std::uint8_t* inner, std::uint32_t length,
                         std::uint32_t padded, AeadJob& job) {
  auto* header = reinterpret_cast<DataHeader*>(inner - kDataHeaderSize);
  header->type.set(static_cast<std::uint32_t>(MessageType::data));
  header->receiver.set(session.remote_index);
  header->counter.set(counter);
  static_assert(kAeadTagSize >= kPaddingMultiple);
  std::memset(inner + length, 0, kPaddingMultiple);  // a fixed size is one store; what is behind the padding becomes the tag
  job = AeadJob{session.send_key.data(), counter, inner, padded, false};
}

// Opening in place. Precondition: classify(datagram) == MessageType::data and `session` is what its receiver names.
inline void prepare_open(const Session& session, MutableBytes datagram, AeadJob& job) {
  const auto* header = reinterpret_cast<const DataHeader*>(datagram.data());
  job = AeadJob{session.receive_key.data(), header->counter.get(), datagram.data() + kDataHeaderSize,
                static_cast<std::uint32_t>(datagram.size() - kDataOverhead), false};
}

// The inner packet in an opened plaintext, without its padding. wg_keepalive for an empty one; inner_malformed when it
// is no IP packet or claims more bytes than there are.
[[nodiscard]] DropReason trim_padding(MutableBytes plaintext, MutableBytes& inner);

}  // namespace penstock::wireguard
