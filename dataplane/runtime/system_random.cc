#include "dataplane/runtime/system_random.h"

#include <openssl/crypto.h>
#include <sys/random.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace penstock::runtime {
namespace {

void fetch(std::uint8_t* to, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::getrandom(to, size, 0);
    if (n < 0) {
      if (errno == EINTR) continue;
      std::abort();
    }
    to += n;
    size -= static_cast<std::size_t>(n);
  }
}

}  // namespace

SystemRandom::~SystemRandom() {
  OPENSSL_cleanse(block_.data(), block_.size());
}

void SystemRandom::fill(std::span<std::uint8_t> out) {
  if (out.size() > block_.size() / 4) {
    fetch(out.data(), out.size());
    return;
  }
  if (block_.size() - used_ < out.size()) {
    fetch(block_.data(), block_.size());
    used_ = 0;
  }
  std::memcpy(out.data(), block_.data() + used_, out.size());
  // What was given out may become a key: it is not kept.
  OPENSSL_cleanse(block_.data() + used_, out.size());
  used_ += out.size();
}

}  // namespace penstock::runtime
