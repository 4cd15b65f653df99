#include "dataplane/core/wireguard/chacha20_poly1305_x8.h"

#if defined(__AVX2__) && defined(__BMI2__)

#define PENSTOCK_INLINE inline __attribute__((always_inline))

#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/wireguard/chacha20_x8.h"
#include "dataplane/core/wireguard/poly1305_scalar.h"

// This file is compiled for AVX2 and may run nowhere else, so it includes nothing with inline functions that the linker
// could merge into the rest of the program.

namespace penstock::wireguard {
namespace {

// ---- The work of one stripe ----

struct Packet {
  Poly poly;
  const Lane* lane;
  std::uint32_t next;    // block to be generated next; 0 gives the Poly1305 key, data starts with 1
  std::uint32_t blocks;  // how many there are with that
};

// One step of Poly1305.
struct Step {
  Poly* poly;
  const std::uint8_t* block;
};

// A block of key stream and what it is for.
struct Unit {
  Packet* packet;
  std::uint8_t* data;    // the block's place in the packet
  std::uint32_t length;  // bytes of it; 0: the block that gives the Poly1305 key
  std::uint32_t block;
  bool last;  // of its packet
};

// What a stripe leaves for the next: blocks whose ciphertext is to be authenticated.
struct Pending {
  static constexpr std::size_t kMaxSteps = kWidth * 5;  // four of data, and the lengths
  std::size_t count = 0;
  std::size_t step_count = 0;
  Unit units[kWidth];
  Step steps[kMaxSteps + 1];
  alignas(32) std::uint8_t tails[kWidth][64];    // last blocks, padded with zeroes
  alignas(32) std::uint8_t lengths[kWidth][16];  // closing blocks (RFC 8439 §2.8)
  alignas(32) std::uint8_t streams[kWidth][64];
};

PENSTOCK_INLINE void xor_64(std::uint8_t* data, const std::uint8_t* stream) {
  for (int i = 0; i < 64; i += 32) {
    V* at = reinterpret_cast<V*>(data + i);
    _mm256_storeu_si256(
        at, _mm256_xor_si256(_mm256_loadu_si256(at), _mm256_load_si256(reinterpret_cast<const V*>(stream + i))));
  }
}

PENSTOCK_INLINE void xor_stream(std::uint8_t* data, const std::uint8_t* stream, std::uint32_t length) {
  if (length == 64) return xor_64(data, stream);
  std::uint32_t i = 0;
  for (; i + 16 <= length; i += 16) {
    auto* at = reinterpret_cast<__m128i*>(data + i);
    _mm_storeu_si128(at,
                     _mm_xor_si128(_mm_loadu_si128(at), _mm_load_si128(reinterpret_cast<const __m128i*>(stream + i))));
  }
  for (; i < length; ++i) data[i] ^= stream[i];
}

// What is authenticated between the rounds: a list of steps, in pairs ...
struct Listed {
  const Step* at;
  const Step* end;
  PENSTOCK_INLINE void operator()(int half) const {
    const Step* const pair = at + 2 * half;
    if (pair >= end) return;
    poly_block(*pair[0].poly, pair[0].block);
    poly_block(*pair[1].poly, pair[1].block);
  }
};

// ... or 64 bytes of each of eight packets.
struct Steady {
  Poly* poly[kWidth];
  std::uint8_t* data[kWidth];
  PENSTOCK_INLINE void operator()(int half) const {
    if (half >= 16) return;
    const int pair = half / 4 * 2;
    const int offset = half % 4 * 16;
    poly_block(*poly[pair], data[pair] + offset);
    poly_block(*poly[pair + 1], data[pair + 1] + offset);
  }
};

// ---- both together ----

template <bool Encrypt>
class Run {
 public:
  Run(const Lane* lanes, std::size_t count, std::uint8_t (*tags)[16]) : lanes_(lanes), count_(count), tags_(tags) {}

  void operator()() {
    for (;;) {
      Pending& before = buffers_[turn_ % 2];
      Pending& now = buffers_[++turn_ % 2];
      const std::size_t used = choose(now.units);
      if (used == 0) {
        for (std::size_t i = 0; i < before.step_count; ++i) poly_block(*before.steps[i].poly, before.steps[i].block);
        settle(before);
        return;
      }
      generate(before, now);
      settle(before);
      take(now, used);
      if (const std::uint32_t stripes = steady_stripes(now); stripes > 0) go_on(stripes);
    }
  }

 private:
  void generate(const Pending& before, Pending& now) {
    set_counters(now.units);
    key_streams(states_, Listed{before.steps, before.steps + before.step_count}, now.streams);
  }

