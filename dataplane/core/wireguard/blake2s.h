// BLAKE2s (RFC 7693), plain and keyed, one message at a time. Own code because a handshake hashes some ninety blocks in
// forty short messages, and a general library's set-up per message costs several times the hashing.
//
// Constant time: no branch or address depends on data. Any thread; checked against OpenSSL and RFC 7693.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/wireguard/blake2s_rounds.h"

namespace penstock::wireguard {

inline constexpr std::size_t kBlake2sBlock = 64;

class Blake2s {
 public:
  // `key`: at most 32 bytes, empty for the plain hash; `digest_size` 1 to 32.
  explicit Blake2s(std::size_t digest_size, Bytes key = {});

  // A copy goes on from where the original is: a keyed state can be made once and used for many messages.
  void update(Bytes data);
  // `out`: exactly digest_size bytes. The object is used up, and nothing of the message is left in it.
  void finish(MutableBytes out);

  // The chaining value. After a whole key block and nothing else it is what blake2s_lanes.h starts from.
  using Chain = std::array<std::uint32_t, 8>;
  // The chaining value of the plain hash behind a first block that is not the last.
  [[nodiscard]] static Chain chain_after(std::span<const std::uint8_t, kBlake2sBlock> block);
  // The chaining value behind the key block of a keyed hash, for messages that are not empty.
  [[nodiscard]] static Chain keyed_chain(std::size_t digest_size, Bytes key);
  // A hash that goes on from either.
  [[nodiscard]] static Blake2s resumed(const Chain& keyed, std::size_t digest_size);

 private:
  void compress(const std::uint8_t* block, bool last);

  Chain chain_;
  std::uint64_t counted_ = 0;  // bytes compressed
  std::size_t buffered_ = 0;
  std::array<std::uint8_t, kBlake2sBlock> buffer_;
};

}  // namespace penstock::wireguard
