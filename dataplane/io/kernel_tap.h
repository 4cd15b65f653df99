// The exception path's TAP device: the host's kernel behind runtime::KernelPort. Slow thread only after opening.
//
// The device is made (or, if the operator made it persistent, taken over), brought up, and disappears with the process
// unless persistent. Its addresses and routes are the operator's: no address of a DPDK port may be on it twice.
#pragma once

#include <memory>
#include <string>
#include <variant>

#include "dataplane/core/packet/headers.h"
#include "dataplane/runtime/packet_io.h"

namespace penstock::io {

class KernelTap final : public runtime::KernelPort {
 public:
  // The error says what failed.
  static std::variant<std::unique_ptr<KernelTap>, std::string> open(const std::string& name);
  ~KernelTap() override;

  Packet* receive(runtime::PacketPool& pool) override;
  bool send(const Packet& frame) override;
  [[nodiscard]] int wait_descriptor() const override { return descriptor_; }
  // Of the kernel's side.
  [[nodiscard]] const MacAddress& mac() const { return mac_; }

 private:
  explicit KernelTap(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
  MacAddress mac_{};
};

}  // namespace penstock::io
