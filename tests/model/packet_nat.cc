#include "tests/model/packet_nat.h"

#include <algorithm>
#include <utility>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "tests/model/packet_rewrite.h"

namespace penstock::model {
namespace {

constexpr std::size_t kMaxFragments = 1024;
constexpr std::size_t kMaxEarly = 64;
constexpr Duration kFragmentLife = std::chrono::seconds{30};  // RFC 791, RFC 8200 §4.5: 60 s at most
constexpr Duration kEarlyLife = std::chrono::seconds{2};

bool is_error(Bytes packet, const IpView& view) {
  if (view.later_fragment() || packet.size() <= view.header_length) return false;
  const std::uint8_t type = packet[view.header_length];
  if (view.protocol == ip_protocol::icmp)
    return type == icmp4::unreachable || type == icmp4::time_exceeded || type == icmp4::parameter_problem;
  return view.protocol == ip_protocol::icmpv6 && type < 128;
}

}  // namespace

struct PacketNat::Flow {
  Transport transport = Transport::udp;
  Endpoint source, destination;
};

namespace {

// nullopt: a protocol that does not pass. `packet` may be cut off behind the first 8 bytes of its transport.
template <typename Flow>
std::optional<Flow> flow_of(Bytes packet, const IpView& view) {
  Flow out;
  out.source.address = ip_source(packet, view);
  out.destination.address = ip_destination(packet, view);
  if (packet.size() < view.header_length + 8U) return std::nullopt;
  const Bytes transport = packet.subspan(view.header_length);
  const auto word = [&](std::size_t at) { return static_cast<std::uint16_t>(transport[at] << 8 | transport[at + 1]); };
  switch (view.protocol) {
    case ip_protocol::tcp:
    case ip_protocol::udp:
      out.transport = view.protocol == ip_protocol::tcp ? Transport::tcp : Transport::udp;
      out.source.port = word(0);
      out.destination.port = word(2);
      return out;
    case ip_protocol::icmp:
    case ip_protocol::icmpv6: {
      const bool six = view.protocol == ip_protocol::icmpv6;
      const bool request = transport[0] == (six ? icmp6::echo : icmp4::echo);
      if (!request && transport[0] != (six ? icmp6::echo_reply : icmp4::echo_reply)) return std::nullopt;
      out.transport = Transport::icmp;
      (request ? out.source : out.destination).port = word(4);  // the identifier is the asker's port
      return out;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

void PacketNat::forget() {
  box_.forget();
  fragments_.clear();
  early_.clear();
}

std::optional<Duration> PacketNat::life_of(const std::vector<std::uint8_t>& packet, const Flow& flow) const {
  if (flow.transport != Transport::tcp) return std::nullopt;
  const IpParse parse = parse_ip(packet);
  const auto* tcp = view_as<TcpHeader>(Bytes{packet}.subspan(parse.view.header_length));
  const bool transitory = tcp == nullptr || (tcp->flags & (tcp_flag::syn | tcp_flag::fin | tcp_flag::rst)) != 0;
  return transitory ? box_.behaviour().tcp_transitory : box_.behaviour().tcp_timeout;
}

void PacketNat::handle(Side came_from, std::vector<std::uint8_t> packet, Instant now, std::vector<SidedPacket>& out) {
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none || source_is_invalid(ip_source(packet, parse.view))) {
    ++statistics_.dropped;
    return;
  }
  const IpView& view = parse.view;
  packet.resize(view.total_length);
  if (config_.decrements_ttl) {
    if (view.ttl <= 1) {
      const bool six = view.v6();
      const IpAddress& own = came_from == Side::outside ? ip_destination(packet, view)
                             : six                      ? config_.inside_v6
                                                        : config_.inside_v4;
      auto error = icmp_error(packet, own, six ? icmp6::time_exceeded : icmp4::time_exceeded, 0);
      if (!error.empty()) out.push_back({came_from, std::move(error)});
      ++statistics_.dropped;
      return;
    }
    set_ttl(packet, static_cast<std::uint8_t>(view.ttl - 1));
  }
  if (view.later_fragment()) return handle_later_fragment(came_from, packet, view, now, out);
  if (is_error(packet, view)) return handle_error(came_from, packet, view, now, out);
  if (came_from == Side::inside)
    from_inside(packet, view, now, out);
  else
    from_outside(packet, view, now, out);
}

void PacketNat::emit(Side came_from, Side leaves, std::vector<std::uint8_t>& packet, const IpView& view,
                     const Flow& flow, const Endpoint& source, const Endpoint& destination, Instant now,
                     std::vector<SidedPacket>& out) {
  const bool echo = flow.transport == Transport::icmp;
  if (view.fragment()) {
    const FragmentKey key{came_from, flow.source.address, flow.destination.address, view.identification, view.protocol};
    std::erase_if(fragments_, [now](const auto& entry) { return now >= entry.second.expires; });
    if (fragments_.size() < kMaxFragments)
      fragments_[key] = {source.address, destination.address, leaves, now + kFragmentLife};
  }
  rewrite(packet, view, source.address, destination.address, echo ? std::nullopt : std::optional{source.port},
          echo ? std::nullopt : std::optional{destination.port},
          echo ? std::optional{source.port != 0 ? source.port : destination.port} : std::nullopt);
  out.push_back({leaves, std::move(packet)});
  if (!view.fragment()) return;
  // Later pieces that came too early.
  const FragmentKey key{came_from, flow.source.address, flow.destination.address, view.identification, view.protocol};
  for (auto& early : std::exchange(early_, {})) {
    if (now >= early.expires) continue;
    if (early.key != key) {
      early_.push_back(std::move(early));
      continue;
    }
    rewrite(early.bytes, parse_ip(early.bytes).view, source.address, destination.address, {}, {}, {});
    out.push_back({leaves, std::move(early.bytes)});
  }
}

void PacketNat::handle_later_fragment(Side came_from, std::vector<std::uint8_t>& packet, const IpView& view,
                                      Instant now, std::vector<SidedPacket>& out) {
  const FragmentKey key{came_from, ip_source(packet, view), ip_destination(packet, view), view.identification,
                        view.protocol};
  const auto known = fragments_.find(key);
  if (known != fragments_.end() && now < known->second.expires) {
    rewrite(packet, view, known->second.source, known->second.destination, {}, {}, {});
    out.push_back({known->second.leaves, std::move(packet)});
    return;
  }
  if (early_.size() == kMaxEarly) {
    early_.pop_front();
    ++statistics_.dropped;
  }
  early_.push_back({key, std::move(packet), now + kEarlyLife});
}

void PacketNat::from_inside(std::vector<std::uint8_t>& packet, const IpView& view, Instant now,
                            std::vector<SidedPacket>& out) {
  const auto flow = flow_of<Flow>(packet, view);
  const auto source =
      flow ? box_.outbound(flow->source, flow->destination, now, flow->transport, life_of(packet, *flow))
           : std::nullopt;
  if (!source) {
    ++statistics_.dropped;
    return;
  }
  if (!box_.owns(flow->destination.address)) {
    ++statistics_.out;
    return emit(Side::inside, Side::outside, packet, view, *flow, *source, flow->destination, now, out);
  }
  const auto target = box_.behaviour().hairpins ? box_.inbound(flow->destination, *source, now, flow->transport)
                                                : std::nullopt;
  if (!target) {
    ++statistics_.dropped;
    return;
  }
  ++statistics_.hairpinned;
  emit(Side::inside, Side::inside, packet, view, *flow, *source, *target, now, out);
}

void PacketNat::from_outside(std::vector<std::uint8_t>& packet, const IpView& view, Instant now,
                             std::vector<SidedPacket>& out) {
  const auto flow = flow_of<Flow>(packet, view);
  if (!flow || !box_.owns(flow->destination.address)) {
    ++statistics_.dropped;
    return;
  }
  const auto target = box_.inbound(flow->destination, flow->source, now, flow->transport);
  if (!target) return reject(packet, view, out);
  ++statistics_.in;
  emit(Side::outside, Side::inside, packet, view, *flow, flow->source, *target, now, out);
}

void PacketNat::reject(const std::vector<std::uint8_t>& packet, const IpView& view, std::vector<SidedPacket>& out) {
  if (!box_.behaviour().rejects || view.protocol == ip_protocol::icmp || view.protocol == ip_protocol::icmpv6) {
    ++statistics_.dropped;
    return;
  }
  ++statistics_.rejected;
  constexpr std::uint8_t kPort4 = 3, kPort6 = 4;
  auto answer = view.protocol == ip_protocol::tcp
                    ? tcp_reset(packet, view)
                    : icmp_error(packet, ip_destination(packet, view),
                                 view.v6() ? icmp6::unreachable : icmp4::unreachable, view.v6() ? kPort6 : kPort4);
  if (!answer.empty()) out.push_back({Side::outside, std::move(answer)});
}

// RFC 5508 §4: the quoted packet went the other way.
void PacketNat::handle_error(Side came_from, std::vector<std::uint8_t>& packet, const IpView& view, Instant now,
                             std::vector<SidedPacket>& out) {
  const std::size_t quote_at = view.header_length + sizeof(IcmpHeader);
  const auto drop = [this] { ++statistics_.dropped; };
  if (packet.size() <= quote_at) return drop();
  const Bytes quote = Bytes{packet}.subspan(quote_at);
  const IpParse quoted = parse_ip(quote, ParseMode::quoted);
  if (quoted.reason != DropReason::none || quoted.view.later_fragment()) return drop();
  const auto flow = flow_of<Flow>(quote, quoted.view);
  if (!flow) return drop();
  const IpAddress source = ip_source(packet, view);
  if (came_from == Side::outside) {
    // About a packet of somebody inside: its quoted source is ours.
    const auto inner = box_.internal_of(flow->source, flow->destination, now, flow->transport);
    if (!inner || ip_destination(packet, view) != flow->source.address) return drop();
    rewrite_error(packet, view, quoted.view, source, inner->address, *inner, flow->destination,
                  flow->transport == Transport::icmp);
    out.push_back({Side::inside, std::move(packet)});
  } else {
    // About a packet to somebody inside: its quoted destination becomes ours, and so does whoever reports.
    const auto shown = box_.external_of(flow->destination, flow->source, now, flow->transport);
    if (!shown) return drop();
    rewrite_error(packet, view, quoted.view, shown->address, flow->source.address, flow->source, *shown,
                  flow->transport == Transport::icmp);
    out.push_back({Side::outside, std::move(packet)});
  }
}

}  // namespace penstock::model
