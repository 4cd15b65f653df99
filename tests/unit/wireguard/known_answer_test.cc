// Every message type against a second implementation, written from the whitepaper step by step over bare OpenSSL calls:
// the test plays one side itself and recomputes each byte the device sends, with the randomness the device drew.
#include <gtest/gtest.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <deque>
#include <string>
#include <vector>

#include "dataplane/core/wireguard/device.h"
#include "tests/unit/wireguard/support.h"

namespace penstock::wireguard {
namespace {

using Buffer = std::vector<std::uint8_t>;
using Pkey = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

// --- The primitives, again ---------------------------------------------------------------------------------------

Buffer text(const std::string& s) {
  return {s.begin(), s.end()};
}
Buffer join(std::initializer_list<Buffer> parts) {
  Buffer out;
  for (const Buffer& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}
Buffer cut(const Buffer& from, std::size_t start, std::size_t length) {
  return {from.begin() + static_cast<std::ptrdiff_t>(start),
          from.begin() + static_cast<std::ptrdiff_t>(start + length)};
}

Buffer HASH(const Buffer& input) {
  Buffer out(32);
  EXPECT_EQ(EVP_Digest(input.data(), input.size(), out.data(), nullptr, EVP_blake2s256(), nullptr), 1);
  return out;
}
Buffer HMAC_(const Buffer& key, const Buffer& input) {
  Buffer out(32);
  unsigned size = 32;
  EXPECT_NE(
      HMAC(EVP_blake2s256(), key.data(), static_cast<int>(key.size()), input.data(), input.size(), out.data(), &size),
      nullptr);
  return out;
}
Buffer MAC(const Buffer& key, const Buffer& input) {
  Buffer out(16);
  std::size_t size = 16;
  EVP_MAC* algorithm = EVP_MAC_fetch(nullptr, "BLAKE2SMAC", nullptr);
  EVP_MAC_CTX* context = EVP_MAC_CTX_new(algorithm);
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size), OSSL_PARAM_construct_end()};
  EXPECT_EQ(EVP_MAC_init(context, key.data(), key.size(), params), 1);
  EXPECT_EQ(EVP_MAC_update(context, input.data(), input.size()), 1);
  EXPECT_EQ(EVP_MAC_final(context, out.data(), &size, out.size()), 1);
  EVP_MAC_CTX_free(context);
  EVP_MAC_free(algorithm);
  return out;
}
std::vector<Buffer> KDF(std::size_t n, const Buffer& key, const Buffer& input) {
  const Buffer t0 = HMAC_(key, input);
  std::vector<Buffer> out;
  for (std::uint8_t i = 1; i <= n; ++i)
    out.push_back(HMAC_(t0, join({out.empty() ? Buffer{} : out.back(), Buffer(1, i)})));
  return out;
}
Buffer AEAD_seal(const Buffer& key, const Buffer& nonce, const Buffer& plain, const Buffer& ad) {
  Buffer out(plain.size() + 16);
  int n = 0;
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  EXPECT_EQ(EVP_EncryptInit_ex(context, EVP_chacha20_poly1305(), nullptr, key.data(), nonce.data()), 1);
  if (!ad.empty()) EVP_EncryptUpdate(context, nullptr, &n, ad.data(), static_cast<int>(ad.size()));
  if (!plain.empty()) EVP_EncryptUpdate(context, out.data(), &n, plain.data(), static_cast<int>(plain.size()));
  EXPECT_EQ(EVP_EncryptFinal_ex(context, out.data() + plain.size(), &n), 1);
  EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, out.data() + plain.size());
  EVP_CIPHER_CTX_free(context);
  return out;
}
Buffer nonce(std::uint64_t counter) {
  Buffer out(12);
  for (std::size_t i = 0; i < 8; ++i) out[4 + i] = static_cast<std::uint8_t>(counter >> (8 * i));
  return out;
}
Buffer AEAD(const Buffer& key, std::uint64_t counter, const Buffer& plain, const Buffer& ad) {
  return AEAD_seal(key, nonce(counter), plain, ad);
}

