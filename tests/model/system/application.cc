#include "tests/model/system/application.h"

#include <cstring>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/ip_parse.h"
#include "tests/unit/gateway/builder.h"

namespace penstock::model {
namespace {

constexpr std::uint32_t kMagic = 0x70736b31;
constexpr std::size_t kSize = 16;

const char* name_of(AppKind kind) {
  return kind == AppKind::request ? "request" : kind == AppKind::echo ? "echo" : "push";
}

std::string describe(const AppPacket& what) {
  return std::string{name_of(what.kind)} + " " + std::to_string(what.number) + " of flow " + std::to_string(what.flow);
}

}  // namespace

std::vector<std::uint8_t> make_app_packet(const AppPacket& what, const Endpoint& from, const Endpoint& to) {
  std::vector<std::uint8_t> payload(kSize);
  std::memcpy(payload.data(), &kMagic, 4);
  payload[4] = static_cast<std::uint8_t>(what.kind);
  std::memcpy(payload.data() + 6, &what.flow, 2);
  std::memcpy(payload.data() + 8, &what.server, 2);
  std::memcpy(payload.data() + 12, &what.number, 4);
  return gateway::test::udp_packet(from, to, payload);
}

std::optional<ParsedApp> parse_app_packet(Bytes packet) {
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none || parse.view.protocol != ip_protocol::udp || parse.view.fragment())
    return std::nullopt;
  const Bytes udp = packet.subspan(parse.view.header_length);
  if (udp.size() < sizeof(UdpHeader) + kSize) return std::nullopt;
  const std::uint8_t* payload = udp.data() + sizeof(UdpHeader);
  std::uint32_t magic;
  std::memcpy(&magic, payload, 4);
  if (magic != kMagic) return std::nullopt;
  ParsedApp out;
  const auto* header = view_as<UdpHeader>(udp);
  out.from = {ip_source(packet, parse.view), header->source_port.host()};
  out.to = {ip_destination(packet, parse.view), header->destination_port.host()};
  out.what.kind = static_cast<AppKind>(payload[4]);
  std::memcpy(&out.what.flow, payload + 6, 2);
  std::memcpy(&out.what.server, payload + 8, 2);
  std::memcpy(&out.what.number, payload + 12, 4);
  // A packet that was translated wrongly shows it here.
  const ChecksumSum sum =
      checksum_add(checksum_pseudo_header(out.from.address, out.to.address, ip_protocol::udp,
                                          static_cast<std::uint32_t>(udp.size())),
                   udp);
  if (header->checksum != be16{} && checksum_fold(sum) != 0xffff) return std::nullopt;
  return out;
}

std::uint32_t Ledger::sends(std::uint16_t flow, AppKind kind, Instant now) {
  Flow& it = flows.at(flow);
  auto& list = kind == AppKind::push ? it.pushes : it.requests;
  list.push_back({now, kNever, kNever});
  return static_cast<std::uint32_t>((kind == AppKind::push ? it.base_pushes : it.base_requests) + list.size() - 1);
}

Fate* Ledger::find(const AppPacket& what, const char* where) {
  if (what.flow >= flows.size()) {
    violation(describe(what) + ": no such flow, seen at " + where);
    return nullptr;
  }
  Flow& flow = flows[what.flow];
  auto& list = what.kind == AppKind::push ? flow.pushes : flow.requests;
  const std::uint64_t base = what.kind == AppKind::push ? flow.base_pushes : flow.base_requests;
  if (what.number < base) return nullptr;  // long judged
  if (what.number - base >= list.size()) {
    violation(describe(what) + " was never sent, seen at " + where);
    return nullptr;
  }
  return &list[what.number - base];
}

void Ledger::arrives_at_server(std::uint16_t server, const AppPacket& what, Instant now) {
  Fate* fate = find(what, "a server");
  if (fate == nullptr) return;
  if (what.kind != AppKind::request) return violation(describe(what) + " arrived at a server");
  if (what.server != server)
    return violation(describe(what) + " for server " + std::to_string(what.server) + " arrived at server " +
                     std::to_string(server));
  if (fate->arrived != kNever) return violation(describe(what) + " arrived twice");
  fate->arrived = now;
}

void Ledger::arrives_at_client(std::size_t client, const AppPacket& what, Instant now) {
  Fate* fate = find(what, "a client");
  if (fate == nullptr) return;
  const Flow& flow = flows[what.flow];
  if (what.kind == AppKind::request) return violation(describe(what) + " came back to a client");
  if (flow.client != client)
    return violation(describe(what) + " for client " + std::to_string(flow.client) + " arrived at client " +
                     std::to_string(client));
  if (what.server != flow.server) return violation(describe(what) + " is from the wrong server");
  Instant& at = what.kind == AppKind::push ? fate->arrived : fate->echoed;
  if (at != kNever) return violation(describe(what) + " arrived twice");
  at = now;
}

void Ledger::prune(Instant before) {
  for (Flow& flow : flows) {
    const auto cut = [before](std::vector<Fate>& list, std::uint64_t& base) {
      std::size_t n = 0;
      while (n < list.size() && list[n].sent < before) ++n;
      if (n * 2 < list.size() || n < 64) return;  // now and then is enough
      list.erase(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(n));
      base += n;
    };
    cut(flow.requests, flow.base_requests);
    cut(flow.pushes, flow.base_pushes);
  }
}

}  // namespace penstock::model
