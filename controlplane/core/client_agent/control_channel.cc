#include "controlplane/core/client_agent/control_channel.h"

#include <algorithm>
#include <utility>

namespace penstock::client {
namespace {

constexpr Duration kFirstInterval = std::chrono::milliseconds{250};
constexpr Duration kLongestInterval = std::chrono::seconds{2};

}  // namespace

std::vector<std::uint8_t> make_control_packet(const v1::Control& message, wireguard::ControlDirection direction) {
  const std::size_t length = 1 + message.ByteSizeLong();
  std::vector<std::uint8_t> out(wireguard::kControlHeaderSize + length);
  wireguard::write_control_header(MutableBytes{out}.first(wireguard::kControlHeaderSize), direction,
                                  static_cast<std::uint16_t>(length));
  out[wireguard::kControlHeaderSize] = static_cast<std::uint8_t>(wireguard::ControlType::message);
  message.SerializeToArray(out.data() + wireguard::kControlHeaderSize + 1, static_cast<int>(length - 1));
  return out;
}

bool ControlChannel::request(const std::string& key, v1::Control message, Instant now, Duration give_up) {
  if (by_key_.contains(key)) return true;
  if (requests_.size() >= kMaxRequests) return false;
  std::uint64_t id = 0;
  while (id == 0 || requests_.contains(id)) id = random_->next_u64();
  message.set_id(id);
  message.set_reply(false);
  Pending pending;
  pending.key = key;
  pending.packet = make_control_packet(message, wireguard::ControlDirection::to_gateway);
  pending.give_up = now + give_up;
  pending.interval = kFirstInterval;
  pending.next = kNever;
  by_key_[key] = id;
  Pending& stored = requests_.insert_or_assign(id, std::move(pending)).first->second;
  if (up_) send(stored, now);
  return true;
}

void ControlChannel::cancel(const std::string& key) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return;
  requests_.erase(found->second);
  by_key_.erase(found);
}

void ControlChannel::send(Pending& pending, Instant now) {
  packets_.push_back(pending.packet);
  pending.sent = now;
  pending.next = now + pending.interval;
  pending.interval = std::min(pending.interval * 2, kLongestInterval);
}

void ControlChannel::session_up(Instant now) {
  up_ = true;
  for (auto& [id, pending] : requests_) {
    pending.interval = kFirstInterval;
    send(pending, now);
  }
}

void ControlChannel::way_changed(Instant now) {
  if (!up_) return;
  for (auto& [id, pending] : requests_) {
    if (pending.next == kNever || pending.sent >= now) continue;
    pending.interval = kFirstInterval;
    send(pending, now);
  }
}

bool ControlChannel::join_pieces(Pending& pending, v1::DnsAnswer& answer) {
  if (answer.pieces() <= 1) return true;
  if (answer.pieces() > kMaxPieces || answer.piece() >= answer.pieces()) return false;
  if (pending.pieces.size() != answer.pieces()) {
    pending.pieces.assign(answer.pieces(), {});
    pending.pieces_missing = answer.pieces();
  }
  std::string& piece = pending.pieces[answer.piece()];
  if (piece.empty() && !answer.message().empty()) {
    piece = answer.message();
    --pending.pieces_missing;
  }
  if (pending.pieces_missing > 0) return false;
  std::string whole;
  for (const std::string& part : pending.pieces) whole += part;
  answer.set_message(whole);
  answer.set_piece(0);
  answer.set_pieces(1);
  return true;
}

ControlChannel::Received ControlChannel::handle_payload(Bytes payload, Instant) {
  v1::Control message;
  if (!message.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return DropReason::control_malformed;
  if (!message.reply()) return Request{std::move(message)};
  const auto found = requests_.find(message.id());
  if (found == requests_.end()) return DropReason::local_consumed;
  if (message.has_dns_answer() && !join_pieces(found->second, *message.mutable_dns_answer()))
    return DropReason::local_consumed;
  Reply reply{found->second.key, std::move(message)};
  by_key_.erase(found->second.key);
  requests_.erase(found);
  return reply;
}

void ControlChannel::reply(std::uint64_t id, v1::Control message) {
  if (!up_) return;
  message.set_id(id);
  message.set_reply(true);
  packets_.push_back(make_control_packet(message, wireguard::ControlDirection::to_gateway));
}

std::optional<std::vector<std::uint8_t>> ControlChannel::poll_packet() {
  if (packets_.empty()) return std::nullopt;
  auto out = std::move(packets_.front());
  packets_.pop_front();
  return out;
}

std::optional<std::string> ControlChannel::poll_given_up() {
  if (given_up_.empty()) return std::nullopt;
  auto out = std::move(given_up_.front());
  given_up_.pop_front();
  return out;
}

Instant ControlChannel::next_deadline() const {
  Instant at = kNever;
  for (const auto& [id, pending] : requests_) {
    if (up_) at = std::min(at, pending.next);
    at = std::min(at, pending.give_up);
  }
  return at;
}

void ControlChannel::handle_timeout(Instant now) {
  for (auto it = requests_.begin(); it != requests_.end();) {
    Pending& pending = it->second;
    if (now >= pending.give_up) {
      given_up_.push_back(pending.key);
      by_key_.erase(pending.key);
      it = requests_.erase(it);
      continue;
    }
    if (up_ && now >= pending.next) send(pending, now);
    ++it;
  }
}

}  // namespace penstock::client
