#include "tests/model/system/gateway_host.h"

#include "dataplane/gateway/neighbour_messages.h"
#include "tests/model/packet_nat.h"
#include "tests/unit/gateway/builder.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;
namespace frames = gateway::test;

constexpr MacAddress kWanMac = {0x02, 0, 0, 0, 0, 0x01};
constexpr MacAddress kLanMac = {0x02, 0, 0, 0, 0, 0x02};
constexpr MacAddress kRouterMac = {0x02, 0, 0, 0, 0, 0x99};
constexpr Duration kLanDelay = 200us;
constexpr Duration kLocalCall = 100us;  // gRPC on a unix socket
constexpr Duration kDnsDelay = 5ms;
constexpr Duration kDnsTimeout = 2100ms;

// The router of the WAN's subnet: the last address before broadcast.
IpAddress router_of(const IpAddress& address) {
  if (address.is_v4()) return IpAddress::v4((address.v4_value() & 0xffffff00U) | 254U);
  auto bytes = address.bytes();
  std::fill(bytes.begin() + 8, bytes.end(), std::uint8_t{0xfe});
  return IpAddress::v6(bytes);
}

gateway::ConfigurationDescription path_of(const GatewayHost::Config& config) {
  gateway::ConfigurationDescription out;
  gateway::PortConfiguration wan{"wan", kWanMac, {}, 1500, 0}, lan{"lan", kLanMac, {}, 1500, 0};
  const auto add = [](gateway::PortConfiguration& port, const IpAddress& address) {
    if (!address.is_unspecified())
      port.addresses.push_back({address, static_cast<std::uint8_t>(address.is_v4() ? 24 : 64)});
  };
  add(wan, config.wan_v4);
  add(wan, config.wan_v6);
  add(lan, config.lan_v4);
  add(lan, config.lan_v6);
  out.ports = {wan, lan};
  if (!config.wan_v4.is_unspecified())
    out.routes.push_back({*Prefix::parse("0.0.0.0/0"), router_of(config.wan_v4), DataPlane::kWan});
  if (!config.wan_v6.is_unspecified())
    out.routes.push_back({*Prefix::parse("::/0"), router_of(config.wan_v6), DataPlane::kWan});
  out.tunnel.port = DataPlane::kWan;
  return out;
}

}  // namespace

GatewayHost::GatewayHost(Network& network, SignalNet& net, Lan& lan, Config config)
    : Host(network), net_(net), lan_(lan), config_(std::move(config)) {}
GatewayHost::~GatewayHost() = default;

const MacAddress& GatewayHost::lan_mac() const {
  return kLanMac;
}

// ---- data plane ----

void GatewayHost::start_data_plane() {
  DataPlane::Config config;
  config.path = path_of(config_);
  config.key = config_.key;
  config.instance = ++instance_;
  data_plane_ = std::make_unique<DataPlane>(config, network_.random, here());
  data_plane_->transmit = [this](PortIndex port, Bytes frame) { transmit(port, frame); };
}

void GatewayHost::kill_data_plane() {
  data_plane_.reset();
  lost_data_plane();
}

void GatewayHost::lan_frame(std::vector<std::uint8_t> frame) {
  network_.schedule(
      network_.time() + kLanDelay,
      [this, frame = std::move(frame)] {
        if (!on || !data_plane_) return;
        data_plane_->receive(DataPlane::kLan, frame, here());
        carry();
      },
      this);
}

void GatewayHost::wan_frame(std::vector<std::uint8_t> packet) {
  data_plane_->receive(DataPlane::kWan, frames::frame(kRouterMac, kWanMac, packet), here());
  carry();
}

void GatewayHost::transmit(PortIndex port, Bytes frame) {
  if (port == DataPlane::kLan) {
    // Not while the data plane is at work: the server's answer comes later anyway.
    network_.schedule(
        network_.time(),
        [this, copy = std::vector<std::uint8_t>(frame.begin(), frame.end())] {
          if (on) lan_.receive(*this, copy, network_.time());
        },
        this);
    return;
  }
  const Bytes packet = frame.subspan(sizeof(EthernetHeader));
  const auto answer = [this](std::vector<std::uint8_t> reply) {
    network_.schedule(
        network_.time() + 50us,
        [this, reply = std::move(reply)] {
          if (!on || !data_plane_) return;
          data_plane_->receive(DataPlane::kWan, reply, here());
          carry();
        },
        this);
  };
  if (view_as<EthernetHeader>(frame)->type.host() == static_cast<std::uint16_t>(EtherType::arp)) {
    const auto question = gateway::parse_arp(packet);
    if (question && question->request && question->target == router_of(config_.wan_v4))
      answer(frames::ethernet(kRouterMac, kWanMac, EtherType::arp,
                              frames::arp(false, question->target, kRouterMac, question->sender,
                                          question->sender_mac)));
    return;
  }
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none) return;
  if (parse.view.protocol == ip_protocol::icmpv6 && packet.size() >= 64 &&
      packet[parse.view.header_length] == icmp6::neighbour_solicitation) {
    const IpAddress target = IpAddress::from_wire(packet.subspan(48, 16));
    if (!config_.wan_v6.is_unspecified() && target == router_of(config_.wan_v6))
      answer(frames::frame(kRouterMac, kWanMac,
                           frames::discovery(icmp6::neighbour_advertisement, target, ip_source(packet, parse.view),
                                             target, 0x60, frames::link_layer_option(2, kRouterMac))));
    return;
  }
  if (parse.view.protocol != ip_protocol::udp) return;
  const auto* udp = view_as<UdpHeader>(packet.subspan(parse.view.header_length));
  const Bytes payload = packet.subspan(parse.view.header_length + sizeof(UdpHeader));
  ++datagrams_;
  outbox.push_back({{ip_source(packet, parse.view), udp->source_port.host()},
                    {ip_destination(packet, parse.view), udp->destination_port.host()},
                    {payload.begin(), payload.end()}});
}

