#include "dataplane/core/base/address.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

// Each bit of an address counts, and of the family every bit of ::ffff:0:0/96.
TEST(IpAddress, DiffersByAnyBit) {
  const IpAddress address = IpAddress::v4({198, 51, 100, 7});
  EXPECT_EQ(address, IpAddress::v4({198, 51, 100, 7}));
  EXPECT_TRUE(address.is_v4());
  for (std::size_t bit = 0; bit < 128; ++bit) {
    std::array<std::uint8_t, 16> bytes = address.bytes();
    bytes[bit / 8] ^= static_cast<std::uint8_t>(0x80 >> bit % 8);
    EXPECT_NE(IpAddress::v6(bytes), address) << bit;
    EXPECT_EQ(IpAddress::v6(bytes).is_v4(), bit >= 96) << bit;
  }
}

TEST(IpAddress, TextRoundTrip) {
  for (const char* text : {"0.0.0.0", "198.51.100.7", "255.255.255.255", "::", "::1", "2001:db8::1", "fe80::2"})
    EXPECT_EQ(IpAddress::parse(text).value().to_string(), text);
}

TEST(IpAddress, RefusesMalformedText) {
  for (const char* text : {"", "1.2.3", "1.2.3.4.5", "1.2.3.256", "2001:db8::g", "fe80::1%eth0", "1.2.3.4 "})
    EXPECT_FALSE(IpAddress::parse(text).has_value()) << text;
}

TEST(IpAddress, WireBytesFollowTheFamily) {
  EXPECT_EQ(IpAddress::parse("198.51.100.7")->wire().size(), 4u);
  EXPECT_EQ(IpAddress::parse("2001:db8::1")->wire().size(), 16u);
  const auto address = *IpAddress::parse("2001:db8::1");
  EXPECT_EQ(IpAddress::from_wire(address.wire()), address);
}

TEST(Prefix, ContainsOnlyItsOwnFamilyAndRange) {
  struct Case {
    const char* prefix;
    const char* address;
    bool inside;
  };
  const Case cases[] = {
      {"100.64.0.0/11", "100.64.0.1", true},     {"100.64.0.0/11", "100.95.255.255", true},
      {"100.64.0.0/11", "100.96.0.0", false},    {"0.0.0.0/0", "8.8.8.8", true},
      {"0.0.0.0/0", "::1", false},               {"::/0", "1.2.3.4", false},
      {"::/0", "2001:db8::1", true},             {"fd00:2021:1111::/107", "fd00:2021:1111::1f:ffff", true},
      {"fd00:2021:1111::/107", "fd00:2021:1111::20:0", false},
  };
  for (const auto& c : cases)
    EXPECT_EQ(Prefix::parse(c.prefix).value().contains(*IpAddress::parse(c.address)), c.inside)
        << c.prefix << " " << c.address;
}

TEST(Prefix, RefusesHostBitsAndLengthsBeyondTheFamily) {
  for (const char* text : {"10.0.0.1/8", "10.0.0.0/33", "2001:db8::/129", "10.0.0.0/", "10.0.0.0/x", "/8"})
    EXPECT_FALSE(Prefix::parse(text).has_value()) << text;
  EXPECT_EQ(Prefix::parse("10.0.0.1")->length(), 32u);
}

TEST(Endpoint, TextRoundTrip) {
  for (const char* text : {"198.51.100.7:51820", "[2001:db8::1]:1"})
    EXPECT_EQ(Endpoint::parse(text).value().to_string(), text);
  for (const char* text : {"198.51.100.7", "2001:db8::1:5", "[198.51.100.7]:5", "198.51.100.7:65536", ":5"})
    EXPECT_FALSE(Endpoint::parse(text).has_value()) << text;
}

}  // namespace
}  // namespace penstock
