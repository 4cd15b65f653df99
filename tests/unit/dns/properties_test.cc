// Whatever bytes come in, from clients, upstreams or gateways: nothing crashes, every answer parses and fits, no real
// address gets out, and nothing is left in flight for ever.
#include <gtest/gtest.h>
// rapidcheck/gtest.h needs gtest before it
#include <rapidcheck/gtest.h>

#include "controlplane/core/dns/answer_filter.h"
#include "controlplane/core/dns/query.h"
#include "dns_testing.h"

namespace penstock::dns {
namespace {

// Bytes that are a mangled good message more often than noise.
Wire mangle(Wire message) {
  const auto edits = *rc::gen::container<std::vector<std::pair<std::size_t, std::uint8_t>>>(
      rc::gen::pair(rc::gen::inRange<std::size_t>(0, 200), rc::gen::arbitrary<std::uint8_t>()));
  for (std::size_t i = 0; i < std::min<std::size_t>(edits.size(), 4); ++i)
    if (!message.empty()) message[edits[i].first % message.size()] = edits[i].second;
  if (*rc::gen::inRange(0, 4) == 0) message.resize(*rc::gen::inRange<std::size_t>(0, message.size() + 1));
  return message;
}

std::uint16_t any_type() {
  return *rc::gen::oneOf(rc::gen::element(type::a, type::aaaa, type::https, type::any, type::txt, type::srv, type::ptr,
                                          type::axfr, type::mx, type::cname),
                         rc::gen::arbitrary<std::uint16_t>());
}

std::string any_name() {
  static const std::vector<std::string> kNames = {"web.corp.example",
                                                  "WEB.Corp.Example",
                                                  "www.public.example",
                                                  "corp.example",
                                                  "",
                                                  "1.0.96.100.in-addr.arpa",
                                                  "use-application-dns.net",
                                                  "a.b.c.d.corp.example",
                                                  "80.113.0.203.in-addr.arpa"};
  return *rc::gen::elementOf(kNames);
}

Wire any_query() {
  QueryOptions options;
  options.id = *rc::gen::arbitrary<std::uint16_t>();
  options.edns_size = *rc::gen::element(-1, 0, 512, 1232, 4096);
  options.dnssec_ok = *rc::gen::arbitrary<bool>();
  if (*rc::gen::inRange(0, 3) == 0) options.options = {0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8};
  return make_query(any_name(), any_type(), options);
}

Sections any_sections() {
  const auto some = [](std::initializer_list<const char*> all) {
    std::vector<const char*> out;
    for (const char* text : all)
      if (*rc::gen::arbitrary<bool>()) out.push_back(text);
    return out;
  };
  Sections out;
  out.answer =
      some({"www.public.example. 300 IN CNAME web.corp.example.", "web.corp.example. 300 IN A 203.0.113.80",
            "web.corp.example. 300 IN AAAA 2001:db8:1a::80", "www.public.example. 300 IN TXT \"x\"",
            "www.public.example. 300 IN MX 1 mail.corp.example.", "x.corp.example. 1 IN APL 1:203.0.113.0/24"});
  if (*rc::gen::arbitrary<bool>())
    for (const char* text :
         {"cdn.other.example. 5 IN A 203.0.113.81", "web.corp.example. 60 IN CNAME cdn.other.example."})
      out.answer.push_back(text);
  out.authority = some(
      {"public.example. 300 IN NS ns.corp.example.", "public.example. 60 IN SOA a.example. b.example. 1 2 3 4 30"});
  out.additional = some({"ns.corp.example. 300 IN A 203.0.113.53", "mail.corp.example. 300 IN AAAA 2001:db8:1a::25",
                         "other.public.example. 1 IN A 192.0.2.1"});
  out.code = *rc::gen::element(0, 0, 0, 2, 3, 5);
  out.ad = *rc::gen::arbitrary<bool>();
  out.tc = *rc::gen::inRange(0, 8) == 0;
  out.edns = *rc::gen::arbitrary<bool>();
  return out;
}

// What an answer must be, for the query it answers.
void check_answer(Bytes answer, const Wire& query, Transport transport, bool mangled = false) {
  RC_ASSERT(parse_message(answer).has_value());
  const Reply reply = read_reply(answer);
  // What an upstream says in types that are opaque to us is passed on, even if somebody finds it malformed.
  if (mangled && !reply.parsed) return;
  RC_ASSERT(reply.parsed);
  RC_ASSERT(reply.qr);
  RC_ASSERT(reply.id == load16(query, 0));
  const Query asked = parse_query(query);
  const std::size_t limit = transport == Transport::tcp ? 65535 : asked.udp_limit();
  RC_ASSERT(answer.size() <= limit);
  // A mangled answer may give its addresses to names that are under no Resource.
  if (!mangled) RC_ASSERT(!reply.mentions("203.0.113.") && !reply.mentions("2001:db8:1a:"));
  if (asked.has_question) RC_ASSERT(std::equal(asked.qname.begin(), asked.qname.end(), answer.begin() + kHeaderSize));
  RC_ASSERT(reply.edns == asked.edns.present);
}

RC_GTEST_PROP(DnsProperties, NoiseIsHarmless, (const std::vector<std::uint8_t>& noise)) {
  Bench bench;
  (void)bench.resolver.handle_query(noise, {}, bench.now);
  (void)parse_message(noise);
  (void)filter_answer(
      noise, [](const WireName&) { return NameRule{}; }, 10);
  bench.resolver.handle_gateway_answer(1, noise, bench.now);
}

RC_GTEST_PROP(DnsProperties, MangledQueriesGetAnswersThatParse, ()) {
  Bench bench;
  const Wire query = mangle(any_query());
  const auto transport = *rc::gen::element(Transport::udp, Transport::tcp);
  const Bytes answer = bench.resolver.handle_query(query, {.transport = transport}, bench.now);
  if (!answer.empty()) check_answer(answer, query, transport);
}

RC_GTEST_PROP(DnsProperties, EveryQueryIsAnsweredAndNothingLeaks, ()) {
  Bench bench;
  const Wire query = any_query();
  const auto transport = *rc::gen::element(Transport::udp, Transport::tcp);
  const bool mangled = *rc::gen::arbitrary<bool>();
  const Bytes direct = bench.resolver.handle_query(query, {.transport = transport}, bench.now);
  if (!direct.empty()) {
    check_answer(direct, query, transport);
    return;
  }
  bench.collect();
  for (int i = 0; i < 4 && bench.answers.empty(); ++i) {
    if (!bench.sends.empty()) {
      const UpstreamSend send = bench.sends.back();
      const Wire answer = make_answer(send.message, any_sections());
      bench.upstream(send, mangled ? mangle(answer) : answer);
    } else if (!bench.gateway.empty()) {
      const GatewayQuery asked = bench.gateway.back();
      bench.resolver.handle_gateway_answer(asked.id, make_answer(asked.message, any_sections()), bench.now);
      bench.collect();
    }
  }
  for (int i = 0; i < 40 && bench.resolver.poll_timeout().at != kNever; ++i) {
    const Instant before = bench.resolver.poll_timeout().at;
    bench.timeout();
    RC_ASSERT(bench.resolver.poll_timeout().at > before);
  }
  RC_ASSERT(bench.answers.size() == 1U);
  check_answer(bench.answers[0].message, query, transport, mangled);
  RC_ASSERT(bench.resolver.poll_timeout().at == kNever);
  std::sort(bench.closed.begin(), bench.closed.end());
  RC_ASSERT(bench.closed.size() == bench.sends.size());
  // What was kept from it is no worse.
  const Wire again =
      make_query(read_reply(bench.answers[0].message).question, load16(query, parse_query(query).question_end - 4));
  const Bytes kept = bench.resolver.handle_query(again, {}, bench.now);
  if (!kept.empty()) check_answer(kept, again, Transport::udp, mangled);
}

RC_GTEST_PROP(DnsProperties, NamesRoundTrip, ()) {
  const auto labels = *rc::gen::container<std::vector<std::string>>(rc::gen::map(
      rc::gen::pair(rc::gen::inRange<std::size_t>(1, 20), rc::gen::arbitrary<std::uint32_t>()), [](const auto& pair) {
        std::string label;
        for (std::size_t i = 0; i < pair.first; ++i) label += "abcdefghij-_0123"[(pair.second >> (i % 28)) & 15];
        return label;
      }));
  std::string text;
  for (const auto& label : labels) text += (text.empty() ? "" : ".") + label;
  const auto wire = wire_name(text);
  RC_ASSERT(wire.has_value() == (!text.empty() && text.size() <= 253));
  if (wire) RC_ASSERT(name_text(wire->bytes()) == text);
}

}  // namespace
}  // namespace penstock::dns
