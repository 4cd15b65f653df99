#include "dataplane/gateway/stun_tick.h"

#include <algorithm>

namespace penstock::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t kMaxServers = 8;
constexpr std::uint8_t kGivenUp = 8;  // unanswered requests after which a server counts as silent
// paths.md "Timers".
constexpr Duration kBusy = milliseconds{150};
constexpr Duration kActive = seconds{1};
constexpr Duration kIdle = seconds{25};

}  // namespace

Duration StunTick::interval() const {
  return pace_ == Pace::busy ? kBusy : pace_ == Pace::active ? kActive : kIdle;
}

void StunTick::set_servers(std::span<const Endpoint> servers, Instant now) {
  std::vector<Server> next;
  for (const Endpoint& address : servers) {
    const auto same = [&address](const Server& server) { return server.address == address; };
    if (next.size() == kMaxServers || std::any_of(next.begin(), next.end(), same)) continue;
    const auto known = std::find_if(servers_.begin(), servers_.end(), same);
    if (known != servers_.end()) {
      next.push_back(*known);
    } else {
      next.emplace_back().address = address;
      next_ = now;
    }
  }
  servers_ = std::move(next);
  if (servers_.empty()) next_ = kNever;
}

void StunTick::set_pace(Pace pace, Instant now) {
  if (pace == pace_) return;
  pace_ = pace;
  if (next_ != kNever) next_ = std::max(now, last_ + interval());
}

void StunTick::ask(Server& server) {
  Sent& sent = server.sent[server.next_sent];
  server.next_sent = static_cast<std::uint8_t>((server.next_sent + 1) % server.sent.size());
  random_.fill(sent.transaction);
  sent.waiting = true;
  if (server.unanswered < kGivenUp && ++server.unanswered == kGivenUp && server.mapped) {
    server.mapped.reset();
    server.suspected.reset();
    news_.push_back({server.address, Endpoint{}, false});
  }
  requests_.push_back({server.address, sent.transaction});
}

StunTick::Verdict StunTick::handle(Bytes datagram, const Endpoint& from, Instant) {
  const auto message = stun::Message::parse(datagram);
  if (!message) return Verdict::malformed;
  if (!message->is(stun::Class::success, stun::Method::binding)) return Verdict::not_ours;
  const auto server =
      std::find_if(servers_.begin(), servers_.end(), [&from](const Server& s) { return s.address == from; });
  if (server == servers_.end()) return Verdict::not_ours;
  const auto sent = std::find_if(server->sent.begin(), server->sent.end(), [&message](const Sent& s) {
    return s.waiting && s.transaction == message->transaction_id();
  });
  if (sent == server->sent.end()) return Verdict::not_ours;
  const auto mapped = message->mapped_address();
  if (!mapped) return Verdict::malformed;
  sent->waiting = false;
  server->unanswered = 0;
  if (!server->mapped) {
    server->mapped = mapped;
    news_.push_back({from, *mapped, false});
  } else if (*mapped == *server->mapped) {
    server->suspected.reset();
  } else if (server->suspected && *server->suspected == *mapped) {
    server->mapped = mapped;
    server->suspected.reset();
    news_.push_back({from, *mapped, true});
  } else {
    // One answer may be late or forged by somebody who saw the request; a second one, to a new transaction, is not.
    for (Sent& old : server->sent) old.waiting = false;
    server->suspected = mapped;
    ask(*server);
  }
  return Verdict::consumed;
}

void StunTick::handle_timeout(Instant now) {
  if (servers_.empty() || now < next_) return;
  turn_ = (turn_ + 1) % servers_.size();
  ask(servers_[turn_]);
  last_ = now;
  next_ = now + interval();
}

std::optional<StunTick::Request> StunTick::poll_request() {
  if (requests_.empty()) return std::nullopt;
  const Request request = requests_.front();
  requests_.erase(requests_.begin());
  return request;
}

std::optional<StunTick::Mapped> StunTick::poll_mapped() {
  if (news_.empty()) return std::nullopt;
  const Mapped mapped = news_.front();
  news_.erase(news_.begin());
  return mapped;
}

}  // namespace penstock::gateway
