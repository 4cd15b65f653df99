// From an application's packet to the tunnel: which target it is for, and whether it goes, waits or is refused.
#include <algorithm>
#include <utility>

#include "controlplane/core/client_agent/agent_impl.h"
#include "controlplane/core/offload/segment.h"
#include "dataplane/core/wireguard/messages.h"

namespace penstock::client {
namespace {

// Room in front of an inner packet: TURN's envelope and WireGuard's header; behind it: padding and tag.
constexpr std::size_t kFront = 48 + wireguard::kDataHeaderSize;
constexpr std::size_t kBack = wireguard::kPaddingMultiple - 1 + wireguard::kTagSize + 4;  // + TURN's padding

// An inner packet of this size fits whatever the path adds.
constexpr std::size_t kFitsEveryPath = 1280;

std::uint32_t flow_key(const InnerPacket& info) {
  const std::uint32_t kind = info.icmp_error ? 2 : info.icmp_echo ? 1 : 0;
  return std::uint32_t{info.protocol} << 24 | kind << 16 | info.destination_port;
}

std::size_t mix(std::size_t hash, std::uint32_t with) {
  hash ^= with + 0x9e3779b97f4a7c15ULL + (hash << 6) + (hash >> 2);
  return hash ^ (hash >> 29);
}

}  // namespace

void ClientAgent::Impl::handle_packet(Bytes packet, Now now) {
  const auto info = parse_inner(packet);
  if (!info) return drop(DropReason::inner_malformed);
  packet = packet.first(info->length);
  // Every TUN device sees neighbour discovery, mDNS and the like; none of it is for a gateway.
  if (is_link_scoped(info->destination)) return drop(DropReason::multicast_not_forwarded);
  if (info->source != (info->is_v6() ? interface.tunnel_v6 : interface.tunnel_v4))
    return drop(DropReason::inner_source_not_allowed);
  if (packet.size() > config.mtu) return reject(*info, packet, Undeliverable::too_big, DropReason::too_big, now);

  Target* target = target_of(*info, packet, now);
  if (target == nullptr) return;
  if (packet.size() > kFitsEveryPath && target->state->link != nullptr) {
    const std::uint16_t mtu = path_mtu(*target->state->link);
    if (packet.size() > mtu) return reject(*info, packet, Undeliverable::too_big, DropReason::too_big, now, mtu);
  }
  target->used_at = now.monotonic;
  if (!can_send(*target, now) || !target->queue.empty()) return enqueue(*target, *info, packet, now);
  add_to_batch(*target->state->link, target, packet, now);
}

// Judged once, by its headers, which all its packets share; cut where the tunnel takes it. What would have to be
// explained, refused or kept goes the way of every packet, one by one.
void ClientAgent::Impl::handle_super_packet(const TunPacket& packet, Now now) {
  const auto segments = offload::Segments::parse(packet.bytes, packet.vnet);
  if (!segments) return drop(DropReason::inner_malformed);
  const auto info = parse_inner(packet.bytes);
  const auto goes = [&]() -> Target* {
    if (!info || info->length != packet.bytes.size() || is_link_scoped(info->destination)) return nullptr;
    if (info->source != (info->is_v6() ? interface.tunnel_v6 : interface.tunnel_v4)) return nullptr;
    const std::size_t size = segments->size(0);
    if (size > config.mtu) return nullptr;
    Target* target = known_target(*info, now);
    if (target == nullptr || !can_send(*target, now) || !target->queue.empty()) return nullptr;
    return size > kFitsEveryPath && size > path_mtu(*target->state->link) ? nullptr : target;
  };
  Target* target = goes();
  if (target != nullptr) target->used_at = now.monotonic;
  for (std::size_t i = 0; i < segments->count(); ++i) {
    const std::size_t size = segments->size(i);
    if (target != nullptr && can_send(*target, now) && target->queue.empty()) {  // sealing may have found otherwise
      segments->write(i, reserve_in_batch(*target->state->link, target, size, now));
      continue;
    }
    segment.resize(size);
    segments->write(i, segment);
    handle_packet(segment, now);
  }
}

// Of a flow that has been classified lately.
Target* ClientAgent::Impl::known_target(const InnerPacket& info, Now now) const {
  const std::uint32_t key = flow_key(info);
  const FlowEntry& entry = flows[mix(hash_value(info.destination), key) % flows.size()];
  const bool known = !info.fragment && entry.revision == revision && entry.key == key &&
                     entry.destination == info.destination && now.monotonic < entry.until;
  return known ? entry.target : nullptr;
}

Target* ClientAgent::Impl::target_of(const InnerPacket& info, Bytes packet, Now now) {
  const std::size_t address_hash = hash_value(info.destination);
  FragmentEntry& fragment = fragments[mix(address_hash, info.fragment_id) % fragments.size()];
  if (info.later_fragment && fragment.revision == revision && fragment.id == info.fragment_id &&
      fragment.source == info.source && fragment.destination == info.destination)
    return fragment.target;

  const std::uint32_t key = flow_key(info);
  FlowEntry& entry = flows[mix(address_hash, key) % flows.size()];
  Target* target = nullptr;
  if (!info.later_fragment && entry.revision == revision && entry.key == key && entry.destination == info.destination &&
      now.monotonic < entry.until) {
    target = entry.target;
  } else {
    const Classified found = classify(info, now);
    if (found.target == nullptr) {
      reject(info, packet, found.why, found.reason, now);
      return nullptr;
    }
    target = found.target;
    if (!info.later_fragment) entry = {info.destination, key, revision, now.monotonic + kFlowCacheAge, target};
  }
  if (info.fragment && !info.later_fragment)
    fragment = {info.source, info.destination, info.fragment_id, revision, target};
  return target;
}

ClientAgent::Impl::Classified ClientAgent::Impl::classify(const InnerPacket& info, Now now) {
  Classified out;
  ResourceSet::Choice choice;
  std::string name;
  switch (names->use_of(info.destination)) {
    case dns::AddressUse::excluded:
    case dns::AddressUse::unassigned:
      // Never another Resource's, though a wide CIDR may contain the pool: the address stood for a name once.
      out.why = Undeliverable::unreachable;
      out.reason = DropReason::name_unknown;
      return out;
    case dns::AddressUse::assigned:
      name = *names->find(info.destination);
      names->touch(info.destination, now.wall);
      choice = resources.choose_by_name(resolver->resources_of(name), info);
      break;
    case dns::AddressUse::outside:
      choice = resources.choose_by_address(info);
      break;
  }
  if (choice.resource == nullptr) {
    out.why = Undeliverable::prohibited;
    out.reason = choice.matched ? DropReason::policy_filtered : DropReason::policy_no_resource;
    return out;
  }
  out.target = &target_in(state_of(choice.resource->id), name);
  return out;
}

bool ClientAgent::Impl::can_send(const Target& target, Now now) const {
  const ResourceState& state = *target.state;
  if (state.link == nullptr || !state.link->ready() || !state.access.usable(now.wall)) return false;
  if (target.name.empty() || !state.link->managed) return true;
  // Known to the gateway; a name it failed to resolve is its business to answer, until we ask again.
  return target.announced == state.link && target.status != Target::Name::missing &&
         target.status != Target::Name::forbidden && target.status != Target::Name::failed;
}

// What fits over every path in use: as long as answers have proved it, or, until they have, with TURN's envelope in an
// outer packet of 1500 bytes (more where the device's own MTU says that the network takes jumbo frames). A multiple of
// the padding, so that padding never goes beyond it.
std::uint16_t ClientAgent::Impl::path_mtu_now(const Link& link) const {
  constexpr std::size_t kOuterMtu = 1500, kIpv4 = 20, kIpv6 = 40, kUdp = 8, kLargestIn1500 = 1440;
  const std::size_t outer = config.mtu > kLargestIn1500 ? config.mtu + kIpv6 + kUdp + 32 : kOuterMtu;
  std::size_t headers = kIpv4;
  std::size_t envelope = 0;
  std::size_t known = config.mtu;
  if (link.heals) {
    bool all_proved = true;
    for (const paths::PathInfo& path : connectivity.show(link.peer)) {
      if (!path.mtu_counts) continue;
      known = std::min<std::size_t>(known, path.mtu);
      all_proved = all_proved && path.mtu_proved;
      if (path.path.local.address.is_v6()) headers = kIpv6;
    }
    if (all_proved) return static_cast<std::uint16_t>(known);
    envelope = connectivity.overhead(link.peer);
  } else if (const auto peer = device.peer_info(link.peer); peer && peer->endpoint) {
    if (peer->endpoint->remote.address.is_v6()) headers = kIpv6;
  }
  const std::size_t room =
      outer - headers - kUdp - wireguard::kDataHeaderSize - wireguard::kTagSize - (envelope + 3) / 4 * 4;
  const std::size_t fits = room / wireguard::kPaddingMultiple * wireguard::kPaddingMultiple;
  return static_cast<std::uint16_t>(std::min(known, fits));
}

std::uint16_t ClientAgent::Impl::path_mtu(Link& link) {
  if (link.path_mtu_turn != turn) {
    link.path_mtu_turn = turn;
    const std::uint16_t before = std::exchange(link.path_mtu, path_mtu_now(link));
    if (before != 0 && before != link.path_mtu)
      log_info("gateway " + link.gateway + ": packets of up to " + std::to_string(link.path_mtu) + " bytes pass");
  }
  return link.path_mtu;
}

void ClientAgent::Impl::reject(const InnerPacket& info, Bytes packet, Undeliverable why, DropReason reason, Now now,
                               std::uint16_t mtu) {
  drop(reason);
  auto error = build_icmp_error(why, info, packet, mtu != 0 ? mtu : config.mtu);
  if (error.empty()) return;
  if (!icmp_limit.take(now.monotonic)) return drop(DropReason::icmp_error_rate_limited);
  packets.push_back(std::move(error));
}

void ClientAgent::Impl::reject(Bytes packet, Undeliverable why, DropReason reason, Now now) {
  if (const auto info = parse_inner(packet)) reject(*info, packet, why, reason, now);
}

void ClientAgent::Impl::enqueue(Target& target, const InnerPacket& info, Bytes packet, Now now) {
  ResourceState& state = *target.state;
  // Refused for now: said at once, and no request.
  if (state.access.refusal_stands(now.monotonic) && !state.access.usable(now.wall)) {
    const bool prohibited = state.access.refusal() == Refusal::forbidden;
    return reject(info, packet, prohibited ? Undeliverable::prohibited : Undeliverable::unreachable,
                  DropReason::policy_refused, now);
  }
  if (target.status_until > now.monotonic && target.announced == state.link && state.link != nullptr) {
    if (target.status == Target::Name::missing)
      return reject(info, packet, Undeliverable::unreachable, DropReason::name_no_address, now);
    if (target.status == Target::Name::forbidden)
      return reject(info, packet, Undeliverable::prohibited, DropReason::policy_forbidden_destination, now);
    if (target.status == Target::Name::failed)
      return reject(info, packet, Undeliverable::unreachable, DropReason::name_wait_timeout, now);
  }
  // Only a DNS query sets a tunnel up.
  if (eager() && !target.name.empty() && !state.asked.contains(&target))
    return reject(info, packet, Undeliverable::unreachable, DropReason::gateway_unreachable, now);
  const DropReason reason = target.queue.push(packet, retransmission_digest(info, packet), now.monotonic);
  if (reason != DropReason::none) return drop(reason);
  state.waiting.insert(&target);
  serve(state, now);
}

void ClientAgent::Impl::add_to_batch(Link& link, Target* target, Bytes packet, Now now) {
  const MutableBytes room = reserve_in_batch(link, target, packet.size(), now);
  std::copy(packet.begin(), packet.end(), room.begin());
}

MutableBytes ClientAgent::Impl::reserve_in_batch(Link& link, Target* target, std::size_t size, Now now) {
  if (batch.link != nullptr && (batch.link != &link || batch.buffers.size() >= kBurst)) flush_batch(now);
  batch.link = &link;
  std::vector<std::uint8_t> buffer = take_room(kFront + size + kBack);
  wireguard::Outbound outbound;
  outbound.inner = buffer.data() + kFront;
  outbound.length = static_cast<std::uint32_t>(size);
  batch.buffers.push_back(std::move(buffer));
  batch.outbound.push_back(outbound);
  batch.targets.push_back(target);
  return {outbound.inner, size};
}

void ClientAgent::Impl::flush_batch(Now now) {
  if (batch.link == nullptr) return;
  Batch work = std::exchange(batch, {});
  Link& link = *work.link;
  const auto sealed = device.seal(link.peer, work.outbound, now);
  if (sealed.reason == DropReason::none) {
    // What the paths send again is older than this.
    drain_transmits();
    for (std::size_t i = 0; i < work.buffers.size(); ++i) {
      if (work.targets[i] != nullptr) work.targets[i]->state->access.used(now.monotonic);
      emit_data(link, std::move(work.buffers[i]), work.outbound[i].datagram, sealed.path, now);
    }
    work.buffers.clear();
    work.outbound.clear();
    work.targets.clear();
    if (batch.link == nullptr) {  // keep the vectors' memory
      batch = std::move(work);
      batch.link = nullptr;
    }
    return;
  }
  // The session ended under us: the packets wait like others. They are older than anything queued since.
  session_down(link, now);
  for (std::size_t i = 0; i < work.buffers.size(); ++i) {
    const Bytes packet{work.outbound[i].inner, work.outbound[i].length};
    Target* target = work.targets[i];
    const auto info = parse_inner(packet);
    if (target != nullptr && info) enqueue(*target, *info, packet, now);
  }
}

void ClientAgent::Impl::emit_data(Link& link, std::vector<std::uint8_t> buffer, MutableBytes datagram,
                                  const Path& endpoint, Now now) {
  const auto offset = static_cast<std::size_t>(datagram.data() - buffer.data());
  if (!link.heals) return emit_over(endpoint, std::move(buffer), offset, datagram.size());
  const auto chosen = connectivity.data_paths(link.peer, datagram, now);
  if (chosen.empty()) return emit_over(endpoint, std::move(buffer), offset, datagram.size());
  const Path first = chosen.front();
  if (chosen.size() > 1) {
    const Path second = chosen[1];
    std::vector<std::uint8_t> copy = take_room(buffer.size());
    std::copy(buffer.begin(), buffer.end(), copy.begin());
    emit_over(second, std::move(copy), offset, datagram.size());
  }
  emit_over(first, std::move(buffer), offset, datagram.size());
}

void ClientAgent::Impl::emit_over(const Path& path, std::vector<std::uint8_t> buffer, std::size_t offset,
                                  std::size_t length) {
  OutDatagram out;
  out.local = path.local;
  out.remote = path.remote;
  if (path.relay != 0) {
    const auto envelope = connectivity.route(path, length);
    if (!envelope) return drop(DropReason::wg_no_endpoint);
    const Bytes prefix = envelope->prefix_bytes();
    offset -= prefix.size();
    std::copy(prefix.begin(), prefix.end(), buffer.begin() + static_cast<std::ptrdiff_t>(offset));
    std::fill_n(buffer.begin() + static_cast<std::ptrdiff_t>(offset + prefix.size() + length), envelope->padding,
                std::uint8_t{0});
    length += prefix.size() + envelope->padding;
    out.local = envelope->local;
    out.remote = envelope->remote;
    out.stream = envelope->stream;
  }
  out.storage = std::move(buffer);
  out.offset = offset;
  out.length = length;
  datagrams.push_back(std::move(out));
}

void ClientAgent::Impl::send_inner(Link& link, Bytes inner, const Path* path, Now now) {
  std::vector<std::uint8_t> buffer = take_room(kFront + inner.size() + kBack);
  std::copy(inner.begin(), inner.end(), buffer.begin() + static_cast<std::ptrdiff_t>(kFront));
  wireguard::Outbound outbound;
  outbound.inner = buffer.data() + kFront;
  outbound.length = static_cast<std::uint32_t>(inner.size());
  const auto sealed = device.seal(link.peer, {&outbound, 1}, now);
  if (sealed.reason != DropReason::none) return drop(sealed.reason);
  const auto offset = static_cast<std::size_t>(outbound.datagram.data() - buffer.data());
  const std::size_t length = outbound.datagram.size();
  emit_over(path != nullptr ? *path : sealed.path, std::move(buffer), offset, length);
}

}  // namespace penstock::client
