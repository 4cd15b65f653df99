#include "dataplane/core/packet/checksum.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <vector>

#include "dataplane/core/packet/drop_reason.h"

namespace penstock {
namespace {

// The definition of RFC 1071 §1, word by word, as the judge of the fast one.
std::uint16_t slow_sum(const std::vector<std::uint8_t>& bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    sum += static_cast<std::uint32_t>(bytes[i] << 8) | (i + 1 < bytes.size() ? bytes[i + 1] : 0u);
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<std::uint16_t>(sum);
}

TEST(Checksum, AgreesWithTheDefinition) {
  EXPECT_TRUE(rc::check([](const std::vector<std::uint8_t>& bytes) {
    RC_ASSERT(checksum_finish(checksum_add(0, bytes)).host() == static_cast<std::uint16_t>(~slow_sum(bytes)));
  }));
}

TEST(Checksum, ExampleOfRfc1071) {
  const std::vector<std::uint8_t> bytes = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  EXPECT_EQ(checksum_finish(checksum_add(0, bytes)).host(), 0xffff - 0xddf2);
}

TEST(Checksum, AdjustKeepsTheDifferenceOfAWrongChecksum) {
  EXPECT_TRUE(rc::check([](std::uint16_t wrong_by, std::uint32_t before, std::uint32_t after) {
    std::vector<std::uint8_t> bytes(20, 0x5a);
    std::memcpy(bytes.data() + 4, &before, 4);
    const be16 right = checksum_finish(checksum_add(0, bytes));
    const be16 wrong = be16::from_host(static_cast<std::uint16_t>(right.host() + wrong_by));
    const Bytes old_bytes = Bytes{bytes}.subspan(4, 4);
    const ChecksumSum removed = checksum_add(0, old_bytes);
    std::memcpy(bytes.data() + 4, &after, 4);
    const be16 adjusted = checksum_adjust(wrong, removed, checksum_add(0, Bytes{bytes}.subspan(4, 4)));
    const be16 now_right = checksum_finish(checksum_add(0, bytes));
    const bool was_right = wrong == right;
    RC_ASSERT(was_right == (adjusted == now_right) || (wrong.host() % 0xffff == right.host() % 0xffff));
  }));
}

TEST(DropReason, EveryReasonHasANameAndAText) {
  for (std::size_t i = 0; i < kDropReasonCount; ++i) {
    EXPECT_FALSE(name_of(static_cast<DropReason>(i)).empty());
    EXPECT_FALSE(text_of(static_cast<DropReason>(i)).empty());
  }
}

}  // namespace
}  // namespace penstock
