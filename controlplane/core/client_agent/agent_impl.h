// The state of a ClientAgent and the functions of its parts. Private to client_agent/; which file has what:
//
//   client_agent.cc     construction, outputs, timers
//   settle.cc           the parts drained into each other
//   packets_out.cc      TUN → classification → queue or tunnel
//   packets_in.cc       socket → Device → TUN, probe replies, control messages
//   resource_states.cc  what waits for a Resource
//   portal_messages.cc  Welcome, changes, grants, refusals, requests
//   eager.cc            protocol 1.0
//   outer_errors.cc     ICMP errors about what was sent
//   links.cc            tunnels to gateways: sessions, names, paths
//   show.cc             what `penstockctl` sees
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "controlplane/core/client_agent/access.h"
#include "controlplane/core/client_agent/client_agent.h"
#include "controlplane/core/client_agent/control_channel.h"
#include "controlplane/core/client_agent/icmp_reply.h"
#include "controlplane/core/client_agent/inner_packet.h"
#include "controlplane/core/client_agent/packet_queue.h"

namespace penstock::client {

inline constexpr Duration kQueueAge = std::chrono::seconds{10};
inline constexpr Duration kPortalGrace = std::chrono::seconds{5};  // portal away: packets are refused after it
inline constexpr Duration kFlowCacheAge = std::chrono::seconds{30};
inline constexpr Duration kTargetIdle = std::chrono::minutes{30};
inline constexpr Duration kSweep = std::chrono::minutes{1};
inline constexpr Duration kNameGiveUp = std::chrono::seconds{60};
inline constexpr Duration kQueryGiveUp = std::chrono::milliseconds{4200};
inline constexpr Duration kNameFailedRetry = std::chrono::seconds{2};
inline constexpr std::size_t kMaxNamesInRequest = 64;
inline constexpr std::size_t kMaxWaitingQueries = 256;
inline constexpr int kMaxNamesWanted = 16;  // in one message of a gateway
inline constexpr std::string_view kStaticGateway = "static";
inline constexpr std::uint16_t kPersistentKeepalive = 25;  // seconds; a static gateway has no probes

struct Link;
struct ResourceState;

// What one queue of packets waits for: a Resource, and a name if it is a DNS Resource.
struct Target {
  Target(ResourceState& owner, std::string target_name, PacketQueue::Budget& budget)
      : state(&owner), name(std::move(target_name)), queue(budget) {}

  ResourceState* state;
  std::string name;  // empty: by address
  PacketQueue queue;
  const Link* announced = nullptr;  // the gateway that knows the name
  std::string requested_in;         // the request that carried the name
  enum class Name : std::uint8_t { unknown, active, missing, forbidden, failed } status = Name::unknown;
  Instant status_until = kNever;  // of missing, forbidden, failed
  Instant used_at{};
};

struct ResourceState {
  ResourceState(std::string resource, Random& random) : id(std::move(resource)), access(random) {}

  std::string id;
  Access access;
  Link* link = nullptr;  // of the grant
  std::map<std::string, std::unique_ptr<Target>> targets;
  std::set<Target*> waiting;  // those whose queue is not empty
  std::set<Target*> asked;    // protocol 1.0: those that a DNS query waits for
  std::string refusal;        // the portal's words
  std::vector<paths::Candidate> told;  // of ours, with the last request
  // While the granted gateway is silent: when to ask for another, once more.
  Instant ask_again{};
  Backoff asking{std::chrono::seconds{4}, std::chrono::seconds{60}};
  std::vector<dns::GatewayQuery> queries;

  [[nodiscard]] bool anything_waits() const { return !waiting.empty() || !queries.empty() || !asked.empty(); }
};

// A gateway with which a tunnel stands or is being set up.
struct Link {
  Link(std::string gateway_id, Random& random) : gateway(std::move(gateway_id)), control(random) {}

