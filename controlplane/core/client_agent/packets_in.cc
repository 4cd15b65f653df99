// From a tunnel socket to the TUN device: what came, from which gateway, and whether that gateway may send it.
#include <algorithm>
#include <utility>

#include "controlplane/core/client_agent/agent_impl.h"
#include "controlplane/core/client_agent/candidates.h"
#include "controlplane/core/convert.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/probe.h"

namespace penstock::client {

void ClientAgent::handle_datagrams(std::span<const InDatagram> datagrams, std::vector<Bytes>& inner, Now now) {
  impl_->inner_sink = &inner;
  handle_datagrams(datagrams, now);
  impl_->inner_sink = nullptr;
}

void ClientAgent::handle_datagrams(std::span<const InDatagram> datagrams, Now now) {
  Impl& d = *impl_;
  std::vector<wireguard::Inbound>& burst = d.inbound;
  burst.clear();
  for (const InDatagram& datagram : datagrams) {
    const auto incoming =
        datagram.stream != 0
            ? d.connectivity.handle_stream_message(datagram.bytes, datagram.stream, now)
            : d.connectivity.handle_datagram(datagram.bytes, datagram.local, datagram.remote, now);
    if (incoming.reason != DropReason::none) {
      d.drop(incoming.reason);
      continue;
    }
    if (wireguard::classify(incoming.wireguard) == wireguard::MessageType::data) {
      wireguard::Inbound in;
      in.datagram = incoming.wireguard;
      in.from = incoming.path;
      burst.push_back(in);
      continue;
    }
    // A handshake message may change what the data behind it meets.
    d.open_burst(now);
    const DropReason reason = d.device.handle_handshake(incoming.wireguard, incoming.path, now);
    if (reason != DropReason::none) d.drop(reason);
    d.settle_device(now);
  }
  d.open_burst(now);
  d.settle(now);
}

// Opens what has been collected. Of a run of packets from one gateway by one path, which all came at once, the paths
// are told once.
void ClientAgent::Impl::open_burst(Now now) {
  device.open(inbound, now);
  const Link* noted = nullptr;
  const Path* noted_path = nullptr;
  for (const wireguard::Inbound& in : inbound) {
    Link* link = link_by_peer(in.peer);
    if (in.reason != DropReason::none) drop(in.reason);
    if (link == nullptr || (in.reason != DropReason::none && in.reason != DropReason::wg_keepalive)) continue;
    const bool is_data = in.reason == DropReason::none && !wireguard::is_control_packet(in.inner);
    // What a control packet says of its path is handle_control's to judge.
    const bool tells = is_data ? link != noted || *noted_path != in.from : in.reason == DropReason::wg_keepalive;
    if (link->heals && tells) {
      connectivity.note_received(link->peer, in.from, is_data, now);
      noted = is_data ? link : nullptr;
      noted_path = &in.from;
    }
    if (in.reason == DropReason::none) handle_inner(*link, in.inner, in.from, now);
  }
  inbound.clear();
}

void ClientAgent::handle_stream_up(paths::StreamId stream, Now now) {
  impl_->connectivity.handle_stream_up(stream, now);
  impl_->settle(now);
}

void ClientAgent::handle_stream_down(paths::StreamId stream, Now now) {
  impl_->connectivity.handle_stream_down(stream, now);
  impl_->settle(now);
}

std::optional<paths::StreamRequest> ClientAgent::poll_stream() {
  return impl_->connectivity.poll_stream();
}

void ClientAgent::Impl::handle_inner(Link& link, MutableBytes inner, const Path& from, Now now) {
  if (wireguard::is_control_packet(inner)) return handle_control(link, inner, from, now);
  const auto info = parse_inner(inner);
  if (!info) return drop(DropReason::inner_malformed);
  const Bytes packet = Bytes{inner}.first(info->length);
  // Exactly our tunnel addresses: so nothing out of a tunnel reaches the stub resolver or another service here.
  if (info->destination != (info->is_v6() ? interface.tunnel_v6 : interface.tunnel_v4))
    return drop(DropReason::inner_destination_invalid);
  if (!source_allowed(link, *info, packet)) return drop(DropReason::inner_source_not_allowed);
  if (inner_sink != nullptr) return inner_sink->push_back(packet);
  std::vector<std::uint8_t> buffer = take_buffer(packet.size());
  std::copy(packet.begin(), packet.end(), buffer.begin());
  packets.push_back(std::move(buffer));
}

bool ClientAgent::Impl::address_behind(const Link& link, const IpAddress& address) {
  SourceEntry& entry = sources[hash_value(address) % sources.size()];
  if (entry.revision == revision && entry.link == &link && entry.source == address) return true;
  const auto granted = [&](const std::string& resource) {
    const auto state = states.find(resource);
    return state != states.end() && link.resources.contains(state->second.get());
  };
  bool allowed = false;
  const std::string* name = names->find(address);
  if (name != nullptr) {
    for (const std::string& resource : resolver->resources_of(*name)) allowed = allowed || granted(resource);
  } else if (names->use_of(address) == dns::AddressUse::outside) {
    allowed = resources.any_with(address, [&](const Resource& resource) { return granted(resource.id); });
  }
  if (allowed) entry = {address, &link, revision};
  return allowed;
}

bool ClientAgent::Impl::source_allowed(const Link& link, const InnerPacket& info, Bytes inner) {
  if (address_behind(link, info.source)) return true;
  // A router on the way behind the gateway may report an error about a packet of ours from an address of its own.
  if (!info.icmp_error) return false;
  const Bytes quoted = inner.subspan(std::min<std::size_t>(std::size_t{info.l4_offset} + 8, inner.size()));
  const IpParse parsed = parse_ip(quoted, ParseMode::quoted);
  if (parsed.reason != DropReason::none) return false;
  return ip_source(quoted, parsed.view) == info.destination &&
         address_behind(link, ip_destination(quoted, parsed.view));
}

void ClientAgent::Impl::handle_control(Link& link, Bytes inner, const Path& from, Now now) {
  if (!link.managed) return drop(DropReason::control_not_allowed);
  const auto packet = wireguard::parse_control(inner);
  if (!packet || packet->direction != wireguard::ControlDirection::to_client)
    return drop(DropReason::control_malformed);
  // An answer proves the path of its probe, wherever it comes from. Its source is no further path: between two NATs
  // that map by address and port every probe is answered from a new one, and that would be probed in turn, without end.
  if (link.heals && packet->type != wireguard::ControlType::probe_reply)
    connectivity.note_received(link.peer, from, false, now);
  switch (packet->type) {
    case wireguard::ControlType::probe_reply: {
      link.heard_at = now.monotonic;
      if (!link.heals) return;
      const DropReason reason = connectivity.handle_probe_reply(link.peer, packet->payload, from, now);
      if (reason != DropReason::none) drop(reason);
      return;
    }
    case wireguard::ControlType::probe:
      return drop(DropReason::control_not_allowed);  // gateways answer probes, they do not send them
    case wireguard::ControlType::message:
      break;
  }
  auto received = link.control.handle_payload(packet->payload.subspan(1), now.monotonic);
  if (const auto* reason = std::get_if<DropReason>(&received)) return drop(*reason);
  if (const auto* reply = std::get_if<ControlChannel::Reply>(&received)) return handle_control_reply(link, *reply, now);
  const v1::Control& request = std::get<ControlChannel::Request>(received).message;
  v1::Control answer;
  answer.mutable_acknowledge();
  switch (request.body_case()) {
    case v1::Control::kNameStatus:
      handle_name_status(link, request.name_status(), now);
      break;
    case v1::Control::kCandidates:
      if (link.heals)
        connectivity.handle_remote_candidates(link.peer, read_candidates(request.candidates().candidates()), now);
      break;
    case v1::Control::kNamesWanted:
      if (link.heals) handle_names_wanted(link, request.names_wanted(), now);
      break;
    case v1::Control::kGoodbye:
      // The tunnel may go on for a while; what is in use moves to another gateway meanwhile.
      log_info("gateway " + link.gateway + " says goodbye: " + request.goodbye().reason());
      link.control.reply(request.id(), std::move(answer));
      send_control(link, now);
      return leave_link(link, now);
    default:
      return drop(DropReason::local_consumed);  // not known to this version: ignored
  }
  link.control.reply(request.id(), std::move(answer));
  send_control(link, now);
}

// The gateway was started anew while our session with it, or our belief in what it knows, went on. Told again; what is
// sent meanwhile waits here, behind what the gateway holds.
void ClientAgent::Impl::handle_names_wanted(Link& link, const v1::NamesWanted& wanted, Now now) {
  for (int i = 0; i < std::min(wanted.proxy_addresses_size(), kMaxNamesWanted); ++i) {
    const auto address = address_from_wire(wanted.proxy_addresses(i));
    const std::string* name = address ? names->find(*address) : nullptr;
    if (name == nullptr) continue;
    for (ResourceState* state : link.resources) {
      const auto target = state->targets.find(*name);
      if (target == state->targets.end()) continue;
      target->second->announced = nullptr;
      announce(link, *target->second, now);
    }
  }
}

void ClientAgent::Impl::handle_name_status(Link& link, const v1::NameStatus& status, Now now) {
  const auto state = states.find(status.resource());
  if (state == states.end() || !link.resources.contains(state->second.get())) return;
  const auto found = state->second->targets.find(status.name());
  if (found == state->second->targets.end()) return;
  Target& target = *found->second;
  target.announced = &link;
  // A bounded time in which packets are refused without asking; then the next one asks again.
  const auto ttl = std::chrono::seconds{std::clamp<std::uint32_t>(status.ttl_seconds(), 1, 10)};
  switch (status.state()) {
    case v1::NameStatus::STATE_ACTIVE:
    case v1::NameStatus::STATE_RESOLVING:  // the gateway holds packets until it knows
      target.status = Target::Name::active;
      target.status_until = kNever;
      if (status.state() == v1::NameStatus::STATE_ACTIVE) {
        resolver->set_name_found(target.name);
        if (eager()) {
          // Dummy addresses stand for real ones of the same family only.
          bool v4 = false;
          bool v6 = false;
          for (const std::string& bytes : status.addresses()) (bytes.size() == 4 ? v4 : v6) = true;
          resolver->set_name_families(target.name, v4, v6);
          settle_asked(target, now);
        }
      }
      flush(target, now);
      return;
    case v1::NameStatus::STATE_NO_SUCH_NAME:
      target.status = Target::Name::missing;
      target.status_until = now.monotonic + ttl;
      resolver->set_name_missing(target.name, static_cast<std::uint32_t>(ttl.count()), now);
      settle_asked(target, now);
      return reject_waiting(target, Undeliverable::unreachable, DropReason::name_no_address, now);
    case v1::NameStatus::STATE_FORBIDDEN:
      target.status = Target::Name::forbidden;
      target.status_until = now.monotonic + ttl;
      settle_asked(target, now);
      return reject_waiting(target, Undeliverable::prohibited, DropReason::policy_forbidden_destination, now);
    default:
      target.status = Target::Name::failed;
      target.status_until = now.monotonic + kNameFailedRetry;
      settle_asked(target, now);
      return reject_waiting(target, Undeliverable::unreachable, DropReason::name_wait_timeout, now);
  }
}

}  // namespace penstock::client
