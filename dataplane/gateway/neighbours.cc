#include "dataplane/gateway/neighbours.h"

#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

using std::chrono::seconds;

// RFC 4861 §10, "node constants"; the same numbers serve ARP.
constexpr Duration kRetransmit = seconds{1};
constexpr Duration kReachable = seconds{30};  // times 0.5 to 1.5
constexpr Duration kDelayFirstProbe = seconds{5};
constexpr std::uint8_t kMaxSolicitations = 3;  // MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT
// Ours.
constexpr Duration kFailed = seconds{3};     // how long the answer "unreachable" stands
constexpr Duration kStaleLook = seconds{1};  // how soon a used stale entry is noticed
constexpr Duration kForgetStale = seconds{600};
constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

}  // namespace

Neighbours::Neighbours(SlowContext& context, NeighbourTable& table)
    : context_(context), table_(table), entries_(table.slots()) {}

void Neighbours::arm(std::uint32_t slot, Instant deadline) {
  Entry& entry = entries_[slot];
  if (entry.deadline != kNever) deadlines_.erase({entry.deadline, slot});
  entry.deadline = deadline;
  if (deadline != kNever) deadlines_.insert({deadline, slot});
}

void Neighbours::set_state(const NeighbourView& view, const MacAddress& mac, NeighbourState state, Instant now) {
  if (view.state == NeighbourState::incomplete) --incomplete_;
  if (state == NeighbourState::incomplete) ++incomplete_;
  if (view.state == NeighbourState::stale && state != NeighbourState::stale) stale_.erase(view.slot);
  Entry& entry = entries_[view.slot];
  switch (state) {
    case NeighbourState::reachable: {
      // A random factor of 0.5 to 1.5 keeps hosts from asking in step (RFC 4861 §6.3.2).
      const Duration half = kReachable / 2;
      arm(view.slot, now + half + half / 512 * context_.random.below(1024));
      break;
    }
    case NeighbourState::stale:
      entry.stale_since = now;
      (void)table_.take_used(view.slot);
      stale_.insert(view.slot);
      if (stale_look_ == kNever) stale_look_ = now + kStaleLook;
      arm(view.slot, kNever);
      break;
    case NeighbourState::delay:
      arm(view.slot, now + kDelayFirstProbe);
      break;
    case NeighbourState::failed:
      arm(view.slot, now + kFailed);
      break;
    default:
      arm(view.slot, now + kRetransmit);
      break;
  }
  table_.update(view.slot, mac, state);
}

void Neighbours::erase(std::uint32_t slot) {
  NeighbourView view;
  if (!table_.read(slot, view)) return;
  if (view.state == NeighbourState::incomplete) --incomplete_;
  stale_.erase(slot);
  arm(slot, kNever);
  table_.erase(slot);
}

// A full table gives up what it needs least: failed entries, then the stale one that was not used for longest.
std::uint32_t Neighbours::insert(PortIndex port, const IpAddress& address, Instant now) {
  std::uint32_t slot = table_.insert(port, address);
  if (slot == NeighbourTable::kNoSlot) {
    std::uint32_t victim = NeighbourTable::kNoSlot;
    Instant oldest = kNever;
    for (std::uint32_t i = 0; i < table_.slots(); ++i) {
      NeighbourView view;
      if (!table_.read(i, view)) continue;
      if (view.state == NeighbourState::failed) {
        victim = i;
        break;
      }
      if (view.state == NeighbourState::stale && entries_[i].stale_since < oldest) {
        victim = i;
        oldest = entries_[i].stale_since;
      }
    }
    if (victim == NeighbourTable::kNoSlot) return victim;
    erase(victim);
    slot = table_.insert(port, address);
  }
  ++incomplete_;  // what a new entry is
  arm(slot, now + kRetransmit);
  return slot;
}

void Neighbours::solicit(const NeighbourView& view, bool unicast) {
  Packet* packet = context_.allocate();
  if (packet == nullptr) return;
  const PortConfiguration& port = context_.configuration.ports[view.port];
  const IpAddress source = context_.configuration.source_for(view.port, view.address);
  packet->port = view.port;
  bool written = false;
  if (view.address.is_v4()) {
    write_arp(*packet, {true, source, port.mac, view.address, MacAddress{}});
    written = push_ethernet(*packet, port, unicast ? view.mac : kBroadcast, EtherType::arp);
  } else if (write_solicitation(*packet, source, port.mac, view.address, unicast)) {
    const MacAddress to = unicast ? view.mac : multicast_mac_of(solicited_node_of(view.address));
    written = push_ethernet(*packet, port, to, EtherType::ipv6);
  }
  if (!written) return context_.drop(packet, DropReason::no_headroom);
  context_.emit(packet, ToWorker::frame, entries_[view.slot].worker);
}

