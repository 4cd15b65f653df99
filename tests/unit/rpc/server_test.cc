// The services over a real unix socket, from the control process's side.
#include <gmock/gmock.h>

#include <condition_variable>

#include "dataplane/core/packet/drop_reason.h"
#include "server_bench.h"

namespace penstock::rpc {
namespace {

using testing::HasSubstr;

TEST_F(RpcServer, ApplyJudgesEachOperationByItself) {
  v1::ApplyRequest request;
  request.set_generation(3);
  *request.add_operations() = peer(1);
  request.add_operations()->mutable_upsert_peer()->set_public_key("short");
  *request.add_operations() = authorisation(1, "a1");
  request.add_operations();                            // of a later version
  *request.add_operations() = authorisation(7, "a2");  // peer unknown
  *request.add_operations() = translation(1, "t1");
  const auto response = apply(request);
  ASSERT_EQ(response.errors_size(), 3);
  EXPECT_EQ(response.errors(0).index(), 1U);
  EXPECT_EQ(response.errors(1).index(), 3U);
  EXPECT_EQ(response.errors(2).index(), 4U);
  EXPECT_THAT(response.errors(0).message(), HasSubstr("5 bytes instead of 32"));
  EXPECT_EQ(backend_->store.peers().size(), 1U);
  EXPECT_EQ(backend_->store.translations().size(), 1U);
  EXPECT_EQ(backend_->store.generation(), 3U);
}

TEST_F(RpcServer, ApplyAgainChangesNothing) {
  v1::ApplyRequest request;
  *request.add_operations() = peer(1);
  *request.add_operations() = authorisation(1, "a1");
  EXPECT_EQ(apply(request).errors_size(), 0);
  const auto published = backend_->sink.published;
  const auto changes = backend_->sink.peer_changes;
  EXPECT_EQ(apply(request).errors_size(), 0);
  EXPECT_EQ(backend_->sink.published, published);
  EXPECT_EQ(backend_->sink.peer_changes, changes);
}

TEST_F(RpcServer, SynchronisationSweepsWhatWasNotNamed) {
  v1::ApplyRequest request;
  for (std::uint8_t n = 1; n <= 3; ++n) *request.add_operations() = peer(n);
  *request.add_operations() = authorisation(1, "a1");
  apply(request);

  v1::ApplyRequest begin;
  begin.set_generation(2);
  begin.set_begin_sync(true);
  *begin.add_operations() = peer(1);
  EXPECT_EQ(apply(begin).removed(), 0U);
  v1::ApplyRequest end;
  end.set_generation(2);
  *end.add_operations() = peer(2);
  end.set_end_sync(true);
  EXPECT_EQ(apply(end).removed(), 2U);  // peer 3 and the authorisation
  EXPECT_EQ(backend_->store.peers().size(), 2U);
}

TEST_F(RpcServer, DumpHoldsEverythingButKeys) {
  v1::ApplyRequest request;
  request.set_generation(9);
  *request.add_operations() = peer(1);
  *request.add_operations() = authorisation(1, "a1");
  *request.add_operations() = translation(1, "t1");
  ASSERT_EQ(apply(request).errors_size(), 0);
  const auto items = dump();
  ASSERT_EQ(items.size(), 4U);
  ASSERT_TRUE(items[0].has_info());
  EXPECT_EQ(items[0].info().generation(), 9U);
  EXPECT_EQ(items[0].info().instance(), 4711U);
  EXPECT_EQ(items[0].info().tunnel_port(), 51820U);
  EXPECT_EQ(items[0].info().source_nat_addresses_size(), 2);
  EXPECT_EQ(items[1].peer().public_key(), wire_of(key(1)));
  EXPECT_EQ(items[2].authorisation().id(), "a1");
  EXPECT_EQ(items[3].translation().name(), "web.corp.example");
  for (const auto& item : items)
    EXPECT_EQ(item.SerializeAsString().find(wire_of(key(200))), std::string::npos);  // the preshared key
}

TEST_F(RpcServer, StunServersReachTheEngine) {
  v1::ApplyRequest request;
  *request.add_operations()->mutable_stun_servers()->add_servers() = message_of(endpoint("198.51.100.20:3478"));
  request.add_operations()->mutable_stun_servers()->add_servers()->set_port(5);
  const auto response = apply(request);
  ASSERT_EQ(response.errors_size(), 1);
  EXPECT_EQ(response.errors(0).index(), 1U);
  const std::lock_guard lock(backend_->mutex);
  EXPECT_EQ(backend_->stun_servers, std::vector<Endpoint>{endpoint("198.51.100.20:3478")});
}

runtime::EngineEvent event(runtime::EngineEvent::Kind kind, std::uint8_t n) {
  runtime::EngineEvent out;
  out.kind = kind;
  out.peer = key(n);
  out.endpoint = endpoint("198.51.100.7:40000");
  out.address = ip("100.96.0.9");
  return out;
}

TEST_F(RpcServer, EventsReachEverySubscriber) {
  runtime::PeerRow up;
  up.public_key = key(5);
  up.endpoint = endpoint("198.51.100.5:1000");
  up.session = runtime::PeerRow::Session::up;
  backend_->peer_rows = {up, runtime::PeerRow{}};
  grpc::ClientContext contexts[2];
  std::unique_ptr<grpc::ClientReader<v1::Event>> readers[2];
  v1::Event got;
  for (int i = 0; i < 2; ++i) {
    contexts[i].set_deadline(soon());
    readers[i] = data_plane_->Subscribe(&contexts[i], {});
    // What holds already comes first.
    ASSERT_TRUE(readers[i]->Read(&got));
    EXPECT_EQ(got.session_up().peer(), wire_of(key(5)));
  }
  backend_->event_queue.push(event(runtime::EngineEvent::Kind::translation_wanted, 1));
  backend_->event_queue.push(event(runtime::EngineEvent::Kind::session_down, 2));
  for (auto& reader : readers) {
    ASSERT_TRUE(reader->Read(&got));
    EXPECT_EQ(got.translation_wanted().proxy_address(), wire_of(ip("100.96.0.9")));
    ASSERT_TRUE(reader->Read(&got));
    EXPECT_EQ(got.session_down().peer(), wire_of(key(2)));
  }
}

TEST_F(RpcServer, ALateSubscriberLearnsTheMappedAddresses) {
  runtime::EngineEvent mapped = event(runtime::EngineEvent::Kind::mapped_address_changed, 0);
  mapped.server = endpoint("198.51.100.20:3478");
  backend_->event_queue.push(mapped);
  mapped.endpoint = endpoint("198.51.100.70:50001");
  backend_->event_queue.push(mapped);
  (void)dump();  // goes through the same executor: the events are dealt with
  grpc::ClientContext context;
  context.set_deadline(soon());
  const auto reader = data_plane_->Subscribe(&context, {});
  v1::Event got;
  ASSERT_TRUE(reader->Read(&got));
  EXPECT_EQ(got.mapped_address_changed().mapped().port(), 50001U);
}

TEST_F(RpcServer, ASlowSubscriberIsToldHowManyItLost) {
  grpc::ClientContext context;
  context.set_deadline(soon());
  const auto reader = data_plane_->Subscribe(&context, {});
  (void)dump();  // the subscription stands
  constexpr std::uint64_t kSent = 60'000;
  for (std::uint64_t i = 0; i < kSent; ++i)
    backend_->event_queue.push(event(runtime::EngineEvent::Kind::session_up, static_cast<std::uint8_t>(i)));
  (void)dump();
  std::uint64_t seen = 0;
  std::uint64_t lost = 0;
  v1::Event got;
  // The gap is told with the next event that fits.
  while (seen + lost < kSent + 1) {
    if (seen + lost >= 4000 && seen % 500 == 0)
      backend_->event_queue.push(event(runtime::EngineEvent::Kind::session_down, 1));
    ASSERT_TRUE(reader->Read(&got));
    if (got.has_events_lost())
      lost += got.events_lost().count();
    else if (got.has_session_up())
      ++seen;
    if (seen + lost >= kSent) break;
  }
  EXPECT_GT(lost, 0U);
  EXPECT_GE(seen + lost, kSent);
}

TEST_F(RpcServer, PuntsTravelBothWays) {
  grpc::ClientContext context;
  context.set_deadline(soon());
  const auto stream = data_plane_->Punt(&context);
  stream->WaitForInitialMetadata();
  (void)dump();
  backend_->punt_queue.push({key(1), endpoint("198.51.100.7:1"), {1, 2, 3}});
  backend_->punt_queue.push({{}, endpoint("198.51.100.20:3478"), {4}});
  v1::PuntToControl got;
  ASSERT_TRUE(stream->Read(&got));
  EXPECT_EQ(got.tunnel_control().payload(), "\1\2\3");
  EXPECT_EQ(got.tunnel_control().peer(), wire_of(key(1)));
  ASSERT_TRUE(stream->Read(&got));
  EXPECT_EQ(got.datagram().remote().port(), 3478U);

  v1::PuntFromControl sent;
  sent.mutable_tunnel_control()->set_peer(wire_of(key(1)));
  sent.mutable_tunnel_control()->set_payload("hello");
  ASSERT_TRUE(stream->Write(sent));
  sent.mutable_tunnel_control()->set_peer("malformed");
  ASSERT_TRUE(stream->Write(sent));
  ASSERT_TRUE(stream->Write(v1::PuntFromControl{}));
  *sent.mutable_datagram()->mutable_remote() = message_of(endpoint("198.51.100.9:9"));
  sent.mutable_datagram()->set_payload("punch");
  *sent.mutable_datagram()->add_also_to() = message_of(endpoint("[2001:db8::9]:10"));
  sent.mutable_datagram()->add_also_to()->set_address("malformed");
  *sent.mutable_datagram()->add_also_to() = message_of(endpoint("198.51.100.9:11"));
  ASSERT_TRUE(stream->Write(sent));
  ASSERT_TRUE(eventually([&] {
    const std::lock_guard lock(backend_->mutex);
    return !backend_->datagrams.empty();
  }));
  const std::lock_guard lock(backend_->mutex);
  ASSERT_EQ(backend_->control.size(), 1U);
  EXPECT_EQ(backend_->control[0], std::make_pair(key(1), std::string{"hello"}));
  ASSERT_EQ(backend_->datagrams.size(), 3U) << "one is malformed";
  for (std::size_t i = 0; i < 3; ++i) {
    const char* const to[] = {"198.51.100.9:9", "[2001:db8::9]:10", "198.51.100.9:11"};
    EXPECT_EQ(backend_->datagrams[i], std::make_pair(endpoint(to[i]), std::string{"punch"}));
  }
}

TEST_F(RpcServer, AnApplyBringsItsPunches) {
  v1::ApplyRequest request;
  *request.add_operations() = peer(1);
  auto& punch = *request.add_datagrams();
  *punch.mutable_remote() = message_of(endpoint("198.51.100.9:9"));
  *punch.add_also_to() = message_of(endpoint("198.51.100.9:11"));
  punch.set_payload("punch");
  request.add_datagrams();  // to nobody
  EXPECT_EQ(apply(request).errors_size(), 0);
  EXPECT_EQ(backend_->store.peers().size(), 1U);
  const std::lock_guard lock(backend_->mutex);
  ASSERT_EQ(backend_->datagrams.size(), 2U) << "sent before the answer";
  EXPECT_EQ(backend_->sent_before_apply, 2U) << "nothing that takes its time comes first";
  EXPECT_EQ(backend_->datagrams[1], std::make_pair(endpoint("198.51.100.9:11"), std::string{"punch"}));
}

TEST_F(RpcServer, ANewPuntStreamEndsTheOldOne) {
  grpc::ClientContext old_context;
  old_context.set_deadline(soon());
  const auto old_stream = data_plane_->Punt(&old_context);
  old_stream->WaitForInitialMetadata();
  grpc::ClientContext new_context;
  new_context.set_deadline(soon());
  const auto new_stream = data_plane_->Punt(&new_context);
  v1::PuntToControl got;
  EXPECT_FALSE(old_stream->Read(&got));
  const auto status = old_stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(status.error_message(), HasSubstr("newer punt stream"));
  backend_->punt_queue.push({key(1), endpoint("198.51.100.7:1"), {7}});
  ASSERT_TRUE(new_stream->Read(&got));
  EXPECT_EQ(got.tunnel_control().payload(), "\7");
}

TEST_F(RpcServer, EndsWithStreamsOpenAndCallsUnderWay) {
  grpc::ClientContext subscribed;
  const auto reader = data_plane_->Subscribe(&subscribed, {});
  grpc::ClientContext punting;
  const auto stream = data_plane_->Punt(&punting);
  reader->WaitForInitialMetadata();
  server_.reset();
  v1::Event event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_FALSE(reader->Finish().ok());
  v1::PuntToControl punt;
  EXPECT_FALSE(stream->Read(&punt));
  (void)stream->Finish();
  EXPECT_FALSE(std::filesystem::exists(socket_));
  start();  // and the next one finds the place free
}

TEST_F(RpcServer, ClientsThatVanishLeaveNothing) {
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext subscribed;
    const auto reader = data_plane_->Subscribe(&subscribed, {});
    grpc::ClientContext punting;
    const auto stream = data_plane_->Punt(&punting);
    reader->WaitForInitialMetadata();
    subscribed.TryCancel();
    punting.TryCancel();
    backend_->event_queue.push(event(runtime::EngineEvent::Kind::session_down, 1));
    backend_->punt_queue.push({key(1), endpoint("198.51.100.7:1"), {7}});
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_FALSE(dump().empty());
}

}  // namespace
}  // namespace penstock::rpc
