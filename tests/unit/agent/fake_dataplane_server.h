// A data plane as penstock-gateway sees it: the real gRPC service on a unix socket over FakeDataPlane. No packets.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/unit/agent/fake_dataplane.h"

namespace penstock {

class FakeDataPlaneServer {
 public:
  FakeDataPlaneServer(const std::string& socket_path, const v1::DataPlaneInfo& info);
  ~FakeDataPlaneServer();

  // A copy of what it keeps.
  [[nodiscard]] FakeDataPlane state() const;
  void emit(const v1::Event& event);
  // From a client through the tunnel.
  void emit(const v1::PuntToControl& punt);
  // What the control process sent so far.
  [[nodiscard]] std::vector<v1::PuntFromControl> received() const;
  [[nodiscard]] bool connected() const;  // Subscribe and Punt stand

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
