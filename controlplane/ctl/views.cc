#include "controlplane/ctl/views.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "controlplane/ctl/format.h"

namespace penstock::ctl {
namespace {

using Align = Table::Align;
using google::protobuf::FieldDescriptor;

constexpr std::size_t kKeyWidth = 12;
constexpr std::size_t kNameWidth = 32;

template <typename Strings>
std::string joined(const Strings& strings) {
  std::string out;
  for (const auto& text : strings) out += (out.empty() ? "" : " ") + text;
  return out;
}

// What people call a peer: its name where known, else the start of its key.
std::string peer_text(const std::string& name, const std::string& key, const ViewOptions& options) {
  if (options.wide) return name.empty() ? key : name + " " + key;
  return name.empty() ? shorten(key, kKeyWidth) : shorten(name, kNameWidth);
}

std::string name_text(const std::string& name, const ViewOptions& options) {
  return options.wide ? name : shorten(name, kNameWidth);
}

// "web.corp.example:443" instead of a proxy address.
std::string named_destination(const v1::FlowRow& row, const ViewOptions& options) {
  const auto colon = row.inside_destination().rfind(':');
  if (row.name().empty() || colon == std::string::npos) return row.inside_destination();
  return name_text(row.name(), options) + row.inside_destination().substr(colon);
}

std::string table_or(const Table& table, const char* nothing) {
  return table.empty() ? std::string{nothing} + "\n" : table.to_string();
}

nlohmann::ordered_json json_of(const google::protobuf::Message& message);

template <typename Get>
nlohmann::ordered_json scalar(const FieldDescriptor& field, const Get& get) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return get.string();
    case FieldDescriptor::CPPTYPE_UINT64:
      return get.u64();
    case FieldDescriptor::CPPTYPE_UINT32:
      return get.u32();
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return get.number();
    case FieldDescriptor::CPPTYPE_BOOL:
      return get.boolean();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return json_of(get.message());
    default:
      return nullptr;  // no other type is in inspect.proto
  }
}

struct Single {
  const google::protobuf::Message& of;
  const FieldDescriptor* field;
  const google::protobuf::Reflection& r = *of.GetReflection();
  [[nodiscard]] std::string string() const { return r.GetString(of, field); }
  [[nodiscard]] std::uint64_t u64() const { return r.GetUInt64(of, field); }
  [[nodiscard]] std::uint32_t u32() const { return r.GetUInt32(of, field); }
  [[nodiscard]] double number() const { return r.GetDouble(of, field); }
  [[nodiscard]] bool boolean() const { return r.GetBool(of, field); }
  [[nodiscard]] const google::protobuf::Message& message() const { return r.GetMessage(of, field); }
};

struct Element {
  const google::protobuf::Message& of;
  const FieldDescriptor* field;
  int at;
  const google::protobuf::Reflection& r = *of.GetReflection();
  [[nodiscard]] std::string string() const { return r.GetRepeatedString(of, field, at); }
  [[nodiscard]] std::uint64_t u64() const { return r.GetRepeatedUInt64(of, field, at); }
  [[nodiscard]] std::uint32_t u32() const { return r.GetRepeatedUInt32(of, field, at); }
  [[nodiscard]] double number() const { return r.GetRepeatedDouble(of, field, at); }
  [[nodiscard]] bool boolean() const { return r.GetRepeatedBool(of, field, at); }
  [[nodiscard]] const google::protobuf::Message& message() const { return r.GetRepeatedMessage(of, field, at); }
};

nlohmann::ordered_json json_of(const google::protobuf::Message& message) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  const auto& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor* field = descriptor.field(i);
    if (!field->is_repeated()) {
      out[field->name()] = scalar(*field, Single{message, field});
      continue;
    }
    auto list = nlohmann::ordered_json::array();
    for (int at = 0; at < message.GetReflection()->FieldSize(message, field); ++at)
      list.push_back(scalar(*field, Element{message, field, at}));
    out[field->name()] = std::move(list);
  }
  return out;
}

}  // namespace

std::string view(const v1::StatusReply& reply, const ViewOptions&) {
  std::string out = fmt::format("{} {}, protocol {}: {}, up {}\n", reply.process(), reply.software_version(),
                                reply.protocol_version(), reply.state(), format_age(reply.uptime_seconds()));
  std::size_t width = 0;
  for (const auto& line : reply.lines()) width = std::max(width, display_width(line.key()));
  for (const auto& line : reply.lines())
    out += fmt::format("  {}{}  {}\n", line.key(), std::string(width - display_width(line.key()), ' '), line.value());
  return out;
}

