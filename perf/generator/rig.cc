#include "perf/generator/rig.h"

#include <algorithm>
#include <cstring>

#include "dataplane/gateway/neighbour_messages.h"
#include "dataplane/runtime/clock.h"

namespace penstock::generator {
namespace {

using namespace std::chrono_literals;

constexpr std::uint16_t kMtu = 9000;
constexpr std::uint16_t kEthernet = sizeof(EthernetHeader);
constexpr Duration kAskEvery = 100ms;
constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

bool is_large(const Options& options) {
  return std::ranges::any_of(options.sizes, [](const auto& size) { return size != "imix" && std::stoul(size) > 1440; });
}

void write_ethernet(Packet& packet, const MacAddress& to, const MacAddress& from, EtherType type) {
  auto* header = reinterpret_cast<EthernetHeader*>(packet.data);
  header->destination = to;
  header->source = from;
  header->type = be16::from_host(static_cast<std::uint16_t>(type));
}

}  // namespace

Rig::~Rig() {
  for (End& end : ends_) end.port.reset();
  pool_.reset();
  if (eal_) eal_->leave_thread();
}

std::unique_ptr<Rig> Rig::open(const Options& options, std::string& error) {
  std::unique_ptr<Rig> rig(new Rig);
  runtime::Config config;
  config.memory_mb = options.memory_mb;
  config.devices = {{options.wan_device, MacAddress{0x02, 0, 0, 0, 0x0a, 1}},
                    {options.lan_device, MacAddress{0x02, 0, 0, 0, 0x0a, 2}}};
  auto eal = io::Eal::start(config);
  if (const auto* failed = std::get_if<runtime::ConfigError>(&eal)) {
    error = failed->reason;
    return nullptr;
  }
  rig->eal_ = std::move(std::get<std::unique_ptr<io::Eal>>(eal));
  rig->eal_->enter_thread();
  const std::uint16_t mtu = is_large(options) ? kMtu : 1600;
  auto pool = io::MbufPool::make(mtu, options.memory_mb);
  if (const auto* failed = std::get_if<std::string>(&pool)) {
    error = *failed;
    return nullptr;
  }
  rig->pool_ = std::move(std::get<std::unique_ptr<io::MbufPool>>(pool));
  for (std::size_t i = 0; i < rig->ends_.size(); ++i) {
    End& end = rig->ends_[i];
    gateway::PortConfiguration port;
    port.name = i == 0 ? "wan" : "lan";
    port.mtu = mtu;
    // A vdev keeps its own address, as a NIC does unless it must change it.
    config.devices[i].mac.reset();
    auto opened = io::DpdkPort::open(config.devices[i], port, 1, rig->pool_->mempool());
    if (const auto* failed = std::get_if<std::string>(&opened)) {
      error = port.name + ": " + *failed;
      return nullptr;
    }
    end.port = std::move(std::get<std::unique_ptr<io::DpdkPort>>(opened));
  }
  End& wan = rig->end(Side::wan);
  wan.first_address = options.wan_address;
  wan.addresses = options.wan_addresses;
  wan.gateway = options.gateway.address;
  wan.gateway_mac = options.gateway_mac;
  End& lan = rig->end(Side::lan);
  lan.first_address = options.server.address;
  lan.gateway = options.lan_gateway;
  lan.gateway_mac = options.lan_gateway_mac;
  return rig;
}

std::string Rig::find_gateways(Duration patience) {
  const Instant started = runtime::read_clock().monotonic;
  Instant asked{};
  for (;;) {
    const Instant now = runtime::read_clock().monotonic;
    const bool wan = end(Side::wan).gateway_mac.has_value();
    const bool lan = end(Side::lan).gateway_mac.has_value();
    if (wan && lan) return {};
    if (now - started > patience)
      return std::string("nobody answers ARP for ") +
             (wan ? end(Side::lan).gateway.to_string() + " on the LAN"
                  : end(Side::wan).gateway.to_string() + " on the WAN");
    if (now - asked > kAskEvery) {
      for (End& side : ends_)
        if (!side.gateway_mac) ask(side);
      asked = now;
    }
    for (const Side side : {Side::wan, Side::lan}) {
      PacketBurst burst;
      receive(side, burst);
      pool_->release({burst.data(), burst.size()});
    }
  }
}

std::size_t Rig::allocate(std::span<Packet*> packets) {
  for (std::size_t i = 0; i < packets.size(); ++i) {
    packets[i] = pool_->allocate();
    if (packets[i] == nullptr) return i;
  }
  return packets.size();
}

void Rig::address(Side side, Packet& packet, bool ip6) const {
  const End& end = ends_[static_cast<std::size_t>(side)];
  packet.push(kEthernet);
  write_ethernet(packet, *end.gateway_mac, end.port->mac(), ip6 ? EtherType::ipv6 : EtherType::ipv4);
}

std::size_t Rig::send(Side side, std::span<Packet* const> frames) {
  const std::size_t sent = end(side).port->send(0, frames);
  if (sent < frames.size()) pool_->release(frames.subspan(sent));
  return sent;
}

void Rig::receive(Side side, PacketBurst& packets) {
  End& end_here = end(side);
  PacketBurst burst;
  end_here.port->receive(0, burst);
  for (Packet* packet : burst) {
    const auto* header = view_as<EthernetHeader>(packet->bytes());
    const auto type = header == nullptr ? EtherType{} : static_cast<EtherType>(header->type.host());
    if (type == EtherType::ipv4 || type == EtherType::ipv6) {
      packet->pull(kEthernet);
      packets.add(packet);
    } else if (type != EtherType::arp || !handle_arp(end_here, *packet)) {
      pool_->release({&packet, 1});
    }
  }
}

bool Rig::handle_arp(End& end, Packet& packet) {
  packet.pull(kEthernet);
  const auto message = gateway::parse_arp(packet.bytes());
  if (!message) return false;
  if (!message->request) {
    if (message->sender == end.gateway) end.gateway_mac = message->sender_mac;
    return false;
  }
  if (!message->target.is_v4() || message->target.v4_value() - end.first_address.v4_value() >= end.addresses)
    return false;
  gateway::write_arp(packet, {.request = false,
                              .sender = message->target,
                              .sender_mac = end.port->mac(),
                              .target = message->sender,
                              .target_mac = message->sender_mac});
  packet.push(kEthernet);
  write_ethernet(packet, message->sender_mac, end.port->mac(), EtherType::arp);
  Packet* frame = &packet;
  if (end.port->send(0, {&frame, 1}) == 0) pool_->release({&frame, 1});
  return true;
}

void Rig::ask(End& end) {
  Packet* packet = pool_->allocate();
  if (packet == nullptr) return;
  gateway::write_arp(*packet, {.request = true,
                               .sender = end.first_address,
                               .sender_mac = end.port->mac(),
                               .target = end.gateway,
                               .target_mac = {}});
  packet->push(kEthernet);
  write_ethernet(*packet, kBroadcast, end.port->mac(), EtherType::arp);
  if (end.port->send(0, {&packet, 1}) == 0) pool_->release({&packet, 1});
}

}  // namespace penstock::generator
