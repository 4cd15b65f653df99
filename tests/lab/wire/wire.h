// A wire between the two sides of a router's namespace: a NAT and a link in each direction, made of the models that the
// simulation uses. IP packets and the time in, packets in the order of their leaving out. Pure; one thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/lab/wire/spec.h"
#include "tests/model/packet_nat.h"
#include "tests/model/seeded_random.h"

namespace penstock::wire {

struct Sides {
  std::vector<IpAddress> outside;  // the NAT's addresses
  std::vector<Prefix> inside;      // whose packets come from inside
  IpAddress own_v4, own_v6;        // where errors towards the inside come from
};

struct Statistics {
  std::uint64_t up = 0, down = 0, lost = 0, too_big = 0, duplicated = 0;
};

class Wire {
 public:
  Wire(const Spec& spec, Sides sides, std::uint64_t seed);

  void handle(std::vector<std::uint8_t> packet, Instant now);
  // The next packet to put out, once it is due.
  std::optional<std::vector<std::uint8_t>> poll(Instant now);
  [[nodiscard]] Instant next() const { return flying_.empty() ? kNever : flying_.begin()->first; }

  // Every mapping forgotten, as a restart does.
  void forget();
  // Another kind from now on; mappings that stand stay as they are.
  void become(const Spec& spec);
  // Other addresses outside; every mapping forgotten.
  void move(std::vector<IpAddress> outside);
  // Nothing passes in either direction.
  void cut(bool cut);

  [[nodiscard]] const Statistics& statistics() const { return statistics_; }
  [[nodiscard]] std::size_t mappings() const { return box_.mappings(); }

 private:
  [[nodiscard]] bool from_inside(Bytes packet) const;
  void put_on_link(model::Side leaves, std::vector<std::uint8_t> packet, Instant now);
  bool refuse_too_big(model::Side came_from, const std::vector<std::uint8_t>& packet, Instant now);

  Spec spec_;
  Sides sides_;
  model::SeededRandom random_;
  model::NatBox box_;
  model::PacketNat nat_;
  model::LinkModel up_, down_;
  std::multimap<Instant, std::vector<std::uint8_t>> flying_;
  std::vector<model::SidedPacket> scratch_;
  Statistics statistics_;
};

}  // namespace penstock::wire
