#include <fmt/format.h>

#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/rpc/services.h"
#include "dataplane/runtime/key_file.h"

namespace penstock::rpc {
namespace {

double seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string text_or_empty(const IpAddress& address) {
  return address.is_unspecified() ? "" : address.to_string();
}
std::string text_or_empty(const Endpoint& endpoint) {
  return endpoint.port == 0 ? "" : endpoint.to_string();
}
std::string key_or_empty(const runtime::KeyBytes& key) {
  return key == runtime::KeyBytes{} ? "" : runtime::format_key(key);
}

std::string mac_text(const MacAddress& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

std::string_view name_of_state(policy::TranslationState state) {
  constexpr std::string_view kNames[] = {"resolving", "active", "no such name", "forbidden", "failed"};
  return kNames[static_cast<std::size_t>(state)];
}

// The protocol's states; what the machine distinguishes beyond them is nobody's business outside.
std::string_view neighbour_state(gateway::NeighbourState state) {
  switch (state) {
    case gateway::NeighbourState::reachable:
      return "reachable";
    case gateway::NeighbourState::stale:
    case gateway::NeighbourState::delay:
    case gateway::NeighbourState::probe:
      return "stale";
    case gateway::NeighbourState::incomplete:
      return "incomplete";
    default:
      return "failed";
  }
}

std::string handshakes(const runtime::HandshakeInfo& info) {
  if (info.threads == 0) return "on the slow thread";
  return fmt::format("{} answered by {} {}; let in {} from known addresses, {} with a cookie; {} cookies offered{}",
                     info.answered, info.threads, info.threads == 1 ? "thread" : "threads", info.from_known,
                     info.with_cookie, info.cookies,
                     info.under_load != 0 ? "; under load: strangers must show one" : "");
}

void fill_status(Backend& backend, v1::StatusReply& reply) {
  const auto info = backend.info();
  const auto counters = backend.counters();
  const auto flows = backend.flows(1);
  const auto peers = backend.peers(0);
  const auto ports = backend.ports();
  reply.set_process("dataplane");
  reply.set_software_version(PENSTOCK_VERSION);
  reply.set_protocol_version("1.1");
  reply.set_uptime_seconds(seconds(backend.now() - info.started));
  bool degraded = false;
  for (const auto& port : ports) degraded = degraded || !port.stats.link_up;
  reply.set_state(degraded ? "degraded" : "ready");
  const auto line = [&](const char* key, std::string value) {
    auto& out = *reply.add_lines();
    out.set_key(key);
    out.set_value(std::move(value));
  };
  std::size_t up = 0;
  for (const auto& peer : peers) up += peer.session == runtime::PeerRow::Session::up ? 1 : 0;
  line("public key", runtime::format_key(info.public_key));
  for (const auto& address : info.tunnel_addresses)
    line("tunnel address", Endpoint{address, info.listen_port}.to_string());
  for (const auto& address : info.source_addresses) line("source address", address.to_string());
  line("source nat", info.site.keep_source ? "off: within a family clients appear as they are" : "on");
  line("mapping", info.site.mapping == nat::Mapping::endpoint_independent ? "endpoint independent"
                                                                          : "address and port dependent");
  line("start", info.warm ? fmt::format("warm: {} sessions and {} flows taken up after {:.0f} ms", info.warm->sessions,
                                        info.warm->flows, seconds(info.warm->pause) * 1000)
                          : "cold");
  line("generation", std::to_string(backend.generation()));
  line("peers", fmt::format("{} ({} with a session)", peers.size(), up));
  line("flows", fmt::format("{} of {}", flows.total, flows.capacity));
  line("flows so far", fmt::format("{} begun, {} ended, {} moved to another address", counters.flows_created,
                                   counters.flows_ended, counters.flows_moved));
  for (const auto& port : ports) line("port", fmt::format("{} {}", port.name, port.stats.link_up ? "up" : "down"));
  if (!ports.empty()) line("buffers", fmt::format("{} of {} free", ports[0].pool.free, ports[0].pool.size));
  line("decrypted", fmt::format("{} packets, {} bytes", counters.decrypted_packets, counters.decrypted_bytes));
  line("sent again",
       fmt::format("{} packets, {} bytes, of {} kept", counters.resent_packets, counters.resent_bytes,
                   counters.kept_packets));
  line("handshakes", handshakes(info.handshakes));
  line("encrypted", fmt::format("{} packets, {} bytes", counters.encrypted_packets, counters.encrypted_bytes));
}

void fill_peers(Backend& backend, std::size_t limit, v1::PeersReply& reply) {
  constexpr const char* kSessions[] = {"none", "handshaking", "up"};
  for (const auto& row : backend.peers(limit)) {
    auto& out = *reply.add_peers();
    out.set_public_key(runtime::format_key(row.public_key));
    out.set_endpoint(text_or_empty(row.endpoint));
    out.set_session(kSessions[static_cast<std::size_t>(row.session)]);
    out.set_handshake_age_seconds(row.handshake_age ? seconds(*row.handshake_age) : -1);
    out.set_rx_bytes(row.rx_bytes);
    out.set_tx_bytes(row.tx_bytes);
    out.set_rx_packets(row.rx_packets);
    out.set_tx_packets(row.tx_packets);
    out.set_rtt_ms(-1);
    for (const auto& address : {row.tunnel_v4, row.tunnel_v6})
      if (!address.is_unspecified()) out.add_tunnel_addresses(address.to_string());
    out.set_flows(row.flows);
    out.set_authorisations(row.authorisations);
  }
}

void fill_flows(Backend& backend, std::size_t limit, v1::FlowsReply& reply) {
  const auto table = backend.flows(limit);
  reply.set_total(table.total);
  reply.set_capacity(table.capacity);
  for (const auto& row : table.flows) {
    auto& out = *reply.add_flows();
    out.set_protocol(row.protocol);
    out.set_translation(row.translation);
    out.set_inside_source(row.inside_source.to_string());
    out.set_inside_destination(row.inside_destination.to_string());
    out.set_outside_source(row.outside_source.to_string());
    out.set_outside_destination(row.outside_destination.to_string());
    out.set_state(row.state);
    out.set_idle_seconds(seconds(row.idle));
    out.set_expires_seconds(seconds(row.expires));
    out.set_packets_up(row.packets_up);
    out.set_packets_down(row.packets_down);
    out.set_peer(key_or_empty(row.peer));
    out.set_name(row.name);
    out.set_worker(row.worker);
  }
}

void fill_names(Backend& backend, std::size_t limit, v1::NamesReply& reply) {
  for (const auto& spec : backend.translations()) {
    if (limit != 0 && static_cast<std::size_t>(reply.names_size()) >= limit) break;
    auto& out = *reply.add_names();
    out.set_name(spec.name);
    out.set_resource(spec.resource);
    out.set_proxy_v4(text_or_empty(spec.proxy_v4));
    out.set_proxy_v6(text_or_empty(spec.proxy_v6));
    out.set_state(std::string{name_of_state(spec.state)});
    for (const auto& address : spec.addresses) out.add_addresses(address.to_string());
    out.set_peer(runtime::format_key(spec.peer));
    out.set_ttl_seconds(-1);
  }
}

void fill_ports(Backend& backend, std::size_t limit, v1::PortsReply& reply) {
  for (const auto& row : backend.ports()) {
    if (limit != 0 && static_cast<std::size_t>(reply.ports_size()) >= limit) break;
    auto& out = *reply.add_ports();
    out.set_name(row.name);
    out.set_driver(row.driver);
    out.set_mac(mac_text(row.mac));
    out.set_link(row.stats.link_up ? "up" : "down");
    out.set_mtu(row.mtu);
    for (const auto& address : row.addresses)
      out.add_addresses(fmt::format("{}/{}", address.address.to_string(), address.prefix_length));
    out.set_rx_packets(row.stats.rx_packets);
    out.set_tx_packets(row.stats.tx_packets);
    out.set_rx_bytes(row.stats.rx_bytes);
    out.set_tx_bytes(row.stats.tx_bytes);
    out.set_rx_missed(row.stats.rx_missed);
    out.set_tx_errors(row.stats.tx_errors);
    out.set_pool_free(row.pool.free);
    out.set_pool_size(row.pool.size);
  }
}

void fill_neighbours(Backend& backend, std::size_t limit, v1::NeighboursReply& reply) {
  const auto ports = backend.ports();
  for (const auto& row : backend.neighbours(limit)) {
    auto& out = *reply.add_neighbours();
    out.set_address(row.address.to_string());
    if (gateway::is_usable(row.state)) out.set_mac(mac_text(row.mac));
    out.set_port(row.port < ports.size() ? ports[row.port].name : "");
    out.set_state(std::string{neighbour_state(row.state)});
    out.set_age_seconds(-1);
  }
}

}  // namespace

grpc::ServerUnaryReactor* InspectService::Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                                 v1::StatusReply* reply) {
  return answer(context, [this, reply] { fill_status(backend_, *reply); });
}
grpc::ServerUnaryReactor* InspectService::ShowPeers(grpc::CallbackServerContext* context,
                                                    const v1::ShowRequest* request, v1::PeersReply* reply) {
  return answer(context, [this, reply, limit = request->limit()] { fill_peers(backend_, limit, *reply); });
}
grpc::ServerUnaryReactor* InspectService::ShowFlows(grpc::CallbackServerContext* context,
                                                    const v1::ShowRequest* request, v1::FlowsReply* reply) {
  return answer(context, [this, reply, limit = request->limit()] { fill_flows(backend_, limit, *reply); });
}
grpc::ServerUnaryReactor* InspectService::ShowNames(grpc::CallbackServerContext* context,
                                                    const v1::ShowRequest* request, v1::NamesReply* reply) {
  return answer(context, [this, reply, limit = request->limit()] { fill_names(backend_, limit, *reply); });
}
grpc::ServerUnaryReactor* InspectService::ShowDrops(grpc::CallbackServerContext* context, const v1::ShowRequest*,
                                                    v1::DropsReply* reply) {
  return answer(context, [this, reply] {
    const auto counters = backend_.counters();
    for (std::size_t i = 1; i < kDropReasonCount; ++i) {  // 0 is "not dropped"
      auto& out = *reply->add_drops();
      out.set_reason(std::string{penstock::name_of(static_cast<DropReason>(i))});
      out.set_text(std::string{text_of(static_cast<DropReason>(i))});
      out.set_packets(counters.drops[i]);
    }
  });
}
grpc::ServerUnaryReactor* InspectService::ShowPorts(grpc::CallbackServerContext* context,
                                                    const v1::ShowRequest* request, v1::PortsReply* reply) {
  return answer(context, [this, reply, limit = request->limit()] { fill_ports(backend_, limit, *reply); });
}
grpc::ServerUnaryReactor* InspectService::ShowNeighbours(grpc::CallbackServerContext* context,
                                                         const v1::ShowRequest* request, v1::NeighboursReply* reply) {
  return answer(context, [this, reply, limit = request->limit()] { fill_neighbours(backend_, limit, *reply); });
}

}  // namespace penstock::rpc