void GatewayHost::receive(Datagram datagram, Now) {
  if (!on || !data_plane_) return;
  wan_frame(frames::udp_packet(datagram.from, datagram.to, datagram.bytes));
}

// Somebody rejected what we sent: the error quotes our datagram.
void GatewayHost::unreachable(const Endpoint& remote, Bytes sent, Now) {
  const IpAddress& own = remote.address.is_v4() ? config_.wan_v4 : config_.wan_v6;
  if (!on || !data_plane_ || own.is_unspecified()) return;
  const auto quoted = frames::udp_packet({own, gateway::kDefaultListenPort}, remote,
                                         {sent.begin(), sent.end()});
  constexpr std::uint8_t kPort4 = 3, kPort6 = 4;
  auto error = remote.address.is_v4() ? icmp_error(quoted, remote.address, icmp4::unreachable, kPort4)
                                      : icmp_error(quoted, remote.address, icmp6::unreachable, kPort6);
  if (!error.empty()) wan_frame(std::move(error));
}

Instant GatewayHost::deadline() const {
  if (!on) return kNever;
  const Now now = here();
  Instant out = data_plane_ ? data_plane_->deadline(now.wall, now.monotonic) : kNever;
  if (control_ && control_->process->responsive()) out = std::min(out, control_->agent.poll_timeout().at);
  return out;
}

void GatewayHost::timeout(Now) {
  const Now now = here();
  if (data_plane_ && data_plane_->deadline(now.wall, now.monotonic) <= now.monotonic) {
    data_plane_->timeout(now);
    carry();
  }
  if (control_ && control_->process->responsive() && control_->agent.poll_timeout().at <= now.monotonic) {
    control_->agent.handle_timeout(now);
    drain_control();
  }
}

std::string GatewayHost::deadline_reason() const {
  const Now now = here();
  if (data_plane_ && data_plane_->deadline(now.wall, now.monotonic) <= now.monotonic)
    return config_.id + " data plane: " + data_plane_->deadline_reason();
  return config_.id + ": " + (control_ ? std::string{control_->agent.poll_timeout().why} : "off");
}

// ---- control process ----

void GatewayHost::in_control(Duration after, std::function<void(Control&)> work) {
  later(
      network_, network_.time() + after, control_->process,
      [weak = std::weak_ptr<Control>(control_), work = std::move(work), this] {
        const auto control = weak.lock();
        if (!control || control != control_ || !on) return;
        work(*control);
        if (control == control_) drain_control();
      },
      this);
}

void GatewayHost::start_control() {
  gateway_agent::AgentConfig config;
  config.hostname = config_.id;
  control_ = std::make_shared<Control>(config, network_.random);
  dial();
}

void GatewayHost::dial() {
  const std::uint64_t attempt = ++control_->attempt;
  in_control(kLocalCall, [this, attempt](Control& control) {
    if (control.attempt != attempt || control.attached) return;
    if (!data_plane_) {
      in_control(control.backoff.next(network_.random), [this, attempt](Control& again) {
        if (again.attempt == attempt && !again.attached) dial();
      });
      return;
    }
    control.attached = true;
    control.backoff.reset();
    data_plane_->events.clear();
    data_plane_->punts.clear();
    control.agent.handle_dataplane_up(data_plane_->dump(), here());
    for (const v1::Event& event : data_plane_->standing()) control.agent.handle_event(event, here());
    if (control.agent.ready_for_portal() && !control.portal) open_portal();
  });
}

void GatewayHost::lost_data_plane() {
  if (!control_ || !control_->attached) return;
  control_->attached = false;
  ++control_->attempt;
  in_control(kLocalCall, [this](Control& control) {
    control.agent.handle_dataplane_down(here());
    in_control(control.backoff.next(network_.random), [this](Control& again) {
      if (!again.attached) dial();
    });
  });
}

