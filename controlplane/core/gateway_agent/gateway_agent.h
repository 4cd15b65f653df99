// The gateway's control process as a state machine: what the portal wants becomes what the data plane has. Sans-IO; one
// thread.
//
// Theory of operation. The agent keeps what stands (clients, their authorisations, their names) and tells the data
// plane in batches, one at a time. After the portal's Welcome, and whenever the data plane (re)appears, it
// synchronises: all of it between begin_sync and end_sync with a generation above the data plane's; what is equal is
// left untouched there and what is not named goes. Before the first Welcome of a life it changes nothing but names: it
// adopts from the data plane's dump who may do what, so that a restart while the portal is away neither wipes a tunnel
// nor forgets a name.
//
// Names: ResolveName (in-tunnel) and the names of an Authorize become translations; NameResolver keeps their addresses;
// each change of a name's view becomes one upsert per translation. A reply to the client goes out only after the data
// plane knows the translation, or the client's packets would overtake it.
//
// Candidates: configured addresses, the tunnel's own, and what STUN servers see. Punches go to the client's.
//
// Everything from portal, clients, data plane and DNS may be malformed: refused or ignored, counted, never fatal.
// docs/protocol.md, docs/paths.md, docs/dns.md.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "controlplane/core/broker/version.h"
#include "controlplane/core/convert.h"
#include "controlplane/core/deadline.h"
#include "controlplane/core/gateway_agent/control_outbox.h"
#include "controlplane/core/gateway_agent/puncher.h"
#include "controlplane/core/gateway_agent/reflexive.h"
#include "controlplane/core/gateway_agent/resolver.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/policy/forbidden.h"
#include "dataplane/core/policy/pattern.h"
#include "penstock/v1/control.pb.h"
#include "penstock/v1/dataplane.pb.h"
#include "penstock/v1/signaling.pb.h"

namespace penstock::gateway_agent {

struct AgentConfig {
  std::vector<Endpoint> candidates;    // extra public addresses
  std::vector<Prefix> punch_allowed;   // own networks that may be punched all the same
  std::vector<Prefix> nat64_prefixes;  // of the gateway's network, besides the well-known ones
  Prefix tunnel_v4 = *Prefix::parse("100.64.0.0/11");
  Prefix tunnel_v6 = *Prefix::parse("fd00:2021:1111::/107");
  Prefix proxy_v4 = *Prefix::parse("100.96.0.0/11");
  Prefix proxy_v6 = *Prefix::parse("fd00:2021:1111:8000::/107");
  std::string hostname;
  ProtocolVersion protocol = kProtocolVersion;  // 1.0: what an old gateway says
};

struct ToPortal {
  v1::GatewayToPortal message;
};
// The identity has changed (another data plane key): the stream must be opened anew.
struct ReopenPortal {};
// Our address is another: the stream may be broken without anybody noticing, so a second one is dialled at once.
struct SuspectPortal {};
struct ToDataPlane {
  std::uint64_t ticket;  // for handle_applied; one at a time
  v1::ApplyRequest request;
};
struct ToPunt {
  v1::PuntFromControl message;
};
struct ToDns {
  DnsQuestion question;
};
// A whole DNS message of a client (SRV, TXT ...) for the gateway's own resolvers.
struct ToDnsRaw {
  std::uint64_t id;
  std::string message;
};
struct Note {
  std::string text;
};
using Output = std::variant<ToPortal, ReopenPortal, SuspectPortal, ToDataPlane, ToPunt, ToDns, ToDnsRaw, Note>;

inline constexpr std::size_t kMaxTranslationsPerPeer = 4096;
inline constexpr std::size_t kMaxRawQueriesPerPeer = 16;
inline constexpr std::size_t kMaxCandidates = 8;
inline constexpr std::size_t kDnsPieceSize = 1000;
inline constexpr std::size_t kOperationsPerApply = 2000;

class GatewayAgent {
 public:
  GatewayAgent(AgentConfig config, Random& random);

  // ---- portal ----
  // Hello needs the data plane's key: connect the stream once ready_for_portal().
  [[nodiscard]] bool ready_for_portal() const { return info_.has_value(); }
  void handle_portal_connected(Now now);
  void handle_portal_disconnected(Now now);
  void handle_portal(const v1::PortalToGateway& message, Now now);

