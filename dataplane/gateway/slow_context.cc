#include "dataplane/gateway/slow_context.h"

#include "dataplane/gateway/wire.h"

namespace penstock::gateway {

Packet* SlowContext::allocate() {
  Packet* packet = packets.allocate();
  if (packet == nullptr) {
    ++drops[static_cast<std::size_t>(DropReason::no_buffer)];
    return nullptr;
  }
  make_own(*packet);
  return packet;
}

void SlowContext::refuse(Packet* packet, Unreachable what, DropReason reason, Instant now) {
  if (may_answer_with_error(*packet) && error_limit.take(now)) {
    if (Packet* error = allocate(); error != nullptr) {
      if (build_icmp_error(configuration, *packet, what, 0, *error))
        emit(error, ToWorker::from_lan, packet->rss_worker);
      else
        drop(error, DropReason::nat_no_source);
    }
  }
  drop(packet, reason);
}

}  // namespace penstock::gateway
