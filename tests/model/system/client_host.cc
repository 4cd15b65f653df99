#include "tests/model/system/client_host.h"

#include <algorithm>

#include "dataplane/core/stun/message.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

constexpr Duration kSaveNames = 200ms;  // as controlplane/client does
constexpr std::uint16_t kA = 1, kAaaa = 28;

std::vector<std::uint8_t> make_query(std::uint16_t id, const std::string& name, std::uint16_t type) {
  std::vector<std::uint8_t> out = {static_cast<std::uint8_t>(id >> 8), static_cast<std::uint8_t>(id), 1, 0, 0, 1, 0, 0,
                                   0, 0, 0, 0};
  for (std::size_t start = 0; start <= name.size();) {
    const std::size_t dot = std::min(name.find('.', start), name.size());
    out.push_back(static_cast<std::uint8_t>(dot - start));
    out.insert(out.end(), name.begin() + static_cast<std::ptrdiff_t>(start),
               name.begin() + static_cast<std::ptrdiff_t>(dot));
    start = dot + 1;
  }
  out.insert(out.end(), {0, 0, static_cast<std::uint8_t>(type), 0, 1});
  return out;
}

std::string kind_of(Bytes datagram) {
  if (const auto message = stun::Message::parse(datagram))
    return "STUN " + std::to_string(static_cast<int>(message->method())) + "/" +
           std::to_string(static_cast<int>(message->message_class()));
  const bool channel = (datagram[0] & 0xc0) == 0x40;
  return (channel ? "channel, WireGuard " : "WireGuard ") +
         std::to_string(channel && datagram.size() > 4 ? datagram[4] : datagram[0]);
}

}  // namespace

ClientHost::ClientHost(Network& network, SignalNet& net, Config config)
    : Host(network), net_(net), config_(std::move(config)) {}

Endpoint ClientHost::socket(bool v4) const {
  return {v4 ? IpAddress::v4(0U) : IpAddress{}, port_};
}

void ClientHost::start() {
  process_ = std::make_shared<Process>();
  port_ = config_.port != 0 ? config_.port : static_cast<std::uint16_t>(32768 + network_.random.below(28000));
  client::ClientAgentConfig config;
  config.private_key = config_.key;
  config.hostname = config_.id;
  config.last_timestamp = timestamp_;
  config.aead = "openssl";
  config.names.max_names = 256;
  agent_ = std::make_unique<client::ClientAgent>(std::move(config), network_.random);
  if (!names_.empty()) (void)agent_->names().load(names_, here().wall);
  saved_names_ = agent_->names().revision();
  saving_ = false;
  hosts_.clear();
  tell_addresses();
  PortalLink::Hooks hooks;
  hooks.connected = [this] {
    agent_->handle_portal_connected(here());
    drain();
  };
  hooks.message = [this](const std::string& bytes) {
    v1::PortalToClient message;
    if (message.ParseFromString(bytes)) agent_->handle_portal_message(message, here());
    drain();
  };
  hooks.disconnected = [this] {
    agent_->handle_portal_disconnected(here());
    drain();
  };
  portal_ = std::make_unique<PortalLink>(net_, network_, *this, process_, broker::Role::client, config_.token,
                                         config_.portal, network_.random, std::move(hooks));
  portal_->start();
  drain();
}

void ClientHost::kill() {
  if (process_) process_->end();
  portal_.reset();
  agent_.reset();
}

void ClientHost::wake() {
  on = true;
  drain();
}

void ClientHost::tell_addresses() {
  std::vector<Endpoint> hosts;
  for (const bool v4 : {true, false})
    if (const IpAddress address = network_.address_of(*this, v4); !address.is_unspecified())
      hosts.push_back({address, port_});
  std::sort(hosts.begin(), hosts.end());
  if (hosts == hosts_) return;
  hosts_ = hosts;
  const Endpoint sockets[] = {socket(true), socket(false)};
  agent_->handle_local_addresses(sockets, hosts_, here());
}

void ClientHost::addresses_changed() {
  if (!agent_) return;
  tell_addresses();
  portal_->suspect();
  drain();
}

