// What the foreign runner drives: packets in, packets out, by the translation code of dataplane/core/nat.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"
#include "tests/path/packet_text.h"

namespace penstock::path {

// One packet that came out.
struct ForeignOutput {
  Octets bytes;
  bool answer = false;  // to the sender of the packet, made here
  // Fields (see dissect.h) whose value no RFC fixes, because the translator chooses it: the identification it
  // generates, its own address. They need not be equal.
  std::set<std::string> free;
};

struct ForeignResult {
  std::vector<ForeignOutput> outputs;
  DropReason reason = DropReason::none;  // why the packet did not go on, when it did not
  std::string why;                       // more about it, with the section or anchor to read
  bool held = false;                     // it waits: a fragment for others, a SYN for one from the other side
};

class TranslatorUnderTest {
 public:
  virtual ~TranslatorUnderTest() = default;
  virtual ForeignResult send(const Octets& bytes) = 0;
  // Lets virtual time pass; what came out meanwhile.
  virtual ForeignResult after(Duration duration) = 0;
};

// The section of an RFC, or of our documentation, that speaks about a drop for `reason`. `v6`: the dropped packet's
// family.
[[nodiscard]] std::string section_of(DropReason reason, bool v6);

}  // namespace penstock::path
