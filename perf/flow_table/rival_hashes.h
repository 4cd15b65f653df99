// The two hash tables that ours is compared with, each used as its manual says is fastest, with the same seeded hash as
// ours and with its memory on large pages as ours, and the keys of all three.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

#include "dataplane/core/flow/key.h"
#include "dataplane/core/flow/record.h"
#include "dataplane/core/flow/zeroed_array.h"

struct rte_hash;
struct cds_lfht;

namespace penstock::perf {

inline constexpr std::uint32_t kPeers = 1024;
inline constexpr std::size_t kLookBurst = 64;

// A flow's inside key without padding, as rte_hash compares keys: bytes.
struct FlatKey {
  std::uint8_t source[16];
  std::uint8_t destination[16];
  std::uint32_t peer;
  std::uint16_t source_port;
  std::uint16_t destination_port;
  std::uint32_t protocol;
  std::uint32_t none;  // rte_hash compares multiples of 16 fastest
};
static_assert(sizeof(FlatKey) == 48);

[[nodiscard]] FlatKey key_of(std::uint32_t n);
[[nodiscard]] inline flow::InsideKey inside_key(const FlatKey& key) {
  flow::InsideKey out;
  std::memcpy(&out.source, key.source, 16);
  std::memcpy(&out.destination, key.destination, 16);
  out.peer = key.peer;
  out.source_port = key.source_port;
  out.destination_port = key.destination_port;
  out.protocol = static_cast<std::uint8_t>(key.protocol);
  return out;
}

// DPDK's initialisation, with memory for ten million keys on large pages. False: it said why.
bool start_eal();

// Positions are the key's number.
class RteHash {
 public:
  RteHash(std::uint32_t count, Random& random);
  ~RteHash();
  RteHash(const RteHash&) = delete;
  RteHash& operator=(const RteHash&) = delete;
  // kLookBurst keys, their numbers. False: one was not there.
  bool look_up(const FlatKey* keys, flow::Slot* found) const;

 private:
  ::rte_hash* table_;
  flow::KeyHash hash_;
};

class LfHash {
 public:
  LfHash(std::uint32_t count, Random& random);
  ~LfHash();
  LfHash(const LfHash&) = delete;
  LfHash& operator=(const LfHash&) = delete;
  bool look_up(const FlatKey* keys, flow::Slot* found) const;

 private:
  struct Node;
  ::cds_lfht* table_;
  std::unique_ptr<flow::ZeroedArray<Node>> nodes_;
  flow::KeyHash hash_;
};

}  // namespace penstock::perf
