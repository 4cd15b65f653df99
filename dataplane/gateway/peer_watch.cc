#include "dataplane/gateway/peer_watch.h"

#include <algorithm>

#include "dataplane/core/wireguard/data_path.h"

namespace penstock::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// paths.md "Timers": data within these makes a peer busy, or active.
constexpr Duration kBusyFor = seconds{2};
constexpr Duration kActiveFor = seconds{120};
constexpr Duration kBusyProbes = milliseconds{500};  // probes closer than this come from a busy client
// A peer that probes is silent after this many intervals; busy ones (200 ms) after half a second.
constexpr int kSilentIntervals = 2;
constexpr Duration kSilentSlack = milliseconds{100};
constexpr Duration kSilentAtLeast = milliseconds{350};
constexpr Duration kNotWatched = milliseconds{2500};  // probes rarer than this are an idle peer's
constexpr std::uint8_t kSilentTries = 6;              // then it has left
constexpr Duration kSuspectEvery = milliseconds{500};
// Pacing of keepalives to everybody: 64 peers a millisecond.
constexpr std::size_t kHealBatch = 64;
constexpr Duration kHealInterval = milliseconds{1};
// Traffic of peers that do not probe: so many at a time, so often.
constexpr PeerIndex kLookBatch = 1024;
constexpr Duration kLookEvery = milliseconds{250};

}  // namespace

PeerWatch::Peer& PeerWatch::at(PeerIndex peer) {
  if (peer >= peers_.size()) peers_.resize(peer + 1);
  return peers_[peer];
}

void PeerWatch::unlist(PeerIndex index, const Endpoint& remote) {
  const auto found = by_address_.find(remote);
  if (found != by_address_.end() && found->second == index) by_address_.erase(found);
}

void PeerWatch::learn(PeerIndex index, const Path& path, bool configured, Instant now) {
  std::vector<Address>& addresses = peers_[index].addresses;
  const auto known = std::find_if(addresses.begin(), addresses.end(),
                                  [&path](const Address& a) { return a.path.remote == path.remote; });
  if (known != addresses.end()) {
    known->configured = known->configured || configured;
    if (!configured) {
      known->heard = now;
      known->path.local = path.local;
      by_address_[path.remote] = index;
    }
    return;
  }
  if (addresses.size() == kMaxAddresses) {
    // The one that has been quiet for longest goes; what the control process named goes only after what it did not.
    const auto oldest = std::min_element(addresses.begin(), addresses.end(), [](const Address& a, const Address& b) {
      return std::pair{a.configured, a.heard} < std::pair{b.configured, b.heard};
    });
    unlist(index, oldest->path.remote);
    addresses.erase(oldest);
  }
  addresses.push_back({path, configured ? Instant::min() : now, configured});
  by_address_[path.remote] = index;
}

void PeerWatch::set_endpoints(PeerIndex index, std::span<const Endpoint> endpoints, Instant now) {
  Peer& peer = at(index);
  peer.known = true;
  if (look_at_ == kNever) look_at_ = now + kLookEvery;
  for (Address& address : peer.addresses) {
    address.configured = false;
    if (address.heard == Instant::min()) unlist(index, address.path.remote);
  }
  std::erase_if(peer.addresses, [](const Address& a) { return a.heard == Instant::min(); });
  std::size_t taken = 0;
  for (const Endpoint& endpoint : endpoints)
    if (taken++ < kMaxAddresses) learn(index, Path{{}, endpoint, 0}, true, now);
}

void PeerWatch::forget(PeerIndex index) {
  if (index >= peers_.size()) return;
  arm_silence(index, kNever);
  for (const Address& address : peers_[index].addresses) unlist(index, address.path.remote);
  peers_[index] = Peer{};
}

void PeerWatch::heard_from(PeerIndex index, const Path& path, Instant now) {
  if (at(index).known) learn(index, path, false, now);
}

void PeerWatch::mark_data(Peer& peer, Instant now) {
  peer.last_data = now;
  busy_until_ = std::max(busy_until_, now + kBusyFor);
  active_until_ = std::max(active_until_, now + kActiveFor);
}

void PeerWatch::probed(PeerIndex index, const Path& path, Instant now) {
  Peer& peer = at(index);
  if (!peer.known) return;
  learn(index, path, false, now);
  if (peer.last_probe != Instant::min()) {
    // Standby paths are probed as well: what comes in between is smoothed, what is long is a change of pace.
    const Duration gap = std::min<Duration>(now - peer.last_probe, seconds{30});
    const bool slower = gap > peer.probe_interval * 4;
    peer.probe_interval = peer.probe_interval == Duration{} || slower ? gap : (peer.probe_interval * 7 + gap) / 8;
    if (gap <= kBusyProbes)
      mark_data(peer, now);
    else if (gap <= kNotWatched)
      active_until_ = std::max(active_until_, now + kBusyFor);
  }
  peer.last_probe = now;
  peer.silent_times = 0;
  const bool watched = peer.probe_interval != Duration{} && peer.probe_interval <= kNotWatched;
  arm_silence(index,
              watched ? now + std::max<Duration>(kSilentAtLeast, peer.probe_interval * kSilentIntervals + kSilentSlack)
                      : kNever);
}

