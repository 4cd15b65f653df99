#include "tests/path/foreign/nat64.h"

#include <algorithm>
#include <cstring>

#include "dataplane/core/nat/icmp_translate.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
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
  to.lowest_ipv6_mtu = config.lowest_mtu6;
  to.mapping = config.mapping;
  to.filtering = config.filtering;
  to.unsolicited = config.unsolicited;
  to.hairpinning = true;
  translator_ = std::make_unique<nat::Translator>(to, random_, packets_);
  for (const Nat64Config::Binding& binding : config.bindings) {
    const auto peer = peer_of(binding.inside.address, policy::embed_v4(config.prefix, binding.outside.address));
    if (!peer || !translator_->add_binding(*peer, binding.protocol, binding.inside, binding.outside))
      problem_ = binding.outside.address.to_string() + " port " + std::to_string(binding.outside.port) +
                 " is not of the pool, or is bound already, or so is what it is for";
  }
}

Now Nat64::now() const {
  return {Instant{elapsed_}, WallTime{1000000 + static_cast<std::uint64_t>(elapsed_.count() / 1000000000), 0}};
}

std::optional<PeerIndex> Nat64::peer_of(const IpAddress& source, const IpAddress& destination) {
  const auto found = peers_.find(source);
  if (found == peers_.end() && peers_.size() + 1 >= kPeers) return std::nullopt;
  const PeerIndex index = found != peers_.end() ? found->second : static_cast<PeerIndex>(peers_.size() + 1);
  peers_[source] = index;
  learn(index, source, destination);
  // Another client's packet comes from an address of the pool.
  if (config_.prefix.contains(destination) && is_pool(policy::extract_v4(config_.prefix, destination)))
    for (const auto& [address, peer] : peers_)
      for (const IpAddress& ours : config_.pool) learn(peer, address, policy::embed_v4(config_.prefix, ours));
  return index;
}

bool Nat64::is_pool(const IpAddress& address) const {
  return std::find(config_.pool.begin(), config_.pool.end(), address) != config_.pool.end();
}

void Nat64::learn(PeerIndex index, const IpAddress& source, const IpAddress& destination) {
  policy::PeerPolicy& policy = policies_[index];
  const std::string name = destination.to_string();
  const bool known = std::any_of(policy.translations.begin(), policy.translations.end(),
                                 [&](const policy::Translation& t) { return t.name == name; });
  if (known) return;
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
}

// A router on the way to a client may send an ICMP error about what goes there; who does makes no difference to what it
// becomes (RFC 5508 REQ-5). The translator knows clients only, so the client says it in the router's stead.
Octets Nat64::said_by_client(const Octets& bytes) const {
  const IpParse parsed = parse_ip(bytes);
  if (parsed.reason != DropReason::none || !parsed.view.v6() || parsed.view.protocol != ip_protocol::icmpv6 ||
      parsed.view.fragment())
    return bytes;
  const nat::Quoted quoted = nat::parse_quoted(bytes, parsed.view);
  const IpAddress source = ip_source(bytes, parsed.view);
  const IpAddress& client = quoted.tuple.destination;
  if (quoted.reason != DropReason::none || client == source || !peers_.contains(client)) return bytes;
  Octets out = bytes;
  std::copy(client.bytes().begin(), client.bytes().end(), out.begin() + 8);
  be16 checksum;
  std::memcpy(&checksum, &out[parsed.view.header_length + 2U], 2);
  ChecksumSum sum = static_cast<std::uint16_t>(~checksum.raw());
  sum = checksum_add(sum, client.wire()) + static_cast<std::uint16_t>(~checksum_fold(checksum_add(0, source.wire())));
  checksum = checksum_finish(sum);
  std::memcpy(&out[parsed.view.header_length + 2U], &checksum, 2);
  return out;
}

