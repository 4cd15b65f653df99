#include "tests/path/packet_text.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <functional>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "tests/path/icmp_type_names.h"

namespace penstock::path {

const std::map<std::string, std::uint8_t>& icmp_types(bool v6) {
  static const std::map<std::string, std::uint8_t> k4 = {
      {"echo_reply", 0}, {"unreachable", 3},    {"source_quench", 4},      {"redirect", 5},
      {"echo", 8},       {"time_exceeded", 11}, {"parameter_problem", 12}, {"timestamp", 13}};
  static const std::map<std::string, std::uint8_t> k6 = {
      {"unreachable", 1}, {"packet_too_big", 2}, {"time_exceeded", 3}, {"parameter_problem", 4},
      {"echo", 128},      {"echo_reply", 129},   {"mld_query", 130},   {"neighbour_solicitation", 135}};
  return v6 ? k6 : k4;
}

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

}  // namespace penstock::path
