#include "tests/lab/wire/spec.h"

#include <charconv>
#include <functional>
#include <map>
#include <optional>
#include <vector>

namespace penstock::wire {
namespace {

using model::Dependence;
using model::PortChoice;

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> out;
  for (;;) {
    const std::size_t comma = text.find(',');
    out.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return out;
    text.remove_prefix(comma + 1);
  }
}

std::optional<std::uint64_t> number(std::string_view text, std::string_view& unit) {
  std::uint64_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc{}) return std::nullopt;
  unit = text.substr(static_cast<std::size_t>(end - text.data()));
  return out;
}

std::optional<Duration> duration(std::string_view text) {
  static const std::map<std::string_view, Duration> kUnits = {
      {"us", std::chrono::microseconds{1}}, {"ms", std::chrono::milliseconds{1}}, {"s", std::chrono::seconds{1}},
      {"m", std::chrono::minutes{1}},       {"h", std::chrono::hours{1}},
  };
  std::string_view unit;
  const auto value = number(text, unit);
  const auto found = kUnits.find(unit);
  if (!value || *value > 1'000'000 || found == kUnits.end()) return std::nullopt;
  return found->second * static_cast<std::int64_t>(*value);
}

std::optional<std::uint64_t> plain(std::string_view text, std::uint64_t most) {
  std::string_view unit;
  const auto value = number(text, unit);
  return value && unit.empty() && *value <= most ? value : std::nullopt;
}

const std::map<std::string_view, Dependence> kDependence = {
    {"independent", Dependence::independent}, {"address", Dependence::address}, {"port", Dependence::address_and_port}};
const std::map<std::string_view, PortChoice> kPorts = {{"random", PortChoice::random},
                                                       {"preserving", PortChoice::preserving},
                                                       {"parity", PortChoice::parity},
                                                       {"sequential", PortChoice::sequential},
                                                       {"overloading", PortChoice::overloading}};

const std::map<std::string_view, std::function<void(Spec&)>> kWords = {
    {"reject", [](Spec& s) { s.behaviour.rejects = true; }},
    {"takes-port", [](Spec& s) { s.behaviour.inbound_takes_port = true; }},
    {"refresh-in", [](Spec& s) { s.behaviour.refreshed_by_inbound = true; }},
    {"arbitrary", [](Spec& s) { s.behaviour.pooling = model::Pooling::arbitrary; }},
    {"no-hairpin", [](Spec& s) { s.behaviour.hairpins = false; }},
    {"keep-order", [](Spec& s) { s.link.keeps_order = true; }},
    {"black-hole", [](Spec& s) { s.black_hole = true; }},
};
const std::map<std::string_view, std::function<void(Spec&, Duration)>> kDurations = {
    {"timeout", [](Spec& s, Duration d) { s.behaviour.timeout = d; }},
    {"life", [](Spec& s, Duration d) { s.behaviour.lifetime = d; }},
    {"delay", [](Spec& s, Duration d) { s.link.latency = d; }},
    {"jitter", [](Spec& s, Duration d) { s.link.jitter = d; }},
    {"reorder-by", [](Spec& s, Duration d) { s.link.reorder_by = d; }},
};
struct Number {
  std::uint64_t most;
  std::function<void(Spec&, std::uint64_t)> set;
};
const std::map<std::string_view, Number> kNumbers = {
    {"loss", {1000, [](Spec& s, std::uint64_t n) { s.link.loss_permille = static_cast<unsigned>(n); }}},
    {"burst", {1000, [](Spec& s, std::uint64_t n) { s.link.loss_burst = static_cast<unsigned>(n); }}},
    {"duplicate", {1000, [](Spec& s, std::uint64_t n) { s.link.duplicate_permille = static_cast<unsigned>(n); }}},
    {"reorder", {1000, [](Spec& s, std::uint64_t n) { s.link.reorder_permille = static_cast<unsigned>(n); }}},
    {"mtu", {65535, [](Spec& s, std::uint64_t n) { s.link.mtu = n; }}},
    {"rate", {10'000'000'000, [](Spec& s, std::uint64_t n) { s.link.rate = n; }}},
    {"queue", {1 << 30, [](Spec& s, std::uint64_t n) { s.link.queue = n; }}},
};

// Empty when the part was understood.
std::string apply(std::string_view part, Spec& out) {
  const std::size_t equals = part.find('=');
  const std::string_view key = part.substr(0, equals);
  if (equals == std::string_view::npos) {
    const auto word = kWords.find(key);
    if (word == kWords.end()) return "unknown word " + std::string{key};
    word->second(out);
    return {};
  }
  const std::string_view text = part.substr(equals + 1);
  if (const auto found = kDurations.find(key); found != kDurations.end()) {
    const auto value = duration(text);
    if (!value) return std::string{key} + ": not a duration such as 10ms: " + std::string{text};
    found->second(out, *value);
    return {};
  }
  const auto found = kNumbers.find(key);
  if (found == kNumbers.end()) return "unknown key " + std::string{key};
  const auto value = plain(text, found->second.most);
  if (!value)
    return std::string{key} + ": not a number up to " + std::to_string(found->second.most) + ": " + std::string{text};
  found->second.set(out, *value);
  return {};
}

}  // namespace

std::variant<Spec, std::string> parse_spec(std::string_view text) {
  Spec out;
  out.link.latency = {};
  const auto parts = split(text);
  std::size_t next = 1;
  if (parts[0] == "none") {
    out.nat = false;
  } else {
    if (parts.size() < 3) return "needs MAPPING,FILTERING,PORTS or none";
    const auto mapping = kDependence.find(parts[0]), filtering = kDependence.find(parts[1]);
    const auto ports = kPorts.find(parts[2]);
    if (mapping == kDependence.end()) return "unknown mapping " + std::string{parts[0]};
    if (filtering == kDependence.end()) return "unknown filtering " + std::string{parts[1]};
    if (ports == kPorts.end()) return "unknown choice of ports " + std::string{parts[2]};
    out.behaviour.mapping = mapping->second;
    out.behaviour.filtering = filtering->second;
    out.behaviour.ports = ports->second;
    next = 3;
  }
  for (; next < parts.size(); ++next)
    if (std::string problem = apply(parts[next], out); !problem.empty()) return problem;
  return out;
}

}  // namespace penstock::wire
