// Any bytes as the body of what a data plane leaves to the next: they are refused, or they are a state that is written
// again as it was read. The header is made right, so that the body is what is looked at.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "dataplane/core/handover/codec.h"
#include "dataplane/core/handover/state.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock;
  (void)handover::decode({data, size});
  std::vector<std::uint8_t> bytes = handover::encode({});
  bytes.resize(handover::kHeaderSize);
  bytes.insert(bytes.end(), data, data + size);
  store_le<std::uint64_t>(bytes.data() + 16, size);
  store_le<std::uint64_t>(bytes.data() + 24, handover::checksum({data, size}));
  const auto decoded = handover::decode(bytes);
  if (const auto* state = std::get_if<handover::State>(&decoded))
    if (handover::encode(*state) != bytes) std::abort();
  return 0;
}
