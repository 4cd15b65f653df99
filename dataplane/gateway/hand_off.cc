#include "dataplane/gateway/stages.h"

namespace penstock::gateway {

void to_slow(Worker& worker, Packet* packet, ToSlow kind, DropReason reason) {
  set_kind(*packet, kind);
  packet->rss_worker = worker.id;
  if (!worker.out.slow.add(packet)) worker.drop(packet, reason);
}

Packet* copy_of(Worker& worker, const Packet& packet) {
  Packet* copy = worker.packets->allocate();
  if (copy == nullptr) return nullptr;
  if (!copy->append(packet.length)) {
    worker.drop(copy, DropReason::no_buffer);
    return nullptr;
  }
  std::memcpy(copy->data, packet.data, packet.length);
  copy->port = packet.port;
  copy->peer = packet.peer;
  copy->outer = packet.outer;
  copy->flags = packet.flags;
  copy->l4_offset = packet.l4_offset;
  copy->l4_protocol = packet.l4_protocol;
  return copy;
}

}  // namespace penstock::gateway
