// A simulated network under virtual time: nodes behind links and NATs, one thread, everything from one seed.
//
//   node ── link ── [NAT] ── core ── [NAT] ── link ── node
//
// Links delay, jitter (and so reorder), lose and duplicate; the core adds nothing. A node is a state machine with an
// outbox and a deadline; real agents are put behind this interface. Nothing here knows what the bytes mean.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/model/nat_box.h"
#include "tests/model/seeded_random.h"
#include "tests/model/turn_server.h"

namespace penstock::model {

class Node {
 public:
  virtual ~Node() = default;
  virtual void receive(Datagram datagram, Now now) = 0;
  // An ICMP error said that `remote` is unreachable.
  virtual void unreachable(const Endpoint& /*remote*/, Now /*now*/) {}
  [[nodiscard]] virtual Instant deadline() const = 0;
  virtual void timeout(Now now) = 0;
  [[nodiscard]] virtual std::string deadline_reason() const { return "a node's timer"; }

  // Filled by the node. An unspecified source address is replaced by the node's of that family.
  std::deque<Datagram> outbox;
};

struct Link {
  Duration latency = std::chrono::milliseconds{5};
  Duration jitter{};
  unsigned loss_permille = 0;
  unsigned duplicate_permille = 0;
  std::size_t mtu = 1500;  // of the IP packet
  bool up = true;
};

class Network {
 public:
  explicit Network(std::uint64_t seed) : random(seed) {}

  NatBox& add_nat(const NatBehaviour& behaviour, std::vector<IpAddress> external);
  // Gives the node an address; one per family counts as its source. `nat` nullptr: directly on the core.
  void attach(Node& node, const IpAddress& address, NatBox* nat = nullptr, Link link = {});
  void detach(Node& node);
  [[nodiscard]] Link& link(Node& node);  // of its first attachment

  // Runs `action` at `at`.
  void schedule(Instant at, std::function<void()> action);
  void run_for(Duration how_long) { run_until(now_ + how_long); }
  void run_until(Instant until);

  [[nodiscard]] Now now() const;
  [[nodiscard]] Instant time() const { return now_; }
  // The machine's wall clock is stepped (suspend, NTP).
  void step_wall(Duration by) { wall_offset_ += by; }

  struct Statistics {
    std::uint64_t sent = 0, delivered = 0, lost = 0, filtered = 0, unroutable = 0, too_big = 0;
  };
  [[nodiscard]] const Statistics& statistics() const { return statistics_; }

  SeededRandom random;

 private:
  struct Attachment {
    Node* node;
    IpAddress address;
    NatBox* nat;
    Link link;
  };
  struct Flight {
    bool inbound = false;  // on the receiver's link, else on the sender's
    Node* node = nullptr;  // whose link
    IpAddress address;     // of that attachment
    Datagram datagram;
    Node* origin = nullptr;
  };

  Attachment* find(const Node& node, bool v4);
  Attachment* find(const NatBox* nat, const IpAddress& address);
  void flush(Node& node);
  void put_on_link(const Attachment& attachment, bool inbound, Datagram datagram, Node* origin);
  void leave_link(Flight flight);
  void route(Datagram datagram, const NatBox* from, Node* origin);
  void unreachable(Node* origin, const Endpoint& remote);

  Instant now_{std::chrono::hours{1}};
  Duration wall_offset_ = std::chrono::seconds{1'800'000'000};
  std::vector<Node*> nodes_;
  std::list<Attachment> attachments_;
  std::vector<std::unique_ptr<NatBox>> nats_;
  std::multimap<Instant, Flight> flying_;
  std::multimap<Instant, std::function<void()>> actions_;
  Statistics statistics_;
};

// A TurnServer as a node.
class RelayNode : public Node {
 public:
  RelayNode(TurnServer::Config config, Random& random) : server(std::move(config), random) {}
  void receive(Datagram datagram, Now now) override {
    if (up) server.handle(datagram, now.monotonic, outbox);
  }
  [[nodiscard]] Instant deadline() const override { return kNever; }
  void timeout(Now) override {}

  TurnServer server;
  bool up = true;
};

}  // namespace penstock::model
