// One handshake thread's work, in this thread: gate, open, answer. The limit is what OpenSSL's X25519 alone takes for
// the same four multiplications (the one of the static keys is kept from the peer's first handshake), measured in turns
// with it. All four are by a point: OpenSSL takes longer to multiply the base, which is shown beside.
#include <openssl/evp.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>

#include "dataplane/core/wireguard/handshake_gate.h"
#include "dataplane/core/wireguard/handshake_work.h"
#include "dataplane/runtime/system_random.h"
#include "perf/handshake/suite.h"

namespace penstock::perf {
namespace {

using namespace wireguard;

constexpr std::size_t kWindow = 64;  // handshakes

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Client {
  DhKey key;
  Hash static_static;
};

// Initiations of as many peers, each used once, and what the Device would know of the peers.
class Prepared {
 public:
  Prepared(const DhKey& gateway, Random& random) {
    for (std::size_t i = 0; i < kWindow; ++i) {
      PrivateKey key;
      random.fill(key.bytes);
      clients_.push_back({DhKey(key), {}});
      if (!gateway.agree(clients_.back().key.public_key(), clients_.back().static_static)) std::abort();
    }
    messages.resize(kWindow);
    works.resize(kWindow);
  }

  void renew(const DhKey& gateway, Random& random) {
    timestamp_ = next_timestamp(timestamp_);
    for (std::size_t i = 0; i < kWindow; ++i) {
      PrivateKey ephemeral;
      random.fill(ephemeral.bytes);
      InitiatorState state;
      if (!create_initiation(clients_[i].key, gateway.public_key(), clients_[i].static_static, ephemeral, timestamp_,
                             static_cast<std::uint32_t>(i), messages[i], state))
        std::abort();
      put_mac1({reinterpret_cast<std::uint8_t*>(&messages[i]), sizeof messages[i]}, gateway.public_key());
    }
  }

  // Takes all messages through the gate and answers them, so many at a time. Seconds for each; below 0: not all were.
  double answer(HandshakeGate& gate, const DhKey& gateway, Random& random, std::size_t batch, Instant now) {
    const auto start = std::chrono::steady_clock::now();
    std::array<GateMessage, kWindow> judged;
    for (std::size_t i = 0; i < kWindow; ++i) {
      judged[i].bytes = {reinterpret_cast<const std::uint8_t*>(&messages[i]), sizeof messages[i]};
      judged[i].source = {IpAddress::v4(0xc6336400 + static_cast<std::uint32_t>(i)), 1};
    }
    gate.judge(judged, now);
    std::size_t answered = 0;
    for (std::size_t first = 0; first < kWindow; first += batch) {
      std::array<InitiationWork*, kHandshakeBatch> group;
      for (std::size_t k = 0; k < batch; ++k) {
        group[k] = &works[first + k];
        *group[k] = InitiationWork{};
        group[k]->message = messages[first + k];
      }
      const std::span<InitiationWork* const> span{group.data(), batch};
      open_initiations(gateway, span);
      for (std::size_t k = 0; k < batch; ++k) {  // what Device::claim gives
        group[k]->static_static = clients_[first + k].static_static;
        group[k]->local_index = static_cast<std::uint32_t>(first + k);
      }
      answer_initiations(gateway, random, span);
      for (std::size_t k = 0; k < batch; ++k)
        answered += judged[first + k].verdict == DropReason::none && group[k]->answered;
    }
    return answered == kWindow ? seconds_since(start) / kWindow : -1;
  }

  std::vector<InitiationMessage> messages;

 private:
  std::vector<InitiationWork> works;
  std::vector<Client> clients_;
  Timestamp timestamp_{0x40};
};

// OpenSSL's multiplications with everything prepared that can be: nothing but the curve.
class Curve {
 public:
  explicit Curve(Random& random) {
    std::uint8_t bytes[32];
    random.fill(bytes);
    own_ = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, bytes, sizeof bytes);
    random.fill(bytes);
    peer_ = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, bytes, sizeof bytes);
    context_ = EVP_PKEY_CTX_new(own_, nullptr);
    if (EVP_PKEY_derive_init(context_) != 1 || EVP_PKEY_derive_set_peer_ex(context_, peer_, 0) != 1) std::abort();
    generator_ = EVP_PKEY_CTX_new_id(EVP_PKEY_X25519, nullptr);
    if (EVP_PKEY_keygen_init(generator_) != 1) std::abort();
  }
  ~Curve() {
    EVP_PKEY_CTX_free(context_);
    EVP_PKEY_CTX_free(generator_);
    EVP_PKEY_free(own_);
    EVP_PKEY_free(peer_);
  }
  Curve(const Curve&) = delete;
  Curve& operator=(const Curve&) = delete;

