// What `penstockctl` sees of the client.
#include <algorithm>

#include "controlplane/core/client_agent/agent_impl.h"

namespace penstock::client {
namespace {

double seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string_view word(const Access& access, Now now) {
  if (access.usable(now.wall)) return "granted";
  if (access.refusal_stands(now.monotonic)) return "refused";
  return access.waiting() ? "asking" : "idle";
}

std::string_view word(const Target& target, const Link* link) {
  if (target.announced == nullptr || target.announced != link) return "local";
  switch (target.status) {
    case Target::Name::active:
      return "active";
    case Target::Name::missing:
      return "no such name";
    case Target::Name::forbidden:
      return "forbidden";
    case Target::Name::failed:
      return "failed";
    case Target::Name::unknown:
      break;
  }
  return "asking";
}

// "direct 198.51.100.40:51820: primary, alive, 12.3 ms, 0.1 % lost"
std::string words(const paths::PathInfo& path) {
  static constexpr std::string_view kRoles[] = {"", "primary, ", "standby, "};
  static constexpr std::string_view kStates[] = {"not proved", "alive", "suspect", "down"};
  std::string out(path.path.relay != 0 ? "relayed " : "direct ");
  out += path.path.remote.to_string() + ": ";
  out += kRoles[static_cast<std::size_t>(path.role)];
  out += kStates[static_cast<std::size_t>(path.state)];
  if (path.rtt <= Duration{}) return out;
  const auto tenths = [](double value) {
    const auto whole = static_cast<std::int64_t>(value * 10 + 0.5);
    return std::to_string(whole / 10) + "." + std::to_string(whole % 10);
  };
  return out + ", " + tenths(seconds(path.rtt) * 1000) + " ms, " + tenths(path.loss_permille / 10.0) + " % lost" +
         (path.mtu_proved ? ", " + std::to_string(path.mtu) + " bytes" : "");
}

}  // namespace

void ClientAgent::show_status(v1::StatusReply& out, Now now) const {
  const Impl& d = *impl_;
  const auto line = [&](std::string key, std::string value) {
    v1::StatusLine& added = *out.add_lines();
    added.set_key(std::move(key));
    added.set_value(std::move(value));
  };
  if (!d.client_id.empty()) line("client", d.client_id);
  line("public key", d.device.public_key().to_base64());
  if (!d.is_static) line("portal", d.portal_ready ? "connected" : d.portal_up ? "joining" : "away");
  if (!d.interface.tunnel_v4.is_unspecified()) line("tunnel IPv4", d.interface.tunnel_v4.to_string());
  if (!d.interface.tunnel_v6.is_unspecified()) line("tunnel IPv6", d.interface.tunnel_v6.to_string());
  line("resources", std::to_string(d.resources.all().size()));
  line("protocol", d.config.protocol.to_string() + (d.eager() ? " (nothing is repaired)" : ""));
  for (const auto& [id, state] : d.states) {
    std::string words(word(state->access, now));
    if (state->access.refusal_stands(now.monotonic) && !state->refusal.empty()) words += ": " + state->refusal;
    line("resource " + id, std::move(words));
  }
  std::size_t up = 0;
  for (const auto& [gateway, link] : d.links) up += link->ready() ? 1U : 0U;
  line("tunnels", std::to_string(up) + " of " + std::to_string(d.links.size()));
  for (const auto& [gateway, link] : d.links) {
    for (const paths::PathInfo& path : d.connectivity.show(link->peer))
      line("path of " + gateway, words(path));
    if (const auto last = d.connectivity.last_switch(link->peer))
      line("switch of " + gateway, "to " + last->to.to_string() + ", " +
                                       std::to_string(static_cast<int>(seconds(now.monotonic - last->at))) +
                                       " s ago: " + std::string(last->why));
  }
  line("network errors", std::to_string(d.hints) + " believed, " +
                             std::to_string(drops(DropReason::icmp_error_unmatched)) + " not about live sessions");
  line("names", std::to_string(d.names->size()));
  line("packets waiting", std::to_string(d.budget.packets));
  for (const paths::Candidate& candidate : d.connectivity.local_candidates())
    line("candidate", candidate.endpoint.to_string());
  const dns::StubResolverStats& stats = d.resolver->stats();
  line("dns queries", std::to_string(stats.queries));
  line("dns forwarded", std::to_string(stats.forwarded));
}

v1::PeersReply ClientAgent::show_peers(std::uint32_t limit, Now now) const {
  const Impl& d = *impl_;
  v1::PeersReply out;
  for (const auto& [gateway, link] : d.links) {
    if (limit != 0 && static_cast<std::uint32_t>(out.peers_size()) >= limit) break;
    v1::PeerRow& row = *out.add_peers();
    row.set_public_key(link->config.public_key.to_base64());
    row.set_name(gateway);
    row.set_path("none");
    row.set_session("none");
    row.set_handshake_age_seconds(-1);
    row.set_rtt_ms(-1);
    row.set_authorisations(static_cast<std::uint32_t>(link->resources.size()));
    const auto peer = d.device.peer_info(link->peer);
    if (!peer) continue;
    row.set_session(peer->session ? "up" : peer->handshaking ? "handshaking" : "none");
    if (peer->last_handshake && *peer->last_handshake <= now.wall)
      row.set_handshake_age_seconds(static_cast<double>(now.wall.seconds - peer->last_handshake->seconds));
    row.set_rx_bytes(peer->traffic.received_bytes);
    row.set_tx_bytes(peer->traffic.sent_bytes);
    row.set_rx_packets(peer->traffic.received_packets);
    row.set_tx_packets(peer->traffic.sent_packets);
    if (peer->endpoint) {
      row.set_endpoint(peer->endpoint->remote.to_string());
      row.set_path(peer->endpoint->relay != 0 ? "relayed" : "direct");
    }
    if (!link->managed) continue;
    for (const paths::PathInfo& path : d.connectivity.show(link->peer)) {
      if (path.role != paths::PathInfo::Role::primary) continue;
      row.set_endpoint(path.path.remote.to_string());
      row.set_path(path.path.relay != 0 ? "relayed" : "direct");
      if (path.rtt > Duration{}) row.set_rtt_ms(seconds(path.rtt) * 1000);
    }
    if (link->silent) row.set_path("none");
  }
  return out;
}

v1::NamesReply ClientAgent::show_names(std::uint32_t limit, Now now) const {
  const Impl& d = *impl_;
  v1::NamesReply out;
  d.names->for_each([&](const std::string& name, const dns::ProxyAddresses& addresses) {
    if (limit != 0 && static_cast<std::uint32_t>(out.names_size()) >= limit) return;
    v1::NameRow& row = *out.add_names();
    row.set_name(name);
    row.set_proxy_v4(addresses.v4.to_string());
    row.set_proxy_v6(addresses.v6.to_string());
    row.set_state("local");
    row.set_ttl_seconds(-1);
    for (const auto& [id, state] : d.states) {
      const auto target = state->targets.find(name);
      if (target == state->targets.end()) continue;
      row.set_resource(id);
      row.set_state(std::string(word(*target->second, state->link)));
      if (state->link != nullptr) row.set_peer(state->link->gateway);
      if (target->second->status_until != kNever && target->second->status_until > now.monotonic)
        row.set_ttl_seconds(seconds(target->second->status_until - now.monotonic));
    }
    if (row.resource().empty()) {
      const auto ids = d.resolver->resources_of(name);
      if (!ids.empty()) row.set_resource(ids.front());
    }
  });
  return out;
}

v1::DropsReply ClientAgent::show_drops() const {
  v1::DropsReply out;
  for (std::size_t i = 1; i < kDropReasonCount; ++i) {
    const auto reason = static_cast<DropReason>(i);
    const std::uint64_t count = drops(reason);
    if (count == 0) continue;
    v1::DropRow& row = *out.add_drops();
    row.set_reason(std::string(name_of(reason)));
    row.set_text(std::string(text_of(reason)));
    row.set_packets(count);
  }
  return out;
}

}  // namespace penstock::client
