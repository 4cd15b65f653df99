#include "controlplane/core/dns/name.h"

#include <idn2.h>

#include <charconv>
#include <memory>

namespace penstock::dns {
namespace {

// Printable, and nothing that would make the text mean something else: a dot inside a label, an escape, a wildcard.
bool plain(std::uint8_t c) {
  return c > 0x20 && c < 0x7f && c != '.' && c != '\\' && c != '*' && c != '?';
}

std::optional<std::string> label_to_ascii(const std::string& label) {
  char* raw = nullptr;
  const int result = idn2_to_ascii_8z(label.c_str(), &raw, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
  const std::unique_ptr<char, void (*)(void*)> owned{raw, idn2_free};
  if (result != IDN2_OK) return std::nullopt;
  std::string out{owned.get()};
  for (char& c : out) c = static_cast<char>(ascii_lower(static_cast<std::uint8_t>(c)));
  if (out.empty() || out.size() > kMaxLabel || out.find('.') != std::string::npos) return std::nullopt;
  return out;
}

bool has_high_byte(std::string_view text) {
  for (const char c : text)
    if (static_cast<std::uint8_t>(c) >= 0x80) return true;
  return false;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

std::optional<IpAddress> reverse_v4(std::string_view text) {
  std::array<std::uint8_t, 4> octets{};
  for (std::size_t i = 4; i-- > 0;) {
    const std::size_t dot = text.find('.');
    const std::string_view label = text.substr(0, dot);
    if ((dot == std::string_view::npos) != (i == 0)) return std::nullopt;
    if (label.empty() || label.size() > 3 || (label.size() > 1 && label[0] == '0')) return std::nullopt;
    unsigned value = 0;
    const auto [end, error] = std::from_chars(label.data(), label.data() + label.size(), value);
    if (error != std::errc{} || end != label.data() + label.size() || value > 255) return std::nullopt;
    octets[i] = static_cast<std::uint8_t>(value);
    if (i > 0) text.remove_prefix(dot + 1);
  }
  return IpAddress::v4(octets);
}

std::optional<IpAddress> reverse_v6(std::string_view text) {
  if (text.size() != 63) return std::nullopt;
  std::array<std::uint8_t, 16> octets{};
  for (std::size_t i = 0; i < 32; ++i) {
    const char c = text[2 * i];
    if (i < 31 && text[2 * i + 1] != '.') return std::nullopt;
    unsigned value = 0;
    if (c >= '0' && c <= '9')
      value = static_cast<unsigned>(c - '0');
    else if (c >= 'a' && c <= 'f')
      value = static_cast<unsigned>(c - 'a') + 10;
    else
      return std::nullopt;
    std::uint8_t& octet = octets[15 - i / 2];
    octet = static_cast<std::uint8_t>(octet | value << (i % 2 == 0 ? 0 : 4));
  }
  const IpAddress address = IpAddress::v6(octets);
  if (address.is_v4()) return std::nullopt;  // the mapped form is not an address of its own
  return address;
}

}  // namespace

std::optional<WireName> read_name(Bytes message, std::size_t& offset) {
  WireName name;
  std::size_t at = offset;
  std::size_t lowest = offset;  // a pointer must lead below everything read so far: no loops
  bool jumped = false;
  while (true) {
    if (at >= message.size()) return std::nullopt;
    const std::uint8_t length = message[at];
    if ((length & 0xc0) == 0xc0) {
      if (at + 1 >= message.size()) return std::nullopt;
      const std::size_t target = static_cast<std::size_t>(length & 0x3f) << 8 | message[at + 1];
      if (!jumped) offset = at + 2;
      jumped = true;
      if (target >= lowest || target < 12) return std::nullopt;
      lowest = at = target;
      continue;
    }
    if (length > kMaxLabel) return std::nullopt;
    if (at + 1 + length > message.size() || name.size + 1 + length > kMaxWireName) return std::nullopt;
    std::copy_n(message.begin() + static_cast<std::ptrdiff_t>(at), 1 + length,
                name.storage.begin() + static_cast<std::ptrdiff_t>(name.size));
    name.size += 1U + length;
    at += 1U + length;
    if (length == 0) break;
  }
  if (!jumped) offset = at;
  return name;
}

bool same_name(Bytes a, Bytes b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (ascii_lower(a[i]) != ascii_lower(b[i])) return false;
  return true;
}

std::string name_key(Bytes name) {
  std::string key(name.size(), '\0');
  for (std::size_t i = 0; i < name.size(); ++i) key[i] = static_cast<char>(ascii_lower(name[i]));
  return key;
}

bool name_text(Bytes name, std::string& out) {
  out.clear();
  std::size_t at = 0;
  while (at < name.size() && name[at] != 0) {
    const std::size_t length = name[at];
    if (at + 1 + length >= name.size()) return false;
    const Bytes label = name.subspan(at + 1, length);
    const std::size_t start = out.size();
    bool high = false;
    for (const std::uint8_t c : label) {
      if (c >= 0x80)
        high = true;
      else if (!plain(c))
        return false;
      out.push_back(static_cast<char>(ascii_lower(c)));
    }
    if (high) {
      const auto ascii = label_to_ascii(out.substr(start));
      if (!ascii) return false;
      out.resize(start);
      out += *ascii;
    }
    out.push_back('.');
    at += 1 + length;
  }
  if (out.empty()) return false;
  out.pop_back();
  return out.size() <= kMaxWireName - 2;
}

std::optional<std::string> name_text(Bytes name) {
  std::string out;
  if (!name_text(name, out)) return std::nullopt;
  return out;
}

std::optional<WireName> wire_name(std::string_view text) {
  if (!is_normalised(text)) return std::nullopt;
  WireName name;
  while (true) {
    const std::size_t dot = text.find('.');
    const std::string_view label = text.substr(0, dot);
    name.storage[name.size++] = static_cast<std::uint8_t>(label.size());
    for (const char c : label) name.storage[name.size++] = static_cast<std::uint8_t>(c);
    if (dot == std::string_view::npos) break;
    text.remove_prefix(dot + 1);
  }
  name.storage[name.size++] = 0;
  return name;
}

std::optional<std::string> ascii_name(std::string_view written) {
  if (written.ends_with('.')) written.remove_suffix(1);
  if (written.empty() || written.size() > 4 * kMaxWireName) return std::nullopt;
  std::string out;
  while (true) {
    const std::size_t dot = written.find('.');
    const std::string_view label = written.substr(0, dot);
    if (label.empty()) return std::nullopt;
    if (has_high_byte(label)) {
      if (label.find_first_of("*?") != std::string_view::npos) return std::nullopt;
      const auto ascii = label_to_ascii(std::string{label});
      if (!ascii) return std::nullopt;
      out += *ascii;
    } else {
      if (label.size() > kMaxLabel) return std::nullopt;
      for (const char c : label) {
        const auto byte = static_cast<std::uint8_t>(c);
        if (!plain(byte) && c != '*' && c != '?') return std::nullopt;
        out.push_back(static_cast<char>(ascii_lower(byte)));
      }
    }
    if (dot == std::string_view::npos) break;
    out.push_back('.');
    written.remove_prefix(dot + 1);
  }
  if (out.size() > kMaxWireName - 2) return std::nullopt;
  return out;
}

bool is_normalised(std::string_view text) {
  if (text.empty() || text.size() > kMaxWireName - 2) return false;
  std::size_t label = 0;
  for (const char c : text) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (c == '.') {
      if (label == 0) return false;
      label = 0;
      continue;
    }
    if (!plain(byte) || byte != ascii_lower(byte) || ++label > kMaxLabel) return false;
  }
  return label > 0;
}

std::optional<IpAddress> reverse_address(std::string_view text) {
  constexpr std::string_view kV4 = ".in-addr.arpa";
  constexpr std::string_view kV6 = ".ip6.arpa";
  if (ends_with(text, kV4)) return reverse_v4(text.substr(0, text.size() - kV4.size()));
  if (ends_with(text, kV6)) return reverse_v6(text.substr(0, text.size() - kV6.size()));
  return std::nullopt;
}

}  // namespace penstock::dns
