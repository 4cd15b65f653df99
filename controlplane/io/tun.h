// A TUN device: whole IP packets from and to the kernel, without link-layer headers.
//
// The device belongs to the process: it disappears, with its addresses and routes, when the object (or the process,
// however it ends) goes. Not blocking. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "controlplane/core/offload/vnet_header.h"
#include "controlplane/io/descriptor.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::io {

class Tun {
 public:
  struct Options {
    std::string name;
    // Packets larger than the MTU in both directions (IFF_VNET_HDR, TUNSETOFFLOAD), as far as the kernel has it.
    bool offload = true;
  };
  // Makes the device; it is down and without addresses (netlink.h brings it up). nullopt and `error` when that fails.
  static std::optional<Tun> open(const Options& options, std::string& error);

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] int index() const { return index_; }
  [[nodiscard]] bool takes_tcp() const { return tcp_; }  // super-packets of TCP; it gives them, too
  [[nodiscard]] bool takes_udp() const { return udp_; }  // of UDP

  static constexpr std::size_t kReadRoom = 65536;  // for one packet, with its header
  struct Packet {
    Bytes bytes;  // empty: none waits (or the device is down)
    offload::VnetHeader vnet;
  };
  [[nodiscard]] Packet read(MutableBytes buffer);

  enum class Write { sent, full, refused };
  // full: the kernel's queue has no room now; refused: it does not take this packet (device down, malformed).
  Write write(Bytes packet) { return write({}, {&packet, 1}); }
  // One packet in at most kMaxPieces pieces. Without takes_tcp() and takes_udp() only plain ones.
  static constexpr std::size_t kMaxPieces = 128;
  Write write(const offload::VnetHeader& vnet, std::span<const Bytes> pieces);

 private:
  Descriptor fd_;
  std::string name_;
  int index_ = 0;
  bool header_ = false;  // every packet has one
  bool tcp_ = false;
  bool udp_ = false;
};

}  // namespace penstock::io
