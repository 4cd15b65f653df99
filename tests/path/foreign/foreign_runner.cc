// Runs packets of other projects' test-suites through the translation code; see usage() and docs/translation.md.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "dataplane/core/policy/forbidden.h"
#include "tests/path/foreign/match.h"
#include "tests/path/foreign/nat64.h"
#include "tests/path/foreign/siit.h"

namespace penstock::path {
namespace {

enum ExitCode { kMatch = 0, kMismatch = 1, kUsage = 2 };

const char* usage() {
  return R"(usage: tests/path/run MODE [OPTION...] --send FILE... --expect FILE|drop|silence...

A stateless translator (RFC 7915):
  --map V4=V6          an address pair, or prefix pair 192.0.2.0/24=2001:db8:a::/120 (RFC 7757)
  --map PREFIX         an RFC 6052 prefix of length 32, 40, 48, 56, 64 or 96
  --hop4 A, --hop6 A   source of ICMP errors from hops without a mapping (RFC 6791)
  --own4 A, --own6 A   source of the translator's own ICMP errors; any will do unless given
  --udp-zero compute|drop   IPv4 UDP without a checksum (RFC 7915 4.5; compute)
  --strict-wkp         64:ff9b::/96 with an IPv4 address that is not global is dropped (RFC 6052 3.1)
Or the stateful one (RFC 6146):
  --nat64 POOL4[:FIRST[-LAST]]   an IPv4 address or prefix, and the ports of it; may be repeated
  --prefix P           RFC 6052 prefix of the IPv4 network; may be called --map too
  --bib [PROTO:]V4#PORT=V6#PORT  a binding that is there from the beginning; tcp, udp or icmp, all if not said
  --unsolicited pass|answer      what nobody waits for is dropped in silence, or answered (RFC 6146 3.5; answer)
  --mapping M, --filtering F     endpoint_independent (RFC 6146; the default), address_dependent (filtering only) or
                       address_and_port_dependent
Both:
  --mtu4 N, --mtu6 N   MTU of the next hop on either side (1500)
  --lowest-mtu6 N      packets without DF are cut to this length (RFC 7915 4.1; 1280)
  --send FILE          raw IP packet, pcap, pcapng or hexadecimal text; the version says the direction
  --after TIME         lets time pass before the next --send: 500ms, 10s, 5min, 2h (and ten seconds at the end, if
                       something is still expected)
  --expect FILE        what must come out, in order, ICMP errors to the sender included; an empty file or capture:
                       nothing, but for words to the sender
  --any-order          in whatever order
  --expect drop        the next packet is not forwarded; its sender may be told (silence: is not), as may be the
                       sender of any packet that is dropped without being expected to
  --ignore FIELD,...   names (identification, checksum, ttl, inner.df, tcp.window ...) or bytes (4,5,10-11)
  --write FILE         keeps what came out, as pcap; with it nothing need be expected
  --quiet              prints mismatches only

Exit code: 0 all as expected, 1 mismatch, 2 wrong use.
)";
}

struct Step {
  std::vector<CapturedPacket> packets;
  Duration wait{0};
};

struct Arguments {
  SiitConfig siit;
  Nat64Config nat64;
  bool stateful = false;
  bool quiet = false;
  std::vector<Step> steps;
  std::vector<Expectation> expectations;
  MatchOptions matching;
  std::string written;  // file for what came out
  std::string error;

  // Whether somebody has said what must come out.
  [[nodiscard]] bool judged() const { return !expectations.empty() || expected_nothing_; }

  bool parse(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      std::string key = argv[i];
      std::string value;
      if (key == "--help" || key == "-h") return false;
      if (key == "--quiet" || key == "-q") {
        quiet = true;
        continue;
      }
      if (key == "--any-order" || key == "--strict-wkp") {
        (key == "--any-order" ? matching.any_order : siit.strict_well_known_prefix) = true;
        continue;
      }
      const std::size_t equals = key.find('=');
      if (key.starts_with("--") && equals != std::string::npos) {
        value = key.substr(equals + 1);
        key.resize(equals);
      } else if (i + 1 < argc) {
        value = argv[++i];
      } else {
        return fail(key + " needs a value, or is unknown");
      }
      if (!take(key, value)) return false;
    }
    return check();
  }

