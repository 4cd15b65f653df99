// The services over a real unix socket, from the control process's side.
#include "dataplane/rpc/server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <chrono>
#include <condition_variable>
#include <thread>

#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/rpc/convert.h"
#include "fake_backend.h"
#include "penstock/v1/dataplane.grpc.pb.h"
#include "penstock/v1/inspect.grpc.pb.h"

namespace penstock::rpc {
namespace {

using testing::HasSubstr;

std::chrono::system_clock::time_point soon() {
  return std::chrono::system_clock::now() + std::chrono::seconds{10};
}

class RpcServer : public testing::Test {
 protected:
  void start() {
    auto backend = std::make_unique<FakeBackend>();
    backend_ = backend.get();
    prepare();
    std::string error;
    server_ = make_rpc_server(std::move(backend), {.socket = socket_, .allowed_uids = {::getuid()}}, error);
    ASSERT_NE(server_, nullptr) << error;
    channel_ = connect();
    data_plane_ = v1::DataPlane::NewStub(channel_);
    inspect_ = v1::Inspect::NewStub(channel_);
  }
  void SetUp() override { start(); }
  virtual void prepare() {}

  std::shared_ptr<grpc::Channel> connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("unix:" + socket_, grpc::InsecureChannelCredentials(), arguments);
  }
  v1::ApplyResponse apply(const v1::ApplyRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(soon());
    v1::ApplyResponse response;
    const auto status = data_plane_->Apply(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  std::vector<v1::DumpItem> dump() {
    grpc::ClientContext context;
    context.set_deadline(soon());
    const auto reader = data_plane_->Dump(&context, {});
    std::vector<v1::DumpItem> items;
    for (v1::DumpItem item; reader->Read(&item);) items.push_back(item);
    EXPECT_TRUE(reader->Finish().ok());
    return items;
  }
  // Waits for what another thread does.
  template <typename Condition>
  static bool eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{10};
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds{2});
    }
    return true;
  }

  TemporaryDirectory directory_;
  std::string socket_ = directory_.file("run/dataplane.sock");
  FakeBackend* backend_ = nullptr;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::DataPlane::Stub> data_plane_;
  std::unique_ptr<v1::Inspect::Stub> inspect_;
};

v1::Operation peer(std::uint8_t n) {
  v1::Operation operation;
  v1::Peer& message = *operation.mutable_upsert_peer();
  message.set_public_key(wire_of(key(n)));
  message.set_preshared_key(wire_of(key(200)));
  message.mutable_tunnel()->set_v4(wire_of(IpAddress::v4(0x64400000U + n)));
  message.set_control(true);
  return operation;
}
v1::Operation authorisation(std::uint8_t n, const std::string& id) {
  v1::Operation operation;
  v1::PeerAuthorisation& message = *operation.mutable_upsert_authorisation();
  message.set_id(id);
  message.set_peer(wire_of(key(n)));
  message.mutable_resource()->set_id("corp");
  message.mutable_resource()->set_kind(v1::RESOURCE_KIND_DNS);
  message.mutable_resource()->set_pattern("**.corp.example");
  return operation;
}
v1::Operation translation(std::uint8_t n, const std::string& id) {
  v1::Operation operation;
  v1::PeerTranslation& message = *operation.mutable_upsert_translation();
  message.set_id(id);
  message.set_peer(wire_of(key(n)));
  message.set_resource("corp");
  message.set_name("web.corp.example");
  message.set_proxy_v4(wire_of(ip("100.96.0.9")));
  message.set_state(v1::PeerTranslation::STATE_ACTIVE);
  message.add_addresses(wire_of(ip("203.0.113.80")));
  return operation;
}

TEST_F(RpcServer, ApplyJudgesEachOperationByItself) {
  v1::ApplyRequest request;
  request.set_generation(3);
  *request.add_operations() = peer(1);
  request.add_operations()->mutable_upsert_peer()->set_public_key("short");
  *request.add_operations() = authorisation(1, "a1");
  request.add_operations();                            // of a later version
  *request.add_operations() = authorisation(7, "a2");  // peer unknown
  *request.add_operations() = translation(1, "t1");
  const auto response = apply(request);
  ASSERT_EQ(response.errors_size(), 3);
  EXPECT_EQ(response.errors(0).index(), 1U);
  EXPECT_EQ(response.errors(1).index(), 3U);
  EXPECT_EQ(response.errors(2).index(), 4U);
  EXPECT_THAT(response.errors(0).message(), HasSubstr("5 bytes instead of 32"));
  EXPECT_EQ(backend_->store.peers().size(), 1U);
  EXPECT_EQ(backend_->store.translations().size(), 1U);
  EXPECT_EQ(backend_->store.generation(), 3U);
}

