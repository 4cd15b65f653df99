// PathAgent: the paths between this client and one gateway - which exist, which work, which is used.
//
// Theory of operation. A path is a pair of a *base* (a socket of ours, or a TURN allocation) and a remote candidate of
// the same family, or one learned from where authenticated packets and punches come from. While there is a session,
// paths are checked with in-tunnel probes: unproved and dead ones with back-off for ever, the primary often, one warm
// standby seldom (timers of paths.md). Only probes on the primary carry a switch_sequence, and each carries a higher
// one than any before, so the gateway's endpoint follows the newest primary probe - also when only our NAT mapping
// changed - and copies or late probes on other paths never move it.
//
//   alive ──no answer when due──→ suspect: probe everything at once, send over primary and standby, resend what is in
//     ↑                              │      doubt over the standby
//     └──answer on the primary───────┤
//                                    └──answer on another path──→ that one becomes primary ("dead" for the old one)
//
// Without any answer: `stalled` after kStalled, `unreachable` after kUnreachable, and probing goes on for ever.
//
// Sans-IO, one thread. At most kMaxPaths paths, kMaxCandidates candidates, kMaxLearned learned remotes.
#pragma once

#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "controlplane/core/paths/connectivity.h"
#include "controlplane/core/paths/path_state.h"
#include "controlplane/core/paths/resend_ring.h"
#include "controlplane/core/paths/types.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/wireguard/probe.h"

namespace penstock::paths {

// Where packets may leave from.
struct LocalBase {
  Endpoint local;           // socket
  std::uint32_t relay = 0;  // number of the allocation, 0 for the socket itself
  bool v4 = true;           // family of the remotes it reaches
  auto operator<=>(const LocalBase&) const = default;
};

struct AgentEvent {
  enum class Kind : std::uint8_t {
    send_probe,    // bytes: a whole inner packet, over `path`; `report`: what has arrived is to be written at its end
    resend,        // bytes: a sealed datagram, over `path`
    path_changed,  // the primary is `path` now (also: is back after `unreachable`)
    path_list,     // handshake_paths() differs
    path_alive,    // `path` was proved: bind its channel
    punched,       // a punch came by `path`: the gateway's NAT lets that one in now
    path_silent,   // `path`, not the primary, is given up: its relay may have lost us
    suspect,       // the primary does not answer: verify relays and mappings
    stalled,
    unreachable,
  };
  Kind kind{};
  Path path;
  std::vector<std::uint8_t> bytes;
  std::string_view why{};  // path_changed: words for a log
  bool report = false;     // send_probe
};

class PathAgent {
 public:
  static constexpr std::size_t kMaxPaths = 32;
  static constexpr std::size_t kMaxLearned = 6;
  static constexpr std::size_t kMaxReached = 4;
  static constexpr Duration kBusyFor = std::chrono::seconds{2};
  static constexpr Duration kActiveFor = std::chrono::minutes{2};
  static constexpr Duration kDuplicateFor = std::chrono::seconds{2};
  static constexpr Duration kStalled = std::chrono::milliseconds{600};
  static constexpr Duration kUnreachable = std::chrono::seconds{2};  // with kMinSuspicion: a lost gateway is left in 3 s
  static constexpr Duration kOldestResend = std::chrono::seconds{3};

  enum class Mode : std::uint8_t { busy, active, idle };

  // `inner_mtu`: what the tunnel is configured for; more than SizeSearch::kBase is proved for every path in use.
  PathAgent(Random& random, bool allow_loopback, std::vector<Prefix> forbidden,
            std::uint16_t inner_mtu = SizeSearch::kBase);

  // `roamed`: our network changed even if the bases look the same; everything is verified at once.
  void set_bases(std::span<const LocalBase> bases, bool roamed, Now now);
  void set_remote_candidates(std::span<const Candidate> candidates, Now now);
  // An unauthenticated punch came by `path`. Counts only when its address is one of the gateway's candidates', or one
  // where the gateway has answered.
  void handle_punch(const Path& path, Now now);
  void handle_session_up(const Path& path, Now now);
  void handle_session_down(Now now);
  void note_received(const Path& path, bool is_data, Now now);
  DropReason handle_probe_reply(Bytes payload, Now now);
  // Somebody waits for the gateway: not idle any more.
  void wake(Now now) { last_data_ = advance(now); }
  void handle_resume(Now now);
  // Something says that packets may no longer arrive (our mapping moved): verify now.
  void verify(Now now);
  // What we sent to `remote`, or through this relay, is said not to arrive.
  void handle_hint(const Endpoint& remote, std::uint32_t relay, Now now);
  // Paths through this relay can carry packets now (permission): check them at once.
  void kick_relay(std::uint32_t relay, Now now);
  // The same after a move, which was asked for at `asked`: what was sent behind the request may have overtaken it, and
  // been dropped there; later proofs do not speak for it.
  void handle_relay_moved(std::uint32_t relay, Instant asked, Now now);

