// The gateway's stateful translator (dataplane/core/nat) as a plain NAT64 (RFC 6146): every IPv6 source is a client
// that may go anywhere, and every destination under the prefix stands for the IPv4 address it embeds.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>

#include "tests/path/foreign/translator_under_test.h"
#include "tests/path/world.h"

namespace penstock::path {

struct Nat64Config {
  std::vector<IpAddress> pool;
  std::uint16_t first_port = 1024;
  std::uint16_t last_port = 65535;
  Prefix prefix;
  std::uint16_t mtu4 = 1500;
  std::uint16_t mtu6 = 1500;
  std::optional<IpAddress> own6;  // source of errors made here towards IPv6; nullopt: any will do
};

class Nat64 : public TranslatorUnderTest {
 public:
  explicit Nat64(const Nat64Config& config);
  ForeignResult send(const Octets& bytes) override;
  void after(Duration duration) override;

 private:
  static constexpr std::size_t kPeers = 4096;

  // The client that `source` is, who knows `destination` by name.
  std::optional<PeerIndex> peer_of(const IpAddress& source, const IpAddress& destination);
  [[nodiscard]] Now now() const;

  Nat64Config config_;
  HeapPackets packets_;
  SeededRandom random_{42};
  std::unique_ptr<nat::Translator> translator_;
  Duration elapsed_{std::chrono::seconds{1}};
  std::map<IpAddress, PeerIndex> peers_;
  std::map<PeerIndex, policy::PeerPolicy> policies_;
  std::deque<policy::PeerPolicy> published_;
  std::vector<std::atomic<const policy::PeerPolicy*>> pointers_;
  std::uint32_t epoch_ = 0;
};

}  // namespace penstock::path
