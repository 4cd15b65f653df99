// UDP sockets in batches: recvmmsg, sendmmsg, and UDP segmentation offload where the kernel has it.
//
// Theory of operation. With `offload`, a run of datagrams of one size to one place goes to the kernel as one message
// that it cuts (UDP_SEGMENT), and what the kernel has put together (UDP_GRO) is cut apart again here; nobody else sees
// anything of it. Both are tried at open() and left alone where the kernel lacks them. When it refuses a run later (no
// checksum offload on the way, a path MTU smaller than it was), the run's datagrams are sent by themselves, and after a
// refusal that will not change (EIO) all others as well.
//
// Errors of single datagrams never end or discard a batch (EMSGSIZE, ENETUNREACH, EPERM, ECONNREFUSED ...: that
// datagram is counted and skipped); EINTR repeats; EAGAIN and ENOBUFS leave the rest to the caller, who tries again
// when the socket is writable. Sockets are non-blocking, carry SO_MARK when asked to, and set DF on what they send (the
// path MTU is the tunnel's business). One thread.
//
// With `errors`, ICMP errors about what was sent are queued for errors() (IP_RECVERR). The kernel also lets the next call
// on the socket fail with each of them, although it has nothing to do with it: such a call is made again, so that no
// datagram and no run is lost for it. While any is queued, the socket polls as EPOLLERR.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

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
  bool errors = false;   // ICMP errors are for errors()
  bool offload = false;  // UDP_SEGMENT and UDP_GRO; takes 4 MiB of address space, of memory only what is used
  int buffer_bytes = 4 << 20;
};

struct ReceivedDatagram {
  MutableBytes bytes;
  Endpoint from;
  Endpoint to;     // the local address it was sent to
  int device = 0;  // it came in by; what is sent within this machine comes by the device that holds the address
};

// An ICMP error that the kernel found to be about a datagram from this socket's port. Anybody may have sent it.
struct IcmpErrorReport {
  Bytes quoted;  // the beginning of the datagram's payload; routers need not quote any of it
  Endpoint to;   // where the datagram was going
  enum class Kind : std::uint8_t { unreachable, too_big, other } kind{};
};

struct DatagramToSend {
  Bytes bytes;
  Endpoint to;
};

struct UdpSocketStats {
  std::uint64_t received = 0, sent = 0;  // datagrams
  std::uint64_t send_errors = 0;         // datagrams the kernel refused
  std::uint64_t receive_errors = 0;
  std::uint64_t icmp_errors = 0;  // given out by errors()
  std::uint64_t truncated = 0;          // larger than a buffer
  std::uint64_t sent_in_runs = 0;       // of `sent`: those the kernel cut
  std::uint64_t received_in_runs = 0;   // of `received`: those the kernel had put together
  std::uint64_t refused_runs = 0;       // sent one by one instead
};

// How many of the first datagrams may go to the kernel as one message: to one place, all of one size but for the last,
// which may be shorter; at most 64 and 65 000 bytes. At least 1 unless there is none.
[[nodiscard]] std::size_t segmentable_run(std::span<const DatagramToSend> datagrams);

class UdpSocket {
 public:
  static constexpr std::size_t kBatch = 64;  // messages per system call
  static constexpr std::size_t kMaxDatagram = 9216;

  static std::optional<UdpSocket> open(const UdpSocketOptions& options, std::string& error);
  UdpSocket(UdpSocket&&) noexcept;
  UdpSocket& operator=(UdpSocket&&) noexcept;
  ~UdpSocket();

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const Endpoint& local() const { return local_; }  // as bound: wildcard address, real port
  [[nodiscard]] bool segments() const { return segments_; }       // UDP_SEGMENT is in use
  [[nodiscard]] bool coalesces() const { return coalesces_; }     // UDP_GRO is in use

  // What one system call brings; empty when none waits. The bytes are valid until the next call.
  [[nodiscard]] std::span<ReceivedDatagram> receive();

  // The ICMP errors that are queued, oldest first; at most 32 at a time, so that nobody who sends many holds us up. Valid
  // until the next call.
  [[nodiscard]] std::span<IcmpErrorReport> errors();

  // Sends in order; returns how many were dealt with (sent, or refused and counted). Fewer than given: the socket is
  // full, try the rest when it is writable.
  std::size_t send(std::span<const DatagramToSend> datagrams);

  [[nodiscard]] const UdpSocketStats& stats() const { return stats_; }

 private:
  struct Buffers;
  UdpSocket();
  enum class Sent : std::uint8_t { all, full };
  // The next messages of `datagrams` from `done` on, as many as one system call takes; `done` moves on.
  Sent send_some(std::span<const DatagramToSend> datagrams, std::size_t& done);

  Descriptor fd_;
  Endpoint local_;
  bool segments_ = false;
  bool coalesces_ = false;
  bool reports_errors_ = false;
  UdpSocketStats stats_;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace penstock::io
