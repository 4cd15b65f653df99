// A NAT with every behaviour of RFC 4787: mapping x filtering x port choice x time-outs x refresh, one or several
// external addresses, hairpinning; forgetting on command or each mapping after a hard life time. UDP, and with the same
// rules TCP (RFC 5382) and ICMP echo (RFC 5508; the identifier stands for the port, the remote port is 0).
//
// Pure state machine: endpoints and the time go in, endpoints come out; nothing here knows packets. One object per NAT,
// one thread. What carries packets through it: Network (datagrams of the simulation) and PacketNat (raw IP packets, for
// the lab's wire). Same Random, same calls: same answers.
#pragma once

#include <list>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::model {

// RFC 4787 §4.1 and §5: what a mapping, or a filter, depends on.
enum class Dependence : std::uint8_t { independent, address, address_and_port };
inline constexpr Dependence kDependences[] = {Dependence::independent, Dependence::address,
                                              Dependence::address_and_port};

// RFC 4787 §4.2: which port a new mapping gets.
enum class PortChoice : std::uint8_t {
  random,       // any free one
  preserving,   // the inside port while it is free, else any
  parity,       // any free one of the inside port's parity (§4.2.2)
  sequential,   // the next one
  overloading,  // always the inside port, even when somebody else has it (§4.2.1: not allowed, but done)
};
inline constexpr PortChoice kPortChoices[] = {PortChoice::random, PortChoice::preserving, PortChoice::parity,
                                              PortChoice::sequential, PortChoice::overloading};

// RFC 4787 §4.1 "IP address pooling": paired gives one inside address always the same outside address (REQ-2).
enum class Pooling : std::uint8_t { paired, arbitrary };

enum class Transport : std::uint8_t { udp, tcp, icmp };

struct NatBehaviour {
  Dependence mapping = Dependence::independent;
  Dependence filtering = Dependence::independent;
  PortChoice ports = PortChoice::random;
  Pooling pooling = Pooling::paired;
  Duration timeout = std::chrono::seconds{120};         // UDP, §4.3
  Duration tcp_timeout = std::chrono::minutes{124};     // RFC 5382 REQ-5
  Duration tcp_transitory = std::chrono::minutes{4};    // not yet, or no longer, established
  Duration icmp_timeout = std::chrono::seconds{60};     // RFC 5508 REQ-2
  Duration lifetime{};                                  // of a mapping from its creation, whatever passes; 0: no end
  bool refreshed_by_inbound = false;                    // §4.3, besides outbound
  bool rejects = false;             // unexpected inbound is answered with an ICMP error, else dropped silently
  bool inbound_takes_port = false;  // unexpected inbound makes the next mapping to its sender use another port (Linux)
  bool hairpins = true;             // §6
  std::uint16_t shift = 0;          // a preserving NAT's outside port is the inside one and this: not where it was
  std::uint16_t first_port = 1024;  // of those it chooses from
  std::uint16_t last_port = 65535;
  std::size_t max_mappings = 1'000'000;

  [[nodiscard]] std::string to_string() const;
};

class NatBox {
 public:
  NatBox(const NatBehaviour& behaviour, std::vector<IpAddress> external, Random& random)
      : behaviour_(behaviour), external_(std::move(external)), random_(random) {}
  NatBox(const NatBox&) = delete;
  NatBox& operator=(const NatBox&) = delete;

  // The source that a packet from `internal` to `remote` shows outside; makes or refreshes the mapping. nullopt: ports
  // are used up, or there is no external address of that family. `life`: instead of the transport's time-out.
  std::optional<Endpoint> outbound(const Endpoint& internal, const Endpoint& remote, Instant now,
                                   Transport transport = Transport::udp, std::optional<Duration> life = {});
  // Who inside gets a packet from `remote` to `external`; nullopt: filtered.
  std::optional<Endpoint> inbound(const Endpoint& external, const Endpoint& remote, Instant now,
                                  Transport transport = Transport::udp, std::optional<Duration> life = {});

  // For ICMP errors, which neither make nor refresh a mapping (RFC 5508 §4.2): the other side of a mapping that a
  // packet between these two uses.
  [[nodiscard]] std::optional<Endpoint> internal_of(const Endpoint& external, const Endpoint& remote, Instant now,
                                                    Transport transport) const;
  [[nodiscard]] std::optional<Endpoint> external_of(const Endpoint& internal, const Endpoint& remote, Instant now,
                                                    Transport transport) const;

  // Forgets every mapping at once, as a restart or a provider's reset does.
  void forget();
  // The same, and has other addresses from now on.
  void set_external(std::vector<IpAddress> external) {
    external_ = std::move(external);
    forget();
  }
  // Forgets the mappings towards this address alone, where the NAT maps by address.
  void forget_towards(const IpAddress& remote);
  // Forgets mappings older than `age`, one by one.
  void forget_older_than(Duration age, Instant now);
  // New rules for what comes; what stands stays.
  void set_behaviour(const NatBehaviour& behaviour) { behaviour_ = behaviour; }

  [[nodiscard]] const NatBehaviour& behaviour() const { return behaviour_; }
  [[nodiscard]] const std::vector<IpAddress>& external() const { return external_; }
  [[nodiscard]] bool owns(const IpAddress& address) const;
  [[nodiscard]] std::size_t mappings() const { return mappings_.size(); }
  // When mappings died of their age (NatBehaviour::lifetime) that had been used within their time-out.
  [[nodiscard]] const std::vector<Instant>& deaths() const { return deaths_; }

 private:
  struct Key {  // inside: {transport, internal, remote as far as it counts}; outside: {transport, external, {}}
    Transport transport;
    Endpoint endpoint;
    Endpoint remote;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const;
  };
  struct Mapping {
    Key key;
    Endpoint external;
    std::map<Endpoint, Instant> contacted;  // when last sent to
    Instant created;
    Instant expires;
    Duration life;
  };
  using Mappings = std::list<Mapping>;

  [[nodiscard]] Endpoint remote_key(const Endpoint& remote) const;
  [[nodiscard]] bool passes(const Mapping& mapping, const Endpoint& remote, Instant now) const;
  [[nodiscard]] bool alive(const Mapping& mapping, Instant now) const;
  [[nodiscard]] std::optional<Endpoint> choose(const Key& key, const Endpoint& remote, Instant now);
  [[nodiscard]] bool is_free(const Endpoint& wanted, const Key& key, const Endpoint& remote, Instant now) const;
  [[nodiscard]] Duration life_of(Transport transport) const;
  [[nodiscard]] Mapping* find_inbound(const Endpoint& external, const Endpoint& remote, Instant now,
                                      Transport transport);
  template <typename Predicate>
  void forget_if(Predicate goes);
  void erase(Mappings::iterator mapping);
  void bury(Mappings::iterator mapping);
  void sweep(Instant now);

  NatBehaviour behaviour_;
  std::vector<IpAddress> external_;
  Random& random_;
  Mappings mappings_;
  std::unordered_map<Key, Mappings::iterator, KeyHash> by_inside_;
  std::unordered_map<Key, std::vector<Mappings::iterator>, KeyHash> by_outside_;  // latest last
  std::map<std::pair<Endpoint, Endpoint>, Instant> taken_;  // external endpoint, remote: see inbound_takes_port
  std::vector<Instant> deaths_;
  Instant next_sweep_{};
  std::uint32_t next_port_ = 0;
};

}  // namespace penstock::model
