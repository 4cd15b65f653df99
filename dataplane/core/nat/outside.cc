// What a flow looks like from outside: which of our addresses and ports it gets, and when it gives them back.
#include <algorithm>

#include "dataplane/core/nat/fast_path.h"
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

// The part of all ports that is kept for peers with less than their share (RFC 6888 REQ-4, RFC 4787 §4.2).
constexpr std::uint32_t kKeptForOthers = 16;
// Tries at a port whose replies come to its owner: of n workers' queues one is the right one.
constexpr unsigned kDrawsPerWorker = 6;
// Tries at a random port where the client's own address stays and its port is taken already towards a destination.
constexpr unsigned kOwnSourceGuesses = 256;

}  // namespace

bool has_ports(std::uint8_t protocol) {
  return protocol == ip_protocol::tcp || protocol == ip_protocol::udp || protocol == ip_protocol::icmp;
}

const IpAddress& Translator::Implementation::source_address(const flow::FlowRecord& record) const {
  if (record.source_address == flow::kOwnSource) return record.inside_source;
  return (record.remote.is_v4() ? config_.source_v4 : config_.source_v6)[record.source_address];
}

PortSpace& Translator::Implementation::space(std::uint8_t protocol, bool v6, std::uint16_t address) {
  const std::size_t of_protocol = protocol == ip_protocol::tcp ? 0 : protocol == ip_protocol::udp ? 1 : 2;
  return spaces_[((v6 ? config_.source_v4.size() : 0) + address) * 3 + of_protocol];
}

std::uint64_t Translator::Implementation::outside_hash(const flow::FlowRecord& record) const {
  return table_.hash(flow::OutsideKey{source_address(record), record.remote, record.source_port, record.remote_port,
                                      record.protocol});
}

// A peer with more than its share may not take the last unused ports; those that are in use towards other destinations
// it may still use.
bool Translator::Implementation::takes_too_much(PeerIndex peer, const PortSpace& ports, std::size_t addresses) const {
  if (ports.unused() >= ports.size() / kKeptForOthers) return false;
  const std::size_t share = ports.size() * addresses / std::max<std::uint32_t>(active_peers_, 1);
  return table_.peer_flows(peer) >= std::min<std::size_t>(share, ports.size() * (kKeptForOthers - 1) / kKeptForOthers);
}

bool Translator::Implementation::assign_own_source(flow::FlowRecord& record) {
  record.source_address = flow::kOwnSource;
  record.flags |= flow_mark::own_source;
  const auto free = [&](std::uint16_t port) {
    record.source_port = port;
    const flow::OutsideKey key{record.inside_source, record.remote, port, record.remote_port, record.protocol};
    return table_.find(key, flow::kOwnSource, table_.hash(key)) == flow::kNoSlot;
  };
  // RFC 7857 §9 does not bind us here: the port is the client's. Another is needed only when two of a client's flows
  // that differ inside (two names of one address) would be the same outside.
  if (free(record.inside_source_port)) return true;
  if (!has_ports(record.protocol)) return false;
  for (unsigned guess = 0; guess < kOwnSourceGuesses; ++guess) {
    const auto port = static_cast<std::uint16_t>(1024 + random_.below(65536 - 1024));
    if (port / 2 % config_.workers == config_.worker && free(port)) return true;
  }
  return false;
}

// A port whose replies the NIC brings to this worker; nullopt: that is not known, or none was found in a few tries, and any
// port will do: what comes to another worker is handed over. Such a port goes before the client's own one.
template <typename Taken>
std::optional<std::uint16_t> Translator::Implementation::choose_landing(const flow::FlowRecord& record,
                                                                        const IpAddress& local, PortSpace& ports,
                                                                        std::uint16_t proposed, bool too_much,
                                                                        Taken&& taken) {
  const ReplySteering* steering = steering_for(record.protocol, local.is_v6());
  if (steering == nullptr) return std::nullopt;
  const Landing lands{steering, steering->without_port(record.remote, record.remote_port, local), local.is_v6(),
                      config_.worker};
  const unsigned draws = kDrawsPerWorker * config_.workers;
  if (!too_much) {
    const std::uint16_t wanted = record.inside_source_port;
    if (ports.has(wanted) && lands(wanted) && !taken(wanted)) return wanted;
    if (proposed != 0 && lands(proposed) && ports.is_unused(proposed)) return proposed;
    if (const auto port = ports.draw_landing(wanted, draws, lands)) return port;
  }
  return ports.draw_used_landing(record.inside_source_port, draws, lands, taken);
}

