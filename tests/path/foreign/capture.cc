#include "tests/path/foreign/capture.h"

#include <cctype>
#include <fstream>
#include <iterator>
#include <span>

namespace penstock::path {
namespace {

using View = std::span<const std::uint8_t>;

// Link types (www.tcpdump.org/linktypes.html).
enum Link : std::uint32_t {
  kNull = 0,
  kEthernet = 1,
  kRawOpenBsd = 12,
  kRawBsd = 14,
  kRaw = 101,
  kLoop = 108,
  kLinuxSll = 113,
  kIpv4 = 228,
  kIpv6 = 229,
  kLinuxSll2 = 276
};

class Reader {
 public:
  Reader(View bytes, bool big) : bytes_{bytes}, big_{big} {}
  [[nodiscard]] std::uint32_t u32(std::size_t at) const {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < 4; ++i) value |= std::uint32_t{bytes_[at + i]} << (8 * (big_ ? 3 - i : i));
    return value;
  }
  [[nodiscard]] std::uint16_t u16(std::size_t at) const {
    return static_cast<std::uint16_t>(big_ ? bytes_[at] << 8 | bytes_[at + 1] : bytes_[at + 1] << 8 | bytes_[at]);
  }

 private:
  View bytes_;
  bool big_;
};

std::uint16_t ether_type(View frame, std::size_t at) {
  return static_cast<std::uint16_t>(frame[at] << 8 | frame[at + 1]);
}

// What of a frame is IP; empty: none of it.
std::optional<View> ip_of(View frame, std::uint32_t link, std::string& error) {
  std::size_t header = 0;
  switch (link) {
    case kRaw:
    case kRawBsd:
    case kRawOpenBsd:
    case kIpv4:
    case kIpv6:
      break;
    case kNull:
    case kLoop:
      header = 4;
      break;
    case kEthernet:
      header = 14;
      if (frame.size() < header) return View{};
      // 802.1Q and 802.1ad tags
      while (frame.size() >= header + 4 &&
             (ether_type(frame, header - 2) == 0x8100 || ether_type(frame, header - 2) == 0x88a8))
        header += 4;
      if (ether_type(frame, header - 2) != 0x0800 && ether_type(frame, header - 2) != 0x86dd) return View{};
      break;
    case kLinuxSll:
      header = 16;
      if (frame.size() < header || (ether_type(frame, 14) != 0x0800 && ether_type(frame, 14) != 0x86dd)) return View{};
      break;
    case kLinuxSll2:
      header = 20;
      if (frame.size() < header || (ether_type(frame, 0) != 0x0800 && ether_type(frame, 0) != 0x86dd)) return View{};
      break;
    default:
      error = "link type " + std::to_string(link) + " is not known here";
      return std::nullopt;
  }
  return frame.size() > header ? frame.subspan(header) : View{};
}

// Short Ethernet frames are padded: the packet's own length counts. Left alone when the header makes no sense.
View without_padding(View packet) {
  std::size_t length = 0;
  if (packet.size() >= 20 && packet[0] >> 4 == 4) length = static_cast<std::size_t>(packet[2] << 8 | packet[3]);
  if (packet.size() >= 40 && packet[0] >> 4 == 6) length = 40U + static_cast<std::size_t>(packet[4] << 8 | packet[5]);
  return length >= 20 && length < packet.size() ? packet.first(length) : packet;
}

struct Capture {
  std::string name;
  std::vector<CapturedPacket> packets;
  std::size_t frames = 0;

