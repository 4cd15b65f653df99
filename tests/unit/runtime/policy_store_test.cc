#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>

#include "tests/unit/runtime/policy_sink.h"

namespace penstock::runtime {
namespace {

TEST_F(PolicyStoreTest, PublishesPeersWithTheirRights) {
  const auto result = apply({peer(1), lan(1), web(1)});
  EXPECT_TRUE(result.errors.empty());
  const auto& policy = policy_of(1);
  EXPECT_EQ(policy.tunnel_v4, ip("100.64.0.1"));
  ASSERT_EQ(policy.authorisations.size(), 1u);
  EXPECT_TRUE(policy.authorisations[0].filter.all);
  ASSERT_EQ(policy.translations.size(), 1u);
  EXPECT_THAT(policy.translations[0].real_v4, testing::ElementsAre(ip("203.0.113.80")));
  EXPECT_THAT(policy.translations[0].real_v6, testing::ElementsAre(ip("2001:db8::80")));
  EXPECT_EQ(sink.published, 1) << "one snapshot per peer and batch";
}

// trap: paths-4 — a changed preshared key is a change; an equal upsert is none.
TEST_F(PolicyStoreTest, EqualUpsertsAreLeftAloneAndChangedKeysAreNot) {
  apply({peer(1), lan(1), web(1)});
  sink.reset();
  EXPECT_TRUE(apply({peer(1), lan(1), web(1)}).errors.empty());
  EXPECT_EQ(sink.peer_changes, 0);
  EXPECT_EQ(sink.published, 0);
  PeerSpec changed = peer(1);
  changed.preshared_key[5] = 1;
  apply({changed});
  EXPECT_EQ(sink.peer_changes, 1);
  EXPECT_EQ(sink.published, 0) << "the policy is the same";
}

// trap: flow-16 — a changed filter reaches live peers: new epoch, and the call waits for the grace period.
TEST_F(PolicyStoreTest, WhatTakesARightAwayHasAHigherEpochAndWaits) {
  apply({peer(1), lan(1), web(1)});
  std::uint32_t epoch = policy_of(1).epoch;
  const auto revokes = [&](Operation operation) {
    sink.reset();
    EXPECT_TRUE(apply({std::move(operation)}).errors.empty());
    const bool higher = policy_of(1).epoch > epoch;
    EXPECT_EQ(higher, sink.waits == 1);
    epoch = policy_of(1).epoch;
    return higher;
  };
  AuthorisationSpec filtered = lan(1);
  filtered.filter.tcp = {{80, 80}};
  EXPECT_TRUE(revokes(filtered));
  EXPECT_FALSE(policy_of(1).authorisations[0].filter.all);
  EXPECT_FALSE(revokes(lan(1, "second"))) << "an addition judges nobody anew";
  TranslationSpec moved = web(1);
  moved.addresses = {ip("203.0.113.81")};
  EXPECT_FALSE(revokes(moved)) << "trap: nat-13 — a DNS refresh leaves live flows alone";
  moved.state = TranslationState::resolving;
  EXPECT_FALSE(revokes(moved)) << "trap: flow-2";
  moved.state = TranslationState::forbidden;
  EXPECT_TRUE(revokes(moved));
  EXPECT_TRUE(revokes(RemoveTranslation{"t"}));
  EXPECT_TRUE(revokes(RemoveAuthorisation{"a"}));
  ASSERT_EQ(policy_of(1).authorisations.size(), 1u);
  EXPECT_EQ(policy_of(1).authorisations[0].id, "second");
}

// trap: flow-9 — a client absent from the full state loses its access; trap: flow-8 — a revocation missed while away is
// repaired by the sync; what is equal is not touched.
TEST_F(PolicyStoreTest, SyncRemovesWhatIsNotNamedAndTouchesNothingElse) {
  apply({peer(9)}, Origin::file);
  apply({peer(1), lan(1, "a1"), lan(1, "b1"), web(1, "t1"), peer(2), lan(2, "a2")});
  const auto epoch = policy_of(1).epoch;
  const PeerIndex gone = sink.slots.at(key(2));
  sink.reset();
  store.apply({.generation = 7, .begin_sync = true, .operations = {peer(1), lan(1, "a1")}}, Origin::control);
  EXPECT_EQ(sink.published, 0) << "nothing goes before end_sync";
  const auto result = store.apply({.generation = 7, .operations = {web(1, "t1")}, .end_sync = true}, Origin::control);
  EXPECT_EQ(result.removed, 3u) << "b1, a2 and peer 2";
  EXPECT_EQ(store.generation(), 7u);
  EXPECT_EQ(sink.visible.at(gone), nullptr);
  EXPECT_FALSE(sink.slots.contains(key(2)));
  EXPECT_TRUE(sink.slots.contains(key(9))) << "the file's entries are not the control side's to sweep";
  EXPECT_GT(policy_of(1).epoch, epoch);
  EXPECT_GE(sink.waits, 1);
  sink.reset();
  store.apply(
      {.generation = 8, .begin_sync = true, .operations = {peer(1), lan(1, "a1"), web(1, "t1")}, .end_sync = true},
      Origin::control);
  EXPECT_EQ(sink.peer_changes + sink.published + sink.waits, 0) << "an equal state is no event";
}

TEST_F(PolicyStoreTest, AFailedUpsertInASyncKeepsWhatWasThere) {
  apply({peer(1)});
  PeerSpec bad = peer(1);
  bad.tunnel_v4 = ip("8.8.8.8");
  const auto result = store.apply({.begin_sync = true, .operations = {bad}, .end_sync = true}, Origin::control);
  EXPECT_EQ(result.errors.size(), 1u);
  EXPECT_EQ(result.removed, 0u);
  EXPECT_EQ(policy_of(1).tunnel_v4, ip("100.64.0.1"));
}

// trap: flow-13 — expiry is evaluated; trap: flow-14 — not with the time of the authorisation that was replaced.
TEST_F(PolicyStoreTest, AuthorisationsExpireAtTheirLatestTime) {
  AuthorisationSpec limited = lan(1);
  limited.expires = {1000, 0};
  apply({peer(1), limited});
  const auto epoch = policy_of(1).epoch;
  limited.expires = {2000, 0};
  sink.reset();
  apply({limited});
  EXPECT_EQ(sink.waits, 0) << "a renewal takes nothing away";
  EXPECT_EQ(policy_of(1).epoch, epoch);
  EXPECT_EQ(store.expire({1500, 0}), 0u);
  EXPECT_EQ(policy_of(1).authorisations.size(), 1u);
  EXPECT_EQ(store.next_expiry(), (WallTime{2000, 0}));
  EXPECT_EQ(store.expire({2000, 0}), 1u);
  EXPECT_TRUE(policy_of(1).authorisations.empty());
  EXPECT_GT(policy_of(1).epoch, epoch);
  EXPECT_EQ(store.next_expiry(), std::nullopt);
}

TEST_F(PolicyStoreTest, SlotsNeverShareAnEpochWithTheirLastTenant) {
  apply({peer(1)});
  const auto epoch = policy_of(1).epoch;
  apply({RemovePeer{key(1)}, peer(2)});
  EXPECT_GT(policy_of(2).epoch, epoch);
}

TEST_F(PolicyStoreTest, RemovalIsIdempotentAndTakesDependantsAlong) {
  apply({peer(1), lan(1), web(1)});
  EXPECT_EQ(error_of(RemovePeer{key(1)}), "");
  EXPECT_TRUE(store.authorisations().empty());
  EXPECT_TRUE(store.translations().empty());
  EXPECT_EQ(error_of(RemovePeer{key(1)}), "");
  EXPECT_EQ(error_of(RemoveAuthorisation{"a"}), "");
  EXPECT_EQ(error_of(RemoveTranslation{"t"}), "");
  EXPECT_EQ(error_of(peer(2)), "");
  PeerSpec same_address = peer(3);
  same_address.tunnel_v4 = ip("100.64.0.1");
  EXPECT_EQ(error_of(same_address), "") << "the address is free again";
}

TEST_F(PolicyStoreTest, TheFilesEntriesBelongToTheFile) {
  apply({peer(1), lan(1), web(1)}, Origin::file);
  const std::string refused = "is configured in the data plane's file and cannot be changed here";
  EXPECT_EQ(error_of(peer(1)), refused);
  EXPECT_EQ(error_of(lan(1)), refused);
  EXPECT_EQ(error_of(RemovePeer{key(1)}), refused);
  EXPECT_EQ(error_of(RemoveAuthorisation{"a"}), refused);
  EXPECT_EQ(error_of(RemoveTranslation{"t"}), refused);
}

TEST_F(PolicyStoreTest, AnUnaddablePeerLeavesNothingBehind) {
  sink.capacity = 1;
  const auto result = apply({peer(1), peer(2), lan(2)});
  ASSERT_EQ(result.errors.size(), 1u);
  EXPECT_EQ(result.errors[0].index, 1u);
  EXPECT_EQ(result.errors[0].message, "table of peers is full");
  EXPECT_EQ(store.peers().size(), 1u);
  EXPECT_TRUE(store.authorisations().empty());
}

TEST_F(PolicyStoreTest, BadOperationsHaveAClearErrorAndChangeNothing) {
  apply({peer(1), lan(1), web(1)});
  sink.reset();
  const auto with = [](auto spec, auto change) {
    change(spec);
    return Operation(spec);
  };
  const std::pair<Operation, std::string> cases[] = {
      {with(peer(2), [](PeerSpec& s) { s.public_key = {}; }), "public key is all zero"},
      {with(peer(2), [](PeerSpec& s) { s.tunnel_v4 = {}; }), "has no tunnel address"},
      {with(peer(2), [](PeerSpec& s) { s.tunnel_v4 = ip("100.64.0.1"); }),
       "tunnel address 100.64.0.1 belongs to another peer"},
      {with(peer(2), [](PeerSpec& s) { s.tunnel_v4 = ip("100.96.0.9"); }),
       "tunnel address 100.96.0.9 is not in the pool 100.64.0.0/11"},
      {with(peer(2), [](PeerSpec& s) { s.tunnel_v6 = ip("2001:db8::1"); }),
       "tunnel address 2001:db8::1 is not in the pool fd00:2021:1111::/107"},
      {with(peer(2), [](PeerSpec& s) { s.extra_sources = {*Prefix::parse("100.96.0.0/16")}; }),
       "allowed source 100.96.0.0/16 overlaps the pool 100.96.0.0/11"},
      {with(peer(2), [](PeerSpec& s) { s.extra_sources = {*Prefix::parse("203.0.113.0/24")}; }),
       "allowed source 203.0.113.0/24 contains the gateway's own 203.0.113.1"},
      {with(peer(2),
            [](PeerSpec& s) {
              s.endpoints = {{ip("127.0.0.1"), 1}};
            }),
       "endpoint 127.0.0.1:1 is not one that can be sent to"},
      {with(lan(3), [](AuthorisationSpec& s) { s.id = "x"; }), "peer is not known"},
      {with(lan(1), [](AuthorisationSpec& s) { s.id = ""; }), "id is empty"},
      {with(lan(1), [](AuthorisationSpec& s) { s.id = "x", s.resource = "a b"; }),
       "resource has spaces or control characters"},
      {with(lan(1), [](AuthorisationSpec& s) { s.id = "x", s.kind = ResourceKind::address; }),
       "203.0.113.0/24 is not a single address"},
      {with(lan(1), [](AuthorisationSpec& s) { s.id = "x", s.kind = ResourceKind::dns; }), "pattern is empty"},
      {with(lan(1),
            [](AuthorisationSpec& s) {
              s.id = "x", s.filter.udp = {{9, 8}};
            }),
       "port range 9-8 ends before it starts"},
      {with(web(3), [](TranslationSpec& s) { s.id = "x"; }), "peer is not known"},
      {with(web(1), [](TranslationSpec& s) { s.id = "x", s.name = "other.corp.example"; }),
       "proxy address 100.96.0.1 stands for web.corp.example already"},
      {with(web(1), [](TranslationSpec& s) { s.id = "x"; }),
       "name web.corp.example of resource corp has the translation t already"},
      {with(web(1), [](TranslationSpec& s) { s.id = "x", s.proxy_v4 = s.proxy_v6 = {}; }), "has no proxy address"},
      {with(web(1), [](TranslationSpec& s) { s.id = "x", s.proxy_v4 = ip("100.100.111.1"); }),
       "proxy address 100.100.111.1 is in the reserved 100.100.111.0/24"},
      {with(web(1), [](TranslationSpec& s) { s.id = "x", s.proxy_v4 = ip("10.0.0.1"); }),
       "proxy address 10.0.0.1 is not in the pool 100.96.0.0/11"},
      {with(web(1), [](TranslationSpec& s) { s.addresses = {ip("224.0.0.1")}; }),
       "address 224.0.0.1 is not one that can be reached"},
      {with(web(1), [](TranslationSpec& s) { s.addresses = {}; }), "is active but has no address"},
      {with(web(1), [](TranslationSpec& s) { s.name = std::string(254, 'a'); }), "name is longer than 253 characters"},
  };
  for (const auto& [operation, expected] : cases) EXPECT_EQ(error_of(operation), expected);
  EXPECT_EQ(sink.peer_changes + sink.published + sink.waits, 0);
  EXPECT_EQ(store.peers(), std::vector{peer(1)});
  EXPECT_EQ(store.authorisations(), std::vector{lan(1)});
  EXPECT_EQ(store.translations(), std::vector{web(1)});
}

TEST_F(PolicyStoreTest, OneBadOperationDoesNotStopTheOthers) {
  const auto result = apply({peer(1), lan(7), lan(1)});
  ASSERT_EQ(result.errors.size(), 1u);
  EXPECT_EQ(result.errors[0].index, 1u);
  EXPECT_EQ(policy_of(1).authorisations.size(), 1u);
}

// trap: nat-25 — what one peer may hold is bounded.
TEST_F(PolicyStoreTest, NamesPerPeerAreBounded) {
  PolicyStore small(sink, {}, {.max_peers = 1, .max_translations_per_peer = 1, .max_authorisations_per_peer = 1}, {});
  TranslationSpec second = web(1, "t2");
  second.name = "b.corp.example";
  second.proxy_v4 = ip("100.96.0.2");
  second.proxy_v6 = {};
  const auto result =
      small.apply({.operations = {peer(1), peer(2), lan(1), lan(1, "b"), web(1), second}}, Origin::control);
  ASSERT_EQ(result.errors.size(), 3u);
  EXPECT_EQ(result.errors[0].message, "there are 1 peers already");
  EXPECT_EQ(result.errors[1].message, "the peer has 1 authorisations already");
  EXPECT_EQ(result.errors[2].message, "the peer has 1 names already");
}

// Whatever order operations come in, what workers see is what the store says, and applying it again changes nothing.
RC_GTEST_PROP(PolicyStoreProperty, VisibleStateFollowsTheStoreAndIsIdempotent, ()) {
  RecordingSink sink;
  PolicyStore store(sink, {}, {}, {});
  const auto small = [] { return *rc::gen::inRange<std::uint8_t>(1, 5); };
  const int batches = *rc::gen::inRange(1, 6);
  for (int b = 0; b < batches; ++b) {
    std::vector<Operation> operations;
    const int count = *rc::gen::inRange(0, 8);
    for (int i = 0; i < count; ++i) {
      const std::uint8_t n = small();
      switch (*rc::gen::inRange(0, 6)) {
        case 0:
          operations.push_back(peer(n));
          break;
        case 1:
          operations.push_back(RemovePeer{key(n)});
          break;
        case 2:
          operations.push_back(lan(small(), fmt::format("a{}", n)));
          break;
        case 3:
          operations.push_back(RemoveAuthorisation{fmt::format("a{}", n)});
          break;
        case 4:
          operations.push_back(web(n, fmt::format("t{}", n)));
          break;
        default:
          operations.push_back(RemoveTranslation{fmt::format("t{}", n)});
          break;
      }
    }
    store.apply(
        {.begin_sync = *rc::gen::arbitrary<bool>(), .operations = operations, .end_sync = *rc::gen::arbitrary<bool>()},
        Origin::control);
  }
  std::map<KeyBytes, std::pair<std::size_t, std::size_t>> expected;
  for (const auto& spec : store.peers()) expected[spec.public_key];
  for (const auto& spec : store.authorisations()) ++expected.at(spec.peer).first;
  for (const auto& spec : store.translations()) ++expected.at(spec.peer).second;
  RC_ASSERT(expected.size() == sink.slots.size());
  std::size_t alive = 0;
  for (const auto& [index, policy] : sink.visible) alive += policy != nullptr;
  RC_ASSERT(alive == expected.size());
  for (const auto& [public_key, counts] : expected) {
    const auto& policy = *sink.visible.at(sink.slots.at(public_key));
    RC_ASSERT(policy.authorisations.size() == counts.first);
    RC_ASSERT(policy.translations.size() == counts.second);
  }
  sink.reset();
  std::vector<Operation> all;
  for (const auto& spec : store.peers()) all.push_back(spec);
  for (const auto& spec : store.authorisations()) all.push_back(spec);
  for (const auto& spec : store.translations()) all.push_back(spec);
  const auto result = store.apply({.begin_sync = true, .operations = all, .end_sync = true}, Origin::control);
  RC_ASSERT(result.errors.empty());
  RC_ASSERT(result.removed == 0u);
  RC_ASSERT(sink.peer_changes + sink.published + sink.waits == 0);
}

TEST(PolicyStore, WhatTheSiteSaysIsKeptHandedOverAndSweptAway) {
  RecordingSink sink;
  PolicyStore store(sink, {}, {}, {});
  const SiteSpec routed{.source_nat = false, .mapping = {}, .filtering = {}};
  const auto say = [&store](bool all, std::vector<Operation> operations) {
    return store.apply({1, all, std::move(operations), all}, Origin::control);
  };
  say(false, {routed});
  say(true, {routed});
  EXPECT_EQ(sink.sites, std::vector{routed}) << "equal is left untouched";
  EXPECT_EQ(store.site(), routed);
  const auto entries = store.control_entries();
  ASSERT_EQ(entries.operations.size(), 1U);
  EXPECT_EQ(std::get<SiteSpec>(entries.operations[0]), routed);
  EXPECT_EQ(say(true, {}).removed, 1U);
  EXPECT_EQ(sink.sites, (std::vector{routed, SiteSpec{}})) << "it says nothing any more";
  EXPECT_TRUE(store.control_entries().operations.empty());
}

TEST(EffectiveSettings, TheFileThenTheSiteThenTheDefault) {
  using nat::Filtering;
  using nat::Mapping;
  constexpr auto kAll = Mapping::endpoint_independent;
  struct Case {
    SiteSpec own, site;
    nat::SiteSettings expected;
  };
  const Case cases[] = {
      {{}, {}, {}},
      {{}, {false, kAll, Filtering::address_dependent}, {true, kAll, Filtering::address_dependent}},
      {{true, {}, {}}, {false, kAll, {}}, {false, kAll, {}}},
      {{false, {}, {}}, {true, {}, {}}, {true, {}, {}}},
      {{{}, kAll, Filtering::endpoint_independent},
       {{}, Mapping::address_and_port_dependent, Filtering::address_and_port_dependent},
       {false, kAll, Filtering::endpoint_independent}},
      // The file's mapping takes the ground from under the site's filter.
      {{{}, Mapping::address_and_port_dependent, {}}, {{}, kAll, Filtering::endpoint_independent}, {}},
  };
  for (const Case& c : cases)
    EXPECT_EQ(effective_settings(c.own, c.site), c.expected) << static_cast<std::size_t>(&c - cases);
}

}  // namespace
}  // namespace penstock::runtime
