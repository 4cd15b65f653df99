#include "tests/model/tunnel_nodes.h"

#include <algorithm>
#include <cstring>

#include "dataplane/core/wireguard/messages.h"

namespace penstock::model {

using namespace std::chrono_literals;

namespace {

constexpr std::size_t kPacketSize = 28;

}  // namespace

Endpoint socket_of(const Endpoint& remote, const Endpoint& four, const Endpoint& six) {
  return remote.address.is_v4() ? four : six;
}

wireguard::DeviceConfig device_config(const wireguard::PrivateKey& key) {
  wireguard::DeviceConfig out;
  out.private_key = key;
  out.max_peers = 16;
  out.aead = "openssl";
  return out;
}

std::vector<std::uint8_t> make_packet(std::uint32_t number, bool echo) {
  std::vector<std::uint8_t> out(kPacketSize);
  out[0] = 0x45;
  out[3] = kPacketSize;
  out[8] = 64;
  out[9] = 17;
  out[12] = out[16] = 100;
  out[15] = echo ? 2 : 1;
  std::memcpy(out.data() + 20, &number, 4);
  return out;
}

std::optional<std::uint32_t> packet_number(Bytes inner, bool echo) {
  if (inner.size() != kPacketSize || inner[0] != 0x45 || inner[15] != (echo ? 2 : 1)) return std::nullopt;
  std::uint32_t number;
  std::memcpy(&number, inner.data() + 20, 4);
  return number;
}

std::optional<std::vector<std::uint8_t>> seal_packet(wireguard::Device& device, PeerIndex peer, Bytes inner, Now now) {
  std::vector<std::uint8_t> buffer(wireguard::kDataHeaderSize + inner.size() + wireguard::kPaddingMultiple +
                                   wireguard::kTagSize);
  std::copy(inner.begin(), inner.end(), buffer.begin() + wireguard::kDataHeaderSize);
  wireguard::Outbound out;
  out.inner = buffer.data() + wireguard::kDataHeaderSize;
  out.length = static_cast<std::uint32_t>(inner.size());
  if (device.seal(peer, {&out, 1}, now).reason != DropReason::none) return std::nullopt;
  return std::vector<std::uint8_t>{out.datagram.begin(), out.datagram.end()};
}

// ---- portal ----

void Introducer::request(TunnelClient& client) {
  if (!up) return;
  network_.schedule(network_.time() + latency, [this, &client] {
    if (!up) return;
    gateway_.authorize(client.key(), client.connectivity.local_candidates(), network_.now());
  });
  network_.schedule(network_.time() + 3 * latency, [this, &client] {
    if (up) client.granted(gateway_.key(), gateway_.candidates(network_.now()), network_.now());
  });
}

void Introducer::client_candidates(TunnelClient& client) {
  if (!up) return;
  network_.schedule(network_.time() + 2 * latency, [this, &client] {
    if (up && client.session())
      gateway_.authorize(client.key(), client.connectivity.local_candidates(), network_.now());
  });
}

void Introducer::gateway_candidates(TunnelClient& client) {
  if (!up) return;
  network_.schedule(network_.time() + 2 * latency, [this, &client] {
    if (up) client.trickled(gateway_.candidates(network_.now()), network_.now());
  });
}

}  // namespace penstock::model