 private:
  bool fail(const std::string& why) {
    error = why;
    return false;
  }

  bool take(const std::string& key, const std::string& value) {
    std::string why;
    if (key == "--map") return siit.map.add(value, why) ? remember_prefix(value) : fail("--map " + value + " " + why);
    if (key == "--prefix" || key == "--pool6") {
      const auto prefix = parse_prefix(value);
      if (!prefix || prefix->address().is_v4() || !policy::is_rfc6052_length(prefix->length()))
        return fail("--prefix " + value + " is no IPv6 prefix of RFC 6052");
      nat64.prefix = *prefix;
      have_prefix_ = true;
      return siit.map.add(value, why);
    }
    if (key == "--nat64") return add_pool(value);
    if (key == "--bib") return add_binding(value);
    if (key == "--mapping" || key == "--filtering") return behaviour(key, value);
    if (key == "--unsolicited") {
      if (value != "pass" && value != "answer") return fail("--unsolicited takes pass or answer");
      nat64.unsolicited = value == "pass" ? nat::Unsolicited::pass : nat::Unsolicited::answer;
      return true;
    }
    if (key == "--mtu4") return number(key, value, 68, siit.mtu4);
    if (key == "--mtu6") return number(key, value, 1280, siit.mtu6);
    if (key == "--lowest-mtu6") return number(key, value, 1280, siit.lowest_mtu6);
    if (key == "--own4") return address(key, value, true, siit.own4);
    if (key == "--own6") return address(key, value, false, siit.own6);
    if (key == "--hop4") return address(key, value, true, siit.hop4);
    if (key == "--hop6") return address(key, value, false, siit.hop6);
    if (key == "--udp-zero") {
      if (value != "compute" && value != "drop") return fail("--udp-zero takes compute or drop");
      siit.compute_udp_checksum = value == "compute";
      return true;
    }
    if (key == "--send") {
      const auto packets = load_packets(value, why);
      if (!packets) return fail(value + ": " + why);
      if (packets->empty()) return fail(value + ": no IP packet in it");
      steps.push_back({*packets, Duration{0}});
      return true;
    }
    if (key == "--write") {
      written = value;
      return true;
    }
    if (key == "--after") return wait(value);
    if (key == "--expect") return expect(value);
    if (key == "--ignore") {
      for (std::size_t at = 0; at <= value.size();) {
        const std::size_t comma = std::min(value.find(',', at), value.size());
        const std::string word = value.substr(at, comma - at);
        if (!word.empty() && word != "none" && !matching.ignored.add(word))
          return fail("--ignore " + word + ": no such field (names of fields or numbers of bytes)");
        at = comma + 1;
      }
      return true;
    }
    return fail("unknown option " + key);
  }

  bool remember_prefix(const std::string& value) {
    const auto prefix = parse_prefix(value);
    if (!have_prefix_ && prefix && prefix->address().is_v6()) nat64.prefix = *prefix;
    have_prefix_ = have_prefix_ || prefix.has_value();
    return true;
  }

  bool number(const std::string& key, const std::string& value, unsigned least, std::uint16_t& out) {
    char* end = nullptr;
    const unsigned long parsed = std::strtoul(value.c_str(), &end, 10);
    if (value.empty() || *end != 0 || parsed < least || parsed > 65535)
      return fail(key + " " + value + ": a number from " + std::to_string(least) + " to 65535");
    out = static_cast<std::uint16_t>(parsed);
    return true;
  }

  bool address(const std::string& key, const std::string& value, bool v4, std::optional<IpAddress>& out) {
    out = IpAddress::parse(value);
    if (out && out->is_v4() == v4) return true;
    return fail(key + " " + value + (v4 ? " is no IPv4 address" : " is no IPv6 address"));
  }

