// Asks upstream resolvers: in their order, UDP first, again and elsewhere while nobody answers. Sans-IO; one thread.
//
// Every attempt is an exchange of its own: a fresh socket (random port), a fresh random id. An answer counts only when
// socket, upstream, id and question are those of the attempt (the question's case included over UDP: RFC 5452, 0x20);
// what does not is ignored and ends nothing. Earlier attempts stay open until the transaction ends, so a late answer to
// one of its own still helps, and can never reach another transaction.
//
// An upstream that says SERVFAIL, REFUSED, NOTIMP or FORMERR, or fails, is passed over for the next; one that kept
// silent lately is tried after the others. A truncated answer is asked for again over TCP.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <variant>
#include <vector>

#include "controlplane/core/dns/stub_resolver.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::dns {

struct ForwarderConfig {
  Duration attempt = std::chrono::milliseconds{1000};
  Duration budget = std::chrono::milliseconds{4200};
  Duration penalty = std::chrono::seconds{10};  // how long a silent upstream comes last
  std::size_t max_attempts = 8;                 // per transaction, TCP included
  std::size_t max_upstreams = 8;
};

class Forwarder {
 public:
  struct Result {
    std::uint64_t transaction = 0;
    // Empty: nobody answered. Otherwise a message that answers the query's question; its id means nothing.
    std::vector<std::uint8_t> message;
  };
  using Output = std::variant<UpstreamSend, UpstreamClose>;

  Forwarder(ForwarderConfig config, Random& random) : config_(config), random_(random) {}

  // In order. True when the list differs from before.
  bool set_upstreams(std::vector<Endpoint> upstreams);
  [[nodiscard]] bool has_upstream() const { return !upstreams_.empty(); }

  // `query`: a well-formed query with one question; sent as it is but for the id. Needs an upstream.
  std::uint64_t start(Bytes query, Transport transport, Instant now);
  void cancel(std::uint64_t transaction);

  // False: the answer was ignored.
  bool handle_message(std::uint64_t exchange, const Endpoint& from, Bytes message, Instant now);
  void handle_failed(std::uint64_t exchange, Instant now);
  // Every transaction starts again with new sockets, first upstream first, penalties forgotten.
  void handle_network_change(Instant now);

  std::optional<Output> poll_output();
  std::optional<Result> poll_result();
  [[nodiscard]] Instant next_timeout() const { return timers_.empty() ? kNever : timers_.begin()->first; }
  void handle_timeout(Instant now);

  [[nodiscard]] std::size_t in_flight() const { return transactions_.size(); }

 private:
  struct Exchange {
    std::uint64_t transaction = 0;
    Endpoint upstream;
    Transport transport = Transport::udp;
    std::uint16_t id = 0;
  };
  struct Transaction {
    std::vector<std::uint8_t> query;
    std::size_t question_end = 0;
    Transport transport = Transport::udp;
    std::vector<Endpoint> order;  // upstreams as they will be tried
    std::size_t next = 0;         // in order
    std::size_t attempts = 0;
    std::vector<std::uint64_t> exchanges;
    std::uint64_t current = 0;           // the newest of them
    std::vector<std::uint8_t> fallback;  // best unsatisfying answer so far
    std::size_t unsatisfying = 0;        // upstreams that answered so or failed
    Instant deadline{};
    Instant timer{};
  };
  using Transactions = std::unordered_map<std::uint64_t, Transaction>;

  enum class Match : std::uint8_t { no, yes, case_differs, bare_error };
  [[nodiscard]] Match match(const Exchange& exchange, const Transaction& transaction, const Endpoint& from,
                            Bytes message) const;
  void order_upstreams(Transaction& transaction, Instant now) const;
  void attempt(std::uint64_t id, Transaction& transaction, const Endpoint& upstream, Transport transport, Instant now);
  void try_next(std::uint64_t id, Instant now);
  void unsatisfied(std::uint64_t id, Transaction& transaction, bool was_current, Instant now);
  void set_timer(std::uint64_t id, Transaction& transaction, Instant at);
  void drop_exchange(std::uint64_t exchange);
  void finish(std::uint64_t id, std::vector<std::uint8_t> message);

  ForwarderConfig config_;
  Random& random_;
  std::vector<Endpoint> upstreams_;
  std::map<Endpoint, Instant> penalised_;  // until
  std::uint64_t last_number_ = 0;
  Transactions transactions_;
  std::unordered_map<std::uint64_t, Exchange> exchanges_;
  std::set<std::pair<Instant, std::uint64_t>> timers_;
  std::deque<Output> outputs_;
  std::deque<Result> results_;
};

}  // namespace penstock::dns
