#include "dataplane/core/wireguard/data_path.h"

#include <algorithm>
#include <bit>

#include "dataplane/core/packet/headers.h"

namespace penstock::wireguard {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

std::int64_t nanoseconds(Instant at) {
  return at.time_since_epoch().count();
}

// Zero stands for "never".
std::int64_t nonzero(std::int64_t time) {
  return time == 0 ? 1 : time;
}

// Whether `interval` has passed since the last time, which is then now. Threads may race: one note more, no harm.
bool passed(std::atomic<std::int64_t>& last, std::int64_t interval, std::int64_t now) {
  const std::int64_t before = last.load(relaxed);
  if (before != 0 && now - before < interval) return false;
  last.store(nonzero(now), relaxed);
  return true;
}

constexpr std::int64_t kRenewNoteInterval = 1'000'000'000;

}  // namespace

DataPath::DataPath(std::size_t max_peers, std::size_t session_slots, unsigned traffic_writers, Duration granularity)
    : slot_mask_(static_cast<std::uint32_t>(std::bit_ceil(std::max<std::size_t>(session_slots, 2)) - 1)),
      granularity_(granularity.count()),
      debounce_(granularity.count() / 100),
      sessions_(std::size_t{slot_mask_} + 1),
      peers_(max_peers) {
  for (unsigned i = 0; i < std::max(traffic_writers, 1U); ++i)
    traffic_.push_back(std::make_unique<ZeroedArray<TrafficSlot>>(max_peers));
}

DataPath::~DataPath() = default;

void DataPath::map_front() const {
  sessions_.map_front();
  peers_.map_front();
  for (const auto& slots : traffic_) slots->map_front();
}

NoteBits DataPath::receive_notes(Session& session, const Path& from, Instant now) {
  const std::int64_t time = nanoseconds(now);
  NoteBits notes = 0;
  if (!session.confirmed.load(relaxed) && passed(session.confirm_noted_at, debounce_, time))
    notes |= note_bit::confirmed;
  if (session.initiator && now - session.created_at >= kRekeyAfterTimeReceiving &&
      passed(session.rekey_noted_at, std::min(kRenewNoteInterval, granularity_ * 10), time))
    notes |= note_bit::renew;
  if (peers_[session.peer].flags.load(relaxed) & kEndpointFollowsSource) {
    if (!is_endpoint(peers_[session.peer], from) && passed(session.move_noted_at, debounce_, time))
      notes |= note_bit::endpoint_moved;
  }
  return notes;
}

std::uint64_t DataPath::reserve_counters(Session& session, std::uint32_t n) {
  if (session.send_counter.load(relaxed) > kRejectAfterMessages - n) return kNoCounter;
  const std::uint64_t first = session.send_counter.fetch_add(n, relaxed);
  // Threads that passed the check together may overshoot by their bursts: far from wrapping, and refused here.
  return first > kRejectAfterMessages - n ? kNoCounter : first;
}

std::optional<Path> DataPath::endpoint(PeerIndex peer) const {
  const PeerSlot& slot = peers_[peer];
  for (;;) {
    const std::uint32_t version = slot.endpoint_version.load(std::memory_order_acquire);
    if (version & 1) continue;  // the Device is between two stores
    if (!(slot.flags.load(std::memory_order_acquire) & kEndpointKnown)) return std::nullopt;
    std::array<std::uint64_t, 5> words;
    for (std::size_t i = 0; i < words.size(); ++i) words[i] = slot.endpoint[i].load(std::memory_order_acquire);
    if (slot.endpoint_version.load(relaxed) == version) return std::bit_cast<Path>(words);
  }
}

bool DataPath::is_endpoint(const PeerSlot& slot, const Path& path) {
  const auto wanted = std::bit_cast<std::array<std::uint64_t, 5>>(path);
  for (;;) {
    const std::uint32_t version = slot.endpoint_version.load(std::memory_order_acquire);
    if (version & 1) continue;  // the Device is between two stores
    std::uint64_t difference = (slot.flags.load(std::memory_order_acquire) & kEndpointKnown) ^ kEndpointKnown;
    for (std::size_t i = 0; i < wanted.size(); ++i)
      difference |= slot.endpoint[i].load(std::memory_order_acquire) ^ wanted[i];
    if (slot.endpoint_version.load(relaxed) == version) return difference == 0;
  }
}

NoteBits DataPath::send_notes(Session& session, Instant now) {
  const bool due = session.send_counter.load(relaxed) > kRekeyAfterMessages || now >= session.renew_at;
  if (!due || !passed(session.rekey_noted_at, std::min(kRenewNoteInterval, granularity_ * 10), nanoseconds(now)))
    return 0;
  return note_bit::renew;
}

