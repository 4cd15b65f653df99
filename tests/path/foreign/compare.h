// Expected packet against the one that came out, field by field, with the section that governs each difference.
#pragma once

#include <string>

#include "tests/path/foreign/dissect.h"
#include "tests/path/foreign/translator_under_test.h"

namespace penstock::path {

struct Comparison {
  std::string differences;  // lines; empty: equal
  std::string notes;        // lines: what differs and need not be equal
};

// `sent`: what it was translated from, for the explanations.
[[nodiscard]] Comparison compare_foreign(const Octets& expected, const ForeignOutput& actual, const Ignored& ignored,
                                         const Octets& sent);

// "IPv4, 60 bytes, 198.51.100.2 -> 192.0.2.33, UDP 4000 -> 2000"
[[nodiscard]] std::string summary_of(const Octets& packet);

// Why a value of `field` is what it is: "RFC 7915 §4.1: ...". `to6`: direction of the translation.
[[nodiscard]] std::string section_of(const Field& field, bool to6, const Octets& sent);

}  // namespace penstock::path
