// The tables behind PolicyStore and the rules for changing them; no locks, no publication. Private to PolicyStore.
#pragma once

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "dataplane/runtime/policy_store.h"

namespace penstock::runtime {

// Keys and ids are random or the portal's own: the hash need not resist who chooses them, only spread.
struct KeyHash {
  std::size_t operator()(const KeyBytes& key) const {
    std::uint64_t out = 0;
    for (std::size_t at = 0; at < key.size(); at += sizeof out) {
      std::uint64_t word;
      std::memcpy(&word, key.data() + at, sizeof word);
      const auto product = static_cast<unsigned __int128>(out ^ word) * 0x9e3779b97f4a7c15ULL;
      out = static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
    }
    return out;
  }
};

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
    std::unordered_map<KeyBytes, bool, KeyHash> policies;  // to be published anew; true: a right was taken away
    bool site = false;
    [[nodiscard]] bool empty() const { return peers.empty() && gone.empty() && policies.empty() && !site; }
  };

  // Each returns an error in words, or an empty string. On error nothing has changed. An equal upsert changes nothing.
  std::string apply(const Operation& operation, std::uint32_t index, Origin origin, Pending& pending);

  void begin_sync() { ++mark_; }
  // Removes what the control side has not touched since begin_sync; returns how many entries.
  std::uint32_t sweep(Pending& pending);
  std::uint32_t expire(WallTime wall, Pending& pending);
  // Hands what is pending to the sink and remembers the slots it chose.
  void commit(PolicySink& sink, Pending& pending, Result& result);

  using Peers = std::unordered_map<KeyBytes, Peer, KeyHash>;
  using Authorisations = std::unordered_map<std::string, Authorisation>;
  using Translations = std::unordered_map<std::string, Translation>;
  Peers peers;
  Authorisations authorisations;
  Translations translations;
  std::unordered_map<PeerIndex, KeyBytes> keys;
  std::set<std::pair<WallTime, std::string>> expiries;
  SiteSpec site;
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

  void erase_peer(Peers::iterator peer, std::uint32_t index, Pending& pending);
  void erase_authorisation(Authorisations::iterator entry, Pending& pending);
  void erase_translation(Translations::iterator entry, Pending& pending);

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
  std::uint64_t site_mark_ = 0;
  std::uint32_t epoch_ = 0;
};

}  // namespace penstock::runtime
