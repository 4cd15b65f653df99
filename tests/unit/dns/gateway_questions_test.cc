// Other types under a Resource are asked of its site's gateway.
#include "controlplane/core/dns/query.h"
#include "dns_testing.h"

namespace penstock::dns {
namespace {

TEST(Gateway, OtherTypesAreAskedOfTheSitesGateway) {
  Bench bench;
  struct Case {
    std::uint16_t type;
    const char* record;
  };
  const Case cases[] = {
      {type::txt, "web.corp.example. 60 IN TXT \"hello\""},
      {type::mx, "web.corp.example. 60 IN MX 10 mail.elsewhere.example."},
      {type::srv, "web.corp.example. 60 IN SRV 1 2 3 db.corp.example."},
      {type::cname, "web.corp.example. 60 IN CNAME other.corp.example."},
      {type::ns, "web.corp.example. 60 IN NS ns.corp.example."},
  };
  for (const auto& c : cases) {
    const Client client{.remote = endpoint("127.0.0.1:7")};
    EXPECT_FALSE(bench.ask(make_query("Web.corp.example", c.type, {.id = 5}), client).parsed);
    const GatewayQuery asked = bench.gateway.back();
    EXPECT_EQ(asked.resource, "corp");
    EXPECT_EQ(asked.name, "web.corp.example");
    bench.resolver.handle_gateway_answer(asked.id, make_answer(asked.message, {.answer = {c.record}}), bench.now);
    bench.collect();
    const Reply reply = bench.last_answer();
    EXPECT_EQ(reply.id, 5);
    EXPECT_EQ(reply.question, "Web.corp.example.");
    ASSERT_EQ(reply.answer.size(), 1U);
    EXPECT_EQ(bench.answers.back().to, client);
    // Kept like any other.
    EXPECT_EQ(bench.ask("web.corp.example", c.type).answer.size(), 1U);
  }
  EXPECT_TRUE(bench.sends.empty());
}

TEST(Gateway, WrongLateAndFailedAnswers) {
  Bench bench;
  bench.ask("web.corp.example", type::txt);
  const GatewayQuery first = bench.gateway.back();
  bench.resolver.handle_gateway_answer(first.id + 50, make_answer(first.message, {}), bench.now);
  bench.collect();
  EXPECT_TRUE(bench.answers.empty());
  Wire wrong = make_answer(first.message, {});
  wrong[0] ^= 0xff;
  bench.resolver.handle_gateway_answer(first.id, wrong, bench.now);
  bench.collect();
  EXPECT_EQ(bench.last_answer().code, LDNS_RCODE_SERVFAIL);
  bench.resolver.handle_gateway_answer(first.id, make_answer(first.message, {}), bench.now);
  bench.collect();
  EXPECT_EQ(bench.answers.size(), 1U);

  bench.ask("web.corp.example", type::txt);
  bench.resolver.handle_gateway_failed(bench.gateway.back().id, bench.now);
  bench.collect();
  EXPECT_EQ(bench.answers.size(), 2U);
  EXPECT_EQ(bench.last_answer().code, LDNS_RCODE_SERVFAIL);

  bench.ask("web.corp.example", type::txt);
  bench.resolver.set_resources({}, bench.now);  // nobody to be asked any more
  bench.collect();
  EXPECT_EQ(bench.answers.size(), 3U);
  EXPECT_EQ(bench.resolver.poll_timeout().at, kNever);
}

TEST(Gateway, LargeAnswersAreCutForUdpOnly) {
  Bench bench;
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i)
    texts.push_back("big.corp.example. 300 IN TXT \"" + std::to_string(i) + std::string(200, 'x') + "\"");
  Sections large;
  for (const auto& text : texts) large.answer.push_back(text.c_str());
  bench.ask("big.corp.example", type::txt);
  bench.ask(make_query("big.corp.example", type::txt), {.transport = Transport::tcp, .connection = 1});
  ASSERT_EQ(bench.gateway.size(), 1U);
  bench.resolver.handle_gateway_answer(bench.gateway[0].id, make_answer(bench.gateway[0].message, large), bench.now);
  bench.collect();
  ASSERT_EQ(bench.answers.size(), 2U);
  EXPECT_TRUE(read_reply(bench.answers[0].message).tc);
  EXPECT_EQ(read_reply(bench.answers[1].message).answer.size(), 200U);
}

}  // namespace
}  // namespace penstock::dns
