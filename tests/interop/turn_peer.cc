// Two TurnClients over real UDP sockets against a real TURN server, driven by turn_coturn_test.py.
//
//   turn_peer SERVER USERNAME PASSWORD
//
// Reads commands from stdin, one a line, and answers each with "ok …" or "error …":
//   allocate        both clients allocate and permit each other's relayed address
//   channels        bind channels in both directions
//   exchange N      N payloads of many sizes each way, through both allocations; every one must arrive unharmed
//   move            the first client changes to a new socket and moves its allocation (mobility)
//   refresh         both verify their allocation now
//   restarted       the server was restarted: both must notice and allocate anew
//   run SECONDS     keeps both alive for a while
//   close           gives the allocations back
#include <arpa/inet.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "controlplane/core/paths/turn_client.h"
#include "tests/interop/turn_pair.h"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using paths::TurnClient;

class SystemRandom : public Random {
 public:
  void fill(std::span<std::uint8_t> out) override {
    if (getrandom(out.data(), out.size(), 0) != static_cast<ssize_t>(out.size())) std::abort();
  }
};

Instant clock_now() {
  return Instant{std::chrono::steady_clock::now().time_since_epoch()};
}

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

Address to_system(const Endpoint& endpoint) {
  Address out;
  if (endpoint.address.is_v4()) {
    auto* four = reinterpret_cast<sockaddr_in*>(&out.storage);
    four->sin_family = AF_INET;
    four->sin_port = htons(endpoint.port);
    std::memcpy(&four->sin_addr, endpoint.address.wire().data(), 4);
    out.size = sizeof *four;
  } else {
    auto* six = reinterpret_cast<sockaddr_in6*>(&out.storage);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(endpoint.port);
    std::memcpy(&six->sin6_addr, endpoint.address.wire().data(), 16);
    out.size = sizeof *six;
  }
  return out;
}

// A client, its socket and what it received.
class Side {
 public:
  Side(const Endpoint& server, const paths::TurnCredentials& credentials, Random& random, std::uint32_t& numbers)
      : server_(to_system(server)),
        client({server, credentials, stun::family_of(server.address), true, false}, random, numbers) {
    open_socket();
  }
  ~Side() { ::close(fd_); }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

  void open_socket() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = ::socket(server_.storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd_ < 0) std::abort();
  }
  void send(const std::vector<std::uint8_t>& bytes) {
    // A refused datagram (server just restarting) is a lost one.
    if (::sendto(fd_, bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&server_.storage),
                 server_.size) < 0)
      ++lost;
  }
  void flush() {
    while (auto bytes = client.poll_output()) send(*bytes);
    while (auto event = client.poll_event()) last_event = event->kind;
  }
  void receive() {
    std::array<std::uint8_t, 4096> buffer;
    for (;;) {
      const ssize_t size = ::recv(fd_, buffer.data(), buffer.size(), 0);
      if (size < 0) return;
      const auto input = client.handle_input(Bytes{buffer}.first(static_cast<std::size_t>(size)), clock_now());
      if (input.reason != DropReason::none) continue;
      received.emplace_back(input.payload.begin(), input.payload.end());
      last_peer = input.peer;
      by_channel += input.channel ? 1 : 0;
    }
  }
  bool send_payload(const Endpoint& peer, const std::vector<std::uint8_t>& payload) {
    const auto bytes = enveloped(client, peer, payload, clock_now());
    if (bytes.empty()) return false;
    send(bytes);
    return true;
  }
  [[nodiscard]] int fd() const { return fd_; }

  std::vector<std::vector<std::uint8_t>> received;
  Endpoint last_peer;
  std::size_t by_channel = 0;
  std::size_t lost = 0;
  std::optional<paths::TurnEvent::Kind> last_event;

 private:
  Address server_;
  int fd_ = -1;

 public:
  TurnClient client;
};

// Made before the base that uses them.
struct Sides {
  Sides(const Endpoint& server, const paths::TurnCredentials& credentials)
      : first(server, credentials, random, numbers), second(server, credentials, random, numbers) {}
  SystemRandom random;
  std::uint32_t numbers = 0;
  Side first;
  Side second;
};

