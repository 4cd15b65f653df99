// penstockctl against a process of its own making, over a real unix socket.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "controlplane/ctl/cli.h"
#include "controlplane/ctl/format.h"
#include "controlplane/ctl/views.h"
#include "penstock/v1/inspect.grpc.pb.h"

namespace penstock::ctl {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Format, Bytes) {
  const std::pair<std::uint64_t, const char*> cases[] = {
      {0, "0 B"},           {999, "999 B"},           {1000, "1.0 KiB"},    {1536, "1.5 KiB"},
      {10 << 10, "10 KiB"}, {1023 << 10, "1023 KiB"}, {1 << 20, "1.0 MiB"}, {1048575, "1.0 MiB"},
      {52428800, "50 MiB"}, {~0ULL, "16384 PiB"}};
  for (const auto& [bytes, text] : cases) EXPECT_EQ(format_bytes(bytes), text) << bytes;
}

TEST(Format, Counts) {
  const std::pair<std::uint64_t, const char*> cases[] = {{0, "0"},          {9999, "9999"},    {10000, "10k"},
                                                         {999'499, "999k"}, {999'999, "1.0M"}, {12'345'678, "12M"}};
  for (const auto& [count, text] : cases) EXPECT_EQ(format_count(count), text) << count;
}

TEST(Format, Ages) {
  const std::pair<double, const char*> cases[] = {{-1, "-"},       {0, "0.0s"},     {0.44, "0.4s"},  {12.3, "12s"},
                                                  {59.6, "1m 0s"}, {200, "3m 20s"}, {7500, "2h 5m"}, {370000, "4d 6h"}};
  for (const auto& [seconds, text] : cases) EXPECT_EQ(format_age(seconds), text) << seconds;
}

TEST(Format, ShortensByColumnsNotBytes) {
  EXPECT_EQ(shorten("abcdef", 6), "abcdef");
  EXPECT_EQ(shorten("abcdefg", 6), "abcde…");
  EXPECT_EQ(shorten("äöüäöüä", 4), "äöü…");
}

TEST(Format, TablesAlignAndCarryNoControlCharacters) {
  Table table({{"NAME"}, {"N", Table::Align::right}, {"REST"}});
  table.add({"a", "1", ""});
  table.add({"long\x1b[31m", "1000", "x"});
  EXPECT_EQ(table.to_string(), "NAME          N  REST\na             1  -\nlong?[31m  1000  x\n");
}

class FakeProcess final : public v1::Inspect::Service {
 public:
  grpc::Status Status(grpc::ServerContext*, const v1::StatusRequest*, v1::StatusReply* reply) override {
    reply->set_process("dataplane");
    reply->set_software_version("0.1.0");
    reply->set_protocol_version("1.1");
    reply->set_uptime_seconds(200);
    reply->set_state("ready");
    auto& line = *reply->add_lines();
    line.set_key("peers");
    line.set_value("2 (1 with a session)");
    return grpc::Status::OK;
  }
  grpc::Status ShowPeers(grpc::ServerContext*, const v1::ShowRequest* request, v1::PeersReply* reply) override {
    asked_limit = request->limit();
    auto& row = *reply->add_peers();
    row.set_public_key("LhqBvXkJXvT2lFzMIS+6UPV5v3a5nHmrWxCGpQ8cBVo=");
    row.set_endpoint("[2001:db8:1b::1234]:51820");
    row.set_session("up");
    row.set_handshake_age_seconds(95);
    row.set_rx_bytes(52'428'800);
    row.set_tx_bytes(1'234'567'890'123);
    row.set_rtt_ms(-1);
    row.add_tunnel_addresses("100.64.0.2");
    row.add_tunnel_addresses("fd00:2021:1111::2");
    row.set_flows(3);
    auto& named = *reply->add_peers();
    named.set_name("alice-laptop");
    named.set_session("none");
    named.set_handshake_age_seconds(-1);
    named.set_rtt_ms(12.34);
    return grpc::Status::OK;
  }
  grpc::Status ShowFlows(grpc::ServerContext*, const v1::ShowRequest*, v1::FlowsReply* reply) override {
    auto& row = *reply->add_flows();
    row.set_protocol("tcp");
    row.set_translation("nat64");
    row.set_inside_source("[fd00:2021:1111::2]:40000");
    row.set_inside_destination("[fd00:2021:1111:8000::9]:443");
    row.set_outside_source("203.0.113.1:1024");
    row.set_outside_destination("203.0.113.80:443");
    row.set_state("established");
    row.set_idle_seconds(1);
    row.set_expires_seconds(7440);
    row.set_name("web4.corp.example");
    reply->set_total(30);
    reply->set_capacity(262144);
    return grpc::Status::OK;
  }
  grpc::Status ShowDrops(grpc::ServerContext*, const v1::ShowRequest*, v1::DropsReply* reply) override {
    const std::tuple<const char*, const char*, std::uint64_t> rows[] = {
        {"malformed", "not a packet", 3}, {"never", "did not happen", 0}, {"policy_filter", "not allowed", 170}};
    for (const auto& [reason, text, packets] : rows) {
      auto& row = *reply->add_drops();
      row.set_reason(reason);
      row.set_text(text);
      row.set_packets(packets);
    }
    return grpc::Status::OK;
  }
  grpc::Status ShowNames(grpc::ServerContext*, const v1::ShowRequest*, v1::NamesReply*) override {
    return grpc::Status::OK;
  }
  std::uint32_t asked_limit = 0;
};

