#include "controlplane/core/gateway_agent/control_outbox.h"

#include <algorithm>

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstGap = 250ms;
constexpr Duration kLongestGap = 2s;
constexpr Duration kGiveUp = 10s;
constexpr std::size_t kMaxRequests = 64;

}  // namespace

void ControlOutbox::request(const Key& peer, const std::string& key, v1::Control message, Instant now) {
  auto& requests = requests_[peer];
  if (requests.size() >= kMaxRequests && !requests.contains(key)) return;
  Request& request = requests[key];
  request.id = next_id_++;
  message.set_id(request.id);
  message.set_reply(false);
  request.payload = message.SerializeAsString();
  request.gap = kFirstGap;
  request.next = now + kFirstGap;
  request.give_up = now + kGiveUp;
  out_.push_back({peer, request.payload});
}

void ControlOutbox::send(const Key& peer, v1::Control message) {
  out_.push_back({peer, message.SerializeAsString()});
}

void ControlOutbox::acknowledged(const Key& peer, std::uint64_t id) {
  const auto found = requests_.find(peer);
  if (found == requests_.end()) return;
  std::erase_if(found->second, [id](const auto& entry) { return entry.second.id == id; });
  if (found->second.empty()) requests_.erase(found);
}

void ControlOutbox::session_up(const Key& peer, Instant now) {
  const auto found = requests_.find(peer);
  if (found == requests_.end()) return;
  for (auto& [key, request] : found->second) request.next = now;
  handle_timeout(now);
}

void ControlOutbox::remove(const Key& peer) {
  requests_.erase(peer);
}

std::optional<ControlOutbox::Message> ControlOutbox::poll() {
  if (out_.empty()) return std::nullopt;
  Message out = std::move(out_.front());
  out_.pop_front();
  return out;
}

Deadline ControlOutbox::poll_timeout() const {
  Deadline out;
  for (const auto& [peer, requests] : requests_)
    for (const auto& [key, request] : requests) out.consider(request.next, "in-tunnel control");
  return out;
}

void ControlOutbox::handle_timeout(Instant now) {
  for (auto peer = requests_.begin(); peer != requests_.end();) {
    for (auto it = peer->second.begin(); it != peer->second.end();) {
      Request& request = it->second;
      if (request.next <= now && request.give_up <= now) {
        it = peer->second.erase(it);
        continue;
      }
      if (request.next <= now) {
        out_.push_back({peer->first, request.payload});
        request.gap = std::min(kLongestGap, request.gap * 2);
        request.next = std::min(now + request.gap, request.give_up);
      }
      ++it;
    }
    peer = peer->second.empty() ? requests_.erase(peer) : std::next(peer);
  }
}

}  // namespace penstock::gateway_agent
