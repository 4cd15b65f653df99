#include "controlplane/io/netlink.h"

#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace penstock::io {
namespace {

constexpr std::size_t kReceiveBuffer = 64 * 1024;
constexpr std::uint8_t kProtocol = 0x70;  // marks our routes, as other daemons mark theirs

std::uint8_t family_of(const IpAddress& address) {
  return address.is_v4() ? AF_INET : AF_INET6;
}

// Builds one message: header, fixed part, attributes (nested ones by begin/end).
class Message {
 public:
  template <typename Fixed>
  Message(std::uint16_t type, std::uint16_t flags, const Fixed& fixed) {
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    append(&header, sizeof header);
    append(&fixed, sizeof fixed);
  }

  void attribute(std::uint16_t type, Bytes value) {
    begin(type, value);
    align();
  }
  void attribute(std::uint16_t type, std::uint32_t value) {
    std::uint8_t bytes[4];
    std::memcpy(bytes, &value, sizeof bytes);
    attribute(type, Bytes{bytes});
  }
  void attribute(std::uint16_t type, const IpAddress& address) { attribute(type, address.wire()); }

  std::size_t open_nested(std::uint16_t type) {
    const std::size_t at = bytes_.size();
    begin(static_cast<std::uint16_t>(type | NLA_F_NESTED), {});
    return at;
  }
  void close_nested(std::size_t at) {
    const auto length = static_cast<std::uint16_t>(bytes_.size() - at);
    std::memcpy(bytes_.data() + at, &length, sizeof length);
  }

  std::vector<std::uint8_t>& finish() {
    const auto length = static_cast<std::uint32_t>(bytes_.size());
    std::memcpy(bytes_.data(), &length, sizeof length);
    return bytes_;
  }

 private:
  void begin(std::uint16_t type, Bytes value) {
    rtattr header{};
    header.rta_type = type;
    header.rta_len = static_cast<unsigned short>(RTA_LENGTH(value.size()));
    append(&header, sizeof header);
    append(value.data(), value.size());
  }
  void append(const void* data, std::size_t size) {
    if (size == 0) return;
    const auto* bytes = static_cast<const std::uint8_t*>(data);
    bytes_.insert(bytes_.end(), bytes, bytes + size);
    align();
  }
  void align() { bytes_.resize((bytes_.size() + 3) & ~std::size_t{3}); }

  std::vector<std::uint8_t> bytes_;
};

// Calls visit(type, value) for each attribute.
template <typename Visitor>
void for_each_attribute(Bytes bytes, Visitor visit) {
  while (bytes.size() >= sizeof(rtattr)) {
    rtattr header{};
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.rta_len < sizeof header || header.rta_len > bytes.size()) return;
    visit(static_cast<std::uint16_t>(header.rta_type & NLA_TYPE_MASK),
          bytes.subspan(sizeof header, header.rta_len - sizeof header));
    const std::size_t step = RTA_ALIGN(header.rta_len);
    if (step >= bytes.size()) return;
    bytes = bytes.subspan(step);
  }
}

std::uint32_t read_u32(Bytes value) {
  std::uint32_t out = 0;
  if (value.size() >= sizeof out) std::memcpy(&out, value.data(), sizeof out);
  return out;
}

// The fixed part at the start of `payload`, or false when it is too short.
template <typename Fixed>
bool read_fixed(Bytes payload, Fixed& out, Bytes& attributes) {
  if (payload.size() < sizeof out) return false;
  std::memcpy(&out, payload.data(), sizeof out);
  attributes = payload.subspan(std::min<std::size_t>(NLMSG_ALIGN(sizeof out), payload.size()));
  return true;
}

