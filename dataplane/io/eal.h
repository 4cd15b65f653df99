// DPDK's environment: started once per process from the configuration, ended once.
//
// Nothing is left on disk or in /dev/hugepages; several instances run side by side. Hugepages are used
// when the configuration allows and the machine has enough free; otherwise ordinary memory, with a warning: a tuning
// that failed is no reason to stay away (trap io-13). Main thread only, except enter_thread and leave_thread.
#pragma once

#include <memory>
#include <string>
#include <variant>

#include "dataplane/runtime/config.h"
#include "dataplane/runtime/packet_io.h"

namespace penstock::io {

class Eal final : public runtime::Platform {
 public:
  static std::variant<std::unique_ptr<Eal>, runtime::ConfigError> start(const runtime::Config& config);
  // Every pool and port is closed before.
  ~Eal() override;

  // Gives the thread its own cache in front of the pools.
  void enter_thread() override;
  void leave_thread() override;

  [[nodiscard]] bool hugepages() const { return hugepages_; }
  // Packet buffers may be in memory that DPDK did not allocate: no device reads it by itself and no peer maps it.
  [[nodiscard]] bool buffers_anywhere() const { return buffers_anywhere_; }

 private:
  Eal() = default;
  bool hugepages_ = false;
  bool buffers_anywhere_ = false;
  bool started_ = false;
};

}  // namespace penstock::io
