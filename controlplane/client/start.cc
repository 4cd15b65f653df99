// How a client comes up, and how it goes.
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "controlplane/client/client.h"
#include "controlplane/core/convert.h"
#include "controlplane/io/file.h"
#include "dataplane/runtime/key_file.h"

namespace penstock::client {
namespace {

using namespace std::chrono_literals;

constexpr Duration kResolvConfCheck = 5s;
// A handshake does not wait for the disk, and the disk not for the handshake's end. A crash in between costs nothing
// unless the clock is set back meanwhile.
constexpr std::chrono::milliseconds kTimestampGather = 500ms;

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return {};
  return name.data();
}

}  // namespace

Client::Client(io::Loop& loop, Config config)
    : loop_(loop),
      config_(std::move(config)),
      started_(io::Loop::now().monotonic),
      gate_(std::make_shared<io::PostGate>(loop)),
      tun_buffer_(kTunBuffer) {}

std::unique_ptr<Client> Client::start(io::Loop& loop, Config config, std::string& error) {
  std::unique_ptr<Client> client(new Client(loop, std::move(config)));
  if (!client->set_up(error)) return nullptr;
  return client;
}

Client::~Client() {
  close();
  gate_->close();
}

void Client::close() {
  if (std::exchange(closed_, true)) return;
  if (agent_ && tun_) {
    agent_->close(io::Loop::now());
    drain();
    save_names();
  }
  names_file_.reset();  // written when this returns
  timestamp_file_.reset();
  std::string error;
  if (resolv_conf_ && !resolv_conf_->restore(error)) spdlog::error("resolv.conf was not put back: {}", error);
  if (routes_) routes_->remove();
}

bool Client::set_up(std::string& error) {
  if (!io::make_directory(config_.state_directory, error)) return false;
  ClientAgentConfig agent_config;
  if (!load_state(agent_config, error) || !open_device(error) || !open_sockets(error)) return false;
  agent_config.hostname = host_name();
  agent_config.mtu = config_.mtu;
  agent_config.protocol = config_.protocol;
  if (config_.gateway_file) {
    agent_config.names = config_.gateway_file->names;
    agent_config.resolver = config_.gateway_file->resolver;
  }
  agent_ = std::make_unique<ClientAgent>(std::move(agent_config), random_);
  timer_ = loop_.add_timer([this] {
    agent_->handle_timeout(io::Loop::now());
    drain();
  });
  start_resolver();
  if (!start_inspect(error)) return false;

  tun_source_ = loop_.add_fd(tun_->fd(), EPOLLIN, [this](std::uint32_t) { read_tun(); });
  monitor_ = io::NetworkMonitor::open(
      loop_, [this] { refresh_local_addresses(); }, error);
  if (!monitor_) return false;
  refresh_local_addresses();
  if (config_.gateway_file) agent_->use_static_gateway(config_.gateway_file->gateway, io::Loop::now());
  drain();
  if (config_.portal) start_signaling();
  return true;
}

bool Client::load_state(ClientAgentConfig& agent_config, std::string& error) {
  auto key = runtime::read_or_create_private_key(config_.private_key_file);
  if (const auto* failure = std::get_if<runtime::KeyFileError>(&key)) {
    error = failure->reason;
    return false;
  }
  agent_config.private_key.bytes = std::get<0>(key);
  timestamp_file_.emplace(config_.state_directory + "/timestamp", 0600, kTimestampGather, [](const std::string& why) {
    spdlog::warn("the handshake's timestamp is not saved: {}", why);
  });
  bool missing = false;
  std::string why;
  const auto text = io::read_file(config_.state_directory + "/timestamp", why, &missing);
  if (!text) {
    if (!missing) spdlog::warn("{}", why);
    return true;
  }
  const auto bytes = from_hex(std::string_view(*text).substr(0, 2 * agent_config.last_timestamp.size()));
  if (bytes && bytes->size() == agent_config.last_timestamp.size()) {
    std::copy(bytes->begin(), bytes->end(), agent_config.last_timestamp.begin());
  } else {
    spdlog::warn("{}/timestamp is damaged: the clock alone orders our handshakes", config_.state_directory);
  }
  return true;
}

