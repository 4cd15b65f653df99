// The packet generator's parts that can be wrong without anybody noticing: its packets, its checks of what comes back,
// its search for the no-drop rate, its distribution of times.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "perf/generator/histogram.h"
#include "perf/generator/search.h"
#include "perf/generator/test_keys.h"
#include "perf/generator/traffic.h"

namespace penstock::generator {
namespace {

Endpoint endpoint(const char* address, std::uint16_t port) {
  return {*IpAddress::parse(address), port};
}

struct Case {
  Endpoint source, destination;
  std::uint16_t length;
};
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto length : std::initializer_list<std::uint16_t>{64, 65, 576, 1420, 9000}) {
    out.push_back({endpoint("100.64.0.2", 1024), endpoint("100.96.0.1", 7000), length});
    out.push_back({endpoint("fd00:2021:1111::2", 65535), endpoint("fd00:2021:1111:8000::1", 7000), length});
  }
  return out;
}

TEST(GeneratorTraffic, ReadsBackWhatItWrote) {
  for (const Case& c : cases()) {
    std::vector<std::uint8_t> packet(c.length);
    FlowHeaders(c.source, c.destination).write(packet.data(), c.length, 7, 0x123456789abcULL);
    EXPECT_TRUE(intact(packet)) << c.length;
    const auto arrived = read_packet(packet, true);
    ASSERT_TRUE(arrived);
    EXPECT_EQ(arrived->flow, 7U);
    EXPECT_EQ(arrived->sequence, 0x123456789abcULL);
    EXPECT_EQ(arrived->source, c.source);
    EXPECT_EQ(arrived->destination, c.destination);
  }
}

TEST(GeneratorTraffic, NoticesEveryDamagedByte) {
  for (const Case& c : cases()) {
    std::vector<std::uint8_t> packet(c.length);
    FlowHeaders(c.source, c.destination).write(packet.data(), c.length, 7, 8);
    const bool v4 = c.source.address.is_v4();
    for (std::size_t at = 0; at < packet.size(); ++at) {
      // IPv6 has no checksum over these: traffic class, flow label, hop limit.
      if (!v4 && ((at >= 1 && at < 4) || at == 7)) continue;
      packet[at] ^= 0x10;
      EXPECT_FALSE(intact(packet)) << "byte " << at << " of " << c.length;
      packet[at] ^= 0x10;
    }
    packet.pop_back();
    EXPECT_FALSE(intact(packet));
    EXPECT_FALSE(read_packet(packet, false));
  }
}

TEST(GeneratorTraffic, MixesSizesSevenToFourToOne) {
  std::map<std::uint16_t, int> count;
  for (const auto size : sizes_of("imix")) ++count[size];
  EXPECT_EQ(count, (std::map<std::uint16_t, int>{{64, 7}, {576, 4}, {1420, 1}}));
}

TEST(GeneratorKeys, FollowFromSeedAndNumber) {
  EXPECT_EQ(test_peer("a", 3).public_key, test_peer("a", 3).public_key);
  EXPECT_NE(test_peer("a", 3).public_key, test_peer("b", 3).public_key);
  EXPECT_NE(test_peer("a", 3).public_key, test_peer("a", 4).public_key);
  EXPECT_EQ(test_peer("a", 0).tunnel_v4.to_string(), "100.64.0.2");
  EXPECT_EQ(test_peer("a", 65534).tunnel_v6.to_string(), "fd00:2021:1111::1:0");
}

// A device that carries `capacity` packets per second, drops what exceeds it, and a generator that sends at most
// `most`.
struct Model {
  double capacity;
  double most = 1e9;
  int disturbed = 0;  // so many trials lose packets for other reasons
  double asked = 0;

  Trial operator()(double rate) {
    asked = rate;
    Trial trial;
    trial.seconds = 1;
    trial.sent = static_cast<std::uint64_t>(rate < 0 ? most : std::min(rate, most));
    trial.received = std::min(trial.sent, static_cast<std::uint64_t>(capacity));
    if (disturbed > 0 && rate > 0) {
      --disturbed;
      trial.received -= 10;
    }
    return trial;
  }
};

