// Which section speaks about a field, or about a drop. Where Penstock differs from what others may do, the anchor in
// docs/translation.md that says so.
#include <map>

#include "dataplane/core/nat/icmp_translate.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/ip_parse.h"
#include "tests/path/foreign/address_map.h"
#include "tests/path/foreign/match.h"

namespace penstock::path {
namespace {

struct Sections {
  const char* to6;
  const char* to4;
};

const std::map<std::string, Sections>& of_fields() {
  static const std::map<std::string, Sections> list = {
      {"dscp", {"RFC 7915 §4.1: traffic class is all of TOS; marking packets is not the translator's business",
                "RFC 7915 §5.1: TOS is all of the traffic class; marking packets is not the translator's business"}},
      {"ecn", {"RFC 7915 §4.1, RFC 3168: ECN stays", "RFC 7915 §5.1, RFC 3168: ECN stays"}},
      {"flow-label", {"RFC 7915 §4.1: zero", "RFC 7915 §5.1"}},
      {"length", {"RFC 7915 §4.1, §4.3: payload length", "RFC 7915 §5.1, §5.3: total length"}},
      {"header-length", {"RFC 7915 §4.1", "RFC 7915 §5.1: no options"}},
      {"identification",
       {"RFC 7915 §4.1: the low 16 bits are the IPv4 header's; only fragments have one (RFC 8021)",
        "RFC 7915 §5.1: the translator's choice; §5.1.1: copied from a fragment header"}},
      {"df",
       {"RFC 7915 §4.1", "RFC 7915 §5.1: set on what is longer than 1260 bytes; §5.1.1: clear with a fragment header"}},
      {"mf", {"RFC 7915 §4.1: M is copied from MF", "RFC 7915 §5.1.1: MF is copied from M"}},
      {"fragment-offset", {"RFC 7915 §4.1", "RFC 7915 §5.1.1"}},
      {"reserved-flag", {"RFC 791 §3.1", "RFC 7915 §5.1: flags"}},
      {"ttl",
       {"RFC 7915 §4.1: one less, once; §4.3: unchanged in a quoted packet",
        "RFC 7915 §5.1: one less, once; §5.3: unchanged in a quoted packet"}},
      {"protocol",
       {"RFC 7915 §4.1: copied, 1 becomes 58", "RFC 7915 §5.1: copied, 58 becomes 1; extension headers are skipped"}},
      {"source",
       {"RFC 7915 §4.1, §6; RFC 6052 §2.2, RFC 7757 §3; hops without a mapping: RFC 6791 (docs/rfc/6791.md)",
        "RFC 7915 §5.1, §6; RFC 6052 §2.2, RFC 7757 §3; hops without a mapping: RFC 6791 (docs/rfc/6791.md)"}},
      {"destination",
       {"RFC 7915 §4.1, §6; RFC 6052 §2.2, RFC 7757 §3", "RFC 7915 §5.1, §6; RFC 6052 §2.2, RFC 7757 §3"}},
      {"options", {"RFC 7915 §4.1: not translated", "RFC 7915 §5.1: not translated"}},
      {"extension-header", {"RFC 7915 §4.1: options are not translated", "RFC 7915 §5.1: not translated"}},
      {"header-checksum", {"RFC 7915 §4.1", "RFC 7915 §5.1: computed"}},
      {"checksum",
       {"RFC 7915 §4.5, RFC 1624: adjusted, a wrong one stays wrong; §4.3: computed in errors",
        "RFC 7915 §5.5, RFC 1624: adjusted, a wrong one stays wrong; §5.3: computed in errors"}},
      {"source-port", {"RFC 6146 §3.5; docs/translation.md#a-flow", "RFC 6146 §3.5; docs/translation.md#a-flow"}},
      {"destination-port", {"RFC 6146 §3.5", "RFC 6146 §3.5"}},
      {"identifier", {"RFC 6146 §3.5.3", "RFC 6146 §3.5.3; docs/translation.md#a-flow"}},
      {"type", {"RFC 7915 §4.2", "RFC 7915 §5.2"}},
      {"code", {"RFC 7915 §4.2", "RFC 7915 §5.2"}},
      {"mtu",
       {"RFC 7915 §4.2: min(MTU + 20, IPv6 MTU, IPv4 MTU + 20), at least 1280; for 0 a plateau of RFC 1191",
        "RFC 7915 §5.2: min(MTU - 20, IPv4 MTU, IPv6 MTU - 20); - 28 when the quoted packet has a fragment header"}},
      {"pointer", {"RFC 7915 §4.2, figure 3", "RFC 7915 §5.2, figure 6"}},
      {"icmp-length",
       {"RFC 7915 §4.2, RFC 4884 §4: the quoted packet whole, zero-padded to 8 bytes, at least 128",
        "RFC 7915 §5.2, RFC 4884 §4: the quoted packet whole, zero-padded to 4 bytes, at least 128"}},
      {"unused", {"RFC 4443 §3: zero", "RFC 792: zero"}},
      {"extensions",
       {"RFC 7915 §4.2, RFC 4884 §5: as they are, while they fit",
        "RFC 7915 §5.2, RFC 4884 §5: as they are, while they fit"}},
      {"payload",
       {"RFC 7915 §4: unchanged; in errors as much as 1280 bytes hold (RFC 4443 §2.4 (c)), padded (RFC 4884)",
        "RFC 7915 §5: unchanged; in errors as much as 576 bytes hold (RFC 1812 §4.3.2.3), padded (RFC 4884)"}},
  };
  return list;
}

std::string by_family(bool v6, const char* for6, const char* for4) {
  return v6 ? for6 : for4;
}

bool udp_without_checksum(const Octets& bytes) {
  const IpParse parsed = parse_ip(bytes, ParseMode::piecewise);
  if (parsed.reason != DropReason::none || parsed.view.v6() || parsed.view.protocol != ip_protocol::udp) return false;
  const auto* udp = view_as<UdpHeader>(Bytes{bytes}.subspan(parsed.view.header_length));
  return !parsed.view.later_fragment() && udp != nullptr && udp->checksum.raw() == 0;
}

bool fragment(const Octets& bytes) {
  const IpParse parsed = parse_ip(bytes, ParseMode::piecewise);
  return parsed.reason == DropReason::none && parsed.view.fragment();
}

bool version6(const Octets& bytes) {
  return !bytes.empty() && bytes[0] >> 4 == 6;
}

// An ICMP error about a packet of somebody else than whom it is sent to.
bool about_another(const Octets& bytes) {
  const IpParse parsed = parse_ip(bytes, ParseMode::piecewise);
  if (parsed.reason != DropReason::none || parsed.view.later_fragment() ||
      parsed.view.protocol != (parsed.view.v6() ? ip_protocol::icmpv6 : ip_protocol::icmp) ||
      parsed.view.header_length >= bytes.size() ||
      !nat::is_icmp_error(bytes[parsed.view.header_length], parsed.view.v6()))
    return false;
  const nat::Quoted quoted = nat::parse_quoted(bytes, parsed.view);
  return (quoted.reason == DropReason::none || quoted.reason == DropReason::icmp_error_unmatched) &&
         quoted.tuple.source != ip_destination(bytes, parsed.view);
}

bool is_class_e(const IpAddress& address) {
  return address.is_v4() && address.v4_value() >> 28 == 0xf;
}

}  // namespace

std::string why_dropped(const Exchange& exchange) {
  const ForeignResult& result = exchange.result;
  if (result.held && !fragment(exchange.sent.bytes))
    return " waits six seconds for the same connection from the other side\n"
           "        RFC 6146 §3.5.2.2, RFC 5382 REQ-4\n";
  if (result.held)
    return " is a fragment and waits for the others of its datagram\n"
           "        RFC 6146 §3.4; docs/translation.md#fragments\n";
  const std::string section = result.why.empty() ? section_of(result.reason, version6(exchange.sent.bytes))
                                                 : result.why;
  return " is dropped: " + std::string{name_of(result.reason)} + "\n        " + section + "\n";
}

std::string output_lines(const Event& event) {
  if (event.output->answer)
    return drop_lines(*event.of) +
           "        RFC 7915 §4.4, §5.4, RFC 6146 §3.5: the sender of a discarded packet SHOULD be told\n";
  const Octets& sent = event.of->sent.bytes;
  if (about_another(sent))
    return "        RFC 7915 §4.3, §5.3: the quoted packet is translated as any other; whether an error is about a\n"
           "        packet that its receiver has sent is for the receiver to judge (RFC 5927 §4.1)\n";
  for (const Octets& packet : {sent, event.output->bytes})
    if (const IpParse parsed = parse_ip(packet, ParseMode::piecewise);
        parsed.reason == DropReason::none && (is_well_known_and_not_global(ip_source(packet, parsed.view)) ||
                                              is_well_known_and_not_global(ip_destination(packet, parsed.view))))
      return "        RFC 6052 §3.1 has 64:ff9b::/96 with IPv4 addresses that are not global dropped; suites "
             "use it with them all\n"
             "        the same, so that is done with --strict-wkp only\n";
  for (const Octets& packet : {sent, event.output->bytes})
    if (const IpParse parsed = parse_ip(packet, ParseMode::piecewise);
        parsed.reason == DropReason::none &&
        (is_class_e(ip_source(packet, parsed.view)) || is_class_e(ip_destination(packet, parsed.view))))
      return "        RFC 1812 §5.3.7 lets routers refuse class E; translators and hosts of today carry it\n";
  if (fragment(sent)) return "        RFC 7915 §4.1, §5.1.1, RFC 6146 §3.4: fragments are translated\n";
  return "        RFC 7915 §4, §5: what has mappings and is well formed is translated\n";
}

std::string choices(const Octets& sent, const Octets* expected, bool cut) {
  if (udp_without_checksum(sent))
    return "    RFC 7915 §4.5: whether UDP without a checksum is dropped or gets one is for the operator to say; here\n"
           "        it gets one (docs/translation.md#zero-udp-checksums), --udp-zero drop makes the other choice\n";
  if (cut && expected != nullptr && fragment(sent) && fragment(*expected))
    return "    RFC 6146 §3.4: fragments go on in order, once their datagram is whole "
           "(docs/translation.md#fragments)\n";
  if (cut && expected != nullptr && version6(*expected) && fragment(*expected) && !version6(sent))
    return "    RFC 7915 §4.1 leaves the length that packets without DF are cut to (lowest-ipv6-mtu, 1280 unless said\n"
           "        otherwise) to the operator: --lowest-mtu6 N\n";
  if (expected == nullptr && !cut && !version6(sent))
    return "    RFC 6146 §3.5, RFC 4787 §5 leave to the operator who may send to a client's port: --filtering\n"
           "        endpoint_independent (anybody), address_dependent or address_and_port_dependent\n"
           "        (docs/translation.md#endpoint-independent-mapping)\n";
  return {};
}

std::string section_of(const Field& field, bool to6, const Octets& sent) {
  if (field.layer == "dccp" && field.name == "checksum")
    return "RFC 7915 §4.5, §5.5: supporting DCCP is optional; here its checksum is kept right (RFC 4340 §9.1;\n"
           "        docs/translation.md#not-carried)";
  const bool answer = !sent.empty() && (sent[0] >> 4 == 6) == to6;
  if (answer && !field.inner && field.name == "mtu")
    return by_family(to6, "RFC 7915 §5: MTU of the IPv4 next hop + 20", "RFC 7915 §4.1: MTU of the IPv6 next hop - 20");
  if (answer && !field.inner && field.name == "pointer")
    return "RFC 7915 §5.1, RFC 4443 §3.4: the first octet of the field at fault (of Segments Left: three behind the\n"
           "        routing header's first)";
  if (answer && !field.inner && (field.name == "type" || field.name == "code"))
    return by_family(to6, "RFC 7915 §5.4: 1/1 unless said otherwise", "RFC 7915 §4.4: 3/13 unless said otherwise");
  const auto found = of_fields().find(field.name);
  if (found == of_fields().end()) return by_family(to6, "RFC 7915 §4: unchanged", "RFC 7915 §5: unchanged");
  return by_family(to6, found->second.to6, found->second.to4);
}

std::string section_of(DropReason reason, bool v6) {
  switch (reason) {
    case DropReason::none:
      return {};
    case DropReason::ip_malformed:
      return by_family(v6, "RFC 8200 §3, §4: a malformed header", "RFC 791 §3.1, RFC 1812 §5.2.2: a malformed header");
    case DropReason::ip_checksum_bad:
      return "RFC 1812 §5.2.2: the IPv4 header checksum is wrong";
    case DropReason::ip_source_invalid:
      return "RFC 7915 §4.1, §5.1: an illegal source: dropped silently, but for ICMPv4 errors";
    case DropReason::multicast_not_forwarded:
      return "RFC 7915 §1.2: multicast has no mapping";
    case DropReason::hop_limit_exceeded:
      return by_family(v6, "RFC 7915 §5.1: the hop limit is used up", "RFC 7915 §4.1: the TTL is used up");
    case DropReason::udp_checksum_bad:
      return "RFC 8200 §8.1; docs/translation.md#not-carried";
    case DropReason::nat_untranslatable:
    case DropReason::icmp_type_unsupported:
      return by_family(v6, "RFC 7915 §5.2: the table says drop", "RFC 7915 §4.2: the table says drop");
    case DropReason::icmp_error_about_error:
      return by_family(v6, "RFC 7915 §5.3: an error about an error", "RFC 7915 §4.3: an error about an error");
    case DropReason::icmp_error_unmatched:
      return by_family(v6, "RFC 7915 §5.3, RFC 6146 §3.5.1: the quoted packet has no mapping",
                       "RFC 7915 §4.3, RFC 6146 §3.5.1: the quoted packet has no mapping");
    case DropReason::too_big:
      return by_family(v6, "RFC 7915 §1.4, §5: longer than the next hop's MTU",
                       "RFC 7915 §4.1: DF, and longer than the next hop's MTU");
    case DropReason::transport_malformed:
      return "RFC 9293 §3.1, RFC 768, RFC 792, RFC 4443: a transport header cut off, or a damaged ICMP error\n"
             "        (docs/translation.md#icmp-errors-about-flows)";
    case DropReason::flow_none:
      return "RFC 6146 §3.5; docs/translation.md#a-flow: nothing from outside without a session of the same addresses\n"
             "        and ports";
    case DropReason::flow_tcp_not_syn:
      return "RFC 6146 §3.5.2.2: no SYN, and no session (with a BIB entry it SHOULD pass if policy "
             "allows: here it does\n"
             "        not, docs/rfc/6146.md)";
    case DropReason::nat_hairpin_refused:
    case DropReason::policy_forbidden_destination:
      return "docs/translation.md#what-the-sender-is-told: no destination for a flow (hairpinning is refused)";
    case DropReason::nat_fragment_overlap:
      return "RFC 5722, RFC 8200 §4.5: overlapping fragments";
    case DropReason::nat_fragment_unsupported:
      return "RFC 7915 §1.2; docs/translation.md#fragments";
    case DropReason::nat_protocol_unsupported:
      return "RFC 6146 §3.4: TCP, UDP and ICMP only; docs/translation.md#protocols-without-ports: not across families";
    case DropReason::nat_ports_exhausted:
      return "RFC 6146 §3.5.1.1: no port is left";
    default:
      return "docs/translation.md: " + std::string{penstock::text_of(reason)};
  }
}

}  // namespace penstock::path
