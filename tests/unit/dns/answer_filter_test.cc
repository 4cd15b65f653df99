// No real address of a name under a Resource reaches the client, wherever in an answer it stands.
#include "controlplane/core/dns/answer_filter.h"

#include "dns_testing.h"

namespace penstock::dns {
namespace {

// Real addresses of names under `**.corp.example` in these tests: 203.0.113.x and 2001:db8:1a::x.
bool leaks(const Reply& reply) {
  return reply.mentions("203.0.113.") || reply.mentions("2001:db8:1a:");
}

TEST(AnswerFilter, AChainThatReachesAResourceEndsInItsProxyAddress) {
  struct Case {
    const char* what;
    Sections sections;
  };
  const Case cases[] = {
      {"whole chain",
       {.answer = {"www.public.example. 300 IN CNAME web.corp.example.", "web.corp.example. 300 IN A 203.0.113.80"}}},
      {"unsorted",
       {.answer = {"web.corp.example. 300 IN A 203.0.113.80", "www.public.example. 300 IN CNAME web.corp.example."}}},
      {"without address", {.answer = {"www.public.example. 300 IN CNAME web.corp.example."}}},
      {"unknown to the upstream",
       {.answer = {"www.public.example. 300 IN CNAME web.corp.example."}, .code = LDNS_RCODE_NXDOMAIN}},
      {"going on behind it",
       {.answer = {"www.public.example. 300 IN CNAME WEB.corp.example.",
                   "web.corp.example. 300 IN CNAME cdn.other.example.", "cdn.other.example. 300 IN A 203.0.113.81"}}},
      {"over several",
       {.answer = {"www.public.example. 300 IN CNAME a.public.example.",
                   "a.public.example. 9 IN CNAME web.corp.example.", "web.corp.example. 300 IN A 203.0.113.80",
                   "web.corp.example. 300 IN A 203.0.113.81"},
        .additional = {"web.corp.example. 300 IN AAAA 2001:db8:1a::80"}}},
  };
  for (const auto& c : cases) {
    Bench bench;
    Sections sections = c.sections;
    sections.ad = true;
    const Reply reply = bench.resolve("www.public.example", type::a, sections);
    EXPECT_EQ(reply.code, LDNS_RCODE_NOERROR) << c.what;
    EXPECT_FALSE(leaks(reply)) << c.what;
    EXPECT_FALSE(reply.ad) << c.what;
    ASSERT_FALSE(reply.answer.empty()) << c.what;
    EXPECT_EQ(reply.rdata().back(), bench.proxies("web.corp.example").v4.to_string()) << c.what;
    EXPECT_FALSE(reply.mentions("cdn.other.example")) << c.what;
    EXPECT_EQ(bench.resolver.stats().rewritten_answers, 1U);
  }
}

TEST(AnswerFilter, AChainIntoASuppressedFamilyIsEmpty) {
  Bench bench{{{"corp", "**.corp.example", IpStack::ipv4}}};
  const Reply reply = bench.resolve("www.public.example", type::aaaa,
                                    {.answer = {"www.public.example. 300 IN CNAME web.corp.example.",
                                                "web.corp.example. 300 IN AAAA 2001:db8:1a::80"}});
  EXPECT_EQ(reply.answer.size(), 1U);
  EXPECT_FALSE(leaks(reply));
}

TEST(AnswerFilter, AddressesInEverySectionAreReplacedOrStripped) {
  Bench bench;
  const Reply reply =
      bench.resolve("_ldap._tcp.public.example", type::srv,
                    {.answer = {"_ldap._tcp.public.example. 300 IN SRV 1 2 389 db.corp.example.",
                                "_ldap._tcp.public.example. 300 IN SRV 1 2 389 db.public.example."},
                     .authority = {"public.example. 300 IN NS ns.corp.example."},
                     .additional = {"db.corp.example. 300 IN A 203.0.113.9", "db.corp.example. 300 IN A 203.0.113.10",
                                    "DB.corp.example. 300 IN AAAA 2001:db8:1a::9",
                                    "ns.corp.example. 300 IN A 203.0.113.11", "db.public.example. 300 IN A 192.0.2.9"},
                     .ad = true});
  EXPECT_FALSE(leaks(reply));
  EXPECT_FALSE(reply.ad);
  EXPECT_EQ(reply.answer.size(), 2U);
  EXPECT_EQ(reply.authority.size(), 1U);
  EXPECT_EQ(reply.additional.size(), 4U);
  EXPECT_TRUE(reply.mentions(bench.proxies("db.corp.example").v4.to_string()));
  EXPECT_TRUE(reply.mentions(bench.proxies("db.corp.example").v6.to_string()));
  EXPECT_TRUE(reply.mentions("192.0.2.9"));
  // The packet path knows the names behind them.
  EXPECT_EQ(*bench.names.find(bench.proxies("ns.corp.example").v4), "ns.corp.example");
}

TEST(AnswerFilter, NobodyFillsTheMapByInventingNames) {
  Bench bench;
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back("n" + std::to_string(i) + ".corp.example. 300 IN A 203.0.113.9");
  Sections sections{.answer = {"public.example. 300 IN MX 1 n0.corp.example."}};
  for (const auto& text : texts) sections.additional.push_back(text.c_str());
  const Reply reply = bench.resolve("public.example", type::mx, sections, {.edns_size = 1232});
  EXPECT_FALSE(leaks(reply));
  EXPECT_EQ(bench.names.size(), 32U);
}

TEST(AnswerFilter, ByGatewaysToo) {
  Bench bench;
  bench.ask("_ldap._tcp.corp.example", type::srv);
  const auto asked = bench.gateway.back();
  bench.resolver.handle_gateway_answer(
      asked.id,
      make_answer(asked.message, {.answer = {"_ldap._tcp.corp.example. 60 IN SRV 1 2 389 db.corp.example."},
                                  .additional = {"db.corp.example. 60 IN A 203.0.113.9"}}),
      bench.now);
  bench.collect();
  EXPECT_FALSE(leaks(bench.last_answer()));
  EXPECT_TRUE(bench.last_answer().mentions(bench.proxies("db.corp.example").v4.to_string()));
}

// trap: dns-9
TEST(AnswerFilter, HintsAndOtherAddressBearersGo) {
  struct Case {
    std::uint16_t type;
    std::vector<const char*> answer;
    std::size_t left;
  };
  const Case cases[] = {
      {type::any, {"web.public.example. 300 IN A 192.0.2.1", "web.corp.example. 300 IN APL 1:203.0.113.0/24"}, 1},
      {type::ipseckey,
       {"www.public.example. 300 IN CNAME web.corp.example.",
        "web.corp.example. 300 IN IPSECKEY 10 1 2 203.0.113.80 AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ=="},
       1},
      {type::any, {"www.public.example. 300 IN A 192.0.2.1", "web.corp.example. 300 IN A 203.0.113.80"}, 2},
  };
  for (const auto& c : cases) {
    Bench bench;
    const Reply reply = bench.resolve("www.public.example", c.type, {.answer = c.answer});
    EXPECT_FALSE(leaks(reply));
    EXPECT_EQ(reply.answer.size(), c.left);
  }
}

Wire https_answer(Bytes query, std::string_view owner, std::string_view target) {
  const Message asked = parse_message(query).value();
  MessageWriter out{asked.id, flag::qr | flag::ra, asked.qname.bytes(), asked.qtype, asked.qclass};
  Wire rdata = {0, 1};
  const WireName name = wire_name(target).value();
  rdata.insert(rdata.end(), name.bytes().begin(), name.bytes().end());
  rdata.insert(rdata.end(), {0, 4, 0, 4, 203, 0, 113, 80});  // ipv4hint
  out.add(Section::answer, wire_name(owner)->bytes(), type::https, kClassIn, 300, rdata);
  return out.take();
}

// trap: dns-9
TEST(AnswerFilter, HttpsRecordsThatPointIntoAResourceGo) {
  struct Case {
    const char* owner;
    const char* target;
    bool kept;
  };
  for (const auto& c :
       {Case{"www.public.example", "web.corp.example", false}, Case{"web.corp.example", "x.public.example", false},
        Case{"www.public.example", "x.public.example", true}}) {
    Bench bench;
    bench.ask("www.public.example", type::https);
    bench.upstream(bench.sends[0], https_answer(bench.sends[0].message, c.owner, c.target));
    const auto& message = bench.answers.at(0).message;
    EXPECT_EQ(load16(message, 6), c.kept ? 1 : 0) << c.owner << " -> " << c.target;
  }
}

TEST(AnswerFilter, SignaturesOverWhatWasChangedGo) {
  Bench bench;
  const Reply reply = bench.resolve(
      "public.example", type::ns,
      {.answer = {"public.example. 300 IN NS ns.corp.example.",
                  "public.example. 300 IN RRSIG NS 8 2 300 20300101000000 20200101000000 1 public.example. AAAA"},
       .additional = {"ns.corp.example. 300 IN A 203.0.113.53",
                      "ns.corp.example. 300 IN RRSIG A 8 3 300 20300101000000 20200101000000 1 corp.example. AAAA"}},
      {.edns_size = 1232, .dnssec_ok = true});
  EXPECT_FALSE(leaks(reply));
  EXPECT_EQ(reply.answer.size(), 2U);
  EXPECT_EQ(reply.additional.size(), 1U);
}

TEST(AnswerFilter, AnswersWithoutResourceNamesPassUntouched) {
  const Wire query = make_query("public.example", type::mx);
  const Wire answer = make_answer(
      query, {.answer = {"public.example. 300 IN MX 10 mail.public.example."},
              .authority = {"public.example. 300 IN NS ns.public.example."},
              .additional = {"mail.public.example. 300 IN A 192.0.2.1", "ns.public.example. 300 IN AAAA 2001:db8::1"}});
  const auto filtered = filter_answer(
      answer, [](const WireName&) { return std::nullopt; }, 10);
  ASSERT_TRUE(filtered);
  EXPECT_FALSE(filtered->rewritten);
  EXPECT_EQ(filtered->message, answer);
  EXPECT_EQ(filtered->cache_ttl, 300U);
}

TEST(AnswerFilter, RewritingKeepsEveryOtherRecord) {
  const char* records[] = {
      "public.example. 300 IN NS ns.public.example.",
      "public.example. 300 IN SOA ns.public.example. root.public.example. 1 2 3 4 5",
      "public.example. 300 IN MX 10 mail.public.example.",
      "public.example. 300 IN TXT \"one\" \"two\"",
      "public.example. 300 IN SRV 1 2 3 srv.public.example.",
      "public.example. 300 IN NAPTR 100 50 \"s\" \"z3950+I2L+I2C\" \"\" _z._tcp.public.example.",
      "public.example. 300 IN RP mbox.public.example. txt.public.example.",
      "public.example. 300 IN AFSDB 1 afs.public.example.",
      "public.example. 300 IN KX 1 kx.public.example.",
      "public.example. 300 IN DNAME other.example.",
      "public.example. 300 IN HINFO \"a\" \"b\"",
      "public.example. 300 IN CAA 0 issue \"ca.example\"",
      "public.example. 300 IN SSHFP 1 1 0123456789012345678901234567890123456789",
      "public.example. 300 IN DS 1 8 2 0123456789012345678901234567890123456789012345678901234567890123",
      "public.example. 300 IN PTR ptr.public.example.",
  };
  for (const char* record : records) {
    const Wire query = make_query("public.example", type::any);
    const Wire answer = make_answer(query, {.answer = {record, "web.corp.example. 300 IN A 203.0.113.80"}});
    const auto rules = [](const WireName& name) -> std::optional<NameRule> {
      if (name_text(name.bytes()) != "web.corp.example") return std::nullopt;
      return NameRule{};
    };
    const auto filtered = filter_answer(answer, rules, 10);
    ASSERT_TRUE(filtered) << record;
    EXPECT_TRUE(filtered->rewritten);
    const Reply before = read_reply(answer);
    const Reply after = read_reply(filtered->message);
    ASSERT_TRUE(after.parsed) << record;
    ASSERT_EQ(after.answer.size(), 1U) << record;
    EXPECT_EQ(after.answer[0], before.answer[0]);
  }
}

TEST(AnswerFilter, MalformedAnswersAreRefused) {
  const Wire query = make_query("www.public.example", type::a, {.edns_size = 1232});
  const Wire good = make_answer(query, {.answer = {"www.public.example. 300 IN A 192.0.2.80"}, .edns = true});
  const auto rules = [](const WireName&) { return std::nullopt; };
  ASSERT_TRUE(filter_answer(good, rules, 10));
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(filter_answer(Bytes{good}.first(size), rules, 10)) << size;
  Wire trailing = good;
  trailing.push_back(0);
  EXPECT_FALSE(filter_answer(trailing, rules, 10));
  // And through the resolver: SERVFAIL rather than nonsense.
  Bench bench;
  bench.ask("www.public.example", type::a);
  Wire cut = make_answer(bench.sends[0].message, {.answer = {"www.public.example. 300 IN A 192.0.2.80"}});
  cut.pop_back();
  bench.upstream(bench.sends[0], cut);
  EXPECT_EQ(bench.last_answer().code, LDNS_RCODE_SERVFAIL);
}

TEST(AnswerFilter, PointerLoopsEnd) {
  Wire message = make_query("www.public.example", type::a);
  store16(message, 2, flag::qr);
  store16(message, 6, 1);
  const std::size_t at = message.size();
  append16(message, static_cast<std::uint16_t>(0xc000 | at));  // points at itself
  message.insert(message.end(), {0, 1, 0, 1, 0, 0, 0, 1, 0, 0});
  EXPECT_FALSE(parse_message(message));
  store16(message, at, static_cast<std::uint16_t>(0xc000 | (at + 1)));  // forwards
  EXPECT_FALSE(parse_message(message));
  store16(message, at, 0xc002);  // into the header
  EXPECT_FALSE(parse_message(message));
}

}  // namespace
}  // namespace penstock::dns