  // ---- data plane ----
  // Subscribe and Punt stand; `dump`: everything it has.
  void handle_dataplane_up(const std::vector<v1::DumpItem>& dump, Now now);
  void handle_dataplane_down(Now now);
  // A call that fails is no answer: the data plane is down until it is up again.
  void handle_applied(std::uint64_t ticket, const v1::ApplyResponse& response, Now now);
  void handle_event(const v1::Event& event, Now now);
  void handle_punt(const v1::PuntToControl& punt, Now now);

  // ---- DNS ----
  void handle_answer(std::uint64_t id, DnsAnswer answer, Now now);
  void handle_raw_answer(std::uint64_t id, const std::string& message, Now now);  // empty: failed

  // Tells every client that this gateway leaves; drain poll_output afterwards.
  void say_goodbye(const std::string& reason);

  [[nodiscard]] std::optional<Output> poll_output(Now now);
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Now now);

  // ---- looking inside ----
  struct Counters {
    std::uint64_t control_malformed = 0;
    std::uint64_t control_unknown = 0;
    std::uint64_t names_refused = 0;
    std::uint64_t punches = 0;
    std::uint64_t apply_errors = 0;
    std::uint64_t events_lost = 0;
  };
  struct NameRow {
    std::string name, resource, peer;
    IpAddress proxy_v4, proxy_v6;
    NameView view;
  };
  struct PeerRow {
    Key key;
    std::string client;
    bool session;
    std::string endpoint;
    IpAddress tunnel_v4, tunnel_v6;
    std::size_t authorisations;
  };
  [[nodiscard]] std::vector<NameRow> names(std::size_t limit, Instant now) const;
  [[nodiscard]] std::vector<PeerRow> peers(std::size_t limit) const;
  [[nodiscard]] std::vector<v1::Candidate> candidates() const;
  [[nodiscard]] const Counters& counters() const { return counters_; }
  [[nodiscard]] bool portal_connected() const { return portal_connected_; }
  [[nodiscard]] bool welcomed() const { return welcomed_; }
  [[nodiscard]] bool dataplane_up() const { return dataplane_up_; }
  [[nodiscard]] bool synchronised() const { return welcomed_ && dataplane_up_ && !in_flight_ && batches_.empty(); }
  [[nodiscard]] std::size_t authorisation_count() const { return authorisations_.size(); }
  [[nodiscard]] const std::string& id() const { return gateway_id_; }

 private:
  struct Authorisation {
    Key peer{};
    v1::Resource resource;
    std::optional<policy::Pattern> pattern;  // dns
    std::optional<WallTime> expires;
  };
  struct Peer {
    std::string client;
    std::optional<Key> preshared_key;  // nullopt: adopted from a dump, not ours to upsert yet
    IpAddress tunnel_v4, tunnel_v6;
    std::vector<Endpoint> candidates;
    bool pinned = false;  // a 1.0 client
    bool session = false;
    std::string endpoint;
    std::set<std::string> authorisations;
    std::set<std::string> translations;
    std::size_t raw_queries = 0;
  };
  struct Translation {
    Key peer{};
    std::string resource;
    std::string name;
    IpAddress proxy_v4, proxy_v6;
    NameState told = NameState::resolving;  // to the client
  };
  struct WaitingResult {  // an AuthorizeResult that waits for the data plane
    std::string request_id, authorisation;
  };
  struct WaitingReply {  // a reply to ResolveName, likewise
    Key peer{};
    std::uint64_t id = 0;
    std::string translation;
  };
  struct Batch {
    v1::ApplyRequest request;
    std::vector<std::string> about;  // authorisation or translation id of each operation; empty: none
    std::vector<WaitingResult> results;
    std::vector<WaitingReply> replies;
  };
  struct RawQuery {
    Key peer{};
    std::uint64_t id = 0;
    std::string question;  // header and question, for an answer of our own
  };

  // gateway_agent.cc: portal
  void take_welcome(const v1::GatewayWelcome& welcome, Now now);
  // Empty: taken; else why not.
  std::string authorize(const v1::Authorize& message, Now now);
  void revoke(const std::string& id, const std::string& why, Now now);
  // True when they are others than before.
  bool take_candidates(const Key& key, Peer& peer, const google::protobuf::RepeatedPtrField<v1::Candidate>& candidates,
                       Now now);
  // The same for a peer that stands: the data plane is told of others.
  void update_candidates(const Key& key, Peer& peer,
                         const google::protobuf::RepeatedPtrField<v1::Candidate>& candidates, Now now);
  void set_relays(const google::protobuf::RepeatedPtrField<v1::Relay>& relays, Now now);
  void announce_candidates(Now now);
  [[nodiscard]] bool may_punch(const Endpoint& endpoint) const;
  [[nodiscard]] bool forbidden(const IpAddress& address) const;
  void send_result(const std::string& request_id, const std::string& authorisation, const std::string& error);