TEST_F(RpcServer, ApplyAgainChangesNothing) {
  v1::ApplyRequest request;
  *request.add_operations() = peer(1);
  *request.add_operations() = authorisation(1, "a1");
  EXPECT_EQ(apply(request).errors_size(), 0);
  const auto published = backend_->sink.published;
  const auto changes = backend_->sink.peer_changes;
  EXPECT_EQ(apply(request).errors_size(), 0);
  EXPECT_EQ(backend_->sink.published, published);
  EXPECT_EQ(backend_->sink.peer_changes, changes);
}

TEST_F(RpcServer, SynchronisationSweepsWhatWasNotNamed) {
  v1::ApplyRequest request;
  for (std::uint8_t n = 1; n <= 3; ++n) *request.add_operations() = peer(n);
  *request.add_operations() = authorisation(1, "a1");
  apply(request);

  v1::ApplyRequest begin;
  begin.set_generation(2);
  begin.set_begin_sync(true);
  *begin.add_operations() = peer(1);
  EXPECT_EQ(apply(begin).removed(), 0U);
  v1::ApplyRequest end;
  end.set_generation(2);
  *end.add_operations() = peer(2);
  end.set_end_sync(true);
  EXPECT_EQ(apply(end).removed(), 2U);  // peer 3 and the authorisation
  EXPECT_EQ(backend_->store.peers().size(), 2U);
}

TEST_F(RpcServer, DumpHoldsEverythingButKeys) {
  v1::ApplyRequest request;
  request.set_generation(9);
  *request.add_operations() = peer(1);
  *request.add_operations() = authorisation(1, "a1");
  *request.add_operations() = translation(1, "t1");
  ASSERT_EQ(apply(request).errors_size(), 0);
  const auto items = dump();
  ASSERT_EQ(items.size(), 4U);
  ASSERT_TRUE(items[0].has_info());
  EXPECT_EQ(items[0].info().generation(), 9U);
  EXPECT_EQ(items[0].info().instance(), 4711U);
  EXPECT_EQ(items[0].info().tunnel_port(), 51820U);
  EXPECT_EQ(items[0].info().source_nat_addresses_size(), 2);
  EXPECT_EQ(items[1].peer().public_key(), wire_of(key(1)));
  EXPECT_EQ(items[2].authorisation().id(), "a1");
  EXPECT_EQ(items[3].translation().name(), "web.corp.example");
  for (const auto& item : items)
    EXPECT_EQ(item.SerializeAsString().find(wire_of(key(200))), std::string::npos);  // the preshared key
}

TEST_F(RpcServer, StunServersReachTheEngine) {
  v1::ApplyRequest request;
  *request.add_operations()->mutable_stun_servers()->add_servers() = message_of(endpoint("198.51.100.20:3478"));
  request.add_operations()->mutable_stun_servers()->add_servers()->set_port(5);
  const auto response = apply(request);
  ASSERT_EQ(response.errors_size(), 1);
  EXPECT_EQ(response.errors(0).index(), 1U);
  const std::lock_guard lock(backend_->mutex);
  EXPECT_EQ(backend_->stun_servers, std::vector<Endpoint>{endpoint("198.51.100.20:3478")});
}

runtime::EngineEvent event(runtime::EngineEvent::Kind kind, std::uint8_t n) {
  runtime::EngineEvent out;
  out.kind = kind;
  out.peer = key(n);
  out.endpoint = endpoint("198.51.100.7:40000");
  out.address = ip("100.96.0.9");
  return out;
}

TEST_F(RpcServer, EventsReachEverySubscriber) {
  runtime::PeerRow up;
  up.public_key = key(5);
  up.endpoint = endpoint("198.51.100.5:1000");
  up.session = runtime::PeerRow::Session::up;
  backend_->peer_rows = {up, runtime::PeerRow{}};
  grpc::ClientContext contexts[2];
  std::unique_ptr<grpc::ClientReader<v1::Event>> readers[2];
  v1::Event got;
  for (int i = 0; i < 2; ++i) {
    contexts[i].set_deadline(soon());
    readers[i] = data_plane_->Subscribe(&contexts[i], {});
    // What holds already comes first.
    ASSERT_TRUE(readers[i]->Read(&got));
    EXPECT_EQ(got.session_up().peer(), wire_of(key(5)));
  }
  backend_->event_queue.push(event(runtime::EngineEvent::Kind::translation_wanted, 1));
  backend_->event_queue.push(event(runtime::EngineEvent::Kind::session_down, 2));
  for (auto& reader : readers) {
    ASSERT_TRUE(reader->Read(&got));
    EXPECT_EQ(got.translation_wanted().proxy_address(), wire_of(ip("100.96.0.9")));
    ASSERT_TRUE(reader->Read(&got));
    EXPECT_EQ(got.session_down().peer(), wire_of(key(2)));
  }
}

