#include <cstring>

#include "dataplane/core/base/address_words.h"
#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/core/wireguard/probe.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/crypto_burst.h"
#include "dataplane/gateway/grouping.h"
#include "dataplane/gateway/outer_path.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

using wireguard::DataHeader;
using wireguard::Session;

// Sessions by receiver index, never by source address, once per session; hopeless counters go before they cost a
// decryption.
void find_sessions(Worker& worker, PacketBurst& packets, Opening& opening) {
  std::uint32_t receivers[kBurst];
  for (std::size_t i = 0; i < packets.size(); ++i) {
    receivers[i] = reinterpret_cast<const DataHeader*>(packets[i]->data)->receiver.get();
    worker.tunnels->prefetch_session_slot(receivers[i]);
  }
  Groups groups;
  group_by(receivers, packets.size(), groups);
  for (unsigned g = 0; g < groups.count; ++g) {
    const unsigned first = groups.order[groups.begin_of(g)];
    worker.tunnels->prefetch_session(receivers[first],
                                     reinterpret_cast<const DataHeader*>(packets[first]->data)->counter.get());
  }
  for (unsigned g = 0; g < groups.count; ++g) {
    const unsigned begin = groups.begin_of(g);
    Session* session = worker.tunnels->find_session(receivers[groups.order[begin]]);
    if (session != nullptr) {  // needed when the packets have been opened
      const policy::PolicyView policies = worker.policies->view();
      if (session->peer < policies.size()) prefetch_read(&policies[session->peer]);
      policies.prefetch_epoch(session->peer);
      worker.tunnels->prefetch_peer(worker.id + 1U, session->peer);
    }
    for (unsigned i = begin; i < groups.end[g]; ++i) {
      Packet* packet = packets[groups.order[i]];
      if (session == nullptr) {
        worker.drop(packet, DropReason::wg_unknown_index);
        continue;
      }
      const std::uint64_t counter = reinterpret_cast<const DataHeader*>(packet->data)->counter.get();
      const DropReason reason = wireguard::DataPath::check_receive(*session, counter, worker.now.monotonic);
      if (reason != DropReason::none) {
        worker.drop(packet, reason);
        continue;
      }
      const std::size_t at = opening.count++;
      opening.packets[at] = packet;
      opening.counters[at] = counter;
      wireguard::prepare_open(*session, packet->bytes(), opening.jobs[at]);
    }
    const std::size_t before = opening.groups == 0 ? 0 : opening.ends[opening.groups - 1];
    if (opening.count == before) continue;
    opening.sessions[opening.groups] = session;
    opening.ends[opening.groups++] = static_cast<std::uint8_t>(opening.count);
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

// Length of the inner packet by its own header, where that is plain; 0: trim_padding knows the reason.
std::uint16_t plain_length(const Packet& packet) {
  const std::uint8_t* at = packet.data;
  be16 field;
  if (packet.length >= sizeof(Ipv6Header) && at[0] >> 4 == 6) {
    std::memcpy(&field, at + 4, sizeof field);
    const unsigned length = sizeof(Ipv6Header) + unsigned{field.host()};
    return length <= packet.length ? static_cast<std::uint16_t>(length) : std::uint16_t{0};
  }
  if (packet.length >= sizeof(Ipv4Header) && at[0] == 0x45) {
    std::memcpy(&field, at + 2, sizeof field);
    const std::uint16_t length = field.host();
    return length >= sizeof(Ipv4Header) && length <= packet.length ? length : std::uint16_t{0};
  }
  return 0;
}

// What the inner packets of one peer are judged with.
struct Sender {
  const policy::PeerPolicy* policy = nullptr;
  AddressWords tunnel_v4;
  AddressWords tunnel_v6;
};

// Control is between two link-local addresses.
bool may_be_control(const AddressWords& source, const std::uint8_t* destination) {
  constexpr std::uint64_t kLinkLocal = 0x80fe;  // fe80::/64 as a word
  std::uint64_t to;
  std::memcpy(&to, destination, sizeof to);
  return source.high == kLinkLocal || to == kLinkLocal;
}

void inner_input(Worker& worker, Packet* packet, const Sender& sender, PacketBurst& inner_packets) {
  const auto ecn = static_cast<std::uint8_t>(packet->user);
  const std::uint8_t* const udp = packet->data - sizeof(UdpHeader);
  const bool outer6 = is_ip6(*packet);
  packet->pull(wireguard::kDataHeaderSize);
  packet->truncate(static_cast<std::uint16_t>(packet->length - wireguard::kAeadTagSize));
  std::uint16_t length = plain_length(*packet);
  if (length == 0) {
    MutableBytes inner;
    if (const DropReason reason = wireguard::trim_padding(packet->bytes(), inner); reason != DropReason::none)
      return worker.drop(packet, reason);
    length = static_cast<std::uint16_t>(inner.size());
  }
  packet->truncate(length);
  const bool six = packet->data[0] >> 4 == 6;
  packet->flags = static_cast<std::uint8_t>(packet_flag::from_tunnel | (six ? packet_flag::ip6 : 0U));
  if (sender.policy == nullptr) return worker.drop(packet, DropReason::policy_no_resource);
  const AddressWords source = six ? AddressWords::of_v6(packet->data + 8) : AddressWords::of_v4(packet->data + 12);
  if (six && may_be_control(source, packet->data + 24) && wireguard::is_control_packet(packet->bytes())) {
    packet->outer = outer_path(worker, udp, packet->l4_offset, outer6);
    return input_control(worker, packet, *sender.policy);
  }
  const bool something = (source.high | source.low >> 32) != 0;  // a peer without an address of this family has ::
  const bool usual = something && source == (six ? sender.tunnel_v6 : sender.tunnel_v4);
  if (!usual && !sender.policy->source_allowed(source.address()))
    return worker.drop(packet, DropReason::inner_source_not_allowed);
  if (ecn != 0) {  // what rests on a header's contents asks for its checksum; otherwise the translator does
    if (!six && !ipv4_header_checksum_ok(packet->bytes())) return worker.drop(packet, DropReason::ip_checksum_bad);
    if (!decapsulate_ecn(*packet, ecn)) return worker.drop(packet, DropReason::inner_congestion);
  }
  inner_packets.add(packet);
}

// The authenticated packets of one session: into the window together, then on as inner packets of its peer.
void accept_group(Worker& worker, Session& session, Packet** packets, const std::uint64_t* counters, unsigned count,
                  PacketBurst& inner_packets) {
  const std::uint64_t bits = session.window.accept_burst(counters, count);
  Packet* newest = nullptr;
  std::uint64_t bytes = 0;
  std::uint32_t accepted = 0;
  bool data = false;
  for (unsigned i = 0; i < count; ++i) {
    if ((bits >> i & 1) == 0) {
      worker.drop(packets[i], DropReason::wg_replay);
      continue;
    }
    newest = packets[accepted++] = packets[i];
    bytes += newest->length;
    data = data || newest->length > wireguard::kDataOverhead;
  }
  if (newest == nullptr) return;  // a replay moves no endpoint and is no sign of life
  worker.counters.decrypted_packets += accepted;
  worker.counters.decrypted_bytes += bytes;
  Path from;
  const auto read_path = [&] {
    from = outer_path(worker, newest->data - sizeof(UdpHeader), newest->l4_offset, is_ip6(*newest));
  };
  const bool follows = worker.tunnels->follows_source(session.peer);
  if (follows) read_path();
  const wireguard::NoteBits notes = worker.tunnels->receive_notes(session, from, worker.now.monotonic);
  if (notes != 0 && !follows) read_path();
  worker.tunnels->note_received(worker.id + 1U, session.peer, accepted, bytes, data, worker.now.monotonic);
  if (notes != 0) send_note(worker, session, notes, from);

  Sender sender;
  sender.policy = worker.policies->find(session.peer);
  if (sender.policy != nullptr) {
    sender.tunnel_v4 = AddressWords::of(sender.policy->tunnel_v4);
    sender.tunnel_v6 = AddressWords::of(sender.policy->tunnel_v6);
  }
  for (unsigned i = 0; i < accepted; ++i) {
    packets[i]->peer = session.peer;
    inner_input(worker, packets[i], sender, inner_packets);
  }
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

void begin_decap(Worker& worker, PacketBurst& packets, Opening& opening) {
  worker.enter(Stage::decap, packets.size());
  opening.count = opening.groups = 0;
  find_sessions(worker, packets, opening);
  packets.clear();
  for (unsigned g = 0; g < opening.groups; ++g)
    if (const policy::PeerPolicy* policy = worker.policies->find(opening.sessions[g]->peer); policy != nullptr) {
      prefetch_read(policy);
      prefetch_read(&policy->tunnel_v6);  // which may stand in the next line
    }
}

void end_decap(Worker& worker, Opening& opening, PacketBurst& packets) {
  worker.enter(Stage::decap, 0);
  unsigned begin = 0;
  for (unsigned g = 0; g < opening.groups; ++g) {
    unsigned authentic = begin;
    for (unsigned i = begin; i < opening.ends[g]; ++i) {
      if (!opening.jobs[i].ok) {
        worker.drop(opening.packets[i], DropReason::wg_authentication);
        continue;
      }
      opening.packets[authentic] = opening.packets[i];
      opening.counters[authentic++] = opening.counters[i];
    }
    if (authentic > begin)
      accept_group(worker, *opening.sessions[g], opening.packets + begin, opening.counters + begin, authentic - begin,
                   packets);
    begin = opening.ends[g];
  }
}

void decap(Worker& worker, PacketBurst& packets) {
  Opening opening;
  begin_decap(worker, packets, opening);
  if (opening.count == 0) return;
  worker.aead->open(opening.work());
  end_decap(worker, opening, packets);
}

}  // namespace penstock::gateway