Message route_message(std::uint16_t type, std::uint16_t flags, const Route& route) {
  rtmsg fixed{};
  fixed.rtm_family = family_of(route.to.address());
  fixed.rtm_dst_len = static_cast<unsigned char>(route.to.length());
  fixed.rtm_table = route.table < 256 ? static_cast<unsigned char>(route.table) : std::uint8_t{RT_TABLE_UNSPEC};
  fixed.rtm_protocol = kProtocol;
  fixed.rtm_scope = route.kind == RouteKind::device && route.to.address().is_v4() ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  fixed.rtm_type = route.kind == RouteKind::device ? RTN_UNICAST : RTN_THROW;
  if (type == RTM_DELROUTE) {
    fixed.rtm_scope = RT_SCOPE_NOWHERE;
    fixed.rtm_protocol = 0;
  }
  Message message(type, flags, fixed);
  message.attribute(RTA_TABLE, route.table);
  message.attribute(RTA_DST, route.to.address());
  if (route.kind == RouteKind::device) {
    message.attribute(RTA_OIF, static_cast<std::uint32_t>(route.device));
    if (!route.source.is_unspecified() && type == RTM_NEWROUTE) message.attribute(RTA_PREFSRC, route.source);
    if (route.mtu != 0 && type == RTM_NEWROUTE) {
      const std::size_t metrics = message.open_nested(RTA_METRICS);
      message.attribute(RTAX_MTU, route.mtu);
      message.close_nested(metrics);
    }
  }
  return message;
}

Message rule_message(std::uint16_t type, std::uint16_t flags, const Rule& rule) {
  fib_rule_hdr fixed{};
  fixed.family = rule.v6 ? AF_INET6 : AF_INET;
  fixed.table = rule.table < 256 ? static_cast<std::uint8_t>(rule.table) : std::uint8_t{RT_TABLE_UNSPEC};
  fixed.action = FR_ACT_TO_TBL;
  fixed.flags = FIB_RULE_INVERT;
  Message message(type, flags, fixed);
  message.attribute(FRA_PRIORITY, rule.priority);
  message.attribute(FRA_TABLE, rule.table);
  message.attribute(FRA_FWMARK, rule.mark);
  message.attribute(FRA_FWMASK, 0xffffffffU);
  return message;
}

}  // namespace