TEST_F(RpcServer, ALateSubscriberLearnsTheMappedAddresses) {
  runtime::EngineEvent mapped = event(runtime::EngineEvent::Kind::mapped_address_changed, 0);
  mapped.server = endpoint("198.51.100.20:3478");
  backend_->event_queue.push(mapped);
  mapped.endpoint = endpoint("198.51.100.70:50001");
  backend_->event_queue.push(mapped);
  (void)dump();  // goes through the same executor: the events are dealt with
  grpc::ClientContext context;
  context.set_deadline(soon());
  const auto reader = data_plane_->Subscribe(&context, {});
  v1::Event got;
  ASSERT_TRUE(reader->Read(&got));
  EXPECT_EQ(got.mapped_address_changed().mapped().port(), 50001U);
}

TEST_F(RpcServer, ASlowSubscriberIsToldHowManyItLost) {
  grpc::ClientContext context;
  context.set_deadline(soon());
  const auto reader = data_plane_->Subscribe(&context, {});
  (void)dump();  // the subscription stands
  constexpr std::uint64_t kSent = 60'000;
  for (std::uint64_t i = 0; i < kSent; ++i)
    backend_->event_queue.push(event(runtime::EngineEvent::Kind::session_up, static_cast<std::uint8_t>(i)));
  (void)dump();
  std::uint64_t seen = 0;
  std::uint64_t lost = 0;
  v1::Event got;
  // The gap is told with the next event that fits.
  while (seen + lost < kSent + 1) {
    if (seen + lost >= 4000 && seen % 500 == 0)
      backend_->event_queue.push(event(runtime::EngineEvent::Kind::session_down, 1));
    ASSERT_TRUE(reader->Read(&got));
    if (got.has_events_lost())
      lost += got.events_lost().count();
    else if (got.has_session_up())
      ++seen;
    if (seen + lost >= kSent) break;
  }
  EXPECT_GT(lost, 0U);
  EXPECT_GE(seen + lost, kSent);
}

TEST_F(RpcServer, PuntsTravelBothWays) {
  grpc::ClientContext context;
  context.set_deadline(soon());
  const auto stream = data_plane_->Punt(&context);
  stream->WaitForInitialMetadata();
  (void)dump();
  backend_->punt_queue.push({key(1), endpoint("198.51.100.7:1"), {1, 2, 3}});
  backend_->punt_queue.push({{}, endpoint("198.51.100.20:3478"), {4}});
  v1::PuntToControl got;
  ASSERT_TRUE(stream->Read(&got));
  EXPECT_EQ(got.tunnel_control().payload(), "\1\2\3");
  EXPECT_EQ(got.tunnel_control().peer(), wire_of(key(1)));
  ASSERT_TRUE(stream->Read(&got));
  EXPECT_EQ(got.datagram().remote().port(), 3478U);

  v1::PuntFromControl sent;
  sent.mutable_tunnel_control()->set_peer(wire_of(key(1)));
  sent.mutable_tunnel_control()->set_payload("hello");
  ASSERT_TRUE(stream->Write(sent));
  sent.mutable_tunnel_control()->set_peer("malformed");
  ASSERT_TRUE(stream->Write(sent));
  ASSERT_TRUE(stream->Write(v1::PuntFromControl{}));
  *sent.mutable_datagram()->mutable_remote() = message_of(endpoint("198.51.100.9:9"));
  sent.mutable_datagram()->set_payload("punch");
  ASSERT_TRUE(stream->Write(sent));
  ASSERT_TRUE(eventually([&] {
    const std::lock_guard lock(backend_->mutex);
    return !backend_->datagrams.empty();
  }));
  const std::lock_guard lock(backend_->mutex);
  ASSERT_EQ(backend_->control.size(), 1U);
  EXPECT_EQ(backend_->control[0], std::make_pair(key(1), std::string{"hello"}));
  EXPECT_EQ(backend_->datagrams[0], std::make_pair(endpoint("198.51.100.9:9"), std::string{"punch"}));
}

