// Client: a WireGuard client on the harness's network.
#include <gtest/gtest.h>

#include <algorithm>

#include "dataplane/gateway/wire.h"
#include "tests/unit/gateway/harness.h"

namespace penstock::gateway::test {

Client::Client(Gateway& gateway, const Endpoint& endpoint, std::uint64_t seed, bool control)
    : Listener(gateway),
      tunnel_v4(IpAddress::v4(0x64400000 + static_cast<std::uint32_t>(seed))),
      tunnel_v6(ip("fd00:2021:1111::" + std::to_string(seed))),
      address(endpoint),
      gateway_address{endpoint.address.is_v4() ? gateway.configuration.tunnel_v4 : gateway.configuration.tunnel_v6,
                      gateway.configuration.tunnel.listen_port},
      random_(seed) {
  wireguard::DeviceConfig config;
  config.private_key = private_key(seed + 1000);
  config.aead = "openssl";
  device_ = std::make_unique<wireguard::Device>(config, random_);
  wireguard::PeerConfig there;
  there.public_key = gateway.public_key;
  there.endpoints = {gateway_address};
  there_ = device_->add_peer(there, gateway.now()).peer;
  wireguard::PeerConfig here;
  here.public_key = device_->public_key();
  here.path_switch = control;
  peer = gateway.add_peer(here);
}

std::unique_ptr<policy::PeerPolicy> Client::policy() const {
  auto out = std::make_unique<policy::PeerPolicy>();
  out->peer = peer;
  out->tunnel_v4 = tunnel_v4;
  out->tunnel_v6 = tunnel_v6;
  out->control = true;
  policy::Authorisation lan;
  lan.id = "lan4";
  lan.resource = "lan4";
  lan.kind = policy::ResourceKind::cidr;
  lan.prefix = *Prefix::parse("203.0.113.0/24");
  out->authorisations.push_back(lan);
  lan.id = lan.resource = "lan6";
  lan.prefix = *Prefix::parse("2001:db8:1a::/64");
  out->authorisations.push_back(lan);
  policy::Authorisation names;
  names.id = names.resource = "names";
  names.kind = policy::ResourceKind::dns;
  out->authorisations.push_back(names);
  return out;
}

void Client::send_datagram(const Endpoint& from, const Octets& payload, std::uint16_t worker, std::uint8_t tos) {
  IpOptions options;
  options.tos = tos;
  constexpr MacAddress kRouter = {0x02, 0, 0, 0, 0, 0x99};
  gateway_.receive(kWan, frame(kRouter, kWanMac, udp_packet(from, gateway_address, payload, options)), worker);
}

void Client::flush() {
  while (const auto output = device_->poll_output()) send_datagram(address, output->bytes);
  while (device_->poll_event()) {
  }
}

Instant Client::on_time(Now now) {
  if (device_->poll_timeout().at <= now.monotonic) device_->handle_timeout(now);
  flush();
  return device_->poll_timeout().at;
}

void Client::connect() {
  ASSERT_TRUE(try_connect()) << gateway_.describe_drops();
}

bool Client::try_connect() {
  device_->want_session(there_, gateway_.now());
  flush();
  for (int i = 0; i < 150 && device_->data_path().sending_session(there_, gateway_.now().monotonic) == nullptr; ++i)
    gateway_.run(100ms);
  return device_->data_path().sending_session(there_, gateway_.now().monotonic) != nullptr;
}

void Client::send(const Octets& inner) {
  EXPECT_EQ(device_->send(there_, inner, gateway_.now()), DropReason::none);
  flush();
}

Octets Client::seal(const Octets& inner) {
  Octets buffer(16 + inner.size() + 64);
  std::copy(inner.begin(), inner.end(), buffer.begin() + 16);
  wireguard::Outbound out;
  out.inner = buffer.data() + 16;
  out.length = static_cast<std::uint32_t>(inner.size());
  const auto sealed = device_->seal(there_, {&out, 1}, gateway_.now());
  EXPECT_EQ(sealed.reason, DropReason::none);
  return copy(out.datagram);
}

void Client::send_from(const Endpoint& from, const Octets& inner) {
  send_datagram(from, seal(inner));
}

wireguard::ReceptionReport Client::reception() const {
  return device_->data_path().reception(there_, gateway_.now().monotonic);
}

bool Client::take(PortIndex, const Octets& packet) {
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none || parse.view.protocol != ip_protocol::udp) return false;
  const auto* udp = view_as<UdpHeader>(Bytes{packet}.subspan(parse.view.header_length));
  const Endpoint to{ip_destination(packet, parse.view), udp->destination_port.host()};
  if (to != address && std::find(more_addresses.begin(), more_addresses.end(), to) == more_addresses.end())
    return false;
  if (std::find(dead.begin(), dead.end(), to) != dead.end()) return true;
  Octets payload(packet.begin() + parse.view.header_length + 8, packet.begin() + parse.view.total_length);
  const Octets datagram = payload;
  if (loses && loses(datagram)) return true;
  const Path from{to, {ip_source(packet, parse.view), udp->source_port.host()}, 0};
  const auto result = device_->handle_datagram(payload, from, gateway_.now());
  // Several clients may share an address; what this one cannot use is another's.
  if (result.reason == DropReason::wg_unknown_index || result.reason == DropReason::wg_mac1) return false;
  datagrams.push_back(datagram);
  if (result.reason == DropReason::wg_keepalive) ++keepalives;
  if (!result.inner.empty()) {
    received.push_back(copy(result.inner));
    received_from.push_back(to);
  }
  flush();
  return true;
}

}  // namespace penstock::gateway::test
