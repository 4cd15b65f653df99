// Relays over TCP and TLS: cutting the byte stream, and when connections are opened and closed.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <memory>

#include "controlplane/core/paths/connectivity.h"
#include "controlplane/core/paths/turn_stream.h"
#include "tests/model/seeded_random.h"
#include "tests/model/turn_server.h"

namespace penstock::paths {
namespace {

using model::SeededRandom;
using model::TurnServer;
using namespace std::chrono_literals;

Endpoint endpoint(const char* text) {
  return *Endpoint::parse(text);
}

std::vector<std::uint8_t> channel_data(std::uint16_t channel, std::size_t size, std::uint8_t fill, bool padded) {
  std::vector<std::uint8_t> out(4 + size, fill);
  out[0] = static_cast<std::uint8_t>(channel >> 8);
  out[1] = static_cast<std::uint8_t>(channel);
  out[2] = static_cast<std::uint8_t>(size >> 8);
  out[3] = static_cast<std::uint8_t>(size);
  if (padded) out.resize((out.size() + 3) / 4 * 4);
  return out;
}

std::vector<std::uint8_t> stun_message(std::size_t attributes) {
  std::vector<std::uint8_t> out(20 + attributes, 7);
  out[0] = 0;
  out[1] = 1;
  out[2] = static_cast<std::uint8_t>(attributes >> 8);
  out[3] = static_cast<std::uint8_t>(attributes);
  return out;
}

TEST(TurnStreamFramer, RefusesWhatIsNeitherStunNorChannelData) {
  for (const std::uint8_t first : {std::uint8_t{0x80}, std::uint8_t{0xc0}, std::uint8_t{0xff}}) {
    TurnStreamFramer framer;
    framer.append(std::vector<std::uint8_t>{first, 0, 0, 4, 0, 0, 0, 0});
    EXPECT_FALSE(framer.next());
    EXPECT_TRUE(framer.broken());
  }
  // A STUN message whose length is no multiple of 4 (RFC 8489 §5).
  TurnStreamFramer framer;
  framer.append(std::vector<std::uint8_t>{0, 1, 0, 3});
  EXPECT_FALSE(framer.next());
  EXPECT_TRUE(framer.broken());
}

// However the bytes are cut on the way, the messages come out as they went in.
RC_GTEST_PROP(TurnStreamFramer, FindsTheMessagesAgain, ()) {
  std::vector<std::vector<std::uint8_t>> messages;
  std::vector<std::uint8_t> stream;
  const int count = *rc::gen::inRange(1, 20);
  for (int i = 0; i < count; ++i) {
    const auto size = static_cast<std::size_t>(*rc::gen::inRange(0, 1500));
    const auto fill = *rc::gen::arbitrary<std::uint8_t>();
    if (*rc::gen::arbitrary<bool>()) {
      messages.push_back(stun_message(size / 4 * 4));
      stream.insert(stream.end(), messages.back().begin(), messages.back().end());
    } else {
      messages.push_back(channel_data(0x4000, size, fill, false));
      const auto padded = channel_data(0x4000, size, fill, true);
      stream.insert(stream.end(), padded.begin(), padded.end());
    }
  }
  TurnStreamFramer framer;
  std::size_t found = 0;
  for (std::size_t at = 0; at < stream.size();) {
    const auto piece = std::min<std::size_t>(static_cast<std::size_t>(*rc::gen::inRange(1, 4000)), stream.size() - at);
    framer.append(Bytes{stream}.subspan(at, piece));
    at += piece;
    while (const auto message = framer.next()) {
      RC_ASSERT(found < messages.size());
      RC_ASSERT(std::equal(message->begin(), message->end(), messages[found].begin(), messages[found].end()));
      ++found;
    }
  }
  RC_ASSERT(!framer.broken());
  RC_ASSERT(found == messages.size());
}

const Endpoint kSocket = endpoint("0.0.0.0:41000");
const Endpoint kRelay = endpoint("198.51.100.20:3478");
const Endpoint kRelayTls = endpoint("198.51.100.20:443");
const Endpoint kGateway = endpoint("203.0.113.7:51820");

// A client whose UDP and connections to one relay the test switches on and off. The relay behind both is the model's.
class Streams : public ::testing::Test {
 protected:
  Streams() : connectivity({}, random) {
    TurnServer::Config config;
    config.listen = kRelay;
    config.relay_v4 = *IpAddress::parse("198.51.100.20");
    config.relay_v6 = *IpAddress::parse("2001:db8:20::20");
    relay = std::make_unique<TurnServer>(config, random);
  }

