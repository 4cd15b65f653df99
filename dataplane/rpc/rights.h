// What the control process has said, as bytes for the data plane that takes this one's place: an ApplyRequest of
// dataplane.proto, preshared keys included. They stay in memory (core/handover/state.h).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dataplane/core/base/bytes.h"
#include "dataplane/runtime/policy_store.h"

namespace penstock::rpc {

[[nodiscard]] std::vector<std::uint8_t> encode_rights(const runtime::PolicyStore::Batch& batch);
// nullopt: no such message. Operations that do not convert are left out.
[[nodiscard]] std::optional<runtime::PolicyStore::Batch> decode_rights(Bytes bytes);

}  // namespace penstock::rpc
