#include "dataplane/gateway/resend.h"

#include <algorithm>
#include <cstring>

namespace penstock::gateway {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::size_t kRecordAlign = 8;
constexpr Duration kExpireEvery = std::chrono::seconds{1};
constexpr Duration kExpireAgain = std::chrono::milliseconds{1};

std::int64_t nanoseconds(Instant at) {
  return at.time_since_epoch().count();
}

std::int64_t cost(std::int64_t units, std::int64_t per_second) {
  return units * kSecond / per_second;
}

std::uint32_t record_size(std::size_t bytes) {
  return static_cast<std::uint32_t>((bytes + kRecordAlign - 1) / kRecordAlign * kRecordAlign);
}

std::size_t bucket_of(const IpAddress& address) {
  std::size_t hash = 0x9e3779b97f4a7c15;
  for (const std::uint8_t byte : address.wire()) hash = (hash ^ byte) * 0x100000001b3;
  return (hash >> 24) & 0xff;
}

}  // namespace

// ---- ResendGates ----

bool ResendGates::would_take(const Gate& gate, const Rate& rate, std::size_t bytes, std::int64_t now) {
  const std::int64_t burst = rate.burst;
  const auto arrival = [now](const std::atomic<std::int64_t>& time) {
    return std::max(time.load(std::memory_order_relaxed), now) - now;
  };
  return arrival(gate.packets) + cost(1, rate.packets_per_second) <= burst &&
         arrival(gate.bytes) + cost(static_cast<std::int64_t>(bytes), rate.bytes_per_second) <= burst;
}

void ResendGates::charge(Gate& gate, const Rate& rate, std::size_t bytes, std::int64_t now) {
  const auto add = [now](std::atomic<std::int64_t>& time, std::int64_t amount) {
    std::int64_t before = time.load(std::memory_order_relaxed);
    while (!time.compare_exchange_weak(before, std::max(before, now) + amount, std::memory_order_relaxed)) {
    }
  };
  add(gate.packets, cost(1, rate.packets_per_second));
  add(gate.bytes, cost(static_cast<std::int64_t>(bytes), rate.bytes_per_second));
}

// Threads that pass the check together may overshoot by a packet each.
bool ResendGates::take(PeerIndex peer, const IpAddress& to, std::size_t bytes, Instant at) {
  const std::int64_t now = nanoseconds(at);
  Gate& tunnel = peers_[peer];
  Gate& address = addresses_[bucket_of(to)];
  if (!would_take(tunnel, kPerTunnel, bytes, now) || !would_take(address, kPerAddress, bytes, now)) return false;
  charge(tunnel, kPerTunnel, bytes, now);
  charge(address, kPerAddress, bytes, now);
  return true;
}

Instant ResendGates::next(PeerIndex peer, Instant at) const {
  // When the tunnel's gate has room for a full packet; for an address's, a little later.
  constexpr std::int64_t kFullPacket = 1500;
  const Gate& tunnel = peers_[peer];
  const std::int64_t now = nanoseconds(at);
  const std::int64_t packets = tunnel.packets.load(std::memory_order_relaxed) - kPerTunnel.burst +
                               cost(1, kPerTunnel.packets_per_second);
  const std::int64_t bytes = tunnel.bytes.load(std::memory_order_relaxed) - kPerTunnel.burst +
                             cost(kFullPacket, kPerTunnel.bytes_per_second);
  const std::int64_t soon = now + std::chrono::nanoseconds{std::chrono::milliseconds{1}}.count();
  return Instant{Duration{std::max({packets, bytes, soon})}};
}

// ---- ResendStore ----

ResendStore::ResendStore(ResendGates& gates, std::size_t max_peers, std::size_t blocks)
    : gates_(gates), by_peer_(max_peers), memory_(blocks * kBlockSize), blocks_(blocks), rings_(blocks) {
  free_blocks_.reserve(blocks);
  free_rings_.reserve(blocks);
  active_.reserve(blocks);
  for (std::size_t i = blocks; i > 0; --i) {
    free_blocks_.push_back(static_cast<Index>(i));
    free_rings_.push_back(static_cast<Index>(i));
  }
}

