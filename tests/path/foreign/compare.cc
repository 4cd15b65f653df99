#include "tests/path/foreign/compare.h"

#include <algorithm>

namespace penstock::path {
namespace {

constexpr std::size_t kShown = 24;  // bytes of a long field

std::string shortened(const std::string& value) {
  return value.size() <= 2 * kShown ? value : value.substr(0, 2 * kShown) + "...";
}

// Long byte strings: only where they begin to differ.
std::string contrast(const Field& expected, const Field& actual) {
  if (expected.value.size() <= 2 * kShown && actual.value.size() <= 2 * kShown)
    return "expected " + expected.value + ", got " + actual.value;
  const auto [e, a] = std::mismatch(expected.value.begin(), expected.value.end(), actual.value.begin(),
                                    actual.value.end());
  const auto at = static_cast<std::size_t>(e - expected.value.begin()) / 2;
  (void)a;
  const auto piece = [&](const Field& field) {
    return at * 2 >= field.value.size() ? std::string{"(end)"} : shortened(field.value.substr(at * 2));
  };
  return "differs from byte " + std::to_string(expected.offset + at) + ": expected " + piece(expected) + ", got " +
         piece(actual) + " (" + std::to_string(expected.length) + " and " + std::to_string(actual.length) + " bytes)";
}

bool bytes_ignored(const Field& e, const Octets& expected, const Field& a, const Octets& actual,
                   const Ignored& ignored) {
  if (e.length != a.length) return false;
  bool any = false;
  for (std::size_t i = 0; i < e.length; ++i) {
    const unsigned mask = i == 0 ? e.mask : 0xffU;
    if (((expected[e.offset + i] ^ actual[a.offset + i]) & mask) == 0) continue;
    any = true;
    if (!ignored.bytes.contains(e.offset + i)) return false;
  }
  return any;
}

bool same_place(const Field& a, const Field& b) {
  return a.name == b.name && a.layer == b.layer && a.inner == b.inner;
}

// The first layer of the outer packets that is another; empty: all the same. Of packets that have little in common a
// list of fields says nothing.
std::string other_layer(const std::vector<Field>& want, const std::vector<Field>& got) {
  const auto layers = [](const std::vector<Field>& fields) {
    std::vector<std::string> out;
    for (const Field& field : fields)
      if (!field.inner && field.layer != "fragment" && (out.empty() || out.back() != field.layer))
        out.push_back(field.layer);
    return out;
  };
  const auto wanted = layers(want);
  const auto had = layers(got);
  for (std::size_t i = 0; i < std::min(wanted.size(), had.size()); ++i)
    if (wanted[i] != had[i]) return "expected " + wanted[i] + ", got " + had[i];
  return {};
}

}  // namespace

std::string summary_of(const Octets& packet) {
  std::string source, destination, ports, what;
  const std::string version = packet.empty()          ? "nothing"
                              : packet[0] >> 4 == 4 ? "IPv4"
                              : packet[0] >> 4 == 6 ? "IPv6"
                                                    : "no IP";
  for (const Field& field : dissect(packet)) {
    if (field.inner) break;
    if (field.name == "source") source = field.value;
    if (field.name == "destination") destination = field.value;
    if (field.name == "source-port") ports = field.value;
    if (field.name == "destination-port") ports += " -> " + field.value;
    if (field.name == "type") what = " type " + field.value;
    if (field.name == "code") what += " code " + field.value;
    if (field.layer == "fragment") what += what.empty() ? " fragment" : "";
    if (field.name == "source-port" || field.name == "type") {
      std::string layer = field.layer;
      std::transform(layer.begin(), layer.end(), layer.begin(), [](unsigned char c) { return std::toupper(c); });
      what = ", " + layer + what;
    }
  }
  return version + ", " + std::to_string(packet.size()) + " bytes, " + source + " -> " + destination + what +
         (ports.empty() ? "" : " " + ports);
}

Comparison compare_foreign(const Octets& expected, const ForeignOutput& actual, const Ignored& ignored,
                           const Octets& sent) {
  Comparison out;
  const std::vector<Field> want = dissect(expected);
  const std::vector<Field> got = dissect(actual.bytes);
  const bool to6 = !actual.bytes.empty() && actual.bytes[0] >> 4 == 6;
  const auto free = [&](const Field& field) {
    return actual.free.contains((field.inner ? "inner." : "") + field.name);
  };
  const auto explained = [&](const Field& field) {
    return "\n        " + section_of(field, to6, sent) + "\n";
  };
  if (const std::string layer = other_layer(want, got); !layer.empty()) {
    out.differences = "    another packet altogether: " + layer + "\n        ";
    out.differences += to6 ? "RFC 7915 §4, §4.1" : "RFC 7915 §5, §5.1";
    out.differences +=
        ": a packet gives one of the other family; what hosts and routers behind then answer is theirs\n";
    return out;
  }
  std::size_t w = 0;
  std::size_t g = 0;
  while (w < want.size() || g < got.size()) {
    if (w < want.size() && g < got.size() && same_place(want[w], got[g])) {
      const Field& e = want[w++];
      const Field& a = got[g++];
      if (e.value == a.value || ignored.covers(e) || bytes_ignored(e, expected, a, actual.bytes, ignored)) continue;
      if (free(e)) {
        out.notes +=
            "    " + e.title() + " is the translator's own choice: expected " + e.value + ", got " + a.value + "\n";
        continue;
      }
      out.differences += "    " + e.title() + ": " + contrast(e, a) + explained(e);
      continue;
    }
    // One side has a field that the other has not: say so until both agree again.
    const auto found = std::find_if(got.begin() + static_cast<std::ptrdiff_t>(g), got.end(), [&](const Field& field) {
      return w < want.size() && same_place(want[w], field);
    });
    if (w < want.size() && found == got.end()) {
      if (!ignored.covers(want[w]))
        out.differences +=
            "    " + want[w].title() + ": expected " + shortened(want[w].value) + ", missing" + explained(want[w]);
      ++w;
    } else {
      if (!ignored.covers(got[g]))
        out.differences +=
            "    " + got[g].title() + ": not expected, got " + shortened(got[g].value) + explained(got[g]);
      ++g;
    }
  }
  return out;
}

}  // namespace penstock::path
