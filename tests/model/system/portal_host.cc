#include "tests/model/system/portal_host.h"

namespace penstock::model {

PortalHost::PortalHost(Network& network, SignalNet& net, broker::BrokerConfig config, std::vector<Endpoint> listen)
    : Host(network), net_(net), config_(std::move(config)), listen_(std::move(listen)) {}

void PortalHost::start() {
  broker_ = std::make_unique<broker::Broker>(config_, "a secret of the portal", disk_, here());
  SignalNet::ServerHooks hooks;
  hooks.authenticate = [this](broker::Role role, const std::string& token) {
    return broker_->authenticate(role, token);
  };
  hooks.connected = [this](SignalNet::StreamId id, broker::Role role, const std::string& actor, const Endpoint& from) {
    roles_[id] = role;
    broker_->handle_connected(id, role, actor, from, here());
    drain();
  };
  hooks.message = [this](SignalNet::StreamId id, const std::string& bytes) {
    ++statistics_.messages;
    if (roles_[id] == broker::Role::client) {
      v1::ClientToPortal message;
      if (!message.ParseFromString(bytes)) return;
      statistics_.requests += message.has_request_connection() ? 1 : 0;
      broker_->handle_message(id, message, here());
    } else {
      v1::GatewayToPortal message;
      if (message.ParseFromString(bytes)) broker_->handle_message(id, message, here());
    }
    drain();
  };
  hooks.disconnected = [this](SignalNet::StreamId id) {
    roles_.erase(id);
    broker_->handle_disconnected(id, here());
    drain();
  };
  net_.listen(*this, listen_, std::move(hooks));
  drain();
}

void PortalHost::kill() {
  broker_.reset();
  roles_.clear();
  net_.stop_listening();
}

void PortalHost::reconfigure(broker::BrokerConfig config) {
  config_ = std::move(config);
  if (broker_ == nullptr) return;
  broker_->reconfigure(config_, here());
  drain();
}

void PortalHost::drain() {
  while (broker_ != nullptr) {
    auto output = broker_->poll_output();
    if (!output) break;
    if (auto* to_client = std::get_if<broker::SendToClient>(&*output)) {
      statistics_.granted += to_client->message.has_connection_granted() ? 1 : 0;
      statistics_.refused += to_client->message.has_connection_refused() ? 1 : 0;
      net_.send_to_client(to_client->connection, to_client->message.SerializeAsString());
    } else if (auto* to_gateway = std::get_if<broker::SendToGateway>(&*output)) {
      net_.send_to_client(to_gateway->connection, to_gateway->message.SerializeAsString());
    } else if (auto* close = std::get_if<broker::Close>(&*output)) {
      roles_.erase(close->connection);
      net_.end_by_server(close->connection, close->detail, close->reason == broker::CloseReason::unauthenticated);
    } else if (auto* persist = std::get_if<broker::Persist>(&*output)) {
      if (persist->value.empty())
        disk_.erase(persist->key);
      else
        disk_[persist->key] = persist->value;
    } else if (auto* note = std::get_if<broker::Note>(&*output)) {
      if (log) log("portal: " + note->text);
    }
  }
}

Instant PortalHost::deadline() const {
  return on && broker_ != nullptr ? broker_->poll_timeout().at : kNever;
}

void PortalHost::timeout(Now) {
  if (broker_ == nullptr) return;
  broker_->handle_timeout(here());
  drain();
}

}  // namespace penstock::model
