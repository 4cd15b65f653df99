#include "dataplane/runtime/policy_state.h"

#include <fmt/format.h>

#include <algorithm>

namespace penstock::runtime {
namespace {

template <typename... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};

const char* const kFromFile = "is configured in the data plane's file and cannot be changed here";

}  // namespace

policy::Filter FilterSpec::to_filter() const {
  policy::Filter out;
  out.all = !icmp_echo && tcp.empty() && udp.empty();
  out.icmp_echo = icmp_echo;
  for (const auto& [first, last] : tcp) out.tcp.push_back({first, last});
  for (const auto& [first, last] : udp) out.udp.push_back({first, last});
  return out;
}

nat::SiteSettings effective_settings(const SiteSpec& own, const SiteSpec& site) {
  nat::SiteSettings out;
  const auto first = [](const auto& a, const auto& b, auto otherwise) { return a ? *a : b.value_or(otherwise); };
  out.keep_source = !first(own.source_nat, site.source_nat, true);
  out.mapping = first(own.mapping, site.mapping, out.mapping);
  out.filtering = first(own.filtering, site.filtering, out.filtering);
  if (out.mapping != nat::Mapping::endpoint_independent) out.filtering = nat::Filtering::address_and_port_dependent;
  return out;
}

std::string PolicyStore::State::apply(const Operation& operation, std::uint32_t index, Origin origin,
                                      Pending& pending) {
  return std::visit(Overloaded{
                        [&](const PeerSpec& spec) { return upsert(spec, index, origin, pending); },
                        [&](const AuthorisationSpec& spec) { return upsert(spec, origin, pending); },
                        [&](const TranslationSpec& spec) { return upsert(spec, origin, pending); },
                        [&](const RemovePeer& which) { return remove(which, index, origin, pending); },
                        [&](const RemoveAuthorisation& which) -> std::string {
                          const auto entry = authorisations.find(which.id);
                          if (entry == authorisations.end()) return {};  // idempotent
                          if (entry->second.origin != origin) return kFromFile;
                          erase_authorisation(entry, pending);
                          return {};
                        },
                        [&](const RemoveTranslation& which) -> std::string {
                          const auto entry = translations.find(which.id);
                          if (entry == translations.end()) return {};
                          if (entry->second.origin != origin) return kFromFile;
                          erase_translation(entry, pending);
                          return {};
                        },
                        [&](const SiteSpec& spec) -> std::string {
                          site_mark_ = mark_;
                          pending.site = pending.site || spec != site;
                          site = spec;
                          return {};
                        },
                    },
                    operation);
}

std::string PolicyStore::State::upsert(const PeerSpec& spec, std::uint32_t index, Origin origin, Pending& pending) {
  const auto found = peers.find(spec.public_key);
  if (found != peers.end()) {
    if (found->second.origin != origin) return kFromFile;
    found->second.mark = mark_;
    if (origin == Origin::file) return "is given twice";
    if (found->second.spec == spec) return {};
  } else if (peers.size() >= limits_.max_peers) {
    return fmt::format("there are {} peers already", limits_.max_peers);
  }
  if (std::string error = check(spec); !error.empty()) return error;

  Peer& peer = found != peers.end() ? found->second : peers[spec.public_key];
  const bool is_new = found == peers.end();
  const PeerSpec before = peer.spec;
  for (const IpAddress* address : {&before.tunnel_v4, &before.tunnel_v6})
    if (!address->is_unspecified()) tunnel_addresses_.erase(*address);
  peer.spec = spec;
  peer.origin = origin;
  peer.mark = mark_;
  for (const IpAddress* address : {&spec.tunnel_v4, &spec.tunnel_v6})
    if (!address->is_unspecified()) tunnel_addresses_[*address] = spec.public_key;

  pending.peers.push_back({{is_new ? PeerChange::Kind::add : PeerChange::Kind::update, spec, peer.index, {}}, index});
  const bool rights = before.tunnel_v4 != spec.tunnel_v4 || before.tunnel_v6 != spec.tunnel_v6 ||
                      before.extra_sources != spec.extra_sources || (before.control && !spec.control);
  if (is_new || rights || before.control != spec.control) pending.policies[spec.public_key] |= rights && !is_new;
  return {};
}