  // The client starts, in a network as the switches say.
  void begin() {
    const RelayConfig told{"r1", {kRelay}, "user", "secret", "",
                           {{kRelay, false, ""}, {kRelayTls, true, "relay.example"}}};
    move_to("198.51.100.130:41000");
    connectivity.handle_relays({&told, 1}, now());
    connectivity.add_gateway(1, now());
    const Candidate candidates[] = {{CandidateKind::server_reflexive, kGateway}};
    connectivity.handle_remote_candidates(1, candidates, now());
    drain();
  }

  Now now() const {
    const auto wall = time.time_since_epoch() + 1'700'000'000s;
    return {time, {static_cast<std::uint64_t>(wall / 1s), static_cast<std::uint32_t>(wall % 1s / 1ns)}};
  }

  void move_to(const char* host) {
    const Endpoint sockets[] = {kSocket};
    const Endpoint hosts[] = {endpoint(host)};
    connectivity.handle_local_addresses(sockets, hosts, now());
  }

  // The relay tells the ways apart by the address they seem to come from.
  static Endpoint from_of(StreamId stream) {
    return stream == 0 ? endpoint("198.51.100.130:41000")
                       : Endpoint{*IpAddress::parse("198.51.100.130"), static_cast<std::uint16_t>(50000 + stream)};
  }
  void to_relay(std::vector<std::uint8_t> bytes, StreamId stream) {
    relay->handle({from_of(stream), kRelay, std::move(bytes)}, time, answers);
  }

  void drain() {
    for (bool again = true; again;) {
      again = false;
      while (auto transmit = connectivity.poll_transmit()) {
        again = true;
        if (transmit->stream != 0) {
          ASSERT_TRUE(open.contains(transmit->stream)) << "a message for a stream that is not open";
          if (open[transmit->stream].up) to_relay(std::move(transmit->bytes), transmit->stream);
        } else if (udp && transmit->remote == kRelay) {
          to_relay(std::move(transmit->bytes), 0);
        }
      }
      while (auto request = connectivity.poll_stream()) {
        again = true;
        if (request->open) {
          ++dialled;
          open[request->id] = {request->server, false};
        } else {
          open.erase(request->id);
        }
      }
      while (!answers.empty()) {
        again = true;
        model::Datagram answer = std::move(answers.front());
        answers.pop_front();
        if (answer.to == from_of(0)) {
          if (udp) connectivity.handle_datagram(answer.bytes, kSocket, kRelay, now());
          continue;
        }
        const StreamId stream = answer.to.port - 50000U;
        if (answer.to.address == from_of(0).address && open.contains(stream) && !silent)
          connectivity.handle_stream_message(answer.bytes, stream, now());
      }
      // Connections that can be made are made; others are refused at once.
      const auto dialled_now = open;
      for (const auto& [id, way] : dialled_now) {
        if (way.up) continue;
        again = true;
        if (way.server.tls ? tls : tcp) {
          open[id].up = true;
          connectivity.handle_stream_up(id, now());
        } else {
          open.erase(id);
          connectivity.handle_stream_down(id, now());
        }
      }
      while (connectivity.poll_event()) {
      }
    }
  }

  void run(Duration how_long) {
    const Instant until = time + how_long;
    while (time < until) {
      time = std::max(time, std::min(until, connectivity.poll_timeout().at));
      if (connectivity.poll_timeout().at <= time) {
        connectivity.handle_timeout(now());
        drain();
        ASSERT_GT(connectivity.poll_timeout().at, time) << connectivity.poll_timeout().why;  // trap: paths-21
      }
    }
  }

  StreamId begin_over_a_stream() {
    udp = false;
    begin();
    run(5s);
    EXPECT_EQ(open.size(), 1U);
    return open.empty() ? StreamId{} : open.begin()->first;
  }
  bool relayed() const {
    for (const Candidate& candidate : connectivity.local_candidates())
      if (candidate.kind == CandidateKind::relayed) return true;
    return false;
  }

