// IPv4 fragments as they came, whatever the driver thinks.
//
// DPDK's net_af_packet makes its sockets members of a fan-out group whose kernel side puts IPv4 fragments together
// (PACKET_FANOUT_FLAG_DEFRAG). No device argument turns that off, and a frame of the driver's ring does not hold what
// comes of it: it is cut off there, and everything beyond lost. So while one of these lives, setsockopt() of this
// process takes that flag out when a packet socket joins a group; all else goes to the kernel as it is.
//
// For the main thread, around the opening of a port. Fragments of one datagram may then reach several queues; the
// translator brings them together (nat/translator.h).
#pragma once

namespace penstock::io {

class KeepFragments {
 public:
  KeepFragments();
  ~KeepFragments();
  KeepFragments(const KeepFragments&) = delete;
  KeepFragments& operator=(const KeepFragments&) = delete;
};

}  // namespace penstock::io
