// TurnClient: one TURN allocation on one relay for one relayed address family (RFC 8656), kept alive for ever.
//
// Theory of operation. The client allocates, refreshes at half of the lifetime (and sooner when the relay has been
// silent for 25 s, which keeps the NAT mapping towards it and notices a restart), keeps permissions for every address
// asked for with permit(), and binds channels on bind_channel(). When the allocation is lost - the relay says 437, or
// nothing at all arrives while requests fail - it allocates anew with back-off. When our own address or NAT mapping
// changes it moves the allocation with its mobility ticket (RFC 8016) if it has one. Data from a permitted address
// is accepted from any port (Data indication); the caller then binds a channel to it.
//
// Every allocation has its own number(): paths name it, so a path through a lost allocation can never mean another.
// Channel numbers cool down across allocations (trap paths-12).
//
// Sans-IO, one thread. Input from the relay's address is never anything but STUN or ChannelData (trap paths-18).
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "controlplane/core/paths/retransmission.h"
#include "controlplane/core/paths/turn_channels.h"
#include "controlplane/core/paths/types.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/stun/message.h"

namespace penstock::paths {

struct TurnCredentials {
  std::string username;
  std::string password;
  std::string realm;  // empty: as the server says
  bool operator==(const TurnCredentials&) const = default;
};

struct TurnConfig {
  Endpoint server;
  TurnCredentials credentials;
  stun::AddressFamily relayed_family = stun::AddressFamily::ipv4;
  bool mobility = true;
  bool stream = false;  // over TCP or TLS: no retransmission, ChannelData padded
};

struct TurnEvent {
  enum class Kind : std::uint8_t {
    allocated,             // new number() and relayed()
    lost,                  // `number` is gone; another is being made or waited for
    moved,                 // same relayed address from a new local address
    permission_changed,    // for `peer`'s address: can_send() differs
    channel_bound,         // to `peer`
    credentials_rejected,  // new ones are needed (the old are tried again every minute)
    unsupported,           // this relay will never give this family or transport
  };
  Kind kind{};
  std::uint32_t number = 0;
  Endpoint peer{};
  Instant since{};  // of `moved`: when it was asked for; the relay dropped what reached it before the request
};

class TurnClient {
 public:
  static constexpr Duration kKeepalive = std::chrono::seconds{25};
  static constexpr Duration kPermissionLifetime = std::chrono::minutes{5};
  static constexpr Duration kMinBackoff = std::chrono::seconds{1};
  static constexpr Duration kMoveSettles = std::chrono::milliseconds{10};  // within the relay
  static constexpr Duration kMaxBackoff = std::chrono::seconds{60};
  static constexpr std::uint32_t kWantedLifetimeS = 600;
  static constexpr std::size_t kMaxPermissions = 32;
  static constexpr std::size_t kMaxFormerNames = 4;
  static constexpr std::size_t kMaxFormerRefreshes = 8;

  enum class State : std::uint8_t { idle, allocating, allocated, waiting, closed };

  // `numbers` gives every allocation its number; shared by all relays of a client and never 0.
  TurnClient(TurnConfig config, Random& random, std::uint32_t& numbers);

  void start(Instant now);
  // Deletes the allocation (Refresh with lifetime 0, once) and stays silent.
  void close(Instant now);
  // Taken for the next allocation. A live one goes on under the credentials it was made with (RFC 8656 §7.1, 441), and
  // so does a request for one that is under way: if both came through, the second user would never get what the first
  // holds.
  void update_credentials(const TurnCredentials& credentials, Instant now);
  // Our address, socket or NAT mapping changed: move the allocation, or make another.
  void handle_local_change(Instant now);
  // The relay sees us at `mapped` now, and did not before. An allocation made from elsewhere is out of reach, and a
  // Refresh that is accepted proves nothing: it may be for an earlier allocation, on a 5-tuple that our NAT has given
  // back to us. Where ours was moved from may not be known: then a Refresh has to do.
  void handle_mapped(const Endpoint& mapped, Instant now);
  // Packets through this relay are not answered: find out whether the allocation still stands.
  void suspect(Instant now);
  // The server is heard from again after a silence: what waits for it need not wait longer.
  void handle_returned(Instant now);

  // Asks for a permission and keeps it; wrong families are ignored.
  void permit(const IpAddress& peer, Instant now);
  void forget(const IpAddress& peer);
  void bind_channel(const Endpoint& peer, Instant now);

  struct Input {
    DropReason reason = DropReason::none;  // none: `payload` came from `peer`
    Bytes payload;
    Endpoint peer;
    bool channel = false;
  };
  Input handle_input(Bytes datagram, Instant now);

