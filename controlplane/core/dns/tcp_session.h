// One TCP connection of the stub resolver, without the socket: frames messages by their two-byte length (RFC 1035
// §4.2.2), allows pipelining and answers out of order, and says when to stop reading and when to close (RFC 7766).
//
// Bounded: no more is kept than one partial message of at most 65537 bytes, what was just pushed, and the answers not
// yet written. One thread; times are monotonic.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"

namespace penstock::dns {

struct TcpSessionConfig {
  Duration idle = std::chrono::seconds{10};
  std::size_t max_outstanding = 64;        // queries taken and not answered
  std::size_t max_unwritten = 256U << 10;  // bytes of answers the client does not read
};

class TcpSession {
 public:
  explicit TcpSession(Instant now, TcpSessionConfig config = {}) : config_(config), idle_since_(now) {}

  // What was read. Read only while wants_read().
  void push(Bytes bytes, Instant now);
  // The next whole query, for StubResolver::handle_query; drain until empty after every push and every answer. Empty
  // messages are skipped; they say nothing.
  std::optional<std::vector<std::uint8_t>> next_query();
  // An answer, now or later. `empty`: the query was ignored, so none will come.
  void answer(Bytes message, Instant now);

  // Framed bytes to write, and how many of them were.
  [[nodiscard]] Bytes unwritten() const { return Bytes{out_}.subspan(out_at_); }
  void written(std::size_t bytes, Instant now);

  [[nodiscard]] bool wants_read() const;
  // Close the connection then, unless something happens before.
  [[nodiscard]] Instant idle_deadline() const { return idle_since_ + config_.idle; }
  [[nodiscard]] std::size_t outstanding() const { return outstanding_; }

 private:
  TcpSessionConfig config_;
  Instant idle_since_;
  std::vector<std::uint8_t> in_;
  std::size_t in_at_ = 0;
  std::vector<std::uint8_t> out_;
  std::size_t out_at_ = 0;
  std::size_t outstanding_ = 0;
};

}  // namespace penstock::dns
