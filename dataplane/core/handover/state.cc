#include "dataplane/core/handover/state.h"

#include <type_traits>

#include "dataplane/core/handover/codec.h"

namespace penstock::handover {
namespace {

constexpr std::array<std::uint8_t, 8> kMagic = {'P', 'S', 'T', 'K', 'H', 'A', 'N', 'D'};

// One walk over each value serves both ways, so that they cannot disagree.
template <typename Stream, typename Session>
void session(Stream& stream, Session& it) {
  auto role = static_cast<std::uint8_t>(it.role);
  stream.value(role);
  if constexpr (std::is_same_v<Stream, Reader>) {
    if (role >= wireguard::kSessionRoles) return stream.fail();
    it.role = static_cast<wireguard::SessionRole>(role);
  }
  stream.value(it.initiator);
  stream.value(it.confirmed);
  stream.bytes(it.send_key);
  stream.bytes(it.receive_key);
  stream.value(it.local_index);
  stream.value(it.remote_index);
  stream.value(it.created_at);
  stream.value(it.send_counter);
  stream.value(it.window.head);
  for (auto& seen : it.window.seen) stream.value(seen);
}

template <typename Stream, typename OneFlow>
void flow(Stream& stream, OneFlow& it) {
  auto& f = it.flow;
  stream.value(it.worker);
  stream.value(f.peer);
  stream.value(f.inside_source);
  stream.value(f.inside_destination);
  stream.value(f.source);
  stream.value(f.remote);
  stream.value(f.inside_source_port);
  stream.value(f.inside_destination_port);
  stream.value(f.source_port);
  stream.value(f.remote_port);
  stream.value(f.protocol);
  stream.value(f.state);
  stream.value(f.translation_tag);
  stream.value(f.expires);
  stream.value(f.idle);
  stream.value(f.packets_up);
  stream.value(f.packets_down);
}

constexpr std::size_t kSessionSize = 3 + 64 + 8 + 24 + 4 * wireguard::ReplayWindow::kSnapshotBlocks;
constexpr std::size_t kFlowSize = 2 + 4 + 64 + 8 + 2 + 8 + 24;
constexpr std::size_t kAddressSize = 18 + 18 + 4 + 8;
constexpr std::size_t kPeerSize = 32 + 12 + 12 + 1 + 8 + 4 + 8;  // without sessions, addresses, endpoint
constexpr std::size_t kNeighbourSize = 2 + 16 + 6;

// `list`: as many values as the bytes say, or as there are. `each(item)` walks one.
template <typename List, typename Each>
void list(Writer& writer, const List& items, std::size_t, Each&& each) {
  writer.count(items.size());
  for (const auto& item : items) each(item);
}
template <typename List, typename Each>
void list(Reader& reader, List& items, std::size_t smallest, Each&& each) {
  items.resize(reader.count(smallest));
  for (auto& item : items) {
    if (!reader.good()) return;
    each(item);
  }
}

template <typename Stream, typename OnePeer>
void peer(Stream& stream, OnePeer& it) {
  auto& tunnel = it.tunnel;
  stream.bytes(tunnel.public_key.bytes);
  stream.bytes(tunnel.greatest_timestamp);
  stream.value(tunnel.handshake_at.seconds);
  stream.value(tunnel.handshake_at.nanoseconds);
  bool known = tunnel.endpoint.has_value();
  stream.value(known);
  if constexpr (std::is_same_v<Stream, Reader>)
    if (known) tunnel.endpoint.emplace();
  if (known) stream.value(*tunnel.endpoint);
  list(stream, tunnel.sessions, kSessionSize, [&stream](auto& one) { session(stream, one); });
  stream.value(it.switch_sequence);
  list(stream, it.addresses, kAddressSize, [&stream](auto& address) {
    stream.value(address.path);
    stream.value(address.heard);
  });
}

template <typename Stream, typename Whole>
void body(Stream& stream, Whole& it) {
  stream.bytes(it.public_key.bytes);
  stream.value(it.at);
  stream.value(it.workers);
  stream.bytes(it.last_timestamp);
  list(stream, it.ports, 8, [&stream](auto& name) {
    if constexpr (std::is_same_v<Stream, Reader>) {
      const Bytes text = stream.block();
      name.assign(text.begin(), text.end());
    } else {
      stream.block(Bytes{reinterpret_cast<const std::uint8_t*>(name.data()), name.size()});
    }
  });
  list(stream, it.peers, kPeerSize, [&stream](auto& one) { peer(stream, one); });
  list(stream, it.flows, kFlowSize, [&stream](auto& one) { flow(stream, one); });
  list(stream, it.neighbours, kNeighbourSize, [&stream](auto& one) {
    stream.value(one.port);
    stream.value(one.address);
    stream.bytes(one.mac);
  });
  if constexpr (std::is_same_v<Stream, Reader>) {
    const Bytes rights = stream.block();
    it.rights.assign(rights.begin(), rights.end());
  } else {
    stream.block(it.rights);
  }
}

bool consistent(const State& state) {
  for (const Flow& one : state.flows)
    if (one.flow.peer >= state.peers.size() || one.worker >= state.workers) return false;
  for (const Neighbour& one : state.neighbours)
    if (one.port >= state.ports.size()) return false;
  for (const Peer& one : state.peers) {
    unsigned roles = 0;
    for (const auto& session_of : one.tunnel.sessions) {
      const unsigned role = 1U << static_cast<unsigned>(session_of.role);
      if ((roles & role) != 0) return false;
      roles |= role;
    }
  }
  return true;
}

}  // namespace

std::uint64_t checksum(Bytes bytes) {
  std::uint64_t sum = 0x9e3779b97f4a7c15ULL ^ bytes.size();
  const auto mix = [&sum](std::uint64_t word) {
    const auto product = static_cast<unsigned __int128>(sum ^ word) * 0xd6e8feb86659fd93ULL;
    sum = static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64) ^ (sum << 1);
  };
  while (bytes.size() >= 8) {
    mix(load_le<std::uint64_t>(bytes.data()));
    bytes = bytes.subspan(8);
  }
  std::array<std::uint8_t, 8> rest{};
  std::copy(bytes.begin(), bytes.end(), rest.begin());
  mix(load_le<std::uint64_t>(rest.data()));
  return sum;
}

