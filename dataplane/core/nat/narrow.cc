// Path MTUs: learned from the errors that pass through, applied to every later packet, and forgotten after a while.
#include <algorithm>

#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {

FlowExtra& Translator::Implementation::mark(flow::Slot slot, std::uint8_t bits) {
  const flow::FlowRecord& record = table_[slot];
  if (record.flags == 0) extras_[slot] = {};
  if ((record.flags & bits) != bits)
    table_.store(slot, &flow::FlowRecord::flags, static_cast<std::uint8_t>(record.flags | bits));
  return extras_[slot];
}

void Translator::Implementation::unmark(flow::Slot slot, std::uint8_t bits) {
  table_.store(slot, &flow::FlowRecord::flags, static_cast<std::uint8_t>(table_[slot].flags & ~bits));
}

std::uint16_t Translator::Implementation::mtu_of_way(const Call& call, flow::Slot slot, bool outside) {
  const std::uint16_t own = outside ? config_.mtu_outside : config_.mtu_inside;
  if ((table_[slot].flags & flow_mark::narrow) == 0) return own;
  FlowExtra& extra = extras_[slot];
  if (call.tick - extra.mtu_since > static_cast<flow::Tick>(kPathMtuLifetime.count() >> flow::kTickShift)) {
    extra.mtu_outside = extra.mtu_inside = 0;
    unmark(slot, flow_mark::narrow);
    return own;
  }
  const std::uint16_t learned = outside ? extra.mtu_outside : extra.mtu_inside;
  return learned == 0 ? own : std::min(learned, own);
}

void Translator::Implementation::narrow(const Call& call, flow::Slot slot, bool outside, std::uint16_t mtu) {
  if (mtu >= mtu_of_way(call, slot, outside)) return;
  FlowExtra& extra = mark(slot, flow_mark::narrow);
  (outside ? extra.mtu_outside : extra.mtu_inside) = mtu;
  extra.mtu_since = call.tick;
}

void Translator::Implementation::learn_path_mtu(const Call& call, flow::Slot slot, const PathMtuReport& report,
                                                bool outside) {
  if (!report.known) return;
  narrow(call, slot, outside, report.mtu);
  if (outside) path_mtus_.learn(table_[slot].remote, report.mtu, call.now.monotonic);
}

// What a Fragmentation Needed or Packet Too Big says about the way of the packet it quotes. A figure that the quoted
// packet would have fitted is a mistake or a lie, and one below what every way carries is raised to that (RFC 8201 §4).
PathMtuReport path_mtu_report(Bytes packet, const IpView& view, const Quoted& quoted) {
  const Bytes message = packet.subspan(view.header_length);
  const std::uint16_t length = quoted.view.total_length;
  if (view.v6()) {
    if (message[0] != icmp6::packet_too_big) return {};
    be32 mtu;
    std::memcpy(&mtu, message.data() + 4, 4);
    if (mtu.host() >= length) return {};
    return {true, static_cast<std::uint16_t>(std::max<std::uint32_t>(mtu.host(), kIpv6MinimumMtu))};
  }
  constexpr std::uint8_t kFragmentationNeeded = 4;
  if (message[0] != icmp4::unreachable || message[1] != kFragmentationNeeded) return {};
  be16 field;
  std::memcpy(&field, message.data() + 6, 2);
  const std::uint16_t mtu = field.host() == 0 ? mtu_plateau(length) : field.host();
  if (mtu >= length) return {};
  return {true, std::max(mtu, kIpv4SmallestMtu)};
}

}  // namespace penstock::nat