void Neighbours::start(std::uint32_t slot, Instant now) {
  NeighbourView view;
  if (!table_.read(slot, view)) return;
  set_state(view, view.mac, NeighbourState::incomplete, now);
  entries_[slot].solicitations = 1;
  solicit(view, false);
}

void Neighbours::wait(Packet* packet, Instant now) {
  const Configuration& configuration = context_.configuration;
  const IpAddress destination = ip_destination(*packet);
  const auto& routes = configuration.routes.routes();
  if (packet->port >= configuration.ports.size() || packet->next_hop > routes.size())
    return context_.drop(packet, DropReason::no_route);
  const IpAddress next_hop =
      packet->next_hop == 0 ? destination : Configuration::next_hop(routes[packet->next_hop - 1], destination);
  if (configuration.ours.find(next_hop) != nullptr) return context_.drop(packet, DropReason::no_route);

  NeighbourView view;
  if (table_.find(packet->port, next_hop, view)) {
    if (view.state == NeighbourState::failed)
      return context_.refuse(packet, Unreachable::host, DropReason::neighbour_failed, now);
    if (is_usable(view.state))
      return context_.emit(packet, ToWorker::forward, packet->rss_worker);  // answered meanwhile
  } else {
    // A scan of a large subnet must not push out neighbours that answer.
    const bool room = incomplete_ * 4 < table_.capacity();
    const std::uint32_t slot = room ? insert(packet->port, next_hop, now) : NeighbourTable::kNoSlot;
    if (slot == NeighbourTable::kNoSlot) return context_.drop(packet, DropReason::neighbour_wait_full);
    entries_[slot].worker = packet->rss_worker;
    start(slot, now);
    view.slot = slot;
  }
  Entry& entry = entries_[view.slot];
  if (entry.waiting.size() >= context_.limits.neighbour_wait_packets || held_ >= context_.limits.neighbour_wait_total)
    return context_.drop(packet, DropReason::neighbour_wait_full);
  set_flag(*packet, packet_flag::held);
  entry.waiting.push_back(packet);
  ++held_;
}

void Neighbours::release(std::uint32_t slot) {
  Entry& entry = entries_[slot];
  held_ -= entry.waiting.size();
  for (Packet* packet : entry.waiting) context_.emit(packet, ToWorker::forward, packet->rss_worker);
  entry.waiting.clear();
}

void Neighbours::fail(std::uint32_t slot, Instant now) {
  NeighbourView view;
  if (!table_.read(slot, view)) return;
  set_state(view, view.mac, NeighbourState::failed, now);
  Entry& entry = entries_[slot];
  held_ -= entry.waiting.size();
  for (Packet* packet : entry.waiting) context_.refuse(packet, Unreachable::host, DropReason::neighbour_failed, now);
  entry.waiting.clear();
}

// RFC 4861 §7.2.3 and §7.2.5, and RFC 826's "merge" for ARP.
void Neighbours::heard(const NeighbourView& view, const MacAddress& mac, Evidence evidence, Instant now) {
  const bool moved = view.mac != mac || !is_usable(view.state);
  if (evidence == Evidence::answer)
    set_state(view, mac, NeighbourState::reachable, now);
  else if (moved)
    set_state(view, mac, NeighbourState::stale, now);
  release(view.slot);
}

void Neighbours::learn_arp(const Packet& packet, Instant now) {
  const auto arp = parse_arp(packet.bytes());
  if (!arp || arp->sender.is_unspecified()) return;
  NeighbourView view;
  if (!table_.find(packet.port, arp->sender, view)) {
    if (!arp->request) return;  // nobody asked
    const std::uint32_t slot = insert(packet.port, arp->sender, now);
    if (slot == NeighbourTable::kNoSlot || !table_.read(slot, view)) return;
    entries_[slot].worker = packet.rss_worker;
  }
  // A gratuitous reply (sender is target) is an announcement, not an answer.
  const bool answer = !arp->request && arp->sender != arp->target;
  heard(view, arp->sender_mac, answer ? Evidence::answer : Evidence::mention, now);
}

