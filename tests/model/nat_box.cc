#include "tests/model/nat_box.h"

#include <algorithm>

namespace penstock::model {
namespace {

constexpr Duration kTakenFor = std::chrono::seconds{30};  // as long as Linux remembers an unanswered packet
constexpr Duration kSweepEvery = std::chrono::seconds{10};
constexpr std::size_t kMaxContacted = 200'000;

}  // namespace

std::string NatBehaviour::to_string() const {
  static constexpr const char* kNames[] = {"independent", "address", "address+port"};
  static constexpr const char* kPorts[] = {"random ports", "preserving", "parity", "sequential", "overloading"};
  std::string out = std::string{"mapping "} + kNames[static_cast<int>(mapping)] + ", filtering " +
                    kNames[static_cast<int>(filtering)] + ", " + kPorts[static_cast<int>(ports)];
  out += ", " + std::to_string(timeout / std::chrono::seconds{1}) + " s";
  if (lifetime != Duration{}) out += ", life " + std::to_string(lifetime / std::chrono::seconds{1}) + " s";
  if (pooling == Pooling::arbitrary) out += ", arbitrary pooling";
  if (refreshed_by_inbound) out += ", refreshed by inbound";
  if (rejects) out += ", rejecting";
  if (inbound_takes_port) out += ", inbound takes port";
  if (!hairpins) out += ", no hairpins";
  return out;
}

std::size_t NatBox::KeyHash::operator()(const Key& key) const {
  return hash_value(key.endpoint) * 31 + hash_value(key.remote) + static_cast<std::size_t>(key.transport);
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

Duration NatBox::life_of(Transport transport) const {
  return transport == Transport::udp ? behaviour_.timeout
         : transport == Transport::tcp ? behaviour_.tcp_timeout
                                       : behaviour_.icmp_timeout;
}

bool NatBox::alive(const Mapping& mapping, Instant now) const {
  return now < mapping.expires && (behaviour_.lifetime == Duration{} || now < mapping.created + behaviour_.lifetime);
}

void NatBox::erase(Mappings::iterator mapping) {
  by_inside_.erase(mapping->key);
  const auto outside = by_outside_.find(Key{mapping->key.transport, mapping->external, {}});
  std::erase(outside->second, mapping);
  if (outside->second.empty()) by_outside_.erase(outside);
  mappings_.erase(mapping);
}

void NatBox::bury(Mappings::iterator mapping) {
  const Instant died = mapping->created + behaviour_.lifetime;
  if (behaviour_.lifetime != Duration{} && died < mapping->expires) deaths_.push_back(died);
  erase(mapping);
}

void NatBox::sweep(Instant now) {
  if (now < next_sweep_) return;
  next_sweep_ = now + kSweepEvery;
  for (auto at = mappings_.begin(); at != mappings_.end();) {
    const auto mapping = at++;
    if (!alive(*mapping, now)) {
      bury(mapping);
      continue;
    }
    std::erase_if(mapping->contacted, [&](const auto& c) { return now - c.second >= mapping->life; });
  }
  std::erase_if(taken_, [now](const auto& entry) { return now >= entry.second; });
}

void NatBox::forget() {
  mappings_.clear();
  by_inside_.clear();
  by_outside_.clear();
  taken_.clear();
}

template <typename Predicate>
void NatBox::forget_if(Predicate goes) {
  for (auto at = mappings_.begin(); at != mappings_.end();) {
    const auto mapping = at++;
    if (goes(*mapping)) erase(mapping);
  }
}

void NatBox::forget_towards(const IpAddress& remote) {
  forget_if([&](const Mapping& mapping) { return mapping.key.remote.address == remote; });
}

void NatBox::forget_older_than(Duration age, Instant now) {
  forget_if([&](const Mapping& mapping) { return now - mapping.created >= age; });
}

bool NatBox::is_free(const Endpoint& wanted, const Key& key, const Endpoint& remote, Instant now) const {
  const auto taken = taken_.find({wanted, remote});
  if (taken != taken_.end() && now < taken->second) return false;
  const auto users = by_outside_.find(Key{key.transport, wanted, {}});
  if (users == by_outside_.end() || behaviour_.ports == PortChoice::overloading) return true;
  // A preserving NAT may use one port of one inside endpoint towards several remotes, as Linux does.
  return std::all_of(users->second.begin(), users->second.end(), [&](const auto& m) {
    return !alive(*m, now) || (behaviour_.ports == PortChoice::preserving && m->key.endpoint == key.endpoint);
  });
}

std::optional<Endpoint> NatBox::choose(const Key& key, const Endpoint& remote, Instant now) {
  std::vector<IpAddress> pool;
  for (const IpAddress& address : external_)
    if (address.is_v4() == key.endpoint.address.is_v4()) pool.push_back(address);
  if (pool.empty() || mappings_.size() >= behaviour_.max_mappings) return std::nullopt;
  const std::size_t chosen = behaviour_.pooling == Pooling::paired
                                 ? hash_value(key.endpoint.address) % pool.size()
                                 : random_.below(static_cast<std::uint32_t>(pool.size()));
  const IpAddress& address = pool[chosen];
  const std::uint16_t inside = key.endpoint.port;
  if (behaviour_.ports == PortChoice::overloading) return Endpoint{address, inside};
  const Endpoint kept{address, static_cast<std::uint16_t>(inside + behaviour_.shift)};
  if (behaviour_.ports == PortChoice::preserving && is_free(kept, key, remote, now)) return kept;
  const std::uint32_t span = std::uint32_t{behaviour_.last_port} - behaviour_.first_port + 1U;
  // Random tries find a port quickly while there are many; then every port is looked at once.
  for (std::uint32_t tries = 0; tries < 64 + span; ++tries) {
    std::uint32_t offset;
    if (behaviour_.ports == PortChoice::sequential) {
      offset = next_port_++ % span;
    } else {
      if (tries == 64) next_port_ = random_.below(span);
      offset = tries < 64 ? random_.below(span) : next_port_++ % span;
    }
    const auto port = static_cast<std::uint16_t>(behaviour_.first_port + offset);
    if (behaviour_.ports == PortChoice::parity && ((port ^ inside) & 1) != 0) continue;
    if (is_free({address, port}, key, remote, now)) return Endpoint{address, port};
  }
  return std::nullopt;
}

std::optional<Endpoint> NatBox::outbound(const Endpoint& internal, const Endpoint& remote, Instant now,
                                         Transport transport, std::optional<Duration> life) {
  sweep(now);
  const Key key{transport, internal, remote_key(remote)};
  auto found = by_inside_.find(key);
  if (found != by_inside_.end() && !alive(*found->second, now)) {
    bury(found->second);
    found = by_inside_.end();
  }
  if (found == by_inside_.end()) {
    const auto external = choose(key, remote, now);
    if (!external) return std::nullopt;
    mappings_.push_back({key, *external, {}, now, now, {}});
    const auto made = std::prev(mappings_.end());
    found = by_inside_.emplace(key, made).first;
    by_outside_[Key{transport, *external, {}}].push_back(made);
  }
  Mapping& mapping = *found->second;
  mapping.life = life.value_or(life_of(transport));
  if (mapping.contacted.size() >= kMaxContacted && !mapping.contacted.contains(remote)) mapping.contacted.clear();
  mapping.contacted[remote] = now;
  mapping.expires = now + mapping.life;
  return mapping.external;
}

bool NatBox::passes(const Mapping& mapping, const Endpoint& remote, Instant now) const {
  const auto open = [&](const auto& contact) { return now - contact.second < mapping.life; };
  switch (behaviour_.filtering) {
    case Dependence::independent:
      return true;
    case Dependence::address: {
      for (auto at = mapping.contacted.lower_bound(Endpoint{remote.address, 0});
           at != mapping.contacted.end() && at->first.address == remote.address; ++at)
        if (open(*at)) return true;
      return false;
    }
    case Dependence::address_and_port:
      break;
  }
  const auto contact = mapping.contacted.find(remote);
  return contact != mapping.contacted.end() && open(*contact);
}

NatBox::Mapping* NatBox::find_inbound(const Endpoint& external, const Endpoint& remote, Instant now,
                                      Transport transport) {
  const auto users = by_outside_.find(Key{transport, external, {}});
  if (users == by_outside_.end()) return nullptr;
  // Several only when a port is shared; who was sent to counts first, then the latest.
  Mapping* any = nullptr;
  for (auto at = users->second.rbegin(); at != users->second.rend(); ++at) {
    Mapping& mapping = **at;
    if (!alive(mapping, now) || !passes(mapping, remote, now)) continue;
    if (mapping.contacted.contains(remote)) return &mapping;
    if (any == nullptr) any = &mapping;
  }
  return any;
}

std::optional<Endpoint> NatBox::inbound(const Endpoint& external, const Endpoint& remote, Instant now,
                                        Transport transport, std::optional<Duration> life) {
  sweep(now);
  Mapping* mapping = find_inbound(external, remote, now, transport);
  if (mapping == nullptr) {
    if (behaviour_.inbound_takes_port && transport == Transport::udp) taken_[{external, remote}] = now + kTakenFor;
    return std::nullopt;
  }
  if (life) mapping->life = *life;
  if (behaviour_.refreshed_by_inbound) {
    mapping->expires = now + mapping->life;
    const auto contact = mapping->contacted.find(remote);
    if (contact != mapping->contacted.end()) contact->second = now;
  }
  return mapping->key.endpoint;
}

std::optional<Endpoint> NatBox::internal_of(const Endpoint& external, const Endpoint& remote, Instant now,
                                            Transport transport) const {
  const auto users = by_outside_.find(Key{transport, external, {}});
  if (users == by_outside_.end()) return std::nullopt;
  for (auto at = users->second.rbegin(); at != users->second.rend(); ++at)
    if (alive(**at, now) && (*at)->contacted.contains(remote)) return (*at)->key.endpoint;
  return std::nullopt;
}

std::optional<Endpoint> NatBox::external_of(const Endpoint& internal, const Endpoint& remote, Instant now,
                                            Transport transport) const {
  const auto found = by_inside_.find(Key{transport, internal, remote_key(remote)});
  if (found == by_inside_.end() || !alive(*found->second, now)) return std::nullopt;
  return found->second->external;
}

}  // namespace penstock::model
