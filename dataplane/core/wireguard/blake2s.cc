#include "dataplane/core/wireguard/blake2s.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "dataplane/core/wireguard/keys.h"

namespace penstock::wireguard {

Blake2s::Blake2s(std::size_t digest_size, Bytes key) : chain_(std::to_array(kBlake2sIv)) {
  if (digest_size == 0 || digest_size > 32 || key.size() > 32) std::abort();
  chain_[0] ^= 0x01010000U ^ static_cast<std::uint32_t>(key.size() << 8) ^ static_cast<std::uint32_t>(digest_size);
  if (key.empty()) return;
  buffer_.fill(0);
  std::memcpy(buffer_.data(), key.data(), key.size());
  buffered_ = kBlake2sBlock;
}

Blake2s::Chain Blake2s::chain_after(std::span<const std::uint8_t, kBlake2sBlock> block) {
  Blake2s state(32);
  state.counted_ = kBlake2sBlock;
  state.compress(block.data(), false);
  return state.chain_;
}

Blake2s::Chain Blake2s::keyed_chain(std::size_t digest_size, Bytes key) {
  Blake2s state(digest_size, key);
  state.counted_ = kBlake2sBlock;
  state.compress(state.buffer_.data(), false);
  wipe(state.buffer_);
  return state.chain_;
}

Blake2s Blake2s::resumed(const Chain& keyed, std::size_t digest_size) {
  Blake2s state(digest_size);
  state.chain_ = keyed;
  state.counted_ = kBlake2sBlock;
  return state;
}

// A block is compressed only when more follows it: the last one is marked.
void Blake2s::update(Bytes data) {
  while (!data.empty()) {
    if (buffered_ == kBlake2sBlock) {
      counted_ += kBlake2sBlock;
      compress(buffer_.data(), false);
      buffered_ = 0;
    }
    const std::size_t n = std::min(kBlake2sBlock - buffered_, data.size());
    std::memcpy(buffer_.data() + buffered_, data.data(), n);
    buffered_ += n;
    data = data.subspan(n);
  }
}

void Blake2s::finish(MutableBytes out) {
  counted_ += buffered_;
  std::memset(buffer_.data() + buffered_, 0, kBlake2sBlock - buffered_);
  compress(buffer_.data(), true);
  std::array<std::uint8_t, 32> digest;
  for (std::size_t i = 0; i < chain_.size(); ++i) store_le(digest.data() + 4 * i, chain_[i]);
  std::memcpy(out.data(), digest.data(), out.size());
  wipe(digest);
  wipe({reinterpret_cast<std::uint8_t*>(this), sizeof *this});
}

void Blake2s::compress(const std::uint8_t* block, bool last) {
  std::uint32_t m[16];
  for (std::size_t i = 0; i < 16; ++i) m[i] = load_le<std::uint32_t>(block + 4 * i);
  blake2s_compress(chain_.data(), m, counted_, last);
}

}  // namespace penstock::wireguard
