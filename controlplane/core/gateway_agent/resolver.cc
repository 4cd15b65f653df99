#include "controlplane/core/gateway_agent/resolver.h"

#include <algorithm>

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstRetry = 1s;
constexpr Duration kLongestRetry = 60s;

Duration retry_delay(unsigned failures) {
  return std::min<Duration>(kLongestRetry, kFirstRetry * (1U << std::min(failures, 10U)));
}

std::vector<IpAddress> keep_order(const std::vector<IpAddress>& before, const std::vector<IpAddress>& now) {
  std::vector<IpAddress> out;
  const auto contains = [](const std::vector<IpAddress>& list, const IpAddress& address) {
    return std::find(list.begin(), list.end(), address) != list.end();
  };
  for (const IpAddress& address : before)
    if (contains(now, address)) out.push_back(address);
  for (const IpAddress& address : now)
    if (!contains(out, address) && out.size() < kMaxAddressesPerFamily) out.push_back(address);
  return out;
}

}  // namespace

void NameResolver::attach(const std::string& name, const std::string& user, const std::string& client, Instant now) {
  const auto [entry, fresh_entry] = entries_.try_emplace(name);
  entry->second.users.insert(user);
  entry->second.used = now;
  if (fresh_entry)
    begin(entry, client, now);
  else
    want(name, client, now);
}

void NameResolver::detach(const std::string& name, const std::string& user) {
  const auto entry = entries_.find(name);
  if (entry == entries_.end()) return;
  entry->second.users.erase(user);
  if (!entry->second.users.empty()) return;
  if (entry->second.round) end(entry, entry->second.started);
  for (FamilyState& family : entry->second.families) questions_.erase(family.question);
  due_.erase({entry->second.due, name});
  entries_.erase(entry);
}

void NameResolver::seed(const std::string& name, const std::vector<IpAddress>& addresses, Instant now) {
  const auto entry = entries_.find(name);
  if (entry == entries_.end()) return;
  for (const IpAddress& address : addresses) {
    FamilyState& family = entry->second.families[address.is_v4() ? 0 : 1];
    if (!family.known && !forbidden_(address) && family.addresses.size() < kMaxAddressesPerFamily)
      family.addresses.push_back(address);
  }
  report(name, entry->second, now);
}

bool NameResolver::fresh(const Entry& entry, Instant now) {
  return !entry.round && entry.due > now;
}

void NameResolver::want(const std::string& name, const std::string& client, Instant now) {
  const auto entry = entries_.find(name);
  if (entry == entries_.end()) return;
  entry->second.used = now;
  if (entry->second.round || fresh(entry->second, now)) return;
  begin(entry, client, now);
}

void NameResolver::note_use(const std::string& name, Instant now) {
  want(name, {}, now);
}

void NameResolver::begin(Entries::iterator entry, const std::string& client, Instant now) {
  Entry& it = entry->second;
  it.round = true;
  it.queued = false;
  it.client = client;
  it.started = now;
  if (!client.empty() && under_way_[client] >= kMaxRoundsPerClient) {
    auto& waiting = waiting_[client];
    if (waiting.size() >= kMaxWaitingPerClient) {  // too much for one client: as if it had failed
      it.round = false;
      ++it.failures;
      set_due(entry->first, it, now + retry_delay(it.failures));
      return report(entry->first, it, now);
    }
    it.queued = true;
    waiting.push_back(entry->first);
    set_due(entry->first, it, now + kResolveBudget);
    return report(entry->first, it, now);
  }
  ask(entry, now);
}

void NameResolver::ask(Entries::iterator entry, Instant now) {
  Entry& it = entry->second;
  it.queued = false;
  it.started = now;
  ++rounds_;
  if (!it.client.empty()) ++under_way_[it.client];
  for (const Family family : {Family::v4, Family::v6}) {
    FamilyState& state = it.families[static_cast<std::size_t>(family)];
    questions_.erase(state.question);
    state.question = ++next_id_;
    questions_[state.question] = {entry->first, family};
    out_.push_back({state.question, entry->first, family});
  }
  set_due(entry->first, it, now + kResolveBudget);
  report(entry->first, it, now);
}

void NameResolver::end(Entries::iterator entry, Instant now) {
  Entry& it = entry->second;
  it.round = false;
  const std::string client = it.client;
  if (it.queued) {
    auto& waiting = waiting_[client];
    waiting.erase(std::remove(waiting.begin(), waiting.end(), entry->first), waiting.end());
    if (waiting.empty()) waiting_.erase(client);
    it.queued = false;
    return;
  }
  --rounds_;
  if (client.empty()) return;
  if (--under_way_[client] == 0) under_way_.erase(client);
  const auto waiting = waiting_.find(client);
  if (waiting == waiting_.end()) return;
  const std::string next = waiting->second.front();
  waiting->second.pop_front();
  if (waiting->second.empty()) waiting_.erase(waiting);
  ask(entries_.find(next), now);
}