bool Translator::Implementation::assign_from_pool(flow::FlowRecord& record, std::uint16_t proposed) {
  const bool v6 = record.remote.is_v6();
  const auto& addresses = v6 ? config_.source_v6 : config_.source_v4;
  if (addresses.empty()) return false;
  bool unbound = true;
  if (mapped_for_all(record.protocol)) {
    const BindingTable::Index index = bindings_.find_inside(record);
    unbound = index == BindingTable::kNone;
    if (!unbound) {
      record.source_address = bindings_[index].source_address;
      record.source_port = bindings_[index].source_port;
      const flow::OutsideKey key{source_address(record), record.remote, record.source_port, record.remote_port,
                                 record.protocol};
      if (table_.find(key, record.source_address, table_.hash(key)) == flow::kNoSlot) return true;
      // Two names of one address, asked from one port: the second flow cannot share the binding (trap nat-2).
    }
  }
  const std::size_t preferred = preferred_address(record.peer, addresses.size());
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    record.source_address = static_cast<std::uint16_t>((preferred + i) % addresses.size());
    flow::OutsideKey outside{addresses[record.source_address], record.remote, 0, record.remote_port, record.protocol};
    const auto taken = [&](std::uint16_t candidate) {
      if (record.protocol == ip_protocol::udp && candidate == config_.reserved_udp_port && candidate != 0) return true;
      outside.local_port = candidate;
      return table_.find(outside, record.source_address, table_.hash(outside)) != flow::kNoSlot;
    };
    if (!has_ports(record.protocol)) {
      // RFC 7857 knows nothing of these: an address of ours serves one of our clients towards one destination.
      record.source_port = 0;
      if (!taken(0)) return true;
      continue;
    }
    PortSpace& ports = space(record.protocol, v6, record.source_address);
    if (mapped_for_all(record.protocol) && unbound) {
      const auto port = ports.choose_unused(record.inside_source_port);
      if (!port) continue;
      record.source_port = *port;
      return true;
    }
    const bool too_much = takes_too_much(record.peer, ports, addresses.size());
    auto port = choose_landing(record, addresses[record.source_address], ports, proposed, too_much, taken);
    if (!port)
      port = too_much
                 ? ports.choose_used(taken, proposed)
                 : ports.choose(record.inside_source_port, record.remote, record.remote_port, taken, proposed);
    if (!port) continue;
    record.source_port = *port;
    return true;
  }
  return false;
}

bool Translator::Implementation::assign_outside(flow::FlowRecord& record, std::uint16_t proposed) {
  const bool v6 = record.remote.is_v6();
  record.flags = static_cast<std::uint8_t>(record.flags & ~flow_mark::own_source);
  const bool own = config_.keep_source && record.inside_source.is_v6() == v6;
  if (!(own ? assign_own_source(record) : assign_from_pool(record, proposed))) return false;
  prepare_rewrite(record, source_address(record));
  return true;
}

bool Translator::Implementation::mapped_for_all(std::uint8_t protocol) const {
  return maps_for_all() && has_ports(protocol);
}

void Translator::Implementation::apply_site_settings(SharedSiteSettings::Word word) {
  const SiteSettings settings = SharedSiteSettings::of(word);
  if (settings.mapping != config_.mapping)
    for (PortSpace& ports : spaces_) ports.forget_crowded();
  site_word_ = word;
  config_.keep_source = settings.keep_source;
  config_.mapping = settings.mapping;
  config_.filtering = settings.filtering;
  own_sources_ = SharedSiteSettings::kept_sources(word);
}

bool Translator::Implementation::acquire_outside(flow::Slot slot) {
  const flow::FlowRecord& record = table_[slot];
  if (record.source_address == flow::kOwnSource || !has_ports(record.protocol)) return true;
  PortSpace& ports = space(record.protocol, record.remote.is_v6(), record.source_address);
  if (mapped_for_all(record.protocol)) {
    const BindingTable::Index index = bindings_.find_inside(record);
    const bool its_own = index == BindingTable::kNone || (bindings_[index].source_address == record.source_address &&
                                                          bindings_[index].source_port == record.source_port);
    if (its_own) {
      // A binding has its port to itself, whatever the destination (RFC 4787 REQ-3).
      const bool fresh = bindings_.link(slot, record);
      if (fresh) ports.acquired(record.source_port, {}, 0);
      return fresh;
    }
  }
  ports.acquired(record.source_port, record.remote, record.remote_port);
  return true;
}

bool Translator::Implementation::release_outside(flow::Slot slot) {
  const flow::FlowRecord& record = table_[slot];
  if (record.source_address == flow::kOwnSource || !has_ports(record.protocol)) return true;
  PortSpace& ports = space(record.protocol, record.remote.is_v6(), record.source_address);
  if (bindings_.on() && bindings_.of(slot) != BindingTable::kNone) {
    const bool last = bindings_.unlink(slot);
    if (last) ports.released(record.source_port, {}, 0);
    return last;
  }
  ports.released(record.source_port, record.remote, record.remote_port);
  return true;
}

void Translator::Implementation::record_binding(const flow::FlowRecord& record, bool begins) const {
  BindingRecord out;
  out.begins = begins;
  out.at = wall_;
  out.peer = record.peer;
  out.protocol = record.protocol;
  out.inside = {record.inside_source, record.inside_source_port};
  out.outside = {source_address(record), record.source_port};
  if (config_.log->wants_destinations()) out.remote = {record.remote, record.remote_port};
  config_.log->write(out);
}

}  // namespace penstock::nat