void DataPath::note_received(unsigned writer, PeerIndex peer, std::uint32_t packets, std::uint64_t bytes, bool data,
                             Instant now) {
  PeerSlot& slot = peers_[peer];
  const std::int64_t time = nanoseconds(now);
  if (time - slot.received.load(relaxed) >= granularity_) {
    slot.received.store(nonzero(time), relaxed);
    if (slot.unanswered_sent.load(relaxed) != 0) slot.unanswered_sent.store(0, relaxed);
  }
  if (data && slot.unanswered_received.load(relaxed) == 0) slot.unanswered_received.store(nonzero(time), relaxed);
  TrafficSlot& traffic = (*traffic_[writer])[peer];
  traffic.received_packets.store(traffic.received_packets.load(relaxed) + packets, relaxed);
  traffic.received_bytes.store(traffic.received_bytes.load(relaxed) + bytes, relaxed);
}

void DataPath::note_sent(unsigned writer, PeerIndex peer, std::uint32_t packets, std::uint64_t bytes, bool data,
                         Instant now) {
  PeerSlot& slot = peers_[peer];
  const std::int64_t time = nanoseconds(now);
  if (time - slot.sent.load(relaxed) >= granularity_) {
    slot.sent.store(nonzero(time), relaxed);
    if (slot.unanswered_received.load(relaxed) != 0) slot.unanswered_received.store(0, relaxed);
  }
  // Only when nothing was heard for a while: then the next thing heard is sure to be written and to clear it.
  if (data && slot.unanswered_sent.load(relaxed) == 0 && time - slot.received.load(relaxed) >= granularity_)
    slot.unanswered_sent.store(nonzero(time), relaxed);
  TrafficSlot& traffic = (*traffic_[writer])[peer];
  traffic.sent_packets.store(traffic.sent_packets.load(relaxed) + packets, relaxed);
  traffic.sent_bytes.store(traffic.sent_bytes.load(relaxed) + bytes, relaxed);
}

PeerTraffic DataPath::traffic(PeerIndex peer) const {
  PeerTraffic sum;
  for (const auto& writer : traffic_) {
    const TrafficSlot& slot = (*writer)[peer];
    sum.received_packets += slot.received_packets.load(relaxed);
    sum.received_bytes += slot.received_bytes.load(relaxed);
    sum.sent_packets += slot.sent_packets.load(relaxed);
    sum.sent_bytes += slot.sent_bytes.load(relaxed);
  }
  return sum;
}

void DataPath::publish_session(Session* session) {
  sessions_[session->local_index & slot_mask_].store(session, std::memory_order_release);
}

void DataPath::withdraw_session(const Session& session) {
  sessions_[session.local_index & slot_mask_].store(nullptr, std::memory_order_release);
}

void DataPath::set_sending(PeerIndex peer, Session* session) {
  peers_[peer].sending.store(session, std::memory_order_release);
}

void DataPath::set_endpoint(PeerIndex peer, const std::optional<Path>& path, bool follows_source) {
  PeerSlot& slot = peers_[peer];
  const std::uint32_t version = slot.endpoint_version.load(relaxed);
  slot.endpoint_version.store(version + 1, relaxed);
  slot.flags.store((path ? kEndpointKnown : 0U) | (follows_source ? kEndpointFollowsSource : 0U),
                   std::memory_order_release);
  const auto words = std::bit_cast<std::array<std::uint64_t, 5>>(path.value_or(Path{}));
  for (std::size_t i = 0; i < words.size(); ++i) slot.endpoint[i].store(words[i], std::memory_order_release);
  slot.endpoint_version.store(version + 2, std::memory_order_release);
}

void DataPath::reset_peer(PeerIndex peer) {
  PeerSlot& slot = peers_[peer];
  slot.sending.store(nullptr, std::memory_order_release);
  slot.keeps.store(0, relaxed);
  slot.inner_mtu.store(0, relaxed);
  set_endpoint(peer, std::nullopt, false);
  for (auto* time : {&slot.sent, &slot.received, &slot.unanswered_received, &slot.unanswered_sent})
    time->store(0, relaxed);
  for (const auto& writer : traffic_) {
    TrafficSlot& traffic = (*writer)[peer];
    for (auto* counter :
         {&traffic.received_packets, &traffic.received_bytes, &traffic.sent_packets, &traffic.sent_bytes})
      counter->store(0, relaxed);
  }
}

DropReason trim_padding(MutableBytes plaintext, MutableBytes& inner) {
  if (plaintext.empty()) return DropReason::wg_keepalive;
  std::size_t length = 0;
  switch (plaintext[0] >> 4) {
    case 4: {
      const auto* header = view_as<Ipv4Header>(Bytes{plaintext});
      if (header == nullptr || header->header_length() < sizeof(Ipv4Header)) return DropReason::inner_malformed;
      length = header->total_length.host();
      if (length < header->header_length()) return DropReason::inner_malformed;
      break;
    }
    case 6: {
      const auto* header = view_as<Ipv6Header>(Bytes{plaintext});
      if (header == nullptr) return DropReason::inner_malformed;
      length = sizeof(Ipv6Header) + header->payload_length.host();
      break;
    }
    default:
      return DropReason::inner_malformed;
  }
  if (length > plaintext.size()) return DropReason::inner_malformed;
  inner = plaintext.first(length);
  return DropReason::none;
}

}  // namespace penstock::wireguard
