#include "controlplane/core/paths/turn_stream.h"

#include "dataplane/core/stun/message.h"

namespace penstock::paths {

void TurnStreamFramer::append(Bytes bytes) {
  if (broken_) return;
  if (taken_ > 0) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(taken_));
    taken_ = 0;
  }
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

std::optional<MutableBytes> TurnStreamFramer::next() {
  const MutableBytes left = MutableBytes{buffer_}.subspan(taken_);
  if (broken_ || left.size() < stun::kChannelDataHeaderSize) return std::nullopt;
  const std::size_t stated = static_cast<std::size_t>(left[2]) << 8 | left[3];
  std::size_t size = 0;
  std::size_t padded = 0;
  switch (left[0] >> 6) {
    case 0:  // STUN: the two most significant bits are zero
      size = padded = stun::kHeaderSize + stated;
      break;
    case 1:  // ChannelData: channels 0x4000-0x7fff
      size = stun::kChannelDataHeaderSize + stated;
      padded = (size + 3) & ~std::size_t{3};
      break;
    default:
      break;
  }
  if (size == 0 || (left[0] >> 6 == 0 && stated % 4 != 0)) {
    broken_ = true;
    buffer_.clear();
    taken_ = 0;
    return std::nullopt;
  }
  if (left.size() < padded) return std::nullopt;
  taken_ += padded;
  return left.first(size);
}

}  // namespace penstock::paths
