// Questions that clients ask through the agent (DnsQuery), and control messages that make no sense.
#include <gtest/gtest.h>

#include "tests/unit/agent/agent_bench.h"

namespace penstock::gateway_agent {
namespace {

class Queries : public testing::Test, protected AgentBench {
 protected:
  Queries() {
    up();
    welcome({authorisation(1), authorisation(2)});
  }
};

std::string query(const std::string& name, std::uint16_t type) {
  std::string out("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00", 12);
  std::size_t at = 0;
  while (at < name.size()) {
    const std::size_t dot = std::min(name.find('.', at), name.size());
    out.push_back(static_cast<char>(dot - at));
    out.append(name, at, dot - at);
    at = dot + 1;
  }
  out.append(1, '\0');
  out.push_back(static_cast<char>(type >> 8));
  out.push_back(static_cast<char>(type));
  out.append("\x00\x01", 2);
  return out;
}

TEST_F(Queries, OtherTypesAreProxiedAndAddressesAreNot) {
  const auto ask = [&](const std::string& name, std::uint16_t type, std::uint64_t id,
                       const std::string& resource = "corp") {
    v1::Control message;
    message.set_id(id);
    message.mutable_dns_query()->set_resource(resource);
    message.mutable_dns_query()->set_message(query(name, type));
    control(1, message);
  };
  ask("_ldap._tcp.corp.example", 33, 1);
  ask("_ldap._tcp.corp.example", 33, 1);  // the client repeats itself
  ASSERT_EQ(raw_questions.size(), 1u);
  agent->handle_raw_answer(raw_questions[0].id, std::string(2500, 'x'), now);
  run();
  std::string whole;
  std::uint32_t pieces = 0;
  for (const auto& [peer, message] : controls) {
    if (!message.has_dns_answer()) continue;
    EXPECT_EQ(message.dns_answer().piece(), pieces++);
    EXPECT_EQ(message.dns_answer().pieces(), 3u);
    EXPECT_LE(message.ByteSizeLong(), 1100u);
    whole += message.dns_answer().message();
  }
  EXPECT_EQ(whole, std::string(2500, 'x'));

  const auto rcode = [&](std::uint64_t id) { return reply(id)->dns_answer().message()[3] & 0x0f; };
  ask("a.corp.example", 1, 2);
  EXPECT_EQ(rcode(2), 5);
  ask("a.corp.example", 255, 3);
  EXPECT_EQ(rcode(3), 5);
  ask("a.other.example", 33, 4);
  EXPECT_EQ(rcode(4), 5);
  ask("a.corp.example", 33, 5, "secret");
  EXPECT_EQ(rcode(5), 5);
  EXPECT_EQ(raw_questions.size(), 1u);
  ask("b.corp.example", 16, 6);
  agent->handle_raw_answer(raw_questions.back().id, "", now);  // failed
  run();
  EXPECT_EQ(rcode(6), 2);
  for (std::uint64_t id = 100; id < 200; ++id) ask("c.corp.example", 16, id);
  EXPECT_EQ(raw_questions.size(), 2 + kMaxRawQueriesPerPeer);
}

TEST_F(Queries, MalformedControlIsCountedAndChangesNothing) {
  v1::PuntToControl punt;
  punt.mutable_tunnel_control()->set_peer(key_text(1));
  for (const std::string& payload : {std::string("\xff\xff\xff"), std::string("\x08"), std::string(5000, '\xee')}) {
    punt.mutable_tunnel_control()->set_payload(payload);
    agent->handle_punt(punt, now);
  }
  EXPECT_EQ(agent->counters().control_malformed, 3u);
  for (const std::string& message : {std::string{}, std::string(11, '\0'), query("a.corp.example", 33).substr(0, 20),
                                     std::string("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c", 14)}) {
    v1::Control control_message;
    control_message.mutable_dns_query()->set_message(message);
    control(1, control_message);
  }
  EXPECT_EQ(agent->counters().control_malformed, 7u);
  v1::Control unknown;
  unknown.set_id(3);
  control(1, unknown);
  EXPECT_EQ(agent->counters().control_unknown, 1u);
  EXPECT_TRUE(dataplane.translations.empty());
}

}  // namespace
}  // namespace penstock::gateway_agent
