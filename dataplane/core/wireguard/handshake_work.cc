#include "dataplane/core/wireguard/handshake_work.h"

#include <array>

namespace penstock::wireguard {

namespace {

// Below this, one by one is faster than lanes that are mostly idle.
constexpr std::size_t kFew = 2;

// Before the timestamp can be opened: the product of the static keys, computed once per peer.
bool have_static_static(const DhKey& own, InitiationWork& work) {
  if (work.static_static) return true;
  Hash shared;
  if (!own.agree(work.remote, shared)) return false;
  work.static_static = shared;
  wipe(shared);
  return true;
}

// Whether there is to be a response, now that the timestamp is known.
bool wants_response(InitiationWork& work) {
  work.result = DropReason::none;
  if (work.timestamp <= work.newest) return false;  // a copy or a replay: finish() tells them apart
  if (work.too_soon) work.result = DropReason::wg_rate_limited;
  return !work.too_soon;
}

}  // namespace

void InitiationWork::forget() {
  wipe(noise.chain);
  wipe(preshared.bytes);
  wipe(keys.send);
  wipe(keys.receive);
  if (static_static) wipe(*static_static);
  static_static.reset();
}

DropReason open_initiation(const DhKey& own, InitiationWork& work) {
  return open_initiation(own, work.message, work.noise, work.remote) ? DropReason::none
                                                                     : DropReason::wg_handshake_invalid;
}

void answer_initiation(const DhKey& own, Random& random, InitiationWork& work) {
  work.result = DropReason::wg_handshake_invalid;
  work.answered = false;
  if (!have_static_static(own, work) ||
      !open_timestamp(work.message, *work.static_static, work.noise, work.timestamp) || !wants_response(work))
    return;
  PrivateKey ephemeral;
  random.fill(ephemeral.bytes);
  work.answered = create_response(work.noise, work.message, work.remote, work.preshared, ephemeral, work.local_index,
                                  work.response, work.keys);
  wipe(ephemeral.bytes);
  if (!work.answered) work.result = DropReason::wg_handshake_invalid;
}

void open_initiations(const DhKey& own, std::span<InitiationWork* const> works) {
  if (works.size() <= kFew || works.size() > kHandshakeBatch) {
    for (InitiationWork* work : works) work->result = open_initiation(own, *work);
    return;
  }
  std::array<OpenedInitiation, kHandshakeBatch> batch;
  for (std::size_t i = 0; i < works.size(); ++i)
    batch[i] = {&works[i]->message, &works[i]->noise, &works[i]->remote, false};
  open_initiations(own, std::span(batch).first(works.size()));
  for (std::size_t i = 0; i < works.size(); ++i)
    works[i]->result = batch[i].ok ? DropReason::none : DropReason::wg_handshake_invalid;
}

void answer_initiations(const DhKey& own, Random& random, std::span<InitiationWork* const> works) {
  if (works.size() <= kFew || works.size() > kHandshakeBatch) {
    for (InitiationWork* work : works) answer_initiation(own, random, *work);
    return;
  }
  std::array<InitiationWork*, kHandshakeBatch> open, wanted;
  std::array<OpenedTimestamp, kHandshakeBatch> timestamps;
  std::size_t opened = 0, count = 0;
  for (InitiationWork* work : works) {
    work->result = DropReason::wg_handshake_invalid;
    work->answered = false;
    if (!have_static_static(own, *work)) continue;
    timestamps[opened] = {&work->message, &*work->static_static, &work->noise, &work->timestamp, false};
    open[opened++] = work;
  }
  open_timestamps(std::span(timestamps).first(opened));
  std::array<PrivateKey, kHandshakeBatch> ephemerals;
  std::array<CreatedResponse, kHandshakeBatch> responses;
  for (std::size_t i = 0; i < opened; ++i) {
    InitiationWork& work = *open[i];
    if (!timestamps[i].ok || !wants_response(work)) continue;
    random.fill(ephemerals[count].bytes);
    responses[count] = {&work.noise,       &work.message,    &work.remote, &work.preshared, &ephemerals[count],
                        work.local_index, &work.response, &work.keys,   false};
    wanted[count++] = &work;
  }
  create_responses(std::span(responses).first(count));
  for (std::size_t i = 0; i < count; ++i) {
    wanted[i]->answered = responses[i].ok;
    if (!responses[i].ok) wanted[i]->result = DropReason::wg_handshake_invalid;
    wipe(ephemerals[i].bytes);
  }
}

}  // namespace penstock::wireguard
