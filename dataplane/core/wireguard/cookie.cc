#include "dataplane/core/wireguard/cookie.h"

#include <algorithm>
#include <string_view>

#include "dataplane/core/wireguard/limits.h"

namespace penstock::wireguard {
namespace {

Hash labelled(std::string_view label, const PublicKey& key) {
  return hash({Bytes{reinterpret_cast<const std::uint8_t*>(label.data()), label.size()}, key.bytes});
}

}  // namespace

Hash mac1_key(const PublicKey& receiver) {
  return labelled("mac1----", receiver);
}
Hash cookie_key(const PublicKey& receiver) {
  return labelled("cookie--", receiver);
}

Mac put_mac1(MutableBytes message, const PublicKey& receiver) {
  const Mac value = mac(mac1_key(receiver), {before_mac1(message)});
  std::memcpy(message.data() + message.size() - 2 * kMacSize, value.data(), kMacSize);
  return value;
}

void put_mac2(MutableBytes message, const std::optional<Mac>& cookie) {
  const Mac value = cookie ? mac(*cookie, {before_mac2(message)}) : Mac{};
  std::memcpy(message.data() + message.size() - kMacSize, value.data(), kMacSize);
}

CookieGiver::CookieGiver(const PublicKey& own, Random& random)
    : mac1_key_(mac1_key(own)), cookie_key_(cookie_key(own)), random_(random) {}

bool CookieGiver::mac1_valid(Bytes message) const {
  const Mac expected = mac1_key_.mac({before_mac1(message)});
  return equal_constant_time(expected, message.subspan(message.size() - 2 * kMacSize, kMacSize));
}

bool CookieGiver::mac2_valid(Bytes message, const Endpoint& source, Instant now) {
  const Bytes given = message.last(kMacSize);
  if (std::all_of(given.begin(), given.end(), [](std::uint8_t byte) { return byte == 0; })) return false;
  return equal_constant_time(mac(cookie_for(source, now), {before_mac2(message)}), given);
}

CookieMessage CookieGiver::make_reply(Bytes message, std::uint32_t sender, const Endpoint& source, Instant now) {
  CookieMessage reply{};
  reply.type.set(static_cast<std::uint32_t>(MessageType::cookie));
  reply.receiver.set(sender);
  random_.fill(reply.nonce);
  const Mac cookie = cookie_for(source, now);
  const Bytes mac1 = message.subspan(message.size() - 2 * kMacSize, kMacSize);
  xaead_seal(cookie_key_, reply.nonce, mac1, cookie, reply.encrypted_cookie);
  return reply;
}

Mac CookieGiver::cookie_for(const Endpoint& source, Instant now) {
  if (!secret_at_ || now - *secret_at_ >= kCookieSecretMaxAge) {
    Hash secret;
    random_.fill(secret);
    secret_ = MacKey(secret);
    wipe(secret);
    secret_at_ = now;
  }
  const be16 port = be16::from_host(source.port);
  std::array<std::uint8_t, 2> port_bytes;
  std::memcpy(port_bytes.data(), &port, sizeof port);
  return secret_.mac({source.address.wire(), port_bytes});
}

bool CookieTaker::take(const CookieMessage& reply, const PublicKey& giver, const Mac& mac1, const Path& path,
                       Instant now) {
  Mac cookie;
  if (!xaead_open(cookie_key(giver), reply.nonce, mac1, reply.encrypted_cookie, cookie)) return false;
  for (Entry& entry : entries_) {
    if (entry.path != path) continue;
    entry.cookie = cookie;
    entry.received_at = now;
    return true;
  }
  if (entries_.size() == kMaxPaths) {
    entries_.erase(std::min_element(entries_.begin(), entries_.end(),
                                    [](const Entry& a, const Entry& b) { return a.received_at < b.received_at; }));
  }
  entries_.push_back({path, cookie, now});
  return true;
}

std::optional<Mac> CookieTaker::find(const Path& path, Instant now) const {
  for (const Entry& entry : entries_) {
    if (entry.path == path && now - entry.received_at < kCookieSecretMaxAge - kCookieLatency) return entry.cookie;
  }
  return std::nullopt;
}

}  // namespace penstock::wireguard
