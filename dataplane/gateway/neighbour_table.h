// (port, address) -> MAC address, as workers read it.
//
// Flat, open addressing, fixed capacity: nothing is allocated after construction. One writer (the slow thread, through
// neighbours.h, which runs the protocol), readers anywhere without locks: each entry is a seqlock of atomic words.
// A reader that meets a stale entry marks it used, which makes the writer probe it (RFC 4861 §7.3.3); that is the only
// thing a reader writes, and only once per stale period.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/address_words.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::gateway {

// RFC 4861 §7.3.2; `failed` keeps the answer "unreachable" for a while, so that a dead host is not asked for by every
// packet. Used for ARP as well.
enum class NeighbourState : std::uint8_t { empty, incomplete, reachable, stale, delay, probe, failed, erased };

[[nodiscard]] constexpr std::string_view name_of(NeighbourState state) {
  constexpr std::string_view names[] = {"empty", "incomplete", "reachable", "stale",
                                        "delay", "probe",      "failed",    "erased"};
  return names[static_cast<std::size_t>(state)];
}

// True when packets may be sent to the entry's MAC address.
[[nodiscard]] constexpr bool is_usable(NeighbourState state) {
  return state == NeighbourState::reachable || state == NeighbourState::stale || state == NeighbourState::delay ||
         state == NeighbourState::probe;
}

struct NeighbourView {
  IpAddress address;
  MacAddress mac{};
  PortIndex port = kNoPort;
  NeighbourState state = NeighbourState::empty;
  std::uint32_t slot = 0;
};

class NeighbourTable {
 public:
  static constexpr std::uint32_t kNoSlot = 0xffffffff;

  // `capacity`: entries that fit; rounded up to a power of two. `seed`: makes collisions unpredictable.
  explicit NeighbourTable(std::size_t capacity = 4096, std::uint64_t seed = 0);

  // Any thread. False: no such entry. Incomplete and failed entries are found too.
  [[nodiscard]] bool find(PortIndex port, const IpAddress& address, NeighbourView& out) const {
    return find(port, AddressWords::of(address), out);
  }
  [[nodiscard]] bool find(PortIndex port, const AddressWords& address, NeighbourView& out) const {
    std::uint32_t slot = hash(port, address) & mask_;
    for (std::uint32_t probes = 0; probes <= mask_; ++probes, slot = (slot + 1) & mask_) {
      if (!read(slot, out)) return false;
      if (out.state != NeighbourState::erased && out.port == port && AddressWords::of(out.address) == address)
        return true;
    }
    return false;
  }
  // Any thread. Says that a stale entry was sent to.
  void mark_used(std::uint32_t slot) const;
  // Any thread: for `show neighbours`. False: the slot is empty.
  [[nodiscard]] bool read(std::uint32_t slot, NeighbourView& out) const {
    const Entry& entry = entries_[slot];
    AddressWords address;
    std::uint64_t value;
    std::uint32_t before;
    do {
      before = entry.sequence.load(std::memory_order_acquire);
      address.high = entry.address_high.load(std::memory_order_acquire);
      address.low = entry.address_low.load(std::memory_order_acquire);
      value = entry.value.load(std::memory_order_acquire);
    } while ((before & 1) != 0 || entry.sequence.load(std::memory_order_relaxed) != before);
    out.state = static_cast<NeighbourState>(value & 0xff);
    if (out.state == NeighbourState::empty) return false;
    out.port = static_cast<PortIndex>(value >> 8 & 0xff);
    const std::uint64_t mac = __builtin_bswap64(value);  // its first six bytes
    std::memcpy(out.mac.data(), &mac, 6);
    out.address = address.address();
    out.slot = slot;
    return true;
  }
  [[nodiscard]] std::uint32_t slots() const { return mask_ + 1; }

  // Writer only, from here.
  // Finds or makes the entry. kNoSlot when `capacity` entries exist.
  std::uint32_t insert(PortIndex port, const IpAddress& address);
  void update(std::uint32_t slot, const MacAddress& mac, NeighbourState state);
  void erase(std::uint32_t slot);
  // Whether readers sent to it since the last call.
  bool take_used(std::uint32_t slot);
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }

 private:
  struct alignas(64) Entry {
    std::atomic<std::uint32_t> sequence{0};  // odd while being written
    mutable std::atomic<std::uint32_t> used{0};
    std::atomic<std::uint64_t> address_high{0};
    std::atomic<std::uint64_t> address_low{0};
    std::atomic<std::uint64_t> value{0};  // mac << 16 | port << 8 | state
  };

  [[nodiscard]] std::uint32_t hash(PortIndex port, const AddressWords& address) const {
    return static_cast<std::uint32_t>(address.hash(seed_ ^ port));
  }
  void write(Entry& entry, const NeighbourView& view);

  std::uint32_t mask_;
  std::size_t capacity_;
  std::size_t size_ = 0;
  std::uint64_t seed_;
  std::unique_ptr<Entry[]> entries_;
};

}  // namespace penstock::gateway
