// A simple, slow NAT that is obviously right, beside the real one: every packet of random traces must fare alike, in
// bursts, through all four translations, with UDP, TCP and ICMP, while flows expire, ports run out and limits bite.
//
// The model knows flows as rows of a list and looks through all of them. It takes from the translator what only the
// translator may choose (address and port of a new flow) and checks that the choice was free.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <array>
#include <set>

#include "dataplane/core/nat/tcp_state.h"
#include "dataplane/core/packet/headers.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::Octets;
using path::World;

constexpr std::uint16_t kFirstPort = 6000, kLastPort = 6009;
constexpr std::uint32_t kMaxFlows = 40, kMaxPerPeer = 25;
constexpr std::uint8_t kUdp = ip_protocol::udp, kTcp = ip_protocol::tcp, kIcmp = ip_protocol::icmp;

// What a client knows: a name with one address, by which it is reached over either family.
struct Name {
  const char* proxy[2];  // by family of the client: 0 IPv4, 1 IPv6
  const char* real;
};
constexpr std::array<Name, 3> kNames = {{{{"100.96.0.1", "fd00:2021:1111:8000::1"}, "203.0.113.80"},
                                         {{"100.96.0.2", "fd00:2021:1111:8000::2"}, "2001:db8:1a::80"},
                                         {{"100.96.0.3", "fd00:2021:1111:8000::3"}, "203.0.113.81"}}};
constexpr const char* kClients[3][2] = {{}, {"100.64.0.2", "fd00:2021:1111::2"}, {"100.64.0.3", "fd00:2021:1111::3"}};

struct Inside {
  int peer = 1;
  bool v6 = false;
  std::uint8_t protocol = kUdp;
  std::size_t name = 0;
  std::uint16_t port = 0;  // of the client, or the identifier
  std::uint16_t server_port = 0;
  auto operator<=>(const Inside&) const = default;
};

struct Outside {
  std::string address;
  std::uint16_t port = 0;
  bool operator==(const Outside&) const = default;
};

struct ModelFlow {
  Inside inside;
  Outside outside;
  TcpState state = TcpState::init;
  Instant last{};

  [[nodiscard]] std::chrono::seconds lifetime() const {
    if (inside.protocol == kIcmp) return std::chrono::seconds{60};
    if (inside.protocol == kUdp) return std::chrono::minutes{5};
    const bool established =
        state == TcpState::established || state == TcpState::fin_inside || state == TcpState::fin_outside;
    return established ? std::chrono::minutes{124} : std::chrono::minutes{4};
  }
};

std::string field(const path::Fields& fields, const std::string& name) {
  for (const auto& [key, value] : fields)
    if (key == name) return value;
  return {};
}

bool real_v6(const Inside& inside) {
  return std::string{kNames[inside.name].real}.find(':') != std::string::npos;
}

// One packet of a flow as its sender sends it; `from_inside` or from the server.
std::string text(const Inside& inside, const Outside& outside, bool from_inside, const std::string& flags, int data) {
  const bool v6 = from_inside ? inside.v6 : real_v6(inside);
  const std::string ours = from_inside ? kClients[inside.peer][inside.v6 ? 1 : 0] : outside.address;
  const std::string theirs = from_inside ? kNames[inside.name].proxy[inside.v6 ? 1 : 0] : kNames[inside.name].real;
  const std::uint16_t port = from_inside ? inside.port : outside.port;
  std::string out = std::string{v6 ? "ip6 hop=60" : "ip4 ttl=60"} + " src=" + (from_inside ? ours : theirs) +
                    " dst=" + (from_inside ? theirs : ours);
  if (inside.protocol == kIcmp) {
    out += std::string{" icmp type="} + (from_inside ? "echo" : "echo_reply") + " id=" + std::to_string(port);
  } else {
    out += inside.protocol == kTcp ? " tcp flags=" + flags : std::string{" udp"};
    out += " sport=" + std::to_string(from_inside ? port : inside.server_port) +
           " dport=" + std::to_string(from_inside ? inside.server_port : port);
  }
  return out + " data=#" + std::to_string(data);
}

std::uint8_t flag_bits(const std::string& flags) {
  static const std::string kOrder = "FSRPA";
  std::uint8_t out = 0;
  for (const char flag : flags) out = static_cast<std::uint8_t>(out | 1U << kOrder.find(flag));
  return out;
}

