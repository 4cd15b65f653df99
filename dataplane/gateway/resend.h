// What a worker has sent of late to Penstock clients, kept to be sent again (paths.md "Failure").
//
// Theory of operation. While a path fails, packets that were sent over it are lost before anybody knows. So encap
// copies the ciphertexts of a peer's current session into a ring of its own, and when the slow thread notices that
// something is wrong it orders: send again what you sent since T, over these addresses, and what comes after it as well
// until U. The receiver's replay window discards what had arrived. The datagram is the same: no counter is used twice.
// With a report of what has arrived the rest alone is sent, and sent once more when a later report still misses it.
// It goes oldest first, but behind what is newest: an answer to a request that was late, because the peer sent it again,
// must not wait for a quarter of a second's packets at the pace that a relay keeps up with.
//
// A ring is a list of blocks from one pool; when the pool or a peer's share is used up, the oldest block goes. What is
// older than kKeepFor is of no use to anybody and goes too. A peer that sends faster than the promise of "zero lost"
// covers has its ring switched off (DataPath::set_keeps) until its next probe: the hot path pays one bit per run of
// packets. Copies are bounded per tunnel and per address sent to, over all workers (ResendGates): a failing path must
// not melt a relay.
//
// One object per worker and used by that thread only, so nothing is locked; ResendGates is shared and lock-free.
// No allocation after construction. Memory: kBlockSize x blocks, touched as it is used, and 4 bytes per possible peer.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/reception_report.h"
#include "dataplane/core/wireguard/zeroed_array.h"

