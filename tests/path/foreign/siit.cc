#include "tests/path/foreign/siit.h"

#include <algorithm>

#include "dataplane/core/nat/fragments.h"
#include "dataplane/core/nat/icmp_types.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::path {
namespace {

using nat::IcmpProblem;

// RFC 7600 §4.8: the address of translators that have none.
const IpAddress kDummy4 = IpAddress::v4({192, 0, 0, 8});
const IpAddress kDummy6 = IpAddress::v6({0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 0, 8});

bool is_icmp(const IpView& view) {
  return view.protocol == (view.v6() ? ip_protocol::icmpv6 : ip_protocol::icmp);
}

bool multicast(const IpAddress& address) {
  return address.is_v4() ? address.v4_value() >> 28 == 0xe : address.bytes()[0] == 0xff;
}

// The first of `addresses` that has no pair of its own and that no router passes on.
std::optional<IpAddress> martian(const AddressMap& map, std::initializer_list<IpAddress> addresses) {
  for (const IpAddress& address : addresses)
    if (is_never_forwarded(address) && !map.is_meant(address)) return address;
  return std::nullopt;
}

std::string martian_text(const IpAddress& address, const char* whose) {
  return "RFC 1812 §5.3.7" + std::string{address.is_v4() ? ", RFC 3927 §2.7: " : ", RFC 4291 §2.5, §2.7: "} + whose +
         address.to_string() + " is no address that a router passes on";
}

// Protocol numbers that IPv6 takes for extension headers (RFC 8200 §4, RFC 7045): data would be read as one.
bool extension_number(std::uint8_t protocol) {
  switch (protocol) {
    case ip_protocol::hop_by_hop:
    case ip_protocol::ipv6_routing:
    case ip_protocol::ipv6_fragment:
    case ip_protocol::ipv6_destination:
    case ip_protocol::mobility:
    case 139:  // HIP
    case 140:  // shim6
      return true;
    default:
      return false;
  }
}

bool icmp_error(const Packet& packet, const IpView& view) {
  return is_icmp(view) && !view.later_fragment() && packet.length > view.header_length &&
         nat::is_icmp_error(packet.data[view.header_length], view.v6());
}

bool no_udp_checksum(const Packet& packet, const IpView& view) {
  const auto* udp = view_as<UdpHeader>(packet.bytes().subspan(view.header_length));
  return view.protocol == ip_protocol::udp && !view.later_fragment() && udp != nullptr && udp->checksum.raw() == 0;
}

}  // namespace

IpAddress Siit::own(bool v6) const {
  return v6 ? config_.own6.value_or(kDummy6) : config_.own4.value_or(kDummy4);
}

IpAddress Siit::hop(Call& call, bool v6) const {
  const auto& given = v6 ? config_.hop6 : config_.hop4;
  if (given) return *given;
  // RFC 7915 §5.2, RFC 6791 §3.1: without a pool of its own the translator's address stands for them.
  if (!(v6 ? config_.own6 : config_.own4)) call.free.insert("source");
  return own(v6);
}

ForeignResult Siit::send(const Octets& bytes) {
  ForeignResult result;
  Packet* packet = packets_.make(bytes);
  Call call{packet, {}, &result, {}, false};
  const IpParse parsed = parse_ip(packet->bytes(), ParseMode::piecewise);
  call.view = parsed.view;
  if (parsed.reason != DropReason::none) {
    result.reason = parsed.reason;
  } else if (!parsed.view.v6() && !ipv4_header_checksum_ok(packet->bytes())) {
    result.reason = DropReason::ip_checksum_bad;
  } else {
    if (packet->length > parsed.view.total_length) packet->truncate(parsed.view.total_length);
    translate(call);
  }
  packets_.free(packet);
  return result;
}

void Siit::give_out(const Call& call, Packet* packet) {
  call.result->outputs.push_back({Octets(packet->data, packet->data + packet->length), false, call.free});
}

