#include "dataplane/runtime/policy_store.h"

#include <algorithm>

#include "dataplane/runtime/policy_state.h"

namespace penstock::runtime {
namespace {

// In the order of their keys, so that lists of two moments can be compared.
template <typename Map>
auto specs_of(const Map& map) {
  std::vector<decltype(map.begin()->second.spec)> out;
  out.reserve(map.size());
  std::vector<const typename Map::value_type*> sorted;
  sorted.reserve(map.size());
  for (const auto& entry : map) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
  for (const auto* entry : sorted) out.push_back(entry->second.spec);
  return out;
}

}  // namespace

PolicyStore::PolicyStore(PolicySink& sink, PoolsSpec pools, Limits limits, std::vector<IpAddress> own)
    : sink_(sink), state_(std::make_unique<State>(pools, limits, own)) {}

PolicyStore::~PolicyStore() = default;

PolicyStore::Result PolicyStore::apply(const Batch& batch, Origin origin) {
  const std::lock_guard lock(mutex_);
  Result result;
  State::Pending pending;
  if (batch.generation != 0) state_->generation = batch.generation;
  if (batch.begin_sync) state_->begin_sync();
  for (std::uint32_t i = 0; i < batch.operations.size(); ++i)
    if (std::string error = state_->apply(batch.operations[i], i, origin, pending); !error.empty())
      result.errors.push_back({i, std::move(error)});
  if (batch.end_sync) result.removed = state_->sweep(pending);
  state_->commit(sink_, pending, result);
  return result;
}

std::uint32_t PolicyStore::expire(WallTime wall) {
  const std::lock_guard lock(mutex_);
  State::Pending pending;
  Result result;
  const std::uint32_t expired = state_->expire(wall, pending);
  state_->commit(sink_, pending, result);
  return expired;
}

std::optional<WallTime> PolicyStore::next_expiry() const {
  const std::lock_guard lock(mutex_);
  if (state_->expiries.empty()) return std::nullopt;
  return state_->expiries.begin()->first;
}

std::uint64_t PolicyStore::generation() const {
  const std::lock_guard lock(mutex_);
  return state_->generation;
}

std::vector<PeerSpec> PolicyStore::peers() const {
  const std::lock_guard lock(mutex_);
  return specs_of(state_->peers);
}

std::vector<AuthorisationSpec> PolicyStore::authorisations() const {
  const std::lock_guard lock(mutex_);
  return specs_of(state_->authorisations);
}

std::vector<TranslationSpec> PolicyStore::translations() const {
  const std::lock_guard lock(mutex_);
  return specs_of(state_->translations);
}

SiteSpec PolicyStore::site() const {
  const std::lock_guard lock(mutex_);
  return state_->site;
}

PolicyStore::Batch PolicyStore::control_entries() const {
  const std::lock_guard lock(mutex_);
  Batch out;
  out.generation = state_->generation;
  const auto add = [&out](const auto& map) {
    for (const auto& [id, record] : map)
      if (record.origin == Origin::control) out.operations.emplace_back(record.spec);
  };
  add(state_->peers);
  add(state_->authorisations);
  add(state_->translations);
  if (state_->site != SiteSpec{}) out.operations.emplace_back(state_->site);
  return out;
}

std::optional<PeerIndex> PolicyStore::find_peer(const KeyBytes& public_key) const {
  const std::lock_guard lock(mutex_);
  const auto peer = state_->peers.find(public_key);
  if (peer == state_->peers.end() || peer->second.index == kNoPeer) return std::nullopt;
  return peer->second.index;
}

std::optional<KeyBytes> PolicyStore::key_of(PeerIndex peer) const {
  const std::lock_guard lock(mutex_);
  const auto key = state_->keys.find(peer);
  if (key == state_->keys.end()) return std::nullopt;
  return key->second;
}

std::uint32_t PolicyStore::authorisation_count(PeerIndex peer) const {
  const std::lock_guard lock(mutex_);
  const auto key = state_->keys.find(peer);
  if (key == state_->keys.end()) return 0;
  return static_cast<std::uint32_t>(state_->peers.at(key->second).authorisations.size());
}

}  // namespace penstock::runtime