  // What is to surround a payload of `size` bytes for `peer`: at most 48 bytes in front, zeros behind.
  // nullopt without an allocation or permission.
  struct Wrapping {
    std::array<std::uint8_t, 48> prefix{};
    std::uint8_t prefix_size = 0;
    std::uint8_t padding = 0;
  };
  std::optional<Wrapping> wrap(const Endpoint& peer, std::size_t size, Instant now);
  [[nodiscard]] bool can_send(const IpAddress& peer, Instant now) const;
  [[nodiscard]] std::size_t overhead(const Endpoint& peer) const;

  std::optional<std::vector<std::uint8_t>> poll_output();
  std::optional<TurnEvent> poll_event();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Instant now);

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] std::uint32_t number() const { return number_; }  // 0 without an allocation
  [[nodiscard]] const Endpoint& relayed() const { return relayed_; }
  [[nodiscard]] const Endpoint& mapped() const { return mapped_; }  // ours, as the relay sees it
  [[nodiscard]] const TurnConfig& config() const { return config_; }
  [[nodiscard]] std::optional<Duration> rtt() const { return rtt_; }
  [[nodiscard]] std::uint64_t allocations() const { return allocations_; }
  [[nodiscard]] bool has_ticket() const { return !ticket_.empty(); }

 private:
  enum class Request : std::uint8_t { allocate, refresh, move, release, permission, channel };
  struct Transaction {
    Request kind{};
    stun::TransactionId id{};
    std::vector<std::uint8_t> wire;
    Retransmission timer;
    Endpoint peer{};  // permission (address only), channel; refresh and move: where we are seen now, if that is known
    std::uint16_t channel = 0;
    int auth_retries = 0;
    unsigned challenge = 0;  // which of the server's challenges it answers
    bool refused = false;    // a move: once already
  };
  struct Permission {
    bool installed = false;
    Instant expires{};
    Instant refresh_at = kNever;  // or when to try again after a refusal
  };

  void send_request(Request kind, const Endpoint& peer, std::uint16_t channel, Instant now, int auth_retries = 0);
  std::vector<std::uint8_t> build(const Transaction& transaction) const;
  [[nodiscard]] bool pending(Request kind) const;
  [[nodiscard]] bool pending(Request kind, const Endpoint& peer) const;
  void rearm(const Transaction& transaction, Instant now);
  void drop_requests(Instant now);
  void replace_refresh();
  bool repeat_move(const Transaction& refused, Instant now);

  DropReason handle_response(const stun::Message& message, Instant now);
  void handle_success(const Transaction& transaction, const stun::Message& message, Instant now);
  void handle_error(const Transaction& transaction, const stun::Message& message, Instant now);
  bool take_challenge(const stun::Message& message);
  void use(const TurnCredentials& credentials);
  bool clear_five_tuple(Instant now);
  void handle_failed(const Transaction& transaction, Instant now);
  void handle_mismatch(const Transaction& transaction, Instant now);
  void replace(Instant now);

  void allocate(Instant now);
  void allocate_anew(Instant now);
  void lose(Instant now);
  void wait(Instant now, Duration at_least);
  void schedule_refresh(std::uint32_t lifetime_s, Instant now);
  void run_permissions(Instant now);
  void run_channels(Instant now);
  void emit(TurnEvent::Kind kind, const Endpoint& peer = {}, Instant since = {});

  TurnConfig config_;
  TurnCredentials next_credentials_;
  std::vector<TurnCredentials> former_credentials_;  // newest first: allocations of ours may stand under them
  Random& random_;
  std::uint32_t& numbers_;

  State state_ = State::idle;
  std::uint32_t number_ = 0;
  Endpoint relayed_;
  Endpoint mapped_;
  std::string realm_;
  std::string nonce_;
  stun::LongTermKey key_{};
  unsigned challenge_ = 0;  // counts realms and nonces
  std::vector<std::uint8_t> ticket_;
  bool mobility_refused_ = false;
  std::size_t clear_tried_ = 0;  // of our names, to delete the allocation that stands on our 5-tuple
  bool silent_ = false;  // waiting because nothing answered
  int failures_ = 0;          // consecutive; for the back-off
  bool forgiven_ = false;     // the last allocation was short-lived, and replaced at once
  std::uint64_t allocations_ = 0;
  Instant allocated_at_{};
  Instant last_received_{};
  Instant last_refresh_{};
  Instant refresh_at_ = kNever;
  Instant retry_at_ = kNever;
  std::optional<Duration> rtt_;
  // What the last request took, and half as much again. A way that has become longer would else be asked twice until
  // the smoothed time has grown, and of two moves the second is refused. Karn's doubt about a request that had to be
  // repeated does not matter: that it took longer is no harm.
  Duration patience_{};

  std::vector<Transaction> transactions_;
  // Refreshes that another has taken the place of: not repeated, and an answer counts all the same. Where one takes longer
  // than suspicions are apart it is always a former one's.
  std::deque<Transaction> former_refreshes_;
  std::map<IpAddress, Permission> permissions_;
  TurnChannels channels_;
  std::deque<std::vector<std::uint8_t>> output_;
  std::deque<TurnEvent> events_;
};

}  // namespace penstock::paths
