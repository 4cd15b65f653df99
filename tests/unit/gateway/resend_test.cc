// ResendStore: what is kept, what is sent again on whose order, and the bounds of both.
#include "dataplane/gateway/resend.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <set>

#include "tests/unit/gateway/builder.h"

namespace penstock::gateway::test {
namespace {

using namespace std::chrono_literals;

const Endpoint kRelay{ip("198.51.100.20"), 49152};
const Endpoint kMovedTo{ip("198.51.100.130"), 61000};
const Endpoint kThird{ip("198.51.100.131"), 61000};
constexpr Instant kStart{1h};

Path path_to(const Endpoint& remote) {
  return {{}, remote, 0};
}

ResendOrder order_for(PeerIndex peer, Instant since, Instant up_to, Instant until, std::vector<Endpoint> to) {
  ResendOrder out;
  out.peer = peer;
  out.since = since;
  out.up_to = up_to;
  out.until = until;
  for (const Endpoint& one : to) out.to[out.paths++] = path_to(one);
  return out;
}

Octets datagram(std::uint32_t number, std::size_t size = 96) {
  Octets out(size, static_cast<std::uint8_t>(number));
  std::memcpy(out.data(), &number, sizeof number);
  return out;
}

std::uint32_t number_of(Bytes bytes) {
  std::uint32_t number = 0;
  std::memcpy(&number, bytes.data(), sizeof number);
  return number;
}

struct Store {
  explicit Store(std::size_t blocks = 64) : store(gates, 64, blocks) {}
  std::vector<std::uint32_t> drain(Instant now) {
    std::vector<std::uint32_t> out;
    ResendStore::Copy copy;
    while (store.poll(now, copy)) out.push_back(number_of(copy.bytes));
    return out;
  }
  ResendGates gates{64};
  ResendStore store;
};

TEST(ResendStore, SendsWhatWasKeptSinceInOrderOverEachPathOnce) {
  Store s;
  for (std::uint32_t i = 0; i < 20; ++i) s.store.keep(3, datagram(i), kStart + i * 10ms);
  const Instant now = kStart + 200ms;
  s.store.order(order_for(3, kStart + 150ms, now, now + 2s, {kRelay, kMovedTo}), now);
  ResendStore::Copy copy;
  std::vector<std::pair<std::uint32_t, Endpoint>> seen;
  while (s.store.poll(now, copy)) {
    EXPECT_EQ(copy.peer, 3U);
    EXPECT_EQ(copy.bytes.size(), 96U);
    seen.emplace_back(number_of(copy.bytes), copy.to.remote);
  }
  ASSERT_EQ(seen.size(), 10U);
  for (std::uint32_t i = 0; i < 10; ++i) {
    EXPECT_EQ(seen[i].first, 15 + i / 2);
    EXPECT_EQ(seen[i].second, i % 2 == 0 ? kRelay : kMovedTo);
  }
  // Done: what comes later is nobody's business.
  s.store.keep(3, datagram(99), now + 10ms);
  EXPECT_TRUE(s.drain(now + 20ms).empty());
}

TEST(ResendStore, CopiesWhatIsNewerUntilTheOrderEnds) {
  Store s;
  s.store.keep(3, datagram(0), kStart);
  s.store.order(order_for(3, kStart, kStart + 2s, kStart + 2s, {kRelay}), kStart);
  EXPECT_EQ(s.drain(kStart), std::vector<std::uint32_t>{0});
  s.store.keep(3, datagram(1), kStart + 1s);
  EXPECT_TRUE(s.store.due(kStart + 1s));
  EXPECT_EQ(s.drain(kStart + 1s), std::vector<std::uint32_t>{1});
  s.store.keep(3, datagram(2), kStart + 2s + 1ms);
  EXPECT_TRUE(s.drain(kStart + 2s + 1ms).empty()) << "two seconds at most";
  // Stopped early.
  s.store.order(order_for(3, kStart + 2s, kStart + 9s, kStart + 9s, {kRelay}), kStart + 3s);
  s.store.order(order_for(3, {}, {}, {}, {}), kStart + 3s);
  s.store.keep(3, datagram(3), kStart + 3s);
  EXPECT_TRUE(s.drain(kStart + 3s).empty());
}

// An answer to a late request does not wait behind a quarter of a second's packets at the pace of a relay.
TEST(ResendStore, TheNewestGoesFirstThenTheOldest) {
  Store s;
  for (std::uint32_t i = 0; i < 100; ++i) s.store.keep(3, datagram(i), kStart + i * 1ms);
  const Instant now = kStart + 100ms;
  ResendOrder order = order_for(3, kStart + 10ms, now + 1s, now + 1s, {kRelay});
  order.fresh = now - 5ms;
  s.store.order(order, now);
  std::vector<std::uint32_t> expected{95, 96, 97, 98, 99};
  for (std::uint32_t i = 10; expected.size() < ResendStore::kBite; ++i) expected.push_back(i);
  EXPECT_EQ(s.drain(now), expected);
  // What comes meanwhile too.
  s.store.keep(3, datagram(100), now + 1ms);
  s.store.keep(3, datagram(101), now + 2ms);
  const auto next = s.drain(now + ResendStore::kPause);
  ASSERT_EQ(next.size(), ResendStore::kBite);
  EXPECT_EQ(next[0], 100U);
  EXPECT_EQ(next[1], 101U);
  EXPECT_EQ(next[2], expected.back() + 1);
  std::vector<std::uint32_t> rest;
  for (Instant at = now + 4ms; at < now + 900ms; at += 1ms) {
    const auto more = s.drain(at);
    rest.insert(rest.end(), more.begin(), more.end());
  }
  ASSERT_EQ(rest.size(), 94 - next.back());
  EXPECT_EQ(rest.front(), next.back() + 1);
  EXPECT_EQ(rest.back(), 94U) << "nothing goes twice";
}

TEST(ResendStore, AnOrderTakesOverWhatTheOneBeforeHadNotComeTo) {
  Store s;
  for (std::uint32_t i = 0; i < 100; ++i) s.store.keep(3, datagram(i), kStart + i * 1ms);
  const Instant first = kStart + 100ms;
  s.store.order(order_for(3, kStart, first + 2s, first + 2s, {kRelay}), first);
  EXPECT_EQ(s.drain(first).size(), ResendStore::kBite);
  // The client moves: its probes over the new path say that only the newest packets are in doubt.
  const Instant second = first + 1ms;
  s.store.order(order_for(3, kStart + 90ms, second, second + 2s, {kMovedTo}), second);
  std::vector<std::uint32_t> sent;
  for (Instant now = second; now < second + 100ms; now += 1ms) {
    ResendStore::Copy copy;
    while (s.store.poll(now, copy))
      if (copy.to.remote == kMovedTo) sent.push_back(number_of(copy.bytes));
  }
  ASSERT_EQ(sent.size(), 100 - ResendStore::kBite);
  EXPECT_EQ(sent.front(), ResendStore::kBite);
  EXPECT_EQ(sent.back(), 99U);
}

// The client has moved to its relay, and before all that was in doubt has gone there the path is suspected: what was about
// to go over the relay, the endpoint now, goes there all the same, and not only to the addresses besides it.
TEST(ResendStore, WhatAnOrderHadNotComeToGoesWhereItWasToGo) {
  Store s;
  for (std::uint32_t i = 0; i < 100; ++i) s.store.keep(3, datagram(i), kStart + i * 1ms);
  const Instant first = kStart + 100ms;
  s.store.order(order_for(3, kStart, first, first + 2s, {kRelay}), first);
  ASSERT_EQ(s.drain(first).size(), ResendStore::kBite);
  const Instant second = first + 1ms;
  s.store.order(order_for(3, kStart, second + 2s, second + 2s, {kMovedTo}), second);
  std::map<Endpoint, std::set<std::uint32_t>> sent;
  for (Instant now = second; now < second + 200ms; now += 1ms) {
    if (now == second + 100ms) s.store.keep(3, datagram(100), now);  // newer than the first order's
    ResendStore::Copy copy;
    while (s.store.poll(now, copy)) sent[copy.to.remote].insert(number_of(copy.bytes));
  }
  EXPECT_EQ(sent[kRelay].size(), 100 - ResendStore::kBite) << "what had gone there does not go again";
  EXPECT_EQ(sent[kMovedTo].size(), 101U);
  EXPECT_FALSE(sent[kRelay].contains(100));
}

// Below the bounds whatever an order calls in doubt is sent after it, where it says, however many orders come meanwhile.
RC_GTEST_PROP(ResendStore, NothingInDoubtIsLeftOut, ()) {
  Store s;
  struct Wanted {
    std::uint32_t number;
    Endpoint to;
    bool sent;
  };
  std::vector<Instant> kept;
  std::vector<Wanted> wanted;
  Instant now = kStart;
  const auto take = [&] {
    ResendStore::Copy copy;
    while (s.store.poll(now, copy))
      for (Wanted& w : wanted) w.sent = w.sent || (w.number == number_of(copy.bytes) && w.to == copy.to.remote);
  };
  const auto steps = *rc::gen::inRange(10, 120);
  for (int step = 0; step < steps; ++step) {
    now += Duration{std::chrono::microseconds{*rc::gen::inRange(100, 3000)}};
    if (*rc::gen::inRange(0, 8) == 0 && !kept.empty()) {
      const Instant since = now - std::chrono::milliseconds{*rc::gen::inRange(0, 60)};
      const Endpoint to = *rc::gen::element(kRelay, kMovedTo, kThird);
      ResendOrder order = order_for(3, since, now, now + 2s, {to});
      order.fresh = now - std::chrono::milliseconds{*rc::gen::inRange(-5, 70)};
      s.store.order(order, now);
      for (std::uint32_t i = 0; i < kept.size(); ++i)
        if (kept[i] >= since) wanted.push_back({i, to, false});
    } else {
      s.store.keep(3, datagram(static_cast<std::uint32_t>(kept.size())), now);
      kept.push_back(now);
    }
    if (*rc::gen::inRange(0, 2) == 0) take();
  }
  for (int i = 0; i < 1000; ++i) {
    now += 1ms;
    take();
  }
  for (const Wanted& w : wanted) RC_ASSERT(w.sent);
}

TEST(ResendStore, StaysBelowTheRatesOfATunnelAndOfAnAddress) {
  Store s;
  // Two seconds' worth of packets in the ring, all wanted at once.
  std::uint32_t number = 0;
  Instant now = kStart;
  for (; number < 4000; ++number, now += 500us) s.store.keep(3, datagram(number, 32), now);
  s.store.order(order_for(3, kStart, now, now + 2s, {kRelay}), now);
  const Instant begin = now;
  std::size_t sent = 0, most = 0;
  const auto run = [&](Duration time) {
    const Instant end = now + time;
    for (; now < end; now = std::min(end, std::max(now + 100us, s.store.next()))) {
      const std::size_t one = s.drain(now).size();
      sent += one;
      most = std::max(most, one);
    }
  };
  // At a pace that a busy relay keeps up with.
  run(15ms);
  EXPECT_GE(sent, 80U);
  EXPECT_LE(sent, 96U);
  run(185ms);
  EXPECT_GE(sent, 1000U);
  EXPECT_LE(sent, 16U * 68U);
  EXPECT_LE(most, ResendStore::kBite) << "in bites";
  run(400ms);
  EXPECT_GE(sent, 3000U);
  EXPECT_LE(sent, 2000U + 1200U + 1U) << "a second's worth at once, 2 kpps";
  EXPECT_LE(now - begin, 601ms);
  // 2 Mbit/s.
  Store big;
  for (std::uint32_t i = 0; i < 180; ++i) big.store.keep(4, datagram(i, 1450), kStart + i * 5ms);
  now = kStart + 900ms;
  big.store.order(order_for(4, kStart, now, now + 2s, {kRelay}), now);
  std::size_t bytes = 0;
  for (const Instant end = now + 400ms; now < end; now = std::max(now + 100us, big.store.next()))
    bytes += big.drain(now).size() * 1450;
  EXPECT_LE(bytes, 250'000U + 100'000U);
}

TEST(ResendStore, BoundsPacketsAndBytesPerPeerAndForgetsTheOldest) {
  Store s{256};
  Instant now = kStart;
  for (std::uint32_t i = 0; i < 6000; ++i, now += 400us) s.store.keep(1, datagram(i, 32), now);
  EXPECT_LE(s.store.packets(1), ResendStore::kMaxPackets);
  EXPECT_GE(s.store.packets(1), ResendStore::kMaxPackets - ResendStore::kBlockSize / 48);
  for (std::uint32_t i = 0; i < 600; ++i, now += 4ms) s.store.keep(2, datagram(i, 1400), now);
  EXPECT_LE(s.store.bytes(2), ResendStore::kMaxBytes);
  EXPECT_GE(s.store.bytes(2), ResendStore::kMaxBytes - ResendStore::kBlockSize);
  s.store.order(order_for(2, kStart, now, now + 2s, {kRelay}), now);
  const auto sent = s.drain(now);
  ASSERT_FALSE(sent.empty());
  EXPECT_GT(sent.front(), 400U) << "the oldest are gone";
}

TEST(ResendStore, GivesEverythingBackAfterAWhile) {
  Store s{8};
  for (PeerIndex peer = 0; peer < 20; ++peer) s.store.keep(peer, datagram(peer), kStart + peer * 1ms);
  EXPECT_EQ(s.store.blocks_used(), 8U);
  EXPECT_EQ(s.store.packets(0), 0U) << "the pool is capped: the oldest made room";
  EXPECT_EQ(s.store.packets(19), 1U);
  Instant now = kStart + 1s;
  while (s.store.next() != kNever && now < kStart + 60s) {
    now = std::max(now + 1ms, s.store.next());
    s.drain(now);
  }
  EXPECT_EQ(s.store.blocks_used(), 0U);
  EXPECT_LE(now, kStart + 35s);
  for (PeerIndex peer = 0; peer < 20; ++peer) EXPECT_NE(s.store.keep(peer, datagram(peer), now), ResendStore::Kept::too_fast);
}

TEST(ResendStore, WhatIsTooFastIsNotKept) {
  Store s;
  Instant now = kStart;
  std::size_t kept = 0;
  for (std::uint32_t i = 0; i < 100'000; ++i, now += 10us) {
    if (s.store.keep(1, datagram(i, 64), now) == ResendStore::Kept::too_fast) break;
    ++kept;
  }
  EXPECT_GE(kept, 2000U);
  EXPECT_LE(kept, 2200U);
}

TEST(ResendStore, TellsOfTheFirstPacketAfterAPause) {
  Store s;
  EXPECT_EQ(s.store.keep(1, datagram(1), kStart), ResendStore::Kept::after_a_pause);
  EXPECT_EQ(s.store.keep(1, datagram(1), kStart + 500ms), ResendStore::Kept::yes);
  EXPECT_EQ(s.store.keep(1, datagram(1), kStart + 1600ms), ResendStore::Kept::after_a_pause);
}

TEST(ResendStore, APeerThatIsGoneTakesItsCiphertextsAlong) {
  Store s;
  s.store.keep(1, datagram(1), kStart);
  ResendOrder forget;
  forget.peer = 1;
  forget.forget = true;
  s.store.order(forget, kStart);
  EXPECT_EQ(s.store.packets(1), 0U);
  EXPECT_EQ(s.store.blocks_used(), 0U);
  s.store.order(order_for(1, kStart, kStart + 1s, kStart + 1s, {kRelay}), kStart);
  EXPECT_TRUE(s.drain(kStart).empty());
}

// Whatever is kept, ordered, expired and forgotten: never more than the bounds, only what was sent to that peer, oldest
// first, nothing that is older than was asked for, and the memory comes back.
RC_GTEST_PROP(ResendStore, KeepsItsBoundsInAnyOrderOfEvents, ()) {
  constexpr std::size_t kBlocks = 6;
  Store s{kBlocks};
  Instant now = kStart;
  std::uint32_t number = 0;
  std::map<std::uint32_t, std::pair<PeerIndex, Instant>> sent;
  std::map<PeerIndex, Instant> since, fresh;
  const auto steps = *rc::gen::inRange(10, 400);
  for (int i = 0; i < steps; ++i) {
    now += std::chrono::microseconds{*rc::gen::weightedOneOf<int>(
        {{10, rc::gen::inRange(0, 5000)}, {2, rc::gen::inRange(0, 3'000'000)}, {1, rc::gen::just(40'000'000)}})};
    const auto peer = static_cast<PeerIndex>(*rc::gen::inRange(0, 9));
    switch (*rc::gen::weightedElement<int>({{20, 0}, {2, 1}, {1, 2}, {1, 3}})) {
      case 0: {
        const Octets bytes = datagram(++number, static_cast<std::size_t>(*rc::gen::inRange(32, 9100)));
        if (s.store.keep(peer, bytes, now) != ResendStore::Kept::too_fast) sent[number] = {peer, now};
        break;
      }
      case 1: {
        since[peer] = now - std::chrono::milliseconds{*rc::gen::inRange(0, 5000)};
        fresh[peer] = now - std::chrono::milliseconds{*rc::gen::inRange(-100, 5000)};
        ResendOrder order = order_for(peer, since[peer], now + 1s, now + 2s, {kRelay});
        order.fresh = fresh[peer];
        s.store.order(order, now);
        break;
      }
      case 2:
        s.store.order(order_for(peer, {}, {}, {}, {}), now);
        break;
      case 3: {
        ResendOrder forget;
        forget.peer = peer;
        forget.forget = true;
        s.store.order(forget, now);
        break;
      }
    }
    ResendStore::Copy copy;
    std::map<std::pair<PeerIndex, bool>, std::uint32_t> last;  // of what is fresh, and of what is not
    int polls = 0;
    while (s.store.poll(now, copy)) {
      RC_ASSERT(++polls < 100'000);
      const std::uint32_t which = number_of(copy.bytes);
      RC_ASSERT(sent.contains(which));
      RC_ASSERT(sent[which].first == copy.peer);
      RC_ASSERT(sent[which].second >= since[copy.peer]);
      const std::pair kind{copy.peer, sent[which].second >= fresh[copy.peer]};
      RC_ASSERT(!last.contains(kind) || last[kind] < which);
      RC_ASSERT(!kind.second || !last.contains({copy.peer, false}));
      RC_ASSERT(copy.bytes[copy.bytes.size() - 1] == static_cast<std::uint8_t>(which));
      last[kind] = which;
    }
    RC_ASSERT(s.store.next() > now);  // trap: paths-21
    RC_ASSERT(s.store.blocks_used() <= kBlocks);
  }
  for (int i = 0; i < 100 && s.store.next() != kNever; ++i) {
    now = std::max(now + 1ms, s.store.next());
    s.drain(now);
  }
  RC_ASSERT(s.store.blocks_used() == 0);
}

}  // namespace
}  // namespace penstock::gateway::test
