// process_rx (graph.h) for several bursts of one port in a row, on a worker that others help with its encryption: while
// they open one burst, the worker carries the one before to its end, and what it seals is sealed while it goes on. Each
// direction keeps its order.
//
// Same thread as the worker. take() may leave packets inside; finish() leaves none, and comes before the loop's turn
// ends (sessions are read under the worker's RCU read side). Drain `worker.out` after each.
#pragma once

#include <memory>

#include "dataplane/gateway/worker.h"

namespace penstock::wireguard {
class AeadOffers;
}
namespace penstock::gateway {

class Pipeline {
 public:
  Pipeline(Worker& worker, wireguard::AeadOffers& offers);
  ~Pipeline();
  void take(PacketBurst& frames);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace penstock::gateway