  struct Way {
    StreamServer server;
    bool up = false;
  };
  SeededRandom random{7};
  Instant time = Instant{} + 1h;
  Connectivity connectivity;
  std::unique_ptr<TurnServer> relay;
  std::deque<model::Datagram> answers;
  std::map<StreamId, Way> open;
  int dialled = 0;
  bool udp = true;
  bool tcp = true;
  bool tls = true;
  bool silent = false;  // connections stand, but nothing comes back
};

TEST_F(Streams, AreNotDialledWhileUdpAnswers) {
  begin();
  run(10min);
  EXPECT_TRUE(relayed());
  EXPECT_EQ(dialled, 0);
}

TEST_F(Streams, CarryTheRelayWhereUdpIsBlocked) {
  udp = false;
  // A network that lets only TLS on 443 out.
  tcp = false;
  begin();
  run(4s);
  EXPECT_TRUE(relayed());
  ASSERT_EQ(open.size(), 1U);
  EXPECT_TRUE(open.begin()->second.server.tls);
  // Its datagrams go into the connection, padded to a whole message.
  const auto paths = connectivity.handshake_paths(1);
  ASSERT_FALSE(paths.empty());
  ASSERT_NE(paths.front().relay, 0U);
  const auto envelope = connectivity.route(paths.front(), 33);
  ASSERT_TRUE(envelope);
  EXPECT_EQ(envelope->stream, open.begin()->first);
  EXPECT_EQ((envelope->prefix_size + 33U + envelope->padding) % 4, 0U);
}

TEST_F(Streams, OneOfSeveralIsKept) {
  udp = false;
  begin();
  run(5s);
  EXPECT_EQ(dialled, 2);
  EXPECT_EQ(open.size(), 1U);
  run(5min);
  EXPECT_EQ(dialled, 2);
  EXPECT_TRUE(relayed());
}

TEST_F(Streams, AreClosedWhenUdpWorksAgain) {
  begin_over_a_stream();
  udp = true;
  run(2min);
  EXPECT_TRUE(open.empty());
  EXPECT_TRUE(relayed());
}

TEST_F(Streams, AreDialledAnewWithBackoffWhileNothingWorks) {
  udp = tcp = tls = false;
  begin();
  run(10min);
  EXPECT_FALSE(relayed());
  EXPECT_GE(dialled, 2 * 20);          // for ever, at least every 30 s
  EXPECT_LE(dialled, 2 * (20 + 6));    // but not more often
  // trap: paths-14
  tcp = true;
  run(31s);
  EXPECT_TRUE(relayed());
}

TEST_F(Streams, ALostConnectionIsReplacedAtOnce) {
  const StreamId before = begin_over_a_stream();
  open.erase(before);
  connectivity.handle_stream_down(before, now());
  drain();
  run(1100ms);
  EXPECT_TRUE(relayed());
  ASSERT_EQ(open.size(), 1U);
  EXPECT_NE(open.begin()->first, before);
}

// A NAT has forgotten the connection: no reset, no answer.
TEST_F(Streams, ADeadConnectionIsFoundWithoutItsError) {
  const StreamId before = begin_over_a_stream();
  silent = true;
  run(70s);  // the relay's keepalive after 25 s, and how long its answer is waited for (RFC 8489 §6.2.2)
  EXPECT_FALSE(open.contains(before));
  silent = false;
  run(31s);
  EXPECT_TRUE(relayed());
}

TEST_F(Streams, ADeadConnectionIsFoundSoonerAfterSuspend) {
  const StreamId before = begin_over_a_stream();
  silent = true;
  connectivity.handle_resume(now());
  drain();
  run(3s);
  EXPECT_FALSE(open.contains(before));
}

TEST_F(Streams, AreDroppedWhenTheClientRoams) {
  const StreamId before = begin_over_a_stream();
  move_to("198.51.100.131:41000");
  drain();
  run(2s);
  EXPECT_FALSE(open.contains(before));
  EXPECT_TRUE(relayed());
}

// UDP that stops working later is noticed by the requests that keep the mapping, and answers are waited for 1.5 s.
TEST_F(Streams, AreDialledWhenUdpStopsWorking) {
  begin();
  run(1min);
  ASSERT_EQ(dialled, 0);
  udp = false;
  run(28s);
  EXPECT_EQ(open.size(), 1U);
  EXPECT_TRUE(relayed());
}

TEST_F(Streams, ARelayThatThePortalTakesBackIsLeft) {
  begin_over_a_stream();
  connectivity.handle_relays({}, now());
  drain();
  EXPECT_TRUE(open.empty());
  EXPECT_FALSE(relayed());
}

}  // namespace
}  // namespace penstock::paths