  // How many stripes can follow in which every place only goes on with 64 bytes of its packet that are not its last.
  std::uint32_t steady_stripes(const Pending& stripe) const {
    if (stripe.count != kWidth) return 0;
    std::uint32_t least = ~0U;
    for (std::size_t i = 0; i < kWidth; ++i) {
      const Packet* packet = running_[i];
      if (packet != stripe.units[i].packet || stripe.units[i].last) return 0;
      const std::uint32_t left = packet->blocks - packet->next - 1;
      if (left < least) least = left;
    }
    return least;
  }

  // The same as that many turns of the loop above, without its book-keeping; most of what long packets need.
  void go_on(std::uint32_t stripes) {
    Steady steady;
    for (std::size_t i = 0; i < kWidth; ++i)
      steady.poly[i] = &running_[i]->poly, steady.data[i] = buffers_[turn_ % 2].units[i].data;
    for (std::uint32_t done = 0; done < stripes; ++done) {
      Pending& before = buffers_[turn_ % 2];
      Pending& now = buffers_[++turn_ % 2];
      states_.word[12] = _mm256_add_epi32(states_.word[12], _mm256_set1_epi32(1));
      if (done == 0) {
        key_streams(states_, Listed{before.steps, before.steps + before.step_count}, now.streams);
      } else {
        key_streams(states_, steady, now.streams);
      }
      for (std::size_t i = 0; i < kWidth; ++i) {
        if (!Encrypt) xor_64(steady.data[i], before.streams[i]);
        steady.data[i] += 64;
        if (Encrypt) xor_64(steady.data[i], now.streams[i]);
        prefetch_write(steady.data[i] + 127);
      }
    }
    Pending& last = buffers_[turn_ % 2];
    for (std::size_t i = 0; i < kWidth; ++i) {
      running_[i]->next += stripes;
      last.units[i] = {running_[i], steady.data[i], 64, running_[i]->next - 1, false};
    }
    last.count = kWidth;
    list_steps(last);
  }

  // Which eight blocks come next; unused places repeat the first. Returns how many are used.
  std::size_t choose(Unit* units) {
    std::size_t used = 0;
    for (Packet*& packet : running_) {
      if (packet == nullptr || packet->next == packet->blocks) packet = start();
      if (packet != nullptr) units[used++] = next_block(*packet);
    }
    // Fewer packets than places: further blocks of the same, in turns.
    for (bool more = used > 0; more && used < kWidth;) {
      more = false;
      for (std::size_t i = 0; i < kWidth && used < kWidth; ++i) {
        if (running_[i] == nullptr || running_[i]->next == running_[i]->blocks) continue;
        units[used++] = next_block(*running_[i]);
        more = true;
      }
    }
    if (used == 0) return 0;
    for (std::size_t i = used; i < kWidth; ++i) units[i] = units[0];
    std::uintptr_t changed = 0;
    for (std::size_t i = 0; i < kWidth; ++i) {
      changed |= reinterpret_cast<std::uintptr_t>(keyed_[i]) ^ reinterpret_cast<std::uintptr_t>(units[i].packet);
      keyed_[i] = units[i].packet;
    }
    if (changed != 0) load_keys(states_, [units](std::size_t i) -> const Lane& { return *units[i].packet->lane; });
    return used;
  }

  static PENSTOCK_INLINE Unit next_block(Packet& packet) {
    const std::uint32_t block = packet.next++;
    const bool last = block + 1 == packet.blocks;
    if (block == 0) return {&packet, nullptr, 0, 0, last};
    const std::uint32_t offset = 64 * (block - 1);
    return {&packet, packet.lane->data + offset, last ? packet.lane->length - offset : 64, block, last};
  }

  Packet* start() {
    if (started_ == count_) return nullptr;
    Packet& packet = packets_[started_];
    packet.lane = &lanes_[started_++];
    packet.next = 0;
    packet.blocks = 1 + (packet.lane->length + 63) / 64;
    return &packet;
  }

  void set_counters(const Unit* units) {
    alignas(32) std::uint32_t blocks[kWidth];
    for (std::size_t i = 0; i < kWidth; ++i) {
      blocks[i] = units[i].block;
      prefetch_write(units[i].data);  // it is written when the key stream is there
      prefetch_write(units[i].data + 63);
    }
    states_.word[12] = _mm256_load_si256(reinterpret_cast<const V*>(blocks));
  }

