// Between the messages of dataplane.proto and the data plane's own values. A message from outside may hold anything:
// what does not convert gives words that say why, without a subject ("public key has 3 bytes instead of 32").
// Keys other than public ones are never put into a message. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <variant>

#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/policy_spec.h"
#include "penstock/v1/dataplane.pb.h"

namespace penstock::rpc {

using ConvertError = std::string;

[[nodiscard]] std::optional<IpAddress> address_from(const std::string& wire);
[[nodiscard]] std::optional<Endpoint> endpoint_from(const v1::Endpoint& message);  // port 0 is none
[[nodiscard]] std::vector<Endpoint> remotes_from(const v1::Datagram& message);     // what is malformed is left out
[[nodiscard]] std::optional<runtime::KeyBytes> key_from(const std::string& wire);

[[nodiscard]] std::string wire_of(const IpAddress& address);  // empty when unspecified
[[nodiscard]] std::string wire_of(const runtime::KeyBytes& key);
[[nodiscard]] v1::Endpoint message_of(const Endpoint& endpoint);

// An operation for the policy store; not for STUN servers, which it does not keep.
[[nodiscard]] std::variant<runtime::Operation, ConvertError> operation_from(const v1::Operation& message);
[[nodiscard]] std::variant<std::vector<Endpoint>, ConvertError> stun_servers_from(const v1::StunServers& message);

[[nodiscard]] v1::Peer message_of(const runtime::PeerSpec& spec);  // without the preshared key
[[nodiscard]] v1::PeerAuthorisation message_of(const runtime::AuthorisationSpec& spec);
[[nodiscard]] v1::PeerTranslation message_of(const runtime::TranslationSpec& spec);
[[nodiscard]] v1::SiteSettings message_of(const runtime::SiteSpec& spec);
[[nodiscard]] v1::DataPlaneInfo message_of(const runtime::EngineInfo& info, std::uint64_t generation);
[[nodiscard]] v1::Event message_of(const runtime::EngineEvent& event);
// In-tunnel control when it comes from a peer, else a datagram.
[[nodiscard]] v1::PuntToControl message_of(const runtime::Punt& punt);

}  // namespace penstock::rpc
