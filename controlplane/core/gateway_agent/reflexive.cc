#include "controlplane/core/gateway_agent/reflexive.h"

#include <algorithm>
#include <utility>

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstRetry = 250ms;
constexpr unsigned kTries = 7;
constexpr Duration kAgain = 30s;

}  // namespace

void ReflexiveGatherer::set_servers(const std::vector<Endpoint>& servers, Instant now) {
  std::map<Endpoint, Server> kept;
  for (const Endpoint& server : servers) {
    if (kept.size() >= kMaxStunServers) break;
    const auto known = servers_.find(server);
    kept[server] = known != servers_.end() ? known->second : Server{{}, 0, now, std::nullopt};
  }
  servers_ = std::move(kept);
  handle_timeout(now);
}

void ReflexiveGatherer::restart(Instant now) {
  for (auto& [endpoint, server] : servers_) server = {{}, 0, now, server.mapped};
  handle_timeout(now);
}

bool ReflexiveGatherer::set_mapped(const Endpoint& server, const std::optional<Endpoint>& mapped) {
  const auto found = servers_.find(server);
  if (found == servers_.end()) return false;
  const auto before = std::exchange(found->second.mapped, mapped);
  return before && mapped && *before != *mapped;
}

bool ReflexiveGatherer::handle_datagram(const Endpoint& from, Bytes datagram, Instant now) {
  const auto message = stun::Message::parse(datagram);
  const auto found = servers_.find(from);
  if (!message || found == servers_.end() || message->method() != stun::Method::binding) return false;
  Server& server = found->second;
  if (server.tries == 0 || message->transaction_id() != server.transaction) return false;
  if (message->message_class() != stun::Class::success) return false;
  const auto mapped = message->mapped_address();
  if (!mapped) return false;
  server.mapped = mapped;
  server.tries = 0;
  server.next = now + kAgain;
  return true;
}

std::optional<ReflexiveGatherer::Request> ReflexiveGatherer::poll_request() {
  if (out_.empty()) return std::nullopt;
  const Request out = out_.front();
  out_.pop_front();
  return out;
}

Deadline ReflexiveGatherer::poll_timeout() const {
  Deadline out;
  for (const auto& [endpoint, server] : servers_) out.consider(server.next, "STUN request");
  return out;
}

void ReflexiveGatherer::handle_timeout(Instant now) {
  for (auto& [endpoint, server] : servers_) {
    if (server.next > now) continue;
    if (server.tries >= kTries) {  // no answer: what it said last is not true any more
      server.mapped.reset();
      server.tries = 0;
      server.next = now + kAgain;
      continue;
    }
    if (server.tries == 0) random_->fill(server.transaction);
    server.next = now + kFirstRetry * (1U << server.tries);
    ++server.tries;
    out_.push_back({endpoint, server.transaction});
  }
}

std::vector<Endpoint> ReflexiveGatherer::mapped() const {
  std::vector<Endpoint> out;
  for (const auto& [endpoint, server] : servers_)
    if (server.mapped && std::find(out.begin(), out.end(), *server.mapped) == out.end()) out.push_back(*server.mapped);
  return out;
}

std::vector<Endpoint> ReflexiveGatherer::servers() const {
  std::vector<Endpoint> out;
  for (const auto& [endpoint, server] : servers_) out.push_back(endpoint);
  return out;
}

}  // namespace penstock::gateway_agent
