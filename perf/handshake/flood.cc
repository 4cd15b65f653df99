// The product's engine with all its threads, over ports in memory: a host on the LAN sends to clients in the tunnel as
// fast as the worker takes it (every packet is translated and encrypted), a hundred peers a second shake hands, and in
// every other window two million forged initiations a second with a valid mac1, from addresses all over the world,
// arrive at the tunnel's port: frames prepared beforehand, each sent under a new source address. The worker takes from
// both ports in turn, as many as there are of either.
//
// What is compared is data per second of the worker's own time: its thread also writes the frames, which a card would do,
// and that time is left out.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/wireguard/cookie.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/core/wireguard/handshake.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/config_static.h"
#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/system_random.h"
#include "perf/handshake/flood_ports.h"
#include "perf/handshake/suite.h"

namespace penstock::perf {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kForged = 1 << 12;
constexpr std::uint32_t kHandshakesPerSecond = 100;
constexpr std::size_t kFlows = 32;
constexpr std::uint16_t kPayload = 512;
const Endpoint kTunnel{IpAddress::v4(0xc6336401), 51820};

const char* const kConfiguration = R"(
private_key_file: unused
tunnel: {port: wan, listen_port: 51820}
workers: {count: 1, cores: [0], poll: busy}
max_peers: 4096
ports:
  - {name: wan, device: net_memory0, addresses: [198.51.100.1/24], mtu: 1500, mac: 02:00:00:00:00:01}
  - {name: lan, device: net_memory1, addresses: [203.0.113.1/24], mtu: 1500, mac: 02:00:00:00:00:02}
routes:
  - {to: 0.0.0.0/0, via: 198.51.100.254, port: wan}
)";

class Experiment {
 public:
  bool set_up();
  void window(bool flood, double seconds);
  void flood_alone(double seconds);
  void report(std::vector<Figure>& rows);
  ~Experiment() {
    bench_.data = false;
    bench_.flood_rate = 0;
    if (engine_) engine_->stop();
  }

 private:
  void arrive_wan(Frame frame) {
    const std::lock_guard lock(bench_.mutex);
    bench_.to_wan.push_back(std::move(frame));
    bench_.waiting_wan = true;
  }
  void arrive_lan(Frame frame) {
    const std::lock_guard lock(bench_.mutex);
    bench_.to_lan.push_back(std::move(frame));
    bench_.waiting_lan = true;
  }
  void make_forged();
  void make_legitimate(std::vector<runtime::PeerChange>& changes);
  bool open_flows();
  void answer_arp(const Frame& frame, bool wan);
  void take_answers();

  Bench bench_;
  BenchPool* pool_ = nullptr;
  BenchPlatform platform_;
  runtime::SystemRandom random_;
  wireguard::PublicKey gateway_;
  std::unique_ptr<wireguard::DhKey> gateway_key_;
  std::unique_ptr<wireguard::Device> client_;
  std::unique_ptr<runtime::Engine> engine_;
  std::unique_ptr<runtime::PolicyStore> store_;
  std::size_t next_legitimate_ = 0;
  std::vector<double> calm_, flooded_, ratios_, forged_rate_, alone_;
  std::array<std::size_t, 2> begun_{}, on_time_{};
};

bool Experiment::set_up() {
  cpu_set_t others;  // the worker has core 0 to itself as far as the machine allows
  CPU_ZERO(&others);
  CPU_SET(1, &others);
  pthread_setaffinity_np(pthread_self(), sizeof others, &others);
  auto parsed = runtime::parse_config(kConfiguration, "perf-handshake");
  if (const auto* error = std::get_if<runtime::ConfigError>(&parsed)) {
    std::fprintf(stderr, "perf-handshake: %s\n", error->to_string().c_str());
    return false;
  }
  auto& config = std::get<runtime::Config>(parsed);
  auto pool = std::make_unique<BenchPool>(32768);
  runtime::Engine::Parts parts;
  parts.ports.push_back(std::make_unique<WanPort>(bench_, *pool));
  parts.ports.push_back(std::make_unique<LanPort>(bench_, *pool));
  parts.pool = std::move(pool);
  parts.platform = &platform_;
  wireguard::PrivateKey key;
  random_.fill(key.bytes);
  gateway_key_ = std::make_unique<wireguard::DhKey>(key);
  gateway_ = gateway_key_->public_key();
  for (std::size_t i = 0; i < config.path.ports.size(); ++i) config.path.ports[i].mac = parts.ports[i]->mac();
  auto created = runtime::Engine::create(config, key.bytes, std::move(parts));
  if (const auto* error = std::get_if<runtime::ConfigError>(&created)) {
    std::fprintf(stderr, "perf-handshake: %s\n", error->to_string().c_str());
    return false;
  }
  engine_ = std::move(std::get<std::unique_ptr<runtime::Engine>>(created));
  store_ = std::make_unique<runtime::PolicyStore>(*engine_, config.pools, runtime::PolicyStore::Limits{},
                                                  runtime::own_addresses(engine_->path()));
  engine_->start();
  make_forged();
  std::vector<runtime::PeerChange> changes;
  make_legitimate(changes);
  engine_->change_peers(changes);
  if (open_flows()) return true;
  std::fprintf(stderr, "perf-handshake: no flow came up in 20 s\n");
  return false;
}

