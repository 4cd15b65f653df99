// Memory of peers and sessions as the data plane holds them: many configured WireGuard peers with their policies, some
// of them with a live session each, made by whole handshakes with real clients. One JSON object on stdout.
//
// Tables for a million peers are mapped as they are touched, in large pages at random: the first few thousand sessions
// bring all of those, tens of megabytes. So what a session takes is counted over the second half, and what there are of
// fixed costs apart.
//
// Usage: perf-scale-memory PEERS SESSIONS
#include <openssl/evp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/core/policy/snapshot.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/system_random.h"
#include "perf/scale/resident.h"

namespace {

using namespace penstock;
using perf::resident;
using runtime::read_clock;

[[noreturn]] void fail(const char* what, std::uint32_t peer) {
  std::fprintf(stderr, "peer %u: %s\n", peer, what);
  std::exit(1);
}

wireguard::PrivateKey key_of(std::uint32_t peer) {
  wireguard::PrivateKey out;
  const std::string text = "scale " + std::to_string(peer);
  unsigned length = 0;
  if (EVP_Digest(text.data(), text.size(), out.bytes.data(), &length, EVP_sha256(), nullptr) != 1) std::abort();
  return out;
}

Endpoint endpoint_of(std::uint32_t peer) {
  return {IpAddress::v4(0xc6336400U + peer / 50000), static_cast<std::uint16_t>(1024 + peer % 50000)};
}

// What runtime::PolicyStore publishes for a client without names yet.
std::unique_ptr<policy::PeerPolicy> policy_of(PeerIndex peer) {
  auto out = std::make_unique<policy::PeerPolicy>();
  out->peer = peer;
  out->tunnel_v4 = IpAddress::v4(0x64400000U + peer);
  out->control = true;
  out->seal();
  return out;
}

void handshake(wireguard::Device& gateway, const wireguard::PublicKey& gateway_key, std::uint32_t number,
               PeerIndex peer, Random& random) {
  const Now now = read_clock();
  const Path at_gateway{{IpAddress::v4({192, 0, 2, 1}), 51820}, endpoint_of(number), 0};
  const Path at_client{endpoint_of(number), at_gateway.local, 0};
  wireguard::DeviceConfig config;
  config.private_key = key_of(number);
  config.max_peers = 1;
  wireguard::Device client(config, random);
  wireguard::PeerConfig there;
  there.public_key = gateway_key;
  there.endpoints = {at_gateway.local};
  const PeerIndex index = client.add_peer(there, now).peer;
  client.want_session(index, now);
  const auto initiation = client.poll_output();
  if (!initiation) fail("starts no handshake", number);
  if (gateway.handle_handshake(initiation->bytes, at_gateway, now) != DropReason::none) fail("is refused", number);
  while (auto answer = gateway.poll_output()) client.handle_datagram(answer->bytes, at_client, now);
  const auto* session = client.data_path().sending_session(index, now.monotonic);
  if (session == nullptr) fail("has no session", number);
  gateway.handle_note({wireguard::note_bit::confirmed, session->remote_index, peer, at_gateway}, now);
  while (gateway.poll_output()) {
  }
  while (gateway.poll_event()) {
  }
  auto* there_too = gateway.data_path().sending_session(peer, now.monotonic);
  if (there_too == nullptr) fail("has no session at the gateway", number);
  // A session in use has touched all of its replay window.
  using wireguard::ReplayWindow;
  for (std::uint64_t counter = 0; counter < ReplayWindow::kWindow; counter += ReplayWindow::kBlock)
    if (!there_too->window.accept(counter)) fail("refuses a counter", number);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s PEERS SESSIONS\n", argv[0]);
    return 2;
  }
  const auto peers = static_cast<std::uint32_t>(std::atol(argv[1]));
  const auto sessions = static_cast<std::uint32_t>(std::atol(argv[2]));
  runtime::SystemRandom random;
  std::vector<PeerIndex> indices(sessions);

  const double before = resident();
  const auto began = std::chrono::steady_clock::now();
  wireguard::DeviceConfig config;
  random.fill(config.private_key.bytes);
  config.max_peers = peers;
  config.traffic_writers = 2;
  config.activity_granularity = std::chrono::milliseconds(100);
  config.under_load_per_s = config.per_source_per_s = config.per_source_burst = 1U << 30;  // not the subject
  wireguard::Device gateway(config, random);
  gateway::PolicyTable policies(peers);
  const double ready_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  const double empty = resident();

  const auto adding = std::chrono::steady_clock::now();
  for (std::uint32_t i = 0; i < peers; ++i) {
    wireguard::PeerConfig peer;
    peer.path_switch = true;
    if (i < sessions) {
      peer.public_key = *wireguard::derive_public_key(key_of(i));
    } else {
      random.fill(peer.public_key.bytes);
    }
    random.fill(peer.preshared_key.bytes);
    if (i < sessions) peer.preshared_key = {};
    const auto added = gateway.add_peer(peer, read_clock());
    if (added.error != wireguard::PeerError::none) fail("cannot be added", i);
    if (i < sessions) indices[i] = added.peer;
  }
  const double add_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - adding).count();
  const double configured = resident();
  for (PeerIndex i = 0; i < peers; ++i) policies.publish(i, policy_of(i).release());
  const double with_policy = resident();
  double half = with_policy;
  for (std::uint32_t i = 0; i < sessions; ++i) {
    if (i == sessions / 2) half = resident();
    handshake(gateway, gateway.public_key(), i, indices[i], random);
    if (i % 10000 == 9999) std::fprintf(stderr, "%u of %u sessions\n", i + 1, sessions);
  }
  const double end = resident();
  const double session = sessions > 1 ? (end - half) / (sessions - sessions / 2) : 0.0;
  std::printf(
      "{\"empty_bytes\": %.0f, \"peer_bytes\": %.1f, \"policy_bytes\": %.1f, \"session_bytes\": %.1f, "
      "\"tables_bytes\": %.0f, \"total_bytes\": %.0f, "
      "\"session_size\": %zu, \"ready_s\": %.4f, \"add_s\": %.3f}\n",
      empty - before, (configured - before) / peers, (with_policy - configured) / peers, session,
      end - with_policy - session * sessions, resident("VmHWM:") - before, sizeof(wireguard::Session), ready_s,
      add_s);
  for (PeerIndex i = 0; i < peers; ++i) delete policies.publish(i, nullptr);
  return 0;
}
