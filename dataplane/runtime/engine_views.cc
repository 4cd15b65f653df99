// Snapshots for people and for the control process. Nothing here takes a lock that a worker takes.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>

#include "dataplane/core/packet/headers.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/engine_state.h"

namespace penstock::runtime {
namespace {

using namespace std::chrono_literals;

constexpr Duration kUseInterval = 5s;
constexpr PeerIndex kPeersPerCommand = 1024;

// Counters are plain words with one writer; a reader takes each word whole.
template <typename Counters>
void add_words(Counters& sum, const Counters& counters) {
  static_assert(std::is_trivially_copyable_v<Counters> && sizeof(Counters) % sizeof(std::uint64_t) == 0);
  constexpr std::size_t kWords = sizeof(Counters) / sizeof(std::uint64_t);
  auto* to = reinterpret_cast<std::uint64_t*>(&sum);
  auto* from = reinterpret_cast<std::uint64_t*>(const_cast<Counters*>(&counters));
  for (std::size_t i = 0; i < kWords; ++i)
    to[i] += std::atomic_ref<std::uint64_t>(from[i]).load(std::memory_order_relaxed);
}

std::string protocol_name(std::uint8_t protocol) {
  switch (protocol) {
    case ip_protocol::tcp:
      return "tcp";
    case ip_protocol::udp:
      return "udp";
    case ip_protocol::icmp:
    case ip_protocol::icmpv6:
      return "icmp";
    default:
      return std::to_string(protocol);
  }
}

// The translation of a snapshot with this tag; nullptr: none.
const policy::Translation* translation_of(const policy::PeerPolicy* policy, std::uint32_t tag) {
  if (policy == nullptr || tag == 0) return nullptr;
  for (std::uint32_t i = 0; i < policy->translations.size(); ++i)
    if (policy->translation_tag(i) == tag) return &policy->translations[i];
  return nullptr;
}

}  // namespace

const gateway::Configuration& Engine::path() const {
  return state_->path;
}

EngineInfo Engine::info() const {
  EngineInfo out;
  out.public_key = state_->public_key;
  out.listen_port = state_->path.tunnel.listen_port;
  out.tunnel_addresses = state_->path.tunnel.addresses;
  out.source_addresses = state_->path.nat.source_addresses;
  for (const auto& port : state_->path.ports)
    for (const auto& address : port.addresses) out.own_prefixes.emplace_back(address.address, address.prefix_length);
  out.instance = state_->instance;
  out.started = state_->started;
  out.site = nat::SharedSiteSettings::of(state_->site.word());
  out.warm = state_->warm;
  out.handshakes.threads = state_->handshakes.size();
  for (const auto& thread : state_->handshakes) {
    const HandshakeThread::Counts counts = thread->counts();
    out.handshakes.answered += counts.answered;
    out.handshakes.from_known += counts.known;
    out.handshakes.with_cookie += counts.proved;
    out.handshakes.cookies += counts.cookies;
    out.handshakes.under_load += counts.under_load;
  }
  return out;
}

gateway::WorkerCounters Engine::counters() const {
  gateway::WorkerCounters sum;
  for (const auto& set : state_->workers) {
    add_words(sum, set->worker.counters);
    nat::TranslatorCounters translated;
    add_words(translated, set->translator->counters());
    sum.translated_up += translated.translated_up;
    sum.translated_down += translated.translated_down;
    sum.flows_created += translated.flows_created;
    sum.flows_ended += translated.flows_ended;
    sum.flows_moved += translated.flows_moved;
    sum.icmp_errors_sent += translated.icmp_errors_sent;
  }
  add_words(sum.drops, state_->slow_path->drops());
  for (std::size_t i = 0; i < kDropReasonCount; ++i) {
    sum.drops[i] += state_->slow->drops(static_cast<DropReason>(i));
    for (const auto& thread : state_->handshakes) sum.drops[i] += thread->drops(static_cast<DropReason>(i));
  }
  return sum;
}

std::vector<PeerRow> Engine::peers(std::size_t limit) {
  std::vector<PeerRow> out;
  const Now now = read_clock();
  for (PeerIndex first = 0, bound = 1; first < bound && (limit == 0 || out.size() < limit); first += kPeersPerCommand) {
    state_->on_slow_path([&](gateway::SlowPath& slow, Now) {
      const wireguard::Device& device = slow.tunnels();
      bound = device.peer_bound();
      const PeerIndex end = std::min(bound, first + kPeersPerCommand);
      for (PeerIndex peer = first; peer < end && (limit == 0 || out.size() < limit); ++peer) {
        const auto info = device.peer_info(peer);
        if (!info) continue;
        PeerRow row;
        row.peer = peer;
        row.public_key = info->config.public_key.bytes;
        if (info->endpoint) row.endpoint = info->endpoint->remote;
        row.session = info->session       ? PeerRow::Session::up
                      : info->handshaking ? PeerRow::Session::handshaking
                                          : PeerRow::Session::none;
        if (info->last_handshake) {
          const WallTime& then = *info->last_handshake;
          row.handshake_age = std::chrono::seconds(static_cast<std::int64_t>(now.wall.seconds - then.seconds)) +
                              std::chrono::nanoseconds(std::int64_t{now.wall.nanoseconds} - then.nanoseconds);
        }
        row.rx_packets = info->traffic.received_packets;
        row.rx_bytes = info->traffic.received_bytes;
        row.tx_packets = info->traffic.sent_packets;
        row.tx_bytes = info->traffic.sent_bytes;
        if (const policy::PeerPolicy* policy = state_->policies->find(peer)) {
          row.tunnel_v4 = policy->tunnel_v4;
          row.tunnel_v6 = policy->tunnel_v6;
          row.authorisations = static_cast<std::uint32_t>(policy->authorisations.size());
        }
        out.push_back(std::move(row));
      }
    });
  }
  // Rows are in the order of their slots.
  for (const auto& set : state_->workers)
    set->translator->for_each_flow(now, [&](const nat::FlowInfo& flow) {
      const auto row = std::lower_bound(out.begin(), out.end(), flow.peer,
                                        [](const PeerRow& candidate, PeerIndex peer) { return candidate.peer < peer; });
      if (row != out.end() && row->peer == flow.peer) ++row->flows;
    });
  return out;
}

FlowTable Engine::flows(std::size_t limit) {
  FlowTable out;
  std::vector<std::pair<PeerIndex, std::uint32_t>> names;  // of each row
  const Now now = read_clock();
  for (const auto& set : state_->workers) {
    out.total += set->translator->flow_count();
    out.capacity += set->translator->flow_capacity();
    set->translator->for_each_flow(now, [&](const nat::FlowInfo& flow) {
      if (limit != 0 && out.flows.size() >= limit) return;
      FlowRow row;
      row.protocol = protocol_name(flow.protocol);
      row.translation = flow.translation;
      row.inside_source = flow.inside_source;
      row.inside_destination = flow.inside_destination;
      row.outside_source = flow.outside_source;
      row.outside_destination = flow.outside_destination;
      row.state = flow.state;
      row.idle = flow.idle;
      row.expires = flow.expires_in;
      row.packets_up = flow.packets_up;
      row.packets_down = flow.packets_down;
      row.worker = set->worker.id;
      out.flows.push_back(std::move(row));
      names.emplace_back(flow.peer, flow.translation_tag);
    });
  }
  state_->on_slow_path([&](gateway::SlowPath& slow, Now) {  // an RCU reader that owns the peers
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto& [peer, tag] = names[i];
      if (const auto info = slow.tunnels().peer_info(peer)) out.flows[i].peer = info->config.public_key.bytes;
      if (const auto* translation = translation_of(state_->policies->find(peer), tag))
        out.flows[i].name = translation->name;
    }
  });
  return out;
}

