// A NAT with every behaviour of RFC 4787 for UDP: mapping × filtering × port choice × time-out × refresh, several
// external addresses, hairpinning, and forgetting on command. Pure state machine under virtual time; one object per
// NAT.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::model {

// RFC 4787 §4.1 and §5: what a mapping, or a filter, depends on.
enum class Dependence : std::uint8_t { independent, address, address_and_port };
inline constexpr Dependence kDependences[] = {Dependence::independent, Dependence::address,
                                              Dependence::address_and_port};

struct NatBehaviour {
  Dependence mapping = Dependence::independent;
  Dependence filtering = Dependence::independent;
  bool preserves_ports = false;
  Duration timeout = std::chrono::seconds{120};  // §4.3
  bool refreshed_by_inbound = false;
  bool rejects = false;             // unexpected inbound is answered with an ICMP error, else dropped silently
  bool inbound_takes_port = false;  // unexpected inbound makes the next mapping to its sender use another port (Linux)
  bool hairpins = true;

  [[nodiscard]] std::string to_string() const;
};

class NatBox {
 public:
  NatBox(NatBehaviour behaviour, std::vector<IpAddress> external, Random& random)
      : behaviour_(behaviour), external_(std::move(external)), random_(random) {}

  // The source that a packet from `internal` to `remote` shows outside; makes or refreshes the mapping. nullopt: ports
  // are used up.
  std::optional<Endpoint> outbound(const Endpoint& internal, const Endpoint& remote, Instant now);
  // Who inside gets a packet from `remote` to `external`; nullopt: filtered.
  std::optional<Endpoint> inbound(const Endpoint& external, const Endpoint& remote, Instant now);

  // Forgets every mapping at once, as a restart or a provider's reset does; `new_address`: and has other addresses.
  void forget();
  void set_external(std::vector<IpAddress> external) {
    external_ = std::move(external);
    forget();
  }
  // Forgets mappings older than `age`, one by one (a NAT with a hard life time per mapping).
  void forget_older_than(Duration age, Instant now);

  [[nodiscard]] const NatBehaviour& behaviour() const { return behaviour_; }
  [[nodiscard]] bool owns(const IpAddress& address) const;
  [[nodiscard]] std::size_t mappings() const { return mappings_.size(); }

 private:
  struct Mapping {
    Endpoint internal;
    Endpoint external;
    Endpoint remote;  // as far as the mapping depends on it, else unspecified
    std::set<Endpoint> contacted;
    Instant created;
    Instant expires;
  };
  [[nodiscard]] Endpoint remote_key(const Endpoint& remote) const;
  [[nodiscard]] bool passes(const Mapping& mapping, const Endpoint& remote) const;
  [[nodiscard]] std::optional<Endpoint> choose(const Endpoint& internal, const Endpoint& remote);
  void expire(Instant now);

  NatBehaviour behaviour_;
  std::vector<IpAddress> external_;
  Random& random_;
  std::vector<Mapping> mappings_;
  std::set<std::pair<Endpoint, Endpoint>> taken_;  // external endpoint, remote: see inbound_takes_port
};

}  // namespace penstock::model
