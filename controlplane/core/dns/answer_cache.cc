#include "controlplane/core/dns/answer_cache.h"

#include <utility>

namespace penstock::dns {

const CachedAnswer* AnswerCache::find(std::string_view key, Instant now) {
  const auto known = by_key_.find(key);
  if (known == by_key_.end()) return nullptr;
  const auto entry = known->second;
  if (entry->answer.expires <= now) {
    erase(entry);
    return nullptr;
  }
  entries_.splice(entries_.end(), entries_, entry);
  return &entry->answer;
}

void AnswerCache::store(std::string key, CachedAnswer answer) {
  if (const auto known = by_key_.find(key); known != by_key_.end()) erase(known->second);
  Entry entry{std::move(key), std::move(answer)};
  const std::size_t size = cost(entry);
  if (max_entries_ == 0 || size > max_bytes_ / 16) return;
  while (!entries_.empty() && (entries_.size() >= max_entries_ || bytes_ + size > max_bytes_)) erase(entries_.begin());
  entries_.push_back(std::move(entry));
  by_key_.emplace(entries_.back().key, std::prev(entries_.end()));
  bytes_ += size;
}

void AnswerCache::erase(Entries::iterator entry) {
  bytes_ -= cost(*entry);
  by_key_.erase(entry->key);
  entries_.erase(entry);
}

void AnswerCache::clear() {
  by_key_.clear();
  entries_.clear();
  bytes_ = 0;
}

}  // namespace penstock::dns
