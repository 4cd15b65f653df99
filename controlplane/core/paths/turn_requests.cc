#include "controlplane/core/paths/turn_client.h"

#include <algorithm>
#include <utility>

// The request half of TurnClient: building, authenticating and answering transactions.
namespace penstock::paths {

using stun::Attribute;
using stun::Class;
using stun::Message;
using stun::Method;
using namespace std::chrono_literals;

namespace {

constexpr Duration kInitialRto = 500ms;  // RFC 8489 §6.2.1
constexpr Duration kMinRto = 100ms;
constexpr Duration kQuotaPause = 60s;  // RFC 8656 §7.4: 486 and 508
constexpr Duration kRefusedPermissionPause = 60s;
constexpr Duration kNotFlipping = 3s;
constexpr int kMaxAuthRetries = 3;
constexpr std::size_t kMaxTicket = 512;

bool is_challenge(const Message& message) {
  const auto error = message.error_code();
  return error && (error->code == 401 || error->code == 438);
}

}  // namespace

bool TurnClient::pending(Request kind) const {
  return std::any_of(transactions_.begin(), transactions_.end(), [&](const Transaction& t) { return t.kind == kind; });
}

bool TurnClient::pending(Request kind, const Endpoint& peer) const {
  return std::any_of(transactions_.begin(), transactions_.end(),
                     [&](const Transaction& t) { return t.kind == kind && t.peer == peer; });
}

// What a request that is given up was for is to be asked again when the allocation stands.
void TurnClient::rearm(const Transaction& t, Instant now) {
  if (t.kind == Request::permission) {
    const auto at = permissions_.find(t.peer.address);
    if (at != permissions_.end()) at->second.refresh_at = now;
  } else if (t.kind == Request::channel) {
    TurnChannels::Channel* channel = channels_.find(t.channel);
    if (channel != nullptr && channel->peer == t.peer) channel->refresh_at = now;
  }
}

void TurnClient::drop_requests(Instant now) {
  for (const Transaction& t : transactions_) rearm(t, now);
  transactions_.clear();
  former_refreshes_.clear();
}

void TurnClient::replace_refresh() {
  const auto at = std::find_if(transactions_.begin(), transactions_.end(),
                               [](const Transaction& t) { return t.kind == Request::refresh; });
  if (at == transactions_.end()) return;
  former_refreshes_.push_back(std::move(*at));
  transactions_.erase(at);
  if (former_refreshes_.size() > kMaxFormerRefreshes) former_refreshes_.pop_front();
}

std::vector<std::uint8_t> TurnClient::build(const Transaction& t) const {
  static constexpr Method kMethods[] = {Method::allocate, Method::refresh,           Method::refresh,
                                        Method::refresh,  Method::create_permission, Method::channel_bind};
  std::vector<std::uint8_t> buffer(2048);
  stun::MessageBuilder builder{buffer, Class::request, kMethods[static_cast<std::size_t>(t.kind)], t.id};
  switch (t.kind) {
    case Request::allocate:
      builder.add_requested_transport().add_u32(Attribute::lifetime, kWantedLifetimeS);
      // IPv4 is the default; old servers answer 420 to the attribute.
      if (config_.relayed_family == stun::AddressFamily::ipv6) builder.add_address_family(config_.relayed_family);
      if (config_.mobility && !mobility_refused_) builder.add(Attribute::mobility_ticket, {});
      break;
    case Request::refresh:
      builder.add_u32(Attribute::lifetime, kWantedLifetimeS);
      break;
    case Request::move:
      builder.add_u32(Attribute::lifetime, kWantedLifetimeS).add(Attribute::mobility_ticket, ticket_);
      break;
    case Request::release:
      builder.add_u32(Attribute::lifetime, 0);
      break;
    case Request::permission:
      builder.add_xor_address(Attribute::xor_peer_address, t.peer);
      break;
    case Request::channel:
      builder.add_channel_number(t.channel).add_xor_address(Attribute::xor_peer_address, t.peer);
      break;
  }
  if (!nonce_.empty())
    builder.add_text(Attribute::username, config_.credentials.username)
        .add_text(Attribute::realm, realm_)
        .add_text(Attribute::nonce, nonce_)
        .add_integrity(key_);
  builder.add_fingerprint();
  buffer.resize(builder.bytes().size());
  return buffer;
}

void TurnClient::send_request(Request kind, const Endpoint& peer, std::uint16_t channel, Instant now,
                              int auth_retries) {
  Transaction t;
  t.kind = kind;
  random_.fill(t.id);
  t.peer = peer;
  t.channel = channel;
  t.auth_retries = auth_retries;
  t.challenge = challenge_;
  t.wire = build(t);
  const Duration rto = rtt_ ? std::clamp(std::max(*rtt_ * 3, patience_), kMinRto, kInitialRto) : kInitialRto;
  t.timer = Retransmission{now, rto, config_.stream};
  output_.push_back(t.wire);
  if (kind == Request::refresh || kind == Request::move) last_refresh_ = now;
  transactions_.push_back(std::move(t));
}

DropReason TurnClient::handle_response(const Message& message, Instant now) {
  const auto asked = [&](const Transaction& t) { return t.id == message.transaction_id(); };
  const auto at = std::find_if(transactions_.begin(), transactions_.end(), asked);
  const auto former = std::find_if(former_refreshes_.begin(), former_refreshes_.end(), asked);
  const bool replaced = at == transactions_.end();
  if (replaced && former == former_refreshes_.end()) return DropReason::stun_unexpected;
  const bool success = message.message_class() == Class::success;
  if (!success && message.message_class() != Class::error) return DropReason::stun_unexpected;
  // RFC 8489 §9.2.5: what is signed must be signed right; a success must be signed. Errors that come before the server
  // can know our key (401, 438, …) are not.
  const bool has_integrity = message.has(Attribute::message_integrity);
  if ((success && !nonce_.empty() && !has_integrity) || (has_integrity && !message.check_integrity(key_)))
    return DropReason::stun_malformed;
  if (success && message.unknown_required() != 0) return DropReason::stun_malformed;

  const Transaction transaction = std::move(replaced ? *former : *at);
  if (replaced)
    former_refreshes_.erase(former_refreshes_.begin(), former + 1);
  else
    transactions_.erase(at);
  last_received_ = now;
  const Duration took = now - transaction.timer.started();
  if (transaction.timer.sent_once()) rtt_ = rtt_ ? (*rtt_ * 7 + took) / 8 : took;
  patience_ = took + took / 2;
  if (success)
    handle_success(transaction, message, now);
  else if (replaced && is_challenge(message))
    take_challenge(message);  // for the next: the one that took this one's place is told the same
  else
    handle_error(transaction, message, now);
  return DropReason::local_consumed;
}

void TurnClient::handle_success(const Transaction& t, const Message& message, Instant now) {
  const auto ticket = message.find(Attribute::mobility_ticket);
  if (ticket && !ticket->empty() && ticket->size() <= kMaxTicket) ticket_.assign(ticket->begin(), ticket->end());
  switch (t.kind) {
    case Request::allocate: {
      const auto relayed = message.xor_address(Attribute::xor_relayed_address);
      if (!relayed || stun::family_of(relayed->address) != config_.relayed_family) return wait(now, kMinBackoff);
      state_ = State::allocated;
      clear_tried_ = 0;
      relayed_ = *relayed;
      mapped_ = message.mapped_address().value_or(Endpoint{});
      if (++numbers_ == 0) ++numbers_;
      number_ = numbers_;
      ++allocations_;
      allocated_at_ = last_refresh_ = now;
      schedule_refresh(message.u32(Attribute::lifetime).value_or(kWantedLifetimeS), now);
      emit(TurnEvent::Kind::allocated);
      for (auto& [address, permission] : permissions_) permission = Permission{.refresh_at = now};
      return run_permissions(now);
    }
    case Request::move:
      emit(TurnEvent::Kind::moved, {}, t.timer.started());
      [[fallthrough]];
    case Request::refresh: {
      if (const auto mapped = message.mapped_address())
        mapped_ = *mapped;
      else if (t.kind == Request::move || t.peer.port != 0)
        mapped_ = t.peer;  // not said, so what others saw when we asked, if they did
      const std::uint32_t lifetime = message.u32(Attribute::lifetime).value_or(kWantedLifetimeS);
      if (lifetime == 0) return handle_mismatch(t, now);
      schedule_refresh(lifetime, now);
      run_permissions(now);
      return run_channels(now);
    }
    case Request::release:
      if (state_ == State::allocating) allocate(now);
      return;
    case Request::permission: {
      const auto at = permissions_.find(t.peer.address);
      if (at == permissions_.end()) return;
      const bool news = !at->second.installed;
      // The server counts from when the request reached it; we from when it was first sent, to be safe.
      at->second = {true, t.timer.started() + kPermissionLifetime, t.timer.started() + kPermissionLifetime * 3 / 4};
      if (news) emit(TurnEvent::Kind::permission_changed, t.peer);
      return;
    }
    case Request::channel: {
      TurnChannels::Channel* channel = channels_.find(t.channel);
      if (channel == nullptr || channel->peer != t.peer) return;
      const bool news = !channel->bound;
      channel->bound = true;
      channel->expires = t.timer.started() + TurnChannels::kLifetime;
      channel->refresh_at = t.timer.started() + TurnChannels::kLifetime - TurnChannels::kRefreshBefore;
      if (news) emit(TurnEvent::Kind::channel_bound, t.peer);
      return;
    }
  }
}

// ---- things that go wrong ----

// Takes REALM and NONCE of a 401 or 438. False when there is nothing new in it that could help.
bool TurnClient::take_challenge(const Message& message) {
  const auto nonce = message.text(Attribute::nonce);
  const auto realm = message.text(Attribute::realm);
  if (!nonce || nonce->empty()) return false;
  const std::string_view said = realm && !realm->empty() ? *realm : std::string_view{realm_};
  const bool news = *nonce != nonce_ || said != realm_;
  challenge_ += news ? 1U : 0U;
  nonce_ = *nonce;
  realm_ = said;
  if (realm_.empty()) realm_ = config_.credentials.realm;
  key_ = stun::long_term_key(config_.credentials.username, realm_, config_.credentials.password);
  return news;
}

void TurnClient::handle_error(const Transaction& t, const Message& message, Instant now) {
  const auto error = message.error_code();
  const unsigned code = error ? error->code : 0;

  const bool was_signed = !nonce_.empty();
  const unsigned tries = static_cast<unsigned>(t.auth_retries);
  // Several requests under way are all told of the new nonce: what the first answer taught, the others are to be
  // repeated with as well.
  const bool outdated = t.challenge != challenge_;
  if ((code == 401 || code == 438) && tries < kMaxAuthRetries && (take_challenge(message) || outdated) &&
      !(code == 401 && was_signed && tries >= 2))
    return send_request(t.kind, t.peer, t.channel, now, t.auth_retries + 1);

  switch (t.kind) {
    case Request::permission: {
      if (code == 437) return handle_mismatch(t, now);
      const auto at = permissions_.find(t.peer.address);
      if (at == permissions_.end()) return;
      const bool news = at->second.installed;
      at->second = {false, {}, now + kRefusedPermissionPause};
      if (news) emit(TurnEvent::Kind::permission_changed, t.peer);
      return;
    }
    case Request::channel:
      if (code == 437) return handle_mismatch(t, now);
      // Send indications do as well; a later bind_channel() tries another number.
      return channels_.release(t.channel, now);
    case Request::release:
      if (state_ == State::allocating && !clear_five_tuple(now)) wait(now, code == 441 ? kMaxBackoff : kMinBackoff);
      return;
    case Request::move:
      if (code == 404 && repeat_move(t, now)) return;
      [[fallthrough]];
    case Request::refresh:
      if (code == 405) mobility_refused_ = true;
      return handle_mismatch(t, now);
    case Request::allocate:
      break;
  }
  switch (code) {
    case 401:
      // Newer ones have come meanwhile: those.
      if (!(config_.credentials == next_credentials_)) return allocate(now);
      emit(TurnEvent::Kind::credentials_rejected);
      return wait(now, kMaxBackoff);
    case 405:
    case 420:
      // Mobility forbidden, or an attribute not known: once more without.
      if (!mobility_refused_ && config_.mobility) {
        mobility_refused_ = true;
        return send_request(Request::allocate, {}, 0, now);
      }
      return wait(now, kMaxBackoff);
    case 437:
    case 441:
      // Another allocation stands on our 5-tuple: delete it, then try again.
      if (code == 441) clear_tried_ = std::max<std::size_t>(clear_tried_, 1);  // not under the present name
      if (clear_five_tuple(now)) return;
      if (code == 441) emit(TurnEvent::Kind::credentials_rejected);
      return wait(now, code == 441 ? kMaxBackoff : kMinBackoff);
    case 440:
    case 442:
      emit(TurnEvent::Kind::unsupported);
      return wait(now, kMaxBackoff * 10);
    case 486:
    case 508:
      return wait(now, kQuotaPause);
    default:
      return wait(now, kMinBackoff);
  }
}

// The ticket is not known, which a copy of this very request may have made true a moment ago (coturn: while the allocation
// is on its way from one of its threads to another). Where only one was sent it is the plain truth.
bool TurnClient::repeat_move(const Transaction& refused, Instant now) {
  if (refused.refused || refused.timer.sent_once() || config_.stream) return false;
  Transaction again = refused;
  again.refused = true;
  again.timer.again(now + kMoveSettles);
  transactions_.push_back(std::move(again));
  return true;
}

// The server does not know our allocation: restarted, or we come from a new mapping.
void TurnClient::handle_mismatch(const Transaction& t, Instant now) {
  if (state_ != State::allocated) return;
  if (t.kind != Request::move && !ticket_.empty()) {
    rearm(t, now);
    if (pending(Request::move)) return;
    drop_requests(now);
    return send_request(Request::move, t.kind == Request::refresh ? t.peer : Endpoint{}, 0, now);
  }
  replace(now);
}

// The allocation is gone: another.
void TurnClient::replace(Instant now) {
  lose(now);
  // A NAT that gives us another port for every packet would make allocation after allocation (trap paths-11): the first
  // short-lived one is forgiven, then the pace slows down. Two resets within a minute are no such thing.
  const bool stable = now - allocated_at_ >= kNotFlipping;
  if (!stable && (forgiven_ || failures_ > 0)) return wait(now, kMinBackoff);
  failures_ = 0;
  forgiven_ = !stable;
  allocate(now);
}

// Rc requests unanswered.
void TurnClient::handle_failed(const Transaction& t, Instant now) {
  if (state_ == State::allocated) {
    // The relay is there and only this request is lost or slow: no reason to give up an allocation that works.
    if (last_received_ > t.timer.started()) return send_request(t.kind, t.peer, t.channel, now, t.auth_retries);
    lose(now);
  }
  wait(now, kMinBackoff);
  silent_ = true;
}

void TurnClient::use(const TurnCredentials& credentials) {
  config_.credentials = credentials;
  key_ = stun::long_term_key(config_.credentials.username, realm_, config_.credentials.password);
}

// What stands on our 5-tuple can be deleted by its own user alone (RFC 8656 §7.1, 441): that may be a name we had
// before, when a NAT gives back a mapping of some time ago. False: all have been tried.
bool TurnClient::clear_five_tuple(Instant now) {
  if (clear_tried_ > former_credentials_.size()) return false;
  use(clear_tried_ == 0 ? config_.credentials : former_credentials_[clear_tried_ - 1]);
  ++clear_tried_;
  send_request(Request::release, {}, 0, now);
  return true;
}

}  // namespace penstock::paths
