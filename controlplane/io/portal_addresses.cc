#include "controlplane/io/portal_addresses.h"

#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>

namespace penstock::io {

std::optional<HostPort> parse_host_port(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  HostPort out;
  out.host = text.substr(0, colon);
  if (out.host.front() == '[') {
    if (out.host.size() < 3 || out.host.back() != ']') return std::nullopt;
    out.host = out.host.substr(1, out.host.size() - 2);
    const auto address = IpAddress::parse(out.host);
    if (!address || out.host.find(':') == std::string::npos) return std::nullopt;
  } else if (out.host.find_first_of(":[] \t\n") != std::string::npos || out.host.find('\0') != std::string::npos) {
    return std::nullopt;
  }
  const char* begin = text.data() + colon + 1;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, out.port);
  if (error != std::errc{} || stop != end || out.port == 0) return std::nullopt;
  return out;
}

std::vector<Endpoint> interleave_families(const std::vector<Endpoint>& endpoints) {
  std::vector<Endpoint> six;
  std::vector<Endpoint> four;
  for (const Endpoint& endpoint : endpoints) {
    auto& family = endpoint.address.is_v4() ? four : six;
    if (std::find(family.begin(), family.end(), endpoint) == family.end()) family.push_back(endpoint);
  }
  std::vector<Endpoint> out;
  for (std::size_t i = 0; i < std::max(six.size(), four.size()); ++i) {
    if (i < six.size()) out.push_back(six[i]);
    if (i < four.size()) out.push_back(four[i]);
  }
  return out;
}

std::vector<Endpoint> resolve_blocking(const HostPort& host_port, std::string& error) {
  if (const auto address = IpAddress::parse(host_port.host)) return {Endpoint{*address, host_port.port}};
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int code = getaddrinfo(host_port.host.c_str(), nullptr, &hints, &list);
  if (code != 0) {
    error = "cannot resolve " + host_port.host + ": " + gai_strerror(code);
    return {};
  }
  std::vector<Endpoint> out;
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family == AF_INET) {
      const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ai_addr);
      out.push_back({IpAddress::v4(ntohl(address->sin_addr.s_addr)), host_port.port});
    } else if (entry->ai_family == AF_INET6) {
      const auto* address = reinterpret_cast<const sockaddr_in6*>(entry->ai_addr);
      out.push_back({IpAddress::from_wire(Bytes{address->sin6_addr.s6_addr, 16}), host_port.port});
    }
  }
  freeaddrinfo(list);
  if (out.empty()) error = "no address for " + host_port.host;
  return interleave_families(out);
}

}  // namespace penstock::io
