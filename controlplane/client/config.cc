#include "controlplane/client/config.h"

#include <algorithm>
#include <set>

#include "controlplane/io/file.h"
#include "controlplane/io/portal_addresses.h"
#include "dataplane/core/policy/pattern.h"
#include "dataplane/runtime/key_file.h"
#include "dataplane/runtime/yaml_reader.h"

namespace penstock::client {
namespace {

using runtime::YamlFailure;
using runtime::YamlMap;
using runtime::YamlValue;

constexpr std::uint16_t kMinMtu = 1280;  // IPv6's own minimum, RFC 8200 §5
constexpr std::uint16_t kMaxMtu = 9000;
constexpr std::uint16_t kDnsPort = 53;

std::string read_text(const YamlValue& from) {
  std::string error;
  auto content = io::read_file(from.text(), error);
  if (!content) from.fail(error);
  return *content;
}

std::string read_token(const YamlValue& from) {
  std::string token = read_text(from);
  while (!token.empty() && std::isspace(static_cast<unsigned char>(token.back())) != 0) token.pop_back();
  if (token.empty()) from.fail("names a file without a token");
  const bool clean = std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < 0x7f; });
  if (!clean) from.fail("names a file whose token holds spaces or control characters");
  return token;
}

io::SignalingConfig read_portal(const YamlValue& from, const YamlValue& token_file) {
  YamlMap map(from);
  io::SignalingConfig out;
  const YamlValue address = map.require("address");
  out.address = address.text();
  if (const std::string why = io::check_portal_address(out.address); !why.empty()) address.fail(why);
  if (const YamlValue name = map["server_name"]; !name.absent()) out.server_name = name.text();
  if (const YamlValue file = map["ca_file"]; !file.absent()) out.ca_pem = read_text(file);
  map.finish();
  out.token = read_token(token_file);
  return out;
}

std::vector<policy::PortRange> read_ports(const YamlValue& from) {
  std::vector<policy::PortRange> out;
  for (const YamlValue& value : from.list()) {
    const auto [first, last] = value.port_range();
    out.push_back({first, last});
  }
  return out;
}

policy::Filter read_filter(const YamlValue& from) {
  policy::Filter out;
  if (from.absent()) return out;
  YamlMap map(from);
  out.tcp = read_ports(map["tcp"]);
  out.udp = read_ports(map["udp"]);
  if (const YamlValue icmp = map["icmp"]; !icmp.absent()) out.icmp_echo = icmp.boolean();
  map.finish();
  out.all = out.tcp.empty() && out.udp.empty() && !out.icmp_echo;
  return out;
}

Resource read_resource(const YamlValue& from) {
  YamlMap map(from);
  Resource out;
  out.id = map.require("id").text();
  const YamlValue kind = map.require("kind");
  const std::string word = kind.text();
  if (word == "dns") {
    out.kind = policy::ResourceKind::dns;
    const YamlValue pattern = map.require("pattern");
    out.pattern = pattern.text();
    if (!policy::Pattern::parse(out.pattern)) pattern.fail("must be a name pattern (**.corp.example)");
  } else if (word == "address" || word == "cidr") {
    out.kind = word == "cidr" ? policy::ResourceKind::cidr : policy::ResourceKind::address;
    const YamlValue prefix = map.require("prefix");
    out.prefix = prefix.prefix();
    const unsigned host = out.prefix.address().is_v4() ? 32 : 128;
    if (word == "address" && out.prefix.length() != host) prefix.fail("must be one address");
  } else if (word == "internet") {
    out.kind = policy::ResourceKind::internet;
  } else {
    kind.fail("must be dns, address, cidr or internet");
  }
  out.filter = read_filter(map["filter"]);
  if (const YamlValue stack = map["ip_stack"]; !stack.absent()) {
    const std::string text = stack.text();
    if (text == "ipv4") {
      out.ip_stack = IpStack::ipv4;
    } else if (text == "ipv6") {
      out.ip_stack = IpStack::ipv6;
    } else if (text != "dual") {
      stack.fail("must be dual, ipv4 or ipv6");
    }
  }
  map.finish();
  return out;
}

Prefix read_pool(const YamlValue& from, const Prefix& otherwise) {
  if (from.absent()) return otherwise;
  const Prefix out = from.prefix();
  if (out.address().is_v4() != otherwise.address().is_v4()) from.fail("is of the wrong family");
  return out;
}

void read_pools(const YamlValue& from, GatewayFile& out) {
  if (from.absent()) return;
  YamlMap map(from);
  out.names.pool_v4 = read_pool(map["proxy_v4"], out.names.pool_v4);
  out.names.pool_v6 = read_pool(map["proxy_v6"], out.names.pool_v6);
  for (const bool v6 : {false, true}) {
    const YamlValue value = map[v6 ? "resolver_v6" : "resolver_v4"];
    if (value.absent()) continue;
    const IpAddress address = value.address();
    if (address.is_v6() != v6) value.fail("is of the wrong family");
    out.resolver.sentinels[v6 ? 1 : 0] = address;
    out.names.excluded.emplace_back(address, v6 ? 112 : 24);
  }
  map.finish();
}

