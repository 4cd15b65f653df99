// The addresses that are ours, with what each is for. Open addressing, built once, then read-only: any thread may look
// up.
#pragma once

#include <cstdint>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/address_words.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::gateway {

namespace address_use {
inline constexpr std::uint8_t none = 0;
inline constexpr std::uint8_t port = 0x01;        // configured on a port (link-local ones too)
inline constexpr std::uint8_t tunnel = 0x02;      // tunnel datagrams arrive here
inline constexpr std::uint8_t source_nat = 0x04;  // translated flows come from here
inline constexpr std::uint8_t any_port = 0x08;    // answered for on every port (source NAT addresses of no port)
}  // namespace address_use

class AddressSet {
 public:
  struct Entry {
    IpAddress address;
    std::uint8_t uses = address_use::none;  // none: empty slot
    PortIndex port = kNoPort;               // where it lives; kNoPort: with any_port
  };

  AddressSet();

  // Adds uses to the address. A port given once stays; two ports may not have the same address except a link-local one
  // (ports with one MAC), for which the first is kept.
  void add(const IpAddress& address, std::uint8_t uses, PortIndex port);

  // nullptr: not ours.
  [[nodiscard]] const Entry* find(const IpAddress& address) const { return find(AddressWords::of(address)); }
  [[nodiscard]] const Entry* find(const AddressWords& address) const {
    const std::size_t mask = entries_.size() - 1;
    for (std::size_t slot = address.hash(0) & mask;; slot = (slot + 1) & mask) {
      const Entry& entry = entries_[slot];
      if (entry.uses == address_use::none) return nullptr;
      if (AddressWords::of(entry.address) == address) return &entry;
    }
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  template <typename Visitor>
  void for_each(Visitor&& visit) const {
    for (const Entry& entry : entries_)
      if (entry.uses != address_use::none) visit(entry);
  }

 private:
  [[nodiscard]] std::size_t slot_of(const IpAddress& address) const;
  void grow();

  // Nearly every look-up is of a stranger's address and should end at an empty slot at once, which the processor then
  // guesses right: a sixteenth full as long as the whole stays in the nearest cache, and never more than half.
  static constexpr std::size_t kSparse = 256;

  std::vector<Entry> entries_;  // a power of two
  std::size_t size_ = 0;
};

}  // namespace penstock::gateway
