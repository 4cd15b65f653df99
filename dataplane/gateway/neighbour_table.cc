#include "dataplane/gateway/neighbour_table.h"

#include <bit>

namespace penstock::gateway {
namespace {

std::uint64_t pack(const MacAddress& mac, PortIndex port, NeighbourState state) {
  std::uint64_t value = 0;
  for (const std::uint8_t octet : mac) value = value << 8 | octet;
  return value << 16 | std::uint64_t{port} << 8 | static_cast<std::uint64_t>(state);
}

}  // namespace

NeighbourTable::NeighbourTable(std::size_t capacity, std::uint64_t seed)
    : mask_(static_cast<std::uint32_t>(std::bit_ceil(capacity < 8 ? std::size_t{16} : capacity * 2) - 1)),
      capacity_((mask_ + 1) / 2),
      seed_(seed),
      entries_(std::make_unique<Entry[]>(mask_ + 1)) {}

void NeighbourTable::mark_used(std::uint32_t slot) const {
  std::atomic<std::uint32_t>& used = entries_[slot].used;
  if (used.load(std::memory_order_relaxed) == 0) used.store(1, std::memory_order_relaxed);
}

bool NeighbourTable::take_used(std::uint32_t slot) {
  std::atomic<std::uint32_t>& used = entries_[slot].used;
  return used.load(std::memory_order_relaxed) != 0 && used.exchange(0, std::memory_order_relaxed) != 0;
}

void NeighbourTable::write(Entry& entry, const NeighbourView& view) {
  const AddressWords words = AddressWords::of(view.address);
  const std::uint32_t sequence = entry.sequence.load(std::memory_order_relaxed);
  entry.sequence.store(sequence + 1, std::memory_order_relaxed);
  // Release stores keep the odd sequence in front of every field.
  entry.address_high.store(words.high, std::memory_order_release);
  entry.address_low.store(words.low, std::memory_order_release);
  entry.value.store(pack(view.mac, view.port, view.state), std::memory_order_release);
  entry.sequence.store(sequence + 2, std::memory_order_release);
}

std::uint32_t NeighbourTable::insert(PortIndex port, const IpAddress& address) {
  NeighbourView view;
  if (find(port, address, view)) return view.slot;
  if (size_ >= capacity_) return kNoSlot;
  std::uint32_t slot = hash(port, AddressWords::of(address)) & mask_;
  while (read(slot, view) && view.state != NeighbourState::erased) slot = (slot + 1) & mask_;
  view = {};
  view.address = address;
  view.port = port;
  view.state = NeighbourState::incomplete;
  entries_[slot].used.store(0, std::memory_order_relaxed);
  write(entries_[slot], view);
  ++size_;
  return slot;
}

void NeighbourTable::update(std::uint32_t slot, const MacAddress& mac, NeighbourState state) {
  NeighbourView view;
  if (!read(slot, view)) return;
  if (view.mac == mac && view.state == state) return;
  view.mac = mac;
  view.state = state;
  write(entries_[slot], view);
}

void NeighbourTable::erase(std::uint32_t slot) {
  NeighbourView view;
  if (!read(slot, view) || view.state == NeighbourState::erased) return;
  // An entry with nothing behind it becomes empty, and so do the erased ones before it: probes stay short.
  NeighbourView next;
  const bool last = !read((slot + 1) & mask_, next);
  view = {};
  view.state = last ? NeighbourState::empty : NeighbourState::erased;
  write(entries_[slot], view);
  --size_;
  if (!last) return;
  for (std::uint32_t before = (slot - 1) & mask_; read(before, next) && next.state == NeighbourState::erased;
       before = (before - 1) & mask_)
    write(entries_[before], NeighbourView{});
}

}  // namespace penstock::gateway
