// The bulk encryption backends of this build, best first. A new one is a file with a make function and a line here.
#pragma once

#include <memory>
#include <string_view>

#include "dataplane/core/wireguard/aead.h"

namespace penstock::wireguard {

// Each returns nullptr when the build or the machine lacks what it needs.
std::unique_ptr<AeadContext> make_lanes_context();
std::unique_ptr<AeadContext> make_ipsec_mb_context();
std::unique_ptr<AeadContext> make_openssl_context();

struct AeadBackend {
  std::string_view name;
  std::unique_ptr<AeadContext> (*make)();
};

inline constexpr AeadBackend kAeadBackends[] = {
    {"lanes", make_lanes_context},
    {"ipsec-mb", make_ipsec_mb_context},
    {"openssl", make_openssl_context},
};

}  // namespace penstock::wireguard