TEST(GeneratorSearch, FindsTheNoDropRate) {
  for (const double capacity : {20e3, 1.3e6, 7e6, 17e6}) {
    Model model{capacity};
    const auto found = search_no_drop_rate({}, std::ref(model));
    EXPECT_NEAR(found.best.rate(), capacity, capacity * 0.021) << capacity;
    EXPECT_EQ(found.best.lost(), 0U);
    EXPECT_FALSE(found.generator_limited);
    EXPECT_LT(found.trials, 40U);
  }
}

TEST(GeneratorSearch, RepeatsALossyTrialBeforeItBelievesIt) {
  Model model{.capacity = 5e6, .disturbed = 2};
  EXPECT_NEAR(search_no_drop_rate({}, std::ref(model)).best.rate(), 5e6, 1.1e5);
}

TEST(GeneratorSearch, SaysWhenTheGeneratorIsTheLimit) {
  Model model{.capacity = 9e6, .most = 4e6};
  const auto found = search_no_drop_rate({}, std::ref(model));
  EXPECT_TRUE(found.generator_limited);
  EXPECT_EQ(found.best.sent, 4'000'000U);
}

TEST(GeneratorSearch, WhatThePortRefusedIsLost) {
  const auto trial = [](double rate) {
    Trial out;
    out.seconds = 1;
    out.sent = static_cast<std::uint64_t>(rate < 0 || rate > 2e6 ? 2e6 : rate);
    out.refused = rate < 0 || rate > 2e6 ? 1000 : 0;
    out.received = out.sent;
    return out;
  };
  EXPECT_NEAR(search_no_drop_rate({}, trial).best.rate(), 2e6, 5e4);
}

TEST(GeneratorSearch, NothingPassesWithADeviceThatAlwaysLoses) {
  const auto trial = [](double rate) {
    Trial out;
    out.seconds = 1;
    out.sent = static_cast<std::uint64_t>(rate < 0 ? 1e6 : rate);
    out.received = out.sent / 2;
    return out;
  };
  EXPECT_EQ(search_no_drop_rate({}, trial).best.sent, 0U);
}

TEST(GeneratorSearch, DamageIsNoPass) {
  const auto trial = [](double) {
    Trial out;
    out.seconds = 1;
    out.sent = out.received = 1000000;
    out.corrupt = 1;
    return out;
  };
  EXPECT_EQ(search_no_drop_rate({}, trial).best.sent, 0U);
}

TEST(GeneratorHistogram, QuantilesAreWithinAThirtySecond) {
  Histogram histogram;
  for (std::uint64_t i = 1; i <= 100'000; ++i) histogram.add(i * 10);
  for (const double share : {0.01, 0.5, 0.9, 0.99, 1.0}) {
    const double exact = share * 1e6;
    EXPECT_GE(static_cast<double>(histogram.quantile(share)), exact * 0.999);
    EXPECT_LE(static_cast<double>(histogram.quantile(share)), exact * (1 + 1.0 / 32) + 32);
  }
  EXPECT_EQ(histogram.largest(), 1'000'000U);
  EXPECT_EQ(histogram.count(), 100'000U);
  EXPECT_NEAR(histogram.distribution().back().second, 1.0, 1e-12);
}

TEST(GeneratorHistogram, TakesEveryTime) {
  Histogram histogram;
  for (unsigned bit = 0; bit < 64; ++bit) {
    histogram.add(std::uint64_t{1} << bit);
    histogram.add((std::uint64_t{1} << bit) - 1);
  }
  histogram.add(~std::uint64_t{0});
  EXPECT_EQ(histogram.count(), 129U);
  EXPECT_EQ(histogram.quantile(0), 0U);
}

}  // namespace
}  // namespace penstock::generator
