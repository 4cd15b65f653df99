#include "controlplane/io/record_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "controlplane/core/convert.h"

namespace penstock::io {
namespace {

constexpr std::size_t kCompactLines = 64;  // never worth it below

// FNV-1a: against torn and flipped bytes, not against people; the file is root's.
std::string checksum(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  char out[17];
  std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(hash));
  return out;
}

std::string line_of(const std::string& key, const std::string& value) {
  std::string line = key;
  line.push_back('\t');
  line.append(base64(value));
  const std::string sum = checksum(line);
  line.push_back('\t');
  line.append(sum);
  line.push_back('\n');
  return line;
}

std::string words(const std::string& what, const std::string& path) {
  std::string out = what;
  out.append(" ").append(path).append(": ").append(std::strerror(errno));
  return out;
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

std::unique_ptr<RecordLog> RecordLog::open(const std::string& path, std::string& error) {
  std::error_code code;
  const auto directory = std::filesystem::path{path}.parent_path();
  if (!directory.empty()) std::filesystem::create_directories(directory, code);
  if (code) {
    error = "cannot create " + directory.string() + ": " + code.message();
    return nullptr;
  }
  std::unique_ptr<RecordLog> out{new RecordLog};
  out->path_ = path;
  out->fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0600);
  if (out->fd_ < 0) {
    error = words("cannot open", path);
    return nullptr;
  }
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t got = read(out->fd_, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      error = words("cannot read", path);
      return nullptr;
    }
    if (got == 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    ++out->lines_;
    const std::size_t sum = line.rfind('\t');
    const std::size_t tab = line.find('\t');
    if (sum == std::string_view::npos || tab >= sum || checksum(line.substr(0, sum)) != line.substr(sum + 1)) {
      ++out->damaged_;
      continue;
    }
    const auto value = from_base64(line.substr(tab + 1, sum - tab - 1));
    const std::string key{line.substr(0, tab)};
    if (!value) {
      ++out->damaged_;
    } else if (value->empty()) {
      out->records_.erase(key);
    } else {
      out->records_[key] = *value;
    }
  }
  // A torn last line must not swallow the next one.
  if (!text.empty() && text.back() != '\n') out->unwritten_.push_back('\n');
  return out;
}

RecordLog::~RecordLog() {
  if (fd_ >= 0) close(fd_);
}

void RecordLog::set(const std::string& key, const std::string& value) {
  const auto found = records_.find(key);
  if (value.empty() ? found == records_.end() : found != records_.end() && found->second == value) return;
  if (value.empty())
    records_.erase(found);
  else
    records_[key] = value;
  unwritten_ += line_of(key, value);
  ++lines_;
}

bool RecordLog::flush(std::string& error) {
  if (unwritten_.empty()) return true;
  if (lines_ > kCompactLines && lines_ > 4 * records_.size()) return compact(error);
  if (!write_all(fd_, unwritten_) || fdatasync(fd_) != 0) {
    error = words("cannot write", path_);
    // Whatever part was written ends in a damaged line; all of it is written again.
    if (unwritten_.front() != '\n') unwritten_.insert(unwritten_.begin(), '\n');
    return false;
  }
  unwritten_.clear();
  return true;
}

bool RecordLog::compact(std::string& error) {
  const std::string beside = path_ + ".new";
  const int fd = ::open(beside.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0600);
  std::string text;
  for (const auto& [key, value] : records_) text += line_of(key, value);
  if (fd < 0 || !write_all(fd, text) || fdatasync(fd) != 0 || rename(beside.c_str(), path_.c_str()) != 0) {
    error = words("cannot rewrite", path_);
    if (fd >= 0) close(fd);
    return false;
  }
  close(fd_);
  fd_ = fd;
  lines_ = records_.size();
  unwritten_.clear();
  return true;
}

}  // namespace penstock::io
