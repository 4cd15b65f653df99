// From a client to another one behind the same translator, at the address and port by which everybody else knows it
// (RFC 4787 §6, REQ-9a: the source is the external one too; RFC 6146 §3.8, RFC 5508 §5).
//
// A packet is translated up as any other; when its destination then is an address of ours, it comes down again as if it
// had been received from the LAN, judged by the policy of whom it is for. It is one translator, hence one hop.
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

// The way down takes one off; so the two count for one.
void give_hop_back(Packet& packet, const IpView& view) {
  if (view.v6()) {
    ++packet.data[7];
    return;
  }
  auto* header = view_as<Ipv4Header>(packet.bytes());
  ++header->ttl;
  header->checksum = be16{};
  header->checksum = checksum_finish(checksum_add(0, Bytes{packet.data, view.header_length}));
}

}  // namespace

void Translator::Implementation::to_lan(const Call& call, Packet& packet) {
  if (config_.hairpinning) {
    const IpView view = parse_ip(packet).view;
    if (source_index(ip_destination(packet.bytes(), view))) {
      if (view.ttl != 0xff) give_hop_back(packet, view);
      packet.flags = static_cast<std::uint8_t>(packet.flags & ~packet_flag::from_tunnel);
      packet.peer = kNoPeer;
      packet.flow = 0;
      turned_.push_back(&packet);
      return;
    }
  }
  call.out->add({&packet, Action::to_outside, DropReason::none, 0});
}

void Translator::Implementation::turn_back(const Call& call) {
  // What comes down may be answered, and the answer is for a client again; nothing is said about answers.
  for (std::size_t i = 0; i < turned_.size(); ++i) down_whole(call, *turned_[i]);
  turned_.clear();
}

}  // namespace penstock::nat