  std::string gateway;
  bool managed = true;  // speaks in-tunnel control; false: static
  bool heals = true;    // has its path chosen and repaired; false: static, or protocol 1.0
  PeerIndex peer = kNoPeer;
  wireguard::PeerConfig config;
  ControlChannel control;
  bool session = false;
  bool silent = false;        // every path has been dead for a while
  bool unreachable = false;   // to be named to the portal
  Instant retry_at = kNever;  // waiting for a session: when to ask the portal again
  unsigned retries = 0;
  Backoff retry{std::chrono::seconds{4}, std::chrono::seconds{60}};
  Instant heard_at{};  // protocol 1.0: the last answer, and when to ask for another
  Instant check_at{};
  std::set<ResourceState*> resources;
  std::set<std::uint32_t> relays;  // through which a handshake may go
  std::uint16_t path_mtu = 0;  // as worked out in that turn
  std::uint64_t path_mtu_turn = 0;

  [[nodiscard]] bool ready() const { return session && !silent; }
};

struct ClientAgent::Impl {
  Impl(ClientAgentConfig agent_config, Random& source);

  // ---- parts ----
  ClientAgentConfig config;
  Random& random;
  std::unique_ptr<dns::NameMap> names;
  std::unique_ptr<dns::StubResolver> resolver;
  wireguard::Device device;
  paths::Connectivity connectivity;
  ResourceSet resources;

  std::map<std::string, std::unique_ptr<ResourceState>> states;  // those in use, by Resource id
  std::map<std::string, std::unique_ptr<Link>> links;            // by gateway id
  std::vector<Link*> link_of_peer;                               // by PeerIndex
  PacketQueue::Budget budget;

  InterfaceState interface;
  std::vector<Endpoint> sockets;
  std::vector<IpAddress> portal_upstreams;
  std::vector<IpAddress> relay_addresses;
  std::string client_id;

  bool is_static = false;
  bool portal_up = false;     // the stream stands
  bool portal_ready = false;  // and Welcome has come on it
  bool ever_welcomed = false;
  Instant portal_down_since = Instant::min();
  Instant welcome_due = kNever;  // a stream without a Welcome by then may be broken without anybody knowing
  Backoff welcome_patience{std::chrono::seconds{2}, std::chrono::seconds{30}};

  // Anything cached about a packet's way is void when this has grown.
  std::uint64_t revision = 1;
  void changed() { ++revision; }
  std::uint64_t turn = 1;  // counts inputs: what is worked out once per burst is void in the next

  // ---- caches of the packet path ----
  struct FlowEntry {
    IpAddress destination;
    std::uint32_t key = 0;  // protocol and port
    std::uint64_t revision = 0;
    Instant until{};
    Target* target = nullptr;
  };
  std::vector<FlowEntry> flows = std::vector<FlowEntry>(4096);
  struct FragmentEntry {
    IpAddress source, destination;
    std::uint32_t id = 0;
    std::uint64_t revision = 0;
    Target* target = nullptr;
  };
  std::vector<FragmentEntry> fragments = std::vector<FragmentEntry>(256);
  struct SourceEntry {
    IpAddress source;
    const Link* link = nullptr;
    std::uint64_t revision = 0;
  };
  std::vector<SourceEntry> sources = std::vector<SourceEntry>(4096);

  TokenBucket icmp_limit{200, 100};

  // ---- protocol 1.0 ----
  struct HeldQuery {
    dns::Client client;
    std::vector<std::uint8_t> message;
    std::string name;
    Instant deadline{};
  };
  std::deque<HeldQuery> held;
  [[nodiscard]] bool eager() const { return config.protocol < ProtocolVersion{1, 1}; }
  bool hold_query(Bytes message, const dns::Client& client, Now now);
  void serve_asked(ResourceState& state, Now now);
  void fail_asked(ResourceState& state, Now now);
  void settle_asked(Target& target, Now now);
  void answer_held(const std::string& name, Now now);
  void answer_query(const HeldQuery& query, bool from_map, Now now);
  void handle_eager_timeout(Now now);
  [[nodiscard]] Instant eager_deadline() const;

