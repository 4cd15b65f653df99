#include "dataplane/rpc/convert.h"

#include <gtest/gtest.h>
// rapidcheck/gtest.h needs gtest before it
#include <rapidcheck/gtest.h>

#include <functional>

#include "fake_backend.h"

namespace penstock::rpc {
namespace {

v1::Operation good_peer() {
  v1::Operation operation;
  v1::Peer& peer = *operation.mutable_upsert_peer();
  peer.set_public_key(wire_of(key(1)));
  peer.set_preshared_key(wire_of(key(2)));
  peer.mutable_tunnel()->set_v4(wire_of(ip("100.64.0.2")));
  peer.mutable_tunnel()->set_v6(wire_of(ip("fd00:2021:1111::2")));
  *peer.add_endpoints() = message_of(endpoint("198.51.100.7:51820"));
  peer.set_control(true);
  return operation;
}

v1::Operation good_authorisation() {
  v1::Operation operation;
  v1::PeerAuthorisation& authorisation = *operation.mutable_upsert_authorisation();
  authorisation.set_id("a1");
  authorisation.set_peer(wire_of(key(1)));
  v1::Resource& resource = *authorisation.mutable_resource();
  resource.set_id("web");
  resource.set_kind(v1::RESOURCE_KIND_ADDRESS);
  resource.mutable_prefix()->set_address(wire_of(ip("203.0.113.80")));
  resource.mutable_prefix()->set_length(32);
  auto& range = *resource.mutable_filter()->add_tcp();
  range.set_first(80);
  range.set_last(443);
  authorisation.mutable_expires()->set_seconds(2'000'000'000);
  return operation;
}

v1::Operation good_translation() {
  v1::Operation operation;
  v1::PeerTranslation& translation = *operation.mutable_upsert_translation();
  translation.set_id("t1");
  translation.set_peer(wire_of(key(1)));
  translation.set_resource("corp");
  translation.set_name("web.corp.example");
  translation.set_proxy_v4(wire_of(ip("100.96.0.9")));
  translation.set_state(v1::PeerTranslation::STATE_ACTIVE);
  translation.add_addresses(wire_of(ip("2001:db8:1a::80")));
  return operation;
}

TEST(Convert, RoundTrips) {
  const auto peer = std::get<runtime::PeerSpec>(std::get<runtime::Operation>(operation_from(good_peer())));
  EXPECT_EQ(peer.preshared_key, key(2));
  v1::Peer without_key = good_peer().upsert_peer();
  without_key.clear_preshared_key();
  EXPECT_EQ(message_of(peer).SerializeAsString(), without_key.SerializeAsString());

  const auto authorisation =
      std::get<runtime::AuthorisationSpec>(std::get<runtime::Operation>(operation_from(good_authorisation())));
  EXPECT_EQ(message_of(authorisation).SerializeAsString(),
            good_authorisation().upsert_authorisation().SerializeAsString());

  const auto translation =
      std::get<runtime::TranslationSpec>(std::get<runtime::Operation>(operation_from(good_translation())));
  EXPECT_EQ(message_of(translation).SerializeAsString(), good_translation().upsert_translation().SerializeAsString());
}

TEST(Convert, SaysWhatIsWrong) {
  struct Case {
    v1::Operation operation;
    std::function<void(v1::Operation&)> spoil;
    const char* error;
  };
  const Case cases[] = {
      {good_peer(), [](auto& o) { o.mutable_upsert_peer()->set_public_key("abc"); },
       "public key has 3 bytes instead of 32"},
      {good_peer(), [](auto& o) { o.mutable_upsert_peer()->set_preshared_key("abc"); },
       "preshared key has 3 bytes instead of 32"},
      {good_peer(), [](auto& o) { o.mutable_upsert_peer()->mutable_tunnel()->set_v4("12345"); },
       "tunnel address is malformed"},
      {good_peer(), [](auto& o) { o.mutable_upsert_peer()->mutable_tunnel()->set_v4(wire_of(ip("::1"))); },
       "tunnel address is malformed"},
      {good_peer(), [](auto& o) { o.mutable_upsert_peer()->mutable_endpoints(0)->set_port(65536); },
       "endpoint is malformed"},
      {good_peer(), [](auto& o) { o.mutable_upsert_peer()->mutable_endpoints(0)->set_port(0); },
       "endpoint is malformed"},
      {good_peer(), [](auto& o) { o.mutable_upsert_peer()->set_persistent_keepalive_seconds(70000); },
       "persistent keepalive exceeds 65535 seconds"},
      {good_peer(), [](auto& o) { o.mutable_upsert_peer()->add_extra_sources()->set_length(33); },
       "extra source is not a prefix"},
      {good_authorisation(),
       [](auto& o) { o.mutable_upsert_authorisation()->mutable_resource()->mutable_prefix()->set_length(24); },
       "resource's prefix is malformed or has host bits"},
      {good_authorisation(),
       [](auto& o) {
         o.mutable_upsert_authorisation()->mutable_resource()->set_kind(static_cast<v1::ResourceKind>(77));
       },
       "resource kind 77 is unknown"},
      {good_authorisation(),
       [](auto& o) {
         o.mutable_upsert_authorisation()->mutable_resource()->mutable_filter()->mutable_tcp(0)->set_last(70);
       },
       "port range ends before it starts, or beyond 65535"},
      {good_authorisation(), [](auto& o) { o.mutable_upsert_authorisation()->mutable_expires()->set_seconds(-1); },
       "expiry is not a point in time"},
      {good_authorisation(), [](auto& o) { o.mutable_upsert_authorisation()->set_peer(""); },
       "peer has 0 bytes instead of 32"},
      {good_translation(), [](auto& o) { o.mutable_upsert_translation()->set_proxy_v6(wire_of(ip("100.96.0.9"))); },
       "proxy address is malformed"},
      {good_translation(),
       [](auto& o) { o.mutable_upsert_translation()->add_addresses(std::string(16, '\0').replace(10, 2, "\xff\xff")); },
       "real address is malformed"},
      {good_translation(),
       [](auto& o) { o.mutable_upsert_translation()->set_state(static_cast<v1::PeerTranslation::State>(9)); },
       "translation state 9 is unknown"},
      {v1::Operation{}, [](auto&) {}, "operation is unknown to this data plane"},
      {v1::Operation{}, [](auto& o) { o.set_remove_peer("x"); }, "public key has 1 bytes instead of 32"},
  };
  for (const auto& c : cases) {
    v1::Operation spoilt = c.operation;
    c.spoil(spoilt);
    const auto result = operation_from(spoilt);
    ASSERT_TRUE(std::holds_alternative<ConvertError>(result)) << c.error;
    EXPECT_EQ(std::get<ConvertError>(result), c.error);
  }
}

TEST(Convert, PuntsTellTunnelsFromDatagrams) {
  EXPECT_TRUE(message_of(runtime::Punt{key(1), endpoint("198.51.100.7:1"), {1, 2}}).has_tunnel_control());
  EXPECT_TRUE(message_of(runtime::Punt{{}, endpoint("198.51.100.7:1"), {1, 2}}).has_datagram());
}

RC_GTEST_PROP(ConvertProperties, NoMessageDoesHarm, (const std::string& noise)) {
  v1::Operation operation;
  (void)operation.ParseFromString(noise);
  (void)operation_from(operation);
  v1::Operation peer = good_peer();
  (void)peer.mutable_upsert_peer()->MergeFromString(noise);
  (void)operation_from(peer);
}

TEST(Convert, SiteSettingsRoundTripAndWhatIsNotKnownSaysNothing) {
  using nat::Filtering;
  using nat::Mapping;
  for (const auto source_nat : {std::optional<bool>{}, std::optional{true}, std::optional{false}})
    for (const auto mapping : {std::optional<Mapping>{}, std::optional{Mapping::address_and_port_dependent},
                               std::optional{Mapping::endpoint_independent}})
      for (const auto filtering :
           {std::optional<Filtering>{}, std::optional{Filtering::address_and_port_dependent},
            std::optional{Filtering::address_dependent}, std::optional{Filtering::endpoint_independent}}) {
        const runtime::SiteSpec spec{source_nat, mapping, filtering};
        v1::Operation operation;
        *operation.mutable_site_settings() = message_of(spec);
        EXPECT_EQ(std::get<runtime::SiteSpec>(std::get<runtime::Operation>(operation_from(operation))), spec);
      }
  v1::Operation newer;
  newer.mutable_site_settings()->set_source_nat(static_cast<v1::SiteSettings::SourceNat>(9));
  EXPECT_EQ(std::get<runtime::SiteSpec>(std::get<runtime::Operation>(operation_from(newer))), runtime::SiteSpec{});
}

}  // namespace
}  // namespace penstock::rpc
