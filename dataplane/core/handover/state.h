// What a data plane leaves to the one that takes its place, and the bytes it travels as (docs/healing.md, "Warm
// restart"). Pure functions. The bytes hold session keys: they stay in memory and are wiped by whoever has read them.
//
//     "PSTKHAND"  version:32  reserved:32  length:64  checksum:64  body
//
// Integers are little-endian. `length` counts the body. The checksum finds damage, not forgery: who may hand bytes in
// is checked where they come from. A reader takes its own version and nothing else, and a body in which anything is out
// of range not at all: then the data plane starts cold.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/nat/handover.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/wireguard/handover.h"

namespace penstock::handover {

inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::size_t kHeaderSize = 32;

// An address at which a peer has been heard.
struct KnownAddress {
  Path path;
  Instant heard{};

  bool operator==(const KnownAddress&) const = default;
};

struct Peer {
  wireguard::PeerHandover tunnel;
  std::uint32_t switch_sequence = 0;  // of its path switches
  std::vector<KnownAddress> addresses;

  bool operator==(const Peer&) const = default;
};

// A flow of a worker; `flow.peer` is a position in State::peers.
struct Flow {
  std::uint16_t worker = 0;
  nat::FlowHandover flow;

  bool operator==(const Flow&) const = default;
};

struct Neighbour {
  std::uint16_t port = 0;  // position in State::ports
  IpAddress address;
  MacAddress mac{};

  bool operator==(const Neighbour&) const = default;
};

struct State {
  wireguard::PublicKey public_key{};  // the gateway's: sessions belong to it
  Instant at{};                       // when the workers had stopped
  std::uint16_t workers = 1;          // ports are shared among so many
  std::array<std::uint8_t, 12> last_timestamp{};
  std::vector<std::string> ports;     // names
  std::vector<Peer> peers;
  std::vector<Flow> flows;
  std::vector<Neighbour> neighbours;
  std::vector<std::uint8_t> rights;  // what the control process had said; its form is not ours to know

  bool operator==(const State&) const = default;
};

enum class Problem : std::uint8_t { no_state, other_version, cut_off, damaged, malformed };
[[nodiscard]] std::string_view text_of(Problem problem);

[[nodiscard]] std::vector<std::uint8_t> encode(const State& state);
[[nodiscard]] std::variant<State, Problem> decode(Bytes bytes);

}  // namespace penstock::handover
