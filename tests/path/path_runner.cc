// Runs tables of packet in -> packets out through the translator.
//
//   path_runner [--case NAME] FILE...
//
// A file is a list of cases. Lines before the first `case` hold for all of them. `#` begins a comment, a line that
// begins with white space continues the one before.
//
//   case NAME                                   named after an RFC's section or a trap
//   source ADDRESS...                           our addresses of one family, replacing the default
//   set KEY=VALUE...                            mtu_inside mtu_outside max_flows max_flows_per_peer errors workers
//   worker
//                                               identification=keep ports=FIRST-LAST
//   peer N ADDRESS... [control]
//   allow N RESOURCE cidr|address|dns|internet WHAT [tcp=R,R] [udp=R] [icmp] [until=SECONDS]
//   revoke N RESOURCE
//   name N RESOURCE NAME PROXY... STATE|REAL... proxies are those of the peer's family pools; real ones after `->`
//   up N PACKET        down PACKET              a packet from a peer's tunnel, from the LAN (syntax: packet_text.h)
//   hex-up N HEX       hex-down HEX             the same, any bytes
//   after DURATION                              e.g. 5s, 3min: virtual time passes
//   expect nothing | outside PACKET | inside N PACKET (`*`: any) | drop REASON | wait REASON | not_ours | handover
//   WORKER flows N                                     how many there are now
//
// Every outcome must be expected, in order. `$name` in a packet binds a value when it is first expected and stands for
// it afterwards. Ends with one line `path: N passed, N failed`; exit code 1 when any failed.
#include <charconv>
#include <cstdio>
#include <deque>
#include <fstream>
#include <iostream>
#include <sstream>

#include "tests/path/world.h"

namespace penstock::path {
namespace {

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

Duration duration_of(const std::string& text) {
  std::size_t used = 0;
  const double value = std::stod(text, &used);
  const std::string unit = text.substr(used);
  const double scale = unit == "ms" ? 1e6 : unit == "s" ? 1e9 : unit == "min" ? 60e9 : unit == "h" ? 3600e9 : 0;
  return Duration{static_cast<std::int64_t>(value * scale)};
}

struct Line {
  int number = 0;
  std::string text;
};

class Case {
 public:
  std::string problems;

  void run(const std::vector<Line>& lines) {
    for (const Line& line : lines) {
      line_ = line.number;
      const std::size_t space = line.text.find(' ');
      step(line.text.substr(0, space), space == std::string::npos ? "" : line.text.substr(space + 1));
    }
    nothing_left();
    world_.release();
    if (world_.packets().outstanding() != 0) fail("packets lost: " + std::to_string(world_.packets().outstanding()));
  }

 private:
  void fail(const std::string& why) { problems += "  line " + std::to_string(line_) + ": " + why + "\n"; }

  static std::string say(const World::Result& result) {
    static const char* const kActions[] = {"outside", "inside", "drop", "wait", "handover", "not_ours"};
    std::string out = kActions[static_cast<int>(result.action)];
    if (result.action == nat::Action::drop || result.action == nat::Action::wait) {
      out += " " + std::string{name_of(result.reason)};
    } else {
      out += " " + text_of(describe_packet(result.bytes));
    }
    return out;
  }

  void nothing_left() {
    for (const World::Result& result : pending_) fail("unexpected outcome: " + say(result));
    pending_.clear();
  }

  void came(std::vector<World::Result> results) {
    for (World::Result& result : results) pending_.push_back(std::move(result));
  }

  void step(const std::string& verb, const std::string& rest) {
    const std::vector<std::string> words = split(rest, ' ');
    if (verb == "expect") return expect(words, rest);
    if (verb == "flows") {
      if (world_.translator().flow_count() != number(words.at(0)))
        fail("flows: expected " + words[0] + ", got " + std::to_string(world_.translator().flow_count()));
      return;
    }
    nothing_left();
    if (verb == "up" || verb == "hex-up" || verb == "down" || verb == "hex-down") {
      const bool up = verb.ends_with("up");
      const std::string text = up ? rest.substr(rest.find(' ') + 1) : rest;
      const BuiltPacket built = build_packet(verb[0] == 'h' ? "ip4 raw" : text, values_);
      if (!built.error.empty()) return fail("packet: " + built.error);
      const Octets bytes = verb[0] == 'h' ? from_hex(text) : built.bytes;
      came(up ? world_.up(number(words.at(0)), bytes) : world_.down(bytes));
    } else if (verb == "after") {
      came(world_.after(duration_of(words.at(0))));
    } else {
      configure(verb, words);
      world_.changed();
    }
  }