  [[nodiscard]] std::span<const Path> data_paths(Bytes sealed, Now now);
  [[nodiscard]] std::vector<Path> handshake_paths() const;
  [[nodiscard]] std::optional<Path> primary() const;
  [[nodiscard]] std::optional<Path> standby() const;
  [[nodiscard]] Mode mode(Instant now) const;
  [[nodiscard]] bool suspect() const { return suspected_at_.has_value(); }
  [[nodiscard]] std::vector<PathInfo> show() const;
  [[nodiscard]] const std::optional<PathSwitch>& last_switch() const { return last_switch_; }
  // Public addresses of the remotes, for TURN permissions.
  [[nodiscard]] std::vector<IpAddress> remote_addresses() const;
  [[nodiscard]] bool wants_family(bool v4) const;
  // Where unlisted packets or punches came from.
  [[nodiscard]] std::vector<Path> learned_paths() const;

  [[nodiscard]] bool has_events() const { return !events_.empty(); }
  std::optional<AgentEvent> poll_event();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Now now);

 private:
  enum class Role : std::uint8_t { none, primary, standby };

  // path_pairs.cc
  void rebuild_pairs(Instant now);
  PathState* add_path(const Path& path, bool learned, Instant now);
  PathState* learn(const Path& path, Instant now);
  [[nodiscard]] bool has_base(const Path& path) const;
  [[nodiscard]] bool relayable(const Candidate& candidate) const;
  [[nodiscard]] bool acceptable(const Endpoint& remote) const;
  void note_reached(const Path& path);
  void drop_paths(const std::vector<Path>& unwanted, Instant now);
  PathState* find(const Path& path);
  PathState* find(std::uint16_t number);
  [[nodiscard]] const PathState* find(std::uint16_t number) const;

  // path_probing.cc
  [[nodiscard]] Role role(const PathState& path) const;
  [[nodiscard]] Duration interval(const PathState& path, Instant now) const;
  [[nodiscard]] Instant probe_due(const PathState& path, Instant now) const;
  void send_probe(PathState& path, Now now);
  void restart_checks(Instant now);
  void judge(PathState& path, Instant now);
  void judge_all(Now now);

  // path_sizes.cc
  [[nodiscard]] bool counts(const PathState& path) const;
  [[nodiscard]] std::uint16_t inner_mtu() const;
  void send_sized_probe(PathState& path, std::uint16_t size);
  void ask_for_sizes();
  void handle_sized_reply(const wireguard::Probe& probe, std::size_t size);

  // path_agent.cc
  void begin_suspicion(Now now);
  void end_suspicion(Instant now);
  void resend_over(const PathState& path, Instant since, Instant now);
  void after_a_gap(const PathState& path, Instant since, Instant now);
  void repair(const PathState& path, const wireguard::ReceptionReport& report, Instant proven, Instant now);
  void resend_waiting(const PathState& path, Instant now);
  void run_resends(Instant now);
  void emit(AgentEvent::Kind kind, const Path& path = {}, std::vector<std::uint8_t> bytes = {});
  void emit_changed(const Path& path, std::string_view why);
  Instant advance(Now now) { return now_ = std::max(now_, now.monotonic); }

  // path_choice.cc
  [[nodiscard]] Instant fail_over_at() const;
  void make_primary(PathState& path, std::string_view why, Now now);
  void choose(Now now);
  [[nodiscard]] bool better(const PathState& candidate, const PathState& primary, Instant now) const;
  void choose_standby();
  [[nodiscard]] PathState* best_alive(std::uint16_t but_not);

  Random& random_;
  bool allow_loopback_;
  std::vector<Prefix> forbidden_;
  std::uint16_t inner_mtu_;

  Instant now_ = kLongAgo;  // newest time seen; never goes back
  std::vector<LocalBase> bases_;
  std::vector<Candidate> candidates_;
  bool tell_doubt_ = false;  // in probes of the primary, until one of them is answered
  std::vector<IpAddress> reached_;  // where the gateway answered over a relay, latest first
  std::vector<PathState> paths_;
  std::uint16_t next_number_ = 1;
  std::uint16_t primary_ = 0;  // numbers; 0: none
  std::uint16_t standby_ = 0;

  bool session_ = false;
  std::uint32_t switch_sequence_ = 0;
  Instant last_data_ = kLongAgo;
  std::optional<Instant> suspected_at_;
  Instant doubted_ = kLongAgo;  // when the last suspicion began: answers to older probes prove nothing any more
  Instant stalled_at_ = kNever;  // when the next of these is said
  Instant unreachable_at_ = kNever;
  bool said_unreachable_ = false;
  Instant last_hint_ = kLongAgo;
  Instant grace_until_ = kLongAgo;  // we were late ourselves: nothing is judged before

  std::optional<PathSwitch> last_switch_;
  ResendRing ring_;
  DuplicationBudget budget_;
  std::uint16_t resend_to_ = 0;
  Instant resend_until_{};
  Instant resend_next_ = kNever;
  Instant repair_until_ = kLongAgo;  // until then probes report and ask for reports
  bool reports_ = false;             // the gateway makes them
  std::array<Path, 2> route_;
  std::deque<AgentEvent> events_;
};

}  // namespace penstock::paths
