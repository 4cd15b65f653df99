// What people call the fields that need not be equal.
#include <algorithm>

#include "tests/path/foreign/dissect.h"

namespace penstock::path {
namespace {

struct Alias {
  const char* written;
  std::vector<const char*> names;
};

const std::vector<Alias>& aliases() {
  static const std::vector<Alias> list = {
      {"identification", {"identification"}},
      {"id", {"identification"}},
      {"ident", {"identification"}},
      {"ipid", {"identification"}},
      {"frag-id", {"identification"}},
      {"fragment-id", {"identification"}},
      {"fragid", {"identification"}},
      {"checksum", {"checksum", "header-checksum"}},
      {"checksums", {"checksum", "header-checksum"}},
      {"chksum", {"checksum", "header-checksum"}},
      {"csum", {"checksum", "header-checksum"}},
      {"sum", {"checksum", "header-checksum"}},
      {"cksum", {"checksum", "header-checksum"}},
      {"header-checksum", {"header-checksum"}},
      {"ip-checksum", {"header-checksum"}},
      {"l4-checksum", {"checksum"}},
      {"transport-checksum", {"checksum"}},
      {"ttl", {"ttl"}},
      {"hop-limit", {"ttl"}},
      {"hoplimit", {"ttl"}},
      {"hop", {"ttl"}},
      {"hlim", {"ttl"}},
      {"flow-label", {"flow-label"}},
      {"flowlabel", {"flow-label"}},
      {"flow", {"flow-label"}},
      {"fl", {"flow-label"}},
      {"tos", {"dscp", "ecn"}},
      {"tc", {"dscp", "ecn"}},
      {"tclass", {"dscp", "ecn"}},
      {"traffic-class", {"dscp", "ecn"}},
      {"dscp", {"dscp"}},
      {"ecn", {"ecn"}},
      {"payload", {"payload"}},
      {"data", {"payload"}},
      {"length", {"length"}},
      {"len", {"length"}},
      {"total-length", {"length"}},
      {"payload-length", {"length"}},
      {"plen", {"length"}},
      {"flags", {"df", "mf", "reserved-flag", "flags"}},
      {"ip-flags", {"df", "mf", "reserved-flag"}},
      {"tcp-flags", {"flags"}},
      {"df", {"df"}},
      {"dont-fragment", {"df"}},
      {"mf", {"mf"}},
      {"more-fragments", {"mf"}},
      {"m", {"mf"}},
      {"fragment-offset", {"fragment-offset"}},
      {"frag-offset", {"fragment-offset"}},
      {"frag", {"fragment-offset", "mf", "identification"}},
      {"offset", {"fragment-offset"}},
      {"protocol", {"protocol"}},
      {"proto", {"protocol"}},
      {"next-header", {"protocol"}},
      {"nexthdr", {"protocol"}},
      {"nh", {"protocol"}},
      {"source", {"source"}},
      {"src", {"source"}},
      {"saddr", {"source"}},
      {"source-address", {"source"}},
      {"src-addr", {"source"}},
      {"destination", {"destination"}},
      {"dst", {"destination"}},
      {"dest", {"destination"}},
      {"daddr", {"destination"}},
      {"destination-address", {"destination"}},
      {"dst-addr", {"destination"}},
      {"address", {"source", "destination"}},
      {"addresses", {"source", "destination"}},
      {"source-port", {"source-port"}},
      {"sport", {"source-port"}},
      {"src-port", {"source-port"}},
      {"destination-port", {"destination-port"}},
      {"dport", {"destination-port"}},
      {"dst-port", {"destination-port"}},
      {"port", {"source-port", "destination-port"}},
      {"ports", {"source-port", "destination-port"}},
      {"sequence", {"sequence"}},
      {"seq", {"sequence"}},
      {"acknowledgement", {"acknowledgement"}},
      {"ack", {"acknowledgement"}},
      {"window", {"window"}},
      {"win", {"window"}},
      {"urgent", {"urgent"}},
      {"options", {"options"}},
      {"opts", {"options"}},
      {"header-length", {"header-length"}},
      {"ihl", {"header-length"}},
      {"type", {"type"}},
      {"code", {"code"}},
      {"mtu", {"mtu"}},
      {"pointer", {"pointer"}},
      {"unused", {"unused"}},
      {"identifier", {"identifier"}},
      {"icmp-id", {"identifier"}},
      {"echo-id", {"identifier"}},
      {"icmp-seq", {"sequence"}},
      {"icmp-length", {"icmp-length"}},
      {"extension", {"extensions"}},
      {"extensions", {"extensions"}},
      {"ext", {"extensions"}},
      {"extension-header", {"extension-header"}},
      {"extension-headers", {"extension-header"}},
      {"header", {"header"}},
      {"reserved", {"reserved-flag", "unused"}},
  };
  return list;
}

const Alias* find_alias(const std::string& word) {
  for (const Alias& alias : aliases())
    if (word == alias.written) return &alias;
  return nullptr;
}

std::string layer_named(const std::string& word) {
  if (word == "ip" || word == "l3") return "ip*";
  if (word == "ip4" || word == "ipv4") return "ip4";
  if (word == "ip6" || word == "ipv6") return "ip6";
  if (word == "icmp" || word == "icmp4" || word == "icmp6" || word == "icmpv4" || word == "icmpv6") return "icmp";
  if (word == "frag" || word == "fragment") return "fragment";
  if (word == "tcp" || word == "udp" || word == "dccp") return word;
  if (word == "l4" || word == "transport") return "l4*";
  return {};
}

bool layer_matches(const std::string& wanted, const std::string& layer) {
  if (wanted.empty() || wanted == layer) return true;
  const bool ip = layer == "ip4" || layer == "ip6" || layer == "fragment";
  return (wanted == "ip*" && ip) || (wanted == "l4*" && !ip);
}

std::optional<std::size_t> decimal(const std::string& text) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (text.empty() || text.size() > 5 || !std::all_of(text.begin(), text.end(), digit)) return std::nullopt;
  return std::stoul(text);
}

}  // namespace

