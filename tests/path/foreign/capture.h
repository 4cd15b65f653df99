// Packet files as other projects keep them: raw IP packets (one a file), pcap and pcapng (link types RAW, EN10MB with
// VLAN tags, LINUX_SLL, LINUX_SLL2, NULL, LOOP, IPV4, IPV6), and hexadecimal text.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tests/path/packet_text.h"

namespace penstock::path {

struct CapturedPacket {
  std::string name;  // file, and for captures which packet of it
  Octets bytes;      // from the IP header on; padding of short frames cut off
};

// The packets of `file` in order. Frames that carry no IP (ARP, for example) are left out. nullopt when the file cannot
// be read or understood; then `error` says why.
[[nodiscard]] std::optional<std::vector<CapturedPacket>> load_packets(const std::string& file, std::string& error);

// The same for what a file holds.
[[nodiscard]] std::optional<std::vector<CapturedPacket>> parse_packets(const std::string& name, const Octets& content,
                                                                       std::string& error);

// Writes a pcap of raw IP packets, without times. False: it cannot be written.
[[nodiscard]] bool save_packets(const std::string& file, const std::vector<Octets>& packets);

}  // namespace penstock::path
