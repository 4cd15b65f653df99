// Portal, gateway and a client's stream as they really run: TLS and unix sockets, c-ares against a real socket, a fake
// data plane behind the real gRPC service. One loop for all of them.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "controlplane/gateway/gateway.h"
#include "controlplane/portal/portal.h"
#include "penstock/v1/inspect.grpc.pb.h"
#include "tests/unit/agent/fake_dataplane_server.h"
#include "tests/unit/agent/fake_dns_server.h"
#include "tests/unit/portal/broker_bench.h"
#include "tests/unit/portal/temporary_directory.h"
#include "tests/unit/portal/test_pki.h"

namespace penstock {
namespace {

using namespace std::chrono_literals;

std::string key_text(char fill) {
  return std::string(32, fill);
}

class WholeGateway : public testing::Test {
 protected:
  WholeGateway() {
    info_.set_public_key(key_text('g'));
    info_.set_tunnel_port(51820);
    info_.set_instance(1);
    info_.add_tunnel_addresses(to_wire(*IpAddress::parse("198.51.100.194")));
    dns_.zone["web.corp.example"] = {*IpAddress::parse("203.0.113.80"), *IpAddress::parse("2001:db8:1a::80")};
    dns_.zone["mail.corp.example"] = {*IpAddress::parse("203.0.113.81")};
    start_dataplane();
  }

  void start_dataplane() { dataplane_ = std::make_unique<FakeDataPlaneServer>(directory_ / "dataplane.sock", info_); }
  portal::Config portal_config(std::uint16_t port) {
    portal::Config out;
    out.control_socket = directory_ / "portal.sock";
    out.listen = "127.0.0.1:" + std::to_string(port);
    out.certificate_pem = pki_.certificate_pem;
    out.key_pem = pki_.key_pem;
    out.secret_file = directory_ / "secret";
    out.state_file = directory_ / "state";
    out.broker = broker::basic_config();
    return out;
  }
  void start_portal(std::uint16_t port = 0) {
    std::string error;
    portal_ = portal::Portal::start(loop_, portal_config(port), error);
    ASSERT_NE(portal_, nullptr) << error;
    port_ = portal_->port();
  }
  io::SignalingConfig to_portal(const std::string& token) {
    return {"127.0.0.1:" + std::to_string(port_), "portal.example", pki_.ca_pem, token, ""};
  }
  void start_gateway(const std::string& token = "token-gw1") {
    gateway::Config config;
    config.dataplane_socket = directory_ / "dataplane.sock";
    config.control_socket = directory_ / "gateway.sock";
    config.portal = to_portal(token);
    config.nameservers = {dns_.endpoint()};
    std::string error;
    gateway_ = gateway::Gateway::start(
        loop_, config, [this](const std::string& why) { fatal_ = why; }, error);
    ASSERT_NE(gateway_, nullptr) << error;
  }
  template <typename Condition>
  bool wait_for(Condition condition, Duration limit = 15s) {
    const Instant end = io::Loop::now().monotonic + limit;
    while (!condition() && io::Loop::now().monotonic < end) loop_.run_once(20ms);
    return condition();
  }
  bool ready() {
    return wait_for([&] { return gateway_->agent().synchronised() && gateway_->agent().portal_connected(); });
  }

  void start_client() {
    client_ = std::make_unique<io::ClientSignaling>(
        loop_, random_, to_portal("token-alice"),
        io::ClientSignaling::Callbacks{[this] {
                                         v1::ClientToPortal hello;
                                         *hello.mutable_hello()->mutable_protocol_version() =
                                             to_proto(kProtocolVersion);
                                         hello.mutable_hello()->set_public_key(key_text('c'));
                                         client_->send(hello);
                                       },
                                       [this](const v1::PortalToClient& message) { told_.push_back(message); },
                                       {},
                                       {},
                                       {}});
    client_->start();
    ASSERT_TRUE(wait_for([&] { return !told_.empty(); }));
  }
  void request(const std::string& id) {
    v1::ClientToPortal message;
    v1::RequestConnection& wanted = *message.mutable_request_connection();
    wanted.set_request_id(id);
    wanted.set_resource("corp");
    wanted.add_names()->set_name("web.corp.example");
    wanted.mutable_names(0)->set_proxy_v4(to_wire(*IpAddress::parse("100.96.0.1")));
    wanted.mutable_names(0)->set_proxy_v6(to_wire(*IpAddress::parse("fd00:2021:1111:8000::1")));
    *wanted.add_candidates() = to_proto(*Endpoint::parse("198.51.100.30:7000"), v1::CANDIDATE_KIND_HOST);
    client_->send(message);
  }
  const v1::PeerTranslation* active(const FakeDataPlane& state, const std::string& name) {
    for (const auto& [id, it] : state.translations)
      if (it.name() == name && it.state() == v1::PeerTranslation::STATE_ACTIVE) return &it;
    return nullptr;
  }