// HChaCha20 of draft-irtf-cfrg-xchacha section 2.2, as the text says it.
Buffer hchacha(const Buffer& key, const Buffer& nonce16) {
  std::array<std::uint32_t, 16> s{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  for (std::size_t i = 0; i < 8; ++i) s[4 + i] = load_le<std::uint32_t>(key.data() + 4 * i);
  for (std::size_t i = 0; i < 4; ++i) s[12 + i] = load_le<std::uint32_t>(nonce16.data() + 4 * i);
  const auto quarter = [&s](std::size_t a, std::size_t b, std::size_t c, std::size_t d) {
    s[a] += s[b], s[d] = std::rotl(s[d] ^ s[a], 16);
    s[c] += s[d], s[b] = std::rotl(s[b] ^ s[c], 12);
    s[a] += s[b], s[d] = std::rotl(s[d] ^ s[a], 8);
    s[c] += s[d], s[b] = std::rotl(s[b] ^ s[c], 7);
  };
  for (int round = 0; round < 10; ++round) {
    quarter(0, 4, 8, 12), quarter(1, 5, 9, 13), quarter(2, 6, 10, 14), quarter(3, 7, 11, 15);
    quarter(0, 5, 10, 15), quarter(1, 6, 11, 12), quarter(2, 7, 8, 13), quarter(3, 4, 9, 14);
  }
  Buffer out(32);
  for (std::size_t i = 0; i < 4; ++i) {
    store_le(out.data() + 4 * i, s[i]);
    store_le(out.data() + 16 + 4 * i, s[12 + i]);
  }
  return out;
}
Buffer XAEAD(const Buffer& key, const Buffer& nonce24, const Buffer& plain, const Buffer& ad) {
  return AEAD_seal(hchacha(key, cut(nonce24, 0, 16)), join({Buffer(4), cut(nonce24, 16, 8)}), plain, ad);
}

Pkey private_pkey(const Buffer& raw) {
  return {EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, raw.data(), raw.size()), EVP_PKEY_free};
}
Buffer PUB(const Buffer& secret) {
  Buffer out(32);
  std::size_t size = 32;
  EXPECT_EQ(EVP_PKEY_get_raw_public_key(private_pkey(secret).get(), out.data(), &size), 1);
  return out;
}
Buffer DH(const Buffer& secret, const Buffer& point) {
  const Pkey own = private_pkey(secret);
  const Pkey other{EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, point.data(), point.size()), EVP_PKEY_free};
  EVP_PKEY_CTX* context = EVP_PKEY_CTX_new(own.get(), nullptr);
  Buffer out(32);
  std::size_t size = 32;
  EXPECT_EQ(EVP_PKEY_derive_init(context), 1);
  EXPECT_EQ(EVP_PKEY_derive_set_peer(context, other.get()), 1);
  EXPECT_EQ(EVP_PKEY_derive(context, out.data(), &size), 1);
  EVP_PKEY_CTX_free(context);
  return out;
}

// --- Both messages of the handshake, again -----------------------------------------------------------------------

Buffer le32_of(std::uint32_t value) {
  Buffer out(4);
  store_le(out.data(), value);
  return out;
}

struct Transcript {
  Buffer C, H;
};

// Section 5.4.2, from the initiator's secrets. Returns the whole message with mac2 zero.
Buffer initiation(const Buffer& static_secret, const Buffer& ephemeral_secret, const Buffer& responder,
                  const Buffer& timestamp, std::uint32_t index, Transcript& t) {
  t.C = HASH(text("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"));
  t.H = HASH(join({t.C, text("WireGuard v1 zx2c4 Jason@zx2c4.com")}));
  t.H = HASH(join({t.H, responder}));
  const Buffer ephemeral = PUB(ephemeral_secret);
  t.C = KDF(1, t.C, ephemeral)[0];
  t.H = HASH(join({t.H, ephemeral}));
  auto ck = KDF(2, t.C, DH(ephemeral_secret, responder));
  t.C = ck[0];
  const Buffer sealed_static = AEAD(ck[1], 0, PUB(static_secret), t.H);
  t.H = HASH(join({t.H, sealed_static}));
  ck = KDF(2, t.C, DH(static_secret, responder));
  t.C = ck[0];
  const Buffer sealed_timestamp = AEAD(ck[1], 0, timestamp, t.H);
  t.H = HASH(join({t.H, sealed_timestamp}));
  const Buffer body = join({le32_of(1), le32_of(index), ephemeral, sealed_static, sealed_timestamp});
  return join({body, MAC(HASH(join({text("mac1----"), responder})), body), Buffer(16)});
}

