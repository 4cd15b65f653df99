// Several bursts under way at once come to what they come to one by one.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "dataplane/core/wireguard/probe.h"
#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

// Does the work of a burst when it is begun or when it is waited for, and checks that no slot is used for two.
class SomeHelp final : public wireguard::AeadOffers {
 public:
  explicit SomeHelp(std::uint64_t choices) : choices_(choices) {}
  ~SomeHelp() override {
    for (const Slot& slot : slots_) EXPECT_TRUE(slot.jobs.empty()) << "not waited for";
  }
  void begin(unsigned which, std::span<wireguard::AeadJob> jobs, bool seal) override {
    Slot& slot = slots_.at(which);
    EXPECT_TRUE(slot.jobs.empty()) << "slot " << which << " is in use";
    slot = {jobs, seal};
    choices_ = choices_ >> 1 | choices_ << 63;
    if ((choices_ & 1) != 0) wait(which);
  }
  void wait(unsigned which) override {
    Slot& slot = slots_.at(which);
    if (slot.jobs.empty()) return;
    if (slot.seal) {
      aead_->seal(slot.jobs);
    } else {
      aead_->open(slot.jobs);
    }
    slot.jobs = {};
  }

 private:
  struct Slot {
    std::span<wireguard::AeadJob> jobs;
    bool seal = false;
  };
  std::unique_ptr<wireguard::AeadContext> aead_ = wireguard::make_aead_context("auto");
  std::array<Slot, kSlots> slots_{};
  std::uint64_t choices_;
};

struct Scene : World {
  static GatewayOptions one_port() {
    GatewayOptions options;
    options.description = one_armed();
    options.description.inner_mtu = 1420;
    return options;
  }
  Scene() : World(one_port()) {
    server.echoes = false;
    client.connect();
    // The way to the client carries less than the configured MTU.
    wireguard::Probe probe;
    probe.inner_mtu = kDefaultInnerMtu;
    client.send(wireguard::make_sized_probe_packet(probe, wireguard::ControlDirection::to_gateway, 0));
    // A flow of the LAN's server's that stands already.
    client.send(udp_packet({client.tunnel_v4, 5000}, {kServer4, 7000}, text("hello")));
    gateway.run(50ms);
    EXPECT_EQ(server.received.size(), 1U);
    const IpParse parse = parse_ip(server.received.front());
    const auto* udp = view_as<UdpHeader>(Bytes{server.received.front()}.subspan(parse.view.header_length));
    outside = {ip_source(server.received.front(), parse.view), udp->source_port.host()};
    gateway.sent[0].clear();
    client.datagrams.clear();
    server.received.clear();
  }
  Octets from_client(const Octets& datagram) const {
    return frame(kRouterMac, kWanMac, udp_packet(client.address, client.gateway_address, datagram));
  }
  Octets make(int kind, std::uint16_t number) {
    const Octets what = text("number " + std::to_string(number));
    switch (kind) {
      case 0:  // through the tunnel, of flows that stand and of new ones
        latest = client.seal(udp_packet({client.tunnel_v4, static_cast<std::uint16_t>(5000 + number % 7)},
                                        {kServer4, 7000}, what));
        return from_client(latest);
      case 1:  // through the tunnel by name
        return from_client(client.seal(udp_packet({client.tunnel_v6, 5001}, {names.only_v4_as_v6, 7001}, what)));
      case 2:  // back
        return frame(kServerMac, kWanMac, udp_packet({kServer4, 7000}, outside, what));
      case 3:  // again
        return latest.empty() ? Octets(60, 0xff) : from_client(latest);
      case 4: {  // changed on the way
        Octets spoilt = client.seal(udp_packet({client.tunnel_v4, 5000}, {kServer4, 7000}, what));
        spoilt[20] ^= 1;
        return from_client(spoilt);
      }
      case 5:  // to the gateway itself
        return frame(kServerMac, kWanMac, echo_request(kServer4, outside.address, 1, number, what));
      case 6:  // hop limit used up: an error goes back through the tunnel
        return from_client(client.seal(udp_packet({client.tunnel_v4, 5000}, {kServer4, 7000}, what, {.ttl = 1})));
      case 7:  // back, and too long: cut, or an error to the server
        return frame(kServerMac, kWanMac, udp_packet({kServer4, 7000}, outside, Octets(1350, 0x5a),
                                                     {.dont_fragment = number % 2 == 0}));
      default:
        return Octets(14 + static_cast<std::size_t>(number % 50), static_cast<std::uint8_t>(number));
    }
  }
  Endpoint outside;
  Octets latest;
};

// What left for the client, and what for anybody else: order counts within each.
std::array<std::vector<Octets>, 2> by_direction(const Scene& scene) {
  std::array<std::vector<Octets>, 2> out;
  for (const Octets& sent : scene.gateway.sent[0]) {
    const IpParse parse = parse_ip(Bytes{sent}.subspan(14));
    const bool to_client = parse.reason == DropReason::none &&
                           ip_destination(Bytes{sent}.subspan(14), parse.view) == scene.client.address.address;
    out[to_client ? 1 : 0].push_back(sent);
  }
  return out;
}

RC_GTEST_PROP(Pipeline, ComesToWhatBurstsComeToOneByOne, ()) {
  Scene one_by_one, together;
  const auto bursts = static_cast<std::size_t>(*rc::gen::inRange(1, 6));
  const auto burst_size = static_cast<std::size_t>(*rc::gen::element(1, 3, 20, 64));
  const auto kind = rc::gen::weightedElement<int>(
      {{20, 0}, {5, 1}, {20, 2}, {2, 3}, {2, 4}, {1, 5}, {1, 6}, {1, 7}, {1, 8}});
  const auto kinds = *rc::gen::container<std::vector<int>>(bursts * burst_size, kind);
  std::vector<Octets> frames, same;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    frames.push_back(one_by_one.make(kinds[i], static_cast<std::uint16_t>(i)));
    same.push_back(together.make(kinds[i], static_cast<std::uint16_t>(i)));
  }
  RC_ASSERT(frames == same);
  for (std::size_t at = 0; at < frames.size(); at += burst_size)
    one_by_one.gateway.receive(0, std::vector<Octets>(frames.begin() + static_cast<std::ptrdiff_t>(at),
                                                      frames.begin() + static_cast<std::ptrdiff_t>(at + burst_size)));
  SomeHelp help(*rc::gen::arbitrary<std::uint64_t>());
  together.gateway.receive_together(0, frames, burst_size, help);

  const auto expected = by_direction(one_by_one), seen = by_direction(together);
  RC_ASSERT(seen[0] == expected[0]);
  RC_ASSERT(seen[1] == expected[1]);
  RC_ASSERT(together.gateway.describe_drops() == one_by_one.gateway.describe_drops());
  RC_ASSERT(together.server.received == one_by_one.server.received);
  RC_ASSERT(together.client.received == one_by_one.client.received);
  RC_CLASSIFY(expected[1].size() > burst_size, "several bursts sealed");
  RC_CLASSIFY(expected[0].size() > burst_size, "several bursts opened");
}

}  // namespace
}  // namespace penstock::gateway::test
