#include "dataplane/runtime/key_file.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace penstock::runtime {
namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::size_t kTextSize = 44;

KeyFileError failure(const std::string& path, const std::string& what) {
  return {path + " " + what};
}
KeyFileError system_failure(const std::string& path, const std::string& what) {
  return {path + " " + what + ": " + std::strerror(errno)};
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

std::variant<KeyBytes, KeyFileError> read_open(int fd, const std::string& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return system_failure(path, "cannot be examined");
  if (!S_ISREG(info.st_mode)) return failure(path, "is not a regular file");
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0)
    return failure(path, "may be read by its group or by others; it must have mode 0600");
  char text[kTextSize + 2];
  const ssize_t n = ::read(fd, text, sizeof text);
  if (n < 0) return system_failure(path, "cannot be read");
  std::string_view view(text, static_cast<std::size_t>(n));
  if (view.ends_with('\n')) view.remove_suffix(1);
  const auto key = parse_key(view);
  OPENSSL_cleanse(text, sizeof text);
  if (!key) return failure(path, "does not hold a key of 32 bytes in base64");
  return *key;
}

}  // namespace

std::optional<KeyBytes> parse_key(std::string_view base64) {
  if (base64.size() != kTextSize || base64[43] != '=') return std::nullopt;
  KeyBytes key{};
  std::uint32_t bits = 0;
  unsigned count = 0;
  std::size_t out = 0;
  for (std::size_t i = 0; i < 43; ++i) {
    const std::size_t value = kAlphabet.find(base64[i]);
    if (value == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      key[out++] = static_cast<std::uint8_t>(bits >> count);
      bits &= (1U << count) - 1;
    }
  }
  if (bits != 0) return std::nullopt;  // the last character's spare bits
  return key;
}

std::string format_key(const KeyBytes& key) {
  std::string out;
  out.reserve(kTextSize);
  std::uint32_t bits = 0;
  unsigned count = 0;
  for (const std::uint8_t byte : key) {
    bits = bits << 8 | byte;
    count += 8;
    while (count >= 6) {
      count -= 6;
      out.push_back(kAlphabet[bits >> count & 63]);
    }
    bits &= (1U << count) - 1;
  }
  out.push_back(kAlphabet[bits << (6 - count) & 63]);
  out.push_back('=');
  return out;
}

std::variant<KeyBytes, KeyFileError> read_key_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return system_failure(path, "cannot be opened");
  return read_open(file.get(), path);
}

std::variant<KeyBytes, KeyFileError> read_or_create_private_key(const std::string& path) {
  {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.get() >= 0) return read_open(file.get(), path);
    if (errno != ENOENT) return system_failure(path, "cannot be opened");
  }
  KeyBytes key{};
  if (::getrandom(key.data(), key.size(), 0) != static_cast<ssize_t>(key.size()))
    return system_failure(path, "cannot be made: no random numbers");
  // RFC 7748 §5: the form in which other tools expect a private key.
  key[0] &= 248;
  key[31] = static_cast<std::uint8_t>((key[31] & 127) | 64);

  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  if (!directory.empty() && !std::filesystem::exists(directory)) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (!error) std::filesystem::permissions(directory, std::filesystem::perms::owner_all, error);
    if (error) return failure(path, "cannot be made: " + directory.string() + ": " + error.message());
  }
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) return system_failure(path, "cannot be made");
  std::string text = format_key(key) + "\n";
  const bool written =
      ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) && ::fsync(file.get()) == 0;
  OPENSSL_cleanse(text.data(), text.size());
  if (!written) {
    const KeyFileError error = system_failure(path, "cannot be written");
    ::unlink(path.c_str());
    return error;
  }
  return key;
}

}  // namespace penstock::runtime
