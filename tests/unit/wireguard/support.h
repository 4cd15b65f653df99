// What the WireGuard tests share: seeded randomness, virtual time, and a link between devices that loses, delays,
// duplicates and reorders.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/core/wireguard/device.h"
#include "dataplane/core/wireguard/limits.h"

namespace penstock::wireguard {

// splitmix64: the same seed gives the same run.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
  void fill(std::span<std::uint8_t> out) override {
    for (auto& byte : out) byte = static_cast<std::uint8_t>(next());
  }
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

inline constexpr WallTime kEpoch{1'700'000'000, 0};

// Virtual time starts an hour after the monotonic clock's zero.
inline Now time_at(Duration since_start, WallTime epoch = kEpoch) {
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(since_start);
  return {Instant(std::chrono::hours(1) + since_start),
          {epoch.seconds + static_cast<std::uint64_t>(whole.count()),
           static_cast<std::uint32_t>((since_start - whole).count())}};
}

PrivateKey private_key(std::uint64_t seed);
PublicKey public_key(const PrivateKey& key);
Endpoint endpoint(const std::string& text);
Path path_to(const std::string& local, const std::string& remote);

// A minimal IPv4 packet of `length` bytes (at least 20) whose payload is filled from `tag`.
std::vector<std::uint8_t> inner_packet(std::size_t length, std::uint8_t tag = 0);

// A device with an address, what it received and what happened to it.
struct Node {
  std::string name;
  Endpoint address;
  std::unique_ptr<SeededRandom> random;
  std::unique_ptr<Device> device;
  std::vector<std::vector<std::uint8_t>> received;  // inner packets
  std::vector<Event> events;
  std::vector<DropReason> drops;
  std::vector<std::uint8_t> sent_types;  // of WireGuard messages sent, in order
  std::vector<Instant> sent_at;

  [[nodiscard]] std::size_t count(EventType type) const;
  [[nodiscard]] std::size_t count(DropReason reason) const;
  [[nodiscard]] std::size_t count_sent(MessageType type) const;
};

// Devices joined by a link, under virtual time.
class Network {
 public:
  explicit Network(std::uint64_t seed) : random_(seed) {}

  Node& add(const std::string& name, const std::string& address, DeviceConfig config = {});
  // Makes each the other's peer; returns nothing, the indices are 0, 1, … in order of connecting.
  static PeerConfig peer_config(const Node& of, bool with_endpoint = true);

  // Runs until `until` (since start): delivers datagrams, fires timers.
  void run(Duration until);
  void run_for(Duration length) { run(now_ + length); }
  [[nodiscard]] Now now() const { return time_at(now_, epoch); }
  [[nodiscard]] Duration elapsed() const { return now_; }
  // After every direct call of a device: takes its output and events.
  void collect(Node& node);
  void send(Node& from, PeerIndex peer, const std::vector<std::uint8_t>& inner);
  // A datagram into the network as if `source` had sent it.
  void inject(const Endpoint& source, const Endpoint& destination, std::vector<std::uint8_t> bytes,
              Duration delay = {});

  // The link. Probabilities in per mille.
  Duration delay = std::chrono::milliseconds(10);
  Duration jitter{};
  std::uint32_t loss = 0, duplicate = 0;
  // Sees every datagram; returns false to lose it. May change the addresses (a NAT).
  std::function<bool(Endpoint& source, Endpoint& destination, std::vector<std::uint8_t>& bytes)> filter;
  WallTime epoch = kEpoch;

 private:
  struct Flight {
    Endpoint source, destination;
    std::vector<std::uint8_t> bytes;
  };
  void launch(const Endpoint& source, const Endpoint& destination, const std::vector<std::uint8_t>& bytes);

  SeededRandom random_;
  Duration now_{};
  std::multimap<Duration, Flight> flights_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace penstock::wireguard
