#include "dataplane/core/wireguard/handshake.h"

#include <string_view>

namespace penstock::wireguard {
namespace {

Bytes text_bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

constexpr std::string_view kConstruction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
constexpr std::string_view kIdentifier = "WireGuard v1 zx2c4 Jason@zx2c4.com";

void mix_hash(NoiseState& state, Bytes data) {
  state.hash = hash({state.hash, data});
}

void mix_chain(NoiseState& state, Bytes input) {
  state.chain = kdf<1>(state.chain, input)[0];
}

// Chains the input and gives a key for one AEAD.
Hash mix_key(NoiseState& state, Bytes input) {
  auto out = kdf<2>(state.chain, input);
  state.chain = out[0];
  return out[1];
}

}  // namespace

NoiseState begin_noise(const PublicKey& responder) {
  static const Hash chain = hash({text_bytes(kConstruction)});
  static const Hash protocol = hash({chain, text_bytes(kIdentifier)});
  return {chain, hash({protocol, responder.bytes})};
}

namespace {

// The last common step: preshared key, then the empty AEAD's key.
Hash mix_preshared(NoiseState& state, const PresharedKey& preshared) {
  auto out = kdf<3>(state.chain, preshared.bytes);
  state.chain = out[0];
  mix_hash(state, out[1]);
  return out[2];
}

}  // namespace

bool create_initiation(const DhKey& own, const PublicKey& remote, const Hash& static_static,
                       const PrivateKey& ephemeral, const Timestamp& timestamp, std::uint32_t local_index,
                       InitiationMessage& out, InitiatorState& state) {
  out = InitiationMessage{};
  state.noise = begin_noise(remote);
  state.ephemeral = DhKey(ephemeral);
  if (!state.ephemeral.valid()) return false;
  NoiseState& noise = state.noise;

  out.type.set(static_cast<std::uint32_t>(MessageType::initiation));
  out.sender.set(local_index);
  out.ephemeral = state.ephemeral.public_key().bytes;
  mix_chain(noise, out.ephemeral);
  mix_hash(noise, out.ephemeral);

  Hash shared;
  if (!state.ephemeral.agree(remote, shared)) return false;
  Hash key = mix_key(noise, shared);
  bool ok = aead_seal(key, 0, noise.hash, own.public_key().bytes, out.encrypted_static);
  mix_hash(noise, out.encrypted_static);

  key = mix_key(noise, static_static);
  ok = ok && aead_seal(key, 0, noise.hash, timestamp, out.encrypted_timestamp);
  mix_hash(noise, out.encrypted_timestamp);
  wipe(shared);
  wipe(key);
  return ok;
}

bool open_initiation(const DhKey& own, const InitiationMessage& message, NoiseState& state, PublicKey& remote) {
  state = begin_noise(own.public_key());
  mix_chain(state, message.ephemeral);
  mix_hash(state, message.ephemeral);
  Hash shared;
  if (!own.agree(PublicKey{message.ephemeral}, shared)) return false;
  Hash key = mix_key(state, shared);
  const bool ok = aead_open(key, 0, state.hash, message.encrypted_static, remote.bytes);
  mix_hash(state, message.encrypted_static);
  wipe(shared);
  wipe(key);
  return ok;
}

bool open_timestamp(const InitiationMessage& message, const Hash& static_static, NoiseState& state,
                    Timestamp& timestamp) {
  Hash key = mix_key(state, static_static);
  const bool ok = aead_open(key, 0, state.hash, message.encrypted_timestamp, timestamp);
  mix_hash(state, message.encrypted_timestamp);
  wipe(key);
  return ok;
}

bool create_response(NoiseState state, const InitiationMessage& initiation, const PublicKey& remote,
                     const PresharedKey& preshared, const PrivateKey& ephemeral, std::uint32_t local_index,
                     ResponseMessage& out, TransportKeys& keys) {
  out = ResponseMessage{};
  const DhKey own(ephemeral);
  if (!own.valid()) return false;
  out.type.set(static_cast<std::uint32_t>(MessageType::response));
  out.sender.set(local_index);
  out.receiver = initiation.sender;
  out.ephemeral = own.public_key().bytes;
  mix_chain(state, out.ephemeral);
  mix_hash(state, out.ephemeral);

  Hash shared;
  if (!own.agree(PublicKey{initiation.ephemeral}, shared)) return false;
  mix_chain(state, shared);
  if (!own.agree(remote, shared)) return false;
  mix_chain(state, shared);

  Hash key = mix_preshared(state, preshared);
  const bool ok = aead_seal(key, 0, state.hash, {}, out.encrypted_nothing);
  const auto transport = kdf<2>(state.chain, {});
  keys = {transport[1], transport[0]};  // the first is what the initiator sends with
  wipe(shared);
  wipe(key);
  wipe(state.chain);
  return ok;
}

bool open_response(const DhKey& own, const InitiatorState& state, const PresharedKey& preshared,
                   const ResponseMessage& message, TransportKeys& keys) {
  NoiseState noise = state.noise;
  mix_chain(noise, message.ephemeral);
  mix_hash(noise, message.ephemeral);

  Hash shared;
  if (!state.ephemeral.agree(PublicKey{message.ephemeral}, shared)) return false;
  mix_chain(noise, shared);
  if (!own.agree(PublicKey{message.ephemeral}, shared)) return false;
  mix_chain(noise, shared);

  Hash key = mix_preshared(noise, preshared);
  const bool ok = aead_open(key, 0, noise.hash, message.encrypted_nothing, {});
  const auto transport = kdf<2>(noise.chain, {});
  keys = {transport[0], transport[1]};
  wipe(shared);
  wipe(key);
  wipe(noise.chain);
  return ok;
}

Timestamp make_timestamp(WallTime wall) {
  constexpr std::uint64_t kTaiOffset = 0x400000000000000aULL;
  constexpr std::uint32_t kWhitened = ~((std::uint32_t{1} << 24) - 1);
  const auto seconds_part = be64::from_host(wall.seconds + kTaiOffset);
  const auto nanoseconds_part = be32::from_host(wall.nanoseconds & kWhitened);
  Timestamp out;
  std::memcpy(out.data(), &seconds_part, sizeof seconds_part);
  std::memcpy(out.data() + 8, &nanoseconds_part, sizeof nanoseconds_part);
  return out;
}

Timestamp next_timestamp(const Timestamp& last) {
  be64 seconds_part;
  be32 nanoseconds_part;
  std::memcpy(&seconds_part, last.data(), sizeof seconds_part);
  std::memcpy(&nanoseconds_part, last.data() + 8, sizeof nanoseconds_part);
  std::uint64_t whole = seconds_part.host();
  std::uint32_t fraction = nanoseconds_part.host() + 1;
  if (fraction >= 1'000'000'000) {  // also when a foreign value was out of range
    ++whole;
    fraction = 0;
  }
  const auto next_seconds = be64::from_host(whole);
  const auto next_nanoseconds = be32::from_host(fraction);
  Timestamp out;
  std::memcpy(out.data(), &next_seconds, sizeof next_seconds);
  std::memcpy(out.data() + 8, &next_nanoseconds, sizeof next_nanoseconds);
  return out;
}

}  // namespace penstock::wireguard
