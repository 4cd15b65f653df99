// What a process answered, as text for people. Tables are meant for terminals of 100 to 140 columns; `wide` shortens
// nothing. Pure functions.
#pragma once

#include <string>

#include "penstock/v1/inspect.pb.h"

namespace penstock::ctl {

struct ViewOptions {
  bool all = false;   // drops: zero rows too
  bool wide = false;  // whole keys and names
};

[[nodiscard]] std::string view(const v1::StatusReply& reply, const ViewOptions& options);
[[nodiscard]] std::string view(const v1::PeersReply& reply, const ViewOptions& options);
[[nodiscard]] std::string view(const v1::FlowsReply& reply, const ViewOptions& options);
[[nodiscard]] std::string view(const v1::NamesReply& reply, const ViewOptions& options);
[[nodiscard]] std::string view(const v1::DropsReply& reply, const ViewOptions& options);
[[nodiscard]] std::string view(const v1::PortsReply& reply, const ViewOptions& options);
[[nodiscard]] std::string view(const v1::NeighboursReply& reply, const ViewOptions& options);

// Every field of a message, also those with default values, under the names of the .proto file; 64-bit numbers are
// numbers.
[[nodiscard]] std::string to_json(const google::protobuf::Message& message);

}  // namespace penstock::ctl
