// The flows of one worker: records, an index for each side, ageing, and counts per peer.
//
// Memory is bounded: 128 bytes of record, 16 of wheel and about 17 of index per flow (1.6 GB, 1.5 GiB, for ten
// million). It is reserved at construction and mapped as it is first used (records and wheel from the front, index
// buckets at random), so that a table costs what its flows cost and never stalls to grow; another thread may do the
// mapping ahead of the use (map_ahead). Set-up, look-up and removal are O(1); a full table refuses.
//
// Threads: one writer, the owning worker, which calls everything. Any thread may call size(), capacity(), high_water()
// and copy(); a copy is of one moment. One thread, any, may call map_ahead().
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/flow/index.h"
#include "dataplane/core/flow/key.h"
#include "dataplane/core/flow/record.h"
#include "dataplane/core/flow/wheel.h"
#include "dataplane/core/flow/zeroed_array.h"

namespace penstock::flow {

class FlowTable {
 public:
  FlowTable(std::uint32_t capacity, std::uint32_t max_peers, Random& random);

  // Burst look-up: hash all keys and prefetch (1), prefetch the records (2), find (3). What (2) gives is the key's slot
  // nearly always; is() says so for a key that is in the table.
  [[nodiscard]] std::uint64_t hash(const InsideKey& key) const { return hash_(key); }
  [[nodiscard]] std::uint64_t hash(const OutsideKey& key) const { return hash_(key); }
  void prefetch_inside(std::uint64_t hash) const { inside_.prefetch(hash); }
  void prefetch_outside(std::uint64_t hash) const { outside_.prefetch(hash); }
  // `absent`: the flow is not there. kNoSlot without that: it may be.
  Slot prefetch_inside_record(std::uint64_t hash, bool& absent) const { return prefetch_record(inside_, hash, absent); }
  Slot prefetch_inside_record(std::uint64_t hash) const {
    bool absent = false;
    return prefetch_record(inside_, hash, absent);
  }
  Slot prefetch_outside_record(std::uint64_t hash) const {
    bool absent = false;
    return prefetch_record(outside_, hash, absent);
  }
  // What the next flow but `ahead` to be set up will be written to.
  void prefetch_insert(std::uint32_t ahead) const {
    const Slot slot = free_ != kNoSlot ? free_ : high_water_.load(std::memory_order_relaxed) + ahead;
    if (slot >= records_.size()) return;
    const auto* line = reinterpret_cast<const std::uint8_t*>(&records_[slot]);
    for (std::size_t at = 0; at < sizeof(FlowRecord); at += 64) prefetch_write(line + at);
    wheel_.prefetch(slot);
  }
  [[nodiscard]] Slot find(const InsideKey& key, std::uint64_t hash) const {
    return inside_.find(hash, [&](Slot slot) { return is(slot, key); });
  }
  // `source_address`: index of key.local among the gateway's addresses of its family, or kOwnSource.
  [[nodiscard]] Slot find(const OutsideKey& key, std::uint16_t source_address, std::uint64_t hash) const {
    return outside_.find(hash, [&](Slot slot) { return is(slot, key, source_address); });
  }
  // Whether a slot that is in use is the key's.
  [[nodiscard]] bool is(Slot slot, const InsideKey& key) const { return records_[slot].has(key); }
  [[nodiscard]] bool is(Slot slot, const OutsideKey& key, std::uint16_t source_address) const {
    const FlowRecord& r = records_[slot];
    return r.source_port == key.local_port && r.remote_port == key.remote_port && r.protocol == key.protocol &&
           r.source_address == source_address && r.remote == key.remote &&
           (source_address != kOwnSource || r.inside_source == key.local);
  }

  // Sets the flow up. kNoSlot when the table is full. `record` has everything but version, next_free, live; `hash_in`
  // and `hash_out` are those of its keys, neither of which is in the table.
  Slot insert(const FlowRecord& record, std::uint64_t hash_in, std::uint64_t hash_out);
  // `hash_out`: as at insert.
  void erase(Slot slot, std::uint64_t hash_out);

  [[nodiscard]] const FlowRecord& operator[](Slot slot) const { return records_[slot]; }
  // The one way to change a field of a live record.
  template <typename Field>
  void store(Slot slot, Field FlowRecord::*field, Field value) {
    std::atomic_ref<Field>{records_[slot].*field}.store(value, std::memory_order_relaxed);
  }

  [[nodiscard]] TimingWheel& wheel() { return wheel_; }
  [[nodiscard]] const TimingWheel& wheel() const { return wheel_; }

  [[nodiscard]] bool peer_known(PeerIndex peer) const { return peer < peer_flows_.size(); }
  [[nodiscard]] std::uint32_t peer_flows(PeerIndex peer) const { return peer_flows_[peer]; }

  [[nodiscard]] std::uint32_t size() const { return size_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint32_t capacity() const { return static_cast<std::uint32_t>(records_.size()); }
  // Slots at or above have never been used.
  [[nodiscard]] Slot high_water() const { return high_water_.load(std::memory_order_acquire); }
  // Maps the memory of flows to come, so that a first packet does not wait for the system to zero it. To be called now
  // and then; the more flows there were since the last call, the further ahead it looks. Which slots it was this time,
  // for tables beside this one.
  struct Range {
    Slot first = 0;
    std::uint32_t count = 0;
  };
  Range map_ahead();
  // A consistent copy of a live record; false when the slot is free or kept changing.
  [[nodiscard]] bool copy(Slot slot, FlowRecord& out) const;

 private:
  Slot prefetch_record(const FlowIndex& index, std::uint64_t hash, bool& absent) const {
    const Slot slot = index.candidate(hash, absent);
    if (slot == kNoSlot) return slot;
    const auto* line = reinterpret_cast<const std::uint8_t*>(&records_[slot]);
    prefetch_read(line);
    prefetch_read(line + 64);
    return slot;
  }
  void write(Slot slot, const FlowRecord& record);

  KeyHash hash_;
  ZeroedArray<FlowRecord> records_;
  FlowIndex inside_;
  FlowIndex outside_;
  TimingWheel wheel_;
  std::vector<std::uint32_t> peer_flows_;
  Slot free_ = kNoSlot;
  std::atomic<Slot> high_water_{0};
  std::atomic<std::uint32_t> size_{0};
  Slot seen_ = 0;    // of map_ahead: high_water() at the last call
  Slot mapped_ = 0;  // and the first slot that it has not mapped
};

}  // namespace penstock::flow
