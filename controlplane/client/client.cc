#include "controlplane/client/client.h"

#include <spdlog/spdlog.h>
#include <sys/epoll.h>

#include <utility>

namespace penstock::client {
namespace {

constexpr std::size_t kTunBurst = 64;
constexpr std::size_t kTunBytes = Client::kTunBuffer - io::Tun::kReadRoom;
constexpr std::size_t kMaxUnsent = 4096;  // datagrams; beyond it the newest are lost, as on any full queue

}  // namespace

// Packets lie in the buffer one behind the other, however large each is.
void Client::read_tun() {
  from_tun_.clear();
  std::size_t used = 0;
  while (from_tun_.size() < kTunBurst && used < kTunBytes) {
    const io::Tun::Packet packet = tun_->read(MutableBytes{tun_buffer_}.subspan(used, io::Tun::kReadRoom));
    if (packet.bytes.empty()) break;
    if (packet.vnet.gso != offload::VnetHeader::Gso::none) ++tun_cut_;
    from_tun_.push_back({packet.bytes, packet.vnet});
    used = static_cast<std::size_t>(packet.bytes.data() + packet.bytes.size() - tun_buffer_.data());
    used = (used + 63) / 64 * 64;
  }
  if (from_tun_.empty()) return;
  agent_->handle_packets(from_tun_, io::Loop::now());
  drain();
}

void Client::read_socket(Socket& socket) {
  from_socket_.clear();
  for (const io::ReceivedDatagram& datagram : socket.socket.receive())
    from_socket_.push_back({datagram.bytes, socket.socket.local(), datagram.from});
  if (from_socket_.empty()) return;
  agent_->handle_datagrams(from_socket_, to_tun_, io::Loop::now());
  write_tun();
  drain();
}

void Client::read_errors(Socket& socket) {
  for (const io::IcmpErrorReport& error : socket.socket.errors())
    if (error.kind == io::IcmpErrorReport::Kind::unreachable)
      agent_->handle_unreachable(error.quoted, error.to, io::Loop::now());
  drain();
}

// What the tunnel brought, in as few pieces as the device takes. A packet that it refuses is lost alone.
void Client::write_tun() {
  coalescer_.coalesce(to_tun_);
  for (std::size_t i = 0; i < coalescer_.size(); ++i) {
    const auto out = coalescer_.output(i);
    if (out.packets > 1) tun_joined_ += out.packets;
    if (tun_->write(out.vnet, out.pieces) != io::Tun::Write::sent) tun_refused_ += out.packets;
  }
  to_tun_.clear();
}

void Client::drain() {
  handle_events();  // first: what must be on disk before anything is sent
  while (auto line = agent_->poll_log()) {
    if (line->level == LogLine::Level::warning) {
      spdlog::warn("{}", line->text);
    } else {
      spdlog::info("{}", line->text);
    }
  }
  agent_->poll_datagrams(unsent_);
  for (; unsent_.size() > kMaxUnsent; ++lost_unsent_) unsent_.pop_back();
  send_datagrams();
  handle_streams();
  while (auto packet = agent_->poll_packet()) {
    if (tun_->write(*packet) != io::Tun::Write::sent) ++tun_refused_;
    agent_->recycle(std::move(*packet));
  }
  while (auto message = agent_->poll_portal())
    if (signaling_) signaling_->send(std::move(*message));
  while (auto output = agent_->poll_dns()) {
    if (const auto* answer = std::get_if<dns::Answer>(&*output)) {
      listener_->answer(*answer);
    } else if (const auto* request = std::get_if<dns::UpstreamSend>(&*output)) {
      upstream_->send(*request);
    } else if (const auto* closing = std::get_if<dns::UpstreamClose>(&*output)) {
      upstream_->close(closing->exchange);
    }
  }
  if (agent_->names().revision() != saved_names_ && !names_timer_armed_) {
    names_timer_armed_ = true;
    names_timer_.set(io::Loop::now().monotonic + std::chrono::milliseconds{200});
  }
  arm_timer();
}

// In order, a family's run at a time.
void Client::send_datagrams() {
  Socket* full = nullptr;
  while (!unsent_.empty() && full == nullptr) {
    if (unsent_.front().stream != 0) {
      const auto stream = streams_.find(unsent_.front().stream);
      if (stream == streams_.end() || !stream->second->send(unsent_.front().bytes())) ++stream_refused_;
      agent_->recycle(std::move(unsent_.front().storage));
      unsent_.pop_front();
      continue;
    }
    const bool v6 = unsent_.front().remote.address.is_v6();
    Socket* socket = sockets_.size() > (v6 ? 1U : 0U) ? sockets_[v6 ? 1 : 0].get() : nullptr;
    to_socket_.clear();
    for (const OutDatagram& datagram : unsent_) {
      if (datagram.stream != 0 || datagram.remote.address.is_v6() != v6) break;
      to_socket_.push_back({datagram.bytes(), datagram.remote});
    }
    std::size_t done = to_socket_.size();
    if (socket != nullptr) done = socket->socket.send(to_socket_);  // else: no such family here
    if (done < to_socket_.size()) full = socket;
    for (std::size_t i = 0; i < done; ++i) {
      agent_->recycle(std::move(unsent_.front().storage));
      unsent_.pop_front();
    }
  }
  for (const auto& socket : sockets_) socket->source.set_events(socket.get() == full ? EPOLLIN | EPOLLOUT : EPOLLIN);
  tun_source_.set_events(full != nullptr ? 0U : std::uint32_t{EPOLLIN});
}

void Client::handle_streams() {
  while (const auto request = agent_->poll_stream()) {
    if (request->open)
      open_stream(*request);
    else
      streams_.erase(request->id);
  }
}

void Client::open_stream(const paths::StreamRequest& request) {
  if (!config_.proxy.empty() && !proxy_) {
    // Without its address there is no way out; the next attempt may know it.
    refresh_portal_addresses();
    gate_->post([this, gate = gate_, id = request.id] {
      if (gate->closed()) return;
      agent_->handle_stream_down(id, io::Loop::now());
      drain();
    });
    return;
  }
  io::RelayStreamOptions options;
  options.server = request.server.server;
  options.tls = request.server.tls;
  options.name = request.server.name;
  if (config_.portal) options.ca_pem = config_.portal->ca_pem;
  options.proxy = proxy_;
  options.mark = kMark;
  const paths::StreamId id = request.id;
  const std::string what =
      std::string{"relay "} + options.server.to_string() + (options.tls ? " over TLS" : " over TCP");
  io::RelayStream::Callbacks callbacks;
  callbacks.up = [this, id, what] {
    spdlog::info("connected to {}", what);
    agent_->handle_stream_up(id, io::Loop::now());
    drain();
  };
  callbacks.message = [this, id](MutableBytes message) {
    const InDatagram datagram{message, {}, {}, id};
    agent_->handle_datagrams({&datagram, 1}, io::Loop::now());
    drain();
  };
  callbacks.down = [this, id, what](const std::string& why) {
    spdlog::info("{}: {}", what, why);
    const auto ended = std::move(streams_[id]);  // kept until this callback is over
    streams_.erase(id);
    agent_->handle_stream_down(id, io::Loop::now());
    drain();
  };
  streams_[id] = io::RelayStream::open(loop_, std::move(options), std::move(callbacks));
}

void Client::handle_events() {
  while (const auto event = agent_->poll_event()) {
    switch (*event) {
      case AgentEvent::interface_changed:
        apply_interface();
        break;
      case AgentEvent::upstreams_changed:
        apply_upstreams();
        break;
      case AgentEvent::portal_suspect:
        if (signaling_) signaling_->suspect();
        break;
      case AgentEvent::timestamp_used:
        save_timestamp();
        break;
      case AgentEvent::resolver_rebuilt:
        saved_names_ = 0;
        apply_upstreams();
        break;
    }
  }
}

void Client::arm_timer() {
  timer_.set(agent_->poll_timeout(io::Loop::now()).at);
}

}  // namespace penstock::client
