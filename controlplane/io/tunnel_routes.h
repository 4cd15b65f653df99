// What goes into the tunnel and what must not: the client's routing table.
//
// Theory of operation. All routes stand in one table of ours, which a rule of each family consults for every packet
// *without* our firewall mark; the tunnel's own sockets carry the mark, so their packets never enter the tunnel.
// Sockets that cannot be marked (the portal's stream) are kept out by `throw` routes for the addresses they talk to,
// which send the look-up on to the next rule. Desired state is compared with what was installed, so calls are cheap and
// idempotent.
//
// What a crashed predecessor left is removed by install(); what stands is removed by remove() and the destructor. A
// failure to install one route is reported and does not end anything. One thread.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "controlplane/io/netlink.h"
#include "dataplane/core/base/address.h"

namespace penstock::io {

struct TunnelRoutesConfig {
  int device = 0;
  std::uint32_t table = 28787;  // "ps"
  std::uint32_t mark = 0x7073;
  std::uint32_t priority = 5187;  // of the rules: before main (32766)
};

class TunnelRoutes {
 public:
  TunnelRoutes(Netlink& netlink, TunnelRoutesConfig config);
  ~TunnelRoutes();
  TunnelRoutes(const TunnelRoutes&) = delete;
  TunnelRoutes& operator=(const TunnelRoutes&) = delete;

  // Clears leftovers and adds the rules. Returns one line per failure.
  std::vector<std::string> install();
  void remove();

  // The full sets. Packets to `prefixes` go into the tunnel from `source_v4`/`source_v6`; packets to `exceptions`
  // never do. Return one line per failure; what failed is tried again at the next call.
  std::vector<std::string> set_sources(const IpAddress& source_v4, const IpAddress& source_v6);
  std::vector<std::string> set_prefixes(const std::set<Prefix>& prefixes);
  std::vector<std::string> set_exceptions(const std::set<IpAddress>& exceptions);

  [[nodiscard]] const std::set<Prefix>& prefixes() const { return prefixes_; }

 private:
  [[nodiscard]] Route route(const Prefix& to) const;
  [[nodiscard]] Route exception(const IpAddress& address) const;

  Netlink* netlink_;
  TunnelRoutesConfig config_;
  bool installed_ = false;
  IpAddress source_v4_;
  IpAddress source_v6_;
  std::set<Prefix> prefixes_;       // installed
  std::set<IpAddress> exceptions_;  // installed
};

}  // namespace penstock::io
