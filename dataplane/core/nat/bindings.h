// The binding information base of an endpoint-independent mapping (RFC 6146 §3.1, RFC 4787 REQ-1): which address and
// port of ours a client's address and port has, whoever it speaks to. A binding lives as long as a flow, or is pinned.
//
// Memory is taken at construction. One thread.
#pragma once

#include <cstdint>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/flow/index.h"
#include "dataplane/core/flow/key.h"
#include "dataplane/core/flow/record.h"
#include "dataplane/core/flow/zeroed_array.h"

namespace penstock::nat {

struct Binding {
  IpAddress inside;
  PeerIndex peer;
  std::uint16_t inside_port;
  std::uint16_t source_address;  // index of ours in its family
  std::uint16_t source_port;
  std::uint8_t protocol;
  std::uint8_t outside6;
  std::uint32_t flows;
  flow::Slot first;  // of its flows
  std::uint32_t next_free;
};

class BindingTable {
 public:
  using Index = std::uint32_t;
  static constexpr Index kNone = 0xffffffff;
  static constexpr std::uint32_t kMaxPinned = 256;
  static constexpr unsigned kWalk = 256;  // flows of a binding that are looked at, at most

  // `flows`: so many at most; 0: off.
  BindingTable(std::uint32_t flows, Random& random)
      : hash_{random},
        bindings_{flows == 0 ? 0 : flows + kMaxPinned},
        links_{flows},
        inside_{flows == 0 ? 0 : flows + kMaxPinned},
        outside_{flows == 0 ? 0 : flows + kMaxPinned} {}

  [[nodiscard]] bool on() const { return bindings_.size() != 0; }
  [[nodiscard]] std::uint32_t size() const { return size_; }
  [[nodiscard]] const Binding& operator[](Index index) const { return bindings_[index]; }

  [[nodiscard]] Index find_inside(const flow::FlowRecord& record) const;
  [[nodiscard]] Index find_outside(std::uint16_t source_address, bool v6, std::uint16_t port,
                                   std::uint8_t protocol) const;
  // The binding of a flow in the table; kNone: it has none.
  [[nodiscard]] Index of(flow::Slot slot) const { return links_[slot].binding - 1; }

  // Adds the flow to its binding, which is made if it is the first: then true.
  bool link(flow::Slot slot, const flow::FlowRecord& record);
  // A binding without flows, which stays. False: there are kMaxPinned.
  bool pin(const flow::FlowRecord& record);
  // Takes the flow out. True: the binding has gone with it.
  bool unlink(flow::Slot slot);

  // As the flow table does, of whose slots it is. One thread, any.
  void map_ahead(flow::Slot first, std::uint32_t count);

  // The first of at most kWalk flows for which `wanted(slot)`; kNoSlot: none.
  template <typename Wanted>
  [[nodiscard]] flow::Slot find_flow(Index index, Wanted&& wanted) const {
    flow::Slot slot = bindings_[index].first;
    for (unsigned step = 0; step < kWalk && slot != flow::kNoSlot; ++step, slot = links_[slot].next)
      if (wanted(slot)) return slot;
    return flow::kNoSlot;
  }

 private:
  struct Link {
    std::uint32_t binding;  // + 1; 0: none
    flow::Slot next;
    flow::Slot previous;
  };

  // kNone: no room.
  Index make(const flow::FlowRecord& record);
  [[nodiscard]] std::uint64_t inside_hash(const Binding& binding) const;
  [[nodiscard]] std::uint64_t outside_hash(const Binding& binding) const;

  flow::KeyHash hash_;
  flow::ZeroedArray<Binding> bindings_;
  flow::ZeroedArray<Link> links_;  // by slot of the flow table
  flow::FlowIndex inside_;
  flow::FlowIndex outside_;
  Index free_ = kNone;
  Index high_water_ = 0;
  bool front_mapped_ = false;
  std::uint32_t size_ = 0;
  std::uint32_t pinned_ = 0;
};

}  // namespace penstock::nat
