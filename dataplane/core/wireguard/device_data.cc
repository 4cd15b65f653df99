// Device: notes from workers, keepalives, and the data path of single-threaded users.
#include <algorithm>

#include "dataplane/core/wireguard/device_impl.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kBatch = 64;
constexpr unsigned kWriter = 0;  // the Device's number among traffic writers

}  // namespace

void Device::handle_note(const Note& note, Now now) {
  Session* session = impl_->data.find_session(note.session);
  if (session == nullptr || session->peer != note.peer) return;  // gone meanwhile
  impl_->apply_notes(note.bits, *session, note.from, now);
}

void Device::Impl::apply_notes(NoteBits bits, Session& session, const Path& from, Now now) {
  if (bits == 0) return;
  Peer* peer = find(session.peer);
  if (peer == nullptr || !peer->live) return;
  if ((bits & note_bit::endpoint_moved) && peer->follows_source()) move_endpoint(*peer, from);
  if ((bits & note_bit::confirmed) && awaits_first_message(*peer->live, session)) {
    // Of the paths that carried copies of the initiation this is the one the peer chose.
    if (!session_live(*peer, now.monotonic)) move_endpoint(*peer, from);
    confirm(*peer, session, now);
  }
  if ((bits & note_bit::renew) && peer->live->current == &session) begin_attempt(*peer, now);
  update_timer(*peer, now.monotonic);
}

bool Device::send_keepalive(PeerIndex index, const std::optional<Path>& path, Now now) {
  Impl::Peer* peer = impl_->find(index);
  return peer != nullptr && impl_->send_keepalive(*peer, path, now);
}

bool Device::Impl::send_keepalive(Peer& peer, const std::optional<Path>& path, Now now) {
  Session* session = data.sending_session(peer.index, now.monotonic);
  const std::optional<Path> to = path ? path : data.endpoint(peer.index);
  if (session == nullptr || !to) return false;
  const std::uint64_t counter = DataPath::reserve_counters(*session, 1);
  if (counter == kNoCounter) return false;
  std::vector<std::uint8_t> datagram(kDataOverhead);
  AeadJob job;
  prepare_seal(*session, counter, datagram.data() + kDataHeaderSize, 0, 0, job);
  aead->seal({&job, 1});
  data.note_sent(kWriter, peer.index, 1, datagram.size(), false, now.monotonic);
  output.push_back({std::move(datagram), *to, peer.index});
  apply_notes(data.send_notes(*session, now.monotonic), *session, *to, now);  // a keepalive renews like any message
  return true;
}

Device::Sealed Device::seal(PeerIndex index, std::span<Outbound> burst, Now now) {
  Impl& d = *impl_;
  Impl::Peer* peer = d.find(index);
  if (peer == nullptr) return {DropReason::wg_no_session, {}};
  if (burst.empty()) return {DropReason::none, d.data.endpoint(index).value_or(Path{})};
  Session* session = d.data.sending_session(index, now.monotonic);
  const std::uint64_t first =
      session == nullptr ? kNoCounter : DataPath::reserve_counters(*session, static_cast<std::uint32_t>(burst.size()));
  if (first == kNoCounter) {
    d.begin_attempt(*peer, now);
    d.update_timer(*peer, now.monotonic);
    return {DropReason::wg_no_session, {}};
  }
  const std::optional<Path> to = d.data.endpoint(index);
  if (!to) return {DropReason::wg_no_endpoint, {}};
  std::uint64_t bytes = 0;
  for (std::size_t start = 0; start < burst.size(); start += kBatch) {
    std::array<AeadJob, kBatch> jobs;
    const std::size_t n = std::min(kBatch, burst.size() - start);
    for (std::size_t i = 0; i < n; ++i) {
      Outbound& packet = burst[start + i];
      const std::uint32_t padded = padded_length(packet.length, d.config.mtu);
      prepare_seal(*session, first + start + i, packet.inner, packet.length, padded, jobs[i]);
      packet.datagram = {packet.inner - kDataHeaderSize, padded + kDataOverhead};
      bytes += packet.datagram.size();
    }
    d.aead->seal({jobs.data(), n});
  }
  d.data.note_sent(kWriter, index, static_cast<std::uint32_t>(burst.size()), bytes, true, now.monotonic);
  d.apply_notes(d.data.send_notes(*session, now.monotonic), *session, *to, now);
  return {DropReason::none, *to};
}

DropReason Device::send(PeerIndex index, Bytes inner, Now now) {
  Impl::Peer* peer = impl_->find(index);
  return peer == nullptr ? DropReason::wg_no_session : impl_->send(*peer, inner, now);
}

