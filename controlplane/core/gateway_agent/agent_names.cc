// Names of clients as translations, and the in-tunnel control that sets them up.
#include <openssl/sha.h>

#include <algorithm>

#include "controlplane/core/gateway_agent/gateway_agent.h"

namespace penstock::gateway_agent {
namespace {

constexpr std::size_t kMaxQuerySize = 512;
constexpr std::size_t kMaxAnswerSize = 65535;

// The same for the same name for ever: a restarted agent finds its translations in the data plane.
std::string translation_id(const Key& peer, const std::string& resource, const std::string& name) {
  std::string text{as_text(peer)};
  text.append(resource).push_back('\0');
  text.append(name);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return "name-" + hex({reinterpret_cast<const char*>(digest.data()), 16});
}

struct Question {
  std::string name;
  std::uint16_t type = 0;
  std::size_t end = 0;  // of the question section
};

// Header with one question, no answer; nullopt otherwise. RFC 1035 §4.1.
std::optional<Question> parse_question(const std::string& message) {
  if (message.size() < 12 || message.size() > kMaxQuerySize) return std::nullopt;
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(message[at]); };
  const bool is_query = (byte(2) & 0xf8) == 0;
  if (!is_query || byte(4) != 0 || byte(5) != 1) return std::nullopt;
  Question out;
  std::size_t at = 12;
  for (;;) {
    if (at >= message.size()) return std::nullopt;
    const std::size_t length = byte(at++);
    if (length == 0) break;
    if (length > 63 || at + length > message.size()) return std::nullopt;
    if (!out.name.empty()) out.name.push_back('.');
    out.name.append(message, at, length);
    at += length;
  }
  if (at + 4 > message.size()) return std::nullopt;
  out.type = static_cast<std::uint16_t>(byte(at) << 8 | byte(at + 1));
  out.end = at + 4;
  return out;
}

// The question back with an rcode and nothing else.
std::string bare_answer(const std::string& question, unsigned rcode) {
  std::string out = question;
  out[2] = static_cast<char>((static_cast<unsigned char>(out[2]) & 0x01) | 0x80);  // QR, RD kept
  out[3] = static_cast<char>(0x80 | rcode);                                        // RA
  std::fill(out.begin() + 6, out.begin() + 12, '\0');
  return out;
}

// Addresses go through proxy addresses, zone transfers and ANY nowhere.
bool may_be_proxied(std::uint16_t type) {
  switch (type) {
    case 1:    // A
    case 28:   // AAAA
    case 64:   // SVCB
    case 65:   // HTTPS
    case 251:  // IXFR
    case 252:  // AXFR
    case 255:  // ANY
      return false;
    default:
      return true;
  }
}

}  // namespace

const GatewayAgent::Authorisation* GatewayAgent::authorisation_of(const Key& peer, const std::string& resource) const {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return nullptr;
  for (const std::string& id : found->second.authorisations) {
    const Authorisation& it = authorisations_.at(id);
    if (it.resource.id() == resource) return &it;
  }
  return nullptr;
}

std::string GatewayAgent::add_translation(const Key& key, const std::string& resource, const std::string& text,
                                          const IpAddress& proxy_v4, const IpAddress& proxy_v6, Now now,
                                          const std::vector<IpAddress>& known_addresses) {
  const auto name = policy::normalise_name(text);
  const Authorisation* authorisation = authorisation_of(key, resource);
  const bool allowed = name && authorisation != nullptr && authorisation->pattern &&
                       authorisation->pattern->matches(*name) &&
                       (!proxy_v4.is_unspecified() || !proxy_v6.is_unspecified()) &&
                       (proxy_v4.is_unspecified() || config_.proxy_v4.contains(proxy_v4)) &&
                       (proxy_v6.is_unspecified() || config_.proxy_v6.contains(proxy_v6));
  if (!allowed) {
    ++counters_.names_refused;
    return {};
  }
  Peer& peer = peers_.at(key);
  const std::string id = translation_id(key, resource, *name);
  const auto known = translations_.find(id);
  if (known != translations_.end() && known->second.proxy_v4 == proxy_v4 && known->second.proxy_v6 == proxy_v6)
    return id;
  if (known == translations_.end() && peer.translations.size() >= kMaxTranslationsPerPeer) {
    ++counters_.names_refused;
    return {};
  }
  // A client that numbered its names anew: an address must not lead to the host of its former name (trap nat-15).
  std::vector<std::string> stale;
  for (const IpAddress& proxy : {proxy_v4, proxy_v6}) {
    const auto ids = by_proxy_.find({key, proxy});
    if (proxy.is_unspecified() || ids == by_proxy_.end()) continue;
    for (const std::string& other : ids->second)
      if (translations_.at(other).name != *name) stale.push_back(other);
  }
  if (known != translations_.end()) stale.push_back(id);
  for (const std::string& other : stale) remove_translation(other);

  Translation& it = translations_[id];
  it = {key, resource, *name, proxy_v4, proxy_v6, NameState::resolving};
  peer.translations.insert(id);
  for (const IpAddress& proxy : {proxy_v4, proxy_v6})
    if (!proxy.is_unspecified()) by_proxy_[{key, proxy}].insert(id);
  resolver_.attach(*name, id, peer.client, now.monotonic);
  if (!known_addresses.empty()) resolver_.seed(*name, known_addresses, now.monotonic);
  add_operation(translation_operation(id, it, now), id);
  return id;
}

