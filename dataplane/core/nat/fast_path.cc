#include "dataplane/core/nat/fast_path.h"

#include "dataplane/core/nat/translate.h"

namespace penstock::nat {
namespace {

ChecksumSum negative(ChecksumSum sum) {
  return static_cast<std::uint16_t>(~checksum_fold(sum));
}

ChecksumSum sum_of(const IpAddress& a, const IpAddress& b) {
  return checksum_add(checksum_add(0, a.wire()), b.wire());
}

// What `header` of a direction is: see FlowRecord::up_header.
std::uint16_t header_difference(const Tuple& from, const Tuple& to) {
  if (to.destination.is_v6()) return 0;
  ChecksumSum sum = sum_of(to.source, to.destination);
  if (from.destination.is_v4()) sum += negative(sum_of(from.source, from.destination));
  return checksum_fold(sum);
}

Tuple reversed(const Tuple& tuple) {
  return {tuple.destination, tuple.source, tuple.destination_port, tuple.source_port};
}

}  // namespace

void prepare_rewrite(flow::FlowRecord& record, const IpAddress& source) {
  const Tuple inside{record.inside_source, record.inside_destination, record.inside_source_port,
                     record.inside_destination_port};
  const Tuple outside{source, record.remote, record.source_port, record.remote_port};
  record.up_delta = transport_delta(inside, outside, record.protocol, true);
  record.down_delta = transport_delta(reversed(outside), reversed(inside), record.protocol, true);
  record.up_header = header_difference(inside, outside);
  record.down_header = header_difference(reversed(outside), reversed(inside));
}

}  // namespace penstock::nat
