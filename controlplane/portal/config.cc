#include "controlplane/portal/config.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "controlplane/core/convert.h"
#include "dataplane/runtime/yaml_reader.h"

namespace penstock::portal {
namespace {

using runtime::YamlFailure;
using runtime::YamlMap;
using runtime::YamlValue;

std::string read_file(const YamlValue& value) {
  const std::string path = value.text();
  std::ifstream in{path, std::ios::binary};
  std::ostringstream content;
  content << in.rdbuf();
  if (!in) value.fail("cannot read " + path);
  return content.str();
}

std::string trimmed(std::string text) {
  const std::size_t last = text.find_last_not_of(" \t\r\n");
  text.erase(last == std::string::npos ? 0 : last + 1);
  return text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
}

std::string id_of(YamlMap& map) {
  const YamlValue value = map.require("id");
  std::string id = value.text();
  if (!broker::valid_id(id)) value.fail("must be 1 to 64 of A-Z a-z 0-9 . _ -");
  return id;
}

broker::Sha256 digest_of(const YamlValue& value) {
  const auto bytes = from_hex(value.text());
  broker::Sha256 out{};
  if (!bytes || bytes->size() != out.size()) value.fail("must be the 64 hexadecimal digits of a SHA-256");
  std::copy(bytes->begin(), bytes->end(), reinterpret_cast<char*>(out.data()));
  return out;
}

// "2027-01-31T12:00:00Z" or "2027-01-31".
WallTime wall_time(const YamlValue& value) {
  const std::string text = value.text();
  for (const char* format : {"%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"}) {
    std::tm parts{};
    const char* end = strptime(text.c_str(), format, &parts);
    if (end == nullptr || *end != '\0') continue;
    const std::time_t seconds = timegm(&parts);
    if (seconds > 0) return {static_cast<std::uint64_t>(seconds), 0};
  }
  value.fail("must be a date (2027-01-31) or a time in UTC (2027-01-31T12:00:00Z)");
}

std::uint16_t minute_of_day(const YamlValue& value) {
  const std::string text = value.text();
  unsigned hour = 0;
  unsigned minute = 0;
  char rest = 0;
  if (std::sscanf(text.c_str(), "%2u:%2u%c", &hour, &minute, &rest) != 2 || minute > 59 || hour * 60 + minute > 24 * 60)
    value.fail("must be a time of day in UTC from \"00:00\" to \"24:00\"");
  return static_cast<std::uint16_t>(hour * 60 + minute);
}

broker::TimeWindow time_window(const YamlValue& value) {
  static constexpr const char* kDays[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};
  YamlMap map{value};
  broker::TimeWindow out;
  if (const YamlValue days = map["days"]; !days.absent()) {
    out.days = 0;
    for (const YamlValue& day : days.list()) {
      const auto* found = std::find(std::begin(kDays), std::end(kDays), day.text());
      if (found == std::end(kDays)) day.fail("must be one of sun mon tue wed thu fri sat");
      out.days = static_cast<std::uint8_t>(out.days | 1U << (found - std::begin(kDays)));
    }
  }
  out.from_minute = minute_of_day(map.require("from"));
  out.to_minute = minute_of_day(map.require("to"));
  map.finish();
  return out;
}

broker::Conditions conditions(const YamlValue& value) {
  YamlMap map{value};
  broker::Conditions out;
  for (const YamlValue& range : map["client_ranges"].list()) out.client_ranges.push_back(range.prefix());
  for (const YamlValue& window : map["time_windows"].list()) out.time_windows.push_back(time_window(window));
  if (const YamlValue expires = map["expires"]; !expires.absent()) out.expires = wall_time(expires);
  map.finish();
  return out;
}

void add_ranges(const YamlValue& value, google::protobuf::RepeatedPtrField<v1::PortRange>* into) {
  for (const YamlValue& entry : value.list()) {
    const auto [first, last] = entry.port_range();
    v1::PortRange& range = *into->Add();
    range.set_first(first);
    range.set_last(last);
  }
}

void filter(const YamlValue& value, v1::Resource& resource) {
  if (value.absent()) return;
  YamlMap map{value};
  add_ranges(map["tcp"], resource.mutable_filter()->mutable_tcp());
  add_ranges(map["udp"], resource.mutable_filter()->mutable_udp());
  if (const YamlValue icmp = map["icmp"]; !icmp.absent()) resource.mutable_filter()->set_icmp_echo(icmp.boolean());
  map.finish();
}

v1::Resource resource(YamlMap& map, const std::string& id) {
  v1::Resource out;
  out.set_id(id);
  if (const YamlValue name = map["name"]; !name.absent()) out.set_name(name.text());
  out.set_site(map.require("site").text());
  const YamlValue kind = map.require("kind");
  const std::string text = kind.text();
  if (text == "dns") {
    out.set_kind(v1::RESOURCE_KIND_DNS);
    out.set_pattern(map.require("pattern").text());
  } else if (text == "address" || text == "cidr") {
    out.set_kind(text == "cidr" ? v1::RESOURCE_KIND_CIDR : v1::RESOURCE_KIND_ADDRESS);
    const YamlValue value = map.require("prefix");
    const Prefix prefix = value.prefix();
    if (text == "address" && prefix.length() != (prefix.address().is_v4() ? 32 : 128))
      value.fail("must be one address; kind cidr takes prefixes");
    *out.mutable_prefix() = to_proto(prefix);
  } else if (text == "internet") {
    out.set_kind(v1::RESOURCE_KIND_INTERNET);
  } else {
    kind.fail("must be dns, address, cidr or internet");
  }
  filter(map["filter"], out);
  if (const YamlValue stack = map["ip_stack"]; !stack.absent()) {
    const std::string which = stack.text();
    if (which != "dual" && which != "ipv4" && which != "ipv6") stack.fail("must be dual, ipv4 or ipv6");
    out.set_ip_stack(which == "ipv4" ? v1::IP_STACK_IPV4 : which == "ipv6" ? v1::IP_STACK_IPV6 : v1::IP_STACK_DUAL);
  }
  return out;
}

broker::RelayStreamServer relay_stream(const YamlValue& value, bool tls) {
  YamlMap map{value};
  broker::RelayStreamServer out;
  out.endpoint = map.require("endpoint").endpoint();
  out.tls = tls;
  if (const YamlValue name = map["name"]; !name.absent()) {
    if (!tls) name.fail("only TLS has a name");
    out.name = name.text();
  }
  map.finish();
  return out;
}

broker::RelayConfig relay(const YamlValue& value) {
  YamlMap map{value};
  broker::RelayConfig out;
  out.id = id_of(map);
  for (const YamlValue& endpoint : map.require("udp").list()) out.udp.push_back(endpoint.endpoint());
  for (const YamlValue& server : map["tcp"].list()) out.streams.push_back(relay_stream(server, false));
  for (const YamlValue& server : map["tls"].list()) out.streams.push_back(relay_stream(server, true));
  out.realm = map.require("realm").text();
  const YamlValue secret = map.require("shared_secret_file");
  out.shared_secret = trimmed(read_file(secret));
  if (out.shared_secret.empty()) secret.fail("is an empty file");
  map.finish();
  return out;
}

broker::ClientConfig client(YamlMap& map) {
  broker::ClientConfig out;
  out.token_sha256 = digest_of(map.require("token_sha256"));
  for (const YamlValue& group : map["groups"].list()) out.groups.insert(group.text());
  for (const YamlValue& entry : map["tunnel_addresses"].list()) {
    const IpAddress address = entry.address();
    IpAddress& slot = address.is_v4() ? out.fixed.v4 : out.fixed.v6;
    if (!slot.is_unspecified()) entry.fail("only one address of each family");
    slot = address;
  }
  return out;
}

void pools(const YamlValue& value, broker::Pools& into) {
  YamlMap map{value};
  const auto prefix = [&](const char* key, Prefix& slot) {
    if (const YamlValue entry = map[key]; !entry.absent()) slot = entry.prefix();
  };
  const auto address = [&](const char* key, IpAddress& slot) {
    if (const YamlValue entry = map[key]; !entry.absent()) slot = entry.address();
  };
  prefix("tunnel_v4", into.tunnel_v4);
  prefix("tunnel_v6", into.tunnel_v6);
  prefix("proxy_v4", into.proxy_v4);
  prefix("proxy_v6", into.proxy_v6);
  address("resolver_v4", into.resolver_v4);
  address("resolver_v6", into.resolver_v6);
  map.finish();
}

v1::SiteSettings site(YamlMap& map) {
  v1::SiteSettings out;
  // 0 stands for what is not said.
  const auto choice = [&map](const char* key, std::initializer_list<const char*> words) {
    const YamlValue value = map[key];
    if (value.absent()) return 0;
    const std::string text = value.text();
    std::string all;
    int at = 0;
    for (const char* word : words) {
      ++at;
      if (text == word) return at;
      all += (all.empty() ? "" : ", ") + std::string{word};
    }
    value.fail("must be one of " + all);
  };
  out.set_source_nat(static_cast<v1::SiteSettings::SourceNat>(choice("source_nat", {"on", "off"})));
  out.set_mapping(static_cast<v1::SiteSettings::Mapping>(
      choice("mapping", {"address_and_port_dependent", "endpoint_independent"})));
  out.set_filtering(static_cast<v1::SiteSettings::Filtering>(
      choice("filtering", {"address_and_port_dependent", "address_dependent", "endpoint_independent"})));
  return out;
}

// Lists of things with ids: each id once.
template <typename Build>
void each(const YamlValue& list, Build build) {
  std::set<std::string> seen;
  for (const YamlValue& entry : list.list()) {
    YamlMap map{entry};
    const std::string id = id_of(map);
    if (!seen.insert(id).second) throw YamlFailure{map.path() + ".id", "'" + id + "' is given twice"};
    build(map, id);
    map.finish();
  }
}

Config parse(const YAML::Node& document) {
  YamlMap map{YamlValue{document, ""}};
  Config out;
  {
    YamlMap control{map["control"]};
    if (const YamlValue socket = control["socket"]; !socket.absent()) out.control_socket = socket.text();
    control.finish();
  }
  if (const YamlValue listen = map["listen"]; !listen.absent()) {
    out.listen = listen.text();
    if (!Endpoint::parse(out.listen)) listen.fail("must be an address and port");
  }
  {
    YamlMap tls{map.require("tls")};
    out.certificate_pem = read_file(tls.require("certificate_file"));
    out.key_pem = read_file(tls.require("key_file"));
    tls.finish();
  }
  if (const YamlValue secret = map["secret_file"]; !secret.absent()) out.secret_file = secret.text();
  out.state_file = (std::filesystem::path{out.secret_file}.parent_path() / "portal.state").string();
  if (const YamlValue state = map["state_file"]; !state.absent()) out.state_file = state.text();
  broker::BrokerConfig& broker = out.broker;
  pools(map["pools"], broker.pools);
  for (const YamlValue& entry : map["relays"].list()) broker.relays.push_back(relay(entry));
  if (const YamlValue lifetime = map["relay_credential_lifetime"]; !lifetime.absent()) {
    broker.relay_credential_lifetime = std::chrono::duration_cast<std::chrono::seconds>(lifetime.duration());
    if (broker.relay_credential_lifetime < std::chrono::minutes{2}) lifetime.fail("must be at least 2m");
  }
  each(map["sites"], [&](YamlMap& entry, const std::string& id) {
    broker.sites.insert(id);
    if (v1::SiteSettings settings = site(entry); settings.ByteSizeLong() != 0)
      broker.site_settings[id] = std::move(settings);
  });
  each(map["gateways"], [&](YamlMap& entry, const std::string& id) {
    broker.gateways[id] = {entry.require("site").text(), digest_of(entry.require("token_sha256"))};
  });
  each(map["clients"], [&](YamlMap& entry, const std::string& id) { broker.clients[id] = client(entry); });
  each(map["resources"], [&](YamlMap& entry, const std::string& id) { broker.resources[id] = resource(entry, id); });
  for (const YamlValue& entry : map["policies"].list()) {
    YamlMap policy{entry};
    broker.policies.push_back(
        {policy.require("group").text(), policy.require("resource").text(), conditions(policy["conditions"])});
    policy.finish();
  }
  for (const YamlValue& entry : map["upstream_resolvers"].list()) broker.upstream_resolvers.push_back(entry.address());
  map.finish();
  return out;
}

}  // namespace

std::variant<Config, ConfigError> load_config(const std::string& file) {
  try {
    Config out = parse(YAML::LoadFile(file));
    if (const auto error = broker::validate(out.broker)) {
      const std::size_t colon = error->find(": ");
      return ConfigError{error->substr(0, colon), error->substr(colon + 2)};
    }
    return out;
  } catch (const YamlFailure& failure) {
    return ConfigError{failure.key, failure.reason};
  } catch (const YAML::BadFile&) {
    return ConfigError{"", "cannot be read"};
  } catch (const YAML::Exception& error) {
    return ConfigError{"", "line " + std::to_string(error.mark.line + 1) + ": " + error.msg};
  }
}

std::string load_secret(const std::string& file, std::string& error) {
  const auto directory = std::filesystem::path{file}.parent_path();
  std::error_code code;
  if (!directory.empty()) std::filesystem::create_directories(directory, code);
  int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) {
    unsigned char secret[32];
    const int fresh = open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    const bool good = fresh >= 0 && getrandom(secret, sizeof secret, 0) == sizeof secret &&
                      write(fresh, secret, sizeof secret) == sizeof secret && fsync(fresh) == 0;
    if (!good) error = std::string{"cannot create: "} + std::strerror(errno);
    if (fresh >= 0) close(fresh);
    if (!good) return {};
    fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  }
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0) {
    error = std::string{"cannot read: "} + std::strerror(errno);
    if (fd >= 0) close(fd);
    return {};
  }
  std::string out(4096, '\0');
  const ssize_t got = read(fd, out.data(), out.size());
  close(fd);
  out.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  if ((status.st_mode & 077) != 0) {
    error = "must have mode 0600; what others could read is no secret";
    return {};
  }
  if (out.size() < 32) {
    error = "must hold at least 32 bytes";
    return {};
  }
  return out;
}

}  // namespace penstock::portal
