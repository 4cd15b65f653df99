// Stands in for aead_ipsec_mb.cc in builds without the library: the backend is not available.
#include "dataplane/core/wireguard/aead_backends.h"

namespace penstock::wireguard {

std::unique_ptr<AeadContext> make_ipsec_mb_context() {
  return nullptr;
}

}  // namespace penstock::wireguard
