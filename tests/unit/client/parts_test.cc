// The client agent's parts by themselves: what a packet is, what waits, when the portal is asked, which Resource it is.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

#include "controlplane/core/client_agent/access.h"
#include "controlplane/core/client_agent/icmp_reply.h"
#include "controlplane/core/client_agent/inner_packet.h"
#include "controlplane/core/client_agent/packet_queue.h"
#include "controlplane/core/client_agent/resource_set.h"
#include "controlplane/core/convert.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/ip_parse.h"
#include "tests/unit/client/packets.h"

namespace penstock::client {
namespace {

using namespace std::chrono_literals;
using testing::CountingRandom;
using testing::ip;
using testing::make_echo;
using testing::make_tcp;
using testing::make_udp;

// ---- inner packets --------------------------------------------------------------------------------------------------

TEST(InnerPacket, AnyBytesParseOrNot) {
  EXPECT_TRUE(rc::check("parse_inner is total and stays within the bytes", [](std::vector<std::uint8_t> bytes) {
    if (!bytes.empty() && bytes[0] % 2 == 0) bytes[0] = bytes[0] % 4 == 0 ? 0x45 : 0x60;
    if (const auto info = parse_inner(bytes)) {
      RC_ASSERT(info->length <= bytes.size());
      RC_ASSERT(info->l4_offset <= info->length);
      static_cast<void>(retransmission_digest(*info, bytes));
      RC_ASSERT(build_icmp_error(Undeliverable::unreachable, *info, bytes).size() <= 1280);
    }
  }));
}

TEST(InnerPacket, ARetransmittedSegmentIsTheSamePacketAndANewOneIsNot) {
  const auto digest = [](std::vector<std::uint8_t> packet) {
    return retransmission_digest(*parse_inner(packet), packet);
  };
  auto syn = make_tcp("100.64.0.2", "100.96.0.1", 40000, 443, 1000, tcp_flag::syn);
  auto again = syn;
  again[4] = 0x77;            // IPv4 identification
  again[10] = again[11] = 0;  // its header checksum
  again.back() ^= 0xff;       // a timestamp in the options
  EXPECT_EQ(digest(syn), digest(again));
  EXPECT_NE(digest(syn), digest(make_tcp("100.64.0.2", "100.96.0.1", 40000, 443, 1001, tcp_flag::syn)));
  EXPECT_NE(digest(syn), digest(make_tcp("100.64.0.2", "100.96.0.1", 40001, 443, 1000, tcp_flag::syn)));
  EXPECT_NE(digest(make_udp("100.64.0.2", "100.96.0.1", 1, 2, "a")),
            digest(make_udp("100.64.0.2", "100.96.0.1", 1, 2, "b")));
  EXPECT_NE(digest(make_echo("100.64.0.2", "100.96.0.1", 7, 1)), digest(make_echo("100.64.0.2", "100.96.0.1", 7, 2)));
}

TEST(InnerPacket, LinkScopedAddresses) {
  for (const char* address : {"224.0.0.251", "239.255.255.250", "255.255.255.255", "169.254.1.1", "127.0.0.1",
                              "0.0.0.0", "ff02::1", "fe80::1", "::1", "::"})
    EXPECT_TRUE(is_link_scoped(ip(address))) << address;
  for (const char* address : {"203.0.113.80", "100.96.0.1", "fd00:2021:1111:8000::1", "2001:db8::1"})
    EXPECT_FALSE(is_link_scoped(ip(address))) << address;
}

// ---- ICMP errors ----------------------------------------------------------------------------------------------------

struct IcmpCase {
  Undeliverable why;
  bool v6;
  std::uint8_t type, code;
};

class IcmpReply : public ::testing::TestWithParam<IcmpCase> {};

TEST_P(IcmpReply, HasTypeCodeAndValidChecksums) {
  const IcmpCase& c = GetParam();
  const auto packet = c.v6 ? make_udp("fd00:2021:1111::2", "fd00:2021:1111:8000::5", 1000, 53, std::string(900, 'x'))
                           : make_udp("100.64.0.2", "100.96.0.5", 1000, 53, std::string(900, 'x'));
  const auto info = *parse_inner(packet);
  const auto error = build_icmp_error(c.why, info, packet, 1280);
  const auto parsed = parse_ip(error);
  ASSERT_EQ(parsed.reason, DropReason::none);
  EXPECT_EQ(ip_source(error, parsed.view), info.destination);
  EXPECT_EQ(ip_destination(error, parsed.view), info.source);
  const Bytes l4 = Bytes{error}.subspan(parsed.view.header_length);
  EXPECT_EQ(l4[0], c.type);
  EXPECT_EQ(l4[1], c.code);
  ChecksumSum sum = 0;
  if (c.v6) {
    sum = checksum_pseudo_header(info.destination, info.source, 58, static_cast<std::uint32_t>(l4.size()));
    EXPECT_LE(error.size(), 1280U);
  } else {
    EXPECT_TRUE(ipv4_header_checksum_ok(error));
    EXPECT_LE(error.size(), 576U);
  }
  EXPECT_EQ(checksum_fold(checksum_add(sum, l4)), 0xffff);
  // What is quoted is the packet's own beginning.
  EXPECT_TRUE(std::equal(l4.begin() + 8, l4.end(), packet.begin()));
}

INSTANTIATE_TEST_SUITE_P(All, IcmpReply,
                         ::testing::Values(IcmpCase{Undeliverable::prohibited, false, 3, 13},
                                           IcmpCase{Undeliverable::unreachable, false, 3, 1},
                                           IcmpCase{Undeliverable::too_big, false, 3, 4},
                                           IcmpCase{Undeliverable::prohibited, true, 1, 1},
                                           IcmpCase{Undeliverable::unreachable, true, 1, 3},
                                           IcmpCase{Undeliverable::too_big, true, 2, 0}));

TEST(IcmpReply, NoErrorAboutAnErrorOrFromNowhere) {
  const auto packet = make_udp("100.64.0.2", "100.96.0.5", 1, 2, "x");
  const auto error = build_icmp_error(Undeliverable::unreachable, *parse_inner(packet), packet);
  EXPECT_TRUE(build_icmp_error(Undeliverable::unreachable, *parse_inner(error), error).empty());
  const auto odd = make_udp("0.0.0.0", "100.96.0.5", 1, 2, "x");
  EXPECT_TRUE(build_icmp_error(Undeliverable::prohibited, *parse_inner(odd), odd).empty());
}

// ---- queue ----------------------------------------------------------------------------------------------------------

TEST(PacketQueue, KeepsOrderAndRetransmissionsOnce) {  // trap: flow-7
  PacketQueue::Budget budget;
  PacketQueue queue(budget);
  const std::vector<std::uint8_t> a{1, 1}, b{2, 2}, fresher{1, 9};
  EXPECT_EQ(queue.push(a, 1, Instant{}), DropReason::none);
  EXPECT_EQ(queue.push(b, 2, Instant{1s}), DropReason::none);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(queue.push(fresher, 1, Instant{2s}), DropReason::none);
  ASSERT_EQ(queue.size(), 2U);
  EXPECT_EQ(queue.oldest(), Instant{});
  const auto all = queue.take_all();
  EXPECT_EQ(all[0].bytes, fresher);
  EXPECT_EQ(all[1].bytes, b);
  EXPECT_EQ(budget.packets, 0U);
  EXPECT_EQ(budget.bytes, 0U);
}

TEST(PacketQueue, IsBoundedByItselfAndByTheBudget) {
  PacketQueue::Budget budget;
  budget.max_packets = 70;
  PacketQueue first(budget);
  PacketQueue second(budget);
  const std::vector<std::uint8_t> packet(100);
  for (std::uint64_t i = 0; i < PacketQueue::kMaxPackets; ++i)
    ASSERT_EQ(first.push(packet, i, Instant{}), DropReason::none);
  EXPECT_EQ(first.push(packet, 1000, Instant{}), DropReason::wg_queue_full);
  for (std::uint64_t i = 0; i < 6; ++i) ASSERT_EQ(second.push(packet, i, Instant{}), DropReason::none);
  EXPECT_EQ(second.push(packet, 1000, Instant{}), DropReason::wg_queue_full);
  first.take_all();
  EXPECT_EQ(second.push(packet, 1000, Instant{}), DropReason::none);
}

// ---- access ---------------------------------------------------------------------------------------------------------

Now at(Duration since_start) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since_start);
  return {Instant{1h + since_start}, WallTime{1'000'000 + static_cast<std::uint64_t>(seconds.count()), 0}};
}

