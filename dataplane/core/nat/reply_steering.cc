#include "dataplane/core/nat/reply_steering.h"

#include <algorithm>
#include <bit>

#include "dataplane/core/packet/headers.h"

namespace penstock::nat {

bool ReplySteering::usable(const RssLayout& layout, std::uint16_t workers) {
  for (std::uint16_t worker = 0; worker < workers; ++worker)
    if (std::ranges::find(layout.queues, worker) == layout.queues.end()) return false;
  return layout.key.size() >= kKeySize && std::has_single_bit(layout.queues.size()) &&
         (layout.tcp4 || layout.udp4 || layout.tcp6 || layout.udp6);
}

ReplySteering::ReplySteering(const RssLayout& layout)
    : queues_(layout.queues), tcp4_(layout.tcp4), udp4_(layout.udp4), tcp6_(layout.tcp6), udp6_(layout.udp6) {
  for (std::size_t place = 0; place < kInput; ++place) {
    // Bit b of the byte, counted from its highest, brings the 32 bits of the key from bit 8 * place + b on.
    std::uint64_t window = 0;
    for (std::size_t i = 0; i < 5; ++i) window = window << 8 | layout.key[place + i];
    for (unsigned value = 0; value < 256; ++value) {
      std::uint32_t sum = 0;
      for (unsigned bit = 0; bit < 8; ++bit)
        if ((value & (0x80U >> bit)) != 0) sum ^= static_cast<std::uint32_t>(window >> (8 - bit));
      contribution_[place][value] = sum;
    }
  }
}

bool ReplySteering::covers(std::uint8_t protocol, bool v6) const {
  if (protocol == ip_protocol::tcp) return v6 ? tcp6_ : tcp4_;
  if (protocol == ip_protocol::udp) return v6 ? udp6_ : udp4_;
  return false;
}

std::uint32_t ReplySteering::without_port(const IpAddress& remote, std::uint16_t remote_port,
                                          const IpAddress& local) const {
  std::uint32_t sum = 0;
  std::size_t place = 0;
  for (const IpAddress* address : {&remote, &local}) {
    const std::size_t skip = address->is_v4() ? 12 : 0;
    for (std::size_t i = skip; i < 16; ++i) sum ^= contribution_[place++][address->bytes()[i]];
  }
  return sum ^ contribution_[place][remote_port >> 8] ^ contribution_[place + 1][remote_port & 0xff];
}

}  // namespace penstock::nat
