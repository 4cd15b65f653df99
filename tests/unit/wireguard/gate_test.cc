// The gate before handshakes: verdicts in batches, whom it serves first, what a flood can and cannot do.
#include "dataplane/core/wireguard/handshake_gate.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "dataplane/core/wireguard/cookie.h"
#include "tests/unit/wireguard/support.h"

namespace penstock::wireguard {
namespace {

using Message = std::array<std::uint8_t, sizeof(InitiationMessage)>;

class Gate : public testing::Test {
 protected:
  Message message(std::uint32_t sender, const std::optional<Mac>& cookie = std::nullopt) {
    Message made{};
    made[0] = 1;
    store_le(made.data() + 4, sender);
    random_.fill(MutableBytes{made}.subspan(8, 100));
    put_mac1(made, own_);
    put_mac2(made, cookie);
    return made;
  }

  static Endpoint stranger(std::uint32_t n) { return {IpAddress::v4(0xc6120000 + n), 1000}; }

  // The verdict on one message, and the cookie it was offered, if any.
  DropReason judge(const Message& bytes, const Endpoint& source, Instant now,
                   std::optional<CookieMessage>* reply = nullptr) {
    GateMessage one;
    one.bytes = bytes;
    one.source = source;
    gate_->judge({&one, 1}, now);
    if (reply != nullptr) *reply = one.answer ? std::optional(one.reply) : std::nullopt;
    return one.verdict;
  }

