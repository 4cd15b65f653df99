// A translator with everything around it, for tests: packets on the heap, seeded randomness, virtual time, policies.
// Counts its packets, so that a test can see that none is lost.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/core/nat/translator.h"
#include "tests/path/packet_text.h"

namespace penstock::path {

class SeededRandom : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_{seed} {}
  void fill(std::span<std::uint8_t> out) override {
    for (std::uint8_t& byte : out) {
      state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
      byte = static_cast<std::uint8_t>(state_ >> 56);
    }
  }

 private:
  std::uint64_t state_;
};

class HeapPackets : public PacketSource {
 public:
  Packet* allocate() override { return make({}); }
  Packet* make(const Octets& bytes);
  void free(Packet* packet);
  [[nodiscard]] std::size_t outstanding() const { return buffers_.size(); }

 private:
  static constexpr std::size_t kRoom = 9200;
  struct Buffer {
    Packet packet;
    std::vector<std::uint8_t> memory;
  };
  std::map<Packet*, std::unique_ptr<Buffer>> buffers_;
};

class World {
 public:
  World();

  nat::TranslatorConfig config;  // before the first packet
  std::map<PeerIndex, policy::PeerPolicy> peers;
  void changed() { dirty_ = true; }  // policies: published with a new epoch before the next packet

  struct Result {
    nat::Action action;
    DropReason reason;
    PeerIndex peer;
    std::uint16_t worker;
    Octets bytes;
  };
  // What came out since the last call of either; the packets themselves are freed.
  std::vector<Result> up(PeerIndex peer, const Octets& bytes);
  std::vector<Result> down(const Octets& bytes);
  // Several at once, at most kBurst.
  struct Incoming {
    PeerIndex peer;
    Octets bytes;
  };
  std::vector<Result> up(const std::vector<Incoming>& burst);
  // Lets time pass and ageing happen.
  std::vector<Result> after(Duration duration);
  std::vector<Result> release();

  nat::Translator& translator();
  [[nodiscard]] Now now() const {
    return {Instant{Duration{elapsed_}},
            WallTime{1000000 + static_cast<std::uint64_t>(elapsed_.count() / 1000000000), 0}};
  }
  HeapPackets& packets() { return packets_; }
  SeededRandom random{42};

 private:
  std::vector<Result> collect(nat::Outcomes& outcomes);
  void publish();
  nat::PolicyView view() { return {pointers_.data(), pointers_.size()}; }

  static constexpr std::size_t kPeers = 16;
  HeapPackets packets_;
  Duration elapsed_{std::chrono::seconds{1}};
  bool dirty_ = true;
  std::uint32_t epoch_ = 0;
  std::deque<policy::PeerPolicy> published_;
  std::vector<std::atomic<const policy::PeerPolicy*>> pointers_;
  std::unique_ptr<nat::Translator> translator_;
};

}  // namespace penstock::path