// Blocks are taken from the front as long as there are new ones.
void ResendStore::map_ahead() {
  const std::size_t touched = high_water_.load(std::memory_order_relaxed) * kBlockSize;
  const std::size_t wanted = std::min(memory_.size(), touched + kMappedFront);
  if (wanted < mapped_ + kMappedFront / 4 && wanted != memory_.size()) return;  // not in small portions
  if (mapped_ == 0) by_peer_.map_front();
  if (wanted > mapped_) penstock::map_ahead(&memory_[mapped_], wanted - mapped_);
  mapped_ = std::max(mapped_, wanted);
}

void ResendStore::unlink(Index index) {
  Block& block = blocks_[index - 1];
  (block.older == 0 ? oldest_ : blocks_[block.older - 1].newer) = block.newer;
  (block.newer == 0 ? newest_ : blocks_[block.newer - 1].older) = block.older;
  block.older = block.newer = 0;
}

void ResendStore::link_newest(Index index) {
  Block& block = blocks_[index - 1];
  block.older = newest_;
  block.newer = 0;
  (newest_ == 0 ? oldest_ : blocks_[newest_ - 1].newer) = index;
  newest_ = index;
}

void ResendStore::drop_oldest_block(Index ring_index) {
  Ring& ring = rings_[ring_index - 1];
  const Index head = ring.head;
  Block& block = blocks_[head - 1];
  ring.packets -= block.packets;
  ring.bytes -= block.fill;
  ring.head = block.next;
  if (ring.head == 0) ring.tail = 0;
  ring.cursors_to_head(head);
  unlink(head);
  block = Block{};
  free_blocks_.push_back(head);
  --used_;
}

void ResendStore::release_ring(Index index) {
  Ring& ring = rings_[index - 1];
  while (ring.head != 0) drop_oldest_block(index);
  if (ring.active) std::erase(active_, index);
  by_peer_[ring.peer] = 0;
  ring = Ring{};
  free_rings_.push_back(index);
}

// Of a pool that is used up the block that was written to longest ago goes. Each ring's blocks are in that order too.
ResendStore::Index ResendStore::take_block(Index ring, Instant now) {
  for (int looks = 0; free_blocks_.empty(); ++looks) {
    const Index oldest = oldest_;
    Block& block = blocks_[oldest - 1];
    constexpr int kLooks = 8;
    const bool in_use = rings_[block.ring - 1].tail == oldest && now - block.newest < kQuiet;
    if (looks < kLooks && in_use) {
      unlink(oldest);
      link_newest(oldest);
      continue;
    }
    const Index owner = block.ring;
    drop_oldest_block(owner);
    if (rings_[owner - 1].head == 0 && owner != ring && !rings_[owner - 1].active) release_ring(owner);
  }
  const Index taken = free_blocks_.back();
  free_blocks_.pop_back();
  if (taken > high_water_.load(std::memory_order_relaxed)) high_water_.store(taken, std::memory_order_relaxed);
  ++used_;
  blocks_[taken - 1].ring = ring;
  link_newest(taken);
  return taken;
}

ResendStore::Kept ResendStore::keep(PeerIndex peer, Bytes datagram, Instant now) {
  const std::uint32_t size = static_cast<std::uint32_t>(sizeof(Record)) + record_size(datagram.size());
  if (peer >= by_peer_.size() || size > kBlockSize) return Kept::too_fast;
  Index index = by_peer_[peer];
  if (index == 0) {
    if (free_rings_.empty() && oldest_ != 0) release_ring(blocks_[oldest_ - 1].ring);
    if (free_rings_.empty()) return Kept::too_fast;
    index = free_rings_.back();
    free_rings_.pop_back();
    by_peer_[peer] = index;
    rings_[index - 1].peer = peer;
    rings_[index - 1].last = Instant::min();
  }
  Ring& ring = rings_[index - 1];
  const std::int64_t time = nanoseconds(now);
  ring.rate_packets = std::max(ring.rate_packets, time) + cost(1, kKeepRate.packets_per_second);
  ring.rate_bytes =
      std::max(ring.rate_bytes, time) + cost(static_cast<std::int64_t>(datagram.size()), kKeepRate.bytes_per_second);
  if (std::max(ring.rate_packets, ring.rate_bytes) - time > kKeepRate.burst) return Kept::too_fast;

  while (ring.head != 0 && (ring.packets + 1 > kMaxPackets || ring.bytes + size > kMaxBytes)) drop_oldest_block(index);
  if (ring.tail == 0 || blocks_[ring.tail - 1].fill + size > kBlockSize) {
    const Index added = take_block(index, now);
    (ring.head == 0 ? ring.head : blocks_[ring.tail - 1].next) = added;
    ring.tail = added;
  }
  Block& block = blocks_[ring.tail - 1];
  std::uint8_t* place = memory_of(ring.tail) + block.fill;
  const Record record{static_cast<std::uint16_t>(datagram.size()), 0, 0, now};
  std::memcpy(place, &record, sizeof record);
  std::memcpy(place + sizeof record, datagram.data(), datagram.size());
  block.fill += size;
  ++block.packets;
  block.newest = now;
  ++ring.packets;
  ring.bytes += size;
  if (expire_at_ == kNever) expire_at_ = now + kExpireEvery;
  schedule(expire_at_);
  if (ring.active) {
    ring.cursors_to_head(0);
    schedule(now);
  }
  const bool paused = ring.last == Instant::min() || now - ring.last > kQuiet;
  ring.last = now;
  return paused ? Kept::after_a_pause : Kept::yes;
}

