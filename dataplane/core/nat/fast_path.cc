#include "dataplane/core/nat/fast_path.h"

namespace penstock::nat {
namespace {

ChecksumSum negative(ChecksumSum sum) {
  return static_cast<std::uint16_t>(~checksum_fold(sum));
}

// Of the bytes that go on the wire.
ChecksumSum sum_of(const IpAddress& address) {
  const AddressWords words = AddressWords::of(address);
  if (words.is_v4()) return words.low >> 32;
  constexpr std::uint64_t kHalf = 0xffffffff;
  return (words.high & kHalf) + (words.high >> 32) + (words.low & kHalf) + (words.low >> 32);
}

ChecksumSum sum_of_ports(std::uint16_t a, std::uint16_t b) {
  return ChecksumSum{plain::swapped(a)} + plain::swapped(b);
}

// A direction's header difference: see FlowRecord::up_header.
std::uint16_t header_difference(ChecksumSum from, bool from6, ChecksumSum to, bool to6) {
  if (to6) return 0;
  return checksum_fold(from6 ? to : to + negative(from));
}

}  // namespace

// Both directions replace one side's addresses and ports by the other's, and sums do not know the order.
void prepare_rewrite(flow::FlowRecord& record, const IpAddress& source) {
  const bool inside6 = record.inside_destination.is_v6();
  const bool outside6 = record.remote.is_v6();
  const ChecksumSum inside = sum_of(record.inside_source) + sum_of(record.inside_destination);
  const ChecksumSum outside = sum_of(source) + sum_of(record.remote);
  record.up_header = header_difference(inside, inside6, outside, outside6);
  record.down_header = header_difference(outside, outside6, inside, inside6);
  // ICMPv4 has no pseudo-header.
  const bool icmp = record.protocol == ip_protocol::icmp || record.protocol == ip_protocol::icmpv6;
  const ChecksumSum inside_ports = sum_of_ports(record.inside_source_port, record.inside_destination_port);
  const ChecksumSum outside_ports = sum_of_ports(record.source_port, record.remote_port);
  const bool inside_counts = !(icmp && !inside6);
  const bool outside_counts = !(icmp && !outside6);
  const ChecksumSum up = (outside_counts ? outside : 0) + (inside_counts ? negative(inside) : 0);
  const ChecksumSum down = (inside_counts ? inside : 0) + (outside_counts ? negative(outside) : 0);
  record.up_delta = checksum_fold(up + outside_ports + negative(inside_ports));
  record.down_delta = checksum_fold(down + inside_ports + negative(outside_ports));
}

}  // namespace penstock::nat
