// perf-flow-table: looking flows up, beside DPDK's rte_hash (lock-free, bulk) and liburcu's cds_lfht, in one run.
//
// The same keys (the inside key of a flow), the same seeded hash, the same random order of existing keys, in bursts of
// 64; the three take turns in every round, and what is compared are ratios of the same round. All memory is in pages of
// 4 KiB. Also: how long a flow takes to set up (record, both indexes, wheel) and how much memory that takes.
#include <fmt/format.h>
#include <x86intrin.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>

#include "dataplane/core/flow/table.h"
#include "dataplane/runtime/rcu.h"
#include "dataplane/runtime/system_random.h"
#include "perf/flow_table/rival_hashes.h"
#include "perf/rows/figures.h"

namespace penstock::perf {
namespace {

constexpr std::size_t kLookBurst = 64;

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096;
}

flow::FlowRecord record_of(std::uint32_t n) {
  flow::FlowRecord record{};
  const FlatKey key = key_of(n);
  const flow::InsideKey inside = inside_key(key);
  record.inside_source = inside.source;
  record.inside_destination = inside.destination;
  record.peer = inside.peer;
  record.inside_source_port = inside.source_port;
  record.inside_destination_port = inside.destination_port;
  record.protocol = inside.protocol;
  record.translation = flow::Translation::nat64;
  record.remote = IpAddress::v4(0xcb007100U + n / 60000);
  record.source_port = static_cast<std::uint16_t>(1024 + n % 60000);
  record.remote_port = 443;
  return record;
}

struct Own {
  explicit Own(std::uint32_t count, Random& random) : table(count, kPeers, random) {}

  void fill(std::uint32_t count) {
    const IpAddress ours = IpAddress::v4({203, 0, 113, 1});
    for (std::uint32_t n = 0; n < count; ++n) {
      const flow::FlowRecord record = record_of(n);
      const std::uint64_t in = table.hash(record.inside_key());
      const std::uint64_t out = table.hash(
          flow::OutsideKey{ours, record.remote, record.source_port, record.remote_port, record.protocol});
      const flow::Slot slot = table.insert(record, in, out);
      if (slot == flow::kNoSlot) {
        fmt::print(stderr, "the table is full at {} flows\n", n);
        std::exit(1);
      }
      table.wheel().schedule(slot, 4000 + n % 256);
    }
  }
  // As the translator does it: hash and prefetch the buckets, prefetch the records, find.
  std::uint64_t look_up(const FlatKey* keys) const {
    std::array<std::uint64_t, kLookBurst> hashes;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < kLookBurst; ++i) {
      hashes[i] = table.hash(inside_key(keys[i]));
      table.prefetch_inside(hashes[i]);
    }
    for (std::size_t i = 0; i < kLookBurst; ++i) table.prefetch_inside_record(hashes[i]);
    for (std::size_t i = 0; i < kLookBurst; ++i) sum += table.find(inside_key(keys[i]), hashes[i]);
    return sum;
  }

  flow::FlowTable table;
};

struct Round {
  double own = 0, rte = 0, lfht = 0;
};

template <typename Table>
double cycles_per_lookup(const Table& table, const std::vector<FlatKey>& keys, std::uint64_t& sum) {
  const std::uint64_t start = __rdtsc();
  for (std::size_t at = 0; at + kLookBurst <= keys.size(); at += kLookBurst) sum += table.look_up(keys.data() + at);
  return static_cast<double>(__rdtsc() - start) / static_cast<double>(keys.size() / kLookBurst * kLookBurst);
}

