// Names of DNS Resources, resolved for many clients at once: a cache with refresh, sans-IO. One thread.
//
// Theory of operation. A name is attached by whoever translates it. A *round* asks A and AAAA side by side; the first
// family that answers is used at once, and a family that fails does not block the other. A round is over when both have
// answered or after 2 s; answers that come later are still taken. Addresses are refreshed by TTL (5 s to 300 s) for as
// long as the name is in use; while refreshing fails the old ones stay (serve-stale). An answer replaces its family's
// addresses, keeping the order of those that remain, so new flows never use an address that has left the DNS, and a
// rotating answer does not move anybody.
//
// Failures are remembered for a bounded time and asked again only when somebody wants the name: neither for ever nor
// never (traps flow-3, dns-17). Identical names share one round. A client may have 32 rounds under way; more wait their
// turn, and 256 are the end of its patience. docs/dns.md "Resolution at the gateway".
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "controlplane/core/deadline.h"
#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"

namespace penstock::gateway_agent {

enum class Family : std::uint8_t { v4, v6 };

struct DnsAnswer {
  enum class Status : std::uint8_t { ok, no_data, no_such_name, failed };
  Status status = Status::failed;
  std::vector<IpAddress> addresses;
  std::uint32_t ttl_seconds = 0;
};

struct DnsQuestion {
  std::uint64_t id = 0;
  std::string name;  // without trailing dot
  Family family = Family::v4;
};

enum class NameState : std::uint8_t { resolving, active, no_such_name, forbidden, failed };

struct NameView {
  NameState state = NameState::resolving;
  std::vector<IpAddress> addresses;  // active: IPv4 then IPv6, each in order of preference
  std::uint32_t ttl_seconds = 0;     // until it is looked at again
};

inline constexpr Duration kResolveBudget = std::chrono::seconds{2};
inline constexpr std::uint32_t kMinTtl = 5;
inline constexpr std::uint32_t kMaxTtl = 300;
inline constexpr std::uint32_t kNegativeTtl = 10;
inline constexpr std::size_t kMaxRoundsPerClient = 32;
inline constexpr std::size_t kMaxWaitingPerClient = 256;
inline constexpr std::size_t kMaxAddressesPerFamily = 16;

class NameResolver {
 public:
  // `forbidden`: addresses no flow may have; they are never handed on.
  explicit NameResolver(std::function<bool(const IpAddress&)> forbidden) : forbidden_(std::move(forbidden)) {}

  // `user` (a translation) needs `name` (normalised); starts a round unless the answer is known and fresh. `client`: on
  // whose account.
  void attach(const std::string& name, const std::string& user, const std::string& client, Instant now);
  // The last user's detach forgets the name.
  void detach(const std::string& name, const std::string& user);
  // Addresses known from an earlier life: used until the first answer.
  void seed(const std::string& name, const std::vector<IpAddress>& addresses, Instant now);
  // Somebody wants it now: a failed, missing or expired one is asked again, if it is not too soon.
  void want(const std::string& name, const std::string& client, Instant now);
  // It had live flows: keeps it refreshed.
  void note_use(const std::string& name, Instant now);

  void handle_answer(std::uint64_t id, DnsAnswer answer, Instant now);
  [[nodiscard]] std::optional<DnsQuestion> poll_question();
  // A name whose view has changed.
  [[nodiscard]] std::optional<std::string> poll_change();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Instant now);

  // nullopt: not attached by anybody.
  [[nodiscard]] std::optional<NameView> view(const std::string& name, Instant now) const;
  [[nodiscard]] const std::set<std::string>* users(const std::string& name) const;
  [[nodiscard]] std::size_t size() const { return entries_.size(); }
  [[nodiscard]] std::size_t rounds() const { return rounds_; }

 private:
  struct FamilyState {
    DnsAnswer::Status status = DnsAnswer::Status::failed;
    std::vector<IpAddress> addresses;
    bool refused = false;        // had addresses, all forbidden
    bool known = false;          // some answer has come
    std::uint64_t question = 0;  // 0: none under way
    Instant expires{};
  };
  struct Entry {
    std::array<FamilyState, 2> families;
    std::set<std::string> users;
    bool round = false;  // under way or queued
    bool queued = false;
    std::string client;  // on whose account the round is
    Instant started{};
    Instant due = kNever;  // end of the round; otherwise: when to look again
    Instant used{};
    unsigned failures = 0;
    NameView told;  // as last reported by poll_change
    bool reported = false;
  };
  using Entries = std::map<std::string, Entry>;

  void begin(Entries::iterator entry, const std::string& client, Instant now);
  void ask(Entries::iterator entry, Instant now);
  void end(Entries::iterator entry, Instant now);
  void set_due(const std::string& name, Entry& entry, Instant due);
  void report(const std::string& name, Entry& entry, Instant now);
  [[nodiscard]] NameView compute(const Entry& entry, Instant now) const;
  [[nodiscard]] static bool fresh(const Entry& entry, Instant now);

  std::function<bool(const IpAddress&)> forbidden_;
  Entries entries_;
  std::map<std::uint64_t, std::pair<std::string, Family>> questions_;
  std::set<std::pair<Instant, std::string>> due_;
  std::map<std::string, std::size_t> under_way_;            // client -> rounds
  std::map<std::string, std::deque<std::string>> waiting_;  // client -> names
  std::deque<DnsQuestion> out_;
  std::deque<std::string> changed_;
  std::uint64_t next_id_ = 0;
  std::size_t rounds_ = 0;
};

}  // namespace penstock::gateway_agent
