// Translation of 64-byte packets of existing flows, warm: bursts of 64, every packet of another flow, the same again
// and again. Besides the whole call of the translator, what has to be taken off it is measured in the same run: laying
// the packets ready (the last call has rewritten them), and the look-up in a table of the same flows by keys that are
// ready.
#include <benchmark/benchmark.h>

#include <array>
#include <memory>
#include <string>
#include <tuple>

#include "dataplane/core/flow/table.h"
#include "dataplane/runtime/clock.h"
#include "perf/harness/bench_gateway.h"
#include "perf/micro/suite.h"

namespace penstock::perf {
namespace {

constexpr std::uint16_t kSize = 64;

class Rig {
 public:
  Rig(bool inside6, bool outside6)
      : gateway_(shape(inside6, outside6)), table_(kBurst, 1, random_), now_(runtime::read_clock()) {
    gateway_.connect();
    gateway_.open_flows();
    for (std::uint32_t number = 0; number < kBurst; ++number) {
      const Flow flow = flow_of(number, 1);
      Packet* packet = gateway_.pool(0).allocate();
      packet->peer = gateway_.peer(0);
      packets_[number] = packet;
      starts_[number] = packet->data;
      write_from_client(flow, gateway_.shape().families, kSize, number, tcp_flag::ack, bytes_[number].data());
      flow::FlowRecord record{};
      record.inside_source = tunnel_address(0, inside6);
      record.inside_destination = proxy_address(flow.server, inside6);
      record.peer = 0;
      record.inside_source_port = flow.port;
      record.inside_destination_port = flow.service_port;
      record.protocol = flow.tcp ? ip_protocol::tcp : ip_protocol::udp;
      keys_[number] = record.inside_key();
      table_.insert(record, table_.hash(keys_[number]), number);
    }
  }

  void restore() {
    for (std::size_t i = 0; i < kBurst; ++i) {
      Packet& packet = *packets_[i];
      packet.data = starts_[i];
      packet.length = kSize;
      packet.headroom = kMinHeadroom;
      std::memcpy(packet.data, bytes_[i].data(), kSize);
    }
  }

  // False: not every packet went out.
  bool translate() {
    gateway_.translator(0).translate_up(packets_, gateway_.policies().view(), now_, outcomes_);
    std::size_t passed = 0;
    for (const nat::Outcome& outcome : outcomes_) passed += outcome.action == nat::Action::to_outside ? 1 : 0;
    outcomes_.clear();
    return passed == kBurst;
  }

  bool look_up() {
    std::uint64_t hashes[kBurst];
    std::size_t found = 0;
    for (std::size_t i = 0; i < kBurst; ++i) {
      hashes[i] = table_.hash(keys_[i]);
      table_.prefetch_inside(hashes[i]);
    }
    for (std::size_t i = 0; i < kBurst; ++i) table_.prefetch_inside_record(hashes[i]);
    for (std::size_t i = 0; i < kBurst; ++i) found += table_.find(keys_[i], hashes[i]) != flow::kNoSlot ? 1 : 0;
    return found == kBurst;
  }

 private:
  static Shape shape(bool inside6, bool outside6) {
    Shape out;
    out.peers = 1;
    out.flows = kBurst;
    out.families = {inside6, outside6};
    out.largest = kSize;
    out.buffers = 1024;
    return out;
  }

  runtime::SystemRandom random_;
  BenchGateway gateway_;
  flow::FlowTable table_;
  const Now now_;
  nat::Outcomes outcomes_;
  std::array<Packet*, kBurst> packets_{};
  std::array<std::uint8_t*, kBurst> starts_{};
  std::array<std::array<std::uint8_t, kSize>, kBurst> bytes_{};
  std::array<flow::InsideKey, kBurst> keys_{};
};

std::array<std::unique_ptr<Rig>, 4> rigs;  // by families; made when first asked for

enum class What { translate, restore, look_up };

void run(benchmark::State& state, Rig& rig, What what) {
  for (auto _ : state) {
    bool right = true;
    if (what != What::look_up) rig.restore();
    benchmark::ClobberMemory();
    if (what == What::translate) right = rig.translate();
    if (what == What::look_up) right = rig.look_up();
    if (!right) {
      state.SkipWithError("a packet went another way");
      break;
    }
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * kBurst));
}

}  // namespace

void register_translation() {
  for (const auto& [kind, inside6, outside6] :
       {std::tuple{"nat64", true, false}, {"nat44", false, false}, {"nat66", true, true}, {"nat46", false, true}}) {
    const std::string base = std::string("translate/") + kind;
    for (const auto& [name, what] :
         {std::pair{kWholeCall, What::translate}, {kLayReady, What::restore}, {kLookUp, What::look_up}})
      benchmark::RegisterBenchmark((base + name).c_str(), [=](benchmark::State& state) {
        std::unique_ptr<Rig>& rig = rigs[(inside6 ? 2U : 0U) + (outside6 ? 1U : 0U)];
        if (rig == nullptr) rig = std::make_unique<Rig>(inside6, outside6);
        run(state, *rig, what);
      });
  }
}

}  // namespace penstock::perf
