#include "dataplane/runtime/config_static.h"

#include <fmt/format.h>

#include "dataplane/runtime/key_file.h"
#include "dataplane/runtime/policy_store.h"

namespace penstock::runtime {
namespace {

void add(Config& config, Operation operation, const std::string& path) {
  config.static_operations.push_back(std::move(operation));
  config.static_keys.push_back(path);
}

PeerSpec read_peer(YamlMap& root) {
  PeerSpec peer;
  const YamlValue key = root.require("public_key");
  const auto public_key = parse_key(key.text());
  if (!public_key) key.fail("must be a key of 32 bytes in base64");
  peer.public_key = *public_key;
  if (auto file = root["preshared_key_file"]; !file.absent()) {
    const auto secret = read_key_file(file.text());
    if (const auto* error = std::get_if<KeyFileError>(&secret)) file.fail(error->reason);
    peer.preshared_key = std::get<KeyBytes>(secret);
  }
  for (const auto& value : root.require("tunnel_addresses").list()) {
    const IpAddress address = value.address();
    IpAddress& slot = address.is_v4() ? peer.tunnel_v4 : peer.tunnel_v6;
    if (!slot.is_unspecified()) value.fail("is a second address of that family");
    slot = address;
  }
  for (const auto& value : root["allowed_sources"].list()) peer.extra_sources.push_back(value.prefix());
  if (auto endpoint = root["endpoint"]; !endpoint.absent()) peer.endpoints.push_back(endpoint.endpoint());
  if (auto keepalive = root["persistent_keepalive"]; !keepalive.absent()) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(keepalive.duration());
    if (seconds > std::chrono::seconds(65535) || seconds != keepalive.duration())
      keepalive.fail("must be whole seconds, up to 65535s");
    peer.persistent_keepalive_s = static_cast<std::uint16_t>(seconds.count());
  }
  if (auto control = root["control"]; !control.absent()) peer.control = control.boolean();
  return peer;
}

AuthorisationSpec read_authorisation(const YamlValue& value) {
  YamlMap root(value);
  AuthorisationSpec out;
  out.resource = root.require("resource").text();
  int kinds = 0;
  if (auto cidr = root["cidr"]; !cidr.absent()) {
    ++kinds;
    out.kind = policy::ResourceKind::cidr;
    out.prefix = cidr.prefix();
  }
  if (auto address = root["address"]; !address.absent()) {
    ++kinds;
    out.kind = policy::ResourceKind::address;
    const IpAddress host = address.address();
    out.prefix = Prefix(host, host.is_v4() ? 32 : 128);
  }
  if (auto dns = root["dns"]; !dns.absent()) {
    ++kinds;
    out.kind = policy::ResourceKind::dns;
    out.pattern = dns.text();
  }
  if (auto internet = root["internet"]; !internet.absent()) {
    if (!internet.boolean()) internet.fail("must be true when given");
    ++kinds;
    out.kind = policy::ResourceKind::internet;
  }
  if (kinds != 1) value.fail("needs exactly one of dns, address, cidr and internet");
  for (const auto& range : root["tcp"].list()) out.filter.tcp.push_back(range.port_range());
  for (const auto& range : root["udp"].list()) out.filter.udp.push_back(range.port_range());
  if (auto icmp = root["icmp"]; !icmp.absent()) out.filter.icmp_echo = icmp.boolean();
  root.finish();
  return out;
}

TranslationSpec read_translation(const YamlValue& value) {
  YamlMap root(value);
  TranslationSpec out;
  out.resource = root.require("resource").text();
  out.name = root.require("name").text();
  if (auto proxy = root["proxy_v4"]; !proxy.absent()) {
    out.proxy_v4 = proxy.address();
    if (!out.proxy_v4.is_v4()) proxy.fail("must be an IPv4 address");
  }
  if (auto proxy = root["proxy_v6"]; !proxy.absent()) {
    out.proxy_v6 = proxy.address();
    if (!out.proxy_v6.is_v6()) proxy.fail("must be an IPv6 address");
  }
  for (const auto& address : root.require("addresses").list()) out.addresses.push_back(address.address());
  if (out.addresses.empty()) root["addresses"].fail("needs at least one address");
  out.state = policy::TranslationState::active;
  root.finish();
  return out;
}

// Takes every change; for checking only.
class NullSink final : public PolicySink {
 public:
  void change_peers(std::span<PeerChange> changes) override {
    for (auto& change : changes)
      if (change.kind == PeerChange::Kind::add) change.peer = next_++;
  }
  void publish(std::span<PolicyPublication>, bool) override {}

 private:
  PeerIndex next_ = 0;
};

}  // namespace

void read_static(const YamlValue& section, Config& config) {
  YamlMap root(section);
  const auto peers = root["peers"].list();
  for (std::size_t p = 0; p < peers.size(); ++p) {
    YamlMap entry(peers[p]);
    const PeerSpec peer = read_peer(entry);
    add(config, peer, peers[p].path());
    std::size_t n = 0;
    for (const auto& value : entry["authorisations"].list()) {
      AuthorisationSpec authorisation = read_authorisation(value);
      authorisation.peer = peer.public_key;
      authorisation.id = fmt::format("static/{}/a{}", p, n++);
      add(config, std::move(authorisation), value.path());
    }
    n = 0;
    for (const auto& value : entry["translations"].list()) {
      TranslationSpec translation = read_translation(value);
      translation.peer = peer.public_key;
      translation.id = fmt::format("static/{}/t{}", p, n++);
      add(config, std::move(translation), value.path());
    }
    entry.finish();
  }
  root.finish();
}

void check_static(const gateway::Configuration& path, const Config& config) {
  NullSink sink;
  PolicyStore store(sink, config.pools, {.max_peers = config.max_peers}, own_addresses(path));
  const auto result = store.apply({.operations = config.static_operations}, PolicyStore::Origin::file);
  if (!result.errors.empty()) {
    const auto& error = result.errors.front();
    throw YamlFailure{config.static_keys[error.index], error.message};
  }
}

std::vector<IpAddress> own_addresses(const gateway::Configuration& path) {
  std::vector<IpAddress> out;
  path.ours.for_each([&](const gateway::AddressSet::Entry& entry) { out.push_back(entry.address); });
  return out;
}

}  // namespace penstock::runtime
