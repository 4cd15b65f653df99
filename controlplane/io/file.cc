#include "controlplane/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "controlplane/io/descriptor.h"

namespace penstock::io {
namespace {

constexpr std::size_t kMaxFile = 64U << 20;

std::string words(const std::string& path) {
  return path + ": " + std::strerror(errno);
}

bool write_all(int fd, std::string_view content) {
  while (!content.empty()) {
    const auto n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    content.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

std::optional<std::string> read_file(const std::string& path, std::string& error, bool* missing) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (missing != nullptr) *missing = !fd.valid() && errno == ENOENT;
  if (!fd.valid()) {
    error = words(path);
    return std::nullopt;
  }
  std::string content;
  char buffer[65536];
  for (;;) {
    const auto n = ::read(fd.get(), buffer, sizeof buffer);
    if (n == 0) return content;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      error = words(path);
      return std::nullopt;
    }
    content.append(buffer, static_cast<std::size_t>(n));
    if (content.size() > kMaxFile) {
      error = path + ": too large";
      return std::nullopt;
    }
  }
}

bool replace_file(const std::string& path, std::string_view content, mode_t mode, std::string& error) {
  const std::string temporary = path + ".new";
  ::unlink(temporary.c_str());  // of a crash
  {
    const Descriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (!fd.valid() || !write_all(fd.get(), content) || ::fdatasync(fd.get()) != 0) {
      error = words(temporary);
      ::unlink(temporary.c_str());
      return false;
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    error = words(path);
    ::unlink(temporary.c_str());
    return false;
  }
  return true;
}

bool overwrite_file(const std::string& path, std::string_view content, mode_t mode, std::string& error) {
  const Descriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  if (!fd.valid() || !write_all(fd.get(), content)) {
    error = words(path);
    return false;
  }
  return true;
}

bool make_directory(const std::string& path, std::string& error) {
  for (std::size_t at = 1; at <= path.size(); ++at) {
    if (at != path.size() && path[at] != '/') continue;
    const std::string part = path.substr(0, at);
    struct stat status {};
    if (::mkdir(part.c_str(), 0700) == 0) continue;
    if (errno == EEXIST && ::stat(part.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) continue;
    error = words(part);
    return false;
  }
  return true;
}

}  // namespace penstock::io
