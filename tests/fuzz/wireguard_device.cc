// Datagrams of any content into a Device with a live session: whatever they are, they end in a reason, and the session
// still carries data afterwards. To get past the first checks, half of the inputs get a valid mac1 or a live index.
#include <cstdint>
#include <vector>

#include "dataplane/core/wireguard/cookie.h"
#include "dataplane/core/wireguard/device.h"
#include "tests/fuzz/require.h"

namespace penstock::wireguard {
namespace {

class CountingRandom final : public Random {
 public:
  explicit CountingRandom(std::uint64_t seed) : state_(seed) {}
  void fill(std::span<std::uint8_t> out) override {
    for (auto& byte : out) byte = static_cast<std::uint8_t>((state_ = state_ * 6364136223846793005ULL + 1) >> 56);
  }

 private:
  std::uint64_t state_;
};

// Two devices with an established session, made anew for every input so that a crash repeats alone.
struct Established {
  CountingRandom random_a{1}, random_b{2};
  Device a, b;
  Path to_a{{}, {IpAddress::v4(0xc6336401), 1}, 0}, to_b{{}, {IpAddress::v4(0xcb007101), 2}, 0};
  Now now{Instant(std::chrono::hours(1)), {1'700'000'000, 0}};

  static DeviceConfig config(std::uint8_t key) {
    DeviceConfig out;
    out.private_key.bytes.fill(key);
    out.max_peers = 4;
    out.aead = "openssl";
    return out;
  }

  Established() : a(config(1), random_a), b(config(2), random_b) {
    PeerConfig peer;
    peer.public_key = b.public_key();
    peer.endpoints = {to_b.remote};
    require(a.add_peer(peer, now).error == PeerError::none);
    peer.public_key = a.public_key();
    peer.endpoints = {};
    require(b.add_peer(peer, now).error == PeerError::none);
    a.want_session(0, now);
    exchange();
  }

  void exchange() {
    for (bool moved = true; moved;) {
      moved = false;
      while (auto out = a.poll_output()) moved = true, (void)b.handle_datagram(out->bytes, to_a, now);
      while (auto out = b.poll_output()) moved = true, (void)a.handle_datagram(out->bytes, to_b, now);
    }
  }
};

}  // namespace
}  // namespace penstock::wireguard

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock;
  using namespace penstock::wireguard;
  if (size == 0) return 0;
  Established pair;
  std::vector<std::uint8_t> datagram(data + 1, data + size);
  const MessageType type = classify(datagram);
  if (data[0] & 1) {
    if (type == MessageType::initiation || type == MessageType::response) (void)put_mac1(datagram, pair.b.public_key());
    const Session* session = pair.a.data_path().sending_session(0, pair.now.monotonic);
    require(session != nullptr);
    if (type == MessageType::data) store_le(datagram.data() + 4, session->remote_index);
  }
  pair.b.set_under_load((data[0] & 2) != 0);
  const auto result = pair.b.handle_datagram(datagram, {{}, {IpAddress::v4(0xc0000201), 3}, 0}, pair.now);
  require(result.reason != DropReason::none);
  while (auto out = pair.b.poll_output()) require(out->bytes[0] == 3);  // a cookie at most

  std::vector<std::uint8_t> inner(40);
  inner[0] = 0x45;
  inner[3] = 40;
  require(pair.a.send(0, inner, pair.now) == DropReason::none);
  auto sealed = pair.a.poll_output();
  require(sealed.has_value() && pair.b.handle_datagram(sealed->bytes, pair.to_a, pair.now).inner.size() == 40);
  return 0;
}
