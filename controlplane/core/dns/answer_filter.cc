#include "controlplane/core/dns/answer_filter.h"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

namespace penstock::dns {

bool bears_address(std::uint16_t type) {
  switch (type) {
    case type::a:
    case type::wks:
    case type::aaaa:
    case type::a6:
    case type::apl:
    case type::ipseckey:
    case type::l32:
    case type::l64:
    case type::amtrelay:
    case type::svcb:
    case type::https:
      return true;
    default:
      return false;
  }
}

namespace {

constexpr std::uint32_t kMaxCacheTtl = 86400;
constexpr std::uint32_t kMaxNegativeTtl = 3600;  // RFC 2308 §5 suggests one to three hours
constexpr std::size_t kMaxChain = 16;

class Filter {
 public:
  Filter(Bytes bytes, const Message& message, const NameRules& rules, std::uint32_t proxy_ttl)
      : bytes_(bytes), message_(message), rules_(rules), proxy_ttl_(proxy_ttl) {}

  // The whole answer when an address question leads to a Resource.
  std::optional<std::vector<std::uint8_t>> follow_chain();
  // Decides per record; true when something has to change.
  bool judge();
  std::vector<std::uint8_t> rebuild();
  std::uint32_t cache_ttl() const;

 private:
  enum class Fate : std::uint8_t { keep, drop, replace };

  const std::optional<NameRule>& rule(const WireName& name);
  const Record* cname_of(const WireName& name) const;
  void taint_aliases();
  bool hides(const WireName& name) { return rule(name).has_value() || tainted_.contains(name_key(name.bytes())); }
  Fate fate(const Record& record);

