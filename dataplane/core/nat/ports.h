// Source ports (and ICMP identifiers) of one worker.
//
// A port may serve several flows as long as they go to different destinations: what must be unique is the outside
// 5-tuple. Choice, in order: the port the client used (RFC 4787 §4.2.1 preservation); a port that no flow uses, at
// random, of the same parity and range class (RFC 4787 §4.2.2, 4.2.3; RFC 6056), then of any; a port used only towards
// other destinations. Each is O(1): unused ports are kept in a list that is drawn from at random, and for a destination
// that is found crowded a bitmap of its ports is built word by word as it is needed, so that the last free port of
// 64 000 is found without a scan.
//
// Workers: worker w of n has the ports with (port / 2) % n == w, so that a returning packet tells its owner and even
// and odd ports stay together.
//
// One thread. No allocation after construction.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/base/random.h"

namespace penstock::nat {

// Randomness in portions, since a call to the system per flow is dear.
class BufferedRandom {
 public:
  explicit BufferedRandom(Random& random) : random_{&random} {}
  std::uint32_t next_u32();
  std::uint32_t below(std::uint32_t bound) {
    return static_cast<std::uint32_t>((std::uint64_t{next_u32()} * bound) >> 32);
  }

 private:
  Random* random_;
  std::array<std::uint8_t, 512> bytes_{};
  std::size_t left_ = 0;
};

struct PortRangeOfWorker {
  std::uint16_t first = 1024;
  std::uint16_t last = 65535;
  std::uint16_t worker = 0;
  std::uint16_t workers = 1;

  [[nodiscard]] bool mine(std::uint16_t port) const {
    return port >= first && port <= last && (port / 2) % workers == worker;
  }
};

// One space of ports: one protocol on one address of ours.
class PortSpace {
 public:
  PortSpace(const PortRangeOfWorker& range, BufferedRandom& random);

  // `taken(port)`: whether a flow of this space towards this destination has it. nullopt: every port of ours is taken
  // towards this destination. The caller calls acquired() for the port it really uses.
  // `proposed`: propose(wanted), of a moment ago; 0: none.
  template <typename Taken>
  std::optional<std::uint16_t> choose(std::uint16_t wanted, const IpAddress& remote, std::uint16_t remote_port,
                                      Taken&& taken, std::uint16_t proposed = 0);
  void acquired(std::uint16_t port, const IpAddress& remote, std::uint16_t remote_port);
  void released(std::uint16_t port, const IpAddress& remote, std::uint16_t remote_port);

  // For bursts: what choose(wanted) and acquired() look at, if it is this port.
  void prefetch(std::uint16_t wanted) const {
    if (!range_.mine(wanted)) return;
    prefetch_write(&users_[index_of(wanted)]);
    prefetch_read(&place_[index_of(wanted)]);
  }

  // For bursts: what choose() may come to when the wanted port cannot be had, so that it can be fetched beforehand.
  std::optional<std::uint16_t> propose(std::uint16_t wanted);

  // One that nobody uses, the wanted one if possible.
  std::optional<std::uint16_t> choose_unused(std::uint16_t wanted);

  // An unused one of which `lands(port)` is true, with the wanted one's parity and class, found by a bounded number of
  // draws; nullopt: none was found, which does not mean that there is none.
  template <typename Lands>
  std::optional<std::uint16_t> draw_landing(std::uint16_t wanted, unsigned draws, Lands&& lands) {
    if (count_ == 0) return std::nullopt;
    const std::size_t best = class_of(wanted);
    for (unsigned draw = 0; draw < draws; ++draw)
      if (const auto port = draw_unused(best); !port || lands(*port)) return port;
    return std::nullopt;
  }
  // The same among ports that are in use towards other destinations.
  template <typename Lands, typename Taken>
  std::optional<std::uint16_t> draw_used_landing(std::uint16_t wanted, unsigned draws, Lands&& lands, Taken&& taken) {
    for (unsigned draw = 0; draw < draws && count_ != 0; ++draw) {
      const Index anybodys = (random_->below(count_) & ~1U) | wanted % 2U;
      const std::uint32_t pair = port_of(anybodys) / 2U;  // our own among as many pairs as there are workers
      const std::uint32_t port = (pair - pair % range_.workers + range_.worker) * 2U + wanted % 2U;
      if (port < range_.first || port > range_.last) continue;
      const auto ours = static_cast<std::uint16_t>(port);
      if (range_.mine(ours) && users_[index_of(ours)] != 0 && lands(ours) && !taken(ours)) return ours;
    }
    return std::nullopt;
  }

  // One that is in use towards other destinations already, at random, found by a bounded number of guesses.
  template <typename Taken>
  std::optional<std::uint16_t> choose_used(Taken&& taken, std::uint16_t proposed = 0);

  // How ports are given has changed: what is known of crowded destinations is asked for anew.
  void forget_crowded();

  [[nodiscard]] std::uint32_t size() const { return count_; }
  [[nodiscard]] bool has(std::uint16_t port) const { return range_.mine(port); }
  [[nodiscard]] bool is_unused(std::uint16_t port) const { return has(port) && users_[index_of(port)] == 0; }
  [[nodiscard]] std::size_t unused() const {
    return unused_[0].size() + unused_[1].size() + unused_[2].size() + unused_[3].size();
  }

 private:
  using Index = std::uint32_t;  // of a port among ours
  static constexpr unsigned kGuesses = 8;
  static constexpr unsigned kGuessesAmongUsed = 64;
  static constexpr std::size_t kCrowdedMax = 32;
  static constexpr std::size_t kWordBits = 64;

  // Unused ports in classes: range (below 1024 or not) and parity.
  static std::size_t class_of(std::uint16_t port) { return (port < 1024 ? 0U : 2U) + port % 2U; }

