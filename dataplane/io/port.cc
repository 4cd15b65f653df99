#include "dataplane/io/port.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_spinlock.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/io/mbuf.h"
#include "dataplane/io/pool.h"

#ifndef AF_XDP
#define AF_XDP 44
#endif

namespace penstock::io {
namespace {

constexpr std::uint16_t kDescriptors = 1024;
constexpr const char* kTap = "net_tap";
// af_packet's default frame of 2048 bytes holds an MTU up to this.
constexpr std::uint16_t kAfPacketDefaultMtu = 1900;

std::set<int> open_descriptors() {
  std::set<int> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error))
    out.insert(std::atoi(entry.path().filename().c_str()));
  // The directory's own descriptor was among them.
  std::erase_if(out, [](int fd) { return ::fcntl(fd, F_GETFD) < 0; });
  return out;
}

std::string argument_of(const std::string& device, std::string_view name) {
  const std::string key = fmt::format(",{}=", name);
  const std::size_t at = device.find(key);
  if (at == std::string::npos) return {};
  const std::size_t from = at + key.size();
  return device.substr(from, device.find(',', from) - from);
}

// Queue pairs of a network interface; 1 when it does not say.
unsigned queues_of(const std::string& interface) {
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return 1;
  ethtool_channels channels{};
  channels.cmd = ETHTOOL_GCHANNELS;
  ifreq request{};
  interface.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_data = reinterpret_cast<char*>(&channels);
  const bool good = ::ioctl(fd, SIOCETHTOOL, &request) == 0;
  ::close(fd);
  return good ? std::max({1U, channels.combined_count, std::min(channels.rx_count, channels.tx_count)}) : 1;
}

bool has_argument(std::string_view device, std::string_view name) {
  return device.find(fmt::format(",{}=", name)) != std::string_view::npos;
}

// What the driver needs for several workers and large frames, unless the operator has said otherwise.
std::string complete_arguments(std::string device, std::uint16_t mtu, std::uint16_t workers) {
  if (device.starts_with("net_af_packet")) {
    if (workers > 1 && !has_argument(device, "qpairs")) device += fmt::format(",qpairs={}", workers);
    if (mtu > kAfPacketDefaultMtu && !has_argument(device, "framesz")) {
      // The driver wants frames without gaps between them, the kernel blocks of whole pages: four frames to a block.
      const unsigned frame = buffer_room(mtu);
      device += fmt::format(",blocksz={},framesz={},framecnt=256", 4 * frame, frame);
    }
  }
  if (device.starts_with("net_af_xdp") && workers > 1 && !has_argument(device, "queue_count"))
    device += fmt::format(",queue_count={}", std::min(unsigned{workers}, queues_of(argument_of(device, "iface"))));
  return device;
}

std::string failure(const char* what, int code) {
  return fmt::format("{}: {}", what, rte_strerror(-code));
}

}  // namespace

struct alignas(64) DpdkPort::Lock {
  rte_spinlock_t lock = RTE_SPINLOCK_INITIALIZER;
};

std::variant<std::unique_ptr<DpdkPort>, std::string> DpdkPort::open(const runtime::PortDevice& device,
                                                                    const gateway::PortConfiguration& configuration,
                                                                    const std::vector<rte_mempool*>& pools) {
  std::unique_ptr<DpdkPort> port(new DpdkPort);
  const std::set<int> before = open_descriptors();
  if (std::string error = port->set_up(device, configuration, pools); !error.empty()) return error;

  // The socket drivers open one socket per queue, in the queues' order, which poll() understands; they do not hand it
  // out, so it is recognised among what appeared meanwhile.
  const int domain = port->driver_ == "net_af_packet" ? AF_PACKET : port->driver_ == "net_af_xdp" ? AF_XDP : -1;
  if (domain >= 0) {
    std::vector<int> sockets;
    for (const int fd : open_descriptors()) {
      int value = 0;
      socklen_t size = sizeof value;
      if (!before.contains(fd) && ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &size) == 0 && value == domain)
        sockets.push_back(fd);
    }
    if (sockets.size() == port->rx_queues_) port->descriptors_ = std::move(sockets);
  } else if (port->driver_ == kTap) {
    for (std::uint16_t queue = 0; queue < port->rx_queues_; ++queue)
      if (const int fd = rte_eth_dev_rx_intr_ctl_q_get_fd(port->id_, queue); fd >= 0) port->descriptors_.push_back(fd);
    if (port->descriptors_.size() != port->rx_queues_) port->descriptors_.clear();
  }
  return port;
}

