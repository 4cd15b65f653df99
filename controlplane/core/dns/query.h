// A client's query: strict parsing without allocation, and the answers that need nothing but the query itself.
//
// RFC 1035 §4.1, RFC 6891 (EDNS), RFC 7873 (cookies), RFC 9619 (one question).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "controlplane/core/dns/message.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::dns {

struct Edns {
  bool present = false;
  bool dnssec_ok = false;
  bool only_cookie = true;  // no option but COOKIE (or none at all): the answer does not depend on options
  std::uint8_t version = 0;
  std::uint16_t udp_size = 512;
  std::size_t udp_size_at = 0;  // where the OPT record says udp_size
  // COOKIE option's data: 8 bytes from the client, then 8..32 from a server. Size 0: none.
  std::array<std::uint8_t, 40> cookie{};
  std::size_t cookie_size = 0;
};

enum class QueryState : std::uint8_t {
  ok,
  silence,    // not a query at all: too short, an answer, a stranger's garbage
  malformed,  // FORMERR
  not_implemented,
};

struct Query {
  QueryState state = QueryState::silence;
  std::uint16_t id = 0;
  std::uint16_t flags = 0;
  bool has_question = false;  // then the three below are set and the question may be repeated in an answer
  Bytes qname;                // uncompressed, in the message
  std::uint16_t qtype = 0;
  std::uint16_t qclass = 0;
  std::size_t question_end = kHeaderSize;
  Edns edns;

  // Largest answer over UDP.
  [[nodiscard]] std::size_t udp_limit() const;
};

[[nodiscard]] Query parse_query(Bytes message);

// Builds an answer into a buffer of its own: header, question, records, OPT. Cheap; for answers from the local map.
class AnswerBuilder {
 public:
  // `server_cookie`: 8 bytes appended when the client has none of ours yet (clients that sent a cookie discard answers
  // without one, RFC 7873 §5.3).
  void start(const Query& query, std::uint16_t code, bool authoritative, Bytes server_cookie);
  // owner: the question's name.
  void add(std::uint16_t type, std::uint32_t ttl, Bytes rdata);
  // SOA of the question's parent domain, to bound negative caching.
  void add_soa(std::uint32_t ttl);
  // Adds the OPT record, truncates to `limit` bytes. Valid until the next start.
  [[nodiscard]] Bytes finish(std::size_t limit);

 private:
  void put16(std::uint16_t value);
  void put32(std::uint32_t value);
  void put(Bytes bytes);
  void count(std::size_t section_at);

  const Query* query_ = nullptr;
  std::uint16_t code_ = 0;
  Bytes server_cookie_;
  std::array<std::uint8_t, 1536> buffer_{};
  std::size_t size_ = 0;
};

// Appends an OPT record to a finished message (its ARCOUNT is raised). `options`: raw.
void append_opt(std::vector<std::uint8_t>& message, std::uint16_t code, bool dnssec_ok, Bytes options);
// The COOKIE option that answers the query's, raw; empty when there was none.
[[nodiscard]] std::vector<std::uint8_t> cookie_option(const Edns& edns, Bytes server_cookie);

}  // namespace penstock::dns
