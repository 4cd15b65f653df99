// A thread that does the costly part of WireGuard handshakes: the gate (wireguard/handshake_gate.h) before all messages
// that arrive, and the scalar multiplications of those that pass (wireguard/handshake_work.h). Some five thousand
// handshakes a second, or some millions of forged messages refused.
//
//     worker ── known, strangers ─→ gate ─→ queue ─→ open ─→ slow thread: claim ─→ answer ─→ slow thread: finish
//            ←─ cookies ──────────┘
//
// The Device stays the slow thread's alone; works go to and fro over rings, and nothing here takes a lock, so neither
// waits for the other. What keeps tunnels alive is the slow thread's and goes on whatever happens here.
//
// Order of service: handshakes that were begun, then messages from known sources, then those of strangers who showed a
// cookie (or need none). Up to eight at a time share the time of hashing (wireguard/handshake.h); in between the gate
// takes what has arrived meanwhile, so that its rings do not fill while others are served.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "dataplane/core/wireguard/handshake_gate.h"
#include "dataplane/core/wireguard/handshake_work.h"
#include "dataplane/runtime/links.h"
#include "dataplane/runtime/packet_io.h"
#include "dataplane/runtime/system_random.h"

namespace penstock::runtime {

class HandshakeThread {
 public:
  struct Setup {
    std::size_t number = 0;  // among links->handshakes
    wireguard::PrivateKey private_key{};
    wireguard::GateLimits limits;  // of this thread
    PacketPool* pool = nullptr;
    Platform* platform = nullptr;
    Links* links = nullptr;
  };

  explicit HandshakeThread(const Setup& setup);
  ~HandshakeThread();  // stops
  HandshakeThread(const HandshakeThread&) = delete;
  HandshakeThread& operator=(const HandshakeThread&) = delete;

  void start();
  void stop();

  // Handshakes under way in one thread; the Device keeps an index for each (DeviceConfig::handshakes_in_flight).
  static constexpr std::size_t kWorks = 512;

  // Any thread.
  struct Counts {
    std::uint64_t answered = 0;  // responses computed
    std::uint64_t known = 0, proved = 0;  // let in at once, being known, or with a cookie
    std::uint64_t cookies = 0;            // offered
    bool under_load = false;
  };
  [[nodiscard]] Counts counts() const;
  [[nodiscard]] std::uint64_t drops(DropReason reason) const {
    return drops_[static_cast<std::size_t>(reason)].load(std::memory_order_relaxed);
  }

 private:
  using Work = wireguard::InitiationWork;
  static constexpr std::size_t kGateBatch = wireguard::HandshakeGate::kBatch;

  void loop();
  bool take_from_device();
  std::span<Work*> take(std::deque<Work*>& queue);
  bool answer_some();
  bool open_some();
  bool admit(Now now);
  std::size_t admit_from(SpscRing<Packet*>& ring, HandshakeRings& rings, bool known, Now now);
  void gate(std::span<Packet*> packets, HandshakeRings& rings, bool known, Now now);
  void publish_counts(Now now);
  DropReason let_in(Packet& packet, bool known);
  bool answer_with_cookie(Packet* packet, const wireguard::CookieMessage& reply, HandshakeRings& rings);
  void to_device(Work* work);
  void rest();
  [[nodiscard]] bool has_input() const;
  void count(DropReason reason);

  SystemRandom random_;
  const wireguard::DhKey own_;
  PacketPool& pool_;
  Platform& platform_;
  Links& links_;
  const std::size_t number_;
  HandshakeLink& link_;
  wireguard::HandshakeGate gate_;
  wireguard::ReplyLimiter known_cookie_messages_, other_cookie_messages_;

  std::vector<Work> works_;
  std::vector<Work*> idle_;
  std::array<Work*, wireguard::kHandshakeBatch> batch_{};  // under way
  std::deque<Work*> claimed_;         // to be answered
  std::deque<Work*> known_, others_;  // to be opened
  bool replied_ = false;              // to the worker whose rings are being looked at
  std::uint64_t answered_count_ = 0;

  std::array<std::atomic<std::uint64_t>, kDropReasonCount> drops_{};
  struct {
    std::atomic<std::uint64_t> answered{0}, known{0}, proved{0}, cookies{0};
    std::atomic<bool> under_load{false};
  } published_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace penstock::runtime
