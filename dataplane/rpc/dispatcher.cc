#include "dataplane/rpc/dispatcher.h"

#include <algorithm>
#include <utility>

#include "dataplane/rpc/convert.h"

namespace penstock::rpc {

Dispatcher::Dispatcher(Backend& backend, Executor& executor) : backend_(backend), executor_(executor) {
  backend_.events().listen([this] { executor_.post([this] { carry_events(); }); });
  backend_.punts().listen([this] { executor_.post([this] { carry_punts(); }); });
}

void Dispatcher::stop() {
  backend_.events().listen({});
  backend_.punts().listen({});
}

void Dispatcher::give(Subscriber& subscriber, const v1::Event& event) {
  const auto stream = subscriber.stream.lock();
  if (!stream) return;
  if (subscriber.lost > 0) {
    v1::Event gap;
    gap.mutable_events_lost()->set_count(subscriber.lost);
    if (stream->offer(std::move(gap))) subscriber.lost = 0;
  }
  if (subscriber.lost > 0 || !stream->offer(event)) ++subscriber.lost;
}

void Dispatcher::carry_events() {
  const auto drained = backend_.events().drain();
  std::erase_if(subscribers_, [](const Subscriber& subscriber) {
    const auto stream = subscriber.stream.lock();
    return !stream || stream->ended();
  });
  for (Subscriber& subscriber : subscribers_) subscriber.lost += drained.lost;
  for (const auto& event : drained.items) {
    if (event.kind == runtime::EngineEvent::Kind::mapped_address_changed) mapped_[event.server] = event;
    const v1::Event message = message_of(event);
    for (Subscriber& subscriber : subscribers_) give(subscriber, message);
  }
}

void Dispatcher::subscribe(const std::shared_ptr<EventStream>& stream) {
  Subscriber& subscriber = subscribers_.emplace_back(Subscriber{stream, 0});
  for (const auto& row : backend_.peers(0)) {
    if (row.session != runtime::PeerRow::Session::up) continue;
    runtime::EngineEvent up;
    up.kind = runtime::EngineEvent::Kind::session_up;
    up.peer = row.public_key;
    up.endpoint = row.endpoint;
    give(subscriber, message_of(up));
  }
  for (const auto& [server, event] : mapped_) give(subscriber, message_of(event));
}

void Dispatcher::set_stun_servers(const std::vector<Endpoint>& servers) {
  std::erase_if(mapped_, [&](const auto& entry) {
    return std::find(servers.begin(), servers.end(), entry.first) == servers.end();
  });
}

void Dispatcher::attach(const std::shared_ptr<PuntStream>& stream) {
  if (const auto old = punt_stream_.lock()) old->end({grpc::StatusCode::ABORTED, "a newer punt stream took over"});
  punt_stream_ = stream;
}

void Dispatcher::carry_punts() {
  auto drained = backend_.punts().drain();
  lost_punts_ += drained.lost;
  const auto stream = punt_stream_.lock();
  for (const auto& punt : drained.items)
    if (!stream || !stream->offer(message_of(punt))) ++lost_punts_;
}

}  // namespace penstock::rpc
