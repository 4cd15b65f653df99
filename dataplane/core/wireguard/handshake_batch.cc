// The responder's steps of several handshakes at once (handshake.h). Every step is the same for all of them, on bytes
// of the same number, so that each is one pass over the lanes; multiplications and AEADs are done one by one.
#include "dataplane/core/wireguard/blake2s_batch.h"
#include "dataplane/core/wireguard/handshake.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kBlock = 64;
constexpr std::size_t kLongestInput = 48;

// What the handshakes of a batch have, each in its place; secrets go with it.
struct States {
  std::size_t count = 0;
  std::array<Hash, kHandshakeBatch> chain{}, transcript{}, shared{}, key{}, second_key{};

  ~States() {
    for (auto* secrets : {&chain, &shared, &key, &second_key})
      for (Hash& secret : *secrets) wipe(secret);
  }
};

// Hashes of 64 bytes that depend on `keys` and `mask`, followed by `length` bytes of `inputs`.
template <typename Input>
void padded_hash(const std::array<Hash, kHandshakeBatch>& keys, std::uint8_t mask, std::size_t count, Input&& input,
                 std::size_t length, std::array<Hash, kHandshakeBatch>& out) {
  std::array<std::array<std::uint8_t, kBlock + kLongestInput>, kHandshakeBatch> messages;
  std::array<const std::uint8_t*, kHandshakeBatch> at;
  for (std::size_t i = 0; i < count; ++i) {
    messages[i].fill(mask);
    for (std::size_t byte = 0; byte < keys[i].size(); ++byte) messages[i][byte] ^= keys[i][byte];
    if (length != 0) std::memcpy(messages[i].data() + kBlock, input(i), length);
    at[i] = messages[i].data();
  }
  hash_batch({at.data(), count}, kBlock + length, out.data());
  for (std::size_t i = 0; i < count; ++i) wipe(messages[i]);
}

template <typename Input>
void hmacs(const std::array<Hash, kHandshakeBatch>& keys, std::size_t count, Input&& input, std::size_t length,
           std::array<Hash, kHandshakeBatch>& out) {
  std::array<Hash, kHandshakeBatch> middle;
  padded_hash(keys, 0x36, count, input, length, middle);
  padded_hash(keys, 0x5c, count, [&](std::size_t i) { return middle[i].data(); }, sizeof(Hash), out);
  for (Hash& hash : middle) wipe(hash);
}

// KDF_n of the chains and `length` bytes of input: n outputs, of which the first is the new chain.
template <std::size_t n, typename Input>
void mix(States& states, Input&& input, std::size_t length) {
  std::array<Hash, kHandshakeBatch> secret;
  hmacs(states.chain, states.count, input, length, secret);
  std::array<std::array<std::uint8_t, sizeof(Hash) + 1>, kHandshakeBatch> expansion;
  const auto expand = [&](const std::array<Hash, kHandshakeBatch>* before, std::uint8_t number,
                          std::array<Hash, kHandshakeBatch>& out) {
    const std::size_t prefix = before == nullptr ? 0 : sizeof(Hash);
    for (std::size_t i = 0; i < states.count; ++i) {
      if (before != nullptr) std::memcpy(expansion[i].data(), (*before)[i].data(), sizeof(Hash));
      expansion[i][prefix] = number;
    }
    hmacs(secret, states.count, [&](std::size_t i) { return expansion[i].data(); }, prefix + 1, out);
  };
  expand(nullptr, 1, states.chain);
  if constexpr (n >= 2) expand(&states.chain, 2, states.key);
  if constexpr (n >= 3) expand(&states.key, 3, states.second_key);
  for (std::size_t i = 0; i < states.count; ++i) {
    wipe(secret[i]);
    wipe(expansion[i]);
  }
}

template <typename Input>
void mix_hash(States& states, Input&& input, std::size_t length) {
  std::array<std::array<std::uint8_t, sizeof(Hash) + kLongestInput>, kHandshakeBatch> messages;
  std::array<const std::uint8_t*, kHandshakeBatch> at;
  for (std::size_t i = 0; i < states.count; ++i) {
    std::memcpy(messages[i].data(), states.transcript[i].data(), sizeof(Hash));
    std::memcpy(messages[i].data() + sizeof(Hash), input(i), length);
    at[i] = messages[i].data();
  }
  hash_batch({at.data(), states.count}, sizeof(Hash) + length, states.transcript.data());
}

