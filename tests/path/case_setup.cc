#include "tests/path/case_setup.h"

#include <cstdlib>
#include <map>
#include <sstream>

namespace penstock::path {
namespace {

std::vector<policy::PortRange> ranges(const std::string& text) {
  std::vector<policy::PortRange> out;
  for (const std::string& part : split(text, ',')) {
    const std::size_t dash = part.find('-');
    const auto first = static_cast<std::uint16_t>(number(part));
    out.push_back(
        {first, dash == std::string::npos ? first : static_cast<std::uint16_t>(number(part.substr(dash + 1)))});
  }
  return out;
}

}  // namespace

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> out;
  std::istringstream stream{text};
  for (std::string part; std::getline(stream, part, by);)
    if (!part.empty()) out.push_back(part);
  return out;
}

unsigned number(const std::string& text) {
  return static_cast<unsigned>(std::strtoul(text.c_str(), nullptr, 10));
}

std::string CaseSetup::configure(const std::string& verb, const std::vector<std::string>& words) {
  problem_.clear();
  if (verb == "source") {
    const bool v4 = IpAddress::parse(words.at(0)).value_or(IpAddress{}).is_v4();
    auto& list = v4 ? world_.config.source_v4 : world_.config.source_v6;
    list.clear();
    for (const std::string& word : words) add_address(list, word);
  } else if (verb == "no-source") {
    (words.at(0) == "v4" ? world_.config.source_v4 : world_.config.source_v6).clear();
  } else if (verb == "set") {
    for (const std::string& word : words) set(word.substr(0, word.find('=')), word.substr(word.find('=') + 1));
  } else if (verb == "peer") {
    policy::PeerPolicy& peer = world_.peers[number(words.at(0))];
    for (std::size_t i = 1; i < words.size(); ++i) {
      if (words[i] == "control") {
        peer.control = true;
      } else if (const auto address = IpAddress::parse(words[i])) {
        (address->is_v4() ? peer.tunnel_v4 : peer.tunnel_v6) = *address;
      } else {
        fail("no address: " + words[i]);
      }
    }
  } else if (verb == "no-peer") {
    world_.peers.erase(number(words.at(0)));
  } else if (verb == "allow") {
    allow(words);
  } else if (verb == "revoke") {
    auto& list = world_.peers[number(words.at(0))].authorisations;
    std::erase_if(list, [&](const auto& a) { return a.resource == words.at(1); });
  } else if (verb == "name") {
    add_name(words);
  } else if (verb == "forget") {
    auto& list = world_.peers[number(words.at(0))].translations;
    std::erase_if(list, [&](const auto& t) { return t.name == words.at(1); });
  } else {
    fail("unknown line: " + verb);
  }
  return problem_;
}

void CaseSetup::add_address(std::vector<IpAddress>& list, const std::string& word) {
  const auto address = IpAddress::parse(word);
  if (!address) return fail("no address: " + word);
  list.push_back(*address);
}

void CaseSetup::set(const std::string& key, const std::string& value) {
  nat::TranslatorConfig& config = world_.config;
  const auto count = static_cast<std::uint16_t>(number(value));
  if (key == "mtu_inside")
    config.mtu_inside = count;
  else if (key == "mtu_outside")
    config.mtu_outside = count;
  else if (key == "max_flows")
    config.max_flows = number(value);
  else if (key == "max_flows_per_peer")
    config.max_flows_per_peer = number(value);
  else if (key == "errors")
    config.icmp_errors_burst = number(value);
  else if (key == "workers")
    config.workers = count;
  else if (key == "worker")
    config.worker = count;
  else if (key == "identification")
    config.rewrite_identification = value != "keep";
  else if (key == "source_nat")
    config.keep_source = value == "off";
  else if (key == "mapping")
    config.mapping = value == "endpoint_independent" ? nat::Mapping::endpoint_independent
                                                     : nat::Mapping::address_and_port_dependent;
  else if (key == "filtering")
    config.filtering = value == "endpoint_independent" ? nat::Filtering::endpoint_independent
                       : value == "address_dependent"  ? nat::Filtering::address_dependent
                                                       : nat::Filtering::address_and_port_dependent;
  else if (key == "unsolicited")
    config.unsolicited = value == "answer" ? nat::Unsolicited::answer : nat::Unsolicited::pass;
  else if (key == "unsolicited_syns")
    config.max_unsolicited = count;
  else if (key == "hairpinning")
    config.hairpinning = value == "on";
  else if (key == "lowest_ipv6_mtu")
    config.lowest_ipv6_mtu = count;
  else if (key == "openings")
    config.max_openings = count;
  else if (key == "fragments")
    config.fragments.packets = count;
  else if (key == "nat64_prefix")
    config.nat64_prefixes.push_back(Prefix::parse(value).value_or(Prefix{}));
  else if (key == "ports") {
    config.first_port = count;
    config.last_port = static_cast<std::uint16_t>(number(value.substr(value.find('-') + 1)));
  } else
    fail("unknown setting: " + key);
}

void CaseSetup::allow(const std::vector<std::string>& words) {
  policy::Authorisation out;
  out.id = out.resource = words.at(1);
  const std::string& kind = words.at(2);
  std::size_t at = 3;
  if (kind == "dns") {
    out.kind = policy::ResourceKind::dns;
    out.pattern = words.at(at++);
  } else if (kind == "internet") {
    out.kind = policy::ResourceKind::internet;
  } else {
    out.kind = kind == "cidr" ? policy::ResourceKind::cidr : policy::ResourceKind::address;
    const auto prefix = Prefix::parse(words.at(at++));
    if (!prefix) return fail("no prefix");
    out.prefix = *prefix;
  }
  for (; at < words.size(); ++at) {
    const std::string key = words[at].substr(0, words[at].find('='));
    const std::string value = words[at].substr(words[at].find('=') + 1);
    if (key == "until") {
      out.expires = {1000000 + number(value), 0};
      continue;
    }
    out.filter.all = false;
    if (key == "tcp")
      out.filter.tcp = ranges(value);
    else if (key == "udp")
      out.filter.udp = ranges(value);
    else if (key == "icmp")
      out.filter.icmp_echo = true;
    else
      fail("unknown filter: " + key);
  }
  auto& list = world_.peers[number(words.at(0))].authorisations;
  std::erase_if(list, [&](const auto& a) { return a.id == out.id; });
  list.push_back(out);
}

void CaseSetup::add_name(const std::vector<std::string>& words) {
  policy::Translation out;
  out.resource = words.at(1);
  out.name = words.at(2);
  out.id = out.resource + "/" + out.name;
  out.state = policy::TranslationState::active;
  bool real = false;
  static const std::map<std::string, policy::TranslationState> kStates = {
      {"resolving", policy::TranslationState::resolving},
      {"forbidden", policy::TranslationState::forbidden},
      {"no_such_name", policy::TranslationState::no_such_name},
      {"failed", policy::TranslationState::failed}};
  for (std::size_t at = 3; at < words.size(); ++at) {
    if (words[at] == "->") {
      real = true;
    } else if (kStates.contains(words[at])) {
      out.state = kStates.at(words[at]);
    } else if (const auto address = IpAddress::parse(words[at])) {
      if (real)
        (address->is_v4() ? out.real_v4 : out.real_v6).push_back(*address);
      else
        (address->is_v4() ? out.proxy_v4 : out.proxy_v6) = *address;
    } else {
      fail("no address: " + words[at]);
    }
  }
  auto& list = world_.peers[number(words.at(0))].translations;
  std::erase_if(list, [&](const auto& t) { return t.id == out.id; });
  list.push_back(out);
}


}  // namespace penstock::path
