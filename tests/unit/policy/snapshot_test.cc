#include "dataplane/core/policy/snapshot.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "dataplane/core/packet/headers.h"
#include "dataplane/core/policy/forbidden.h"

namespace penstock::policy {
namespace {

IpAddress ip(const char* text) {
  return IpAddress::parse(text).value();
}
Prefix prefix(const char* text) {
  return Prefix::parse(text).value();
}

constexpr SourceNat kBoth{true, true};
constexpr WallTime kNow{1000, 0};
constexpr std::uint8_t kTcp = ip_protocol::tcp;

Authorisation dns(const char* id, const char* pattern, Filter filter = {}, WallTime expires = {}) {
  return {id, id, ResourceKind::dns, {}, pattern, std::move(filter), expires};
}
Authorisation cidr(const char* id, const char* range, Filter filter = {}, WallTime expires = {}) {
  return {id, id, ResourceKind::cidr, prefix(range), "", std::move(filter), expires};
}
Filter tcp_only(std::uint16_t first, std::uint16_t last) {
  return {false, false, {{first, last}}, {}};
}

Translation web(const char* resource, TranslationState state = TranslationState::active) {
  return {"t-" + std::string{resource}, resource, "web.corp.example",   ip("100.96.0.1"),
          ip("fd00:2021:1111:8000::1"), state,    {ip("203.0.113.80")}, {ip("2001:db8:1a::80")}};
}

PeerPolicy policy_of(std::vector<Authorisation> authorisations, std::vector<Translation> translations = {}) {
  PeerPolicy out;
  out.peer = 1;
  out.tunnel_v4 = ip("100.64.0.2");
  out.tunnel_v6 = ip("fd00:2021:1111::2");
  out.authorisations = std::move(authorisations);
  out.translations = std::move(translations);
  out.seal();
  return out;
}

TEST(Filter, EmptyAllowsAllOtherwiseOnlyWhatIsListed) {
  EXPECT_TRUE(Filter{}.allows(ip_protocol::gre, 0));
  const Filter filter{false, true, {{80, 80}, {8000, 8999}}, {{53, 53}}};
  EXPECT_TRUE(filter.allows(kTcp, 80));
  EXPECT_TRUE(filter.allows(kTcp, 8999));
  EXPECT_FALSE(filter.allows(kTcp, 81));
  EXPECT_TRUE(filter.allows(ip_protocol::udp, 53));
  EXPECT_FALSE(filter.allows(ip_protocol::udp, 80));
  EXPECT_TRUE(filter.allows(ip_protocol::icmp, 0));
  EXPECT_TRUE(filter.allows(ip_protocol::icmpv6, 0));
  EXPECT_FALSE(filter.allows(ip_protocol::sctp, 80));
}

TEST(PeerPolicy, SourceIsExactlyTheTunnelAddresses) {
  PeerPolicy policy = policy_of({});
  EXPECT_TRUE(policy.source_allowed(ip("100.64.0.2")));
  EXPECT_TRUE(policy.source_allowed(ip("fd00:2021:1111::2")));
  EXPECT_FALSE(policy.source_allowed(ip("100.64.0.3")));
  EXPECT_FALSE(policy.source_allowed(ip("::")));
  policy.tunnel_v6 = IpAddress{};
  EXPECT_FALSE(policy.source_allowed(ip("::")));
  policy.extra_sources = {prefix("192.0.2.0/24")};
  EXPECT_TRUE(policy.source_allowed(ip("192.0.2.7")));
}

TEST(PeerPolicy, FamilyOfTheRealDestination) {
  struct Case {
    const char* what;
    std::vector<const char*> v4;
    std::vector<const char*> v6;
    SourceNat source_nat;
    const char* from_v4;  // expected destination of an IPv4 packet, or the reason
    const char* from_v6;
  };
  for (const Case& c : {
           Case{"both", {"203.0.113.80"}, {"2001:db8::80"}, {true, true}, "203.0.113.80", "2001:db8::80"},
           Case{"only v4 records", {"203.0.113.80"}, {}, {true, true}, "203.0.113.80", "203.0.113.80"},
           Case{"only v6 records", {}, {"2001:db8::80"}, {true, true}, "2001:db8::80", "2001:db8::80"},
           Case{
               "gateway without v6", {"203.0.113.80"}, {"2001:db8::80"}, {true, false}, "203.0.113.80", "203.0.113.80"},
           Case{
               "gateway without v4", {"203.0.113.80"}, {"2001:db8::80"}, {false, true}, "2001:db8::80", "2001:db8::80"},
           Case{"nothing fits", {"203.0.113.80"}, {}, {false, true}, "nat_no_source", "nat_no_source"},
           Case{"no address", {}, {}, {true, true}, "name_no_address", "name_no_address"},
           Case{"DNS64", {}, {"64:ff9b::cb00:7150"}, {true, true}, "203.0.113.80", "203.0.113.80"},
           Case{"DNS64 without v4",
                {},
                {"64:ff9b::cb00:7150"},
                {false, true},
                "64:ff9b::cb00:7150",
                "64:ff9b::cb00:7150"},
       }) {
    Translation translation = web("corp");
    translation.real_v4.clear();
    translation.real_v6.clear();
    for (const char* a : c.v4) translation.real_v4.push_back(ip(a));
    for (const char* a : c.v6) translation.real_v6.push_back(ip(a));
    const PeerPolicy policy = policy_of({dns("corp", "**.corp.example")}, {translation});
    const auto judged = [&](const IpAddress& proxy) {
      const Verdict verdict = policy.judge(proxy, kTcp, 80, c.source_nat, kNow);
      return verdict.reason == DropReason::none ? verdict.destination.to_string()
                                                : std::string{name_of(verdict.reason)};
    };
    EXPECT_EQ(judged(translation.proxy_v4), c.from_v4) << c.what;
    EXPECT_EQ(judged(translation.proxy_v6), c.from_v6) << c.what;
  }
}

// trap: nat-17, nat-18
TEST(PeerPolicy, StateOfTheNameDecidesTheReason) {
  struct Case {
    TranslationState state;
    DropReason reason;
    bool wait;
  };
  for (const Case& c : {Case{TranslationState::resolving, DropReason::name_unknown, true},
                        Case{TranslationState::active, DropReason::none, false},
                        Case{TranslationState::no_such_name, DropReason::name_no_address, false},
                        Case{TranslationState::failed, DropReason::name_no_address, false},
                        Case{TranslationState::forbidden, DropReason::policy_forbidden_destination, false}}) {
    const PeerPolicy policy = policy_of({dns("corp", "**.corp.example")}, {web("corp", c.state)});
    const Verdict verdict = policy.judge(ip("100.96.0.1"), kTcp, 80, kBoth, kNow);
    EXPECT_EQ(verdict.reason, c.reason);
    EXPECT_EQ(verdict.wait, c.wait);
  }
}

// trap: flow-15: what the filter forbids is refused, it never asks for the name
TEST(PeerPolicy, FilteredPacketsDoNotWait) {
  const PeerPolicy policy =
      policy_of({dns("corp", "**.corp.example", tcp_only(80, 80))}, {web("corp", TranslationState::resolving)});
  const Verdict verdict = policy.judge(ip("100.96.0.1"), kTcp, 22, kBoth, kNow);
  EXPECT_EQ(verdict.reason, DropReason::policy_filtered);
  EXPECT_FALSE(verdict.wait);
}

TEST(PeerPolicy, OneNameUnderSeveralResourcesIsChosenByPortThenSpecificityThenId) {
  const PeerPolicy policy = policy_of(
      {dns("z-any", "**.example"), dns("corp", "**.corp.example", tcp_only(80, 80)),
       dns("b-web", "web.corp.example", tcp_only(443, 443)), dns("a-web", "web.corp.example", tcp_only(443, 443))},
      {web("z-any"), web("corp"), web("b-web"), web("a-web")});
  const auto chosen = [&](std::uint16_t port) {
    return policy.authorisations[policy.judge(ip("100.96.0.1"), kTcp, port, kBoth, kNow).authorisation].id;
  };
  EXPECT_EQ(chosen(443), "a-web");
  EXPECT_EQ(chosen(80), "corp");
  EXPECT_EQ(chosen(22), "z-any");
}

// trap: nat-23
TEST(PeerPolicy, FilterOfADnsResourceDoesNotReachACidrResourceWithTheSameAddress) {
  const PeerPolicy policy =
      policy_of({dns("corp", "**.corp.example", tcp_only(80, 80)), cidr("lan", "203.0.113.0/24")}, {web("corp")});
  EXPECT_EQ(policy.judge(ip("203.0.113.80"), kTcp, 22, kBoth, kNow).reason, DropReason::none);
  EXPECT_EQ(policy.judge(ip("100.96.0.1"), kTcp, 22, kBoth, kNow).reason, DropReason::policy_filtered);
}

TEST(PeerPolicy, LongestPrefixWhoseFilterAllows) {
  const PeerPolicy policy =
      policy_of({cidr("lan", "203.0.113.0/24"), cidr("half", "203.0.113.0/25", tcp_only(1, 100)),
                 cidr("host", "203.0.113.80/32", tcp_only(443, 443)), cidr("six", "2001:db8::/32")});
  const auto chosen = [&](const char* destination, std::uint16_t port) {
    return policy.authorisations[policy.judge(ip(destination), kTcp, port, kBoth, kNow).authorisation].id;
  };
  EXPECT_EQ(chosen("203.0.113.80", 443), "host");
  EXPECT_EQ(chosen("203.0.113.80", 80), "half");
  EXPECT_EQ(chosen("203.0.113.80", 8080), "lan");
  EXPECT_EQ(chosen("203.0.113.200", 443), "lan");
  EXPECT_EQ(chosen("2001:db8:1::1", 443), "six");
  EXPECT_EQ(policy.judge(ip("192.0.2.1"), kTcp, 80, kBoth, kNow).reason, DropReason::policy_no_resource);
  EXPECT_EQ(policy.judge(ip("203.0.113.80"), kTcp, 80, {false, true}, kNow).reason, DropReason::nat_no_source);
}

// trap: flow-13, flow-14
TEST(PeerPolicy, ExpiryIsEvaluatedAndARenewalOutlivesTheOldOne) {
  PeerPolicy policy = policy_of({cidr("lan", "203.0.113.0/24", {}, WallTime{2000, 0})});
  EXPECT_EQ(policy.judge(ip("203.0.113.1"), kTcp, 80, kBoth, WallTime{1999, 999999999}).reason, DropReason::none);
  EXPECT_EQ(policy.judge(ip("203.0.113.1"), kTcp, 80, kBoth, WallTime{2000, 0}).reason, DropReason::policy_expired);
  policy.authorisations.push_back(cidr("lan", "203.0.113.0/24", {}, WallTime{3000, 0}));
  policy.seal();
  EXPECT_EQ(policy.judge(ip("203.0.113.1"), kTcp, 80, kBoth, WallTime{2000, 0}).reason, DropReason::none);
}

// trap: flow-11, flow-12
TEST(PeerPolicy, InternetReachesNeitherPrivateRangesNorMetadataNorClients) {
  Authorisation internet{"i", "i", ResourceKind::internet, {}, "", {}, {}};
  const PeerPolicy policy = policy_of({internet});
  EXPECT_EQ(policy.judge(ip("198.51.100.7"), kTcp, 80, kBoth, kNow).reason, DropReason::none);
  EXPECT_EQ(policy.judge(ip("2001:db8::7"), kTcp, 80, kBoth, kNow).reason, DropReason::none);
  for (const char* bad : {"10.1.2.3",          "172.31.0.1",
                          "192.168.1.1",       "127.0.0.1",
                          "169.254.169.254",   "100.64.0.3",
                          "100.100.100.200",   "224.0.0.1",
                          "255.255.255.255",   "0.0.0.0",
                          "fd00:2021:1111::3", "fe80::1",
                          "ff02::1",           "::1",
                          "fc00::1",           "64:ff9b::a9fe:a9fe",
                          "64:ff9b::a00:1",    "2002:a9fe:a9fe::1",
                          "2002:c0a8:101::",   "::7f00:1",
                          "64:ff9b:1::a00:1"})
    EXPECT_EQ(policy.judge(ip(bad), kTcp, 80, kBoth, kNow).reason, DropReason::policy_forbidden_destination) << bad;
}

TEST(Forbidden, UnembedsBeforeItJudges) {
  const ForbiddenDestinations forbidden{{prefix("203.0.113.1/32"), prefix("100.64.0.0/10")},
                                        {prefix("2001:db8:64::/96"), prefix("2001:db8:6400::/40")}};
  for (const char* bad : {"203.0.113.1", "100.64.7.7", "169.254.169.254", "64:ff9b::a9fe:a9fe", "2001:db8:64::7f00:1",
                          "2001:db8:64a9:fea9:fe::", "2002:7f00:1::5", "2001:0:7f00:1:8000:f227:bec5:3a12",
                          "2001:0:c633:6401:0:ffff:5601:5601", "2001:db8::5efe:a9fe:a9fe", "64:ff9b::cb00:7101"})
    EXPECT_TRUE(forbidden.contains(ip(bad))) << bad;
  for (const char* good : {"203.0.113.2", "192.168.1.1", "64:ff9b::cb00:7102", "2001:db8::1", "fd12::1"})
    EXPECT_FALSE(forbidden.contains(ip(good))) << good;
}

TEST(Rfc6052, TableOfSection2_4) {
  struct Case {
    const char* prefix;
    const char* address;
  };
  for (const Case& c :
       {Case{"2001:db8::/32", "2001:db8:c000:221::"}, Case{"2001:db8:100::/40", "2001:db8:1c0:2:21::"},
        Case{"2001:db8:122::/48", "2001:db8:122:c000:2:2100::"},
        Case{"2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"},
        Case{"2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"},
        Case{"2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"}, Case{"64:ff9b::/96", "64:ff9b::192.0.2.33"}}) {
    EXPECT_EQ(embed_v4(prefix(c.prefix), ip("192.0.2.33")), ip(c.address)) << c.prefix;
    EXPECT_EQ(extract_v4(prefix(c.prefix), ip(c.address)), ip("192.0.2.33")) << c.prefix;
  }
}

TEST(PeerPolicy, TagsAreStableAndTellNamesApart) {
  Translation other = web("corp");
  other.name = "db.corp.example";
  const PeerPolicy one = policy_of({}, {web("corp"), other});
  const PeerPolicy two = policy_of({}, {other, web("corp")});
  EXPECT_EQ(one.translation_tag(0), two.translation_tag(1));
  EXPECT_NE(one.translation_tag(0), one.translation_tag(1));
  EXPECT_EQ(one.translation_tag(2), 0u);
}

}  // namespace
}  // namespace penstock::policy
