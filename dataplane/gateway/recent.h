// What was looked up for an address a moment ago, within one call of a stage: the packets of a burst go to few places,
// in any order. Direct-mapped, on the stack; forgets what does not fit. Nothing is kept from call to call, so that no
// change of the tables behind it can be missed.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/core/base/address_words.h"

namespace penstock::gateway {

template <typename Value>
class Recent {
 public:
  // nullptr: not known.
  [[nodiscard]] Value* find(const AddressWords& address) {
    const std::size_t at = place(address);
    return (known_ >> at & 1) != 0 && addresses_[at] == address ? &values_[at] : nullptr;
  }
  Value& put(const AddressWords& address) {
    const std::size_t at = place(address);
    known_ |= std::uint32_t{1} << at;
    addresses_[at] = address;
    return values_[at];
  }

 private:
  static constexpr unsigned kBits = 5;
  static std::size_t place(const AddressWords& address) {
    return static_cast<std::size_t>(((address.low ^ address.high) * 0x9e3779b97f4a7c15ULL) >> (64 - kBits));
  }
  static_assert(kBits == 5, "a bit of `known_` each");

  std::uint32_t known_ = 0;
  std::array<AddressWords, 1U << kBits> addresses_;
  std::array<Value, 1U << kBits> values_;
};

}  // namespace penstock::gateway
