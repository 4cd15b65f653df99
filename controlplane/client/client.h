// The client's shell: moves bytes between the operating system and the ClientAgent, and does what it asks for.
//
// Theory of operation. Every callback hands its input to the agent and then calls drain(), which carries all outputs
// away: state to disk, datagrams to the sockets, packets to the TUN device, messages to the portal, DNS. When the
// sockets are full, datagrams stay queued here in order and the TUN device is not read until they have gone, so the
// applications feel the back-pressure instead of losing packets. One thread: the loop's.
//
// Everything on the packets' way is a burst: the device gives and takes super-packets (core/offload), the sockets runs of
// datagrams (io/udp_socket.h), as far as the kernel has it and the configuration lets it. What the tunnel brings is
// written to the device from the socket's own memory, before that is used again.
//
// What it changes on the machine (device, addresses, routes, rules, resolv.conf) is put back by close() or the
// destructor; after a crash by the next start.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "controlplane/client/config.h"
#include "controlplane/core/client_agent/client_agent.h"
#include "controlplane/core/offload/coalesce.h"
#include "controlplane/io/dns_listener.h"
#include "controlplane/io/dns_upstream.h"
#include "controlplane/io/file_saver.h"
#include "controlplane/io/inspect_server.h"
#include "controlplane/io/loop.h"
#include "controlplane/io/netlink.h"
#include "controlplane/io/post_gate.h"
#include "controlplane/io/relay_stream.h"
#include "controlplane/io/resolv_conf.h"
#include "controlplane/io/signaling_client.h"
#include "controlplane/io/system_random.h"
#include "controlplane/io/tun.h"
#include "controlplane/io/tunnel_routes.h"
#include "controlplane/io/udp_socket.h"

namespace penstock::client {

inline constexpr std::uint32_t kMark = io::TunnelRoutesConfig{}.mark;  // on our own sockets: never into the tunnel

class Client {
 public:
  // Holds what is read from the device in one turn: the last packet may be as large as they come.
  static constexpr std::size_t kTunBuffer = 256 * 1024 + io::Tun::kReadRoom;

  // nullptr and `error` when something without which there is no client cannot be had (the TUN device, a socket, the
  // key). What is merely worse without (IPv6, a route, resolv.conf) is logged. `loop` outlives the client.
  static std::unique_ptr<Client> start(io::Loop& loop, Config config, std::string& error);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Says goodbye to gateways and relays and puts the machine back as it was.
  void close();

 private:
  struct Socket {
    io::UdpSocket socket;
    io::Loop::Source source;
  };

  Client(io::Loop& loop, Config config);

  // ---- start.cc ----
  bool set_up(std::string& error);
  bool load_state(ClientAgentConfig& agent_config, std::string& error);
  bool open_sockets(std::string& error);
  bool open_device(std::string& error);
  void start_resolver();
  bool start_inspect(std::string& error);
  void show_offload(v1::StatusReply& out) const;
  void start_signaling();

  // ---- client.cc ----
  void read_tun();
  void read_socket(Socket& socket);
  void read_errors(Socket& socket);
  void drain();
  void send_datagrams();
  void write_tun();
  void handle_streams();
  void open_stream(const paths::StreamRequest& request);
  void handle_events();
  void arm_timer();

  // ---- system.cc: what the agent wants of the machine ----
  void apply_interface();
  void apply_routes(const InterfaceState& state);
  void apply_resolver(const InterfaceState& state);
  void apply_upstreams();
  void refresh_local_addresses();
  void refresh_portal_addresses();
  void save_names();
  void save_timestamp();
  void report(const std::vector<std::string>& failures) const;

  io::Loop& loop_;
  Config config_;
  io::SystemRandom random_;
  Instant started_;
  bool closed_ = false;

  std::optional<io::Netlink> netlink_;
  std::optional<io::Tun> tun_;
  io::Loop::Source tun_source_;
  std::unique_ptr<io::TunnelRoutes> routes_;
  std::optional<io::NetworkMonitor> monitor_;
  std::vector<std::unique_ptr<Socket>> sockets_;  // IPv4, then IPv6 where there is one
  std::map<paths::StreamId, std::unique_ptr<io::RelayStream>> streams_;  // to relays, over TCP and TLS
  std::optional<Endpoint> proxy_;                                        // as its name was last resolved
  std::unique_ptr<ClientAgent> agent_;
  io::Loop::Timer timer_;

  std::unique_ptr<io::DnsListener> listener_;
  std::unique_ptr<io::DnsUpstream> upstream_;
  std::unique_ptr<io::ResolvConf> resolv_conf_;
  io::Loop::Timer resolv_conf_timer_;

  std::unique_ptr<io::ClientSignaling> signaling_;
  std::string portal_problem_;  // of the last attempt
  std::unique_ptr<io::InspectServer> inspect_;

  std::set<IpAddress> assigned_;  // on the device
  std::vector<Endpoint> hosts_;   // last told to the agent
  std::vector<IpAddress> listening_;
  std::set<IpAddress> portal_addresses_;
  bool looking_up_ = false;
  // Look-ups block on threads of their own, which may outlive us.
  std::shared_ptr<io::PostGate> gate_;

  std::optional<io::FileSaver> timestamp_file_, names_file_;
  std::uint64_t saved_names_ = 0;  // revision that was handed over for saving
  io::Loop::Timer names_timer_;
  bool names_timer_armed_ = false;

  std::deque<OutDatagram> unsent_;
  std::uint64_t lost_unsent_ = 0;  // the queue was full
  std::uint64_t tun_refused_ = 0;
  std::uint64_t stream_refused_ = 0;
  std::uint64_t tun_cut_ = 0;     // packets that came together as one
  std::uint64_t tun_joined_ = 0;  // packets that were given together as one

  // Working memory of a turn.
  std::vector<std::uint8_t> tun_buffer_;
  std::vector<TunPacket> from_tun_;
  std::vector<InDatagram> from_socket_;
  std::vector<Bytes> to_tun_;  // within what the socket received
  std::vector<io::DatagramToSend> to_socket_;
  offload::Coalescer coalescer_;
};

}  // namespace penstock::client
