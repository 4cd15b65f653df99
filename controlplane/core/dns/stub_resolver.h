// The client's stub resolver: answers names under DNS Resources from the local map at once, asks the Resource's gateway
// for other types, and forwards the rest upstream. Sans-IO; one thread; RFC 1034/1035, 2308, 6891, 7766, 7873, 8482,
// 9619.
//
// How a shell uses it:
//     Bytes answer = resolver.handle_query(datagram, client, now);
//     if (!answer.empty()) send it to `client` now;
//     while (auto output = resolver.poll_output()) ...        // after every handle_*
//     arm a timer for resolver.poll_timeout().at; then handle_timeout(now)
//
// Invariants: no byte string ends the process or leaves a query without bound; an answer always parses; no A, AAAA or
// other address-bearing record of a name under a Resource leaves with anything but that name's proxy addresses.
// The shell ignores datagrams that came over another interface than loopback or the TUN device, frames TCP messages
// (tcp_stream.h) and opens one fresh socket with a random port per `UpstreamSend`.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "controlplane/core/dns/name_map.h"
#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::dns {

enum class Transport : std::uint8_t { udp, tcp };

// Who asked. Handed back with the answer; the resolver compares but never interprets it.
struct Client {
  Transport transport = Transport::udp;
  std::uint64_t connection = 0;  // TCP: the shell's number of the connection; UDP: of the socket, if it has several
  Endpoint remote{};
  Endpoint local{};
  bool operator==(const Client&) const = default;
};

enum class IpStack : std::uint8_t { dual, ipv4, ipv6 };

struct DnsResource {
  std::string id;
  std::string pattern;  // as written by people; normalised (case, IDNA) here
  IpStack ip_stack = IpStack::dual;
};

// ---- outputs ----

// A late answer to a query that was not answered at once. Over TCP the message has no length prefix yet.
struct Answer {
  Client to;
  std::vector<std::uint8_t> message;
};
// Open a fresh socket (UDP: connected, random source port; TCP: connection) to `upstream`, send `message`, and report
// what comes back under `exchange`. Never reused.
struct UpstreamSend {
  std::uint64_t exchange = 0;
  Endpoint upstream;
  Transport transport = Transport::udp;
  std::vector<std::uint8_t> message;
};
// The socket of this exchange is needed no more.
struct UpstreamClose {
  std::uint64_t exchange = 0;
};
// Ask a gateway of this Resource's site, through the tunnel (Control.DnsQuery); set the tunnel up if there is none.
// Idempotent: the shell may repeat it. Answer with handle_gateway_answer(id, ...).
struct GatewayQuery {
  std::uint64_t id = 0;
  std::string resource;
  std::string name;  // normalised
  std::vector<std::uint8_t> message;
};
using Output = std::variant<Answer, UpstreamSend, UpstreamClose, GatewayQuery>;

struct Deadline {
  Instant at = kNever;
  const char* why = "nothing";
};

struct StubResolverConfig {
  std::vector<IpAddress> sentinels = {*IpAddress::parse("100.100.111.1"),
                                      *IpAddress::parse("fd00:2021:1111:8000:100:100:111:1")};
  std::vector<Prefix> tunnel_prefixes = {*Prefix::parse("100.64.0.0/11"), *Prefix::parse("fd00:2021:1111::/107")};
  std::uint32_t proxy_ttl_s = 10;    // 1..60
  std::uint32_t missing_ttl_s = 10;  // upper bound of NXDOMAIN for names the gateway reports missing
  Duration upstream_attempt = std::chrono::milliseconds{1000};
  // Both budgets end before the caller's usual 5 s.
  Duration upstream_budget = std::chrono::milliseconds{4200};
  Duration gateway_budget = std::chrono::milliseconds{4200};
  std::size_t max_in_flight = 1024;  // transactions, upstream and gateway together
  std::size_t max_waiting = 4096;    // clients waiting for them
  std::size_t cache_entries = 8192;
  std::size_t cache_bytes = 8U << 20;
};

struct StubResolverStats {
  std::uint64_t queries = 0;
  std::uint64_t answered_locally = 0;
  std::uint64_t answered_from_cache = 0;
  std::uint64_t forwarded = 0;
  std::uint64_t joined = 0;  // identical query was in flight
  std::uint64_t asked_gateway = 0;
  std::uint64_t malformed = 0;          // FORMERR or silence
  std::uint64_t refused = 0;            // zone transfers, foreign opcodes
  std::uint64_t overloaded = 0;         // SERVFAIL: bounds reached
  std::uint64_t no_upstream = 0;        // SERVFAIL: no nameserver known
  std::uint64_t timed_out = 0;          // SERVFAIL: nobody answered
  std::uint64_t ignored_answers = 0;    // wrong socket, upstream, id or question
  std::uint64_t rewritten_answers = 0;  // real addresses replaced or stripped
};

class StubResolver {
 public:
  StubResolver(StubResolverConfig config, NameMap& names, Random& random);
  ~StubResolver();
  StubResolver(const StubResolver&) = delete;
  StubResolver& operator=(const StubResolver&) = delete;

  // ---- what it knows ----

  // The full set. Flushes the cache if anything changed. Returns one line per resource that was left out because its
  // pattern is malformed.
  std::vector<std::string> set_resources(std::vector<DnsResource> resources, Now now);
  // In the order to be tried. Own addresses (sentinels, tunnel and proxy ranges) are left out: no loop to ourselves.
  void set_upstreams(std::vector<Endpoint> upstreams, Now now);
  // Names of this machine's tunnel addresses, for PTR (and back).
  void set_own_names(std::vector<std::pair<IpAddress, std::string>> names);
  // From NameStatus: no_such_name gives NXDOMAIN for min(ttl, missing_ttl_s); anything else ends that.
  void set_name_missing(std::string_view name, std::uint32_t ttl_s, Now now);
  void set_name_found(std::string_view name);
  // Only these families are told of the name from now on, within its resources' (protocol 1.0).
  void set_name_families(std::string_view name, bool v4, bool v6);

  // Ids of the DNS Resources a name (normalised) falls under, most specific first. For the packet path: address -> name
  // (NameMap::find) -> resources.
  [[nodiscard]] std::vector<std::string> resources_of(std::string_view name) const;

  // ---- input ----

  // A message from a client. Returns the answer if there is one now (valid until the next call on this object), else
  // nothing: it was ignored, or the answer comes out of poll_output.
  [[nodiscard]] Bytes handle_query(Bytes message, const Client& client, Now now);
  // SERVFAIL to a query that somebody else held back and cannot have answered (valid until the next call). Everything
  // the asker expects of an answer is in it, such as its cookie.
  [[nodiscard]] Bytes failure(Bytes message, const Client& client);
  // What arrived on an exchange's socket. `from`: the datagram's source (TCP: the upstream).
  void handle_upstream(std::uint64_t exchange, const Endpoint& from, Bytes message, Now now);
  // Refused, unreachable, closed early.
  void handle_upstream_failed(std::uint64_t exchange, Now now);
  // The joined pieces of a DnsAnswer.
  void handle_gateway_answer(std::uint64_t id, Bytes message, Now now);
  void handle_gateway_failed(std::uint64_t id, Now now);
  // Another network: sockets are stale. Everything in flight is sent again from new ones.
  void handle_network_change(Now now);

  // ---- output ----

  std::optional<Output> poll_output();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Now now);

  [[nodiscard]] const StubResolverStats& stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::dns
