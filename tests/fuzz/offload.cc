// Offloads of the client's TUN device. Any header over any bytes is refused or cut within bounds; any burst that is
// joined gives every packet back, in order within its flow. Input: packets of a length byte pair each.
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "controlplane/core/offload/coalesce.h"
#include "controlplane/core/offload/segment.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock;
  using namespace penstock::offload;
  const Bytes input{data, size};
  if (size >= kVnetHeaderSize) {
    std::array<std::uint8_t, kVnetHeaderSize> header;
    std::memcpy(header.data(), data, header.size());
    bool known = false;
    const VnetHeader vnet = VnetHeader::parse(header, known);
    const Bytes packet = input.subspan(kVnetHeaderSize);
    if (const auto segments = Segments::parse(packet, vnet)) {
      require(segments->count() > 0);
      std::vector<std::uint8_t> out;
      for (std::size_t i = 0; i < segments->count(); ++i) {
        require(segments->size(i) <= packet.size());
        out.resize(segments->size(i));
        segments->write(i, out);
      }
    }
  }
  std::vector<Bytes> packets;
  for (std::size_t at = 0; at + 2 <= size;) {
    const std::size_t length = std::min<std::size_t>(load_le<std::uint16_t>(data + at), size - at - 2);
    packets.push_back(input.subspan(at + 2, length));
    at += 2 + length;
  }
  Coalescer coalescer;
  coalescer.coalesce(packets);
  std::size_t total = 0;
  for (std::size_t i = 0; i < coalescer.size(); ++i) {
    const auto output = coalescer.output(i);
    total += output.packets;
    if (output.packets == 1) {
      require(output.pieces.size() == 1 && output.vnet.plain());
      continue;
    }
    std::vector<std::uint8_t> whole;
    for (const Bytes piece : output.pieces) whole.insert(whole.end(), piece.begin(), piece.end());
    require(whole.size() <= Coalescer::kMaxBytes);
    const auto segments = Segments::parse(whole, output.vnet);
    require(segments && segments->count() == output.packets);
  }
  require(total == packets.size());
  return 0;
}