std::string DpdkPort::set_up(const runtime::PortDevice& device, const gateway::PortConfiguration& configuration,
                             const std::vector<rte_mempool*>& pools) {
  const auto workers = static_cast<std::uint16_t>(pools.size());
  const std::string arguments = complete_arguments(device.device, configuration.mtu, workers);
  const std::string name = arguments.substr(0, arguments.find(','));
  const bool is_virtual = name.starts_with("net_");
  if (is_virtual) {
    const std::size_t comma = arguments.find(',');
    const std::string rest = comma == std::string::npos ? "" : arguments.substr(comma + 1);
    if (const int code = rte_eal_hotplug_add("vdev", name.c_str(), rest.c_str()); code != 0)
      return failure("the device cannot be opened", code);
    probed_ = true;
  }
  if (const int code = rte_eth_dev_get_port_by_name(name.c_str(), &id_); code != 0) {
    id_ = 0xffff;
    return failure("DPDK has no such device (is it bound to vfio-pci?)", code);
  }

  rte_eth_dev_info info{};
  if (const int code = rte_eth_dev_info_get(id_, &info); code != 0) return failure("cannot be examined", code);
  driver_ = info.driver_name;
  rx_queues_ = std::clamp<std::uint16_t>(workers, 1, std::max<std::uint16_t>(info.max_rx_queues, 1));
  tx_queues_ = std::clamp<std::uint16_t>(workers, 1, std::max<std::uint16_t>(info.max_tx_queues, 1));
  tx_shared_ = tx_queues_ < workers;
  tx_locks_ = std::make_unique<Lock[]>(tx_queues_);
  if (rx_queues_ < workers)
    spdlog::info("port {}: {} has {} receive queues for {} workers", configuration.name, driver_, rx_queues_, workers);

  const bool is_tap = driver_ == kTap;
  rte_eth_conf conf{};
  conf.intr_conf.rxq = is_tap ? 1 : 0;  // it lends out its queues' descriptors
  // Offloads only from hardware: a virtual device would compute them in software on our core.
  if (!is_virtual)
    conf.rxmode.offloads = info.rx_offload_capa & (RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM |
                                                   RTE_ETH_RX_OFFLOAD_TCP_CKSUM);
  // Its promise, one pool for all that a queue sends, holds as long as there is one: packets are handed over between workers.
  if (std::ranges::adjacent_find(pools, std::not_equal_to<>{}) == pools.end())
    conf.txmode.offloads = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
  if (!is_virtual) conf.txmode.offloads |= info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
  fills_checksums_ = (conf.txmode.offloads & RTE_ETH_TX_OFFLOAD_UDP_CKSUM) != 0;
  if (rx_queues_ > 1 && info.flow_type_rss_offloads != 0) {
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    conf.rx_adv_conf.rss_conf.rss_hf =
        info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_TCP);
    redirections_ = info.reta_size;
  }
  if (!is_virtual && info.max_mtu >= configuration.mtu) conf.rxmode.mtu = configuration.mtu;
  if (const int code = rte_eth_dev_configure(id_, rx_queues_, tx_queues_, &conf); code != 0)
    return failure("cannot be configured", code);
  configured_ = true;

  std::uint16_t rx_descriptors = kDescriptors;
  std::uint16_t tx_descriptors = kDescriptors;
  if (const int code = rte_eth_dev_adjust_nb_rx_tx_desc(id_, &rx_descriptors, &tx_descriptors); code != 0)
    return failure("has no usable descriptor count", code);
  for (std::uint16_t queue = 0; queue < rx_queues_; ++queue)
    if (const int code = rte_eth_rx_queue_setup(id_, queue, rx_descriptors, SOCKET_ID_ANY, nullptr, pools[queue]); code != 0)
      return failure("a receive queue cannot be set up", code);
  for (std::uint16_t queue = 0; queue < tx_queues_; ++queue)
    if (const int code = rte_eth_tx_queue_setup(id_, queue, tx_descriptors, SOCKET_ID_ANY, nullptr); code != 0)
      return failure("a transmit queue cannot be set up", code);

  // The kernel's end of a TAP device has the device's address; ours must be another.
  if (device.mac && !is_tap) {
    rte_ether_addr address{};
    std::copy(device.mac->begin(), device.mac->end(), address.addr_bytes);
    if (const int code = rte_eth_dev_default_mac_addr_set(id_, &address); code != 0) {
      spdlog::info("port {}: {} keeps its own MAC address as a filter; receiving all frames instead",
                   configuration.name, driver_);
      promiscuous_by_us_ = rte_eth_promiscuous_get(id_) == 0 && rte_eth_promiscuous_enable(id_) == 0;
    }
  }
  // Socket drivers pass on whatever the interface takes, although they claim a limit.
  if (std::string error = set_mtu(configuration.mtu); !error.empty() && !is_virtual) return error;
  if (const int code = rte_eth_dev_start(id_); code != 0) return failure("cannot be started", code);

  rte_ether_addr address{};
  if (device.mac) {
    mac_ = *device.mac;
  } else if (rte_eth_macaddr_get(id_, &address) == 0) {
    std::copy_n(address.addr_bytes, mac_.size(), mac_.begin());
    if (is_tap) mac_[5] ^= 1;
  }
  accept_our_frames();
  return {};
}