void Experiment::make_forged() {
  std::array<std::uint8_t, sizeof(wireguard::InitiationMessage)> message;
  for (std::size_t i = 0; i < kForged; ++i) {
    random_.fill(message);
    store_le<std::uint32_t>(message.data(), 1);
    wireguard::put_mac1(message, gateway_);
    wireguard::put_mac2(message, std::nullopt);
    const Endpoint source{IpAddress::v4(0x0b000000 + random_.below(0x50000000)),
                          static_cast<std::uint16_t>(1024 + random_.below(60000))};
    bench_.forged.push_back(udp_frame({2, 0, 0, 0, 0, 1}, source, kTunnel, message));
  }
}

// Each of these peers shakes hands once; the portal has told the gateway where to expect it, as it does.
void Experiment::make_legitimate(std::vector<runtime::PeerChange>& changes) {
  const Now now = runtime::read_clock();
  for (std::size_t i = 0; i < kLegitimate; ++i) {
    wireguard::PrivateKey key, ephemeral;
    random_.fill(key.bytes);
    random_.fill(ephemeral.bytes);
    const wireguard::DhKey own(key);
    wireguard::Hash shared;
    wireguard::InitiatorState state;
    Legitimate& one = bench_.legitimate[i];
    one.source = {IpAddress::v4(0xc6120000 + static_cast<std::uint32_t>(i)), 51820};
    if (!own.agree(gateway_, shared) ||
        !wireguard::create_initiation(own, gateway_, shared, ephemeral, wireguard::make_timestamp(now.wall),
                                      static_cast<std::uint32_t>(i), one.message, state))
      std::abort();
    wireguard::put_mac1({reinterpret_cast<std::uint8_t*>(&one.message), sizeof one.message}, gateway_);
    runtime::PeerChange change;
    change.spec.public_key = own.public_key().bytes;
    change.spec.tunnel_v4 = IpAddress::v4(0x64400100 + static_cast<std::uint32_t>(i));
    change.spec.endpoints = {one.source};
    changes.push_back(std::move(change));
  }
}

