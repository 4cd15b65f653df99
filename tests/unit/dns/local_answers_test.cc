// What the stub resolver answers by itself: the table of queries, line by line.
#include <ctime>

#include "dns_testing.h"

namespace penstock::dns {
namespace {

using testing::Test;

std::string reverse_name(const IpAddress& address) {
  std::string out;
  const auto wire = address.wire();
  if (address.is_v4()) {
    for (std::size_t i = wire.size(); i-- > 0;) out += std::to_string(wire[i]) + ".";
    return out + "in-addr.arpa";
  }
  constexpr char kDigits[] = "0123456789abcdef";
  for (std::size_t i = wire.size(); i-- > 0;)
    for (const int digit : {wire[i] & 15, wire[i] >> 4}) {
      out += kDigits[digit];
      out += '.';
    }
  return out + "ip6.arpa";
}

TEST(LocalAnswers, AddressesOfResourceNamesComeAtOnce) {
  Bench bench;
  const Reply v4 = bench.ask("web4.corp.example", type::a);
  const Reply v6 = bench.ask("web4.corp.example", type::aaaa);
  const auto proxies = bench.proxies("web4.corp.example");
  EXPECT_EQ(v4.rdata(), std::vector<std::string>{proxies.v4.to_string()});
  EXPECT_EQ(v6.rdata(), std::vector<std::string>{proxies.v6.to_string()});
  EXPECT_TRUE(bench.names.config().pool_v4.contains(proxies.v4));
  EXPECT_TRUE(bench.names.config().pool_v6.contains(proxies.v6));
  EXPECT_EQ(v4.id, 0x1234);
  EXPECT_EQ(v4.code, LDNS_RCODE_NOERROR);
  EXPECT_TRUE(v4.qr && v4.ra && v4.aa && !v4.ad && !v4.tc);
  EXPECT_EQ(v4.answer[0].substr(0, 29), "web4.corp.example. 10 IN A 10");
  EXPECT_TRUE(bench.sends.empty() && bench.gateway.empty());
  // The same again, whatever the case.
  EXPECT_EQ(bench.ask("WEB4.Corp.eXample", type::a).rdata(), v4.rdata());
  EXPECT_EQ(bench.ask("WEB4.Corp.eXample", type::a).question, "WEB4.Corp.eXample.");
}

TEST(LocalAnswers, TtlStaysBetweenOneAndSixty) {
  for (const std::uint32_t wanted : {0U, 3600U}) {
    Bench bench{{{"corp", "**.corp.example", IpStack::dual}}, {.proxy_ttl_s = wanted}};
    const Reply reply = bench.ask("a.corp.example", type::a);
    EXPECT_NE(reply.answer[0].find(wanted == 0 ? " 1 IN" : " 60 IN"), std::string::npos) << reply.answer[0];
  }
}

TEST(LocalAnswers, IpStackSuppressesAFamily) {
  struct Case {
    IpStack stack;
    bool v4, v6;
  };
  for (const auto& c :
       {Case{IpStack::dual, true, true}, Case{IpStack::ipv4, true, false}, Case{IpStack::ipv6, false, true}}) {
    Bench bench{{{"corp", "**.corp.example", c.stack}}};
    for (const auto& [type, given] : {std::pair{type::a, c.v4}, std::pair{type::aaaa, c.v6}}) {
      const Reply reply = bench.ask("web.corp.example", type);
      EXPECT_EQ(reply.code, LDNS_RCODE_NOERROR);
      EXPECT_EQ(reply.answer.size(), given ? 1U : 0U);
      EXPECT_EQ(reply.authority.size(), given ? 0U : 1U);  // SOA: how long the denial may be kept
    }
  }
}

TEST(LocalAnswers, IpStackOfANameIsTheUnionOverItsResources) {
  Bench bench{{{"a", "**.corp.example", IpStack::ipv4}, {"b", "web.corp.example", IpStack::ipv6}}};
  EXPECT_EQ(bench.ask("web.corp.example", type::a).answer.size(), 1U);
  EXPECT_EQ(bench.ask("web.corp.example", type::aaaa).answer.size(), 1U);
  EXPECT_EQ(bench.ask("other.corp.example", type::aaaa).answer.size(), 0U);
}

// trap: dns-12
TEST(LocalAnswers, ChangedIpStackTakesEffectForTheNextQuery) {
  Bench bench;
  EXPECT_EQ(bench.ask("web.corp.example", type::aaaa).answer.size(), 1U);
  bench.resolver.set_resources({{"corp", "**.corp.example", IpStack::ipv4}}, bench.now);
  EXPECT_EQ(bench.ask("web.corp.example", type::aaaa).answer.size(), 0U);
  EXPECT_EQ(bench.ask("web.corp.example", type::a).answer.size(), 1U);
}

// trap: dns-9
TEST(LocalAnswers, RecordsWithAddressHintsAreEmpty) {
  Bench bench;
  for (const std::uint16_t type : {type::https, type::svcb, type::a6, type::apl, type::ipseckey, type::l32, type::l64,
                                   type::amtrelay, type::wks}) {
    const Reply reply = bench.ask("web.corp.example", type);
    EXPECT_EQ(reply.code, LDNS_RCODE_NOERROR) << type;
    EXPECT_TRUE(reply.answer.empty()) << type;
  }
  EXPECT_TRUE(bench.ask("_8443._https.web.corp.example", type::https).answer.empty());
  EXPECT_TRUE(bench.sends.empty() && bench.gateway.empty());
}

TEST(LocalAnswers, AnyIsAnsweredByRfc8482) {
  Bench bench;
  const Reply reply = bench.ask("web.corp.example", type::any);
  ASSERT_EQ(reply.answer.size(), 1U);
  EXPECT_NE(reply.answer[0].find("HINFO \"RFC8482\" \"\""), std::string::npos) << reply.answer[0];
}

TEST(LocalAnswers, ZoneTransfersAreRefused) {
  Bench bench;
  for (const char* name : {"corp.example", "public.example"})
    for (const std::uint16_t type : {type::axfr, type::ixfr}) EXPECT_EQ(bench.ask(name, type).code, LDNS_RCODE_REFUSED);
  EXPECT_TRUE(bench.sends.empty());
}

TEST(LocalAnswers, BrowsersAreAskedToUseTheSystem) {
  Bench bench;
  EXPECT_EQ(bench.ask("use-application-dns.net", type::a).code, LDNS_RCODE_NXDOMAIN);
  EXPECT_EQ(bench.ask("Use-Application-DNS.net", type::aaaa).code, LDNS_RCODE_NXDOMAIN);
}

TEST(LocalAnswers, MissingNamesAreDeniedForTenSecondsAtMost) {
  Bench bench;
  EXPECT_EQ(bench.ask("nosuch.corp.example", type::a).answer.size(), 1U);  // the first is a dummy
  bench.resolver.set_name_missing("nosuch.corp.example", 3600, bench.now);
  for (const std::uint16_t type : {type::a, type::aaaa, type::txt, type::https}) {
    const Reply reply = bench.ask("nosuch.corp.example", type);
    EXPECT_EQ(reply.code, LDNS_RCODE_NXDOMAIN);
    ASSERT_EQ(reply.authority.size(), 1U);
    EXPECT_NE(reply.authority[0].find("corp.example. 10 IN SOA"), std::string::npos) << reply.authority[0];
  }
  bench.pass(std::chrono::seconds{9});
  EXPECT_NE(bench.ask("nosuch.corp.example", type::a).authority[0].find(" 1 IN SOA"), std::string::npos);
  bench.pass(std::chrono::seconds{1});
  EXPECT_EQ(bench.ask("nosuch.corp.example", type::a).answer.size(), 1U);

  bench.resolver.set_name_missing("nosuch.corp.example", 5, bench.now);
  bench.resolver.set_name_found("nosuch.corp.example");
  EXPECT_EQ(bench.ask("nosuch.corp.example", type::a).code, LDNS_RCODE_NOERROR);
}

TEST(LocalAnswers, ReverseLookupsOfOurAddresses) {
  Bench bench;
  bench.resolver.set_own_names({{*IpAddress::parse("100.64.0.7"), "alice-laptop.penstock.internal"}});
  bench.ask("web.corp.example", type::a);
  const auto proxies = bench.proxies("web.corp.example");
  struct Case {
    IpAddress address;
    const char* name;  // nullptr: NXDOMAIN
  };
  const Case cases[] = {
      {proxies.v4, "web.corp.example."},
      {proxies.v6, "web.corp.example."},
      {*IpAddress::parse("100.64.0.7"), "alice-laptop.penstock.internal."},
      {*IpAddress::parse("100.100.111.1"), "dns.penstock.internal."},
      {*IpAddress::parse("fd00:2021:1111:8000:100:100:111:1"), "dns.penstock.internal."},
      {*IpAddress::parse("100.64.0.8"), nullptr},
      {*IpAddress::parse("100.127.255.1"), nullptr},
      {*IpAddress::parse("fd00:2021:1111:8000::3"), nullptr},
  };
  for (const auto& c : cases) {
    const Reply reply = bench.ask(reverse_name(c.address), type::ptr);
    EXPECT_EQ(reply.code, c.name != nullptr ? LDNS_RCODE_NOERROR : LDNS_RCODE_NXDOMAIN) << c.address.to_string();
    if (c.name != nullptr) {
      EXPECT_EQ(reply.rdata(), std::vector<std::string>{c.name});
    }
  }
  EXPECT_TRUE(bench.sends.empty());
  EXPECT_EQ(bench.ask("alice-laptop.penstock.internal", type::a).rdata(), std::vector<std::string>{"100.64.0.7"});
}

// trap: dns-10
TEST(LocalAnswers, ReverseLookupsOfOthersAndOddOnesGoUpstream) {
  Bench bench;
  const char* others[] = {"80.113.0.203.in-addr.arpa",
                          "1.0.0.127.in-addr.arpa",
                          "96.100.in-addr.arpa",
                          "in-addr.arpa",
                          "ip6.arpa",
                          "256.0.96.100.in-addr.arpa",
                          "01.0.96.100.in-addr.arpa",
                          "1.2.3.4.5.in-addr.arpa",
                          "x.0.96.100.in-addr.arpa",
                          "-1.0.96.100.in-addr.arpa",
                          "1.0.96.100.in-addr.arpa.example",
                          "0.0.0.0.ip6.arpa",
                          "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
                          "g.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.1.1.1.1.2.0.2.0.0.d.f.ip6.arpa",
                          "10.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.1.1.1.1.2.0.2.0.0.d.f.ip6.arpa"};
  std::size_t sent = 0;
  for (const char* name : others) {
    EXPECT_FALSE(bench.ask(name, type::ptr).parsed) << name;
    EXPECT_EQ(bench.sends.size(), ++sent) << name;
  }
}

// trap: dns-11
TEST(LocalAnswers, AnExactNameBeatsAWildcard) {
  Bench bench{{{"wild", "**.corp.example", IpStack::dual}, {"exact", "mail.corp.example", IpStack::dual}}};
  EXPECT_EQ(bench.resolver.resources_of("mail.corp.example"), (std::vector<std::string>{"exact", "wild"}));
  bench.ask("mail.corp.example", type::txt);
  ASSERT_EQ(bench.gateway.size(), 1U);
  EXPECT_EQ(bench.gateway[0].resource, "exact");
}

TEST(LocalAnswers, PatternsAreMatchedLikeNamesAreWritten) {
  Bench bench{{{"idn",
                "*.B\xc3\xbc"
                "cher.example",
                IpStack::dual},
               {"upper", "WEB?.Corp.Example.", IpStack::dual}}};
  EXPECT_EQ(bench.ask("shop.xn--bcher-kva.example", type::a).answer.size(), 1U);
  EXPECT_EQ(bench
                .ask("shop.b\xc3\xbc"
                     "cher.example",
                     type::a)
                .answer.size(),
            1U);  // unencoded, as some programs ask
  EXPECT_NE(bench.names.find("shop.xn--bcher-kva.example"), nullptr);
  EXPECT_EQ(bench.ask("web1.corp.example", type::a).answer.size(), 1U);
  EXPECT_FALSE(bench.ask("web.corp.example", type::a).parsed);
}

TEST(LocalAnswers, MalformedPatternsAreNamedAndLeftOut) {
  SeededRandom random;
  NameMap names{{}, random};
  StubResolver resolver{{}, names, random};
  const auto left_out = resolver.set_resources(
      {{"bad", "a..b", IpStack::dual}, {"good", "*.corp.example", IpStack::dual}, {"worse", "", IpStack::dual}}, {});
  ASSERT_EQ(left_out.size(), 2U);
  EXPECT_EQ(left_out[0], "resource bad: 'a..b' is not a DNS name pattern");
  EXPECT_EQ(resolver.resources_of("x.corp.example"), std::vector<std::string>{"good"});
}

// trap: dns-6
TEST(LocalAnswers, TruncationFollowsTheClientsSize) {
  Bench bench;
  std::string label(63, 'x');
  const std::string name = label + "." + label + "." + label + "." + std::string(40, 'y') + ".corp.example";
  bench.ask(name, type::a);
  const std::string reverse = reverse_name(bench.proxies(name).v6);
  struct Case {
    int edns;
    Transport transport;
    bool truncated;
  };
  // The answer to a PTR question of this name has 12 + 78 + 12 + 247 bytes and fits everywhere; an ordinary answer with
  // such a name in the question fits too; so nothing local is ever truncated, not even at 512.
  for (const auto& c : {Case{-1, Transport::udp, false}, Case{100, Transport::udp, false},
                        Case{4096, Transport::udp, false}, Case{-1, Transport::tcp, false}}) {
    const Reply reply = bench.ask(make_query(reverse, type::ptr, {.edns_size = c.edns}), {.transport = c.transport});
    EXPECT_EQ(reply.tc, c.truncated);
    EXPECT_LE(reply.size, 512U);
    EXPECT_EQ(reply.answer.size(), 1U);
  }
}

TEST(LocalAnswers, OtherClassesAreNotOurs) {
  Bench bench;
  EXPECT_FALSE(bench.ask("web.corp.example", type::a, {.klass = 3}).parsed);
  EXPECT_EQ(bench.sends.size(), 1U);
  EXPECT_EQ(bench.ask("web.corp.example", type::a, {.klass = kClassAny}).answer.size(), 1U);
}

TEST(LocalAnswers, LabelsThatCouldBeMisreadFallUnderNoResource) {
  Bench bench{{{"exact", "a.b.corp.example", IpStack::dual}}};
  Wire dotted = make_query("aXb.corp.example", type::a);
  dotted[14] = '.';  // one label "a.b"
  EXPECT_FALSE(bench.ask(dotted).parsed);
  EXPECT_EQ(bench.sends.size(), 1U);
  EXPECT_EQ(bench.names.size(), 0U);
}

// A map that is full of names in use says so, and goes on answering for those it has.
TEST(LocalAnswers, FullMapIsServfailNotAWrongAddress) {
  Bench bench{{{"corp", "**.corp.example", IpStack::dual}}, {}, {.max_names = 2}};
  bench.ask("a.corp.example", type::a);
  bench.ask("b.corp.example", type::a);
  EXPECT_EQ(bench.ask("c.corp.example", type::a).code, LDNS_RCODE_SERVFAIL);
  EXPECT_EQ(bench.ask("a.corp.example", type::a).answer.size(), 1U);
}

TEST(LocalAnswers, TenThousandPatternsCostNoMoreThanAFew) {
  std::vector<DnsResource> resources;
  for (int i = 0; i < 10'000; ++i) {
    const std::string site = "site" + std::to_string(i) + ".example";
    resources.push_back({"r" + std::to_string(i),
                         (i % 3 == 0   ? "**."
                          : i % 3 == 1 ? "*."
                                       : "web?.") +
                             site,
                         IpStack::dual});
  }
  Bench bench{std::move(resources)};
  // A linear scan would need 2·10^8 comparisons for these 20 000 queries: many seconds. Ten are allowed, for
  // sanitizers; of processor time, so that a busy machine changes nothing.
  const std::clock_t start = std::clock();
  for (int i = 0; i < 10'000; ++i) {
    const std::string name = "web1.site" + std::to_string(i) + ".example";
    const Wire query = make_query(name, type::a);
    EXPECT_FALSE(bench.resolver.handle_query(query, {}, bench.now).empty());
    EXPECT_FALSE(bench.resolver.handle_query(query, {}, bench.now).empty());
  }
  EXPECT_LT(std::clock() - start, 10 * CLOCKS_PER_SEC);
  EXPECT_EQ(bench.names.size(), 10'000U);
}

}  // namespace
}  // namespace penstock::dns
