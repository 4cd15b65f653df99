// Where a new flow goes: the verdict on it, and for a name the addresses to try, in order.
//
// The order is a client's own and does not depend on the order in which the DNS names the addresses (rendezvous
// hashing): so its flows stick to one address on every worker, clients spread over all, and a change of the set moves
// only those whose address has gone. Addresses that failed a moment ago come last.
#include <algorithm>

#include "dataplane/core/nat/translator_impl.h"

namespace penstock::nat {
namespace {

std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 32)) * 0xff51afd7ed558ccdULL;
  value = (value ^ (value >> 29)) * 0x9e3779b97f4a7c15ULL;
  return value ^ (value >> 32);
}

}  // namespace

Candidates Translator::Implementation::candidates_of(const Call& call, const policy::PeerPolicy& policy,
                                                     std::uint32_t translation, const flow::InsideKey& key) const {
  static const Prefix kWellKnown{IpAddress::v6({0x00, 0x64, 0xff, 0x9b}), 96};
  const policy::Translation& name = policy.translations[translation];
  const bool inside6 = key.source.is_v6();
  struct Ranked {
    bool failed;
    bool other_family;
    std::uint64_t rank;
    IpAddress address;
  };
  union Unset {  // need not be cleared before it is filled
    Unset() {}
    std::array<Ranked, Candidates::kMax> list;
  } unset;
  auto& list = unset.list;
  std::size_t count = 0;
  const auto add = [&](const IpAddress& address) {
    if (count == list.size() || forbidden_.contains(address)) return;
    // Protocols without ports do not cross families.
    if (address.is_v6() != inside6 && !has_ports(key.protocol)) return;
    for (std::size_t i = 0; i < count; ++i)
      if (list[i].address == address) return;
    list[count++] = {false, address.is_v6() != inside6, 0, address};
  };
  const auto add_v4 = [&] {
    if (source_nat_.enabled_v4)
      for (const IpAddress& address : name.real_v4) add(address);
  };
  const auto add_v6 = [&] {
    for (const IpAddress& address : name.real_v6) {
      // An address that a DNS64 made up is an IPv4 one in truth and reached directly (RFC 6052, RFC 7050).
      if (kWellKnown.contains(address) && source_nat_.enabled_v4)
        add(policy::extract_v4(kWellKnown, address));
      else if (source_nat_.enabled_v6)
        add(address);
    }
  };
  // The own family's first, in case there are more than there is room for.
  inside6 ? add_v6() : add_v4();
  inside6 ? add_v4() : add_v6();
  Candidates out;
  out.count = count;
  if (count == 1) out.addresses[0] = list[0].address;  // most names: nothing to put in order
  if (count <= 1) return out;
  const std::uint64_t client =
      mix(hash_value(policy.tunnel_v4) + mix(hash_value(policy.tunnel_v6))) + policy.translation_tag(translation);
  for (std::size_t i = 0; i < count; ++i) {
    Ranked& one = list[i];
    one.failed = failed_.contains(one.address, key.destination_port, key.protocol, call.now.monotonic);
    one.rank = mix(client ^ hash_value(one.address));
  }
  std::sort(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(count), [](const Ranked& a, const Ranked& b) {
    if (a.failed != b.failed) return b.failed;
    if (a.other_family != b.other_family) return b.other_family;
    return a.rank != b.rank ? a.rank < b.rank : a.address < b.address;
  });
  for (std::size_t i = 0; i < count; ++i) out.addresses[i] = list[i].address;
  return out;
}

// Order of a new flow (agreements.md): source allowed, verdict, name, family, then (open_flow) port and entries.
Translator::Implementation::Refusal Translator::Implementation::find_destination(const Call& call,
                                                                                 const policy::PeerPolicy& policy,
                                                                                 const flow::InsideKey& key,
                                                                                 const FirstPacket* first,
                                                                                 policy::Verdict& verdict) const {
  if (!policy.source_allowed(key.source)) return {DropReason::inner_source_not_allowed, false};
  if (first != nullptr) {
    verdict = first->verdict;
    // One address, of which the verdict knows: no choice.
    if (verdict.translation < policy.translations.size() && !verdict.several &&
        !forbidden_.contains(verdict.destination))
      return {};
  } else {
    verdict = policy.judge(key.destination, key.protocol, key.destination_port, source_nat_, call.now.wall);
  }
  if (verdict.reason == DropReason::policy_no_resource &&
      (config_.proxy_v4.contains(key.destination) || config_.proxy_v6.contains(key.destination)))
    // A packet may overtake the message that names its destination; a peer without control cannot send one.
    return {DropReason::name_unknown, policy.control};
  if (verdict.reason != DropReason::none) return {verdict.reason, verdict.wait};
  if (verdict.translation < policy.translations.size()) {
    const Candidates candidates = candidates_of(call, policy, verdict.translation, key);
    if (candidates.count == 0) {
      const DropReason why = policy::choose_destination(policy.translations[verdict.translation], key.source.is_v6(),
                                                        source_nat_, &forbidden_, verdict.destination);
      return {why != DropReason::none ? why : DropReason::nat_protocol_unsupported, false};
    }
    verdict.destination = candidates.addresses[0];
    return {};
  }
  if (config_.tunnel_v4.contains(verdict.destination) || config_.tunnel_v6.contains(verdict.destination))
    return {DropReason::nat_hairpin_refused, false};
  if (forbidden_.contains(verdict.destination)) return {DropReason::policy_forbidden_destination, false};
  return {};
}

}  // namespace penstock::nat
