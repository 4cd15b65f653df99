// DPDK without root and hugepages: buffers and ports in memory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <filesystem>
#include <vector>

#include "dataplane/io/eal.h"
#include "dataplane/io/mbuf.h"
#include "dataplane/io/pool.h"
#include "dataplane/io/port.h"

namespace penstock::io {
namespace {

// EAL starts once per process.
class Environment final : public testing::Environment {
 public:
  void SetUp() override {
    runtime::Config config;
    config.file = "FILE";
    config.hugepages = runtime::Hugepages::no;
    config.memory_mb = 128;
    config.path.ports.resize(1);
    config.devices = {{"net_ring0", {}}};
    const std::clock_t before = std::clock();
    auto started = Eal::start(config);
    start_seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
    const auto* error = std::get_if<runtime::ConfigError>(&started);
    ASSERT_EQ(error, nullptr) << error->to_string();
    eal = std::move(std::get<std::unique_ptr<Eal>>(started));
    eal->enter_thread();
  }
  void TearDown() override {
    eal->leave_thread();
    eal.reset();
  }
  static inline std::unique_ptr<Eal> eal;
  static inline double start_seconds = 0;  // of processor time: others on the machine do not count
};
[[maybe_unused]] const auto* const environment = testing::AddGlobalTestEnvironment(new Environment);

std::unique_ptr<MbufPool> make_pool(std::uint16_t mtu = 1500) {
  auto made = MbufPool::make(mtu, 64);
  if (const auto* error = std::get_if<std::string>(&made)) {
    ADD_FAILURE() << *error;
    return nullptr;
  }
  return std::move(std::get<std::unique_ptr<MbufPool>>(made));
}

std::unique_ptr<DpdkPort> open_port(const std::string& device, MbufPool& pool, std::uint16_t workers = 1) {
  gateway::PortConfiguration configuration;
  configuration.name = "port";
  auto opened = DpdkPort::open({device, {}}, configuration, workers, pool.mempool());
  if (const auto* error = std::get_if<std::string>(&opened)) {
    ADD_FAILURE() << *error;
    return nullptr;
  }
  return std::move(std::get<std::unique_ptr<DpdkPort>>(opened));
}

Packet* make_frame(MbufPool& pool, std::size_t length, std::uint8_t fill) {
  Packet* packet = pool.allocate();
  if (packet == nullptr || !packet->append(static_cast<std::uint16_t>(length))) return nullptr;
  std::memset(packet->data, fill, length);
  return packet;
}

TEST(Io, EnvironmentStartsWithinASecond) {
  EXPECT_LT(Environment::start_seconds, 1.0);
}

TEST(Io, PacketsHaveTheRoomThatStagesRelyOn) {
  for (const std::uint16_t mtu : {std::uint16_t{1500}, std::uint16_t{9000}}) {
    const auto pool = make_pool(mtu);
    ASSERT_NE(pool, nullptr);
    Packet* packet = pool->allocate();
    ASSERT_NE(packet, nullptr);
    EXPECT_EQ(packet->length, 0);
    EXPECT_GE(packet->headroom, kMinHeadroom);
    EXPECT_GE(packet->tailroom, mtu + 14 + kMinTailroom);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(packet) % alignof(Packet), 0u);
    pool->release(std::span<Packet* const>(&packet, 1));
  }
}

// trap: io-8
TEST(Io, APoolRunsDryWithoutHarmAndIsWholeAgain) {
  const auto pool = make_pool();
  ASSERT_NE(pool, nullptr);
  const auto before = pool->stats();
  EXPECT_EQ(before.free, before.size);
  std::vector<Packet*> all;
  while (Packet* packet = pool->allocate()) all.push_back(packet);
  EXPECT_EQ(all.size(), before.size);
  EXPECT_EQ(pool->stats().free, 0u);
  pool->release(all);
  EXPECT_EQ(pool->stats().free, before.free);
}

TEST(Io, TooLittleMemoryIsAClearError) {
  auto made = MbufPool::make(9000, 8);
  ASSERT_TRUE(std::holds_alternative<std::string>(made));
  EXPECT_NE(std::get<std::string>(made).find("at least"), std::string::npos) << std::get<std::string>(made);
}

// What is sent into a ring device comes back, also after stages have moved its start and length.
TEST(Io, FramesKeepTheirBytesThroughAPort) {
  const auto pool = make_pool();
  ASSERT_NE(pool, nullptr);
  const auto before = pool->stats().free;
  {
    const auto port = open_port("net_ring1", *pool);
    ASSERT_NE(port, nullptr);
    std::vector<Packet*> frames;
    for (int i = 0; i < 40; ++i) {
      Packet* packet = make_frame(*pool, 100, static_cast<std::uint8_t>(i));
      ASSERT_NE(packet, nullptr);
      ASSERT_TRUE(packet->push(14));
      std::memset(packet->data, 0xee, 14);
      packet->truncate(64);
      packet->peer = 7;
      frames.push_back(packet);
    }
    EXPECT_EQ(port->send(0, frames), frames.size());
    PacketBurst burst;
    port->receive(0, burst);
    ASSERT_EQ(burst.size(), frames.size());
    for (std::size_t i = 0; i < burst.size(); ++i) {
      EXPECT_EQ(burst[i]->length, 64);
      EXPECT_EQ(burst[i]->data[0], 0xee);
      EXPECT_EQ(burst[i]->data[14], static_cast<std::uint8_t>(i));
      EXPECT_EQ(burst[i]->peer, kNoPeer) << "nothing of the packet's past is left";
    }
    pool->release({burst.begin(), burst.end()});
    EXPECT_EQ(port->stats().tx_packets, 40u);
    EXPECT_EQ(port->stats().rx_packets, 40u);
    EXPECT_EQ(port->wait_descriptor(0), runtime::Port::kMustPoll);
  }
  EXPECT_EQ(pool->stats().free, before);
}

// trap: io-7
TEST(Io, AFullQueueTakesAPartAndTheCallerKeepsTheRest) {
  const auto pool = make_pool();
  ASSERT_NE(pool, nullptr);
  const auto before = pool->stats().free;
  {
    const auto port = open_port("net_ring2", *pool);
    ASSERT_NE(port, nullptr);
    std::vector<Packet*> frames;
    for (int i = 0; i < 2000; ++i) frames.push_back(make_frame(*pool, 64, 0));
    const std::size_t sent = port->send(0, frames);
    EXPECT_GT(sent, 0u);
    EXPECT_LT(sent, frames.size());
    pool->release(std::span<Packet* const>(frames).subspan(sent));
    PacketBurst burst;
    do {
      burst.clear();
      port->receive(0, burst);
      pool->release({burst.begin(), burst.end()});
    } while (!burst.empty());
  }
  EXPECT_EQ(pool->stats().free, before);
}

TEST(Io, WorkersWithoutAQueueReceiveNothingAndSendAllTheSame) {
  const auto pool = make_pool();
  ASSERT_NE(pool, nullptr);
  const auto port = open_port("net_pcap0,tx_pcap=/dev/null", *pool, 2);
  ASSERT_NE(port, nullptr);
  EXPECT_EQ(port->wait_descriptor(1), runtime::Port::kNothing);
  PacketBurst burst;
  port->receive(1, burst);
  EXPECT_TRUE(burst.empty());
  Packet* frame = make_frame(*pool, 64, 1);
  EXPECT_EQ(port->send(1, std::span<Packet* const>(&frame, 1)), 1u);
}

// A packet of our own that is marked is described to the device, tagged or not; another one is not, whatever its flags say.
TEST(Io, ChecksumsAreLeftToDevicesThatFillThemIn) {
  const auto pool = make_pool();
  ASSERT_NE(pool, nullptr);
  struct Case {
    std::uint8_t flags;
    bool tagged, described;
  };
  constexpr std::uint8_t kOwn = packet_flag::own, kMark = packet_flag::l4_checksum_ok;
  for (const Case& c : {Case{kOwn | kMark, false, true}, Case{kOwn | kMark, true, true}, Case{kMark, false, false},
                        Case{kOwn, false, false}}) {
    Packet* packet = make_frame(*pool, 100, 0);
    ASSERT_NE(packet, nullptr);
    packet->data[12] = c.tagged ? 0x81 : 0x86;
    packet->data[13] = c.tagged ? 0x00 : 0xdd;
    packet->flags = c.flags;
    const rte_mbuf* mbuf = prepare_for_send(packet);
    EXPECT_EQ((mbuf->ol_flags & RTE_MBUF_F_TX_UDP_CKSUM) != 0, c.described);
    if (c.described) {
      EXPECT_NE(mbuf->ol_flags & RTE_MBUF_F_TX_IPV6, 0U);
      EXPECT_EQ(mbuf->l2_len, c.tagged ? 18 : 14);
      EXPECT_EQ(mbuf->l3_len, 40);
    } else {
      EXPECT_EQ(mbuf->ol_flags, 0U);
    }
    pool->release(std::span<Packet* const>(&packet, 1));
  }
  const auto port = open_port("net_ring5", *pool);
  ASSERT_NE(port, nullptr);
  EXPECT_FALSE(port->fills_checksums()) << "a virtual device would do it on our core";
}

TEST(Io, APortSaysHowItsDeviceSpreads) {
  const auto pool = make_pool();
  ASSERT_NE(pool, nullptr);
  const auto two = open_port("net_null0,size=64", *pool, 2);
  ASSERT_NE(two, nullptr);
  const auto layout = two->rss_layout();
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->key.size(), 40u);
  EXPECT_FALSE(layout->queues.empty());
  for (const std::uint16_t queue : layout->queues) EXPECT_LT(queue, 2);
  EXPECT_TRUE(layout->tcp4 && layout->udp4 && layout->tcp6 && layout->udp6);
  const auto one = open_port("net_null1", *pool, 1);
  ASSERT_NE(one, nullptr);
  EXPECT_FALSE(one->rss_layout()) << "one queue: nothing is spread";
  const auto ring = open_port("net_ring3", *pool, 2);
  ASSERT_NE(ring, nullptr);
  EXPECT_FALSE(ring->rss_layout()) << "a device that cannot";
}

