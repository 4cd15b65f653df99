// The wire's own parts: its specification language, and that it translates, delays, cuts and says "too big".
#include <gtest/gtest.h>

#include "tests/lab/wire/wire.h"

namespace penstock::wire {
namespace {

using namespace std::chrono_literals;
using model::Dependence;
using model::PortChoice;

constexpr Instant kStart{1h};

Spec spec(std::string_view text) {
  auto out = parse_spec(text);
  if (const auto* problem = std::get_if<std::string>(&out)) ADD_FAILURE() << text << ": " << *problem;
  return std::get<Spec>(out);
}

TEST(Spec, Kinds) {
  const Spec all = spec(
      "address,port,parity,reject,takes-port,refresh-in,arbitrary,no-hairpin,timeout=30s,life=30m,delay=10ms,"
      "jitter=2ms,"
      "keep-order,reorder=5,reorder-by=7ms,loss=10,burst=3,duplicate=1,mtu=1400,black-hole,rate=1000000,queue=65536");
  EXPECT_TRUE(all.nat);
  EXPECT_EQ(all.behaviour.mapping, Dependence::address);
  EXPECT_EQ(all.behaviour.filtering, Dependence::address_and_port);
  EXPECT_EQ(all.behaviour.ports, PortChoice::parity);
  EXPECT_TRUE(all.behaviour.rejects && all.behaviour.inbound_takes_port && all.behaviour.refreshed_by_inbound);
  EXPECT_EQ(all.behaviour.pooling, model::Pooling::arbitrary);
  EXPECT_FALSE(all.behaviour.hairpins);
  EXPECT_EQ(all.behaviour.timeout, 30s);
  EXPECT_EQ(all.behaviour.lifetime, 30min);
  EXPECT_EQ(all.link.latency, 10ms);
  EXPECT_EQ(all.link.jitter, 2ms);
  EXPECT_TRUE(all.link.keeps_order && all.black_hole);
  EXPECT_EQ(all.link.reorder_permille, 5u);
  EXPECT_EQ(all.link.reorder_by, 7ms);
  EXPECT_EQ(all.link.loss_permille, 10u);
  EXPECT_EQ(all.link.loss_burst, 3u);
  EXPECT_EQ(all.link.duplicate_permille, 1u);
  EXPECT_EQ(all.link.mtu, 1400u);
  EXPECT_EQ(all.link.rate, 1'000'000u);
  EXPECT_EQ(all.link.queue, 65536u);
  EXPECT_FALSE(spec("none,delay=1ms").nat);
  EXPECT_EQ(spec("independent,independent,random").link.latency, 0ms);
}

TEST(Spec, SaysWhatIsWrong) {
  for (const char* text : {"", "independent", "independent,independent", "foo,port,random", "port,foo,random",
                           "port,port,foo", "none,foo", "none,delay=10", "none,delay=ms", "none,delay=",
                           "none,loss=1001",
                           "none,loss=-1", "none,mtu=70000", "none,foo=1", "none,,", "none,loss=5ms"})
    EXPECT_TRUE(std::holds_alternative<std::string>(parse_spec(text))) << text;
}

// A UDP packet over IPv4; checksums as the models keep them: by difference.
std::vector<std::uint8_t> udp(const char* source, const char* destination, std::uint16_t source_port,
                              std::uint16_t destination_port, std::size_t size = 60) {
  std::vector<std::uint8_t> out(size);
  out[0] = 0x45;
  out[2] = static_cast<std::uint8_t>(size >> 8);
  out[3] = static_cast<std::uint8_t>(size);
  out[6] = 0x40;
  out[8] = 64;
  out[9] = 17;
  const auto put = [&](std::size_t at, const char* text) {
    const auto wire = IpAddress::parse(text)->bytes();
    std::copy(wire.begin() + 12, wire.end(), out.begin() + static_cast<std::ptrdiff_t>(at));
  };
  put(12, source);
  put(16, destination);
  out[20] = static_cast<std::uint8_t>(source_port >> 8);
  out[21] = static_cast<std::uint8_t>(source_port);
  out[22] = static_cast<std::uint8_t>(destination_port >> 8);
  out[23] = static_cast<std::uint8_t>(destination_port);
  out[24] = static_cast<std::uint8_t>((size - 20) >> 8);
  out[25] = static_cast<std::uint8_t>(size - 20);
  return out;
}
IpAddress source_of(const std::vector<std::uint8_t>& packet) {
  return IpAddress::from_wire(Bytes{packet}.subspan(12, 4));
}
IpAddress destination_of(const std::vector<std::uint8_t>& packet) {
  return IpAddress::from_wire(Bytes{packet}.subspan(16, 4));
}
std::uint16_t port_at(const std::vector<std::uint8_t>& packet, std::size_t at) {
  return static_cast<std::uint16_t>(packet[at] << 8 | packet[at + 1]);
}

Wire make(std::string_view text) {
  return {spec(text),
          {{*IpAddress::parse("198.51.100.30")},
           {*Prefix::parse("198.51.100.128/28")},
           *IpAddress::parse("198.51.100.129"),
           {}},
          1};
}

constexpr const char* kClient = "198.51.100.130";
constexpr const char* kServer = "198.51.100.80";

TEST(Wire, TranslatesBothWaysAndDelaysEach) {
  Wire wire = make("independent,port,random,delay=10ms");
  wire.handle(udp(kClient, kServer, 5000, 53), kStart);
  EXPECT_EQ(wire.next(), kStart + 10ms);
  EXPECT_FALSE(wire.poll(kStart + 9ms));
  const auto out = wire.poll(kStart + 10ms);
  ASSERT_TRUE(out);
  EXPECT_EQ(source_of(*out).to_string(), "198.51.100.30");
  wire.handle(udp(kServer, "198.51.100.30", 53, port_at(*out, 20)), kStart + 20ms);
  const auto back = wire.poll(kStart + 30ms);
  ASSERT_TRUE(back);
  EXPECT_EQ(destination_of(*back).to_string(), kClient);
  EXPECT_EQ(port_at(*back, 22), 5000);
  EXPECT_EQ(wire.next(), kNever);
}

TEST(Wire, ForgetsWhenTold) {
  Wire wire = make("port,port,random");
  wire.handle(udp(kClient, kServer, 5000, 53), kStart);
  const auto before = wire.poll(kStart);
  ASSERT_TRUE(before);
  wire.forget();
  wire.handle(udp(kServer, "198.51.100.30", 53, port_at(*before, 20)), kStart);
  EXPECT_FALSE(wire.poll(kStart));
  wire.handle(udp(kClient, kServer, 5000, 53), kStart);
  const auto after = wire.poll(kStart);
  ASSERT_TRUE(after);
  EXPECT_NE(port_at(*before, 20), port_at(*after, 20));
}

TEST(Wire, CutMendedAndMoved) {
  Wire wire = make("independent,independent,preserving");
  wire.cut(true);
  wire.handle(udp(kClient, kServer, 5000, 53), kStart);
  EXPECT_FALSE(wire.poll(kStart));
  EXPECT_EQ(wire.statistics().lost, 1u);
  wire.become(spec("independent,independent,preserving"));  // still cut
  wire.handle(udp(kClient, kServer, 5000, 53), kStart);
  EXPECT_FALSE(wire.poll(kStart));
  wire.cut(false);
  wire.move({*IpAddress::parse("198.51.100.31")});
  wire.handle(udp(kClient, kServer, 5000, 53), kStart);
  const auto out = wire.poll(kStart);
  ASSERT_TRUE(out);
  EXPECT_EQ(source_of(*out).to_string(), "198.51.100.31");
}

TEST(Wire, TooBigIsSaidToTheSenderUnlessItIsABlackHole) {
  Wire wire = make("independent,independent,preserving,mtu=1400");
  wire.handle(udp(kClient, kServer, 5000, 53, 1500), kStart);
  const auto error = wire.poll(kStart);
  ASSERT_TRUE(error);
  EXPECT_EQ((*error)[9], 1);  // ICMP
  EXPECT_EQ(source_of(*error).to_string(), "198.51.100.129");
  EXPECT_EQ(destination_of(*error).to_string(), kClient);
  EXPECT_EQ((*error)[20], 3);
  EXPECT_EQ((*error)[21], 4);
  EXPECT_EQ(port_at(*error, 26), 1400);
  EXPECT_FALSE(wire.poll(kStart));

  wire.become(spec("independent,independent,preserving,mtu=1400,black-hole"));
  wire.handle(udp(kClient, kServer, 5000, 53, 1500), kStart);
  EXPECT_FALSE(wire.poll(kStart));
  EXPECT_EQ(wire.statistics().too_big, 2u);
}

TEST(Wire, WithoutNatNothingIsChanged) {
  Wire wire = make("none,duplicate=1000");
  const auto packet = udp(kClient, kServer, 5000, 53);
  wire.handle(packet, kStart);
  EXPECT_EQ(wire.poll(kStart), packet);
  EXPECT_EQ(wire.poll(kStart), packet);
  EXPECT_FALSE(wire.poll(kStart));
  EXPECT_EQ(wire.statistics().duplicated, 1u);
}

}  // namespace
}  // namespace penstock::wire
