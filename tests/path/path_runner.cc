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
//                                               identification=keep ports=FIRST-LAST source_nat=off openings=
//                                               mapping=endpoint_independent filtering=address_dependent|
//                                               endpoint_independent
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

#include "tests/path/case_setup.h"

namespace penstock::path {
namespace {

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
      const std::string problem = setup_.configure(verb, words);
      if (!problem.empty()) fail(problem);
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

  World world_;
  CaseSetup setup_{world_};
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
