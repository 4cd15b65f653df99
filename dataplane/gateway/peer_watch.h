// What the slow thread knows of each peer beyond WireGuard: where it can be reached, how busy it is, whether it has
// gone silent; and the healing that follows (paths.md "Failure").
//
// Theory of operation. A NAT in front of us that forgets its mappings cuts every tunnel at once. Two things notice: the
// STUN tick (our address changed) and a peer's probes that stop arriving. The cure is the same: an authenticated
// keepalive to every address the peer is known at. It opens our NAT anew, and shows the peer, who trusts nothing but
// authentication, where we are now. After a change of our address all peers get one: busy ones first, then active, then
// idle, paced so that neither our uplink nor a relay is flooded.
//
// What was on its way meanwhile is sent again (resend.h): while a peer is *suspect*, over its other addresses, together
// with what is newer, for at most two seconds; and once more, over the address that its primary probe comes from, when
// that moves or comes after a gap. In doubt is everything since the last primary probe before the trouble, less a round
// trip; where the peer reports what has arrived, only what has not, and that again while it goes on reporting.
//
// A peer that was quiet and is sent data by the LAN should wake and probe; when it does not it is as good as silent.
//
// How busy a peer is follows from its probes (a Penstock client probes at most every 200 ms while busy, every second
// while active) and, for peers that send none, from the data path's counters, looked at in turns.
// Sans-IO; slow thread. Memory: about 200 bytes per known peer.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/handover/state.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/gateway/slow_context.h"
#include "dataplane/gateway/stun_tick.h"

namespace penstock::wireguard {
class DataPath;
struct ReceptionReport;
}
namespace penstock::gateway {
struct ResendOrder;
}

namespace penstock::gateway {

class PeerWatch {
 public:
  static constexpr std::size_t kMaxAddresses = 8;

  PeerWatch(SlowContext& context, wireguard::DataPath& tunnels) : context_(context), tunnels_(tunnels) {}

  // The control process knows these addresses. Replaces what it said before; what was learned stays.
  void set_endpoints(PeerIndex peer, std::span<const Endpoint> endpoints, Instant now);
  void forget(PeerIndex peer);
  // Something authenticated came from there.
  void heard_from(PeerIndex peer, const Path& path, Instant now);
  // A probe came: the peer is alive, and how often it probes says how busy it is. `rtt`: as the client
  // measures it; 0: not known.
  struct Said {
    bool moved = false;  // it made `path` its endpoint
    bool doubt = false;  // its primary did not work for a while, which may have been too short to be noticed here
    const wireguard::ReceptionReport* report = nullptr;  // what has arrived there
  };
  void probed(PeerIndex peer, const Path& path, Said said, Duration rtt, Instant now);
  // Data was sent to a peer after a pause.
  void spoke_first(PeerIndex peer, Instant now);
  // One packet of ours to or from the peer that is no data.
  void count_overhead(PeerIndex peer);

  // Where the peer was heard of, for the next process, and what the one before says of a peer that is known here.
  [[nodiscard]] std::vector<handover::KnownAddress> addresses(PeerIndex peer) const;
  void inherit(PeerIndex peer, std::span<const handover::KnownAddress> addresses);

  // Our address changed: everybody hears from us.
  void address_changed(Instant now);
  // Something says that the path to this peer is broken: it hears from us at every known address (at most twice a
  // second).
  void suspect(PeerIndex peer, Instant now);

  // Who may be meant by an ICMP error about a datagram to `remote`.
  [[nodiscard]] PeerIndex peer_at(const Endpoint& remote) const {
    const auto found = by_address_.find(remote);
    return found == by_address_.end() ? kNoPeer : found->second;
  }
  [[nodiscard]] StunTick::Pace pace(Instant now) const;

  [[nodiscard]] Instant next_timeout() const;
  void handle_timeout(Instant now);

 private:
  struct Address {
    Path path;
    Instant heard{};  // Instant::min(): never
    bool configured = false;
  };
  struct Peer {
    bool known = false;
    std::vector<Address> addresses;
    Instant last_probe = Instant::min();  // at its endpoint
    Duration probe_interval{};            // smoothed; 0: sends none
    Instant spoken_to = Instant::min();   // we spoke first, and armed `silence`
    bool suspect = false;
    Instant repaired = Instant::min();    // the last order of that kind
    Instant doubtful = Instant::min();    // the client doubts, and this is not known to have arrived; min: it does not
    Duration rtt{};                       // of its primary path; 0: not known
    bool counted = false;                 // its packets, for the next deadline to see whether any came since
    std::uint8_t excuses = 0;             // of late probes, since the last one
    std::uint64_t received = 0, data = 0; // packets from it, and packets of data, when last looked at
    Instant data_at = Instant::min();
    Instant last_data = Instant::min();
    Instant suspected = Instant::min();
    Instant silence = kNever;  // deadline in silences_
    std::uint8_t silent_times = 0;
    std::uint64_t packets = 0;  // of the data path, when last looked at
    std::uint64_t overhead = 0, overhead_seen = 0;
  };

  Peer& at(PeerIndex peer);
  void learn(PeerIndex index, const Path& path, bool configured, Instant now);
  void unlist(PeerIndex index, const Endpoint& remote);
  void arm_silence(PeerIndex peer, Instant deadline);
  void hear_from_us(PeerIndex peer);
  bool note_traffic(Peer& peer, PeerIndex index, Instant now);
  [[nodiscard]] bool excused(PeerIndex peer, Instant now);
  void begin_suspicion(PeerIndex peer, Instant now);
  void send_again(PeerIndex peer, const Path& path, const wireguard::ReceptionReport* report, Instant now);
  void repair(PeerIndex peer, const Path& path, const wireguard::ReceptionReport& report, Instant now);
  void copy_to_others(PeerIndex peer, std::size_t first, std::size_t paths, Instant now);
  [[nodiscard]] static bool doubts_of_late(const Peer& peer, Instant now);
  [[nodiscard]] static Duration under_way(const Peer& peer);
  [[nodiscard]] static Instant in_doubt_since(const Peer& peer);
  void give_order(const ResendOrder& order);
  void look_at_traffic(Instant now);
  void mark_data(Peer& peer, Instant now);
  [[nodiscard]] bool is_busy(const Peer& peer, Instant now) const;
  [[nodiscard]] bool is_active(const Peer& peer, Instant now) const;
  void send_some(Instant now);

  SlowContext& context_;
  wireguard::DataPath& tunnels_;
  std::vector<Peer> peers_;
  std::unordered_map<Endpoint, PeerIndex> by_address_;  // peers behind one address and port: the latest
  std::set<std::pair<Instant, PeerIndex>> silences_;
  std::deque<PeerIndex> to_heal_;
  Instant heal_at_ = kNever;
  Instant look_at_ = kNever;
  PeerIndex looked_ = 0;
  Instant busy_until_ = Instant::min();  // some peer had data
  Instant active_until_ = Instant::min();
};

}  // namespace penstock::gateway
