// Connectivity: a gateway between the portal's question to it and the grant. Relays let in whom they were told of, and a
// permission takes a round trip; asked for only with the grant, what the gateway has punched meanwhile is lost there.
#include <algorithm>

#include "controlplane/core/paths/connectivity_impl.h"

namespace penstock::paths {

namespace {

constexpr std::size_t kMaxExpected = 4;  // a relay gives only so many permissions

}  // namespace

void Connectivity::expect_gateway(std::span<const Candidate> candidates, Now now) {
  impl_->tick(now);
  impl_->forget_expected();
  auto& known = impl_->expected_gateways;
  const auto same = std::find_if(known.begin(), known.end(), [&](const Impl::Expected& gateway) {
    return std::equal(candidates.begin(), candidates.end(), gateway.candidates.begin(), gateway.candidates.end());
  });
  if (same != known.end()) {
    std::rotate(same, same + 1, known.end());
  } else {
    if (known.size() >= kMaxExpected) known.pop_front();
    Impl::Expected& fresh = known.emplace_back();
    fresh.candidates.assign(candidates.begin(), candidates.end());
    fresh.agent = impl_->make_agent();
    fresh.agent->set_bases(impl_->bases(), false, impl_->now);
    fresh.agent->set_remote_candidates(candidates, impl_->now);
  }
  known.back().until = impl_->now.monotonic + kExpectFor;
  impl_->refresh_relays();  // of the family that it has
  impl_->pump();
}

// What was learned of a gateway before it was granted. Which one it was its addresses tell.
void Connectivity::Impl::hand_over_expected(PathAgent& agent, std::span<const Candidate> candidates) {
  std::erase_if(expected_gateways, [&](const Expected& gateway) {
    const bool same = std::any_of(gateway.candidates.begin(), gateway.candidates.end(), [&](const Candidate& a) {
      return std::any_of(candidates.begin(), candidates.end(),
                         [&](const Candidate& b) { return a.endpoint == b.endpoint; });
    });
    if (!same) return false;
    for (const Path& path : gateway.agent->learned_paths()) agent.handle_punch(path, now);
    return true;
  });
}

void Connectivity::Impl::forget_expected() {
  const auto passed = [&](const Expected& gateway) { return now.monotonic >= gateway.until; };
  if (std::erase_if(expected_gateways, passed) == 0) return;
  refresh_relays();
  refresh_permissions();
}

Instant Connectivity::Impl::expected_until() const {
  return expected_gateways.empty() ? kNever : expected_gateways.front().until;
}

bool Connectivity::heard_over_relay(GatewayHandle gateway) const {
  const auto at = impl_->agents.find(gateway);
  if (at == impl_->agents.end()) return false;
  const auto learned = at->second->learned_paths();
  return std::any_of(learned.begin(), learned.end(), [](const Path& path) { return path.relay != 0; });
}

}  // namespace penstock::paths