std::string view(const v1::PeersReply& reply, const ViewOptions& options) {
  Table table({{"PEER"},
               {"SESSION"},
               {"HANDSHAKE", Align::right},
               {"ENDPOINT"},
               {"PATH"},
               {"RTT", Align::right},
               {"RECEIVED", Align::right},
               {"SENT", Align::right},
               {"FLOWS", Align::right},
               {"RIGHTS", Align::right},
               {"TUNNEL ADDRESSES"}});
  for (const auto& row : reply.peers())
    table.add({peer_text(row.name(), row.public_key(), options), row.session(), format_age(row.handshake_age_seconds()),
               row.endpoint(), row.path(), row.rtt_ms() < 0 ? "" : fmt::format("{:.1f} ms", row.rtt_ms()),
               format_bytes(row.rx_bytes()), format_bytes(row.tx_bytes()), format_count(row.flows()),
               format_count(row.authorisations()), joined(row.tunnel_addresses())});
  return table_or(table, "no peers");
}

std::string view(const v1::FlowsReply& reply, const ViewOptions& options) {
  Table table({{"PROTO"},
               {"NAT"},
               {"FROM"},
               {"TO"},
               {"OUTSIDE"},
               {"STATE"},
               {"IDLE", Align::right},
               {"ENDS IN", Align::right},
               {"UP", Align::right},
               {"DOWN", Align::right}});
  for (const auto& row : reply.flows())
    table.add({row.protocol(), row.translation(), row.inside_source(), named_destination(row, options),
               row.outside_source() + " > " + row.outside_destination(), row.state(), format_age(row.idle_seconds()),
               format_age(row.expires_seconds()), format_count(row.packets_up()), format_count(row.packets_down())});
  std::string out = table_or(table, "no flows");
  if (static_cast<std::uint64_t>(reply.flows_size()) < reply.total())
    out += fmt::format("{} of {} flows shown\n", reply.flows_size(), reply.total());
  if (reply.capacity() > 0) out += fmt::format("{} of {} in use\n", reply.total(), reply.capacity());
  return out;
}

std::string view(const v1::NamesReply& reply, const ViewOptions& options) {
  Table table({{"NAME"},
               {"RESOURCE"},
               {"STATE"},
               {"PROXY IPV4"},
               {"PROXY IPV6"},
               {"TTL", Align::right},
               {"PEER"},
               {"ADDRESSES"}});
  for (const auto& row : reply.names())
    table.add({name_text(row.name(), options), name_text(row.resource(), options), row.state(), row.proxy_v4(),
               row.proxy_v6(), row.ttl_seconds() <= 0 ? "" : format_age(row.ttl_seconds()),
               peer_text("", row.peer(), options), joined(row.addresses())});
  return table_or(table, "no names");
}

std::string view(const v1::DropsReply& reply, const ViewOptions& options) {
  std::vector<const v1::DropRow*> rows;
  for (const auto& row : reply.drops())
    if (options.all || row.packets() > 0) rows.push_back(&row);
  std::stable_sort(rows.begin(), rows.end(), [](const auto* a, const auto* b) { return a->packets() > b->packets(); });
  Table table({{"PACKETS", Align::right}, {"REASON"}, {"MEANING"}});
  for (const auto* row : rows) table.add({std::to_string(row->packets()), row->reason(), row->text()});
  return table_or(table, "no packet was dropped");
}

std::string view(const v1::PortsReply& reply, const ViewOptions&) {
  Table table({{"PORT"},
               {"DRIVER"},
               {"LINK"},
               {"MTU", Align::right},
               {"MAC"},
               {"RX", Align::right},
               {"TX", Align::right},
               {"RX BYTES", Align::right},
               {"TX BYTES", Align::right},
               {"MISSED", Align::right},
               {"ERRORS", Align::right},
               {"BUFFERS FREE", Align::right},
               {"ADDRESSES"}});
  for (const auto& row : reply.ports())
    table.add({row.name(), row.driver(), row.link(), std::to_string(row.mtu()), row.mac(),
               format_count(row.rx_packets()), format_count(row.tx_packets()), format_bytes(row.rx_bytes()),
               format_bytes(row.tx_bytes()), format_count(row.rx_missed()), format_count(row.tx_errors()),
               fmt::format("{}/{}", row.pool_free(), row.pool_size()), joined(row.addresses())});
  return table_or(table, "no ports");
}

std::string view(const v1::NeighboursReply& reply, const ViewOptions&) {
  Table table({{"ADDRESS"}, {"MAC"}, {"PORT"}, {"STATE"}, {"AGE", Align::right}});
  for (const auto& row : reply.neighbours())
    table.add({row.address(), row.mac(), row.port(), row.state(), format_age(row.age_seconds())});
  return table_or(table, "no neighbours");
}

std::string to_json(const google::protobuf::Message& message) {
  // A name from the network may hold bytes that are no UTF-8.
  return json_of(message).dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace penstock::ctl