class Program : Sides, public TurnPair<Side> {
 public:
  Program(const Endpoint& server, const paths::TurnCredentials& credentials)
      : Sides(server, credentials), TurnPair(first, second, random, clock_now) {}

  bool run(Duration limit, const std::function<bool()>& done) override {
    const Instant until = clock_now() + limit;
    for (;;) {
      for (Side* side : {&a_, &b_}) {
        if (clock_now() >= side->client.poll_timeout().at) side->client.handle_timeout(clock_now());
        side->receive();
        side->flush();
      }
      if (done()) return true;
      const Instant now = clock_now();
      if (now >= until) return false;
      const Instant next = std::min({until, a_.client.poll_timeout().at, b_.client.poll_timeout().at, now + 1s});
      pollfd fds[] = {{a_.fd(), POLLIN, 0}, {b_.fd(), POLLIN, 0}};
      const auto wait = std::chrono::ceil<std::chrono::milliseconds>(std::max(next - now, Duration{}));
      ::poll(fds, 2, static_cast<int>(wait.count()));
    }
  }

  std::string allocate() {
    a_.client.start(clock_now());
    b_.client.start(clock_now());
    if (!run(10s, [&] { return both(TurnClient::State::allocated); })) return "error no allocation";
    return permitted();
  }
  std::string permitted() {
    if (!permit()) return "error no permission";
    return "ok " + a_.client.relayed().to_string() + " " + b_.client.relayed().to_string() +
           (a_.client.has_ticket() ? " ticket" : "");
  }
  std::string move() {
    const Endpoint before = a_.client.relayed();
    a_.open_socket();
    a_.client.handle_local_change(clock_now());
    a_.last_event.reset();
    const bool moved = run(10s, [&] { return a_.last_event == paths::TurnEvent::Kind::moved; });
    if (!moved) return "error not moved";
    return a_.client.relayed() == before ? "ok" : "error relayed address changed";
  }
  std::string refresh() {
    run(600ms, [] { return false; });  // the pause between two verifications
    const std::uint64_t before = a_.client.allocations() + b_.client.allocations();
    a_.client.suspect(clock_now());
    b_.client.suspect(clock_now());
    run(1s, [] { return false; });
    return both(TurnClient::State::allocated) && a_.client.allocations() + b_.client.allocations() == before
               ? "ok"
               : "error allocation lost";
  }
  std::string restarted() {
    const std::uint64_t before_a = a_.client.allocations();
    const std::uint64_t before_b = b_.client.allocations();
    Instant next_suspicion{};
    const bool anew = run(40s, [&] {
      if (clock_now() >= next_suspicion) {
        a_.client.suspect(clock_now());
        b_.client.suspect(clock_now());
        next_suspicion = clock_now() + 1s;
      }
      return both(TurnClient::State::allocated) && a_.client.allocations() > before_a &&
             b_.client.allocations() > before_b;
    });
    return anew ? permitted() : "error not allocated anew";
  }
  std::string close() {
    a_.client.close(clock_now());
    b_.client.close(clock_now());
    a_.flush();
    b_.flush();
    return "ok";
  }
  std::string keep(unsigned seconds) {
    run(std::chrono::seconds{seconds}, [] { return false; });
    return both(TurnClient::State::allocated) ? "ok allocations=" + std::to_string(a_.client.allocations())
                                              : "error allocation lost";
  }
};

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  using namespace penstock;
  const auto server = argc == 4 ? Endpoint::parse(argv[1]) : std::nullopt;
  if (!server) {
    std::fprintf(stderr, "usage: turn_peer SERVER USERNAME PASSWORD\n");
    return 2;
  }
  Program program{*server, {argv[2], argv[3], ""}};
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words{line};
    std::string command;
    unsigned number = 0;
    words >> command >> number;
    std::string answer = "error unknown command";
    if (command == "allocate") answer = program.allocate();
    if (command == "channels") answer = program.channels();
    if (command == "exchange") answer = program.exchange(number);
    if (command == "move") answer = program.move();
    if (command == "refresh") answer = program.refresh();
    if (command == "restarted") answer = program.restarted();
    if (command == "run") answer = program.keep(number);
    if (command == "close") answer = program.close();
    std::cout << answer << std::endl;
  }
  return 0;
}