void Siit::refuse(const Call& call, DropReason reason, IcmpProblem problem, std::uint32_t value,
                  const std::string& why) {
  call.result->reason = reason;
  call.result->why = why;
  const Bytes offending = call.packet->bytes();
  const bool about_icmp = is_icmp(call.view) && problem == IcmpProblem::prohibited;  // RFC 7915 §4.4, §5.4
  if (problem == IcmpProblem::none || about_icmp || call.hairpin || !nat::may_be_answered(offending, call.view)) return;
  const bool v6 = call.view.v6();
  Packet* answer = nat::build_icmp_error(packets_, offending, call.view, own(v6), problem, value);
  ForeignOutput out{Octets(answer->data, answer->data + answer->length), true, {}};
  // What a router writes into packets of its own is its own affair.
  out.free = {"dscp", "ecn", "identification", "df", "ttl", "flow-label"};
  if (!(v6 ? config_.own6 : config_.own4)) out.free.insert("source");
  call.result->outputs.push_back(std::move(out));
  packets_.free(answer);
}

// What RFC 7915 has refused before any translation. False: refused.
bool Siit::check(const Call& call, bool to6) {
  const Packet& packet = *call.packet;
  const IpView& view = call.view;
  const bool error = icmp_error(packet, view);
  const IpAddress source = ip_source(packet.bytes(), view);
  // RFC 7915 §4.1: an illegal source is kept in ICMPv4 errors, for trouble shooting.
  if (martian(config_.map, {source}) && !(error && to6 && !multicast(source))) {
    refuse(call, DropReason::ip_source_invalid, IcmpProblem::none);
    return false;
  }
  const IpAddress destination = ip_destination(packet.bytes(), view);
  if (multicast(destination)) {
    refuse(call, DropReason::multicast_not_forwarded, IcmpProblem::none);
    return false;
  }
  if (martian(config_.map, {destination})) {
    refuse(call, DropReason::no_route, IcmpProblem::none, 0, martian_text(destination, "the destination "));
    return false;
  }
  if (view.ttl <= 1 && !call.hairpin) {
    refuse(call, DropReason::hop_limit_exceeded, IcmpProblem::time_exceeded);
    return false;
  }
  if (view.source_route != 0) {
    refuse(call, DropReason::nat_untranslatable, IcmpProblem::source_route_failed, 0,
           "RFC 7915 §4.1: an unexpired source route: Destination Unreachable, Source Route Failed");
    return false;
  }
  if (view.extension_behind_fragment) {
    refuse(call, DropReason::nat_untranslatable, IcmpProblem::prohibited, 0,
           "RFC 7915 §5.1.1: an extension header behind the fragment header: SHOULD be dropped");
    return false;
  }
  if (view.routing_header != 0) {
    refuse(call, DropReason::nat_untranslatable, IcmpProblem::routing_header, view.routing_header + 3U,
           "RFC 7915 §5.1: a routing header with segments left: Parameter Problem pointing at Segments Left");
    return false;
  }
  if (to6 && extension_number(view.protocol)) {
    refuse(call, DropReason::nat_untranslatable, IcmpProblem::none, 0,
           "RFC 8200 §4: this protocol number means an extension header in IPv6");
    return false;
  }
  if (is_icmp(view) && view.fragment()) {
    refuse(call, DropReason::nat_fragment_unsupported, IcmpProblem::prohibited, 0,
           "RFC 7915 §1.2: fragmented ICMP is not translated");
    return false;
  }
  if (no_udp_checksum(packet, view) && !to6) {
    refuse(call, DropReason::udp_checksum_bad, IcmpProblem::none, 0,
           "RFC 8200 §8.1: IPv6 nodes discard UDP without a checksum (docs/translation.md#not-carried)");
    return false;
  }
  if (no_udp_checksum(packet, view) && to6 && (view.fragment() || !config_.compute_udp_checksum)) {
    refuse(call, DropReason::nat_untranslatable, IcmpProblem::prohibited, 0,
           "RFC 7915 §4.5: no UDP checksum, and it cannot (or shall not) be computed");
    return false;
  }
  return true;
}

