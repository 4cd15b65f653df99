// libFuzzer: the first byte splits the input into a client's query and what an upstream or gateway answers. The
// answer's id, flags and question are put right, so that the fuzzer gets behind those checks at once.
#include <algorithm>
#include <cstdlib>

#include "controlplane/core/dns/message.h"
#include "controlplane/core/dns/stub_resolver.h"

namespace {

using namespace penstock;
using namespace penstock::dns;

class Counting final : public Random {
 public:
  void fill(std::span<std::uint8_t> out) override {
    for (auto& byte : out) byte = ++last_;
  }

 private:
  std::uint8_t last_ = 0;
};

void expect_well_formed(Bytes answer) {
  if (!parse_message(answer)) std::abort();
}

std::vector<std::uint8_t> fitted(Bytes query, Bytes answer) {
  std::vector<std::uint8_t> out{answer.begin(), answer.end()};
  std::size_t end = kHeaderSize;
  if (!read_name(query, end) || out.size() < end + 4) return out;
  std::copy_n(query.begin(), end + 4, out.begin());
  for (std::size_t at = 6; at < kHeaderSize; ++at) out[at] = answer[at];
  out[2] = static_cast<std::uint8_t>(0x80 | (answer[2] & 0x07));
  out[3] = answer[3];
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::size_t split = std::min<std::size_t>(data[0], size - 1);
  const Bytes query{data + 1, split};
  const Bytes answer{data + 1 + split, size - 1 - split};

  Counting random;
  NameMap names{{}, random};
  StubResolver resolver{{}, names, random};
  Now now{Instant{std::chrono::hours{1}}, {1'700'000'000, 0}};
  resolver.set_resources({{"corp", "**.corp.example", dns::IpStack::dual}}, now);
  resolver.set_upstreams({*Endpoint::parse("198.51.100.53:53")}, now);
  const Bytes at_once = resolver.handle_query(query, {}, now);
  if (!at_once.empty()) expect_well_formed(at_once);
  for (int i = 0; i < 100; ++i) {
    auto output = resolver.poll_output();
    if (!output) {
      const Instant next = resolver.poll_timeout().at;
      if (next == kNever) break;
      now.monotonic = std::max(now.monotonic, next);
      resolver.handle_timeout(now);
    } else if (const auto* late = std::get_if<Answer>(&*output)) {
      expect_well_formed(late->message);
    } else if (const auto* send = std::get_if<UpstreamSend>(&*output)) {
      resolver.handle_upstream(send->exchange, send->upstream, fitted(send->message, answer), now);
    } else if (const auto* asked = std::get_if<GatewayQuery>(&*output)) {
      resolver.handle_gateway_answer(asked->id, fitted(asked->message, answer), now);
    }
  }
  return 0;
}