// Section 5.4.3, from the responder's secrets. `to_initiator` and `to_responder` are the transport keys.
Buffer response(Transcript t, const Buffer& ephemeral_secret, const Buffer& initiator_ephemeral,
                const Buffer& initiator, const Buffer& psk, std::uint32_t sender, std::uint32_t receiver,
                Buffer& to_responder, Buffer& to_initiator) {
  const Buffer ephemeral = PUB(ephemeral_secret);
  t.C = KDF(1, t.C, ephemeral)[0];
  t.H = HASH(join({t.H, ephemeral}));
  t.C = KDF(1, t.C, DH(ephemeral_secret, initiator_ephemeral))[0];
  t.C = KDF(1, t.C, DH(ephemeral_secret, initiator))[0];
  const auto ctk = KDF(3, t.C, psk);
  t.C = ctk[0];
  t.H = HASH(join({t.H, ctk[1]}));
  const Buffer empty = AEAD(ctk[2], 0, {}, t.H);
  const auto transport = KDF(2, t.C, {});
  to_responder = transport[0];
  to_initiator = transport[1];
  const Buffer body = join({le32_of(2), le32_of(sender), le32_of(receiver), ephemeral, empty});
  return join({body, MAC(HASH(join({text("mac1----"), initiator})), body), Buffer(16)});
}

Buffer data_message(const Buffer& key, std::uint32_t receiver, std::uint64_t counter, const Buffer& plain) {
  return join({le32_of(4), le32_of(receiver), cut(nonce(counter), 4, 8), AEAD(key, counter, plain, {})});
}

// --- The device under test ---------------------------------------------------------------------------------------

// Remembers what was drawn, so that the test can draw the same conclusions.
class RecordingRandom final : public Random {
 public:
  void fill(std::span<std::uint8_t> out) override {
    inner_.fill(out);
    drawn.emplace_back(out.begin(), out.end());
  }
  // The newest draw of this many bytes.
  [[nodiscard]] Buffer last(std::size_t size) const {
    for (auto it = drawn.rbegin(); it != drawn.rend(); ++it)
      if (it->size() == size) return *it;
    return {};
  }
  std::deque<Buffer> drawn;

 private:
  SeededRandom inner_{4711};
};

Buffer buffer_of(const auto& range) {
  return {range.begin(), range.end()};
}

class KnownAnswer : public ::testing::Test {
 protected:
  KnownAnswer() {
    SeededRandom random(1);
    random.fill(secret_);
    config_.public_key = PublicKey::from_bytes(PUB(secret_)).value();
    random.fill(config_.preshared_key.bytes);
    config_.endpoints = {path_.remote};
    psk_ = buffer_of(config_.preshared_key.bytes);
    DeviceConfig device;
    device.private_key = private_key(3);
    device_secret_ = buffer_of(device.private_key.bytes);
    device_ = std::make_unique<Device>(device, random_);
    EXPECT_EQ(device_->add_peer(config_, now_).error, PeerError::none);
  }

  Buffer output() {
    auto out = device_->poll_output();
    EXPECT_TRUE(out.has_value());
    EXPECT_EQ(out ? out->path.remote : Endpoint{}, path_.remote);
    return out ? out->bytes : Buffer(148);
  }

