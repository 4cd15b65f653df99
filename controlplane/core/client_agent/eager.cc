// Protocol 1.0, "eager" (docs/protocol.md, Versions): the tunnel is set up during the DNS query, on whatever path
// answers first, and stays there. Nothing is repaired: a tunnel that has not answered for 15 s is dead, and only the
// next query sets one up again. It exists so that upgrades can be tested and the failure be seen that 1.1 repairs.
#include <algorithm>
#include <utility>

#include "controlplane/core/client_agent/agent_impl.h"
#include "controlplane/core/dns/query.h"
#include "dataplane/core/wireguard/probe.h"

namespace penstock::client {
namespace {

constexpr Duration kHoldQuery = std::chrono::milliseconds{4200};  // the caller waits 5 s
constexpr std::size_t kMaxHeld = 256;
constexpr Duration kDeadAfter = std::chrono::seconds{15};
constexpr Duration kCheckEvery = std::chrono::seconds{5};

}  // namespace

// True: held; its answer comes out of poll_dns.
bool ClientAgent::Impl::hold_query(Bytes message, const dns::Client& client, Now now) {
  const dns::Query query = dns::parse_query(message);
  std::string name;
  if (query.state != dns::QueryState::ok || query.qclass != dns::kClassIn ||
      (query.qtype != dns::type::a && query.qtype != dns::type::aaaa) || !dns::name_text(query.qname, name))
    return false;
  const std::vector<std::string> owners = resolver->resources_of(name);
  if (owners.empty() || !names->assign(name, now.wall)) return false;
  std::vector<Target*> to_ask;
  for (const std::string& id : owners) {
    Target& target = target_in(state_of(id), name);
    target.used_at = now.monotonic;
    if (can_send(target, now)) return false;
    const bool known_missing = target.status == Target::Name::missing && target.status_until > now.monotonic;
    if (!known_missing) to_ask.push_back(&target);
  }
  if (to_ask.empty()) return false;
  HeldQuery query_held{client, {message.begin(), message.end()}, name, now.monotonic + kHoldQuery};
  if (held.size() >= kMaxHeld) {
    answer_query(query_held, false, now);
    return true;
  }
  held.push_back(std::move(query_held));
  for (Target* target : to_ask) target->state->asked.insert(target);
  for (Target* target : to_ask) serve(*target->state, now);
  return true;
}

// The tunnel stands: names that are asked for are told to the gateway.
void ClientAgent::Impl::serve_asked(ResourceState& state, Now now) {
  const std::vector<Target*> asked(state.asked.begin(), state.asked.end());
  for (Target* target : asked) announce(*state.link, *target, now);
}

void ClientAgent::Impl::fail_asked(ResourceState& state, Now now) {
  for (Target* target : std::exchange(state.asked, {})) answer_held(target->name, now);
}

// The gateway has spoken about `target`, or nobody will: who asked for its name is answered once no other Resource of
// the name is still being asked.
void ClientAgent::Impl::settle_asked(Target& target, Now now) {
  if (target.state->asked.erase(&target) != 0) answer_held(target.name, now);
}

void ClientAgent::Impl::answer_held(const std::string& name, Now now) {
  bool good = false;
  bool missing = false;
  for (const std::string& id : resolver->resources_of(name)) {
    const auto state = states.find(id);
    if (state == states.end()) continue;
    const auto target = state->second->targets.find(name);
    if (target == state->second->targets.end()) continue;
    if (can_send(*target->second, now)) {
      good = true;
    } else if (state->second->asked.contains(target->second.get())) {
      return;
    }
    missing = missing || target->second->status == Target::Name::missing;
  }
  for (auto query = held.begin(); query != held.end();) {
    if (query->name != name) {
      ++query;
      continue;
    }
    const HeldQuery taken = std::move(*query);
    query = held.erase(query);
    answer_query(taken, good || missing, now);
  }
}

void ClientAgent::Impl::answer_query(const HeldQuery& query, bool from_map, Now now) {
  const Bytes answer = from_map ? resolver->handle_query(query.message, query.client, now)
                                : resolver->failure(query.message, query.client);
  if (answer.empty()) return;  // comes later
  dns_outputs.emplace_back(dns::Answer{query.client, {answer.begin(), answer.end()}});
}

// Whether a link still answers: a probe now and then, no repair of anything.
void ClientAgent::Impl::handle_eager_timeout(Now now) {
  while (!held.empty() && held.front().deadline <= now.monotonic) {
    const HeldQuery late = std::move(held.front());
    held.pop_front();
    for (const auto& [id, state] : states)
      if (const auto target = state->targets.find(late.name); target != state->targets.end())
        state->asked.erase(target->second.get());
    answer_query(late, false, now);
  }
  std::vector<Link*> dead;
  for (const auto& [gateway, link] : links) {
    if (link->heals || !link->managed || !link->session) continue;
    if (now.monotonic >= link->heard_at + kDeadAfter) {
      dead.push_back(link.get());
    } else if (now.monotonic >= link->check_at) {
      link->check_at = now.monotonic + kCheckEvery;
      wireguard::Probe probe;
      probe.id = random.next_u64();
      probe.sent_at = static_cast<std::uint64_t>(now.monotonic.time_since_epoch().count());
      const auto packet = wireguard::make_probe_packet(probe, wireguard::ControlDirection::to_gateway);
      send_inner(*link, packet, nullptr, now);
    }
  }
  for (Link* link : dead) {
    log_warning("gateway " + link->gateway +
                " has not answered for 15 s: the tunnel is dead until the next DNS query (protocol 1.0)");
    remove_link(*link, now);
  }
}

Instant ClientAgent::Impl::eager_deadline() const {
  Instant first = held.empty() ? kNever : held.front().deadline;
  for (const auto& [gateway, link] : links)
    if (!link->heals && link->managed && link->session)
      first = std::min({first, link->heard_at + kDeadAfter, link->check_at});
  return first;
}

}  // namespace penstock::client