void GatewayAgent::remove_translation(const std::string& id) {
  const auto found = translations_.find(id);
  if (found == translations_.end()) return;
  const Translation it = found->second;
  translations_.erase(found);
  if (const auto peer = peers_.find(it.peer); peer != peers_.end()) peer->second.translations.erase(id);
  for (const IpAddress& proxy : {it.proxy_v4, it.proxy_v6}) {
    const auto ids = by_proxy_.find({it.peer, proxy});
    if (proxy.is_unspecified() || ids == by_proxy_.end()) continue;
    ids->second.erase(id);
    if (ids->second.empty()) by_proxy_.erase(ids);
  }
  resolver_.detach(it.name, id);
  v1::Operation operation;
  operation.set_remove_translation(id);
  add_operation(std::move(operation));
}

void GatewayAgent::drop_orphans(const Key& key, Peer& peer) {
  std::vector<std::string> orphans;
  for (const std::string& id : peer.translations) {
    const Translation& it = translations_.at(id);
    const Authorisation* authorisation = authorisation_of(key, it.resource);
    if (authorisation == nullptr || !authorisation->pattern || !authorisation->pattern->matches(it.name))
      orphans.push_back(id);
  }
  for (const std::string& id : orphans) remove_translation(id);
}

void GatewayAgent::ask_for_name(const Key& key, const IpAddress& proxy, Now now) {
  const auto peer = peers_.find(key);
  if (peer == peers_.end() || peer->second.pinned) return;  // 1.0 has none of the repairs
  if (!config_.proxy_v4.contains(proxy) && !config_.proxy_v6.contains(proxy)) return;
  v1::Control message;
  message.mutable_names_wanted()->add_proxy_addresses(to_wire(proxy));
  outbox_.request(key, "wanted/" + proxy.to_string(), std::move(message), now.monotonic);
}

void GatewayAgent::adopt(const std::vector<v1::DumpItem>& dump, Now now) {
  for (const v1::DumpItem& item : dump) {
    if (!item.has_authorisation()) continue;
    const v1::PeerAuthorisation& message = item.authorisation();
    const auto key = key_from_wire(message.peer());
    if (!key || message.id().empty()) continue;
    Authorisation& it = authorisations_[message.id()];
    it.peer = *key;
    it.resource = message.resource();
    it.pattern = message.resource().kind() == v1::RESOURCE_KIND_DNS
                     ? policy::Pattern::parse(message.resource().pattern())
                     : std::nullopt;
    if (message.has_expires()) {
      it.expires = from_proto(message.expires());
      expiring_.insert({*it.expires, message.id()});
      next_expiry_check_ = now.monotonic;
    }
    Peer& peer = peers_[*key];
    peer.authorisations.insert(message.id());
    if (peer.client.empty()) peer.client = base64(as_text(*key)).substr(0, 12);
  }
  for (const v1::DumpItem& item : dump) {
    if (!item.has_peer()) continue;
    const auto key = key_from_wire(item.peer().public_key());
    const auto peer = key ? peers_.find(*key) : peers_.end();
    if (peer == peers_.end()) continue;
    peer->second.tunnel_v4 = address_from_wire(item.peer().tunnel().v4()).value_or(IpAddress{});
    peer->second.tunnel_v6 = address_from_wire(item.peer().tunnel().v6()).value_or(IpAddress{});
    peer->second.session = true;  // perhaps; messages to it are repeated until they are acknowledged
  }
  for (const v1::DumpItem& item : dump) {
    if (!item.has_translation()) continue;
    const v1::PeerTranslation& message = item.translation();
    const auto key = key_from_wire(message.peer());
    if (!key || !peers_.contains(*key)) continue;
    const std::string id = translation_id(*key, message.resource(), message.name());
    if (id != message.id() || translations_.contains(id)) continue;
    // Known addresses first, or the operation would take a working name back to "resolving".
    const Authorisation* authorisation = authorisation_of(*key, message.resource());
    if (authorisation == nullptr) continue;
    std::vector<IpAddress> addresses;
    for (const std::string& bytes : message.addresses())
      if (const auto address = address_from_wire(bytes)) addresses.push_back(*address);
    const std::string added = add_translation(
        *key, message.resource(), message.name(), address_from_wire(message.proxy_v4()).value_or(IpAddress{}),
        address_from_wire(message.proxy_v6()).value_or(IpAddress{}), now, addresses);
    if (!added.empty()) resolver_.note_use(translations_.at(added).name, now.monotonic);
  }
}