// Neighbour discovery and router solicitations arrive by multicast.
void DpdkPort::accept_our_frames() {
  if (rte_eth_allmulticast_enable(id_) == 0 || promiscuous_by_us_ || rte_eth_promiscuous_get(id_) != 0) return;
  promiscuous_by_us_ = rte_eth_promiscuous_enable(id_) == 0;
}

std::string DpdkPort::set_mtu(std::uint16_t mtu) {
  std::uint16_t current = 0;
  if (rte_eth_dev_get_mtu(id_, &current) == 0 && current == mtu) return {};
  const int code = rte_eth_dev_set_mtu(id_, mtu);
  if (code == 0 || code == -ENOTSUP) return {};
  // A device that takes larger packets than we send does no harm.
  if (current > mtu) return {};
  return fmt::format("does not take an MTU of {}: {}", mtu, rte_strerror(-code));
}

// As the device says it is, whoever chose it: key and table differ from driver to driver.
std::optional<nat::RssLayout> DpdkPort::rss_layout() const {
  if (redirections_ == 0) return std::nullopt;
  rte_eth_dev_info info{};
  if (rte_eth_dev_info_get(id_, &info) != 0) return std::nullopt;
  nat::RssLayout out;
  out.key.resize(info.hash_key_size == 0 ? nat::ReplySteering::kKeySize : info.hash_key_size);
  rte_eth_rss_conf hash{};
  hash.rss_key = out.key.data();
  hash.rss_key_len = static_cast<std::uint8_t>(out.key.size());
  if (rte_eth_dev_rss_hash_conf_get(id_, &hash) != 0) return std::nullopt;
  std::vector<rte_eth_rss_reta_entry64> table((redirections_ + RTE_ETH_RETA_GROUP_SIZE - 1U) / RTE_ETH_RETA_GROUP_SIZE);
  for (auto& group : table) group.mask = ~std::uint64_t{0};
  if (rte_eth_dev_rss_reta_query(id_, table.data(), redirections_) != 0) return std::nullopt;
  for (std::uint16_t i = 0; i < redirections_; ++i)
    out.queues.push_back(table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE]);
  out.tcp4 = (hash.rss_hf & RTE_ETH_RSS_NONFRAG_IPV4_TCP) != 0;
  out.udp4 = (hash.rss_hf & RTE_ETH_RSS_NONFRAG_IPV4_UDP) != 0;
  out.tcp6 = (hash.rss_hf & RTE_ETH_RSS_NONFRAG_IPV6_TCP) != 0;
  out.udp6 = (hash.rss_hf & RTE_ETH_RSS_NONFRAG_IPV6_UDP) != 0;
  return out;
}

