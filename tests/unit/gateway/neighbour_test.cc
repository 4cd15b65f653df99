#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <atomic>
#include <thread>

#include "dataplane/gateway/neighbours.h"
#include "dataplane/gateway/wire.h"
#include "tests/unit/gateway/buffers.h"
#include "tests/unit/gateway/topology.h"

namespace penstock::gateway::test {
namespace {

constexpr MacAddress kMac = {0x02, 0, 0, 0, 1, 1};
constexpr MacAddress kOther = {0x02, 0, 0, 0, 1, 2};

RC_GTEST_PROP(NeighbourTable, AgreesWithAMap, ()) {
  NeighbourTable table(16, *rc::gen::arbitrary<std::uint64_t>());
  std::map<std::pair<PortIndex, IpAddress>, NeighbourState> model;
  for (int i = 0; i < 300; ++i) {
    const auto port = static_cast<PortIndex>(*rc::gen::inRange(0, 2));
    const IpAddress address = IpAddress::v4(0x0a000000 + *rc::gen::inRange<std::uint32_t>(0, 20));
    NeighbourView view;
    if (*rc::gen::inRange(0, 3) != 0) {
      const std::uint32_t slot = table.insert(port, address);
      const bool known = model.contains({port, address});
      RC_ASSERT((slot == NeighbourTable::kNoSlot) == (!known && model.size() == table.capacity()));
      if (slot == NeighbourTable::kNoSlot) continue;
      table.update(slot, kMac, NeighbourState::reachable);
      model[{port, address}] = NeighbourState::reachable;
    } else if (table.find(port, address, view)) {
      table.erase(view.slot);
      RC_ASSERT(model.erase({port, address}) == 1);
    }
    RC_ASSERT(table.size() == model.size());
    for (const auto& [key, state] : model) {
      RC_ASSERT(table.find(key.first, key.second, view));
      RC_ASSERT(view.state == state && view.mac == kMac);
    }
  }
}

// Readers never see one neighbour's MAC address under another's name.
TEST(NeighbourTable, ReadersSeeWholeEntries) {
  NeighbourTable table(8);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0}, seen{0};
  const auto address_of = [](std::uint32_t i) { return IpAddress::v4(0x0a000000 + i); };
  std::thread reader([&] {
    while (!stop.load(std::memory_order_relaxed))
      for (std::uint32_t i = 0; i < 12; ++i) {
        NeighbourView view;
        if (!table.find(1, address_of(i), view) || view.state != NeighbourState::reachable) continue;
        seen.fetch_add(1, std::memory_order_relaxed);
        if (view.mac[5] != i) wrong.fetch_add(1, std::memory_order_relaxed);
      }
  });
  for (std::uint32_t round = 0; round < 200000 || seen.load() == 0; ++round) {
    const std::uint32_t i = round * 7 % 12;
    const std::uint32_t slot = table.insert(1, address_of(i));
    if (slot != NeighbourTable::kNoSlot)
      table.update(slot, {2, 0, 0, 0, 0, static_cast<std::uint8_t>(i)}, NeighbourState::reachable);
    NeighbourView view;
    if (table.find(1, address_of((round * 5 + 3) % 12), view)) table.erase(view.slot);
  }
  stop = true;
  reader.join();
  EXPECT_EQ(wrong.load(), 0U);
}

// The machine alone, without workers.
class Machine : public testing::Test {
 protected:
  Machine() {
    EXPECT_FALSE(Configuration::build(two_armed(), configuration));
    context = std::make_unique<SlowContext>(SlowContext{configuration, packets, random, limits()});
    machine = std::make_unique<Neighbours>(*context, table);
  }
  ~Machine() override {
    drain();
    EXPECT_EQ(packets.live(), machine->held());
  }

  static SlowPathLimits limits() {
    SlowPathLimits out;
    out.neighbour_wait_packets = 4;
    out.neighbour_wait_total = 6;
    return out;
  }

  Packet* lan_packet(const std::string& to) {
    const IpAddress destination = ip(to);
    const IpAddress source = destination.is_v4() ? ip("203.0.113.1") : ip("2001:db8:1a::1");
    Packet* packet = packets.with(udp_packet({source, 4000}, {destination, 53}, text("q")), kLan);
    (void)parse_ip(*packet);
    packet->rss_worker = 1;
    return packet;
  }

