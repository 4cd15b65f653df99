#include "dataplane/runtime/yaml_reader.h"

#include <charconv>
#include <limits>

namespace penstock::runtime {
namespace {

std::optional<std::uint64_t> parse_integer(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::string join(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

}  // namespace

std::string YamlValue::text() const {
  if (absent()) fail("is missing");
  if (!node_.IsScalar()) fail("must be a single value");
  std::string value = node_.Scalar();
  if (value.empty()) fail("must not be empty");
  return value;
}

std::uint64_t YamlValue::integer(std::uint64_t min, std::uint64_t max) const {
  const auto value = parse_integer(text());
  if (!value || *value < min || *value > max)
    fail("must be a whole number from " + std::to_string(min) + " to " + std::to_string(max));
  return *value;
}

bool YamlValue::boolean() const {
  const std::string value = text();
  if (value == "true") return true;
  if (value == "false") return false;
  fail("must be true or false");
}

Duration YamlValue::duration() const {
  const std::string value = text();
  const std::size_t digits = value.find_first_not_of("0123456789");
  const auto number = parse_integer(std::string_view(value).substr(0, digits));
  const std::string unit = digits == std::string::npos ? "" : value.substr(digits);
  std::uint64_t scale = 0;
  if (unit == "ms") scale = 1'000'000;
  if (unit == "s") scale = 1'000'000'000;
  if (unit == "m") scale = 60'000'000'000;
  if (unit == "h") scale = 3'600'000'000'000;
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!number || scale == 0 || *number > kMax / scale) fail("must be a duration with a unit (200ms, 5s, 10m, 2h)");
  return Duration(static_cast<std::int64_t>(*number * scale));
}

IpAddress YamlValue::address() const {
  const auto value = IpAddress::parse(text());
  if (!value) fail("must be an IPv4 or IPv6 address");
  return *value;
}

Prefix YamlValue::prefix() const {
  const auto value = Prefix::parse(text());
  if (!value) fail("must be a prefix without host bits (203.0.113.0/24, 2001:db8::/32)");
  return *value;
}

Endpoint YamlValue::endpoint() const {
  const auto value = Endpoint::parse(text());
  if (!value || value->port == 0 || value->address.is_unspecified())
    fail("must be an address and port (198.51.100.1:51820, [2001:db8::1]:51820)");
  return *value;
}

MacAddress YamlValue::mac() const {
  const std::string value = text();
  MacAddress out{};
  bool good = value.size() == 17;
  for (std::size_t i = 0; good && i < 6; ++i) {
    const char* from = value.data() + 3 * i;
    const auto [end, error] = std::from_chars(from, from + 2, out[i], 16);
    good = error == std::errc{} && end == from + 2 && (i == 5 || value[3 * i + 2] == ':');
  }
  if (!good || (out[0] & 1) != 0 || out == MacAddress{}) fail("must be a unicast MAC address (02:00:00:00:00:01)");
  return out;
}

std::pair<std::uint16_t, std::uint16_t> YamlValue::port_range() const {
  const std::string value = text();
  const std::size_t dash = value.find('-');
  const auto first = parse_integer(std::string_view(value).substr(0, dash));
  const auto last = dash == std::string::npos ? first : parse_integer(std::string_view(value).substr(dash + 1));
  if (!first || !last || *first == 0 || *last > 65535 || *first > *last)
    fail("must be a port or a range of ports from 1 to 65535 (80, 8000-8999)");
  return {static_cast<std::uint16_t>(*first), static_cast<std::uint16_t>(*last)};
}

std::vector<YamlValue> YamlValue::list() const {
  std::vector<YamlValue> out;
  if (absent()) return out;
  if (!node_.IsSequence()) fail("must be a list");
  for (std::size_t i = 0; i < node_.size(); ++i) out.emplace_back(node_[i], path_ + "[" + std::to_string(i) + "]");
  return out;
}

YamlMap::YamlMap(const YamlValue& value) : node_(value.node()), path_(value.path()) {
  if (value.absent()) {
    node_ = YAML::Node(YAML::NodeType::Map);
    return;
  }
  if (!node_.IsMap()) value.fail("must be a map of keys");
  std::set<std::string> seen;
  for (const auto& entry : node_) {
    if (!entry.first.IsScalar()) value.fail("has a key that is not a word");
    if (!seen.insert(entry.first.Scalar()).second)
      throw YamlFailure{join(path_, entry.first.Scalar()), "is given twice"};
  }
}

YamlValue YamlMap::operator[](const std::string& key) {
  asked_.insert(key);
  // The const operator does not add the key to the document, but its answer for a missing key cannot be copied.
  const YAML::Node child = static_cast<const YAML::Node&>(node_)[key];
  return {child.IsDefined() ? child : YAML::Node(YAML::NodeType::Null), join(path_, key)};
}

YamlValue YamlMap::require(const std::string& key) {
  YamlValue value = (*this)[key];
  if (value.absent()) value.fail("is missing");
  return value;
}

void YamlMap::finish() const {
  for (const auto& entry : node_)
    if (!asked_.contains(entry.first.Scalar()))
      throw YamlFailure{join(path_, entry.first.Scalar()), "is not a known key"};
}

}  // namespace penstock::runtime
