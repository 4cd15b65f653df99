// Two TurnClients over RelayStreams (TCP or TLS, directly or through a proxy) against a real TURN server, driven by
// turn_stream_test.py.
//
//   turn_stream_peer SERVER USERNAME PASSWORD tcp|tls [NAME CA_FILE] [PROXY]
//
// Reads commands from stdin, one a line, and answers each with "ok …" or "error …":
//   connect         both streams come up, allocate and permit each other's relayed address; or why not
//   channels        bind channels in both directions
//   exchange N      N payloads of many sizes each way, through both allocations; every one must arrive unharmed
//   burst N         N payloads one way, many at a time; in order, nearly all
//   shout           payloads until the stream takes none, with nothing read in between: the server has gone
//   down            the server has gone: both streams must say so
#include <sys/random.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

#include "controlplane/core/paths/turn_client.h"
#include "controlplane/io/file.h"
#include "controlplane/io/loop.h"
#include "controlplane/io/relay_stream.h"
#include "controlplane/io/system_random.h"
#include "tests/interop/turn_pair.h"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using paths::TurnClient;

Instant clock_now() {
  return io::Loop::now().monotonic;
}

class Side {
 public:
  Side(io::Loop& loop, const io::RelayStreamOptions& options, const paths::TurnCredentials& credentials, Random& random,
       std::uint32_t& numbers)
      : client({options.server, credentials, stun::family_of(options.server.address), false, true}, random, numbers) {
    io::RelayStream::Callbacks callbacks;
    callbacks.up = [this] {
      up = true;
      client.start(clock_now());
      flush();
    };
    callbacks.message = [this](MutableBytes message) {
      const auto input = client.handle_input(message, clock_now());
      if (input.reason == DropReason::none) {
        received.emplace_back(input.payload.begin(), input.payload.end());
        last_peer = input.peer;
        by_channel += input.channel ? 1 : 0;
      }
      flush();
    };
    callbacks.down = [this](const std::string& reason) {
      up = false;
      down = true;
      why = reason;
    };
    stream = io::RelayStream::open(loop, options, std::move(callbacks));
  }

  void flush() {
    while (auto bytes = client.poll_output()) stream->send(*bytes);
    while (client.poll_event()) {
    }
  }
  bool send_payload(const Endpoint& peer, const std::vector<std::uint8_t>& payload) {
    const auto bytes = enveloped(client, peer, payload, clock_now());
    return !bytes.empty() && stream->send(bytes);
  }

  TurnClient client;
  std::unique_ptr<io::RelayStream> stream;
  bool up = false;
  bool down = false;
  std::string why;
  std::vector<std::vector<std::uint8_t>> received;
  Endpoint last_peer;
  std::size_t by_channel = 0;
};

// Made before the base that uses them.
struct Sides {
  Sides(const io::RelayStreamOptions& options, const paths::TurnCredentials& credentials)
      : first(loop, options, credentials, random, numbers), second(loop, options, credentials, random, numbers) {}
  io::Loop loop;
  io::SystemRandom random;
  std::uint32_t numbers = 0;
  Side first;
  Side second;
};

class Program : Sides, public TurnPair<Side> {
 public:
  Program(const io::RelayStreamOptions& options, const paths::TurnCredentials& credentials)
      : Sides(options, credentials), TurnPair(first, second, random, clock_now) {}

  bool run(Duration limit, const std::function<bool()>& done) override {
    const Instant until = clock_now() + limit;
    while (!done()) {
      const Instant now = clock_now();
      if (now >= until) return false;
      for (Side* side : {&a_, &b_}) {
        if (now >= side->client.poll_timeout().at) side->client.handle_timeout(now);
        if (side->up) side->flush();
      }
      loop.run_once(std::min<Duration>(until - now, 50ms));
    }
    return true;
  }

  std::string connect() {
    const auto settled = [&] { return (a_.up && b_.up) || a_.down || b_.down; };
    if (!run(10s, settled)) return "error not connected";
    if (a_.down || b_.down) return "error " + (a_.down ? a_.why : b_.why);
    if (!run(10s, [&] { return both(TurnClient::State::allocated); })) return "error no allocation";
    return permit() ? "ok" : "error no permission";
  }
  std::string burst(std::size_t count) {
    constexpr std::size_t kWindow = 32;
    b_.received.clear();
    std::vector<std::vector<std::uint8_t>> sent;
    std::size_t lost = 0;
    for (std::size_t i = 0; i < count; ++i) {
      sent.emplace_back(100 + i % 1100);
      random.fill(sent.back());
      // A stream that is full takes more when the loop has turned.
      if (!run(5s, [&] { return a_.send_payload(b_.client.relayed(), sent.back()); })) return "error stuck";
      if (sent.size() % kWindow != 0) continue;
      run(500ms, [&] { return b_.received.size() + lost == sent.size(); });
      lost = sent.size() - b_.received.size();
    }
    run(500ms, [&] { return b_.received.size() + lost == sent.size(); });
    std::size_t at = 0;
    for (const auto& payload : b_.received) {
      while (at < sent.size() && sent[at] != payload) ++at;
      if (at++ == sent.size()) return "error out of order or changed";
    }
    // Between the relay's two allocations they are datagrams, which its sockets may lose.
    lost = sent.size() - b_.received.size();
    return lost * 50 <= count ? "ok" : "error " + std::to_string(lost) + " lost";
  }
  std::string shout() {
    const std::vector<std::uint8_t> payload(100);
    for (const Instant until = clock_now() + 5s; clock_now() < until; std::this_thread::sleep_for(1ms))
      if (!a_.send_payload(b_.client.relayed(), payload)) return "ok";
    return "error it takes everything";
  }
  std::string down() {
    return run(10s, [&] { return a_.down && b_.down; }) ? "ok " + a_.why : "error still up";
  }
};

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  using namespace penstock;
  const auto server = argc >= 5 ? Endpoint::parse(argv[1]) : std::nullopt;
  const bool tls = server && std::string{argv[4]} == "tls";
  if (!server || (tls && argc < 7)) {
    std::fprintf(stderr, "usage: turn_stream_peer SERVER USERNAME PASSWORD tcp|tls [NAME CA_FILE] [PROXY]\n");
    return 2;
  }
  io::RelayStreamOptions options;
  options.server = *server;
  options.tls = tls;
  int next = 5;
  if (tls) {
    std::string error;
    options.name = argv[5];
    options.ca_pem = io::read_file(argv[6], error).value_or("");
    next = 7;
  }
  if (next < argc) options.proxy = Endpoint::parse(argv[next]);
  Program program{options, {argv[2], argv[3], ""}};
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words{line};
    std::string command;
    unsigned number = 0;
    words >> command >> number;
    std::string answer = "error unknown command";
    if (command == "connect") answer = program.connect();
    if (command == "channels") answer = program.channels();
    if (command == "exchange") answer = program.exchange(number);
    if (command == "burst") answer = program.burst(number);
    if (command == "shout") answer = program.shout();
    if (command == "down") answer = program.down();
    std::cout << answer << std::endl;
  }
  return 0;
}