  // Uses a stripe's key stream: keys of Poly1305, encryption; and lists what is to be authenticated.
  void take(Pending& stripe, std::size_t used) {
    stripe.count = 0;
    for (std::size_t i = 0; i < used; ++i) {
      const Unit& unit = stripe.units[i];
      if (unit.block == 0) {
        poly_init(unit.packet->poly, stripe.streams[i]);
        if (!unit.last) continue;
      }
      if (Encrypt) {
        xor_stream(unit.data, stripe.streams[i], unit.length);
      } else if (stripe.count != i) {
        __builtin_memcpy(stripe.streams[stripe.count], stripe.streams[i], 64);
      }
      if (stripe.count != i) stripe.units[stripe.count] = unit;
      ++stripe.count;
    }
    list_steps(stripe);
  }

  // Neighbours take turns, except where they are of one packet, whose blocks must keep their order.
  void list_steps(Pending& stripe) {
    Step* at = stripe.steps;
    std::size_t i = 0;
    for (; i + 1 < stripe.count; i += 2) {
      const Unit& a = stripe.units[i];
      const Unit& b = stripe.units[i + 1];
      if (a.packet == b.packet) {
        at = put_steps<1>(stripe, i, at);
        at = put_steps<1>(stripe, i + 1, at);
        continue;
      }
      Step* const end_a = put_steps<2>(stripe, i, at);
      Step* const end_b = put_steps<2>(stripe, i + 1, at + 1);
      // Whoever has more steps left gaps between them, where nothing is done.
      for (Step* gap = end_a; gap < end_b - 2; gap += 2) *gap = {&unused_, stripe.lengths[0]};
      for (Step* gap = end_b; gap < end_a - 2; gap += 2) *gap = {&unused_, stripe.lengths[0]};
      at = (end_a > end_b ? end_a : end_b) - 1;
    }
    if (i < stripe.count) at = put_steps<1>(stripe, i, at);
    // An even number, for key_streams takes two at a time.
    if ((at - stripe.steps) % 2 != 0) *at++ = {&unused_, stripe.lengths[0]};
    stripe.step_count = static_cast<std::size_t>(at - stripe.steps);
  }

  // Writes the steps of unit `i` to `at`, at + Stride ...; returns where the next would go.
  template <std::size_t Stride>
  static PENSTOCK_INLINE Step* put_steps(Pending& stripe, std::size_t i, Step* at) {
    const Unit& unit = stripe.units[i];
    Poly* const poly = &unit.packet->poly;
    const std::uint8_t* data = unit.data;
    if (unit.length == 64) {
      for (std::size_t k = 0; k < 4; ++k) at[Stride * k] = {poly, data + 16 * k};
      at += Stride * 4;
    } else {
      if (unit.length % 16 != 0) {
        __builtin_memset(stripe.tails[i], 0, 64);
        __builtin_memcpy(stripe.tails[i], data, unit.length);
        data = stripe.tails[i];
      }
      for (std::uint32_t offset = 0; offset < unit.length; offset += 16, at += Stride) *at = {poly, data + offset};
    }
    if (unit.last) {
      store64(stripe.lengths[i], 0);  // of the additional data
      store64(stripe.lengths[i] + 8, unit.packet->lane->length);
      *at = {poly, stripe.lengths[i]};
      at += Stride;
    }
    return at;
  }

  // All of the stripe's ciphertext is authenticated: decrypts it, and writes the tags of packets that end in it.
  void settle(Pending& stripe) {
    for (std::size_t i = 0; i < stripe.count; ++i) {
      const Unit& unit = stripe.units[i];
      if (!Encrypt) xor_stream(unit.data, stripe.streams[i], unit.length);
      if (unit.last) poly_finish(unit.packet->poly, tags_[unit.packet->lane - lanes_]);
    }
    stripe.count = 0;
    stripe.step_count = 0;
  }

  const Lane* const lanes_;
  const std::size_t count_;
  std::uint8_t (*const tags_)[16];
  unsigned turn_ = 0;
  Pending buffers_[2];
  std::size_t started_ = 0;
  Packet* running_[kWidth] = {};
  Packet* keyed_[kWidth] = {};  // whose keys states_ holds
  States states_;
  Poly unused_{};
  Packet packets_[kX8MaxPackets];
};

}  // namespace

bool chacha20_poly1305_x8_supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
}

void chacha20_poly1305_x8(const Lane* packets, std::size_t count, bool encrypt, std::uint8_t (*tags)[16]) {
  if (encrypt) {
    Run<true> run(packets, count, tags);
    run();
  } else {
    Run<false> run(packets, count, tags);
    run();
  }
}

}  // namespace penstock::wireguard

#else

namespace penstock::wireguard {

bool chacha20_poly1305_x8_supported() {
  return false;
}
void chacha20_poly1305_x8(const Lane*, std::size_t, bool, std::uint8_t (*)[16]) {
  __builtin_trap();
}

}  // namespace penstock::wireguard

#endif