void NameResolver::handle_answer(std::uint64_t id, DnsAnswer answer, Instant now) {
  const auto question = questions_.find(id);
  if (question == questions_.end()) return;
  const auto [name, family] = question->second;
  questions_.erase(question);
  const auto entry = entries_.find(name);
  if (entry == entries_.end()) return;
  Entry& it = entry->second;
  FamilyState& state = it.families[static_cast<std::size_t>(family)];
  state.question = 0;
  state.status = answer.status;
  if (answer.status == DnsAnswer::Status::ok && answer.addresses.empty()) state.status = DnsAnswer::Status::no_data;
  if (state.status != DnsAnswer::Status::failed) {
    state.known = true;
    const bool had_any = !answer.addresses.empty();
    std::erase_if(answer.addresses, [&](const IpAddress& address) {
      return address.is_v4() != (family == Family::v4) || forbidden_(address);
    });
    state.addresses = keep_order(state.addresses, answer.addresses);
    state.refused = had_any && state.addresses.empty();
    const std::uint32_t ttl =
        state.status == DnsAnswer::Status::ok ? std::clamp(answer.ttl_seconds, kMinTtl, kMaxTtl) : kNegativeTtl;
    state.expires = now + std::chrono::seconds{ttl};
  }
  const bool complete =
      std::all_of(it.families.begin(), it.families.end(), [](const FamilyState& one) { return one.question == 0; });
  if (complete || !it.round) {
    const bool failed = std::any_of(it.families.begin(), it.families.end(),
                                    [](const FamilyState& one) { return one.status == DnsAnswer::Status::failed; });
    // A late failure of a round that is over has been counted with it.
    if (failed && !it.round) return report(name, it, now);
    it.failures = failed ? it.failures + 1 : 0;
    Instant due = failed ? now + retry_delay(it.failures - 1) : kNever;
    // A family without addresses does not make one that has them be asked again before its time.
    const bool any = std::any_of(it.families.begin(), it.families.end(),
                                 [](const FamilyState& one) { return !one.addresses.empty(); });
    for (const FamilyState& one : it.families)
      if (one.status == DnsAnswer::Status::ok || (!any && one.known)) due = std::min(due, one.expires);
    if (it.round) end(entry, now);
    set_due(name, it, due == kNever ? now + std::chrono::seconds{kNegativeTtl} : due);
  }
  report(name, it, now);
}

std::optional<DnsQuestion> NameResolver::poll_question() {
  if (out_.empty()) return std::nullopt;
  DnsQuestion out = std::move(out_.front());
  out_.pop_front();
  return out;
}

std::optional<std::string> NameResolver::poll_change() {
  if (changed_.empty()) return std::nullopt;
  std::string out = std::move(changed_.front());
  changed_.pop_front();
  if (const auto entry = entries_.find(out); entry != entries_.end()) entry->second.reported = false;
  return out;
}

Deadline NameResolver::poll_timeout() const {
  if (due_.empty()) return {};
  return {due_.begin()->first, "name resolution"};
}

void NameResolver::handle_timeout(Instant now) {
  while (!due_.empty() && due_.begin()->first <= now) {
    const std::string name = due_.begin()->second;
    const auto entry = entries_.find(name);
    Entry& it = entry->second;
    if (it.round) {  // its 2 s are over
      ++it.failures;
      for (FamilyState& family : it.families)
        if (family.question != 0) family.status = DnsAnswer::Status::failed;
      end(entry, now);
      set_due(name, it, now + retry_delay(it.failures - 1));
      report(name, it, now);
      continue;
    }
    // Looked at again by itself only when it was used since it was last asked; otherwise with the next use.
    const bool in_use = it.used > it.started;
    set_due(name, it, kNever);
    it.due = now;
    if (in_use && compute(it, now).state == NameState::active) begin(entry, {}, now);
  }
}

void NameResolver::set_due(const std::string& name, Entry& entry, Instant due) {
  due_.erase({entry.due, name});
  entry.due = due;
  if (due != kNever) due_.insert({due, name});
}

NameView NameResolver::compute(const Entry& entry, Instant now) const {
  NameView out;
  bool refused = false;
  bool failed = false;
  for (const FamilyState& family : entry.families) {
    out.addresses.insert(out.addresses.end(), family.addresses.begin(), family.addresses.end());
    refused = refused || family.refused;
    failed = failed || family.status == DnsAnswer::Status::failed;
  }
  if (!out.addresses.empty())
    out.state = NameState::active;
  else if (entry.round)
    out.state = NameState::resolving;
  else if (refused)
    out.state = NameState::forbidden;
  else
    out.state = failed ? NameState::failed : NameState::no_such_name;
  if (!entry.round && entry.due != kNever && entry.due > now)
    out.ttl_seconds =
        static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(entry.due - now + 999ms).count());
  return out;
}

void NameResolver::report(const std::string& name, Entry& entry, Instant now) {
  NameView view = compute(entry, now);
  const bool same = view.state == entry.told.state && view.addresses == entry.told.addresses;
  entry.told = std::move(view);
  if (same || entry.reported) return;
  entry.reported = true;
  changed_.push_back(name);
}

std::optional<NameView> NameResolver::view(const std::string& name, Instant now) const {
  const auto entry = entries_.find(name);
  return entry == entries_.end() ? std::nullopt : std::optional{compute(entry->second, now)};
}

const std::set<std::string>* NameResolver::users(const std::string& name) const {
  const auto entry = entries_.find(name);
  return entry == entries_.end() ? nullptr : &entry->second.users;
}

}  // namespace penstock::gateway_agent