  // agent_names.cc: translations, in-tunnel control
  void handle_control(const Key& key, const std::string& payload, Now now);
  void handle_resolve(const Key& key, Peer& peer, const v1::Control& control, Now now);
  void handle_dns_query(const Key& key, Peer& peer, const v1::Control& control, Now now);
  // The translation's id; empty when refused.
  std::string add_translation(const Key& key, const std::string& resource, const std::string& name,
                              const IpAddress& proxy_v4, const IpAddress& proxy_v6, Now now,
                              const std::vector<IpAddress>& known_addresses = {});
  void remove_translation(const std::string& id);
  void take_name_changes(Now now);
  [[nodiscard]] const Authorisation* authorisation_of(const Key& peer, const std::string& resource) const;
  [[nodiscard]] v1::Control status_message(const Translation& translation, Now now) const;
  void adopt(const std::vector<v1::DumpItem>& dump, Now now);
  void drop_orphans(const Key& key, Peer& peer);
  // A client uses a proxy address whose name is not known here: it believes that we were told.
  void ask_for_name(const Key& key, const IpAddress& proxy, Now now);

  // agent_apply.cc: towards the data plane
  [[nodiscard]] v1::Operation peer_operation(const Key& key, const Peer& peer) const;
  [[nodiscard]] v1::Operation authorisation_operation(const std::string& id, const Authorisation& it) const;
  [[nodiscard]] v1::Operation translation_operation(const std::string& id, const Translation& it, Now now) const;
  [[nodiscard]] v1::Operation stun_operation() const;
  [[nodiscard]] v1::Operation site_operation() const;
  // `first`: removals of what a dump has and we do not; they would stand in the way of what takes their place.
  void synchronise(Now now, std::vector<v1::Operation> first = {});
  [[nodiscard]] std::vector<v1::Operation> unknown_in(const std::vector<v1::DumpItem>& dump) const;
  void add_operation(v1::Operation operation, const std::string& about = {});
  bool flush_batch(Now now);  // true: the last of outputs_ is an Apply now
  [[nodiscard]] std::optional<v1::Datagram> punch();
  [[nodiscard]] static v1::Datagram datagram_of(const Endpoint& to, Bytes payload);
  void note(std::string text) { outputs_.emplace_back(Note{std::move(text)}); }

  AgentConfig config_;
  Random* random_;
  std::string gateway_id_;
  v1::SiteSettings site_settings_;
  bool portal_connected_ = false;
  bool welcomed_ = false;         // in this life of the process
  bool stream_welcomed_ = false;  // on this stream
  bool dataplane_up_ = false;
  bool adopted_ = false;  // a first dump has been seen; from then on our own memory counts
  std::optional<v1::DataPlaneInfo> info_;
  std::uint64_t generation_ = 0;
  std::optional<policy::ForbiddenDestinations> forbidden_;
  std::vector<Prefix> own_networks_;
  std::set<IpAddress> own_addresses_;

  std::map<Key, Peer> peers_;
  std::map<std::string, Authorisation> authorisations_;
  std::map<std::string, Translation> translations_;
  std::map<std::pair<Key, IpAddress>, std::set<std::string>> by_proxy_;  // translations (of one name) by proxy address
  std::map<std::uint64_t, RawQuery> raw_queries_;
  std::uint64_t next_raw_ = 0;
  std::set<std::pair<WallTime, std::string>> expiring_;  // authorisations

  NameResolver resolver_;
  Puncher puncher_;
  ReflexiveGatherer gatherer_;
  ControlOutbox outbox_;

  Batch collecting_;           // what is said next
  std::deque<Batch> batches_;  // full synchronisation in pieces
  std::optional<Batch> in_flight_;
  std::uint64_t ticket_ = 0;
  Instant next_expiry_check_ = kNever;
  Instant next_load_{};
  std::uint32_t told_load_ = 0;
  std::string told_candidates_;
  std::deque<Output> outputs_;
  Counters counters_;
};

}  // namespace penstock::gateway_agent