TEST_F(RpcServer, ANewPuntStreamEndsTheOldOne) {
  grpc::ClientContext old_context;
  old_context.set_deadline(soon());
  const auto old_stream = data_plane_->Punt(&old_context);
  old_stream->WaitForInitialMetadata();
  grpc::ClientContext new_context;
  new_context.set_deadline(soon());
  const auto new_stream = data_plane_->Punt(&new_context);
  v1::PuntToControl got;
  EXPECT_FALSE(old_stream->Read(&got));
  const auto status = old_stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(status.error_message(), HasSubstr("newer punt stream"));
  backend_->punt_queue.push({key(1), endpoint("198.51.100.7:1"), {7}});
  ASSERT_TRUE(new_stream->Read(&got));
  EXPECT_EQ(got.tunnel_control().payload(), "\7");
}

TEST_F(RpcServer, EndsWithStreamsOpenAndCallsUnderWay) {
  grpc::ClientContext subscribed;
  const auto reader = data_plane_->Subscribe(&subscribed, {});
  grpc::ClientContext punting;
  const auto stream = data_plane_->Punt(&punting);
  reader->WaitForInitialMetadata();
  server_.reset();
  v1::Event event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_FALSE(reader->Finish().ok());
  v1::PuntToControl punt;
  EXPECT_FALSE(stream->Read(&punt));
  (void)stream->Finish();
  EXPECT_FALSE(std::filesystem::exists(socket_));
  start();  // and the next one finds the place free
}

TEST_F(RpcServer, ClientsThatVanishLeaveNothing) {
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext subscribed;
    const auto reader = data_plane_->Subscribe(&subscribed, {});
    grpc::ClientContext punting;
    const auto stream = data_plane_->Punt(&punting);
    reader->WaitForInitialMetadata();
    subscribed.TryCancel();
    punting.TryCancel();
    backend_->event_queue.push(event(runtime::EngineEvent::Kind::session_down, 1));
    backend_->punt_queue.push({key(1), endpoint("198.51.100.7:1"), {7}});
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_FALSE(dump().empty());
}

// ---- who may ask ----

TEST_F(RpcServer, TheSocketIsItsOwnersAlone) {
  struct stat status {};
  ASSERT_EQ(::stat(socket_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600U);
}

TEST_F(RpcServer, StrangersAreRefusedByCredentials) {
  const std::string path = directory_.file("strict.sock");
  std::string error;
  const auto strict =
      make_rpc_server(std::make_unique<FakeBackend>(), {.socket = path, .allowed_uids = {::getuid() + 1}}, error);
  ASSERT_NE(strict, nullptr) << error;
  const auto channel = grpc::CreateChannel("unix:" + path, grpc::InsecureChannelCredentials());
  const auto stub = v1::DataPlane::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(soon());
  v1::ApplyResponse response;
  EXPECT_EQ(stub->Apply(&context, {}, &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GT(strict->refused_connections(), 0U);
  EXPECT_EQ(server_->refused_connections(), 0U);
}

TEST_F(RpcServer, ALiveSocketIsNotTakenAwayAndAStaleOneIs) {
  std::string error;
  EXPECT_EQ(make_rpc_server(std::make_unique<FakeBackend>(), {.socket = socket_, .allowed_uids = {0}}, error), nullptr);
  EXPECT_THAT(error, HasSubstr("another process listens"));
  EXPECT_FALSE(dump().empty());

  const std::string stale = directory_.file("stale.sock");
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  stale.copy(address.sun_path, stale.size());
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::close(fd);
  EXPECT_NE(make_rpc_server(std::make_unique<FakeBackend>(), {.socket = stale, .allowed_uids = {0}}, error), nullptr);

  const std::string file = directory_.file("file");
  std::fclose(std::fopen(file.c_str(), "w"));
  EXPECT_EQ(make_rpc_server(std::make_unique<FakeBackend>(), {.socket = file, .allowed_uids = {0}}, error), nullptr);
  EXPECT_THAT(error, HasSubstr("is not a socket"));
  for (const std::string& bad : {std::string{}, std::string(200, 'x'), std::string{"/proc/none/such.sock"}}) {
    EXPECT_EQ(make_rpc_server(std::make_unique<FakeBackend>(), {.socket = bad, .allowed_uids = {0}}, error), nullptr);
    EXPECT_FALSE(error.empty());
  }
}

TEST_F(RpcServer, NoiseOnTheSocketIsHarmless) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_.copy(address.sun_path, socket_.size());
  for (const char* noise :
       {"GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff", ""}) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    (void)!::write(fd, noise, std::strlen(noise));
    ::close(fd);
  }
  EXPECT_FALSE(dump().empty());
}

// ---- looking inside ----

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