void PeerWatch::count_overhead(PeerIndex index) {
  ++at(index).overhead;
}

void PeerWatch::arm_silence(PeerIndex index, Instant deadline) {
  Peer& peer = peers_[index];
  if (peer.silence != kNever) silences_.erase({peer.silence, index});
  peer.silence = deadline;
  if (deadline != kNever) silences_.insert({deadline, index});
}

bool PeerWatch::is_busy(const Peer& peer, Instant now) const {
  return peer.last_data != Instant::min() && now - peer.last_data <= kBusyFor;
}
bool PeerWatch::is_active(const Peer& peer, Instant now) const {
  return peer.last_data != Instant::min() && now - peer.last_data <= kActiveFor;
}

void PeerWatch::hear_from_us(PeerIndex index) {
  Peer& peer = peers_[index];
  for (const Address& address : peer.addresses) {
    Packet* keepalive = context_.allocate();
    if (keepalive == nullptr) return;
    keepalive->peer = index;
    keepalive->outer = address.path;
    ++peer.overhead;
    context_.emit(keepalive, ToWorker::to_peer_on_path, 0);
  }
}

void PeerWatch::suspect(PeerIndex index, Instant now) {
  Peer& peer = at(index);
  if (!peer.known || (peer.suspected != Instant::min() && now - peer.suspected < kSuspectEvery)) return;
  peer.suspected = now;
  hear_from_us(index);
}

void PeerWatch::address_changed(Instant now) {
  to_heal_.clear();
  std::vector<PeerIndex> active, idle;
  for (PeerIndex index = 0; index < peers_.size(); ++index) {
    const Peer& peer = peers_[index];
    if (!peer.known || peer.addresses.empty()) continue;
    if (is_busy(peer, now))
      to_heal_.push_back(index);
    else
      (is_active(peer, now) ? active : idle).push_back(index);
  }
  to_heal_.insert(to_heal_.end(), active.begin(), active.end());
  to_heal_.insert(to_heal_.end(), idle.begin(), idle.end());
  send_some(now);
}

void PeerWatch::send_some(Instant now) {
  for (std::size_t i = 0; i < kHealBatch && !to_heal_.empty(); ++i) {
    const PeerIndex index = to_heal_.front();
    to_heal_.pop_front();
    if (peers_[index].known) hear_from_us(index);
  }
  heal_at_ = to_heal_.empty() ? kNever : now + kHealInterval;
}

StunTick::Pace PeerWatch::pace(Instant now) const {
  return now < busy_until_ ? StunTick::Pace::busy : now < active_until_ ? StunTick::Pace::active : StunTick::Pace::idle;
}

// More packets than probes, their answers and our keepalives account for: somebody's data.
void PeerWatch::look_at_traffic(Instant now) {
  const auto bound = static_cast<PeerIndex>(peers_.size());
  for (PeerIndex i = 0; i < std::min(kLookBatch, bound); ++i) {
    looked_ = looked_ + 1 < bound ? looked_ + 1 : 0;
    Peer& peer = peers_[looked_];
    if (!peer.known) continue;
    const wireguard::PeerTraffic traffic = tunnels_.traffic(looked_);
    const std::uint64_t packets = traffic.received_packets + traffic.sent_packets;
    const std::uint64_t news = packets - peer.packets;
    const std::uint64_t overhead = peer.overhead - peer.overhead_seen;
    // A peer that does not probe sends nothing else than data and an occasional keepalive.
    constexpr std::uint64_t kKeepalives = 2;
    if (news > overhead + kKeepalives) mark_data(peer, now);
    peer.packets = packets;
    peer.overhead_seen = peer.overhead;
  }
  look_at_ = now + kLookEvery;
}

Instant PeerWatch::next_timeout() const {
  Instant first = std::min(heal_at_, look_at_);
  if (!silences_.empty()) first = std::min(first, silences_.begin()->first);
  return first;
}

void PeerWatch::handle_timeout(Instant now) {
  while (!silences_.empty() && silences_.begin()->first <= now) {
    const PeerIndex index = silences_.begin()->second;
    Peer& peer = peers_[index];
    ++peer.silent_times;
    // Doubling: the peer may simply have closed its lid.
    arm_silence(index, peer.silent_times < kSilentTries ? now + kSilentAtLeast * (1 << peer.silent_times) : kNever);
    hear_from_us(index);
  }
  if (heal_at_ <= now) send_some(now);
  if (look_at_ <= now) look_at_traffic(now);
}

}  // namespace penstock::gateway
