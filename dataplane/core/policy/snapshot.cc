#include "dataplane/core/policy/snapshot.h"

#include <algorithm>
#include <bit>
#include <map>
#include <optional>
#include <unordered_map>

#include "dataplane/core/base/address_words.h"
#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/policy/forbidden.h"
#include "dataplane/core/policy/pattern.h"

namespace penstock::policy {
namespace {

constexpr std::uint32_t kNoTranslation = 0xffffffff;

bool within(const std::vector<PortRange>& ranges, std::uint16_t port) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [port](const PortRange& range) { return range.first <= port && port <= range.last; });
}

// FNV-1a over resource, a separator, and name.
std::uint32_t tag_of(const Translation& translation) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  const auto add = [&hash](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3ULL;
    hash = (hash ^ 0x100) * 0x100000001b3ULL;
  };
  add(translation.resource);
  add(translation.name);
  const auto folded = static_cast<std::uint32_t>(hash ^ (hash >> 32));
  return folded == 0 ? 1 : folded;
}

// Addresses that a DNS64 made up are IPv4 ones in truth: going there directly saves a translation on the way (RFC 6052;
// docs/translation.md).
const Prefix& well_known_nat64() {
  static const Prefix prefix{IpAddress::v6({0x00, 0x64, 0xff, 0x9b}), 96};
  return prefix;
}

}  // namespace

bool Filter::allows(std::uint8_t protocol, std::uint16_t port) const {
  if (all) return true;
  switch (protocol) {
    case ip_protocol::tcp:
      return within(tcp, port);
    case ip_protocol::udp:
      return within(udp, port);
    case ip_protocol::icmp:
    case ip_protocol::icmpv6:
      return icmp_echo;
    default:
      return false;
  }
}

namespace {

// With copies of what nearly every judgement asks for, so that it need not look into the lists that people wrote, where
// each look is a miss of the cache.
struct alignas(64) Candidate {
  std::uint32_t authorisation = 0;
  std::uint32_t translation = kNoTranslation;
  std::uint32_t tag = 0;
  bool filtered = false;  // the authorisation's filter has something to say
  TranslationState state = TranslationState::active;
  bool direct = false;   // the name has one address, `only`, which is what it seems
  bool several = false;  // it has more than one
  WallTime expires;
  IpAddress only;

  [[nodiscard]] bool expired(WallTime wall) const { return expires != WallTime{} && expires <= wall; }
};
static_assert(sizeof(Candidate) == 64);
using Lists = std::unordered_map<IpAddress, std::vector<Candidate>>;  // while an index is being built

// From addresses to lists of candidates: an array of places, each beside its neighbour, and one array of all
// candidates. At most half of the places are taken; what is not in its own place is in one of the next. A proxy address
// is chosen by the peer, so where it lands must not be foreseeable: the seed is the place in memory.
class AddressMap {
 public:
  void fill(const Lists& lists) {
    if (lists.empty()) return;
    std::size_t count = 0;
    for (const auto& entry : lists) count += entry.second.size();
    places_.resize(std::bit_ceil(lists.size() * 2));
    candidates_.reserve(count);
    for (const auto& [address, list] : lists) {
      std::size_t at = home(AddressWords::of(address));
      while (places_[at].count_plus_one != 0) at = (at + 1) & (places_.size() - 1);
      places_[at] = {address, static_cast<std::uint32_t>(candidates_.size()),
                     static_cast<std::uint32_t>(list.size() + 1)};
      candidates_.insert(candidates_.end(), list.begin(), list.end());
    }
  }

  // False: the address is not there. It may be, with an empty list.
  [[nodiscard]] bool find(const IpAddress& address, std::span<const Candidate>& out) const {
    if (places_.empty()) return false;
    const AddressWords words = AddressWords::of(address);
    for (std::size_t at = home(words); places_[at].count_plus_one != 0; at = (at + 1) & (places_.size() - 1)) {
      if (!(AddressWords::of(places_[at].address) == words)) continue;
      out = {candidates_.data() + places_[at].first, places_[at].count_plus_one - 1U};
      return true;
    }
    return false;
  }
  void prefetch(const IpAddress& address) const {
    if (!places_.empty()) prefetch_read(&places_[home(AddressWords::of(address))]);
  }
  // Behind it: the first candidate of what lies there.
  void prefetch_candidate(const IpAddress& address) const {
    if (places_.empty()) return;
    const Place& place = places_[home(AddressWords::of(address))];
    if (place.count_plus_one > 1) prefetch_read(&candidates_[place.first]);
  }

 private:
  struct Place {
    IpAddress address;
    std::uint32_t first = 0;
    std::uint32_t count_plus_one = 0;  // 0: free
  };
  static_assert(sizeof(Place) == 24);

  [[nodiscard]] std::size_t home(const AddressWords& words) const {
    return words.hash(reinterpret_cast<std::uintptr_t>(places_.data())) & (places_.size() - 1);
  }

