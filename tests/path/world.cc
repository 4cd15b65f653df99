#include "tests/path/world.h"

#include <algorithm>
#include <cstring>

namespace penstock::path {

Packet* HeapPackets::make(const Octets& bytes) {
  auto buffer = std::make_unique<Buffer>();
  buffer->memory.resize(std::max(kRoom, bytes.size()) + kMinHeadroom + kMinTailroom);
  Packet& packet = buffer->packet;
  packet.data = buffer->memory.data() + kMinHeadroom;
  packet.headroom = kMinHeadroom;
  packet.length = static_cast<std::uint16_t>(bytes.size());
  packet.tailroom = static_cast<std::uint16_t>(buffer->memory.size() - kMinHeadroom - bytes.size());
  if (!bytes.empty()) std::memcpy(packet.data, bytes.data(), bytes.size());
  Packet* out = &packet;
  buffers_.emplace(out, std::move(buffer));
  return out;
}

void HeapPackets::free(Packet* packet) {
  buffers_.erase(packet);
}

World::World() : pointers_(kPeers) {
  config.source_v4 = {IpAddress::v4({203, 0, 113, 1})};
  config.source_v6 = {IpAddress::parse("2001:db8:1a::1").value()};
  config.max_flows = 1024;
  config.max_peers = kPeers;
}

nat::Translator& World::translator() {
  if (!translator_) translator_ = std::make_unique<nat::Translator>(config, random, packets_);
  return *translator_;
}

void World::publish() {
  if (!dirty_) return;
  dirty_ = false;
  ++epoch_;
  for (auto& pointer : pointers_) pointer.store(nullptr);
  for (auto& [index, peer] : peers) {
    peer.peer = index;
    peer.epoch = epoch_;
    peer.seal();
    published_.push_back(peer);
    pointers_[index].store(&published_.back());
  }
}

std::vector<World::Result> World::collect(nat::Outcomes& outcomes) {
  std::vector<Result> out;
  for (const nat::Outcome& outcome : outcomes) {
    const Packet& packet = *outcome.packet;
    out.push_back({outcome.action, outcome.reason, packet.peer, outcome.worker,
                   Octets(packet.data, packet.data + packet.length)});
    packets_.free(outcome.packet);
  }
  outcomes.clear();
  return out;
}

std::vector<World::Result> World::up(PeerIndex peer, const Octets& bytes) {
  publish();
  nat::Outcomes outcomes;
  Packet* packet = packets_.make(bytes);
  packet->peer = peer;
  packet->flags = packet_flag::from_tunnel;
  Packet* const burst[] = {packet};
  translator().translate_up(burst, view(), now(), outcomes);
  return collect(outcomes);
}

std::vector<World::Result> World::up(const std::vector<Incoming>& burst) {
  publish();
  nat::Outcomes outcomes;
  std::vector<Packet*> packets;
  for (const Incoming& one : burst) {
    packets.push_back(packets_.make(one.bytes));
    packets.back()->peer = one.peer;
    packets.back()->flags = packet_flag::from_tunnel;
  }
  translator().translate_up(packets, view(), now(), outcomes);
  return collect(outcomes);
}

std::vector<World::Result> World::down(const Octets& bytes) {
  publish();
  nat::Outcomes outcomes;
  Packet* const burst[] = {packets_.make(bytes)};
  translator().translate_down(burst, view(), now(), outcomes);
  return collect(outcomes);
}

std::vector<World::Result> World::after(Duration duration) {
  elapsed_ += duration;
  publish();
  nat::Outcomes outcomes;
  do {
    translator().handle_timeout(view(), now(), outcomes);
  } while (translator().poll_timeout() <= now().monotonic);
  return collect(outcomes);
}

std::vector<World::Result> World::release() {
  nat::Outcomes outcomes;
  translator().release_held(outcomes);
  return collect(outcomes);
}

}  // namespace penstock::path