std::string_view text_of(Problem problem) {
  switch (problem) {
    case Problem::no_state:
      return "what was left is not the state of a data plane";
    case Problem::other_version:
      return "what was left is of another version";
    case Problem::cut_off:
      return "what was left has another length than it says";
    case Problem::damaged:
      return "what was left is damaged";
    case Problem::malformed:
      return "what was left makes no sense";
  }
  return "unknown problem";
}

std::vector<std::uint8_t> encode(const State& state) {
  std::size_t size = kHeaderSize + 256 + state.rights.size() + state.flows.size() * kFlowSize +
                     state.neighbours.size() * kNeighbourSize;
  for (const auto& name : state.ports) size += 8 + name.size();
  for (const auto& one : state.peers)
    size += kPeerSize + 64 + one.tunnel.sessions.size() * kSessionSize + one.addresses.size() * kAddressSize;
  // In one piece from the start: keys are not left behind in buffers that were too small.
  std::vector<std::uint8_t> out;
  out.reserve(size);
  out.resize(kHeaderSize);
  Writer writer(out);
  body(writer, state);

  std::vector<std::uint8_t> header;
  Writer front(header);
  front.bytes(kMagic);
  front.value(kVersion);
  front.value(std::uint32_t{0});
  front.value(static_cast<std::uint64_t>(out.size() - kHeaderSize));
  front.value(checksum(Bytes{out}.subspan(kHeaderSize)));
  std::copy(header.begin(), header.end(), out.begin());
  return out;
}

std::variant<State, Problem> decode(Bytes bytes) {
  if (bytes.size() < kHeaderSize || !std::equal(kMagic.begin(), kMagic.end(), bytes.begin())) return Problem::no_state;
  if (load_le<std::uint32_t>(bytes.data() + 8) != kVersion) return Problem::other_version;
  const Bytes content = bytes.subspan(kHeaderSize);
  if (load_le<std::uint64_t>(bytes.data() + 16) != content.size()) return Problem::cut_off;
  if (load_le<std::uint64_t>(bytes.data() + 24) != checksum(content)) return Problem::damaged;
  State state;
  Reader reader(content);
  body(reader, state);
  if (!reader.good() || !reader.at_end() || !consistent(state)) return Problem::malformed;
  return state;
}

}  // namespace penstock::handover
