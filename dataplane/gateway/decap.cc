#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/core/wireguard/probe.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

using wireguard::AeadJob;
using wireguard::DataHeader;
using wireguard::Session;

struct Opening {
  PacketBurst packets;
  Session* sessions[kBurst];
  std::uint64_t counters[kBurst];
  AeadJob jobs[kBurst];
};

// Sessions by receiver index, never by source address; hopeless counters go before they cost a decryption.
void find_sessions(Worker& worker, PacketBurst& packets, Opening& opening) {
  for (Packet* packet : packets)
    worker.tunnels->prefetch_session_slot(reinterpret_cast<const DataHeader*>(packet->data)->receiver.get());
  for (Packet* packet : packets) {
    const auto* header = reinterpret_cast<const DataHeader*>(packet->data);
    Session* session = worker.tunnels->find_session(header->receiver.get());
    if (session == nullptr) {
      worker.drop(packet, DropReason::wg_unknown_index);
      continue;
    }
    const std::uint64_t counter = header->counter.get();
    const DropReason reason = wireguard::DataPath::check_receive(*session, counter, worker.now.monotonic);
    if (reason != DropReason::none) {
      worker.drop(packet, reason);
      continue;
    }
    const std::size_t i = opening.packets.size();
    opening.sessions[i] = session;
    opening.counters[i] = counter;
    wireguard::prepare_open(*session, packet->bytes(), opening.jobs[i]);
    opening.packets.add(packet);
  }
}

// The accepted packets of one run of a session go into the window together. Leaves them, with `peer` set.
void accept_run(Worker& worker, Session& session, PacketBurst& run, const std::uint64_t* counters,
                PacketBurst& accepted) {
  const std::uint64_t bits = session.window.accept_burst(counters, static_cast<unsigned>(run.size()));
  Packet* newest = nullptr;
  std::uint64_t bytes = 0;
  std::uint32_t count = 0;
  bool data = false;
  for (std::size_t i = 0; i < run.size(); ++i) {
    Packet* packet = run[i];
    if ((bits >> i & 1) == 0) {
      worker.drop(packet, DropReason::wg_replay);
      continue;
    }
    packet->peer = session.peer;
    packet->session = &session;
    packet->counter = counters[i];
    bytes += packet->length;
    ++count;
    data = data || packet->length > wireguard::kDataOverhead;
    newest = packet;
    accepted.add(packet);
  }
  if (newest == nullptr) return;  // a replay moves no endpoint and is no sign of life
  worker.counters.decrypted_packets += count;
  worker.counters.decrypted_bytes += bytes;
  const wireguard::NoteBits notes = worker.tunnels->receive_notes(session, newest->outer, worker.now.monotonic);
  worker.tunnels->note_received(worker.id + 1U, session.peer, count, bytes, data, worker.now.monotonic);
  if (notes != 0) send_note(worker, session, notes, newest->outer);
}

void open(Worker& worker, Opening& opening, PacketBurst& accepted) {
  const std::size_t n = opening.packets.size();
  worker.aead->open({opening.jobs, n});
  PacketBurst run;
  std::uint64_t counters[kBurst + 1];  // one more than is used: the compiler cannot see that a run has at most kBurst
  for (std::size_t i = 0; i < n; ++i) {
    if (!opening.jobs[i].ok) {
      worker.drop(opening.packets[i], DropReason::wg_authentication);
    } else {
      counters[run.size()] = opening.counters[i];
      run.add(opening.packets[i]);
    }
    if (i + 1 == n || opening.sessions[i + 1] != opening.sessions[i]) {
      if (!run.empty()) accept_run(worker, *opening.sessions[i], run, counters, accepted);
      run.clear();
    }
  }
}

