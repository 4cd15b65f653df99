#include "dataplane/core/nat/translator.h"

#include <algorithm>

#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::uint32_t kAgeingPerTimeout = 1024;  // a fraction of a millisecond

be16 load16(const std::uint8_t* at) {
  be16 value;
  std::memcpy(&value, at, 2);
  return value;
}

std::vector<Prefix> forbidden_ranges(const TranslatorConfig& config) {
  std::vector<Prefix> out = {config.tunnel_v4,
                             config.tunnel_v6,
                             config.proxy_v4,
                             config.proxy_v6,
                             Prefix{config.own_inside_v4, 32},
                             Prefix{config.own_inside_v6, 128}};
  const auto add = [&out](const std::vector<IpAddress>& list) {
    for (const IpAddress& address : list) out.emplace_back(address, address.is_v4() ? 32U : 128U);
  };
  add(config.own_addresses);
  if (config.hairpinning) return out;
  add(config.source_v4);
  add(config.source_v6);
  return out;
}

std::vector<std::pair<IpAddress, std::uint16_t>> sorted_sources(const TranslatorConfig& config) {
  std::vector<std::pair<IpAddress, std::uint16_t>> out;
  for (const auto* list : {&config.source_v4, &config.source_v6})
    for (std::size_t i = 0; i < list->size(); ++i) out.emplace_back((*list)[i], static_cast<std::uint16_t>(i));
  std::sort(out.begin(), out.end());
  return out;
}

// Not secret and the same on every worker.
std::uint64_t plain_hash(const IpAddress& a, const IpAddress& b, std::uint64_t rest) {
  const std::uint64_t mixed = (hash_value(a) * 0x9e3779b97f4a7c15ULL + hash_value(b) + rest) * 0xff51afd7ed558ccdULL;
  return mixed ^ (mixed >> 32);
}

}  // namespace

Classified classify(Packet& packet, bool down) {
  Classified out;
  const IpParse parsed = parse_ip(packet);
  out.reason = parsed.reason;
  out.view = parsed.view;
  if (parsed.reason != DropReason::none) return out;
  const Bytes bytes{packet.data, packet.length};
  const IpView& view = out.view;
  if (!view.v6() && !ipv4_header_checksum_ok(bytes)) {
    out.reason = DropReason::ip_checksum_bad;
    return out;
  }
  out.tuple.source = ip_source(bytes, view);
  out.tuple.destination = ip_destination(bytes, view);
  if (source_is_invalid(out.tuple.source)) {
    out.reason = DropReason::ip_source_invalid;
    return out;
  }
  out.protocol = view.protocol == ip_protocol::icmpv6 && view.v6() ? ip_protocol::icmp : view.protocol;
  if (view.fragment()) {
    out.kind = PacketKind::fragment;
    return out;
  }
  const Bytes transport = bytes.subspan(view.header_length);
  const auto malformed = [&out] {
    out.reason = DropReason::transport_malformed;
    return out;
  };
  switch (view.protocol) {
    case ip_protocol::tcp: {
      const auto* tcp = view_as<TcpHeader>(transport);
      if (tcp == nullptr || tcp->header_length() < sizeof(TcpHeader) || tcp->header_length() > transport.size())
        return malformed();
      out.tuple.source_port = tcp->source_port.host();
      out.tuple.destination_port = tcp->destination_port.host();
      out.kind = PacketKind::query;
      return out;
    }
    case ip_protocol::udp: {
      const auto* udp = view_as<UdpHeader>(transport);
      if (udp == nullptr || udp->length.host() < sizeof(UdpHeader) || udp->length.host() > transport.size())
        return malformed();
      out.tuple.source_port = udp->source_port.host();
      out.tuple.destination_port = udp->destination_port.host();
      out.kind = PacketKind::query;
      return out;
    }
    case ip_protocol::icmp:
    case ip_protocol::icmpv6: {
      out.kind = PacketKind::other;
      if ((view.protocol == ip_protocol::icmpv6) != view.v6()) return out;
      if (transport.size() < sizeof(IcmpHeader)) {
        out.kind = PacketKind::refused;
        return malformed();
      }
      const std::uint8_t type = transport[0];
      if (is_icmp_error(type, view.v6())) {
        out.kind = PacketKind::error;
      } else if (type == (view.v6() ? icmp6::echo : icmp4::echo) ||
                 type == (view.v6() ? icmp6::echo_reply : icmp4::echo_reply)) {
        out.kind = PacketKind::query;
        // The identifier is the port of the client, whoever asks.
        (down ? out.tuple.destination_port : out.tuple.source_port) = load16(transport.data() + 4).host();
        out.answers_inward = (type == (view.v6() ? icmp6::echo : icmp4::echo)) == down;
      } else {
        out.reason = DropReason::icmp_type_unsupported;
      }
      return out;
    }
    default:
      out.kind = carried_without_ports(view.protocol) ? PacketKind::query : PacketKind::other;
      return out;
  }
}

