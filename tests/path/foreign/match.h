// What came out against what was expected, in order.
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

// `drop`: the next packet sent is not forwarded (its sender may be told); `silence`: not even that. A packet that was
// not forwarded needs no `drop`. Returns whether all is as expected; `report` gets lines for people either way.
[[nodiscard]] bool match(const std::vector<Exchange>& exchanges, const std::vector<Expectation>& expectations,
                         const Ignored& ignored, std::string& report);

}  // namespace penstock::path