// RFC 6040 §4.2. False: congestion was met that the inner packet cannot carry.
bool decapsulate_ecn(Packet& packet, std::uint8_t outer) {
  constexpr std::uint8_t kNotEct = 0, kEct1 = 1, kEct0 = 2, kCe = 3;
  const bool six = is_ip6(packet);
  const std::uint8_t inner = six ? (packet.data[1] >> 4) & 3 : packet.data[1] & 3;
  if (outer == kNotEct || inner == outer || inner == kCe) return true;
  std::uint8_t wanted = inner;
  if (outer == kCe) {
    if (inner == kNotEct) return false;
    wanted = kCe;
  } else if (outer == kEct1 && inner == kEct0) {
    wanted = kEct1;
  }
  if (wanted == inner) return true;
  if (six) {
    packet.data[1] = static_cast<std::uint8_t>((packet.data[1] & 0xcf) | wanted << 4);
    return true;
  }
  auto* header = reinterpret_cast<Ipv4Header*>(packet.data);
  const ChecksumSum before = checksum_add(0, {packet.data, 2});
  header->tos = static_cast<std::uint8_t>((header->tos & 0xfc) | wanted);
  header->checksum = checksum_adjust(header->checksum, before, checksum_add(0, {packet.data, 2}));
  return true;
}

void input_control(Worker& worker, Packet* packet, const policy::PeerPolicy& policy) {
  if (!policy.control) return worker.drop(packet, DropReason::control_not_allowed);
  const auto control = wireguard::parse_control(packet->bytes());
  if (!control || control->direction != wireguard::ControlDirection::to_gateway ||
      control->type == wireguard::ControlType::probe_reply)
    return worker.drop(packet, DropReason::control_malformed);
  to_slow(worker, packet, ToSlow::control, DropReason::control_ring_full);
}

void inner_input(Worker& worker, Packet* packet, const policy::PeerPolicy* policy, PacketBurst& inner_packets) {
  MutableBytes inner;
  const auto ecn = static_cast<std::uint8_t>(packet->user);
  packet->pull(wireguard::kDataHeaderSize);
  packet->truncate(static_cast<std::uint16_t>(packet->length - wireguard::kAeadTagSize));
  if (const DropReason reason = wireguard::trim_padding(packet->bytes(), inner); reason != DropReason::none)
    return worker.drop(packet, reason);
  packet->truncate(static_cast<std::uint16_t>(inner.size()));
  packet->flags = packet_flag::from_tunnel;
  if (packet->data[0] >> 4 == 6) set_flag(*packet, packet_flag::ip6);
  if (policy == nullptr) return worker.drop(packet, DropReason::policy_no_resource);
  if (is_ip6(*packet) && wireguard::is_control_packet(packet->bytes())) return input_control(worker, packet, *policy);
  if (!policy->source_allowed(ip_source(*packet))) return worker.drop(packet, DropReason::inner_source_not_allowed);
  if (!is_ip6(*packet) && !ipv4_header_checksum_ok(packet->bytes()))
    return worker.drop(packet, DropReason::ip_checksum_bad);
  if (!decapsulate_ecn(*packet, ecn)) return worker.drop(packet, DropReason::inner_congestion);
  inner_packets.add(packet);
}

}  // namespace

void send_note(Worker& worker, const Session& session, wireguard::NoteBits bits, const Path& from) {
  Packet* note = worker.packets->allocate();
  if (note == nullptr) return;  // repeated with a later packet
  note->peer = session.peer;
  note->outer = from;
  to_slow(worker, note, ToSlow::note, DropReason::slow_ring_full);
  note->user |= std::uint64_t{bits} << 8 | std::uint64_t{session.local_index} << 32;
}

void decap(Worker& worker, PacketBurst& packets) {
  worker.enter(Stage::decap, packets.size());
  Opening opening;
  find_sessions(worker, packets, opening);
  packets.clear();
  if (opening.packets.empty()) return;
  PacketBurst accepted;
  open(worker, opening, accepted);
  PeerIndex last = kNoPeer;
  const policy::PeerPolicy* policy = nullptr;
  for (Packet* packet : accepted) {
    if (packet->peer != last) {
      last = packet->peer;
      policy = worker.policies->find(last);
    }
    inner_input(worker, packet, policy, packets);
  }
}

}  // namespace penstock::gateway
