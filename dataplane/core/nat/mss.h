// TCP maximum segment size on a SYN, lowered to what fits the way (RFC 9293 §3.7.1, RFC 2979 §3.1).
#pragma once

#include "dataplane/core/base/bytes.h"

namespace penstock::nat {

// `segment`: a TCP header with options, checksum included. Lowers the MSS option, if there is one, to `most`; the
// checksum keeps its error, if it has one. Malformed options are left alone.
void clamp_mss(MutableBytes segment, std::uint16_t most);

}  // namespace penstock::nat
