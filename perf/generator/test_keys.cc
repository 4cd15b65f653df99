#include "perf/generator/test_keys.h"

#include <openssl/evp.h>

#include <cstdio>
#include <cstdlib>

namespace penstock::generator {

TestPeer test_peer(const std::string& seed, std::uint32_t number) {
  TestPeer out;
  const std::string text = "penstock-generator test key " + seed + " " + std::to_string(number);
  unsigned length = 0;
  if (EVP_Digest(text.data(), text.size(), out.private_key.bytes.data(), &length, EVP_sha256(), nullptr) != 1 ||
      length != wireguard::kKeySize)
    std::abort();
  const auto public_key = wireguard::derive_public_key(out.private_key);
  if (!public_key) std::abort();
  out.public_key = *public_key;
  const std::uint32_t host = number + 2;
  out.tunnel_v4 = IpAddress::v4(0x64400000U + host);  // 100.64.0.0/11
  std::array<std::uint8_t, 16> v6{0xfd, 0x00, 0x20, 0x21, 0x11, 0x11};
  v6[13] = static_cast<std::uint8_t>(host >> 16);
  v6[14] = static_cast<std::uint8_t>(host >> 8);
  v6[15] = static_cast<std::uint8_t>(host);
  out.tunnel_v6 = IpAddress::v6(v6);
  return out;
}

void print_static_section(const Options& options) {
  const bool nat64 = options.translation == Translation::nat64;
  std::printf("static:\n  peers:\n");
  for (std::uint32_t i = 0; i < options.peers; ++i) {
    const TestPeer peer = test_peer(options.seed, options.first_peer + i);
    std::printf("    - public_key: \"%s\"\n", peer.public_key.to_base64().c_str());
    std::printf("      tunnel_addresses: [%s, \"%s\"]\n", peer.tunnel_v4.to_string().c_str(),
                peer.tunnel_v6.to_string().c_str());
    std::printf("      authorisations: [{resource: lab, dns: lab.example}]\n");
    std::printf(
        "      translations: [{resource: lab, name: lab.example, proxy_v4: %s, proxy_v6: \"%s\", addresses: [%s]}]\n",
        nat64 ? "100.96.0.1" : options.destination.to_string().c_str(),
        nat64 ? options.destination.to_string().c_str() : "fd00:2021:1111:8000::1",
        options.server.address.to_string().c_str());
  }
}

}  // namespace penstock::generator