  std::vector<Place> places_;
  std::vector<Candidate> candidates_;
};

}  // namespace

// Candidates of every list are in order of preference.
struct PeerPolicy::Index {
  struct Length {
    unsigned length = 0;
    AddressMap prefixes;
  };
  AddressMap proxies;
  std::vector<Length> v4;  // longest first
  std::vector<Length> v6;
  std::vector<Candidate> internet;
  std::vector<std::uint32_t> tags;
};

void PeerPolicy::seal() {
  index_.reset();
  if (authorisations.empty() && translations.empty()) return;  // most peers most of the time: nothing to look up
  auto index = std::make_shared<Index>();
  std::vector<std::optional<Pattern>> patterns;
  patterns.reserve(authorisations.size());
  for (const Authorisation& authorisation : authorisations) patterns.push_back(Pattern::parse(authorisation.pattern));

  Lists proxies;
  std::map<unsigned, Lists, std::greater<>> v4, v6;  // by length
  std::unordered_map<std::string, std::vector<std::uint32_t>> by_resource;
  const auto candidate_of = [&](std::uint32_t authorisation) {
    Candidate out;
    out.authorisation = authorisation;
    out.filtered = !authorisations[authorisation].filter.all;
    out.expires = authorisations[authorisation].expires;
    return out;
  };
  for (std::uint32_t i = 0; i < authorisations.size(); ++i) {
    const Authorisation& authorisation = authorisations[i];
    switch (authorisation.kind) {
      case ResourceKind::dns:
        by_resource[authorisation.resource].push_back(i);
        break;
      case ResourceKind::address:
      case ResourceKind::cidr:
        (authorisation.prefix.address().is_v4() ? v4 : v6)[authorisation.prefix.length()]
                                                          [authorisation.prefix.address()].push_back(candidate_of(i));
        break;
      case ResourceKind::internet:
        index->internet.push_back(candidate_of(i));
        break;
    }
  }
  for (std::uint32_t i = 0; i < translations.size(); ++i) {
    const Translation& translation = translations[i];
    index->tags.push_back(tag_of(translation));
    const auto found = by_resource.find(translation.resource);
    for (const IpAddress& proxy : {translation.proxy_v4, translation.proxy_v6}) {
      if (proxy.is_unspecified()) continue;
      auto& candidates = proxies[proxy];  // known even when nothing authorises it: a better reason for the drop
      if (found == by_resource.end()) continue;
      for (const std::uint32_t authorisation : found->second) {
        Candidate candidate = candidate_of(authorisation);
        candidate.translation = i;
        candidate.tag = index->tags.back();
        candidate.state = translation.state;
        const std::size_t addresses = translation.real_v4.size() + translation.real_v6.size();
        candidate.several = addresses > 1;
        if (addresses == 1) {
          candidate.only = translation.real_v4.empty() ? translation.real_v6[0] : translation.real_v4[0];
          candidate.direct = !well_known_nat64().contains(candidate.only);
        }
        candidates.push_back(candidate);
      }
    }
  }

  // protocol.md "Overlap": the most specific, then the lowest id.
  const auto before = [&](const Candidate& a, const Candidate& b) {
    const auto& pattern_a = patterns[a.authorisation];
    const auto& pattern_b = patterns[b.authorisation];
    if (pattern_a.has_value() != pattern_b.has_value()) return pattern_a.has_value();
    if (pattern_a) {
      const auto order = Pattern::compare_specificity(*pattern_a, *pattern_b);
      if (order != std::strong_ordering::equal) return order == std::strong_ordering::less;
    }
    return authorisations[a.authorisation].resource < authorisations[b.authorisation].resource;
  };
  const auto sorted = [&](Lists& lists) -> const Lists& {
    for (auto& entry : lists) std::stable_sort(entry.second.begin(), entry.second.end(), before);
    return lists;
  };
  index->proxies.fill(sorted(proxies));
  std::stable_sort(index->internet.begin(), index->internet.end(), before);
  for (const auto& [from, to] : {std::pair{&v4, &index->v4}, std::pair{&v6, &index->v6}})
    for (auto& [length, lists] : *from) {
      to->push_back({length, {}});
      to->back().prefixes.fill(sorted(lists));
    }
  index_ = std::move(index);
}

void PeerPolicy::prefetch_index() const {
  prefetch_read(index_.get());
}

void PeerPolicy::prefetch_destination(const IpAddress& destination) const {
  if (index_ != nullptr) index_->proxies.prefetch(destination);
}

void PeerPolicy::prefetch_candidate(const IpAddress& destination) const {
  if (index_ != nullptr) index_->proxies.prefetch_candidate(destination);
}

std::uint32_t PeerPolicy::translation_tag(std::uint32_t index) const {
  return index_ == nullptr || index >= index_->tags.size() ? 0 : index_->tags[index];
}