bool Siit::map_addresses(Call& call, bool to6, bool error, nat::Tuple& to) {
  const Bytes bytes = call.packet->bytes();
  const IpAddress source = ip_source(bytes, call.view);
  const IpAddress destination = ip_destination(bytes, call.view);
  const auto map = [&](const IpAddress& address) -> std::optional<IpAddress> {
    const auto mapped = to6 ? config_.map.to_v6(address) : config_.map.to_v4(address);
    return mapped ? std::optional{mapped->address} : std::nullopt;
  };
  const auto mapped_destination = map(destination);
  if (!mapped_destination) {
    refuse(call, DropReason::no_route, IcmpProblem::no_route, 0,
           "RFC 7915 §6: the destination " + destination.to_string() + " has no mapping: not for the translator");
    return false;
  }
  // RFC 7757 §4.2: what turns around keeps appearing under the prefix.
  auto mapped_source = call.hairpin ? config_.map.to_v6_by_prefix(source) : map(source);
  if (!mapped_source && error) mapped_source = hop(call, to6);
  if (!mapped_source) {
    refuse(call, DropReason::ip_source_invalid, IcmpProblem::prohibited, 0,
           "RFC 7915 §6: the source " + source.to_string() + " has no mapping");
    return false;
  }
  if (const auto address = martian(config_.map, {*mapped_destination}); address) {
    refuse(call, DropReason::no_route, IcmpProblem::none, 0, martian_text(*address, "the destination "));
    return false;
  }
  if (const auto address = martian(config_.map, {*mapped_source}); address && !(error && to6)) {
    refuse(call, DropReason::ip_source_invalid, IcmpProblem::none, 0, martian_text(*address, "the source "));
    return false;
  }
  if (config_.strict_well_known_prefix)
    for (const IpAddress& address : {to6 ? *mapped_source : source, to6 ? *mapped_destination : destination})
      if (is_well_known_and_not_global(address)) {
        refuse(call, DropReason::nat_untranslatable, IcmpProblem::prohibited, 0,
               "RFC 6052 §3.1: the well-known prefix with an IPv4 address that is not global");
        return false;
      }
  to.source = *mapped_source;
  to.destination = *mapped_destination;
  return true;
}

void Siit::translate(Call& call) {
  const bool to6 = !call.view.v6();
  if (!check(call, to6)) return;
  // RFC 7757 §4.2: a destination that is embedded, and has an explicit pair, is on the side the packet came from.
  bool turns = false;
  if (!to6) {
    const auto mapped = config_.map.to_v4(ip_destination(call.packet->bytes(), call.view));
    turns = mapped && mapped->by_prefix && config_.map.has_pair(mapped->address);
  }
  const auto before = call.result->outputs.size();
  if (icmp_error(*call.packet, call.view)) {
    translate_error(call, to6);
  } else {
    forward(call, to6);
  }
  if (turns && call.result->outputs.size() == before + 1 && !call.result->outputs.back().answer) turn_around(call);
}

bool Siit::fits(const Call& call, bool to6, std::uint32_t& limit) const {
  const IpView& view = call.view;
  limit = to6 ? config_.mtu6 : config_.mtu4;
  if (to6 && !view.dont_fragment) limit = std::min(limit, std::uint32_t{config_.lowest_mtu6});
  return nat::translated_length(view, to6) <= limit;
}

void Siit::forward(Call& call, bool to6) {
  const IpView view = call.view;
  Packet& packet = *call.packet;
  nat::Rewrite rewrite;
  if (!map_addresses(call, to6, false, rewrite.to)) return;
  const nat::Tuple from{ip_source(packet.bytes(), view), ip_destination(packet.bytes(), view)};
  rewrite.ports = false;
  rewrite.delta = nat::transport_delta(from, rewrite.to, view.protocol, false);

  if (nat::translated_length(view, to6) > 0xffff)
    return refuse(call, DropReason::too_big, IcmpProblem::none, 0, "RFC 8200 §3: longer than a length field can say");
  std::uint32_t limit = 0;
  const bool fit = call.hairpin || fits(call, to6, limit);
  // What is short enough to have no DF in IPv4 comes from senders that cannot send less (RFC 7915 §5, §5.1).
  const bool cut = !fit && (to6 ? !view.dont_fragment
                                : nat::translated_length(view, false) <= nat::kIpv6MinimumMtu - 20U);
  if (!fit && !cut) {
    std::uint32_t mtu = limit + 20;
    if (to6) {
      // A fragment grows by its header too; what is told must be news to the sender.
      mtu = view.fragment() && view.total_length <= limit - 20 ? limit - 28 : limit - 20;
    }
    return refuse(call, DropReason::too_big, IcmpProblem::too_big, mtu);
  }
  nat::HeaderOptions options;
  options.forward = !call.hairpin;
  if (!to6 && !view.has_fragment_header) {
    options.set_identification = true;
    options.identification = identification_++;
    call.free.insert("identification");
  }
  const DropReason reason = nat::translate_packet(packet, view, rewrite, options);
  if (reason != DropReason::none) {
    // The packet is no more what its sender sent: nothing to quote.
    call.result->reason = reason;
    return;
  }
  if (!cut) return give_out(call, &packet);
  std::vector<Packet*> pieces;
  const DropReason cutting =
      nat::fragment_packet(packet, static_cast<std::uint16_t>(limit), view.identification, packets_, pieces);
  if (cutting != DropReason::none) call.result->reason = cutting;
  for (Packet* piece : pieces) {
    if (cutting == DropReason::none) give_out(call, piece);
    if (piece != &packet) packets_.free(piece);
  }
}

