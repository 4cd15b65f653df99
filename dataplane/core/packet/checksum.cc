#include "dataplane/core/packet/checksum.h"

namespace penstock {

ChecksumSum checksum_add(ChecksumSum sum, Bytes bytes) {
  const std::uint8_t* from = bytes.data();
  std::size_t left = bytes.size();
  while (left >= 4) {
    std::uint32_t word;
    std::memcpy(&word, from, 4);
    sum += word;
    from += 4;
    left -= 4;
  }
  if (left >= 2) {
    std::uint16_t half;
    std::memcpy(&half, from, 2);
    sum += half;
    from += 2;
    left -= 2;
  }
  if (left == 1) {
    std::uint8_t last[2] = {*from, 0};
    std::uint16_t half;
    std::memcpy(&half, last, 2);
    sum += half;
  }
  return sum;
}

ChecksumSum checksum_pseudo_header(const IpAddress& source, const IpAddress& destination, std::uint8_t protocol,
                                   std::uint32_t length) {
  ChecksumSum sum = checksum_add(checksum_add(0, source.wire()), destination.wire());
  sum += be16::from_host(protocol).raw();
  sum += be32::from_host(length).raw();
  return sum;
}

}  // namespace penstock
