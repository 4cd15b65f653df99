#include "dataplane/core/nat/binding_log.h"

#include <gtest/gtest.h>

#include "dataplane/core/packet/headers.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::build_packet;
using path::World;

class Records : public BindingLog {
 public:
  explicit Records(bool destinations) : destinations_{destinations} {}
  [[nodiscard]] bool wants_destinations() const override { return destinations_; }
  void write(const BindingRecord& record) override { list.push_back(record); }
  std::vector<BindingRecord> list;

 private:
  bool destinations_;
};

void furnish(World& world, BindingLog& log) {
  policy::PeerPolicy& peer = world.peers[1];
  peer.tunnel_v4 = IpAddress::parse("100.64.0.2").value();
  peer.authorisations = {
      {"lan", "lan", policy::ResourceKind::cidr, Prefix::parse("203.0.113.0/24").value(), "", {}, {}}};
  world.config.log = &log;
}

void send(World& world, const std::string& to, int port) {
  world.up(1, build_packet("ip4 src=100.64.0.2 dst=" + to + " df udp sport=4000 dport=" + std::to_string(port)).bytes);
}

// RFC 6888 REQ-12 and 13: who had which address and port, from when to when; no destinations unless asked for.
TEST(BindingLog, EveryFlowBeginsAndEnds) {
  World world;
  Records log{false};
  furnish(world, log);
  send(world, "203.0.113.80", 53);
  send(world, "203.0.113.80", 53);
  ASSERT_EQ(log.list.size(), 1u);
  EXPECT_TRUE(log.list[0].begins);
  EXPECT_EQ(log.list[0].peer, 1u);
  EXPECT_EQ(log.list[0].protocol, ip_protocol::udp);
  EXPECT_EQ(log.list[0].inside.to_string(), "100.64.0.2:4000");
  EXPECT_EQ(log.list[0].outside.to_string(), "203.0.113.1:4000");
  EXPECT_TRUE(log.list[0].remote.address.is_unspecified());
  EXPECT_EQ(log.list[0].at, world.now().wall);
  world.after(std::chrono::minutes{6});
  ASSERT_EQ(log.list.size(), 2u);
  EXPECT_FALSE(log.list[1].begins);
  EXPECT_EQ(log.list[1].outside.to_string(), "203.0.113.1:4000");
  EXPECT_EQ(log.list[1].at, world.now().wall);
}

TEST(BindingLog, DestinationsWhereAskedFor) {
  World world;
  Records log{true};
  furnish(world, log);
  send(world, "203.0.113.80", 53);
  ASSERT_EQ(log.list.size(), 1u);
  EXPECT_EQ(log.list[0].remote.to_string(), "203.0.113.80:53");
}

TEST(BindingLog, AnEndpointIndependentBindingIsOneRecord) {
  World world;
  Records log{false};
  furnish(world, log);
  world.config.mapping = Mapping::endpoint_independent;
  send(world, "203.0.113.80", 53);
  send(world, "203.0.113.81", 54);
  ASSERT_EQ(world.translator().flow_count(), 2u);
  EXPECT_EQ(log.list.size(), 1u);
  world.after(std::chrono::minutes{6});
  ASSERT_EQ(log.list.size(), 2u);
  EXPECT_FALSE(log.list[1].begins);
}

}  // namespace
}  // namespace penstock::nat