bool Client::open_device(std::string& error) {
  netlink_ = io::Netlink::open(error);
  if (!netlink_) return false;
  tun_ = io::Tun::open({config_.tun_name, config_.offload}, error);
  if (!tun_) return false;
  coalescer_ = offload::Coalescer(tun_->takes_tcp(), tun_->takes_udp());
  netlink_->set_no_link_local(tun_->index());  // tidiness only
  if (const int code = netlink_->set_link_up(tun_->index(), config_.mtu); code != 0) {
    error = "cannot bring " + tun_->name() + " up: " + std::strerror(code);
    return false;
  }
  io::TunnelRoutesConfig routes;
  routes.device = tun_->index();
  routes_ = std::make_unique<io::TunnelRoutes>(*netlink_, routes);
  report(routes_->install());
  return true;
}

bool Client::open_sockets(std::string& error) {
  io::UdpSocketOptions options;
  options.mark = kMark;
  options.port = config_.listen_port;
  options.offload = config_.offload;
  options.errors = true;
  for (const bool v6 : {false, true}) {
    options.v6 = v6;
    std::string why;
    auto socket = io::UdpSocket::open(options, why);
    // The same port for both families is convenient, not necessary.
    if (!socket && v6) {
      options.port = 0;
      socket = io::UdpSocket::open(options, why);
    }
    if (!socket) {
      if (v6) {
        spdlog::warn("no IPv6 for the tunnel: {}", why);
        return true;
      }
      error = why;
      return false;
    }
    options.port = socket->local().port;
    auto entry = std::make_unique<Socket>(Socket{std::move(*socket), {}});
    Socket& stored = *entry;
    sockets_.push_back(std::move(entry));
    stored.source = loop_.add_fd(stored.socket.fd(), EPOLLIN, [this, &stored](std::uint32_t events) {
      if ((events & EPOLLOUT) != 0) send_datagrams();
      read_socket(stored);  // first: what has come may answer what an error says
      if ((events & EPOLLERR) != 0) read_errors(stored);
    });
  }
  return true;
}

void Client::start_resolver() {
  const std::string names_file = config_.state_directory + "/names";
  // Names are gathered before they come here (names_timer_).
  names_file_.emplace(names_file, 0600, 0ms,
                      [](const std::string& why) { spdlog::warn("names are not saved: {}", why); });
  bool missing = false;
  std::string why;
  if (const auto content = io::read_file(names_file, why, &missing)) {
    const auto loaded = agent_->names().load(*content, io::Loop::now().wall);
    if (!loaded.ok) spdlog::warn("{}: {}", names_file, loaded.error);
    saved_names_ = agent_->names().revision();
  } else if (!missing) {
    spdlog::warn("{}", why);
  }
  names_timer_ = loop_.add_timer([this] { save_names(); });
  listener_ = std::make_unique<io::DnsListener>(loop_, [this](Bytes message, const dns::Client& client) {
    const Bytes answer = agent_->handle_query(message, client, io::Loop::now());
    // An answer at once is valid until the agent is touched again, and leaves nothing to carry away but a new name.
    if (answer.empty()) {
      drain();
    } else if (agent_->names().revision() != saved_names_ && !names_timer_armed_) {
      names_timer_armed_ = true;
      names_timer_.set(io::Loop::now().monotonic + std::chrono::milliseconds{200});
    }
    return answer;
  });
  io::DnsUpstream::Callbacks callbacks;
  callbacks.received = [this](std::uint64_t exchange, const Endpoint& from, Bytes message) {
    agent_->handle_upstream(exchange, from, message, io::Loop::now());
    drain();
  };
  callbacks.failed = [this](std::uint64_t exchange) {
    agent_->handle_upstream_failed(exchange, io::Loop::now());
    drain();
  };
  upstream_ = std::make_unique<io::DnsUpstream>(loop_, kMark, std::move(callbacks));
  resolv_conf_ = std::make_unique<io::ResolvConf>("/etc/resolv.conf", config_.state_directory + "/resolv.conf.saved");
  if (!resolv_conf_->begin(why)) spdlog::warn("{}", why);
  resolv_conf_timer_ = loop_.add_timer([this] {
    std::string problem;
    if (resolv_conf_->check(problem)) {
      spdlog::info("resolv.conf was changed by another program: taken over");
      apply_upstreams();
      drain();
    }
    resolv_conf_timer_.set(io::Loop::now().monotonic + kResolvConfCheck);
  });
  if (config_.dns_mode == DnsMode::resolv_conf) resolv_conf_timer_.set(io::Loop::now().monotonic + kResolvConfCheck);
  apply_upstreams();
}

