// Looking inside: what the server says of peers, flows, drops, ports, neighbours and names.
#include <gmock/gmock.h>

#include "dataplane/core/packet/drop_reason.h"
#include "server_bench.h"

namespace penstock::rpc {
namespace {

using testing::HasSubstr;

class RpcInspect : public RpcServer {
 protected:
  void prepare() override {
    runtime::PeerRow row;
    row.public_key = key(1);
    row.endpoint = endpoint("198.51.100.7:40000");
    row.session = runtime::PeerRow::Session::up;
    row.handshake_age = std::chrono::milliseconds{1500};
    row.rx_bytes = 10;
    row.tunnel_v4 = ip("100.64.0.2");
    row.flows = 3;
    backend_->peer_rows = {row, runtime::PeerRow{}};
    runtime::FlowRow flow;
    flow.protocol = "tcp";
    flow.translation = "nat64";
    flow.inside_source = endpoint("[fd00:2021:1111::2]:1000");
    flow.state = "established";
    flow.idle = std::chrono::seconds{2};
    flow.peer = key(1);
    flow.name = "web.corp.example";
    backend_->flow_table = {{flow, flow, flow}, 30, 262144};
    gateway::NeighbourView neighbour;
    neighbour.address = ip("203.0.113.80");
    neighbour.mac = {2, 0, 0, 0, 0, 0x1a};
    neighbour.port = 0;
    neighbour.state = gateway::NeighbourState::probe;
    backend_->neighbour_rows = {neighbour};
    runtime::PortRow port;
    port.name = "lan";
    port.driver = "net_af_packet";
    port.mtu = 1500;
    port.addresses = {{ip("203.0.113.1"), 24}};
    port.stats.link_up = true;
    port.pool = {900, 1000};
    backend_->port_rows = {port};
    backend_->counted.drops[2] = 17;
  }
  template <typename Reply>
  Reply ask(grpc::Status (v1::Inspect::Stub::*call)(grpc::ClientContext*, const v1::ShowRequest&, Reply*),
            std::uint32_t limit = 0) {
    grpc::ClientContext context;
    context.set_deadline(soon());
    v1::ShowRequest request;
    request.set_limit(limit);
    Reply reply;
    const auto status = (inspect_.get()->*call)(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return reply;
  }
};

TEST_F(RpcInspect, Status) {
  grpc::ClientContext context;
  context.set_deadline(soon());
  v1::StatusReply reply;
  ASSERT_TRUE(inspect_->Status(&context, {}, &reply).ok());
  EXPECT_EQ(reply.process(), "dataplane");
  EXPECT_EQ(reply.state(), "ready");
  EXPECT_EQ(reply.uptime_seconds(), 60);
  EXPECT_THAT(reply.DebugString(), HasSubstr("30 of 262144"));
}

TEST_F(RpcInspect, Tables) {
  const auto peers = ask<v1::PeersReply>(&v1::Inspect::Stub::ShowPeers);
  ASSERT_EQ(peers.peers_size(), 2);
  EXPECT_EQ(peers.peers(0).session(), "up");
  EXPECT_EQ(peers.peers(0).handshake_age_seconds(), 1.5);
  EXPECT_EQ(peers.peers(0).public_key().size(), 44U);
  EXPECT_EQ(peers.peers(1).handshake_age_seconds(), -1);
  EXPECT_EQ(peers.peers(1).endpoint(), "");
  EXPECT_EQ(ask<v1::PeersReply>(&v1::Inspect::Stub::ShowPeers, 1).peers_size(), 1);

  const auto flows = ask<v1::FlowsReply>(&v1::Inspect::Stub::ShowFlows, 2);
  EXPECT_EQ(flows.flows_size(), 2);
  EXPECT_EQ(flows.total(), 30U);
  EXPECT_EQ(flows.flows(0).inside_source(), "[fd00:2021:1111::2]:1000");

  const auto drops = ask<v1::DropsReply>(&v1::Inspect::Stub::ShowDrops);
  EXPECT_EQ(drops.drops_size(), static_cast<int>(kDropReasonCount) - 1);
  EXPECT_EQ(drops.drops(1).packets(), 17U);
  EXPECT_EQ(drops.drops(1).reason(), name_of(static_cast<DropReason>(2)));

  const auto ports = ask<v1::PortsReply>(&v1::Inspect::Stub::ShowPorts);
  ASSERT_EQ(ports.ports_size(), 1);
  EXPECT_EQ(ports.ports(0).addresses(0), "203.0.113.1/24");
  EXPECT_EQ(ports.ports(0).pool_free(), 900U);

  const auto neighbours = ask<v1::NeighboursReply>(&v1::Inspect::Stub::ShowNeighbours);
  ASSERT_EQ(neighbours.neighbours_size(), 1);
  EXPECT_EQ(neighbours.neighbours(0).mac(), "02:00:00:00:00:1a");
  EXPECT_EQ(neighbours.neighbours(0).port(), "lan");
  EXPECT_EQ(neighbours.neighbours(0).state(), "stale");

  v1::ApplyRequest request;
  *request.add_operations() = peer(1);
  *request.add_operations() = authorisation(1, "a1");
  *request.add_operations() = translation(1, "t1");
  apply(request);
  const auto names = ask<v1::NamesReply>(&v1::Inspect::Stub::ShowNames);
  ASSERT_EQ(names.names_size(), 1);
  EXPECT_EQ(names.names(0).state(), "active");
  EXPECT_EQ(names.names(0).addresses(0), "203.0.113.80");
}

}  // namespace
}  // namespace penstock::rpc
