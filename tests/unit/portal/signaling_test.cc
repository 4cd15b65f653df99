// The real thing: portal, client and gateway streams over TLS on loopback, on one loop.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "controlplane/io/descriptor.h"
#include "controlplane/io/portal_addresses.h"
#include "controlplane/io/signaling_client.h"
#include "controlplane/io/signaling_server.h"
#include "controlplane/io/system_random.h"
#include "controlplane/portal/portal.h"
#include "tests/unit/portal/broker_bench.h"
#include "tests/unit/portal/status_server.h"
#include "tests/unit/portal/temporary_directory.h"
#include "tests/unit/portal/test_pki.h"

namespace penstock::portal {
namespace {

using namespace std::chrono_literals;

class Signaling : public testing::Test {
 protected:
  Config config(std::uint16_t port = 0) {
    Config out;
    out.control_socket = directory_ / "portal.sock";
    out.listen = "127.0.0.1:" + std::to_string(port);
    out.certificate_pem = pki().certificate_pem;
    out.key_pem = pki().key_pem;
    out.secret_file = directory_ / "secret";
    out.state_file = directory_ / "state";
    out.broker = broker::basic_config();
    return out;
  }
  static const TestPki& pki() {
    static const TestPki made = make_test_pki();
    return made;
  }
  void start(std::uint16_t port = 0) {
    std::string error;
    portal_ = Portal::start(loop_, config(port), error);
    ASSERT_NE(portal_, nullptr) << error;
  }
  io::SignalingConfig to_portal(const std::string& token) {
    return {"127.0.0.1:" + std::to_string(portal_->port()), "portal.example", pki().ca_pem, token, ""};
  }
  template <typename Condition>
  bool wait_for(Condition condition, Duration limit = 10s) {
    const Instant end = io::Loop::now().monotonic + limit;
    while (!condition() && io::Loop::now().monotonic < end) loop_.run_once(50ms);
    return condition();
  }

  struct Client {
    explicit Client(Signaling& test, const std::string& token)
        : stream(test.loop_, test.random_, test.to_portal(token),
                 {[this] {
                    ++connects;
                    v1::ClientToPortal hello;
                    *hello.mutable_hello()->mutable_protocol_version() = to_proto(kProtocolVersion);
                    hello.mutable_hello()->set_public_key(std::string(32, 'c'));
                    stream.send(hello);
                  },
                  [this](v1::PortalToClient message) { received.push_back(std::move(message)); },
                  [this](const std::string&) { ++disconnects; }, [this](const std::string& why) { refused = why; },
                  [this](const std::string& why) { failed = why; }}) {
      stream.start();
    }
    bool welcomed() const { return !received.empty() && received.back().has_welcome(); }
    int connects = 0;
    int disconnects = 0;
    std::string refused;
    std::string failed;
    std::vector<v1::PortalToClient> received;
    io::ClientSignaling stream;
  };
  struct Gateway {
    explicit Gateway(Signaling& test)
        : stream(test.loop_, test.random_, test.to_portal("token-gw1"),
                 {[this] {
                    v1::GatewayToPortal hello;
                    *hello.mutable_hello()->mutable_protocol_version() = to_proto(kProtocolVersion);
                    hello.mutable_hello()->set_public_key(std::string(32, 'g'));
                    stream.send(hello);
                  },
                  [this](v1::PortalToGateway message) {
                    if (message.has_authorize()) {
                      v1::GatewayToPortal answer;
                      answer.mutable_authorize_result()->set_request_id(message.authorize().request_id());
                      answer.mutable_authorize_result()->set_authorisation(message.authorize().authorisation());
                      answer.mutable_authorize_result()->set_ok(true);
                      stream.send(answer);
                    }
                    received.push_back(std::move(message));
                  },
                  {},
                  {},
                  {}}) {
      stream.start();
    }
    std::vector<v1::PortalToGateway> received;
    io::GatewaySignaling stream;
  };

