// What the stub resolver cannot answer by itself: joining, waiting, and making one answer fit every client that waits.
#include <algorithm>

#include "controlplane/core/dns/stub_resolver_impl.h"

namespace penstock::dns {
namespace {

constexpr std::size_t kMaxWaitersPerQuery = 256;
constexpr std::size_t kMaxTcpSize = 65535;
// New names that one answer may bring into the map: nobody outside fills it by inventing them.
constexpr std::size_t kMaxNewNamesPerAnswer = 32;

// What an answer depends on, beside the options.
std::string key_of(const Query& query) {
  std::string key = name_key(query.qname);
  const auto put16 = [&](std::uint16_t value) {
    key.push_back(static_cast<char>(value >> 8));
    key.push_back(static_cast<char>(value));
  };
  put16(query.qtype);
  put16(query.qclass);
  put16(query.flags & (flag::rd | flag::ad | flag::cd));
  key.push_back(query.edns.dnssec_ok ? '\1' : '\0');
  return key;
}

}  // namespace

Query StubResolver::Impl::Waiter::query() const {
  Query out;
  out.state = QueryState::ok;
  out.id = id;
  out.flags = flags;
  out.has_question = true;
  out.qname = Bytes{question}.first(question.size() - 4);
  out.qtype = load16(question, question.size() - 4);
  out.qclass = load16(question, question.size() - 2);
  out.question_end = kHeaderSize + question.size();
  out.edns = edns;
  return out;
}

std::size_t StubResolver::Impl::Waiter::limit() const {
  return client.transport == Transport::udp ? query().udp_limit() : kMaxTcpSize;
}

Bytes StubResolver::Impl::ask(const Query& query, Bytes message, const Client& client, const std::string* resource,
                              Now now) {
  Waiter waiter{client, query.id, query.flags, {}, query.edns, true};
  const Bytes question = message.subspan(kHeaderSize, query.question_end - kHeaderSize);
  waiter.question.assign(question.begin(), question.end());
  const std::size_t limit = waiter.limit();

  const std::string key = query.edns.only_cookie ? key_of(query) : std::string{};
  if (!key.empty()) {
    if (const CachedAnswer* hit = cache.find(key, now.monotonic)) {
      ++stats.answered_from_cache;
      waiter.first = false;
      const auto age = std::chrono::floor<std::chrono::seconds>(now.monotonic - hit->stored).count();
      compose({hit->message, hit->code, hit->dnssec_ok, {}, static_cast<std::uint32_t>(age)}, waiter, composed);
      return composed;
    }
    if (const auto same = by_key.find(key); same != by_key.end()) {
      auto& waiters = pending.at(same->second).waiters;
      // A datagram sent again waits already; on a connection every query gets its answer, whatever its id.
      const bool repeated =
          client.transport == Transport::udp && std::any_of(waiters.begin(), waiters.end(), [&](const Waiter& other) {
            return other.client == client && other.id == query.id && other.question == waiter.question;
          });
      if (repeated) return {};
      if (waiting < config.max_waiting && waiters.size() < kMaxWaitersPerQuery) {
        ++stats.joined;
        ++waiting;
        waiter.first = false;
        waiters.push_back(std::move(waiter));
        return {};
      }
      ++stats.overloaded;
      return error(query, rcode::servfail, limit);
    }
  }
  if (pending.size() >= config.max_in_flight || waiting >= config.max_waiting) {
    ++stats.overloaded;
    return error(query, rcode::servfail, limit);
  }
  if (resource == nullptr && !forwarder.has_upstream()) {
    ++stats.no_upstream;
    return error(query, rcode::servfail, limit);
  }

  const std::uint64_t id = ++last_id;
  Pending& entry = pending[id];
  entry.key = key;
  entry.waiters.push_back(std::move(waiter));
  ++waiting;
  if (!key.empty()) by_key.emplace(key, id);
  if (resource != nullptr) {
    send_to_gateway(id, entry, query, *resource, now);
    return {};
  }
  ++stats.forwarded;
  std::vector<std::uint8_t> sent{message.begin(), message.end()};
  if (query.edns.present) store16(sent, query.edns.udp_size_at, static_cast<std::uint16_t>(query.udp_limit()));
  entry.transaction = forwarder.start(sent, client.transport, now.monotonic);
  by_transaction.emplace(entry.transaction, id);
  return {};
}

void StubResolver::Impl::send_to_gateway(std::uint64_t id, Pending& entry, const Query& query,
                                         const std::string& resource, Now now) {
  ++stats.asked_gateway;
  entry.resource = resource;
  entry.gateway_message_id = static_cast<std::uint16_t>(random.next_u32());
  entry.deadline = now.monotonic + config.gateway_budget;
  gateway_timers.insert({entry.deadline, id});
  MessageWriter writer{entry.gateway_message_id, static_cast<std::uint16_t>(flag::rd | (query.flags & flag::cd)),
                       query.qname, query.qtype, query.qclass};
  std::vector<std::uint8_t> message = writer.take();
  append_opt(message, 0, query.edns.dnssec_ok, {});
  outputs.push_back(GatewayQuery{id, resource, text, std::move(message)});
}

void StubResolver::Impl::compose(const Content& content, const Waiter& waiter, std::vector<std::uint8_t>& out) {
  const Query query = waiter.query();
  const std::size_t limit = waiter.limit();
  // What only EDNS can say, to somebody without it (RFC 6891 §6.1.3).
  if (content.code > flag::rcode && !waiter.edns.present) {
    const Bytes failed = error(query, rcode::servfail, limit);
    out.assign(failed.begin(), failed.end());
    return;
  }
  out.assign(content.message.begin(), content.message.end());
  store16(out, 0, waiter.id);
  std::copy(waiter.question.begin(), waiter.question.end(), out.begin() + kHeaderSize);
  if (content.age > 0) age_ttls(out, content.age);
  std::vector<std::uint8_t> own_options;
  Bytes options = content.options;
  if (!waiter.first || options.empty()) {
    own_options = cookie_option(waiter.edns, server_cookie);
    options = own_options;
  }
  const std::size_t opt = waiter.edns.present ? 11 + options.size() : 0;
  if (out.size() + opt > limit) {
    out.resize(query.question_end);
    out[2] = static_cast<std::uint8_t>(out[2] | flag::tc >> 8);
    std::fill(out.begin() + 6, out.begin() + kHeaderSize, std::uint8_t{0});
    if (out.size() + opt > limit) options = {};  // no option is that large unless somebody plays
  }
  if (waiter.edns.present) append_opt(out, content.code, content.dnssec_ok, options);
}

StubResolver::Impl::Pending StubResolver::Impl::take(std::uint64_t id) {
  const auto entry = pending.find(id);
  Pending taken = std::move(entry->second);
  pending.erase(entry);
  if (!taken.key.empty()) by_key.erase(taken.key);
  if (taken.transaction != 0) by_transaction.erase(taken.transaction);
  if (taken.deadline != kNever) gateway_timers.erase({taken.deadline, id});
  waiting -= taken.waiters.size();
  return taken;
}

void StubResolver::Impl::fail(std::uint64_t id) {
  const Pending taken = take(id);
  for (const Waiter& waiter : taken.waiters) {
    const Query query = waiter.query();
    const Bytes out = error(query, rcode::servfail, waiter.limit());
    outputs.push_back(Answer{waiter.client, {out.begin(), out.end()}});
  }
}

void StubResolver::Impl::deliver(std::uint64_t id, Bytes message, Now now) {
  std::size_t budget = kMaxNewNamesPerAnswer;
  const auto filtered = filter_answer(
      message, [&](const WireName& name) { return rule_for(name, now.wall, &budget); }, config.proxy_ttl_s);
  const Query asked = pending.at(id).waiters.front().query();
  if (!filtered || filtered->question_end != asked.question_end) return fail(id);
  if (filtered->rewritten) ++stats.rewritten_answers;
  Pending taken = take(id);
  for (const Waiter& waiter : taken.waiters) {
    Answer answer{waiter.client, {}};
    compose({filtered->message, filtered->code, filtered->dnssec_ok, filtered->options, 0}, waiter, answer.message);
    outputs.push_back(std::move(answer));
  }
  if (taken.key.empty() || filtered->cache_ttl == 0) return;
  CachedAnswer kept{filtered->message, filtered->code, filtered->dnssec_ok, now.monotonic,
                    now.monotonic + std::chrono::seconds{filtered->cache_ttl}};
  cache.store(std::move(taken.key), std::move(kept));
}

void StubResolver::Impl::drain(Now now) {
  while (auto result = forwarder.poll_result()) {
    const auto entry = by_transaction.find(result->transaction);
    if (entry == by_transaction.end()) continue;
    const std::uint64_t id = entry->second;
    if (result->message.empty()) {
      ++stats.timed_out;
      fail(id);
    } else {
      deliver(id, result->message, now);
    }
  }
  while (auto output = forwarder.poll_output())
    std::visit([&](auto& what) { outputs.emplace_back(std::move(what)); }, *output);
}

// Nobody is to be asked about a resource that is gone; the client asks again and then goes another way.
void StubResolver::Impl::drop_removed_resources() {
  std::vector<std::uint64_t> gone;
  for (const auto& [id, entry] : pending)
    if (!entry.resource.empty() && !stacks.contains(entry.resource)) gone.push_back(id);
  std::sort(gone.begin(), gone.end());
  for (const std::uint64_t id : gone) fail(id);
}

void StubResolver::handle_upstream(std::uint64_t exchange, const Endpoint& from, Bytes message, Now now) {
  if (!impl_->forwarder.handle_message(exchange, from, message, now.monotonic)) ++impl_->stats.ignored_answers;
  impl_->drain(now);
}

void StubResolver::handle_upstream_failed(std::uint64_t exchange, Now now) {
  impl_->forwarder.handle_failed(exchange, now.monotonic);
  impl_->drain(now);
}

void StubResolver::handle_gateway_answer(std::uint64_t id, Bytes message, Now now) {
  const auto known = impl_->pending.find(id);
  if (known == impl_->pending.end() || known->second.resource.empty()) {
    ++impl_->stats.ignored_answers;
    return;
  }
  const Impl::Pending& entry = known->second;
  const auto& question = entry.waiters.front().question;
  const bool fits = message.size() >= kHeaderSize + question.size() && load16(message, 0) == entry.gateway_message_id &&
                    load16(message, 4) == 1 && same_question(message.subspan(kHeaderSize, question.size()), question);
  if (fits)
    impl_->deliver(id, message, now);
  else
    impl_->fail(id);
}

void StubResolver::handle_gateway_failed(std::uint64_t id, Now) {
  const auto known = impl_->pending.find(id);
  if (known != impl_->pending.end() && !known->second.resource.empty()) impl_->fail(id);
}

void StubResolver::handle_network_change(Now now) {
  impl_->forwarder.handle_network_change(now.monotonic);
  impl_->drain(now);
}

std::optional<Output> StubResolver::poll_output() {
  std::optional<Output> out;
  if (impl_->outputs.empty()) return out;
  out.emplace(std::move(impl_->outputs.front()));
  impl_->outputs.pop_front();
  return out;
}

Deadline StubResolver::poll_timeout() const {
  const Instant upstream = impl_->forwarder.next_timeout();
  const Instant gateway = impl_->gateway_timers.empty() ? kNever : impl_->gateway_timers.begin()->first;
  if (upstream == kNever && gateway == kNever) return {};
  if (upstream <= gateway) return {upstream, "upstream resolver silent"};
  return {gateway, "gateway's answer overdue"};
}

void StubResolver::handle_timeout(Now now) {
  impl_->forwarder.handle_timeout(now.monotonic);
  while (!impl_->gateway_timers.empty() && impl_->gateway_timers.begin()->first <= now.monotonic) {
    ++impl_->stats.timed_out;
    impl_->fail(impl_->gateway_timers.begin()->second);
  }
  impl_->drain(now);
}

}  // namespace penstock::dns