// Buffers of a node come from its pool; every worker's queue is given the one of its core.
TEST(Io, EveryNodeHasBuffersOfItsOwn) {
  auto made = MbufPool::make(1500, 64, {0});
  ASSERT_TRUE(std::holds_alternative<std::unique_ptr<MbufPool>>(made)) << std::get<std::string>(made);
  const auto pool = std::move(std::get<std::unique_ptr<MbufPool>>(made));
  EXPECT_NE(pool->mempool(0), nullptr);
  EXPECT_EQ(pool->mempool(7), pool->mempool(0)) << "a node without a pool uses another's";
  Packet* packet = pool->allocate();
  ASSERT_NE(packet, nullptr);
  EXPECT_EQ(pool->stats().free + 1, pool->stats().size);
  const auto port = DpdkPort::open({"net_ring4", {}}, {}, {pool->mempool(0), pool->mempool(0)});
  ASSERT_TRUE(std::holds_alternative<std::unique_ptr<DpdkPort>>(port));
  pool->release(std::span<Packet* const>(&packet, 1));
  EXPECT_EQ(pool->stats().free, pool->stats().size);
}

TEST(Io, TooLittleMemoryForEveryNodeSaysSo) {
  auto made = MbufPool::make(1500, 24, {0, 1});
  ASSERT_TRUE(std::holds_alternative<std::string>(made));
  EXPECT_NE(std::get<std::string>(made).find("2 NUMA nodes"), std::string::npos) << std::get<std::string>(made);
}

TEST(Io, AnUnknownDeviceIsAClearError) {
  const auto pool = make_pool();
  ASSERT_NE(pool, nullptr);
  gateway::PortConfiguration configuration;
  for (const char* device : {"net_nonsense0", "net_af_packet9,iface=penstock-none", "0000:ff:1f.7"}) {
    auto opened = DpdkPort::open({device, {}}, configuration, 1, pool->mempool());
    ASSERT_TRUE(std::holds_alternative<std::string>(opened)) << device;
    EXPECT_FALSE(std::get<std::string>(opened).empty());
  }
}

}  // namespace
}  // namespace penstock::io