WallTime wall(std::uint64_t seconds) {
  return {1'000'000 + seconds, 0};
}

TEST(Access, FirstRequestIsImmediateAndThereIsOne) {  // trap: flow-18
  CountingRandom random;
  Access access(random);
  access.want(at(0s));
  access.want(at(0s));
  EXPECT_FALSE(access.take_request(at(0s), false, "x"));  // the portal is away: the wish is kept
  EXPECT_TRUE(access.take_request(at(0s), true, "1"));
  access.want(at(1s));
  EXPECT_FALSE(access.take_request(at(1s), true, "2"));
}

TEST(Access, RequestsAreTwoSecondsApartAndUnansweredOnesAreRepeated) {  // trap: flow-4
  CountingRandom random;
  Access access(random);
  access.want(at(0s));
  std::vector<Duration> sent;
  for (Duration t = 0s; t < 120s; t += 10ms) {
    access.handle_timeout(at(t));
    if (access.take_request(at(t), true, std::to_string(sent.size()))) sent.push_back(t);
  }
  ASSERT_GE(sent.size(), 4U);
  for (std::size_t i = 1; i < sent.size(); ++i) EXPECT_GE(sent[i] - sent[i - 1], 2s);
  EXPECT_LE(sent.size(), 12U);  // and they back off
}