template <typename Entry>
void load_states(States& states, std::span<Entry> batch) {
  states.count = batch.size();
  for (std::size_t i = 0; i < batch.size(); ++i) {
    states.chain[i] = batch[i].state->chain;
    states.transcript[i] = batch[i].state->hash;
  }
}

template <typename Entry>
void store_states(const States& states, std::span<Entry> batch) {
  for (std::size_t i = 0; i < batch.size(); ++i) *batch[i].state = {states.chain[i], states.transcript[i]};
}

}  // namespace

void open_initiations(const DhKey& own, std::span<OpenedInitiation> batch) {
  States states;
  const NoiseState begun = begin_noise(own.public_key());
  for (OpenedInitiation& one : batch) *one.state = begun;
  load_states(states, batch);
  const auto ephemeral = [&](std::size_t i) { return batch[i].message->ephemeral.data(); };
  mix<1>(states, ephemeral, kKeySize);
  mix_hash(states, ephemeral, kKeySize);
  for (std::size_t i = 0; i < batch.size(); ++i)
    batch[i].ok = own.agree(PublicKey{batch[i].message->ephemeral}, states.shared[i]);
  mix<2>(states, [&](std::size_t i) { return states.shared[i].data(); }, sizeof(Hash));
  for (std::size_t i = 0; i < batch.size(); ++i)
    batch[i].ok = batch[i].ok && aead_open(states.key[i], 0, states.transcript[i], batch[i].message->encrypted_static,
                                           batch[i].remote->bytes);
  mix_hash(states, [&](std::size_t i) { return batch[i].message->encrypted_static.data(); },
           sizeof(InitiationMessage::encrypted_static));
  store_states(states, batch);
}

void open_timestamps(std::span<OpenedTimestamp> batch) {
  States states;
  load_states(states, batch);
  mix<2>(states, [&](std::size_t i) { return batch[i].static_static->data(); }, sizeof(Hash));
  for (std::size_t i = 0; i < batch.size(); ++i)
    batch[i].ok = aead_open(states.key[i], 0, states.transcript[i], batch[i].message->encrypted_timestamp,
                            *batch[i].timestamp);
  mix_hash(states, [&](std::size_t i) { return batch[i].message->encrypted_timestamp.data(); },
           sizeof(InitiationMessage::encrypted_timestamp));
  store_states(states, batch);
}

void create_responses(std::span<CreatedResponse> batch) {
  States states, second;  // `second`: the other product of the ephemeral key
  load_states(states, batch);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    CreatedResponse& one = batch[i];
    const DhKey own(*one.ephemeral);
    *one.out = ResponseMessage{};
    one.out->type.set(static_cast<std::uint32_t>(MessageType::response));
    one.out->sender.set(one.local_index);
    one.out->receiver = one.initiation->sender;
    one.out->ephemeral = own.public_key().bytes;
    one.ok = own.valid() && own.agree(PublicKey{one.initiation->ephemeral}, states.shared[i]) &&
             own.agree(*one.remote, second.shared[i]);
  }
  const auto ephemeral = [&](std::size_t i) { return batch[i].out->ephemeral.data(); };
  mix<1>(states, ephemeral, kKeySize);
  mix_hash(states, ephemeral, kKeySize);
  mix<1>(states, [&](std::size_t i) { return states.shared[i].data(); }, sizeof(Hash));
  mix<1>(states, [&](std::size_t i) { return second.shared[i].data(); }, sizeof(Hash));
  mix<3>(states, [&](std::size_t i) { return batch[i].preshared->bytes.data(); }, sizeof(Hash));
  mix_hash(states, [&](std::size_t i) { return states.key[i].data(); }, sizeof(Hash));
  for (std::size_t i = 0; i < batch.size(); ++i)
    batch[i].ok = batch[i].ok && aead_seal(states.second_key[i], 0, states.transcript[i], {},
                                           batch[i].out->encrypted_nothing);
  mix<2>(states, [](std::size_t) { return static_cast<const std::uint8_t*>(nullptr); }, 0);
  for (std::size_t i = 0; i < batch.size(); ++i) *batch[i].keys = {states.key[i], states.chain[i]};
}

}  // namespace penstock::wireguard