  // ---- outputs ----
  std::deque<OutDatagram> datagrams;
  std::deque<std::vector<std::uint8_t>> packets;
  std::deque<v1::ClientToPortal> to_portal;
  std::deque<DnsOutput> dns_outputs;
  std::deque<AgentEvent> events;
  std::deque<LogLine> log_lines;
  std::vector<std::vector<std::uint8_t>> spare;  // buffers to use again
  std::array<std::uint64_t, kDropReasonCount> drops{};
  wireguard::Timestamp seen_timestamp{};
  Instant next_sweep{};

  void drop(DropReason reason) { ++drops[static_cast<std::size_t>(reason)]; }
  void log_info(std::string text) { log(LogLine::Level::info, std::move(text)); }
  void log_warning(std::string text) { log(LogLine::Level::warning, std::move(text)); }
  void log(LogLine::Level level, std::string text);
  void event(AgentEvent what);
  [[nodiscard]] std::vector<std::uint8_t> take_buffer(std::size_t size);  // of exactly this size
  [[nodiscard]] std::vector<std::uint8_t> take_room(std::size_t size);    // of at least this size

  void sweep(Now now);
  [[nodiscard]] paths::Deadline next_deadline(Now now) const;

  // ---- settle.cc ----
  // After every input: drains the parts into each other until nothing moves.
  void settle(Now now);
  void settle_device(Now now);
  bool settle_paths(Now now);
  void handshake_paths_changed(Link& link, Now now);
  void settle_resolver(Now now);
  void drain_transmits();

  // ---- packets_out.cc ----
  // Packets of one link under way to be sealed together.
  struct Batch {
    Link* link = nullptr;
    std::vector<std::vector<std::uint8_t>> buffers;
    std::vector<wireguard::Outbound> outbound;
    std::vector<Target*> targets;
  };
  Batch batch;

  std::vector<std::uint8_t> segment;  // of a super-packet that cannot go as it is

  void handle_packet(Bytes packet, Now now);
  void handle_super_packet(const TunPacket& packet, Now now);
  struct Classified {
    Target* target = nullptr;
    Undeliverable why = Undeliverable::prohibited;  // when there is no target
    DropReason reason = DropReason::none;
  };
  [[nodiscard]] Classified classify(const InnerPacket& info, Now now);
  [[nodiscard]] Target* target_of(const InnerPacket& info, Bytes packet, Now now);  // nullptr: answered, dropped
  [[nodiscard]] Target* known_target(const InnerPacket& info, Now now) const;  // nullptr: to be classified
  [[nodiscard]] bool can_send(const Target& target, Now now) const;
  void reject(const InnerPacket& info, Bytes packet, Undeliverable why, DropReason reason, Now now,
              std::uint16_t mtu = 0);  // of too_big; 0: the device's
  // Worked out once per burst.
  [[nodiscard]] std::uint16_t path_mtu(Link& link);
  [[nodiscard]] std::uint16_t path_mtu_now(const Link& link) const;
  void reject(Bytes packet, Undeliverable why, DropReason reason, Now now);
  void enqueue(Target& target, const InnerPacket& info, Bytes packet, Now now);
  void add_to_batch(Link& link, Target* target, Bytes packet, Now now);
  // The same, to be filled in by the caller: where its `size` bytes belong.
  MutableBytes reserve_in_batch(Link& link, Target* target, std::size_t size, Now now);
  void flush_batch(Now now);
  // Seals one packet of ours (probe, control message) and sends it over `path`, or to the endpoint.
  void send_inner(Link& link, Bytes inner, const Path* path, Now now);
  // `datagram` lies within `buffer`. A managed link's paths are chosen by Connectivity; else it goes to `endpoint`.
  void emit_data(Link& link, std::vector<std::uint8_t> buffer, MutableBytes datagram, const Path& endpoint, Now now);
  void emit_over(const Path& path, std::vector<std::uint8_t> buffer, std::size_t offset, std::size_t length);