// What is under way may wait at the portal for just the gateway that does not answer.
TEST(Access, AGatewayThatIsFoundUnreachableIsNamedAtOnceAndTheLastRequestIsNotWaitedFor) {
  for (const bool answered : {false, true}) {
    CountingRandom random;
    Access access(random);
    access.want(at(0s));
    ASSERT_TRUE(access.take_request(at(0s), true, "1"));
    if (answered) access.granted("gw1", {}, at(10ms));
    access.unreachable(at(500ms));
    EXPECT_FALSE(access.take_request(at(1900ms), true, "2")) << "the usual distance";
    access.newly_unreachable(at(1900ms));
    EXPECT_LE(access.next_deadline(at(1900ms), true), at(2150ms).monotonic) << "nobody at the same moment";
    EXPECT_TRUE(access.take_request(at(2150ms), true, "2"));
    EXPECT_FALSE(access.refused("1", Refusal::offline, at(2200ms))) << "that one is not asked any more";
  }
}

// A NAT forgot the stream: what was asked over it is neither answered nor refused. The stream is doubted, and the
// request goes over the one that takes its place as the same request, not as another two seconds later.
TEST(Access, ARequestIsRepeatedOnTheStreamThatTakesThePlaceOfItsOwn) {
  CountingRandom random;
  Access access(random);
  access.want(at(0s));
  ASSERT_TRUE(access.take_request(at(0s), true, "1"));
  access.handle_timeout(at(500ms));
  EXPECT_FALSE(access.take_doubt());
  EXPECT_EQ(access.next_deadline(at(500ms), true), at(0s).monotonic + Access::kDoubtAfter);
  access.handle_timeout(at(600ms));
  EXPECT_TRUE(access.take_doubt());
  access.handle_timeout(at(700ms));
  EXPECT_FALSE(access.take_doubt());  // once
  access.portal_renewed();
  EXPECT_FALSE(access.take_request(at(700ms), false, "2"));  // not yet welcomed there
  EXPECT_TRUE(access.take_request(at(800ms), true, "2"));
  EXPECT_EQ(access.request_id(), "1");
  EXPECT_FALSE(access.take_request(at(900ms), true, "3"));
  access.granted("gw", wall(600), at(1s));
  access.portal_renewed();  // nothing is under way
  EXPECT_FALSE(access.take_request(at(3s), true, "4"));
}