  void by_point() {
    std::uint8_t out[32];
    std::size_t size = sizeof out;
    if (EVP_PKEY_derive(context_, out, &size) != 1) std::abort();
  }
  void by_base() {
    EVP_PKEY* made = nullptr;
    if (EVP_PKEY_keygen(generator_, &made) != 1) std::abort();
    EVP_PKEY_free(made);
  }

 private:
  EVP_PKEY *own_, *peer_;
  EVP_PKEY_CTX *context_, *generator_;
};

}  // namespace

bool measure_rate(bool quick, std::vector<Figure>& rows) {
  std::fprintf(stderr, "handshakes beside X25519\n");
  runtime::SystemRandom random;
  PrivateKey key;
  random.fill(key.bytes);
  const DhKey gateway(key);
  GateLimits limits;
  limits.under_load_per_s = limits.per_source_per_s = limits.per_source_burst = 1'000'000;
  HandshakeGate gate(gateway.public_key(), limits, nullptr, random);
  Prepared prepared(gateway, random);
  Curve curve(random);
  std::vector<double> handshakes, multiplications, shares, by_point, by_base, alone_rates, alone_shares;
  const int windows = quick ? 25 : 100;
  for (int window = 0; window < windows; ++window) {
    prepared.renew(gateway, random);
    const Instant now(std::chrono::seconds(window + 1));
    const double ours = prepared.answer(gate, gateway, random, kHandshakeBatch, now);
    const double alone = prepared.answer(gate, gateway, random, 1, now);
    if (ours < 0 || alone < 0) {
      std::fprintf(stderr, "perf-handshake: not all handshakes were answered\n");
      return false;
    }
    auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < 4 * kWindow; ++i) curve.by_point();
    const double limit = seconds_since(start) / kWindow;
    by_point.push_back(limit / 4);
    start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < kWindow / 4; ++i) curve.by_base();
    by_base.push_back(4 * seconds_since(start) / kWindow);
    handshakes.push_back(1 / ours);
    multiplications.push_back(1 / limit);
    shares.push_back(limit / ours);
    alone_rates.push_back(1 / alone);
    alone_shares.push_back(limit / alone);
  }
  Figure row;
  row.suite = "handshake";
  row.name = "responder";
  row.value = quantile(handshakes, 0.75);
  row.unit = "handshakes/s per thread";
  // The share comes from pairs of neighbouring windows; the limit is stated so that it gives that share.
  const double share = quantile(shares, 0.5);
  row.limit = row.value / share;
  row.peer = "X25519 of OpenSSL alone";
  row.peer_value = row.limit;
  row.ratio = share;
  row.goal_share = 0.9;
  row.spread = {quantile(handshakes, 0.1), quantile(handshakes, 1)};
  rows.push_back(row);
  Figure alone = row;
  alone.name = "responder/alone";
  alone.value = quantile(alone_rates, 0.75);
  alone.ratio = quantile(alone_shares, 0.5);
  alone.limit = alone.peer_value = alone.value / *alone.ratio;
  alone.goal_share.reset();
  alone.spread = {quantile(alone_rates, 0.1), quantile(alone_rates, 1)};
  alone.note = "one handshake at a time, as when few arrive";
  rows.push_back(alone);
  Figure tunnels;
  tunnels.suite = "handshake";
  tunnels.name = "tunnels";
  tunnels.value = row.value * 120;
  tunnels.unit = "tunnels per thread";
  tunnels.note = "each renews its session every 120 s";
  rows.push_back(tunnels);
  Figure x25519;
  x25519.suite = "handshake";
  x25519.name = "x25519";
  x25519.value = 1e6 * quantile(by_point, 0.25);
  x25519.unit = "us";
  x25519.less_is_better = true;
  x25519.peer = "of the base point";
  x25519.peer_value = 1e6 * quantile(by_base, 0.25);
  x25519.ratio = *x25519.peer_value / x25519.value;
  x25519.note = "one multiplication by a point, OpenSSL";
  rows.push_back(x25519);
  std::printf("responder   %8.0f handshakes/s per thread, %.0f %% of what X25519 alone allows (%.0f); %.0f tunnels\n",
              row.value, 100 * share, *row.limit, tunnels.value);
  return true;
}

}  // namespace penstock::perf
