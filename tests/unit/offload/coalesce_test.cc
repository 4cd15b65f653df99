// Joining packets for the TUN device: what is merged, what never is, and that nothing is lost or changed by it.
#include "controlplane/core/offload/coalesce.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <functional>
#include <map>
#include <string>

#include "tests/unit/offload/packets.h"

namespace penstock::offload {
namespace {

// Sizes of the super-packets made of `packets`, in packets.
std::vector<std::size_t> joined(const std::vector<Buffer>& packets, Coalescer coalescer = Coalescer{}) {
  const std::vector<Bytes> views(packets.begin(), packets.end());
  coalescer.coalesce(views);
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < coalescer.size(); ++i) out.push_back(coalescer.output(i).packets);
  return out;
}

// Two packets of one flow in order, with the second changed by `change`.
std::vector<Buffer> pair(bool v6, bool udp, const std::function<void(Shape&)>& change) {
  Shape shape;
  shape.v6 = v6;
  shape.udp = udp;
  std::vector<Buffer> out = {make(shape)};
  shape.sequence += 100;
  shape.identification += 1;
  shape.fill = 100;
  change(shape);
  out.push_back(make(shape));
  return out;
}

struct Case {
  const char* name;
  std::function<void(Shape&)> change;  // of the second packet
  const char* where;                   // "4", "6": the family; "t", "u": the transport
  std::size_t outputs;                 // 1: merged
};

const std::vector<Case> kCases = {
    {"the next segment", [](Shape&) {}, "46tu", 1},
    {"shorter, as the last", [](Shape& s) { s.payload = 1; }, "46tu", 1},
    {"longer than the first", [](Shape& s) { s.payload = 101; }, "46tu", 2},
    {"with PSH", [](Shape& s) { s.flags |= tcp_flag::psh; }, "46t", 1},
    {"with FIN", [](Shape& s) { s.flags |= tcp_flag::fin; }, "46t", 2},
    {"with SYN", [](Shape& s) { s.flags |= tcp_flag::syn; }, "46t", 2},
    {"with RST", [](Shape& s) { s.flags |= tcp_flag::rst; }, "46t", 2},
    {"with URG", [](Shape& s) { s.flags |= 0x20; }, "46t", 2},
    {"an urgent pointer without URG", [](Shape& s) { s.urgent = 5; }, "46t", 2},
    {"with ECE", [](Shape& s) { s.flags |= 0x40; }, "46t", 2},
    {"with CWR", [](Shape& s) { s.flags |= 0x80; }, "46t", 2},
    {"with AE", [](Shape& s) { s.reserved = 1; }, "46t", 2},
    {"without ACK", [](Shape& s) { s.flags = tcp_flag::psh; }, "46t", 2},
    {"without payload", [](Shape& s) { s.payload = 0; }, "46tu", 2},
    {"a gap before it", [](Shape& s) { s.sequence += 1; }, "46t", 2},
    {"a retransmission", [](Shape& s) { s.sequence -= 100; }, "46t", 2},
    {"another acknowledgement", [](Shape& s) { s.acknowledgement += 1; }, "46t", 2},
    {"another window", [](Shape& s) { s.window += 1; }, "46t", 2},
    {"options where the first has none", [](Shape& s) { s.options.assign(12, 1); }, "46t", 2},
    {"another DSCP", [](Shape& s) { s.tos = 0x20; }, "46tu", 2},
    {"another ECN", [](Shape& s) { s.tos = 3; }, "46tu", 2},
    {"another TTL", [](Shape& s) { s.ttl = 63; }, "46tu", 2},
    {"another flow label", [](Shape& s) { s.flow_label = 9; }, "6tu", 2},
    {"another DF", [](Shape& s) { s.dont_fragment = false; }, "4tu", 2},
    {"the reserved bit of IPv4", [](Shape& s) { s.fragment = 0x8000; }, "4tu", 2},
    {"a first fragment", [](Shape& s) { s.fragment = kIpv4MoreFragments; }, "4tu", 2},
    {"a later fragment", [](Shape& s) { s.fragment = 7; }, "4tu", 2},
    {"atomic, with the same identification", [](Shape& s) { s.identification -= 1; }, "4tu", 1},
    {"an identification that jumps", [](Shape& s) { s.identification += 1; }, "4tu", 2},
    {"another port", [](Shape& s) { s.source_port += 1; }, "46tu", 2},
    {"another host", [](Shape& s) { s.host += 1; }, "46tu", 2},
};

TEST(Coalesce, TheTable) {
  for (const Case& entry : kCases) {
    const std::string where = entry.where;
    for (const bool v6 : {false, true}) {
      for (const bool udp : {false, true}) {
        if (where.find(v6 ? '6' : '4') == std::string::npos || where.find(udp ? 'u' : 't') == std::string::npos)
          continue;
        SCOPED_TRACE(std::string(entry.name) + (v6 ? ", IPv6" : ", IPv4") + (udp ? " UDP" : " TCP"));
        EXPECT_EQ(joined(pair(v6, udp, entry.change)).size(), entry.outputs);
      }
    }
  }
}

TEST(Coalesce, AnIdentificationThatStaysNeedsDontFragment) {
  Shape shape;
  shape.dont_fragment = false;
  std::vector<Buffer> packets = {make(shape)};
  shape.sequence += 100;
  packets.push_back(make(shape));
  EXPECT_EQ(joined(packets).size(), 2U);
  shape.identification += 1;
  packets.back() = make(shape);
  EXPECT_EQ(joined(packets).size(), 1U);
}

TEST(Coalesce, TimestampsAndOtherOptionsMustBeEqual) {
  Shape shape;
  shape.options = {1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6};
  std::vector<Buffer> packets = {make(shape)};
  shape.sequence += 100;
  shape.identification += 1;
  packets.push_back(make(shape));
  EXPECT_EQ(joined(packets).size(), 1U);
  shape.options[7] = 6;
  packets.back() = make(shape);
  EXPECT_EQ(joined(packets).size(), 2U);
}

TEST(Coalesce, AWrongChecksumStaysWrongAndAlone) {
  for (const bool v6 : {false, true}) {
    for (const bool udp : {false, true}) {
      for (const std::size_t which : {0U, 1U}) {
        std::vector<Buffer> packets = pair(v6, udp, [](Shape&) {});
        packets[which].back() ^= 1;
        EXPECT_EQ(joined(packets).size(), 2U);
        if (v6) continue;
        packets = pair(v6, udp, [](Shape&) {});
        packets[which][10] ^= 1;  // the IP header's
        EXPECT_EQ(joined(packets).size(), 2U);
      }
    }
  }
  // A UDP datagram that has none.
  std::vector<Buffer> packets = pair(false, true, [](Shape&) {});
  for (Buffer& packet : packets) packet[26] = packet[27] = 0;
  EXPECT_EQ(joined(packets).size(), 2U);
}

TEST(Coalesce, IpOptionsAreNeverMerged) {
  std::vector<Buffer> packets = pair(false, false, [](Shape&) {});
  for (Buffer& packet : packets) {
    packet[0] = 0x46;
    packet.insert(packet.begin() + 20, 4, std::uint8_t{1});
    packet[3] = static_cast<std::uint8_t>(packet.size());
    finish(packet);
  }
  EXPECT_EQ(joined(packets).size(), 2U);
}

TEST(Coalesce, ARunEndsWithPushAndWithAShorterPacket) {
  for (const bool push : {true, false}) {
    Shape shape;
    std::vector<Buffer> packets;
    for (int i = 0; i < 6; ++i) {
      shape.flags = push && i == 2 ? tcp_flag::ack | tcp_flag::psh : tcp_flag::ack;
      shape.payload = !push && i == 2 ? 50 : 100;
      packets.push_back(make(shape));
      shape.sequence += static_cast<std::uint32_t>(shape.payload);
      shape.identification += 1;
    }
    EXPECT_EQ(joined(packets), (std::vector<std::size_t>{3, 3}));
  }
}

TEST(Coalesce, IsBoundedInPacketsAndBytes) {
  Shape shape;
  std::vector<Buffer> packets;
  for (unsigned i = 0; i < 200; ++i) {
    packets.push_back(make(shape));
    shape.sequence += 100;
    shape.identification += 1;
  }
  EXPECT_EQ(joined(packets), (std::vector<std::size_t>{64, 64, 64, 8}));
  packets.clear();
  shape.payload = 8000;
  for (unsigned i = 0; i < 9; ++i) {
    packets.push_back(make(shape));
    shape.sequence += 8000;
    shape.identification += 1;
  }
  EXPECT_EQ(joined(packets), (std::vector<std::size_t>{8, 1}));
}

TEST(Coalesce, MakesOnlyWhatTheDeviceTakes) {
  EXPECT_EQ(joined(pair(false, false, [](Shape&) {}), Coalescer(false, false)).size(), 2U);
  EXPECT_EQ(joined(pair(false, true, [](Shape&) {}), Coalescer(true, false)).size(), 2U);
  EXPECT_EQ(joined(pair(false, false, [](Shape&) {}), Coalescer(true, false)).size(), 1U);
}

TEST(Coalesce, FlowsThatAreMixedAreJoinedEachByItself) {
  std::vector<Buffer> packets;
  for (unsigned i = 0; i < 8; ++i) {
    for (unsigned flow = 0; flow < 4; ++flow) {
      Shape shape;
      shape.source_port = static_cast<std::uint16_t>(5000 + flow);
      shape.sequence += i * 100;
      shape.identification = static_cast<std::uint16_t>(i);
      packets.push_back(make(shape));
    }
  }
  EXPECT_EQ(joined(packets), (std::vector<std::size_t>{8, 8, 8, 8}));
}

TEST(Coalesce, APacketOfNoFlowEndsAllRuns) {
  std::vector<Buffer> packets = pair(false, false, [](Shape&) {});
  Shape fragment;
  fragment.fragment = 5;
  packets.insert(packets.begin() + 1, make(fragment));
  EXPECT_EQ(joined(packets), (std::vector<std::size_t>{1, 1, 1}));  // trap: io-2
}

// ---- properties -----------------------------------------------------------------------------------------------------

Shape any_shape() {
  Shape shape;
  shape.v6 = *rc::gen::arbitrary<bool>();
  shape.udp = *rc::gen::arbitrary<bool>();
  shape.source_port = *rc::gen::inRange<std::uint16_t>(1, 4);
  shape.tos = *rc::gen::element<std::uint8_t>(0, 0, 0, 2, 3);
  shape.dont_fragment = *rc::gen::arbitrary<bool>();
  shape.payload = *rc::gen::element<std::size_t>(1200, 1200, 1200, 40);
  shape.flags = *rc::gen::weightedElement<std::uint8_t>({{8, 0x10}, {2, 0x18}, {1, 0x11}, {1, 0x90}});
  shape.fill = *rc::gen::arbitrary<std::uint8_t>();
  return shape;
}

std::string flow_of(const Buffer& packet) {
  const bool v6 = packet[0] >> 4 == 6;
  const std::size_t transport = v6 ? 40 : 20;
  std::string out(packet.begin() + (v6 ? 8 : 12), packet.begin() + static_cast<std::ptrdiff_t>(transport) + 4);
  return out + static_cast<char>(packet[v6 ? 6 : 9]);
}

// Packets of a few flows, most of them each flow's next, some damaged.
std::vector<Buffer> any_burst() {
  std::vector<Buffer> out;
  struct State {
    std::uint32_t sequence = 0xfffff000;  // wraps
    std::uint16_t identification = 0xfff0;
  };
  std::map<std::string, State> states;
  const auto count = *rc::gen::inRange<std::size_t>(0, 120);
  while (out.size() < count) {
    const Shape base = any_shape();
    const auto run = *rc::gen::inRange(1, 12);
    for (int i = 0; i < run; ++i) {
      Shape shape = base;
      State& state = states[flow_of(make(shape))];
      shape.sequence = state.sequence;
      shape.identification = state.identification;
      state.sequence += static_cast<std::uint32_t>(shape.payload);
      ++state.identification;
      Buffer packet = make(shape);
      if (*rc::gen::inRange(0, 20) == 0) packet[*rc::gen::inRange<std::size_t>(0, packet.size())] ^= 4;
      out.push_back(std::move(packet));
    }
  }
  return out;
}

RC_GTEST_PROP(CoalesceProperty, CuttingGivesBackEveryPacketOfEveryFlowInOrder, ()) {  // trap: io-1, io-2
  const std::vector<Buffer> packets = any_burst();
  const std::vector<Bytes> views(packets.begin(), packets.end());
  Coalescer coalescer;
  coalescer.coalesce(views);
  std::vector<Buffer> back;
  for (std::size_t i = 0; i < coalescer.size(); ++i) {
    const auto output = coalescer.output(i);
    const auto pieces = cut(output);
    RC_ASSERT(pieces.size() == output.packets);
    if (output.packets > 1)
      for (const Buffer& piece : pieces) RC_ASSERT(right(piece));
    back.insert(back.end(), pieces.begin(), pieces.end());
  }
  RC_ASSERT(back.size() == packets.size());
  std::map<std::string, std::vector<Buffer>> sent, received;
  for (const Buffer& packet : packets) sent[flow_of(packet)].push_back(packet);
  for (const Buffer& packet : back) received[flow_of(packet)].push_back(packet);
  RC_ASSERT(sent == received);
}

RC_GTEST_PROP(CoalesceProperty, AnyBytesAreCarriedAsTheyAre, (const std::vector<Buffer>& packets)) {
  const std::vector<Bytes> views(packets.begin(), packets.end());
  Coalescer coalescer;
  coalescer.coalesce(views);
  RC_ASSERT(coalescer.size() == packets.size());
  for (std::size_t i = 0; i < coalescer.size(); ++i) {
    const auto output = coalescer.output(i);
    RC_ASSERT(output.pieces.size() == 1U && output.vnet.plain());
    RC_ASSERT(Buffer(output.pieces[0].begin(), output.pieces[0].end()) == packets[i]);
  }
}

}  // namespace
}  // namespace penstock::offload
