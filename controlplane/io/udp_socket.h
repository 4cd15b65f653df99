// UDP sockets in batches: recvmmsg, sendmmsg, and UDP segmentation offload where the kernel has it.
//
// Errors of single datagrams never end or discard a batch (EMSGSIZE, ENETUNREACH, EPERM, ECONNREFUSED ...: that
// datagram is counted and skipped); EINTR repeats; EAGAIN and ENOBUFS leave the rest to the caller, who tries again
// when the socket is writable. Sockets are non-blocking, carry SO_MARK when asked to, set DF on what they send (the
// path MTU is the tunnel's business) and never report queued ICMP errors as their own failure. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "controlplane/io/descriptor.h"
#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::io {

struct UdpSocketOptions {
  bool v6 = false;
  IpAddress bind;          // unspecified: the wildcard address of the family
  std::uint16_t port = 0;  // 0: any
  std::uint32_t mark = 0;  // 0: none
  bool dont_fragment = true;
  int buffer_bytes = 4 << 20;
};

struct ReceivedDatagram {
  MutableBytes bytes;
  Endpoint from;
  Endpoint to;     // the local address it was sent to
  int device = 0;  // it came in by; what is sent within this machine comes by the device that holds the address
};

struct DatagramToSend {
  Bytes bytes;
  Endpoint to;     // the local address it was sent to
  int device = 0;  // it came in by; what is sent within this machine comes by the device that holds the address
};

struct UdpSocketStats {
  std::uint64_t received = 0, sent = 0;
  std::uint64_t send_errors = 0;  // datagrams the kernel refused
  std::uint64_t receive_errors = 0;
  std::uint64_t truncated = 0;  // larger than a buffer
};

class UdpSocket {
 public:
  static constexpr std::size_t kBatch = 64;
  static constexpr std::size_t kMaxDatagram = 9216;

  static std::optional<UdpSocket> open(const UdpSocketOptions& options, std::string& error);
  UdpSocket(UdpSocket&&) noexcept;
  UdpSocket& operator=(UdpSocket&&) noexcept;
  ~UdpSocket();

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const Endpoint& local() const { return local_; }  // as bound: wildcard address, real port

  // Up to kBatch datagrams; empty when none waits. The bytes are valid until the next call.
  [[nodiscard]] std::span<ReceivedDatagram> receive();

  // Sends in order; returns how many were dealt with (sent, or refused and counted). Fewer than given: the socket is
  // full, try the rest when it is writable.
  std::size_t send(std::span<const DatagramToSend> datagrams);

  [[nodiscard]] const UdpSocketStats& stats() const { return stats_; }

 private:
  struct Buffers;
  UdpSocket();

  Descriptor fd_;
  Endpoint local_;
  bool v6_ = false;
  UdpSocketStats stats_;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace penstock::io
