#include "dataplane/core/wireguard/handshake_work.h"

namespace penstock::wireguard {

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
  if (!work.static_static) {
    Hash shared;
    if (!own.agree(work.remote, shared)) return;
    work.static_static = shared;
    wipe(shared);
  }
  if (!open_timestamp(work.message, *work.static_static, work.noise, work.timestamp)) return;
  work.result = DropReason::none;
  if (work.timestamp <= work.newest) return;  // a copy or a replay: finish() tells them apart
  if (work.too_soon) {
    work.result = DropReason::wg_rate_limited;
    return;
  }
  PrivateKey ephemeral;
  random.fill(ephemeral.bytes);
  work.answered = create_response(work.noise, work.message, work.remote, work.preshared, ephemeral, work.local_index,
                                  work.response, work.keys);
  wipe(ephemeral.bytes);
  if (!work.answered) work.result = DropReason::wg_handshake_invalid;
}

}  // namespace penstock::wireguard
