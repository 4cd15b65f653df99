#include "dataplane/core/wireguard/blake2s.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "dataplane/core/wireguard/keys.h"

namespace penstock::wireguard {
namespace {

inline void mix(std::uint32_t& a, std::uint32_t& b, std::uint32_t& c, std::uint32_t& d, std::uint32_t x,
                std::uint32_t y) {
  a += b + x;
  d = std::rotr(d ^ a, 16);
  c += d;
  b = std::rotr(b ^ c, 12);
  a += b + y;
  d = std::rotr(d ^ a, 8);
  c += d;
  b = std::rotr(b ^ c, 7);
}

}  // namespace

Blake2s::Blake2s(std::size_t digest_size, Bytes key) : chain_(std::to_array(kBlake2sIv)) {
  if (digest_size == 0 || digest_size > 32 || key.size() > 32) std::abort();
  chain_[0] ^= 0x01010000U ^ static_cast<std::uint32_t>(key.size() << 8) ^ static_cast<std::uint32_t>(digest_size);
  if (key.empty()) return;
  buffer_.fill(0);
  std::memcpy(buffer_.data(), key.data(), key.size());
  buffered_ = kBlake2sBlock;
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
}

void Blake2s::compress(const std::uint8_t* block, bool last) {
  std::uint32_t m[16];
  std::uint32_t v[16];
  for (std::size_t i = 0; i < 16; ++i) m[i] = load_le<std::uint32_t>(block + 4 * i);
  for (std::size_t i = 0; i < 8; ++i) {
    v[i] = chain_[i];
    v[i + 8] = kBlake2sIv[i];
  }
  v[12] ^= static_cast<std::uint32_t>(counted_);
  v[13] ^= static_cast<std::uint32_t>(counted_ >> 32);
  if (last) v[14] = ~v[14];
#pragma GCC unroll 10
  for (const auto& order : kBlake2sSigma) {
    mix(v[0], v[4], v[8], v[12], m[order[0]], m[order[1]]);
    mix(v[1], v[5], v[9], v[13], m[order[2]], m[order[3]]);
    mix(v[2], v[6], v[10], v[14], m[order[4]], m[order[5]]);
    mix(v[3], v[7], v[11], v[15], m[order[6]], m[order[7]]);
    mix(v[0], v[5], v[10], v[15], m[order[8]], m[order[9]]);
    mix(v[1], v[6], v[11], v[12], m[order[10]], m[order[11]]);
    mix(v[2], v[7], v[8], v[13], m[order[12]], m[order[13]]);
    mix(v[3], v[4], v[9], v[14], m[order[14]], m[order[15]]);
  }
  for (std::size_t i = 0; i < 8; ++i) chain_[i] ^= v[i] ^ v[i + 8];
}

}  // namespace penstock::wireguard
