#include "tests/path/packet_text.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <functional>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::path {
namespace {

constexpr std::uint16_t kBadDifference = 0x1234;

struct Layer {
  std::string name;
  std::map<std::string, std::string> fields;
  std::vector<Layer> quoted;
  [[nodiscard]] bool has(const std::string& key) const { return fields.contains(key); }
};

std::vector<std::string> tokens_of(std::string_view text) {
  std::vector<std::string> out;
  std::size_t at = 0;
  while (at < text.size()) {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\t')) ++at;
    const std::size_t begin = at;
    while (at < text.size() && text[at] != ' ' && text[at] != '\t') ++at;
    if (at > begin) out.emplace_back(text.substr(begin, at - begin));
  }
  return out;
}

bool is_layer(const std::string& token) {
  static const std::vector<std::string> kNames = {"ip4",  "ip6", "hbh", "dest", "route",
                                                  "frag", "tcp", "udp", "icmp", "raw"};
  return std::find(kNames.begin(), kNames.end(), token) != kNames.end();
}

const std::map<std::string, std::uint8_t>& icmp_types(bool v6) {
  static const std::map<std::string, std::uint8_t> k4 = {
      {"echo_reply", 0}, {"unreachable", 3},    {"source_quench", 4},      {"redirect", 5},
      {"echo", 8},       {"time_exceeded", 11}, {"parameter_problem", 12}, {"timestamp", 13}};
  static const std::map<std::string, std::uint8_t> k6 = {
      {"unreachable", 1}, {"packet_too_big", 2}, {"time_exceeded", 3}, {"parameter_problem", 4},
      {"echo", 128},      {"echo_reply", 129},   {"mld_query", 130},   {"neighbour_solicitation", 135}};
  return v6 ? k6 : k4;
}

class Builder {
 public:
  explicit Builder(const std::map<std::string, std::string>& values) : values_{values} {}

  std::string error;

  std::optional<std::vector<Layer>> parse(const std::vector<std::string>& tokens, std::size_t& at, bool nested) {
    std::vector<Layer> out;
    for (; at < tokens.size(); ++at) {
      const std::string& token = tokens[at];
      if (token == "]") {
        if (!nested) return fail("unexpected ]");
        return out;
      }
      if (token == "[") {
        if (out.empty()) return fail("[ without a layer");
        ++at;
        auto quoted = parse(tokens, at, true);
        if (!quoted) return std::nullopt;
        out.back().quoted = std::move(*quoted);
        continue;
      }
      if (is_layer(token)) {
        out.push_back({token, {}, {}});
        continue;
      }
      if (out.empty()) return fail("field before a layer: " + token);
      const std::size_t equals = token.find('=');
      std::string value = equals == std::string::npos ? "1" : token.substr(equals + 1);
      if (!value.empty() && value[0] == '$') {
        const auto found = values_.find(value.substr(1));
        value = found == values_.end() ? "*" : found->second;
      }
      if (value != "*") out.back().fields[token.substr(0, equals)] = value;
    }
    if (nested) return fail("missing ]");
    return out;
  }

  Octets build(const std::vector<Layer>& layers) {
    Octets out;
    IpAddress source;
    IpAddress destination;
    for (const Layer& layer : layers)
      if (layer.name == "ip4" || layer.name == "ip6") {
        source = address(layer, "src");
        destination = address(layer, "dst");
      }
    const bool v6 = !layers.empty() && layers.front().name == "ip6";
    for (std::size_t i = layers.size(); i-- > 0;) {
      const std::uint8_t next = i + 1 < layers.size() ? protocol_of(layers[i + 1], v6) : std::uint8_t{59};
      Octets head = build_layer(layers[i], v6, next, source, destination, out, i + 1 == layers.size());
      head.insert(head.end(), out.begin(), out.end());
      out = std::move(head);
    }
    return out;
  }

 private:
  std::nullopt_t fail(const std::string& why) {
    if (error.empty()) error = why;
    return std::nullopt;
  }

  std::uint32_t number(const Layer& layer, const std::string& key, std::uint32_t otherwise) {
    const auto found = layer.fields.find(key);
    if (found == layer.fields.end()) return otherwise;
    std::string_view text = found->second;
    int base = 10;
    if (text.starts_with("0x")) {
      text.remove_prefix(2);
      base = 16;
    }
    std::uint32_t value = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (code != std::errc{} || end != text.data() + text.size()) fail(layer.name + "." + key + ": not a number");
    return value;
  }