void Neighbours::learn_discovery(const Packet& packet, Instant now) {
  const auto message = parse_neighbour_discovery(packet);
  if (!message) return;
  NeighbourView view;
  if (!message->advertisement) {
    if (!message->link_layer || message->source.is_unspecified()) return;
    if (!table_.find(packet.port, message->source, view)) {
      const std::uint32_t slot = insert(packet.port, message->source, now);
      if (slot == NeighbourTable::kNoSlot || !table_.read(slot, view)) return;
      entries_[slot].worker = packet.rss_worker;
    }
    return heard(view, *message->link_layer, Evidence::mention, now);
  }
  if (!table_.find(packet.port, message->target, view)) return;
  const bool complete = is_usable(view.state);
  if (!complete && !message->link_layer) return;
  const MacAddress mac = message->link_layer ? *message->link_layer : view.mac;
  if (complete && mac != view.mac && !message->override_flag) {
    // Another says the address is its own, and does not insist: only doubt follows.
    if (view.state == NeighbourState::reachable) set_state(view, view.mac, NeighbourState::stale, now);
    return;
  }
  heard(view, mac, message->solicited ? Evidence::answer : Evidence::mention, now);
}

void Neighbours::learn(Packet* packet, Instant now) {
  if (packet->port < context_.configuration.ports.size()) {
    if (is_ip6(*packet))
      learn_discovery(*packet, now);
    else
      learn_arp(*packet, now);
  }
  context_.drop(packet, DropReason::local_consumed);
}

void Neighbours::due(std::uint32_t slot, Instant now) {
  NeighbourView view;
  if (!table_.read(slot, view)) return;
  Entry& entry = entries_[slot];
  switch (view.state) {
    case NeighbourState::incomplete:
      if (entry.solicitations >= kMaxSolicitations) return fail(slot, now);
      ++entry.solicitations;
      arm(slot, now + kRetransmit);
      return solicit(view, false);
    case NeighbourState::reachable:
      return set_state(view, view.mac, NeighbourState::stale, now);
    case NeighbourState::delay:
      set_state(view, view.mac, NeighbourState::probe, now);
      entry.solicitations = 1;
      return solicit(view, true);
    case NeighbourState::probe:
      if (entry.solicitations >= kMaxSolicitations) return start(slot, now);  // perhaps it has another MAC address now
      ++entry.solicitations;
      arm(slot, now + kRetransmit);
      return solicit(view, true);
    default:
      return erase(slot);
  }
}

void Neighbours::look_at_stale(Instant now) {
  const std::vector<std::uint32_t> slots(stale_.begin(), stale_.end());
  for (const std::uint32_t slot : slots) {
    NeighbourView view;
    if (!table_.read(slot, view)) continue;
    if (table_.take_used(slot))
      set_state(view, view.mac, NeighbourState::delay, now);
    else if (now - entries_[slot].stale_since >= kForgetStale)
      erase(slot);
  }
  stale_look_ = stale_.empty() ? kNever : now + kStaleLook;
}

std::vector<handover::Neighbour> Neighbours::usable() const {
  std::vector<handover::Neighbour> out;
  NeighbourView view;
  for (std::uint32_t slot = 0; slot < table_.slots(); ++slot)
    if (table_.read(slot, view) && is_usable(view.state)) out.push_back({view.port, view.address, view.mac});
  return out;
}

void Neighbours::inherit(PortIndex port, const IpAddress& address, const MacAddress& mac, Instant now) {
  NeighbourView view;
  if (address.is_unspecified() || context_.configuration.ours.find(address) != nullptr ||
      table_.find(port, address, view))
    return;
  const std::uint32_t slot = insert(port, address, now);
  if (slot != NeighbourTable::kNoSlot && table_.read(slot, view)) set_state(view, mac, NeighbourState::stale, now);
}

Instant Neighbours::next_timeout() const {
  const Instant first = deadlines_.empty() ? kNever : deadlines_.begin()->first;
  return first < stale_look_ ? first : stale_look_;
}

void Neighbours::handle_timeout(Instant now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const std::uint32_t slot = deadlines_.begin()->second;
    arm(slot, kNever);
    due(slot, now);
  }
  if (stale_look_ <= now) look_at_stale(now);
}

}  // namespace penstock::gateway