void ResendStore::stop(Index index) {
  Ring& ring = rings_[index - 1];
  if (!ring.active) return;
  ring.active = false;
  std::erase(active_, index);
  if (ring.head == 0) release_ring(index);
}

void ResendStore::order(const ResendOrder& order, Instant now) {
  const Index index = order.peer < by_peer_.size() ? by_peer_[order.peer] : 0;
  if (index == 0) return;
  if (order.forget) return release_ring(index);
  Ring& ring = rings_[index - 1];
  if (order.repair && ring.active && now < ring.order.until) {
    ring.order.report = order.report;
    return;
  }
  if (order.paths == 0 || order.paths > ResendOrder::kMaxPaths) return stop(index);
  // What the order before had not come to yet is in doubt still: the peer may have moved on in the middle of it, and
  // what this one calls in doubt begins with its last probe.
  // It goes by where it was to go as well: an order made of a suspicion leaves out the very endpoint that the one before
  // may have been about.
  Instant pending = Instant::max();
  if (ring.active && now < ring.order.until)
    for (Cursor& cursor : ring.cursors)
      if (const Record* record = current(ring, cursor)) pending = std::min(pending, record->at);
  Paths before;
  if (pending != Instant::max()) {
    const auto add = [&](const Path& path) {
      const auto is = [&](const Path& other) { return other.remote == path.remote; };
      const auto end = order.to.begin() + order.paths;
      if (std::any_of(order.to.begin(), end, is) || before.count == before.to.size()) return;
      if (std::none_of(before.to.begin(), before.to.begin() + before.count, is)) before.to[before.count++] = path;
    };
    for (std::uint32_t i = 0; i < ring.order.paths; ++i) add(ring.order.to[i]);
    if (pending <= ring.before.up_to)
      for (std::uint32_t i = 0; i < ring.before.count; ++i) add(ring.before.to[i]);
    before.since = pending;
    before.up_to = now;
  }
  ring.before = before;
  ring.order = order;
  ring.order.since = std::min(order.since, pending);
  if (!order.repair) ring.order.up_to = std::max(order.up_to, now);
  const Instant fresh = std::clamp(order.fresh, ring.order.since, std::max(ring.order.up_to, ring.order.since));
  ring.cursors[0] = {ring.head, 0, 0, fresh, ring.order.up_to};
  ring.cursors[1] = {ring.head, 0, 0, ring.order.since, fresh - Duration{1}};
  if (!ring.active) active_.push_back(index);
  ring.active = true;
  schedule(now);
}

bool ResendStore::wanted(const ResendOrder& order, const Record& record) {
  using Fate = wireguard::ReceptionReport::Fate;
  if (order.report.receiver == 0) return true;
  const Fate fate = order.report.of({reinterpret_cast<const std::uint8_t*>(&record + 1), record.size});
  if (!order.repair) return fate != Fate::arrived;
  return fate == Fate::missing && record.copies < kMaxCopies && record.last() <= order.up_to;
}

