// Reading YAML strictly: every value knows its key path, every key must be asked for, every error is a `YamlFailure`.
// Thrown and caught inside the configuration loader only.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::runtime {

struct YamlFailure {
  std::string key;
  std::string reason;
};

// One value and where it stands. A missing or null value is absent().
class YamlValue {
 public:
  YamlValue(YAML::Node node, std::string path) : node_(std::move(node)), path_(std::move(path)) {}

  [[nodiscard]] bool absent() const { return !node_.IsDefined() || node_.IsNull(); }
  [[nodiscard]] bool is_map() const { return node_.IsDefined() && node_.IsMap(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const YAML::Node& node() const { return node_; }
  [[noreturn]] void fail(std::string reason) const { throw YamlFailure{path_, std::move(reason)}; }

  // Each of these fails when the value is absent or of another kind.
  [[nodiscard]] std::string text() const;  // not empty
  [[nodiscard]] std::uint64_t integer(std::uint64_t min, std::uint64_t max) const;
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] Duration duration() const;  // "200ms", "5s", "10m", "2h"
  [[nodiscard]] IpAddress address() const;
  [[nodiscard]] Prefix prefix() const;
  [[nodiscard]] Endpoint endpoint() const;  // port not 0
  [[nodiscard]] MacAddress mac() const;     // unicast
  // "80" or "8000-8999"
  [[nodiscard]] std::pair<std::uint16_t, std::uint16_t> port_range() const;
  // The values of a sequence; absent: none.
  [[nodiscard]] std::vector<YamlValue> list() const;

 private:
  YAML::Node node_;
  std::string path_;
};

// A map whose keys must all be asked for: finish() fails on the first that was not.
class YamlMap {
 public:
  // Fails when `value` is neither absent nor a map, or has a key twice.
  explicit YamlMap(const YamlValue& value);

  [[nodiscard]] YamlValue operator[](const std::string& key);
  // The same, but fails when the key is absent.
  [[nodiscard]] YamlValue require(const std::string& key);
  void finish() const;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  YAML::Node node_;
  std::string path_;
  std::set<std::string> asked_;
};

}  // namespace penstock::runtime
