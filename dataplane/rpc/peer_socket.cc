#include "dataplane/rpc/peer_socket.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace penstock::rpc {
namespace {

bool somebody_listens(const sockaddr_un& address) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool alive = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  ::close(fd);
  return alive;
}

// What stands in the way of a socket at `path`; empty: nothing (any more).
std::string clear_way(const std::string& path, const sockaddr_un& address) {
  std::error_code code;
  const auto directory = std::filesystem::path{path}.parent_path();
  if (!directory.empty()) std::filesystem::create_directories(directory, code);
  if (code) return fmt::format("cannot create {}: {}", directory.string(), code.message());
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return {};
  if (!S_ISSOCK(status.st_mode)) return path + " exists and is not a socket";
  if (somebody_listens(address)) return "another process listens on " + path;
  if (::unlink(path.c_str()) != 0) return fmt::format("cannot remove {}: {}", path, std::strerror(errno));
  return {};
}

}  // namespace

std::unique_ptr<PeerSocket> PeerSocket::listen(const std::string& path, std::vector<std::uint32_t> allowed_uids,
                                               std::function<void(int)> accepted, std::string& error) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    error = fmt::format("a socket path has 1 to {} characters", sizeof address.sun_path - 1);
    return nullptr;
  }
  path.copy(address.sun_path, path.size());
  error = clear_way(path, address);
  if (!error.empty()) return nullptr;

  std::unique_ptr<PeerSocket> out{new PeerSocket};
  out->allowed_uids_ = std::move(allowed_uids);
  out->accepted_ = std::move(accepted);
  out->listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  out->wakeup_ = ::eventfd(0, EFD_CLOEXEC);
  // On Linux the file takes its mode from the socket's inode: no moment with another mode, no change of umask.
  const bool ok = out->listener_ >= 0 && out->wakeup_ >= 0 && ::fchmod(out->listener_, 0600) == 0 &&
                  ::bind(out->listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
                  ::chmod(path.c_str(), 0600) == 0 && ::listen(out->listener_, 64) == 0;
  if (!ok) {
    error = fmt::format("cannot listen on {}: {}", path, std::strerror(errno));
    return nullptr;
  }
  out->path_ = path;
  out->thread_ = std::thread([socket = out.get()] { socket->run(); });
  return out;
}

PeerSocket::~PeerSocket() {
  if (thread_.joinable()) {
    const std::uint64_t one = 1;
    // An eventfd's counter cannot be full after one write.
    if (::write(wakeup_, &one, sizeof one) == sizeof one) thread_.join();
  }
  // While it is still ours: as soon as nobody listens the next process may put its own there.
  if (!path_.empty()) ::unlink(path_.c_str());
  if (listener_ >= 0) ::close(listener_);
  if (wakeup_ >= 0) ::close(wakeup_);
}

void PeerSocket::run() {
  while (true) {
    pollfd wait[] = {{listener_, POLLIN, 0}, {wakeup_, POLLIN, 0}};
    if (::poll(wait, 2, -1) < 0 && errno != EINTR) return;
    if (wait[1].revents != 0) return;
    if (wait[0].revents != 0) accept_one();
  }
}

void PeerSocket::accept_one() {
  const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    // Out of descriptors: the connection stays in the queue; look again a little later instead of spinning.
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      pollfd pause{wakeup_, POLLIN, 0};
      ::poll(&pause, 1, 100);
    }
    return;
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  const bool known = ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && size == sizeof peer;
  if (known && std::find(allowed_uids_.begin(), allowed_uids_.end(), peer.uid) != allowed_uids_.end()) {
    accepted_(fd);
    return;
  }
  ::close(fd);
  if (refused_.fetch_add(1, std::memory_order_relaxed) % 100 == 0)
    spdlog::warn("control socket: connection of user {} (process {}) refused", peer.uid, peer.pid);
}

}  // namespace penstock::rpc
