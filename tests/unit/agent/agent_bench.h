// A GatewayAgent under virtual time between a fake data plane, a scripted DNS and a recorded portal.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>

#include "controlplane/core/broker/version.h"
#include "controlplane/core/gateway_agent/gateway_agent.h"
#include "tests/unit/agent/fake_dataplane.h"

namespace penstock::gateway_agent {

class CountingRandom final : public Random {
 public:
  void fill(std::span<std::uint8_t> out) override {
    for (auto& byte : out)
      byte = static_cast<std::uint8_t>(state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL, state_ >> 56);
  }

 private:
  std::uint64_t state_ = 42;
};

inline Key key_of(std::uint8_t fill) {
  Key key{};
  key.fill(fill);
  return key;
}
inline std::string key_text(std::uint8_t fill) {
  return std::string{as_text(key_of(fill))};
}

inline v1::Resource corp() {
  v1::Resource out;
  out.set_id("corp");
  out.set_kind(v1::RESOURCE_KIND_DNS);
  out.set_pattern("**.corp.example");
  return out;
}

class AgentBench {
 public:
  AgentBench() {
    dataplane.info.set_public_key(key_text(200));
    dataplane.info.set_tunnel_port(51820);
    dataplane.info.set_instance(1);
    dataplane.info.add_tunnel_addresses(to_wire(*IpAddress::parse("198.51.100.194")));
    dataplane.info.add_source_nat_addresses(to_wire(*IpAddress::parse("203.0.113.1")));
    *dataplane.info.add_own_prefixes() = to_proto(*Prefix::parse("203.0.113.0/24"));
    agent = std::make_unique<GatewayAgent>(config, random);
  }

  void restart_agent() {
    agent = std::make_unique<GatewayAgent>(config, random);
    waiting.clear();
  }

  // Carries every output out until there is none.
  void run() {
    while (auto output = agent->poll_output(now)) {
      if (auto* it = std::get_if<ToPortal>(&*output)) {
        portal.push_back(it->message);
      } else if (std::holds_alternative<ReopenPortal>(*output)) {
        ++reopened;
      } else if (std::holds_alternative<SuspectPortal>(*output)) {
        ++suspected;
      } else if (auto* apply = std::get_if<ToDataPlane>(&*output)) {
        EXPECT_EQ(applying, 0) << "two Apply calls at once";
        ++applying;
        for (const v1::Datagram& sent : apply->request.datagrams())
          for (auto& datagram : one_by_one(sent)) datagrams.push_back(std::move(datagram));
        if (!hold_applies) {
          const v1::ApplyResponse response = dataplane.apply(apply->request);
          --applying;
          agent->handle_applied(apply->ticket, response, now);
        } else {
          held = *apply;
        }
      } else if (auto* punt = std::get_if<ToPunt>(&*output)) {
        if (punt->message.has_tunnel_control()) {
          v1::Control control;
          EXPECT_TRUE(control.ParseFromString(punt->message.tunnel_control().payload()));
          controls.push_back({punt->message.tunnel_control().peer(), control});
        } else {
          for (auto& datagram : one_by_one(punt->message.datagram())) datagrams.push_back(std::move(datagram));
        }
      } else if (auto* dns = std::get_if<ToDns>(&*output)) {
        ++questions;
        waiting.push_back(dns->question);
      } else if (auto* raw = std::get_if<ToDnsRaw>(&*output)) {
        raw_questions.push_back(*raw);
      }
    }
  }
  void release_apply() {
    const ToDataPlane apply = *held;
    held.reset();
    --applying;
    agent->handle_applied(apply.ticket, dataplane.apply(apply.request), now);
    run();
  }

