// Cuts the byte stream of a TURN connection over TCP or TLS into messages (RFC 8489 §6.2.2, RFC 8656 §12.5).
//
// STUN messages say their own length and are a multiple of 4 bytes long; ChannelData is padded to one. Anything else
// means that the two ends have lost each other: the stream is broken and must be closed. Bounded: at most one message
// and what one read brought. One thread.
#pragma once

#include <optional>
#include <vector>

#include "dataplane/core/base/bytes.h"

namespace penstock::paths {

class TurnStreamFramer {
 public:
  // Bytes as they came. Ignored once broken.
  void append(Bytes bytes);
  // The next whole message, ChannelData without its padding; nullopt: more bytes are needed, or the stream is broken.
  // Valid until the next call.
  [[nodiscard]] std::optional<MutableBytes> next();
  [[nodiscard]] bool broken() const { return broken_; }

 private:
  std::vector<std::uint8_t> buffer_;
  std::size_t taken_ = 0;
  bool broken_ = false;
};

}  // namespace penstock::paths
