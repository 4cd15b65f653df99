// Several handshakes at once give what each gives alone, whatever is among them.
#include <gtest/gtest.h>

#include <vector>

#include "dataplane/core/wireguard/handshake_work.h"
#include "tests/unit/wireguard/support.h"

namespace penstock::wireguard {
namespace {

enum class Kind : std::uint8_t { good, forged_static, forged_timestamp, old, too_soon, small_order, cached };
constexpr std::size_t kKinds = 7;

class HandshakeBatch : public testing::Test {
 protected:
  // A peer's initiation of this kind as the gate would hand it on.
  InitiationWork work_of(Kind kind, std::uint32_t number) {
    PrivateKey key, ephemeral;
    random_.fill(key.bytes);
    random_.fill(ephemeral.bytes);
    const DhKey peer(key);
    Hash shared;
    EXPECT_TRUE(peer.agree(own_.public_key(), shared));
    InitiationWork work;
    InitiatorState state;
    EXPECT_TRUE(create_initiation(peer, own_.public_key(), shared, ephemeral, Timestamp{0x40, 1}, number, work.message,
                                  state));
    if (kind == Kind::forged_static) work.message.encrypted_static[number % 48] ^= 1;
    if (kind == Kind::forged_timestamp) work.message.encrypted_timestamp[number % 28] ^= 1;
    if (kind == Kind::small_order) work.message.ephemeral = {};
    work.from.remote = {IpAddress::v4(number), 1};
    initiators_.push_back({std::move(state), DhKey(key)});
    if (kind == Kind::cached) static_statics_.push_back(shared);
    return work;
  }

  // What Device::claim gives.
  void claim(InitiationWork& work, Kind kind, std::uint32_t number, std::size_t cached) {
    work.preshared.bytes.fill(static_cast<std::uint8_t>(number));
    work.local_index = 1000 + number;
    work.too_soon = kind == Kind::too_soon;
    if (kind == Kind::old) work.newest = Timestamp{0x41};
    if (kind == Kind::cached) work.static_static = static_statics_[cached];
  }

  struct Initiator {
    InitiatorState state;
    DhKey key;
  };
  SeededRandom random_{21};
  const DhKey own_{private_key(1)};
  std::vector<Initiator> initiators_;
  std::vector<Hash> static_statics_;
};

TEST_F(HandshakeBatch, GivesWhatEachGivesAlone) {
  for (std::size_t size = 1; size <= kHandshakeBatch; ++size) {
    for (int round = 0; round < 6; ++round) {
      initiators_.clear();
      static_statics_.clear();
      std::vector<Kind> kinds;
      std::vector<InitiationWork> alone;
      for (std::size_t i = 0; i < size; ++i) {
        kinds.push_back(round == 0 ? Kind::good : static_cast<Kind>(random_.below(kKinds)));
        alone.push_back(work_of(kinds[i], static_cast<std::uint32_t>(i)));
      }
      std::vector<InitiationWork> together = alone;
      std::vector<InitiationWork*> pointers;
      for (auto& work : together) pointers.push_back(&work);
      open_initiations(own_, pointers);
      std::vector<InitiationWork*> passed;
      std::vector<std::size_t> numbers;
      std::size_t cached = 0;
      for (std::size_t i = 0; i < size; ++i) {
        const DropReason reason = open_initiation(own_, alone[i]);
        ASSERT_EQ(together[i].result, reason) << size << ' ' << i;
        ASSERT_EQ(reason == DropReason::none, kinds[i] != Kind::forged_static && kinds[i] != Kind::small_order);
        const std::size_t at = kinds[i] == Kind::cached ? cached++ : 0;
        if (reason != DropReason::none) continue;
        ASSERT_EQ(together[i].remote, alone[i].remote);
        ASSERT_EQ(together[i].noise.chain, alone[i].noise.chain);
        ASSERT_EQ(together[i].noise.hash, alone[i].noise.hash);
        claim(alone[i], kinds[i], static_cast<std::uint32_t>(i), at);
        claim(together[i], kinds[i], static_cast<std::uint32_t>(i), at);
        passed.push_back(&together[i]);
        numbers.push_back(i);
      }
      SeededRandom same{77}, again{77};
      answer_initiations(own_, same, passed);
      for (std::size_t k = 0; k < passed.size(); ++k) {
        const std::size_t i = numbers[k];
        const InitiationWork& one = *passed[k];
        answer_initiation(own_, again, alone[i]);
        ASSERT_EQ(one.result, alone[i].result) << size << ' ' << i;
        ASSERT_EQ(one.answered, alone[i].answered) << size << ' ' << i;
        ASSERT_EQ(one.answered, kinds[i] == Kind::good || kinds[i] == Kind::cached);
        if (kinds[i] != Kind::forged_timestamp) {
          ASSERT_EQ(one.timestamp, alone[i].timestamp);
        }
        if (!one.answered) continue;
        ASSERT_EQ(std::memcmp(&one.response, &alone[i].response, sizeof one.response), 0);
        ASSERT_EQ(one.keys.send, alone[i].keys.send);
        ASSERT_EQ(one.keys.receive, alone[i].keys.receive);
        // And the initiator can use it.
        TransportKeys keys;
        ASSERT_TRUE(open_response(initiators_[i].key, initiators_[i].state, one.preshared, one.response, keys));
        ASSERT_EQ(keys.send, one.keys.receive);
        ASSERT_EQ(keys.receive, one.keys.send);
      }
    }
  }
}

}  // namespace
}  // namespace penstock::wireguard
