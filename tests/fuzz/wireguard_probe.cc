// In-tunnel control, padding and keys: parsers of what stands inside a tunnel or a file. What parses is written again
// as it was.
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/core/wireguard/keys.h"
#include "dataplane/core/wireguard/probe.h"
#include "dataplane/core/wireguard/reception_report.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock;
  using namespace penstock::wireguard;
  const Bytes input{data, size};
  // Fields and flags that are not known here are not written again.
  if (const auto probe = parse_probe(input)) require(parse_probe(encode_probe(*probe)) == probe);
  if (const auto report = parse_report(input)) {
    std::vector<std::uint8_t> again(kReportSize);
    write_report(again, *report);
    require(std::memcmp(again.data(), data + kProbeSize, again.size()) == 0);
    (void)report->of(input);
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