  bool add_pool(const std::string& value) {
    stateful = true;
    const std::size_t colon = value.find(':');
    const auto prefix = parse_prefix(value.substr(0, colon));
    if (!prefix || prefix->address().is_v6() || prefix->length() < 24)
      return fail("--nat64 " + value + " is no IPv4 address or prefix of at most 256");
    for (std::uint32_t i = 0; i < 1U << (32 - prefix->length()); ++i)
      nat64.pool.push_back(IpAddress::v4(prefix->address().v4_value() + i));
    if (colon == std::string::npos) return true;
    const std::string ports = value.substr(colon + 1);
    const std::size_t dash = ports.find('-');
    return number("--nat64 ports", ports.substr(0, dash), 1, nat64.first_port) &&
           number("--nat64 ports", dash == std::string::npos ? ports : ports.substr(dash + 1), nat64.first_port,
                  nat64.last_port);
  }

  // "2001:db8::5#2000"
  static std::optional<Endpoint> endpoint(const std::string& text) {
    const std::size_t mark = text.find('#');
    if (mark == std::string::npos) return std::nullopt;
    const auto address = IpAddress::parse(text.substr(0, mark));
    char* end = nullptr;
    const unsigned long port = std::strtoul(text.c_str() + mark + 1, &end, 10);
    if (!address || end == text.c_str() + mark + 1 || *end != 0 || port > 65535) return std::nullopt;
    return Endpoint{*address, static_cast<std::uint16_t>(port)};
  }

  bool add_binding(const std::string& value) {
    std::string ends = value;
    std::vector<std::uint8_t> protocols = {ip_protocol::tcp, ip_protocol::udp, ip_protocol::icmp};
    const std::string names[] = {"tcp:", "udp:", "icmp:"};
    for (std::size_t i = 0; i < 3; ++i) {
      if (!value.starts_with(names[i])) continue;
      protocols = {protocols[i]};
      ends = value.substr(names[i].size());
      break;
    }
    const std::size_t equals = ends.find('=');
    auto outside = endpoint(ends.substr(0, equals));
    auto inside = equals == std::string::npos ? std::nullopt : endpoint(ends.substr(equals + 1));
    if (outside && inside && outside->address.is_v6()) std::swap(outside, inside);
    if (!outside || !inside || outside->address.is_v6() || inside->address.is_v4())
      return fail("--bib " + value + ": something like udp:192.0.2.2#2000=2001:db8::5#2000");
    for (const std::uint8_t protocol : protocols) nat64.bindings.push_back({protocol, *inside, *outside});
    return true;
  }

  bool behaviour(const std::string& key, const std::string& value) {
    const bool mapping = key == "--mapping";
    if (value == "endpoint_independent") {
      if (mapping) return true;
      nat64.filtering = nat::Filtering::endpoint_independent;
    } else if (value == "address_dependent" && !mapping) {
      nat64.filtering = nat::Filtering::address_dependent;
    } else if (value == "address_and_port_dependent") {
      if (mapping) nat64.mapping = nat::Mapping::address_and_port_dependent;
      nat64.filtering = nat::Filtering::address_and_port_dependent;
    } else {
      return fail(key + " " + value + ": see --help");
    }
    return true;
  }

  bool wait(const std::string& value) {
    char* end = nullptr;
    const double amount = std::strtod(value.c_str(), &end);
    const std::string unit = end;
    const double scale = unit == "ms" ? 1e6 : unit == "s" ? 1e9 : unit == "min" ? 60e9 : unit == "h" ? 3600e9 : 0;
    if (amount < 0 || scale == 0) return fail("--after " + value + ": a time like 500ms, 10s, 5min, 2h");
    steps.push_back({{}, Duration{static_cast<std::int64_t>(amount * scale)}});
    return true;
  }

