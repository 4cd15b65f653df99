// Random histories: after every one of them the data plane has exactly what the agent thinks it has.
#include <gtest/gtest.h>
// before rapidcheck, which needs it
#include <rapidcheck/gtest.h>

#include "tests/unit/agent/agent_bench.h"

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;

RC_GTEST_PROP(AgentProperty, TheDataPlaneHasWhatStands, ()) {
  AgentBench bench;
  bench.zone = [](const std::string& name, Family family) {
    if (name.starts_with("x")) return AgentBench::missing();
    return family == Family::v4 ? AgentBench::found({"203.0.113.80"}) : AgentBench::nothing();
  };
  bench.up();
  bench.welcome();
  std::map<std::uint8_t, bool> standing;
  const auto all = [&] {
    std::vector<v1::Authorize> out;
    for (const auto& [client, stands] : standing)
      if (stands) out.push_back(AgentBench::authorisation(client));
    return out;
  };
  bool up = true;
  bool connected = true;
  const int steps = *rc::gen::inRange(1, 50);
  for (int step = 0; step < steps; ++step) {
    const auto client = *rc::gen::inRange<std::uint8_t>(1, 5);
    switch (*rc::gen::inRange(0, 8)) {
      case 0:
        if (!connected || !up) break;
        bench.authorize(AgentBench::authorisation(client));
        standing[client] = true;
        break;
      case 1:
        if (!connected) break;
        bench.revoke("c" + std::to_string(client) + "/corp");
        standing[client] = false;
        break;
      case 2:
      case 3: {
        const int which = *rc::gen::inRange(0, 4);
        const std::string name = std::string(1, which % 2 == 0 ? 'a' : 'x') + std::to_string(which) + ".corp.example";
        const std::string proxy = "100.96.0." + std::to_string(*rc::gen::inRange(1, 4));
        bench.resolve(client, name, proxy.c_str());
        break;
      }
      case 4:
        bench.agent->handle_dataplane_down(bench.now);
        bench.run();
        up = false;
        if (*rc::gen::arbitrary<bool>()) {  // it forgot everything
          const auto info = bench.dataplane.info;
          bench.dataplane = {};
          bench.dataplane.info = info;
          bench.dataplane.info.set_instance(info.instance() + 1);
        }
        break;
      case 5:
        bench.up();
        up = true;
        break;
      case 6:
        if (connected)
          bench.agent->handle_portal_disconnected(bench.now);
        else
          bench.welcome(all());
        connected = !connected;
        break;
      case 7:
        bench.advance(std::chrono::milliseconds{*rc::gen::inRange(0, 20'000)});
        break;
    }
    bench.answer_all();
  }
  bench.up();
  bench.answer_all();
  std::set<std::string> expected;
  for (const auto& [client, stands] : standing)
    if (stands) expected.insert(key_text(client));
  std::set<std::string> actual;
  for (const auto& [key, peer] : bench.dataplane.peers) actual.insert(key);
  RC_ASSERT(actual == expected);
  RC_ASSERT(bench.dataplane.authorisations.size() == expected.size());
  const auto names = bench.agent->names(0, bench.now.monotonic);
  RC_ASSERT(names.size() == bench.dataplane.translations.size());
  std::set<std::pair<std::string, std::string>> proxies;
  for (const auto& [id, it] : bench.dataplane.translations) {
    RC_ASSERT(expected.contains(it.peer()));
    RC_ASSERT(proxies.insert({it.peer(), it.proxy_v4()}).second);  // one address, one name
    RC_ASSERT((it.state() == v1::PeerTranslation::STATE_ACTIVE) == it.name().starts_with("a"));
  }
  RC_ASSERT(bench.agent->counters().apply_errors == 0u);
}

}  // namespace
}  // namespace penstock::gateway_agent