void Siit::translate_error(Call& call, bool to6) {
  Packet& packet = *call.packet;
  const nat::Quoted quoted = nat::parse_quoted(packet.bytes(), call.view);
  // What can have no flow still has addresses.
  if (quoted.reason != DropReason::none && quoted.reason != DropReason::icmp_error_unmatched)
    return refuse(call, quoted.reason, IcmpProblem::none);
  if (to6 && extension_number(quoted.view.protocol))
    return refuse(call, DropReason::nat_untranslatable, IcmpProblem::none, 0,
                  "RFC 8200 §4: the quoted packet's protocol number means an extension header in IPv6");
  nat::ErrorRewrite rewrite;
  nat::Tuple outer;
  if (!map_addresses(call, to6, true, outer)) return;
  rewrite.source = outer.source;
  rewrite.destination = outer.destination;
  const auto map = [&](const IpAddress& address, bool prefix_only) -> std::optional<IpAddress> {
    if (prefix_only) return config_.map.to_v6_by_prefix(address);
    const auto mapped = to6 ? config_.map.to_v6(address) : config_.map.to_v4(address);
    return mapped ? std::optional{mapped->address} : std::nullopt;
  };
  const auto inner_source = map(quoted.tuple.source, false);
  const auto inner_destination = map(quoted.tuple.destination, call.hairpin);
  if (!inner_source || !inner_destination)
    return refuse(call, DropReason::icmp_error_unmatched, IcmpProblem::none, 0,
                  "RFC 7915 §6: an address of the quoted packet has no mapping");
  const auto address =
      martian(config_.map, {quoted.tuple.source, quoted.tuple.destination, *inner_source, *inner_destination});
  if (address)
    return refuse(call, DropReason::icmp_error_unmatched, IcmpProblem::none, 0,
                  martian_text(*address, "no packet that an error can be about has been sent: "));
  rewrite.quoted.ports = false;
  rewrite.quoted.to = {*inner_source, *inner_destination};
  const nat::Tuple inner{quoted.tuple.source, quoted.tuple.destination};
  rewrite.quoted.delta = nat::transport_delta(inner, rewrite.quoted.to, quoted.view.protocol, false);
  rewrite.mtu = {config_.mtu4, config_.mtu6, quoted.view.total_length, quoted.view.has_fragment_header};
  if (!to6) {
    rewrite.identification = identification_++;
    call.free.insert("identification");
    if (!quoted.view.has_fragment_header) call.free.insert("inner.identification");
  }
  IpView view = call.view;
  if (call.hairpin) ++view.ttl;
  const DropReason reason = nat::translate_icmp_error(packet, view, quoted, rewrite);
  if (reason != DropReason::none) {
    call.result->reason = reason;
    return;
  }
  give_out(call, &packet);
}

// The second half of a hairpin: back to IPv6, without another hop.
void Siit::turn_around(Call& call) {
  const ForeignOutput half = std::move(call.result->outputs.back());
  call.result->outputs.pop_back();
  Packet* packet = packets_.make(half.bytes);
  Call back{packet, parse_ip(packet->bytes(), ParseMode::piecewise).view, call.result, {}, true};
  if (half.free.contains("source")) back.free.insert("source");
  if (icmp_error(*packet, back.view)) {
    translate_error(back, true);
  } else {
    forward(back, true);
  }
  packets_.free(packet);
}

}  // namespace penstock::path