class Ctl : public testing::Test {
 protected:
  Ctl() {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-ctl-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  ~Ctl() override {
    for (auto& server : servers_) server->Shutdown();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  std::string socket(const std::string& process) const { return directory_ + "/" + process + ".sock"; }
  void serve(const std::string& process) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket(process), grpc::InsecureServerCredentials());
    builder.RegisterService(&process_);
    servers_.push_back(builder.BuildAndStart());
    ASSERT_NE(servers_.back(), nullptr);
  }
  int run(std::vector<std::string> arguments) {
    out_.str({});
    err_.str({});
    return ctl::run(std::move(arguments), out_, err_, directory_);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }

  std::string directory_;
  FakeProcess process_;
  std::vector<std::unique_ptr<grpc::Server>> servers_;
  std::ostringstream out_, err_;
};

TEST_F(Ctl, Status) {
  serve("dataplane");
  ASSERT_EQ(run({"--process", "dataplane", "status"}), 0) << err();
  EXPECT_EQ(out(), "dataplane 0.1.0, protocol 1.1: ready, up 3m 20s\n  peers  2 (1 with a session)\n");
  ASSERT_EQ(run({"--socket", socket("dataplane"), "status", "--json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())["state"], "ready");
}

TEST_F(Ctl, TheOnlyProcessNeedsNoName) {
  serve("client");
  EXPECT_EQ(run({"status"}), 0) << err();
  serve("portal");
  EXPECT_EQ(run({"status"}), 1);
  EXPECT_THAT(err(), HasSubstr("--process (client, portal)"));
}

TEST_F(Ctl, Peers) {
  serve("dataplane");
  ASSERT_EQ(run({"show", "peers"}), 0) << err();
  EXPECT_THAT(out(), HasSubstr("LhqBvXkJXvT…  up          1m 35s  [2001:db8:1b::1234]:51820"));
  EXPECT_THAT(out(), HasSubstr("50 MiB"));
  EXPECT_THAT(out(), HasSubstr("1.1 TiB"));
  EXPECT_THAT(out(), HasSubstr("alice-laptop"));
  EXPECT_THAT(out(), HasSubstr("12.3 ms"));
  std::istringstream lines{out()};
  for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), 140U) << line;
  ASSERT_EQ(run({"show", "peers", "--wide", "--limit", "7"}), 0);
  EXPECT_THAT(out(), HasSubstr("LhqBvXkJXvT2lFzMIS+6UPV5v3a5nHmrWxCGpQ8cBVo="));
  EXPECT_EQ(process_.asked_limit, 7U);
}

TEST_F(Ctl, JsonHasEveryFieldAndNumbersAreNumbers) {
  serve("dataplane");
  ASSERT_EQ(run({"--json", "show", "peers"}), 0);
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["peers"][0]["tx_bytes"], 1'234'567'890'123);
  EXPECT_EQ(json["peers"][0]["tunnel_addresses"][1], "fd00:2021:1111::2");
  EXPECT_EQ(json["peers"][1]["flows"], 0);
  EXPECT_EQ(json["peers"][1]["endpoint"], "");
}

