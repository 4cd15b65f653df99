#include "dataplane/core/nat/ports.h"

#include <algorithm>

namespace penstock::nat {

std::uint32_t BufferedRandom::next_u32() {
  if (left_ < 4) {
    random_->fill(bytes_);
    left_ = bytes_.size();
  }
  left_ -= 4;
  std::uint32_t value;
  std::memcpy(&value, bytes_.data() + left_, 4);
  return value;
}

// Index i among all ports of a worker, counted from port 0: pair i / 2 of the worker, parity i % 2.
std::uint16_t PortSpace::port_of(Index index) const {
  const Index at = base_ + index;
  return static_cast<std::uint16_t>(((at / 2) * range_.workers + range_.worker) * 2 + at % 2);
}

PortSpace::Index PortSpace::index_of(std::uint16_t port) const {
  return (port / 2U / range_.workers) * 2U + port % 2U - base_;
}

PortSpace::PortSpace(const PortRangeOfWorker& range, BufferedRandom& random) : range_{range}, random_{&random} {
  std::uint32_t first = range.last + 1U;
  std::uint32_t last = 0;
  for (std::uint32_t port = range.first; port <= range.last; ++port) {
    if (!range.mine(static_cast<std::uint16_t>(port))) continue;
    first = std::min(first, port);
    last = port;
  }
  if (first > last) return;
  base_ = (first / 2 / range.workers) * 2;  // an even port, also when only its odd neighbour is ours
  count_ = index_of(static_cast<std::uint16_t>(last)) + 1;
  users_.assign(count_, 0);
  place_.assign(count_, 0);
  for (auto& list : unused_) list.reserve(count_);
  for (Index index = 0; index < count_; ++index) {
    const std::uint16_t port = port_of(index);
    if (!range.mine(port)) continue;
    auto& list = unused_[class_of(port)];
    place_[index] = static_cast<std::uint16_t>(list.size());
    list.push_back(port);
  }
  const std::size_t words = (count_ + kWordBits - 1) / kWordBits;
  const std::size_t summary = (words + kWordBits - 1) / kWordBits;
  crowded_.resize(kCrowdedMax);
  for (Crowded& crowded : crowded_) {
    crowded.taken.assign(words, 0);
    crowded.known.assign(summary, 0);
    crowded.full.assign(summary, 0);
  }
}

std::optional<std::uint16_t> PortSpace::draw_unused(std::size_t of_class) {
  const auto& list = unused_[of_class];
  if (list.empty()) return std::nullopt;
  return list[random_->below(static_cast<std::uint32_t>(list.size()))];
}

std::optional<std::uint16_t> PortSpace::propose(std::uint16_t wanted) {
  if (count_ == 0) return std::nullopt;
  const std::size_t best = class_of(wanted);
  for (const std::size_t of_class : {best, best ^ 2U, best ^ 1U, best ^ 3U})
    if (const auto port = draw_unused(of_class)) return port;
  // Indices begin at an even port, so a port's parity is its index's.
  const Index index = (random_->below(count_) & ~1U) | wanted % 2U;
  return index < count_ && range_.mine(port_of(index)) ? std::optional{port_of(index)} : std::nullopt;
}

std::optional<std::uint16_t> PortSpace::choose_unused(std::uint16_t wanted) {
  if (range_.mine(wanted) && users_[index_of(wanted)] == 0) return wanted;
  const std::size_t best = class_of(wanted);
  for (const std::size_t of_class : {best, best ^ 2U, best ^ 1U, best ^ 3U})
    if (const auto port = draw_unused(of_class)) return port;
  return std::nullopt;
}

PortSpace::Crowded* PortSpace::find_crowded(const IpAddress& remote, std::uint16_t remote_port) {
  if (crowded_count_ == 0) return nullptr;
  for (Crowded& crowded : crowded_)
    if (crowded.used && crowded.remote_port == remote_port && crowded.remote == remote) return &crowded;
  return nullptr;
}

PortSpace::Crowded& PortSpace::make_crowded(const IpAddress& remote, std::uint16_t remote_port) {
  Crowded* place = &crowded_.front();
  for (Crowded& crowded : crowded_) {
    if (!crowded.used) {
      place = &crowded;
      break;
    }
    if (crowded.age < place->age) place = &crowded;
  }
  if (!place->used) ++crowded_count_;
  place->used = true;
  place->remote = remote;
  place->remote_port = remote_port;
  std::fill(place->known.begin(), place->known.end(), 0);
  std::fill(place->full.begin(), place->full.end(), 0);
  return *place;
}

void PortSpace::forget_crowded() {
  for (Crowded& crowded : crowded_) crowded.used = false;
  crowded_count_ = 0;
}

void PortSpace::set_taken(Crowded& crowded, Index index, bool taken) {
  const std::size_t word = index / kWordBits;
  const std::uint64_t bit = 1ULL << (index % kWordBits);
  if (taken) {
    crowded.taken[word] |= bit;
  } else {
    crowded.taken[word] &= ~bit;
    crowded.full[word / kWordBits] &= ~(1ULL << (word % kWordBits));
  }
}

void PortSpace::acquired(std::uint16_t port, const IpAddress& remote, std::uint16_t remote_port) {
  const Index index = index_of(port);
  if (users_[index]++ == 0) {
    auto& list = unused_[class_of(port)];
    const std::uint16_t last = list.back();
    list[place_[index]] = last;
    place_[index_of(last)] = place_[index];
    list.pop_back();
  }
  if (Crowded* crowded = find_crowded(remote, remote_port)) set_taken(*crowded, index, true);
}

void PortSpace::released(std::uint16_t port, const IpAddress& remote, std::uint16_t remote_port) {
  const Index index = index_of(port);
  if (--users_[index] == 0) {
    auto& list = unused_[class_of(port)];
    place_[index] = static_cast<std::uint16_t>(list.size());
    list.push_back(port);
  }
  if (Crowded* crowded = find_crowded(remote, remote_port)) set_taken(*crowded, index, false);
}

}  // namespace penstock::nat
