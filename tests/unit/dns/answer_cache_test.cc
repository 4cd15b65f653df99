// Answers that are kept, for how long, and what flushes them.
#include "controlplane/core/dns/query.h"
#include "dns_testing.h"

namespace penstock::dns {
namespace {

using std::chrono::seconds;

const Sections kAnswer{.answer = {"www.public.example. 300 IN A 192.0.2.80"}};

TEST(Forwarding, AnswersAreKeptForTheirTtlAndAge) {
  Bench bench;
  bench.resolve("www.public.example", type::a, kAnswer);
  bench.pass(seconds{100});
  const Reply kept = bench.ask("WWW.public.example", type::a, {.id = 5, .edns_size = 1232});
  EXPECT_EQ(kept.id, 5);
  EXPECT_EQ(kept.question, "WWW.public.example.");
  EXPECT_TRUE(kept.edns);
  EXPECT_NE(kept.answer.at(0).find(" 200 IN A"), std::string::npos) << kept.answer[0];
  EXPECT_FALSE(bench.ask("www.public.example", type::aaaa).parsed);
  EXPECT_FALSE(bench.ask("www.public.example", type::a, {.edns_size = 1232, .dnssec_ok = true}).parsed);
  bench.pass(seconds{200});
  EXPECT_FALSE(bench.ask("www.public.example", type::a).parsed);
}

TEST(Forwarding, DenialsAreKeptForTheSoasMinimum) {
  struct Case {
    const char* soa;  // nullptr: none
    int code;
    int kept_s;
  };
  const Case cases[] = {
      {"public.example. 60 IN SOA a.example. b.example. 1 2 3 4 30", LDNS_RCODE_NXDOMAIN, 30},
      {"public.example. 20 IN SOA a.example. b.example. 1 2 3 4 30", LDNS_RCODE_NOERROR, 20},
      {"public.example. 90000 IN SOA a.example. b.example. 1 2 3 4 90000", LDNS_RCODE_NXDOMAIN, 3600},
      {nullptr, LDNS_RCODE_NXDOMAIN, 0},
      {nullptr, LDNS_RCODE_NOERROR, 0},
  };
  for (const auto& c : cases) {
    Bench bench;
    Sections sections{.code = c.code};
    if (c.soa != nullptr) sections.authority.push_back(c.soa);
    bench.resolve("nosuch.public.example", type::a, sections);
    if (c.kept_s > 0) {
      bench.pass(seconds{c.kept_s - 1});
      EXPECT_EQ(bench.ask("nosuch.public.example", type::a).code, c.code);
      bench.pass(seconds{1});
    }
    EXPECT_FALSE(bench.ask("nosuch.public.example", type::a).parsed);
  }
}

TEST(Forwarding, FailuresAndTtlZeroAreNotKept) {
  for (const Sections& sections :
       {Sections{.answer = {"www.public.example. 0 IN A 192.0.2.80"}}, Sections{.code = LDNS_RCODE_YXDOMAIN}}) {
    Bench bench;
    bench.resolve("www.public.example", type::a, sections);
    EXPECT_FALSE(bench.ask("www.public.example", type::a).parsed);
  }
}

// trap: dns-13
TEST(Forwarding, AResourceThatAppearsFlushesTheCache) {
  Bench bench;
  bench.resolve("www.public.example", type::a, kAnswer);
  EXPECT_EQ(bench.ask("www.public.example", type::a).rdata(), std::vector<std::string>{"192.0.2.80"});
  bench.resolver.set_resources({{"public", "*.public.example", IpStack::dual}}, bench.now);
  const Reply proxied = bench.ask("www.public.example", type::a);
  EXPECT_EQ(proxied.rdata(), std::vector<std::string>{bench.proxies("www.public.example").v4.to_string()});
  bench.resolver.set_resources({}, bench.now);
  EXPECT_FALSE(bench.ask("www.public.example", type::a).parsed);
}

// An answer in flight while the resource appears is judged by what holds when it arrives.
TEST(Forwarding, AResourceThatAppearsCatchesWhatIsInFlight) {
  Bench bench;
  bench.ask("www.public.example", type::a);
  bench.resolver.set_resources({{"public", "*.public.example", IpStack::dual}}, bench.now);
  bench.upstream(bench.sends[0], kAnswer);
  EXPECT_EQ(bench.last_answer().rdata(), std::vector<std::string>{bench.proxies("www.public.example").v4.to_string()});
}

TEST(Forwarding, CacheAndFlightAreBounded) {
  StubResolverConfig config;
  config.max_in_flight = 10;
  config.cache_entries = 5;
  Bench bench{{}, config};
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(bench.ask("n" + std::to_string(i) + ".example", type::a).parsed);
  EXPECT_EQ(bench.ask("n11.example", type::a).code, LDNS_RCODE_SERVFAIL);
  const auto sends = bench.sends;
  for (const auto& send : sends) bench.upstream(send, {.answer = {"www.public.example. 300 IN A 192.0.2.80"}});
  int kept = 0;
  for (int i = 0; i < 10; ++i) kept += bench.ask("n" + std::to_string(i) + ".example", type::a).parsed ? 1 : 0;
  EXPECT_LE(kept, 5);
}

}  // namespace
}  // namespace penstock::dns
