#include "tests/path/foreign/match.h"

#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/ip_parse.h"

namespace penstock::path {
namespace {

struct Event {
  const Exchange* of;
  const ForeignOutput* output;  // nullptr: the packet was not forwarded
};

bool fragment(const Octets& bytes) {
  const IpParse parsed = parse_ip(bytes, ParseMode::piecewise);
  return parsed.reason == DropReason::none && parsed.view.fragment();
}

std::string drop_line(const Exchange& exchange) {
  const ForeignResult& result = exchange.result;
  const bool v6 = !exchange.sent.bytes.empty() && exchange.sent.bytes[0] >> 4 == 6;
  if (result.held && !fragment(exchange.sent.bytes))
    return "    " + exchange.sent.name + " waits six seconds for the same connection from the other side\n" +
           "        RFC 6146 §3.5.2.2, RFC 5382 REQ-4\n";
  if (result.held)
    return "    " + exchange.sent.name + " is a fragment and waits for the others of its datagram\n" +
           "        RFC 6146 §3.4; docs/translation.md#fragments\n";
  const std::string section = result.why.empty() ? section_of(result.reason, v6) : result.why;
  return "    " + exchange.sent.name + " is dropped: " + std::string{name_of(result.reason)} + "\n        " + section +
         "\n";
}

bool udp_without_checksum(const Octets& bytes) {
  const IpParse parsed = parse_ip(bytes, ParseMode::piecewise);
  if (parsed.reason != DropReason::none || parsed.view.v6() || parsed.view.protocol != ip_protocol::udp) return false;
  const auto* udp = view_as<UdpHeader>(Bytes{bytes}.subspan(parsed.view.header_length));
  return !parsed.view.later_fragment() && udp != nullptr && udp->checksum.raw() == 0;
}

bool v6_fragment(const Octets& bytes) {
  const IpParse parsed = parse_ip(bytes, ParseMode::piecewise);
  return parsed.reason == DropReason::none && parsed.view.v6() && parsed.view.fragment();
}

// Choices that the RFC leaves to whoever runs a translator, where they explain a difference.
std::string choices(const Octets& sent, const Octets* expected) {
  if (udp_without_checksum(sent))
    return "    RFC 7915 §4.5: whether UDP without a checksum is dropped or gets one is for the operator to say; here\n"
           "        it gets one (docs/translation.md#zero-udp-checksums), --udp-zero drop makes the other choice\n";
  if (expected != nullptr && v6_fragment(*expected) && !sent.empty() && sent[0] >> 4 == 4)
    return "    RFC 7915 §4.1 leaves the length that packets without DF are cut to (lowest-ipv6-mtu, 1280 unless said\n"
           "        otherwise) to the operator: --lowest-mtu6 N\n";
  if (expected == nullptr && !sent.empty() && sent[0] >> 4 == 4)
    return "    RFC 6146 §3.5, RFC 4787 §5 leave to the operator who may send to a client's port: --filtering\n"
           "        endpoint_independent (anybody), address_dependent or address_and_port_dependent\n"
           "        (docs/translation.md#endpoint-independent-mapping)\n";
  return {};
}

class Matcher {
 public:
  Matcher(const std::vector<Exchange>& exchanges, const Ignored& ignored) : ignored_{ignored} {
    for (const Exchange& exchange : exchanges) {
      bool forwarded = false;
      for (const ForeignOutput& output : exchange.result.outputs) {
        events_.push_back({&exchange, &output});
        forwarded = forwarded || !output.answer;
      }
      if (!forwarded && !exchange.waited) events_.push_back({&exchange, nullptr});
    }
  }

  std::string report;
  bool good = true;

  void packet(const CapturedPacket& expected) {
    std::string drops;
    for (; at_ < events_.size() && events_[at_].output == nullptr; ++at_) drops += drop_line(*events_[at_].of);
    if (at_ == events_.size()) {
      fail("expected " + expected.name + " (" + summary_of(expected.bytes) + "), but nothing came out");
      report += drops.empty() ? last_drops_ : drops;
      if (!events_.empty()) report += choices(events_.back().of->sent.bytes, &expected.bytes);
      return;
    }
    last_drops_ = drops;
    const Event& event = events_[at_++];
    const Comparison compared = compare_foreign(expected.bytes, *event.output, ignored_, event.of->sent.bytes);
    if (compared.differences.empty()) {
      report += "as expected: " + expected.name + " (" + summary_of(event.output->bytes) + ")\n" + compared.notes;
      return;
    }
    fail(event.of->sent.name + " does not give " + expected.name);
    report += "    expected " + summary_of(expected.bytes) + "\n    got      " + summary_of(event.output->bytes) +
              (event.output->answer ? ", an answer to the sender" : "") + "\n" + compared.differences + compared.notes;
    if (event.output->answer) report += drop_line(*event.of);
    report += choices(event.of->sent.bytes, &expected.bytes);
  }

  void drop(bool silence) {
    std::string answers;
    for (; at_ < events_.size() && events_[at_].output != nullptr && events_[at_].output->answer; ++at_)
      answers += "    its sender is told: " + summary_of(events_[at_].output->bytes) + "\n";
    if (at_ == events_.size()) return fail("expected a packet to be dropped, but none was left");
    const Event& event = events_[at_++];
    if (event.output != nullptr) {
      fail("expected " + event.of->sent.name + " to be dropped, but it gives " + summary_of(event.output->bytes));
      report += "        RFC 7915 §4, §5: what has mappings and is well formed is translated\n";
      report += choices(event.of->sent.bytes, nullptr);
      return;
    }
    if (silence && !answers.empty()) {
      fail("expected " + event.of->sent.name + " to be dropped in silence");
      report += answers + "        RFC 7915 §4.4, §5.4: the sender of a discarded packet SHOULD be told\n";
      report += drop_line(*event.of);
      return;
    }
    report += "dropped, as expected: " + event.of->sent.name + "\n" + drop_line(*event.of) + answers;
  }

  void nothing_left() {
    for (; at_ < events_.size(); ++at_) {
      const Event& event = events_[at_];
      if (event.output == nullptr) continue;
      fail(event.of->sent.name + " also gives " + summary_of(event.output->bytes) + ", which was not expected");
      if (event.output->answer) report += drop_line(*event.of);
      report += choices(event.of->sent.bytes, &event.output->bytes);
    }
  }

 private:
  void fail(const std::string& why) {
    good = false;
    report += "MISMATCH: " + why + "\n";
  }

  const Ignored& ignored_;
  std::vector<Event> events_;
  std::size_t at_ = 0;
  std::string last_drops_;
};

}  // namespace

bool match(const std::vector<Exchange>& exchanges, const std::vector<Expectation>& expectations, const Ignored& ignored,
           std::string& report) {
  Matcher matcher{exchanges, ignored};
  for (const Expectation& expectation : expectations) {
    if (expectation.kind == Expectation::Kind::packet) {
      matcher.packet(expectation.packet);
    } else {
      matcher.drop(expectation.kind == Expectation::Kind::silence);
    }
  }
  matcher.nothing_left();
  report = matcher.report;
  return matcher.good;
}

}  // namespace penstock::path
