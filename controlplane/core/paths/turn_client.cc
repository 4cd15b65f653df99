#include "controlplane/core/paths/turn_client.h"

#include <algorithm>
#include <utility>

namespace penstock::paths {

using stun::Attribute;
using stun::Class;
using stun::Message;
using stun::Method;
using namespace std::chrono_literals;

namespace {

constexpr Duration kVerifyPause = 500ms;
constexpr Duration kStableAllocation = 60s;
constexpr Duration kOurOwnSilence = 1s;

Endpoint address_only(const IpAddress& address) {
  return Endpoint{address, 0};
}

}  // namespace

TurnClient::TurnClient(TurnConfig config, Random& random, std::uint32_t& numbers)
    : config_(std::move(config)), next_credentials_(config_.credentials), random_(random), numbers_(numbers) {}

void TurnClient::emit(TurnEvent::Kind kind, const Endpoint& peer, Instant since) {
  events_.push_back({kind, number_, peer, since});
}

// ---- what the owner asks for ----

void TurnClient::start(Instant now) {
  if (state_ == State::idle) allocate(now);
}

void TurnClient::close(Instant now) {
  if (state_ == State::allocated) {
    drop_requests(now);
    send_request(Request::release, {}, 0, now);
    transactions_.clear();
  }
  channels_.release_all(now);
  permissions_.clear();
  number_ = 0;
  refresh_at_ = retry_at_ = kNever;
  drop_requests(now);
  state_ = State::closed;
}

void TurnClient::update_credentials(const TurnCredentials& credentials, Instant now) {
  if (credentials == next_credentials_) return;
  next_credentials_ = credentials;
  if (state_ == State::waiting) {
    allocate_anew(now);
  }
}

void TurnClient::handle_local_change(Instant now) {
  if (state_ == State::allocated && !ticket_.empty()) {
    // One that is under way may have gone nowhere, or have been made already: then only the same again is answered well.
    for (Transaction& t : transactions_)
      if (t.kind == Request::move) return t.timer.again(now + kMoveSettles);
    drop_requests(now);
    send_request(Request::move, {}, 0, now);
  } else if (state_ == State::allocated) {
    lose(now);
    allocate(now);
  } else if (state_ == State::allocating || state_ == State::waiting) {
    allocate_anew(now);
  }
}

void TurnClient::handle_mapped(const Endpoint& mapped, Instant now) {
  if (state_ != State::allocated || mapped == mapped_) return suspect(now);
  if (pending(Request::move)) return;
  if (mapped_.port == 0) {
    // Moved before, and a relay need not say from where (coturn does not): perhaps from there, perhaps from where we were
    // until now. Asked even right after a suspicion, whose question may have been answered just before the change.
    replace_refresh();
    return send_request(Request::refresh, mapped, 0, now);
  }
  if (ticket_.empty()) return replace(now);
  drop_requests(now);
  send_request(Request::move, mapped, 0, now);
}

void TurnClient::suspect(Instant now) {
  if (state_ == State::allocating) {
    // A request that waits through a long interval is sent again now.
    for (Transaction& t : transactions_)
      if (now - t.timer.started() >= kVerifyPause) t.timer.forgive(now);
    return;
  }
  if (state_ != State::allocated || now - last_refresh_ < kVerifyPause || pending(Request::move)) return;
  replace_refresh();
  send_request(Request::refresh, {}, 0, now);
}

void TurnClient::handle_returned(Instant now) {
  if (state_ == State::allocating) {
    for (Transaction& t : transactions_)
      if (now - t.timer.started() >= kVerifyPause) t.timer.forgive(now);
  } else if (state_ == State::waiting && silent_) {
    allocate_anew(now);
  }
}

void TurnClient::permit(const IpAddress& peer, Instant now) {
  if (stun::family_of(peer) != config_.relayed_family || permissions_.contains(peer)) return;
  if (permissions_.size() >= kMaxPermissions) return;
  permissions_[peer].refresh_at = now;
  if (state_ == State::allocated) run_permissions(now);
}

void TurnClient::forget(const IpAddress& peer) {
  permissions_.erase(peer);
}

void TurnClient::bind_channel(const Endpoint& peer, Instant now) {
  if (state_ != State::allocated || !can_send(peer.address, now)) return;
  if (TurnChannels::Channel* channel = channels_.open(peer, now)) {
    channel->refresh_at = now;
    run_channels(now);
  }
}

// ---- data ----

bool TurnClient::can_send(const IpAddress& peer, Instant now) const {
  const auto at = permissions_.find(peer);
  return state_ == State::allocated && at != permissions_.end() && at->second.installed && now < at->second.expires;
}

std::optional<TurnClient::Wrapping> TurnClient::wrap(const Endpoint& peer, std::size_t size, Instant now) {
  if (!can_send(peer.address, now) || size > 65000) return std::nullopt;
  Wrapping out;
  TurnChannels::Channel* channel = channels_.find(peer);
  if (channel != nullptr) channel->last_used = now;
  const auto padding = static_cast<std::uint8_t>((4 - size % 4) % 4);
  if (channel != nullptr && channel->bound && now < channel->expires) {
    stun::write_channel_header(out.prefix.data(), channel->number, size);
    out.prefix_size = stun::kChannelDataHeaderSize;
    out.padding = config_.stream ? padding : std::uint8_t{0};
    return out;
  }
  stun::TransactionId id;
  random_.fill(id);
  stun::MessageBuilder builder{out.prefix, Class::indication, Method::send, id};
  builder.add_xor_address(Attribute::xor_peer_address, peer);
  const std::size_t at = builder.bytes().size();
  // DATA's value follows outside of this buffer: header by hand, and the message's length counts it.
  std::uint8_t* data = out.prefix.data() + at;
  stun::write_channel_header(data, static_cast<std::uint16_t>(Attribute::data), size);
  out.prefix_size = static_cast<std::uint8_t>(at + 4);
  out.padding = padding;
  const std::size_t body = out.prefix_size + size + padding - stun::kHeaderSize;
  out.prefix[2] = static_cast<std::uint8_t>(body >> 8);
  out.prefix[3] = static_cast<std::uint8_t>(body);
  return out;
}

std::size_t TurnClient::overhead(const Endpoint& peer) const {
  for (const auto& channel : channels_.all())
    if (channel.peer == peer && channel.bound) return stun::kChannelDataHeaderSize;
  return peer.address.is_v4() ? stun::kIndicationOverheadV4 : stun::kIndicationOverheadV6;
}

TurnClient::Input TurnClient::handle_input(Bytes datagram, Instant now) {
  Input out;
  if (!datagram.empty() && (datagram[0] & 0xc0) == 0x40) {
    const auto data = stun::parse_channel_data(datagram);
    if (!data) {
      out.reason = DropReason::stun_malformed;
      return out;
    }
    TurnChannels::Channel* channel = state_ == State::allocated ? channels_.find(data->channel) : nullptr;
    if (channel == nullptr) {
      out.reason = DropReason::stun_unexpected;  // late, from a binding or an allocation that is no more
      return out;
    }
    last_received_ = channel->last_used = now;
    out.payload = data->data;
    out.peer = channel->peer;
    out.channel = true;
    return out;
  }
  const auto message = Message::parse(datagram);
  if (!message) {
    // coturn 4.6 moves an allocation and answers with a few bytes that mean nothing, and well when it is asked again.
    for (Transaction& t : transactions_)
      if (t.kind == Request::move && t.timer.sent_once()) t.timer.again(now);
    out.reason = DropReason::stun_malformed;
    return out;
  }
  if (message->is(Class::indication, Method::data)) {
    const auto peer = message->xor_address(Attribute::xor_peer_address);
    const auto data = message->find(Attribute::data);
    if (!peer || !data || message->unknown_required() != 0) {
      out.reason = DropReason::stun_malformed;
    } else if (state_ != State::allocated || !permissions_.contains(peer->address)) {
      out.reason = DropReason::stun_unexpected;  // RFC 8656 §11.4: only with a permission of ours
    } else {
      last_received_ = now;
      out.payload = *data;
      out.peer = *peer;
    }
    return out;
  }
  out.reason = handle_response(*message, now);
  return out;
}

// ---- time ----

void TurnClient::schedule_refresh(std::uint32_t lifetime_s, Instant now) {
  const std::uint32_t lifetime = std::clamp(lifetime_s, std::uint32_t{2}, std::uint32_t{3600});
  refresh_at_ = now + std::chrono::milliseconds{lifetime * 500};
  // A working allocation pays back its failures.
  if (now - allocated_at_ >= kStableAllocation) failures_ = 0;
}

void TurnClient::run_permissions(Instant now) {
  if (state_ != State::allocated || pending(Request::move)) return;
  for (auto& [address, permission] : permissions_) {
    if (permission.installed && now >= permission.expires) {
      permission.installed = false;
      emit(TurnEvent::Kind::permission_changed, address_only(address));
    }
    if (now < permission.refresh_at) continue;
    permission.refresh_at = kNever;
    if (!pending(Request::permission, address_only(address)))
      send_request(Request::permission, address_only(address), 0, now);
  }
}

void TurnClient::run_channels(Instant now) {
  if (state_ != State::allocated || pending(Request::move)) return;
  channels_.expire(now);
  for (auto& channel : channels_.all()) {
    if (now < channel.refresh_at) continue;
    channel.refresh_at = kNever;
    // A binding nobody has used for its whole life is let go.
    if (channel.bound && now - channel.last_used >= TurnChannels::kLifetime) continue;
    if (!pending(Request::channel, channel.peer)) send_request(Request::channel, channel.peer, channel.number, now);
  }
}

Deadline TurnClient::poll_timeout() const {
  Deadline out;
  if (state_ == State::idle || state_ == State::closed) return out;
  for (const Transaction& t : transactions_) out.merge(t.timer.due(), "TURN request");
  if (state_ == State::waiting) out.merge(retry_at_, "TURN allocation anew");
  if (state_ != State::allocated || pending(Request::move)) return out;
  if (!pending(Request::refresh)) {
    out.merge(refresh_at_, "TURN refresh");
    out.merge(std::max(last_received_, last_refresh_) + kKeepalive, "TURN keepalive");
  }
  for (const auto& [address, permission] : permissions_) {
    out.merge(permission.refresh_at, "TURN permission");
    if (permission.installed) out.merge(permission.expires, "TURN permission");
  }
  for (const auto& channel : channels_.all()) {
    out.merge(channel.refresh_at, "TURN channel");
    if (channel.bound) out.merge(channel.expires, "TURN channel");
  }
  return out;
}

void TurnClient::handle_timeout(Instant now) {
  if (state_ == State::idle || state_ == State::closed) return;
  for (std::size_t i = 0; i < transactions_.size();) {
    Transaction& t = transactions_[i];
    // Late ourselves (suspended, stopped, busy): answers could not be heard, so nothing is held against the relay.
    if (t.timer.due() != kNever && now - t.timer.due() > kOurOwnSilence) t.timer.forgive(now);
    switch (t.timer.advance(now)) {
      case Retransmission::Step::wait:
        ++i;
        break;
      case Retransmission::Step::send:
        output_.push_back(t.wire);
        ++i;
        break;
      case Retransmission::Step::failed: {
        const Transaction failed = std::move(t);
        transactions_.erase(transactions_.begin() + static_cast<std::ptrdiff_t>(i));
        handle_failed(failed, now);
        i = 0;
        break;
      }
    }
  }
  if (state_ == State::waiting && now >= retry_at_) allocate(now);
  if (state_ != State::allocated) return;
  if (!pending(Request::move) && !pending(Request::refresh) &&
      (now >= refresh_at_ || now >= std::max(last_received_, last_refresh_) + kKeepalive))
    send_request(Request::refresh, {}, 0, now);
  run_permissions(now);
  run_channels(now);
}

std::optional<std::vector<std::uint8_t>> TurnClient::poll_output() {
  if (output_.empty()) return std::nullopt;
  auto out = std::move(output_.front());
  output_.pop_front();
  return out;
}

std::optional<TurnEvent> TurnClient::poll_event() {
  if (events_.empty()) return std::nullopt;
  const TurnEvent out = events_.front();
  events_.pop_front();
  return out;
}

// ---- allocations that come and go ----

void TurnClient::lose(Instant now) {
  emit(TurnEvent::Kind::lost);
  number_ = 0;
  relayed_ = mapped_ = Endpoint{};
  ticket_.clear();
  refresh_at_ = kNever;
  channels_.release_all(now);
  for (auto& [address, permission] : permissions_) permission = Permission{.refresh_at = kNever};
  drop_requests(now);
  state_ = State::waiting;
}

void TurnClient::wait(Instant now, Duration at_least) {
  drop_requests(now);
  const Duration backoff = std::min(kMaxBackoff, kMinBackoff * (1 << std::min(failures_, 6)));
  const Duration delay = std::max(backoff, at_least);
  // Up to a quarter more, so that the clients of a relay that returns do not come all at once.
  const auto jitter = std::chrono::milliseconds{random_.below(
      static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(delay).count() / 4))};
  retry_at_ = now + delay + jitter;
  ++failures_;
  clear_tried_ = 0;
  silent_ = false;
  state_ = State::waiting;
}

// What went wrong before says nothing any more: another network, other credentials, a relay that is back.
void TurnClient::allocate_anew(Instant now) {
  failures_ = 0;
  forgiven_ = false;
  allocate(now);
}

void TurnClient::allocate(Instant now) {
  drop_requests(now);
  retry_at_ = kNever;
  if (!(config_.credentials == next_credentials_)) {
    if (std::find(former_credentials_.begin(), former_credentials_.end(), config_.credentials) ==
        former_credentials_.end())
      former_credentials_.insert(former_credentials_.begin(), config_.credentials);
    if (former_credentials_.size() > kMaxFormerNames) former_credentials_.pop_back();
    use(next_credentials_);
  }
  state_ = State::allocating;
  send_request(Request::allocate, {}, 0, now);
}

}  // namespace penstock::paths
