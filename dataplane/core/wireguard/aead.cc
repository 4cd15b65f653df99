#include "dataplane/core/wireguard/aead.h"

#include "dataplane/core/wireguard/aead_backends.h"

namespace penstock::wireguard {

std::unique_ptr<AeadContext> make_aead_context(std::string_view backend) {
  // Best first; a backend that this build or this machine lacks gives nullptr.
  for (const AeadBackend& candidate : kAeadBackends) {
    if (backend != "auto" && backend != candidate.name) continue;
    if (auto context = candidate.make()) return context;
  }
  return nullptr;
}

}  // namespace penstock::wireguard
