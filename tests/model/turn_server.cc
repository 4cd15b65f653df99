#include "tests/model/turn_server.h"

#include <algorithm>
#include <charconv>

#include "controlplane/core/broker/credentials.h"

namespace penstock::model {

using stun::Attribute;
using stun::Class;
using stun::Message;
using stun::MessageBuilder;
using stun::Method;

void TurnServer::new_nonce(Instant now) {
  nonce_ = std::to_string(random_.next_u64());
  nonce_expires_ = now + config_.nonce_lifetime;
}

std::optional<std::string> TurnServer::password_of(const std::string& username, const Endpoint& from) const {
  if (config_.shared_secret.empty()) {
    const auto found = config_.passwords.find(username);
    return found == config_.passwords.end() ? std::nullopt : std::optional{found->second};
  }
  const auto colon = username.find(':');
  std::uint64_t expires = 0;
  const auto parsed = std::from_chars(username.data(), username.data() + std::min(colon, username.size()), expires);
  if (colon == std::string::npos || parsed.ec != std::errc{}) return std::nullopt;
  // As coturn: the date in a name is looked at when a 5-tuple first uses it, not again while its allocation stands.
  const auto standing = allocations_.find(from);
  const bool known = standing != allocations_.end() && standing->second.username == username;
  if (expires <= wall_.seconds && !known) return std::nullopt;
  return broker::relay_credential(config_.shared_secret, username.substr(colon + 1), {expires, 0}).password;
}

void TurnServer::restart(Instant now) {
  allocations_.clear();
  next_port_ = static_cast<std::uint16_t>(49152 + random_.below(8000));
  new_nonce(now);
}

void TurnServer::expire(Instant now) {
  if (now >= nonce_expires_) new_nonce(now);
  std::erase_if(allocations_, [&](const auto& entry) { return now >= entry.second.expires; });
  for (auto& [client, allocation] : allocations_) {
    std::erase_if(allocation.permissions, [&](const auto& entry) { return now >= entry.second; });
    for (auto at = allocation.channels.begin(); at != allocation.channels.end();) {
      if (now < at->second.expires) {
        ++at;
        continue;
      }
      allocation.cooling[at->first] = at->second.expires + std::chrono::minutes{5};
      at = allocation.channels.erase(at);
    }
    std::erase_if(allocation.cooling, [&](const auto& entry) { return now >= entry.second; });
  }
}

bool TurnServer::owns(const Endpoint& endpoint) const {
  if (endpoint == config_.listen) return true;
  return std::any_of(allocations_.begin(), allocations_.end(),
                     [&](const auto& entry) { return entry.second.relayed == endpoint; });
}

void TurnServer::handle(const Datagram& in, Instant now, std::deque<Datagram>& out) {
  expire(now);
  if (in.to != config_.listen) return from_peer(in, now, out);
  if (const auto data = stun::parse_channel_data(in.bytes)) {
    const auto at = allocations_.find(in.from);
    if (at == allocations_.end() || !at->second.channels.contains(data->channel)) {
      ++statistics_.dropped;
      return;
    }
    ++statistics_.channel_up;
    return to_peer(at->second, at->second.channels[data->channel].peer, data->data, now, out);
  }
  const auto message = Message::parse(in.bytes);
  if (!message) {
    ++statistics_.dropped;
    return;
  }
  if (message->is(Class::indication, Method::send)) {
    const auto peer = message->xor_address(Attribute::xor_peer_address);
    const auto data = message->find(Attribute::data);
    const auto at = allocations_.find(in.from);
    if (!peer || !data || at == allocations_.end()) {
      ++statistics_.dropped;
      return;
    }
    ++statistics_.data_up;
    return to_peer(at->second, *peer, *data, now, out);
  }
  if (message->message_class() == Class::request) handle_request(*message, in, now, out);
}

void TurnServer::to_peer(Allocation& allocation, const Endpoint& peer, Bytes data, Instant now,
                         std::deque<Datagram>& out) {
  const auto permission = allocation.permissions.find(peer.address);
  if (permission == allocation.permissions.end() || now >= permission->second) {
    ++statistics_.dropped;
    return;
  }
  out.push_back({allocation.relayed, peer, {data.begin(), data.end()}});
}

void TurnServer::from_peer(const Datagram& in, Instant, std::deque<Datagram>& out) {
  for (auto& [client, allocation] : allocations_) {
    if (allocation.relayed != in.to) continue;
    if (!allocation.permissions.contains(in.from.address)) break;
    for (const auto& [number, binding] : allocation.channels) {
      if (binding.peer != in.from) continue;
      std::vector<std::uint8_t> wire(4 + in.bytes.size());
      stun::write_channel_header(wire.data(), number, in.bytes.size());
      std::copy(in.bytes.begin(), in.bytes.end(), wire.begin() + 4);
      ++statistics_.channel_down;
      out.push_back({config_.listen, client, std::move(wire)});
      return;
    }
    std::vector<std::uint8_t> buffer(in.bytes.size() + 128);
    stun::TransactionId id;
    random_.fill(id);
    MessageBuilder builder{buffer, Class::indication, Method::data, id};
    builder.add_xor_address(Attribute::xor_peer_address, in.from).add(Attribute::data, in.bytes);
    ++statistics_.data_down;
    out.push_back({config_.listen, client, {builder.bytes().begin(), builder.bytes().end()}});
    return;
  }
  ++statistics_.dropped;
}

void TurnServer::handle_request(const Message& request, const Datagram& in, Instant now, std::deque<Datagram>& out) {
  std::vector<std::uint8_t> buffer(2048);
  const auto reply = [&](MessageBuilder& builder) {
    builder.add_fingerprint();
    out.push_back({config_.listen, in.from, {builder.bytes().begin(), builder.bytes().end()}});
  };
  if (request.method() == Method::binding) {
    ++statistics_.bindings;
    MessageBuilder builder{buffer, Class::success, Method::binding, request.transaction_id()};
    builder.add_xor_address(Attribute::xor_mapped_address, in.from);
    return reply(builder);
  }

  const auto challenge = [&](unsigned code) {
    MessageBuilder builder{buffer, Class::error, request.method(), request.transaction_id()};
    builder.add_error_code(static_cast<std::uint16_t>(code), "challenge")
        .add_text(Attribute::realm, config_.realm)
        .add_text(Attribute::nonce, nonce_);
    reply(builder);
  };
  const auto username = request.text(Attribute::username);
  if (!username || !request.has(Attribute::message_integrity)) return challenge(401);
  const auto password = password_of(std::string{*username}, in.from);
  if (request.text(Attribute::nonce) != nonce_) return challenge(438);
  if (!password) return challenge(401);
  const auto key = stun::long_term_key(*username, config_.realm, *password);
  if (request.text(Attribute::realm) != config_.realm || !request.check_integrity(key)) return challenge(401);

  const auto refuse = [&](unsigned code) {
    if (code == 437) ++statistics_.mismatches;
    MessageBuilder builder{buffer, Class::error, request.method(), request.transaction_id()};
    builder.add_error_code(static_cast<std::uint16_t>(code), "refused").add_integrity(key);
    reply(builder);
  };
  MessageBuilder ok{buffer, Class::success, request.method(), request.transaction_id()};
  const auto accept = [&] {
    ok.add_integrity(key);
    reply(ok);
  };
  const std::uint32_t lifetime = std::min(request.u32(Attribute::lifetime).value_or(600), config_.max_lifetime_s);
  const auto new_ticket = [&](Allocation& allocation) {
    allocation.ticket.resize(16);
    random_.fill(allocation.ticket);
    ok.add(Attribute::mobility_ticket, allocation.ticket);
  };
  const bool wants_ticket = request.has(Attribute::mobility_ticket);
  auto at = allocations_.find(in.from);
  if (at != allocations_.end() && at->second.username != *username) return refuse(441);

  switch (request.method()) {
    case Method::allocate: {
      if (at != allocations_.end() && at->second.made_by != request.transaction_id()) return refuse(437);
      if (config_.refuse_allocations != 0) return refuse(config_.refuse_allocations);
      if (wants_ticket && !config_.mobility) return refuse(405);
      const auto family = request.find(Attribute::requested_address_family);
      const bool six = family && !family->empty() && (*family)[0] == 2;
      if (six && config_.relay_v6.is_unspecified()) return refuse(440);
      if (at == allocations_.end()) {
        ++statistics_.allocations;
        Allocation made;
        made.relayed = {six ? config_.relay_v6 : config_.relay_v4, next_port_++};
        made.username = *username;
        made.made_by = request.transaction_id();
        at = allocations_.emplace(in.from, std::move(made)).first;
      }
      at->second.expires = now + std::chrono::seconds{lifetime};
      ok.add_xor_address(Attribute::xor_relayed_address, at->second.relayed)
          .add_xor_address(Attribute::xor_mapped_address, in.from)
          .add_u32(Attribute::lifetime, lifetime);
      if (wants_ticket && !at->second.ticket.empty())  // repeated: the first answer may have come through
        ok.add(Attribute::mobility_ticket, at->second.ticket);
      else if (wants_ticket)
        new_ticket(at->second);
      return accept();
    }
    case Method::refresh: {
      ++statistics_.refreshes;
      const auto ticket = request.find(Attribute::mobility_ticket);
      if (ticket && !ticket->empty()) {
        if (!config_.mobility) return refuse(405);
        const auto is = [&](const std::vector<std::uint8_t>& known) {
          return std::equal(known.begin(), known.end(), ticket->begin(), ticket->end());
        };
        if (at == allocations_.end()) {
          // The ticket of before counts no more, except for the request that used it (RFC 8016 §3.2).
          const auto moved = std::find_if(allocations_.begin(), allocations_.end(),
                                          [&](const auto& entry) { return is(entry.second.ticket); });
          if (moved == allocations_.end()) return refuse(404);
          if (moved->second.username != *username) return refuse(441);
          ++statistics_.moves;
          auto node = allocations_.extract(moved);
          node.key() = in.from;
          at = allocations_.insert(std::move(node)).position;
          at->second.former_ticket = at->second.ticket;
          at->second.moved = now;
          random_.fill(at->second.ticket);
          at->second.expires = now + std::chrono::seconds{lifetime};
          if (config_.garbles_moves) {
            out.push_back({config_.listen, in.from, {0x28, 0, 4, 0, 'S', 'T', 'U', 'N'}});
            return;
          }
        } else if (now < at->second.moved + config_.move_takes) {
          return refuse(404);
        } else if (!is(at->second.ticket) && !is(at->second.former_ticket)) {
          return refuse(400);  // another allocation stands here
        }
      }
      if (at == allocations_.end()) return refuse(437);
      if (at->second.username != *username) return refuse(441);
      ok.add_u32(Attribute::lifetime, lifetime);
      if (lifetime == 0) {
        allocations_.erase(at);
        return accept();
      }
      at->second.expires = now + std::chrono::seconds{lifetime};
      if (!at->second.ticket.empty()) ok.add(Attribute::mobility_ticket, at->second.ticket);
      return accept();
    }
    case Method::create_permission: {
      ++statistics_.permissions;
      if (at == allocations_.end()) return refuse(437);
      const auto peer = request.xor_address(Attribute::xor_peer_address);
      if (!peer) return refuse(400);
      if (peer->address.is_v4() != at->second.relayed.address.is_v4()) return refuse(443);
      if (std::count(config_.forbidden.begin(), config_.forbidden.end(), peer->address) != 0) return refuse(403);
      at->second.permissions[peer->address] = now + std::chrono::minutes{5};
      return accept();
    }
    case Method::channel_bind: {
      ++statistics_.channel_binds;
      if (at == allocations_.end()) return refuse(437);
      const auto peer = request.xor_address(Attribute::xor_peer_address);
      const auto number = request.channel_number();
      if (!peer || !number || at->second.cooling.contains(*number)) return refuse(400);
      for (const auto& [other, binding] : at->second.channels)
        if ((other == *number) != (binding.peer == *peer)) return refuse(400);
      at->second.channels[*number] = {*peer, now + std::chrono::minutes{10}};
      at->second.permissions[peer->address] = now + std::chrono::minutes{5};
      return accept();
    }
    default:
      return refuse(400);
  }
}

}  // namespace penstock::model
