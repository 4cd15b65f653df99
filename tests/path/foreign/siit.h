// A stateless translator (RFC 7915, RFC 7757, RFC 6052) out of the parts of dataplane/core/nat: the same header,
// transport and ICMP translation that the gateway's flows go through, here with an address map in place of flows.
// Fragments are translated one by one.
#pragma once

#include <optional>

#include "dataplane/core/nat/icmp_error.h"
#include "dataplane/core/nat/icmp_translate.h"
#include "tests/path/foreign/address_map.h"
#include "tests/path/foreign/translator_under_test.h"
#include "tests/path/world.h"

namespace penstock::path {

struct SiitConfig {
  AddressMap map;
  std::uint16_t mtu4 = 1500;  // of the next hop on either side
  std::uint16_t mtu6 = 1500;
  std::uint16_t lowest_mtu6 = 1280;  // RFC 7915 §4.1 lowest-ipv6-mtu
  bool strict_well_known_prefix = false;  // RFC 6052 §3.1
  bool compute_udp_checksum = true;  // RFC 7915 §4.5: what to do about none; false: drop
  std::optional<IpAddress> own4;     // source of our own errors; nullopt: any will do
  std::optional<IpAddress> own6;
  std::optional<IpAddress> hop4;  // RFC 6791: source of errors from hops without a mapping
  std::optional<IpAddress> hop6;
};

class Siit : public TranslatorUnderTest {
 public:
  explicit Siit(SiitConfig config) : config_{std::move(config)} {}
  ForeignResult send(const Octets& bytes) override;
  ForeignResult after(Duration) override { return {}; }
  // Packets it has not given back: none between calls.
  [[nodiscard]] std::size_t held() const { return packets_.outstanding(); }

 private:
  struct Call {
    Packet* packet;
    IpView view;
    ForeignResult* result;
    std::set<std::string> free;  // of what will come out
    bool hairpin = false;        // 4 -> 6 of a packet that has just been translated 6 -> 4
  };

  void translate(Call& call);
  void translate_error(Call& call, bool to6);
  void forward(Call& call, bool to6);
  void turn_around(Call& call);
  bool check(const Call& call, bool to6);
  [[nodiscard]] bool fits(const Call& call, bool to6, std::uint32_t& limit) const;
  void refuse(const Call& call, DropReason reason, nat::IcmpProblem problem, std::uint32_t value = 0,
              const std::string& why = {});
  void give_out(const Call& call, Packet* packet);
  // Source and destination on the other side. False: refused.
  bool map_addresses(Call& call, bool to6, bool error, nat::Tuple& to);
  [[nodiscard]] IpAddress own(bool v6) const;
  [[nodiscard]] IpAddress hop(Call& call, bool v6) const;

  SiitConfig config_;
  HeapPackets packets_;
  std::uint16_t identification_ = 0x4000;
};

}  // namespace penstock::path
