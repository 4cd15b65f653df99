#include "tests/model/network.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace penstock::model {

namespace {

constexpr std::size_t kUdpOverV4 = 28;
constexpr std::size_t kUdpOverV6 = 48;

}  // namespace

Now Network::now() const {
  const Duration wall = wall_offset_ + now_.time_since_epoch();
  return {now_,
          {static_cast<std::uint64_t>(wall / std::chrono::seconds{1}),
           static_cast<std::uint32_t>(wall % std::chrono::seconds{1} / std::chrono::nanoseconds{1})}};
}

NatBox& Network::add_nat(const NatBehaviour& behaviour, std::vector<IpAddress> external) {
  nats_.push_back(std::make_unique<NatBox>(behaviour, std::move(external), random));
  return *nats_.back();
}

void Network::attach(Node& node, const IpAddress& address, NatBox* nat, Link link) {
  if (std::find(nodes_.begin(), nodes_.end(), &node) == nodes_.end()) nodes_.push_back(&node);
  attachments_.push_back({&node, address, nat, link});
}

void Network::detach(Node& node) {
  attachments_.remove_if([&](const Attachment& a) { return a.node == &node; });
}

Link& Network::link(Node& node) {
  return std::find_if(attachments_.begin(), attachments_.end(), [&](const Attachment& a) { return a.node == &node; })
      ->link;
}

Network::Attachment* Network::find(const Node& node, bool v4) {
  for (Attachment& a : attachments_)
    if (a.node == &node && a.address.is_v4() == v4) return &a;
  return nullptr;
}

Network::Attachment* Network::find(const NatBox* nat, const IpAddress& address) {
  for (Attachment& a : attachments_)
    if (a.nat == nat && a.address == address) return &a;
  return nullptr;
}

void Network::schedule(Instant at, std::function<void()> action) {
  actions_.emplace(at, std::move(action));
}

void Network::flush(Node& node) {
  while (!node.outbox.empty()) {
    Datagram datagram = std::move(node.outbox.front());
    node.outbox.pop_front();
    ++statistics_.sent;
    const bool v4 = datagram.to.address.is_v4();
    Attachment* attachment = nullptr;
    if (!datagram.from.address.is_unspecified())
      for (Attachment& a : attachments_)
        if (a.node == &node && a.address == datagram.from.address) attachment = &a;
    if (attachment == nullptr) attachment = find(node, v4);
    if (attachment == nullptr) {
      ++statistics_.unroutable;
      continue;
    }
    if (datagram.from.address.is_unspecified() || datagram.from.address != attachment->address)
      datagram.from.address = attachment->address;
    put_on_link(*attachment, false, std::move(datagram), &node);
  }
}

void Network::put_on_link(const Attachment& attachment, bool inbound, Datagram datagram, Node* origin) {
  const Link& link = attachment.link;
  const std::size_t headers = datagram.to.address.is_v4() ? kUdpOverV4 : kUdpOverV6;
  if (datagram.bytes.size() + headers > link.mtu) {
    ++statistics_.too_big;  // a black hole: DF is set and nobody tells
    return;
  }
  const auto copies = random.chance(link.duplicate_permille) ? 2 : 1;
  for (int copy = 0; copy < copies; ++copy) {
    if (!link.up || random.chance(link.loss_permille)) {
      ++statistics_.lost;
      continue;
    }
    const auto jitter = std::chrono::microseconds{
        random.below(static_cast<std::uint32_t>(link.jitter / std::chrono::microseconds{1}) + 1)};
    flying_.emplace(now_ + link.latency + jitter,
                    Flight{inbound, attachment.node, attachment.address, datagram, origin});
  }
}

void Network::unreachable(Node* origin, const Endpoint& remote) {
  if (origin == nullptr) return;
  schedule(now_ + std::chrono::milliseconds{5}, [this, origin, remote] {
    origin->unreachable(remote, now());
    flush(*origin);
  });
}

void Network::leave_link(Flight flight) {
  const auto attached = std::find_if(attachments_.begin(), attachments_.end(), [&](const Attachment& a) {
    return a.node == flight.node && a.address == flight.address;
  });
  if (attached == attachments_.end()) {
    ++statistics_.unroutable;  // the node went elsewhere meanwhile
    return;
  }
  if (flight.inbound) {
    ++statistics_.delivered;
    flight.node->receive(std::move(flight.datagram), now());
    flush(*flight.node);
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
      return;
    }
    flight.datagram.from = *source;
  }
  route(std::move(flight.datagram), nat, flight.origin);
}

void Network::route(Datagram datagram, const NatBox* from, Node* origin) {
  for (auto& nat : nats_) {
    if (!nat->owns(datagram.to.address)) continue;
    const Endpoint target = datagram.to;
    const auto internal =
        nat.get() == from && !nat->behaviour().hairpins ? std::nullopt : nat->inbound(datagram.to, datagram.from, now_);
    if (!internal) {
      ++statistics_.filtered;
      if (nat->behaviour().rejects) unreachable(origin, target);
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
  ++statistics_.unroutable;
}

void Network::run_until(Instant until) {
  for (Node* node : nodes_) flush(*node);
  Instant stuck_at{};
  unsigned fires = 0;
  for (;;) {
    Instant next = until;
    if (!flying_.empty()) next = std::min(next, flying_.begin()->first);
    if (!actions_.empty()) next = std::min(next, actions_.begin()->first);
    for (const Node* node : nodes_) next = std::min(next, node->deadline());
    now_ = std::max(now_, next);

    if (!actions_.empty() && actions_.begin()->first <= now_) {
      const auto action = std::move(actions_.begin()->second);
      actions_.erase(actions_.begin());
      action();
      for (Node* node : nodes_) flush(*node);
      continue;
    }
    if (!flying_.empty() && flying_.begin()->first <= now_) {
      Flight flight = std::move(flying_.begin()->second);
      flying_.erase(flying_.begin());
      leave_link(std::move(flight));
      continue;
    }
    bool fired = false;
    for (Node* node : nodes_) {
      if (node->deadline() > now_) continue;
      fired = true;
      // A timer that fires for ever at one instant is a live-lock (trap paths-21).
      fires = stuck_at == now_ ? fires + 1 : 0;
      stuck_at = now_;
      if (fires > 10'000) throw std::logic_error("live-lock: " + node->deadline_reason());
      node->timeout(now());
      flush(*node);
    }
    if (!fired && now_ >= until) return;
  }
}

}  // namespace penstock::model
