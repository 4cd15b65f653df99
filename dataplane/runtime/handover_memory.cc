#include "dataplane/runtime/handover_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace penstock::runtime {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// Every byte at its place, or false.
template <typename Call>
bool whole(std::size_t size, Call call) {
  for (std::size_t done = 0; done < size;) {
    const ssize_t n = call(done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

// A message of one octet, with room for a descriptor beside it.
struct DescriptorMessage {
  char octet = 0;
  iovec data{&octet, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};

  DescriptorMessage() {
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  DescriptorMessage(const DescriptorMessage&) = delete;
  DescriptorMessage& operator=(const DescriptorMessage&) = delete;
};

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = other.release();
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Descriptor make_handover_memory(Bytes content) {
  Descriptor fd(::memfd_create("penstock-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid() || ::ftruncate(fd.get(), static_cast<off_t>(content.size())) != 0) return Descriptor{};
  const bool written = whole(content.size(), [&](std::size_t at, std::size_t n) {
    return ::pwrite(fd.get(), content.data() + at, n, static_cast<off_t>(at));
  });
  if (!written || ::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) return Descriptor{};
  return fd;
}

std::optional<std::vector<std::uint8_t>> take_handover_memory(int fd) {
  struct stat status {};
  if (::fcntl(fd, F_GET_SEALS) != kSeals || ::fstat(fd, &status) != 0) return std::nullopt;
  std::vector<std::uint8_t> content(static_cast<std::size_t>(status.st_size));
  const bool read = whole(content.size(), [&](std::size_t at, std::size_t n) {
    return ::pread(fd, content.data() + at, n, static_cast<off_t>(at));
  });
  static constexpr std::uint8_t kZeroes[65536] = {};
  const bool wiped = whole(content.size(), [&](std::size_t at, std::size_t n) {
    return ::pwrite(fd, kZeroes, std::min(n, sizeof kZeroes), static_cast<off_t>(at));
  });
  if (!read || !wiped) return std::nullopt;  // what cannot be taken away from others is nobody's
  return content;
}

bool send_descriptor(int socket, int fd) {
  DescriptorMessage carrier;
  msghdr& message = carrier.message;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  ssize_t n = 0;
  do n = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n == 1;
}

Descriptor receive_descriptor(int socket) {
  int fd = -1;
  DescriptorMessage carrier;
  msghdr& message = carrier.message;
  ssize_t n = 0;
  do n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n != 1) return Descriptor{};
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header))
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof fd))
      std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return Descriptor{fd};
}

}  // namespace penstock::runtime
