// What came out against what was expected, in order.
//
// When something differs, both lists are aligned so that the fewest expectations fail: one packet too many or too few
// does not make all that follow look wrong.
#pragma once

#include <string>
#include <vector>

#include "tests/path/foreign/capture.h"
#include "tests/path/foreign/compare.h"

namespace penstock::path {

struct Expectation {
  enum class Kind { packet, drop, silence } kind = Kind::packet;
  CapturedPacket packet;
};

struct Exchange {
  CapturedPacket sent;
  ForeignResult result;
  bool waited = false;  // nothing was sent: what came out as time passed
};

struct MatchOptions {
  Ignored ignored;
  bool any_order = false;  // expected packets may come out in another order
  bool nothing = false;    // there is no expectation: every packet is to be dropped, its sender may be told
};

// `drop`: the next packet sent is not forwarded (its sender may be told); `silence`: not even that. A packet that was
// not forwarded needs no `drop`, and its sender may be told. Returns whether all is as expected; `report` gets lines
// for people either way.
[[nodiscard]] bool match(const std::vector<Exchange>& exchanges, std::vector<Expectation> expectations,
                         const MatchOptions& options, std::string& report);

// One thing that happened: a packet came out, or one that was sent did not go on.
struct Event {
  const Exchange* of;
  const ForeignOutput* output;  // nullptr: not forwarded
};

// explain.cc. Why a packet that was sent did not go on: " is dropped: reason", and lines with the section that says so.
[[nodiscard]] std::string why_dropped(const Exchange& exchange);
[[nodiscard]] inline std::string drop_lines(const Exchange& exchange) {
  return "    " + exchange.sent.name + why_dropped(exchange);
}
// Why a packet came out that was not expected to.
[[nodiscard]] std::string output_lines(const Event& event);
// Choices that the RFC leaves to whoever runs a translator, where they explain a difference. `expected`: nullptr when
// nothing was; `cut`: what differs is how packets were cut.
[[nodiscard]] std::string choices(const Octets& sent, const Octets* expected, bool cut);

}  // namespace penstock::path
