// ChaCha20-Poly1305 through OpenSSL's EVP, one packet at a time. The fallback, and the reference of the others.
#include <openssl/evp.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/wireguard/aead_backends.h"
#include "dataplane/core/wireguard/keys.h"

namespace penstock::wireguard {
namespace {

EVP_CIPHER* cipher() {
  static EVP_CIPHER* const fetched = EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr);
  return fetched;
}

// One direction's context, which keeps the key of the last job: runs of one session set it up once.
class Direction {
 public:
  explicit Direction(bool encrypt) : context_(EVP_CIPHER_CTX_new()), encrypt_(encrypt) {
    if (context_ == nullptr || EVP_CipherInit_ex2(context_, cipher(), nullptr, nullptr, encrypt ? 1 : 0, nullptr) != 1)
      std::abort();  // out of memory while a thread starts
  }
  ~Direction() {
    EVP_CIPHER_CTX_free(context_);
    wipe(key_);
  }
  Direction(const Direction&) = delete;
  Direction& operator=(const Direction&) = delete;

  // Context ready for this job's key and nonce; nullptr when the library refuses.
  EVP_CIPHER_CTX* prepare(const AeadJob& job) {
    std::array<std::uint8_t, 12> nonce{};
    store_le(nonce.data() + 4, job.counter);
    const bool same = keyed_ && std::memcmp(key_.data(), job.key, key_.size()) == 0;
    if (!same) std::memcpy(key_.data(), job.key, key_.size());
    keyed_ =
        EVP_CipherInit_ex2(context_, nullptr, same ? nullptr : job.key, nonce.data(), encrypt_ ? 1 : 0, nullptr) == 1;
    return keyed_ ? context_ : nullptr;
  }

 private:
  EVP_CIPHER_CTX* context_;
  bool encrypt_;
  bool keyed_ = false;
  std::array<std::uint8_t, kAeadKeySize> key_{};
};

class OpensslContext final : public AeadContext {
 public:
  void seal(std::span<AeadJob> jobs) override {
    for (AeadJob& job : jobs) {
      EVP_CIPHER_CTX* context = seal_.prepare(job);
      int length = 0;
      job.ok = context != nullptr &&
               (job.length == 0 ||
                EVP_EncryptUpdate(context, job.data, &length, job.data, static_cast<int>(job.length)) == 1) &&
               EVP_EncryptFinal_ex(context, job.data + job.length, &length) == 1 &&
               EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kAeadTagSize, job.data + job.length) == 1;
      if (!job.ok) std::abort();  // never send what is not encrypted
    }
  }

  void open(std::span<AeadJob> jobs) override {
    for (AeadJob& job : jobs) {
      EVP_CIPHER_CTX* context = open_.prepare(job);
      int length = 0;
      job.ok = context != nullptr &&
               EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kAeadTagSize, job.data + job.length) == 1 &&
               (job.length == 0 ||
                EVP_DecryptUpdate(context, job.data, &length, job.data, static_cast<int>(job.length)) == 1) &&
               EVP_DecryptFinal_ex(context, job.data + job.length, &length) == 1;
    }
  }

  [[nodiscard]] std::string_view name() const override { return "openssl"; }

 private:
  Direction seal_{true};
  Direction open_{false};
};

}  // namespace

std::unique_ptr<AeadContext> make_openssl_context() {
  if (cipher() == nullptr) return nullptr;
  return std::make_unique<OpensslContext>();
}

}  // namespace penstock::wireguard
