// What a session has received, told to the other end.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <memory>
#include <set>

#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/probe.h"
#include "dataplane/core/wireguard/reception_report.h"

namespace penstock::wireguard {
namespace {

using Fate = ReceptionReport::Fate;

std::array<std::uint8_t, 48> message(std::uint32_t receiver, std::uint64_t counter,
                                     MessageType type = MessageType::data) {
  std::array<std::uint8_t, 48> out{};
  auto* header = reinterpret_cast<DataHeader*>(out.data());
  header->type.set(static_cast<std::uint32_t>(type));
  header->receiver.set(receiver);
  header->counter.set(counter);
  return out;
}

TEST(ReceptionReport, HasAFixedLayout) {
  ReceptionReport report{0x01020304, {0x1122334455667788, {}}};
  report.window.seen[0] = 0x80000001;
  report.window.seen[31] = 0xa0b0c0d0;
  std::vector<std::uint8_t> payload(kProbeSize + kReportSize);
  write_report(MutableBytes{payload}.subspan(kProbeSize), report);
  const std::vector<std::uint8_t> start{1, 2, 3, 4, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x80, 0, 0, 1};
  EXPECT_TRUE(std::equal(start.begin(), start.end(), payload.begin() + kProbeSize));
  const std::vector<std::uint8_t> end{0xa0, 0xb0, 0xc0, 0xd0};
  EXPECT_TRUE(std::equal(end.begin(), end.end(), payload.end() - 4));
  EXPECT_EQ(payload.size(), 172u);
  EXPECT_EQ(parse_report(payload), report);
  for (std::size_t size = 0; size < payload.size(); ++size) EXPECT_FALSE(parse_report(Bytes{payload}.first(size)));
}

TEST(ReceptionReport, SaysNothingOfOthers) {
  ReplayWindow window;
  ASSERT_TRUE(window.accept(5));
  const ReceptionReport report{9, window.snapshot()};
  EXPECT_EQ(report.of(message(9, 5)), Fate::arrived);
  EXPECT_EQ(report.of(message(9, 6)), Fate::missing);
  EXPECT_EQ(report.of(message(8, 5)), Fate::unknown) << "another session";
  EXPECT_EQ(report.of(message(9, 5, MessageType::response)), Fate::unknown);
  EXPECT_EQ(report.of(Bytes{message(9, 5)}.first(15)), Fate::unknown);
  EXPECT_EQ(report.of({}), Fate::unknown);
  EXPECT_EQ(ReceptionReport{}.of(message(9, 5)), Fate::unknown);
}

// Any set of counters in any order: what was accepted has arrived, what was not is missing, and only what is older than
// the report reaches back is unknown.
RC_GTEST_PROP(ReceptionReport, TellsWhatTheWindowAccepted, ()) {
  const auto start = *rc::gen::inRange<std::uint64_t>(0, std::uint64_t{1} << 40);
  const auto offsets = *rc::gen::container<std::vector<std::uint64_t>>(rc::gen::inRange<std::uint64_t>(0, 3000));
  auto window = std::make_unique<ReplayWindow>();
  std::set<std::uint64_t> accepted;
  for (const std::uint64_t offset : offsets)
    if (window->accept(start + offset)) accepted.insert(start + offset);
  std::vector<std::uint8_t> payload(kProbeSize + kReportSize);
  write_report(MutableBytes{payload}.subspan(kProbeSize), {7, window->snapshot()});
  const auto report = parse_report(payload);
  RC_ASSERT(report.has_value());
  const std::uint64_t newest = accepted.empty() ? 0 : *accepted.rbegin() / ReplayWindow::kBlock;
  bool complete = true;
  for (std::uint64_t counter = start; counter < start + 3100; ++counter) {
    const std::uint64_t block = counter / ReplayWindow::kBlock;
    const Fate fate = report->of(message(7, counter));
    if (block + ReplayWindow::kSnapshotBlocks <= newest)
      RC_ASSERT(fate == Fate::unknown);
    else
      RC_ASSERT(fate == (accepted.contains(counter) ? Fate::arrived : Fate::missing));
  }
  for (std::uint64_t block = newest < 31 ? 0 : newest - 31; block < newest; ++block)
    for (std::uint64_t i = 0; i < ReplayWindow::kBlock; ++i)
      complete = complete && accepted.contains(block * ReplayWindow::kBlock + i);
  RC_ASSERT(report->complete() == complete);
}

}  // namespace
}  // namespace penstock::wireguard