TEST(Access, ARefusalStandsForAWhileThenIsAskedAgainLater) {  // trap: flow-3
  CountingRandom random;
  Access access(random);
  std::vector<Duration> sent;
  for (Duration t = 0s; t < 300s; t += 10ms) {
    access.handle_timeout(at(t));
    access.want(at(t));  // an application that never stops
    const std::string id = std::to_string(sent.size());
    if (!access.take_request(at(t), true, id)) continue;
    sent.push_back(t);
    EXPECT_TRUE(access.refused(id, Refusal::offline, at(t)));
    EXPECT_TRUE(access.refusal_stands(at(t).monotonic));
  }
  for (std::size_t i = 1; i < sent.size(); ++i) EXPECT_GE(sent[i] - sent[i - 1], 2s);
  EXPECT_GE(sent.size(), 5U);
  EXPECT_LE(sent.size(), 20U);
}

TEST(Access, ExpiresByTheLatestGrantOnly) {  // trap: flow-13, flow-14
  CountingRandom random;
  Access access(random);
  access.granted("gw", wall(60), at(0s));
  EXPECT_TRUE(access.usable(wall(59)));
  EXPECT_FALSE(access.usable(wall(60)));
  access.granted("gw", wall(600), at(50s));
  access.handle_timeout(at(60s));
  EXPECT_TRUE(access.usable(wall(60)));
  EXPECT_FALSE(access.usable(wall(600)));
}

TEST(Access, AGrantInUseIsRenewedWhileItStands) {  // trap: flow-1, flow-2
  CountingRandom random;
  Access access(random);
  access.granted("gw", wall(600), at(0s));
  Duration asked{};
  for (Duration t = 0s; t < 600s && asked == Duration{}; t += 100ms) {
    access.used(at(t).monotonic);
    access.handle_timeout(at(t));
    if (access.take_request(at(t), true, "renew")) asked = t;
    EXPECT_TRUE(access.usable(at(t).wall));
  }
  EXPECT_GE(asked, 560s);
  EXPECT_LE(asked, 590s);
}

TEST(Access, AnUnusedGrantIsNotRenewed) {
  CountingRandom random;
  Access access(random);
  access.granted("gw", wall(600), at(0s));
  for (Duration t = 0s; t < 700s; t += 1s) {
    access.handle_timeout(at(t));
    EXPECT_FALSE(access.take_request(at(t), true, "r"));
  }
}

TEST(Access, DeadlinesMoveOn) {  // trap: paths-21
  EXPECT_TRUE(rc::check("after handle_timeout at the deadline nothing is due at once for ever", [] {
    CountingRandom random;
    Access access(random);
    Duration t = 0s;
    int turns = 0;
    int request = 0;
    while (t < 300s && turns < 5000) {
      ++turns;
      switch (*rc::gen::inRange(0, 6)) {
        case 0:
          access.want(at(t));
          break;
        case 1:
          access.granted("gw", wall(static_cast<std::uint64_t>(*rc::gen::inRange(1, 900))), at(t));
          break;
        case 2:
          access.refused(std::to_string(request), Refusal::rate_limited, at(t));
          break;
        case 3:
          access.unreachable(at(t));
          break;
        case 4:
          access.portal_lost(at(t));
          break;
        default:
          access.used(at(t).monotonic);
      }
      int at_once = 0;
      while (access.next_deadline(at(t), true) <= at(t).monotonic) {
        access.handle_timeout(at(t));
        if (access.take_request(at(t), true, std::to_string(request + 1))) ++request;
        RC_ASSERT(++at_once < 10);
      }
      t += std::chrono::milliseconds(*rc::gen::inRange(1, 3000));
    }
  }));
}

