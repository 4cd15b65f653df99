// Little-endian values in and out of a row of bytes. A reader that runs off the end, or meets a value out of range, has
// failed for good and gives zeroes from then on: what was read counts only if `good()` at the end.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"

namespace penstock::handover {

// Of a body (state.h). Word by word, so that gigabytes cost little.
[[nodiscard]] std::uint64_t checksum(Bytes bytes);

class Writer {
 public:
  explicit Writer(std::vector<std::uint8_t>& to) : to_(to) {}

  template <typename Int>
    requires std::is_integral_v<Int>
  void value(Int value) {
    std::array<std::uint8_t, sizeof(Int)> wire;
    store_le(wire.data(), value);
    bytes(wire);
  }
  void value(bool on) { value(static_cast<std::uint8_t>(on ? 1 : 0)); }
  void value(Instant at) { value(std::int64_t{at.time_since_epoch().count()}); }
  void value(Duration length) { value(std::int64_t{length.count()}); }
  void value(const IpAddress& address) { bytes(address.bytes()); }
  void value(const Endpoint& endpoint) {
    value(endpoint.address);
    value(endpoint.port);
  }
  void value(const Path& path) {
    value(path.local);
    value(path.remote);
    value(path.relay);
  }
  void bytes(Bytes octets) { to_.insert(to_.end(), octets.begin(), octets.end()); }
  void count(std::size_t n) { value(static_cast<std::uint64_t>(n)); }
  void block(Bytes octets) {
    count(octets.size());
    bytes(octets);
  }

 private:
  std::vector<std::uint8_t>& to_;
};

class Reader {
 public:
  explicit Reader(Bytes from) : left_(from) {}

  [[nodiscard]] bool good() const { return good_; }
  [[nodiscard]] bool at_end() const { return left_.empty(); }
  void fail() { good_ = false; }

  template <typename Int>
    requires std::is_integral_v<Int>
  void value(Int& out) {
    std::array<std::uint8_t, sizeof(Int)> wire{};
    bytes(wire);
    out = load_le<Int>(wire.data());
  }
  void value(bool& out) {
    std::uint8_t octet = 0;
    value(octet);
    if (octet > 1) fail();
    out = octet == 1;
  }
  void value(Instant& out) {
    Duration since{};
    value(since);
    out = Instant(since);
  }
  void value(Duration& out) {
    std::int64_t nanoseconds = 0;
    value(nanoseconds);
    // Whatever is done with it later must not overflow.
    constexpr std::int64_t kFar = std::int64_t{1} << 61;
    if (nanoseconds > kFar || nanoseconds < -kFar) fail();
    out = Duration(good_ ? nanoseconds : 0);
  }
  void value(IpAddress& out) {
    std::array<std::uint8_t, 16> octets{};
    bytes(octets);
    out = IpAddress::v6(octets);
  }
  void value(Endpoint& out) {
    value(out.address);
    value(out.port);
  }
  void value(Path& out) {
    value(out.local);
    value(out.remote);
    value(out.relay);
  }
  void bytes(MutableBytes out) {
    if (!good_ || left_.size() < out.size()) {
      fail();
      std::fill(out.begin(), out.end(), std::uint8_t{0});
      return;
    }
    std::copy_n(left_.begin(), out.size(), out.begin());
    left_ = left_.subspan(out.size());
  }
  // How many things of at least `smallest` bytes follow.
  std::size_t count(std::size_t smallest) {
    std::uint64_t n = 0;
    value(n);
    if (n > left_.size() / smallest) fail();
    return good_ ? static_cast<std::size_t>(n) : 0;
  }
  Bytes block() {
    const std::size_t n = count(1);
    const Bytes out = left_.first(n);
    left_ = left_.subspan(n);
    return out;
  }

 private:
  Bytes left_;
  bool good_ = true;
};

}  // namespace penstock::handover
