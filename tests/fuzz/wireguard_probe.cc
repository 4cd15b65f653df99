// In-tunnel control, padding and keys: parsers of what stands inside a tunnel or a file. What parses is written again
// as it was.
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/core/wireguard/keys.h"
#include "dataplane/core/wireguard/probe.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock;
  using namespace penstock::wireguard;
  const Bytes input{data, size};
  if (const auto probe = parse_probe(input)) {
    const auto again = encode_probe(*probe);
    require(std::memcmp(again.data(), data, again.size()) == 0);
  }
  if (const auto control = parse_control(input)) {
    require(is_control_packet(input));
    require(!control->payload.empty() && control->payload.size() <= size - kControlHeaderSize);
  }
  std::vector<std::uint8_t> copy(data, data + size);
  MutableBytes inner;
  if (trim_padding(copy, inner) == DropReason::none) require(!inner.empty() && inner.size() <= size);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto key = PublicKey::parse(text)) require(key->to_base64() == text);
  return 0;
}