  bool add(View frame, std::uint32_t link, std::string& error) {
    ++frames;
    const auto packet = ip_of(frame, link, error);
    if (!packet) return false;
    if (packet->empty()) return true;
    const View bytes = without_padding(*packet);
    packets.push_back({name + "#" + std::to_string(frames), Octets(bytes.begin(), bytes.end())});
    return true;
  }
};

bool read_pcap(View file, bool big, Capture& out, std::string& error) {
  const Reader read{file, big};
  if (file.size() < 24) {
    error = "pcap header is cut off";
    return false;
  }
  const std::uint32_t link = read.u32(20) & 0xffffU;
  std::size_t at = 24;
  while (at + 16 <= file.size()) {
    const std::uint32_t length = read.u32(at + 8);
    at += 16;
    if (length > file.size() - at) {
      error = "the last packet is cut off";
      return false;
    }
    if (!out.add(file.subspan(at, length), link, error)) return false;
    at += length;
  }
  return true;
}

bool read_pcapng(View file, Capture& out, std::string& error) {
  constexpr std::uint32_t kSection = 0x0a0d0d0a, kInterface = 1, kSimple = 3, kPacket = 2, kEnhanced = 6;
  bool big = false;
  std::vector<std::uint32_t> links;
  for (std::size_t at = 0; at + 12 <= file.size();) {
    if (Reader{file, true}.u32(at) == kSection) {
      big = Reader{file, true}.u32(at + 8) == 0x1a2b3c4d;
      links.clear();
    }
    const Reader read{file, big};
    const std::uint32_t type = read.u32(at);
    const std::uint32_t length = read.u32(at + 4);
    if (length < 12 || length % 4 != 0 || length > file.size() - at) {
      error = "a block is cut off";
      return false;
    }
    const View body = file.subspan(at + 8, length - 12);
    const Reader field{body, big};
    if (type == kInterface && body.size() >= 4) links.push_back(field.u16(0));
    std::size_t header = 0;
    std::uint32_t interface = 0;
    std::uint32_t captured = 0;
    if ((type == kEnhanced || type == kPacket) && body.size() >= 20) {
      header = 20;
      interface = type == kEnhanced ? field.u32(0) : field.u16(0);
      captured = field.u32(12);
    } else if (type == kSimple && body.size() >= 4) {
      header = 4;
      captured = std::min<std::uint32_t>(field.u32(0), static_cast<std::uint32_t>(body.size() - 4));
    }
    if (header != 0) {
      if (interface >= links.size() || captured > body.size() - header) {
        error = "a packet block is malformed";
        return false;
      }
      if (!out.add(body.subspan(header, captured), links[interface], error)) return false;
    }
    at += length;
  }
  return true;
}

std::optional<Octets> from_hex_text(const Octets& content) {
  Octets out;
  int high = -1;
  for (const std::uint8_t c : content) {
    if (std::isspace(c) != 0 || c == ':') continue;
    if (std::isxdigit(c) == 0) return std::nullopt;
    const int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    if (high < 0) {
      high = digit;
    } else {
      out.push_back(static_cast<std::uint8_t>(high << 4 | digit));
      high = -1;
    }
  }
  if (high >= 0 || out.empty()) return std::nullopt;
  return out;
}

}  // namespace

std::optional<std::vector<CapturedPacket>> parse_packets(const std::string& name, const Octets& content,
                                                         std::string& error) {
  Capture out;
  out.name = name;
  const View file{content};
  if (content.size() >= 4) {
    const std::uint32_t magic = Reader{file, true}.u32(0);
    const bool big = magic == 0xa1b2c3d4 || magic == 0xa1b23c4d;
    if (big || magic == 0xd4c3b2a1 || magic == 0x4d3cb2a1) {
      if (!read_pcap(file, big, out, error)) return std::nullopt;
      return out.packets;
    }
    if (magic == 0x0a0d0d0a) {
      if (!read_pcapng(file, out, error)) return std::nullopt;
      return out.packets;
    }
  }
  // A raw packet begins with its version, 0x4. or 0x6.; hexadecimal text of one with that digit, 0x34 or 0x36.
  if (!content.empty() && (content[0] >> 4 == 4 || content[0] >> 4 == 6))
    return std::vector{CapturedPacket{name, content}};
  if (auto packet = from_hex_text(content)) return std::vector{CapturedPacket{name, *packet}};
  error = "neither a raw IP packet nor pcap, pcapng or hexadecimal text";
  return std::nullopt;
}

std::optional<std::vector<CapturedPacket>> load_packets(const std::string& file, std::string& error) {
  std::ifstream in{file, std::ios::binary};
  if (!in) {
    error = "cannot be read";
    return std::nullopt;
  }
  const Octets content{std::istreambuf_iterator<char>{in}, std::istreambuf_iterator<char>{}};
  if (content.empty()) return std::vector<CapturedPacket>{};
  const std::size_t slash = file.rfind('/');
  return parse_packets(slash == std::string::npos ? file : file.substr(slash + 1), content, error);
}

bool save_packets(const std::string& file, const std::vector<Octets>& packets) {
  std::ofstream out{file, std::ios::binary};
  const auto put = [&out](std::initializer_list<std::uint32_t> words) {
    for (const std::uint32_t word : words)
      for (unsigned shift = 0; shift < 32; shift += 8) out.put(static_cast<char>(word >> shift));
  };
  put({0xa1b2c3d4, 4U << 16 | 2U, 0, 0, 0xffff, kRaw});
  for (const Octets& packet : packets) {
    const auto length = static_cast<std::uint32_t>(packet.size());
    put({0, 0, length, length});
    out.write(reinterpret_cast<const char*>(packet.data()), static_cast<std::streamsize>(packet.size()));
  }
  out.flush();
  return out.good();
}

}  // namespace penstock::path
