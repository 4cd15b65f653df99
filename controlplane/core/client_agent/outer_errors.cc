// ICMP errors about the datagrams around the tunnel: hints that a path may be lost, believed no further than they can
// show that they quote what we have just sent. A NAT that forgot us and rejects what it does not know tells us so a
// round trip later; without its word the path's silence does, a while later.
#include <algorithm>

#include "controlplane/core/client_agent/agent_impl.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/stun/message.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/session.h"

namespace penstock::client {
namespace {

// How far behind the newest message the quoted one may be: errors arrive within a round trip.
constexpr std::uint64_t kRecent = 8192;

// The relay's envelope taken off, as TurnClient::wrap puts it on; the end may be cut off anywhere.
Bytes without_envelope(Bytes quoted) {
  if (quoted.size() >= stun::kChannelDataHeaderSize && (quoted[0] & 0xc0) == 0x40)
    return quoted.subspan(stun::kChannelDataHeaderSize);
  constexpr std::size_t kFirstValue = stun::kHeaderSize + 4;  // of XOR-PEER-ADDRESS: family in its second byte
  if (quoted.size() <= kFirstValue + 1 || view_as<be32>(quoted.subspan(4))->host() != stun::kMagicCookie)
    return quoted;
  constexpr std::uint8_t kIpv6 = 2;
  const std::size_t envelope =
      quoted[kFirstValue + 1] == kIpv6 ? stun::kIndicationOverheadV6 : stun::kIndicationOverheadV4;
  return quoted.subspan(std::min(envelope, quoted.size()));
}

}  // namespace

// A message of a live session of ours: its receiver's index, which only those on the way know, and a counter used lately.
bool ClientAgent::Impl::sent_lately(Bytes quoted, Now now) {
  const Bytes message = without_envelope(quoted);
  if (message.size() < sizeof(wireguard::DataHeader)) return false;
  const auto* header = reinterpret_cast<const wireguard::DataHeader*>(message.data());
  if (header->type.get() != static_cast<std::uint32_t>(wireguard::MessageType::data)) return false;
  const std::uint64_t counter = header->counter.get();
  return std::any_of(links.begin(), links.end(), [&](const auto& entry) {
    const Link& link = *entry.second;
    const wireguard::Session* session = device.data_path().sending_session(link.peer, now.monotonic);
    if (!link.heals || session == nullptr || session->remote_index != header->receiver.get()) return false;
    const std::uint64_t next = session->send_counter.load(std::memory_order_relaxed);
    return counter < next && next - counter <= kRecent;
  });
}

bool ClientAgent::handle_unreachable(Bytes quoted, const Endpoint& remote, Now now) {
  Impl& d = *impl_;
  if (!d.sent_lately(quoted, now)) {
    d.drop(DropReason::icmp_error_unmatched);
    return false;
  }
  ++d.hints;
  d.connectivity.handle_unreachable_hint(remote, now);
  d.settle(now);
  return true;
}

}  // namespace penstock::client
