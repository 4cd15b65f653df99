// Hot functions besides the AEAD, each over data that differs from call to call. Flow tables have a suite of their own.
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <vector>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/wireguard/blake2s_batch.h"
#include "dataplane/core/wireguard/cookie.h"
#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/core/wireguard/handshake_gate.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/replay.h"
#include "dataplane/core/wireguard/timer_heap.h"
#include "perf/micro/suite.h"

namespace penstock::perf {
namespace {

class TestRandom final : public Random {
 public:
  void fill(std::span<std::uint8_t> out) override {
    for (auto& byte : out) byte = static_cast<std::uint8_t>(engine_());
  }

 private:
  std::mt19937_64 engine_{1};
};

std::vector<std::uint8_t> random_bytes(std::size_t size) {
  std::vector<std::uint8_t> out(size);
  TestRandom().fill(out);
  return out;
}

void items(benchmark::State& state, std::size_t per_iteration) {
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * per_iteration));
}

void replay_accept(benchmark::State& state) {
  const auto window = std::make_unique<wireguard::ReplayWindow>();
  std::uint64_t counters[32];
  std::uint64_t next = 0;
  for (auto _ : state) {
    for (auto& counter : counters) counter = next++;
    benchmark::DoNotOptimize(window->accept_burst(counters, 32));
  }
  items(state, 32);
}

void replay_accept_reordered(benchmark::State& state) {
  const auto window = std::make_unique<wireguard::ReplayWindow>();
  std::uint64_t counters[32];
  std::uint64_t next = 0;
  for (auto _ : state) {
    for (std::size_t i = 0; i < 32; ++i) counters[i] = next + i * 13 % 32 * 64;  // every one in another block
    if (++next % 64 == 0) next += 31 * 64;
    benchmark::DoNotOptimize(window->accept_burst(counters, 32));
  }
  items(state, 32);
}

void checksum_of(benchmark::State& state, std::size_t size) {
  const auto bytes = random_bytes(size);
  for (auto _ : state) benchmark::DoNotOptimize(checksum_fold(checksum_add(0, bytes)));
  items(state, 1);
}

void parse_ip_udp(benchmark::State& state) {
  std::vector<std::uint8_t> packet(128);
  packet[0] = 0x45;
  packet[3] = 128;
  packet[8] = 64;
  packet[9] = 17;
  packet[12] = packet[16] = 10;
  packet[25] = 108;
  for (auto _ : state) benchmark::DoNotOptimize(parse_ip(packet, ParseMode::whole));
  items(state, 1);
}

void classify_message(benchmark::State& state) {
  auto data = random_bytes(128), initiation = random_bytes(148);
  store_le<std::uint32_t>(data.data(), 4);
  store_le<std::uint32_t>(initiation.data(), 1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(data.data());
    benchmark::DoNotOptimize(wireguard::classify(data));
    benchmark::DoNotOptimize(wireguard::classify(initiation));
  }
  items(state, 2);
}

// A keepalive deadline moved forward, as every rekey does, among a hundred thousand.
void timer_move(benchmark::State& state) {
  constexpr PeerIndex kPeers = 100'000;
  wireguard::TimerHeap timers;
  std::mt19937_64 random(1);
  std::int64_t now = 0;
  for (PeerIndex peer = 0; peer < kPeers; ++peer)
    timers.set(peer, Instant(Duration(static_cast<std::int64_t>(random() % 120'000'000'000))));
  for (auto _ : state) {
    timers.set(static_cast<PeerIndex>(random() % kPeers), Instant(Duration(now + 120'000'000'000)));
    now += 1000;
  }
  items(state, 1);
}

void mac1(benchmark::State& state, std::size_t batch) {
  const auto bytes = random_bytes(64 * 148);
  wireguard::Hash secret{1, 2, 3};
  const wireguard::MacKey key(secret);
  std::vector<const std::uint8_t*> messages;
  for (std::size_t i = 0; i < batch; ++i) messages.push_back(bytes.data() + 148 * i);
  wireguard::Mac macs[64];
  for (auto _ : state) {
    wireguard::mac_batch(key, messages, 116, macs);
    benchmark::DoNotOptimize(macs);
  }
  items(state, batch);
}

// A whole verdict on forged messages under load: mac1, known sources, rate, and cookies at their limit.
void gate_flood(benchmark::State& state) {
  TestRandom random;
  wireguard::PublicKey own;
  random.fill(own.bytes);
  wireguard::KnownSources known(100'000, random);
  for (std::uint32_t i = 0; i < 100'000; ++i) known.add(IpAddress::v4(0x0a000000 + i));
  wireguard::HandshakeGate gate(own, {}, &known, random);
  gate.set_under_load(true);
  std::vector<std::uint8_t> bytes(64 * 148);
  random.fill(bytes);
  wireguard::GateMessage messages[64];
  for (std::size_t i = 0; i < 64; ++i) {
    const MutableBytes message = MutableBytes{bytes}.subspan(148 * i, 148);
    store_le<std::uint32_t>(message.data(), 1);
    wireguard::put_mac1(message, own);
    wireguard::put_mac2(message, std::nullopt);
    messages[i].bytes = message;
  }
  std::uint32_t source = 0x20000000;
  Instant now(std::chrono::hours(1));
  for (auto _ : state) {
    for (auto& message : messages) message.source = {IpAddress::v4(source += 7919), 51820};
    now += std::chrono::microseconds(32);  // two million a second
    gate.judge(messages, now);
  }
  items(state, 64);
}

void x25519(benchmark::State& state) {
  TestRandom random;
  wireguard::PrivateKey ours, theirs;
  random.fill(ours.bytes);
  random.fill(theirs.bytes);
  const wireguard::DhKey own(ours), other(theirs);
  wireguard::Hash shared;
  for (auto _ : state) benchmark::DoNotOptimize(own.agree(other.public_key(), shared));
  items(state, 1);
}

}  // namespace

void register_functions() {
  benchmark::RegisterBenchmark("replay/in-order", replay_accept);
  benchmark::RegisterBenchmark("replay/reordered", replay_accept_reordered);
  benchmark::RegisterBenchmark("checksum/64", checksum_of, 64);
  benchmark::RegisterBenchmark("checksum/1420", checksum_of, 1420);
  benchmark::RegisterBenchmark("parse/udp4", parse_ip_udp);
  benchmark::RegisterBenchmark("classify/wireguard", classify_message);
  benchmark::RegisterBenchmark("timers/move-100k", timer_move);
  benchmark::RegisterBenchmark("mac1/single", mac1, 1);
  benchmark::RegisterBenchmark("mac1/batch64", mac1, 64);
  benchmark::RegisterBenchmark("gate/forged", gate_flood);
  benchmark::RegisterBenchmark("x25519/agree", x25519);
}

}  // namespace penstock::perf
