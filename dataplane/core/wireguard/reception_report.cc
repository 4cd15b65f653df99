#include "dataplane/core/wireguard/reception_report.h"

#include <cstring>

#include "dataplane/core/packet/headers.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/probe.h"

namespace penstock::wireguard {
namespace {

struct Layout {
  be32 receiver;
  be64 newest;
  std::array<be32, ReplayWindow::kSnapshotBlocks> seen;
};
static_assert(sizeof(Layout) == kReportSize && alignof(Layout) == 1);

}  // namespace

ReceptionReport::Fate ReceptionReport::of(Bytes datagram) const {
  const auto* header = view_as<DataHeader>(datagram);
  if (header == nullptr || header->receiver.get() != receiver ||
      header->type.get() != static_cast<std::uint32_t>(MessageType::data))
    return Fate::unknown;
  const std::uint64_t counter = header->counter.get();
  const std::uint64_t block = counter / ReplayWindow::kBlock;
  if (block > window.head) return Fate::missing;
  const std::uint64_t behind = window.head - block;
  if (behind >= window.seen.size()) return Fate::unknown;
  return (window.seen[behind] >> (counter % ReplayWindow::kBlock) & 1) != 0 ? Fate::arrived : Fate::missing;
}

bool ReceptionReport::complete() const {
  for (std::size_t i = 1; i < window.seen.size() && i <= window.head; ++i)
    if (window.seen[i] != ~std::uint32_t{0}) return false;
  return true;
}

void write_report(MutableBytes out, const ReceptionReport& report) {
  Layout layout{be32::from_host(report.receiver), be64::from_host(report.window.head), {}};
  for (std::size_t i = 0; i < layout.seen.size(); ++i) layout.seen[i] = be32::from_host(report.window.seen[i]);
  std::memcpy(out.data(), &layout, sizeof layout);
}

std::optional<ReceptionReport> parse_report(Bytes payload) {
  if (payload.size() < kProbeSize) return std::nullopt;
  const auto* layout = view_as<Layout>(payload.subspan(kProbeSize));
  if (layout == nullptr) return std::nullopt;
  ReceptionReport report;
  report.receiver = layout->receiver.host();
  report.window.head = layout->newest.host();
  for (std::size_t i = 0; i < layout->seen.size(); ++i) report.window.seen[i] = layout->seen[i].host();
  return report;
}

}  // namespace penstock::wireguard