// A client's session, flows through it, and from what comes out at the LAN the frames that go back.
bool Experiment::open_flows() {
  wireguard::DeviceConfig device;
  random_.fill(device.private_key.bytes);
  client_ = std::make_unique<wireguard::Device>(device, random_);
  wireguard::PeerConfig gateway;
  gateway.public_key = gateway_;
  gateway.endpoints = {kTunnel};
  const PeerIndex peer = client_->add_peer(gateway, runtime::read_clock()).peer;
  runtime::PeerSpec spec;
  spec.public_key = client_->public_key().bytes;
  spec.tunnel_v4 = IpAddress::v4(0x64400002);
  runtime::AuthorisationSpec lan;
  lan.id = "a";
  lan.peer = spec.public_key;
  lan.resource = "lan";
  lan.kind = policy::ResourceKind::cidr;
  lan.prefix = *Prefix::parse("203.0.113.0/24");
  if (!store_->apply({.operations = {spec, lan}}, runtime::PolicyStore::Origin::control).errors.empty()) return false;

  const Endpoint client{IpAddress::v4(0xc6336402), 40000};
  const Endpoint host{IpAddress::v4(0xcb007150), 9};
  const auto end = Clock::now() + 20s;
  for (int turn = 0; bench_.lan_frames.size() < kFlows && Clock::now() < end; ++turn) {
    const Now now = runtime::read_clock();
    if (turn % 50 == 0) {
      for (std::uint16_t flow = 0; flow < kFlows; ++flow) {
        const Frame whole = udp_frame({}, {spec.tunnel_v4, static_cast<std::uint16_t>(2000 + flow)}, host, Frame(16));
        client_->send(peer, Bytes{whole}.subspan(14), now);
      }
    }
    if (now.monotonic >= client_->poll_timeout().at) client_->handle_timeout(now);
    while (const auto out = client_->poll_output())
      arrive_wan(udp_frame({2, 0, 0, 0, 0, 1}, client, kTunnel, out->bytes));
    std::deque<Frame> from_wan, from_lan;
    {
      const std::lock_guard lock(bench_.mutex);
      from_wan.swap(bench_.from_wan);
      from_lan.swap(bench_.from_lan);
    }
    for (Frame& frame : from_wan) {
      answer_arp(frame, true);
      if (frame[12] == 8 && frame[13] == 0 && udp_endpoint(frame, false) == client)
        client_->handle_datagram(MutableBytes{frame}.subspan(42), {client, kTunnel, 0}, now);
    }
    std::vector<Endpoint> seen;
    for (const Frame& frame : bench_.lan_frames) seen.push_back(udp_endpoint(frame, false));
    for (const Frame& frame : from_lan) {
      answer_arp(frame, false);
      if (frame[12] != 8 || frame[13] != 0 || bench_.lan_frames.size() == kFlows) continue;
      const Endpoint outside = udp_endpoint(frame, true);
      if (std::find(seen.begin(), seen.end(), outside) != seen.end()) continue;
      seen.push_back(outside);
      bench_.lan_frames.push_back(udp_frame({2, 0, 0, 0, 0, 2}, host, outside, Frame(kPayload)));
    }
    std::this_thread::sleep_for(1ms);
  }
  return bench_.lan_frames.size() == kFlows;
}

void Experiment::answer_arp(const Frame& frame, bool wan) {
  if (Frame answer = arp_answer(frame); !answer.empty()) wan ? arrive_wan(answer) : arrive_lan(answer);
}

void Experiment::take_answers() {
  std::deque<Frame> sent;
  {
    const std::lock_guard lock(bench_.mutex);
    sent.swap(bench_.from_wan);
  }
  for (const Frame& frame : sent) {
    answer_arp(frame, true);
    if (frame[12] != 8 || frame[13] != 0 || frame.size() < 42 + sizeof(wireguard::ResponseMessage) || frame[42] != 2)
      continue;
    const auto number = load_le<std::uint32_t>(frame.data() + 42 + 8);  // the receiver: our index
    if (number >= kLegitimate || bench_.legitimate[number].answered) continue;
    bench_.legitimate[number].answered_at = Clock::now();
    bench_.legitimate[number].answered = true;
  }
}

// Handshakes, and data if any, for a while; then until all handshakes are done or too late.
void Experiment::window(bool flood, double seconds) {
  bench_.data = true;
  bench_.flood_rate = flood ? kFloodRate : 0;
  const std::size_t first = next_legitimate_;
  const auto start = Clock::now();
  const std::uint64_t packets = bench_.data_packets, forged = bench_.forged_packets, card = bench_.card_cycles;
  const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  while (passed() < seconds) {
    const auto due = first + static_cast<std::size_t>(passed() * kHandshakesPerSecond);
    for (; next_legitimate_ < std::min(due, kLegitimate); ++next_legitimate_) {
      Legitimate& one = bench_.legitimate[next_legitimate_];
      one.sent = Clock::now();
      arrive_wan(udp_frame({2, 0, 0, 0, 0, 1}, one.source, kTunnel,
                           {reinterpret_cast<const std::uint8_t*>(&one.message), sizeof one.message}));
    }
    take_answers();
    std::this_thread::sleep_for(500us);
  }
  const double took = passed();
  const double elsewhere = static_cast<double>(bench_.card_cycles - card) / tsc_hz();
  (flood ? flooded_ : calm_).push_back(static_cast<double>(bench_.data_packets - packets) / (took - elsewhere));
  if (flood) {
    forged_rate_.push_back(static_cast<double>(bench_.forged_packets - forged) / took);
    ratios_.push_back(flooded_.back() / calm_.back());
  }
  const auto all_done = [&] {
    take_answers();
    for (std::size_t i = first; i < next_legitimate_; ++i)
      if (!bench_.legitimate[i].answered) return false;
    return true;
  };
  for (const auto end = Clock::now() + 1s; !all_done() && Clock::now() < end;) std::this_thread::sleep_for(1ms);
  for (std::size_t i = first; i < next_legitimate_; ++i) {
    const Legitimate& one = bench_.legitimate[i];
    ++begun_[flood];
    on_time_[flood] += one.answered && one.answered_at - one.sent <= 1s;
  }
}