  struct Out {
    std::vector<Octets> frames;     // asked
    std::vector<Octets> forwarded;  // released
    std::vector<Octets> errors;
  };
  Out drain() {
    Out out;
    for (Packet* packet : context->output.to_workers) {
      auto& list = kind_of<ToWorker>(*packet) == ToWorker::frame     ? out.frames
                   : kind_of<ToWorker>(*packet) == ToWorker::forward ? out.forwarded
                                                                     : out.errors;
      list.push_back(copy(packet->bytes()));
      packets.release(packet);
    }
    context->output.to_workers.clear();
    for (Packet* packet : context->output.freed) packets.release(packet);
    context->output.freed.clear();
    return out;
  }
  Out advance(Duration time) {
    Out all;
    const Instant end = now + time;
    while (machine->next_timeout() <= end) {
      now = std::max(now, machine->next_timeout());
      machine->handle_timeout(now);
      EXPECT_GT(machine->next_timeout(), now);  // trap: paths-21
      Out out = drain();
      for (auto& frame : out.frames) all.frames.push_back(frame);
      for (auto& packet : out.forwarded) all.forwarded.push_back(packet);
      for (auto& packet : out.errors) all.errors.push_back(packet);
    }
    now = end;
    return all;
  }
  Out answer(const std::string& who, const MacAddress& mac) {
    const IpAddress address = ip(who);
    Packet* packet;
    if (address.is_v4()) {
      packet = packets.with(arp(false, address, mac, ip("203.0.113.1"), kLanMac), kLan);
    } else {
      packet = packets.with(discovery(icmp6::neighbour_advertisement, address, ip("2001:db8:1a::1"), address, 0x60,
                                      link_layer_option(2, mac)),
                            kLan);
      (void)parse_ip(*packet);
    }
    machine->learn(packet, now);
    return drain();
  }
  NeighbourState state(const std::string& who) {
    NeighbourView view;
    return table.find(kLan, ip(who), view) ? view.state : NeighbourState::empty;
  }
  std::uint64_t drops(DropReason reason) const { return context->drops[static_cast<std::size_t>(reason)]; }