// RFC 6146 §3.5, §3.6: what an ICMP error needs is the binding of the packet that it quotes; the translator's errors
// belong to flows. So a binding that is there from the beginning, and has no flow to whom the quoted packet was for (or
// came from), gets one, as if its client had spoken.
void Nat64::open_for_error(const Octets& bytes) {
  const IpParse parsed = parse_ip(bytes);
  const bool v6 = parsed.view.v6();
  if (parsed.reason != DropReason::none || parsed.view.fragment() ||
      parsed.view.protocol != (v6 ? ip_protocol::icmpv6 : ip_protocol::icmp) ||
      bytes.size() <= parsed.view.header_length || !nat::is_icmp_error(bytes[parsed.view.header_length], v6))
    return;
  const nat::Quoted quoted = nat::parse_quoted(bytes, parsed.view);
  if (quoted.reason != DropReason::none) return;
  const nat::Tuple& t = quoted.tuple;
  const bool echo = quoted.protocol == ip_protocol::icmp;
  const auto identifier = static_cast<std::uint16_t>(t.source_port | t.destination_port);  // one is 0
  const Endpoint ours{v6 ? t.destination : t.source, echo ? identifier : v6 ? t.destination_port : t.source_port};
  const IpAddress remote = v6 ? t.source : policy::embed_v4(config_.prefix, t.destination);
  const std::uint16_t remote_port = echo ? 0 : v6 ? t.source_port : t.destination_port;
  const auto binding = std::find_if(config_.bindings.begin(), config_.bindings.end(), [&](const auto& one) {
    return one.protocol == quoted.protocol && (v6 ? one.inside : one.outside) == ours;
  });
  if (binding == config_.bindings.end()) return;
  bool known = false;
  translator_->for_each_flow(now(), [&](const nat::FlowInfo& flow) {
    known = known ||
            (flow.inside_source == binding->inside && flow.inside_destination == Endpoint{remote, remote_port});
  });
  const auto peer = known ? std::nullopt : peer_of(binding->inside.address, remote);
  if (!peer) return;
  const std::size_t length = quoted.protocol == ip_protocol::tcp ? 20 : 8;
  Octets opening(40 + length);
  opening[0] = 0x60;
  opening[5] = static_cast<std::uint8_t>(length);
  opening[6] = echo ? ip_protocol::icmpv6 : quoted.protocol;
  opening[7] = 64;
  std::copy(binding->inside.address.bytes().begin(), binding->inside.address.bytes().end(), opening.begin() + 8);
  std::copy(remote.bytes().begin(), remote.bytes().end(), opening.begin() + 24);
  const auto put = [&opening](std::size_t at, std::uint16_t value) {
    opening[40 + at] = static_cast<std::uint8_t>(value >> 8);
    opening[41 + at] = static_cast<std::uint8_t>(value);
  };
  if (echo) {
    put(0, 0x8000);
    put(4, binding->inside.port);
  } else {
    put(0, binding->inside.port);
    put(2, remote_port);
    put(4, quoted.protocol == ip_protocol::udp ? 8 : 0);
    put(6, 0xffff);  // whatever it is, it is nobody's
    if (quoted.protocol == ip_protocol::tcp) put(12, 0x5002);
  }
  Packet* packet = packets_.make(opening);
  packet->peer = *peer;
  packet->flags = packet_flag::from_tunnel;
  Packet* const burst[] = {packet};
  nat::Outcomes outcomes;
  ForeignResult unseen;
  translator_->translate_up(burst, {pointers_.data(), pointers_.size()}, now(), outcomes);
  take(outcomes, unseen);
}

ForeignResult Nat64::send(const Octets& sent) {
  ForeignResult result;
  open_for_error(sent);
  const Octets bytes = said_by_client(sent);
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
    // Whom the filter lets in must be somebody the client knows: everybody is.
    if (config_.filtering == nat::Filtering::endpoint_independent)
      for (const auto& [address, peer] : peers_)
        learn(peer, address, policy::embed_v4(config_.prefix, ip_source(bytes, parsed.view)));
    translator_->translate_down(burst, view, now(), outcomes);
  }
  result.held = outcomes.empty();
  take(outcomes, result);
  return result;
}

void Nat64::take(nat::Outcomes& outcomes, ForeignResult& result) {
  for (const nat::Outcome& outcome : outcomes) {
    const Packet& out = *outcome.packet;
    if (outcome.action == nat::Action::to_outside || outcome.action == nat::Action::to_inside) {
      ForeignOutput output{Octets(out.data, out.data + out.length), (out.flags & packet_flag::own) != 0, {}};
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
  outcomes.clear();
}

ForeignResult Nat64::after(Duration duration) {
  ForeignResult result;
  elapsed_ += duration;
  nat::Outcomes outcomes;
  const nat::PolicyView view{pointers_.data(), pointers_.size()};
  do {
    translator_->handle_timeout(view, now(), outcomes);
  } while (translator_->poll_timeout() <= now().monotonic);
  take(outcomes, result);
  return result;
}

}  // namespace penstock::path
