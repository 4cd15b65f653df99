// Packet <-> rte_mbuf. A Packet lives in the private area right behind its mbuf, so either is found from the other by
// arithmetic. The mbuf's own lengths are only right where DPDK looks at them: at rx and just before tx.
#pragma once

#include <rte_mbuf.h>

#include <new>

#include "dataplane/core/packet/packet.h"
#include "dataplane/core/packet/renew.h"

namespace penstock::io {

inline constexpr std::uint16_t kPrivateSize = sizeof(Packet);
static_assert(sizeof(rte_mbuf) % alignof(Packet) == 0, "the private area must be aligned for a Packet");
static_assert(kPrivateSize % RTE_MBUF_PRIV_ALIGN == 0);
static_assert(RTE_PKTMBUF_HEADROOM >= kMinHeadroom);

inline rte_mbuf* mbuf_of(Packet* packet) {
  return reinterpret_cast<rte_mbuf*>(packet) - 1;
}
inline rte_mbuf* mbuf_of(const Packet* packet) {
  return mbuf_of(const_cast<Packet*>(packet));
}

// A Packet over the bytes the mbuf holds now. The mbuf has one segment.
inline Packet* packet_of(rte_mbuf* mbuf) {
  auto* packet = new (mbuf + 1) Packet;
  packet->data = rte_pktmbuf_mtod(mbuf, std::uint8_t*);
  packet->length = mbuf->data_len;
  packet->headroom = mbuf->data_off;
  packet->tailroom = rte_pktmbuf_tailroom(mbuf);
  return packet;
}

// The same for a frame just received. What only the stage that sets it may read (`outer`) is left as it is: its line of
// the cache need not be fetched for every packet.
inline Packet* received_packet(rte_mbuf* mbuf) {
  auto* packet = reinterpret_cast<Packet*>(mbuf + 1);
  renew(*packet, rte_pktmbuf_mtod(mbuf, std::uint8_t*), mbuf->data_len, mbuf->data_off, rte_pktmbuf_tailroom(mbuf));
  return packet;
}

// Makes the mbuf say what the Packet says, for DPDK to send.
inline rte_mbuf* prepare_for_send(Packet* packet) {
  rte_mbuf* mbuf = mbuf_of(packet);
  mbuf->data_off = static_cast<std::uint16_t>(packet->data - static_cast<std::uint8_t*>(mbuf->buf_addr));
  mbuf->data_len = packet->length;
  mbuf->pkt_len = packet->length;
  mbuf->ol_flags = 0;
  constexpr std::uint8_t kFillIn = packet_flag::own | packet_flag::l4_checksum_ok;
  if ((packet->flags & kFillIn) == kFillIn) {  // UDP over IPv6, behind a header that may be tagged
    const bool tagged = packet->data[12] == 0x81 && packet->data[13] == 0x00;
    mbuf->l2_len = tagged ? 18 : 14;
    mbuf->l3_len = 40;
    mbuf->l4_len = 8;
    mbuf->ol_flags = RTE_MBUF_F_TX_IPV6 | RTE_MBUF_F_TX_UDP_CKSUM;
  }
  return mbuf;
}

}  // namespace penstock::io