DpdkPort::~DpdkPort() {
  if (id_ != 0xffff) {
    if (promiscuous_by_us_) rte_eth_promiscuous_disable(id_);
    if (configured_) rte_eth_dev_stop(id_);
    rte_device* device = nullptr;
    rte_eth_dev_info info{};
    if (rte_eth_dev_info_get(id_, &info) == 0) device = info.device;
    rte_eth_dev_close(id_);
    if (device != nullptr && probed_) rte_dev_remove(device);
  }
}

void DpdkPort::receive(std::uint16_t worker, PacketBurst& into) {
  constexpr std::uint16_t kAhead = 8;
  if (worker >= rx_queues_) return;
  rte_mbuf* mbufs[kBurst];
  const std::uint16_t n = rte_eth_rx_burst(id_, worker, mbufs, static_cast<std::uint16_t>(kBurst - into.size()));
  for (std::uint16_t i = 0; i < n && i < kAhead; ++i) prefetch_write(mbufs[i] + 1);
  for (std::uint16_t i = 0; i < n; ++i) {
    if (i + kAhead < n) {
      prefetch_read(mbufs[i + kAhead]);
      prefetch_write(mbufs[i + kAhead] + 1);
    }
    rte_mbuf* mbuf = mbufs[i];
    // A stripped tag is put back where it stood: the classify stage judges VLANs. Longer than one buffer: not ours,
    // the pool holds whole frames.
    const bool stripped = (mbuf->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) != 0;
    if (mbuf->nb_segs != 1 || (stripped && rte_vlan_insert(&mbuf) != 0)) {
      rte_pktmbuf_free(mbuf);
      continue;
    }
    Packet* packet = received_packet(mbuf);
    prefetch_frame(packet->data);
    if ((mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_GOOD)
      packet->flags = packet_flag::l4_checksum_ok;
    into.add(packet);
  }
}

std::size_t DpdkPort::send(std::uint16_t worker, std::span<Packet* const> frames) {
  rte_mbuf* mbufs[kBurst];
  const std::uint16_t queue = tx_shared_ ? static_cast<std::uint16_t>(worker % tx_queues_) : worker;
  std::size_t sent = 0;
  if (tx_shared_) rte_spinlock_lock(&tx_locks_[queue].lock);
  while (sent < frames.size()) {
    const std::size_t n = std::min(frames.size() - sent, kBurst);
    for (std::size_t i = 0; i < n; ++i) mbufs[i] = prepare_for_send(frames[sent + i]);
    const std::uint16_t taken = rte_eth_tx_burst(id_, queue, mbufs, static_cast<std::uint16_t>(n));
    sent += taken;
    if (taken < n) break;
  }
  if (tx_shared_) rte_spinlock_unlock(&tx_locks_[queue].lock);
  return sent;
}

void DpdkPort::reclaim_sent(std::uint16_t worker) {
  const std::uint16_t queue = tx_shared_ ? static_cast<std::uint16_t>(worker % tx_queues_) : worker;
  if (tx_shared_) rte_spinlock_lock(&tx_locks_[queue].lock);
  // Drivers that cannot be asked look at what has left when they are given a burst, even an empty one.
  rte_mbuf* none = nullptr;
  if (rte_eth_tx_done_cleanup(id_, queue, 0) < 0) rte_eth_tx_burst(id_, queue, &none, 0);
  if (tx_shared_) rte_spinlock_unlock(&tx_locks_[queue].lock);
}

int DpdkPort::wait_descriptor(std::uint16_t worker) const {
  if (worker >= rx_queues_) return kNothing;
  return worker < descriptors_.size() ? descriptors_[worker] : kMustPoll;
}

runtime::PortStats DpdkPort::stats() const {
  runtime::PortStats out;
  rte_eth_stats stats{};
  if (rte_eth_stats_get(id_, &stats) == 0) {
    out.rx_packets = stats.ipackets;
    out.tx_packets = stats.opackets;
    out.rx_bytes = stats.ibytes;
    out.tx_bytes = stats.obytes;
    out.rx_missed = stats.imissed + stats.rx_nombuf + stats.ierrors;
    out.tx_errors = stats.oerrors;
  }
  rte_eth_link link{};
  out.link_up = rte_eth_link_get_nowait(id_, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
  return out;
}

}  // namespace penstock::io
