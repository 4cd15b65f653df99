#include "dataplane/core/nat/mss.h"

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {

void clamp_mss(MutableBytes segment, std::uint16_t most) {
  auto* tcp = view_as<TcpHeader>(segment);
  if (tcp == nullptr || tcp->header_length() > segment.size()) return;
  constexpr std::uint8_t kEnd = 0, kNoOperation = 1, kMss = 2, kMssLength = 4;
  const std::size_t end = tcp->header_length();
  std::size_t at = sizeof(TcpHeader);
  while (at < end && segment[at] != kEnd) {
    if (segment[at] == kNoOperation) {
      ++at;
      continue;
    }
    if (at + 1 >= end || segment[at + 1] < 2 || at + segment[at + 1] > end) return;
    if (segment[at] == kMss && segment[at + 1] == kMssLength) {
      be16 value;
      std::memcpy(&value, segment.data() + at + 2, 2);
      if (value.host() <= most) return;
      const be16 lower = be16::from_host(most);
      std::memcpy(segment.data() + at + 2, &lower, 2);
      // An option may begin at an odd offset; then its value's bytes count crosswise (RFC 1071 §2 (B)).
      const auto weight = [&](be16 v) {
        return at % 2 == 0 ? ChecksumSum{v.raw()}
                           : ChecksumSum{static_cast<std::uint16_t>(v.raw() << 8 | v.raw() >> 8)};
      };
      tcp->checksum = checksum_adjust(tcp->checksum, weight(value), weight(lower));
      return;
    }
    at += segment[at + 1];
  }
}

}  // namespace penstock::nat