void GatewayAgent::take_name_changes(Now now) {
  while (const auto name = resolver_.poll_change()) {
    const std::set<std::string>* users = resolver_.users(*name);
    if (users == nullptr) continue;
    for (const std::string& id : *users) {
      const auto found = translations_.find(id);
      if (found == translations_.end()) continue;
      add_operation(translation_operation(id, found->second, now), id);
      const NameState state = resolver_.view(*name, now.monotonic).value_or(NameView{}).state;
      if (state == found->second.told || state == NameState::resolving) continue;
      found->second.told = state;
      outbox_.request(found->second.peer, "name/" + id, status_message(found->second, now), now.monotonic);
    }
  }
}

v1::Control GatewayAgent::status_message(const Translation& translation, Now now) const {
  const NameView view = resolver_.view(translation.name, now.monotonic).value_or(NameView{});
  v1::Control out;
  v1::NameStatus& status = *out.mutable_name_status();
  status.set_resource(translation.resource);
  status.set_name(translation.name);
  status.set_ttl_seconds(view.ttl_seconds);
  switch (view.state) {
    case NameState::resolving:
      status.set_state(v1::NameStatus::STATE_RESOLVING);
      break;
    case NameState::active:
      status.set_state(v1::NameStatus::STATE_ACTIVE);
      for (const IpAddress& address : view.addresses) status.add_addresses(to_wire(address));
      break;
    case NameState::no_such_name:
      status.set_state(v1::NameStatus::STATE_NO_SUCH_NAME);
      break;
    case NameState::forbidden:
      status.set_state(v1::NameStatus::STATE_FORBIDDEN);
      break;
    case NameState::failed:
      status.set_state(v1::NameStatus::STATE_FAILED);
      break;
  }
  return out;
}

void GatewayAgent::handle_control(const Key& key, const std::string& payload, Now now) {
  const auto found = peers_.find(key);
  v1::Control control;
  if (found == peers_.end() || !control.ParseFromString(payload)) {
    ++counters_.control_malformed;
    return;
  }
  Peer& peer = found->second;
  peer.session = true;  // it speaks: events may have been lost
  if (control.reply()) return outbox_.acknowledged(key, control.id());
  const auto acknowledge = [&] {
    v1::Control answer;
    answer.set_id(control.id());
    answer.set_reply(true);
    answer.mutable_acknowledge();
    outbox_.send(key, std::move(answer));
  };
  switch (control.body_case()) {
    case v1::Control::kResolveName:
      return handle_resolve(key, peer, control, now);
    case v1::Control::kDnsQuery:
      return handle_dns_query(key, peer, control, now);
    case v1::Control::kCandidates:
      update_candidates(key, peer, control.candidates().candidates(), now);
      return acknowledge();
    case v1::Control::kGoodbye:
      return acknowledge();
    default:
      ++counters_.control_unknown;
  }
}

