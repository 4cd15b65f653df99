#include "tests/path/foreign/dissect.h"

#include <algorithm>
#include <span>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/checksum.h"

namespace penstock::path {
namespace {

std::string hex_of(std::span<const std::uint8_t> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const std::uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

// How far a sum over data and checksum is from right.
std::string verdict(ChecksumSum sum) {
  const auto folded = static_cast<std::uint16_t>(~checksum_fold(sum));
  const std::uint8_t bytes[2] = {static_cast<std::uint8_t>(folded & 0xff), static_cast<std::uint8_t>(folded >> 8)};
  return folded == 0 ? "right" : "wrong by 0x" + hex_of(bytes);
}

class Dissector {
 public:
  explicit Dissector(const Octets& packet) : all_{packet} {}
  std::vector<Field> fields;

  void packet(std::size_t at, std::size_t end, bool inner) {
    inner_ = inner;
    const std::size_t size = end - at;
    if (size >= 20 && all_[at] >> 4 == 4) return ipv4(at, end);
    if (size >= 40 && all_[at] >> 4 == 6) return ipv6(at, end);
    rest("packet", "payload", at, end);
  }

 private:
  [[nodiscard]] unsigned u8(std::size_t at) const { return all_[at]; }
  [[nodiscard]] unsigned u16(std::size_t at) const { return u8(at) << 8 | u8(at + 1); }
  [[nodiscard]] std::uint32_t u32(std::size_t at) const { return std::uint32_t{u16(at)} << 16 | u16(at + 2); }
  [[nodiscard]] std::span<const std::uint8_t> bytes(std::size_t at, std::size_t end) const {
    return std::span{all_}.subspan(at, end - at);
  }

  void add(const char* layer, const char* name, std::string value, std::size_t at, std::size_t length,
           std::uint8_t mask = 0xff) {
    fields.push_back({name, layer, inner_, std::move(value), at, length, mask});
  }
  void number(const char* layer, const char* name, std::uint32_t value, std::size_t at, std::size_t length,
              std::uint8_t mask = 0xff) {
    add(layer, name, std::to_string(value), at, length, mask);
  }
  void rest(const char* layer, const char* name, std::size_t at, std::size_t end) {
    if (at < end) add(layer, name, hex_of(bytes(at, end)), at, end - at);
  }

  void ipv4(std::size_t at, std::size_t end) {
    const std::size_t header = std::min<std::size_t>((u8(at) & 15U) * 4U, end - at);
    number("ip4", "header-length", (u8(at) & 15U) * 4U, at, 1, 0x0f);
    number("ip4", "dscp", u8(at + 1) >> 2, at + 1, 1, 0xfc);
    number("ip4", "ecn", u8(at + 1) & 3U, at + 1, 1, 0x03);
    number("ip4", "length", u16(at + 2), at + 2, 2);
    number("ip4", "identification", u16(at + 4), at + 4, 2);
    number("ip4", "reserved-flag", u8(at + 6) >> 7, at + 6, 1, 0x80);
    number("ip4", "df", u8(at + 6) >> 6 & 1U, at + 6, 1, 0x40);
    number("ip4", "mf", u8(at + 6) >> 5 & 1U, at + 6, 1, 0x20);
    number("ip4", "fragment-offset", (u16(at + 6) & 0x1fffU) * 8, at + 6, 2, 0x1f);
    number("ip4", "ttl", u8(at + 8), at + 8, 1);
    number("ip4", "protocol", u8(at + 9), at + 9, 1);
    const auto address = [&](std::size_t where) { return IpAddress::from_wire(bytes(where, where + 4)); };
    add("ip4", "source", address(at + 12).to_string(), at + 12, 4);
    add("ip4", "destination", address(at + 16).to_string(), at + 16, 4);
    rest("ip4", "options", at + 20, at + header);
    add("ip4", "header-checksum", verdict(checksum_add(0, bytes(at, at + header))), at + 10, 2);
    const bool later = (u16(at + 6) & 0x1fffU) != 0;
    const bool whole = (u16(at + 6) & 0x3fffU) == 0 && u16(at + 2) <= end - at;
    if (later) return rest("fragment", "payload", at + header, end);
    transport(at + header, end, u8(at + 9), address(at + 12), address(at + 16), whole);
  }

  void ipv6(std::size_t at, std::size_t end) {
    number("ip6", "dscp", (u32(at) >> 22) & 0x3fU, at, 2, 0x0f);
    number("ip6", "ecn", (u32(at) >> 20) & 3U, at + 1, 1, 0x30);
    number("ip6", "flow-label", u32(at) & 0xfffffU, at + 1, 3, 0x0f);
    number("ip6", "length", u16(at + 4), at + 4, 2);
    number("ip6", "protocol", u8(at + 6), at + 6, 1);
    number("ip6", "ttl", u8(at + 7), at + 7, 1);
    const auto address = [&](std::size_t where) { return IpAddress::from_wire(bytes(where, where + 16)); };
    add("ip6", "source", address(at + 8).to_string(), at + 8, 16);
    add("ip6", "destination", address(at + 24).to_string(), at + 24, 16);
    bool whole = 40 + u16(at + 4) <= end - at;
    unsigned next = u8(at + 6);
    std::size_t where = at + 40;
    while ((next == 0 || next == 43 || next == 44 || next == 60) && where + 8 <= end) {
      const std::size_t length = next == 44 ? 8 : std::min<std::size_t>((u8(where + 1) + 1U) * 8U, end - where);
      if (next == 44) {
        number("fragment", "protocol", u8(where), where, 1);
        number("fragment", "fragment-offset", u16(where + 2) & 0xfff8U, where + 2, 2);
        number("fragment", "mf", u8(where + 3) & 1U, where + 3, 1, 0x01);
        number("fragment", "identification", u32(where + 4), where + 4, 4);
        whole = whole && (u16(where + 2) & 0xfff9U) == 0;
        if ((u16(where + 2) & 0xfff8U) != 0) return rest("fragment", "payload", where + 8, end);
      } else {
        rest(next == 0 ? "hop-by-hop" : next == 43 ? "routing" : "destination-options", "extension-header", where,
             where + length);
      }
      next = u8(where);
      where += length;
    }
    transport(where, end, next, address(at + 8), address(at + 24), whole);
  }

  void transport(std::size_t at, std::size_t end, unsigned protocol, const IpAddress& source,
                 const IpAddress& destination, bool whole) {
    const std::size_t size = end - at;
    const bool v6 = source.is_v6();
    const auto checksum = [&](const char* layer, std::size_t where, bool pseudo) {
      if (size < where + 2) return;
      std::string value = "0x" + hex_of(bytes(at + where, at + where + 2));
      if (whole && !inner_) {
        ChecksumSum sum = checksum_add(0, bytes(at, end));
        if (pseudo)
          sum += checksum_pseudo_header(source, destination, static_cast<std::uint8_t>(protocol),
                                        static_cast<std::uint32_t>(size));
        value = verdict(sum);
      }
      if (protocol == 17 && u16(at + where) == 0) value = "none";
      add(layer, "checksum", value, at + where, 2);
    };
    if (protocol == 17 && size >= 8) {
      ports("udp", at);
      number("udp", "length", u16(at + 4), at + 4, 2);
      checksum("udp", 6, true);
      rest("udp", "payload", at + 8, end);
    } else if (protocol == 6 && size >= 20) {
      tcp(at, end);
      checksum("tcp", 16, true);
    } else if ((protocol == 6 || protocol == 17) && size >= 4) {
      ports(protocol == 6 ? "tcp" : "udp", at);
      rest(protocol == 6 ? "tcp" : "udp", "payload", at + 4, end);
    } else if (protocol == (v6 ? 58U : 1U) && size >= 8) {
      number("icmp", "type", u8(at), at, 1);
      number("icmp", "code", u8(at + 1), at + 1, 1);
      checksum("icmp", 2, v6);
      icmp(at, end, v6);
    } else if (protocol == 33 && size >= 12) {
      ports("dccp", at);
      rest("dccp", "header", at + 4, at + 6);
      // Compared by number: what it covers depends on a field of its own (RFC 4340 §9.2).
      add("dccp", "checksum", "0x" + hex_of(bytes(at + 6, at + 8)), at + 6, 2);
      rest("dccp", "payload", at + 8, end);
    } else {
      rest("transport", "payload", at, end);
    }
  }

  void ports(const char* layer, std::size_t at) {
    number(layer, "source-port", u16(at), at, 2);
    number(layer, "destination-port", u16(at + 2), at + 2, 2);
  }

  void tcp(std::size_t at, std::size_t end) {
    const std::size_t header = std::min<std::size_t>(std::max(20U, (u8(at + 12) >> 4) * 4U), end - at);
    ports("tcp", at);
    number("tcp", "sequence", u32(at + 4), at + 4, 4);
    number("tcp", "acknowledgement", u32(at + 8), at + 8, 4);
    number("tcp", "header-length", static_cast<std::uint32_t>(header), at + 12, 1, 0xf0);
    std::string flags;
    for (unsigned bit = 0; bit < 8; ++bit)
      if ((u8(at + 13) >> bit & 1U) != 0) flags.push_back("FSRPAUEC"[bit]);
    add("tcp", "flags", flags, at + 13, 1);
    number("tcp", "window", u16(at + 14), at + 14, 2);
    number("tcp", "urgent", u16(at + 18), at + 18, 2);
    rest("tcp", "options", at + 20, at + header);
    rest("tcp", "payload", at + header, end);
  }

  void icmp(std::size_t at, std::size_t end, bool v6) {
    const unsigned type = u8(at);
    const bool error = v6 ? type < 128 : type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
    if (!error || inner_) {
      number("icmp", "identifier", u16(at + 4), at + 4, 2);
      number("icmp", "sequence", u16(at + 6), at + 6, 2);
      return rest("icmp", "payload", at + 8, end);
    }
    std::size_t quoted = end - at - 8;
    if (v6 && type == 2) {
      number("icmp", "mtu", u32(at + 4), at + 4, 4);
    } else if (v6 && type == 4) {
      number("icmp", "pointer", u32(at + 4), at + 4, 4);
    } else {
      const std::size_t unit = v6 ? 8 : 4;
      const std::size_t attribute = at + (v6 ? 4 : 5);
      number("icmp", "icmp-length", u8(attribute), attribute, 1);
      if (u8(attribute) != 0 && u8(attribute) * unit < quoted) quoted = u8(attribute) * unit;
      if (!v6 && type == 3 && u8(at + 1) == 4) {
        number("icmp", "mtu", u16(at + 6), at + 6, 2);
      } else if (!v6 && type == 12) {
        number("icmp", "pointer", u8(at + 4), at + 4, 1);
      } else {
        add("icmp", "unused", hex_of(bytes(at + (v6 ? 5 : 6), at + 8)), at + (v6 ? 5 : 6), v6 ? 3 : 2);
      }
    }
    packet(at + 8, at + 8 + quoted, true);
    inner_ = false;
    rest("icmp", "extensions", at + 8 + quoted, end);
  }

  const Octets& all_;
  bool inner_ = false;
};

}  // namespace

std::vector<Field> dissect(const Octets& packet) {
  Dissector out{packet};
  out.packet(0, packet.size(), false);
  return out.fields;
}

}  // namespace penstock::path
