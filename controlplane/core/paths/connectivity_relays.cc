// Connectivity: which relays are used, what may leave from where, and what we tell others about it.
#include <algorithm>
#include <tuple>
#include <utility>

#include "controlplane/core/paths/connectivity_impl.h"

namespace penstock::paths {

namespace {

constexpr std::size_t kMaxReflexive = 3;
constexpr Duration kFailingFor = std::chrono::seconds{60};
constexpr Duration kUnknownRtt = std::chrono::seconds{1};
constexpr Duration kSameRtt = std::chrono::milliseconds{10};  // of relays that are equally near

}  // namespace

std::optional<Endpoint> Connectivity::Impl::socket_for(const Endpoint& server) const {
  for (const Endpoint& socket : sockets)
    if (socket.address.is_v4() == server.address.is_v4()) return socket;
  return std::nullopt;
}

Connectivity::Impl::Relay* Connectivity::Impl::find_relay(std::uint32_t number) {
  return const_cast<Relay*>(std::as_const(*this).find_relay(number));
}

const Connectivity::Impl::Relay* Connectivity::Impl::find_relay(std::uint32_t number) const {
  if (number == 0) return nullptr;
  for (const auto& relay : relays)
    if (relay->turn.number() == number) return relay.get();
  return nullptr;
}

bool Connectivity::Impl::in_use(std::uint32_t number) const {
  return number != 0 && std::any_of(agents.begin(), agents.end(), [&](const auto& entry) {
           const auto primary = entry.second->primary();
           const auto standby = entry.second->standby();
           return (primary && primary->relay == number) || (standby && standby->relay == number);
         });
}

// With more relays than we use, which ones are near is known only after they have answered.
void Connectivity::Impl::choose_near_relays() {
  std::size_t known = 0;
  std::size_t usable = 0;
  for (const RelayConfig& relay : configured) {
    if (relay.username.empty()) continue;
    ++usable;
    known += std::any_of(relay.udp.begin(), relay.udp.end(),
                         [&](const Endpoint& e) { return gatherer.rtt(e).has_value(); });
  }
  if (std::exchange(relays_measured, known) == known || usable <= config.max_relays || known < usable) return;
  refresh_relays();
}

void Connectivity::Impl::refresh_targets() {
  std::vector<Endpoint> servers = stun_servers;
  for (const RelayConfig& relay : configured) servers.insert(servers.end(), relay.udp.begin(), relay.udp.end());
  gatherer.set_targets(sockets, servers, now.monotonic);
}

void Connectivity::Impl::close_relay(Relay& relay) {
  relay.turn.close(now.monotonic);
  send_from(relay);
}

// One allocation per relay and server address: a 5-tuple carries only one (RFC 8656 §5). Which relayed family it is
// depends on what the gateways have; IPv4 as long as nobody knows.
void Connectivity::Impl::refresh_relays() {
  bool want_v4 = false;
  bool want_v6 = false;
  for (const auto& [gateway, agent] : agents) {
    want_v4 = want_v4 || agent->wants_family(true);
    want_v6 = want_v6 || agent->wants_family(false);
  }
  for (const Expected& gateway : expected_gateways) {
    want_v4 = want_v4 || gateway.agent->wants_family(true);
    want_v6 = want_v6 || gateway.agent->wants_family(false);
  }
  if (!want_v6) want_v4 = true;

  std::vector<const RelayConfig*> order;
  for (const RelayConfig& relay : configured)
    if (!relay.username.empty()) order.push_back(&relay);
  std::erase_if(failing, [&](const auto& entry) { return now.monotonic >= entry.second; });
  // Those that do not answer last; the ones in use stay (a move costs more than it gains); the nearest of the rest.
  const auto rank = [&](const RelayConfig* r) {
    const bool used = std::any_of(relays.begin(), relays.end(), [&](const auto& relay) {
      return relay->id == r->id && in_use(relay->turn.number());
    });
    Duration nearest = kUnknownRtt;
    for (const Endpoint& server : r->udp) nearest = std::min(nearest, gatherer.rtt(server).value_or(kUnknownRtt));
    return std::tuple{failing.contains(r->id), !used, nearest / kSameRtt};
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](const RelayConfig* a, const RelayConfig* b) { return rank(a) < rank(b); });
  if (order.size() > config.max_relays) order.resize(config.max_relays);

