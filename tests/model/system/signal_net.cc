#include "tests/model/system/signal_net.h"

#include <algorithm>

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstRetry = 200ms;  // of TCP, then doubled
constexpr Duration kLongestRetry = 10s;
constexpr Duration kSynRetry = 1s;
constexpr Duration kPingEvery = 10s;     // as the programs configure HTTP/2's keepalive
constexpr Duration kPingTimeout = 5s;
constexpr std::uint16_t kLastPort = 60000;

}  // namespace

SignalNet::Stream* SignalNet::find(StreamId id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : &found->second;
}

void SignalNet::listen(Host& host, std::vector<Endpoint> at, ServerHooks hooks) {
  server_ = &host;
  listening_ = std::move(at);
  server_hooks_ = std::move(hooks);
  open_ = true;
}

void SignalNet::stop_listening() {
  open_ = false;
  std::vector<StreamId> standing;
  for (auto& [id, stream] : streams_)
    if (stream.server_open) standing.push_back(id);
  for (const StreamId id : standing) {
    Stream& stream = *find(id);
    stream.server_open = false;
    stream.down.queue.clear();
    const auto reset = server_->on ? network_.carry(*server_, stream.portal, stream.seen) : std::nullopt;
    if (reset && reset->receiver == stream.host) reset_client(id, reset->delay, "reset by the portal");
    forget_if_over(id);
  }
}

SignalNet::StreamId SignalNet::dial(Host& host, const std::shared_ptr<Process>& process, const Endpoint& portal,
                                    broker::Role role, std::string token, ClientHooks hooks) {
  const StreamId id = ++next_;
  Stream& stream = streams_[id];
  stream.host = &host;
  stream.process = process;
  stream.role = role;
  stream.token = std::move(token);
  stream.portal = portal;
  stream.local = {network_.address_of(host, portal.address.is_v4()), next_port_};
  next_port_ = next_port_ == kLastPort ? 33000 : static_cast<std::uint16_t>(next_port_ + 1);
  stream.hooks = std::move(hooks);
  connect(id, kSynRetry);
  return id;
}

void SignalNet::connect(StreamId id, Duration retry) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->client_open) return;
  const auto carried = stream->host->on ? network_.carry(*stream->host, stream->local, stream->portal) : std::nullopt;
  if (carried && carried->receiver == server_ && server_->on) {
    if (!open_) return reset_client(id, 2 * carried->delay, "connection refused");
    stream->seen = carried->source;
    // SYN, TLS 1.3 and the call: the portal knows after two and a half round trips.
    network_.schedule(network_.time() + 5 * carried->delay, [this, id] { establish(id); }, server_);
    return;
  }
  network_.schedule(network_.time() + retry, [this, id, retry] { connect(id, retry * 2); }, stream->host);
}

void SignalNet::establish(StreamId id) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->client_open) return forget_if_over(id);
  if (!open_ || !server_->on) return reset_client(id, 0s, "reset by the portal");
  const auto actor = server_hooks_.authenticate(stream->role, stream->token);
  if (!actor) {
    const auto process = stream->process;
    return later(network_, network_.time() + 10ms, process,
                 [this, id] { close_client(id, "the token is not good", true); }, stream->host);
  }
  stream->server_open = true;
  const auto delay = transfer(id, false);
  keepalive(id, false);
  server_hooks_.connected(id, stream->role, *actor, stream->seen);
  stream = find(id);
  if (stream == nullptr) return;
  const Duration wait = delay.value_or(1s);  // lost once
  stream->down.last_arrival = network_.time() + wait;
  later(
      network_, network_.time() + wait, stream->process,
      [this, id] {
        Stream* standing = find(id);
        if (standing == nullptr || !standing->client_open) return;
        standing->accepted = true;
        keepalive(id, true);
        const auto hook = standing->hooks.accepted;
        if (hook) hook();
      },
      stream->host);
}

void SignalNet::send_to_server(StreamId id, std::string message) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->client_open) return;
  stream->up.queue.push_back(std::move(message));
  pump(id, true);
}

void SignalNet::send_to_client(StreamId id, std::string message) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->server_open) return;
  stream->down.queue.push_back(std::move(message));
  pump(id, false);
}

std::optional<Duration> SignalNet::transfer(StreamId id, bool up) {
  Stream& stream = *find(id);
  if (up) {
    if (!stream.host->on || !network_.attached(*stream.host, stream.local.address)) return std::nullopt;
    const auto carried = network_.carry(*stream.host, stream.local, stream.portal);
    if (!carried || carried->receiver != server_ || !server_->on) return std::nullopt;
    if (carried->source == stream.seen && stream.server_open) return carried->delay;
    const auto back = network_.carry(*server_, stream.portal, carried->source);
    if (back && back->receiver == stream.host) reset_client(id, carried->delay + back->delay, "reset by peer");
    return std::nullopt;
  }
  if (!server_->on) return std::nullopt;
  const auto carried = network_.carry(*server_, stream.portal, stream.seen);
  if (!carried || carried->receiver != stream.host || carried->destination != stream.local || !stream.host->on)
    return std::nullopt;
  if (stream.client_open) return carried->delay;
  // The process that had it is gone: its machine says so.
  const auto back = network_.carry(*stream.host, stream.local, stream.portal);
  if (back)
    network_.schedule(network_.time() + carried->delay + back->delay, [this, id] { close_server(id); }, server_);
  return std::nullopt;
}