  TemporaryDirectory directory_;
  io::Loop loop_;
  io::SystemRandom random_;
  std::unique_ptr<Portal> portal_;
};

TEST_F(Signaling, AClientIsGrantedAGateway) {
  start();
  Gateway gateway{*this};
  Client client{*this, "token-alice"};
  ASSERT_TRUE(wait_for([&] { return client.welcomed() && !gateway.received.empty(); })) << client.failed;
  EXPECT_EQ(client.received.back().welcome().client_id(), "alice");
  v1::ClientToPortal request;
  request.mutable_request_connection()->set_request_id("1");
  request.mutable_request_connection()->set_resource("printer");
  client.stream.send(request);
  ASSERT_TRUE(wait_for([&] { return client.received.back().has_connection_granted(); }));
  EXPECT_EQ(client.received.back().connection_granted().gateway(), "gw1");
  EXPECT_EQ(client.received.back().connection_granted().preshared_key(),
            gateway.received.back().authorize().preshared_key());
}

TEST_F(Signaling, OnlyABadTokenIsFatal) {
  start();
  Client bad{*this, "wrong"};
  ASSERT_TRUE(wait_for([&] { return !bad.refused.empty(); }));
  EXPECT_EQ(bad.connects, 0);
  io::SignalingConfig nobody = to_portal("token-alice");
  nobody.server_name = "other.example";  // the certificate does not fit: an error, but it may be put right
  std::string failed;
  int fatal = 0;
  io::ClientSignaling stream{
      loop_,
      random_,
      nobody,
      {{}, {}, {}, [&](const std::string&) { ++fatal; }, [&](const std::string& why) { failed = why; }}};
  stream.start();
  ASSERT_TRUE(wait_for([&] { return !failed.empty(); }, 15s));
  EXPECT_EQ(fatal, 0);
}

// trap: signaling-5. What a busy portal or a proxy before it says (HTTP's 429, 502, 503 and 504 are UNAVAILABLE, 408 is
// UNKNOWN, 403 PERMISSION_DENIED; a limit RESOURCE_EXHAUSTED) is no reason to give up for ever.
TEST_F(Signaling, NoStatusButUnauthenticatedIsFatal) {
  constexpr int kUnauthenticated = 16;
  for (const int code : {2, 4, 7, 8, 12, 13, 14, kUnauthenticated}) {
    StatusServer server{pki(), code};
    int fatal = 0, connects = 0;
    io::ClientSignaling stream{loop_, random_,
                               {"127.0.0.1:" + std::to_string(server.port()), "portal.example", pki().ca_pem, "token", ""},
                               {[&] { ++connects; }, {}, {}, [&](const std::string&) { ++fatal; }, {}}};
    stream.start();
    const bool gives_up = code == kUnauthenticated;
    ASSERT_TRUE(wait_for([&] { return gives_up ? fatal == 1 : server.calls() >= 2; })) << code << " " << server.calls();
    EXPECT_EQ(fatal, gives_up ? 1 : 0) << code;
    EXPECT_EQ(connects, 0) << code;
    stream.stop();
  }
}

// trap: signaling-4
TEST_F(Signaling, ComesBackAfterThePortalDoes) {
  start();
  const std::uint16_t port = portal_->port();
  Gateway gateway{*this};
  Client client{*this, "token-alice"};
  ASSERT_TRUE(wait_for([&] { return client.welcomed(); }));
  for (int round = 1; round <= 3; ++round) {
    portal_.reset();
    ASSERT_TRUE(wait_for([&] { return client.disconnects == round; }));
    EXPECT_FALSE(client.stream.connected());
    EXPECT_FALSE(client.stream.send({}));
    client.received.clear();
    start(port);
    // The backoff has been reset: well below its longest delay.
    ASSERT_TRUE(wait_for([&] { return client.welcomed(); }, 8s)) << round << " " << client.failed;
  }
  EXPECT_EQ(client.connects, 4);
}

TEST_F(Signaling, ASuspectedStreamIsReplacedWithoutAGap) {
  start();
  Client client{*this, "token-alice"};
  ASSERT_TRUE(wait_for([&] { return client.welcomed(); }));
  loop_.run_once(0ms);
  client.received.clear();
  client.stream.suspect();
  EXPECT_TRUE(client.stream.connected());  // the old one stands until the new one does
  ASSERT_TRUE(wait_for([&] { return client.connects == 2 && client.welcomed(); }));
  EXPECT_EQ(client.disconnects, 0);
  ASSERT_TRUE(wait_for([&] { return portal_->broker().actors().size() == 1; }));
  // Suspected again at once (another roaming): a dial a second is enough, but it comes.
  client.stream.suspect();
  client.stream.suspect();
  EXPECT_EQ(client.connects, 2);
  ASSERT_TRUE(wait_for([&] { return client.connects == 3; }));
  EXPECT_EQ(client.disconnects, 0);
}

// A server alone, whose messages the test sees.
class SignalingServer : public Signaling {
 protected:
  std::unique_ptr<io::SignalingServer> listen(Duration keepalive) {
    std::string error;
    io::SignalingServer::Callbacks callbacks;
    callbacks.authenticate = [](bool, std::string_view) { return std::optional<std::string>{"alice"}; };
    callbacks.from_client = [this](std::uint64_t, const v1::ClientToPortal& message) {
      if (message.has_request_connection()) arrived.push_back(message.request_connection().request_id());
    };
    callbacks.connected = [](std::uint64_t, bool, const std::string&, const Endpoint&) {};
    callbacks.disconnected = [this](std::uint64_t) { ++ended; };
    auto server =
        io::SignalingServer::listen(loop_, {"127.0.0.1:0", pki().certificate_pem, pki().key_pem, keepalive},
                                    std::move(callbacks), error);
    EXPECT_NE(server, nullptr) << error;
    return server;
  }
  std::vector<std::string> arrived;
  int ended = 0;
};

// trap: signaling-1. A client that is too busy to look at its loop answers the portal's pings all the same.
TEST_F(SignalingServer, PingsAreAnsweredByAClientThatIsBusy) {
  constexpr Duration kKeepalive = 300ms;
  const auto server = listen(kKeepalive);
  int connects = 0, disconnects = 0;
  io::ClientSignaling stream{loop_, random_,
                             {"127.0.0.1:" + std::to_string(server->port()), "portal.example", pki().ca_pem, "token",
                              ""},
                             {[&] { ++connects; }, {}, [&](const std::string&) { ++disconnects; }, {}, {}}};
  stream.start();
  ASSERT_TRUE(wait_for([&] { return connects == 1; }));
  const Instant until = io::Loop::now().monotonic + 5 * kKeepalive;  // nobody runs the loop: several pings come and go
  std::uint64_t work = 0;
  while (io::Loop::now().monotonic < until) ++work;
  v1::ClientToPortal message;
  message.mutable_request_connection()->set_request_id("after " + std::to_string(work > 0));
  ASSERT_TRUE(stream.send(message));
  ASSERT_TRUE(wait_for([&] { return !arrived.empty(); }));
  EXPECT_EQ(disconnects, 0);
  EXPECT_EQ(ended, 0);
  stream.stop();
}

// trap: signaling-2. What counts against the bound is what is not written yet, not what was ever sent.
TEST_F(SignalingServer, MessagesThatWereWrittenDoNotCount) {
  const auto server = listen(10s);
  int connects = 0, disconnects = 0;
  io::ClientSignaling stream{loop_, random_,
                             {"127.0.0.1:" + std::to_string(server->port()), "portal.example", pki().ca_pem, "token",
                              ""},
                             {[&] { ++connects; }, {}, [&](const std::string&) { ++disconnects; }, {}, {}}};
  stream.start();
  ASSERT_TRUE(wait_for([&] { return connects == 1; }));
  constexpr std::size_t kBatch = 1500, kBatches = 4;  // together more than may wait
  for (std::size_t batch = 1; batch <= kBatches; ++batch) {
    for (std::size_t i = 0; i < kBatch; ++i) {
      v1::ClientToPortal message;
      message.mutable_request_connection()->set_request_id(std::to_string((batch - 1) * kBatch + i));
      ASSERT_TRUE(stream.send(std::move(message))) << batch << " " << i;
    }
    ASSERT_TRUE(wait_for([&] { return arrived.size() == batch * kBatch; }, 60s)) << arrived.size();
  }
  for (std::size_t i = 0; i < arrived.size(); ++i) ASSERT_EQ(arrived[i], std::to_string(i));
  EXPECT_EQ(disconnects, 0);
  stream.stop();
}

TEST_F(Signaling, AReloadReachesLiveStreams) {
  start();
  Client client{*this, "token-alice"};
  ASSERT_TRUE(wait_for([&] { return client.welcomed(); }));
  Config changed = config();
  changed.broker.policies.pop_back();
  portal_->reload(changed);
  ASSERT_TRUE(wait_for([&] { return client.received.back().has_resource_change(); }));
  changed.broker.clients.erase("alice");
  portal_->reload(changed);
  ASSERT_TRUE(wait_for([&] { return !client.refused.empty(); }));
}

TEST_F(Signaling, ASecondPortalOnTheSameAddressIsAnError) {
  start();
  Config second = config(portal_->port());
  second.control_socket = directory_ / "other.sock";
  second.state_file = directory_ / "other";
  std::string error;
  EXPECT_EQ(Portal::start(loop_, second, error), nullptr);
  EXPECT_EQ(error.substr(0, 8), "listen: ");
  Config same_socket = config(0);
  EXPECT_EQ(Portal::start(loop_, same_socket, error), nullptr);
  EXPECT_EQ(error, "control.socket: another process listens on " + same_socket.control_socket);
}

// trap: signaling-6
TEST(PortalAddresses, BothFamiliesAreDialledInTurn) {
  const auto endpoint = [](const char* text) { return *Endpoint::parse(text); };
  EXPECT_EQ(io::interleave_families({endpoint("192.0.2.1:1"), endpoint("192.0.2.2:1"), endpoint("[2001:db8::1]:1"),
                                     endpoint("192.0.2.1:1")}),
            (std::vector<Endpoint>{endpoint("[2001:db8::1]:1"), endpoint("192.0.2.1:1"), endpoint("192.0.2.2:1")}));
  struct Case {
    const char* text;
    const char* host;
    std::uint16_t port;
  };
  for (const Case& c : {Case{"portal.example:8443", "portal.example", 8443}, Case{"192.0.2.1:1", "192.0.2.1", 1},
                        Case{"[2001:db8::1]:65535", "2001:db8::1", 65535}}) {
    const auto parsed = io::parse_host_port(c.text);
    ASSERT_TRUE(parsed.has_value()) << c.text;
    EXPECT_EQ(parsed->host, c.host);
    EXPECT_EQ(parsed->port, c.port);
  }
  for (const char* text :
       {"", ":1", "host", "host:", "host:0", "host:65536", "2001:db8::1:1", "[::1]", "[x]:1", "a b:1"})
    EXPECT_FALSE(io::parse_host_port(text).has_value()) << text;
}

}  // namespace
}  // namespace penstock::portal