std::optional<IpAddress> ClientHost::resolve(const std::string& name, bool v6) {
  if (!agent_) return std::nullopt;
  ++queries_;
  const auto query = make_query(next_query_++, name, v6 ? kAaaa : kA);
  dns::Client who;
  who.remote = {IpAddress::v4(0x7f000001), 5353};
  const Bytes answer = agent_->handle_query(query, who, here());
  std::optional<IpAddress> out;
  const std::size_t size = v6 ? 16 : 4;
  // Header, the question, one record whose owner is a pointer or the name again: the address stands before any OPT.
  if (answer.size() >= query.size() + 12 + size && answer[7] == 1) {
    std::size_t at = query.size();
    while (at < answer.size() && answer[at] != 0 && (answer[at] & 0xc0) == 0) at += answer[at] + 1U;
    at += (at < answer.size() && (answer[at] & 0xc0) != 0) ? 2 : 1;
    if (at + 10 + size <= answer.size()) out = IpAddress::from_wire(answer.subspan(at + 10, size));
  }
  drain();
  return out;
}

void ClientHost::send(Bytes packet) {
  if (!agent_ || !on) return;
  agent_->handle_packets({&packet, 1}, here());
  drain();
}

IpAddress ClientHost::tunnel_address(bool v4) const {
  if (!agent_) return {};
  const auto interface = agent_->interface();
  return v4 ? interface.tunnel_v4 : interface.tunnel_v6;
}

void ClientHost::receive(Datagram datagram, Now) {
  if (!agent_ || !on) return;
  client::InDatagram in{datagram.bytes, socket(datagram.from.address.is_v4()), datagram.from};
  agent_->handle_datagrams({&in, 1}, here());
  drain();
}

void ClientHost::unreachable(const Endpoint& remote, Bytes quoted, Now) {
  if (!agent_ || !on) return;
  agent_->handle_unreachable(quoted, remote, here());
  drain();
}

void ClientHost::drain() {
  if (!agent_) return;
  while (const auto event = agent_->poll_event()) {
    switch (*event) {
      case client::AgentEvent::portal_suspect:
        portal_->suspect();
        break;
      case client::AgentEvent::timestamp_used:
        timestamp_ = agent_->last_timestamp();
        break;
      case client::AgentEvent::resolver_rebuilt:
        saved_names_ = 0;
        break;
      case client::AgentEvent::interface_changed:
      case client::AgentEvent::upstreams_changed:
        break;
    }
  }
  while (const auto line = agent_->poll_log())
    if (log) log(config_.id + ": " + line->text);
  while (auto datagram = agent_->poll_datagram()) {
    ++datagrams_;
    const Bytes bytes = datagram->bytes();
    if (log) ++kinds_[kind_of(bytes) + " to " + datagram->remote.to_string()];
    outbox.push_back({{{}, port_}, datagram->remote, {bytes.begin(), bytes.end()}});
    agent_->recycle(std::move(datagram->storage));
  }
  while (auto packet = agent_->poll_packet()) {
    if (on_packet) on_packet(*packet);
    agent_->recycle(std::move(*packet));
  }
  while (auto message = agent_->poll_portal())
    if (portal_) portal_->send(message->SerializeAsString());
  while (agent_->poll_stream()) {  // relays here speak UDP alone
  }
  while (agent_->poll_dns()) {
  }
  if (agent_->names().revision() != saved_names_ && !saving_) {
    saving_ = true;
    later(
        network_, network_.time() + kSaveNames, process_,
        [this] {
          saving_ = false;
          names_ = agent_->names().serialise();
          saved_names_ = agent_->names().revision();
        },
        this);
  }
}

Instant ClientHost::deadline() const {
  return on && agent_ ? agent_->poll_timeout(here()).at : kNever;
}

void ClientHost::timeout(Now) {
  if (!agent_) return;
  agent_->handle_timeout(here());
  drain();
}

std::string ClientHost::deadline_reason() const {
  return config_.id + ": " + (agent_ ? std::string{agent_->poll_timeout(here()).why} : "off");
}

}  // namespace penstock::model