void GatewayAgent::handle_resolve(const Key& key, Peer& peer, const v1::Control& control, Now now) {
  const v1::ResolveName& wanted = control.resolve_name();
  const std::string id =
      add_translation(key, wanted.resource(), wanted.name(), address_from_wire(wanted.proxy_v4()).value_or(IpAddress{}),
                      address_from_wire(wanted.proxy_v6()).value_or(IpAddress{}), now);
  if (id.empty()) {
    v1::Control answer;
    answer.set_id(control.id());
    answer.set_reply(true);
    v1::NameStatus& status = *answer.mutable_name_status();
    status.set_resource(wanted.resource());
    status.set_name(wanted.name().substr(0, 255));
    status.set_state(v1::NameStatus::STATE_FORBIDDEN);
    return outbox_.send(key, std::move(answer));
  }
  resolver_.want(translations_.at(id).name, peer.client, now.monotonic);
  take_name_changes(now);
  collecting_.replies.push_back({key, control.id(), id});
}

void GatewayAgent::handle_dns_query(const Key& key, Peer& peer, const v1::Control& control, Now now) {
  const std::string& message = control.dns_query().message();
  const auto question = parse_question(message);
  if (!question) {
    ++counters_.control_malformed;
    return;
  }
  const auto reply = [&](unsigned rcode) {
    const std::uint64_t id = ++next_raw_;
    raw_queries_[id] = {key, control.id(), message.substr(0, question->end)};
    ++peer.raw_queries;
    handle_raw_answer(id, bare_answer(message.substr(0, question->end), rcode), now);
  };
  const auto name = policy::normalise_name(question->name);
  const Authorisation* authorisation = authorisation_of(key, control.dns_query().resource());
  const bool allowed = name && authorisation != nullptr && authorisation->pattern &&
                       authorisation->pattern->matches(*name) && may_be_proxied(question->type);
  if (!allowed) return reply(5);  // REFUSED
  for (const auto& [id, query] : raw_queries_)
    if (query.peer == key && query.id == control.id()) return;     // a repetition
  if (peer.raw_queries >= kMaxRawQueriesPerPeer) return reply(2);  // SERVFAIL
  const std::uint64_t id = ++next_raw_;
  raw_queries_[id] = {key, control.id(), message.substr(0, question->end)};
  ++peer.raw_queries;
  outputs_.emplace_back(ToDnsRaw{id, message});
}

void GatewayAgent::handle_raw_answer(std::uint64_t id, const std::string& message, Now) {
  const auto found = raw_queries_.find(id);
  if (found == raw_queries_.end()) return;
  const RawQuery query = std::move(found->second);
  raw_queries_.erase(found);
  if (const auto peer = peers_.find(query.peer); peer != peers_.end() && peer->second.raw_queries > 0)
    --peer->second.raw_queries;
  const std::string answer =
      message.size() < 12 || message.size() > kMaxAnswerSize ? bare_answer(query.question, 2) : message;
  const std::size_t pieces = (answer.size() + kDnsPieceSize - 1) / kDnsPieceSize;
  for (std::size_t piece = 0; piece < pieces; ++piece) {
    v1::Control control;
    control.set_id(query.id);
    control.set_reply(true);
    v1::DnsAnswer& part = *control.mutable_dns_answer();
    part.set_message(answer.substr(piece * kDnsPieceSize, kDnsPieceSize));
    part.set_piece(static_cast<std::uint32_t>(piece));
    part.set_pieces(static_cast<std::uint32_t>(pieces));
    outbox_.send(query.peer, std::move(control));
  }
}

void GatewayAgent::handle_answer(std::uint64_t id, DnsAnswer answer, Now now) {
  resolver_.handle_answer(id, std::move(answer), now.monotonic);
}

std::vector<GatewayAgent::NameRow> GatewayAgent::names(std::size_t limit, Instant now) const {
  std::vector<NameRow> out;
  for (const auto& [id, it] : translations_) {
    if (limit != 0 && out.size() >= limit) break;
    const auto peer = peers_.find(it.peer);
    out.push_back({it.name, it.resource, peer == peers_.end() ? "" : peer->second.client, it.proxy_v4, it.proxy_v6,
                   resolver_.view(it.name, now).value_or(NameView{})});
  }
  return out;
}

std::vector<GatewayAgent::PeerRow> GatewayAgent::peers(std::size_t limit) const {
  std::vector<PeerRow> out;
  for (const auto& [key, peer] : peers_) {
    if (limit != 0 && out.size() >= limit) break;
    out.push_back(
        {key, peer.client, peer.session, peer.endpoint, peer.tunnel_v4, peer.tunnel_v6, peer.authorisations.size()});
  }
  return out;
}

}  // namespace penstock::gateway_agent
