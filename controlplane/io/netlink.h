// The kernel's network configuration through rtnetlink: links, addresses, routes, rules, and news of their changes.
//
// Requests are synchronous (a microsecond-scale round trip to the kernel) and idempotent: adding what is there and
// removing what is not are successes. Every failure is an error number, never an end. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "controlplane/io/descriptor.h"
#include "controlplane/io/loop.h"
#include "dataplane/core/base/address.h"

namespace penstock::io {

enum class RouteKind : std::uint8_t {
  device,  // through a device
  skip,    // "throw": the look-up goes on with the next rule
};

struct Route {
  Prefix to;
  std::uint32_t table = 0;
  RouteKind kind = RouteKind::device;
  int device = 0;
  IpAddress source;       // preferred source address; unspecified: the kernel's choice
  std::uint32_t mtu = 0;  // 0: the device's
};

// "not fwmark MARK lookup TABLE".
struct Rule {
  bool v6 = false;
  std::uint32_t priority = 0;
  std::uint32_t mark = 0;
  std::uint32_t table = 0;
};

struct InterfaceAddress {
  int device = 0;
  IpAddress address;
  bool global = false;  // of global scope, not tentative, deprecated or failed
};

class Netlink {
 public:
  static std::optional<Netlink> open(std::string& error);

  // 0 or an errno value.
  int set_link_up(int device, std::uint32_t mtu);
  // No link-local address of the kernel's making on this device.
  int set_no_link_local(int device);
  int add_address(int device, const IpAddress& address);  // as /32 or /128
  int remove_address(int device, const IpAddress& address);
  int add_route(const Route& route);
  int remove_route(const Route& route);
  int add_rule(const Rule& rule);
  int remove_rule(const Rule& rule);

  // Removes every route of the table and every rule that looks it up, of both families: what a predecessor that
  // crashed has left. Returns how many things were removed.
  std::size_t clear_table(std::uint32_t table);

  [[nodiscard]] std::vector<InterfaceAddress> addresses();

 private:
  int transact(std::vector<std::uint8_t>& message);
  template <typename Visitor>
  void dump(std::vector<std::uint8_t>& message, Visitor visit);

  Descriptor fd_;
  std::uint32_t sequence_ = 0;
};

// Calls `changed` (at most once per turn of the loop) when links, addresses or default routes change.
class NetworkMonitor {
 public:
  static std::optional<NetworkMonitor> open(Loop& loop, std::function<void()> changed, std::string& error);

 private:
  Descriptor fd_;
  Loop::Source source_;
};

}  // namespace penstock::io