  // ---- packets_in.cc ----
  std::vector<Bytes>* inner_sink = nullptr;  // during handle_datagrams(): takes what goes to the device, uncopied
  std::vector<wireguard::Inbound> inbound;  // data messages under way to be opened together
  void open_burst(Now now);
  void handle_inner(Link& link, MutableBytes inner, const Path& from, Now now);
  void handle_control(Link& link, Bytes inner, const Path& from, Now now);
  void handle_names_wanted(Link& link, const v1::NamesWanted& wanted, Now now);
  void handle_name_status(Link& link, const v1::NameStatus& status, Now now);
  [[nodiscard]] bool source_allowed(const Link& link, const InnerPacket& info, Bytes inner);
  [[nodiscard]] bool address_behind(const Link& link, const IpAddress& address);

  // ---- outer_errors.cc ----
  std::uint64_t hints = 0;  // ICMP errors that were believed
  [[nodiscard]] bool sent_lately(Bytes quoted, Now now);

  // ---- resource_states.cc ----
  ResourceState& state_of(const std::string& resource);
  Target& target_in(ResourceState& state, const std::string& name);
  // Something may have become possible or impossible for what waits.
  void serve(ResourceState& state, Now now);
  void serve_all(Now now);
  void flush(Target& target, Now now);
  void reject_waiting(ResourceState& state, Undeliverable why, DropReason reason, Now now);
  void reject_waiting(Target& target, Undeliverable why, DropReason reason, Now now);
  void fail_queries(ResourceState& state, Now now);
  void revoke(ResourceState& state, Now now);
  void forget_state(const std::string& resource, DropReason reason, Now now);

  // ---- portal_messages.cc ----
  void send_requests(Now now);
  void send_hello();
  void handle_welcome(const v1::ClientWelcome& message, Now now);
  void handle_resource_change(const v1::ResourceChange& message, Now now);
  void handle_granted(const v1::ConnectionGranted& message, Now now);
  void handle_refused(const v1::ConnectionRefused& message, Now now);
  void handle_relays(const google::protobuf::RepeatedPtrField<v1::Relay>& relays, Now now);
  void handle_candidates(const v1::CandidateUpdate& message, Now now);
  void handle_revoked(const v1::AuthorisationRevoked& message, Now now);
  void upsert_resource(const v1::Resource& message, Now now);
  void resources_changed(Now now);
  void interface_changed();
  void set_pools(const v1::AddressPools& pools, Now now);

  // ---- links.cc ----
  Link* link_for_grant(const v1::ConnectionGranted& message, Now now);
  void attach(ResourceState& state, Link& link, Now now);
  void detach(ResourceState& state, Now now);
  void remove_link(Link& link, Now now);
  void want_session(Link& link, Now now);
  void session_up(Link& link, const Path& path, Now now);
  void session_down(Link& link, Now now);
  void link_alive(Link& link, Now now);
  void link_lost(Link& link, Now now);
  void leave_link(Link& link, Now now);
  void ask_for_another(ResourceState& state, Now now, bool insist = false);
  [[nodiscard]] bool in_use(const ResourceState& state, Now now) const;
  void handle_link_timeout(Link& link, Now now);
  void announce(Link& link, Target& target, Now now);
  void ask_gateway(Link& link, const dns::GatewayQuery& query, Now now);
  void send_control(Link& link, Now now);
  void send_candidates(Now now);
  void send_candidates(Link& link, const std::vector<paths::Candidate>& candidates, Now now);
  void tell_portal(const Link& link, const std::vector<paths::Candidate>& candidates);
  void handle_control_reply(Link& link, const ControlChannel::Reply& reply, Now now);
  void handle_given_up(Link& link, const std::string& key, Now now);
  [[nodiscard]] Link* link_by_peer(PeerIndex peer) { return peer < link_of_peer.size() ? link_of_peer[peer] : nullptr; }
};

}  // namespace penstock::client
