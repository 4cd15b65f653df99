// A packet as a list of fields with their places, for comparing packets field by field.
//
// Checksums are told by how far they are from right where all they cover is there ("right", "wrong by 0x1234"), so that
// two packets whose checksums are right, or wrong by the same difference, are equal in them even where a field that is
// not compared changes the number. In fragments and cut packets they are told by number.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/path/packet_text.h"

namespace penstock::path {

struct Field {
  std::string name;    // of the field alone: "ttl", "source", "payload"
  std::string layer;   // "ip4", "ip6", "fragment", "tcp", "udp", "icmp", ...
  bool inner = false;  // of the packet that an ICMP error quotes
  std::string value;  // as people read it
  std::size_t offset = 0;
  std::size_t length = 0;
  std::uint8_t mask = 0xff;  // of a field smaller than a byte, or of the first byte

  // "inner ip4 ttl"
  [[nodiscard]] std::string title() const { return (inner ? "inner " : "") + layer + " " + name; }
};

[[nodiscard]] std::vector<Field> dissect(const Octets& packet);

// What --ignore says: fields as people write them (optionally behind "inner." or "outer.", and a layer), bytes ("10")
// and ranges of bytes ("4-5").
struct Ignored {
  std::set<std::size_t> bytes;
  struct Name {
    std::string name;           // canonical; empty: every field of the layer
    std::string layer;          // empty: any
    std::optional<bool> inner;  // nullopt: both
  };
  std::vector<Name> names;

  // False: not understood.
  bool add(const std::string& word);
  [[nodiscard]] bool covers(const Field& field) const;
};

}  // namespace penstock::path
