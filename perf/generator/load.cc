#include "perf/generator/load.h"

#include <x86intrin.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/runtime/clock.h"

namespace penstock::generator {
namespace {

using namespace std::chrono_literals;
using runtime::read_clock;

constexpr std::size_t kSendBurst = 32;
constexpr std::size_t kTimes = std::size_t{1} << 20;  // packets under way whose time is known
constexpr std::uint32_t kSampleEvery = 17;  // no divisor of the mix of sizes
constexpr Duration kPatience = 15s;
constexpr Duration kSessionAge = 60s;  // a trial must not meet a renewal
constexpr Duration kQuiet = 50ms;      // nothing has arrived for so long: nothing will
constexpr double kLate = 100e-6;       // seconds behind the schedule that are forgiven
constexpr std::uint16_t kOuter = sizeof(Ipv4Header) + sizeof(UdpHeader);
constexpr std::uint16_t kFlowPort = 1024;

}  // namespace

double measure_tsc_hz() {
  const Instant before = read_clock().monotonic;
  const std::uint64_t from = __rdtsc();
  Instant now = before;
  while (now - before < 50ms) now = read_clock().monotonic;
  return static_cast<double>(__rdtsc() - from) / std::chrono::duration<double>(now - before).count();
}

Load::Load(const Options& options, Rig& rig, Random& random)
    : options_(options),
      rig_(rig),
      clients_(options, random, read_clock()),
      sent_at_(kTimes),
      tsc_hz_(measure_tsc_hz()) {
  flows_.resize(options.flows);
  for (std::uint32_t i = 0; i < flows_.size(); ++i) {
    const bool v4 = options.destination.is_v4();
    const IpAddress source = options.plain ? options.source
                             : v4          ? clients_.identity(client_of(i)).tunnel_v4
                                           : clients_.identity(client_of(i)).tunnel_v6;
    // More flows than ports: several destination ports.
    const std::uint32_t nth = i / options.peers;
    flows_[i].up = FlowHeaders({source, static_cast<std::uint16_t>(kFlowPort + nth % 60000)},
                               {options.destination, static_cast<std::uint16_t>(options.server.port + nth / 60000)});
  }
  outer_.resize(clients_.size());
  for (std::size_t i = 0; i < outer_.size(); ++i) {
    auto* ip = reinterpret_cast<Ipv4Header*>(outer_[i].data());
    const Endpoint from = clients_.endpoint(i);
    ip->version_ihl = 0x45;
    ip->flags_offset = be16::from_host(kIpv4DontFragment);
    ip->ttl = 64;
    ip->protocol = ip_protocol::udp;
    std::memcpy(ip->source.data(), from.address.wire().data(), 4);
    std::memcpy(ip->destination.data(), options.gateway.address.wire().data(), 4);
    auto* udp = reinterpret_cast<UdpHeader*>(outer_[i].data() + sizeof(Ipv4Header));
    udp->source_port = be16::from_host(from.port);
    udp->destination_port = be16::from_host(options.gateway.port);
  }
}

std::string Load::prepare() {
  if (std::string error = rig_.find_gateways(kPatience); !error.empty()) return error;
  if (std::string error = make_sessions(); !error.empty()) return error;
  return make_flows();
}

std::string Load::make_sessions() {
  const Instant started = read_clock().monotonic;
  clients_.want_sessions(read_clock(), kSessionAge);
  Counting nothing;
  for (;;) {
    const Now now = read_clock();
    const std::size_t missing = clients_.missing(now);
    if (missing == 0) return {};
    if (now.monotonic - started > kPatience)
      return std::to_string(missing) + " of " + std::to_string(clients_.size()) + " handshakes were not answered";
    clients_.handle_timeouts(now);
    send_outputs(now);
    receive(nothing);
  }
}

void Load::send_outputs(Now now) {
  (void)now;
  while (auto output = clients_.poll_output()) {
    Packet* packet = nullptr;
    if (rig_.allocate({&packet, 1}) == 0) return;
    const auto length = static_cast<std::uint16_t>(output->datagram.size());
    packet->append(length);
    std::memcpy(packet->data, output->datagram.data(), length);
    packet->push(kOuter);
    std::memcpy(packet->data, outer_[output->client].data(), kOuter);
    auto* ip = reinterpret_cast<Ipv4Header*>(packet->data);
    ip->total_length = be16::from_host(packet->length);
    ip->checksum = checksum_finish(checksum_add(0, {packet->data, sizeof(Ipv4Header)}));
    reinterpret_cast<UdpHeader*>(packet->data + sizeof(Ipv4Header))->length =
        be16::from_host(static_cast<std::uint16_t>(length + sizeof(UdpHeader)));
    rig_.address(Side::wan, *packet, false);
    rig_.send(Side::wan, {&packet, 1});
  }
}

std::string Load::make_flows() {
  const std::vector<std::uint16_t> size = {64};
  std::size_t missing = 0;
  for (int round = 0; round < 8; ++round) {
    std::vector<std::uint32_t> wanted;
    for (std::uint32_t i = 0; i < flows_.size(); ++i)
      if (flows_[i].outside.port == 0) wanted.push_back(i);
    missing = wanted.size();
    if (missing == 0) return {};
    Counting learning;
    for (std::size_t at = 0; at < wanted.size(); at += kSendBurst) {
      const std::span<const std::uint32_t> part{wanted.data() + at, std::min(kSendBurst, wanted.size() - at)};
      std::array<Packet*, kSendBurst> packets;
      const std::size_t n = build_up(part, size, packets, read_clock());
      rig_.send(Side::wan, {packets.data(), n});
      const std::uint64_t until = __rdtsc() + static_cast<std::uint64_t>(tsc_hz_ * 100e-6);
      while (__rdtsc() < until) receive(learning);
    }
    const Instant from = read_clock().monotonic;
    while (read_clock().monotonic - from < kQuiet) receive(learning);
  }
  return std::to_string(missing) + " of " + std::to_string(flows_.size()) + " flows do not come through to the LAN";
}

std::size_t Load::build_up(std::span<const std::uint32_t> flows, const std::vector<std::uint16_t>& sizes,
                           std::span<Packet*> packets, Now now) {
  const std::size_t n = rig_.allocate(packets.first(flows.size()));
  std::array<wireguard::AeadJob, kSendBurst> jobs;
  std::size_t made = 0;
  for (std::size_t i = 0; i < n; ++i) {
    Packet& packet = *packets[i];
    const std::uint16_t size = sizes[sequence_ % sizes.size()];
    packet.append(size);
    flows_[flows[i]].up.write(packet.data, size, flows[i], sequence_);
    if (!options_.plain) {
      const std::uint32_t length = clients_.prepare(client_of(flows[i]), packet.data, size, jobs[made], now);
      if (length == 0) {
        rig_.release({&packets[i], 1});
        continue;
      }
      packet.append(static_cast<std::uint16_t>(length - wireguard::kDataHeaderSize - size));
      packet.push(wireguard::kDataHeaderSize + kOuter);
      std::memcpy(packet.data, outer_[client_of(flows[i])].data(), kOuter);
      auto* ip = reinterpret_cast<Ipv4Header*>(packet.data);
      ip->total_length = be16::from_host(packet.length);
      ip->checksum = checksum_finish(checksum_add(0, {packet.data, sizeof(Ipv4Header)}));
      reinterpret_cast<UdpHeader*>(packet.data + sizeof(Ipv4Header))->length =
          be16::from_host(static_cast<std::uint16_t>(length + sizeof(UdpHeader)));
    }
    rig_.address(Side::wan, packet, options_.plain && options_.destination.is_v6());
    sent_at_[sequence_++ % kTimes] = 0;
    packets[made++] = packets[i];
  }
  if (!options_.plain) clients_.seal({jobs.data(), made});
  return made;
}

std::size_t Load::build_down(std::span<const std::uint32_t> flows, const std::vector<std::uint16_t>& sizes,
                             std::span<Packet*> packets) {
  const std::size_t n = rig_.allocate(packets.first(flows.size()));
  for (std::size_t i = 0; i < n; ++i) {
    Packet& packet = *packets[i];
    // The inner packet has the size; an IPv4 header is twenty bytes shorter than the IPv6 header it becomes.
    const std::uint16_t inner = sizes[sequence_ % sizes.size()];
    const auto size = static_cast<std::uint16_t>(options_.destination.is_v6() ? inner - 20 : inner);
    packet.append(size);
    flows_[flows[i]].down.write(packet.data, size, flows[i], sequence_);
    rig_.address(Side::lan, packet, false);
    sent_at_[sequence_++ % kTimes] = 0;
  }
  return n;
}

Trial Load::run(Direction direction, const std::vector<std::uint16_t>& sizes, double rate, double seconds) {
  Trial trial;
  trial.wanted = rate;
  Counting counting{direction, &trial,
                    std::accumulate(sizes.begin(), sizes.end(), 0.0) / static_cast<double>(sizes.size())};
  const std::uint64_t start = __rdtsc();
  const auto end = start + static_cast<std::uint64_t>(seconds * tsc_hz_);
  double due = 0;  // packets that should have been sent by now
  std::uint64_t last = start;
  const double per_tick = rate / tsc_hz_;
  const double most = std::max(static_cast<double>(kSendBurst), rate * kLate);
  const std::size_t least = rate > 1e6 ? kSendBurst / 4 : 1;
  std::array<std::uint32_t, kSendBurst> flows;
  std::array<Packet*, kSendBurst> packets;
  for (std::uint64_t now = start; now < end; now = __rdtsc()) {
    std::size_t n = kSendBurst;
    if (rate > 0) {
      due = std::min(due + static_cast<double>(now - last) * per_tick, most);
      last = now;
      n = std::min(static_cast<std::size_t>(due), kSendBurst);
    }
    if (n >= least) {
      for (std::size_t i = 0; i < n; ++i) {
        flows[i] = next_flow_;
        next_flow_ = next_flow_ + 1 == flows_.size() ? 0 : next_flow_ + 1;
      }
      const std::span<const std::uint32_t> chosen{flows.data(), n};
      const std::uint64_t first = sequence_;
      const std::size_t made = direction == Direction::up ? build_up(chosen, sizes, packets, read_clock())
                                                          : build_down(chosen, sizes, packets);
      const std::uint64_t sending = __rdtsc();
      for (std::uint64_t s = first; s < sequence_; ++s) sent_at_[s % kTimes] = sending;
      const std::size_t sent =
          rig_.send(direction == Direction::up ? Side::wan : Side::lan, {packets.data(), made});
      trial.sent += sent;
      trial.refused += made - sent;
      if (rate > 0) due -= static_cast<double>(n);
    }
    receive(counting);
  }
  trial.seconds = static_cast<double>(__rdtsc() - start) / tsc_hz_;
  std::uint64_t before = trial.received;
  for (Instant from = read_clock().monotonic; trial.received < trial.sent;) {
    receive(counting);
    const Instant now = read_clock().monotonic;
    if (trial.received != before) {
      before = trial.received;
      from = now;
    } else if (now - from > kQuiet) {
      break;
    }
  }
  trial.inner_bytes = counting.mean_size * static_cast<double>(trial.received);
  return trial;
}

void Load::receive(Counting& counting) {
  for (const Side side : {Side::lan, Side::wan}) {
    PacketBurst burst;
    rig_.receive(side, burst);
    if (burst.empty()) continue;
    const std::uint64_t tsc = __rdtsc();
    for (Packet* packet : burst) {
      if (side == Side::lan) {
        receive_lan(*packet, counting, tsc);
      } else {
        receive_wan(*packet, counting, tsc);
      }
    }
    rig_.release({burst.data(), burst.size()});
  }
}

void Load::receive_lan(Packet& packet, Counting& counting, std::uint64_t tsc) {
  if (counting.trial == nullptr) {
    const auto arrived = read_packet(packet.bytes(), true);
    if (!arrived || arrived->flow >= flows_.size()) return;
    Flow& flow = flows_[arrived->flow];
    flow.outside = arrived->source;
    flow.down = FlowHeaders(arrived->destination, arrived->source);
    return;
  }
  if (counting.direction != Direction::up) return;
  const auto arrived = read_packet(packet.bytes(), false);
  if (!arrived) return;
  if (++counting.trial->received % kSampleEvery == 0) sample(packet.bytes(), counting, tsc);
}

void Load::receive_wan(Packet& packet, Counting& counting, std::uint64_t tsc) {
  const bool counted = counting.trial != nullptr && counting.direction == Direction::down;
  if (options_.plain) {
    if (counted && read_packet(packet.bytes(), false) && ++counting.trial->received % kSampleEvery == 0)
      sample(packet.bytes(), counting, tsc);
    return;
  }
  const auto* ip = view_as<Ipv4Header>(packet.bytes());
  if (ip == nullptr || ip->version_ihl != 0x45 || ip->protocol != ip_protocol::udp || packet.length < kOuter) return;
  const auto* udp = reinterpret_cast<const UdpHeader*>(packet.data + sizeof(Ipv4Header));
  const std::uint16_t length = udp->length.host();
  if (length < sizeof(UdpHeader) || length + sizeof(Ipv4Header) > packet.length) return;
  const MutableBytes datagram{packet.data + kOuter, length - sizeof(UdpHeader)};
  const auto kind = wireguard::classify(datagram);
  if (kind == wireguard::MessageType::none) return;
  const auto client = clients_.client_at({IpAddress::v4(ip->destination), udp->destination_port.host()});
  if (!client) return;
  if (kind != wireguard::MessageType::data) {
    clients_.handle(*client, datagram, read_clock());
    send_outputs(read_clock());
    return;
  }
  if (!counted || datagram.size() <= wireguard::kDataOverhead) return;  // a keepalive
  if (++counting.trial->received % kSampleEvery == 0) sample(clients_.open(*client, datagram), counting, tsc);
}

void Load::sample(Bytes inner, Counting& counting, std::uint64_t tsc) {
  Trial& trial = *counting.trial;
  ++trial.checked;
  const auto arrived = read_packet(inner, false);
  if (!arrived || !intact(inner)) {
    ++trial.corrupt;
    return;
  }
  const std::uint64_t sent = sent_at_[arrived->sequence % kTimes];
  if (sequence_ - arrived->sequence > kTimes || sent == 0 || tsc < sent) return;
  trial.latency.add(static_cast<std::uint64_t>(static_cast<double>(tsc - sent) / tsc_hz_ * 1e9));
}

}  // namespace penstock::generator
