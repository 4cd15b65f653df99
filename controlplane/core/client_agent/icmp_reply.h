// ICMP errors with which the client answers an application's packet it cannot deliver (RFC 792, RFC 4443), instead of
// letting the application run into its time-out.
//
// Rules kept (RFC 1122 §3.2.2, RFC 4443 §2.4): none about an ICMP error, a later fragment, or a packet to or from a
// multicast, broadcast or unspecified address; rate-limited. The error's source is the address the packet was sent to,
// so it needs no address of ours. Pure; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "controlplane/core/client_agent/inner_packet.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"

namespace penstock::client {

enum class Undeliverable : std::uint8_t {
  prohibited,   // by policy: ICMPv4 3/13, ICMPv6 1/1
  unreachable,  // no such host, gateway offline: ICMPv4 3/1, ICMPv6 1/3
  too_big,      // ICMPv4 3/4, ICMPv6 2/0
};

// The whole error packet; empty when the rules forbid one about this packet. `mtu` only for too_big.
[[nodiscard]] std::vector<std::uint8_t> build_icmp_error(Undeliverable why, const InnerPacket& info, Bytes packet,
                                                         std::uint16_t mtu = 0);

// A token bucket: `rate` per second, at most `burst` at once.
class TokenBucket {
 public:
  TokenBucket(std::uint32_t rate, std::uint32_t burst) : rate_(rate), burst_(burst), tokens_(burst) {}
  bool take(Instant now);

 private:
  std::uint32_t rate_;
  std::uint32_t burst_;
  double tokens_;
  Instant last_{};
};

}  // namespace penstock::client
