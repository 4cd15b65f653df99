// ChaCha20-Poly1305 (RFC 8439) over bursts of packets with mixed keys and lengths: the one door to bulk encryption.
//
// WireGuard's transport: empty additional data, nonce = 4 zero bytes then the 64-bit counter, little-endian. In place:
// the tag stands right behind the payload. A backend is chosen once per process (best available, or by name from the
// configuration) and is immutable afterwards; calls may come from any thread, each with its own `AeadContext`.
// Backends run in constant time with respect to keys and data and compare tags without early exit.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace penstock::wireguard {

inline constexpr std::size_t kAeadKeySize = 32;
inline constexpr std::size_t kAeadTagSize = 16;

struct AeadJob {
  const std::uint8_t* key = nullptr;  // 32 bytes
  std::uint64_t counter = 0;
  std::uint8_t* data = nullptr;  // payload, `length` bytes, then kAeadTagSize bytes for the tag
  std::uint32_t length = 0;      // of the payload without the tag; 0 is allowed (keepalive)
  bool ok = false;               // open: whether the tag was right; seal: always true
};

// Per-thread working memory of a backend (e.g. a multi-buffer manager).
class AeadContext {
 public:
  virtual ~AeadContext() = default;

  // Encrypts every job in place and writes its tag.
  virtual void seal(std::span<AeadJob> jobs) = 0;

  // Verifies and decrypts every job in place. A job whose tag is wrong has ok == false and its payload is unspecified.
  virtual void open(std::span<AeadJob> jobs) = 0;

  [[nodiscard]] virtual std::string_view name() const = 0;
};

// Jobs that other threads may do while their owner does something else: the owner's alone, as a context is.
class AeadOffers {
 public:
  static constexpr unsigned kSlots = 4;
  virtual ~AeadOffers() = default;

  // Jobs and what they point at are not to be touched until wait() has returned for the slot. One burst a slot at a
  // time. Done at once where nobody would help.
  virtual void begin(unsigned slot, std::span<AeadJob> jobs, bool seal) = 0;
  // Does what nobody has begun, and returns when all is done. Nothing where nothing was begun.
  virtual void wait(unsigned slot) = 0;
};

// "auto" (best for this machine), "lanes" (across packets: AVX-512 or AVX2), "ipsec-mb" or "openssl". nullptr when the
// name is unknown or not available here.
[[nodiscard]] std::unique_ptr<AeadContext> make_aead_context(std::string_view backend);

}  // namespace penstock::wireguard