  std::vector<std::unique_ptr<Relay>> kept;
  keep_streams();
  for (auto& relay : relays)
    if (relay->stream != 0) kept.push_back(std::move(relay));
  std::erase(relays, nullptr);
  for (const RelayConfig* wanted : order) {
    bool have_v4 = !want_v4;
    bool have_v6 = !want_v6;
    for (const bool transport_v4 : {true, false}) {
      const auto server = std::find_if(wanted->udp.begin(), wanted->udp.end(),
                                       [&](const Endpoint& e) { return e.address.is_v4() == transport_v4; });
      if (server == wanted->udp.end()) continue;
      const auto socket = socket_for(*server);
      if (!socket || (have_v4 && have_v6)) continue;
      // The transport's own family where that is wanted, else what is still missing.
      const bool relayed_v4 = transport_v4 ? !have_v4 : have_v6;
      (relayed_v4 ? have_v4 : have_v6) = true;
      const auto family = relayed_v4 ? stun::AddressFamily::ipv4 : stun::AddressFamily::ipv6;
      const TurnCredentials credentials{wanted->username, wanted->password, wanted->realm};
      const auto known = std::find_if(relays.begin(), relays.end(), [&](const auto& r) {
        return r != nullptr && r->id == wanted->id && r->turn.config().server == *server &&
               r->turn.config().relayed_family == family;
      });
      if (known != relays.end()) {
        (*known)->turn.update_credentials(credentials, now.monotonic);
        kept.push_back(std::move(*known));
        continue;
      }
      const TurnConfig turn{*server, credentials, family, config.mobility, false};
      kept.push_back(std::make_unique<Relay>(Relay{wanted->id, *socket, TurnClient{turn, random, numbers}}));
      for (const IpAddress& address : permitted) kept.back()->turn.permit(address, now.monotonic);
      kept.back()->turn.start(now.monotonic);
    }
  }
  bool removed = false;
  for (auto& relay : relays) {
    if (relay == nullptr) continue;
    removed = true;
    close_relay(*relay);
  }
  relays = std::move(kept);
  relays_wanted_v6 = want_v6 && !want_v4;
  if (removed) update_bases(false);
  refresh_permissions();
}

void Connectivity::Impl::refresh_permissions() {
  std::set<IpAddress> wanted;
  for (const auto& [gateway, agent] : agents)
    for (const IpAddress& address : agent->remote_addresses()) wanted.insert(address);
  for (const Expected& gateway : expected_gateways)
    for (const IpAddress& address : gateway.agent->remote_addresses()) wanted.insert(address);
  if (wanted == permitted) return;
  for (auto& relay : relays) {
    for (const IpAddress& address : permitted)
      if (!wanted.contains(address)) relay->turn.forget(address);
    for (const IpAddress& address : wanted) relay->turn.permit(address, now.monotonic);
  }
  permitted = std::move(wanted);
}

std::vector<LocalBase> Connectivity::Impl::bases() const {
  std::vector<LocalBase> out;
  for (const Endpoint& socket : sockets) out.push_back({socket, 0, socket.address.is_v4()});
  for (const auto& relay : relays)
    if (relay->turn.number() != 0)
      out.push_back({relay->local, relay->turn.number(), relay->turn.relayed().address.is_v4()});
  return out;
}

void Connectivity::Impl::update_bases(bool roamed) {
  const auto all = bases();
  for (auto& [gateway, agent] : agents) agent->set_bases(all, roamed, now);
  for (Expected& gateway : expected_gateways) gateway.agent->set_bases(all, roamed, now);
}

std::vector<Candidate> Connectivity::Impl::local_candidates() const {
  std::vector<Candidate> out;
  const auto add = [&](CandidateKind kind, const Endpoint& endpoint) {
    if (out.size() >= kMaxCandidates || !is_usable_candidate(endpoint, config.allow_loopback)) return;
    const bool known = std::any_of(out.begin(), out.end(), [&](const Candidate& c) { return c.endpoint == endpoint; });
    if (!known) out.push_back({kind, endpoint});
  };
  // What others cannot guess comes first; a mapping equal to a host address is told once (trap paths-15).
  for (const auto& relay : relays)
    if (relay->turn.number() != 0) add(CandidateKind::relayed, relay->turn.relayed());
  std::size_t reflexive = 0;
  for (const Endpoint& mapped : gatherer.reflexive(now.monotonic)) {
    if (std::find(hosts.begin(), hosts.end(), mapped) != hosts.end() || reflexive == kMaxReflexive) continue;
    ++reflexive;
    add(CandidateKind::server_reflexive, mapped);
  }
  for (const Endpoint& host : hosts) add(CandidateKind::host, host);
  return out;
}

// A relay that does not answer makes room for another, if there is one.
bool Connectivity::Impl::pump_relays() {
  bool any = false;
  bool bases_changed = false;
  bool rotate = false;
  for (auto& relay : relays) {
    send_from(*relay);
    while (const auto event = relay->turn.poll_event()) {
      any = true;
      switch (event->kind) {
        case TurnEvent::Kind::allocated:
        case TurnEvent::Kind::lost:
          bases_changed = true;
          break;
        case TurnEvent::Kind::moved:
          for (auto& [gateway, agent] : agents) agent->handle_relay_moved(relay->turn.number(), event->since, now);
          break;
        case TurnEvent::Kind::permission_changed:
          for (auto& [gateway, agent] : agents) agent->kick_relay(relay->turn.number(), now);
          break;
        case TurnEvent::Kind::channel_bound:
          break;
        case TurnEvent::Kind::credentials_rejected: {
          Event out;
          out.kind = Event::Kind::relay_refused;
          events.push_back(std::move(out));
          break;
        }
        case TurnEvent::Kind::unsupported:
          break;
      }
    }
    if (relay->stream == 0 && relay->turn.state() == TurnClient::State::waiting && !failing.contains(relay->id)) {
      failing[relay->id] = now.monotonic + kFailingFor;
      const auto usable =
          std::count_if(configured.begin(), configured.end(), [](const auto& r) { return !r.username.empty(); });
      rotate = rotate || static_cast<std::size_t>(usable) > config.max_relays;
    }
  }
  if (bases_changed) update_bases(false);
  if (rotate) refresh_relays();
  return any;
}

}  // namespace penstock::paths
