// To which worker a NIC brings the replies to a flow, so that a port can be chosen whose replies come to the flow's owner.
//
// Theory of operation. Receive-side scaling hashes a packet's addresses and ports with Toeplitz's function, keyed; the low
// bits of the hash choose an entry of the redirection table, which names a queue, and queue q is worker q's. The function
// is linear: every byte of the input contributes to the hash by its place and value alone, and contributions are XORed.
// So whatever of a reply is known before its port is summed up once, and a port costs two look-ups.
//
// Immutable; any thread. 36 KiB.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::nat {

// What a port says about its NIC.
struct RssLayout {
  std::vector<std::uint8_t> key;      // at least ReplySteering::kKeySize bytes
  std::vector<std::uint16_t> queues;  // the redirection table, a power of two of entries
  // What is hashed with its ports; the rest by its addresses alone or not at all, and no port helps.
  bool tcp4 = false, udp4 = false, tcp6 = false, udp6 = false;

  bool operator==(const RssLayout&) const = default;
};

class ReplySteering {
 public:
  static constexpr std::size_t kInput = 36;  // two IPv6 addresses, two ports
  static constexpr std::size_t kKeySize = kInput + 4;

  // Whether a layout is of use to so many workers: every one of them must have a queue that something comes to.
  [[nodiscard]] static bool usable(const RssLayout& layout, std::uint16_t workers);
  // `layout` is usable.
  explicit ReplySteering(const RssLayout& layout);

  [[nodiscard]] bool covers(std::uint8_t protocol, bool v6) const;

  // A reply comes from `remote` to `local`, a port of ours that is still to be chosen. Both of one family.
  [[nodiscard]] std::uint32_t without_port(const IpAddress& remote, std::uint16_t remote_port,
                                           const IpAddress& local) const;
  [[nodiscard]] std::uint32_t hash(std::uint32_t without_port, bool v6, std::uint16_t local_port) const {
    const std::size_t at = (v6 ? kInput : kInputV4) - 2;
    return without_port ^ contribution_[at][local_port >> 8] ^ contribution_[at + 1][local_port & 0xff];
  }
  [[nodiscard]] std::uint16_t queue(std::uint32_t hash) const { return queues_[hash & (queues_.size() - 1)]; }

 private:
  static constexpr std::size_t kInputV4 = 12;

  std::array<std::array<std::uint32_t, 256>, kInput> contribution_;  // by place and value of a byte
  std::vector<std::uint16_t> queues_;
  bool tcp4_, udp4_, tcp6_, udp6_;
};

// Whether a reply to a port comes to a worker.
struct Landing {
  const ReplySteering* steering;
  std::uint32_t without_port;
  bool v6;
  std::uint16_t worker;

  bool operator()(std::uint16_t port) const {
    return steering->queue(steering->hash(without_port, v6, port)) == worker;
  }
};

}  // namespace penstock::nat
