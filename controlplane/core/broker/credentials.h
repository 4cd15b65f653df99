// Secrets the portal derives: preshared keys, relay credentials, token digests. Pure; nothing here is ever logged.
#pragma once

#include <string>
#include <string_view>

#include "controlplane/core/broker/config.h"
#include "controlplane/core/convert.h"
#include "dataplane/core/base/time.h"

namespace penstock::broker {

[[nodiscard]] Sha256 sha256(std::string_view text);

// Constant time: how long it takes says nothing about where the digests differ.
[[nodiscard]] bool same_digest(const Sha256& a, const Sha256& b);

// HMAC-SHA256(portal secret, client key || gateway key): the same for the same pair for ever, and never stored.
[[nodiscard]] Key preshared_key(std::string_view portal_secret, const Key& client, const Key& gateway);

struct RelayCredential {
  std::string username;  // "EXPIRY:CLIENT"
  std::string password;  // base64(HMAC-SHA1(shared secret, username))
  WallTime expires;
};
// As coturn's use-auth-secret expects them (draft-uberti-behave-turn-rest).
[[nodiscard]] RelayCredential relay_credential(std::string_view shared_secret, std::string_view client,
                                               WallTime expires);

}  // namespace penstock::broker
