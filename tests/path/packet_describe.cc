// Packets as lists of named values, and two of them compared; the text of packets is packet_text.cc's.
#include "tests/path/packet_text.h"

#include <algorithm>
#include <cstring>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "tests/path/icmp_type_names.h"

namespace penstock::path {
namespace {

std::string hex(const std::uint8_t* at, std::size_t size) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (std::size_t i = 0; i < size; ++i) {
    out.push_back(kDigits[at[i] >> 4]);
    out.push_back(kDigits[at[i] & 15]);
  }
  return out;
}

class Describer {
 public:
  Fields fields;

  // `whole`: the packet is not cut off, so checksums can be judged.
  void packet(const std::uint8_t* at, std::size_t size, const std::string& prefix, bool whole) {
    if (size >= 20 && at[0] >> 4 == 4) return ipv4(at, size, prefix, whole);
    if (size >= 40 && at[0] >> 4 == 6) return ipv6(at, size, prefix, whole);
    add(prefix + "rest", hex(at, size));
  }

 private:
  void add(const std::string& name, const std::string& value) { fields.emplace_back(name, value); }
  void add(const std::string& name, std::uint32_t value) { add(name, std::to_string(value)); }
  static std::uint32_t get16(const std::uint8_t* at) { return static_cast<std::uint32_t>(at[0] << 8 | at[1]); }
  static std::uint32_t get32(const std::uint8_t* at) { return get16(at) << 16 | get16(at + 2); }

  // "ok", or by how much it is wrong in ones' complement.
  static std::string verdict(ChecksumSum sum) {
    const auto folded = static_cast<std::uint16_t>(~checksum_fold(sum));
    if (folded == 0) return "ok";
    const std::uint8_t bytes[2] = {static_cast<std::uint8_t>(folded & 0xff), static_cast<std::uint8_t>(folded >> 8)};
    return "wrong:" + hex(bytes, 2);
  }

  void ipv4(const std::uint8_t* at, std::size_t size, const std::string& prefix, bool whole) {
    const std::size_t header = std::min<std::size_t>((at[0] & 15U) * 4U, size);
    add(prefix + "ip4.src", IpAddress::from_wire({at + 12, 4}).to_string());
    add(prefix + "ip4.dst", IpAddress::from_wire({at + 16, 4}).to_string());
    add(prefix + "ip4.tos", at[1]);
    add(prefix + "ip4.len", get16(at + 2));
    add(prefix + "ip4.id", get16(at + 4));
    add(prefix + "ip4.df", (at[6] >> 6) & 1U);
    add(prefix + "ip4.mf", (at[6] >> 5) & 1U);
    add(prefix + "ip4.off", (get16(at + 6) & 0x1fffU) * 8);
    add(prefix + "ip4.ttl", at[8]);
    add(prefix + "ip4.proto", at[9]);
    add(prefix + "ip4.opts", hex(at + 20, header > 20 ? header - 20 : 0));
    add(prefix + "ip4.sum", verdict(checksum_add(0, {at, header})));
    const bool fragment = (get16(at + 6) & 0x3fffU) != 0;
    if ((get16(at + 6) & 0x1fffU) != 0) return add(prefix + "raw.data", hex(at + header, size - header));
    transport(at + header, size - header, at[9], IpAddress::from_wire({at + 12, 4}), IpAddress::from_wire({at + 16, 4}),
              prefix, whole && !fragment);
  }

  void ipv6(const std::uint8_t* at, std::size_t size, const std::string& prefix, bool whole) {
    add(prefix + "ip6.src", IpAddress::from_wire({at + 8, 16}).to_string());
    add(prefix + "ip6.dst", IpAddress::from_wire({at + 24, 16}).to_string());
    add(prefix + "ip6.tc", (get32(at) >> 20) & 0xffU);
    add(prefix + "ip6.fl", get32(at) & 0xfffffU);
    add(prefix + "ip6.len", get16(at + 4));
    add(prefix + "ip6.nh", at[6]);
    add(prefix + "ip6.hop", at[7]);
    std::uint8_t next = at[6];
    std::size_t offset = 40;
    while ((next == 0 || next == 43 || next == 44 || next == 60) && offset + 8 <= size) {
      const std::uint8_t* header = at + offset;
      if (next == 44) {
        add(prefix + "frag.nh", header[0]);
        add(prefix + "frag.off", get16(header + 2) & 0xfff8U);
        add(prefix + "frag.mf", header[3] & 1U);
        add(prefix + "frag.id", get32(header + 4));
        whole = whole && (get16(header + 2) & 0xfff9U) == 0;
        offset += 8;
        if ((get16(header + 2) & 0xfff8U) != 0) return add(prefix + "raw.data", hex(at + offset, size - offset));
      } else {
        const std::size_t length = std::min<std::size_t>((header[1] + 1U) * 8U, size - offset);
        add(prefix + "extension." + std::to_string(next), hex(header, length));
        offset += length;
      }
      next = header[0];
    }
    transport(at + offset, size - offset, next, IpAddress::from_wire({at + 8, 16}), IpAddress::from_wire({at + 24, 16}),
              prefix, whole);
  }