void SignalNet::pump(StreamId id, bool up) {
  Stream* stream = find(id);
  if (stream == nullptr || !(up ? stream->client_open : stream->server_open)) return;
  Direction& direction = up ? stream->up : stream->down;
  while (!direction.queue.empty() && !direction.waiting) {
    const auto delay = transfer(id, up);
    if (!delay) {
      direction.waiting = true;
      direction.backoff = direction.backoff == 0s ? kFirstRetry : std::min(kLongestRetry, direction.backoff * 2);
      network_.schedule(
          network_.time() + direction.backoff,
          [this, id, up] {
            Stream* standing = find(id);
            if (standing == nullptr) return;
            (up ? standing->up : standing->down).waiting = false;
            pump(id, up);
          },
          up ? stream->host : server_);
      return;
    }
    direction.backoff = 0s;
    direction.last_arrival = std::max(direction.last_arrival, network_.time() + *delay);
    std::string message = std::move(direction.queue.front());
    direction.queue.pop_front();
    ++messages_;
    if (up) {
      network_.schedule(
          direction.last_arrival,
          [this, id, message = std::move(message)] {
            const Stream* standing = find(id);
            if (standing != nullptr && standing->server_open && open_ && server_->on)
              server_hooks_.message(id, message);
          },
          server_);
    } else {
      later(
          network_, direction.last_arrival, stream->process,
          [this, id, message = std::move(message)] {
            const Stream* standing = find(id);
            if (standing == nullptr || !standing->client_open || !standing->host->on) return;
            const auto hook = standing->hooks.message;
            if (hook) hook(message);
          },
          stream->host);
    }
  }
}

void SignalNet::reset_client(StreamId id, Duration after, const std::string& why) {
  const Stream* stream = find(id);
  if (stream == nullptr) return;
  later(network_, network_.time() + after, stream->process, [this, id, why] { close_client(id, why, false); },
        stream->host);
}

void SignalNet::close_client(StreamId id, const std::string& why, bool unauthenticated) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->client_open) return;
  stream->client_open = false;
  const auto hook = stream->hooks.closed;
  stream->hooks = {};
  forget_if_over(id);
  if (hook) hook(why, unauthenticated);
}

void SignalNet::close_server(StreamId id) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->server_open) return;
  stream->server_open = false;
  stream->down.queue.clear();
  forget_if_over(id);
  if (open_) server_hooks_.disconnected(id);
}

void SignalNet::abandon(StreamId id) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->client_open) return;
  const auto delay = stream->server_open ? transfer(id, true) : std::nullopt;
  stream->client_open = false;
  stream->hooks = {};
  if (delay) network_.schedule(network_.time() + *delay, [this, id] { close_server(id); }, server_);
  forget_if_over(id);
}

void SignalNet::end_by_server(StreamId id, const std::string& why, bool unauthenticated) {
  Stream* stream = find(id);
  if (stream == nullptr || !stream->server_open) return;
  const auto delay = transfer(id, false);
  stream->server_open = false;
  stream->down.queue.clear();
  if (delay && stream->client_open)
    later(network_, std::max(stream->down.last_arrival, network_.time() + *delay), stream->process,
          [this, id, why, unauthenticated] { close_client(id, why, unauthenticated); }, stream->host);
  forget_if_over(id);
}

void SignalNet::forget_if_over(StreamId id) {
  const Stream* stream = find(id);
  if (stream != nullptr && !stream->client_open && !stream->server_open) streams_.erase(id);
}

void SignalNet::keepalive(StreamId id, bool by_client) {
  const Stream* stream = find(id);
  if (stream == nullptr) return;
  network_.schedule(
      network_.time() + kPingEvery, [this, id, by_client] { ping(id, by_client, network_.time(), kFirstRetry); },
      by_client ? static_cast<Node*>(stream->host) : server_);
}

void SignalNet::ping(StreamId id, bool by_client, Instant started, Duration retry) {
  Stream* stream = find(id);
  if (stream == nullptr || !(by_client ? stream->client_open : stream->server_open)) return;
  // A stopped process notices when it goes on.
  if (by_client && (!stream->host->on || !stream->process->responsive())) return keepalive(id, by_client);
  const bool answers = by_client ? open_ && stream->server_open : stream->process->responsive();
  if (transfer(id, by_client) && answers && find(id) != nullptr && transfer(id, !by_client))
    return keepalive(id, by_client);
  stream = find(id);
  if (stream == nullptr) return;
  if (network_.time() - started >= kPingTimeout)
    return by_client ? close_client(id, "keepalive", false) : close_server(id);
  network_.schedule(
      network_.time() + retry,
      [this, id, by_client, started, retry] { ping(id, by_client, started, std::min<Duration>(1s, retry * 2)); },
      by_client ? static_cast<Node*>(stream->host) : server_);
}

}  // namespace penstock::model
