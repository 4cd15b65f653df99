// Inside of Connectivity; included only by its own files.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "controlplane/core/paths/connectivity.h"
#include "controlplane/core/paths/path_agent.h"
#include "controlplane/core/paths/stun_gatherer.h"
#include "controlplane/core/paths/turn_client.h"

namespace penstock::paths {

struct Connectivity::Impl {
  struct Relay {
    std::string id;
    Endpoint local;
    TurnClient turn;
    StreamId stream = 0;  // over TCP or TLS; then `local` is unspecified
    bool up = false;      // the stream
    Instant opened{};
    Instant doubted = kNever;  // asked for a sign of life since
  };

  Impl(const ConnectivityConfig& config_in, Random& random_in)
      : config(config_in), random(random_in), gatherer(random_in) {}

  // connectivity.cc
  void tick(Now time);
  void resume(Now time);
  Incoming classify(MutableBytes datagram, const Endpoint& local, const Endpoint& remote, Now time);
  Incoming from_relay(Relay& relay, MutableBytes datagram, Now time);
  void handle_punch(const Path& path, Now time);
  [[nodiscard]] Deadline poll_timeout() const;
  [[nodiscard]] std::unique_ptr<PathAgent> make_agent();

  // A gateway that the portal is asking. Its agent has no session, so it pairs and learns, and probes nothing.
  struct Expected {
    std::vector<Candidate> candidates;
    Instant until{};
    std::unique_ptr<PathAgent> agent;
  };

  // connectivity_expected.cc
  void hand_over_expected(PathAgent& agent, std::span<const Candidate> candidates);
  void forget_expected();
  [[nodiscard]] Instant expected_until() const;

  // connectivity_relays.cc
  [[nodiscard]] std::optional<Endpoint> socket_for(const Endpoint& server) const;
  void refresh_targets();
  void refresh_relays();
  [[nodiscard]] bool in_use(std::uint32_t number) const;
  void choose_near_relays();
  void refresh_permissions();
  [[nodiscard]] std::vector<LocalBase> bases() const;
  void update_bases(bool roamed);
  void close_relay(Relay& relay);
  void doubt(Relay& relay);  // asks for a sign of life
  Relay* find_relay(std::uint32_t number);
  [[nodiscard]] const Relay* find_relay(std::uint32_t number) const;
  [[nodiscard]] std::vector<Candidate> local_candidates() const;

  // connectivity_streams.cc: relays over TCP and TLS, where UDP leads nowhere.
  void note_udp_asked();
  void note_udp_heard();
  void run_streams();
  void open_streams(const RelayConfig& relay);
  void drop_stream(StreamId stream, bool tell_shell);
  void drop_streams();
  void keep_streams();  // those that the portal's list still names
  [[nodiscard]] bool streams_configured() const;
  [[nodiscard]] bool udp_silent() const;
  void merge_stream_deadlines(Deadline& out) const;

  // connectivity_pump.cc: moves what the parts want to say outwards, until nobody has anything more.
  void pump();
  bool pump_relays();
  bool pump_gatherer();
  bool pump_agents();
  void pump_agent_event(GatewayHandle gateway, AgentEvent event);
  void send_from(Relay& relay);

  ConnectivityConfig config;
  Random& random;
  Now now{};
  bool started = false;
  Instant expected = kNever;  // the deadline as of the last pump(), to notice that we slept

  std::vector<Endpoint> sockets;
  std::vector<Endpoint> hosts;
  std::vector<RelayConfig> configured;
  std::vector<Endpoint> stun_servers;
  std::uint32_t numbers = 0;
  std::vector<std::unique_ptr<Relay>> relays;
  std::map<std::string, Instant> failing;  // relay id: not before others until then
  std::set<IpAddress> permitted;
  std::size_t relays_measured = 0;  // how many of the configured ones have a round-trip time
  StunGatherer gatherer;
  std::map<GatewayHandle, std::unique_ptr<PathAgent>> agents;
  std::deque<Expected> expected_gateways;  // oldest first

  StreamId stream_numbers = 0;
  std::deque<StreamRequest> stream_requests;
  Instant udp_waiting = kNever;      // since when UDP requests are out and nothing has come back
  Instant udp_well = kNever;         // since when something has, while streams are open
  Instant stream_retry = Instant{};  // no new streams before
  int stream_failures = 0;
  std::size_t stream_turn = 0;  // which relay is next
  bool relays_wanted_v6 = false;  // the gateways have no IPv4

  std::vector<Candidate> told;  // what the last candidates_changed was about
  std::deque<Transmit> output;
  std::deque<Event> events;
};

}  // namespace penstock::paths
