// Inside of StubResolver, shared by its two source files: stub_resolver.cc (what it knows, and answers at once) and
// stub_resolver_late.cc (what is in flight).
#pragma once

#include <deque>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "controlplane/core/dns/answer_cache.h"
#include "controlplane/core/dns/answer_filter.h"
#include "controlplane/core/dns/forwarder.h"
#include "controlplane/core/dns/query.h"
#include "controlplane/core/dns/stub_resolver.h"
#include "dataplane/core/policy/pattern.h"

namespace penstock::dns {

// Look-ups by string_view without a copy.
struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <typename Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

struct StubResolver::Impl {
  Impl(StubResolverConfig config, NameMap& names, Random& random);

  // ---- stub_resolver.cc ----

  // Which families a name may be told: the union over its resources. nullopt: under no Resource.
  struct Families {
    bool v4 = false;
    bool v6 = false;
  };
  std::optional<Families> families_of(std::string_view name);
  // A name that is new to the map takes one from `budget`; with none left its addresses are stripped.
  std::optional<NameRule> rule_for(const WireName& name, WallTime wall, std::size_t* budget);

  Bytes answer(const Query& query, Bytes message, const Client& client, Now now);
  // Empty: not for us to answer.
  Bytes answer_reverse(const Query& query, std::size_t limit);
  Bytes answer_resource(const Query& query, Families families, Bytes message, const Client& client, Now now);
  Bytes error(const Query& query, std::uint16_t code, std::size_t limit);
  Bytes denial(const Query& query, std::uint16_t code, std::uint32_t ttl, std::size_t limit);
  Bytes addresses(const Query& query, std::optional<IpAddress> v4, std::optional<IpAddress> v6, std::size_t limit);
  [[nodiscard]] bool is_ours(const IpAddress& address) const;

  // ---- stub_resolver_late.cc ----

  struct Waiter {
    Client client;
    std::uint16_t id = 0;
    std::uint16_t flags = 0;
    std::vector<std::uint8_t> question;  // name (in the client's case), type, class
    Edns edns;
    bool first = true;  // its own query was sent: options of the answer are for it
    [[nodiscard]] Query query() const;
    [[nodiscard]] std::size_t limit() const;
  };
  struct Pending {
    std::string key;       // of cache and joining; empty: neither
    std::string resource;  // asked of its gateway; empty: of an upstream
    std::uint64_t transaction = 0;
    std::uint16_t gateway_message_id = 0;
    Instant deadline = kNever;
    std::vector<Waiter> waiters;
  };
  // What an answer is made of, whether fresh or from the cache.
  struct Content {
    Bytes message;
    std::uint16_t code = 0;
    bool dnssec_ok = false;
    Bytes options;
    std::uint32_t age = 0;
  };

  Bytes ask(const Query& query, Bytes message, const Client& client, const std::string* resource, Now now);
  void send_to_gateway(std::uint64_t id, Pending& pending, const Query& query, const std::string& resource, Now now);
  void compose(const Content& content, const Waiter& waiter, std::vector<std::uint8_t>& out);
  void deliver(std::uint64_t id, Bytes message, Now now);
  void fail(std::uint64_t id);
  Pending take(std::uint64_t id);
  void drain(Now now);
  void drop_removed_resources();

  StubResolverConfig config;
  NameMap& names;
  Random& random;
  StubResolverStats stats;
  std::array<std::uint8_t, 8> server_cookie{};

  std::vector<DnsResource> resources;  // as given
  policy::PatternSet<std::string> patterns;
  TextMap<IpStack> stacks;   // resource id -> its setting
  TextMap<Families> known;   // names looked up since the resources changed
  TextMap<Families> narrowed;
  TextMap<Instant> missing;  // until
  std::vector<std::pair<IpAddress, std::string>> own_names;

  Forwarder forwarder;
  AnswerCache cache;
  std::uint64_t last_id = 0;
  std::unordered_map<std::uint64_t, Pending> pending;
  std::unordered_map<std::string, std::uint64_t> by_key;
  std::unordered_map<std::uint64_t, std::uint64_t> by_transaction;
  std::set<std::pair<Instant, std::uint64_t>> gateway_timers;
  std::size_t waiting = 0;
  std::deque<Output> outputs;

  AnswerBuilder builder;
  std::string text;  // of the query at hand
  std::vector<std::uint8_t> composed;
};

}  // namespace penstock::dns
