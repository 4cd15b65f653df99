// The name map's file: text, so that people can read it; a checksum at the end tells a torn file.
//
//     penstock-names 1
//     pools 100.96.0.0/11 fd00:2021:1111:8000::/107
//     cursor 4711
//     name web.corp.example 100.96.18.103 fd00:2021:1111:8000::1267 1700000000     last used, seconds since 1970
//     rest 100.96.18.104 1700086400                                                until
//     end 5b1f0c5a9d3e7721                                                         FNV-1a of all before this line
#include <algorithm>
#include <charconv>
#include <cstdio>

#include "controlplane/core/dns/name.h"
#include "controlplane/core/dns/name_map.h"

namespace penstock::dns {
namespace {

constexpr std::string_view kMagic = "penstock-names 1";

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3ULL;
  return hash;
}

std::string hex(std::uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

std::string_view next_word(std::string_view& line) {
  const std::size_t space = line.find(' ');
  const std::string_view word = line.substr(0, space);
  line.remove_prefix(space == std::string_view::npos ? line.size() : space + 1);
  return word;
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

}  // namespace

std::string NameMap::serialise() const {
  std::string out{kMagic};
  out += "\npools " + config_.pool_v4.to_string() + " " + config_.pool_v6.to_string();
  out += "\ncursor " + std::to_string(cursor_) + "\n";
  for (const Entry& entry : entries_)
    out += "name " + entry.name + " " + entry.addresses.v4.to_string() + " " + entry.addresses.v6.to_string() + " " +
           std::to_string(entry.used_at) + "\n";
  for (const auto& [until, slot] : resting_order_)
    out += "rest " + addresses_of(slot).v4.to_string() + " " + std::to_string(until) + "\n";
  return out + "end " + hex(fnv1a(out)) + "\n";
}

void NameMap::mention(const IpAddress& address, std::vector<std::uint32_t>& mentioned) const {
  if (const auto slot = slot_of(address)) mentioned.push_back(*slot);
}

const char* NameMap::load_name(std::string_view line, std::uint64_t wall_s, bool other_pools,
                               std::vector<std::uint32_t>& mentioned) {
  const std::string_view name = next_word(line);
  const auto v4 = IpAddress::parse(next_word(line));
  const auto v6 = IpAddress::parse(next_word(line));
  const auto used_at = number(line);
  if (v4) mention(*v4, mentioned);
  if (v6) mention(*v6, mentioned);
  if (other_pools) return nullptr;
  if (!v4 || !v6 || !used_at || !is_normalised(name)) return "malformed name";
  const std::uint32_t slot = slot_of(*v4).value_or(slots_);
  if (slot >= slots_ || addresses_of(slot) != ProxyAddresses{*v4, *v6}) return "addresses that do not belong together";
  if (by_name_.contains(name) || by_slot_.contains(slot)) return "name or address given twice";
  if (excluded(addresses_of(slot)))
    rest(slot, wall_s + config_.reuse_after_s);  // reserved since: the name gets another address
  else if (entries_.size() < config_.max_names)
    insert(std::string{name}, slot, std::min(*used_at, wall_s));
  return nullptr;
}

const char* NameMap::load_rest(std::string_view line, std::uint64_t wall_s, bool other_pools,
                               std::vector<std::uint32_t>& mentioned) {
  const auto address = IpAddress::parse(next_word(line));
  const auto until = number(line);
  if (address) mention(*address, mentioned);
  if (other_pools) return nullptr;
  const std::uint32_t slot = address ? slot_of(*address).value_or(slots_) : slots_;
  if (slot >= slots_ || !until) return "malformed rest";
  rest(slot, std::min(*until, wall_s + config_.reuse_after_s));
  return nullptr;
}

NameMap::LoadResult NameMap::load(std::string_view content, WallTime wall) {
  clear();
  LoadResult result;
  std::string error;
  const auto fail = [&](std::size_t line, const char* why) {
    if (error.empty()) error = "line " + std::to_string(line) + ": " + why;
  };

  bool ended = false;
  bool other_pools = false;
  bool cursor_known = false;
  std::uint32_t cursor = 0;
  std::vector<std::uint32_t> mentioned;
  const std::string_view whole = content;
  for (std::size_t number_of_line = 1; !content.empty(); ++number_of_line) {
    const std::size_t start = whole.size() - content.size();
    const std::size_t newline = content.find('\n');
    std::string_view line = content.substr(0, newline);
    content.remove_prefix(newline == std::string_view::npos ? content.size() : newline + 1);
    if (ended) {
      fail(number_of_line, "text behind the end");
      continue;
    }
    if (number_of_line == 1) {
      if (line != kMagic) fail(1, "not a name map of version 1");
      continue;
    }
    const std::string_view kind = next_word(line);
    if (kind == "pools") {
      other_pools = line != config_.pool_v4.to_string() + " " + config_.pool_v6.to_string();
    } else if (kind == "cursor") {
      const auto value = number(line);
      if (!value || (*value >= slots_ && !other_pools)) {
        fail(number_of_line, "bad cursor");
      } else if (*value < slots_) {
        cursor = static_cast<std::uint32_t>(*value);
        cursor_known = true;
      }
    } else if (kind == "name") {
      if (const char* why = load_name(line, wall.seconds, other_pools, mentioned)) fail(number_of_line, why);
    } else if (kind == "rest") {
      if (const char* why = load_rest(line, wall.seconds, other_pools, mentioned)) fail(number_of_line, why);
    } else if (kind == "end") {
      ended = true;
      if (line != hex(fnv1a(whole.substr(0, start)))) fail(number_of_line, "checksum differs");
    } else {
      fail(number_of_line, "unknown word");
    }
  }
  if (!ended && error.empty()) error = "the end is missing";

  if (!error.empty() || other_pools) {
    result.ok = false;
    result.error = !error.empty() ? error + "; starting anew" : "other address pools than configured; starting anew";
    clear();
    for (const std::uint32_t slot : mentioned) rest(slot, wall.seconds + config_.reuse_after_s);
    return result;
  }
  // What was handed out after the file was last written is not in it: leave more room than can have been.
  if (cursor_known) cursor_ = (cursor + 1024 + random_.below(1024)) % slots_;
  result.names = entries_.size();
  return result;
}

}  // namespace penstock::dns
