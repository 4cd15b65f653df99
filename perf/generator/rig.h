// The generator's two ports: frames out, IP packets in, and just enough ARP to be found and to find the device under
// test. One thread.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "dataplane/core/packet/headers.h"
#include "dataplane/io/eal.h"
#include "dataplane/io/pool.h"
#include "dataplane/io/port.h"
#include "perf/generator/options.h"

namespace penstock::generator {

enum class Side : std::uint8_t { wan, lan };

class Rig {
 public:
  // nullptr: `error` says what failed.
  static std::unique_ptr<Rig> open(const Options& options, std::string& error);
  ~Rig();

  // Asks on both sides until the device under test has answered. Empty, or which side did not within `patience`.
  [[nodiscard]] std::string find_gateways(Duration patience);

  // Empty packets with room before and behind; fewer than asked for when the pool runs dry.
  [[nodiscard]] std::size_t allocate(std::span<Packet*> packets);
  void release(std::span<Packet* const> packets) { pool_->release(packets); }

  // Writes the Ethernet header in front.
  void address(Side side, Packet& packet, bool ip6) const;
  // Sends complete frames; returns how many were taken. The rest is released.
  std::size_t send(Side side, std::span<Packet* const> frames);
  // IP packets that have arrived, data at the IP header. ARP is dealt with here. To be released by the caller.
  void receive(Side side, PacketBurst& packets);

 private:
  Rig() = default;
  struct End {
    std::unique_ptr<io::DpdkPort> port;
    IpAddress first_address;  // ours: `addresses` of them
    std::uint32_t addresses = 1;
    IpAddress gateway;
    std::optional<MacAddress> gateway_mac;
  };
  [[nodiscard]] End& end(Side side) { return ends_[static_cast<std::size_t>(side)]; }
  // True when the packet was kept to be sent as an answer.
  bool handle_arp(End& end, Packet& packet);
  void ask(End& end);

  std::unique_ptr<io::Eal> eal_;
  std::unique_ptr<io::MbufPool> pool_;
  std::array<End, 2> ends_;
};

}  // namespace penstock::generator
