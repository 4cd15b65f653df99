#include "dataplane/gateway/neighbour_table.h"

#include <bit>
#include <cstring>

namespace penstock::gateway {
namespace {

struct Words {
  std::uint64_t high;
  std::uint64_t low;
};

Words words_of(const IpAddress& address) {
  Words words;
  std::memcpy(&words.high, address.bytes().data(), 8);
  std::memcpy(&words.low, address.bytes().data() + 8, 8);
  return words;
}

IpAddress address_of(std::uint64_t high, std::uint64_t low) {
  std::array<std::uint8_t, 16> bytes;
  std::memcpy(bytes.data(), &high, 8);
  std::memcpy(bytes.data() + 8, &low, 8);
  return IpAddress::v6(bytes);
}

std::uint64_t pack(const MacAddress& mac, PortIndex port, NeighbourState state) {
  std::uint64_t value = 0;
  for (const std::uint8_t octet : mac) value = value << 8 | octet;
  return value << 16 | std::uint64_t{port} << 8 | static_cast<std::uint64_t>(state);
}

std::uint64_t mix(std::uint64_t value) {  // splitmix64's finaliser
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

}  // namespace

NeighbourTable::NeighbourTable(std::size_t capacity, std::uint64_t seed)
    : mask_(static_cast<std::uint32_t>(std::bit_ceil(capacity < 8 ? std::size_t{16} : capacity * 2) - 1)),
      capacity_((mask_ + 1) / 2),
      seed_(seed),
      entries_(std::make_unique<Entry[]>(mask_ + 1)) {}

std::uint32_t NeighbourTable::hash(PortIndex port, const IpAddress& address) const {
  const Words words = words_of(address);
  return static_cast<std::uint32_t>(mix(mix(words.high ^ seed_) ^ words.low ^ port));
}

bool NeighbourTable::read(std::uint32_t slot, NeighbourView& out) const {
  const Entry& entry = entries_[slot];
  std::uint64_t high, low, value;
  std::uint32_t before;
  do {
    before = entry.sequence.load(std::memory_order_acquire);
    high = entry.address_high.load(std::memory_order_acquire);
    low = entry.address_low.load(std::memory_order_acquire);
    value = entry.value.load(std::memory_order_acquire);
  } while ((before & 1) != 0 || entry.sequence.load(std::memory_order_relaxed) != before);
  out.state = static_cast<NeighbourState>(value & 0xff);
  if (out.state == NeighbourState::empty) return false;
  out.port = static_cast<PortIndex>(value >> 8 & 0xff);
  for (std::size_t i = 0; i < 6; ++i) out.mac[i] = static_cast<std::uint8_t>(value >> (56 - 8 * i));
  out.address = address_of(high, low);
  out.slot = slot;
  return true;
}

bool NeighbourTable::find(PortIndex port, const IpAddress& address, NeighbourView& out) const {
  std::uint32_t slot = hash(port, address) & mask_;
  for (std::uint32_t probes = 0; probes <= mask_; ++probes, slot = (slot + 1) & mask_) {
    if (!read(slot, out)) return false;
    if (out.state != NeighbourState::erased && out.port == port && out.address == address) return true;
  }
  return false;
}

void NeighbourTable::mark_used(std::uint32_t slot) const {
  std::atomic<std::uint32_t>& used = entries_[slot].used;
  if (used.load(std::memory_order_relaxed) == 0) used.store(1, std::memory_order_relaxed);
}

bool NeighbourTable::take_used(std::uint32_t slot) {
  std::atomic<std::uint32_t>& used = entries_[slot].used;
  return used.load(std::memory_order_relaxed) != 0 && used.exchange(0, std::memory_order_relaxed) != 0;
}

void NeighbourTable::write(Entry& entry, const NeighbourView& view) {
  const Words words = words_of(view.address);
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
  std::uint32_t slot = hash(port, address) & mask_;
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