DropReason Device::Impl::send(Peer& peer, Bytes inner, Now now) {
  Session* session = data.sending_session(peer.index, now.monotonic);
  const std::uint64_t counter = session == nullptr ? kNoCounter : DataPath::reserve_counters(*session, 1);
  if (counter == kNoCounter) {
    begin_attempt(peer, now);
    update_timer(peer, now.monotonic);
    Live& state = *peer.live;
    if (!state.attempting && !state.start_at) return DropReason::wg_no_endpoint;
    if (state.staged.size() >= config.staged_packets) return DropReason::wg_queue_full;
    state.staged.emplace_back(inner.begin(), inner.end());
    return DropReason::none;
  }
  const std::optional<Path> to = data.endpoint(peer.index);
  if (!to) return DropReason::wg_no_endpoint;
  const auto length = static_cast<std::uint32_t>(inner.size());
  const std::uint32_t padded = padded_length(length, config.mtu);
  std::vector<std::uint8_t> datagram(padded + kDataOverhead);
  std::memcpy(datagram.data() + kDataHeaderSize, inner.data(), inner.size());
  AeadJob job;
  prepare_seal(*session, counter, datagram.data() + kDataHeaderSize, length, padded, job);
  aead->seal({&job, 1});
  data.note_sent(kWriter, peer.index, 1, datagram.size(), true, now.monotonic);
  output.push_back({std::move(datagram), *to, peer.index});
  apply_notes(data.send_notes(*session, now.monotonic), *session, *to, now);
  return DropReason::none;
}

void Device::Impl::flush_staged(Peer& peer, Now now) {
  std::vector<std::vector<std::uint8_t>> staged;
  staged.swap(peer.live->staged);
  for (const auto& inner : staged) send(peer, inner, now);
}

Device::Received Device::handle_datagram(MutableBytes datagram, const Path& from, Now now) {
  Inbound one{datagram, from, DropReason::none, kNoPeer, {}};
  open({&one, 1}, now);
  return {one.reason, one.peer, one.inner};
}

void Device::open(std::span<Inbound> burst, Now now) {
  Impl& d = *impl_;
  std::array<Inbound*, kBatch> batch;
  std::array<Session*, kBatch> sessions;
  std::size_t n = 0;
  const auto finish = [&] {
    d.open_batch({batch.data(), n}, {sessions.data(), n}, now);
    n = 0;
  };
  for (Inbound& packet : burst) {
    packet.peer = kNoPeer;
    packet.inner = {};
    if (classify(packet.datagram) != MessageType::data) {
      finish();  // a handshake may end sessions that are waiting in the batch
      packet.reason = handle_handshake(packet.datagram, packet.from, now);
      if (packet.reason == DropReason::none) packet.reason = DropReason::local_consumed;
      continue;
    }
    const auto* header = reinterpret_cast<const DataHeader*>(packet.datagram.data());
    Session* session = d.data.find_session(header->receiver.get());
    packet.reason = session == nullptr ? DropReason::wg_unknown_index
                                       : DataPath::check_receive(*session, header->counter.get(), now.monotonic);
    if (packet.reason != DropReason::none) continue;
    batch[n] = &packet;
    sessions[n++] = session;
    if (n == kBatch) finish();
  }
  finish();
}

void Device::Impl::open_batch(std::span<Inbound*> batch, std::span<Session*> sessions, Now now) {
  std::array<AeadJob, kBatch> jobs;
  std::array<std::uint32_t, kBatch> session_indices;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    prepare_open(*sessions[i], batch[i]->datagram, jobs[i]);
    session_indices[i] = sessions[i]->local_index;
  }
  aead->open({jobs.data(), batch.size()});
  // Runs of one session and path share the window's atomics, the notes and the accounting.
  for (std::size_t start = 0, end = 0; start < batch.size(); start = end) {
    while (end < batch.size() && session_indices[end] == session_indices[start] &&
           batch[end]->from == batch[start]->from)
      ++end;
    // Notes may have retired the session meanwhile.
    Session* session = data.find_session(session_indices[start]);
    if (session == nullptr) {
      for (std::size_t i = start; i < end; ++i)
        batch[i]->reason = jobs[i].ok ? DropReason::wg_unknown_index : DropReason::wg_authentication;
      continue;
    }
    accept_run(*session, batch.subspan(start, end - start), {jobs.data() + start, end - start}, now);
  }
}

void Device::Impl::accept_run(Session& session, std::span<Inbound*> run, std::span<const AeadJob> jobs, Now now) {
  std::array<std::uint64_t, kBatch> counters;
  std::array<std::uint8_t, kBatch> authentic;
  unsigned n = 0;
  for (std::size_t i = 0; i < run.size(); ++i) {
    run[i]->reason = DropReason::wg_authentication;
    if (!jobs[i].ok) continue;
    counters[n] = jobs[i].counter;
    authentic[n++] = static_cast<std::uint8_t>(i);
  }
  const std::uint64_t accepted = session.window.accept_burst(counters.data(), n);
  std::uint32_t packets = 0;
  std::uint64_t bytes = 0;
  bool any_data = false;
  for (unsigned i = 0; i < n; ++i) {
    Inbound& packet = *run[authentic[i]];
    const AeadJob& job = jobs[authentic[i]];
    packet.reason = DropReason::wg_replay;
    if (((accepted >> i) & 1) == 0) continue;
    packet.peer = session.peer;
    packet.reason = trim_padding({job.data, job.length}, packet.inner);
    ++packets;
    bytes += packet.datagram.size();
    any_data = any_data || job.length != 0;
  }
  if (packets == 0) return;
  const Path& from = run.front()->from;
  data.note_received(kWriter, session.peer, packets, bytes, any_data, now.monotonic);
  apply_notes(data.receive_notes(session, from, now.monotonic), session, from, now);  // may retire the session
}

}  // namespace penstock::wireguard
