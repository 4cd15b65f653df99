// What the stub resolver asks upstream resolvers.
#include "controlplane/core/dns/query.h"
#include "dns_testing.h"

namespace penstock::dns {
namespace {

using std::chrono::seconds;

const Sections kAnswer{.answer = {"www.public.example. 300 IN A 192.0.2.80"}};

TEST(Forwarding, OtherNamesGoUpstreamAndComeBack) {
  Bench bench;
  const Client client{.remote = endpoint("127.0.0.1:40000")};
  EXPECT_FALSE(bench.ask(make_query("WWW.public.example", type::a, {.id = 77}), client).parsed);
  ASSERT_EQ(bench.sends.size(), 1U);
  EXPECT_EQ(bench.sends[0].upstream, kUpstream);
  EXPECT_EQ(bench.sends[0].transport, Transport::udp);
  bench.upstream(bench.sends[0], kAnswer);
  ASSERT_EQ(bench.answers.size(), 1U);
  EXPECT_EQ(bench.answers[0].to, client);
  const Reply reply = bench.last_answer();
  EXPECT_EQ(reply.id, 77);  // trap: dns-4
  EXPECT_EQ(reply.question, "WWW.public.example.");
  EXPECT_EQ(reply.rdata(), std::vector<std::string>{"192.0.2.80"});
  EXPECT_EQ(bench.closed, std::vector<std::uint64_t>{bench.sends[0].exchange});
  EXPECT_EQ(bench.resolver.poll_timeout().at, kNever);
}

TEST(Forwarding, IdsAreRandomAndSocketsFresh) {
  Bench bench;
  std::set<std::uint16_t> ids;
  std::set<std::uint64_t> exchanges;
  for (int i = 0; i < 50; ++i) bench.ask("n" + std::to_string(i) + ".public.example", type::a);
  for (const auto& send : bench.sends) {
    ids.insert(load16(send.message, 0));
    exchanges.insert(send.exchange);
  }
  EXPECT_GT(ids.size(), 45U);
  EXPECT_EQ(exchanges.size(), 50U);
}

// trap: dns-1, trap: dns-2: socket, upstream, id and question must all be right.
TEST(Forwarding, AnswersThatDoNotFitAreIgnored) {
  Bench bench;
  bench.ask("www.public.example", type::a);
  bench.ask("other.public.example", type::a);
  const auto& send = bench.sends[0];
  const Wire good = make_answer(send.message, kAnswer);
  Wire wrong_id = good;
  wrong_id[1] ^= 1;
  Wire not_answer = good;
  not_answer[2] &= 0x7f;
  Wire wrong_type = make_answer(make_query("www.public.example", type::aaaa, {.id = load16(send.message, 0)}), {});
  Wire wrong_name = make_answer(make_query("www.publik.example", type::a, {.id = load16(send.message, 0)}), {});
  Wire no_question = good;
  no_question.resize(12);
  store16(no_question, 4, 0);
  store16(no_question, 6, 0);
  bench.resolver.handle_upstream(bench.sends[1].exchange, kUpstream, good, bench.now);  // another socket
  bench.resolver.handle_upstream(12345, kUpstream, good, bench.now);
  bench.resolver.handle_upstream(send.exchange, kSecond, good, bench.now);
  bench.resolver.handle_upstream(send.exchange, endpoint("198.51.100.53:54"), good, bench.now);
  for (const Wire& bad : {wrong_id, not_answer, wrong_type, wrong_name, no_question, Wire{}, Wire(5, 0)})
    bench.resolver.handle_upstream(send.exchange, kUpstream, bad, bench.now);
  bench.collect();
  EXPECT_TRUE(bench.answers.empty());
  EXPECT_EQ(bench.resolver.stats().ignored_answers, 11U);
  bench.upstream(send, good);
  EXPECT_EQ(bench.last_answer().rdata(), std::vector<std::string>{"192.0.2.80"});
}

// trap: dns-3: two queries with one id on one connection.
TEST(Forwarding, EqualIdsOnOneConnection) {
  Bench bench;
  const Client client{.transport = Transport::tcp, .connection = 5};
  bench.ask(make_query("a.public.example", type::a, {.id = 9}), client);
  bench.ask(make_query("b.public.example", type::a, {.id = 9}), client);
  bench.ask(make_query("b.public.example", type::a, {.id = 9}), client);  // joined, and yet answered by itself
  ASSERT_EQ(bench.sends.size(), 2U);
  EXPECT_EQ(bench.sends[0].transport, Transport::tcp);
  bench.upstream(bench.sends[1], {.answer = {"b.public.example. 300 IN A 192.0.2.2"}});
  bench.upstream(bench.sends[0], {.answer = {"a.public.example. 300 IN A 192.0.2.1"}});
  ASSERT_EQ(bench.answers.size(), 3U);
  EXPECT_EQ(read_reply(bench.answers[0].message).question, "b.public.example.");
  EXPECT_EQ(read_reply(bench.answers[1].message).question, "b.public.example.");
  EXPECT_EQ(read_reply(bench.answers[2].message).question, "a.public.example.");
  for (const auto& answer : bench.answers) EXPECT_EQ(read_reply(answer.message).id, 9);
}

// trap: dns-5: an answer that comes after its query was given up must not touch a new query.
TEST(Forwarding, LateAnswersHitNothing) {
  Bench bench;
  bench.ask("www.public.example", type::a);
  const auto old = bench.sends[0];
  while (bench.answers.empty()) bench.timeout();
  EXPECT_EQ(bench.last_answer().code, LDNS_RCODE_SERVFAIL);
  bench.answers.clear();
  bench.ask("www.public.example", type::a);
  bench.upstream(old, {.answer = {"www.public.example. 300 IN A 192.0.2.66"}});
  EXPECT_TRUE(bench.answers.empty());
  bench.upstream(bench.sends.back(), kAnswer);
  EXPECT_EQ(bench.last_answer().rdata(), std::vector<std::string>{"192.0.2.80"});
}

TEST(Forwarding, ALateAnswerOfAnEarlierAttemptStillHelps) {
  Bench bench;
  bench.ask("www.public.example", type::a);
  bench.timeout();
  ASSERT_EQ(bench.sends.size(), 2U);
  EXPECT_EQ(bench.sends[1].upstream, kSecond);
  EXPECT_NE(load16(bench.sends[0].message, 0), load16(bench.sends[1].message, 0));
  bench.upstream(bench.sends[0], kAnswer);
  EXPECT_EQ(bench.answers.size(), 1U);
  EXPECT_EQ(bench.closed.size(), 2U);
}

// trap: dns-15
TEST(Forwarding, UpstreamsKeepTheirOrder) {
  Bench bench;
  for (int i = 0; i < 5; ++i) {
    bench.ask("n" + std::to_string(i) + ".public.example", type::a);
    EXPECT_EQ(bench.sends.back().upstream, kUpstream);
  }
  bench.timeout();  // the first is silent: for a while it comes last
  bench.ask("next.public.example", type::a);
  EXPECT_EQ(bench.sends.back().upstream, kSecond);
  bench.pass(seconds{30});
  bench.resolver.handle_timeout(bench.now);
  bench.collect();
  bench.pass(seconds{30});
  bench.ask("later.public.example", type::a);
  EXPECT_EQ(bench.sends.back().upstream, kUpstream);
}

TEST(Forwarding, FailingUpstreamsArePassedOver) {
  for (const int code : {LDNS_RCODE_SERVFAIL, LDNS_RCODE_REFUSED, LDNS_RCODE_NOTIMPL, LDNS_RCODE_FORMERR}) {
    Bench bench;
    bench.ask("www.public.example", type::a);
    bench.upstream(bench.sends[0], Sections{.code = code});
    ASSERT_EQ(bench.sends.size(), 2U);
    EXPECT_EQ(bench.sends[1].upstream, kSecond);
    bench.upstream(bench.sends[1], kAnswer);
    EXPECT_EQ(bench.last_answer().rdata(), std::vector<std::string>{"192.0.2.80"});
  }
  Bench bench;
  bench.ask("www.public.example", type::a);
  bench.resolver.handle_upstream_failed(bench.sends[0].exchange, bench.now);
  bench.collect();
  ASSERT_EQ(bench.sends.size(), 2U);
  bench.resolver.handle_upstream_failed(bench.sends[1].exchange, bench.now);
  bench.collect();
  EXPECT_EQ(bench.last_answer().code, LDNS_RCODE_SERVFAIL);  // at once, not after the budget
}

TEST(Forwarding, NameErrorsAreAnswersNotFailures) {
  Bench bench;
  const Reply reply =
      bench.resolve("nosuch.public.example", type::a,
                    {.authority = {"public.example. 60 IN SOA a.public.example. b.public.example. 1 2 3 4 30"},
                     .code = LDNS_RCODE_NXDOMAIN});
  EXPECT_EQ(reply.code, LDNS_RCODE_NXDOMAIN);
  EXPECT_EQ(reply.authority.size(), 1U);
  EXPECT_EQ(bench.sends.size(), 1U);
}

// trap: dns-16: SERVFAIL comes before the caller's usual five seconds.
TEST(Forwarding, SilenceIsServfailWithinTheCallersPatience) {
  Bench bench;
  const Instant start = bench.now.monotonic;
  bench.ask("www.public.example", type::a);
  bench.ask("corp.example", type::txt);
  ASSERT_EQ(bench.gateway.size(), 1U);
  while (bench.resolver.poll_timeout().at != kNever) {
    EXPECT_STRNE(bench.resolver.poll_timeout().why, "nothing");
    bench.timeout();
  }
  ASSERT_EQ(bench.answers.size(), 2U);
  for (const auto& answer : bench.answers) EXPECT_EQ(read_reply(answer.message).code, LDNS_RCODE_SERVFAIL);
  EXPECT_LT(bench.now.monotonic - start, seconds{5});
  EXPECT_GE(bench.sends.size(), 4U);  // both were asked, and more than once
  EXPECT_EQ(bench.closed.size(), bench.sends.size());
}

// trap: dns-8
TEST(Forwarding, RoamingSendsWhatIsInFlightAgain) {
  Bench bench;
  bench.ask("www.public.example", type::a);
  bench.timeout();
  const auto before = bench.sends;
  bench.resolver.handle_network_change(bench.now);
  bench.collect();
  ASSERT_EQ(bench.sends.size(), before.size() + 1);
  EXPECT_EQ(bench.closed.size(), before.size());
  EXPECT_EQ(bench.sends.back().upstream, kUpstream);
  bench.upstream(before[0], kAnswer);
  EXPECT_TRUE(bench.answers.empty());  // that socket is gone
  bench.upstream(bench.sends.back(), kAnswer);
  EXPECT_EQ(bench.answers.size(), 1U);
}

// trap: dns-17
TEST(Forwarding, WithoutNameserverServfailUntilOneAppears) {
  Bench bench;
  bench.resolver.set_upstreams({}, bench.now);
  EXPECT_EQ(bench.ask("www.public.example", type::a).code, LDNS_RCODE_SERVFAIL);
  EXPECT_EQ(bench.ask("web.corp.example", type::a).answer.size(), 1U);
  bench.resolver.set_upstreams({kSecond}, bench.now);
  EXPECT_EQ(bench.resolve("www.public.example", type::a, kAnswer).rdata(), std::vector<std::string>{"192.0.2.80"});
}

// trap: dns-18
TEST(Forwarding, NeverAsksItself) {
  Bench bench;
  bench.ask("web.corp.example", type::a);
  const auto proxies = bench.proxies("web.corp.example");
  bench.resolver.set_upstreams(
      {endpoint("100.100.111.1:53"), endpoint("[fd00:2021:1111:8000:100:100:111:1]:53"), endpoint("100.100.111.9:53"),
       endpoint("100.64.0.1:53"), Endpoint{proxies.v4, 53}, Endpoint{proxies.v6, 53}, endpoint("0.0.0.0:53"),
       endpoint("[::]:53"), endpoint("224.0.0.251:5353"), endpoint("198.51.100.53:0")},
      bench.now);
  EXPECT_EQ(bench.ask("www.public.example", type::a).code, LDNS_RCODE_SERVFAIL);
  EXPECT_TRUE(bench.sends.empty());
  bench.resolver.set_upstreams({endpoint("100.100.111.1:53"), kUpstream}, bench.now);
  bench.ask("www.public.example", type::a);
  EXPECT_EQ(bench.sends.back().upstream, kUpstream);
  // A resolver that asks us back meets its own question in flight and adds nothing.
  bench.ask(make_query("www.public.example", type::a, {.id = 4711}), {.remote = endpoint("127.0.0.53:53")});
  EXPECT_EQ(bench.sends.size(), 1U);
}

// trap: dns-7
TEST(Forwarding, LargeAnswersComeByTcpAndAreCutForUdp) {
  Bench bench;
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i)
    texts.push_back("big.public.example. 300 IN TXT \"" + std::to_string(i) + std::string(150, 'x') + "\"");
  Sections large;
  for (const auto& text : texts) large.answer.push_back(text.c_str());
  bench.ask(make_query("big.public.example", type::txt, {.edns_size = 4096}));
  EXPECT_EQ(load16(bench.sends[0].message, bench.sends[0].message.size() - 8), 1232);  // never more asked for
  bench.upstream(bench.sends[0], Sections{.tc = true});
  ASSERT_EQ(bench.sends.size(), 2U);
  EXPECT_EQ(bench.sends[1].transport, Transport::tcp);
  EXPECT_EQ(bench.sends[1].upstream, kUpstream);
  bench.upstream(bench.sends[1], large);
  const Reply udp = bench.last_answer();
  EXPECT_TRUE(udp.tc);
  EXPECT_TRUE(udp.answer.empty());
  // Over TCP, the whole of it, without asking again.
  const Reply tcp = bench.ask(make_query("big.public.example", type::txt), {.transport = Transport::tcp});
  EXPECT_FALSE(tcp.tc);
  EXPECT_EQ(tcp.answer.size(), 40U);
  EXPECT_GT(tcp.size, 6000U);
}

// trap: dns-6
TEST(Forwarding, TruncatesAtTheClientsSizeExactly) {
  struct Case {
    int edns;
    std::size_t text;  // bytes of TXT
    bool truncated;
  };
  // header 12, question 24, record 12 + 1 + text, OPT 11
  const Case cases[] = {{-1, 253, false}, {512, 253, false}, {512, 255, false}, {100, 253, false}};
  for (const auto& c : cases) {
    Bench bench;
    const std::string record = "big.public.example. 300 IN TXT \"" + std::string(c.text, 'x') + "\"";
    EXPECT_EQ(bench.resolve("big.public.example", type::txt, {.answer = {record.c_str()}}, {.edns_size = c.edns}).tc,
              c.truncated);
  }
  for (const int limit : {-1, 0, 512, 700, 1232, 1233, 4096}) {
    const std::size_t allowed = limit < 512 ? 512U : std::min<std::size_t>(static_cast<std::size_t>(limit), 1232U);
    const std::size_t overhead = 12 + 24 + (limit >= 0 ? 11 : 0);
    for (const int over : {0, 1}) {
      // Fill with TXT records so that the answer has exactly `allowed` bytes, or one more.
      std::size_t room = allowed - overhead + static_cast<std::size_t>(over);
      std::vector<std::string> records;
      while (room > 0) {
        std::size_t text = std::min<std::size_t>(room, 200) - 13;
        if (room > 200 && room - 200 < 20) text -= 20;
        records.push_back("big.public.example. 300 IN TXT \"" + std::string(text, 'x') + "\"");
        room -= 13 + text;
      }
      Sections sections;
      for (const auto& record : records) sections.answer.push_back(record.c_str());
      Bench bench;
      const Reply reply = bench.resolve("big.public.example", type::txt, sections, {.edns_size = limit});
      EXPECT_EQ(reply.tc, over == 1) << limit << " " << reply.size;
      if (over == 0) {
        EXPECT_EQ(reply.size, allowed);
      }
    }
  }
}

TEST(Forwarding, TcpFailureStillGivesTheTruncatedAnswer) {
  Bench bench;
  bench.resolver.set_upstreams({kUpstream}, bench.now);
  bench.ask("big.public.example", type::txt);
  bench.upstream(bench.sends[0], Sections{.tc = true});
  bench.resolver.handle_upstream_failed(bench.sends[1].exchange, bench.now);
  bench.collect();
  EXPECT_TRUE(bench.last_answer().tc);
}

TEST(Forwarding, AnUpstreamThatChangesTheCaseIsAskedOverTcp) {
  Bench bench;
  bench.ask("wWw.PuBlic.example", type::a);
  Wire lower = make_answer(bench.sends[0].message, kAnswer);
  for (std::size_t i = 12; i < 30; ++i) lower[i] = ascii_lower(lower[i]);
  bench.upstream(bench.sends[0], lower);
  ASSERT_EQ(bench.sends.size(), 2U);
  EXPECT_EQ(bench.sends[1].transport, Transport::tcp);
  Wire over_tcp = make_answer(bench.sends[1].message, kAnswer);
  for (std::size_t i = 12; i < 30; ++i) over_tcp[i] = ascii_lower(over_tcp[i]);
  bench.upstream(bench.sends[1], over_tcp);
  EXPECT_EQ(bench.last_answer().question, "wWw.PuBlic.example.");
  EXPECT_EQ(bench.last_answer().answer.size(), 1U);
}

TEST(Forwarding, IdenticalQueriesShareOneQuestion) {
  Bench bench;
  for (std::uint16_t i = 0; i < 10; ++i)
    bench.ask(make_query(i % 2 == 0 ? "www.public.example" : "WWW.PUBLIC.EXAMPLE", type::a, {.id = i}),
              {.remote = endpoint("127.0.0.1:1000")});
  EXPECT_EQ(bench.sends.size(), 1U);
  bench.ask(make_query("www.public.example", type::a, {.id = 3}), {.remote = endpoint("127.0.0.1:1001")});
  bench.ask(make_query("WWW.PUBLIC.EXAMPLE", type::a, {.id = 3}),
            {.remote = endpoint("127.0.0.1:1000")});  // sent again
  bench.upstream(bench.sends[0], kAnswer);
  ASSERT_EQ(bench.answers.size(), 11U);
  for (std::uint16_t i = 0; i < 10; ++i) {
    const Reply reply = read_reply(bench.answers[i].message);
    EXPECT_EQ(reply.id, i);
    EXPECT_EQ(reply.question, i % 2 == 0 ? "www.public.example." : "WWW.PUBLIC.EXAMPLE.");
  }
}

TEST(Forwarding, CookiesAndOptionsPass) {
  Bench bench;
  const Wire cookie = {0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8};
  bench.ask(make_query("www.public.example", type::a, {.edns_size = 1232, .options = cookie}));
  EXPECT_TRUE(std::equal(cookie.begin(), cookie.end(), bench.sends[0].message.end() - 12));
  Wire answer =
      make_answer(make_query("www.public.example", type::a, {.id = load16(bench.sends[0].message, 0)}), kAnswer);
  append_opt(answer, 0, false, Wire{0, 10, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9, 9});
  bench.upstream(bench.sends[0], answer);
  const auto& sent = bench.answers[0].message;
  EXPECT_EQ(load16(sent, sent.size() - 18), 16);
  EXPECT_EQ(sent.back(), 9);
  // Another option: asked on its own, not from the cache.
  bench.ask(make_query("www.public.example", type::a, {.edns_size = 1232, .options = {0, 8, 0, 4, 0, 1, 0, 0}}));
  EXPECT_EQ(bench.sends.size(), 2U);
}

TEST(Forwarding, AdPassesWhenNothingWasChanged) {
  Bench bench;
  Sections signed_answer = kAnswer;
  signed_answer.ad = true;
  EXPECT_TRUE(bench.resolve("www.public.example", type::a, signed_answer).ad);
}

}  // namespace
}  // namespace penstock::dns