bool PeerPolicy::source_allowed(const IpAddress& source) const {
  if (source.is_unspecified()) return false;
  if (source == tunnel_v4 || source == tunnel_v6) return true;
  return std::any_of(extra_sources.begin(), extra_sources.end(),
                     [&](const Prefix& prefix) { return prefix.contains(source); });
}

namespace {

// What a name with one address goes to.
bool choose_only(const Candidate& candidate, const SourceNat& source_nat, IpAddress& destination) {
  if (!candidate.direct || !(candidate.only.is_v4() ? source_nat.enabled_v4 : source_nat.enabled_v6)) return false;
  destination = candidate.only;
  return true;
}

}  // namespace

DropReason choose_destination(const Translation& translation, bool v6_packet, const SourceNat& source_nat,
                              const ForbiddenDestinations* forbidden, IpAddress& destination) {
  const Prefix& kWellKnown = well_known_nat64();
  DropReason reason = DropReason::name_no_address;
  const auto take = [&](const IpAddress& address) {
    if (forbidden != nullptr && forbidden->contains(address)) {
      reason = DropReason::policy_forbidden_destination;
      return false;
    }
    destination = address;
    return true;
  };
  const auto take_v4 = [&] {
    if (translation.real_v4.empty()) return false;
    if (!source_nat.enabled_v4) {
      reason = DropReason::nat_no_source;
      return false;
    }
    return std::any_of(translation.real_v4.begin(), translation.real_v4.end(), take);
  };
  const auto take_v6 = [&] {
    for (const IpAddress& address : translation.real_v6) {
      const bool made_up = kWellKnown.contains(address);
      if (made_up && source_nat.enabled_v4 && take(extract_v4(kWellKnown, address))) return true;
      if (source_nat.enabled_v6 && take(address)) return true;
      if (!source_nat.enabled_v6 && !made_up && reason == DropReason::name_no_address)
        reason = DropReason::nat_no_source;
    }
    return false;
  };
  const bool found = v6_packet ? take_v6() || take_v4() : take_v4() || take_v6();
  return found ? DropReason::none : reason;
}

Verdict PeerPolicy::judge(const IpAddress& destination, std::uint8_t protocol, std::uint16_t port,
                          const SourceNat& source_nat, WallTime wall) const {
  Verdict verdict;
  verdict.reason = DropReason::policy_no_resource;
  if (index_ == nullptr) return verdict;

  // The first candidate that is neither expired nor filtered; otherwise the reason of the last obstacle, where a
  // filter says more than an expiry.
  const auto pick = [&](std::span<const Candidate> candidates) -> const Candidate* {
    for (const Candidate& candidate : candidates) {
      if (candidate.expired(wall)) {
        if (verdict.reason == DropReason::policy_no_resource) verdict.reason = DropReason::policy_expired;
      } else if (candidate.filtered && !authorisations[candidate.authorisation].filter.allows(protocol, port)) {
        verdict.reason = DropReason::policy_filtered;
      } else {
        return &candidate;
      }
    }
    return nullptr;
  };

  std::span<const Candidate> candidates;
  if (index_->proxies.find(destination, candidates)) {
    const Candidate* candidate = pick(candidates);
    if (candidate == nullptr) return verdict;
    verdict.authorisation = candidate->authorisation;
    verdict.translation = candidate->translation;
    verdict.tag = candidate->tag;
    verdict.several = candidate->several;
    verdict.expires = candidate->expires;
    switch (candidate->state) {
      case TranslationState::resolving:
        verdict.reason = DropReason::name_unknown;
        verdict.wait = true;
        break;
      case TranslationState::active:
        verdict.reason = choose_only(*candidate, source_nat, verdict.destination)
                             ? DropReason::none
                             : choose_destination(translations[candidate->translation], destination.is_v6(), source_nat,
                                                  nullptr, verdict.destination);
        break;
      case TranslationState::forbidden:
        verdict.reason = DropReason::policy_forbidden_destination;
        break;
      case TranslationState::no_such_name:
      case TranslationState::failed:
        verdict.reason = DropReason::name_no_address;
        break;
    }
    return verdict;
  }

  const Candidate* candidate = nullptr;
  for (const Index::Length& length : destination.is_v4() ? index_->v4 : index_->v6) {
    if (length.prefixes.find(Prefix{destination, length.length}.address(), candidates)) candidate = pick(candidates);
    if (candidate != nullptr) break;
  }
  if (candidate == nullptr && !index_->internet.empty()) {
    if (outside_internet(destination)) {
      if (verdict.reason == DropReason::policy_no_resource) verdict.reason = DropReason::policy_forbidden_destination;
      return verdict;
    }
    candidate = pick(index_->internet);
  }
  if (candidate == nullptr) return verdict;
  verdict.authorisation = candidate->authorisation;
  verdict.expires = candidate->expires;
  verdict.destination = destination;
  verdict.reason = (destination.is_v4() ? source_nat.enabled_v4 : source_nat.enabled_v6) ? DropReason::none
                                                                                         : DropReason::nat_no_source;
  return verdict;
}

}  // namespace penstock::policy
