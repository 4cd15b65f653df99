#include "dataplane/core/wireguard/probe.h"

#include <algorithm>
#include <cstring>

#include "dataplane/core/packet/headers.h"

namespace penstock::wireguard {
namespace {

struct ProbeLayout {
  std::uint8_t type;
  std::uint8_t version;
  be16 path;
  be32 switch_sequence;
  be64 id;
  be64 sent_at;
};
static_assert(sizeof(ProbeLayout) + sizeof(be32) + 2 * sizeof(be16) == kProbeSize && alignof(ProbeLayout) == 1);

constexpr std::array<std::uint8_t, 16> kClient{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
constexpr std::array<std::uint8_t, 16> kGateway{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
constexpr std::uint8_t kHopLimit = 255;
constexpr std::uint16_t kDoubt = 1;  // of flags
constexpr std::uint16_t kSized = 2;
constexpr std::uint16_t kReport = 4;

struct ProbeTail {  // what older clients do not send
  be16 inner_mtu;
  be16 flags;
};

}  // namespace

std::array<std::uint8_t, kProbeSize> encode_probe(const Probe& probe) {
  const ProbeLayout layout{static_cast<std::uint8_t>(probe.type),
                           kProbeVersion,
                           be16::from_host(probe.path),
                           be32::from_host(probe.switch_sequence),
                           be64::from_host(probe.id),
                           be64::from_host(probe.sent_at)};
  std::array<std::uint8_t, kProbeSize> out;
  const be32 rtt = be32::from_host(probe.rtt_us);
  std::memcpy(out.data(), &layout, sizeof layout);
  const auto flags = static_cast<std::uint16_t>((probe.doubt ? kDoubt : 0) | (probe.sized ? kSized : 0) |
                                                (probe.report ? kReport : 0));
  const ProbeTail tail{be16::from_host(probe.inner_mtu), be16::from_host(flags)};
  std::memcpy(out.data() + sizeof layout, &rtt, sizeof rtt);
  std::memcpy(out.data() + sizeof layout + sizeof rtt, &tail, sizeof tail);
  return out;
}

std::optional<Probe> parse_probe(Bytes payload) {
  const auto* layout = view_as<ProbeLayout>(payload);
  if (layout == nullptr || layout->version != kProbeVersion) return std::nullopt;
  const auto type = static_cast<ControlType>(layout->type);
  if (type != ControlType::probe && type != ControlType::probe_reply) return std::nullopt;
  const auto* rtt = view_as<be32>(payload.subspan(sizeof(ProbeLayout)));
  const auto* tail = rtt == nullptr ? nullptr : view_as<ProbeTail>(payload.subspan(sizeof(ProbeLayout) + sizeof *rtt));
  const std::uint16_t flags = tail == nullptr ? std::uint16_t{0} : tail->flags.host();
  return Probe{type,
               layout->path.host(),
               layout->switch_sequence.host(),
               layout->id.host(),
               layout->sent_at.host(),
               rtt == nullptr ? 0 : rtt->host(),
               tail == nullptr ? std::uint16_t{0} : tail->inner_mtu.host(),
               (flags & kDoubt) != 0,
               (flags & kSized) != 0,
               (flags & kReport) != 0};
}

Probe reply_to(const Probe& probe) {
  Probe reply = probe;
  reply.type = ControlType::probe_reply;
  return reply;
}

bool is_control_packet(Bytes inner) {
  const auto* header = view_as<Ipv6Header>(inner);
  if (header == nullptr || header->version_class_flow.host() >> 28 != 6) return false;
  const auto one_of_pair = [](const auto& address) { return address == kClient || address == kGateway; };
  return one_of_pair(header->source) || one_of_pair(header->destination);
}

std::optional<ControlPacket> parse_control(Bytes inner) {
  const auto* header = view_as<Ipv6Header>(inner);
  if (header == nullptr || header->version_class_flow.host() >> 28 != 6) return std::nullopt;
  if (header->next_header != ip_protocol::experimental_253 || header->hop_limit != kHopLimit) return std::nullopt;
  ControlPacket packet;
  if (header->source == kClient && header->destination == kGateway) {
    packet.direction = ControlDirection::to_gateway;
  } else if (header->source == kGateway && header->destination == kClient) {
    packet.direction = ControlDirection::to_client;
  } else {
    return std::nullopt;
  }
  const std::size_t length = header->payload_length.host();
  if (length == 0 || length > inner.size() - sizeof(Ipv6Header)) return std::nullopt;
  packet.payload = inner.subspan(sizeof(Ipv6Header), length);
  packet.type = static_cast<ControlType>(packet.payload[0]);
  if (packet.type < ControlType::probe || packet.type > ControlType::message) return std::nullopt;
  return packet;
}

void write_control_header(MutableBytes header, ControlDirection direction, std::uint16_t payload_length) {
  const bool to_gateway = direction == ControlDirection::to_gateway;
  Ipv6Header out{};
  out.version_class_flow = be32::from_host(std::uint32_t{6} << 28);
  out.payload_length = be16::from_host(payload_length);
  out.next_header = ip_protocol::experimental_253;
  out.hop_limit = kHopLimit;
  out.source = to_gateway ? kClient : kGateway;
  out.destination = to_gateway ? kGateway : kClient;
  std::memcpy(header.data(), &out, sizeof out);
}

std::array<std::uint8_t, kProbePacketSize> make_probe_packet(const Probe& probe, ControlDirection direction) {
  std::array<std::uint8_t, kProbePacketSize> packet;
  write_control_header(packet, direction, kProbeSize);
  const auto payload = encode_probe(probe);
  std::copy(payload.begin(), payload.end(), packet.begin() + kControlHeaderSize);
  return packet;
}

std::vector<std::uint8_t> make_sized_probe_packet(const Probe& probe, ControlDirection direction, std::size_t size) {
  std::vector<std::uint8_t> packet(std::max(size, kProbePacketSize));
  write_control_header(packet, direction, static_cast<std::uint16_t>(packet.size() - kControlHeaderSize));
  const auto payload = encode_probe(probe);
  std::copy(payload.begin(), payload.end(), packet.begin() + kControlHeaderSize);
  return packet;
}

IpAddress control_client_address() {
  return IpAddress::v6(kClient);
}
IpAddress control_gateway_address() {
  return IpAddress::v6(kGateway);
}

}  // namespace penstock::wireguard
