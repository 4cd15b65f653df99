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
  std::uint16_t lowest_mtu6 = 1280;  // RFC 7915 §4.1 lowest-ipv6-mtu
  // RFC 6146 §3.5: endpoint-independent mapping; filtering is the operator's choice.
  nat::Mapping mapping = nat::Mapping::endpoint_independent;
  nat::Filtering filtering = nat::Filtering::endpoint_independent;
  nat::Unsolicited unsolicited = nat::Unsolicited::answer;
  struct Binding {
    std::uint8_t protocol;  // ip_protocol::icmp for both families
    Endpoint inside;
    Endpoint outside;
  };
  std::vector<Binding> bindings;  // that are there from the beginning
  std::optional<IpAddress> own6;  // source of errors made here towards IPv6; nullopt: any will do
};

class Nat64 : public TranslatorUnderTest {
 public:
  explicit Nat64(const Nat64Config& config);
  // Empty: all of the configuration could be taken.
  [[nodiscard]] const std::string& problem() const { return problem_; }
  ForeignResult send(const Octets& bytes) override;
  ForeignResult after(Duration duration) override;

 private:
  void take(nat::Outcomes& outcomes, ForeignResult& result);
  static constexpr std::size_t kPeers = 4096;

  // The client knows `destination` by name from now on.
  void learn(PeerIndex peer, const IpAddress& source, const IpAddress& destination);
  [[nodiscard]] bool is_pool(const IpAddress& address) const;
  [[nodiscard]] Octets said_by_client(const Octets& bytes) const;
  void open_for_error(const Octets& bytes);
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
  std::string problem_;
};

}  // namespace penstock::path