void GatewayHost::open_portal() {
  PortalLink::Hooks hooks;
  hooks.connected = [this] {
    if (!control_) return;
    control_->agent.handle_portal_connected(here());
    drain_control();
  };
  hooks.message = [this](const std::string& bytes) {
    v1::PortalToGateway message;
    if (!control_ || !message.ParseFromString(bytes)) return;
    control_->agent.handle_portal(message, here());
    drain_control();
  };
  hooks.disconnected = [this] {
    if (!control_) return;
    control_->agent.handle_portal_disconnected(here());
    drain_control();
  };
  control_->portal = std::make_unique<PortalLink>(net_, network_, *this, control_->process, broker::Role::gateway,
                                                  config_.token, config_.portal, network_.random, std::move(hooks));
  control_->portal->start();
}

void GatewayHost::kill_control() {
  if (!control_) return;
  control_->process->end();
  control_.reset();
}

void GatewayHost::end_control() {
  if (!control_) return;
  control_->agent.say_goodbye("the gateway ends");
  drain_control();
  kill_control();
}

void GatewayHost::stop_control() {
  if (control_) control_->process->stop();
}

void GatewayHost::continue_control() {
  if (control_) control_->process->go_on();
}

void GatewayHost::power_off() {
  on = false;
  kill_control();
  data_plane_.reset();
}

void GatewayHost::power_on() {
  on = true;
  start_data_plane();
  start_control();
}

bool GatewayHost::ready() const {
  return on && data_plane_ && control_ && control_->process->responsive() && control_->agent.synchronised();
}

void GatewayHost::carry() {
  if (!data_plane_) return;
  auto events = std::exchange(data_plane_->events, {});
  auto punts = std::exchange(data_plane_->punts, {});
  if (!control_ || !control_->attached || (events.empty() && punts.empty())) return;
  in_control(kLocalCall, [this, events = std::move(events), punts = std::move(punts)](Control& control) {
    if (!control.attached) return;
    for (const v1::Event& event : events) control.agent.handle_event(event, here());
    for (const v1::PuntToControl& punt : punts) control.agent.handle_punt(punt, here());
  });
}

void GatewayHost::drain_control() {
  while (control_) {
    auto output = control_->agent.poll_output(here());
    if (!output) return;
    perform(*output);
  }
}

void GatewayHost::perform(gateway_agent::Output& output) {
  if (auto* to_portal = std::get_if<gateway_agent::ToPortal>(&output)) {
    if (control_->portal) control_->portal->send(to_portal->message.SerializeAsString());
  } else if (std::holds_alternative<gateway_agent::ReopenPortal>(output)) {
    if (!control_->portal) return;
    control_->portal->stop();
    control_->agent.handle_portal_disconnected(here());
    control_->portal->start();
  } else if (std::holds_alternative<gateway_agent::SuspectPortal>(output)) {
    if (control_->portal) control_->portal->suspect();
  } else if (auto* apply = std::get_if<gateway_agent::ToDataPlane>(&output)) {
    // Both sides of the call happen outside of whoever asked for it.
    network_.schedule(
        network_.time() + kLocalCall,
        [this, ticket = apply->ticket, request = apply->request, weak = std::weak_ptr<Control>(control_)] {
          const auto control = weak.lock();
          if (!control || control != control_ || !control->attached || !on || !data_plane_) return;
          const v1::ApplyResponse response = data_plane_->apply(request, here());
          carry();
          in_control(kLocalCall, [this, ticket, response](Control& then) {
            if (then.attached) then.agent.handle_applied(ticket, response, here());
          });
        },
        this);
  } else if (auto* punt = std::get_if<gateway_agent::ToPunt>(&output)) {
    network_.schedule(
        network_.time() + kLocalCall,
        [this, message = punt->message] {
          if (!on || !data_plane_) return;
          data_plane_->punt(message, here());
          carry();
        },
        this);
  } else if (auto* dns = std::get_if<gateway_agent::ToDns>(&output)) {
    auto answer = config_.zone(dns->question.name, dns->question.family);
    const Duration delay = answer ? kDnsDelay : kDnsTimeout;
    in_control(delay, [this, id = dns->question.id,
                       it = answer.value_or(gateway_agent::DnsAnswer{})](Control& control) {
      control.agent.handle_answer(id, it, here());
    });
  } else if (auto* raw = std::get_if<gateway_agent::ToDnsRaw>(&output)) {
    in_control(kDnsDelay, [this, id = raw->id](Control& control) { control.agent.handle_raw_answer(id, {}, here()); });
  } else if (auto* note = std::get_if<gateway_agent::Note>(&output)) {
    if (log) log(config_.id + ": " + note->text);
  }
}

}  // namespace penstock::model
