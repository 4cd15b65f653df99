// Towards the data plane: operations, batches, synchronisation, and what it tells back.
#include <algorithm>

#include "controlplane/core/gateway_agent/gateway_agent.h"

namespace penstock::gateway_agent {
namespace {

v1::PeerTranslation::State to_state(NameState state) {
  switch (state) {
    case NameState::resolving:
      return v1::PeerTranslation::STATE_RESOLVING;
    case NameState::active:
      return v1::PeerTranslation::STATE_ACTIVE;
    case NameState::no_such_name:
      return v1::PeerTranslation::STATE_NO_SUCH_NAME;
    case NameState::forbidden:
      return v1::PeerTranslation::STATE_FORBIDDEN;
    case NameState::failed:
      return v1::PeerTranslation::STATE_FAILED;
  }
  return v1::PeerTranslation::STATE_FAILED;
}

}  // namespace

v1::Operation GatewayAgent::peer_operation(const Key& key, const Peer& peer) const {
  v1::Operation out;
  v1::Peer& message = *out.mutable_upsert_peer();
  message.set_public_key(std::string{as_text(key)});
  if (peer.preshared_key) message.set_preshared_key(std::string{as_text(*peer.preshared_key)});
  if (!peer.tunnel_v4.is_unspecified()) message.mutable_tunnel()->set_v4(to_wire(peer.tunnel_v4));
  if (!peer.tunnel_v6.is_unspecified()) message.mutable_tunnel()->set_v6(to_wire(peer.tunnel_v6));
  message.set_control(true);
  message.set_pinned_endpoint(peer.pinned);
  for (const Endpoint& endpoint : peer.candidates) *message.add_endpoints() = to_proto(endpoint);
  return out;
}

v1::Operation GatewayAgent::authorisation_operation(const std::string& id, const Authorisation& it) const {
  v1::Operation out;
  v1::PeerAuthorisation& message = *out.mutable_upsert_authorisation();
  message.set_id(id);
  message.set_peer(std::string{as_text(it.peer)});
  *message.mutable_resource() = it.resource;
  if (it.expires) *message.mutable_expires() = to_proto(*it.expires);
  return out;
}

v1::Operation GatewayAgent::translation_operation(const std::string& id, const Translation& it, Now now) const {
  v1::Operation out;
  v1::PeerTranslation& message = *out.mutable_upsert_translation();
  message.set_id(id);
  message.set_peer(std::string{as_text(it.peer)});
  message.set_resource(it.resource);
  message.set_name(it.name);
  if (!it.proxy_v4.is_unspecified()) message.set_proxy_v4(to_wire(it.proxy_v4));
  if (!it.proxy_v6.is_unspecified()) message.set_proxy_v6(to_wire(it.proxy_v6));
  const NameView view = resolver_.view(it.name, now.monotonic).value_or(NameView{});
  message.set_state(to_state(view.state));
  // Within a family only (protocol.md, Versions): a 1.0 client has no use for a dummy address of the other one.
  const auto peer = peers_.find(it.peer);
  if (view.state == NameState::active && peer != peers_.end() && peer->second.pinned) {
    const auto has = [&](bool v4) {
      return std::any_of(view.addresses.begin(), view.addresses.end(),
                         [v4](const IpAddress& address) { return address.is_v4() == v4; });
    };
    if (!has(true) && has(false)) message.clear_proxy_v4();
    if (!has(false) && has(true)) message.clear_proxy_v6();
  }
  if (view.state == NameState::active)
    for (const IpAddress& address : view.addresses) message.add_addresses(to_wire(address));
  return out;
}

v1::Operation GatewayAgent::stun_operation() const {
  v1::Operation out;
  out.mutable_stun_servers();
  for (const Endpoint& server : gatherer_.servers()) *out.mutable_stun_servers()->add_servers() = to_proto(server);
  return out;
}

v1::Operation GatewayAgent::site_operation() const {
  v1::Operation out;
  *out.mutable_site_settings() = site_settings_;
  return out;
}

void GatewayAgent::add_operation(v1::Operation operation, const std::string& about) {
  if (!dataplane_up_) return;  // a full synchronisation says it later
  *collecting_.request.add_operations() = std::move(operation);
  collecting_.about.push_back(about);
}

void GatewayAgent::synchronise(Now now, std::vector<v1::Operation> first) {
  // What was collected so far is part of it, but removals come first: the sweep at the end would be too late for a new
  // peer that has an old one's address. The answers still owed wait for its last piece.
  const auto keep_removals = [&first](const Batch& batch) {
    for (const v1::Operation& operation : batch.request.operations())
      if (operation.has_remove_peer() || operation.has_remove_authorisation() || operation.has_remove_translation())
        first.push_back(operation);
  };
  for (const Batch& batch : batches_) keep_removals(batch);
  keep_removals(collecting_);
  Batch last = std::move(collecting_);
  collecting_ = {};
  for (Batch& batch : batches_) {
    last.results.insert(last.results.end(), batch.results.begin(), batch.results.end());
    last.replies.insert(last.replies.end(), batch.replies.begin(), batch.replies.end());
  }
  batches_.clear();
  ++generation_;
  std::vector<std::pair<v1::Operation, std::string>> all;
  for (v1::Operation& operation : first) all.emplace_back(std::move(operation), "");
  all.emplace_back(stun_operation(), "");
  if (site_settings_.ByteSizeLong() != 0) all.emplace_back(site_operation(), "");
  for (const auto& [key, peer] : peers_)
    if (peer.preshared_key)
      all.emplace_back(peer_operation(key, peer), peer.authorisations.empty() ? "" : *peer.authorisations.begin());
  for (const auto& [id, it] : authorisations_) all.emplace_back(authorisation_operation(id, it), id);
  for (const auto& [id, it] : translations_) all.emplace_back(translation_operation(id, it, now), id);
  for (std::size_t from = 0; from < all.size(); from += kOperationsPerApply) {
    const std::size_t to = std::min(all.size(), from + kOperationsPerApply);
    Batch batch;
    batch.request.set_generation(generation_);
    batch.request.set_begin_sync(from == 0);
    batch.request.set_end_sync(to == all.size());
    for (std::size_t i = from; i < to; ++i) {
      *batch.request.add_operations() = std::move(all[i].first);
      batch.about.push_back(std::move(all[i].second));
    }
    if (to == all.size()) {
      batch.results = std::move(last.results);
      batch.replies = std::move(last.replies);
    }
    batches_.push_back(std::move(batch));
  }
}

bool GatewayAgent::flush_batch(Now) {
  if (!dataplane_up_ || in_flight_) return false;
  if (batches_.empty()) {
    if (collecting_.request.operations().empty() && collecting_.results.empty() && collecting_.replies.empty())
      return false;
    collecting_.request.set_generation(generation_);
    batches_.push_back(std::move(collecting_));
    collecting_ = {};
  }
  in_flight_ = std::move(batches_.front());
  batches_.pop_front();
  outputs_.emplace_back(ToDataPlane{++ticket_, in_flight_->request});
  return true;
}

v1::Datagram GatewayAgent::datagram_of(const Endpoint& to, Bytes payload) {
  v1::Datagram out;
  *out.mutable_remote() = to_proto(to);
  out.set_payload(payload.data(), payload.size());
  return out;
}

// All that are due in one message: each costs both processes some ten turns, while a first packet waits.
std::optional<v1::Datagram> GatewayAgent::punch() {
  std::optional<v1::Datagram> out;
  while (const auto target = puncher_.poll()) {
    ++counters_.punches;
    if (out) {
      *out->add_also_to() = to_proto(*target);
      continue;
    }
    stun::TransactionId transaction{};
    random_->fill(transaction);
    std::array<std::uint8_t, 64> buffer{};
    out = datagram_of(*target, stun::build_binding_indication(buffer, transaction));
  }
  return out;
}

void GatewayAgent::handle_applied(std::uint64_t ticket, const v1::ApplyResponse& response, Now now) {
  if (!in_flight_ || ticket != ticket_) return;
  Batch done = std::move(*in_flight_);
  in_flight_.reset();
  std::map<std::string, std::string> failed;  // authorisation or translation -> words
  for (const v1::OperationError& error : response.errors()) {
    ++counters_.apply_errors;
    const std::string about = error.index() < done.about.size() ? done.about[error.index()] : "";
    note("the data plane refused " + (about.empty() ? "an operation" : about) + ": " + error.message());
    if (!about.empty()) failed.emplace(about, error.message());
  }
  for (const WaitingResult& waiting : done.results) {
    const auto error = failed.find(waiting.authorisation);
    send_result(waiting.request_id, waiting.authorisation, error == failed.end() ? "" : error->second);
  }
  for (const WaitingReply& waiting : done.replies) {
    v1::Control control;
    const auto translation = translations_.find(waiting.translation);
    if (translation == translations_.end()) continue;  // gone meanwhile: the client asks again
    control = status_message(translation->second, now);
    translation->second.told = resolver_.view(translation->second.name, now.monotonic).value_or(NameView{}).state;
    if (failed.contains(waiting.translation)) control.mutable_name_status()->set_state(v1::NameStatus::STATE_FAILED);
    control.set_id(waiting.id);
    control.set_reply(true);
    outbox_.send(waiting.peer, std::move(control));
  }
}

void GatewayAgent::handle_dataplane_up(const std::vector<v1::DumpItem>& dump, Now now) {
  const std::string old_key = info_ ? info_->public_key() : "";
  const std::uint64_t old_instance = info_ ? info_->instance() : 0;
  for (const v1::DumpItem& item : dump)
    if (item.has_info()) info_ = item.info();
  if (!info_ || !key_from_wire(info_->public_key())) {
    info_.reset();
    return note("the data plane does not say who it is");
  }
  dataplane_up_ = true;
  in_flight_.reset();
  batches_.clear();
  collecting_ = {};
  generation_ = std::max(generation_, info_->generation());

  own_networks_.clear();
  own_addresses_.clear();
  std::vector<Prefix> ranges = {config_.tunnel_v4, config_.tunnel_v6, config_.proxy_v4, config_.proxy_v6};
  for (const v1::IpPrefix& prefix : info_->own_prefixes())
    if (const auto network = from_proto(prefix)) own_networks_.push_back(*network);
  for (const auto* list : {&info_->tunnel_addresses(), &info_->source_nat_addresses()}) {
    for (const std::string& bytes : *list) {
      const auto address = address_from_wire(bytes);
      if (!address) continue;
      own_addresses_.insert(*address);
      ranges.emplace_back(*address, address->is_v4() ? 32U : 128U);
    }
  }
  forbidden_.emplace(std::move(ranges), config_.nat64_prefixes);

  note(old_instance == 0                   ? "data plane connected"
       : old_instance == info_->instance() ? "data plane connected again"
                                           : "data plane has restarted");
  if (!old_key.empty() && old_key != info_->public_key() && portal_connected_) outputs_.emplace_back(ReopenPortal{});
  if (old_instance != info_->instance())
    for (auto& [key, peer] : peers_) peer.session = false;
  gatherer_.restart(now.monotonic);
  if (!std::exchange(adopted_, true)) adopt(dump, now);
  if (welcomed_)
    synchronise(now, unknown_in(dump));
  else
    for (const auto& [id, it] : translations_) add_operation(translation_operation(id, it, now), id);
  announce_candidates(now);
}

std::vector<v1::Operation> GatewayAgent::unknown_in(const std::vector<v1::DumpItem>& dump) const {
  std::vector<v1::Operation> out;
  for (const v1::DumpItem& item : dump) {
    if (item.has_translation()) {
      // One that the client has numbered anew meanwhile still has an address that may be another name's by now.
      const v1::PeerTranslation& theirs = item.translation();
      const auto known = translations_.find(theirs.id());
      const auto holds =
          [](const std::string& bytes, const IpAddress& ours) { return bytes.empty() || bytes == to_wire(ours); };
      if (known == translations_.end() || !holds(theirs.proxy_v4(), known->second.proxy_v4) ||
          !holds(theirs.proxy_v6(), known->second.proxy_v6))
        out.emplace_back().set_remove_translation(theirs.id());
    } else if (item.has_peer()) {
      const auto key = key_from_wire(item.peer().public_key());
      if (key && !peers_.contains(*key)) out.emplace_back().set_remove_peer(item.peer().public_key());
    }
  }
  return out;
}

void GatewayAgent::handle_dataplane_down(Now) {
  if (!dataplane_up_) return;
  dataplane_up_ = false;
  const auto fail = [this](const Batch& batch) {
    for (const WaitingResult& waiting : batch.results)
      send_result(waiting.request_id, waiting.authorisation, "the data plane is not connected");
  };
  if (in_flight_) fail(*in_flight_);
  for (const Batch& batch : batches_) fail(batch);
  fail(collecting_);
  in_flight_.reset();
  batches_.clear();
  collecting_ = {};
  note("data plane is away");
}

void GatewayAgent::handle_event(const v1::Event& event, Now now) {
  const auto peer_of = [this](const std::string& bytes) {
    const auto key = key_from_wire(bytes);
    return key ? peers_.find(*key) : peers_.end();
  };
  switch (event.kind_case()) {
    case v1::Event::kSessionUp: {
      const auto peer = peer_of(event.session_up().peer());
      if (peer == peers_.end()) return;
      peer->second.session = true;
      if (const auto endpoint = from_proto(event.session_up().endpoint()))
        peer->second.endpoint = endpoint->to_string();
      return outbox_.session_up(peer->first, now.monotonic);
    }
    case v1::Event::kSessionDown:
      if (const auto peer = peer_of(event.session_down().peer()); peer != peers_.end()) peer->second.session = false;
      return;
    case v1::Event::kEndpointChanged: {
      const auto peer = peer_of(event.endpoint_changed().peer());
      const auto endpoint = from_proto(event.endpoint_changed().endpoint());
      if (peer != peers_.end() && endpoint) peer->second.endpoint = endpoint->to_string();
      return;
    }
    case v1::Event::kMappedAddressChanged: {
      const auto server = from_proto(event.mapped_address_changed().server());
      if (!server) return;
      // Whatever NAT forgot the tunnel's mapping has probably forgotten the stream's as well.
      if (gatherer_.set_mapped(*server, from_proto(event.mapped_address_changed().mapped())))
        outputs_.emplace_back(SuspectPortal{});
      return announce_candidates(now);
    }
    case v1::Event::kTranslationWanted: {
      const auto key = key_from_wire(event.translation_wanted().peer());
      const auto proxy = address_from_wire(event.translation_wanted().proxy_address());
      if (!key || !proxy) return;
      const auto ids = by_proxy_.find({*key, *proxy});
      if (ids == by_proxy_.end()) return ask_for_name(*key, *proxy, now);
      for (const std::string& id : ids->second)
        resolver_.want(translations_.at(id).name, peers_.at(*key).client, now.monotonic);
      return;
    }
    case v1::Event::kTranslationUse:
      for (const std::string& id : event.translation_use().translations())
        if (const auto it = translations_.find(id); it != translations_.end())
          resolver_.note_use(it->second.name, now.monotonic);
      return;
    case v1::Event::kEventsLost:
      counters_.events_lost += event.events_lost().count();
      return;
    default:
      return;
  }
}

void GatewayAgent::handle_punt(const v1::PuntToControl& punt, Now now) {
  if (punt.has_tunnel_control()) {
    const auto key = key_from_wire(punt.tunnel_control().peer());
    if (key) handle_control(*key, punt.tunnel_control().payload(), now);
    return;
  }
  if (!punt.has_datagram()) return;
  const auto from = from_proto(punt.datagram().remote());
  const std::string& payload = punt.datagram().payload();
  if (from && gatherer_.handle_datagram(
                  *from, Bytes{reinterpret_cast<const std::uint8_t*>(payload.data()), payload.size()}, now.monotonic))
    announce_candidates(now);
}

}  // namespace penstock::gateway_agent