  static Octets from_hex(const std::string& text) {
    Octets out;
    for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
      unsigned value = 0;
      std::from_chars(text.data() + i, text.data() + i + 2, value, 16);
      out.push_back(static_cast<std::uint8_t>(value));
    }
    return out;
  }

  void expect(const std::vector<std::string>& words, const std::string& rest) {
    if (words.empty()) return fail("expect what?");
    if (words[0] == "nothing") return nothing_left();
    if (pending_.empty()) return fail("expected " + rest + ", but nothing came");
    const World::Result result = pending_.front();
    pending_.pop_front();
    const auto differs = [&] { fail("expected " + rest + "\n    got " + say(result)); };
    if (words[0] == "outside" || words[0] == "inside") {
      const bool inside = words[0] == "inside";
      if (result.action != (inside ? nat::Action::to_inside : nat::Action::to_outside)) return differs();
      std::string text = rest.substr(rest.find(' ') + 1);
      if (inside) {
        if (result.peer != number(words.at(1))) return fail("for peer " + std::to_string(result.peer));
        text = text.substr(text.find(' ') + 1);
      }
      if (text == "*") return;
      const std::string difference = compare_packet(text, result.bytes, values_);
      if (!difference.empty()) fail("packet differs:\n" + difference + "    whole: " + say(result));
    } else if (words[0] == "drop" || words[0] == "wait") {
      const nat::Action action = words[0] == "drop" ? nat::Action::drop : nat::Action::wait;
      if (result.action != action || (words.size() > 1 && name_of(result.reason) != words[1])) differs();
    } else if (words[0] == "not_ours") {
      if (result.action != nat::Action::not_ours) differs();
    } else if (words[0] == "handover") {
      if (result.action != nat::Action::handover || result.worker != number(words.at(1))) differs();
    } else {
      fail("expect what? " + words[0]);
    }
  }

  void configure(const std::string& verb, const std::vector<std::string>& words) {
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
  }

  void add_address(std::vector<IpAddress>& list, const std::string& word) {
    const auto address = IpAddress::parse(word);
    if (!address) return fail("no address: " + word);
    list.push_back(*address);
  }

  void set(const std::string& key, const std::string& value) {
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

  static std::vector<policy::PortRange> ranges(const std::string& text) {
    std::vector<policy::PortRange> out;
    for (const std::string& part : split(text, ',')) {
      const std::size_t dash = part.find('-');
      const auto first = static_cast<std::uint16_t>(number(part));
      out.push_back(
          {first, dash == std::string::npos ? first : static_cast<std::uint16_t>(number(part.substr(dash + 1)))});
    }
    return out;
  }

  void allow(const std::vector<std::string>& words) {
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

  void add_name(const std::vector<std::string>& words) {
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

  World world_;
  std::map<std::string, std::string> values_;
  std::deque<World::Result> pending_;
  int line_ = 0;
};

struct Totals {
  int passed = 0;
  int failed = 0;
};

bool run_file(const std::string& path, const std::string& only, Totals& totals) {
  std::ifstream file{path};
  if (!file) {
    std::cerr << path << ": cannot be read\n";
    return false;
  }
  std::vector<Line> common;
  std::vector<std::pair<std::string, std::vector<Line>>> cases;
  int count = 0;
  for (std::string text; std::getline(file, text);) {
    ++count;
    if (const std::size_t hash = text.find('#'); hash != std::string::npos && (hash == 0 || text[hash - 1] == ' '))
      text.resize(hash);
    while (!text.empty() && text.back() == ' ') text.pop_back();
    if (text.empty()) continue;
    const std::size_t begin = text.find_first_not_of(" \t");
    auto& lines = cases.empty() ? common : cases.back().second;
    if (text.starts_with("case ")) {
      cases.emplace_back(text.substr(5), common);
    } else if (begin > 0 && !lines.empty()) {
      lines.back().text += " " + text.substr(begin);
    } else {
      lines.push_back({count, text});
    }
  }
  for (const auto& [name, lines] : cases) {
    if (!only.empty() && name.find(only) == std::string::npos) continue;
    Case run;
    run.run(lines);
    if (run.problems.empty()) {
      ++totals.passed;
    } else {
      ++totals.failed;
      std::cout << "FAILED " << path << ": " << name << "\n" << run.problems;
    }
  }
  return true;
}

}  // namespace
}  // namespace penstock::path

int main(int argc, char** argv) {
  penstock::path::Totals totals;
  std::string only;
  bool readable = true;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--case" && i + 1 < argc) {
      only = argv[++i];
      continue;
    }
    readable = penstock::path::run_file(argument, only, totals) && readable;
  }
  std::cout << "path: " << totals.passed << " passed, " << totals.failed << " failed\n";
  return totals.failed == 0 && readable && totals.passed > 0 ? 0 : 1;
}
