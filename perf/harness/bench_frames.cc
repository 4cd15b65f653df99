// The frames that a gateway in memory is given, and what must have become of them when they come out.
#include "dataplane/core/packet/checksum.h"
#include "perf/harness/bench_gateway.h"

namespace penstock::perf {

using wireguard::AeadJob;
using wireguard::DataHeader;

Packet* BenchGateway::frame_from_client(std::uint16_t w, const Flow& flow, std::uint16_t size, std::uint32_t number,
                                        std::uint8_t tcp_flags, AeadJob& job) {
  Packet* packet = workers_[w]->pool->allocate();
  if (packet == nullptr) return nullptr;
  ClientSession& session = sessions_[flow.peer];
  const auto padded = static_cast<std::uint16_t>(wireguard::padded_length(size, shape_.inner_mtu));
  const auto message = static_cast<std::uint16_t>(padded + wireguard::kDataOverhead);
  packet->append(static_cast<std::uint16_t>(kOuterSize + message));
  std::uint8_t* at = packet->data;
  auto* ethernet = reinterpret_cast<EthernetHeader*>(at);
  *ethernet = {kWanMac, kRouterMac, be16::from_host(static_cast<std::uint16_t>(EtherType::ipv4))};
  at += sizeof *ethernet;
  const Endpoint from = client_endpoint(flow.peer);
  auto* ip = new (at) Ipv4Header{};
  ip->version_ihl = 0x45;
  ip->total_length = be16::from_host(static_cast<std::uint16_t>(sizeof(Ipv4Header) + sizeof(UdpHeader) + message));
  ip->flags_offset = be16::from_host(kIpv4DontFragment);
  ip->ttl = 57;
  ip->protocol = ip_protocol::udp;
  std::memcpy(ip->source.data(), from.address.wire().data(), 4);
  std::memcpy(ip->destination.data(), gateway_wan().wire().data(), 4);
  ip->checksum = checksum_finish(checksum_add(0, {at, sizeof *ip}));
  at += sizeof *ip;
  auto* udp = reinterpret_cast<UdpHeader*>(at);
  *udp = {be16::from_host(from.port), be16::from_host(kListenPort),
          be16::from_host(static_cast<std::uint16_t>(sizeof(UdpHeader) + message)), be16{}};
  at += sizeof *udp;
  auto* header = reinterpret_cast<DataHeader*>(at);
  header->type.set(static_cast<std::uint32_t>(wireguard::MessageType::data));
  header->receiver.set(session.remote_index);
  header->counter.set(session.counter);
  at += sizeof *header;
  write_from_client(flow, shape_.families, size, number, tcp_flags, at);
  std::memset(at + size, 0, static_cast<std::size_t>(padded - size));
  job = AeadJob{session.send_key.data(), session.counter++, at, padded, false};
  return packet;
}

Packet* BenchGateway::frame_from_server(std::uint16_t w, const Flow& flow, std::uint16_t size, std::uint32_t number,
                                        std::uint8_t tcp_flags) {
  Packet* packet = workers_[w]->pool->allocate();
  if (packet == nullptr) return nullptr;
  auto* ethernet = reinterpret_cast<EthernetHeader*>(packet->data);
  const auto type = shape_.families.outside6 ? EtherType::ipv6 : EtherType::ipv4;
  *ethernet = {kLanMac, server_mac(flow.server), be16::from_host(static_cast<std::uint16_t>(type))};
  const std::uint16_t length =
      write_from_server(flow, shape_.families, size, translated_ports_[flow.number], number, tcp_flags,
                        packet->data + sizeof *ethernet);
  packet->append(static_cast<std::uint16_t>(sizeof *ethernet + length));
  return packet;
}

std::string BenchGateway::check_lan_frame(const Expected& expected, Bytes frame) const {
  if (frame.size() < sizeof(EthernetHeader)) return "too short";
  const Bytes packet = frame.subspan(sizeof(EthernetHeader));
  const auto number = number_of(packet);
  const Sent* sent = number ? expected(*number) : nullptr;
  if (sent == nullptr) return "a packet that was not sent";
  const auto type = shape_.families.outside6 ? EtherType::ipv6 : EtherType::ipv4;
  const EthernetHeader ethernet{server_mac(sent->flow.server), kLanMac,
                                be16::from_host(static_cast<std::uint16_t>(type))};
  if (std::memcmp(frame.data(), &ethernet, sizeof ethernet) != 0) return "Ethernet header";
  return check_on_lan(sent->flow, shape_.families, sent->size, *number, translated_ports_[sent->flow.number], packet);
}

std::string BenchGateway::check_wan_frame(const Expected& expected, MutableBytes frame) {
  if (frame.size() < kOuterSize + wireguard::kDataOverhead) return "too short";
  const EthernetHeader ethernet{kRouterMac, kWanMac, be16::from_host(static_cast<std::uint16_t>(EtherType::ipv4))};
  if (std::memcmp(frame.data(), &ethernet, sizeof ethernet) != 0) return "Ethernet header";
  const auto* ip = reinterpret_cast<const Ipv4Header*>(frame.data() + sizeof(EthernetHeader));
  const auto* udp = reinterpret_cast<const UdpHeader*>(ip + 1);
  const auto* header = reinterpret_cast<const DataHeader*>(udp + 1);
  if (checksum_fold(checksum_add(0, {reinterpret_cast<const std::uint8_t*>(ip), sizeof *ip})) != 0xffff)
    return "outer header checksum";
  if (ip->version_ihl != 0x45 || ip->protocol != ip_protocol::udp || ip->ttl == 0) return "outer header";
  if (ip->total_length.host() != frame.size() - sizeof(EthernetHeader)) return "outer length";
  if (udp->length.host() != frame.size() - sizeof(EthernetHeader) - sizeof *ip) return "UDP length";
  const auto known = peer_of_index_.find(header->receiver.get());
  if (known == peer_of_index_.end()) return "receiver index";
  const ClientSession& session = sessions_[known->second];
  const Endpoint to = client_endpoint(known->second);
  if (IpAddress::v4(ip->destination) != to.address || IpAddress::v4(ip->source) != gateway_wan())
    return "outer addresses";
  if (udp->destination_port.host() != to.port || udp->source_port.host() != kListenPort) return "outer ports";
  std::uint8_t* payload = frame.data() + kOuterSize + wireguard::kDataHeaderSize;
  const auto length = static_cast<std::uint32_t>(frame.size() - kOuterSize - wireguard::kDataOverhead);
  AeadJob job{session.receive_key.data(), header->counter.get(), payload, length, false};
  opener_->open({&job, 1});
  if (!job.ok) return "does not decrypt";
  const auto number = number_of({payload, length});
  const Sent* sent = number ? expected(*number) : nullptr;
  if (sent == nullptr || sent->flow.peer != known->second) return "a packet that was not sent to this peer";
  if (length != wireguard::padded_length(sent->size, shape_.inner_mtu)) return "padding";
  return check_in_tunnel(sent->flow, shape_.families, sent->size, *number, {payload, sent->size});
}

}  // namespace penstock::perf