  void transport(const std::uint8_t* at, std::size_t size, std::uint8_t protocol, const IpAddress& source,
                 const IpAddress& destination, const std::string& prefix, bool whole) {
    const bool v6 = source.is_v6();
    const auto judge = [&](std::size_t where, bool pseudo) -> std::string {
      if (size < where + 2) return "cut";
      if (!whole) return hex(at + where, 2);
      ChecksumSum sum = checksum_add(0, {at, size});
      if (pseudo) sum += checksum_pseudo_header(source, destination, protocol, static_cast<std::uint32_t>(size));
      return verdict(sum);
    };
    if (protocol == 17 && size >= 8) {
      add(prefix + "udp.sport", get16(at));
      add(prefix + "udp.dport", get16(at + 2));
      add(prefix + "udp.len", get16(at + 4));
      add(prefix + "udp.sum", get16(at + 6) == 0 ? "none" : judge(6, true));
      add(prefix + "udp.data", hex(at + 8, size - 8));
    } else if (protocol == 6 && size >= 20) {
      add(prefix + "tcp.sport", get16(at));
      add(prefix + "tcp.dport", get16(at + 2));
      add(prefix + "tcp.seq", get32(at + 4));
      add(prefix + "tcp.ack", get32(at + 8));
      std::string flags;
      for (unsigned bit = 0; bit < 8; ++bit)
        if ((at[13] >> bit & 1) != 0) flags.push_back("FSRPAUEC"[bit]);
      add(prefix + "tcp.flags", flags);
      add(prefix + "tcp.win", get16(at + 14));
      const std::size_t header = std::min<std::size_t>((at[12] >> 4) * 4U, size);
      add(prefix + "tcp.opts", hex(at + 20, header > 20 ? header - 20 : 0));
      add(prefix + "tcp.sum", judge(16, true));
      add(prefix + "tcp.data", hex(at + header, size - header));
    } else if ((protocol == 6 || protocol == 17) && size >= 4) {
      const std::string name = protocol == 6 ? "tcp" : "udp";
      add(prefix + name + ".sport", get16(at));
      add(prefix + name + ".dport", get16(at + 2));
      add(prefix + "rest", hex(at + 4, size - 4));
    } else if (protocol == (v6 ? 58 : 1) && size >= 8) {
      icmp(at, size, v6, prefix, judge(2, v6));
    } else {
      add(prefix + "raw.protocol", protocol);
      add(prefix + "raw.data", hex(at, size));
    }
  }

  void icmp(const std::uint8_t* at, std::size_t size, bool v6, const std::string& prefix, const std::string& sum) {
    std::string type = std::to_string(at[0]);
    for (const auto& [name, value] : icmp_types(v6))
      if (value == at[0]) type = name;
    add(prefix + "icmp.type", type);
    add(prefix + "icmp.code", at[1]);
    add(prefix + "icmp.sum", sum);
    const bool error = v6 ? at[0] < 128 : at[0] == 3 || at[0] == 4 || at[0] == 5 || at[0] == 11 || at[0] == 12;
    if (!error) {
      add(prefix + "icmp.id", get16(at + 4));
      add(prefix + "icmp.seq", get16(at + 6));
      add(prefix + "icmp.data", hex(at + 8, size - 8));
      return;
    }
    add(prefix + "icmp.rest", "0x" + hex(at + 4, 4));
    const std::size_t length = v6 ? at[4] * 8U : at[5] * 4U;
    const bool extended = length >= 128 && 8 + length < size && (v6 ? at[0] == 1 || at[0] == 3 : true);
    const std::size_t quoted = extended ? length : size - 8;
    packet(at + 8, quoted, prefix + "quoted.", false);
    if (extended) add(prefix + "icmp.ext", hex(at + 8 + length, size - 8 - length));
  }
};

}  // namespace

Fields describe_packet(const Octets& bytes) {
  Describer describer;
  describer.packet(bytes.data(), bytes.size(), "", true);
  return describer.fields;
}

std::string text_of(const Fields& fields) {
  std::string out;
  for (const auto& [name, value] : fields) out += (out.empty() ? "" : " ") + name + "=" + value;
  return out;
}

std::string compare_packet(std::string_view expected, const Octets& actual,
                           std::map<std::string, std::string>& values) {
  const BuiltPacket built = build_packet(expected, values);
  if (!built.error.empty()) return "expected packet: " + built.error + "\n";
  std::map<std::string, std::string> wild;  // field -> variable, or "" for `*`
  bool id_given = false;
  for (const auto& [name, value] : built.given) {
    if (value == "*") wild[name] = "";
    if (value.starts_with("$") && !values.contains(value.substr(1))) wild[name] = value.substr(1);
    id_given = id_given || name == "ip4.id";
  }
  if (!id_given) wild["ip4.id"] = "";
  const Fields want = describe_packet(built.bytes);
  const Fields got = describe_packet(actual);
  std::string out;
  std::size_t w = 0;
  std::size_t g = 0;
  // A wild port changes checksums of cut packets, which are compared as numbers.
  const bool loose = std::any_of(wild.begin(), wild.end(), [](const auto& e) { return e.first.ends_with("port"); });
  while (w < want.size() || g < got.size()) {
    if (w < want.size() && g < got.size() && want[w].first == got[g].first) {
      const std::string& name = want[w].first;
      const auto any = wild.find(name);
      if (any != wild.end()) {
        if (!any->second.empty()) values.emplace(any->second, got[g].second);
      } else if (want[w].second != got[g].second && !(loose && name.starts_with("quoted.") && name.ends_with(".sum"))) {
        out += "    " + name + ": expected " + want[w].second + ", got " + got[g].second + "\n";
      }
      ++w;
      ++g;
    } else if (w < want.size()) {
      out += "    " + want[w].first + ": expected " + want[w].second + ", missing\n";
      ++w;
    } else {
      out += "    " + got[g].first + ": unexpected " + got[g].second + "\n";
      ++g;
    }
  }
  return out;
}

}  // namespace penstock::path
