// Cutting super-packets of a TUN device.
#include "controlplane/core/offload/segment.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/offload/packets.h"

namespace penstock::offload {
namespace {

VnetHeader vnet_of(const Shape& shape, std::uint16_t segment) {
  VnetHeader out;
  out.needs_checksum = true;
  out.gso = shape.udp ? VnetHeader::Gso::udp : shape.v6 ? VnetHeader::Gso::tcp6 : VnetHeader::Gso::tcp4;
  out.segment_size = segment;
  out.checksum_start = shape.v6 ? 40 : 20;
  out.checksum_offset = shape.udp ? 6 : 16;
  return out;
}

std::vector<Buffer> segments_of(const Buffer& packet, const VnetHeader& vnet) {
  std::vector<Buffer> out;
  const auto segments = Segments::parse(packet, vnet);
  if (!segments) return out;
  for (std::size_t i = 0; i < segments->count(); ++i) {
    out.emplace_back(segments->size(i));
    segments->write(i, out.back());
  }
  return out;
}

const TcpHeader& tcp_of(const Buffer& packet) {
  return *view_as<TcpHeader>(Bytes{packet}.subspan(packet[0] >> 4 == 6 ? 40 : 20));
}

TEST(Segment, WritesTheHeadersThatTheKernelWould) {
  for (const bool v6 : {false, true}) {
    Shape shape;
    shape.v6 = v6;
    shape.payload = 2500;
    shape.sequence = 0xffffff00;  // wraps
    shape.identification = 0xffff;
    shape.flags = tcp_flag::ack | tcp_flag::psh | tcp_flag::fin | 0x80 | 0x40;  // CWR, ECE
    shape.tos = 2;
    const auto cut = segments_of(make(shape), vnet_of(shape, 1000));
    ASSERT_EQ(cut.size(), 3U);
    const std::size_t headers = (v6 ? 40U : 20U) + 20U;
    EXPECT_EQ(cut[0].size(), headers + 1000);
    EXPECT_EQ(cut[2].size(), headers + 500);
    const std::uint8_t flags[] = {tcp_flag::ack | 0x80 | 0x40, tcp_flag::ack | 0x40,
                                  tcp_flag::ack | tcp_flag::psh | tcp_flag::fin | 0x40};
    for (std::uint32_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(right(cut[i]));
      EXPECT_EQ(tcp_of(cut[i]).sequence.host(), 0xffffff00U + i * 1000);
      EXPECT_EQ(tcp_of(cut[i]).flags, flags[i]);
      if (!v6) {
        EXPECT_EQ(view_as<Ipv4Header>(Bytes{cut[i]})->identification.host(), static_cast<std::uint16_t>(0xffff + i));
        EXPECT_EQ(cut[i][1], 2);
      }
    }
  }
}

TEST(Segment, CompletesAChecksumThatWasLeftOpen) {
  for (const bool v6 : {false, true}) {
    for (const bool udp : {false, true}) {
      Shape shape;
      shape.v6 = v6;
      shape.udp = udp;
      const Buffer whole = make(shape);
      Buffer open = whole;
      const std::size_t start = v6 ? 40 : 20;
      const std::size_t field = start + (udp ? 6 : 16);
      const Bytes addresses = v6 ? Bytes{open}.subspan(8, 32) : Bytes{open}.subspan(12, 8);
      ChecksumSum sum = checksum_add(0, addresses) + be16::from_host(udp ? 17 : 6).raw();
      sum += be32::from_host(static_cast<std::uint32_t>(open.size() - start)).raw();
      const std::uint16_t partial = checksum_fold(sum);
      std::memcpy(open.data() + field, &partial, 2);
      VnetHeader vnet = vnet_of(shape, 0);
      vnet.gso = VnetHeader::Gso::none;
      EXPECT_EQ(segments_of(open, vnet), std::vector<Buffer>{whole});
    }
  }
}

TEST(Segment, RefusesWhatContradictsItself) {
  Shape shape;
  shape.payload = 2500;
  const Buffer packet = make(shape);
  const VnetHeader good = vnet_of(shape, 1000);
  ASSERT_EQ(segments_of(packet, good).size(), 3U);
  const auto refused = [](const Buffer& bytes, VnetHeader vnet, auto change) {
    change(vnet);
    return segments_of(bytes, vnet).empty();
  };
  EXPECT_TRUE(refused(packet, good, [](VnetHeader& v) { v.segment_size = 0; }));
  EXPECT_TRUE(refused(packet, good, [](VnetHeader& v) { v.needs_checksum = false; }));
  EXPECT_TRUE(refused(packet, good, [](VnetHeader& v) { v.checksum_start = 24; }));
  EXPECT_TRUE(refused(packet, good, [](VnetHeader& v) { v.checksum_start = 4; }));
  EXPECT_TRUE(refused(packet, good, [](VnetHeader& v) { v.checksum_start = 65000; }));
  EXPECT_TRUE(refused(packet, good, [](VnetHeader& v) { v.checksum_offset = 6; }));
  EXPECT_TRUE(refused(packet, good, [](VnetHeader& v) { v.gso = VnetHeader::Gso::tcp6; }));
  EXPECT_TRUE(refused(packet, good, [](VnetHeader& v) { v.gso = VnetHeader::Gso::udp; }));
  Buffer fragment = packet;
  fragment[6] |= 0x20;
  EXPECT_TRUE(segments_of(fragment, good).empty());
  Buffer cut = packet;
  cut.resize(1000);
  EXPECT_TRUE(segments_of(cut, good).empty());
  Buffer offset = packet;
  offset[32] = 0x40;
  EXPECT_TRUE(segments_of(offset, good).empty());
  EXPECT_TRUE(segments_of({}, good).empty());
}

RC_GTEST_PROP(SegmentProperty, JoiningGivesTheSuperPacketBack, ()) {
  Shape shape;
  shape.v6 = *rc::gen::arbitrary<bool>();
  shape.udp = *rc::gen::arbitrary<bool>();
  shape.sequence = *rc::gen::arbitrary<std::uint32_t>();
  shape.identification = *rc::gen::arbitrary<std::uint16_t>();
  if (!shape.udp) shape.options.assign(static_cast<std::size_t>(*rc::gen::inRange(0, 11)) * 4, 1);
  if (*rc::gen::arbitrary<bool>()) shape.flags |= tcp_flag::psh;
  const auto segment = *rc::gen::inRange<std::uint16_t>(8, 1400);
  shape.payload = *rc::gen::inRange<std::size_t>(1, std::size_t{segment} * 40);
  shape.payload = std::min<std::size_t>(shape.payload, 65000);
  const Buffer packet = make(shape);
  const auto cut = segments_of(packet, vnet_of(shape, segment));
  RC_ASSERT(cut.size() == (shape.payload + segment - 1) / segment);
  for (const Buffer& piece : cut) RC_ASSERT(right(piece));
  const std::vector<Bytes> views(cut.begin(), cut.end());
  Coalescer coalescer;
  coalescer.coalesce(views);
  RC_ASSERT(coalescer.size() == 1U);
  const auto output = coalescer.output(0);
  Buffer whole;
  for (const Bytes piece : output.pieces) whole.insert(whole.end(), piece.begin(), piece.end());
  // Its checksum is open again; completed it is the packet that was cut.
  finish(whole);
  RC_ASSERT(whole == packet);
}

RC_GTEST_PROP(SegmentProperty, AnyHeaderOverAnyBytesIsRefusedOrCutWithinBounds, (Buffer packet)) {
  std::array<std::uint8_t, kVnetHeaderSize> bytes;
  for (auto& byte : bytes) byte = *rc::gen::arbitrary<std::uint8_t>();
  bool known = false;
  const VnetHeader vnet = VnetHeader::parse(bytes, known);
  if (*rc::gen::arbitrary<bool>()) packet = make({});
  for (const Buffer& piece : segments_of(packet, vnet)) RC_ASSERT(piece.size() <= packet.size());
}

TEST(VnetHeader, IsWrittenAsItIsRead) {
  VnetHeader vnet{true, VnetHeader::Gso::udp, 48, 1200, 40, 6};
  bool known = false;
  EXPECT_EQ(VnetHeader::parse(vnet.wire(), known), vnet);
  EXPECT_TRUE(known);
  auto bytes = vnet.wire();
  bytes[1] = 3;  // UFO was never asked for
  EXPECT_FALSE(VnetHeader::parse(bytes, known).plain());
  EXPECT_FALSE(known);
  bytes[1] = 0x81;  // TCP with CWR
  EXPECT_EQ(VnetHeader::parse(bytes, known).gso, VnetHeader::Gso::tcp4);
  EXPECT_TRUE(known);
}

}  // namespace
}  // namespace penstock::offload
