// The lines of a case that set its world up: addresses, limits, peers, rights, names (syntax: path_runner.cc).
#pragma once

#include <string>
#include <vector>

#include "tests/path/world.h"

namespace penstock::path {

[[nodiscard]] std::vector<std::string> split(const std::string& text, char by);
[[nodiscard]] unsigned number(const std::string& text);

class CaseSetup {
 public:
  explicit CaseSetup(World& world) : world_{world} {}

  // Empty when the line was understood; otherwise what is wrong with it.
  std::string configure(const std::string& verb, const std::vector<std::string>& words);

 private:
  void fail(const std::string& why) { problem_ += why; }
  void add_address(std::vector<IpAddress>& list, const std::string& word);
  void set(const std::string& key, const std::string& value);
  void allow(const std::vector<std::string>& words);
  void add_name(const std::vector<std::string>& words);

  World& world_;
  std::string problem_;
};

}  // namespace penstock::path