bool Ignored::add(const std::string& written) {
  std::string word;
  for (const char c : written)
    word += c == '_' || c == ' ' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const std::size_t dash = word.find('-');
  const auto first = decimal(word.substr(0, dash));
  if (first) {
    const auto last = dash == std::string::npos ? first : decimal(word.substr(dash + 1));
    if (!last || *last < *first) return false;
    for (std::size_t byte = *first; byte <= *last; ++byte) bytes.insert(byte);
    return true;
  }
  Name name;
  const auto strip = [&](const std::string& prefix) {
    if (!word.starts_with(prefix) || word.size() == prefix.size()) return false;
    if (word[prefix.size()] != '.' && word[prefix.size()] != '-') return false;
    word.erase(0, prefix.size() + 1);
    return true;
  };
  if (strip("inner") || strip("quoted")) {
    name.inner = true;
  } else if (strip("outer")) {
    name.inner = false;
  }
  const Alias* alias = find_alias(word);
  // "tcp.window", "icmp-checksum"
  const std::size_t cut = word.find_first_of(".-");
  if (alias == nullptr && cut != std::string::npos) {
    name.layer = layer_named(word.substr(0, cut));
    if (!name.layer.empty()) alias = find_alias(word.substr(cut + 1));
  }
  if (alias == nullptr) {
    name.layer = layer_named(word);
    if (name.layer.empty()) return false;
    names.push_back(name);
    return true;
  }
  for (const char* canonical : alias->names) {
    name.name = canonical;
    names.push_back(name);
  }
  return true;
}

bool Ignored::covers(const Field& field) const {
  return std::any_of(names.begin(), names.end(), [&](const Name& n) {
    return (n.name.empty() || n.name == field.name) && layer_matches(n.layer, field.layer) &&
           (!n.inner || *n.inner == field.inner);
  });
}

}  // namespace penstock::path