// How many forged messages the worker and the gate take when there is nothing else.
void Experiment::flood_alone(double seconds) {
  bench_.data = false;
  bench_.flood_rate = 20e6;
  const auto start = Clock::now();
  const std::uint64_t forged = bench_.forged_packets;
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  alone_.push_back(static_cast<double>(bench_.forged_packets - forged) /
                   std::chrono::duration<double>(Clock::now() - start).count());
  bench_.flood_rate = 0;
}

void Experiment::report(std::vector<Figure>& rows) {
  const auto row = [](std::string name, double value, std::string unit) {
    Figure made;
    made.suite = "handshake";
    made.name = std::move(name);
    made.value = value;
    made.unit = std::move(unit);
    return made;
  };
  Figure data = row("flood/data", quantile(flooded_, 0.5) / 1e6, "Mpps");
  data.peer = "without the flood";
  data.peer_value = quantile(calm_, 0.5) / 1e6;
  data.ratio = quantile(ratios_, 0.5);
  data.goal_ratio = 0.85;
  data.spread = {quantile(flooded_, 0) / 1e6, quantile(flooded_, 1) / 1e6};
  data.note = "512-byte payloads, LAN to tunnel, per second of the worker's own time; the flood comes on top";
  rows.push_back(data);
  Figure forged = row("flood/forged", quantile(forged_rate_, 0.5) / 1e6, "Mpps");
  forged.limit = kFloodRate / 1e6;
  forged.spread = {quantile(forged_rate_, 0) / 1e6, quantile(forged_rate_, 1) / 1e6};
  forged.note = "taken by the worker beside its data; the limit is what was sent";
  rows.push_back(forged);
  Figure alone = row("flood/alone", quantile(alone_, 0.5) / 1e6, "Mpps");
  alone.note = "forged messages that one worker takes when there is no data";
  rows.push_back(alone);
  const auto share = [&](bool flood) {
    return 100.0 * static_cast<double>(on_time_[flood]) / static_cast<double>(std::max<std::size_t>(begun_[flood], 1));
  };
  Figure done = row("flood/handshakes", share(true), "% done in 1 s");
  done.peer = "without the flood";
  done.peer_value = share(false);
  done.goal = 99;
  done.note = "100 a second, of peers whose address is known, none repeated";
  rows.push_back(done);
  std::printf("flood       %8.2f Mpps forged; data %.2f Mpps, without it %.2f (%.0f %%, %.0f to %.0f); %.1f %% of %zu "
              "handshakes in 1 s, without it %.1f %%\n",
              forged.value, data.value, *data.peer_value, 100 * *data.ratio, 100 * quantile(ratios_, 0.1),
              100 * quantile(ratios_, 0.9), done.value, begun_[1], *done.peer_value);
  std::printf("            %8.2f Mpps forged alone; lost before the worker: %llu forged, %llu others\n", alone.value,
              static_cast<unsigned long long>(bench_.lost_forged), static_cast<unsigned long long>(bench_.lost));
  const auto counters = engine_->counters();
  for (std::size_t i = 0; i < kDropReasonCount; ++i)
    if (counters.drops[i] != 0)
      std::printf("    %-24s %llu\n", std::string(name_of(static_cast<DropReason>(i))).c_str(),
                  static_cast<unsigned long long>(counters.drops[i]));
}

}  // namespace

bool measure_flood(bool quick, std::vector<Figure>& rows) {
  std::fprintf(stderr, "data and handshakes with and without a flood\n");
  Experiment experiment;
  if (!experiment.set_up()) return false;
  for (int i = 0; i < (quick ? 12 : 40); ++i) {
    experiment.window(false, 0.25);
    experiment.window(true, 0.25);
    if (i % 4 == 0) experiment.flood_alone(0.1);
  }
  experiment.report(rows);
  return true;
}

}  // namespace penstock::perf
