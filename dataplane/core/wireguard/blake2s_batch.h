// BLAKE2s over many messages of equal length: as many at once as the machine's vectors hold. With a key and 16 bytes of
// output (WireGuard's MAC), which is how a flood of handshake messages is looked through, and plain, which is how
// several handshakes share the time that hashing takes. Any thread, no state.
#pragma once

#include <span>

#include "dataplane/core/wireguard/blake2s.h"
#include "dataplane/core/wireguard/crypto.h"

namespace penstock::wireguard {

// A MAC key of 32 bytes ready for use for many messages, none of them empty. 16 bytes of output.
class MacKey {
 public:
  MacKey() = default;
  explicit MacKey(const Hash& key) : key_(key), chain_(Blake2s::keyed_chain(kMacSize, key)) {}
  ~MacKey();
  MacKey(const MacKey&) = default;
  MacKey& operator=(const MacKey&) = default;

  [[nodiscard]] Mac mac(Parts parts) const;
  [[nodiscard]] const Blake2s::Chain& chain() const { return chain_; }

 private:
  Hash key_{};
  Blake2s::Chain chain_{};  // behind the key's block
};

// MACs of `messages` (`length` > 0 bytes each) to `out`. One key for all ...
void mac_batch(const MacKey& key, std::span<const std::uint8_t* const> messages, std::size_t length, Mac* out);
// ... or one for each, of 16 bytes (a cookie).
void mac_batch(std::span<const std::uint8_t* const> keys, std::span<const std::uint8_t* const> messages,
               std::size_t length, Mac* out);

// The plain hash of each, to `out`.
void hash_batch(std::span<const std::uint8_t* const> messages, std::size_t length, Hash* out);

// What computes them: `width` messages at once, from `chain`, or from one key for each where `keys` is not null. The
// machine must have the instructions.
using MacLanes = void(const std::uint32_t* chain, const std::uint8_t* const* keys, const std::uint8_t* const* messages,
                      std::size_t length, std::uint8_t (*out)[16]);
using HashLanes = void(const std::uint8_t* const* messages, std::size_t length, std::uint8_t (*out)[32]);
struct MacVariant {
  const char* name;
  std::size_t width;
  MacLanes* function;  // nullptr: one at a time
  HashLanes* hash;     // the same
  bool available;      // on this machine
};
// Widest first; the last one is always available. The first that is available is used.
[[nodiscard]] std::span<const MacVariant> mac_variants();

}  // namespace penstock::wireguard
