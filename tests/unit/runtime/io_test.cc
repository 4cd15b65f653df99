// DPDK without root and hugepages: buffers and ports in memory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <filesystem>
#include <vector>

#include "dataplane/io/eal.h"
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