bool carried_without_ports(std::uint8_t protocol) {
  switch (protocol) {
    case ip_protocol::igmp:       // single-hop
    case ip_protocol::pim:        // between routers
    case ip_protocol::ah:         // protects the addresses
    case ip_protocol::ipv6_none:  // nothing to carry
    case ip_protocol::mobility:   // names the addresses inside
    case ip_protocol::hop_by_hop:  // extension headers of IPv6, out of place
    case ip_protocol::ipv6_routing:
    case ip_protocol::ipv6_fragment:
    case ip_protocol::ipv6_destination:
      return false;
    default:
      return true;
  }
}

Translator::Implementation::Implementation(const TranslatorConfig& config, Random& random, PacketSource& packets)
    : config_{config},
      packets_{&packets},
      random_{random},
      sources_{sorted_sources(config)},
      source_nat_{!config.source_v4.empty(), !config.source_v6.empty()},
      own_sources_{config.keep_source},
      forbidden_{forbidden_ranges(config), config.nat64_prefixes},
      table_{config.max_flows, config.max_peers, random},
      extras_{config.max_flows},
      path_mtus_{random},
      bindings_{config.mapping == Mapping::endpoint_independent || config.site != nullptr ? config.max_flows : 0,
                random},
      failed_{random},
      openings_{config.max_openings},
      unsolicited_{config.unsolicited == Unsolicited::answer ? config.max_unsolicited : std::uint16_t{0}},
      limiter_inside_{config.icmp_errors_per_second, config.icmp_errors_burst, random},
      limiter_outside_{config.icmp_errors_per_second, config.icmp_errors_burst, random},
      fragments_{config.fragments, config.timers.fragments},
      identification_{0} {
  config_.workers = std::max<std::uint16_t>(config_.workers, 1);
  const auto start = static_cast<std::uint16_t>(random.next_u32() & 0x7fff);
  identification_ = static_cast<std::uint16_t>(start - start % config_.workers + config_.worker);
  const PortRangeOfWorker range{config.first_port, config.last_port, config_.worker, config_.workers};
  // Identifiers of ICMP queries know no reserved range.
  const PortRangeOfWorker identifiers{0, 65535, config_.worker, config_.workers};
  for (std::size_t i = 0; i < config.source_v4.size() + config.source_v6.size(); ++i) {
    spaces_.emplace_back(range, random_);
    spaces_.emplace_back(range, random_);
    if (range.mine(config_.reserved_udp_port)) spaces_.back().acquired(config_.reserved_udp_port, {}, 0);
    spaces_.emplace_back(identifiers, random_);
  }
  take_site_settings();
  cut_.reserve(64);
  spent_.reserve(std::size_t{config.max_openings} + config.max_unsolicited);
  if (config.hairpinning) turned_.reserve(kBurst * 4);
}

std::optional<std::uint16_t> Translator::Implementation::source_index(const IpAddress& address) const {
  const auto at = std::lower_bound(sources_.begin(), sources_.end(), std::pair{address, std::uint16_t{0}});
  if (at != sources_.end() && at->first == address) return at->second;
  if (own_sources_ && (config_.tunnel_v4.contains(address) || config_.tunnel_v6.contains(address)))
    return flow::kOwnSource;
  return std::nullopt;
}

flow::Tick Translator::Implementation::tick_of(Instant now) const {
  const std::int64_t since = now.time_since_epoch().count() - start_.load(std::memory_order_relaxed);
  return since <= 0 ? 0 : static_cast<flow::Tick>(since >> flow::kTickShift);
}

Instant Translator::Implementation::instant_of(flow::Tick tick) const {
  return Instant{Duration{start_.load(std::memory_order_relaxed) + (std::int64_t{tick} << flow::kTickShift)}};
}