std::string PolicyStore::State::upsert(const AuthorisationSpec& spec, Origin origin, Pending& pending) {
  const auto found = authorisations.find(spec.id);
  if (found != authorisations.end()) {
    if (found->second.origin != origin) return kFromFile;
    found->second.mark = mark_;
    if (found->second.spec == spec) return {};
  }
  if (std::string error = check(spec); !error.empty()) return error;
  if (found != authorisations.end() && found->second.spec.peer != spec.peer) {
    erase_authorisation(found, pending);
    return upsert(spec, origin, pending);
  }
  Peer& peer = peers.at(spec.peer);
  if (found == authorisations.end()) {
    if (peer.authorisations.size() >= limits_.max_authorisations_per_peer)
      return fmt::format("the peer has {} authorisations already", limits_.max_authorisations_per_peer);
    peer.authorisations.push_back(spec.id);
    authorisations[spec.id] = {spec, origin, mark_};
    pending.policies[spec.peer];
  } else {
    AuthorisationSpec& current = found->second.spec;
    expiries.erase({current.expires, spec.id});
    // A renewal takes nothing away: everything but the expiry is equal, and that is later.
    AuthorisationSpec renewed = current;
    renewed.expires = spec.expires;
    const bool later = spec.expires == WallTime{} || (current.expires != WallTime{} && spec.expires > current.expires);
    pending.policies[spec.peer] |= !(renewed == spec && later);
    current = spec;
  }
  if (spec.expires != WallTime{}) expiries.insert({spec.expires, spec.id});
  return {};
}

std::string PolicyStore::State::upsert(const TranslationSpec& spec, Origin origin, Pending& pending) {
  const auto found = translations.find(spec.id);
  if (found != translations.end()) {
    if (found->second.origin != origin) return kFromFile;
    found->second.mark = mark_;
    if (found->second.spec == spec) return {};
  }
  if (std::string error = check(spec); !error.empty()) return error;
  if (found == translations.end()) {
    Peer& peer = peers.at(spec.peer);
    if (peer.translations.size() >= limits_.max_translations_per_peer)
      return fmt::format("the peer has {} names already", limits_.max_translations_per_peer);
    peer.translations.push_back(spec.id);
    translations[spec.id] = {spec, origin, mark_};
    pending.policies[spec.peer];
  } else {
    TranslationSpec& current = found->second.spec;
    // Live flows keep the address they have (nat-13); they are judged anew when the name stands for something else or
    // may not be reached any more.
    const bool identity = current.peer != spec.peer || current.resource != spec.resource || current.name != spec.name ||
                          current.proxy_v4 != spec.proxy_v4 || current.proxy_v6 != spec.proxy_v6;
    if (current.peer != spec.peer) {
      erase_translation(found, pending);
      return upsert(spec, origin, pending);
    }
    unindex_translation(current);
    current = spec;
    pending.policies[spec.peer] |= identity || spec.state == policy::TranslationState::forbidden;
  }
  index_translation(spec);
  return {};
}

std::string PolicyStore::State::remove(const RemovePeer& which, std::uint32_t index, Origin origin, Pending& pending) {
  const auto entry = peers.find(which.public_key);
  if (entry == peers.end()) return {};
  if (entry->second.origin != origin) return kFromFile;
  erase_peer(entry, index, pending);
  return {};
}

void PolicyStore::State::erase_peer(Peers::iterator entry, std::uint32_t index, Pending& pending) {
  Peer& peer = entry->second;
  while (!peer.authorisations.empty()) erase_authorisation(authorisations.find(peer.authorisations.back()), pending);
  while (!peer.translations.empty()) erase_translation(translations.find(peer.translations.back()), pending);
  for (const IpAddress* address : {&peer.spec.tunnel_v4, &peer.spec.tunnel_v6})
    if (!address->is_unspecified()) tunnel_addresses_.erase(*address);
  PeerChange change{PeerChange::Kind::remove, {}, peer.index, {}};
  change.spec.public_key = entry->first;
  pending.peers.push_back({std::move(change), index});
  if (peer.index != kNoPeer) {
    pending.gone.push_back(peer.index);
    keys.erase(peer.index);
  }
  pending.policies.erase(entry->first);
  peers.erase(entry);
}

void PolicyStore::State::erase_authorisation(Authorisations::iterator entry, Pending& pending) {
  const AuthorisationSpec& spec = entry->second.spec;
  expiries.erase({spec.expires, spec.id});
  std::erase(peers.at(spec.peer).authorisations, spec.id);
  pending.policies[spec.peer] = true;
  authorisations.erase(entry);
}

void PolicyStore::State::erase_translation(Translations::iterator entry, Pending& pending) {
  const TranslationSpec& spec = entry->second.spec;
  unindex_translation(spec);
  std::erase(peers.at(spec.peer).translations, spec.id);
  pending.policies[spec.peer] = true;
  translations.erase(entry);
}

std::uint32_t PolicyStore::State::sweep(Pending& pending) {
  std::uint32_t removed = 0;
  if (site_mark_ != mark_ && site != SiteSpec{}) {
    site = {};
    pending.site = true;
    ++removed;
  }
  const auto stale = [&](const auto& record) { return record.origin == Origin::control && record.mark != mark_; };
  for (auto entry = translations.begin(); entry != translations.end();) {
    const auto current = entry++;
    if (!stale(current->second)) continue;
    erase_translation(current, pending);
    ++removed;
  }
  for (auto entry = authorisations.begin(); entry != authorisations.end();) {
    const auto current = entry++;
    if (!stale(current->second)) continue;
    erase_authorisation(current, pending);
    ++removed;
  }
  for (auto entry = peers.begin(); entry != peers.end();) {
    const auto current = entry++;
    if (!stale(current->second)) continue;
    removed += static_cast<std::uint32_t>(current->second.authorisations.size() + current->second.translations.size());
    erase_peer(current, 0, pending);
    ++removed;
  }
  return removed;
}

