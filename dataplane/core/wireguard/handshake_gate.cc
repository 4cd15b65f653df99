#include "dataplane/core/wireguard/handshake_gate.h"

#include <algorithm>

namespace penstock::wireguard {
namespace {

// While the load is known to be too high, every so many messages is looked at to see whether it still is: looking each
// one's source up in a large table is what a flood from everywhere would be felt by.
constexpr std::uint32_t kLookEvery = 16;
// Of how many peers behind one known address the rates add up. Without a cookie, few: an address can be forged, and who
// does shall not have our time. With one, as many as an office has: what is left of a thread's time is theirs.
constexpr std::uint32_t kPeersUnproved = 16;
constexpr std::uint32_t kPeersProved = 256;

bool has_mac2(Bytes message) {
  std::uint64_t words[2];
  std::memcpy(words, message.data() + message.size() - kMacSize, kMacSize);
  return (words[0] | words[1]) != 0;
}

std::uint32_t sender_of(Bytes message) {  // stands at the same place in both kinds of messages
  return load_le<std::uint32_t>(message.data() + 4);
}

}  // namespace

HandshakeGate::HandshakeGate(const PublicKey& own, const GateLimits& limits, const KnownSources* known, Random& random)
    : giver_(own, random),
      known_(known),
      known_rate_(known == nullptr ? 1 : limits.limiter_sets, limits.per_source_per_s, limits.per_source_burst, random),
      unproved_(limits.limiter_sets, limits.per_source_per_s, limits.per_source_burst, random),
      proved_(limits.limiter_sets, limits.per_source_per_s, limits.per_source_burst, random),
      load_(limits.under_load_per_s),
      cookies_(limits.cookies_per_s, std::max(limits.cookies_per_s / 20, 32U)) {}

void HandshakeGate::judge(std::span<GateMessage> messages, Instant now) {
  check_mac1(messages);
  GateMessage* doubted[kBatch];
  std::size_t count = 0;
  for (GateMessage& message : messages) {
    message.answer = false;
    if (message.verdict != DropReason::none || passes_without_cookie(message, peers_at(message.source.address), now))
      continue;
    message.verdict = DropReason::wg_mac2_required;
    if (has_mac2(message.bytes)) {
      doubted[count++] = &message;
    } else {
      offer_cookie(message, now);
    }
  }
  if (count > 0) check_mac2({doubted, count}, now);
}

// Initiations and responses are of different length, and lanes want equal ones.
void HandshakeGate::check_mac1(std::span<GateMessage> messages) const {
  for (GateMessage& message : messages) message.verdict = DropReason::wg_length;
  for (const std::size_t size : {sizeof(InitiationMessage), sizeof(ResponseMessage)}) {
    const std::uint8_t* bytes[kBatch];
    GateMessage* of[kBatch];
    Mac macs[kBatch];
    std::size_t count = 0;
    for (GateMessage& message : messages) {
      if (message.bytes.size() != size) continue;
      of[count] = &message;
      bytes[count++] = message.bytes.data();
    }
    if (count == 0) continue;
    const std::size_t length = size - 2 * kMacSize;
    mac_batch(giver_.key_of_mac1(), {bytes, count}, length, macs);
    for (std::size_t i = 0; i < count; ++i)
      of[i]->verdict = equal_constant_time(macs[i], {bytes[i] + length, kMacSize}) ? DropReason::none
                                                                                   : DropReason::wg_mac1;
  }
}

bool HandshakeGate::passes_without_cookie(const GateMessage& message, std::uint32_t peers, Instant now) {
  const IpAddress& source = message.source.address;
  if (peers != 0) {
    const bool within_rate = known_rate_.allow(source, now, std::min(peers, kPeersUnproved));
    counts_.known += within_rate;
    return within_rate;
  }
  if (load_.over(now) && ++skipped_ % kLookEvery != 0) return false;
  const bool within_rate = unproved_.allow(source, now);
  if (within_rate) load_.count(now);
  return within_rate && !under_load(now);
}

void HandshakeGate::check_mac2(std::span<GateMessage*> messages, Instant now) {
  for (const std::size_t size : {sizeof(InitiationMessage), sizeof(ResponseMessage)}) {
    const std::uint8_t* bytes[kBatch];
    const std::uint8_t* keys[kBatch];
    GateMessage* of[kBatch];
    Mac cookies[kBatch];
    Mac macs[kBatch];
    std::size_t count = 0;
    for (GateMessage* message : messages) {
      if (message->bytes.size() != size) continue;
      cookies[count] = giver_.cookie_for(message->source, now);
      keys[count] = cookies[count].data();
      of[count] = message;
      bytes[count++] = message->bytes.data();
    }
    if (count == 0) continue;
    const std::size_t length = size - kMacSize;
    mac_batch(std::span<const std::uint8_t* const>{keys, count}, {bytes, count}, length, macs);
    for (std::size_t i = 0; i < count; ++i) {
      if (!equal_constant_time(macs[i], {bytes[i] + length, kMacSize})) {
        offer_cookie(*of[i], now);
      } else if (proved_.allow(of[i]->source.address, now,
                               std::clamp<std::uint32_t>(peers_at(of[i]->source.address), 1, kPeersProved))) {
        of[i]->verdict = DropReason::none;
        ++counts_.proved;
      } else {
        of[i]->verdict = DropReason::wg_rate_limited;
      }
    }
  }
}

void HandshakeGate::offer_cookie(GateMessage& message, Instant now) {
  if (!cookies_.take(now)) return;
  message.reply = giver_.make_reply(message.bytes, sender_of(message.bytes), message.source, now);
  message.answer = true;
  ++counts_.cookies;
}

}  // namespace penstock::wireguard