  bool expect(const std::string& value) {
    if (value == "drop" || value == "silence") {
      expectations.push_back({value == "drop" ? Expectation::Kind::drop : Expectation::Kind::silence, {}});
      return true;
    }
    std::string why;
    const auto packets = load_packets(value, why);
    if (!packets) return fail(value + ": " + why);
    expected_nothing_ = expected_nothing_ || packets->empty();
    for (const CapturedPacket& packet : *packets) expectations.push_back({Expectation::Kind::packet, packet});
    return true;
  }

  bool check() {
    bool any = false;
    for (const Step& step : steps) any = any || !step.packets.empty();
    if (!any) return fail("nothing to send");
    if (expectations.empty() && !expected_nothing_ && written.empty())
      return fail("nothing to expect: --expect FILE, drop or silence (or --write FILE)");
    matching.nothing = expectations.empty();
    if (!stateful && siit.map.empty())
      return fail("a stateless translator needs --map, a stateful one --nat64 and --prefix");
    if (stateful && !have_prefix_) return fail("--nat64 needs --prefix");
    if (stateful && siit.map.has_pairs())
      return fail(
          "--nat64 keeps its own bindings (--bib); address pairs (--map V4=V6) are for the stateless translator");
    nat64.mtu4 = siit.mtu4;
    nat64.mtu6 = siit.mtu6;
    nat64.lowest_mtu6 = siit.lowest_mtu6;
    if (!nat64.bindings.empty() && (!stateful || nat64.mapping != nat::Mapping::endpoint_independent))
      return fail("--bib needs --nat64 and an endpoint-independent mapping");
    nat64.own6 = siit.own6;
    return true;
  }

  bool have_prefix_ = false;
  bool expected_nothing_ = false;
};

bool write_outputs(const std::vector<Exchange>& exchanges, const std::string& file) {
  std::vector<Octets> packets;
  for (const Exchange& exchange : exchanges)
    for (const ForeignOutput& output : exchange.result.outputs) packets.push_back(output.bytes);
  return save_packets(file, packets);
}

int run(int argc, char** argv) {
  Arguments arguments;
  if (!arguments.parse(argc, argv)) {
    if (!arguments.error.empty()) std::cerr << "tests/path/run: " << arguments.error << "\n\n";
    std::cerr << usage();
    return kUsage;
  }
  std::unique_ptr<TranslatorUnderTest> translator;
  if (arguments.stateful) {
    auto nat64 = std::make_unique<Nat64>(arguments.nat64);
    if (!nat64->problem().empty()) {
      std::cerr << "tests/path/run: --bib: " << nat64->problem() << "\n";
      return kUsage;
    }
    translator = std::move(nat64);
  } else {
    translator = std::make_unique<Siit>(arguments.siit);
  }
  std::vector<Exchange> exchanges;
  std::size_t came_out = 0;
  const auto wait = [&](Duration duration) {
    exchanges.push_back({{"time", {}}, translator->after(duration), true});
    came_out += exchanges.back().result.outputs.size();
  };
  for (const Step& step : arguments.steps) {
    if (step.wait > Duration{0}) wait(step.wait);
    for (const CapturedPacket& packet : step.packets) {
      exchanges.push_back({packet, translator->send(packet.bytes), false});
      came_out += exchanges.back().result.outputs.size();
    }
  }
  const auto expected = std::count_if(arguments.expectations.begin(), arguments.expectations.end(),
                                      [](const Expectation& e) { return e.kind == Expectation::Kind::packet; });
  // Whoever wrote the case waited; what is due comes out.
  if (came_out < static_cast<std::size_t>(expected)) wait(std::chrono::seconds{10});
  if (!arguments.written.empty() && !write_outputs(exchanges, arguments.written)) {
    std::cerr << "tests/path/run: " << arguments.written << " cannot be written\n";
    return kUsage;
  }
  if (!arguments.judged()) return kMatch;
  std::string report;
  const bool good = match(exchanges, arguments.expectations, arguments.matching, report);
  if (!good || !arguments.quiet) std::cout << report;
  return good ? kMatch : kMismatch;
}

}  // namespace
}  // namespace penstock::path

int main(int argc, char** argv) {
  return penstock::path::run(argc, argv);
}
