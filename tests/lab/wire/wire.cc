#include "tests/lab/wire/wire.h"

#include <algorithm>

#include "dataplane/core/packet/ip_parse.h"

namespace penstock::wire {

using model::LinkModel;
using model::Side;

namespace {

// More than this on its way is no link any more; what comes then is lost.
constexpr std::size_t kMaxFlying = 100'000;

}  // namespace

Wire::Wire(const Spec& spec, Sides sides, std::uint64_t seed)
    : spec_(spec),
      sides_(std::move(sides)),
      random_(seed),
      box_(spec.behaviour, sides_.outside, random_),
      nat_(box_, {sides_.own_v4, sides_.own_v6, false}),  // the router's kernel counts hops
      up_(spec.link),
      down_(spec.link) {}

bool Wire::from_inside(Bytes packet) const {
  IpAddress source;
  if (packet.size() >= 20 && packet[0] >> 4 == 4)
    source = IpAddress::from_wire(packet.subspan(12, 4));
  else if (packet.size() >= 40)
    source = IpAddress::from_wire(packet.subspan(8, 16));
  return std::any_of(sides_.inside.begin(), sides_.inside.end(), [&](const Prefix& p) { return p.contains(source); });
}

// Said to the sender before anything is translated, so that it quotes what the sender sent.
bool Wire::refuse_too_big(Side came_from, const std::vector<std::uint8_t>& packet, Instant now) {
  if (packet.size() <= spec_.link.mtu) return false;
  ++statistics_.too_big;
  if (spec_.black_hole) return true;
  const bool v4 = packet[0] >> 4 == 4;
  IpAddress from = v4 ? sides_.own_v4 : sides_.own_v6;
  if (came_from == Side::outside)
    for (const IpAddress& address : box_.external())
      if (address.is_v4() == v4) from = address;
  auto error = model::too_big_error(packet, from, static_cast<std::uint32_t>(spec_.link.mtu));
  if (!error.empty()) flying_.emplace(now, std::move(error));
  return true;
}

void Wire::handle(std::vector<std::uint8_t> packet, Instant now) {
  const Side came_from = from_inside(packet) ? Side::inside : Side::outside;
  if (refuse_too_big(came_from, packet, now)) return;
  ++(came_from == Side::inside ? statistics_.up : statistics_.down);
  if (!spec_.nat) return put_on_link(came_from == Side::inside ? Side::outside : Side::inside, std::move(packet), now);
  scratch_.clear();
  nat_.handle(came_from, std::move(packet), now, scratch_);
  for (model::SidedPacket& out : scratch_) put_on_link(out.leaves, std::move(out.bytes), now);
}

void Wire::put_on_link(Side leaves, std::vector<std::uint8_t> packet, Instant now) {
  const LinkModel::Passage passage =
      (leaves == Side::outside ? up_ : down_).enter(packet.size(), now, random_);
  if (passage.fate != LinkModel::Fate::passes || flying_.size() >= kMaxFlying) {
    ++statistics_.lost;
    return;
  }
  statistics_.duplicated += passage.copies - 1;
  for (unsigned copy = 1; copy < passage.copies; ++copy) flying_.emplace(passage.at[copy], packet);
  flying_.emplace(passage.at[0], std::move(packet));
}

std::optional<std::vector<std::uint8_t>> Wire::poll(Instant now) {
  if (next() > now) return std::nullopt;
  auto out = std::move(flying_.begin()->second);
  flying_.erase(flying_.begin());
  return out;
}

void Wire::forget() {
  nat_.forget();
}

void Wire::become(const Spec& spec) {
  spec_ = spec;
  box_.set_behaviour(spec.behaviour);
  const bool up = up_.link.up;
  up_.link = down_.link = spec.link;
  up_.link.up = down_.link.up = up;
}

void Wire::move(std::vector<IpAddress> outside) {
  sides_.outside = outside;
  box_.set_external(std::move(outside));
  nat_.forget();
}

void Wire::cut(bool cut) {
  up_.link.up = down_.link.up = !cut;
}

}  // namespace penstock::wire
