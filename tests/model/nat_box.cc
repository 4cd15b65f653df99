#include "tests/model/nat_box.h"

#include <algorithm>

namespace penstock::model {

std::string NatBehaviour::to_string() const {
  static constexpr const char* kNames[] = {"independent", "address", "address+port"};
  return std::string{"mapping "} + kNames[static_cast<int>(mapping)] + ", filtering " +
         kNames[static_cast<int>(filtering)] + (preserves_ports ? ", preserving" : ", random ports") +
         (rejects ? ", rejecting" : "");
}

bool NatBox::owns(const IpAddress& address) const {
  return std::find(external_.begin(), external_.end(), address) != external_.end();
}

Endpoint NatBox::remote_key(const Endpoint& remote) const {
  switch (behaviour_.mapping) {
    case Dependence::independent:
      return {};
    case Dependence::address:
      return {remote.address, 0};
    case Dependence::address_and_port:
      break;
  }
  return remote;
}

void NatBox::expire(Instant now) {
  std::erase_if(mappings_, [&](const Mapping& m) { return now >= m.expires; });
}

void NatBox::forget() {
  mappings_.clear();
  taken_.clear();
}

void NatBox::forget_older_than(Duration age, Instant now) {
  std::erase_if(mappings_, [&](const Mapping& m) { return now - m.created >= age; });
}

std::optional<Endpoint> NatBox::choose(const Endpoint& internal, const Endpoint& remote) {
  // Paired pooling (RFC 4787 REQ-2): one inside address always shows as the same outside address.
  const IpAddress address = external_[hash_value(internal.address) % external_.size()];
  const auto is_free = [&](std::uint16_t port) {
    const Endpoint wanted{address, port};
    if (taken_.contains({wanted, remote})) return false;
    return std::none_of(mappings_.begin(), mappings_.end(), [&](const Mapping& m) {
      // A preserving NAT may use one port of one inside endpoint towards several remotes, as Linux does.
      return m.external == wanted && !(behaviour_.preserves_ports && m.internal == internal);
    });
  };
  if (behaviour_.preserves_ports && is_free(internal.port)) return Endpoint{address, internal.port};
  for (int tries = 0; tries < 1000; ++tries) {
    const auto port = static_cast<std::uint16_t>(1024 + random_.below(64000));
    if (is_free(port)) return Endpoint{address, port};
  }
  return std::nullopt;
}

std::optional<Endpoint> NatBox::outbound(const Endpoint& internal, const Endpoint& remote, Instant now) {
  expire(now);
  const Endpoint key = remote_key(remote);
  auto at = std::find_if(mappings_.begin(), mappings_.end(),
                         [&](const Mapping& m) { return m.internal == internal && m.remote == key; });
  if (at == mappings_.end()) {
    const auto external = choose(internal, remote);
    if (!external) return std::nullopt;
    mappings_.push_back({internal, *external, key, {}, now, now});
    at = mappings_.end() - 1;
  }
  at->contacted.insert(remote);
  at->expires = now + behaviour_.timeout;
  return at->external;
}

bool NatBox::passes(const Mapping& mapping, const Endpoint& remote) const {
  switch (behaviour_.filtering) {
    case Dependence::independent:
      return true;
    case Dependence::address:
      return std::any_of(mapping.contacted.begin(), mapping.contacted.end(),
                         [&](const Endpoint& e) { return e.address == remote.address; });
    case Dependence::address_and_port:
      break;
  }
  return mapping.contacted.contains(remote);
}

std::optional<Endpoint> NatBox::inbound(const Endpoint& external, const Endpoint& remote, Instant now) {
  expire(now);
  for (Mapping& mapping : mappings_) {
    if (mapping.external != external || !passes(mapping, remote)) continue;
    if (behaviour_.refreshed_by_inbound) mapping.expires = now + behaviour_.timeout;
    return mapping.internal;
  }
  if (behaviour_.inbound_takes_port) taken_.insert({external, remote});
  return std::nullopt;
}

}  // namespace penstock::model
