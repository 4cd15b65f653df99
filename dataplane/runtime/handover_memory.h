// Memory without a name that one process leaves to the next, and how it is passed: the bytes of core/handover/state.h,
// which hold session keys and so never see a file system.
//
// The memory is sealed against changes of its size, and whoever reads it overwrites it in the same breath: it gives its
// content once. A second process, or one that starts again after it has failed, finds nothing and starts cold, so that
// no counter of a session is ever used by two.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "dataplane/core/base/bytes.h"

namespace penstock::runtime {

// A descriptor that closes itself; -1: none.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Invalid when the system has no memory.
[[nodiscard]] Descriptor make_handover_memory(Bytes content);
// The content, which is then gone. nullopt: not memory of this kind. The caller wipes what it got.
[[nodiscard]] std::optional<std::vector<std::uint8_t>> take_handover_memory(int fd);

// Over a connected unix socket. False or invalid: the other end is gone, or sent something else.
bool send_descriptor(int socket, int fd);
[[nodiscard]] Descriptor receive_descriptor(int socket);

}  // namespace penstock::runtime