std::uint16_t Translator::Implementation::owner_of(const Classified& what, const Packet& packet, bool down) const {
  const auto workers = config_.workers;
  if (workers == 1 || what.kind == PacketKind::refused || what.kind == PacketKind::other) return config_.worker;
  // Not where ports stay as they are: there they tell the owner from both sides.
  const bool by_home = !down && config_.homes != nullptr && !config_.keep_source;
  if (what.kind == PacketKind::fragment) {
    // Pieces meet where any of them can tell; the whole goes on from there (see up_fragment).
    if (packet.flow == kCollected) return config_.worker;
    if (by_home) return config_.homes->find_or_claim(packet.peer, config_.worker);
    return static_cast<std::uint16_t>(plain_hash(what.tuple.source, what.tuple.destination, what.view.identification) %
                                      workers);
  }
  Tuple tuple = what.tuple;
  std::uint8_t protocol = what.protocol;
  if (what.kind == PacketKind::error) {
    const Quoted quoted = parse_quoted({packet.data, packet.length}, what.view);
    if (!quotes_a_flow(quoted)) return config_.worker;
    protocol = quoted.protocol;
    // The quoted packet went the other way.
    tuple = {quoted.tuple.destination, quoted.tuple.source, quoted.tuple.destination_port, quoted.tuple.source_port};
  }
  if (!has_ports(protocol)) return 0;
  if (by_home) return config_.homes->find_or_claim(packet.peer, config_.worker);
  if (down) return static_cast<std::uint16_t>(tuple.destination_port / 2 % workers);
  // A port that stays as it is must tell its owner from inside as well.
  if (config_.keep_source) return static_cast<std::uint16_t>(tuple.source_port / 2 % workers);
  return static_cast<std::uint16_t>(
      plain_hash(tuple.source, tuple.destination, std::uint64_t{tuple.source_port} << 16 | tuple.destination_port) %
      workers);
}

std::uint16_t Translator::Implementation::owner_of(const Packet& packet, bool down) const {
  Packet copy = packet;  // classify may cut padding; the caller's packet stays as it is
  return owner_of(classify(copy, down), copy, down);
}

void Translator::Implementation::up_whole(const Call& call, Packet& packet) {
  const Classified what = classify(packet, false);
  std::uint64_t hash = 0;
  if (what.kind == PacketKind::query) {
    const Tuple& t = what.tuple;
    hash = table_.hash(
        flow::InsideKey{t.source, t.destination, packet.peer, t.source_port, t.destination_port, what.protocol});
  }
  up_one(call, packet, what, hash);
}

void Translator::Implementation::down_whole(const Call& call, Packet& packet) {
  const Classified what = classify(packet, true);
  if (what.kind == PacketKind::refused) return drop(call, packet, what.reason);
  const auto source = source_index(what.tuple.destination);
  if (!source) {
    call.out->add({&packet, Action::not_ours, DropReason::not_for_us, 0});
    return;
  }
  std::uint64_t hash = 0;
  if (what.kind == PacketKind::query) {
    const Tuple& t = what.tuple;
    hash = table_.hash(flow::OutsideKey{t.destination, t.source, t.destination_port, t.source_port, what.protocol});
  }
  down_one(call, packet, what, *source, hash);
}

void Translator::Implementation::handle_timeout(PolicyView policies, Now now, Outcomes& out) {
  if (start_.load(std::memory_order_relaxed) < 0) return;
  take_site_settings();
  const Call call{policies, now, tick_of(now.monotonic), &out};
  wall_ = now.wall;
  age(call, kAgeingPerTimeout);
  expire_openings(call);
  expire_unsolicited(call);
  turn_back(call);
  fragments_.expire(now.monotonic);
  give_out_refused(out);
}

Instant Translator::Implementation::poll_timeout() const {
  Instant at = std::min({fragments_.poll_timeout(), openings_.poll_timeout(), unsolicited_.poll_timeout()});
  if (const auto next = table_.wheel().next()) at = std::min(at, instant_of(*next));
  return at;
}

bool Translator::Implementation::end_orphans(PolicyView policies, bool restart, std::uint32_t budget) {
  if (restart) orphan_cursor_ = 0;
  for (; budget > 0 && orphan_cursor_ < table_.high_water(); --budget, ++orphan_cursor_) {
    const flow::FlowRecord& record = table_[orphan_cursor_];
    if (!record.live) continue;
    if (record.peer < policies.size() && policies[record.peer].load(std::memory_order_acquire) != nullptr) continue;
    ++counters_.flows_revoked;
    end_flow(orphan_cursor_);
  }
  return orphan_cursor_ >= table_.high_water();
}

