#include "dataplane/rpc/rights.h"

#include <algorithm>

#include "dataplane/core/wireguard/keys.h"
#include "dataplane/rpc/convert.h"

namespace penstock::rpc {
namespace {

v1::Operation message_of(const runtime::Operation& operation) {
  v1::Operation out;
  if (const auto* peer = std::get_if<runtime::PeerSpec>(&operation)) {
    *out.mutable_upsert_peer() = rpc::message_of(*peer);
    if (peer->preshared_key != runtime::KeyBytes{})
      out.mutable_upsert_peer()->set_preshared_key(wire_of(peer->preshared_key));
  } else if (const auto* authorisation = std::get_if<runtime::AuthorisationSpec>(&operation)) {
    *out.mutable_upsert_authorisation() = rpc::message_of(*authorisation);
  } else if (const auto* translation = std::get_if<runtime::TranslationSpec>(&operation)) {
    *out.mutable_upsert_translation() = rpc::message_of(*translation);
  } else if (const auto* site = std::get_if<runtime::SiteSpec>(&operation)) {
    *out.mutable_site_settings() = rpc::message_of(*site);
  }
  return out;
}

void wipe_keys(v1::ApplyRequest& request) {
  for (auto& operation : *request.mutable_operations()) {
    if (!operation.has_upsert_peer()) continue;
    std::string& key = *operation.mutable_upsert_peer()->mutable_preshared_key();
    wireguard::wipe({reinterpret_cast<std::uint8_t*>(key.data()), key.size()});
  }
}

}  // namespace

std::vector<std::uint8_t> encode_rights(const runtime::PolicyStore::Batch& batch) {
  v1::ApplyRequest request;
  request.set_generation(batch.generation);
  for (const auto& operation : batch.operations) *request.add_operations() = message_of(operation);
  std::vector<std::uint8_t> out(request.ByteSizeLong());
  if (!request.SerializeToArray(out.data(), static_cast<int>(out.size()))) out.clear();
  wipe_keys(request);
  return out;
}

std::optional<runtime::PolicyStore::Batch> decode_rights(Bytes bytes) {
  v1::ApplyRequest request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
  runtime::PolicyStore::Batch out;
  out.generation = request.generation();
  for (const auto& message : request.operations()) {
    auto operation = operation_from(message);
    if (auto* good = std::get_if<runtime::Operation>(&operation)) out.operations.push_back(std::move(*good));
  }
  wipe_keys(request);
  return out;
}

}  // namespace penstock::rpc
