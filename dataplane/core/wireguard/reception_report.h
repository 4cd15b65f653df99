// Reception report: which data messages of a session have arrived, for the other end to send again those that have not
// (paths.md "Failure"). It follows a probe, or the answer to one, whose flag says so (probe.h). Fixed layout,
// big-endian, 140 bytes:
//
//     receiver:32  newest:64  32 x seen:32
//
// `receiver` names the session as its messages do. Counters are in blocks of 32; `newest` is the number of the newest
// block of which something has arrived, seen[i] the bits of block newest - i, the lowest counter in the lowest bit. A
// receiver of 0 with nothing seen says nothing. Pure, any thread; malformed gives nullopt.
#pragma once

#include <cstdint>
#include <optional>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/wireguard/replay.h"

namespace penstock::wireguard {

struct ReceptionReport {
  std::uint32_t receiver = 0;
  ReplayWindow::Snapshot window;

  enum class Fate : std::uint8_t {
    unknown,  // of another session, or older than the report reaches back
    arrived,
    missing,  // had not arrived when the report was made
  };
  // `datagram`: a sealed data message.
  [[nodiscard]] Fate of(Bytes datagram) const;

  // Nothing is missing of what it reaches back to; of the newest block more may be on its way.
  [[nodiscard]] bool complete() const;

  bool operator==(const ReceptionReport&) const = default;
};

inline constexpr std::size_t kReportSize = 12 + 4 * ReplayWindow::kSnapshotBlocks;

// Into the first kReportSize bytes of `out`.
void write_report(MutableBytes out, const ReceptionReport& report);
// `payload`: of a control packet, probe and report.
[[nodiscard]] std::optional<ReceptionReport> parse_report(Bytes payload);

}  // namespace penstock::wireguard