namespace penstock::gateway {

// How much may be sent again: packets and bytes per second, with a second's worth of a tunnel at once.
class ResendGates {
 public:
  struct Rate {
    std::int64_t packets_per_second;
    std::int64_t bytes_per_second;
    std::int64_t burst;  // nanoseconds' worth
  };
  static constexpr Rate kPerTunnel{2000, 250'000, 1'000'000'000};  // 2 kpps, 2 Mbit/s
  // Of everybody behind one address, a relay: its socket holds a few hundred packets.
  static constexpr Rate kPerAddress{50'000, 12'500'000, 2'000'000};

  explicit ResendGates(std::size_t max_peers) : peers_(max_peers) {}
  // Any thread. False: not now; ask again at next().
  bool take(PeerIndex peer, const IpAddress& to, std::size_t bytes, Instant now);
  [[nodiscard]] Instant next(PeerIndex peer, Instant now) const;
  void map_front() const { peers_.map_front(); }  // any thread

 private:
  // Theoretical arrival times (GCRA), nanoseconds; 0: never used.
  struct Gate {
    std::atomic<std::int64_t> packets, bytes;
  };
  static bool would_take(const Gate& gate, const Rate& rate, std::size_t bytes, std::int64_t now);
  static void charge(Gate& gate, const Rate& rate, std::size_t bytes, std::int64_t now);

  wireguard::ZeroedArray<Gate> peers_;
  std::array<Gate, 256> addresses_{};  // by hash: those that fall together share
};

// From the slow thread to every worker; travels as the bytes of a packet (ToWorker::resend).
struct ResendOrder {
  static constexpr std::size_t kMaxPaths = 3;
  PeerIndex peer = kNoPeer;
  std::uint32_t paths = 0;  // 0: stop
  bool forget = false;      // the peer is gone: drop what was kept
  bool repair = false;      // only what `report` misses, and for what is being sent again already no more than that
  Instant since{};          // what was sent from here on …
  Instant up_to{};          // … until here
  Instant fresh = kNever;   // what was sent from here on goes before what is older
  Instant until{};          // what has not gone by then does not go at all
  std::array<Path, kMaxPaths> to{};
  wireguard::ReceptionReport report{};  // what has arrived needs no copy; says nothing without a receiver
};
static_assert(std::is_trivially_copyable_v<ResendOrder>);

class ResendStore {
 public:
  static constexpr std::size_t kBlockSize = 16 * 1024;
  static constexpr std::size_t kDefaultBlocks = 4096;  // 64 MiB, touched as it is used
  static constexpr std::size_t kMaxPackets = 4096;     // per peer
  static constexpr std::size_t kMaxBytes = 256 * 1024;
  static constexpr Duration kKeepFor = std::chrono::seconds{30};
  static constexpr Duration kQuiet = std::chrono::seconds{1};
  static constexpr ResendGates::Rate kKeepRate{4000, 512'000, 500'000'000};  // faster than that is not kept
  // Copies of one peer go in bites, at about 5000 packets a second: sockets on the way hold a few hundred small
  // packets, and a relay on a busy machine has to keep up with the copies of both ends at once, beside what is new.
  static constexpr std::uint32_t kBite = 16;
  static constexpr Duration kPause = std::chrono::milliseconds{3};
  static constexpr std::uint16_t kMaxCopies = 8;  // for a repair: what is too long for the way never arrives

  ResendStore(ResendGates& gates, std::size_t max_peers, std::size_t blocks = kDefaultBlocks);

  enum class Kept : std::uint8_t {
    yes,
    after_a_pause,  // nothing was sent to this peer for kQuiet: somebody should see whether it hears us
    too_fast,       // not kept, nor will be what follows
  };
  // `datagram`: a sealed data message that goes to the peer's endpoint now.
  Kept keep(PeerIndex peer, Bytes datagram, Instant now);
  // What this worker has sent until now is in doubt even where `up_to` is a little earlier: it was sent by what the
  // worker knew, while the order was on its way.
  void order(const ResendOrder& order, Instant now);

  // Something is to be sent or to be forgotten.
  [[nodiscard]] bool due(Instant now) const { return now >= next_; }
  // The next copy that may go now; false: none, and next() says when to ask again. `bytes`: until the next call.
  struct Copy {
    PeerIndex peer;
    Path to;
    Bytes bytes;
  };
  bool poll(Instant now, Copy& copy);

  [[nodiscard]] Instant next() const { return next_; }
  [[nodiscard]] std::size_t packets(PeerIndex peer) const;
  [[nodiscard]] std::size_t bytes(PeerIndex peer) const;
  [[nodiscard]] std::size_t blocks_used() const { return used_; }
  // Maps memory of the next blocks, so that the worker does not wait for the system. One thread, any, now and then.
  void map_ahead();

 private:
  using Index = std::uint32_t;  // + 1; 0: none
  struct Block {
    Index older = 0, newer = 0;  // of the whole store, by age
    Index next = 0;              // of its ring
    Index ring = 0;              // 0: free
    std::uint32_t fill = 0;
    std::uint32_t packets = 0;
    Instant newest{};
  };
  struct Record {
    std::uint16_t size;
    std::uint16_t copies;     // how often it was sent again
    std::uint32_t copied_ms;  // ... the last time, after `at`
    Instant at;
    [[nodiscard]] Instant last() const { return at + std::chrono::milliseconds{copied_ms}; }
  };
  // Where orders before wanted what was sent in this time: what they had not come to.
  struct Paths {
    std::uint32_t count = 0;
    Instant since = Instant::max(), up_to = Instant::min();
    [[nodiscard]] bool cover(Instant at) const { return since <= at && at <= up_to; }
    std::array<Path, ResendOrder::kMaxPaths> to{};
  };
  // Goes through the records of one span of time; at `block` and `offset` is the next one to send.
  struct Cursor {
    Index block = 0;
    std::uint32_t offset = 0;
    std::uint32_t path = 0;  // of order.to, then of before.to
    Instant since{}, up_to{};
  };
  struct Ring {
    PeerIndex peer = kNoPeer;
    Index head = 0, tail = 0;
    std::uint32_t packets = 0, bytes = 0;
    Instant last{};
    std::int64_t rate_packets = 0, rate_bytes = 0;
    bool active = false;
    std::array<Cursor, 2> cursors{};  // fresh, and older
    std::uint32_t bite = 0;
    Instant not_before{};
    ResendOrder order{};
    Paths before{};

    // Those that point at `block`, which goes or (0) is none.
    void cursors_to_head(Index block) {
      for (Cursor& cursor : cursors)
        if (cursor.block == block) cursor = {head, 0, 0, cursor.since, cursor.up_to};
    }
  };

  [[nodiscard]] std::uint8_t* memory_of(Index block) { return &memory_[(block - 1) * kBlockSize]; }
  Ring& ring_of(PeerIndex peer);
  Index take_block(Index ring, Instant now);
  void drop_oldest_block(Index ring);
  void release_ring(Index ring);
  void unlink(Index block);
  void link_newest(Index block);
  void expire(Instant now);
  void stop(Index ring);
  void schedule(Instant at) { next_ = at < next_ ? at : next_; }
  // What the cursor points at; nullptr: nothing more at present.
  Record* current(const Ring& ring, Cursor& cursor);
  [[nodiscard]] static bool wanted(const ResendOrder& order, const Record& record);

  ResendGates& gates_;
  wireguard::ZeroedArray<Index> by_peer_;
  wireguard::ZeroedArray<std::uint8_t> memory_;
  std::atomic<Index> high_water_{0};  // the last block that has ever been taken
  std::size_t mapped_ = 0;            // bytes of memory_, of map_ahead
  std::vector<Block> blocks_;
  std::vector<Index> free_blocks_;
  std::vector<Ring> rings_;
  std::vector<Index> free_rings_;
  std::vector<Index> active_;
  std::size_t turn_ = 0;
  Index oldest_ = 0, newest_ = 0;
  std::size_t used_ = 0;
  Instant next_ = kNever;
  Instant expire_at_ = kNever;
};

}  // namespace penstock::gateway