std::optional<Netlink> Netlink::open(std::string& error) {
  Netlink out;
  out.fd_ = Descriptor(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  const int on = 1;
  const timeval timeout{2, 0};  // the kernel answers at once; never wait for ever for a lost answer
  if (!out.fd_.valid() || ::setsockopt(out.fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0) {
    error = std::string("netlink: ") + std::strerror(errno);
    return std::nullopt;
  }
  ::setsockopt(out.fd_.get(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on);
  return out;
}

// Sends and collects the answers to it: visit(header, payload) for each; returns the error of the final one.
template <typename Visitor>
int exchange(int fd, std::uint32_t sequence, std::vector<std::uint8_t>& message, Visitor visit) {
  std::memcpy(message.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
  while (::send(fd, message.data(), message.size(), 0) < 0)
    if (errno != EINTR) return errno;
  std::vector<std::uint8_t> buffer(kReceiveBuffer);
  for (;;) {
    const auto n = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    Bytes rest{buffer.data(), static_cast<std::size_t>(n)};
    while (rest.size() >= sizeof(nlmsghdr)) {
      nlmsghdr header{};
      std::memcpy(&header, rest.data(), sizeof header);
      if (header.nlmsg_len < sizeof header || header.nlmsg_len > rest.size()) break;
      const Bytes payload = rest.subspan(NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN);
      rest = rest.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), rest.size()));
      if (header.nlmsg_seq != sequence) continue;  // a late answer to an earlier request
      if (header.nlmsg_type == NLMSG_DONE) return 0;
      if (header.nlmsg_type == NLMSG_ERROR) {
        nlmsgerr result{};
        if (payload.size() < sizeof result.error) return EPROTO;
        std::memcpy(&result.error, payload.data(), sizeof result.error);
        return -result.error;
      }
      visit(header, payload);
    }
  }
}

int Netlink::transact(std::vector<std::uint8_t>& message) {
  return exchange(fd_.get(), ++sequence_, message, [](const nlmsghdr&, Bytes) {});
}

template <typename Visitor>
void Netlink::dump(std::vector<std::uint8_t>& message, Visitor visit) {
  exchange(fd_.get(), ++sequence_, message, visit);
}

int Netlink::set_link_up(int device, std::uint32_t mtu) {
  ifinfomsg fixed{};
  fixed.ifi_index = device;
  fixed.ifi_flags = IFF_UP;
  fixed.ifi_change = IFF_UP;
  Message message(RTM_NEWLINK, NLM_F_ACK, fixed);
  message.attribute(IFLA_MTU, mtu);
  return transact(message.finish());
}

int Netlink::set_no_link_local(int device) {
  ifinfomsg fixed{};
  fixed.ifi_index = device;
  Message message(RTM_NEWLINK, NLM_F_ACK, fixed);
  const std::size_t spec = message.open_nested(IFLA_AF_SPEC);
  const std::size_t inet6 = message.open_nested(AF_INET6);
  const std::uint8_t none = IN6_ADDR_GEN_MODE_NONE;
  message.attribute(IFLA_INET6_ADDR_GEN_MODE, Bytes{&none, 1});
  message.close_nested(inet6);
  message.close_nested(spec);
  return transact(message.finish());
}

namespace {

Message address_message(std::uint16_t type, std::uint16_t flags, int device, const IpAddress& address) {
  ifaddrmsg fixed{};
  fixed.ifa_family = family_of(address);
  fixed.ifa_prefixlen = address.is_v4() ? 32 : 128;
  fixed.ifa_index = static_cast<unsigned>(device);
  fixed.ifa_scope = RT_SCOPE_UNIVERSE;
  fixed.ifa_flags = IFA_F_NODAD;
  Message message(type, flags, fixed);
  message.attribute(IFA_LOCAL, address);
  message.attribute(IFA_ADDRESS, address);
  return message;
}

int unless(int error, int harmless, int also_harmless = 0) {
  return error == harmless || error == also_harmless ? 0 : error;
}

}  // namespace

int Netlink::add_address(int device, const IpAddress& address) {
  return unless(transact(address_message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, device, address).finish()),
                EEXIST);
}

int Netlink::remove_address(int device, const IpAddress& address) {
  return unless(transact(address_message(RTM_DELADDR, NLM_F_ACK, device, address).finish()), EADDRNOTAVAIL, ENODEV);
}

int Netlink::add_route(const Route& route) {
  return transact(route_message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, route).finish());
}

int Netlink::remove_route(const Route& route) {
  return unless(transact(route_message(RTM_DELROUTE, NLM_F_ACK, route).finish()), ESRCH, ENODEV);
}

int Netlink::add_rule(const Rule& rule) {
  return unless(transact(rule_message(RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, rule).finish()), EEXIST);
}

int Netlink::remove_rule(const Rule& rule) {
  return unless(transact(rule_message(RTM_DELRULE, NLM_F_ACK, rule).finish()), ENOENT);
}

std::size_t Netlink::clear_table(std::uint32_t table) {
  std::vector<std::vector<std::uint8_t>> removals;
  // The kernel's own description of each thing, sent back as a request to delete it.
  const auto collect = [&](std::uint16_t dump_type, std::uint16_t delete_type, std::uint8_t family) {
    rtmsg fixed{};
    fixed.rtm_family = family;
    Message request(dump_type, NLM_F_DUMP, fixed);
    dump(request.finish(), [&](const nlmsghdr&, Bytes payload) {
      rtmsg found{};  // fib_rule_hdr has the same layout: family first, table at the same place
      Bytes attributes;
      if (!read_fixed(payload, found, attributes)) return;
      std::uint32_t in_table = found.rtm_table;
      // RTA_TABLE and FRA_TABLE are the same number.
      for_each_attribute(attributes, [&](std::uint16_t type, Bytes value) {
        if (type == RTA_TABLE) in_table = read_u32(value);
      });
      if (in_table != table) return;
      std::vector<std::uint8_t> removal(sizeof(nlmsghdr));
      nlmsghdr header{};
      header.nlmsg_len = static_cast<std::uint32_t>(sizeof header + payload.size());
      header.nlmsg_type = delete_type;
      header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
      std::memcpy(removal.data(), &header, sizeof header);
      removal.insert(removal.end(), payload.begin(), payload.end());
      removals.push_back(std::move(removal));
    });
  };
  static_assert(sizeof(rtmsg) == sizeof(fib_rule_hdr) && offsetof(rtmsg, rtm_table) == offsetof(fib_rule_hdr, table));
  static_assert(RTA_TABLE == static_cast<int>(FRA_TABLE));
  for (const std::uint8_t family : {std::uint8_t{AF_INET}, std::uint8_t{AF_INET6}}) {
    collect(RTM_GETROUTE, RTM_DELROUTE, family);
    collect(RTM_GETRULE, RTM_DELRULE, family);
  }
  std::size_t removed = 0;
  for (auto& removal : removals)
    if (transact(removal) == 0) ++removed;
  return removed;
}

