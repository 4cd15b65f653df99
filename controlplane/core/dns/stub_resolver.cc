#include "controlplane/core/dns/stub_resolver.h"

#include <algorithm>

#include "controlplane/core/dns/stub_resolver_impl.h"

namespace penstock::dns {
namespace {

constexpr std::size_t kMaxKnown = 65536;
constexpr std::size_t kMaxMissing = 4096;
constexpr std::size_t kMaxTcpSize = 65535;
constexpr std::uint32_t kCanaryTtl = 60;

// Browsers that find this name missing leave resolution to the system.
constexpr std::string_view kDohCanary = "use-application-dns.net";

// RFC 8482 §4.2: HINFO "RFC8482" "".
constexpr std::array<std::uint8_t, 9> kAnyAnswer = {7, 'R', 'F', 'C', '8', '4', '8', '2', 0};

std::vector<std::uint8_t> rdata_of(const WireName& name) {
  return {name.bytes().begin(), name.bytes().end()};
}

bool usable_upstream(const IpAddress& address) {
  if (address.is_unspecified()) return false;
  return address.is_v4() ? address.v4_value() < 0xe0000000 : address.bytes()[0] != 0xff;
}

}  // namespace

StubResolver::Impl::Impl(StubResolverConfig given, NameMap& map, Random& generator)
    : config(std::move(given)),
      names(map),
      random(generator),
      forwarder({.attempt = config.upstream_attempt, .budget = config.upstream_budget}, generator),
      cache(config.cache_entries, config.cache_bytes) {
  random.fill(server_cookie);
  config.proxy_ttl_s = std::clamp<std::uint32_t>(config.proxy_ttl_s, 1, 60);
  for (const IpAddress& sentinel : config.sentinels) own_names.emplace_back(sentinel, "dns.penstock.internal");
}

std::optional<StubResolver::Impl::Families> StubResolver::Impl::families_of(std::string_view name) {
  if (const auto hit = known.find(name); hit != known.end()) return hit->second;
  const auto ids = patterns.find(name);
  if (ids.empty()) return std::nullopt;
  Families families;
  for (const std::string& id : ids) {
    const IpStack stack = stacks.find(id)->second;
    families.v4 = families.v4 || stack != IpStack::ipv6;
    families.v6 = families.v6 || stack != IpStack::ipv4;
  }
  if (const auto only = narrowed.find(name); only != narrowed.end()) {
    families.v4 = families.v4 && only->second.v4;
    families.v6 = families.v6 && only->second.v6;
  }
  if (known.size() >= kMaxKnown) known.clear();
  known.emplace(name, families);
  return families;
}

std::optional<NameRule> StubResolver::Impl::rule_for(const WireName& name, WallTime wall, std::size_t* budget) {
  const auto as_text = name_text(name.bytes());
  if (!as_text) return std::nullopt;
  const auto families = families_of(*as_text);
  if (!families) return std::nullopt;
  NameRule rule;
  if (names.find(*as_text) == nullptr) {
    if (*budget == 0) return rule;
    --*budget;
  }
  if (const auto proxies = names.assign(*as_text, wall)) {
    if (families->v4) rule.v4 = proxies->v4;
    if (families->v6) rule.v6 = proxies->v6;
  }
  return rule;
}

Bytes StubResolver::Impl::error(const Query& query, std::uint16_t code, std::size_t limit) {
  builder.start(query, code, false, server_cookie);
  return builder.finish(limit);
}

Bytes StubResolver::Impl::denial(const Query& query, std::uint16_t code, std::uint32_t ttl, std::size_t limit) {
  ++stats.answered_locally;
  builder.start(query, code, true, server_cookie);
  builder.add_soa(ttl);
  return builder.finish(limit);
}

Bytes StubResolver::Impl::addresses(const Query& query, std::optional<IpAddress> v4, std::optional<IpAddress> v6,
                                    std::size_t limit) {
  const auto& address = query.qtype == type::a ? v4 : v6;
  if (!address) return denial(query, rcode::noerror, config.proxy_ttl_s, limit);
  ++stats.answered_locally;
  builder.start(query, rcode::noerror, true, server_cookie);
  builder.add(query.qtype, config.proxy_ttl_s, address->wire());
  return builder.finish(limit);
}

bool StubResolver::Impl::is_ours(const IpAddress& address) const {
  const auto holds = [&](const Prefix& prefix) { return prefix.contains(address); };
  return std::find(config.sentinels.begin(), config.sentinels.end(), address) != config.sentinels.end() ||
         names.use_of(address) == AddressUse::assigned || names.use_of(address) == AddressUse::unassigned ||
         std::any_of(config.tunnel_prefixes.begin(), config.tunnel_prefixes.end(), holds);
}

Bytes StubResolver::Impl::answer_reverse(const Query& query, std::size_t limit) {
  const auto address = reverse_address(text);
  if (!address || !is_ours(*address)) return {};
  const std::string* name = names.find(*address);
  for (const auto& [own, own_name] : own_names)
    if (own == *address) name = &own_name;
  if (name == nullptr) return denial(query, rcode::nxdomain, config.proxy_ttl_s, limit);
  if (query.qtype != type::ptr) return denial(query, rcode::noerror, config.proxy_ttl_s, limit);
  const auto target = wire_name(*name);
  if (!target) return denial(query, rcode::nxdomain, config.proxy_ttl_s, limit);
  ++stats.answered_locally;
  builder.start(query, rcode::noerror, true, server_cookie);
  builder.add(type::ptr, config.proxy_ttl_s, rdata_of(*target));
  return builder.finish(limit);
}

Bytes StubResolver::Impl::answer_resource(const Query& query, Families families, Bytes message, const Client& client,
                                          Now now) {
  const std::size_t limit = client.transport == Transport::udp ? query.udp_limit() : kMaxTcpSize;
  if (const auto gone = missing.find(text); gone != missing.end()) {
    if (gone->second > now.monotonic) {
      const auto left = std::chrono::ceil<std::chrono::seconds>(gone->second - now.monotonic).count();
      return denial(query, rcode::nxdomain, static_cast<std::uint32_t>(left), limit);
    }
    missing.erase(gone);
  }
  switch (query.qtype) {
    case type::a:
    case type::aaaa: {
      const auto proxies = names.assign(text, now.wall);
      if (!proxies) {
        ++stats.overloaded;
        return error(query, rcode::servfail, limit);
      }
      return addresses(query, families.v4 ? std::optional{proxies->v4} : std::nullopt,
                       families.v6 ? std::optional{proxies->v6} : std::nullopt, limit);
    }
    case type::any:
      ++stats.answered_locally;
      builder.start(query, rcode::noerror, true, server_cookie);
      builder.add(type::hinfo, config.proxy_ttl_s, kAnyAnswer);
      return builder.finish(limit);
    default: {
      // They would lead around the proxy addresses.
      if (bears_address(query.qtype)) return denial(query, rcode::noerror, config.proxy_ttl_s, limit);
      const std::string resource = patterns.find(text).front();
      return ask(query, message, client, &resource, now);
    }
  }
}

Bytes StubResolver::Impl::answer(const Query& query, Bytes message, const Client& client, Now now) {
  const std::size_t limit = client.transport == Transport::udp ? query.udp_limit() : kMaxTcpSize;
  switch (query.state) {
    case QueryState::silence:
      ++stats.malformed;
      return {};
    case QueryState::malformed:
      ++stats.malformed;
      return error(query, rcode::formerr, limit);
    case QueryState::not_implemented:
      ++stats.refused;
      return error(query, rcode::notimp, limit);
    case QueryState::ok:
      break;
  }
  if (query.edns.version != 0) return error(query, rcode::badvers, limit);
  if (query.qtype == type::axfr || query.qtype == type::ixfr) {
    ++stats.refused;
    return error(query, rcode::refused, limit);
  }
  const bool internet = query.qclass == kClassIn || query.qclass == kClassAny;
  if (!internet || !name_text(query.qname, text)) return ask(query, message, client, nullptr, now);

  if (text.ends_with(".arpa"))
    if (const Bytes out = answer_reverse(query, limit); !out.empty()) return out;
  if (text == kDohCanary) return denial(query, rcode::nxdomain, kCanaryTtl, limit);
  std::optional<IpAddress> v4;
  std::optional<IpAddress> v6;
  for (const auto& [own, own_name] : own_names)
    if (own_name == text) (own.is_v4() ? v4 : v6) = own;
  if (v4 || v6) {
    const bool address = query.qtype == type::a || query.qtype == type::aaaa;
    return address ? addresses(query, v4, v6, limit) : denial(query, rcode::noerror, config.proxy_ttl_s, limit);
  }
  if (const auto families = families_of(text)) return answer_resource(query, *families, message, client, now);
  return ask(query, message, client, nullptr, now);
}

StubResolver::StubResolver(StubResolverConfig config, NameMap& names, Random& random)
    : impl_(std::make_unique<Impl>(std::move(config), names, random)) {}
StubResolver::~StubResolver() = default;

std::vector<std::string> StubResolver::set_resources(std::vector<DnsResource> resources, Now now) {
  std::vector<std::string> left_out;
  const auto same = [](const DnsResource& a, const DnsResource& b) {
    return a.id == b.id && a.pattern == b.pattern && a.ip_stack == b.ip_stack;
  };
  const bool unchanged =
      std::equal(resources.begin(), resources.end(), impl_->resources.begin(), impl_->resources.end(), same);
  policy::PatternSet<std::string> patterns;
  TextMap<IpStack> stacks;
  for (const DnsResource& resource : resources) {
    const auto ascii = ascii_name(resource.pattern);
    if (!ascii || !patterns.add(std::string_view{*ascii}, resource.id))
      left_out.push_back("resource " + resource.id + ": '" + resource.pattern + "' is not a DNS name pattern");
    else
      stacks[resource.id] = resource.ip_stack;
  }
  if (unchanged) return left_out;
  impl_->resources = std::move(resources);
  impl_->patterns = std::move(patterns);
  impl_->stacks = std::move(stacks);
  impl_->known.clear();
  impl_->missing.clear();
  impl_->cache.clear();
  impl_->drop_removed_resources();
  impl_->drain(now);
  return left_out;
}

void StubResolver::set_upstreams(std::vector<Endpoint> upstreams, Now) {
  std::erase_if(upstreams, [&](const Endpoint& upstream) {
    return impl_->is_ours(upstream.address) || impl_->names.use_of(upstream.address) != AddressUse::outside ||
           !usable_upstream(upstream.address) || upstream.port == 0;
  });
  if (impl_->forwarder.set_upstreams(std::move(upstreams))) impl_->cache.clear();
}

void StubResolver::set_own_names(std::vector<std::pair<IpAddress, std::string>> names) {
  impl_->own_names.clear();
  for (const IpAddress& sentinel : impl_->config.sentinels)
    impl_->own_names.emplace_back(sentinel, "dns.penstock.internal");
  for (auto& [address, name] : names)
    if (auto ascii = ascii_name(name); ascii && is_normalised(*ascii))
      impl_->own_names.emplace_back(address, std::move(*ascii));
}

void StubResolver::set_name_missing(std::string_view name, std::uint32_t ttl_s, Now now) {
  const auto seconds = std::chrono::seconds{std::clamp<std::uint32_t>(ttl_s, 1, impl_->config.missing_ttl_s)};
  if (!is_normalised(name)) return;
  std::erase_if(impl_->missing, [&](const auto& entry) {
    return impl_->missing.size() >= kMaxMissing && entry.second <= now.monotonic;
  });
  if (impl_->missing.size() < kMaxMissing) impl_->missing[std::string{name}] = now.monotonic + seconds;
}

void StubResolver::set_name_found(std::string_view name) {
  if (const auto known = impl_->missing.find(name); known != impl_->missing.end()) impl_->missing.erase(known);
}

void StubResolver::set_name_families(std::string_view name, bool v4, bool v6) {
  if (!is_normalised(name)) return;
  if (impl_->narrowed.size() >= kMaxKnown) impl_->narrowed.clear();
  impl_->narrowed[std::string{name}] = {v4, v6};
  impl_->known.clear();
}

std::vector<std::string> StubResolver::resources_of(std::string_view name) const {
  return impl_->patterns.find(name);
}

Bytes StubResolver::handle_query(Bytes message, const Client& client, Now now) {
  ++impl_->stats.queries;
  const Query query = parse_query(message);
  const Bytes out = impl_->answer(query, message, client, now);
  if (out.empty()) impl_->drain(now);  // an answer at once leaves nothing behind
  return out;
}

Bytes StubResolver::failure(Bytes message, const Client& client) {
  const Query query = parse_query(message);
  return impl_->error(query, rcode::servfail, client.transport == Transport::udp ? query.udp_limit() : kMaxTcpSize);
}

const StubResolverStats& StubResolver::stats() const {
  return impl_->stats;
}

}  // namespace penstock::dns
