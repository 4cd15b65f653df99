// BLAKE2s by OpenSSL: what `blake2s: openssl` in the configuration puts in place of blake2s.h. Any thread.
#pragma once

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/wireguard/crypto.h"

namespace penstock::wireguard {

[[nodiscard]] Hash openssl_hash(Parts parts);
[[nodiscard]] Mac openssl_mac(Bytes key, Parts parts);
[[nodiscard]] Hash openssl_hmac(Bytes key, Parts parts);

}  // namespace penstock::wireguard
