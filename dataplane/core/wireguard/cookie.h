// mac1, mac2 and cookies (whitepaper section 5.4.4, 5.4.7), both sides. One thread.
//
// The giver's cookie is MAC(secret, source address ‖ source port); the secret changes every two minutes and is random,
// so a cookie proves that its owner receives at that address and port lately. The taker keeps a cookie per path.
#pragma once

#include <optional>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/wireguard/blake2s_batch.h"
#include "dataplane/core/wireguard/crypto.h"
#include "dataplane/core/wireguard/messages.h"

namespace penstock::wireguard {

// Keys derived from the public key of whoever receives a handshake message.
[[nodiscard]] Hash mac1_key(const PublicKey& receiver);
[[nodiscard]] Hash cookie_key(const PublicKey& receiver);

// A handshake message (initiation or response) is what precedes its two MACs.
[[nodiscard]] inline Bytes before_mac1(Bytes message) {
  return message.first(message.size() - 2 * kMacSize);
}
[[nodiscard]] inline Bytes before_mac2(Bytes message) {
  return message.first(message.size() - kMacSize);
}

// Whether there is a mac2 at all; without a cookie it is zero.
[[nodiscard]] inline bool has_mac2(Bytes message) {
  const std::uint8_t* mac2 = message.data() + message.size() - kMacSize;
  return (load_le<std::uint64_t>(mac2) | load_le<std::uint64_t>(mac2 + 8)) != 0;
}

// Writes mac1 into a message that is complete otherwise, and returns it.
Mac put_mac1(MutableBytes message, const PublicKey& receiver);
// Writes mac2: with a cookie, or zeroes.
void put_mac2(MutableBytes message, const std::optional<Mac>& cookie);

class CookieGiver {
 public:
  CookieGiver(const PublicKey& own, Random& random);

  // `message`: an initiation or response, length checked.
  [[nodiscard]] bool mac1_valid(Bytes message) const;
  [[nodiscard]] bool mac2_valid(Bytes message, const Endpoint& source, Instant now);
  // `sender`: the message's sender index, which the reply's receiver repeats.
  [[nodiscard]] CookieMessage make_reply(Bytes message, std::uint32_t sender, const Endpoint& source, Instant now);

  // For batches (handshake_gate.h): the key of mac1, and that of mac2 for this source.
  [[nodiscard]] const MacKey& key_of_mac1() const { return mac1_key_; }
  [[nodiscard]] Mac cookie_for(const Endpoint& source, Instant now);

 private:
  MacKey mac1_key_;
  Hash cookie_key_;
  Random& random_;
  MacKey secret_;
  std::optional<Instant> secret_at_;
};

// The cookies one peer gave us.
class CookieTaker {
 public:
  // Takes the cookie out of a reply to the message whose mac1 was `mac1`. False when it does not authenticate.
  bool take(const CookieMessage& reply, const PublicKey& giver, const Mac& mac1, const Path& path, Instant now);
  // A cookie for this path that is not too old.
  [[nodiscard]] std::optional<Mac> find(const Path& path, Instant now) const;

 private:
  static constexpr std::size_t kMaxPaths = 16;  // candidates are bounded; the oldest makes room
  struct Entry {
    Path path;
    Mac cookie;
    Instant received_at;
  };
  std::vector<Entry> entries_;
};

}  // namespace penstock::wireguard
