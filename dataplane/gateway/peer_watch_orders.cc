// PeerWatch: what is to be sent again, and where.
#include <algorithm>
#include <cstring>

#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/gateway/peer_watch.h"
#include "dataplane/gateway/resend.h"

namespace penstock::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// What may have been under way when the last probe came: a round trip, generously; and when that is not known.
constexpr int kUnderWayRtts = 2;
constexpr Duration kUnderWaySlack = milliseconds{20};
constexpr Duration kUnderWay = milliseconds{400};
constexpr Duration kSendAgainFor = seconds{2};
constexpr Duration kRepairEvery = milliseconds{20};  // less than a client's probes are apart
constexpr Duration kHeardOfLate = seconds{150};  // addresses that copies are sent to

}  // namespace

void PeerWatch::give_order(const ResendOrder& order) {
  for (std::uint16_t worker = 0; worker < context_.limits.workers; ++worker) {
    Packet* packet = context_.allocate();
    if (packet == nullptr) return;
    if (!packet->append(sizeof order)) return context_.drop(packet, DropReason::no_buffer);
    std::memcpy(packet->data, &order, sizeof order);
    context_.emit(packet, ToWorker::resend, worker);
  }
}

// What may not have arrived over the endpoint goes over the other addresses, and so does what is newer, until the
// primary answers.
void PeerWatch::begin_suspicion(PeerIndex index, Instant now) {
  Peer& peer = peers_[index];
  hear_from_us(index);
  if (peer.suspect || !tunnels_.keeps(index) || peer.last_probe == Instant::min()) return;
  peer.suspect = true;
  copy_to_others(index, 0, 1, now);
}

// Bounded as all sending twice is: a client that goes on doubting (nothing of ours arrives) has another path by then.
bool PeerWatch::doubts_of_late(const Peer& peer, Instant now) {
  return peer.doubtful != Instant::min() && now - peer.doubtful <= kSendAgainFor;
}

Duration PeerWatch::under_way(const Peer& peer) {
  return peer.rtt > Duration{} ? peer.rtt * kUnderWayRtts + kUnderWaySlack : kUnderWay;
}

Instant PeerWatch::in_doubt_since(const Peer& peer) {
  return peer.last_probe - under_way(peer);
}

// To `paths` of the addresses besides the endpoint, from the `first` on, those heard last before others: the one that
// it keeps warm first. Every further one costs as much again of what may be sent twice.
void PeerWatch::copy_to_others(PeerIndex index, std::size_t first, std::size_t paths, Instant now) {
  Peer& peer = peers_[index];
  const auto endpoint = tunnels_.endpoint(index);
  std::vector<const Address*> others;
  for (const Address& address : peer.addresses) {
    const bool late = address.heard != Instant::min() && now - address.heard <= kHeardOfLate;
    if (late && (!endpoint || address.path.remote != endpoint->remote)) others.push_back(&address);
  }
  std::sort(others.begin(), others.end(), [](const Address* a, const Address* b) { return a->heard > b->heard; });
  ResendOrder order;
  order.peer = index;
  order.since = in_doubt_since(peer);
  order.up_to = order.until = now + kSendAgainFor;
  order.fresh = now - under_way(peer);
  for (std::size_t i = first; i < others.size() && order.paths < std::min(paths, ResendOrder::kMaxPaths); ++i)
    order.to[order.paths++] = others[i]->path;
  if (order.paths != 0) give_order(order);
}

// Over `path`, which works since now.
void PeerWatch::send_again(PeerIndex index, const Path& path, const wireguard::ReceptionReport* report, Instant now) {
  if (!tunnels_.keeps(index)) return;
  ResendOrder order;
  order.peer = index;
  const Peer& peer = peers_[index];
  order.since = doubts_of_late(peer, now) ? peer.doubtful : in_doubt_since(peer);
  order.up_to = now;
  order.fresh = now - under_way(peer);
  order.until = now + kSendAgainFor;
  order.paths = 1;
  order.to[0] = path;
  if (report != nullptr) order.report = *report;
  give_order(order);
}

// What is not there although it was sent a round trip before the report and more: copies too are lost, where everybody
// sends again at once.
void PeerWatch::repair(PeerIndex index, const Path& path, const wireguard::ReceptionReport& report, Instant now) {
  Peer& peer = peers_[index];
  if (!tunnels_.keeps(index) || report.receiver == 0 || report.complete()) return;
  // Every order makes a worker look through all it keeps of the peer.
  if (peer.repaired != Instant::min() && now - peer.repaired < kRepairEvery) return;
  peer.repaired = now;
  ResendOrder order;
  order.peer = index;
  order.repair = true;
  order.since = now - kSendAgainFor;
  order.up_to = now - (peer.rtt > Duration{} ? peer.rtt * 3 / 2 + kUnderWaySlack : kUnderWay);
  order.until = now + kSendAgainFor;
  order.paths = 1;
  order.to[0] = path;
  order.report = report;
  give_order(order);
}

}  // namespace penstock::gateway