  IpAddress address(const Layer& layer, const std::string& key) {
    const auto found = layer.fields.find(key);
    if (found == layer.fields.end()) return layer.name == "ip4" ? IpAddress::v4(0U) : IpAddress{};
    const auto parsed = IpAddress::parse(found->second);
    if (!parsed || parsed->is_v4() != (layer.name == "ip4")) {
      fail(layer.name + "." + key + ": not an address of the family");
      return layer.name == "ip4" ? IpAddress::v4(0U) : IpAddress{};
    }
    return *parsed;
  }

  Octets octets(const Layer& layer, const std::string& key) {
    const auto found = layer.fields.find(key);
    Octets out;
    if (found == layer.fields.end()) return out;
    const std::string& text = found->second;
    if (!text.empty() && text[0] == '#') {
      const auto count = static_cast<std::size_t>(std::atoi(text.c_str() + 1));
      for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<std::uint8_t>(i * 7 + 1));
      return out;
    }
    if (text.size() % 2 != 0) fail(layer.name + "." + key + ": odd number of digits");
    for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
      unsigned value = 0;
      const auto [end, code] = std::from_chars(text.data() + i, text.data() + i + 2, value, 16);
      if (code != std::errc{} || end != text.data() + i + 2) fail(layer.name + "." + key + ": not hex");
      out.push_back(static_cast<std::uint8_t>(value));
    }
    return out;
  }

  std::uint8_t protocol_of(const Layer& layer, bool v6) {
    if (layer.name == "hbh") return 0;
    if (layer.name == "dest") return 60;
    if (layer.name == "route") return 43;
    if (layer.name == "frag") return 44;
    if (layer.name == "tcp") return 6;
    if (layer.name == "udp") return 17;
    if (layer.name == "icmp") return v6 ? 58 : 1;
    return static_cast<std::uint8_t>(number(layer, "protocol", 59));
  }

  static void put16(Octets& out, std::size_t at, std::uint32_t value) {
    out[at] = static_cast<std::uint8_t>(value >> 8);
    out[at + 1] = static_cast<std::uint8_t>(value);
  }
  static void put32(Octets& out, std::size_t at, std::uint32_t value) {
    put16(out, at, value >> 16);
    put16(out, at + 2, value & 0xffff);
  }

  // Checksum of head ++ rest with the pseudo-header, stored at `where` in head. `whole`: length that the pseudo-header
  // counts and, for fragments, bytes behind this piece.
  void checksum(const Layer& layer, Octets& head, std::size_t where, const Octets& rest, bool pseudo,
                const IpAddress& source, const IpAddress& destination, std::uint8_t protocol) {
    const auto given = layer.fields.find("sum");
    if (given != layer.fields.end() && given->second == "none") return;
    if (given != layer.fields.end() && given->second.starts_with("0x")) {
      put16(head, where, number(layer, "sum", 0));
      return;
    }
    Octets all = head;
    all.insert(all.end(), rest.begin(), rest.end());
    // `over=hex` or `over=#n`: bytes of later fragments that the checksum covers as well.
    const Octets over = octets(layer, "over");
    all.insert(all.end(), over.begin(), over.end());
    ChecksumSum sum = checksum_add(0, all);
    if (pseudo) sum += checksum_pseudo_header(source, destination, protocol, static_cast<std::uint32_t>(all.size()));
    std::uint16_t value = checksum_finish(sum).host();
    if (layer.name == "udp" && value == 0) value = 0xffff;
    if (given != layer.fields.end() && given->second == "bad") {
      const std::uint32_t wrong = value + kBadDifference;
      value = static_cast<std::uint16_t>((wrong & 0xffff) + (wrong >> 16));
    }
    put16(head, where, value);
  }

  Octets build_layer(const Layer& layer, bool v6, std::uint8_t next, const IpAddress& source,
                     const IpAddress& destination, const Octets& rest, bool last) {
    Octets head;
    const std::string& name = layer.name;
    if (name == "ip4") {
      Octets options = octets(layer, "opts");
      while (options.size() % 4 != 0) options.push_back(0);
      head.resize(20 + options.size());
      std::copy(options.begin(), options.end(), head.begin() + 20);
      head[0] = static_cast<std::uint8_t>(0x40 | head.size() / 4);
      head[1] = static_cast<std::uint8_t>(number(layer, "tos", 0));
      put16(head, 2, number(layer, "len", static_cast<std::uint32_t>(head.size() + rest.size())));
      put16(head, 4, number(layer, "id", 0));
      put16(head, 6, (layer.has("df") ? 0x4000U : 0U) | (layer.has("mf") ? 0x2000U : 0U) | number(layer, "off", 0) / 8);
      head[8] = static_cast<std::uint8_t>(number(layer, "ttl", 64));
      head[9] = static_cast<std::uint8_t>(number(layer, "proto", next));
      std::memcpy(head.data() + 12, source.wire().data(), 4);
      std::memcpy(head.data() + 16, destination.wire().data(), 4);
      checksum(layer, head, 10, {}, false, source, destination, 0);
    } else if (name == "ip6") {
      head.resize(40);
      put32(head, 0, 6U << 28 | number(layer, "tc", 0) << 20 | number(layer, "fl", 0));
      put16(head, 4, number(layer, "len", static_cast<std::uint32_t>(rest.size())));
      head[6] = static_cast<std::uint8_t>(number(layer, "nh", next));
      head[7] = static_cast<std::uint8_t>(number(layer, "hop", 64));
      std::memcpy(head.data() + 8, source.wire().data(), 16);
      std::memcpy(head.data() + 24, destination.wire().data(), 16);
    } else if (name == "hbh" || name == "dest" || name == "route") {
      head = octets(layer, "data");
      if (head.empty()) head = name == "route" ? Octets{0, 0, 0, 0, 0, 0} : Octets{1, 4, 0, 0, 0, 0};
      while ((head.size() + 2) % 8 != 0) head.push_back(0);
      head.insert(head.begin(), {static_cast<std::uint8_t>(number(layer, "nh", next)),
                                 static_cast<std::uint8_t>((head.size() + 2) / 8 - 1)});
      if (name == "route") head[3] = static_cast<std::uint8_t>(number(layer, "left", 0));
    } else if (name == "frag") {
      head.resize(8);
      head[0] = static_cast<std::uint8_t>(number(layer, "nh", next));
      put16(head, 2, number(layer, "off", 0) | (layer.has("mf") ? 1U : 0U));
      put32(head, 4, number(layer, "id", 0));
    } else if (name == "udp") {
      head.resize(8);
      put16(head, 0, number(layer, "sport", 0));
      put16(head, 2, number(layer, "dport", 0));
      const Octets data = octets(layer, "data");
      head.insert(head.end(), data.begin(), data.end());
      const auto length = static_cast<std::uint32_t>(head.size() + octets(layer, "over").size());
      put16(head, 4, number(layer, "len", length));
      checksum(layer, head, 6, rest, true, source, destination, 17);
    } else if (name == "tcp") {
      head.resize(20);
      put16(head, 0, number(layer, "sport", 0));
      put16(head, 2, number(layer, "dport", 0));
      put32(head, 4, number(layer, "seq", 0));
      put32(head, 8, number(layer, "ack", 0));
      Octets options = octets(layer, "opts");
      if (layer.has("mss")) {
        const std::uint32_t mss = number(layer, "mss", 0);
        options.insert(options.begin(), {2, 4, static_cast<std::uint8_t>(mss >> 8), static_cast<std::uint8_t>(mss)});
      }
      while (options.size() % 4 != 0) options.push_back(0);
      head.insert(head.end(), options.begin(), options.end());
      head[12] = static_cast<std::uint8_t>(head.size() / 4 << 4);
      head[13] = tcp_flags(layer);
      put16(head, 14, number(layer, "win", 1000));
      const Octets data = octets(layer, "data");
      head.insert(head.end(), data.begin(), data.end());
      checksum(layer, head, 16, rest, true, source, destination, 6);
    } else if (name == "icmp") {
      head = build_icmp(layer, v6);
      checksum(layer, head, 2, rest, v6, source, destination, 58);
    } else {
      head = octets(layer, "data");
      (void)last;
    }
    return head;
  }

  static std::uint8_t tcp_flags(const Layer& layer) {
    const auto found = layer.fields.find("flags");
    unsigned flags = 0;
    for (const char c : found == layer.fields.end() ? std::string{"A"} : found->second)
      flags |= c == 'F'   ? 1U
               : c == 'S' ? 2U
               : c == 'R' ? 4U
               : c == 'P' ? 8U
               : c == 'A' ? 16U
               : c == 'E' ? 64U
               : c == 'C' ? 128U
                          : 0U;
    return static_cast<std::uint8_t>(flags);
  }

  Octets build_icmp(const Layer& layer, bool v6) {
    Octets head(8);
    const auto type = layer.fields.find("type");
    if (type != layer.fields.end()) {
      const auto& names = icmp_types(v6);
      const auto named = names.find(type->second);
      head[0] = named != names.end() ? named->second : static_cast<std::uint8_t>(number(layer, "type", 0));
    }
    head[1] = static_cast<std::uint8_t>(number(layer, "code", 0));
    put32(head, 4, number(layer, "rest", 0));
    if (layer.has("id") || layer.has("seq")) {
      put16(head, 4, number(layer, "id", 0));
      put16(head, 6, number(layer, "seq", 0));
    }
    if (layer.has("mtu")) v6 ? put32(head, 4, number(layer, "mtu", 0)) : put16(head, 6, number(layer, "mtu", 0));
    if (layer.has("pointer")) {
      if (v6)
        put32(head, 4, number(layer, "pointer", 0));
      else
        head[4] = static_cast<std::uint8_t>(number(layer, "pointer", 0));
    }
    Octets data = octets(layer, "data");
    if (!layer.quoted.empty()) {
      data = build(layer.quoted);
      const Layer& last = layer.quoted.back();
      if (last.has("cut")) {
        std::size_t headers = 0;
        for (const Layer& l : layer.quoted)
          if (l.name == "ip4")
            headers += 20 + (octets(l, "opts").size() + 3) / 4 * 4;
          else if (l.name == "ip6")
            headers += 40;
          else if (l.name == "frag")
            headers += 8;
        data.resize(std::min(data.size(), headers + number(last, "cut", 0)));
      }
    }
    const Octets extension = octets(layer, "ext");
    if (!extension.empty()) {
      const std::size_t unit = v6 ? 8 : 4;
      data.resize(std::max<std::size_t>(128, (data.size() + unit - 1) / unit * unit));
      head[v6 ? 4 : 5] = static_cast<std::uint8_t>(data.size() / unit);
      data.insert(data.end(), extension.begin(), extension.end());
    }
    head.insert(head.end(), data.begin(), data.end());
    return head;
  }

  const std::map<std::string, std::string>& values_;
};

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