void measure(std::uint32_t count, unsigned rounds, std::vector<Figure>& figures) {
  runtime::SystemRandom random;
  const std::uint64_t before = resident_bytes();
  Own own(count, random);
  const std::uint64_t start = __rdtsc();
  own.fill(count);
  const double set_up = static_cast<double>(__rdtsc() - start) / count;
  const double memory = static_cast<double>(resident_bytes() - before) / count;
  const RteHash rte(count, random);
  const LfHash lfht(count, random);

  std::mt19937_64 order(count);
  std::vector<FlatKey> keys(1 << 16);
  Samples own_cycles, rte_cycles, lfht_cycles, against_rte, against_lfht;
  std::uint64_t own_sum = 0, rte_sum = 0, lfht_sum = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    for (FlatKey& key : keys) key = key_of(static_cast<std::uint32_t>(order() % count));
    const Round r{cycles_per_lookup(own, keys, own_sum), cycles_per_lookup(rte, keys, rte_sum),
                  cycles_per_lookup(lfht, keys, lfht_sum)};
    own_cycles.add(r.own);
    rte_cycles.add(r.rte);
    lfht_cycles.add(r.lfht);
    against_rte.add(r.rte / r.own);
    against_lfht.add(r.lfht / r.own);
  }
  if (own_sum != rte_sum || own_sum != lfht_sum) {
    fmt::print(stderr, "the tables disagree\n");
    std::exit(1);
  }
  const double ratio = std::min(against_rte.median(), against_lfht.median());
  const bool rte_is_faster = rte_cycles.median() < lfht_cycles.median();
  fmt::print("{:>9}{:>8.0f}{:>8.0f}{:>8.0f}{:>9.2f} x{:>13.0f}{:>12.2f}{:>14.0f}\n", count, own_cycles.median(),
             rte_cycles.median(), lfht_cycles.median(), ratio, set_up, tsc_hz() / set_up / 1e6, memory);
  std::fflush(stdout);
  const std::string name = fmt::format("flow_table/{}", count);
  Figure lookup{.suite = "flow_table", .name = name + "/lookup", .value = own_cycles.median(), .unit = "cycles"};
  lookup.peer = rte_is_faster ? "rte_hash bulk" : "cds_lfht";
  lookup.peer_value = rte_is_faster ? rte_cycles.median() : lfht_cycles.median();
  lookup.ratio = ratio;
  lookup.spread = {own_cycles.quantile(0.1), own_cycles.quantile(0.9)};
  lookup.less_is_better = true;
  figures.push_back(lookup);
  figures.push_back({.suite = "flow_table", .name = name + "/set_up", .value = tsc_hz() / set_up / 1e6, .unit = "M/s",
                     .goal = 1.0});
  figures.push_back({.suite = "flow_table", .name = name + "/memory", .value = memory, .unit = "bytes", .goal = 268.0,
                     .less_is_better = true});
}

}  // namespace
}  // namespace penstock::perf

int main(int argc, char** argv) {
  using namespace penstock::perf;
  CLI::App app{"Measures the flow table beside rte_hash and cds_lfht."};
  std::vector<std::uint32_t> counts;
  std::string json;
  bool quick = false;
  app.add_option("--flows", counts, "numbers of flows (default 1000 1000000 10000000)");
  app.add_flag("--quick", quick, "without ten million, fewer rounds");
  app.add_option("--json", json, "write the figures to this file");
  CLI11_PARSE(app, argc, argv);
  if (counts.empty()) counts = quick ? std::vector<std::uint32_t>{1000, 1'000'000}
                                     : std::vector<std::uint32_t>{1000, 1'000'000, 10'000'000};
  if (!start_eal()) return 1;
  const penstock::runtime::rcu::ThreadRegistration registration;
  fmt::print("cycles of the time stamp counter per look-up, existing keys at random, bursts of 64\n");
  fmt::print("{:>9}{:>8}{:>8}{:>8}{:>11}{:>13}{:>12}{:>14}\n", "flows", "own", "rte", "lfht", "ratio", "set-up",
             "M set-up/s", "bytes/flow");
  std::vector<Figure> figures;
  for (const std::uint32_t count : counts) measure(count, quick ? 11 : 31, figures);
  return write_json(json, figures) ? 0 : 1;
}
