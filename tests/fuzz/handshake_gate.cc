// Bursts of any bytes from any sources before the gate: a verdict for each, whatever stands beside it; nothing passes
// and nothing is answered without a valid mac1, and what is looked at is judged as it is alone. Half of the inputs get a
// valid mac1.
//
// Input: for each message a byte of length class and flags, four bytes of source, then its bytes.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "dataplane/core/wireguard/cookie.h"
#include "dataplane/core/wireguard/handshake_gate.h"
#include "tests/fuzz/require.h"

namespace penstock::wireguard {
namespace {

class CountingRandom final : public Random {
 public:
  void fill(std::span<std::uint8_t> out) override {
    for (auto& byte : out) byte = static_cast<std::uint8_t>((state_ = state_ * 6364136223846793005ULL + 1) >> 56);
  }

 private:
  std::uint64_t state_ = 1;
};

}  // namespace
}  // namespace penstock::wireguard

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock;
  using namespace penstock::wireguard;
  constexpr std::size_t kSizes[] = {sizeof(InitiationMessage), sizeof(ResponseMessage), sizeof(CookieMessage), 7};
  CountingRandom random;
  PublicKey own;
  own.bytes.fill(5);
  KnownSources known(8, random);
  known.add(IpAddress::v4(1));
  GateLimits limits;
  limits.under_load_per_s = 4;
  limits.limiter_sets = 2;
  HandshakeGate gate(own, limits, &known, random);
  const CookieGiver alone(own, random);

  std::vector<std::vector<std::uint8_t>> bytes;
  std::vector<Endpoint> sources;
  while (size >= 5 && bytes.size() < HandshakeGate::kBatch) {
    const std::uint8_t flags = data[0];
    sources.push_back({IpAddress::v4(load_le<std::uint32_t>(data + 1)), 9});
    data += 5, size -= 5;
    std::vector<std::uint8_t> message(kSizes[flags & 3]);
    const std::size_t n = std::min(size, message.size());
    std::copy_n(data, n, message.begin());
    data += n, size -= n;
    if ((flags & 4) != 0 && message.size() >= sizeof(ResponseMessage)) put_mac1(message, own);
    bytes.push_back(std::move(message));
  }
  std::vector<GateMessage> burst(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    burst[i].bytes = bytes[i];
    burst[i].source = sources[i];
  }
  // Once more where the load has become too high: then strangers without a cookie may be left unseen.
  for (const bool again : {false, true}) {
    const Instant now(std::chrono::hours(1));
    const bool overrun = gate.overrun(now);
    require(again || !overrun);
    gate.judge(burst, now);
    for (std::size_t i = 0; i < burst.size(); ++i) {
      const GateMessage& message = burst[i];
      const std::size_t length = bytes[i].size();
      if (length != sizeof(InitiationMessage) && length != sizeof(ResponseMessage)) {
        require(message.verdict == DropReason::wg_length && !message.answer);
        continue;
      }
      const bool valid = alone.mac1_valid(bytes[i]);
      require(valid ? message.verdict != DropReason::wg_mac1 : message.verdict != DropReason::none);
      require(valid || !message.answer);
      if (!overrun || has_mac2(bytes[i])) require((message.verdict == DropReason::wg_mac1) == !valid);
      require(!message.answer || message.verdict == DropReason::wg_mac2_required);
    }
  }
  return 0;
}