  HeapPackets packets;
  SeededRandom random;
  Configuration configuration;
  NeighbourTable table{16};
  std::unique_ptr<SlowContext> context;
  std::unique_ptr<Neighbours> machine;
  Instant now{1h};
};

TEST_F(Machine, AsksQueuesAndReleasesInOrder) {
  for (const char* who : {"203.0.113.7", "2001:db8:1a::7"}) {
    std::vector<Octets> waiting;
    for (int i = 0; i < 3; ++i) {
      Packet* packet = lan_packet(who);
      packet->data[packet->length - 1] = static_cast<std::uint8_t>(i);
      waiting.push_back(copy(packet->bytes()));
      machine->wait(packet, now);
    }
    const Out asked = drain();
    ASSERT_EQ(asked.frames.size(), 1U) << "one question for many packets";
    EXPECT_EQ(state(who), NeighbourState::incomplete);
    const Out out = answer(who, kMac);
    EXPECT_EQ(out.forwarded, waiting);
    EXPECT_EQ(state(who), NeighbourState::reachable);
  }
}

TEST_F(Machine, QuestionsAreBroadcastOrToTheSolicitedNodeGroup) {
  machine->wait(lan_packet("203.0.113.7"), now);
  machine->wait(lan_packet("2001:db8:1a::12:3456"), now);
  const Out out = drain();
  ASSERT_EQ(out.frames.size(), 2U);
  EXPECT_EQ(out.frames[0], ethernet(kLanMac, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EtherType::arp,
                                    arp(true, ip("203.0.113.1"), kLanMac, ip("203.0.113.7"))));
  const IpAddress group = ip("ff02::1:ff12:3456");
  EXPECT_EQ(out.frames[1], frame(kLanMac, {0x33, 0x33, 0xff, 0x12, 0x34, 0x56},
                                 discovery(icmp6::neighbour_solicitation, ip("2001:db8:1a::1"), group,
                                           ip("2001:db8:1a::12:3456"), 0, link_layer_option(1, kLanMac))));
}

TEST_F(Machine, NoAnswerBecomesHostUnreachable) {
  for (const char* who : {"203.0.113.9", "2001:db8:1a::9"}) {
    machine->wait(lan_packet(who), now);
    drain();
    const Out out = advance(5s);
    EXPECT_EQ(out.frames.size(), 2U) << "three questions in all";
    ASSERT_EQ(out.errors.size(), 1U);
    const IpParse parse = parse_ip(out.errors[0]);
    const bool four = ip(who).is_v4();
    EXPECT_EQ(out.errors[0][parse.view.header_length], four ? icmp4::unreachable : icmp6::unreachable);
    EXPECT_EQ(out.errors[0][parse.view.header_length + 1U], four ? 1 : 3);
    EXPECT_EQ(state(who), NeighbourState::failed);
    // For a while the answer stands without a new question.
    machine->wait(lan_packet(who), now);
    const Out again = drain();
    EXPECT_TRUE(again.frames.empty());
    EXPECT_EQ(again.errors.size(), 1U);
    advance(5s);
    EXPECT_EQ(state(who), NeighbourState::empty);
  }
  EXPECT_EQ(drops(DropReason::neighbour_failed), 4U);
}

TEST_F(Machine, AgesIsProbedWhenUsedAndForgotten) {
  machine->wait(lan_packet("203.0.113.7"), now);
  drain();
  answer("203.0.113.7", kMac);
  advance(46s);
  EXPECT_EQ(state("203.0.113.7"), NeighbourState::stale);
  NeighbourView view;
  ASSERT_TRUE(table.find(kLan, ip("203.0.113.7"), view));
  EXPECT_TRUE(advance(60s).frames.empty()) << "nobody sends to it: nobody asks";
  table.mark_used(view.slot);
  Out out = advance(2s);
  EXPECT_EQ(state("203.0.113.7"), NeighbourState::delay);
  for (out = Out{}; out.frames.empty();) out = advance(100ms);
  ASSERT_EQ(out.frames.size(), 1U);
  EXPECT_TRUE(std::equal(kMac.begin(), kMac.end(), out.frames[0].begin())) << "a probe is unicast";
  answer("203.0.113.7", kMac);
  EXPECT_EQ(state("203.0.113.7"), NeighbourState::reachable);
  advance(700s);
  EXPECT_EQ(state("203.0.113.7"), NeighbourState::empty);
  EXPECT_EQ(machine->next_timeout(), kNever);
}

TEST_F(Machine, AHostThatWentAwayIsAskedForAnewThenFails) {
  machine->wait(lan_packet("203.0.113.7"), now);
  drain();
  answer("203.0.113.7", kMac);
  advance(46s);
  NeighbourView view;
  ASSERT_TRUE(table.find(kLan, ip("203.0.113.7"), view));
  table.mark_used(view.slot);
  const Out out = advance(13s);  // 1 look, 5 delay, 3 probes, 3 questions
  EXPECT_EQ(out.frames.size(), 6U);
  EXPECT_EQ(state("203.0.113.7"), NeighbourState::failed);
}

TEST_F(Machine, AMovedHostIsFollowedAnUninvitedOneIsNot) {
  answer("203.0.113.7", kMac);
  EXPECT_EQ(state("203.0.113.7"), NeighbourState::empty) << "a reply nobody asked for";
  machine->wait(lan_packet("203.0.113.7"), now);
  drain();
  answer("203.0.113.7", kMac);
  // A gratuitous announcement of the entry we have.
  machine->learn(packets.with(arp(true, ip("203.0.113.7"), kOther, ip("203.0.113.7")), kLan), now);
  NeighbourView view;
  ASSERT_TRUE(table.find(kLan, ip("203.0.113.7"), view));
  EXPECT_EQ(view.mac, kOther);
  EXPECT_EQ(view.state, NeighbourState::stale);
}

TEST_F(Machine, AnAdvertisementWithoutOverrideOnlyCastsDoubt) {
  machine->wait(lan_packet("2001:db8:1a::7"), now);
  drain();
  answer("2001:db8:1a::7", kMac);
  Packet* packet = packets.with(discovery(icmp6::neighbour_advertisement, ip("2001:db8:1a::7"), ip("2001:db8:1a::1"),
                                          ip("2001:db8:1a::7"), 0x00, link_layer_option(2, kOther)),
                                kLan);
  (void)parse_ip(*packet);
  machine->learn(packet, now);
  NeighbourView view;
  ASSERT_TRUE(table.find(kLan, ip("2001:db8:1a::7"), view));
  EXPECT_EQ(view.mac, kMac);
  EXPECT_EQ(view.state, NeighbourState::stale);
}

TEST_F(Machine, QueuesAreBounded) {
  for (int i = 0; i < 10; ++i) machine->wait(lan_packet("203.0.113.7"), now);
  EXPECT_EQ(machine->held(), 4U);
  for (int i = 0; i < 10; ++i) machine->wait(lan_packet("203.0.113.8"), now);
  EXPECT_EQ(machine->held(), 6U);
  EXPECT_EQ(drops(DropReason::neighbour_wait_full), 14U);
  drain();
}

TEST_F(Machine, AScanDoesNotPushOutLivingNeighbours) {
  machine->wait(lan_packet("203.0.113.7"), now);
  drain();
  answer("203.0.113.7", kMac);
  for (int i = 0; i < 200; ++i) machine->wait(lan_packet("203.0.113." + std::to_string(10 + i)), now);
  drain();
  EXPECT_EQ(state("203.0.113.7"), NeighbourState::reachable);
  EXPECT_LE(table.size(), table.capacity() / 4 + 2);
  advance(20s);
  EXPECT_EQ(table.size(), 1U);
}

TEST(NeighbourMessages, RefusesWhatRfc4861Refuses) {
  const IpAddress host = ip("2001:db8:1a::7"), us = ip("2001:db8:1a::1");
  const auto parsed = [](Octets bytes) {
    HeapPackets packets;
    Packet* packet = packets.with(bytes);
    if (parse_ip(*packet).reason != DropReason::none) return false;
    return parse_neighbour_discovery(*packet).has_value();
  };
  const Octets good = discovery(135, host, us, us, 0, link_layer_option(1, kMac));
  EXPECT_TRUE(parsed(good));
  Octets bad = good;
  bad[7] = 254;  // hop limit: came through a router
  EXPECT_FALSE(parsed(bad));
  bad = good;
  bad[50] ^= 1;  // checksum
  EXPECT_FALSE(parsed(bad));
  EXPECT_FALSE(parsed(discovery(135, host, us, us, 0, {1, 0, 0, 0, 0, 0, 0, 0}))) << "option of length 0";
  EXPECT_FALSE(parsed(discovery(135, host, us, us, 0, {1, 2, 0, 0, 0, 0, 0, 0}))) << "option runs over the end";
  EXPECT_FALSE(parsed(discovery(135, host, us, ip("ff02::1"), 0, {}))) << "multicast target";
  EXPECT_FALSE(parsed(discovery(135, ip("::"), us, us, 0, {}))) << "detection not to the group";
  EXPECT_TRUE(parsed(discovery(135, ip("::"), solicited_node_of(us), us, 0, {})));
  EXPECT_FALSE(parsed(discovery(135, ip("::"), solicited_node_of(us), us, 0, link_layer_option(1, kMac))));
  EXPECT_FALSE(parsed(discovery(136, host, ip("ff02::1"), host, 0x40, {}))) << "solicited to a group";
  EXPECT_FALSE(parsed(discovery(135, host, us, us, 0, link_layer_option(1, {0x33, 0x33, 0, 0, 0, 1})))) << "group MAC";
}

RC_GTEST_PROP(NeighbourMessages, SurviveAnyBytes, ()) {
  HeapPackets packets;
  const auto bytes = *rc::gen::container<Octets>(rc::gen::arbitrary<std::uint8_t>());
  (void)parse_arp(bytes);
  Octets spoilt =
      discovery(135, ip("2001:db8:1a::7"), ip("2001:db8:1a::1"), ip("2001:db8:1a::1"), 0, link_layer_option(1, kMac));
  for (int i = 0; i < 4; ++i)
    spoilt[*rc::gen::inRange<std::size_t>(0, spoilt.size())] = *rc::gen::arbitrary<std::uint8_t>();
  spoilt.resize(*rc::gen::inRange<std::size_t>(0, spoilt.size() + 1));
  Packet* packet = packets.with(spoilt);
  if (parse_ip(*packet).reason == DropReason::none) (void)parse_neighbour_discovery(*packet);
}

}  // namespace
}  // namespace penstock::gateway::test