  // What is known of a destination to which many of our ports are taken.
  struct Crowded {
    IpAddress remote;
    std::uint16_t remote_port = 0;
    bool used = false;
    std::uint64_t age = 0;
    std::vector<std::uint64_t> taken;  // bit per index, right where the word is known
    std::vector<std::uint64_t> known;  // bit per word
    std::vector<std::uint64_t> full;   // bit per word: known and without a free port
  };

  [[nodiscard]] std::uint16_t port_of(Index index) const;
  [[nodiscard]] Index index_of(std::uint16_t port) const;
  Crowded* find_crowded(const IpAddress& remote, std::uint16_t remote_port);
  Crowded& make_crowded(const IpAddress& remote, std::uint16_t remote_port);
  std::optional<std::uint16_t> draw_unused(std::size_t of_class);
  void set_taken(Crowded& crowded, Index index, bool taken);
  template <typename Taken>
  std::optional<std::uint16_t> search_crowded(Crowded& crowded, std::uint16_t wanted, Taken&& taken);

  PortRangeOfWorker range_;
  BufferedRandom* random_;
  Index base_ = 0;                                    // index (counted from port 0) of our first port
  Index count_ = 0;                                   // ports of ours
  std::vector<std::uint32_t> users_;                  // flows per port
  std::array<std::vector<std::uint16_t>, 4> unused_;  // ports without users, by class
  std::vector<std::uint16_t> place_;                  // where a port stands in its list
  std::vector<Crowded> crowded_;
  std::size_t crowded_count_ = 0;
  std::uint64_t clock_ = 0;
};

template <typename Taken>
std::optional<std::uint16_t> PortSpace::choose(std::uint16_t wanted, const IpAddress& remote, std::uint16_t remote_port,
                                               Taken&& taken, std::uint16_t proposed) {
  if (count_ == 0) return std::nullopt;
  if (range_.mine(wanted) && !taken(wanted)) return wanted;
  if (proposed != 0 && range_.mine(proposed)) {
    const bool unused = users_[index_of(proposed)] == 0;
    if (unused || (this->unused() == 0 && !taken(proposed))) return proposed;
  }
  const std::size_t best = class_of(wanted);
  for (const std::size_t of_class : {best, best ^ 2U, best ^ 1U, best ^ 3U})
    if (const auto port = draw_unused(of_class)) return port;
  // Every port has a user somewhere; towards this destination most may still be free.
  Crowded* crowded = find_crowded(remote, remote_port);
  if (crowded == nullptr) {
    for (unsigned guess = 0; guess < kGuesses; ++guess) {
      const std::uint16_t port = port_of(random_->below(count_));
      if ((guess >= kGuesses / 2 || port % 2 == wanted % 2) && range_.mine(port) && !taken(port)) return port;
    }
    crowded = &make_crowded(remote, remote_port);
  }
  return search_crowded(*crowded, wanted, taken);
}

template <typename Taken>
std::optional<std::uint16_t> PortSpace::choose_used(Taken&& taken, std::uint16_t proposed) {
  if (count_ == 0) return std::nullopt;
  if (proposed != 0 && range_.mine(proposed) && users_[index_of(proposed)] != 0 && !taken(proposed)) return proposed;
  for (unsigned guess = 0; guess < kGuessesAmongUsed; ++guess) {
    const Index index = random_->below(count_);
    const std::uint16_t port = port_of(index);
    if (users_[index] != 0 && range_.mine(port) && !taken(port)) return port;
  }
  return std::nullopt;
}

template <typename Taken>
std::optional<std::uint16_t> PortSpace::search_crowded(Crowded& crowded, std::uint16_t wanted, Taken&& taken) {
  crowded.age = ++clock_;
  const std::uint32_t words = static_cast<std::uint32_t>(crowded.taken.size());
  const std::uint32_t start = random_->below(words);
  for (std::uint32_t step = 0; step < words;) {
    const std::uint32_t word = (start + step) % words;
    // Skip the known full ones, 64 words (4096 ports) at a glance.
    const std::uint64_t open = ~crowded.full[word / kWordBits] >> (word % kWordBits);
    if (open == 0) {
      step += std::min<std::uint32_t>(kWordBits - word % kWordBits, words - word);
      continue;
    }
    const auto skip = static_cast<std::uint32_t>(__builtin_ctzll(open));
    if (skip != 0) {
      step += std::min(skip, words - word);
      continue;
    }
    const Index first = static_cast<Index>(word * kWordBits);
    if ((crowded.known[word / kWordBits] >> (word % kWordBits) & 1) == 0) {
      crowded.taken[word] = 0;
      for (Index bit = 0; bit < kWordBits; ++bit)
        if (first + bit >= count_ || !range_.mine(port_of(first + bit)) || taken(port_of(first + bit)))
          crowded.taken[word] |= 1ULL << bit;
      crowded.known[word / kWordBits] |= 1ULL << (word % kWordBits);
    }
    const std::uint64_t free = ~crowded.taken[word];
    if (free == 0) {
      crowded.full[word / kWordBits] |= 1ULL << (word % kWordBits);
      ++step;
      continue;
    }
    // Indices begin at an even port, so a port's parity is its index's.
    const std::uint64_t parity = 0x5555555555555555ULL << (wanted % 2U);
    std::uint64_t choice = (free & parity) != 0 ? free & parity : free;
    for (std::uint32_t drop = random_->below(static_cast<std::uint32_t>(__builtin_popcountll(choice))); drop > 0;
         --drop)
      choice &= choice - 1;
    return port_of(first + static_cast<Index>(__builtin_ctzll(choice)));
  }
  return std::nullopt;
}

}  // namespace penstock::nat
