// What a data plane keeps of Apply: upserts, removals, mark and sweep. Refuses what refers to an unknown peer.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "penstock/v1/dataplane.pb.h"

namespace penstock {

// What one message sends: the same bytes to each.
inline std::vector<v1::Datagram> one_by_one(const v1::Datagram& message) {
  std::vector<v1::Datagram> out{message};
  out[0].clear_also_to();
  for (const v1::Endpoint& remote : message.also_to()) {
    out.push_back(out[0]);
    *out.back().mutable_remote() = remote;
  }
  return out;
}

struct FakeDataPlane {
  v1::ApplyResponse apply(const v1::ApplyRequest& request) {
    v1::ApplyResponse response;
    ++requests;
    generation = request.generation();
    if (request.begin_sync()) touched.clear();
    for (int i = 0; i < request.operations_size(); ++i) {
      const v1::Operation& operation = request.operations(i);
      std::string error;
      if (operation.has_upsert_peer()) {
        for (const auto& [key, other] : peers)
          if (key != operation.upsert_peer().public_key() &&
              other.tunnel().v4() == operation.upsert_peer().tunnel().v4())
            error = "tunnel address belongs to another peer";
        if (error.empty()) touch("p" + operation.upsert_peer().public_key());
        if (error.empty() && !changed(peers, operation.upsert_peer().public_key(), operation.upsert_peer())) continue;
      } else if (operation.has_upsert_authorisation()) {
        const auto& it = operation.upsert_authorisation();
        if (!peers.contains(it.peer()) || refuse.contains(it.id())) error = "peer is not known";
        if (error.empty()) touch("a" + it.id());
        if (error.empty() && !changed(authorisations, it.id(), it)) continue;
      } else if (operation.has_upsert_translation()) {
        const auto& it = operation.upsert_translation();
        if (!peers.contains(it.peer())) error = "peer is not known";
        for (const auto& [id, other] : translations)
          if (id != it.id() && other.peer() == it.peer() && other.name() != it.name() &&
              other.proxy_v4() == it.proxy_v4())
            error = "proxy address stands for another name";
        if (error.empty()) touch("t" + it.id());
        if (error.empty() && !changed(translations, it.id(), it)) continue;
      } else if (operation.has_remove_peer()) {
        peers.erase(operation.remove_peer());
      } else if (operation.has_remove_authorisation()) {
        authorisations.erase(operation.remove_authorisation());
      } else if (operation.has_remove_translation()) {
        translations.erase(operation.remove_translation());
      } else if (operation.has_stun_servers()) {
        stun_servers = operation.stun_servers().servers_size();
        continue;
      } else if (operation.has_site_settings()) {
        site = operation.site_settings();
        ++sites;
        continue;
      }
      ++changes;
      if (error.empty()) continue;
      v1::OperationError& failed = *response.add_errors();
      failed.set_index(static_cast<std::uint32_t>(i));
      failed.set_message(error);
    }
    if (request.end_sync()) response.set_removed(sweep());
    return response;
  }

  std::vector<v1::DumpItem> dump() const {
    std::vector<v1::DumpItem> out(1);
    *out[0].mutable_info() = info;
    out[0].mutable_info()->set_generation(generation);
    for (const auto& [key, peer] : peers) {
      *out.emplace_back().mutable_peer() = peer;
      out.back().mutable_peer()->clear_preshared_key();
    }
    for (const auto& [id, it] : authorisations) *out.emplace_back().mutable_authorisation() = it;
    for (const auto& [id, it] : translations) *out.emplace_back().mutable_translation() = it;
    return out;
  }

  v1::DataPlaneInfo info;
  std::uint64_t generation = 0;
  std::map<std::string, v1::Peer> peers;
  std::map<std::string, v1::PeerAuthorisation> authorisations;
  std::map<std::string, v1::PeerTranslation> translations;
  int stun_servers = 0;
  v1::SiteSettings site;
  int sites = 0;  // times it was said
  std::size_t changes = 0;
  std::size_t requests = 0;
  std::set<std::string> refuse;  // authorisations
  std::set<std::string> touched;

 private:
  void touch(const std::string& id) { touched.insert(id); }
  template <typename Map, typename Message>
  static bool changed(Map& map, const std::string& id, const Message& message) {
    const auto found = map.find(id);
    if (found != map.end() && found->second.SerializeAsString() == message.SerializeAsString()) return false;
    map[id] = message;
    return true;
  }
  std::uint32_t sweep() {
    std::size_t removed = 0;
    removed += std::erase_if(peers, [&](const auto& entry) { return !touched.contains("p" + entry.first); });
    removed += std::erase_if(authorisations, [&](const auto& entry) { return !touched.contains("a" + entry.first); });
    removed += std::erase_if(translations, [&](const auto& entry) { return !touched.contains("t" + entry.first); });
    changes += removed;
    return static_cast<std::uint32_t>(removed);
  }
};

}  // namespace penstock
