// What the control side wants: peers, authorisations and translations by id, checked, kept, and published to workers as
// PeerPolicy snapshots. One store per process; used by `static:` of the YAML file and by gRPC's Apply.
//
// Theory of operation. apply() takes a batch. Each operation is judged by itself and in order; a bad one is reported
// and changes nothing. An upsert that equals what is there is left untouched: nothing is published, tunnels and flows
// do not notice. Afterwards the batch's effect goes to the `PolicySink` at once: peers to add, change and remove, and
// one new snapshot per peer whose rights changed. The snapshot's epoch grows whenever a right was taken away or what a
// flow was judged by has changed (removal, filter, prefix, expiry, translation no longer usable), but not for additions
// and not for a name's new addresses, so live flows are judged anew exactly when they must be (traps flow-16, nat-13).
//
// Mark and sweep: begin_sync marks, operations touch, end_sync removes what belongs to the control side and was not
// touched. Entries of origin `file` are never swept, and the control side may not change them.
//
// Expiry: expire() drops authorisations whose time has come (a later one that replaced them counts, not the first) and
// publishes; next_expiry() tells when. Thread-safe: one lock, held while the sink works; no call from the data path.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dataplane/runtime/policy_spec.h"

namespace penstock::runtime {

struct PeerChange {
  enum class Kind : std::uint8_t { add, update, remove };
  Kind kind = Kind::add;
  PeerSpec spec;             // the key says which peer; remove: nothing else counts
  PeerIndex peer = kNoPeer;  // add: filled in by the sink
  std::string error;         // filled in by the sink; empty: done
};

struct PolicyPublication {
  PeerIndex peer = kNoPeer;
  std::unique_ptr<policy::PeerPolicy> policy;  // sealed; nullptr: the peer is gone
};

// Where the store's decisions take effect. Implemented by Engine, and by tests.
class PolicySink {
 public:
  virtual ~PolicySink() = default;

  // Carries out the changes in order. A failed addition has `error` set and no index.
  virtual void change_peers(std::span<PeerChange> changes) = 0;

  // Makes the snapshots visible to every worker. With `wait` it returns only after a grace period: no worker uses an
  // older snapshot any more.
  virtual void publish(std::span<PolicyPublication> publications, bool wait) = 0;

  // The site's settings have changed: for flows from now on.
  virtual void set_site(const SiteSpec&) {}
};

class PolicyStore {
 public:
  enum class Origin : std::uint8_t { file, control };

  struct Limits {
    std::uint32_t max_peers = 65536;
    std::uint32_t max_translations_per_peer = 4096;
    std::uint32_t max_authorisations_per_peer = 4096;
  };

  struct Batch {
    std::uint64_t generation = 0;
    bool begin_sync = false;
    std::vector<Operation> operations;
    bool end_sync = false;
  };

  struct OperationError {
    std::uint32_t index = 0;  // in Batch::operations
    std::string message;
  };

  struct Result {
    std::vector<OperationError> errors;
    std::uint32_t removed = 0;  // by end_sync
  };

  // `own`: addresses that are the gateway's and so nobody else's tunnel or proxy address.
  PolicyStore(PolicySink& sink, PoolsSpec pools, Limits limits, std::vector<IpAddress> own);
  ~PolicyStore();

  Result apply(const Batch& batch, Origin origin);

  // Removes what has expired by `wall`; returns how many authorisations that were.
  std::uint32_t expire(WallTime wall);
  // The earliest expiry still ahead; nullopt: none.
  [[nodiscard]] std::optional<WallTime> next_expiry() const;

  // Of the last batch that carried one.
  [[nodiscard]] std::uint64_t generation() const;

  // Copies, ordered by identity. `peers` carry their preshared key: the caller must not show it.
  [[nodiscard]] std::vector<PeerSpec> peers() const;
  [[nodiscard]] std::vector<AuthorisationSpec> authorisations() const;
  [[nodiscard]] std::vector<TranslationSpec> translations() const;
  [[nodiscard]] SiteSpec site() const;

  // All that the control side has said, as a batch that says it again; nothing of the file's. Holds preshared keys.
  [[nodiscard]] Batch control_entries() const;

  [[nodiscard]] std::optional<PeerIndex> find_peer(const KeyBytes& public_key) const;
  [[nodiscard]] std::optional<KeyBytes> key_of(PeerIndex peer) const;
  // How many authorisations the peer has; for `show peers`.
  [[nodiscard]] std::uint32_t authorisation_count(PeerIndex peer) const;

 private:
  class State;

  mutable std::mutex mutex_;
  PolicySink& sink_;
  std::unique_ptr<State> state_;
};

}  // namespace penstock::runtime
