#include <urcu/urcu-qsbr.h>
#include <urcu/rculfhash.h>  // after the flavour

#include <bit>
#include <cstddef>
#include <cstdlib>

#include "perf/flow_table/rival_hashes.h"

namespace penstock::perf {

struct LfHash::Node {
  cds_lfht_node link;
  FlatKey key;
  std::uint32_t number;
};

FlatKey key_of(std::uint32_t n) {
  FlatKey key{};
  key.source[0] = 0xfd;
  key.source[1] = 0x00;
  key.peer = n % kPeers;
  std::memcpy(key.source + 12, &key.peer, 4);
  key.destination[0] = 0xfd;
  key.destination[6] = 0x80;
  key.destination[15] = static_cast<std::uint8_t>(n / kPeers % 16);
  key.source_port = static_cast<std::uint16_t>(n / kPeers / 16);
  key.destination_port = 443;
  key.protocol = 6;
  return key;
}

LfHash::LfHash(std::uint32_t count, Random& random) : nodes_(std::make_unique<flow::ZeroedArray<Node>>(count)), hash_(random) {
  const std::size_t buckets = std::bit_ceil(std::size_t{count});
  table_ = cds_lfht_new_flavor(buckets, buckets, 0, 0, &urcu_qsbr_flavor, nullptr);
  if (table_ == nullptr) std::abort();
  for (std::uint32_t n = 0; n < count; ++n) {
    Node& node = (*nodes_)[n];
    node.key = key_of(n);
    node.number = n;
    cds_lfht_node_init(&node.link);
    cds_lfht_add(table_, hash_(inside_key(node.key)), &node.link);
  }
}

LfHash::~LfHash() {
  cds_lfht_iter iter;
  cds_lfht_first(table_, &iter);
  for (cds_lfht_node* node = cds_lfht_iter_get_node(&iter); node != nullptr; node = cds_lfht_iter_get_node(&iter)) {
    cds_lfht_del(table_, node);
    cds_lfht_next(table_, &iter);
  }
  urcu_qsbr_synchronize_rcu();
  cds_lfht_destroy(table_, nullptr);
}

bool LfHash::look_up(const FlatKey* keys, flow::Slot* found) const {
  const auto matches = [](cds_lfht_node* node, const void* key) {
    const auto* entry = reinterpret_cast<const Node*>(reinterpret_cast<const char*>(node) - offsetof(Node, link));
    return static_cast<int>(std::memcmp(&entry->key, key, sizeof(FlatKey)) == 0);
  };
  for (std::size_t i = 0; i < kLookBurst; ++i) {
    cds_lfht_iter iter;
    cds_lfht_lookup(table_, hash_(inside_key(keys[i])), matches, keys + i, &iter);
    const cds_lfht_node* node = cds_lfht_iter_get_node(&iter);
    if (node == nullptr) return false;
    found[i] = reinterpret_cast<const Node*>(reinterpret_cast<const char*>(node) - offsetof(Node, link))->number;
  }
  return true;
}

}  // namespace penstock::perf
