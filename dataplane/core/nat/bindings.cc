#include "dataplane/core/nat/bindings.h"

#include <utility>

namespace penstock::nat {
namespace {

Binding binding_of(const flow::FlowRecord& record) {
  Binding out{};
  out.inside = record.inside_source;
  out.peer = record.peer;
  out.inside_port = record.inside_source_port;
  out.source_address = record.source_address;
  out.source_port = record.source_port;
  out.protocol = record.protocol;
  out.outside6 = record.remote.is_v6() ? 1 : 0;
  out.first = flow::kNoSlot;
  return out;
}

bool same_inside(const Binding& a, const Binding& b) {
  return a.inside == b.inside && a.peer == b.peer && a.inside_port == b.inside_port && a.protocol == b.protocol &&
         a.outside6 == b.outside6;
}

bool same_outside(const Binding& a, const Binding& b) {
  return a.source_port == b.source_port && a.source_address == b.source_address && a.protocol == b.protocol &&
         a.outside6 == b.outside6;
}

}  // namespace

// A client's port has a binding for each family outside.
std::uint64_t BindingTable::inside_hash(const Binding& binding) const {
  return hash_(flow::InsideKey{binding.inside, {}, binding.peer, binding.inside_port, binding.outside6,
                                  binding.protocol});
}

std::uint64_t BindingTable::outside_hash(const Binding& binding) const {
  return hash_(flow::OutsideKey{{}, {}, binding.source_port, static_cast<std::uint16_t>(
                                       binding.source_address << 1 | binding.outside6),
                                   binding.protocol});
}

void BindingTable::map_ahead(flow::Slot first, std::uint32_t count) {
  if (!on()) return;
  links_.map_ahead(first, count);
  if (std::exchange(front_mapped_, true)) return;
  bindings_.map_ahead(0, kMappedFront / sizeof(Binding));
  inside_.map_ahead();
  outside_.map_ahead();
}

BindingTable::Index BindingTable::find_inside(const flow::FlowRecord& record) const {
  const Binding wanted = binding_of(record);
  return inside_.find(inside_hash(wanted), [&](Index index) { return same_inside(bindings_[index], wanted); });
}

BindingTable::Index BindingTable::find_outside(std::uint16_t source_address, bool v6, std::uint16_t port,
                                               std::uint8_t protocol) const {
  Binding wanted{};
  wanted.source_address = source_address;
  wanted.source_port = port;
  wanted.protocol = protocol;
  wanted.outside6 = v6 ? 1 : 0;
  return outside_.find(outside_hash(wanted), [&](Index index) { return same_outside(bindings_[index], wanted); });
}

BindingTable::Index BindingTable::make(const flow::FlowRecord& record) {
  const Index index = free_ != kNone ? free_ : high_water_;
  // There are as many places as flows and pinned bindings, so one is free.
  const Binding binding = binding_of(record);
  if (!inside_.insert(inside_hash(binding), index)) return kNone;
  if (!outside_.insert(outside_hash(binding), index)) {
    inside_.erase(inside_hash(binding), index);
    return kNone;
  }
  if (free_ != kNone) {
    free_ = bindings_[index].next_free;
  } else {
    ++high_water_;
  }
  bindings_[index] = binding;
  ++size_;
  return index;
}

bool BindingTable::link(flow::Slot slot, const flow::FlowRecord& record) {
  Index index = find_inside(record);
  const bool fresh = index == kNone;
  if (fresh) index = make(record);
  Binding& binding = bindings_[index];
  links_[slot] = {index + 1, binding.first, flow::kNoSlot};
  if (binding.first != flow::kNoSlot) links_[binding.first].previous = slot;
  binding.first = slot;
  ++binding.flows;
  return fresh;
}

bool BindingTable::pin(const flow::FlowRecord& record) {
  if (pinned_ == kMaxPinned) return false;
  const Index index = make(record);
  if (index == kNone) return false;
  bindings_[index].flows = 1;
  ++pinned_;
  return true;
}

bool BindingTable::unlink(flow::Slot slot) {
  const Link link = links_[slot];
  if (link.binding == 0) return false;
  links_[slot].binding = 0;
  const Index index = link.binding - 1;
  Binding& binding = bindings_[index];
  if (link.next != flow::kNoSlot) links_[link.next].previous = link.previous;
  (link.previous == flow::kNoSlot ? binding.first : links_[link.previous].next) = link.next;
  if (--binding.flows != 0) return false;
  inside_.erase(inside_hash(binding), index);
  outside_.erase(outside_hash(binding), index);
  binding.next_free = free_;
  free_ = index;
  --size_;
  return true;
}

}  // namespace penstock::nat
