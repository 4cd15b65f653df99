// A simulated network under virtual time: nodes behind links and NATs, one thread, everything from one seed.
//
//   node ── link ── [NAT] ── core ── [NAT] ── link ── node
//
// Links delay, jitter (and so reorder), lose and duplicate; the core adds nothing, but may be cut between two
// addresses. A node is a state machine with an outbox and a deadline; real agents are put behind this interface.
// Nothing here knows what the bytes mean. Datagrams travel event by event; segments of byte streams are asked about
// with carry().
//
// A node's deadline is read again after each of its own calls and after every scheduled action; whoever changes a node
// by other means calls touch().
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/model/link_model.h"
#include "tests/model/nat_box.h"
#include "tests/model/seeded_random.h"
#include "tests/model/turn_server.h"

namespace penstock::model {

class Node {
 public:
  virtual ~Node() = default;
  virtual void receive(Datagram datagram, Now now) = 0;
  // An ICMP error said that `remote` is unreachable; `quoted`: the beginning of what was sent there.
  virtual void unreachable(const Endpoint& /*remote*/, Bytes /*quoted*/, Now /*now*/) {}
  [[nodiscard]] virtual Instant deadline() const = 0;
  virtual void timeout(Now now) = 0;
  [[nodiscard]] virtual std::string deadline_reason() const { return "a node's timer"; }

  // Filled by the node. An unspecified source address is replaced by the node's of that family.
  std::deque<Datagram> outbox;
};

class Network {
 public:
  explicit Network(std::uint64_t seed) : random(seed) {}

  NatBox& add_nat(const NatBehaviour& behaviour, std::vector<IpAddress> external);
  // Gives the node an address; one per family counts as its source. `nat` nullptr: directly on the core.
  void attach(Node& node, const IpAddress& address, NatBox* nat = nullptr, Link link = {});
  void detach(Node& node);
  [[nodiscard]] Link& link(Node& node);  // of its first attachment; both directions
  void for_each_link(Node& node, const std::function<void(Link&)>& change);

  [[nodiscard]] bool attached(const Node& node, const IpAddress& address) const;
  // What the node's packets of a family come from; unspecified: it has none.
  [[nodiscard]] IpAddress address_of(const Node& node, bool v4);

  // Nothing passes between the two any more, in either direction; as seen by the core (behind NATs).
  void cut(const IpAddress& a, const IpAddress& b) { cuts_.insert(std::minmax(a, b)); }
  void join(const IpAddress& a, const IpAddress& b) { cuts_.erase(std::minmax(a, b)); }

  // Runs `action` at `at`; it may change any node, or, with `only`, that one alone (cheaper).
  void schedule(Instant at, std::function<void()> action, Node* only = nullptr);
  void run_for(Duration how_long) { run_until(now_ + how_long); }
  void run_until(Instant until);
  void touch(Node& node);

  // What becomes of a TCP segment that `node` sends now from `local` to `remote`: who gets it, from where it seems to
  // come, after how long. nullopt: lost (a NAT may answer with a reset: `refused`).
  struct Carried {
    Node* receiver = nullptr;
    Endpoint source;
    Endpoint destination;  // inside the receiver's NAT
    Duration delay{};
  };
  [[nodiscard]] std::optional<Carried> carry(Node& node, const Endpoint& local, const Endpoint& remote,
                                             bool* refused = nullptr);

  [[nodiscard]] Now now() const { return at(now_); }
  [[nodiscard]] Now at(Instant instant) const;
  [[nodiscard]] Instant time() const { return now_; }
  // The machines' wall clock is stepped (suspend, NTP).
  void step_wall(Duration by) { wall_offset_ += by; }

  struct Statistics {
    std::uint64_t sent = 0, delivered = 0, lost = 0, filtered = 0, unroutable = 0, too_big = 0, events = 0;
  };
  [[nodiscard]] const Statistics& statistics() const { return statistics_; }

  SeededRandom random;

  // Told of every datagram at each step of its way, when set: to look at one run closely.
  std::function<void(const std::string&)> trace;

 private:
  struct Attachment {
    Node* node;
    IpAddress address;
    NatBox* nat;
    Link link;
    LinkModel outward{}, inward{};
  };
  struct Flight {
    bool inbound = false;  // on the receiver's link, else on the sender's
    Node* node = nullptr;  // whose link
    IpAddress address;     // of that attachment
    Datagram datagram;
    Node* origin = nullptr;
  };
  struct Registered {
    std::uint64_t order = 0;
    Instant deadline = kNever;
  };

  Attachment* find(const Node& node, bool v4);
  Attachment* find(const NatBox* nat, const IpAddress& address);
  Attachment* source_of(Node& node, const IpAddress& from, bool v4);
  void flush(Node& node);
  void put_on_link(Attachment& attachment, bool inbound, Datagram datagram, Node* origin);
  void leave_link(Flight flight);
  void route(Datagram datagram, const NatBox* from, Node* origin);
  void unreachable(Node* origin, const Endpoint& remote, const Datagram& rejected);
  [[nodiscard]] bool is_cut(const IpAddress& a, const IpAddress& b) const {
    return !cuts_.empty() && cuts_.contains(std::minmax(a, b));
  }
  void touch_all();
  void traced(const char* what, const Datagram& datagram) const;
  [[nodiscard]] std::optional<Duration> cross(Attachment& attachment, bool inbound);

  Instant now_{std::chrono::hours{1}};
  Duration wall_offset_ = std::chrono::seconds{1'800'000'000};
  std::map<std::uint64_t, Node*> nodes_;  // in order of attachment: a run depends on nothing but its seed
  std::unordered_map<const Node*, Registered> registered_;
  std::set<std::pair<Instant, std::uint64_t>> deadlines_;
  std::uint64_t next_node_ = 0;
  std::list<Attachment> attachments_;
  std::unordered_map<IpAddress, std::vector<Attachment*>> by_address_;
  std::vector<std::unique_ptr<NatBox>> nats_;
  std::set<std::pair<IpAddress, IpAddress>> cuts_;
  std::multimap<Instant, Flight> flying_;
  struct Action {
    std::function<void()> run;
    Node* only;
  };
  std::multimap<Instant, Action> actions_;
  Statistics statistics_;
};

// A TurnServer as a node.
class RelayNode : public Node {
 public:
  RelayNode(TurnServer::Config config, Random& random) : server(std::move(config), random) {}
  void receive(Datagram datagram, Now now) override {
    server.set_wall(now.wall);
    if (up) server.handle(datagram, now.monotonic, outbox);
  }
  [[nodiscard]] Instant deadline() const override { return kNever; }
  void timeout(Now) override {}

  TurnServer server;
  bool up = true;
};

}  // namespace penstock::model