void Client::show_offload(v1::StatusReply& out) const {
  const auto add = [&](const char* key, const std::string& value) {
    v1::StatusLine& line = *out.add_lines();
    line.set_key(key);
    line.set_value(value);
  };
  std::string on;
  if (tun_->takes_tcp()) on = tun_->takes_udp() ? "tun tcp+udp" : "tun tcp";
  for (const auto& socket : sockets_) {
    const std::string family = socket->socket.local().address.is_v6() ? "IPv6" : "IPv4";
    if (socket->socket.segments()) on += (on.empty() ? "" : ", ") + family + " segmentation";
    if (socket->socket.coalesces()) on += (on.empty() ? "" : ", ") + family + " coalescing";
  }
  add("offload", on.empty() ? "none" : on);
  add("super-packets from applications", std::to_string(tun_cut_));
  add("packets joined for applications", std::to_string(tun_joined_));
  io::UdpSocketStats sum;
  for (const auto& socket : sockets_) {
    const io::UdpSocketStats& stats = socket->socket.stats();
    sum.sent += stats.sent;
    sum.received += stats.received;
    sum.sent_in_runs += stats.sent_in_runs;
    sum.received_in_runs += stats.received_in_runs;
    sum.refused_runs += stats.refused_runs;
    sum.send_errors += stats.send_errors;
    sum.icmp_errors += stats.icmp_errors;
  }
  add("datagrams sent", std::to_string(sum.sent) + ", in runs " + std::to_string(sum.sent_in_runs) + ", refused " +
                            std::to_string(sum.send_errors) + ", refused runs " + std::to_string(sum.refused_runs));
  add("datagrams received",
      std::to_string(sum.received) + ", in runs " + std::to_string(sum.received_in_runs) + ", ICMP errors " +
          std::to_string(sum.icmp_errors));
  add("packets lost in the client", "device " + std::to_string(tun_refused_) + ", relay stream " +
                                        std::to_string(stream_refused_) + ", socket full " +
                                        std::to_string(lost_unsent_));
}

bool Client::start_inspect(std::string& error) {
  io::InspectAnswers answers;
  answers.status = [this] {
    v1::StatusReply out;
    const Now now = io::Loop::now();
    out.set_process("client");
    out.set_software_version(PENSTOCK_VERSION);
    out.set_protocol_version("1.1");
    out.set_uptime_seconds(std::chrono::duration<double>(now.monotonic - started_).count());
    const bool connected = !signaling_ || signaling_->connected();
    out.set_state(!agent_->welcomed() ? "connecting" : connected ? "ready" : "degraded");
    agent_->show_status(out, now);
    show_offload(out);
    if (!portal_problem_.empty() && !connected) {
      v1::StatusLine& line = *out.add_lines();
      line.set_key("portal problem");
      line.set_value(portal_problem_);
    }
    return out;
  };
  answers.peers = [this](std::uint32_t limit) { return agent_->show_peers(limit, io::Loop::now()); };
  answers.names = [this](std::uint32_t limit) { return agent_->show_names(limit, io::Loop::now()); };
  answers.drops = [this](std::uint32_t) { return agent_->show_drops(); };
  answers.elsewhere = "a client has none of this; ask the gateway's data plane";
  inspect_ = io::InspectServer::listen(loop_, config_.control_socket, std::move(answers), error);
  return inspect_ != nullptr;
}

void Client::start_signaling() {
  io::ClientSignaling::Callbacks callbacks;
  callbacks.connected = [this] {
    spdlog::info("connected to the portal");
    portal_problem_.clear();
    agent_->handle_portal_connected(io::Loop::now());
    drain();
  };
  callbacks.message = [this](v1::PortalToClient message) {
    agent_->handle_portal_message(message, io::Loop::now());
    drain();
  };
  callbacks.disconnected = [this](const std::string& why) {
    spdlog::warn("lost the portal: {}", why);
    portal_problem_ = why;
    agent_->handle_portal_disconnected(io::Loop::now());
    refresh_portal_addresses();
    drain();
  };
  callbacks.unauthenticated = [this](const std::string& why) {
    spdlog::error("the portal does not accept our token: {}", why);
    portal_problem_ = why;
    agent_->handle_portal_disconnected(io::Loop::now());
    drain();
  };
  callbacks.attempt_failed = [this](const std::string& why) {
    if (why != portal_problem_) spdlog::warn("cannot reach the portal: {}", why);
    portal_problem_ = why;
    refresh_portal_addresses();
  };
  refresh_portal_addresses();
  signaling_ = std::make_unique<io::ClientSignaling>(loop_, random_, *config_.portal, std::move(callbacks));
  signaling_->start();
}

}  // namespace penstock::client
