// Two TURN clients that talk to each other through their allocations: what both test programs ask of them. The program
// gives each its transport (`Side`: a member `client`, `received`, `by_channel`, `send_payload()`) and runs the two.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "controlplane/core/paths/turn_client.h"

namespace penstock {

template <typename Side>
class TurnPair {
 public:
  TurnPair(Side& a, Side& b, Random& random, std::function<Instant()> clock)
      : a_(a), b_(b), random_(random), clock_(std::move(clock)) {}
  virtual ~TurnPair() = default;
  TurnPair(const TurnPair&) = delete;
  TurnPair& operator=(const TurnPair&) = delete;

  // Runs both until `done` or the limit; whether it was done.
  virtual bool run(Duration limit, const std::function<bool()>& done) = 0;

  [[nodiscard]] bool both(paths::TurnClient::State state) const {
    return a_.client.state() == state && b_.client.state() == state;
  }
  // The relayed addresses are the server's own; the peers are each other's relayed endpoints.
  bool permit() {
    a_.client.permit(b_.client.relayed().address, clock_());
    b_.client.permit(a_.client.relayed().address, clock_());
    return run(std::chrono::seconds{10}, [&] {
      return a_.client.can_send(b_.client.relayed().address, clock_()) &&
             b_.client.can_send(a_.client.relayed().address, clock_());
    });
  }
  std::string channels() {
    a_.client.bind_channel(b_.client.relayed(), clock_());
    b_.client.bind_channel(a_.client.relayed(), clock_());
    const bool ok = run(std::chrono::seconds{10}, [&] {
      return a_.client.overhead(b_.client.relayed()) == 4 && b_.client.overhead(a_.client.relayed()) == 4;
    });
    return ok ? "ok" : "error no channel";
  }
  // `count` payloads of many sizes each way; every one must arrive unharmed.
  std::string exchange(std::size_t count) {
    const std::size_t before = a_.by_channel + b_.by_channel;
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<std::uint8_t> payload((i * 37) % 1300);
      random_.fill(payload);
      for (const bool forward : {true, false}) {
        Side& from = forward ? a_ : b_;
        Side& to = forward ? b_ : a_;
        to.received.clear();
        if (!from.send_payload(to.client.relayed(), payload)) return "error cannot send";
        if (!run(std::chrono::seconds{5}, [&] { return !to.received.empty(); }))
          return "error payload " + std::to_string(i) + " lost";
        if (to.received.front() != payload) return "error payload changed";
        if (to.last_peer != from.client.relayed()) return "error wrong peer " + to.last_peer.to_string();
      }
    }
    return "ok channel=" + std::to_string(a_.by_channel + b_.by_channel - before);
  }

 protected:
  Side& a_;
  Side& b_;
  Random& random_;
  std::function<Instant()> clock_;
};

// A payload in the envelope its client gives it, or nothing while it cannot be sent.
inline std::vector<std::uint8_t> enveloped(paths::TurnClient& client, const Endpoint& peer,
                                           const std::vector<std::uint8_t>& payload, Instant now) {
  const auto wrapping = client.wrap(peer, payload.size(), now);
  if (!wrapping) return {};
  std::vector<std::uint8_t> bytes{wrapping->prefix.begin(), wrapping->prefix.begin() + wrapping->prefix_size};
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  bytes.resize(bytes.size() + wrapping->padding);
  return bytes;
}

}  // namespace penstock
