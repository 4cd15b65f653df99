#include "controlplane/core/dns/forwarder.h"

#include <algorithm>
#include <utility>

#include "controlplane/core/dns/message.h"

namespace penstock::dns {
namespace {

bool refuses(std::uint16_t code) {
  return code == rcode::servfail || code == rcode::refused || code == rcode::notimp || code == rcode::formerr;
}

}  // namespace

bool Forwarder::set_upstreams(std::vector<Endpoint> upstreams) {
  std::vector<Endpoint> unique;
  for (const Endpoint& upstream : upstreams)
    if (unique.size() < config_.max_upstreams && std::find(unique.begin(), unique.end(), upstream) == unique.end())
      unique.push_back(upstream);
  if (unique == upstreams_) return false;
  upstreams_ = std::move(unique);
  penalised_.clear();
  return true;
}

void Forwarder::order_upstreams(Transaction& transaction, Instant now) const {
  transaction.order = upstreams_;
  std::stable_partition(transaction.order.begin(), transaction.order.end(), [&](const Endpoint& upstream) {
    const auto known = penalised_.find(upstream);
    return known == penalised_.end() || known->second <= now;
  });
  transaction.next = 0;
  transaction.attempts = 0;
  transaction.unsatisfying = 0;
}

std::uint64_t Forwarder::start(Bytes query, Transport transport, Instant now) {
  const std::uint64_t id = ++last_number_;
  Transaction& transaction = transactions_[id];
  transaction.query.assign(query.begin(), query.end());
  std::size_t at = kHeaderSize;
  transaction.question_end = read_name(query, at) ? at + 4 : query.size();
  transaction.transport = transport;
  transaction.deadline = now + config_.budget;
  order_upstreams(transaction, now);
  try_next(id, now);
  return id;
}

void Forwarder::cancel(std::uint64_t id) {
  const auto known = transactions_.find(id);
  if (known == transactions_.end()) return;
  for (const std::uint64_t exchange : known->second.exchanges) drop_exchange(exchange);
  timers_.erase({known->second.timer, id});
  transactions_.erase(known);
}

void Forwarder::finish(std::uint64_t id, std::vector<std::uint8_t> message) {
  cancel(id);
  results_.push_back({id, std::move(message)});
}

void Forwarder::drop_exchange(std::uint64_t exchange) {
  if (exchanges_.erase(exchange) != 0) outputs_.push_back(UpstreamClose{exchange});
}

void Forwarder::set_timer(std::uint64_t id, Transaction& transaction, Instant at) {
  timers_.erase({transaction.timer, id});
  transaction.timer = std::min(at, transaction.deadline);
  timers_.insert({transaction.timer, id});
}

void Forwarder::attempt(std::uint64_t id, Transaction& transaction, const Endpoint& upstream, Transport transport,
                        Instant now) {
  const std::uint64_t number = ++last_number_;
  const auto message_id = static_cast<std::uint16_t>(random_.next_u32());
  exchanges_[number] = {id, upstream, transport, message_id};
  transaction.exchanges.push_back(number);
  transaction.current = number;
  ++transaction.attempts;
  std::vector<std::uint8_t> message = transaction.query;
  store16(message, 0, message_id);
  outputs_.push_back(UpstreamSend{number, upstream, transport, std::move(message)});
  // A connection needs a round trip more than a datagram.
  set_timer(id, transaction, now + config_.attempt * (transport == Transport::tcp ? 2 : 1));
}

// Round and round the list until the budget or the attempts are used up.
void Forwarder::try_next(std::uint64_t id, Instant now) {
  const auto known = transactions_.find(id);
  if (known == transactions_.end()) return;
  Transaction& transaction = known->second;
  if (transaction.order.empty()) return finish(id, std::move(transaction.fallback));
  if (transaction.attempts >= config_.max_attempts) return set_timer(id, transaction, transaction.deadline);
  const Endpoint upstream = transaction.order[transaction.next];
  transaction.next = (transaction.next + 1) % transaction.order.size();
  attempt(id, transaction, upstream, transaction.transport, now);
}

// An upstream has said that it cannot help. When all have, there is nothing to wait for.
void Forwarder::unsatisfied(std::uint64_t id, Transaction& transaction, bool was_current, Instant now) {
  ++transaction.unsatisfying;
  if (transaction.unsatisfying >= transaction.order.size()) return finish(id, std::move(transaction.fallback));
  if (was_current) try_next(id, now);
}

Forwarder::Match Forwarder::match(const Exchange& exchange, const Transaction& transaction, const Endpoint& from,
                                  Bytes message) const {
  const Header* header = view_as<Header>(message);
  if (header == nullptr || from != exchange.upstream || header->id.host() != exchange.id) return Match::no;
  const std::uint16_t flags = header->flags.host();
  if ((flags & flag::qr) == 0 || (flags & flag::opcode) != 0) return Match::no;
  if (header->questions.host() == 0)
    return (flags & flag::rcode) != rcode::noerror && message.size() == kHeaderSize ? Match::bare_error : Match::no;
  const std::size_t end = transaction.question_end;
  if (header->questions.host() != 1 || message.size() < end) return Match::no;
  const Bytes asked = Bytes{transaction.query}.subspan(kHeaderSize, end - kHeaderSize);
  const Bytes told = message.subspan(kHeaderSize, end - kHeaderSize);
  if (std::equal(asked.begin(), asked.end(), told.begin())) return Match::yes;
  return same_question(asked, told) ? Match::case_differs : Match::no;
}

bool Forwarder::handle_message(std::uint64_t number, const Endpoint& from, Bytes message, Instant now) {
  const auto known = exchanges_.find(number);
  if (known == exchanges_.end()) return false;
  const Exchange exchange = known->second;
  const std::uint64_t id = exchange.transaction;
  Transaction& transaction = transactions_.at(id);
  const Match matched = match(exchange, transaction, from, message);
  if (matched == Match::no) return false;

  penalised_.erase(exchange.upstream);
  const bool was_current = transaction.current == number;
  std::erase(transaction.exchanges, number);
  drop_exchange(number);
  if (matched == Match::bare_error) {
    unsatisfied(id, transaction, was_current, now);
    return true;
  }
  const std::uint16_t flags = load16(message, 2);
  // Truncated, or from somebody who does not keep the case and so might be guessing: TCP settles both.
  const bool doubtful = (flags & flag::tc) != 0 || matched == Match::case_differs;
  if (exchange.transport == Transport::udp && doubtful) {
    if (matched == Match::yes) transaction.fallback.assign(message.begin(), message.end());
    attempt(id, transaction, exchange.upstream, Transport::tcp, now);
    return true;
  }
  if (refuses(flags & flag::rcode)) {
    if (transaction.fallback.empty()) transaction.fallback.assign(message.begin(), message.end());
    unsatisfied(id, transaction, was_current, now);
    return true;
  }
  finish(id, {message.begin(), message.end()});
  return true;
}

void Forwarder::handle_failed(std::uint64_t number, Instant now) {
  const auto known = exchanges_.find(number);
  if (known == exchanges_.end()) return;
  const Exchange exchange = known->second;
  Transaction& transaction = transactions_.at(exchange.transaction);
  const bool was_current = transaction.current == number;
  std::erase(transaction.exchanges, number);
  exchanges_.erase(known);  // the shell's socket is gone already
  penalised_[exchange.upstream] = now + config_.penalty;
  unsatisfied(exchange.transaction, transaction, was_current, now);
}

void Forwarder::handle_network_change(Instant now) {
  penalised_.clear();
  std::vector<std::uint64_t> open;
  for (auto& [id, transaction] : transactions_) open.push_back(id);
  std::sort(open.begin(), open.end());
  for (const std::uint64_t id : open) {
    Transaction& transaction = transactions_.at(id);
    for (const std::uint64_t exchange : transaction.exchanges) drop_exchange(exchange);
    transaction.exchanges.clear();
    transaction.deadline = std::max(transaction.deadline, now + 2 * config_.attempt);
    order_upstreams(transaction, now);
    try_next(id, now);
  }
}

void Forwarder::handle_timeout(Instant now) {
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const std::uint64_t id = timers_.begin()->second;
    Transaction& transaction = transactions_.at(id);
    if (const auto silent = exchanges_.find(transaction.current); silent != exchanges_.end())
      penalised_[silent->second.upstream] = now + config_.penalty;
    if (now >= transaction.deadline)
      finish(id, std::move(transaction.fallback));
    else
      try_next(id, now);
  }
}

std::optional<Forwarder::Output> Forwarder::poll_output() {
  std::optional<Output> out;
  if (outputs_.empty()) return out;
  out.emplace(std::move(outputs_.front()));
  outputs_.pop_front();
  return out;
}

std::optional<Forwarder::Result> Forwarder::poll_result() {
  std::optional<Result> out;
  if (results_.empty()) return out;
  out.emplace(std::move(results_.front()));
  results_.pop_front();
  return out;
}

}  // namespace penstock::dns
