// PeerWatch: who is known where, who is busy, and who has fallen silent.
#include "dataplane/gateway/peer_watch.h"

#include <algorithm>
#include <utility>

#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/gateway/resend.h"

namespace penstock::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// paths.md "Timers": data within these makes a peer busy, or active.
constexpr Duration kBusyFor = seconds{2};
constexpr Duration kActiveFor = seconds{120};
constexpr Duration kBusyProbes = milliseconds{500};  // probes closer than this come from a busy client
// A peer that probes is silent after two intervals, or after one and the time in which a client asks again.
constexpr int kSilentIntervals = 2;
constexpr Duration kAsksAgain = milliseconds{300};
constexpr Duration kSilentSlack = milliseconds{100};
constexpr Duration kSilentAtLeast = milliseconds{250};
constexpr Duration kNotWatched = milliseconds{2500};  // probes rarer than this are an idle peer's
// Then again after each of these: its relay may just be moving. The peer may as well have closed its lid.
constexpr std::array<Duration, 9> kSilentAgain = {milliseconds{100}, milliseconds{150}, milliseconds{250},
                                                  milliseconds{500}, seconds{1},        seconds{2},
                                                  seconds{4},        seconds{8},        seconds{16}};
// Data still comes: late probes are a busy client's. So often it is believed.
constexpr std::uint8_t kExcuses = 3;
constexpr Duration kExcusedFor = milliseconds{100};
constexpr Duration kActiveProbes = seconds{1};
constexpr std::uint64_t kKeepalives = 2;  // packets that are neither data nor counted as overhead
constexpr std::uint8_t kOthersToo = 4;    // of these
constexpr Duration kSuspectEvery = milliseconds{500};
// Pacing of keepalives to everybody: 64 peers a millisecond.
constexpr std::size_t kHealBatch = 64;
constexpr Duration kHealInterval = milliseconds{1};
// Traffic of peers that do not probe: so many at a time, so often.
constexpr PeerIndex kLookBatch = 1024;
constexpr Duration kLookEvery = milliseconds{250};

// How long after a probe its successor is missed.
Duration patience(Duration interval) {
  return std::max(kSilentAtLeast, std::min(interval * kSilentIntervals, interval + kAsksAgain) + kSilentSlack);
}

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
  if (peers_[index].known) {
    ResendOrder order;
    order.peer = index;
    order.forget = true;
    give_order(order);
  }
  peers_[index] = Peer{};
}

std::vector<handover::KnownAddress> PeerWatch::addresses(PeerIndex index) const {
  std::vector<handover::KnownAddress> out;
  if (index >= peers_.size()) return out;
  for (const Address& address : peers_[index].addresses)
    if (address.heard != Instant::min()) out.push_back({address.path, address.heard});
  return out;
}

void PeerWatch::inherit(PeerIndex index, std::span<const handover::KnownAddress> addresses) {
  if (!at(index).known) return;
  for (const handover::KnownAddress& address : addresses.first(std::min(addresses.size(), kMaxAddresses)))
    learn(index, address.path, false, address.heard);
}

void PeerWatch::heard_from(PeerIndex index, const Path& path, Instant now) {
  if (at(index).known) learn(index, path, false, now);
}

void PeerWatch::mark_data(Peer& peer, Instant now) {
  peer.last_data = now;
  busy_until_ = std::max(busy_until_, now + kBusyFor);
  active_until_ = std::max(active_until_, now + kActiveFor);
}

