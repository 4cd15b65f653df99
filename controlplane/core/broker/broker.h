// The portal as a state machine: joins clients and gateways. Sans-IO; one thread.
//
// Theory of operation. The shell (controlplane/portal) authenticates a stream with authenticate(), announces it with
// handle_connected() and passes messages in; after every call it drains poll_output() and arms poll_timeout().
//
// A stream becomes its actor's when its Hello has come: from then on an older stream of the same actor is closed. The
// portal's answer, Welcome, is a full snapshot; later messages are increments.
//
// A *grant* is the right of one client to one resource through one gateway. It is made by RequestConnection (policy,
// choice of gateway, Authorize, AuthorizeResult), stands until a policy, reload, expiry or changed key ends it, and is
// persisted, because a gateway's Welcome is authoritative: a portal that forgot its grants would cut every tunnel of
// every gateway that reconnects. A client that is away when its grant ends is told when it returns.
//
// Everything from the streams may be malformed: it is refused with a reason and changes nothing.
// docs/protocol.md: "Signaling", "Versions", "Resources and policy"; docs/paths.md: "First packet", "Candidates".
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "controlplane/core/broker/address_plan.h"
#include "controlplane/core/broker/config.h"
#include "controlplane/core/broker/credentials.h"
#include "controlplane/core/broker/version.h"
#include "controlplane/core/convert.h"
#include "controlplane/core/deadline.h"
#include "penstock/v1/signaling.pb.h"

namespace penstock::broker {

using ConnectionId = std::uint64_t;

enum class Role : std::uint8_t { client, gateway };

enum class CloseReason : std::uint8_t {
  unauthenticated,  // the token is no longer good: fatal for the other side
  replaced,         // a newer stream of the same actor
  bad_message,      // not what the protocol allows here
  exhausted,        // no tunnel address left
};

struct SendToClient {
  ConnectionId connection;
  v1::PortalToClient message;
};
struct SendToGateway {
  ConnectionId connection;
  v1::PortalToGateway message;
};
struct Close {
  ConnectionId connection;
  CloseReason reason;
  std::string detail;
};
// To be remembered across restarts and given to the constructor again. Empty value: forget. No secrets.
struct Persist {
  std::string key;
  std::string value;
};
// For the log: who was granted or refused what.
struct Note {
  std::string text;
};
using Output = std::variant<SendToClient, SendToGateway, Close, Persist, Note>;

inline constexpr Duration kHelloTimeout = std::chrono::seconds{10};
inline constexpr Duration kAuthorizeTimeout = std::chrono::seconds{3};     // then another gateway, or "offline"
inline constexpr Duration kRequestInterval = std::chrono::seconds{2};      // per client and resource
inline constexpr Duration kRequestSlack = std::chrono::milliseconds{100};  // the network squeezes two requests together
inline constexpr std::size_t kMaxCandidates = 8;
inline constexpr std::size_t kMaxNamesPerGrant = 256;

class Broker {
 public:
  // `config` is validated. `secret`: what preshared keys derive from. `restored`: what Persist said in earlier lives.
  Broker(BrokerConfig config, std::string secret, const std::map<std::string, std::string>& restored, Now now);

  // The actor that presents this token. Takes as long for a wrong token as for a right one.
  [[nodiscard]] std::optional<std::string> authenticate(Role role, std::string_view token) const;

  void handle_connected(ConnectionId connection, Role role, const std::string& actor, const Endpoint& observed,
                        Now now);
  void handle_message(ConnectionId connection, const v1::ClientToPortal& message, Now now);
  void handle_message(ConnectionId connection, const v1::GatewayToPortal& message, Now now);
  void handle_disconnected(ConnectionId connection, Now now);
  // A validated configuration replaces the current one; live clients and gateways are told what changed for them.
  void reconfigure(BrokerConfig config, Now now);

  [[nodiscard]] std::optional<Output> poll_output();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Now now);

  struct ActorRow {
    Role role;
    std::string id;
    std::string public_key;  // base64; empty before Hello
    std::string version;
    Endpoint observed;
    TunnelAddresses tunnel;
    std::size_t grants;
    std::uint32_t load_permille;
  };
  [[nodiscard]] std::vector<ActorRow> actors() const;
  [[nodiscard]] std::size_t grant_count() const { return grants_.size(); }
  [[nodiscard]] std::size_t pending_count() const { return pending_.size(); }
  [[nodiscard]] const BrokerConfig& config() const { return config_; }

 private:
  struct Session {
    Role role = Role::client;
    std::string actor;
    Endpoint observed;
    Sha256 token{};
    bool joined = false;    // Hello has come
    bool welcomed = false;  // Welcome is on its way; nothing is sent before it
    Key public_key{};
    ProtocolVersion version;
    std::uint16_t tunnel_port = 0;
    TunnelAddresses tunnel;                   // client
    std::map<std::string, std::string> told;  // client: resource id -> serialized, as last sent
    std::set<std::string> offline;            // client: resources refused for want of a gateway
    std::string told_site;                    // gateway: its site's settings, likewise
    Instant relay_refresh = kNever;           // client: the one credential timer that counts
    std::vector<v1::Candidate> candidates;    // gateway
    std::uint32_t peers = 0;                  // gateway's load
    std::uint32_t busy_permille = 0;
    double update_tokens = 20;  // trickled candidates: 20 at once, 2 a second
    Instant updates_counted{};
  };
  using GrantKey = std::pair<std::string, std::string>;  // client, resource
  struct Grant {
    std::string gateway;
    Key gateway_key{};
    v1::Authorize authorize;    // without request id and preshared key
    Instant check_at = kNever;  // the one expiry timer that counts
  };
  struct Pending {
    std::string request_id;  // the client's
    std::string gateway;
    std::set<std::string> tried;
    v1::RequestConnection request;
    Instant deadline{};
    std::uint64_t number = 0;  // ours, in Authorize.request_id
    std::string resource;      // serialized, as the gateway was told
    std::optional<WallTime> expires;
  };
  enum class TimerKind : std::uint8_t { hello, authorize, grant_expiry, relay_credentials };
  struct Timer {
    TimerKind kind;
    std::uint64_t id = 0;  // connection or pending number
    GrantKey grant;
  };

