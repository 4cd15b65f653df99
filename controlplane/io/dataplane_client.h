// The gateway's control process towards its data plane: gRPC over the unix socket, for ever.
//
// Theory of operation. A connection is three streams (Subscribe, Punt and one Dump); it is `up` when the dump is
// complete, so events that came meanwhile are told after it. When any of them ends, or an Apply fails, the whole
// connection is `down` and dialled anew, first at once, then after 100 ms to 2 s with jitter. Nothing is queued while
// down: after `up` the owner synchronises. Messages to the tunnel are dropped when the data plane does not take them
// (4096 are waiting): they are repeated by whoever sent them.
//
// All calls and callbacks happen on the loop's thread. Destroying the object cancels everything; no callback comes
// after that.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/io/loop.h"
#include "dataplane/core/base/random.h"
#include "penstock/v1/dataplane.pb.h"

namespace penstock::io {

class DataPlaneClient {
 public:
  struct Callbacks {
    std::function<void(const std::vector<v1::DumpItem>& dump)> up;
    std::function<void(const std::string& why)> down;
    std::function<void(std::uint64_t ticket, const v1::ApplyResponse& response)> applied;
    std::function<void(const v1::Event& event)> event;
    std::function<void(const v1::PuntToControl& punt)> punt;
    std::function<void(const std::string& why)> attempt_failed;  // optional: not up yet
  };

  DataPlaneClient(Loop& loop, Random& random, std::string socket_path, Callbacks callbacks);
  ~DataPlaneClient();
  DataPlaneClient(const DataPlaneClient&) = delete;
  DataPlaneClient& operator=(const DataPlaneClient&) = delete;

  void start();
  // Ignored while down.
  void apply(std::uint64_t ticket, const v1::ApplyRequest& request);
  void send(v1::PuntFromControl message);
  // Everything sent has left the process, or a second has passed.
  void drain();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock::io
