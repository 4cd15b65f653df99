// The other end for measuring the client: a WireGuard responder with one peer, from the same core and the same batched
// device and socket I/O, without policy, DPDK or anything else that a gateway does. Says "ready KEY" when it is.
#include <poll.h>
#include <sys/epoll.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <vector>

#include "controlplane/core/offload/coalesce.h"
#include "controlplane/core/offload/segment.h"
#include "controlplane/io/loop.h"
#include "controlplane/io/system_random.h"
#include "controlplane/io/tun.h"
#include "controlplane/io/udp_socket.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/runtime/key_file.h"

namespace penstock {
namespace {

constexpr std::size_t kSlots = 1024;
constexpr std::size_t kSlot = 9216;
constexpr std::size_t kFront = wireguard::kDataHeaderSize;
constexpr std::size_t kReadBytes = 256 * 1024;

class TunPeer {
 public:
  TunPeer(io::Loop& loop, io::Tun tun, io::UdpSocket socket, wireguard::DeviceConfig config, PeerIndex peer)
      : device(std::move(config), random_), tun_(std::move(tun)), socket_(std::move(socket)), peer_(peer),
        coalescer_(tun_.takes_tcp(), tun_.takes_udp()) {
    from_tun_ = loop.add_fd(tun_.fd(), EPOLLIN, [this](std::uint32_t) { read_tun(); });
    from_socket_ = loop.add_fd(socket_.fd(), EPOLLIN, [this](std::uint32_t) { read_socket(); });
    timer_ = loop.add_timer([this] {
      device.handle_timeout(io::Loop::now());
      settle();
    });
  }

 private:
  void settle() {
    while (auto out = device.poll_output()) {
      const io::DatagramToSend datagram{out->bytes, out->path.remote};
      socket_.send({&datagram, 1});
    }
    while (device.poll_event()) {
    }
    timer_.set(device.poll_timeout().at);
  }

  void read_tun() {
    burst_.clear();
    for (std::size_t bytes = 0; bytes < kReadBytes && burst_.size() + 64 < kSlots;) {
      const auto packet = tun_.read(buffer_);
      if (packet.bytes.empty()) break;
      bytes += packet.bytes.size();
      const auto segments = offload::Segments::parse(packet.bytes, packet.vnet);
      if (!segments || segments->size(0) > kSlot - 128) continue;
      for (std::size_t i = 0; i < segments->count() && burst_.size() < kSlots; ++i) {
        wireguard::Outbound out;
        out.inner = slots_.data() + burst_.size() * kSlot + kFront;
        out.length = static_cast<std::uint32_t>(segments->size(i));
        segments->write(i, {out.inner, out.length});
        burst_.push_back(out);
      }
    }
    const auto sealed = device.seal(peer_, burst_, io::Loop::now());
    if (sealed.reason == DropReason::none) {
      datagrams_.clear();
      for (const auto& out : burst_) datagrams_.push_back({out.datagram, sealed.path.remote});
      for (std::span<const io::DatagramToSend> rest{datagrams_}; !rest.empty();) {
        rest = rest.subspan(socket_.send(rest));
        pollfd wait{socket_.fd(), POLLOUT, 0};
        if (!rest.empty()) ::poll(&wait, 1, 100);
      }
    }
    settle();
  }

  void read_socket() {
    inbound_.clear();
    for (const auto& datagram : socket_.receive()) {
      wireguard::Inbound in;
      in.datagram = datagram.bytes;
      in.from = Path{socket_.local(), datagram.from, 0};
      inbound_.push_back(in);
    }
    device.open(inbound_, io::Loop::now());
    packets_.clear();
    for (const auto& in : inbound_)
      if (in.reason == DropReason::none) packets_.push_back(in.inner);
    coalescer_.coalesce(packets_);
    for (std::size_t i = 0; i < coalescer_.size(); ++i) {
      const auto out = coalescer_.output(i);
      tun_.write(out.vnet, out.pieces);
    }
    settle();
  }

  io::SystemRandom random_;

 public:
  wireguard::Device device;

 private:
  io::Tun tun_;
  io::UdpSocket socket_;
  PeerIndex peer_;
  offload::Coalescer coalescer_;
  io::Loop::Source from_tun_, from_socket_;
  io::Loop::Timer timer_;
  std::vector<std::uint8_t> buffer_ = std::vector<std::uint8_t>(io::Tun::kReadRoom);
  std::vector<std::uint8_t> slots_ = std::vector<std::uint8_t>(kSlots * kSlot);
  std::vector<wireguard::Outbound> burst_;
  std::vector<wireguard::Inbound> inbound_;
  std::vector<Bytes> packets_;
  std::vector<io::DatagramToSend> datagrams_;
};

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  using namespace penstock;
  CLI::App app{"A WireGuard responder with one peer, for measuring the client"};
  std::string key_file, peer_key, name;
  std::uint16_t port = 51820;
  std::uint32_t mtu = 1420;
  app.add_option("--key", key_file, "our private key; made when absent")->required();
  app.add_option("--peer", peer_key, "the peer's public key")->required();
  app.add_option("--tun", name, "name of the device")->required();
  app.add_option("--port", port, "UDP");
  app.add_option("--mtu", mtu, "inner");
  CLI11_PARSE(app, argc, argv);

  io::Loop loop;
  const auto terminate = loop.add_signal(SIGTERM, [&] { loop.stop(0); });
  const auto fail = [](const std::string& why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 1;
  };
  const auto key = runtime::read_or_create_private_key(key_file);
  if (const auto* error = std::get_if<runtime::KeyFileError>(&key)) return fail(error->reason);
  wireguard::DeviceConfig config;
  config.private_key.bytes = std::get<0>(key);
  config.mtu = mtu;
  wireguard::PeerConfig peer;
  const auto parsed = wireguard::PublicKey::parse(peer_key);
  if (!parsed) return fail("--peer: not a key");
  peer.public_key = *parsed;
  std::string error;
  auto tun = io::Tun::open({name, true}, error);
  if (!tun) return fail(error);
  io::UdpSocketOptions options;
  options.port = port;
  options.offload = true;
  auto socket = io::UdpSocket::open(options, error);
  if (!socket) return fail(error);
  TunPeer ends(loop, std::move(*tun), std::move(*socket), std::move(config), 0);
  if (ends.device.add_peer(peer, io::Loop::now()).error != wireguard::PeerError::none) return fail("--peer: refused");
  std::printf("ready %s\n", ends.device.public_key().to_base64().c_str());
  std::fflush(stdout);
  return loop.run();
}
