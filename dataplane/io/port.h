// A DPDK port behind runtime::Port: one rx and one tx queue per worker where the device has them.
//
// With fewer rx queues than workers, the first workers receive; with fewer tx queues, workers share them under a lock
// that is never contended for longer than a burst. Devices that cannot do what was asked of them for speed only
// (offloads, multicast filters) are used without, and say so once (trap io-13).
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "dataplane/gateway/configuration.h"
#include "dataplane/runtime/config.h"
#include "dataplane/runtime/packet_io.h"

struct rte_mempool;

namespace penstock::io {

class DpdkPort final : public runtime::Port {
 public:
  // Probes the device, sets it up for as many workers as there are `pools` (each one's own, on its core's node), and starts
  // it. The error has no key: the caller knows it.
  static std::variant<std::unique_ptr<DpdkPort>, std::string> open(const runtime::PortDevice& device,
                                                                   const gateway::PortConfiguration& configuration,
                                                                   const std::vector<rte_mempool*>& pools);
  // With one pool for all.
  static std::variant<std::unique_ptr<DpdkPort>, std::string> open(const runtime::PortDevice& device,
                                                                   const gateway::PortConfiguration& configuration,
                                                                   std::uint16_t workers, rte_mempool* pool) {
    return open(device, configuration, std::vector<rte_mempool*>(workers, pool));
  }
  ~DpdkPort() override;  // stops and closes; virtual devices disappear

  void receive(std::uint16_t worker, PacketBurst& into) override;
  std::size_t send(std::uint16_t worker, std::span<Packet* const> frames) override;
  void reclaim_sent(std::uint16_t worker) override;
  [[nodiscard]] int wait_descriptor(std::uint16_t worker) const override;
  [[nodiscard]] bool fills_checksums() const override { return fills_checksums_; }
  [[nodiscard]] std::optional<nat::RssLayout> rss_layout() const override;
  [[nodiscard]] const MacAddress& mac() const override { return mac_; }
  [[nodiscard]] const std::string& driver() const override { return driver_; }
  [[nodiscard]] runtime::PortStats stats() const override;

 private:
  struct Lock;
  DpdkPort() = default;
  std::string set_up(const runtime::PortDevice& device, const gateway::PortConfiguration& configuration,
                     const std::vector<rte_mempool*>& pools);
  void accept_our_frames();
  std::string set_mtu(std::uint16_t mtu);

  std::uint16_t id_ = 0xffff;
  std::uint16_t rx_queues_ = 1;
  std::uint16_t tx_queues_ = 1;
  bool tx_shared_ = false;
  bool fills_checksums_ = false;
  bool probed_ = false;
  bool configured_ = false;
  bool promiscuous_by_us_ = false;
  MacAddress mac_{};
  std::string driver_;
  std::vector<int> descriptors_;  // per rx queue; empty: must be polled
  std::uint16_t redirections_ = 0;  // entries of the device's table; 0: it spreads nothing
  std::unique_ptr<Lock[]> tx_locks_;
};

}  // namespace penstock::io