class Trial {
 public:
  explicit Trial(std::uint64_t seed) : random_{seed} {
    world_.config.source_v4 = {IpAddress::parse("203.0.113.1").value(), IpAddress::parse("203.0.113.2").value()};
    world_.config.first_port = kFirstPort;
    world_.config.last_port = kLastPort;
    world_.config.max_flows = kMaxFlows;
    world_.config.max_flows_per_peer = kMaxPerPeer;
    world_.config.icmp_errors_burst = 0;
    for (int index = 1; index <= 2; ++index) {
      policy::PeerPolicy& peer = world_.peers[static_cast<PeerIndex>(index)];
      peer.tunnel_v4 = IpAddress::parse(kClients[index][0]).value();
      peer.tunnel_v6 = IpAddress::parse(kClients[index][1]).value();
      policy::Authorisation& all = peer.authorisations.emplace_back();
      all.kind = policy::ResourceKind::dns;
      all.id = all.resource = std::string{"corp"};
      all.pattern = std::string{"**.example"};
      for (std::size_t i = 0; i < kNames.size(); ++i) {
        policy::Translation& name = peer.translations.emplace_back();
        name.id = name.name = "n" + std::to_string(i) + ".example";
        name.resource = std::string{"corp"};
        name.state = policy::TranslationState::active;
        name.proxy_v4 = IpAddress::parse(kNames[i].proxy[0]).value();
        name.proxy_v6 = IpAddress::parse(kNames[i].proxy[1]).value();
        const IpAddress real = IpAddress::parse(kNames[i].real).value();
        (real.is_v4() ? name.real_v4 : name.real_v6).push_back(real);
      }
    }
  }

  void step() {
    const std::uint32_t kind = random_.below(10);
    if (kind == 0) {
      static constexpr int kWaits[] = {10, 50, 61, 130, 241, 301, 3600, 7441};
      world_.after(std::chrono::seconds{kWaits[random_.below(8)]});
      expire();
    } else if (kind <= 6) {
      upward();
    } else {
      downward();
    }
    RC_ASSERT(world_.translator().flow_count() == flows_.size());
    RC_ASSERT(world_.packets().outstanding() == 0U);
  }

 private:
  ModelFlow* find(const Inside& inside) {
    for (ModelFlow& flow : flows_)
      if (flow.inside == inside) return &flow;
    return nullptr;
  }

  void expire() {
    std::erase_if(flows_, [&](const ModelFlow& f) { return world_.now().monotonic - f.last > f.lifetime(); });
  }

  std::string random_flags(bool from_inside) {
    static const std::vector<std::string> kInside = {"S", "S", "A", "PA", "FA", "R", "A"};
    static const std::vector<std::string> kOutside = {"SA", "SA", "S", "A", "PA", "FA", "R"};
    const auto& list = from_inside ? kInside : kOutside;
    return list[random_.below(static_cast<std::uint32_t>(list.size()))];
  }

  Inside random_inside() {
    static constexpr std::uint8_t kProtocols[] = {kUdp, kTcp, kTcp, kIcmp};
    Inside out{static_cast<int>(1 + random_.below(2)), random_.below(2) == 0, kProtocols[random_.below(4)],
               random_.below(3), static_cast<std::uint16_t>(kFirstPort - 4 + random_.below(16)), 53};
    if (out.protocol == kIcmp) out.server_port = 0;
    return out;
  }

  // A burst from the clients. The model judges each packet in turn, as if they had come one by one.
  void upward() {
    std::vector<World::Incoming> burst;
    std::vector<std::pair<Inside, std::string>> sent;
    for (std::uint32_t n = 1 + random_.below(8); n > 0; --n) {
      const bool known = random_.below(2) == 0 && !flows_.empty();
      const Inside inside = known ? flows_[random_.below(count())].inside : random_inside();
      const std::string flags = random_flags(true);
      burst.push_back({static_cast<PeerIndex>(inside.peer),
                       path::build_packet(text(inside, {}, true, flags, data_of(n))).bytes});
      sent.emplace_back(inside, flags);
    }
    const auto results = world_.up(burst);
    RC_ASSERT(results.size() == burst.size());  // errors and resets are switched off
    for (std::size_t i = 0; i < sent.size(); ++i)
      judge_up(sent[i].first, sent[i].second, results[i], data_of(static_cast<std::uint32_t>(sent.size() - i)));
  }

  static int data_of(std::uint32_t n) { return static_cast<int>(n * 5 % 23); }
  std::uint32_t count() const { return static_cast<std::uint32_t>(flows_.size()); }

  void judge_up(const Inside& inside, const std::string& flags, const World::Result& result, int data) {
    ModelFlow* flow = find(inside);
    if (flow == nullptr) {
      const DropReason reason = refusal(inside, flags);
      if (reason != DropReason::none) {
        RC_ASSERT(result.action == Action::drop);
        RC_ASSERT(result.reason == reason);
        return;
      }
    }
    RC_ASSERT(result.action == Action::to_outside);
    const path::Fields fields = path::describe_packet(result.bytes);
    const std::string ip = real_v6(inside) ? "ip6" : "ip4";
    const Outside seen{field(fields, ip + ".src"), port_of(fields, inside.protocol, true)};
    if (flow == nullptr) {
      RC_ASSERT(free_outside(inside, seen));
      flows_.push_back({inside, seen, TcpState::init, {}});
      flow = &flows_.back();
    }
    RC_ASSERT(seen == flow->outside);
    RC_ASSERT(field(fields, ip + ".dst") == kNames[inside.name].real);
    check_rest(fields, inside, ip, data);
    touch(*flow, true, flags);
  }

