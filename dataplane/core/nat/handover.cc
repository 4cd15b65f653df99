// Flows out of the process that ends and into the one that follows.
#include "dataplane/core/nat/handover.h"

#include <algorithm>
#include <utility>

#include "dataplane/core/nat/fast_path.h"
#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/nat/translator_impl.h"

namespace penstock::nat {
namespace {

// Ticks count from here back: longer than any flow may have been idle.
constexpr Duration kLongestIdle = std::chrono::hours{3};

}  // namespace

void Translator::Implementation::export_flows(Now now, const std::function<void(const FlowHandover&)>& take) const {
  const flow::Tick tick = tick_of(now.monotonic);
  flow::FlowRecord record;
  // The flow that made a binding must make it again: others of the same inside port may have a port of their own
  // (nat-2).
  for (const bool bound : {true, false}) {
    for (flow::Slot slot = 0; slot < table_.high_water(); ++slot) {
      if ((bindings_.on() && bindings_.of(slot) != BindingTable::kNone) != bound || !table_.copy(slot, record))
        continue;
      FlowHandover out;
      out.peer = record.peer;
      out.inside_source = record.inside_source;
      out.inside_destination = record.inside_destination;
      out.source = source_address(record);
      out.remote = record.remote;
      out.inside_source_port = record.inside_source_port;
      out.inside_destination_port = record.inside_destination_port;
      out.source_port = record.source_port;
      out.remote_port = record.remote_port;
      out.protocol = record.protocol;
      out.state = record.state;
      out.translation_tag = record.translation_tag;
      out.expires = record.expires;
      out.idle = Duration{std::int64_t{tick > record.last_seen ? tick - record.last_seen : 0} << flow::kTickShift};
      out.packets_up = record.packets_up;
      out.packets_down = record.packets_down;
      take(out);
    }
  }
}

// Whether our side of the flow may be this one: nothing else is seen under it, and its port is this worker's.
bool Translator::Implementation::outside_is_free(const flow::FlowRecord& record) {
  const bool own = record.source_address == flow::kOwnSource;
  if (has_ports(record.protocol)) {
    const bool icmp = record.protocol == ip_protocol::icmp;
    const PortRangeOfWorker mine{own || icmp ? std::uint16_t{0} : config_.first_port,
                                 own || icmp ? std::uint16_t{65535} : config_.last_port, config_.worker,
                                 config_.workers};
    if (!mine.mine(record.source_port)) return false;
    if (!own && record.protocol == ip_protocol::udp && record.source_port == config_.reserved_udp_port &&
        config_.reserved_udp_port != 0)
      return false;
  } else if (record.source_port != 0 || config_.worker != 0) {
    return false;
  }
  const flow::OutsideKey outside{source_address(record), record.remote, record.source_port, record.remote_port,
                                 record.protocol};
  if (table_.find(outside, record.source_address, table_.hash(outside)) != flow::kNoSlot) return false;
  if (own || !mapped_for_all(record.protocol)) return true;
  const BindingTable::Index inside = bindings_.find_inside(record);
  if (inside != BindingTable::kNone) return true;
  // It would make a binding: the port must be nobody's.
  return bindings_.find_outside(record.source_address, record.remote.is_v6(), record.source_port, record.protocol) ==
         BindingTable::kNone;
}

bool Translator::Implementation::import_flow(const FlowHandover& from, Now now) {
  take_site_settings();
  if (start_.load(std::memory_order_relaxed) < 0) {
    start_.store(std::max<std::int64_t>(0, (now.monotonic.time_since_epoch() - kLongestIdle).count()));
    table_.wheel().advance(tick_of(now.monotonic), 1, [](flow::Slot) {});  // empty: only the time moves
  }
  if (!table_.peer_known(from.peer) || table_.peer_flows(from.peer) >= config_.max_flows_per_peer) return false;
  const bool inside6 = from.inside_source.is_v6();
  const bool outside6 = from.remote.is_v6();
  if (from.inside_destination.is_v6() != inside6 || from.source.is_v6() != outside6 ||
      from.state > static_cast<std::uint8_t>(TcpState::transitory) || from.idle < Duration{} ||
      from.idle > kLongestIdle || (!has_ports(from.protocol) && inside6 != outside6))
    return false;

  const flow::InsideKey inside{from.inside_source,      from.inside_destination,      from.peer,
                               from.inside_source_port, from.inside_destination_port, from.protocol};
  flow::FlowRecord record = record_of(inside, {from.remote, from.remote_port});
  record.state = from.state;
  record.policy_epoch = 0;  // no policy's: the next packet is judged
  record.expires = from.expires;
  record.source_port = from.source_port;
  record.packets_up = from.packets_up;
  record.packets_down = from.packets_down;
  record.translation_tag = from.translation_tag;
  if (config_.keep_source && inside6 == outside6) {
    if (from.source != from.inside_source) return false;
    record.source_address = flow::kOwnSource;
    record.flags = flow_mark::own_source;
  } else {
    const auto source = source_index(from.source);
    if (!source || *source == flow::kOwnSource) return false;
    record.source_address = *source;
  }
  const flow::Tick tick = tick_of(now.monotonic);
  record.last_seen = tick_of(now.monotonic - from.idle);
  const flow::Tick deadline = record.last_seen + lifetime(record);
  if (deadline <= tick || !outside_is_free(record)) return false;
  if (table_.find(inside, table_.hash(inside)) != flow::kNoSlot) return false;
  if (config_.homes != nullptr && !config_.keep_source && config_.workers > 1 && has_ports(record.protocol) &&
      config_.homes->find_or_claim(record.peer, config_.worker) != config_.worker)
    return false;

  prepare_rewrite(record, source_address(record));
  BindingLog* const log = std::exchange(config_.log, nullptr);  // it began long ago
  const flow::Slot slot = put_in({{}, now, tick, nullptr}, record);
  config_.log = log;
  if (slot == flow::kNoSlot) return false;
  table_.wheel().schedule(slot, deadline);
  return true;
}

}  // namespace penstock::nat