void PeerWatch::probed(PeerIndex index, const Path& path, Said said, Duration rtt, Instant now) {
  Peer& peer = at(index);
  if (!peer.known) return;
  learn(index, path, false, now);
  // Standby paths are probed too, at another pace; whether the primary works is what counts.
  const auto endpoint = tunnels_.endpoint(index);
  if (!said.moved && (!endpoint || endpoint->remote != path.remote)) return;
  tunnels_.set_keeps(index, true);
  Duration gap{};
  if (peer.last_probe != Instant::min()) {
    gap = std::min<Duration>(now - peer.last_probe, seconds{30});
    // What is much longer or shorter than usual is a change of pace.
    const bool other_pace = gap > peer.probe_interval * 4 || gap < peer.probe_interval / 4;
    const Duration usual = peer.probe_interval;
    peer.probe_interval = usual == Duration{} || other_pace ? gap : (usual * 7 + gap) / 8;
    if (gap <= kBusyProbes)
      mark_data(peer, now);
    else if (gap <= kNotWatched)
      active_until_ = std::max(active_until_, now + kBusyFor);
    // One that is missing may be lost for any reason; more of them are a path that did not work.
    constexpr int kMissed = 5;
    const bool missed = usual != Duration{} && gap * 2 > usual * kMissed;
    // It says so until it has heard that we know; what it missed meanwhile is counted from the first time.
    if (!said.doubt)
      peer.doubtful = Instant::min();
    else if (peer.doubtful == Instant::min())
      peer.doubtful = in_doubt_since(peer);
    if (said.moved || doubts_of_late(peer, now) || peer.suspect || (missed && usual <= kNotWatched))
      send_again(index, path, said.report, now);
    else if (said.report != nullptr)
      repair(index, path, *said.report, now);
  }
  peer.suspect = false;
  if (rtt > Duration{}) peer.rtt = rtt;
  peer.spoken_to = Instant::min();
  peer.excuses = 0;
  note_traffic(peer, index, now);
  peer.last_probe = now;
  peer.silent_times = 0;
  const bool watched = peer.probe_interval != Duration{} && peer.probe_interval <= kNotWatched;
  peer.counted = false;
  arm_silence(index, watched ? now + patience(peer.probe_interval) - kExcusedFor : kNever);
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

// True: there was traffic from the peer since the last look.
bool PeerWatch::note_traffic(Peer& peer, PeerIndex index, Instant now) {
  const wireguard::PeerTraffic traffic = tunnels_.traffic(index);
  const std::uint64_t data = traffic.received_packets + traffic.sent_packets - peer.overhead;
  if (data > peer.data + kKeepalives) {
    peer.data = data;
    peer.data_at = now;
  }
  return std::exchange(peer.received, traffic.received_packets) < traffic.received_packets;
}

// Whether there is a better reason for a peer's silence than a dead path: it is busy and its probes are late, or it has
// had no data for so long that it probes at another pace. Then its deadline has moved. Only what came in the last while
// counts: a path may have died right after a probe and a few packets.
bool PeerWatch::excused(PeerIndex index, Instant now) {
  Peer& peer = peers_[index];
  const bool heard = note_traffic(peer, index, now);
  if (!std::exchange(peer.counted, true)) {
    arm_silence(index, now + kExcusedFor);
    return true;
  }
  if (peer.spoken_to != Instant::min() || peer.suspect || peer.data_at == Instant::min()) return false;
  if (heard && peer.excuses < kExcuses) {
    ++peer.excuses;
    arm_silence(index, now + kExcusedFor);
    return true;
  }
  const Duration quiet = now - peer.data_at;
  if (quiet + kSilentSlack >= kActiveFor) {
    arm_silence(index, kNever);
    return true;
  }
  if (quiet + kSilentSlack < kBusyFor || peer.probe_interval > kBusyProbes) return false;
  peer.probe_interval = kActiveProbes;
  arm_silence(index, peer.last_probe + patience(kActiveProbes));
  return true;
}

// A peer of the kind that probes, which slept: it should probe now. Once per pause of ours, and never while it is
// watched anyway.
void PeerWatch::spoke_first(PeerIndex index, Instant now) {
  Peer& peer = at(index);
  if (!peer.known || peer.silence != kNever || peer.spoken_to != Instant::min()) return;
  peer.spoken_to = now;
  peer.silent_times = 0;
  peer.counted = true;
  arm_silence(index, now + kSilentAtLeast + kSilentSlack);
}

void PeerWatch::suspect(PeerIndex index, Instant now) {
  Peer& peer = at(index);
  if (!peer.known || (peer.suspected != Instant::min() && now - peer.suspected < kSuspectEvery)) return;
  peer.suspected = now;
  begin_suspicion(index, now);
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
    if (peers_[index].known) begin_suspicion(index, now);
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
    if (peer.silent_times == 0 && excused(index, now)) continue;
    ++peer.silent_times;
    arm_silence(index, peer.silent_times <= kSilentAgain.size() ? now + kSilentAgain[peer.silent_times - 1U] : kNever);
    begin_suspicion(index, now);
    // Half a second more, and the address that it kept warm has not helped: the others.
    if (peer.suspect && peer.silent_times == kOthersToo) copy_to_others(index, 1, 2, now);
  }
  if (heal_at_ <= now) send_some(now);
  if (look_at_ <= now) look_at_traffic(now);
}

}  // namespace penstock::gateway
