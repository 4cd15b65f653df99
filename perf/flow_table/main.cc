// perf-flow-table: looking flows up, beside DPDK's rte_hash (lock-free, bulk) and liburcu's cds_lfht, in one run.
//
// The same keys (the inside key of a flow), the same seeded hash, existing keys at random, in bursts of 64. The three take
// turns in every round, each with keys that the others have in other rounds, and what is compared are ratios of the same
// round. All memory is on large pages.
//
// A gateway looks up in order to have the flow's record, the two lines that a packet is judged and rewritten by, so that
// is where the clock stops: of all three in the same records, which the rivals' users would fetch as soon as they know
// them. Our index leads to the record itself, theirs to a copy of the key and then to it. Beside that what the rivals take
// to say no more than which record it is.
//
// Also: how long a flow takes to set up (record, both indexes, wheel) and how much memory that takes.
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

constexpr std::size_t kKeys = 1 << 18;  // a round's: their records are more than caches hold
constexpr std::size_t kTables = 3;

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
  // As the translator does it: hash and prefetch the buckets, prefetch the records, which are nearly always right.
  bool look_up(const FlatKey* keys, flow::Slot* found) const {
    std::array<std::uint64_t, kLookBurst> hashes;
    for (std::size_t i = 0; i < kLookBurst; ++i) {
      hashes[i] = table.hash(inside_key(keys[i]));
      table.prefetch_inside(hashes[i]);
    }
    for (std::size_t i = 0; i < kLookBurst; ++i) found[i] = table.prefetch_inside_record(hashes[i]);
    bool all = true;
    for (std::size_t i = 0; i < kLookBurst; ++i) {
      const flow::InsideKey key = inside_key(keys[i]);
      if (found[i] == flow::kNoSlot || !table.is(found[i], key)) found[i] = table.find(key, hashes[i]);
      all &= found[i] != flow::kNoSlot;
    }
    return all;
  }

  flow::FlowTable table;
};

// The rivals' records are not on their way yet.
enum class Records { none, fetched, here };

std::uint64_t read(const flow::FlowTable& table, const flow::Slot* slots, Records records) {
  if (records == Records::fetched)
    for (std::size_t i = 0; i < kLookBurst; ++i) {
      prefetch_read(&table[slots[i]]);
      prefetch_read(&table[slots[i]].remote);
    }
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < kLookBurst; ++i)
    sum += records == Records::none ? slots[i] : slots[i] + table[slots[i]].source_port + table[slots[i]].packets_up;
  return sum;
}

template <typename Table>
double cycles_per_lookup(const Table& table, const flow::FlowTable& flows, Records records,
                         const std::vector<FlatKey>& keys, std::uint64_t& sum) {
  std::array<flow::Slot, kLookBurst> slots;
  const std::uint64_t start = __rdtsc();
  for (std::size_t at = 0; at < keys.size(); at += kLookBurst) {
    if (!table.look_up(keys.data() + at, slots.data())) {
      fmt::print(stderr, "a table does not find what it has\n");
      std::exit(1);
    }
    sum += read(flows, slots.data(), records);
  }
  return static_cast<double>(__rdtsc() - start) / static_cast<double>(keys.size());
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
  std::array<std::vector<FlatKey>, kTables> keys;
  for (auto& set : keys) set.resize(kKeys);
  Samples own_cycles, rte_cycles, lfht_cycles, rte_slots, lfht_slots, against_rte, against_lfht, against_slots;
  std::array<std::uint64_t, kTables> sums{};
  std::uint64_t none = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    if (round % kTables == 0)
      for (auto& set : keys)
        for (FlatKey& key : set) key = key_of(static_cast<std::uint32_t>(order() % count));
    const auto& first = keys[round % kTables];
    const auto& second = keys[(round + 1) % kTables];
    const auto& third = keys[(round + 2) % kTables];
    const double ours = cycles_per_lookup(own, own.table, Records::here, first, sums[0]);
    const double rtes = cycles_per_lookup(rte, own.table, Records::fetched, second, sums[1]);
    const double lfhts = cycles_per_lookup(lfht, own.table, Records::fetched, third, sums[2]);
    const double rte_slot = cycles_per_lookup(rte, own.table, Records::none, first, none);
    const double lfht_slot = cycles_per_lookup(lfht, own.table, Records::none, second, none);
    own_cycles.add(ours);
    rte_cycles.add(rtes);
    lfht_cycles.add(lfhts);
    rte_slots.add(rte_slot);
    lfht_slots.add(lfht_slot);
    against_rte.add(rtes / ours);
    against_lfht.add(lfhts / ours);
    against_slots.add(std::min(rte_slot, lfht_slot) / ours);
  }
  if (sums[0] != sums[1] || sums[0] != sums[2]) {
    fmt::print(stderr, "the tables disagree\n");
    std::exit(1);
  }
  const bool rte_is_faster = rte_cycles.median() < lfht_cycles.median();
  const Samples& ratio = rte_is_faster ? against_rte : against_lfht;
  fmt::print("{:>9}{:>7.0f} ({:.0f}-{:.0f}){:>8.0f}{:>8.0f}{:>9.2f} x ({:.2f}-{:.2f}){:>8.0f}{:>8.0f}{:>8.2f} x{:>9.0f}{:>12.2f}{:>12.0f}\n",
             count, own_cycles.median(), own_cycles.quantile(0.1), own_cycles.quantile(0.9), rte_cycles.median(),
             lfht_cycles.median(), ratio.median(), ratio.quantile(0.1), ratio.quantile(0.9), rte_slots.median(),
             lfht_slots.median(), against_slots.median(), set_up, tsc_hz() / set_up / 1e6, memory);
  std::fflush(stdout);
  const std::string name = fmt::format("flow_table/{}", count);
  Figure lookup{.suite = "flow_table", .name = name + "/lookup", .value = own_cycles.median(), .unit = "cycles"};
  lookup.peer = rte_is_faster ? "rte_hash bulk" : "cds_lfht";
  lookup.peer_value = rte_is_faster ? rte_cycles.median() : lfht_cycles.median();
  lookup.ratio = ratio.median();
  lookup.note = fmt::format("until the flow's record is at hand; the rival takes {:.0f} to say which record it is ({:.2f} x)",
                            rte_is_faster ? rte_slots.median() : lfht_slots.median(), against_slots.median());
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
  fmt::print("cycles of the time stamp counter per look-up, existing keys at random, bursts of 64, medians (10-90 % of rounds):\n"
             "until the record is at hand, and of the rivals until they know which it is\n");
  fmt::print("{:>9}{:>17}{:>8}{:>8}{:>23}{:>8}{:>8}{:>10}{:>9}{:>12}{:>12}\n", "flows", "own", "rte", "lfht", "ratio", "rte",
             "lfht", "ratio", "set-up", "M set-up/s", "bytes/flow");
  std::vector<Figure> figures;
  for (const std::uint32_t count : counts) measure(count, quick ? 12 : 30, figures);
  return write_json(json, figures) ? 0 : 1;
}