  // Why a new flow cannot be.
  DropReason refusal(const Inside& inside, const std::string& flags) {
    if (inside.protocol == kTcp && flags != "S") return DropReason::flow_tcp_not_syn;
    const auto of_peer = std::count_if(flows_.begin(), flows_.end(),
                                       [&](const ModelFlow& f) { return f.inside.peer == inside.peer; });
    if (of_peer >= kMaxPerPeer) return DropReason::flow_peer_limit;
    if (inside.protocol != kIcmp) {
      const std::size_t addresses = real_v6(inside) ? 1 : 2;
      if (towards(inside).size() == addresses * (kLastPort - kFirstPort + 1)) return DropReason::nat_ports_exhausted;
    }
    return flows_.size() == kMaxFlows ? DropReason::flow_table_full : DropReason::none;
  }

  // Our addresses and ports in use towards the same server and port.
  std::vector<Outside> towards(const Inside& inside) const {
    std::vector<Outside> out;
    for (const ModelFlow& f : flows_)
      if (f.inside.protocol == inside.protocol && f.inside.name == inside.name &&
          f.inside.server_port == inside.server_port)
        out.push_back(f.outside);
    return out;
  }

  bool free_outside(const Inside& inside, const Outside& outside) const {
    const auto used = towards(inside);
    const std::set<std::string> ours =
        real_v6(inside) ? std::set<std::string>{"2001:db8:1a::1"} : std::set<std::string>{"203.0.113.1", "203.0.113.2"};
    const bool in_range = inside.protocol == kIcmp || (outside.port >= kFirstPort && outside.port <= kLastPort);
    return ours.contains(outside.address) && in_range && std::find(used.begin(), used.end(), outside) == used.end();
  }

  static std::uint16_t port_of(const path::Fields& fields, std::uint8_t protocol, bool source) {
    const std::string name = protocol == kIcmp ? "icmp.id"
                             : protocol == kTcp ? (source ? "tcp.sport" : "tcp.dport")
                                                : (source ? "udp.sport" : "udp.dport");
    return static_cast<std::uint16_t>(std::atoi(field(fields, name).c_str()));
  }

  static void check_rest(const path::Fields& fields, const Inside& inside, const std::string& ip, int data) {
    RC_ASSERT(field(fields, ip == "ip6" ? "ip6.hop" : "ip4.ttl") == "59");
    if (ip == "ip4") RC_ASSERT(field(fields, "ip4.sum") == "ok");
    const std::string l4 = inside.protocol == kIcmp ? "icmp" : inside.protocol == kTcp ? "tcp" : "udp";
    RC_ASSERT(field(fields, l4 + ".sum") == "ok");
    RC_ASSERT(field(fields, l4 + ".data").size() == static_cast<std::size_t>(2 * data));
  }

  void downward() {
    Inside inside = random_inside();
    Outside outside{real_v6(inside) ? "2001:db8:1a::1" : random_.below(2) == 0 ? "203.0.113.1" : "203.0.113.2",
                    static_cast<std::uint16_t>(kFirstPort + random_.below(10))};
    if (random_.below(4) != 0 && !flows_.empty()) {
      const ModelFlow& one = flows_[random_.below(count())];
      inside = one.inside;
      outside = one.outside;
    }
    const std::string flags = random_flags(false);
    const auto results = world_.down(path::build_packet(text(inside, outside, false, flags, 9)).bytes);
    ModelFlow* flow = nullptr;
    for (ModelFlow& f : flows_)
      if (f.outside == outside && f.inside.protocol == inside.protocol && f.inside.name == inside.name) flow = &f;
    RC_ASSERT(results.size() <= 1U);
    if (flow == nullptr) {
      RC_ASSERT(results.empty() || results[0].action != Action::to_inside);
      return;
    }
    RC_ASSERT(results.size() == 1U);
    RC_ASSERT(results[0].action == Action::to_inside);
    RC_ASSERT(results[0].peer == static_cast<PeerIndex>(flow->inside.peer));
    const path::Fields fields = path::describe_packet(results[0].bytes);
    const std::string ip = flow->inside.v6 ? "ip6" : "ip4";
    RC_ASSERT(field(fields, ip + ".dst") == kClients[flow->inside.peer][flow->inside.v6 ? 1 : 0]);
    RC_ASSERT(field(fields, ip + ".src") == kNames[flow->inside.name].proxy[flow->inside.v6 ? 1 : 0]);
    RC_ASSERT(port_of(fields, flow->inside.protocol, false) == flow->inside.port);
    check_rest(fields, flow->inside, ip, 9);
    touch(*flow, false, flags);
  }

  void touch(ModelFlow& flow, bool from_inside, const std::string& flags) {
    if (flow.inside.protocol != kTcp) {
      flow.last = world_.now().monotonic;
      return;
    }
    const TcpStep step = tcp_step(flow.state, from_inside, flag_bits(flags));
    flow.state = step.state;
    if (step.lifetime != TcpLifetime::unchanged) flow.last = world_.now().monotonic;
  }

  World world_;
  path::SeededRandom random_;
  std::vector<ModelFlow> flows_;
};

// trap: nat-1, nat-2, nat-12, nat-24, nat-25
TEST(ReferenceNat, AgreesOverRandomTraces) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    Trial trial{seed};
    for (int step = 0; step < 120; ++step) trial.step();
  }));
}

}  // namespace
}  // namespace penstock::nat
