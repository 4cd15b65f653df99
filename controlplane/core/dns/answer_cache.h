// Answers of upstreams and gateways, kept for their TTL (RFC 2308 for denials). Bounded in entries and bytes, least
// recently used out first. Entries hold no OPT record and no client's id. One thread.
#pragma once

#include <cstdint>
#include <iterator>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dataplane/core/base/time.h"

namespace penstock::dns {

struct CachedAnswer {
  std::vector<std::uint8_t> message;
  std::uint16_t code = 0;
  bool dnssec_ok = false;
  Instant stored{};
  Instant expires{};
};

class AnswerCache {
 public:
  AnswerCache(std::size_t max_entries, std::size_t max_bytes) : max_entries_(max_entries), max_bytes_(max_bytes) {}

  // nullptr: not there, or no longer good. Valid until the next call.
  const CachedAnswer* find(std::string_view key, Instant now);
  // Anything larger than a 16th of the bound is not kept.
  void store(std::string key, CachedAnswer answer);
  void clear();
  [[nodiscard]] std::size_t size() const { return entries_.size(); }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::string key;
    CachedAnswer answer;
  };
  using Entries = std::list<Entry>;  // least recently used first
  [[nodiscard]] static std::size_t cost(const Entry& entry) {
    return entry.key.size() + entry.answer.message.size() + 128;
  }
  void erase(Entries::iterator entry);

  std::size_t max_entries_;
  std::size_t max_bytes_;
  std::size_t bytes_ = 0;
  Entries entries_;
  std::unordered_map<std::string_view, Entries::iterator> by_key_;
};

}  // namespace penstock::dns