  // 2023-11-14 22:13:20.5 UTC: seconds since 1970 + 2^62 + 10, nanoseconds rounded down to 2^24.
  Now now_{Instant(std::chrono::hours(1)), {1'700'000'000, 500'000'000}};
  Buffer timestamp_{0x40, 0, 0, 0, 0x65, 0x53, 0xf1, 0x0a, 0x1d, 0, 0, 0};
  Path path_{{}, endpoint("203.0.113.9:7777"), 0};
  RecordingRandom random_;
  PeerConfig config_;
  Buffer secret_ = Buffer(32), device_secret_, psk_;
  std::unique_ptr<Device> device_;
};

TEST_F(KnownAnswer, DeviceAsInitiator) {
  device_->want_session(0, now_);
  const Buffer got = output();
  const Buffer ephemeral = random_.last(32);
  const std::uint32_t index = load_le<std::uint32_t>(got.data() + 4);
  EXPECT_EQ(index, load_le<std::uint32_t>(random_.last(4).data())) << "drawn at random before the ephemeral key";
  Transcript transcript;
  EXPECT_EQ(got, initiation(device_secret_, ephemeral, PUB(secret_), timestamp_, index, transcript));

  Buffer to_device, to_us;
  const Buffer answer = response(transcript, Buffer(32, 0x42), PUB(ephemeral), PUB(device_secret_), psk_, 0xabcdef01,
                                 index, to_us, to_device);
  ASSERT_EQ(answer.size(), 92U);
  EXPECT_EQ(device_->handle_handshake(answer, path_, now_), DropReason::none);
  EXPECT_EQ(output(), data_message(to_us, 0xabcdef01, 0, {})) << "the keepalive that confirms the session";

  const Buffer inner = inner_packet(45, 6);
  EXPECT_EQ(device_->send(0, inner, now_), DropReason::none);
  EXPECT_EQ(output(), data_message(to_us, 0xabcdef01, 1, join({inner, Buffer(3)}))) << "padded to 16";

  Buffer datagram = data_message(to_device, index, 77, join({inner, Buffer(3)}));
  const auto received = device_->handle_datagram(datagram, path_, now_);
  EXPECT_EQ(received.reason, DropReason::none);
  EXPECT_EQ(buffer_of(received.inner), inner);
}

TEST_F(KnownAnswer, DeviceAsResponder) {
  Transcript transcript;
  const Buffer ephemeral(32, 0x17);
  const Buffer asked = initiation(secret_, ephemeral, PUB(device_secret_), timestamp_, 0x01020304, transcript);
  ASSERT_EQ(asked.size(), 148U);
  EXPECT_EQ(device_->handle_handshake(asked, path_, now_), DropReason::none);
  const Buffer got = output();
  const std::uint32_t index = load_le<std::uint32_t>(got.data() + 4);
  Buffer to_device, to_us;
  EXPECT_EQ(got, response(transcript, random_.last(32), PUB(ephemeral), PUB(secret_), psk_, index, 0x01020304,
                          to_device, to_us));

  Buffer keepalive = data_message(to_device, index, 0, {});
  EXPECT_EQ(device_->handle_datagram(keepalive, path_, now_).reason, DropReason::wg_keepalive);
  const Buffer inner = inner_packet(64, 6);
  EXPECT_EQ(device_->send(0, inner, now_), DropReason::none);
  EXPECT_EQ(output(), data_message(to_us, 0x01020304, 0, inner));
}

TEST_F(KnownAnswer, CookieGivenAndAskedFor) {
  device_->set_under_load(true);
  Transcript transcript;
  Buffer asked = initiation(secret_, Buffer(32, 0x17), PUB(device_secret_), timestamp_, 0x01020304, transcript);
  EXPECT_EQ(device_->handle_handshake(asked, path_, now_), DropReason::wg_mac2_required);
  const Buffer reply = output();
  ASSERT_EQ(reply.size(), 64U);
  // Cookie = MAC(secret, source address and port): 203.0.113.9, 7777. The secret was the device's last 32-byte draw.
  const Buffer cookie = MAC(random_.last(32), Buffer{203, 0, 113, 9, 7777 >> 8, 7777 & 0xff});
  const Buffer nonce24 = random_.last(24);
  const Buffer mac1 = cut(asked, 116, 16);
  EXPECT_EQ(reply, join({le32_of(3), le32_of(0x01020304), nonce24,
                         XAEAD(HASH(join({text("cookie--"), PUB(device_secret_)})), nonce24, cookie, mac1)}));
  // The same message with mac2 is taken.
  const Buffer mac2 = MAC(cookie, cut(asked, 0, 132));
  std::copy(mac2.begin(), mac2.end(), asked.begin() + 132);
  EXPECT_EQ(device_->handle_handshake(asked, path_, now_), DropReason::none);
}

TEST_F(KnownAnswer, CookieTaken) {
  device_->want_session(0, now_);
  const Buffer first = output();
  const Buffer cookie(16, 0x33), nonce24(24, 0x44);
  const Buffer reply =
      join({le32_of(3), cut(first, 4, 4), nonce24,
            XAEAD(HASH(join({text("cookie--"), PUB(secret_)})), nonce24, cookie, cut(first, 116, 16))});
  EXPECT_EQ(device_->handle_handshake(reply, path_, now_), DropReason::none);
  EXPECT_FALSE(device_->poll_output().has_value()) << "the retry waits for its time";
  now_.monotonic += seconds(6);
  device_->handle_timeout(now_);
  const Buffer second = output();
  EXPECT_EQ(cut(second, 132, 16), MAC(cookie, cut(second, 0, 132)));
  EXPECT_EQ(cut(first, 132, 16), Buffer(16));
}

}  // namespace
}  // namespace penstock::wireguard