// Names of the fields that `token` in layer `layer` stands for in a description.
std::string described_name(const std::string& layer, const std::string& field) {
  if (layer == "icmp" && (field == "mtu" || field == "pointer")) return "icmp.rest";
  if (layer == "tcp" && field == "mss") return "tcp.opts";
  return layer + "." + field;
}

}  // namespace

BuiltPacket build_packet(std::string_view text, const std::map<std::string, std::string>& values) {
  BuiltPacket out;
  Builder builder{values};
  const auto tokens = tokens_of(text);
  std::size_t at = 0;
  const auto layers = builder.parse(tokens, at, false);
  if (layers && (layers->empty() || (layers->front().name != "ip4" && layers->front().name != "ip6")))
    builder.error = "a packet begins with ip4 or ip6";
  if (layers && builder.error.empty()) out.bytes = builder.build(*layers);
  out.error = builder.error;
  std::string layer;
  std::string prefix;
  for (const std::string& token : tokens) {
    if (token == "[")
      prefix += "quoted.";
    else if (token == "]")
      prefix.resize(prefix.size() >= 7 ? prefix.size() - 7 : 0);
    else if (is_layer(token))
      layer = token;
    else {
      const std::size_t equals = token.find('=');
      out.given.emplace_back(prefix + described_name(layer, token.substr(0, equals)),
                             equals == std::string::npos ? "1" : token.substr(equals + 1));
    }
  }
  return out;
}

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
