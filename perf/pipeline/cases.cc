#include "perf/pipeline/cases.h"

#include <algorithm>
#include <thread>

namespace penstock::perf {
namespace {

struct Size {
  const char* name;
  std::vector<std::uint16_t> sizes;
  std::uint16_t size;
  Goal goal;
};

std::vector<Case> all_cases(const Options& options) {
  const Size small{"64", {64}, 64, {true, 7, 5, 0.27, 290, 0}};
  const Size mixed{"imix", imix(), 0, {false, 14, 10, 0.55, 245, 0}};
  const Size large{"1420", {1420}, 1420, {false, 22, 18, 0.75, 345, 0}};
  std::vector<Case> out;
  const auto path = [&out](const std::string& prefix, const Size& size, bool up, std::uint16_t workers, bool one_peer,
                           double times) {
    Case one;
    one.base = std::string(up ? "up/" : "down/") + size.name;
    one.name = prefix + one.base;
    one.up = up;
    one.sizes = size.sizes;
    one.size = size.size;
    one.workers = workers;
    one.one_peer = one_peer;
    if (prefix.empty()) one.goal = size.goal;
    one.goal.in_packets = size.goal.in_packets;
    one.goal.times = times;
    out.push_back(one);
  };
  const auto translation = [&out](std::uint16_t size, double goal) {
    Case one;
    one.name = "nat64/" + std::to_string(size);
    one.size = size;
    one.goal.goal = goal;
    out.push_back(one);
  };
  const std::uint16_t workers = options.workers;
  for (const bool up : {true, false}) path("", small, up, workers, false, 0);
  translation(64, 15);
  for (const Size* size : {&mixed, &large})
    for (const bool up : {true, false}) path("", *size, up, workers, false, 0);
  translation(1420, 10);
  if (workers != 1 || std::thread::hardware_concurrency() < 2) return out;
  for (const Size* size : {&small, &large}) {
    for (const bool up : {true, false}) path("cores/", *size, up, 2, false, 1.9);
    for (const bool up : {true, false}) path("fat/", *size, up, 2, true, 1.6);
  }
  return out;
}

}  // namespace

std::vector<Case> choose_cases(const Options& options) {
  std::vector<Case> all = all_cases(options);
  if (options.names.empty()) return all;
  const auto is_named = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const std::string& name : options.names)
    if (std::none_of(all.begin(), all.end(), [&](const Case& one) { return one.name == name; })) return {};
  std::erase_if(all, [&](const Case& one) { return !is_named(options.names, one.name); });
  return all;
}

}  // namespace penstock::perf