ResendStore::Record* ResendStore::current(const Ring& ring, Cursor& cursor) {
  while (cursor.block != 0) {
    const Block& block = blocks_[cursor.block - 1];
    if (cursor.offset >= block.fill || (cursor.offset == 0 && block.newest < cursor.since)) {
      if (block.next == 0) return nullptr;
      cursor.block = block.next;
      cursor.offset = cursor.path = 0;
      continue;
    }
    auto* record = reinterpret_cast<Record*>(memory_of(cursor.block) + cursor.offset);
    if (record->at > cursor.up_to) return nullptr;
    // One that is begun goes over all its paths.
    if (record->at >= cursor.since && (cursor.path != 0 || wanted(ring.order, *record))) return record;
    cursor.offset += static_cast<std::uint32_t>(sizeof(Record)) + record_size(record->size);
  }
  return nullptr;
}

void ResendStore::expire(Instant now) {
  constexpr int kAtOnce = 64;
  int looks = 0;
  bool dropped = false;
  for (; looks < kAtOnce && oldest_ != 0; ++looks) {
    const Index oldest = oldest_;
    const Index ring = blocks_[oldest - 1].ring;
    if (now - blocks_[oldest - 1].newest >= kKeepFor) {
      drop_oldest_block(ring);
      if (rings_[ring - 1].head == 0 && !rings_[ring - 1].active) release_ring(ring);
      dropped = true;
    } else if (rings_[ring - 1].tail == oldest && oldest != newest_) {
      unlink(oldest);  // still written to: not the oldest any more
      link_newest(oldest);
    } else {
      break;
    }
  }
  const bool more = looks == kAtOnce && dropped;
  expire_at_ = oldest_ == 0 ? kNever : now + (more ? kExpireAgain : kExpireEvery);
}

bool ResendStore::poll(Instant now, Copy& copy) {
  if (now >= expire_at_) expire(now);
  next_ = expire_at_;
  for (std::size_t looks = active_.size(); looks > 0 && !active_.empty(); --looks) {
    turn_ = turn_ < active_.size() ? turn_ : 0;
    Ring& ring = rings_[active_[turn_] - 1];
    if (now < ring.not_before) {
      schedule(ring.not_before);
      ++turn_;
      continue;
    }
    Record* record = nullptr;
    Cursor* cursor = nullptr;
    for (Cursor& one : ring.cursors)
      if (record == nullptr && now < ring.order.until) record = current(ring, *(cursor = &one));
    if (record == nullptr) {
      ring.bite = 0;
      if (now >= ring.order.until || now >= ring.order.up_to) {
        stop(active_[turn_]);  // done; the next one has taken its place
      } else {
        schedule(ring.order.until);
        ++turn_;
      }
      continue;
    }
    const std::uint32_t paths = ring.order.paths + (ring.before.cover(record->at) ? ring.before.count : 0);
    const Path& path = cursor->path < ring.order.paths ? ring.order.to[cursor->path]
                                                       : ring.before.to[cursor->path - ring.order.paths];
    if (!gates_.take(ring.peer, path.remote.address, record->size, now)) {
      schedule(gates_.next(ring.peer, now));
      ++turn_;
      continue;
    }
    copy.peer = ring.peer;
    copy.to = path;
    copy.bytes = Bytes{reinterpret_cast<const std::uint8_t*>(record + 1), record->size};
    if (++ring.bite >= kBite) {
      ring.bite = 0;
      ring.not_before = now + kPause;
    }
    if (++cursor->path >= paths) {
      cursor->path = 0;
      ++record->copies;
      record->copied_ms = static_cast<std::uint32_t>((now - record->at) / std::chrono::milliseconds{1});
      cursor->offset += static_cast<std::uint32_t>(sizeof(Record)) + record_size(record->size);
      ++turn_;
    }
    schedule(now);
    return true;
  }
  return false;
}

std::size_t ResendStore::packets(PeerIndex peer) const {
  const Index index = peer < by_peer_.size() ? by_peer_[peer] : 0;
  return index == 0 ? 0 : rings_[index - 1].packets;
}

std::size_t ResendStore::bytes(PeerIndex peer) const {
  const Index index = peer < by_peer_.size() ? by_peer_[peer] : 0;
  return index == 0 ? 0 : rings_[index - 1].bytes;
}

}  // namespace penstock::gateway