std::vector<gateway::NeighbourView> Engine::neighbours(std::size_t limit) {
  std::vector<gateway::NeighbourView> out;
  for (std::uint32_t slot = 0; slot < state_->neighbours->slots(); ++slot) {
    gateway::NeighbourView view;
    if ((limit == 0 || out.size() < limit) && state_->neighbours->read(slot, view)) out.push_back(view);
  }
  return out;
}

std::vector<PortRow> Engine::ports() const {
  std::vector<PortRow> out;
  for (std::size_t i = 0; i < state_->path.ports.size(); ++i) {
    const auto& port = state_->path.ports[i];
    out.push_back({port.name, state_->parts.ports[i]->driver(), port.mac, port.mtu, port.addresses,
                   state_->parts.ports[i]->stats(), state_->parts.pool->stats()});
  }
  return out;
}

void Engine::State::report_translation_use() {
  const Now now = read_clock();
  next_use_report = now.monotonic + kUseInterval;
  std::set<std::pair<PeerIndex, std::uint32_t>> used;
  for (const auto& set : workers)
    set->translator->for_each_flow(now, [&](const nat::FlowInfo& flow) {
      if (flow.translation_tag != 0 && flow.idle <= kUseInterval) used.emplace(flow.peer, flow.translation_tag);
    });
  if (used.empty()) return;
  EngineEvent event;
  event.kind = EngineEvent::Kind::translation_use;
  on_slow_path([&](gateway::SlowPath&, Now) {
    for (const auto& [peer, tag] : used)
      if (const auto* translation = translation_of(policies->find(peer), tag))
        event.translations.push_back(translation->id);
  });
  if (!event.translations.empty()) events.push(std::move(event));
}

}  // namespace penstock::runtime
