// ChaCha20-Poly1305 through intel-ipsec-mb's burst interface, one manager per context.
#include <intel-ipsec-mb.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/wireguard/aead_backends.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kBurst = 32;
constexpr std::size_t kNonceSize = 12;

// Without early exit.
bool equal_tags(const std::uint8_t* a, const std::uint8_t* b) {
  std::array<std::uint64_t, 2> left, right;
  std::memcpy(left.data(), a, kAeadTagSize);
  std::memcpy(right.data(), b, kAeadTagSize);
  return ((left[0] ^ right[0]) | (left[1] ^ right[1])) == 0;
}

class IpsecMbContext final : public AeadContext {
 public:
  explicit IpsecMbContext(IMB_MGR* manager) : manager_(manager) {}
  ~IpsecMbContext() override { free_mb_mgr(manager_); }
  IpsecMbContext(const IpsecMbContext&) = delete;
  IpsecMbContext& operator=(const IpsecMbContext&) = delete;

  void seal(std::span<AeadJob> jobs) override { run(jobs, IMB_DIR_ENCRYPT); }
  void open(std::span<AeadJob> jobs) override { run(jobs, IMB_DIR_DECRYPT); }
  [[nodiscard]] std::string_view name() const override { return "ipsec-mb"; }

 private:
  void run(std::span<AeadJob> jobs, IMB_CIPHER_DIRECTION direction) {
    while (!jobs.empty()) {
      const auto now = jobs.first(std::min(jobs.size(), kBurst));
      run_burst(now, direction);
      jobs = jobs.subspan(now.size());
    }
  }

  void run_burst(std::span<AeadJob> jobs, IMB_CIPHER_DIRECTION direction) {
    // The manager gives out entries of its queue, fewer than asked for when they would wrap around its end.
    for (std::size_t done = 0; done < jobs.size();) {
      IMB_JOB* entries[kBurst];
      const auto wanted = static_cast<std::uint32_t>(jobs.size() - done);
      const std::uint32_t given = IMB_GET_NEXT_BURST(manager_, wanted, entries);
      if (given == 0) {
        static_cast<void>(IMB_FLUSH_BURST(manager_, kBurst, entries));
        continue;
      }
      for (std::uint32_t i = 0; i < given; ++i) fill(*entries[i], jobs[done + i], done + i, direction);
      std::uint32_t completed = IMB_SUBMIT_BURST_NOCHECK(manager_, given, entries);
      while (completed < given) {
        const std::uint32_t more = IMB_FLUSH_BURST(manager_, given - completed, entries);
        if (more == 0) std::abort();  // a job vanished: the library's queue is not what it says
        completed += more;
      }
      done += given;
    }
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      AeadJob& job = jobs[i];
      if (direction == IMB_DIR_ENCRYPT) {
        std::memcpy(job.data + job.length, tags_[i].data(), kAeadTagSize);
        job.ok = true;
      } else {
        job.ok = equal_tags(tags_[i].data(), job.data + job.length);
      }
    }
  }

  void fill(IMB_JOB& entry, const AeadJob& job, std::size_t slot, IMB_CIPHER_DIRECTION direction) {
    auto& nonce = nonces_[slot];
    store_le(nonce.data() + 4, job.counter);
    entry.cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    entry.hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    entry.cipher_direction = direction;
    entry.chain_order = direction == IMB_DIR_ENCRYPT ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    entry.enc_keys = job.key;
    entry.dec_keys = job.key;
    entry.key_len_in_bytes = kAeadKeySize;
    entry.iv = nonce.data();
    entry.iv_len_in_bytes = kNonceSize;
    entry.u.CHACHA20_POLY1305.aad = nonce.data();  // unused, but may not be null
    entry.u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
    entry.src = job.data;
    entry.dst = job.data;
    entry.cipher_start_src_offset_in_bytes = 0;
    entry.msg_len_to_cipher_in_bytes = job.length;
    entry.hash_start_src_offset_in_bytes = 0;
    entry.msg_len_to_hash_in_bytes = job.length;
    entry.auth_tag_output = tags_[slot].data();
    entry.auth_tag_output_len_in_bytes = kAeadTagSize;
    entry.user_data = nullptr;
  }

  IMB_MGR* manager_;
  alignas(64) std::array<std::array<std::uint8_t, 16>, kBurst> nonces_{};  // first 12 bytes used
  alignas(64) std::array<std::array<std::uint8_t, kAeadTagSize>, kBurst> tags_{};
};

}  // namespace

std::unique_ptr<AeadContext> make_ipsec_mb_context() {
  IMB_MGR* manager = alloc_mb_mgr(0);
  if (manager == nullptr) return nullptr;
  IMB_ARCH arch = IMB_ARCH_NONE;
  init_mb_mgr_auto(manager, &arch);
  if (imb_get_errno(manager) != 0 || arch == IMB_ARCH_NONE) {
    free_mb_mgr(manager);
    return nullptr;
  }
  return std::make_unique<IpsecMbContext>(manager);
}

}  // namespace penstock::wireguard