  Bytes bytes_;
  const Message& message_;
  const NameRules& rules_;
  std::uint32_t proxy_ttl_;
  std::unordered_map<std::string, std::optional<NameRule>> known_;
  std::unordered_set<std::string> tainted_;  // what names under a Resource are aliases of
  std::vector<Fate> fates_;
};

const std::optional<NameRule>& Filter::rule(const WireName& name) {
  auto [entry, added] = known_.try_emplace(name_key(name.bytes()));
  if (added) entry->second = rules_(name);
  return entry->second;
}

const Record* Filter::cname_of(const WireName& name) const {
  for (const Record& record : message_.records)
    if (record.section == Section::answer && record.type == type::cname && record.klass == kClassIn &&
        same_name(record.owner.bytes(), name.bytes()))
      return &record;
  return nullptr;
}

std::optional<std::vector<std::uint8_t>> Filter::follow_chain() {
  if (message_.qtype != type::a && message_.qtype != type::aaaa) return std::nullopt;
  std::vector<const Record*> chain;
  WireName name = message_.qname;
  while (!rule(name)) {
    const Record* cname = chain.size() < kMaxChain ? cname_of(name) : nullptr;
    if (cname == nullptr) return std::nullopt;
    const auto target = rdata_name(bytes_, *cname);
    if (!target) return std::nullopt;
    chain.push_back(cname);
    name = *target;
  }
  const NameRule hit = *rule(name);
  const auto kept = static_cast<std::uint16_t>(message_.flags & (flag::rd | flag::ra | flag::cd));
  MessageWriter out{message_.id, static_cast<std::uint16_t>(flag::qr | kept), message_.qname.bytes(), message_.qtype,
                    message_.qclass};
  for (const Record* cname : chain)
    out.add_name(Section::answer, cname->owner.bytes(), type::cname, std::min(cname->ttl, proxy_ttl_),
                 rdata_name(bytes_, *cname)->bytes());
  const auto& address = message_.qtype == type::a ? hit.v4 : hit.v6;
  if (address)
    out.add(Section::answer, name.bytes(), message_.qtype, kClassIn, proxy_ttl_, address->wire());
  else
    out.add_negative_soa(name.bytes(), proxy_ttl_);
  return out.take();
}

// Everything that a name under a Resource is an alias of, directly or not, in any section.
void Filter::taint_aliases() {
  std::unordered_multimap<std::string, std::string> aliases;
  std::vector<std::string> open;
  for (const Record& record : message_.records) {
    if (record.type != type::cname || record.klass != kClassIn) continue;
    const auto target = rdata_name(bytes_, record);
    if (!target) continue;
    if (rule(record.owner)) open.push_back(name_key(target->bytes()));
    aliases.emplace(name_key(record.owner.bytes()), name_key(target->bytes()));
  }
  while (!open.empty()) {
    const std::string name = std::move(open.back());
    open.pop_back();
    if (!tainted_.insert(name).second) continue;
    const auto [first, last] = aliases.equal_range(name);
    for (auto alias = first; alias != last; ++alias) open.push_back(alias->second);
  }
}

Filter::Fate Filter::fate(const Record& record) {
  if (record.klass != kClassIn) return Fate::keep;
  std::uint16_t about = record.type;
  if (record.type == type::rrsig && record.rdata_size >= 2) about = load16(bytes_, record.rdata_at);
  if (!bears_address(about)) return Fate::keep;
  if (hides(record.owner)) {
    const bool address = record.type == type::a || record.type == type::aaaa;
    return address && rule(record.owner) ? Fate::replace : Fate::drop;
  }
  if (record.type == type::svcb || record.type == type::https) {
    const auto target = rdata_name(bytes_, record);
    if (target && hides(*target)) return Fate::drop;
  }
  return Fate::keep;
}

bool Filter::judge() {
  taint_aliases();
  fates_.clear();
  bool changed = false;
  for (const Record& record : message_.records) {
    fates_.push_back(fate(record));
    changed = changed || fates_.back() != Fate::keep;
  }
  // The OPT record goes in any case; where it is the last thing, it can simply be cut off.
  if (message_.opt && *message_.opt + 1 != message_.records.size()) changed = true;
  return changed;
}

std::vector<std::uint8_t> Filter::rebuild() {
  const auto flags = static_cast<std::uint16_t>(message_.flags & ~(flag::ad));
  MessageWriter out{message_.id, flags, message_.qname.bytes(), message_.qtype, message_.qclass};
  std::set<std::pair<std::string, std::uint16_t>> given;
  for (std::size_t i = 0; i < message_.records.size(); ++i) {
    const Record& record = message_.records[i];
    if (record.type == type::opt || record.klass != kClassIn || fates_[i] == Fate::drop) continue;
    if (record.type == type::sig || record.type == type::nxt) continue;  // obsolete; may hold pointers we do not follow
    if (fates_[i] == Fate::keep) {
      out.copy(bytes_, record, record.ttl);
      continue;
    }
    const NameRule hit = *rule(record.owner);
    const auto& address = record.type == type::a ? hit.v4 : hit.v6;
    if (address && given.emplace(name_key(record.owner.bytes()), record.type).second)
      out.add(record.section, record.owner.bytes(), record.type, kClassIn, std::min(record.ttl, proxy_ttl_),
              address->wire());
  }
  return out.take();
}

std::uint32_t Filter::cache_ttl() const {
  std::uint32_t ttl = kMaxCacheTtl;
  bool answered = false;
  bool denied = false;
  for (const Record& record : message_.records) {
    if (record.type == type::opt) continue;
    ttl = std::min(ttl, record.ttl);
    if (record.section == Section::answer && (record.type == message_.qtype || message_.qtype == type::any))
      answered = true;
    if (record.section == Section::authority && record.type == type::soa && record.rdata_size >= 20) {
      denied = true;
      ttl = std::min({ttl, load32(bytes_, record.end() - 4), kMaxNegativeTtl});
    }
  }
  const std::uint16_t code = message_.flags & flag::rcode;
  if (code != rcode::noerror && code != rcode::nxdomain) return 0;
  if (code == rcode::nxdomain || !answered) return denied ? ttl : 0;
  return ttl;
}

}  // namespace

std::optional<FilteredAnswer> filter_answer(Bytes bytes, const NameRules& rules, std::uint32_t proxy_ttl) {
  const auto message = parse_message(bytes);
  if (!message || !message->has_question || (message->flags & flag::qr) == 0) return std::nullopt;

  FilteredAnswer out;
  out.question_end = message->question_end;
  out.code = message->flags & flag::rcode;
  out.truncated = (message->flags & flag::tc) != 0;
  std::size_t end = bytes.size();
  if (message->opt) {
    const Record& opt = message->records[*message->opt];
    out.had_opt = true;
    out.dnssec_ok = (opt.ttl & 0x8000) != 0;
    out.code = static_cast<std::uint16_t>(out.code | (opt.ttl >> 24) << 4);
    const Bytes options = bytes.subspan(opt.rdata_at, opt.rdata_size);
    out.options.assign(options.begin(), options.end());
    end = opt.at;
  }

  Filter filter{bytes, *message, rules, proxy_ttl};
  if (message->qclass == kClassIn || message->qclass == kClassAny) {
    if (auto answer = filter.follow_chain()) {
      out.message = std::move(*answer);
      out.rewritten = true;
      out.code = rcode::noerror;
      out.truncated = false;
      return out;
    }
  }
  out.cache_ttl = out.truncated || out.code > flag::rcode ? 0 : filter.cache_ttl();
  if (filter.judge()) {
    out.message = filter.rebuild();
    out.rewritten = true;
    out.cache_ttl = std::min(out.cache_ttl, proxy_ttl);
  } else {
    out.message.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(end));
    if (message->opt) store16(out.message, 10, static_cast<std::uint16_t>(load16(out.message, 10) - 1));
  }
  return out;
}

void age_ttls(std::vector<std::uint8_t>& message, std::uint32_t elapsed) {
  const auto parsed = parse_message(message);
  if (!parsed) return;
  for (const Record& record : parsed->records)
    store32(message, record.ttl_at, record.ttl > elapsed + 1 ? record.ttl - elapsed : 1);
}

}  // namespace penstock::dns
