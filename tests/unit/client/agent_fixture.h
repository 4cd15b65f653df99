// A client agent in a network of its own, with one Resource by name and one by range.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "tests/unit/client/agent_harness.h"

namespace penstock::client {

using namespace std::chrono_literals;
using ::testing::Contains;
using testing::kClient4;
using testing::kClient6;
using testing::make_echo;
using testing::make_tcp;
using testing::make_udp;
using testing::Network;

class Agent : public ::testing::Test {
 protected:
  void SetUp() override {
    net.on_request = [this](const v1::RequestConnection& request) { net.grant(request, net.gw()); };
  }
  void connect() {
    net.connect({Network::dns_resource("corp", "**.corp.example"), Network::cidr_resource("lan", "203.0.113.0/24")});
  }
  static std::vector<std::uint8_t> datagram(const char* to, const std::string& text) {
    return make_udp(kClient4, to, 4000, 7, text);
  }
  Network net;
};

}  // namespace penstock::client
