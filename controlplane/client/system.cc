// What the agent wants of the machine: addresses, routes, the resolver, files.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <utility>

#include "controlplane/client/client.h"
#include "controlplane/core/convert.h"
#include "controlplane/io/file.h"
#include "controlplane/io/portal_addresses.h"

namespace penstock::client {

void Client::report(const std::vector<std::string>& failures) const {
  for (const std::string& failure : failures) spdlog::warn("{}", failure);
}

void Client::apply_interface() {
  const InterfaceState state = agent_->interface();
  std::set<IpAddress> wanted;
  // The tunnel addresses first: the kernel takes the first address of a device as the source where no route says.
  const std::array<IpAddress, 4> in_order = {state.tunnel_v4, state.tunnel_v6, state.resolver_v4, state.resolver_v6};
  for (const IpAddress& address : in_order)
    if (!address.is_unspecified()) wanted.insert(address);
  for (const IpAddress& address : assigned_)
    if (!wanted.contains(address)) netlink_->remove_address(tun_->index(), address);
  std::erase_if(assigned_, [&](const IpAddress& address) { return !wanted.contains(address); });
  for (const IpAddress& address : in_order) {
    if (address.is_unspecified() || assigned_.contains(address)) continue;
    if (const int error = netlink_->add_address(tun_->index(), address); error != 0) {
      spdlog::warn("address {} on {}: {}", address.to_string(), tun_->name(), std::strerror(error));
      continue;
    }
    assigned_.insert(address);
  }
  apply_routes(state);
  apply_resolver(state);
}

void Client::apply_routes(const InterfaceState& state) {
  // A route without a source address of its family would carry packets that nobody could answer.
  const auto source = [&](const IpAddress& address) { return assigned_.contains(address) ? address : IpAddress{}; };
  const IpAddress source_v4 = source(state.tunnel_v4);
  const IpAddress source_v6 = source(state.tunnel_v6);
  std::set<IpAddress> exceptions(state.exceptions.begin(), state.exceptions.end());
  exceptions.insert(portal_addresses_.begin(), portal_addresses_.end());
  std::set<Prefix> prefixes;
  for (const Prefix& prefix : state.routes) {
    if (!(prefix.address().is_v4() ? source_v4 : source_v6).is_unspecified()) prefixes.insert(prefix);
  }
  report(routes_->set_exceptions(exceptions));
  report(routes_->set_sources(source_v4, source_v6));
  report(routes_->set_prefixes(prefixes));
}

void Client::apply_resolver(const InterfaceState& state) {
  std::vector<IpAddress> addresses;
  for (const IpAddress& address : {state.resolver_v4, state.resolver_v6})
    if (assigned_.contains(address)) addresses.push_back(address);
  if (addresses == listening_) return;
  listening_ = addresses;
  io::DnsListenerConfig listener;
  listener.addresses = addresses;
  listener.device = tun_->index();
  report(listener_->open(listener));
  if (config_.dns_mode == DnsMode::off || addresses.empty()) return;
  std::string error;
  if (!resolv_conf_->set(addresses, error)) spdlog::error("resolv.conf cannot be set: {}", error);
}

void Client::apply_upstreams() {
  std::vector<Endpoint> upstreams;
  for (const IpAddress& address : agent_->portal_upstreams()) upstreams.push_back({address, 53});
  if (upstreams.empty()) upstreams = config_.upstreams;
  if (upstreams.empty()) upstreams = io::parse_nameservers(resolv_conf_->original());
  agent_->set_upstreams(std::move(upstreams), io::Loop::now());
}

void Client::refresh_local_addresses() {
  std::vector<Endpoint> hosts;
  for (const io::InterfaceAddress& address : netlink_->addresses()) {
    if (address.device == tun_->index() || !address.global) continue;
    const std::size_t family = address.address.is_v4() ? 0 : 1;
    if (family >= sockets_.size()) continue;
    hosts.push_back({address.address, sockets_[family]->socket.local().port});
  }
  std::sort(hosts.begin(), hosts.end());
  const bool first = hosts_.empty();
  if (hosts == hosts_ && !first) return;
  hosts_ = hosts;
  std::vector<Endpoint> locals;
  for (const auto& socket : sockets_) locals.push_back(socket->socket.local());
  agent_->handle_local_addresses(locals, hosts_, io::Loop::now());
  if (!first && signaling_) {
    signaling_->suspect();
    refresh_portal_addresses();
  }
  drain();
}

// The portal's stream cannot be marked; its addresses are kept out of the tunnel by routes.
void Client::refresh_portal_addresses() {
  if (!config_.portal || looking_up_) return;
  const bool by_proxy = !config_.proxy.empty();
  const auto host_port = io::parse_host_port(by_proxy ? config_.proxy : config_.portal->address);
  if (!host_port) return;
  looking_up_ = true;
  std::thread([this, by_proxy, host_port = *host_port, gate = gate_] {
    std::string error;
    auto found = io::resolve_blocking(host_port, error);
    gate->post([this, by_proxy, gate, found = std::move(found)] {
      if (gate->closed()) return;
      looking_up_ = false;
      if (found.empty()) return;  // what was known stays
      if (by_proxy) proxy_ = found.front();
      std::set<IpAddress> addresses;
      for (const Endpoint& endpoint : found) addresses.insert(endpoint.address);
      if (addresses == portal_addresses_) return;
      portal_addresses_ = std::move(addresses);
      apply_interface();
    });
  }).detach();
}

void Client::save_names() {
  names_timer_armed_ = false;
  const std::uint64_t revision = agent_->names().revision();
  if (revision == saved_names_ || !names_file_) return;
  names_file_->save(agent_->names().serialise());
  saved_names_ = revision;
}

void Client::save_timestamp() {
  const wireguard::Timestamp& timestamp = agent_->last_timestamp();
  timestamp_file_->save(hex({reinterpret_cast<const char*>(timestamp.data()), timestamp.size()}) + "\n");
}

}  // namespace penstock::client
