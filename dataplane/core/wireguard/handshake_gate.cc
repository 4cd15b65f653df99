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

// Strangers that a cookie is left for are looked at in groups, as wide as the lanes of most machines.
constexpr std::size_t kGroup = 8;

bool has_length(Bytes message) {
  return message.size() == sizeof(InitiationMessage) || message.size() == sizeof(ResponseMessage);
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
  std::uint64_t tags[kBatch];
  if (known_ != nullptr)
    for (std::size_t i = 0; i < messages.size(); ++i) tags[i] = known_->prefetch(messages[i].source.address);
  GateMessage* looked_at[kBatch];
  std::uint32_t peers[kBatch];  // 0: a stranger
  bool may_pass[kBatch];        // without a cookie
  GateMessage* strangers[kBatch];
  std::size_t looked_at_count = 0, stranger_count = 0;
  const bool overrun = load_.over(now);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    GateMessage& message = messages[i];
    message.answer = false;
    message.verdict = has_length(message.bytes) ? DropReason::wg_mac2_required : DropReason::wg_length;
    if (message.verdict == DropReason::wg_length) continue;
    const std::uint32_t peers_there = known_ == nullptr ? 0 : known_->peers_with(tags[i]);
    const bool may_pass_here = peers_there != 0 || !overrun || ++skipped_ % kLookEvery == 0;
    if (!may_pass_here && !has_mac2(message.bytes)) {
      strangers[stranger_count++] = &message;
      continue;
    }
    peers[looked_at_count] = peers_there;
    may_pass[looked_at_count] = may_pass_here;
    looked_at[looked_at_count++] = &message;
  }
  check_mac1({looked_at, looked_at_count});
  GateMessage* doubted[kBatch];
  std::size_t doubted_count = 0;
  for (std::size_t i = 0; i < looked_at_count; ++i) {
    GateMessage& message = *looked_at[i];
    if (message.verdict != DropReason::none || (may_pass[i] && passes_without_cookie(message, peers[i], now))) continue;
    message.verdict = DropReason::wg_mac2_required;
    if (has_mac2(message.bytes)) {
      doubted[doubted_count++] = &message;
    } else {
      offer_cookie(message, now);
    }
  }
  if (doubted_count > 0) check_mac2({doubted, doubted_count}, now);
  offer_cookies({strangers, stranger_count}, now);
}

// Initiations and responses are of different length, and lanes want equal ones.
void HandshakeGate::check_mac1(std::span<GateMessage* const> messages) const {
  for (const std::size_t size : {sizeof(InitiationMessage), sizeof(ResponseMessage)}) {
    const std::uint8_t* bytes[kBatch];
    GateMessage* of[kBatch];
    Mac macs[kBatch];
    std::size_t count = 0;
    for (GateMessage* message : messages) {
      if (message->bytes.size() != size) continue;
      of[count] = message;
      bytes[count++] = message->bytes.data();
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

// As long as there are cookies: what is left of them is not worth a hash.
void HandshakeGate::offer_cookies(std::span<GateMessage* const> strangers, Instant now) {
  while (!strangers.empty() && cookies_.available(now)) {
    const auto group = strangers.first(std::min(strangers.size(), kGroup));
    strangers = strangers.subspan(group.size());
    check_mac1(group);
    for (GateMessage* message : group) {
      if (message->verdict != DropReason::none) continue;
      message->verdict = DropReason::wg_mac2_required;
      offer_cookie(*message, now);
    }
  }
}

}  // namespace penstock::wireguard
