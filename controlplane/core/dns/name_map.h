// Names under DNS Resources and the proxy addresses that stand for them on this client (protocol.md, "Addresses").
//
// Invariants:
// - A name has one proxy address per family, the same for as long as the state directory lives; the map is written to a
//   file by the shell (serialise) whenever revision() differs from what was last written, and read back at the start
//   (load).
// - Both addresses of a name have the same offset ("slot") in their pools. Slots are handed out in ascending order from
// a
//   random start, so a slot comes up again only after a whole lap of the pool.
// - A slot is never handed to another name while either end may remember the old one: an evicted name's slot rests for
//   `reuse_after`, across restarts too. An evicted name is reported by poll_released, so that its flows end first.
// - Memory is bounded by max_names and max_resting; when both are exhausted, assign fails and changes nothing.
//
// Names are normalised text: lower case, A-labels, no final dot, no space or control characters (normalise_name in
// name.h). One thread. No clock: Now is passed in, and ages are wall time because they survive restarts.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::dns {

struct NameMapConfig {
  Prefix pool_v4 = *Prefix::parse("100.96.0.0/11");
  Prefix pool_v6 = *Prefix::parse("fd00:2021:1111:8000::/107");
  // Never handed out: the stub resolver's network and a cloud's metadata service.
  std::vector<Prefix> excluded = {*Prefix::parse("100.100.111.0/24"), *Prefix::parse("100.100.100.0/24"),
                                  *Prefix::parse("fd00:2021:1111:8000:100:100:111:0/112")};
  std::size_t max_names = 131072;
  std::size_t max_resting = 262144;
  std::uint32_t evict_after_s = 3600;   // a name unused for less is never evicted
  std::uint32_t reuse_after_s = 86400;  // rest of a slot between two names
};

struct ProxyAddresses {
  IpAddress v4;
  IpAddress v6;
  bool operator==(const ProxyAddresses&) const = default;
};

struct ReleasedName {
  std::string name;
  ProxyAddresses addresses;
};

enum class AddressUse : std::uint8_t {
  outside,     // not in a pool
  excluded,    // in a pool's excluded part: the resolver's network, metadata; never belongs to a Resource
  unassigned,  // in a pool, stands for no name (any more)
  assigned,
};

class NameMap {
 public:
  NameMap(NameMapConfig config, Random& random);

  // The addresses of `name`, handed out now if it has none; counts as a use. nullopt: the name is not normalised, or
  // the map is full of names in use.
  std::optional<ProxyAddresses> assign(std::string_view name, WallTime wall);
  // nullptr: unknown. Valid until the next call that is not const.
  [[nodiscard]] const ProxyAddresses* find(std::string_view name) const;
  // The name behind a proxy address of either family, or nullptr. O(1): the packet path's question.
  [[nodiscard]] const std::string* find(const IpAddress& address) const;
  [[nodiscard]] AddressUse use_of(const IpAddress& address) const;
  // A flow uses this address: keeps the name from being evicted. Cheap; call once per flow and now and then.
  void touch(const IpAddress& address, WallTime wall);

  // Names evicted since the last call, oldest first: end their flows.
  std::optional<ReleasedName> poll_released();

  [[nodiscard]] std::size_t size() const { return by_name_.size(); }
  // Changes whenever the file's content would, except for mere use.
  [[nodiscard]] std::uint64_t revision() const { return revision_; }
  [[nodiscard]] const NameMapConfig& config() const { return config_; }

  // Content for the file: text, one line per name, ends with a checksum.
  [[nodiscard]] std::string serialise() const;

  struct LoadResult {
    bool ok = true;
    std::string error;      // why the file was not taken as it is: for the log
    std::size_t names = 0;  // taken over
  };
  // Replaces the content by a file's; call before the first assign. A damaged file is not believed: the map starts
  // anew, but every slot that any readable line mentions rests for `reuse_after`. With other pools than the configured
  // ones the map starts anew likewise.
  LoadResult load(std::string_view content, WallTime wall);

  template <typename Visitor>  // visitor(name, ProxyAddresses)
  void for_each(Visitor&& visitor) const {
    for (const Entry& entry : entries_) visitor(entry.name, entry.addresses);
  }

 private:
  struct Entry {
    std::string name;
    ProxyAddresses addresses;
    std::uint32_t slot = 0;
    std::uint64_t used_at = 0;  // wall seconds
  };
  using Entries = std::list<Entry>;  // least recently used first

  [[nodiscard]] std::optional<std::uint32_t> slot_of(const IpAddress& address) const;
  [[nodiscard]] ProxyAddresses addresses_of(std::uint32_t slot) const;
  [[nodiscard]] bool excluded(const ProxyAddresses& addresses) const;
  void insert(std::string name, std::uint32_t slot, std::uint64_t used_at);
  void rest(std::uint32_t slot, std::uint64_t until);
  void end_rests(std::uint64_t wall_s);
  bool evict_one(std::uint64_t wall_s);
  std::optional<std::uint32_t> next_slot();
  void used(Entries::iterator entry, std::uint64_t wall_s);
  void clear();
  // One line of the file each; returns what is wrong with it, or nullptr.
  const char* load_name(std::string_view line, std::uint64_t wall_s, bool other_pools,
                        std::vector<std::uint32_t>& mentioned);
  const char* load_rest(std::string_view line, std::uint64_t wall_s, bool other_pools,
                        std::vector<std::uint32_t>& mentioned);
  void mention(const IpAddress& address, std::vector<std::uint32_t>& mentioned) const;

  NameMapConfig config_;
  Random& random_;
  std::uint32_t slots_ = 0;  // size of the smaller pool
  std::uint32_t cursor_ = 0;
  Entries entries_;
  std::unordered_map<std::string_view, Entries::iterator> by_name_;
  std::unordered_map<std::uint32_t, Entries::iterator> by_slot_;
  std::unordered_map<std::uint32_t, std::uint64_t> resting_;           // slot -> wall seconds when free
  std::deque<std::pair<std::uint64_t, std::uint32_t>> resting_order_;  // by end of rest
  std::deque<ReleasedName> released_;
  std::uint64_t revision_ = 0;
};

}  // namespace penstock::dns
