#include "dataplane/gateway/pipeline.h"

#include "dataplane/gateway/call.h"

namespace penstock::gateway {

struct Pipeline::State {
  struct Burst {
    Classified sorted;
    Opening opening;
  };

  State(Worker& its_worker, wireguard::AeadOffers& offers)
      : worker(its_worker), deferred{offers}, call(its_worker, &deferred) {}

  void complete(unsigned which) {
    Burst& burst = bursts[which];
    deferred.offers.wait(Deferred::kOpening + which);
    if (burst.opening.count != 0) end_decap(worker, burst.opening, burst.sorted.tunnel);
    call.up(burst.sorted.tunnel);
    call.others(burst.sorted);
    call.settle();
  }

  Worker& worker;
  Deferred deferred;
  Call call;
  std::array<Burst, 2> bursts;
  unsigned latest = 0;
  bool pending = false;  // the latest is not complete
};

Pipeline::Pipeline(Worker& worker, wireguard::AeadOffers& offers) : state_(std::make_unique<State>(worker, offers)) {}
Pipeline::~Pipeline() = default;

void Pipeline::take(PacketBurst& frames) {
  State& state = *state_;
  const unsigned next = 1 - state.latest;
  State::Burst& burst = state.bursts[next];
  burst.sorted.tunnel.clear();
  burst.sorted.lan.clear();
  burst.sorted.local.clear();
  burst.sorted.neighbour.clear();
  burst.opening.count = 0;
  classify(state.worker, frames, burst.sorted);
  if (!burst.sorted.tunnel.empty()) tunnel_input(state.worker, burst.sorted.tunnel);
  if (!burst.sorted.tunnel.empty()) begin_decap(state.worker, burst.sorted.tunnel, burst.opening);
  state.deferred.offers.begin(Deferred::kOpening + next, burst.opening.work(), false);
  if (state.pending) state.complete(state.latest);
  state.latest = next;
  state.pending = true;
}

void Pipeline::finish() {
  State& state = *state_;
  if (!state.pending) return;
  state.complete(state.latest);
  state.pending = false;
  state.call.finish();
}

}  // namespace penstock::gateway