std::uint32_t PolicyStore::State::expire(WallTime wall, Pending& pending) {
  std::uint32_t removed = 0;
  while (!expiries.empty() && expiries.begin()->first <= wall) {
    erase_authorisation(authorisations.find(std::string(expiries.begin()->second)), pending);
    ++removed;
  }
  return removed;
}

void PolicyStore::State::forget_peer(const KeyBytes& key) {
  const auto entry = peers.find(key);
  if (entry == peers.end()) return;
  Pending ignored;
  erase_peer(entry, 0, ignored);
}

void PolicyStore::State::index_translation(const TranslationSpec& spec) {
  for (const IpAddress* proxy : {&spec.proxy_v4, &spec.proxy_v6})
    if (!proxy->is_unspecified()) proxies_[{spec.peer, *proxy}].insert(spec.id);
  scopes_[{spec.peer, spec.resource, spec.name}] = spec.id;
}

void PolicyStore::State::unindex_translation(const TranslationSpec& spec) {
  for (const IpAddress* proxy : {&spec.proxy_v4, &spec.proxy_v6}) {
    const auto users = proxies_.find({spec.peer, *proxy});
    if (users == proxies_.end()) continue;
    users->second.erase(spec.id);
    if (users->second.empty()) proxies_.erase(users);
  }
  scopes_.erase({spec.peer, spec.resource, spec.name});
}

// Old policies leave first, so that a slot's next tenant is never judged by them; then peers; then the new policies.
void PolicyStore::State::commit(PolicySink& sink, Pending& pending, Result& result) {
  if (pending.empty()) return;
  if (pending.site) sink.set_site(site);
  bool wait = false;
  if (!pending.gone.empty()) {
    std::vector<PolicyPublication> publications;
    for (const PeerIndex peer : pending.gone) publications.push_back({peer, nullptr});
    sink.publish(publications, false);
    wait = true;
  }

  std::vector<PeerChange> changes;
  for (auto& entry : pending.peers) changes.push_back(std::move(entry.change));
  if (!changes.empty()) sink.change_peers(changes);
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const PeerChange& change = changes[i];
    if (!change.error.empty()) {
      result.errors.push_back({pending.peers[i].operation, change.error});
      if (change.kind == PeerChange::Kind::add) forget_peer(change.spec.public_key);
      continue;
    }
    if (change.kind != PeerChange::Kind::add) continue;
    // Added and removed again by the same batch: nothing to remember.
    const auto peer = peers.find(change.spec.public_key);
    if (peer == peers.end()) continue;
    peer->second.index = change.peer;
    keys[change.peer] = change.spec.public_key;
  }

  std::vector<PolicyPublication> publications;
  for (const auto& [key, rights_removed] : pending.policies) {
    const auto entry = peers.find(key);
    if (entry == peers.end() || entry->second.index == kNoPeer) continue;
    Peer& peer = entry->second;
    if (rights_removed || peer.epoch == 0) peer.epoch = next_epoch();
    wait |= rights_removed;
    publications.push_back({peer.index, snapshot(peer)});
  }
  if (!publications.empty() || wait) sink.publish(publications, wait);
}

std::unique_ptr<policy::PeerPolicy> PolicyStore::State::snapshot(const Peer& peer) const {
  auto out = std::make_unique<policy::PeerPolicy>();
  out->peer = peer.index;
  out->epoch = peer.epoch;
  out->tunnel_v4 = peer.spec.tunnel_v4;
  out->tunnel_v6 = peer.spec.tunnel_v6;
  out->extra_sources = peer.spec.extra_sources;
  out->control = peer.spec.control;
  for (const auto& id : peer.authorisations) {
    const AuthorisationSpec& spec = authorisations.at(id).spec;
    out->authorisations.push_back(
        {spec.id, spec.resource, spec.kind, spec.prefix, spec.pattern, spec.filter.to_filter(), spec.expires});
  }
  for (const auto& id : peer.translations) {
    const TranslationSpec& spec = translations.at(id).spec;
    policy::Translation translation{spec.id,       spec.resource, spec.name, spec.proxy_v4,
                                    spec.proxy_v6, spec.state,    {},        {}};
    for (const IpAddress& address : spec.addresses)
      (address.is_v4() ? translation.real_v4 : translation.real_v6).push_back(address);
    out->translations.push_back(std::move(translation));
  }
  out->seal();
  return out;
}

}  // namespace penstock::runtime
