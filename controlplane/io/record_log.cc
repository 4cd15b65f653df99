#include "controlplane/io/record_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

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

std::string words(const std::string& what, const std::string& path, int error = errno) {
  std::string out = what;
  out.append(" ").append(path).append(": ").append(std::strerror(error));
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

// A renamed file is there after a power failure only when its directory was synced.
bool sync_directory(const std::filesystem::path& file) {
  const auto directory = file.parent_path();
  const Descriptor fd{::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  return fd.valid() && fsync(fd.get()) == 0;
}

}  // namespace

std::unique_ptr<RecordLog> RecordLog::open(const std::string& path, std::string& error, Sync sync) {
  std::error_code code;
  const auto directory = std::filesystem::path{path}.parent_path();
  if (!directory.empty()) std::filesystem::create_directories(directory, code);
  if (code) {
    error = "cannot create " + directory.string() + ": " + code.message();
    return nullptr;
  }
  std::unique_ptr<RecordLog> out{new RecordLog{path, sync ? std::move(sync) : Sync{&fdatasync}}};
  if (!out->read(error)) return nullptr;
  return out;
}

RecordLog::RecordLog(std::string path, Sync sync)
    : path_(std::move(path)), sync_(std::move(sync)), thread_([this] { run(); }) {}

RecordLog::~RecordLog() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

bool RecordLog::read(std::string& error) {
  file_ = std::make_shared<Descriptor>(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0600));
  if (!file_->valid()) {
    error = words("cannot open", path_);
    return false;
  }
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t got = ::read(file_->get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      error = words("cannot read", path_);
      return false;
    }
    if (got == 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    ++lines_;
    const std::size_t sum = line.rfind('\t');
    const std::size_t tab = line.find('\t');
    if (sum == std::string_view::npos || tab >= sum || checksum(line.substr(0, sum)) != line.substr(sum + 1)) {
      ++damaged_;
      continue;
    }
    const auto value = from_base64(line.substr(tab + 1, sum - tab - 1));
    const std::string key{line.substr(0, tab)};
    if (!value) {
      ++damaged_;
    } else if (value->empty()) {
      records_.erase(key);
    } else {
      records_[key] = *value;
    }
  }
  // A torn last line must not swallow the next one.
  if (!text.empty() && text.back() != '\n') unwritten_.push_back('\n');
  return true;
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
  int failed = 0;
  {
    const std::lock_guard lock(mutex_);
    failed = std::exchange(failed_, 0);
  }
  const auto now = std::chrono::steady_clock::now();
  if (failed != 0 && !rewrite_) {
    trouble_ = words("cannot sync", path_, failed);
    rewrite_ = true;
    retry_at_ = now + kRetry;
  }
  if (unwritten_.empty() && !rewrite_) return true;
  if (rewrite_ ? now >= retry_at_ : lines_ > kCompactLines && lines_ > 4 * records_.size()) return compact(error);
  if (!write_all(file_->get(), unwritten_)) {
    error = words("cannot write", path_);
    // Whatever part was written ends in a damaged line; all of it is written again.
    if (unwritten_.front() != '\n') unwritten_.insert(unwritten_.begin(), '\n');
    return false;
  }
  unwritten_.clear();
  if (rewrite_) {  // that will sync it as well
    error = trouble_;
    return false;
  }
  sync_later();
  return true;
}

bool RecordLog::compact(std::string& error) {
  const std::string beside = path_ + ".new";
  auto file = std::make_shared<Descriptor>(
      ::open(beside.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0600));
  std::string text;
  for (const auto& [key, value] : records_) text += line_of(key, value);
  if (!file->valid() || !write_all(file->get(), text) || sync_(file->get()) != 0 ||
      rename(beside.c_str(), path_.c_str()) != 0)
    return rewrite_later(error);
  file_ = std::move(file);
  lines_ = records_.size();
  unwritten_.clear();
  if (!sync_directory(path_)) return rewrite_later(error);
  rewrite_ = false;
  return true;
}

bool RecordLog::rewrite_later(std::string& error) {
  error = trouble_ = words("cannot rewrite", path_);
  rewrite_ = true;
  retry_at_ = std::chrono::steady_clock::now() + kRetry;
  return false;
}

void RecordLog::sync_later() {
  {
    const std::lock_guard lock(mutex_);
    to_sync_ = file_;
  }
  wake_.notify_one();
}

// What is flushed within kGather, or while the disk is busy, is synced together.
void RecordLog::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return to_sync_ != nullptr || ending_; });
    wake_.wait_for(lock, kGather, [this] { return ending_; });
    const auto file = std::exchange(to_sync_, nullptr);
    if (file == nullptr) return;
    lock.unlock();
    const int failed = sync_(file->get()) == 0 ? 0 : errno;
    lock.lock();
    if (failed != 0) failed_ = failed;
  }
}

}  // namespace penstock::io
