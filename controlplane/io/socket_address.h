// Between Endpoint and the operating system's socket addresses. Header only; only .cc files of io include it.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "dataplane/core/base/address.h"

namespace penstock::io {

[[nodiscard]] inline Endpoint endpoint_of(const sockaddr_storage& storage) {
  if (storage.ss_family == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, &storage, sizeof in);
    return {IpAddress::from_wire(Bytes{reinterpret_cast<const std::uint8_t*>(&in.sin_addr), 4}), ntohs(in.sin_port)};
  }
  if (storage.ss_family == AF_INET6) {
    sockaddr_in6 in{};
    std::memcpy(&in, &storage, sizeof in);
    return {IpAddress::from_wire(Bytes{reinterpret_cast<const std::uint8_t*>(&in.sin6_addr), 16}), ntohs(in.sin6_port)};
  }
  return {};
}

class SocketAddress {
 public:
  SocketAddress() = default;
  explicit SocketAddress(const Endpoint& endpoint) {
    const Bytes wire = endpoint.address.wire();
    if (endpoint.address.is_v4()) {
      sockaddr_in in{};
      in.sin_family = AF_INET;
      in.sin_port = htons(endpoint.port);
      std::memcpy(&in.sin_addr, wire.data(), 4);
      std::memcpy(&storage_, &in, sizeof in);
      size_ = sizeof in;
    } else {
      sockaddr_in6 in{};
      in.sin6_family = AF_INET6;
      in.sin6_port = htons(endpoint.port);
      std::memcpy(&in.sin6_addr, wire.data(), 16);
      std::memcpy(&storage_, &in, sizeof in);
      size_ = sizeof in;
    }
  }

  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  [[nodiscard]] socklen_t size() const { return size_; }
  // For calls that fill one in.
  [[nodiscard]] sockaddr* storage() { return reinterpret_cast<sockaddr*>(&storage_); }
  [[nodiscard]] socklen_t* storage_size() {
    size_ = sizeof storage_;
    return &size_;
  }
  [[nodiscard]] Endpoint endpoint() const { return endpoint_of(storage_); }

 private:
  sockaddr_storage storage_{};
  socklen_t size_ = 0;
};

}  // namespace penstock::io
