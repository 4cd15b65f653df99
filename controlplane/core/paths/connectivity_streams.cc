// Connectivity: relays over TCP and TLS, for networks that let no UDP out.
//
// UDP is asked all the time (STUN, TURN); when requests have been out for kUdpPatience and nothing has come back, every
// stream server of one relay is dialled at once and the first to give an allocation is kept. Dials that fail go on to
// the next relay, with back-off. When UDP has worked for kUdpWell and a relay stands over it (or none is needed any
// more), the streams are closed; agents have moved to better paths long before.
#include <algorithm>

#include "controlplane/core/paths/connectivity_impl.h"

namespace penstock::paths {

namespace {

using namespace std::chrono_literals;

constexpr Duration kUdpPatience = 1500ms;  // three tries of a STUN request
constexpr Duration kUdpWell = 10s;
constexpr Duration kStreamDial = 10s;  // connection, proxy, TLS and allocation
constexpr Duration kStreamDoubt = 2s;  // no answer on a stream that is asked for a sign of life
constexpr Duration kMinStreamPause = 1s;
constexpr Duration kMaxStreamPause = 30s;

}  // namespace

void Connectivity::Impl::note_udp_asked() {
  if (udp_waiting == kNever) udp_waiting = now.monotonic;
}

void Connectivity::Impl::note_udp_heard() {
  udp_waiting = kNever;
  if (udp_well == kNever) udp_well = now.monotonic;
}

void Connectivity::Impl::doubt(Relay& relay) {
  relay.turn.suspect(now.monotonic);
  if (relay.stream != 0 && relay.turn.number() != 0 && relay.doubted == kNever) relay.doubted = now.monotonic;
}

bool Connectivity::Impl::streams_configured() const {
  return std::any_of(configured.begin(), configured.end(),
                     [](const RelayConfig& r) { return !r.username.empty() && !r.streams.empty(); });
}

bool Connectivity::Impl::udp_silent() const {
  return udp_waiting != kNever && now.monotonic - udp_waiting >= kUdpPatience;
}

void Connectivity::Impl::open_streams(const RelayConfig& relay) {
  const auto family = relays_wanted_v6 ? stun::AddressFamily::ipv6 : stun::AddressFamily::ipv4;
  for (const StreamServer& server : relay.streams) {
    const TurnCredentials credentials{relay.username, relay.password, relay.realm};
    // No mobility: a connection that has moved is another connection.
    const TurnConfig turn{server.server, credentials, family, false, true};
    auto added = std::make_unique<Relay>(Relay{relay.id, {}, TurnClient{turn, random, numbers}});
    if (++stream_numbers == 0) ++stream_numbers;
    added->stream = stream_numbers;
    added->opened = now.monotonic;
    for (const IpAddress& address : permitted) added->turn.permit(address, now.monotonic);
    stream_requests.push_back({true, added->stream, server});
    relays.push_back(std::move(added));
  }
}

void Connectivity::Impl::drop_stream(StreamId stream, bool tell_shell) {
  const auto at = std::find_if(relays.begin(), relays.end(), [&](const auto& r) { return r->stream == stream; });
  if (at == relays.end()) return;
  if (tell_shell) {
    if ((*at)->up) close_relay(**at);
    stream_requests.push_back({false, stream, {}});
  }
  relays.erase(at);
  update_bases(false);
}

void Connectivity::Impl::drop_streams() {
  std::vector<StreamId> open;
  for (const auto& relay : relays)
    if (relay->stream != 0) open.push_back(relay->stream);
  for (const StreamId stream : open) drop_stream(stream, true);
  stream_retry = now.monotonic;
  stream_failures = 0;
}

void Connectivity::Impl::keep_streams() {
  std::vector<StreamId> gone;
  for (auto& relay : relays) {
    if (relay->stream == 0) continue;
    const auto at = std::find_if(configured.begin(), configured.end(), [&](const RelayConfig& r) {
      return r.id == relay->id && std::any_of(r.streams.begin(), r.streams.end(), [&](const StreamServer& s) {
               return s.server == relay->turn.config().server;
             });
    });
    if (at == configured.end())
      gone.push_back(relay->stream);
    else
      relay->turn.update_credentials({at->username, at->password, at->realm}, now.monotonic);
  }
  for (const StreamId stream : gone) drop_stream(stream, true);
}

// At the end of every pump.
void Connectivity::Impl::run_streams() {
  std::vector<StreamId> lost;
  std::size_t open = 0;
  StreamId allocated = 0;
  bool udp_relay = false;
  for (const auto& relay : relays) {
    if (relay->stream == 0) {
      udp_relay = udp_relay || relay->turn.number() != 0;
      continue;
    }
    const bool stands = relay->turn.number() != 0;
    const bool late = !stands && now.monotonic - relay->opened >= kStreamDial;
    const bool dead = relay->doubted != kNever && now.monotonic - relay->doubted >= kStreamDoubt;
    if (late || dead) {
      if (dead) stream_retry = now.monotonic;
      lost.push_back(relay->stream);
      continue;
    }
    ++open;
    if (stands && allocated == 0) allocated = relay->stream;
  }
  for (const StreamId stream : lost) drop_stream(stream, true);
  if (allocated != 0) {
    stream_failures = 0;
    if (open > 1) {
      // The first that stands is enough.
      for (std::size_t i = relays.size(); i-- > 0;)
        if (relays[i]->stream != 0 && relays[i]->stream != allocated) drop_stream(relays[i]->stream, true);
    }
  }
  if (udp_silent()) {
    udp_well = kNever;
    if (open == 0 && now.monotonic >= stream_retry && streams_configured()) {
      // One relay after the other.
      do {
        stream_turn = (stream_turn + 1) % configured.size();
      } while (configured[stream_turn].username.empty() || configured[stream_turn].streams.empty());
      const Duration pause = std::min(kMaxStreamPause, kMinStreamPause * (1 << std::min(stream_failures, 5)));
      ++stream_failures;
      stream_retry = now.monotonic + pause;
      open_streams(configured[stream_turn]);
    }
  } else if (open > 0 && udp_relay && udp_well != kNever && now.monotonic - udp_well >= kUdpWell) {
    drop_streams();
  }
}

void Connectivity::Impl::merge_stream_deadlines(Deadline& out) const {
  bool open = false;
  bool udp_relay = false;
  for (const auto& relay : relays) {
    if (relay->stream == 0) {
      udp_relay = udp_relay || relay->turn.number() != 0;
      continue;
    }
    open = true;
    if (relay->turn.number() == 0) out.merge(relay->opened + kStreamDial, "TURN connection");
    if (relay->doubted != kNever) out.merge(relay->doubted + kStreamDoubt, "TURN connection in doubt");
  }
  if (udp_silent()) {
    if (!open && streams_configured()) out.merge(stream_retry, "TURN connection anew");
  } else if (open && udp_relay && udp_well != kNever) {
    out.merge(udp_well + kUdpWell, "TURN connection not needed");
  } else if (!open && udp_waiting != kNever && streams_configured()) {
    out.merge(udp_waiting + kUdpPatience, "UDP silent");
  }
}

// ---- from the shell ----

void Connectivity::handle_stream_up(StreamId stream, Now now) {
  impl_->tick(now);
  for (auto& relay : impl_->relays) {
    if (relay->stream != stream) continue;
    relay->up = true;
    relay->turn.start(impl_->now.monotonic);
  }
  impl_->pump();
}

void Connectivity::handle_stream_down(StreamId stream, Now now) {
  impl_->tick(now);
  impl_->drop_stream(stream, false);
  impl_->pump();
}

Connectivity::Incoming Connectivity::handle_stream_message(MutableBytes message, StreamId stream, Now now) {
  impl_->tick(now);
  for (auto& relay : impl_->relays) {
    if (relay->stream != stream) continue;
    relay->doubted = kNever;
    const Incoming out = impl_->from_relay(*relay, message, impl_->now);
    if (out.reason != DropReason::none) impl_->pump();
    return out;
  }
  return {DropReason::stun_unexpected, {}, {}};  // closed meanwhile
}

std::optional<StreamRequest> Connectivity::poll_stream() {
  if (impl_->stream_requests.empty()) return std::nullopt;
  StreamRequest out = std::move(impl_->stream_requests.front());
  impl_->stream_requests.pop_front();
  return out;
}

}  // namespace penstock::paths
