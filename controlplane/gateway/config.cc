#include "controlplane/gateway/config.h"

#include <unistd.h>

#include <algorithm>

#include "controlplane/io/file.h"
#include "dataplane/runtime/yaml_reader.h"

namespace penstock::gateway {
namespace {

using runtime::YamlFailure;
using runtime::YamlMap;
using runtime::YamlValue;

std::string content_of(const YamlValue& value) {
  std::string error;
  auto content = io::read_file(value.text(), error);
  if (!content) value.fail(error);
  return std::move(*content);
}

std::string token_of(const YamlValue& value) {
  std::string token = content_of(value);
  const std::size_t last = token.find_last_not_of(" \t\r\n");
  token.erase(last == std::string::npos ? 0 : last + 1);
  if (token.empty()) value.fail("holds no token");
  // It travels in an HTTP header.
  if (!std::all_of(token.begin(), token.end(), [](char c) { return c > 0x20 && c < 0x7f; }))
    value.fail("holds characters that no token has");
  return token;
}

void socket_of(YamlMap& map, const char* key, std::string& slot) {
  YamlMap section{map[key]};
  if (const YamlValue socket = section["socket"]; !socket.absent()) slot = socket.text();
  section.finish();
}

Config parse(const YAML::Node& document) {
  YamlMap map{YamlValue{document, ""}};
  Config out;
  socket_of(map, "dataplane", out.dataplane_socket);
  socket_of(map, "control", out.control_socket);
  {
    YamlMap portal{map.require("portal")};
    const YamlValue address = portal.require("address");
    out.portal.address = address.text();
    if (const std::string error = io::check_portal_address(out.portal.address); !error.empty()) address.fail(error);
    if (const YamlValue name = portal["server_name"]; !name.absent()) out.portal.server_name = name.text();
    if (const YamlValue ca = portal["ca_file"]; !ca.absent()) out.portal.ca_pem = content_of(ca);
    portal.finish();
  }
  out.portal.token = token_of(map.require("token_file"));
  for (const YamlValue& entry : map["nameservers"].list()) {
    const auto address = IpAddress::parse(entry.text());
    out.nameservers.push_back(address ? Endpoint{*address, 53} : entry.endpoint());
  }
  for (const YamlValue& entry : map["candidates"].list()) out.agent.candidates.push_back(entry.endpoint());
  for (const YamlValue& entry : map["punch_allowed"].list()) out.agent.punch_allowed.push_back(entry.prefix());
  for (const YamlValue& entry : map["nat64_prefixes"].list()) {
    const Prefix prefix = entry.prefix();
    if (!prefix.address().is_v6() || !policy::is_rfc6052_length(prefix.length()))
      entry.fail("must be an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits");
    out.agent.nat64_prefixes.push_back(prefix);
  }
  {
    YamlMap pools{map["pools"]};
    const auto prefix = [&](const char* key, Prefix& slot) {
      if (const YamlValue entry = pools[key]; !entry.absent()) slot = entry.prefix();
    };
    prefix("tunnel_v4", out.agent.tunnel_v4);
    prefix("tunnel_v6", out.agent.tunnel_v6);
    prefix("proxy_v4", out.agent.proxy_v4);
    prefix("proxy_v6", out.agent.proxy_v6);
    pools.finish();
  }
  if (const YamlValue protocol = map["protocol"]; !protocol.absent()) {
    const auto version = spoken_protocol(protocol.text());
    if (!version) protocol.fail("must be 1.0 or 1.1");
    out.agent.protocol = *version;
  }
  if (const YamlValue goodbye = map["goodbye_on_exit"]; !goodbye.absent()) out.goodbye_on_exit = goodbye.boolean();
  if (const YamlValue state = map["state_directory"]; !state.absent()) static_cast<void>(state.text());
  map.finish();
  char host[256] = {};
  if (gethostname(host, sizeof host - 1) == 0) out.agent.hostname = host;
  return out;
}

}  // namespace

std::variant<Config, ConfigError> load_config(const std::string& file) {
  try {
    return parse(YAML::LoadFile(file));
  } catch (const YamlFailure& failure) {
    return ConfigError{failure.key, failure.reason};
  } catch (const YAML::BadFile&) {
    return ConfigError{"", "cannot be read"};
  } catch (const YAML::Exception& error) {
    return ConfigError{"", "line " + std::to_string(error.mark.line + 1) + ": " + error.msg};
  }
}

}  // namespace penstock::gateway
