#include "dataplane/gateway/waiting.h"

#include <algorithm>

#include "dataplane/core/nat/config.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

using std::chrono::seconds;

// A handshake that works takes a few round trips; after this the applications have tried again themselves.
constexpr Duration kSessionWait = seconds{10};
// Longer than the resolver's own time-out, so that its verdict (no such name, failed) arrives first.
constexpr Duration kResolvingWait = seconds{12};
// A packet may overtake the message that names its destination, which is repeated until acknowledged.
constexpr Duration kUnknownWait = seconds{3};

enum class NameState : std::uint8_t { unknown, resolving, settled };

NameState state_of(const policy::PeerPolicy& policy, const IpAddress& proxy) {
  NameState state = NameState::unknown;
  for (const policy::Translation& translation : policy.translations) {
    if (translation.proxy_v4 != proxy && translation.proxy_v6 != proxy) continue;
    if (translation.state == policy::TranslationState::resolving) return NameState::resolving;
    state = NameState::settled;
  }
  return state;
}

}  // namespace

bool is_copy(const Packet& a, const Packet& b) {
  // From the source address on (IPv4: behind identification, TTL and checksum; IPv6: behind the hop limit).
  const std::size_t from = is_ip6(a) ? 8 : 12;
  return a.length == b.length && is_ip6(a) == is_ip6(b) && a.length > from &&
         std::memcmp(a.data + from, b.data + from, a.length - from) == 0;
}

bool SessionQueue::hold(Packet* packet, Instant now) {
  if (held_ >= context_.limits.session_wait_total) {
    context_.drop(packet, DropReason::wg_queue_full);
    return false;
  }
  const auto [at, fresh] = queues_.try_emplace(packet->peer);
  Queue& queue = at->second;
  if (fresh) queue.deadline = now + kSessionWait;
  earliest_ = std::min(earliest_, queue.deadline);
  const bool copy = std::any_of(queue.packets.begin(), queue.packets.end(),
                                [packet](const Packet* other) { return is_copy(*packet, *other); });
  if (copy || queue.packets.size() >= context_.limits.session_wait_packets) {
    context_.drop(packet, copy ? DropReason::local_consumed : DropReason::wg_queue_full);
    return true;  // others wait: the session is wanted all the same
  }
  set_flag(*packet, packet_flag::held);
  queue.packets.push_back(packet);
  ++held_;
  return true;
}

void SessionQueue::release(PeerIndex peer) {
  const auto at = queues_.find(peer);
  if (at == queues_.end()) return;
  held_ -= at->second.packets.size();
  for (Packet* packet : at->second.packets)
    context_.emit(packet, has_flag(*packet, packet_flag::on_path) ? ToWorker::to_peer_on_path : ToWorker::to_peer,
                  packet->rss_worker);
  queues_.erase(at);
}

void SessionQueue::give_up(PeerIndex peer, DropReason reason) {
  const auto at = queues_.find(peer);
  if (at == queues_.end()) return;
  held_ -= at->second.packets.size();
  for (Packet* packet : at->second.packets) context_.drop(packet, reason);
  queues_.erase(at);
}

void SessionQueue::handle_timeout(Instant now) {
  if (now < earliest_) return;
  earliest_ = kNever;
  std::vector<PeerIndex> late;
  for (const auto& [peer, queue] : queues_)
    if (queue.deadline <= now)
      late.push_back(peer);
    else
      earliest_ = std::min(earliest_, queue.deadline);
  for (const PeerIndex peer : late) give_up(peer, DropReason::wg_no_session);
}

bool NameQueue::hold(Packet* packet, const policy::PeerPolicy& policy, Instant now) {
  const bool unknown = state_of(policy, ip_destination(*packet)) == NameState::unknown;
  const SlowPathLimits& limits = context_.limits;
  std::size_t& of_peer = per_peer_[packet->peer];
  const auto [at, fresh] = queues_.try_emplace({packet->peer, ip_destination(*packet)});
  Queue& queue = at->second;
  if (fresh) queue.deadline = now + (unknown ? kUnknownWait : kResolvingWait);
  earliest_ = std::min(earliest_, queue.deadline);
  const bool copy = std::any_of(queue.packets.begin(), queue.packets.end(),
                                [packet](const Packet* other) { return is_copy(*packet, *other); });
  const bool full = queue.packets.size() >= limits.name_wait_packets ||
                    queue.bytes + packet->length > limits.name_wait_bytes || of_peer >= limits.name_wait_per_peer ||
                    held_ >= limits.name_wait_total;
  if (copy || full) {
    context_.drop(packet, copy ? DropReason::local_consumed : DropReason::name_wait_full);
    if (queue.packets.empty()) queues_.erase(at);
    return false;
  }
  set_flag(*packet, packet_flag::held);
  queue.packets.push_back(packet);
  queue.bytes += packet->length;
  ++of_peer;
  ++held_;
  return fresh;
}

void NameQueue::policy_published(PeerIndex peer, const policy::PeerPolicy* policy, Instant now) {
  for (auto at = queues_.lower_bound({peer, IpAddress{}}); at != queues_.end() && at->first.first == peer;) {
    const NameState state = policy == nullptr ? NameState::settled : state_of(*policy, at->first.second);
    if (state == NameState::resolving) at->second.deadline = std::max(at->second.deadline, now + kUnknownWait);
    if (state != NameState::settled) {
      ++at;
      continue;
    }
    for (Packet* packet : at->second.packets) {
      if (policy == nullptr)
        context_.drop(packet, DropReason::policy_no_resource);
      else
        context_.emit(packet, ToWorker::from_peer, packet->rss_worker);
    }
    held_ -= at->second.packets.size();
    per_peer_[peer] -= at->second.packets.size();
    at = queues_.erase(at);
  }
  if (const auto count = per_peer_.find(peer); count != per_peer_.end() && count->second == 0) per_peer_.erase(count);
}

// Host unreachable, from the address that the translator's own errors come from.
void NameQueue::refuse(Packet* packet, Instant now) {
  if (may_answer_with_error(*packet) && context_.error_limit.take(now)) {
    if (Packet* error = context_.allocate(); error != nullptr) {
      static const nat::TranslatorConfig defaults;
      const IpAddress from = is_ip6(*packet) ? defaults.own_inside_v6 : defaults.own_inside_v4;
      if (build_icmp_error_from(from, *packet, Unreachable::host, 0, *error)) {
        error->peer = packet->peer;
        context_.emit(error, ToWorker::to_peer, packet->rss_worker);
      } else {
        context_.drop(error, DropReason::no_headroom);
      }
    }
  }
  context_.drop(packet, DropReason::name_wait_timeout);
}

void NameQueue::handle_timeout(Instant now) {
  if (now < earliest_) return;
  earliest_ = kNever;
  for (auto at = queues_.begin(); at != queues_.end();) {
    if (at->second.deadline > now) {
      earliest_ = std::min(earliest_, at->second.deadline);
      ++at;
      continue;
    }
    held_ -= at->second.packets.size();
    const PeerIndex peer = at->first.first;
    const auto count = per_peer_.find(peer);
    count->second -= at->second.packets.size();
    if (count->second == 0) per_peer_.erase(count);
    for (Packet* packet : at->second.packets) refuse(packet, now);
    at = queues_.erase(at);
  }
}

}  // namespace penstock::gateway
