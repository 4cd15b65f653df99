#include "controlplane/gateway/gateway.h"

#include <spdlog/spdlog.h>

#include "controlplane/core/broker/version.h"

namespace penstock::gateway {
namespace {

using gateway_agent::NameState;

void add_line(v1::StatusReply& reply, const std::string& key, const std::string& value) {
  v1::StatusLine& line = *reply.add_lines();
  line.set_key(key);
  line.set_value(value);
}

const char* word(NameState state) {
  switch (state) {
    case NameState::resolving:
      return "resolving";
    case NameState::active:
      return "active";
    case NameState::no_such_name:
      return "no such name";
    case NameState::forbidden:
      return "forbidden";
    case NameState::failed:
      return "failed";
  }
  return "";
}

}  // namespace

Gateway::Gateway(io::Loop& loop, Config config, std::function<void(const std::string&)> fatal)
    : loop_(loop),
      config_(std::move(config)),
      fatal_(std::move(fatal)),
      started_(io::Loop::now().monotonic),
      agent_(config_.agent, random_),
      timer_(loop.add_timer([this] { agent_.handle_timeout(io::Loop::now()); })),
      after_turn_(loop.add_after_turn([this] { drain(); })) {}

Gateway::~Gateway() = default;

std::unique_ptr<Gateway> Gateway::start(io::Loop& loop, Config config, std::function<void(const std::string&)> fatal,
                                        std::string& error) {
  std::unique_ptr<Gateway> out{new Gateway(loop, std::move(config), std::move(fatal))};
  if (!out->open(error)) return nullptr;
  return out;
}

bool Gateway::open(std::string& error) {
  dns_ = io::CaresResolver::create(loop_, config_.nameservers,
                                   {[this](std::uint64_t id, gateway_agent::DnsAnswer answer) {
                                      agent_.handle_answer(id, std::move(answer), io::Loop::now());
                                    },
                                    [this](std::uint64_t id, const std::string& message) {
                                      agent_.handle_raw_answer(id, message, io::Loop::now());
                                    }},
                                   error);
  if (!dns_) return error = "nameservers: " + error, false;

  io::InspectAnswers answers;
  answers.status = [this] { return status(); };
  answers.peers = [this](std::uint32_t limit) { return peers(limit); };
  answers.names = [this](std::uint32_t limit) { return names(limit); };
  answers.elsewhere = "ask the data plane (" + config_.dataplane_socket + ")";
  inspect_ = io::InspectServer::listen(loop_, config_.control_socket, std::move(answers), error);
  if (!inspect_) return error = "control.socket: " + error, false;

  io::DataPlaneClient::Callbacks callbacks;
  callbacks.up = [this](const std::vector<v1::DumpItem>& dump) {
    dataplane_lost_ = false;
    agent_.handle_dataplane_up(dump, io::Loop::now());
    if (agent_.ready_for_portal() && !portal_started_) open_portal();
  };
  callbacks.down = [this](const std::string& why) {
    dataplane_trouble_ = why;
    agent_.handle_dataplane_down(io::Loop::now());
  };
  callbacks.applied = [this](std::uint64_t ticket, const v1::ApplyResponse& response) {
    agent_.handle_applied(ticket, response, io::Loop::now());
  };
  callbacks.event = [this](const v1::Event& event) { agent_.handle_event(event, io::Loop::now()); };
  callbacks.punt = [this](const v1::PuntToControl& punt) { agent_.handle_punt(punt, io::Loop::now()); };
  callbacks.attempt_failed = [this](const std::string& why) {
    dataplane_trouble_ = why;
    if (!std::exchange(dataplane_lost_, true)) spdlog::warn("data plane: {}; trying on", why);
  };
  dataplane_ = std::make_unique<io::DataPlaneClient>(loop_, random_, config_.dataplane_socket, std::move(callbacks));
  dataplane_->start();
  return true;
}

void Gateway::open_portal() {
  portal_started_ = true;
  io::GatewaySignaling::Callbacks callbacks;
  callbacks.connected = [this] {
    portal_lost_ = false;
    spdlog::info("portal connected");
    agent_.handle_portal_connected(io::Loop::now());
  };
  callbacks.message = [this](const v1::PortalToGateway& message) { agent_.handle_portal(message, io::Loop::now()); };
  callbacks.disconnected = [this](const std::string& why) {
    portal_trouble_ = why;
    spdlog::warn("portal: {}; what stands goes on", why);
    agent_.handle_portal_disconnected(io::Loop::now());
  };
  callbacks.unauthenticated = [this](const std::string& why) {
    portal_trouble_ = why;
    fatal_("portal: " + why);
  };
  callbacks.attempt_failed = [this](const std::string& why) {
    portal_trouble_ = why;
    if (!std::exchange(portal_lost_, true)) spdlog::warn("portal: {}; trying on", why);
  };
  portal_ = std::make_unique<io::GatewaySignaling>(loop_, random_, config_.portal, std::move(callbacks));
  portal_->start();
}

void Gateway::drain() {
  if (!dataplane_) return;
  while (auto output = agent_.poll_output(io::Loop::now())) perform(*output);
  timer_.set(agent_.poll_timeout().at);
}

void Gateway::perform(gateway_agent::Output& output) {
  if (auto* to_portal = std::get_if<gateway_agent::ToPortal>(&output)) {
    if (portal_) portal_->send(std::move(to_portal->message));
  } else if (std::holds_alternative<gateway_agent::ReopenPortal>(output)) {
    if (!portal_) return;
    portal_->stop();
    agent_.handle_portal_disconnected(io::Loop::now());
    portal_->start();
  } else if (std::holds_alternative<gateway_agent::SuspectPortal>(output)) {
    if (portal_) portal_->suspect();
  } else if (auto* apply = std::get_if<gateway_agent::ToDataPlane>(&output)) {
    dataplane_->apply(apply->ticket, apply->request);
  } else if (auto* punt = std::get_if<gateway_agent::ToPunt>(&output)) {
    dataplane_->send(std::move(punt->message));
  } else if (auto* dns = std::get_if<gateway_agent::ToDns>(&output)) {
    dns_->ask(dns->question);
  } else if (auto* raw = std::get_if<gateway_agent::ToDnsRaw>(&output)) {
    dns_->ask_raw(raw->id, raw->message);
  } else if (auto* note = std::get_if<gateway_agent::Note>(&output)) {
    spdlog::info("{}", note->text);
  }
}

void Gateway::finish() {
  if (!config_.goodbye_on_exit) return;
  agent_.say_goodbye("the gateway ends");
  drain();
  dataplane_->drain();
}

v1::StatusReply Gateway::status() const {
  v1::StatusReply reply;
  reply.set_process("gateway");
  reply.set_software_version(PENSTOCK_VERSION);
  reply.set_protocol_version(kProtocolVersion.to_string());
  reply.set_uptime_seconds(std::chrono::duration<double>(io::Loop::now().monotonic - started_).count());
  const bool portal = agent_.portal_connected() && agent_.welcomed();
  reply.set_state(agent_.dataplane_up() && portal ? "ready" : agent_.dataplane_up() ? "degraded" : "connecting");
  add_line(reply, "gateway", agent_.id().empty() ? "not yet known" : agent_.id());
  add_line(
      reply, "portal",
      portal ? "connected to " + config_.portal.address
             : "not connected to " + config_.portal.address + (portal_trouble_.empty() ? "" : ": " + portal_trouble_));
  add_line(reply, "data plane",
           agent_.dataplane_up() ? (agent_.synchronised() ? "synchronised" : "connected")
                                 : "not connected" + (dataplane_trouble_.empty() ? "" : ": " + dataplane_trouble_));
  add_line(reply, "authorisations", std::to_string(agent_.authorisation_count()));
  std::string candidates;
  for (const v1::Candidate& candidate : agent_.candidates())
    if (const auto endpoint = from_proto(candidate.endpoint()))
      candidates += (candidates.empty() ? "" : ", ") + endpoint->to_string();
  add_line(reply, "candidates", candidates.empty() ? "none" : candidates);
  const auto& counters = agent_.counters();
  add_line(reply, "punches sent", std::to_string(counters.punches));
  add_line(reply, "names refused", std::to_string(counters.names_refused));
  add_line(reply, "malformed control", std::to_string(counters.control_malformed));
  add_line(reply, "unknown control", std::to_string(counters.control_unknown));
  add_line(reply, "operations refused", std::to_string(counters.apply_errors));
  add_line(reply, "events lost", std::to_string(counters.events_lost));
  return reply;
}

v1::PeersReply Gateway::peers(std::uint32_t limit) const {
  v1::PeersReply reply;
  for (const auto& peer : agent_.peers(limit)) {
    v1::PeerRow& row = *reply.add_peers();
    row.set_public_key(base64(as_text(peer.key)));
    row.set_name(peer.client);
    row.set_endpoint(peer.endpoint);
    row.set_path(peer.session ? "direct" : "none");
    row.set_session(peer.session ? "up" : "none");
    row.set_handshake_age_seconds(-1);
    row.set_rtt_ms(-1);
    if (!peer.tunnel_v4.is_unspecified()) row.add_tunnel_addresses(peer.tunnel_v4.to_string());
    if (!peer.tunnel_v6.is_unspecified()) row.add_tunnel_addresses(peer.tunnel_v6.to_string());
    row.set_authorisations(static_cast<std::uint32_t>(peer.authorisations));
  }
  return reply;
}

v1::NamesReply Gateway::names(std::uint32_t limit) const {
  v1::NamesReply reply;
  for (const auto& name : agent_.names(limit, io::Loop::now().monotonic)) {
    v1::NameRow& row = *reply.add_names();
    row.set_name(name.name);
    row.set_resource(name.resource);
    if (!name.proxy_v4.is_unspecified()) row.set_proxy_v4(name.proxy_v4.to_string());
    if (!name.proxy_v6.is_unspecified()) row.set_proxy_v6(name.proxy_v6.to_string());
    row.set_state(word(name.view.state));
    for (const IpAddress& address : name.view.addresses) row.add_addresses(address.to_string());
    row.set_peer(name.peer);
    row.set_ttl_seconds(name.view.ttl_seconds);
  }
  return reply;
}

}  // namespace penstock::gateway
