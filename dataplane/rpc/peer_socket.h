// A listening unix socket that looks at who connects (SO_PEERCRED) before anybody else sees the connection.
//
// The file has mode 0600 from its first instant. A stale file is replaced; a live one, or one that is no socket, is an
// error. One thread of its own accepts; `accepted` is called from it with a non-blocking descriptor that it owns then.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace penstock::rpc {

class PeerSocket {
 public:
  // nullptr and `error` set when the socket cannot be had.
  static std::unique_ptr<PeerSocket> listen(const std::string& path, std::vector<std::uint32_t> allowed_uids,
                                            std::function<void(int fd)> accepted, std::string& error);
  // Stops accepting and removes the file.
  ~PeerSocket();
  PeerSocket(const PeerSocket&) = delete;
  PeerSocket& operator=(const PeerSocket&) = delete;

  [[nodiscard]] std::uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  PeerSocket() = default;
  void run();
  void accept_one();

  std::string path_;
  std::vector<std::uint32_t> allowed_uids_;
  std::function<void(int)> accepted_;
  int listener_ = -1;
  int wakeup_ = -1;
  std::atomic<std::uint64_t> refused_{0};
  std::thread thread_;
};

}  // namespace penstock::rpc
