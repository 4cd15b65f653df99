// The tables behind PolicyStore and the rules for changing them; no locks, no publication. Private to PolicyStore.
#pragma once

#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "dataplane/runtime/policy_store.h"

namespace penstock::runtime {

class PolicyStore::State {
 public:
  State(PoolsSpec pools, Limits limits, const std::vector<IpAddress>& own)
      : pools_(pools), limits_(limits), own_(own.begin(), own.end()) {}

  struct Peer {
    PeerSpec spec;
    Origin origin = Origin::control;
    std::uint64_t mark = 0;
    PeerIndex index = kNoPeer;
    std::uint32_t epoch = 0;
    std::vector<std::string> authorisations;  // ids in order of arrival: additions keep the indexes of the others
    std::vector<std::string> translations;
  };
  struct Authorisation {
    AuthorisationSpec spec;
    Origin origin = Origin::control;
    std::uint64_t mark = 0;
  };
  struct Translation {
    TranslationSpec spec;
    Origin origin = Origin::control;
    std::uint64_t mark = 0;
  };

  // What a batch has changed and the sink does not know yet.
  struct Change {
    PeerChange change;
    std::uint32_t operation = 0;  // that asked for it
  };
  struct Pending {
    std::vector<Change> peers;          // in order
    std::vector<PeerIndex> gone;        // slots of removed peers
    std::map<KeyBytes, bool> policies;  // to be published anew; true: a right was taken away
    [[nodiscard]] bool empty() const { return peers.empty() && gone.empty() && policies.empty(); }
  };

  // Each returns an error in words, or an empty string. On error nothing has changed. An equal upsert changes nothing.
  std::string apply(const Operation& operation, std::uint32_t index, Origin origin, Pending& pending);

  void begin_sync() { ++mark_; }
  // Removes what the control side has not touched since begin_sync; returns how many entries.
  std::uint32_t sweep(Pending& pending);
  std::uint32_t expire(WallTime wall, Pending& pending);
  // Hands what is pending to the sink and remembers the slots it chose.
  void commit(PolicySink& sink, Pending& pending, Result& result);

  std::map<KeyBytes, Peer> peers;
  std::map<std::string, Authorisation> authorisations;
  std::map<std::string, Translation> translations;
  std::unordered_map<PeerIndex, KeyBytes> keys;
  std::set<std::pair<WallTime, std::string>> expiries;
  std::uint64_t generation = 0;

 private:
  std::string upsert(const PeerSpec& spec, std::uint32_t index, Origin origin, Pending& pending);
  std::string upsert(const AuthorisationSpec& spec, Origin origin, Pending& pending);
  std::string upsert(const TranslationSpec& spec, Origin origin, Pending& pending);
  std::string remove(const RemovePeer& which, std::uint32_t index, Origin origin, Pending& pending);

  [[nodiscard]] std::string check(const PeerSpec& spec) const;
  [[nodiscard]] std::string check(const AuthorisationSpec& spec) const;
  [[nodiscard]] std::string check(const TranslationSpec& spec) const;

  // The sink could not add the peer.
  void forget_peer(const KeyBytes& key);
  [[nodiscard]] std::unique_ptr<policy::PeerPolicy> snapshot(const Peer& peer) const;
  // A number no snapshot has had: a slot's next tenant never has an epoch of its last one.
  [[nodiscard]] std::uint32_t next_epoch() { return ++epoch_; }

  void erase_peer(std::map<KeyBytes, Peer>::iterator peer, std::uint32_t index, Pending& pending);
  void erase_authorisation(std::map<std::string, Authorisation>::iterator entry, Pending& pending);
  void erase_translation(std::map<std::string, Translation>::iterator entry, Pending& pending);

  // (peer, proxy address) -> translations that use it, all of one name.
  using ProxyKey = std::pair<KeyBytes, IpAddress>;
  void index_translation(const TranslationSpec& spec);
  void unindex_translation(const TranslationSpec& spec);

  const PoolsSpec pools_;
  const Limits limits_;
  const std::unordered_set<IpAddress> own_;
  std::unordered_map<IpAddress, KeyBytes> tunnel_addresses_;
  std::map<ProxyKey, std::set<std::string>> proxies_;
  std::map<std::tuple<KeyBytes, std::string, std::string>, std::string> scopes_;  // (peer, resource, name) -> id
  std::uint64_t mark_ = 0;
  std::uint32_t epoch_ = 0;
};

}  // namespace penstock::runtime
