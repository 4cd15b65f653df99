#include "controlplane/core/dns/name_map.h"

#include <gtest/gtest.h>
// rapidcheck/gtest.h needs gtest before it
#include <rapidcheck/gtest.h>

#include <set>

#include "dns_testing.h"

namespace penstock::dns {
namespace {

constexpr WallTime at(std::uint64_t seconds) {
  return {1'700'000'000 + seconds, 0};
}

NameMapConfig tiny() {
  return {.pool_v4 = *Prefix::parse("100.96.0.0/28"),
          .pool_v6 = *Prefix::parse("fd00:2021:1111:8000::/124"),
          .excluded = {*Prefix::parse("100.96.0.8/31")},
          .max_names = 4,
          .max_resting = 32,
          .evict_after_s = 100,
          .reuse_after_s = 1000};
}

TEST(NameMap, BothWaysAndStable) {
  SeededRandom random;
  NameMap map{{}, random};
  const auto web = map.assign("web.corp.example", at(0)).value();
  EXPECT_EQ(map.assign("web.corp.example", at(5)), web);
  EXPECT_NE(map.assign("db.corp.example", at(5))->v4, web.v4);
  EXPECT_EQ(*map.find("web.corp.example"), web);
  EXPECT_EQ(*map.find(web.v4), "web.corp.example");
  EXPECT_EQ(*map.find(web.v6), "web.corp.example");
  EXPECT_EQ(map.find(*IpAddress::parse("198.51.100.1")), nullptr);
  EXPECT_EQ(map.find("other.corp.example"), nullptr);
}

TEST(NameMap, RefusesNamesThatAreNotNormalised) {
  SeededRandom random;
  NameMap map{{}, random};
  for (const char* name :
       {"", ".", "Web.corp.example", "web.corp.example.", "a b.example", "a..b", "a\nb.example", "*.b"})
    EXPECT_FALSE(map.assign(name, at(0)).has_value()) << name;
}

// trap: dns-14
TEST(NameMap, KnowsWhatAnAddressIsFor) {
  SeededRandom random;
  NameMap map{{}, random};
  const auto web = map.assign("web.corp.example", at(0)).value();
  struct Case {
    IpAddress address;
    AddressUse use;
  };
  const Case cases[] = {
      {web.v4, AddressUse::assigned},
      {web.v6, AddressUse::assigned},
      {*IpAddress::parse("100.100.111.1"), AddressUse::excluded},
      {*IpAddress::parse("100.100.111.77"), AddressUse::excluded},
      {*IpAddress::parse("100.100.100.200"), AddressUse::excluded},
      {*IpAddress::parse("fd00:2021:1111:8000:100:100:111:2"), AddressUse::excluded},
      {*IpAddress::parse("100.127.255.255"), AddressUse::unassigned},
      {*IpAddress::parse("100.128.0.0"), AddressUse::outside},
      {*IpAddress::parse("100.64.0.1"), AddressUse::outside},
      {*IpAddress::parse("fd00:2021:1111:8000::40:0"), AddressUse::outside},
  };
  for (const auto& c : cases) EXPECT_EQ(map.use_of(c.address), c.use) << c.address.to_string();
}

TEST(NameMap, NeverHandsOutExcludedOrEdgeAddresses) {
  SeededRandom random;
  NameMapConfig config = tiny();
  config.max_names = 100;
  NameMap map{config, random};
  std::set<std::string> given;
  for (int i = 0; i < 100; ++i)
    if (const auto got = map.assign("n" + std::to_string(i) + ".example", at(0))) given.insert(got->v4.to_string());
  EXPECT_EQ(given.size(), 12U);  // 16 without first, last and the two excluded
  EXPECT_FALSE(given.contains("100.96.0.0") || given.contains("100.96.0.15") || given.contains("100.96.0.8") ||
               given.contains("100.96.0.9"));
}

TEST(NameMap, EvictsOnlyWhatIsLongUnusedAndLetsItsAddressRest) {
  SeededRandom random;
  NameMap map{tiny(), random};
  const auto first = map.assign("a.example", at(0)).value();
  for (const char* name : {"b.example", "c.example", "d.example"}) ASSERT_TRUE(map.assign(name, at(50)));
  EXPECT_FALSE(map.assign("e.example", at(99)));  // a is unused for 99 s only
  const auto e = map.assign("e.example", at(100));
  ASSERT_TRUE(e.has_value());
  const auto released = map.poll_released();
  ASSERT_TRUE(released.has_value());
  EXPECT_EQ(released->name, "a.example");
  EXPECT_EQ(released->addresses, first);
  EXPECT_FALSE(map.poll_released());
  EXPECT_EQ(map.use_of(first.v4), AddressUse::unassigned);
  // Nobody gets that address before its rest is over, however often the pool is gone through.
  std::uint64_t when = 200;
  bool again = false;
  for (int i = 0; i < 40; ++i, when += 130) {
    const auto got = map.assign("x" + std::to_string(i) + ".example", at(when));
    if (!got) continue;
    if (got->v4 == first.v4) {
      EXPECT_GE(when, 1100U);
      again = true;
    }
  }
  EXPECT_TRUE(again);
}

TEST(NameMap, UseKeepsANameFromEviction) {
  SeededRandom random;
  NameMap map{tiny(), random};
  const auto first = map.assign("a.example", at(0)).value();
  for (const char* name : {"b.example", "c.example", "d.example"}) ASSERT_TRUE(map.assign(name, at(1)));
  map.touch(first.v6, at(150));
  ASSERT_TRUE(map.assign("e.example", at(160)));
  EXPECT_EQ(map.poll_released()->name, "b.example");
  EXPECT_NE(map.find("a.example"), nullptr);
}

TEST(NameMap, AClockSetBackEvictsNothing) {
  SeededRandom random;
  NameMap map{tiny(), random};
  for (const char* name : {"a.example", "b.example", "c.example", "d.example"}) ASSERT_TRUE(map.assign(name, at(1000)));
  EXPECT_FALSE(map.assign("e.example", at(0)));
  EXPECT_EQ(map.size(), 4U);
}

TEST(NameMap, FileRoundTrip) {
  SeededRandom random;
  NameMap map{tiny(), random};
  for (int i = 0; i < 6; ++i) map.assign("n" + std::to_string(i) + ".example", at(static_cast<std::uint64_t>(i) * 150));
  ASSERT_TRUE(map.poll_released());
  const std::string content = map.serialise();
  SeededRandom other{99};
  NameMap copy{tiny(), other};
  const auto loaded = copy.load(content, at(800));
  EXPECT_TRUE(loaded.ok) << loaded.error;
  EXPECT_EQ(loaded.names, map.size());
  map.for_each(
      [&](const std::string& name, const ProxyAddresses& addresses) { EXPECT_EQ(*copy.find(name), addresses); });
  // All but the cursor, which skips ahead.
  const auto without_cursor = [](std::string text) {
    text.erase(text.find("cursor"), text.find('\n', text.find("cursor")) - text.find("cursor"));
    return text.substr(0, text.find("end "));
  };
  EXPECT_EQ(without_cursor(copy.serialise()), without_cursor(content));
}

TEST(NameMap, RevisionTellsWhenToWrite) {
  SeededRandom random;
  NameMap map{{}, random};
  const auto empty = map.revision();
  map.assign("a.example", at(0));
  const auto one = map.revision();
  EXPECT_NE(one, empty);
  map.assign("a.example", at(10));
  EXPECT_EQ(map.revision(), one);
}

TEST(NameMap, DamagedFileStartsAnewWithoutReuse) {
  SeededRandom random;
  NameMapConfig config = tiny();
  config.max_names = 100;
  NameMap map{config, random};
  std::set<IpAddress> before;
  for (int i = 0; i < 8; ++i) before.insert(map.assign("n" + std::to_string(i) + ".example", at(0))->v4);
  const std::string content = map.serialise();

  const auto damaged = [&](const char* what) {
    std::string out = content;
    const std::string kind{what};
    if (kind == "cut") out.resize(out.size() - 30);
    if (kind == "flipped") out[out.find("n3.example") + 1] = '9';
    if (kind == "twice")
      out.insert(out.find("end "),
                 out.substr(out.find("name "), out.find('\n', out.find("name ")) + 1 - out.find("name ")));
    if (kind == "behind") out += "name x.example 100.96.0.1 fd00:2021:1111:8000::1 1\n";
    if (kind == "word") out.insert(out.find("name "), "nonsense\n");
    if (kind == "magic") out[0] = 'X';
    return out;
  };
  for (const char* what : {"cut", "flipped", "twice", "behind", "word", "magic"}) {
    SeededRandom fresh{7};
    NameMap anew{config, fresh};
    const auto loaded = anew.load(damaged(what), at(10));
    EXPECT_FALSE(loaded.ok) << what;
    EXPECT_NE(loaded.error.find("starting anew"), std::string::npos) << loaded.error;
    EXPECT_EQ(anew.size(), 0U);
    int given = 0;
    for (int i = 0; i < 8; ++i)
      if (const auto got = anew.assign("m" + std::to_string(i) + ".example", at(20))) {
        EXPECT_FALSE(before.contains(got->v4)) << what;
        ++given;
      }
    EXPECT_GE(given, 3) << what;  // four are free, and the one whose line was damaged may count
  }
  for (const char* text : {"", "garbage", "penstock-names 1", "penstock-names 1\nend 0\n", "\n\n\n"}) {
    NameMap anew{config, random};
    EXPECT_FALSE(anew.load(text, at(0)).ok) << text;
    EXPECT_TRUE(anew.assign("a.example", at(0)));
  }
}

TEST(NameMap, OtherPoolsStartAnewWithoutReuse) {
  SeededRandom random;
  NameMapConfig config = tiny();
  config.max_names = 100;
  NameMap map{config, random};
  std::set<IpAddress> before;
  for (int i = 0; i < 6; ++i) before.insert(map.assign("n" + std::to_string(i) + ".example", at(0))->v4);
  config.pool_v6 = *Prefix::parse("fd00:2021:1111:9000::/124");
  NameMap anew{config, random};
  const auto loaded = anew.load(map.serialise(), at(10));
  EXPECT_FALSE(loaded.ok);
  EXPECT_NE(loaded.error.find("other address pools"), std::string::npos);
  for (int i = 0; i < 6; ++i) {
    const auto got = anew.assign("n" + std::to_string(i) + ".example", at(20));
    ASSERT_TRUE(got);
    EXPECT_FALSE(before.contains(got->v4));
  }
}

RC_GTEST_PROP(NameMapProperties, OneNamePerAddressWhateverHappens, ()) {
  SeededRandom random{*rc::gen::arbitrary<std::uint64_t>()};
  NameMapConfig config = tiny();
  NameMap map{config, random};
  std::uint64_t seconds = 0;
  std::unordered_map<std::string, std::pair<std::string, std::uint64_t>> last_owner;  // address -> name, released at
  const auto steps = *rc::gen::container<std::vector<std::pair<int, int>>>(
      rc::gen::pair(rc::gen::inRange(0, 12), rc::gen::inRange(0, 300)));
  for (const auto& [which, delay] : steps) {
    seconds += static_cast<std::uint64_t>(delay);
    const std::string name = "n" + std::to_string(which) + ".example";
    if (which == 11) {
      NameMap copy{config, random};
      RC_ASSERT(copy.load(map.serialise(), at(seconds)).ok);
      map.for_each([&](const std::string& n, const ProxyAddresses& a) { RC_ASSERT(*copy.find(n) == a); });
      continue;
    }
    const auto got = map.assign(name, at(seconds));
    while (const auto released = map.poll_released())
      last_owner[released->addresses.v4.to_string()] = {released->name, seconds};
    if (!got) continue;
    RC_ASSERT(*map.find(got->v4) == name && *map.find(got->v6) == name);
    if (const auto old = last_owner.find(got->v4.to_string()); old != last_owner.end())
      RC_ASSERT(old->second.first == name || seconds >= old->second.second + config.reuse_after_s);
    RC_ASSERT(map.size() <= config.max_names);
  }
}

RC_GTEST_PROP(NameMapProperties, NoFileContentDoesHarm, (const std::string& content, bool magic)) {
  SeededRandom random;
  NameMap map{{}, random};
  (void)map.load(magic ? "penstock-names 1\n" + content : content, at(0));
  RC_ASSERT(map.assign("a.example", at(0)).has_value());
}

}  // namespace
}  // namespace penstock::dns
