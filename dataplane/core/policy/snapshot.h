// What a peer may reach and how its proxy addresses translate: immutable snapshots that workers read.
//
// The control side (main thread, from gRPC or from `static:` in the YAML file) builds a new PeerPolicy for every change
// and publishes it with one pointer store; workers load it once per burst and peer. Old snapshots are freed after an
// RCU grace period by the runtime. Nothing here locks or allocates when read.
//
// Epoch: every publication that takes a right away (or changes what a flow was judged by) has a higher epoch. A flow
// remembers the epoch that judged it; when it differs, the next packet of the flow is judged anew.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/base/slab.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::policy {

struct PortRange {
  std::uint16_t first = 0;
  std::uint16_t last = 65535;
};

// Empty (`all`): every protocol. Otherwise only what is listed.
struct Filter {
  bool all = true;
  bool icmp_echo = false;
  std::vector<PortRange> tcp;
  std::vector<PortRange> udp;

  // `port`: destination port, host order (ignored for ICMP echo).
  [[nodiscard]] bool allows(std::uint8_t protocol, std::uint16_t port) const;
};

enum class ResourceKind : std::uint8_t { dns, address, cidr, internet };

// The right of one peer to one Resource. `id` is the control side's and opaque here.
struct Authorisation {
  std::string id;
  std::string resource;  // resource id
  ResourceKind kind = ResourceKind::dns;
  Prefix prefix;        // address and cidr kinds
  std::string pattern;  // dns kind: orders overlapping Resources by specificity; may be empty
  Filter filter;
  WallTime expires{};  // {0,0}: never
};

enum class TranslationState : std::uint8_t { resolving, active, no_such_name, forbidden, failed };

// One name of one peer under one Resource: proxy addresses and what they stand for.
struct Translation {
  std::string id;
  std::string resource;
  std::string name;
  IpAddress proxy_v4;  // unspecified: none of that family
  IpAddress proxy_v6;
  TranslationState state = TranslationState::resolving;
  std::vector<IpAddress> real_v4;  // in order of preference; a peer's flows stick to the first that works
  std::vector<IpAddress> real_v6;
};

// Whose source addresses and which families the gateway has; decides within-family or across (docs/translation.md).
struct SourceNat {
  bool enabled_v4 = false;  // has an IPv4 source address and route
  bool enabled_v6 = false;
};

class ForbiddenDestinations;

// Which real address of an active translation a packet of this family goes to: its own family first, then the other;
// of each the first in order that is not forbidden. `forbidden` may be null. `destination` is set when none is
// returned; otherwise name_no_address, nat_no_source or policy_forbidden_destination.
[[nodiscard]] DropReason choose_destination(const Translation& translation, bool v6_packet, const SourceNat& source_nat,
                                            const ForbiddenDestinations* forbidden, IpAddress& destination);

struct Verdict {
  DropReason reason = DropReason::none;    // none: allowed
  bool wait = false;                       // hold the packet: the name is being resolved (reason is then name_*)
  IpAddress destination;                   // real destination, either family
  std::uint32_t authorisation = 0;         // index in PeerPolicy::authorisations
  std::uint32_t translation = 0xffffffff;  // index in PeerPolicy::translations; none for address kinds
  std::uint32_t tag = 0;                   // PeerPolicy::translation_tag of it
  bool several = false;                    // the name has several addresses
  WallTime expires{};                      // of the authorisation; {0,0}: never
};

// First line: what every burst of the peer's packets is judged by.
class alignas(64) PeerPolicy : public Slabbed<PeerPolicy> {
 public:
  PeerIndex peer = kNoPeer;
  std::uint32_t epoch = 1;
  IpAddress tunnel_v4;
  IpAddress tunnel_v6;
  std::vector<Prefix> extra_sources;  // static peers only: further allowed sources (LAN behind a standard peer)
  bool control = false;               // speaks in-tunnel control
  std::vector<Authorisation> authorisations;
  std::vector<Translation> translations;

  // Builds the indexes below; call once before publishing.
  void seal();

  // Identity of a translation that survives a new snapshot: a hash of resource and name, never 0. 0 for an index beyond
  // the end. Flows keep it to notice that a proxy address has come to mean another name.
  [[nodiscard]] std::uint32_t translation_tag(std::uint32_t index) const;

  [[nodiscard]] bool source_allowed(const IpAddress& source) const;

  // Judges a new flow from this peer. O(1) for proxy addresses, O(number of prefixes' lengths) otherwise.
  // `port`: destination port (TCP/UDP) in host order; `wall`: for expiry.
  [[nodiscard]] Verdict judge(const IpAddress& destination, std::uint8_t protocol, std::uint16_t port,
                              const SourceNat& source_nat, WallTime wall) const;

  // For bursts: what judge() will read, step by step.
  void prefetch() const {
    prefetch_read(this);
    prefetch_read(&index_);
  }
  void prefetch_index() const;
  void prefetch_destination(const IpAddress& destination) const;
  void prefetch_candidate(const IpAddress& destination) const;

 private:
  struct Index;
  std::shared_ptr<const Index> index_;
};

}  // namespace penstock::policy