  // broker.cc: joining and leaving
  void join_client(ConnectionId connection, Session& session, const v1::Hello& hello, Now now);
  void join_gateway(ConnectionId connection, Session& session, const v1::Hello& hello, Now now);
  bool take_hello(ConnectionId connection, Session& session, const v1::Hello& hello, bool has_hello);
  void send_welcome(ConnectionId connection, Session& session, Now now);
  [[nodiscard]] v1::SiteSettings site_settings_of(const std::string& gateway) const;
  void close(ConnectionId connection, CloseReason reason, std::string detail);
  void forget_session(ConnectionId connection);
  [[nodiscard]] std::vector<v1::Relay> relays_for(const Session& session, WallTime wall) const;
  [[nodiscard]] std::map<std::string, v1::Resource> visible_resources(const Session& session) const;
  [[nodiscard]] Session* session_of(Role role, const std::string& actor, ConnectionId* connection = nullptr);
  [[nodiscard]] const Session* session_of(Role role, const std::string& actor) const;
  [[nodiscard]] std::optional<ConnectionId> connection_of(Role role, const std::string& actor) const;

  // broker_requests.cc: connections
  void handle_request(ConnectionId connection, Session& session, const v1::RequestConnection& request, Now now);
  void refuse(ConnectionId connection, const v1::RequestConnection& request, v1::RefusalReason reason,
              std::string detail);
  // The gateway to try next; empty when there is none, and why.
  [[nodiscard]] std::string choose_gateway(const Session& client, const Pending& pending, v1::RefusalReason& reason,
                                           std::string& detail) const;
  void try_next_gateway(const GrantKey& key, Now now);
  void send_authorize(const GrantKey& key, const Session& client, Pending& pending, Now now);
  void handle_result(Session& gateway, const v1::AuthorizeResult& result, Now now);
  void grant(const GrantKey& key, Pending pending, Session& gateway, const v1::AuthorizeResult& result, Now now);
  void tell_back(const std::string& site);
  void revoke_at(const std::string& gateway, const GrantKey& key);

  // broker_candidates.cc: those of one side, told to the other
  [[nodiscard]] std::vector<v1::Candidate> bounded(const google::protobuf::RepeatedPtrField<v1::Candidate>& candidates,
                                                   const Session& from) const;
  void handle_client_update(Session& session, const v1::CandidateUpdate& update, Now now);
  void handle_gateway_update(Session& session, const v1::CandidateUpdate& update);
  void fan_out_candidates(const std::string& gateway);
  void tell_candidates_again(ConnectionId connection, const std::string& client);
  void send_candidates(ConnectionId to, const std::string& gateway);
  [[nodiscard]] bool take_update_token(Session& session, Now now) const;

  // broker_reload.cc: what ends or changes grants
  [[nodiscard]] v1::Authorize authorize_for(const Grant& grant) const;
  void store_grant(const GrantKey& key, Grant grant, Now now);
  void drop_grant(const GrantKey& key, const std::string& why);
  void restore(const std::map<std::string, std::string>& restored, Now now);
  void owe_revocation(const GrantKey& key, const std::string& gateway);
  void pay_revocations(ConnectionId connection, const std::string& client);
  // Judges every grant of `client` (empty: of everybody) anew.
  void rejudge(const std::string& client, Now now);
  void rejudge_gateway(const std::string& gateway, Now now);
  void rejudge(const std::vector<GrantKey>& keys, Now now);
  [[nodiscard]] bool still_stands(const GrantKey& key, Grant& grant, bool& changed, std::string& why, Now now);
  void schedule(Instant at, Timer timer) { timers_.emplace(at, std::move(timer)); }
  void tell_changes(ConnectionId connection, Session& session);
  void schedule_expiry(const GrantKey& key, Grant& grant, Now now);
  void schedule_relay_refresh(ConnectionId connection, Session& session, Now now);
  void note(std::string text) { outputs_.emplace_back(Note{std::move(text)}); }
  void to_client(ConnectionId connection, v1::PortalToClient message);
  void to_gateway(ConnectionId connection, v1::PortalToGateway message);

  BrokerConfig config_;
  std::string secret_;
  AddressPlan plan_;
  std::map<ConnectionId, Session> sessions_;
  std::map<std::pair<Role, std::string>, ConnectionId> joined_;
  std::map<GrantKey, Grant> grants_;
  std::map<std::string, std::set<GrantKey>> grants_of_gateway_;
  std::map<GrantKey, Pending> pending_;
  std::map<std::uint64_t, GrantKey> pending_by_number_;
  struct Asked {
    Instant at{};
    std::string request_id;
    int repeated = 0;  // of the same request, over other streams
    std::set<std::string> unreachable;  // gateways that it and those soon before it named so
  };
  std::map<GrantKey, Asked> last_request_;
  std::map<std::string, std::map<std::string, std::string>> owed_;  // client -> resource -> gateway
  std::multimap<Instant, Timer> timers_;
  std::deque<Output> outputs_;
  std::uint64_t next_number_ = 0;
};

}  // namespace penstock::broker