std::vector<InterfaceAddress> Netlink::addresses() {
  std::vector<InterfaceAddress> out;
  ifaddrmsg fixed{};
  Message request(RTM_GETADDR, NLM_F_DUMP, fixed);
  dump(request.finish(), [&](const nlmsghdr&, Bytes payload) {
    ifaddrmsg found{};
    Bytes attributes;
    if (!read_fixed(payload, found, attributes)) return;
    InterfaceAddress address;
    address.device = static_cast<int>(found.ifa_index);
    std::uint32_t flags = found.ifa_flags;
    Bytes local;
    Bytes peer;
    for_each_attribute(attributes, [&](std::uint16_t type, Bytes value) {
      if (type == IFA_LOCAL) local = value;
      if (type == IFA_ADDRESS) peer = value;
      if (type == IFA_FLAGS) flags = read_u32(value);
    });
    address.address = IpAddress::from_wire(local.empty() ? peer : local);
    address.global =
        found.ifa_scope == RT_SCOPE_UNIVERSE && (flags & (IFA_F_TENTATIVE | IFA_F_DEPRECATED | IFA_F_DADFAILED)) == 0;
    out.push_back(address);
  });
  return out;
}

std::optional<NetworkMonitor> NetworkMonitor::open(Loop& loop, std::function<void()> changed, std::string& error) {
  NetworkMonitor out;
  out.fd_ = Descriptor(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
  if (!out.fd_.valid() || ::bind(out.fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    error = std::string("netlink: ") + std::strerror(errno);
    return std::nullopt;
  }
  out.source_ = loop.add_fd(out.fd_.get(), EPOLLIN, [fd = out.fd_.get(), changed = std::move(changed)](std::uint32_t) {
    // Only that something changed matters: the state is read afresh, so lost messages (ENOBUFS) do no harm either.
    std::uint8_t buffer[8192];
    bool relevant = false;
    for (;;) {
      const auto n = ::recv(fd, buffer, sizeof buffer, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        relevant = relevant || errno == ENOBUFS;
        if (errno == ENOBUFS) continue;
        break;
      }
      Bytes rest{buffer, static_cast<std::size_t>(n)};
      while (rest.size() >= sizeof(nlmsghdr)) {
        nlmsghdr header{};
        std::memcpy(&header, rest.data(), sizeof header);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > rest.size()) break;
        const bool route = header.nlmsg_type == RTM_NEWROUTE || header.nlmsg_type == RTM_DELROUTE;
        rtmsg fixed{};
        Bytes attributes;
        const Bytes payload = rest.subspan(NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN);
        // Our own routes (and everybody's specific ones) are no news of the network.
        if (!route ||
            (read_fixed(payload, fixed, attributes) && fixed.rtm_dst_len == 0 && fixed.rtm_protocol != kProtocol))
          relevant = true;
        rest = rest.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), rest.size()));
      }
    }
    if (relevant) changed();
  });
  return out;
}

}  // namespace penstock::io