  TemporaryDirectory directory_;
  TestPki pki_ = make_test_pki();
  io::Loop loop_;
  io::SystemRandom random_;
  FakeDnsServer dns_{loop_};
  v1::DataPlaneInfo info_;
  std::uint16_t port_ = 0;
  std::string fatal_;
  std::unique_ptr<FakeDataPlaneServer> dataplane_;
  std::unique_ptr<portal::Portal> portal_;
  std::unique_ptr<gateway::Gateway> gateway_;
  std::unique_ptr<io::ClientSignaling> client_;
  std::vector<v1::PortalToClient> told_;
};

TEST_F(WholeGateway, FirstPacketToRevocation) {
  start_portal();
  start_gateway();
  ASSERT_TRUE(ready());
  start_client();
  request("1");
  ASSERT_TRUE(wait_for([&] { return told_.back().has_connection_granted(); }));
  const v1::ConnectionGranted granted = told_.back().connection_granted();
  EXPECT_EQ(granted.gateway_public_key(), key_text('g'));
  FakeDataPlane state = dataplane_->state();
  ASSERT_TRUE(state.peers.contains(key_text('c')));  // there before the client is told
  EXPECT_EQ(state.peers.at(key_text('c')).preshared_key(), granted.preshared_key());
  ASSERT_TRUE(wait_for([&] {
    const FakeDataPlane now = dataplane_->state();
    const auto* it = active(now, "web.corp.example");
    return it != nullptr && it->addresses_size() == 2;
  }));

  // Punches and STUN requests leave through the tunnel port.
  const auto sent_to = [&](const char* endpoint) {
    for (const auto& message : dataplane_->received())
      for (const v1::Datagram& datagram : one_by_one(message.datagram()))
        if (datagram.has_remote() && from_proto(datagram.remote())->to_string() == endpoint) return true;
    return false;
  };
  EXPECT_TRUE(wait_for([&] { return sent_to("198.51.100.30:7000") && sent_to("198.51.100.20:3478"); }));

  // A second name, asked for in the tunnel.
  v1::Control control;
  control.set_id(4711);
  control.mutable_resolve_name()->set_resource("corp");
  control.mutable_resolve_name()->set_name("mail.corp.example");
  control.mutable_resolve_name()->set_proxy_v4(to_wire(*IpAddress::parse("100.96.0.2")));
  v1::PuntToControl punt;
  punt.mutable_tunnel_control()->set_peer(key_text('c'));
  punt.mutable_tunnel_control()->set_payload(control.SerializeAsString());
  dataplane_->emit(punt);
  EXPECT_TRUE(wait_for([&] { return active(dataplane_->state(), "mail.corp.example") != nullptr; }));
  EXPECT_TRUE(wait_for([&] {
    for (const auto& message : dataplane_->received()) {
      v1::Control reply;
      if (message.has_tunnel_control() && reply.ParseFromString(message.tunnel_control().payload()) && reply.reply() &&
          reply.id() == 4711)
        return reply.has_name_status();
    }
    return false;
  }));

  portal::Config changed = portal_config(port_);
  changed.broker.clients.erase("alice");
  portal_->reload(changed);
  EXPECT_TRUE(wait_for([&] { return dataplane_->state().peers.empty(); }));
  EXPECT_TRUE(dataplane_->state().translations.empty());
}

TEST_F(WholeGateway, SurvivesEachOfTheOthers) {
  start_portal();
  start_gateway();
  ASSERT_TRUE(ready());
  start_client();
  request("1");
  ASSERT_TRUE(wait_for([&] { return active(dataplane_->state(), "web.corp.example") != nullptr; }));

  // The data plane restarts: everything is there again.
  dataplane_.reset();
  ASSERT_TRUE(wait_for([&] { return !gateway_->agent().dataplane_up(); }));
  info_.set_instance(2);
  start_dataplane();
  ASSERT_TRUE(wait_for([&] { return active(dataplane_->state(), "web.corp.example") != nullptr; }));
  EXPECT_EQ(dataplane_->state().peers.size(), 1u);

  // The portal is away: names go on; it returns and nothing changes.
  portal_.reset();
  ASSERT_TRUE(wait_for([&] { return !gateway_->agent().portal_connected(); }));
  EXPECT_EQ(dataplane_->state().peers.size(), 1u);
  start_portal(port_);
  ASSERT_TRUE(wait_for([&] { return gateway_->agent().portal_connected() && gateway_->agent().synchronised(); }));
  EXPECT_EQ(dataplane_->state().peers.size(), 1u);

  // The gateway's process is killed and returns.
  gateway_.reset();
  const std::size_t changes = dataplane_->state().changes;
  start_gateway();
  ASSERT_TRUE(ready());
  const FakeDataPlane state = dataplane_->state();
  EXPECT_EQ(state.peers.size(), 1u);
  EXPECT_NE(active(state, "web.corp.example"), nullptr);
  EXPECT_EQ(state.changes, changes);
}

TEST_F(WholeGateway, WaitsForADataPlaneThatIsNotThereYet) {
  dataplane_.reset();
  start_portal();
  start_gateway();
  EXPECT_FALSE(wait_for([&] { return gateway_->agent().portal_connected(); }, 300ms));
  start_dataplane();
  EXPECT_TRUE(ready());
}

TEST_F(WholeGateway, ABadTokenIsFatal) {
  start_portal();
  start_gateway("wrong");
  EXPECT_TRUE(wait_for([&] { return !fatal_.empty(); }));
  EXPECT_EQ(fatal_.find("wrong"), std::string::npos);
}

TEST_F(WholeGateway, AnswersWhatItHasOnAPrivateSocket) {
  start_portal();
  start_gateway();
  ASSERT_TRUE(ready());
  struct stat status {};
  for (const char* name : {"gateway.sock", "portal.sock"}) {
    ASSERT_EQ(stat((directory_ / name).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
  }
  const auto stub = v1::Inspect::NewStub(
      grpc::CreateChannel("unix:" + (directory_ / "gateway.sock"), grpc::InsecureChannelCredentials()));
  std::atomic<int> done = 0;
  grpc::ClientContext first;
  grpc::ClientContext second;
  v1::StatusRequest question;
  v1::StatusReply answer;
  v1::ShowRequest show;
  v1::FlowsReply flows;
  grpc::Status refused;
  stub->async()->Status(&first, &question, &answer, [&](const grpc::Status&) { ++done; });
  stub->async()->ShowFlows(&second, &show, &flows, [&](const grpc::Status& result) {
    refused = result;
    ++done;
  });
  ASSERT_TRUE(wait_for([&] { return done == 2; }));
  EXPECT_EQ(answer.process(), "gateway");
  EXPECT_EQ(answer.state(), "ready");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_NE(refused.error_message().find("ask the data plane"), std::string::npos);
}

TEST_F(WholeGateway, ConfigurationNamesKeyAndReason) {
  directory_.write("token", "secret-token\n");
  directory_.write("spaces", "to ken");
  directory_.write("empty", "\n");
  const auto error = [&](std::string text) {
    for (const char* name : {"token", "spaces", "empty"}) {
      const std::string mark = std::string{"@"} + name;
      for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark))
        text.replace(at, mark.size(), directory_ / name);
    }
    const auto loaded = gateway::load_config(directory_.write("gateway.yaml", text));
    const auto* failed = std::get_if<gateway::ConfigError>(&loaded);
    return failed == nullptr ? std::string{"loaded"} : failed->key + ": " + failed->reason;
  };
  const std::string good = "portal: {address: \"198.51.100.10:8443\"}\ntoken_file: @token\n";
  struct Case {
    std::string text;
    const char* error;
  };
  for (const Case& c :
       {Case{good, "loaded"},
        Case{good + "nameservers: [203.0.113.53, \"[2001:db8::53]:5353\"]\ncandidates: "
                    "[\"198.51.100.40:51820\"]\nstate_directory: /x",
             "loaded"},
        Case{"token_file: @token", "portal: is missing"},
        Case{"portal: {address: here}\ntoken_file: @token",
             "portal.address: must be host:port, 1.2.3.4:port or [v6]:port"},
        Case{"portal: {address: \"a:1\"}\ntoken_file: @empty", "token_file: holds no token"},
        Case{"portal: {address: \"a:1\"}\ntoken_file: @spaces", "token_file: holds characters that no token has"},
        Case{good + "nameserver: []", "nameserver: is not a known key"},
        Case{good + "nat64_prefixes: [\"64:ff9b::/95\"]",
             "nat64_prefixes[0]: must be an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits"}})
    EXPECT_EQ(error(c.text), c.error) << c.text;
}

}  // namespace
}  // namespace penstock
