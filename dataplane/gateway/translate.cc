#include "dataplane/core/nat/translator.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/stages.h"

namespace penstock::gateway {

void translate_up(Worker& worker, PacketBurst& packets) {
  worker.enter(Stage::translate_up, packets.size());
  worker.translator->translate_up({packets.data(), packets.size()}, worker.policies->view(), worker.now,
                                  worker.outcomes);
  packets.clear();
}

void translate_down(Worker& worker, PacketBurst& packets) {
  worker.enter(Stage::translate_down, packets.size());
  worker.translator->translate_down({packets.data(), packets.size()}, worker.policies->view(), worker.now,
                                    worker.outcomes);
  packets.clear();
}

}  // namespace penstock::gateway
