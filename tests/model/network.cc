#include "tests/model/network.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "dataplane/core/stun/message.h"

namespace penstock::model {

namespace {

constexpr std::size_t kUdpOverV4 = 28;
constexpr std::size_t kUdpOverV6 = 48;
constexpr std::size_t kSegment = 400;                                   // of a byte stream
constexpr Duration kErrorDelay = std::chrono::milliseconds{5};          // of an ICMP error
constexpr std::size_t kQuoted = 64;                                     // bytes of payload in it
constexpr std::uint64_t kLiveLock = 10'000;

}  // namespace

Now Network::at(Instant instant) const {
  const Duration wall = wall_offset_ + instant.time_since_epoch();
  return {instant,
          {static_cast<std::uint64_t>(wall / std::chrono::seconds{1}),
           static_cast<std::uint32_t>(wall % std::chrono::seconds{1} / std::chrono::nanoseconds{1})}};
}

void Network::traced(const char* what, const Datagram& datagram) const {
  if (!trace) return;
  std::string kind;
  Bytes bytes = datagram.bytes;
  if (const auto data = stun::parse_channel_data(bytes)) {
    kind = "channel ";
    bytes = data->data;
  }
  if (const auto message = stun::Message::parse(bytes))
    kind += "STUN " + std::to_string(static_cast<int>(message->method())) + "/" +
            std::to_string(static_cast<int>(message->message_class()));
  else if (!bytes.empty())
    kind += "WireGuard " + std::to_string(bytes[0]);
  trace(std::string{what} + " " + datagram.from.to_string() + " -> " + datagram.to.to_string() + " " + kind + " (" +
        std::to_string(datagram.bytes.size()) + ")");
}

NatBox& Network::add_nat(const NatBehaviour& behaviour, std::vector<IpAddress> external) {
  nats_.push_back(std::make_unique<NatBox>(behaviour, std::move(external), random));
  return *nats_.back();
}

void Network::attach(Node& node, const IpAddress& address, NatBox* nat, Link link) {
  if (const auto known = registered_.find(&node); known == registered_.end()) {
    nodes_.emplace(next_node_, &node);
    registered_[&node] = {next_node_++, kNever};
  }
  attachments_.push_back({&node, address, nat, link, {}, {}});
  by_address_[address].push_back(&attachments_.back());
  touch(node);
}

void Network::detach(Node& node) {
  for (auto at = attachments_.begin(); at != attachments_.end();) {
    const auto attachment = at++;
    if (attachment->node != &node) continue;
    std::erase(by_address_[attachment->address], &*attachment);
    attachments_.erase(attachment);
  }
}

Link& Network::link(Node& node) {
  return std::find_if(attachments_.begin(), attachments_.end(), [&](const Attachment& a) { return a.node == &node; })
      ->link;
}

void Network::for_each_link(Node& node, const std::function<void(Link&)>& change) {
  for (Attachment& a : attachments_)
    if (a.node == &node) change(a.link);
}

bool Network::attached(const Node& node, const IpAddress& address) const {
  return std::any_of(attachments_.begin(), attachments_.end(),
                     [&](const Attachment& a) { return a.node == &node && a.address == address; });
}

IpAddress Network::address_of(const Node& node, bool v4) {
  const Attachment* attachment = find(node, v4);
  return attachment == nullptr ? IpAddress{} : attachment->address;
}

Network::Attachment* Network::find(const Node& node, bool v4) {
  for (Attachment& a : attachments_)
    if (a.node == &node && a.address.is_v4() == v4) return &a;
  return nullptr;
}

Network::Attachment* Network::find(const NatBox* nat, const IpAddress& address) {
  const auto found = by_address_.find(address);
  if (found == by_address_.end()) return nullptr;
  for (Attachment* a : found->second)
    if (a->nat == nat) return a;
  return nullptr;
}

Network::Attachment* Network::source_of(Node& node, const IpAddress& from, bool v4) {
  if (!from.is_unspecified()) {
    const auto found = by_address_.find(from);
    if (found != by_address_.end())
      for (Attachment* a : found->second)
        if (a->node == &node) return a;
  }
  return find(node, v4);
}

void Network::schedule(Instant at, std::function<void()> action, Node* only) {
  actions_.emplace(at, Action{std::move(action), only});
}

void Network::touch(Node& node) {
  const auto found = registered_.find(&node);
  if (found == registered_.end()) return;
  Registered& entry = found->second;
  const Instant deadline = node.deadline();
  if (deadline != entry.deadline) {
    if (entry.deadline != kNever) deadlines_.erase({entry.deadline, entry.order});
    if (deadline != kNever) deadlines_.insert({deadline, entry.order});
    entry.deadline = deadline;
  }
  if (!node.outbox.empty()) flush(node);
}

void Network::touch_all() {
  for (const auto& [order, node] : nodes_) touch(*node);
}

void Network::flush(Node& node) {
  while (!node.outbox.empty()) {
    Datagram datagram = std::move(node.outbox.front());
    node.outbox.pop_front();
    ++statistics_.sent;
    Attachment* attachment = source_of(node, datagram.from.address, datagram.to.address.is_v4());
    if (attachment == nullptr) {
      ++statistics_.unroutable;
      continue;
    }
    datagram.from.address = attachment->address;
    traced("sent", datagram);
    put_on_link(*attachment, false, std::move(datagram), &node);
  }
}

void Network::put_on_link(Attachment& attachment, bool inbound, Datagram datagram, Node* origin) {
  LinkModel& model = inbound ? attachment.inward : attachment.outward;
  model.link = attachment.link;
  const std::size_t headers = datagram.to.address.is_v4() ? kUdpOverV4 : kUdpOverV6;
  const auto passage = model.enter(datagram.bytes.size() + headers, now_, random);
  // DF is set and nobody tells: what is too big falls into a black hole.
  if (passage.fate == LinkModel::Fate::too_big) ++statistics_.too_big;
  if (passage.fate == LinkModel::Fate::lost) ++statistics_.lost;
  if (passage.copies == 0) traced("  lost on a link", datagram);
  for (unsigned copy = 0; copy < passage.copies; ++copy)
    flying_.emplace(passage.at[copy], Flight{inbound, attachment.node, attachment.address,
                                             copy + 1 < passage.copies ? datagram : std::move(datagram), origin});
}

void Network::unreachable(Node* origin, const Endpoint& remote, const Datagram& rejected) {
  if (origin == nullptr) return;
  const std::size_t size = std::min(rejected.bytes.size(), kQuoted);
  std::vector<std::uint8_t> quoted(rejected.bytes.begin(), rejected.bytes.begin() + static_cast<std::ptrdiff_t>(size));
  schedule(now_ + kErrorDelay,
           [this, origin, remote, quoted = std::move(quoted)] { origin->unreachable(remote, quoted, now()); }, origin);
}

void Network::leave_link(Flight flight) {
  const auto candidates = by_address_.find(flight.address);
  Attachment* attached = nullptr;
  if (candidates != by_address_.end())
    for (Attachment* a : candidates->second)
      if (a->node == flight.node) attached = a;
  if (attached == nullptr) {
    ++statistics_.unroutable;  // the node went elsewhere meanwhile
    return;
  }
  if (flight.inbound) {
    ++statistics_.delivered;
    traced("  arrives", flight.datagram);
    flight.node->receive(std::move(flight.datagram), now());
    touch(*flight.node);
    return;
  }
  NatBox* nat = attached->nat;
  if (nat != nullptr) {
    // Neighbours behind one NAT reach each other directly.
    if (Attachment* neighbour = find(nat, flight.datagram.to.address))
      return put_on_link(*neighbour, true, std::move(flight.datagram), flight.origin);
    const auto source = nat->outbound(flight.datagram.from, flight.datagram.to, now_);
    if (!source) {
      ++statistics_.filtered;
      traced("  no mapping", flight.datagram);
      return;
    }
    flight.datagram.from = *source;
  }
  route(std::move(flight.datagram), nat, flight.origin);
}

void Network::route(Datagram datagram, const NatBox* from, Node* origin) {
  if (is_cut(datagram.from.address, datagram.to.address)) {
    ++statistics_.lost;
    traced("  cut", datagram);
    return;
  }
  for (auto& nat : nats_) {
    if (!nat->owns(datagram.to.address)) continue;
    const Endpoint target = datagram.to;
    const auto internal =
        nat.get() == from && !nat->behaviour().hairpins ? std::nullopt : nat->inbound(datagram.to, datagram.from, now_);
    if (!internal) {
      ++statistics_.filtered;
      traced("  filtered", datagram);
      if (nat->behaviour().rejects) unreachable(origin, target, datagram);
      return;
    }
    datagram.to = *internal;
    if (Attachment* inside = find(nat.get(), internal->address))
      return put_on_link(*inside, true, std::move(datagram), origin);
    ++statistics_.unroutable;
    return;
  }
  if (Attachment* open = find(static_cast<const NatBox*>(nullptr), datagram.to.address))
    return put_on_link(*open, true, std::move(datagram), origin);
  traced("  no route", datagram);
  ++statistics_.unroutable;
}

std::optional<Duration> Network::cross(Attachment& attachment, bool inbound) {
  LinkModel& model = inbound ? attachment.inward : attachment.outward;
  model.link = attachment.link;
  const auto passage = model.enter(kSegment, now_, random);
  if (passage.fate != LinkModel::Fate::passes) return std::nullopt;
  return passage.at[0] - now_;
}

std::optional<Network::Carried> Network::carry(Node& node, const Endpoint& local, const Endpoint& remote,
                                               bool* refused) {
  Attachment* from = source_of(node, local.address, remote.address.is_v4());
  if (from == nullptr) return std::nullopt;
  const auto first = cross(*from, false);
  if (!first) return std::nullopt;
  Carried out{nullptr, {from->address, local.port}, remote, *first};
  Attachment* to = find(from->nat, remote.address);
  if (to == nullptr || from->nat == nullptr) {
    if (from->nat != nullptr) {
      const auto shown = from->nat->outbound(out.source, remote, now_, Transport::tcp);
      if (!shown) return std::nullopt;
      out.source = *shown;
    }
    if (is_cut(out.source.address, remote.address)) return std::nullopt;
    to = nullptr;
    const auto owner = std::find_if(nats_.begin(), nats_.end(), [&](const auto& n) { return n->owns(remote.address); });
    if (owner == nats_.end()) {
      to = find(static_cast<const NatBox*>(nullptr), remote.address);
    } else {
      const auto internal = (*owner)->inbound(remote, out.source, now_, Transport::tcp);
      if (!internal) {
        if (refused != nullptr) *refused = (*owner)->behaviour().rejects;
        return std::nullopt;
      }
      out.destination = *internal;
      to = find(owner->get(), internal->address);
    }
  }
  if (to == nullptr) return std::nullopt;
  const auto last = cross(*to, true);
  if (!last) return std::nullopt;
  out.receiver = to->node;
  out.delay += *last;
  return out;
}

void Network::run_until(Instant until) {
  touch_all();
  Instant stuck_at{};
  std::uint64_t fires = 0;
  for (;;) {
    Instant next = until;
    if (!flying_.empty()) next = std::min(next, flying_.begin()->first);
    if (!actions_.empty()) next = std::min(next, actions_.begin()->first);
    if (!deadlines_.empty()) next = std::min(next, deadlines_.begin()->first);
    now_ = std::max(now_, next);
    ++statistics_.events;

    if (!actions_.empty() && actions_.begin()->first <= now_) {
      const Action action = std::move(actions_.begin()->second);
      actions_.erase(actions_.begin());
      action.run();
      if (action.only != nullptr)
        touch(*action.only);
      else
        touch_all();
      continue;
    }
    if (!flying_.empty() && flying_.begin()->first <= now_) {
      Flight flight = std::move(flying_.begin()->second);
      flying_.erase(flying_.begin());
      leave_link(std::move(flight));
      continue;
    }
    if (!deadlines_.empty() && deadlines_.begin()->first <= now_) {
      Node* node = nodes_.at(deadlines_.begin()->second);
      // A timer that fires for ever at one instant is a live-lock (trap paths-21).
      fires = stuck_at == now_ ? fires + 1 : 0;
      stuck_at = now_;
      if (fires > kLiveLock) throw std::logic_error("live-lock: " + node->deadline_reason());
      node->timeout(now());
      touch(*node);
      continue;
    }
    if (now_ >= until) return;
  }
}

}  // namespace penstock::model
