// A policy store over a sink that remembers what workers would see; peers, rights and names to fill it with.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/runtime/policy_store.h"

namespace penstock::runtime {

using policy::ResourceKind;
using policy::TranslationState;
using Origin = PolicyStore::Origin;

// Remembers what workers would see, and what it was asked to do.
class RecordingSink final : public PolicySink {
 public:
  void change_peers(std::span<PeerChange> changes) override {
    for (auto& change : changes) {
      ++peer_changes;
      if (change.kind == PeerChange::Kind::add) {
        if (slots.size() >= capacity) {
          change.error = "table of peers is full";
          continue;
        }
        change.peer = next++;
        slots[change.spec.public_key] = change.peer;
      } else if (change.kind == PeerChange::Kind::remove) {
        slots.erase(change.spec.public_key);
      }
    }
  }
  void publish(std::span<PolicyPublication> publications, bool wait) override {
    waits += wait;
    for (auto& publication : publications) {
      ++published;
      visible[publication.peer] = std::move(publication.policy);
    }
  }
  void set_site(const SiteSpec& site) override { sites.push_back(site); }
  void reset() { peer_changes = published = waits = 0; }

  std::map<KeyBytes, PeerIndex> slots;
  std::map<PeerIndex, std::unique_ptr<policy::PeerPolicy>> visible;
  PeerIndex next = 0;
  std::size_t capacity = 1000;
  std::vector<SiteSpec> sites;
  int peer_changes = 0;
  int published = 0;
  int waits = 0;
};

inline KeyBytes key(std::uint8_t n) {
  KeyBytes out{};
  out[0] = n;
  return out;
}
inline IpAddress ip(std::string_view text) {
  return *IpAddress::parse(text);
}

inline PeerSpec peer(std::uint8_t n) {
  PeerSpec out;
  out.public_key = key(n);
  out.tunnel_v4 = IpAddress::v4({100, 64, 0, n});
  return out;
}
inline AuthorisationSpec lan(std::uint8_t n, const std::string& id = "a") {
  AuthorisationSpec out;
  out.id = id;
  out.peer = key(n);
  out.resource = "lan";
  out.kind = ResourceKind::cidr;
  out.prefix = *Prefix::parse("203.0.113.0/24");
  return out;
}
inline TranslationSpec web(std::uint8_t n, const std::string& id = "t") {
  TranslationSpec out;
  out.id = id;
  out.peer = key(n);
  out.resource = "corp";
  out.name = "web.corp.example";
  out.proxy_v4 = ip("100.96.0.1");
  out.proxy_v6 = ip("fd00:2021:1111:8000::1");
  out.state = TranslationState::active;
  out.addresses = {ip("203.0.113.80"), ip("2001:db8::80")};
  return out;
}

class PolicyStoreTest : public testing::Test {
 protected:
  PolicyStore::Result apply(std::vector<Operation> operations, Origin origin = Origin::control) {
    return store.apply({.operations = std::move(operations)}, origin);
  }
  std::string error_of(Operation operation) {
    const auto result = apply({std::move(operation)});
    return result.errors.empty() ? "" : result.errors.front().message;
  }
  const policy::PeerPolicy& policy_of(std::uint8_t n) { return *sink.visible.at(sink.slots.at(key(n))); }

  RecordingSink sink;
  PolicyStore store{sink, {}, {}, {ip("203.0.113.1"), ip("198.51.100.1")}};
};

}  // namespace penstock::runtime
