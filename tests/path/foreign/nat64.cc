#include "tests/path/foreign/nat64.h"

#include <algorithm>

#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/policy/forbidden.h"

namespace penstock::path {

Nat64::Nat64(const Nat64Config& config) : config_{config}, pointers_(kPeers) {
  nat::TranslatorConfig to;
  to.source_v4 = config.pool;
  to.first_port = config.first_port;
  to.last_port = config.last_port;
  to.max_flows = 65536;
  to.max_peers = kPeers;
  to.mtu_outside = config.mtu4;
  to.mtu_inside = config.mtu6;
  to.hop_prefix = config.prefix;
  // Names are proxy addresses under the prefix; ranges of our own tunnels do not exist here.
  to.proxy_v6 = config.prefix;
  const auto nowhere4 = IpAddress::v4({0, 0, 0, 1});
  to.proxy_v4 = to.tunnel_v4 = Prefix{nowhere4, 32};
  to.tunnel_v6 = Prefix{IpAddress{}, 128};
  if (config.own6) to.own_inside_v6 = *config.own6;
  to.icmp_errors_burst = 1U << 20;
  translator_ = std::make_unique<nat::Translator>(to, random_, packets_);
}

Now Nat64::now() const {
  return {Instant{elapsed_}, WallTime{1000000 + static_cast<std::uint64_t>(elapsed_.count() / 1000000000), 0}};
}

std::optional<PeerIndex> Nat64::peer_of(const IpAddress& source, const IpAddress& destination) {
  const auto found = peers_.find(source);
  if (found == peers_.end() && peers_.size() + 1 >= kPeers) return std::nullopt;
  const PeerIndex index = found != peers_.end() ? found->second : static_cast<PeerIndex>(peers_.size() + 1);
  peers_[source] = index;
  policy::PeerPolicy& policy = policies_[index];
  const std::string name = destination.to_string();
  const bool known = std::any_of(policy.translations.begin(), policy.translations.end(),
                                 [&](const policy::Translation& t) { return t.name == name; });
  if (known) return index;
  policy.peer = index;
  policy.tunnel_v6 = source;
  if (policy.authorisations.empty()) {
    policy::Authorisation& all = policy.authorisations.emplace_back();
    all.kind = policy::ResourceKind::dns;
    all.id = all.resource = std::string{"everything"};
    all.pattern = std::string{"**"};
  }
  policy::Translation translation;
  translation.resource = "everything";
  translation.name = translation.id = name;
  translation.proxy_v6 = destination;
  translation.state = policy::TranslationState::active;
  translation.real_v4 = {policy::extract_v4(config_.prefix, destination)};
  policy.translations.push_back(translation);
  policy.epoch = ++epoch_;
  policy.seal();
  published_.push_back(policy);
  pointers_[index].store(&published_.back());
  return index;
}

ForeignResult Nat64::send(const Octets& bytes) {
  ForeignResult result;
  const IpParse parsed = parse_ip(bytes);
  const bool up = !bytes.empty() && bytes[0] >> 4 == 6;
  Packet* packet = packets_.make(bytes);
  Packet* const burst[] = {packet};
  nat::Outcomes outcomes;
  const nat::PolicyView view{pointers_.data(), pointers_.size()};
  if (parsed.reason != DropReason::none) {
    result.reason = parsed.reason;
    packets_.free(packet);
    return result;
  }
  if (up) {
    const IpAddress source = ip_source(bytes, parsed.view);
    const IpAddress destination = ip_destination(bytes, parsed.view);
    std::string refused;
    if (!config_.prefix.contains(destination))
      refused = "RFC 6146 §3.5: the destination is not under the prefix: not for the translator";
    if (config_.prefix.contains(source)) refused = "RFC 6146 §3.5: a source under the prefix (hairpin loop)";
    const auto peer = refused.empty() ? peer_of(source, destination) : std::nullopt;
    if (!peer) {
      result.reason = DropReason::no_route;
      result.why = refused.empty() ? "more IPv6 sources than this runner keeps" : refused;
      packets_.free(packet);
      return result;
    }
    packet->peer = *peer;
    packet->flags = packet_flag::from_tunnel;
    translator_->translate_up(burst, view, now(), outcomes);
  } else {
    translator_->translate_down(burst, view, now(), outcomes);
  }
  result.held = outcomes.empty();
  for (const nat::Outcome& outcome : outcomes) {
    const Packet& out = *outcome.packet;
    if (outcome.action == nat::Action::to_outside || outcome.action == nat::Action::to_inside) {
      ForeignOutput output{Octets(out.data, out.data + out.length), (outcome.action == nat::Action::to_inside) == up,
                           {}};
      const bool v4 = !output.bytes.empty() && output.bytes[0] >> 4 == 4;
      if (output.answer) {
        output.free = {"dscp", "ecn", "identification", "df", "ttl", "flow-label"};
        if (!v4 && !config_.own6) output.free.insert("source");
      } else if (v4) {
        // RFC 7915 §5.1: from the translator's generator; RFC 6864 where several sources share an address
        output.free = {"identification", "inner.identification"};
      }
      result.outputs.push_back(std::move(output));
    } else {
      result.reason = outcome.action == nat::Action::drop ? outcome.reason : DropReason::flow_none;
    }
    packets_.free(outcome.packet);
  }
  return result;
}

void Nat64::after(Duration duration) {
  elapsed_ += duration;
  nat::Outcomes outcomes;
  do {
    translator_->handle_timeout(now(), outcomes);
  } while (translator_->poll_timeout() <= now().monotonic);
  for (const nat::Outcome& outcome : outcomes) packets_.free(outcome.packet);
}

}  // namespace penstock::path