  SeededRandom random_{3};
  const PublicKey own_ = public_key(private_key(1));
  KnownSources known_{100, random_};
  GateLimits limits_{.under_load_per_s = 100,
                     .per_source_per_s = 20,
                     .per_source_burst = 5,
                     .cookies_per_s = 1000,
                     .limiter_sets = 64};
  std::unique_ptr<HandshakeGate> gate_ = std::make_unique<HandshakeGate>(own_, limits_, &known_, random_);
  const Instant start_ = time_at({}).monotonic;
};

TEST_F(Gate, WrongMac1IsFoundInEveryPlaceOfABatch) {
  for (std::size_t size = 1; size <= HandshakeGate::kBatch; size += 7) {
    std::vector<Message> messages;
    std::vector<GateMessage> batch(size);
    for (std::size_t i = 0; i < size; ++i) {
      messages.push_back(message(static_cast<std::uint32_t>(i)));
      if (i % 3 == 1) messages.back()[40 + i] ^= 1;
      if (i % 3 == 2) messages.back()[sizeof(InitiationMessage) - 32 + i % 16] ^= 0x80;
    }
    for (std::size_t i = 0; i < size; ++i) {
      batch[i].bytes = messages[i];
      batch[i].source = stranger(static_cast<std::uint32_t>(1000 * size + i));
    }
    gate_ = std::make_unique<HandshakeGate>(own_, limits_, &known_, random_);
    gate_->judge(batch, start_);
    for (std::size_t i = 0; i < size; ++i)
      ASSERT_EQ(batch[i].verdict, i % 3 == 0 ? DropReason::none : DropReason::wg_mac1) << i << " of " << size;
  }
}

TEST_F(Gate, InitiationsAndResponsesInOneBatch) {
  std::array<std::uint8_t, sizeof(ResponseMessage)> response{};
  response[0] = 2;
  put_mac1(response, own_);
  const Message initiation = message(1);
  GateMessage batch[4];
  for (std::size_t i = 0; i < 4; ++i) {
    batch[i].bytes = i % 2 == 0 ? Bytes{response} : Bytes{initiation};
    batch[i].source = stranger(static_cast<std::uint32_t>(i));
  }
  gate_->judge(batch, start_);
  for (const auto& one : batch) EXPECT_EQ(one.verdict, DropReason::none);
}

// A flood from everywhere: known sources are served at once, strangers with a cookie too, and those who receive their
// cookie get one.
TEST_F(Gate, UnderAFloodKnownSourcesAndCookiesPass) {
  const Endpoint peer{IpAddress::v4(0xc6336402), 51820};
  known_.add(peer.address);
  const Endpoint roamer{IpAddress::v4(0xcb007105), 4000};
  std::optional<CookieMessage> reply;
  Mac mac1{};
  std::map<DropReason, int> forged;
  for (std::uint32_t i = 0; i < 20000; ++i) {
    const Instant now = start_ + std::chrono::microseconds(i * 50);
    if (i >= 10000 && i % 7 == 0 && !reply) {  // tries again: one in twenty is offered one
      const Message again = message(7);
      std::memcpy(mac1.data(), again.data() + again.size() - 32, 16);
      EXPECT_EQ(judge(again, roamer, now, &reply), DropReason::wg_mac2_required);
    }
    ++forged[judge(message(i), stranger(i), now)];
    if (i % 2000 == 1999) {
      EXPECT_EQ(judge(message(8), peer, now), DropReason::none) << i;
    }
  }
  EXPECT_LE(forged[DropReason::none], 101) << "what makes the load be noticed";
  ASSERT_TRUE(reply);
  CookieTaker taker;
  const Path path{{}, {IpAddress::v4(1), 1}, 0};
  const Instant later = start_ + seconds(1);
  ASSERT_TRUE(taker.take(*reply, own_, mac1, path, later));
  EXPECT_EQ(judge(message(7, taker.find(path, later)), roamer, later), DropReason::none);
  EXPECT_EQ(judge(message(7, taker.find(path, later)), stranger(1), later), DropReason::wg_mac2_required)
      << "a cookie of another address";
}

// Once the load is too high and the cookies have been given out, nothing can come of a stranger's message without one,
// and it is not looked at; as long as there is a cookie, messages with a wrong mac1 take it from nobody.
TEST_F(Gate, StrangersAreLookedAtAsLongAsThereAreCookies) {
  limits_.cookies_per_s = 100;  // 32 at once
  gate_ = std::make_unique<HandshakeGate>(own_, limits_, &known_, random_);
  for (std::uint32_t i = 0; i < 200; ++i) judge(message(i), stranger(i), start_);
  ASSERT_TRUE(gate_->overrun(start_));
  const auto verdicts = [&](Instant now, std::size_t valid) {
    std::vector<Message> messages;
    std::vector<GateMessage> batch(HandshakeGate::kBatch);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      messages.push_back(message(static_cast<std::uint32_t>(i)));
      if (i < batch.size() - valid) messages.back()[50] ^= 1;
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch[i].bytes = messages[i];
      batch[i].source = stranger(static_cast<std::uint32_t>(5000 + i));
    }
    gate_->judge(batch, now);
    std::map<DropReason, std::size_t> out;
    for (const GateMessage& one : batch) ++out[one.verdict];
    std::size_t answers = 0;
    for (const GateMessage& one : batch) answers += one.answer;
    EXPECT_EQ(out[DropReason::none], 0u);
    return std::pair(out[DropReason::wg_mac1], answers);
  };
  // Nothing is left: what is looked at is every sixteenth, for the load.
  const auto [seen, none] = verdicts(start_, 1);
  EXPECT_GE(seen, 3u);
  EXPECT_LE(seen, 4u);
  EXPECT_EQ(none, 0u);
  // After 10 ms there is one more. Wrong ones, all looked at, leave it; the last of a batch gets it.
  EXPECT_EQ(verdicts(start_ + milliseconds(10), 0), std::pair(std::size_t{64}, std::size_t{0}));
  EXPECT_EQ(verdicts(start_ + milliseconds(10), 1).second, 1u);
  EXPECT_EQ(verdicts(start_ + milliseconds(10), 10).second, 0u);
}

// Known sources and cookies pass an overrun gate as ever, those without one left for them included.
TEST_F(Gate, AnOverrunGateLetsInWhomItKnows) {
  const Endpoint peer{IpAddress::v4(0xc6336402), 51820};
  const Endpoint roamer{IpAddress::v4(0xcb007105), 4000};
  known_.add(peer.address);
  for (std::uint32_t i = 0; i < 101; ++i) judge(message(i), stranger(i), start_);
  ASSERT_TRUE(gate_->overrun(start_));
  std::optional<CookieMessage> reply;
  const Message first = message(7);
  ASSERT_EQ(judge(first, roamer, start_, &reply), DropReason::wg_mac2_required);
  ASSERT_TRUE(reply);
  Mac mac1;
  std::memcpy(mac1.data(), first.data() + first.size() - 32, 16);
  CookieTaker taker;
  const Path path{{}, {IpAddress::v4(1), 1}, 0};
  ASSERT_TRUE(taker.take(*reply, own_, mac1, path, start_));
  for (int i = 0; i < 100; ++i) judge(message(8), stranger(9), start_, &reply);
  ASSERT_FALSE(reply) << "no cookie is left";
  EXPECT_EQ(judge(message(7, taker.find(path, start_)), roamer, start_), DropReason::none);
  EXPECT_EQ(judge(message(8), peer, start_), DropReason::none);
}

// What a worker hands over to an overrun gate.
TEST(StrangerLimitBeforeAGate, TurnsAwayWhatHasNoCookie) {
  SeededRandom random(5);
  const PublicKey own = public_key(private_key(1));
  std::array<std::uint8_t, sizeof(InitiationMessage)> without{}, with{};
  without[0] = with[0] = 1;
  put_mac1(without, own);
  put_mac1(with, own);
  Mac cookie;
  random.fill(cookie);
  put_mac2(with, cookie);
  std::array<std::uint8_t, sizeof(CookieMessage)> to_us{};
  to_us[0] = 3;
  StrangerLimit limit(1000);  // four every four milliseconds
  const Instant start = time_at({}).monotonic;
  std::size_t passed = 0;
  for (int i = 0; i < 10'000; ++i) {
    const Instant now = start + std::chrono::microseconds(i * 100);
    passed += !limit.turns_away(without, now);
    ASSERT_FALSE(limit.turns_away(with, now));
    ASSERT_FALSE(limit.turns_away(to_us, now));
  }
  EXPECT_EQ(passed, 1000u);
}

// trap: paths-2 — one noisy source is asked for a cookie; nobody else is.
TEST_F(Gate, OneNoisySourceIsNotTheLoadOfAll) {
  for (std::uint32_t i = 0; i < 3000; ++i) {
    const Instant now = start_ + milliseconds(i);
    judge(message(i), stranger(1), now);
    if (i % 100 == 50) {
      EXPECT_EQ(judge(message(i), stranger(1000 + i), now), DropReason::none) << i;
    }
  }
  EXPECT_FALSE(gate_->under_load(start_ + seconds(3)));
}

// Somebody who can send from a known address has that address's rate and no more.
TEST_F(Gate, AKnownSourceHasItsRate) {
  const Endpoint peer{*IpAddress::parse("2001:db8:1:2::5"), 9};
  known_.add(peer.address);
  int passed = 0;
  for (int i = 0; i < 2000; ++i) passed += judge(message(1), peer, start_ + milliseconds(i)) == DropReason::none;
  EXPECT_GE(passed, 40);
  EXPECT_LE(passed, 2 * 20 + 5 + 1);
  EXPECT_FALSE(gate_->under_load(start_ + seconds(2)));
}

// An office behind one address comes back at once after a restart: its peers' rates add up, up to a bound.
TEST_F(Gate, ANatHasTheRatesOfItsPeers) {
  const Endpoint nat{IpAddress::v4(0xc6336402), 51820};
  limits_.cookies_per_s = 100'000;
  gate_ = std::make_unique<HandshakeGate>(own_, limits_, &known_, random_);
  const auto passed_of = [&](int tried, const std::optional<Mac>& cookie, Instant now) {
    int passed = 0;
    for (int i = 0; i < tried; ++i) passed += judge(message(1, cookie), nat, now) == DropReason::none;
    return passed;
  };
  known_.add(nat.address);
  EXPECT_EQ(passed_of(100, std::nullopt, start_), 5);
  for (int i = 1; i < 10; ++i) known_.add(nat.address);
  EXPECT_EQ(passed_of(100, std::nullopt, start_ + seconds(10)), 50);
  for (int i = 10; i < 2000; ++i) known_.add(nat.address);
  EXPECT_EQ(passed_of(200, std::nullopt, start_ + seconds(20)), 16 * 5) << "the rest must show a cookie";
  std::optional<CookieMessage> reply;
  const Message first = message(7);
  judge(first, nat, start_ + seconds(20), &reply);
  ASSERT_TRUE(reply);
  Mac mac1{};
  std::memcpy(mac1.data(), first.data() + first.size() - 32, 16);
  CookieTaker taker;
  const Path path{{}, {IpAddress::v4(1), 1}, 0};
  ASSERT_TRUE(taker.take(*reply, own_, mac1, path, start_ + seconds(20)));
  EXPECT_EQ(passed_of(3000, taker.find(path, start_ + seconds(20)), start_ + seconds(20)), 256 * 5);
}

TEST_F(Gate, WhatIsNeitherInitiationNorResponseDoesNotPass) {
  for (const std::size_t size : {0, 1, 4, 31, 32, 64, 91, 93, 147, 149, 1500}) {
    std::vector<std::uint8_t> bytes(size);
    if (size > 0) bytes[0] = 1;
    GateMessage one;
    one.bytes = bytes;
    one.source = stranger(1);
    gate_->judge({&one, 1}, start_);
    EXPECT_EQ(one.verdict, DropReason::wg_length) << size;
    EXPECT_FALSE(one.answer) << size;
  }
}

TEST_F(Gate, CookiesAreLimited) {
  gate_->set_under_load(true);
  int offered = 0;
  for (std::uint32_t i = 0; i < 10000; ++i) {
    std::optional<CookieMessage> reply;
    EXPECT_EQ(judge(message(i), stranger(i), start_ + std::chrono::microseconds(100 * i), &reply),
              DropReason::wg_mac2_required);
    offered += reply.has_value();
  }
  EXPECT_GE(offered, 990);
  EXPECT_LE(offered, 1000 + 60);
}

TEST(KnownSourcesTable, CountsAndForgets) {
  SeededRandom random(4);
  KnownSources table(64, random);
  const auto address = [](std::uint32_t n) { return IpAddress::v4(0x0a000000 + n); };
  std::map<std::uint32_t, int> counts;
  for (int round = 0; round < 20000; ++round) {
    const std::uint32_t n = random.below(60);
    if (counts[n] > 0 && random.below(2) == 0) {
      table.remove(address(n));
      --counts[n];
    } else if (counts[n] < 5) {
      table.add(address(n));
      ++counts[n];
    }
    const std::uint32_t asked = random.below(60);
    ASSERT_EQ(table.peers_at(address(asked)), static_cast<std::uint32_t>(counts[asked])) << round;
  }
  EXPECT_FALSE(table.contains(address(1000)));
  // One /64 is one source.
  table.add(*IpAddress::parse("2001:db8::1"));
  EXPECT_TRUE(table.contains(*IpAddress::parse("2001:db8::2")));
  EXPECT_FALSE(table.contains(*IpAddress::parse("2001:db8:0:1::1")));
}

// More peers behind one address than a slot can count: it stays known.
TEST(KnownSourcesTable, ManyPeersAtOneAddress) {
  SeededRandom random(5);
  KnownSources table(64, random);
  const IpAddress nat = IpAddress::v4(0x0a000001);
  for (int i = 0; i < 70000; ++i) table.add(nat);
  EXPECT_EQ(table.peers_at(nat), 0xffffu);
  for (int i = 0; i < 70000; ++i) table.remove(nat);
  EXPECT_TRUE(table.contains(nat));
  EXPECT_EQ(table.peers_with(table.prefetch(nat)), 0xffffu);
}

TEST(KnownSourcesTable, FullMeansUnknown) {
  SeededRandom random(4);
  KnownSources table(1, random);
  for (std::uint32_t n = 0; n < 1000; ++n) table.add(IpAddress::v4(n + 1));
  EXPECT_TRUE(table.contains(IpAddress::v4(1)));
  EXPECT_FALSE(table.contains(IpAddress::v4(1000)));
  for (std::uint32_t n = 0; n < 1000; ++n) table.remove(IpAddress::v4(n + 1));
  for (std::uint32_t n = 0; n < 1000; ++n) EXPECT_FALSE(table.contains(IpAddress::v4(n + 1)));
}

}  // namespace
}  // namespace penstock::wireguard
