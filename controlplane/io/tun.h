// A TUN device: whole IP packets from and to the kernel, without link-layer headers.
//
// The device belongs to the process: it disappears, with its addresses and routes, when the object (or the process,
// however it ends) goes. Not blocking. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "controlplane/io/descriptor.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::io {

class Tun {
 public:
  // Makes the device; it is down and without addresses (netlink.h brings it up). nullopt and `error` when that fails.
  static std::optional<Tun> open(const std::string& name, std::string& error);

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] int index() const { return index_; }

  // One packet; empty when none waits (or the device is down).
  [[nodiscard]] Bytes read(MutableBytes buffer);

  enum class Write { sent, full, refused };
  // full: the kernel's queue has no room now; refused: it does not take this packet (device down, malformed).
  Write write(Bytes packet);

 private:
  Descriptor fd_;
  std::string name_;
  int index_ = 0;
};

}  // namespace penstock::io