// ---- resources ------------------------------------------------------------------------------------------------------

Resource cidr(const std::string& id, const std::string& prefix, std::vector<policy::PortRange> tcp = {}) {
  Resource out;
  out.id = id;
  out.kind = policy::ResourceKind::cidr;
  out.prefix = *Prefix::parse(prefix);
  out.filter.tcp = std::move(tcp);
  out.filter.all = out.filter.tcp.empty();
  return out;
}

TEST(ResourceSet, TheMostSpecificWhoseFilterAllows) {
  ResourceSet set;
  set.upsert(cidr("wide", "203.0.113.0/24"));
  set.upsert(cidr("web", "203.0.113.80/32", {{80, 80}}));
  set.upsert(cidr("web-b", "203.0.113.80/32", {{443, 443}}));
  const auto choose = [&](std::uint16_t port, const char* to) {
    const auto packet = make_tcp("100.64.0.2", to, 4000, port, 1, tcp_flag::syn);
    const auto choice = set.choose_by_address(*parse_inner(packet));
    return choice.resource == nullptr ? std::string(choice.matched ? "filtered" : "none") : choice.resource->id;
  };
  EXPECT_EQ(choose(80, "203.0.113.80"), "web");
  EXPECT_EQ(choose(443, "203.0.113.80"), "web-b");
  EXPECT_EQ(choose(22, "203.0.113.80"), "wide");
  EXPECT_EQ(choose(22, "203.0.113.81"), "wide");
  EXPECT_EQ(choose(22, "198.51.100.1"), "none");
  set.remove("wide");
  EXPECT_EQ(choose(22, "203.0.113.80"), "filtered");
}

TEST(ResourceSet, TellsWhatAChangeMeans) {  // trap: flow-16, flow-17
  ResourceSet set;
  EXPECT_EQ(set.upsert(cidr("a", "203.0.113.0/24")), ResourceSet::Change::rights);
  EXPECT_EQ(set.upsert(cidr("a", "203.0.113.0/24")), ResourceSet::Change::none);
  EXPECT_EQ(set.upsert(cidr("a", "203.0.113.0/24", {{80, 80}})), ResourceSet::Change::cosmetic);
  EXPECT_EQ(set.upsert(cidr("a", "203.0.113.0/25", {{80, 80}})), ResourceSet::Change::rights);
  Resource moved = cidr("a", "203.0.113.0/25", {{80, 80}});
  moved.site = "elsewhere";
  EXPECT_EQ(set.upsert(moved), ResourceSet::Change::rights);
  EXPECT_EQ(set.routes(), std::vector<Prefix>{*Prefix::parse("203.0.113.0/25")});
  EXPECT_TRUE(set.remove("a"));
  EXPECT_TRUE(set.routes().empty());
}

TEST(ResourceSet, AMalformedResourceIsAnErrorNeverARight) {
  const auto reads = [](const v1::Resource& message) {
    std::string error;
    const bool ok = resource_from_proto(message, error).has_value();
    EXPECT_EQ(ok, error.empty());
    return ok;
  };
  v1::Resource message;
  EXPECT_FALSE(reads(message));
  message.set_id("x");
  EXPECT_FALSE(reads(message));
  message.set_kind(v1::RESOURCE_KIND_CIDR);
  EXPECT_FALSE(reads(message));
  *message.mutable_prefix() = to_proto(*Prefix::parse("203.0.113.0/24"));
  EXPECT_TRUE(reads(message));
  auto* range = message.mutable_filter()->add_tcp();
  range->set_first(90);
  range->set_last(80);
  EXPECT_FALSE(reads(message));
  range->set_last(70000);
  EXPECT_FALSE(reads(message));
  range->set_last(90);
  EXPECT_TRUE(reads(message));
  message.set_kind(v1::RESOURCE_KIND_ADDRESS);
  EXPECT_FALSE(reads(message));  // an address is one address
}

}  // namespace
}  // namespace penstock::client