GatewayFile read_gateway_file(const YamlValue& root) {
  YamlMap map(root);
  GatewayFile out;
  {
    YamlMap gateway(map.require("gateway"));
    const YamlValue key = gateway.require("public_key");
    const auto public_key = wireguard::PublicKey::parse(key.text());
    if (!public_key) key.fail("must be a key of 32 bytes in base64");
    out.gateway.public_key = *public_key;
    if (const YamlValue file = gateway["preshared_key_file"]; !file.absent()) {
      const auto secret = runtime::read_key_file(file.text());
      if (const auto* error = std::get_if<runtime::KeyFileError>(&secret)) file.fail(error->reason);
      out.gateway.preshared_key.bytes = std::get<0>(secret);
    }
    const YamlValue endpoints = gateway.require("endpoints");
    for (const YamlValue& value : endpoints.list()) out.gateway.endpoints.push_back(value.endpoint());
    if (out.gateway.endpoints.empty()) endpoints.fail("must name an address");
    gateway.finish();
  }
  const YamlValue addresses = map.require("tunnel_addresses");
  for (const YamlValue& value : addresses.list()) {
    const IpAddress address = value.address();
    IpAddress& slot = address.is_v4() ? out.gateway.tunnel_v4 : out.gateway.tunnel_v6;
    if (!slot.is_unspecified()) value.fail("is a second address of that family");
    slot = address;
  }
  if (addresses.list().empty()) addresses.fail("must name an address");
  read_pools(map["pools"], out);
  std::set<std::string> ids;
  for (const YamlValue& value : map["resources"].list()) {
    Resource resource = read_resource(value);
    if (!ids.insert(resource.id).second) value.fail("has an id that is given twice");
    out.gateway.resources.push_back(std::move(resource));
  }
  map.finish();
  return out;
}

Config read_config(const YamlValue& root, std::string& gateway_file) {
  YamlMap map(root);
  Config out;
  {
    YamlMap control(map["control"]);
    if (const YamlValue socket = control["socket"]; !socket.absent()) out.control_socket = socket.text();
    control.finish();
  }
  if (const YamlValue directory = map["state_directory"]; !directory.absent()) out.state_directory = directory.text();
  out.private_key_file = out.state_directory + "/key";
  if (const YamlValue key = map["private_key_file"]; !key.absent()) out.private_key_file = key.text();

  const YamlValue portal = map["portal"];
  const YamlValue token = map["token_file"];
  const YamlValue file = map["gateway_file"];
  if (!portal.absent() && !file.absent()) file.fail("and portal exclude each other");
  if (portal.absent() && file.absent()) portal.fail("is missing (and so is gateway_file)");
  if (!portal.absent()) {
    if (token.absent()) token.fail("is missing");
    out.portal = read_portal(portal, token);
  } else {
    gateway_file = file.text();
  }

  if (const YamlValue proxy = map["proxy"]; !proxy.absent()) {
    out.proxy = proxy.text();
    if (!io::parse_host_port(out.proxy)) proxy.fail("must be host:port");
    if (!out.portal) proxy.fail("is of use with a portal only");
    out.portal->proxy = out.proxy;
  }
  {
    YamlMap tun(map["tun"]);
    if (const YamlValue name = tun["name"]; !name.absent()) {
      out.tun_name = name.text();
      if (out.tun_name.size() > 15 || out.tun_name.find_first_of("/ %") != std::string::npos)
        name.fail("must be a name for a network device, at most 15 characters");
    }
    if (const YamlValue mtu = tun["mtu"]; !mtu.absent())
      out.mtu = static_cast<std::uint16_t>(mtu.integer(kMinMtu, kMaxMtu));
    tun.finish();
  }
  if (const YamlValue offload = map["offload"]; !offload.absent()) {
    const std::string word = offload.text();
    out.offload = word == "auto";
    if (!out.offload && word != "off" && word != "false") offload.fail("must be auto or off");
  }
  if (const YamlValue protocol = map["protocol"]; !protocol.absent()) {
    const auto version = spoken_protocol(protocol.text());
    if (!version) protocol.fail("must be 1.0 or 1.1");
    out.protocol = *version;
  }
  if (const YamlValue port = map["listen_port"]; !port.absent())
    out.listen_port = static_cast<std::uint16_t>(port.integer(0, 65535));
  {
    YamlMap dns(map["dns"]);
    if (const YamlValue mode = dns["mode"]; !mode.absent()) {
      const std::string word = mode.text();
      // YAML 1.1 readers take a bare `off` for false; both are meant.
      if (word == "off" || word == "false") {
        out.dns_mode = DnsMode::off;
      } else if (word != "resolv_conf") {
        mode.fail("must be resolv_conf or off");
      }
    }
    for (const YamlValue& value : dns["upstreams"].list()) {
      if (const auto address = IpAddress::parse(value.text())) {
        out.upstreams.push_back({*address, kDnsPort});
      } else {
        out.upstreams.push_back(value.endpoint());
      }
    }
    dns.finish();
  }
  map.finish();
  return out;
}

template <typename Reader>
std::optional<ConfigError> with_document(const std::string& file, Reader reader) {
  std::string error;
  const auto content = io::read_file(file, error);
  if (!content) return ConfigError{file, "", error.substr(std::min(error.size(), file.size() + 2))};
  try {
    reader(YamlValue(YAML::Load(*content), ""));
  } catch (const YamlFailure& failure) {
    return ConfigError{file, failure.key, failure.reason};
  } catch (const YAML::Exception& failure) {
    return ConfigError{file, "", "line " + std::to_string(failure.mark.line + 1) + ": " + failure.msg};
  }
  return std::nullopt;
}

}  // namespace

std::variant<Config, ConfigError> load_config(const std::string& file) {
  Config out;
  std::string gateway_file;
  if (auto error = with_document(file, [&](const YamlValue& root) { out = read_config(root, gateway_file); }))
    return *error;
  if (gateway_file.empty()) return out;
  if (auto error =
          with_document(gateway_file, [&](const YamlValue& root) { out.gateway_file = read_gateway_file(root); }))
    return *error;
  return out;
}

}  // namespace penstock::client