TEST_F(Ctl, FlowsShowNamesAndHowManyThereAre) {
  serve("dataplane");
  ASSERT_EQ(run({"show", "flows"}), 0);
  EXPECT_THAT(
      out(),
      HasSubstr("tcp    nat64  [fd00:2021:1111::2]:40000  web4.corp.example:443  203.0.113.1:1024 > 203.0.113.80:443"));
  EXPECT_THAT(out(), HasSubstr("1 of 30 flows shown"));
  EXPECT_THAT(out(), HasSubstr("30 of 262144 in use"));
  std::istringstream lines{out()};
  for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), 140U) << line;
}

TEST_F(Ctl, DropsAreSortedAndZeroesHidden) {
  serve("dataplane");
  ASSERT_EQ(run({"show", "drops"}), 0);
  EXPECT_EQ(
      out(),
      "PACKETS  REASON         MEANING\n    170  policy_filter  not allowed\n      3  malformed      not a packet\n");
  ASSERT_EQ(run({"show", "drops", "--all"}), 0);
  EXPECT_THAT(out(), HasSubstr("never"));
}

TEST_F(Ctl, EmptyTablesSaySo) {
  serve("dataplane");
  ASSERT_EQ(run({"show", "names"}), 0);
  EXPECT_EQ(out(), "no names\n");
}

TEST_F(Ctl, WhatAProcessLacksIsAskedElsewhere) {
  serve("portal");
  EXPECT_EQ(run({"show", "neighbours"}), 1);
  EXPECT_THAT(err(), HasSubstr("this process has no neighbours"));
  EXPECT_THAT(err(), HasSubstr("--process dataplane"));
  EXPECT_EQ(out(), "");
}

TEST_F(Ctl, ProcessesThatCannotBeAsked) {
  EXPECT_EQ(run({"status"}), 1);
  EXPECT_THAT(err(), HasSubstr("no process of Penstock has a socket in " + directory_));
  EXPECT_EQ(run({"--process", "gateway", "status"}), 1);
  EXPECT_THAT(err(), HasSubstr("gateway.sock: no such socket; is the process running?"));

  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket("gateway").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(run({"--process", "gateway", "status"}), 1);
  EXPECT_THAT(err(), HasSubstr("the process has ended"));

  // Accepts and closes, as the data plane does with strangers.
  ASSERT_EQ(::listen(fd, 8), 0);
  std::thread stranger([fd] {
    for (int i = 0; i < 2; ++i) ::close(::accept(fd, nullptr, nullptr));
    ::close(fd);
  });
  EXPECT_EQ(run({"--process", "gateway", "status"}), 1);
  EXPECT_THAT(err(), HasSubstr("allowed_uids"));
  stranger.join();
  EXPECT_EQ(run({"--socket", std::string(200, 'x'), "status"}), 1);
}

TEST_F(Ctl, WrongCommandLines) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{},
                                                    {"show"},
                                                    {"nonsense"},
                                                    {"show", "nonsense"},
                                                    {"--process", "toaster", "status"},
                                                    {"status", "--limit", "x"},
                                                    {"--socket", "a", "--process", "client", "status"},
                                                    {"show", "peers", "--limit", "-1"}}) {
    EXPECT_EQ(run(arguments), 2);
    EXPECT_THAT(err(), Not(HasSubstr("terminate")));
    EXPECT_FALSE(err().empty());
  }
  EXPECT_EQ(run({"--help"}), 0);
  EXPECT_THAT(out(), HasSubstr("status"));
  EXPECT_EQ(run({"--version"}), 0);
  EXPECT_THAT(out(), HasSubstr("penstockctl 0."));
}

}  // namespace
}  // namespace penstock::ctl
