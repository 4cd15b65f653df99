#include "dataplane/io/handover_link.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace penstock::io {
namespace {

using runtime::Descriptor;

constexpr const char* kStoreName = "handover";  // in the manager's store
constexpr int kPatienceMs = 1000;                // with the other end of a socket

bool unix_address(const std::string& path, sockaddr_un& out) {
  out = {};
  out.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof out.sun_path) return false;
  path.copy(out.sun_path, path.size());
  return true;
}

// Whoever may be root may read our memory anyway.
bool is_one_of_us(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && size == sizeof peer &&
         (peer.uid == ::geteuid() || peer.uid == 0);
}

bool readable(int fd, int timeout_ms) {
  pollfd wait{fd, POLLIN, 0};
  int n = 0;
  do n = ::poll(&wait, 1, timeout_ms);
  while (n < 0 && errno == EINTR);
  return n > 0;
}

// Which file is there: another process may have put its own in the place of ours.
struct FileId {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileId&) const = default;
};

FileId file_at(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 ? FileId{status.st_dev, status.st_ino} : FileId{};
}

Descriptor listen_at(const std::string& path) {
  sockaddr_un address;
  if (!unix_address(path, address)) return Descriptor{};
  ::unlink(path.c_str());
  Descriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // The file takes its mode from the socket's inode (as in rpc/peer_socket.cc).
  if (!listener.valid() || ::fchmod(listener.get(), 0600) != 0 ||
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), 4) != 0)
    return Descriptor{};
  return listener;
}

// The keeper's whole life. It is given the memory, says that it serves it (1) or cannot (0), and serves the first of us
// who comes. The listening socket is its own: one that travelled as a message would for a moment be nobody's.
[[noreturn]] void keep(int parent, const std::string& path, std::chrono::milliseconds hold) {
  ::prctl(PR_SET_NAME, "handover");
  ::prctl(PR_SET_DUMPABLE, 0);  // no core file with keys in it
  ::setsid();                   // what interrupts the process is not meant for its keeper
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  if (::chdir("/") != 0) ::_exit(1);
  // Nobody shall wait for the end of our output.
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
  ::dup2(parent, 3);
  ::close_range(4, ~0U, 0);

  const Descriptor memory = runtime::receive_descriptor(3);
  if (!memory.valid()) ::_exit(0);  // the process has ended otherwise: nothing to keep
  const Descriptor listener = listen_at(path);
  const FileId ours = file_at(path);
  const char serving = listener.valid() ? 1 : 0;
  if (::write(3, &serving, 1) != 1 || serving == 0) ::_exit(1);
  const auto end = std::chrono::steady_clock::now() + hold;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    if (left.count() <= 0 || !readable(listener.get(), static_cast<int>(left.count()))) break;
    const Descriptor visitor(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (visitor.valid() && is_one_of_us(visitor.get()) && runtime::send_descriptor(visitor.get(), memory.get())) break;
  }
  if (file_at(path) == ours) ::unlink(path.c_str());
  ::_exit(0);
}

}  // namespace

HandoverLink::HandoverLink(std::string path, std::chrono::milliseconds hold)
    : path_(std::move(path)), hold_(hold), manager_(std::getenv("NOTIFY_SOCKET") != nullptr) {
  if (leaves() && !manager_) fork_keeper();
}

HandoverLink::~HandoverLink() = default;  // the keeper reads the end of its socket

void HandoverLink::fork_keeper() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return;
  Descriptor ours(pair[0]);
  const Descriptor theirs(pair[1]);
  std::signal(SIGCHLD, SIG_IGN);  // a keeper that ends early leaves no zombie
  const pid_t child = ::fork();
  if (child == 0) keep(theirs.get(), path_, hold_);
  if (child > 0) to_keeper_ = std::move(ours);
}

Descriptor HandoverLink::from_manager() {
  char** names = nullptr;
  const int n = ::sd_listen_fds_with_names(1, &names);
  Descriptor out;
  for (int i = 0; i < n; ++i) {
    Descriptor fd(SD_LISTEN_FDS_START + i);  // others are none of ours: closed
    if (std::strcmp(names[i], kStoreName) == 0) out = std::move(fd);
    std::free(names[i]);
  }
  std::free(names);
  if (out.valid()) ::sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", kStoreName);
  return out;
}

Descriptor HandoverLink::from_keeper() const {
  sockaddr_un address;
  if (!unix_address(path_, address)) return Descriptor{};
  const Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid() ||
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno != ENOENT) spdlog::warn("{}: {}", path_, std::strerror(errno));
    return Descriptor{};
  }
  if (!is_one_of_us(socket.get())) {
    spdlog::warn("{} is served by another user: what it would hand over is not taken", path_);
    return Descriptor{};
  }
  Descriptor memory = readable(socket.get(), kPatienceMs) ? runtime::receive_descriptor(socket.get()) : Descriptor{};
  if (!memory.valid()) spdlog::warn("{}: the keeper hands nothing over", path_);
  return memory;
}

std::optional<std::vector<std::uint8_t>> HandoverLink::take() {
  Descriptor memory = from_manager();
  if (!memory.valid()) memory = from_keeper();
  if (!memory.valid()) return std::nullopt;
  auto content = runtime::take_handover_memory(memory.get());
  if (!content) spdlog::warn("what the process before has left cannot be read");
  return content;
}

std::string HandoverLink::leave(Bytes content) {
  const Descriptor memory = runtime::make_handover_memory(content);
  if (!memory.valid()) return std::string("no memory for it: ") + std::strerror(errno);
  if (manager_) {
    const int fd = memory.get();
    const std::string message = std::string("FDSTORE=1\nFDNAME=") + kStoreName;
    const int sent = ::sd_pid_notify_with_fds(0, 0, message.c_str(), &fd, 1);
    return sent > 0 ? "" : "the service manager does not take it";
  }
  if (!to_keeper_.valid()) return "there is no keeper";
  char serving = 0;
  if (!runtime::send_descriptor(to_keeper_.get(), memory.get()) || !readable(to_keeper_.get(), kPatienceMs) ||
      ::read(to_keeper_.get(), &serving, 1) != 1)
    return "the keeper is gone";
  return serving == 1 ? "" : "the keeper cannot listen on " + path_;
}

}  // namespace penstock::io
