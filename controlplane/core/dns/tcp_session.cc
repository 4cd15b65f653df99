#include "controlplane/core/dns/tcp_session.h"

namespace penstock::dns {

void TcpSession::push(Bytes bytes, Instant now) {
  if (bytes.empty()) return;
  in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(in_at_));
  in_at_ = 0;
  in_.insert(in_.end(), bytes.begin(), bytes.end());
  idle_since_ = now;
}

std::optional<std::vector<std::uint8_t>> TcpSession::next_query() {
  while (outstanding_ < config_.max_outstanding && in_.size() - in_at_ >= 2) {
    const std::size_t size = static_cast<std::size_t>(in_[in_at_] << 8 | in_[in_at_ + 1]);
    if (in_.size() - in_at_ - 2 < size) break;
    const Bytes message = Bytes{in_}.subspan(in_at_ + 2, size);
    in_at_ += 2 + size;
    if (size == 0) continue;
    ++outstanding_;
    return std::vector<std::uint8_t>{message.begin(), message.end()};
  }
  return std::nullopt;
}

void TcpSession::answer(Bytes message, Instant now) {
  if (outstanding_ > 0) --outstanding_;
  if (message.empty() || message.size() > 65535) return;
  out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(out_at_));
  out_at_ = 0;
  out_.push_back(static_cast<std::uint8_t>(message.size() >> 8));
  out_.push_back(static_cast<std::uint8_t>(message.size()));
  out_.insert(out_.end(), message.begin(), message.end());
  idle_since_ = now;
}

void TcpSession::written(std::size_t bytes, Instant now) {
  out_at_ += bytes < out_.size() - out_at_ ? bytes : out_.size() - out_at_;
  idle_since_ = now;
}

bool TcpSession::wants_read() const {
  return outstanding_ < config_.max_outstanding && out_.size() - out_at_ < config_.max_unwritten;
}

}  // namespace penstock::dns
