#include "dataplane/runtime/binding_log.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <array>

#include "dataplane/core/packet/headers.h"

namespace penstock::runtime {
namespace {

std::string name_of_protocol(std::uint8_t protocol) {
  switch (protocol) {
    case ip_protocol::tcp:
      return "tcp";
    case ip_protocol::udp:
      return "udp";
    case ip_protocol::icmp:
      return "icmp";
    default:
      return fmt::format("protocol {}", protocol);
  }
}

}  // namespace

std::string RingBindingLog::line_of(const nat::BindingRecord& record) {
  std::string out = fmt::format("{} {}.{:03} peer {} {} {} as {}", record.begins ? "begins" : "ends",
                                record.at.seconds, record.at.nanoseconds / 1000000, record.peer,
                                name_of_protocol(record.protocol), record.inside.to_string(),
                                record.outside.to_string());
  if (!record.remote.address.is_unspecified()) out += " to " + record.remote.to_string();
  return out;
}

void RingBindingLog::drain() {
  std::array<nat::BindingRecord, 64> records;
  while (const std::size_t count = ring_.pop(records))
    for (std::size_t i = 0; i < count; ++i) spdlog::info("nat binding {}", line_of(records[i]));
  if (const auto lost = lost_.exchange(0, std::memory_order_relaxed); lost != 0)
    spdlog::warn("nat binding: {} records were lost, the log is not keeping up", lost);
}

}  // namespace penstock::runtime