void Translator::Implementation::release_held(Outcomes& out) {
  fragments_.clear();
  give_out_refused(out);
  while (openings_.first() != Openings::kNone) end_opening(openings_[openings_.first()].slot);
  while (Packet* syn = unsolicited_.take()) spent_.push_back(syn);
  give_out_spent(out);
}

void Translator::Implementation::for_each_flow(Now now, const std::function<void(const FlowInfo&)>& visit) const {
  static constexpr std::string_view kNames[] = {"nat44", "nat66", "nat64", "nat46"};
  const flow::Tick tick = tick_of(now.monotonic);
  flow::FlowRecord record;
  for (flow::Slot slot = 0; slot < table_.high_water(); ++slot) {
    if (!table_.copy(slot, record)) continue;
    FlowInfo info;
    info.peer = record.peer;
    info.protocol =
        record.protocol == ip_protocol::icmp && record.inside_source.is_v6() ? ip_protocol::icmpv6 : record.protocol;
    info.inside_source = {record.inside_source, record.inside_source_port};
    info.inside_destination = {record.inside_destination, record.inside_destination_port};
    info.outside_source = {source_address(record), record.source_port};
    info.outside_destination = {record.remote, record.remote_port};
    info.translation = kNames[static_cast<std::size_t>(record.translation)];
    info.state =
        record.protocol == ip_protocol::tcp ? name_of(static_cast<TcpState>(record.state)) : std::string_view{"active"};
    const flow::Tick idle = tick > record.last_seen ? tick - record.last_seen : 0;
    const flow::Tick life = lifetime(record);
    info.idle = Duration{std::int64_t{idle} << flow::kTickShift};
    info.expires_in = Duration{std::int64_t{life > idle ? life - idle : 0} << flow::kTickShift};
    info.packets_up = record.packets_up;
    info.packets_down = record.packets_down;
    info.translation_tag = record.translation_tag;
    visit(info);
  }
}

Translator::Translator(const TranslatorConfig& config, Random& random, PacketSource& packets)
    : implementation_{std::make_unique<Implementation>(config, random, packets)} {}
Translator::~Translator() = default;

void Translator::translate_up(std::span<Packet* const> packets, PolicyView policies, Now now, Outcomes& out) {
  implementation_->up(packets, policies, now, out);
}
void Translator::translate_down(std::span<Packet* const> packets, PolicyView policies, Now now, Outcomes& out) {
  implementation_->down(packets, policies, now, out);
}
bool Translator::is_source_address(const IpAddress& address) const {
  return implementation_->source_index(address).has_value();
}
std::uint16_t Translator::owner_of_inside(const Packet& packet) const {
  return implementation_->owner_of(packet, false);
}
std::uint16_t Translator::owner_of_outside(const Packet& packet) const {
  return implementation_->owner_of(packet, true);
}
Instant Translator::poll_timeout() const {
  return implementation_->poll_timeout();
}
void Translator::handle_timeout(PolicyView policies, Now now, Outcomes& out) {
  implementation_->handle_timeout(policies, now, out);
}
void Translator::release_held(Outcomes& out) {
  implementation_->release_held(out);
}
bool Translator::add_binding(PeerIndex peer, std::uint8_t protocol, const Endpoint& inside, const Endpoint& outside) {
  return implementation_->add_binding(peer, protocol, inside, outside);
}
void Translator::map_ahead() {
  implementation_->map_ahead();
}
std::uint32_t Translator::flow_count() const {
  return implementation_->table().size();
}
std::uint32_t Translator::flow_capacity() const {
  return implementation_->table().capacity();
}
bool Translator::end_orphans(PolicyView policies, bool restart, std::uint32_t budget) {
  return implementation_->end_orphans(policies, restart, budget);
}
void Translator::for_each_flow(Now now, const std::function<void(const FlowInfo&)>& visit) const {
  implementation_->for_each_flow(now, visit);
}
void Translator::export_flows(Now now, const std::function<void(const FlowHandover&)>& take) const {
  implementation_->export_flows(now, take);
}
bool Translator::import_flow(const FlowHandover& flow, Now now) {
  return implementation_->import_flow(flow, now);
}
const TranslatorCounters& Translator::counters() const {
  return implementation_->counters();
}

}  // namespace penstock::nat
