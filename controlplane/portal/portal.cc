#include "controlplane/portal/portal.h"

#include <spdlog/spdlog.h>

namespace penstock::portal {
namespace {

io::StreamEnd end_of(broker::CloseReason reason) {
  switch (reason) {
    case broker::CloseReason::unauthenticated:
      return io::StreamEnd::unauthenticated;
    case broker::CloseReason::replaced:
      return io::StreamEnd::replaced;
    case broker::CloseReason::bad_message:
      return io::StreamEnd::bad_message;
    case broker::CloseReason::exhausted:
      return io::StreamEnd::exhausted;
  }
  return io::StreamEnd::ending;
}

void add_line(v1::StatusReply& reply, const std::string& key, const std::string& value) {
  v1::StatusLine& line = *reply.add_lines();
  line.set_key(key);
  line.set_value(value);
}

}  // namespace

Portal::Portal(io::Loop& loop)
    : loop_(loop),
      started_(io::Loop::now().monotonic),
      timer_(loop.add_timer([this] { broker_->handle_timeout(io::Loop::now()); })),
      after_turn_(loop.add_after_turn([this] { drain(); })) {}

Portal::~Portal() = default;

std::unique_ptr<Portal> Portal::start(io::Loop& loop, Config config, std::string& error) {
  std::unique_ptr<Portal> out{new Portal(loop)};
  if (!out->open(std::move(config), error)) return nullptr;
  return out;
}

bool Portal::open(Config config, std::string& error) {
  std::string secret = load_secret(config.secret_file, error);
  if (secret.empty()) return error = "secret_file: " + config.secret_file + ": " + error, false;
  memory_ = io::RecordLog::open(config.state_file, error);
  if (!memory_) return error = "state_file: " + error, false;
  if (memory_->damaged_lines() != 0)
    spdlog::warn("{}: {} damaged lines skipped", config.state_file, memory_->damaged_lines());
  broker_ = std::make_unique<broker::Broker>(std::move(config.broker), std::move(secret), memory_->records(),
                                             io::Loop::now());

  io::SignalingServer::Callbacks callbacks;
  callbacks.authenticate = [this](bool is_gateway, std::string_view token) {
    return broker_->authenticate(is_gateway ? broker::Role::gateway : broker::Role::client, token);
  };
  callbacks.connected = [this](std::uint64_t stream, bool is_gateway, const std::string& actor, const Endpoint& from) {
    broker_->handle_connected(stream, is_gateway ? broker::Role::gateway : broker::Role::client, actor, from,
                              io::Loop::now());
  };
  callbacks.from_client = [this](std::uint64_t stream, const v1::ClientToPortal& message) {
    broker_->handle_message(stream, message, io::Loop::now());
  };
  callbacks.from_gateway = [this](std::uint64_t stream, const v1::GatewayToPortal& message) {
    broker_->handle_message(stream, message, io::Loop::now());
  };
  callbacks.disconnected = [this](std::uint64_t stream) { broker_->handle_disconnected(stream, io::Loop::now()); };
  callbacks.refused = [](const std::string& why) { spdlog::warn("refused: {}", why); };
  server_ = io::SignalingServer::listen(loop_, {config.listen, config.certificate_pem, config.key_pem},
                                        std::move(callbacks), error);
  if (!server_) return error = "listen: " + error, false;
  listen_ = config.listen;

  io::InspectAnswers answers;
  answers.status = [this] { return status(); };
  answers.peers = [this](std::uint32_t limit) { return peers(limit); };
  answers.elsewhere = "ask the data plane, the gateway or the client";
  inspect_ = io::InspectServer::listen(loop_, config.control_socket, std::move(answers), error);
  if (!inspect_) return error = "control.socket: " + error, false;
  drain();
  return true;
}

void Portal::reload(Config config) {
  broker_->reconfigure(std::move(config.broker), io::Loop::now());
  spdlog::info("configuration reloaded");
}

void Portal::drain() {
  if (!broker_ || !server_) return;
  while (auto output = broker_->poll_output()) perform(*output);
  timer_.set(broker_->poll_timeout().at);
  std::string error;
  const bool failed = !memory_->flush(error);
  if (failed && !memory_failed_) spdlog::error("{}; grants made now may be forgotten by a restart", error);
  memory_failed_ = failed;
}

void Portal::perform(broker::Output& output) {
  if (auto* to_client = std::get_if<broker::SendToClient>(&output))
    server_->send(to_client->connection, std::move(to_client->message));
  else if (auto* to_gateway = std::get_if<broker::SendToGateway>(&output))
    server_->send(to_gateway->connection, std::move(to_gateway->message));
  else if (auto* close = std::get_if<broker::Close>(&output))
    server_->close(close->connection, end_of(close->reason), close->detail);
  else if (auto* persist = std::get_if<broker::Persist>(&output))
    memory_->set(persist->key, persist->value);
  else if (auto* note = std::get_if<broker::Note>(&output))
    spdlog::info("{}", note->text);
}

v1::StatusReply Portal::status() const {
  v1::StatusReply reply;
  reply.set_process("portal");
  reply.set_software_version(PENSTOCK_VERSION);
  reply.set_protocol_version(kProtocolVersion.to_string());
  reply.set_uptime_seconds(std::chrono::duration<double>(io::Loop::now().monotonic - started_).count());
  reply.set_state("ready");
  std::size_t clients = 0;
  std::size_t gateways = 0;
  for (const auto& actor : broker_->actors()) ++(actor.role == broker::Role::client ? clients : gateways);
  const broker::BrokerConfig& config = broker_->config();
  add_line(reply, "listening on", listen_);
  add_line(reply, "gateways",
           std::to_string(gateways) + " of " + std::to_string(config.gateways.size()) + " connected");
  add_line(reply, "clients", std::to_string(clients) + " of " + std::to_string(config.clients.size()) + " connected");
  add_line(reply, "resources", std::to_string(config.resources.size()));
  add_line(reply, "grants", std::to_string(broker_->grant_count()));
  add_line(reply, "requests under way", std::to_string(broker_->pending_count()));
  return reply;
}

v1::PeersReply Portal::peers(std::uint32_t limit) const {
  v1::PeersReply reply;
  for (const auto& actor : broker_->actors()) {
    if (limit != 0 && static_cast<std::uint32_t>(reply.peers_size()) >= limit) break;
    v1::PeerRow& row = *reply.add_peers();
    row.set_public_key(actor.public_key);
    row.set_name((actor.role == broker::Role::client ? "client " : "gateway ") + actor.id);
    row.set_endpoint(actor.observed.to_string());
    row.set_path("none");
    row.set_session("up");
    row.set_handshake_age_seconds(-1);
    row.set_rtt_ms(-1);
    if (!actor.tunnel.v4.is_unspecified()) row.add_tunnel_addresses(actor.tunnel.v4.to_string());
    if (!actor.tunnel.v6.is_unspecified()) row.add_tunnel_addresses(actor.tunnel.v6.to_string());
    row.set_authorisations(static_cast<std::uint32_t>(actor.grants));
  }
  return reply;
}

}  // namespace penstock::portal