  void advance(Duration by) {
    const Instant until = now.monotonic + by;
    run();
    while (agent->poll_timeout().at <= until) {
      set_time(std::max(now.monotonic, agent->poll_timeout().at));
      agent->handle_timeout(now);
      run();
      if (auto_dns) answer_all();
    }
    set_time(until);
  }
  void set_time(Instant to) {
    const std::uint64_t total = now.wall.nanoseconds + static_cast<std::uint64_t>((to - now.monotonic).count());
    now.wall.seconds += total / 1'000'000'000;
    now.wall.nanoseconds = static_cast<std::uint32_t>(total % 1'000'000'000);
    now.monotonic = to;
  }

  using Zone = std::function<DnsAnswer(const std::string& name, Family family)>;
  static DnsAnswer found(std::vector<const char*> texts, std::uint32_t ttl = 60) {
    DnsAnswer out{DnsAnswer::Status::ok, {}, ttl};
    for (const char* text : texts) out.addresses.push_back(*IpAddress::parse(text));
    return out;
  }
  static DnsAnswer missing() { return {DnsAnswer::Status::no_such_name, {}, 0}; }
  static DnsAnswer nothing() { return {DnsAnswer::Status::no_data, {}, 0}; }
  static DnsAnswer failure() { return {DnsAnswer::Status::failed, {}, 0}; }

  void answer_all() {
    while (!waiting.empty()) {
      const DnsQuestion question = waiting.front();
      waiting.pop_front();
      agent->handle_answer(question.id, zone(question.name, question.family), now);
      run();
    }
  }

  void up() {
    agent->handle_dataplane_up(dataplane.dump(), now);
    run();
  }
  static v1::Authorize authorisation(std::uint8_t client, const v1::Resource& resource = corp()) {
    v1::Authorize out;
    out.set_request_id("r" + std::to_string(client));
    out.set_authorisation("c" + std::to_string(client) + "/" + resource.id());
    out.set_client("c" + std::to_string(client));
    out.set_client_public_key(key_text(client));
    out.set_preshared_key(key_text(static_cast<std::uint8_t>(client + 100)));
    out.mutable_tunnel()->set_v4(to_wire(IpAddress::v4(0x64400000U + client)));
    *out.mutable_resource() = resource;
    *out.mutable_client_version() = to_proto(kProtocolVersion);
    return out;
  }
  void welcome(std::vector<v1::Authorize> authorisations = {}) {
    agent->handle_portal_connected(now);
    v1::PortalToGateway message;
    message.mutable_welcome()->set_gateway_id("gw1");
    for (const auto& it : authorisations) *message.mutable_welcome()->add_authorisations() = it;
    v1::Relay& relay = *message.mutable_welcome()->add_relays();
    *relay.add_udp() = to_proto(*Endpoint::parse("198.51.100.20:3478"));
    *relay.add_udp() = to_proto(*Endpoint::parse("198.51.100.21:3478"));
    agent->handle_portal(message, now);
    run();
  }
  void authorize(const v1::Authorize& it) {
    v1::PortalToGateway message;
    *message.mutable_authorize() = it;
    agent->handle_portal(message, now);
    run();
  }
  void revoke(const std::string& id) {
    v1::PortalToGateway message;
    message.mutable_revoke()->set_authorisation(id);
    agent->handle_portal(message, now);
    run();
  }
  void control(std::uint8_t client, const v1::Control& message) {
    v1::PuntToControl punt;
    punt.mutable_tunnel_control()->set_peer(key_text(client));
    punt.mutable_tunnel_control()->set_payload(message.SerializeAsString());
    agent->handle_punt(punt, now);
    run();
  }
  void resolve(std::uint8_t client, const std::string& name, const char* proxy = "100.96.0.1", std::uint64_t id = 7,
               const std::string& resource = "corp") {
    v1::Control message;
    message.set_id(id);
    message.mutable_resolve_name()->set_resource(resource);
    message.mutable_resolve_name()->set_name(name);
    message.mutable_resolve_name()->set_proxy_v4(to_wire(*IpAddress::parse(proxy)));
    control(client, message);
  }
  void session_up(std::uint8_t client) {
    v1::Event event;
    event.mutable_session_up()->set_peer(key_text(client));
    agent->handle_event(event, now);
    run();
  }
  void use_all() {
    v1::Event event;
    for (const auto& [id, it] : dataplane.translations) event.mutable_translation_use()->add_translations(id);
    agent->handle_event(event, now);
    run();
  }

  // The one translation of this name in the data plane.
  const v1::PeerTranslation* translation(const std::string& name) {
    for (const auto& [id, it] : dataplane.translations)
      if (it.name() == name) return &it;
    return nullptr;
  }
  std::vector<std::string> addresses(const std::string& name) {
    std::vector<std::string> out;
    if (const auto* it = translation(name))
      for (const auto& bytes : it->addresses()) out.push_back(address_from_wire(bytes)->to_string());
    return out;
  }
  // The last answer to a client's request.
  const v1::Control* reply(std::uint64_t id) {
    for (auto it = controls.rbegin(); it != controls.rend(); ++it)
      if (it->second.reply() && it->second.id() == id) return &it->second;
    return nullptr;
  }
  const v1::AuthorizeResult* result() {
    for (auto it = portal.rbegin(); it != portal.rend(); ++it)
      if (it->has_authorize_result()) return &it->authorize_result();
    return nullptr;
  }
  // The last NameStatus sent unasked.
  const v1::NameStatus* notice() {
    for (auto it = controls.rbegin(); it != controls.rend(); ++it)
      if (!it->second.reply() && it->second.has_name_status()) return &it->second.name_status();
    return nullptr;
  }

  Now now{Instant{std::chrono::hours{1}}, {1'800'000'000, 0}};
  CountingRandom random;
  AgentConfig config;
  FakeDataPlane dataplane;
  std::unique_ptr<GatewayAgent> agent;
  std::vector<v1::GatewayToPortal> portal;
  std::vector<std::pair<std::string, v1::Control>> controls;  // peer, message
  std::vector<v1::Datagram> datagrams;
  std::deque<DnsQuestion> waiting;
  std::vector<ToDnsRaw> raw_questions;
  Zone zone = [](const std::string&, Family family) {
    return family == Family::v4 ? found({"203.0.113.80"}) : nothing();
  };
  bool auto_dns = true;
  bool hold_applies = false;
  std::optional<ToDataPlane> held;
  int applying = 0;
  int reopened = 0;
  int suspected = 0;
  std::size_t questions = 0;
};

}  // namespace penstock::gateway_agent
