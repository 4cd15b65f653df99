#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>

#include "dataplane/rpc/convert.h"
#include "dataplane/rpc/services.h"

namespace penstock::rpc {
namespace {

Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

}  // namespace

grpc::ServerUnaryReactor* DataPlaneService::Apply(grpc::CallbackServerContext* context, const v1::ApplyRequest* request,
                                                  v1::ApplyResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  executor_.post([this, reactor, request, response] {
    apply(*request, *response);
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

// What does not even convert is reported under its own number; the rest goes to the store as one batch, in order.
void DataPlaneService::apply(const v1::ApplyRequest& request, v1::ApplyResponse& response) {
  for (const v1::Datagram& datagram : request.datagrams()) send(datagram);
  runtime::PolicyStore::Batch batch;
  batch.generation = request.generation();
  batch.begin_sync = request.begin_sync();
  batch.end_sync = request.end_sync();
  std::vector<std::uint32_t> numbers;  // of the batch's operations in the request
  std::vector<std::pair<std::uint32_t, std::string>> errors;

  for (int i = 0; i < request.operations_size(); ++i) {
    const auto number = static_cast<std::uint32_t>(i);
    const v1::Operation& message = request.operations(i);
    if (message.has_stun_servers()) {
      auto servers = stun_servers_from(message.stun_servers());
      if (auto* error = std::get_if<ConvertError>(&servers)) {
        errors.emplace_back(number, std::move(*error));
        continue;
      }
      auto& list = std::get<std::vector<Endpoint>>(servers);
      dispatcher_.set_stun_servers(list);
      backend_.set_stun_servers(std::move(list));
      continue;
    }
    auto operation = operation_from(message);
    if (auto* error = std::get_if<ConvertError>(&operation)) {
      errors.emplace_back(number, std::move(*error));
      continue;
    }
    batch.operations.push_back(std::move(std::get<runtime::Operation>(operation)));
    numbers.push_back(number);
  }

  auto result = backend_.apply(batch);
  for (auto& error : result.errors)
    errors.emplace_back(error.index < numbers.size() ? numbers[error.index] : error.index, std::move(error.message));
  std::sort(errors.begin(), errors.end());
  for (const auto& [number, message] : errors) {
    auto& error = *response.add_errors();
    error.set_index(number);
    error.set_message(message);
  }
  response.set_removed(result.removed);
}

grpc::ServerWriteReactor<v1::DumpItem>* DataPlaneService::Dump(grpc::CallbackServerContext*, const v1::DumpRequest*) {
  const auto stream = WriteStream<v1::DumpItem>::create(std::numeric_limits<std::size_t>::max());
  executor_.post([this, stream] {
    v1::DumpItem item;
    *item.mutable_info() = message_of(backend_.info(), backend_.generation());
    stream->offer(item);
    for (const auto& spec : backend_.peer_specs()) {
      *item.mutable_peer() = message_of(spec);
      stream->offer(item);
    }
    for (const auto& spec : backend_.authorisations()) {
      *item.mutable_authorisation() = message_of(spec);
      stream->offer(item);
    }
    for (const auto& spec : backend_.translations()) {
      *item.mutable_translation() = message_of(spec);
      stream->offer(item);
    }
    stream->end(grpc::Status::OK);
  });
  return stream.get();
}

grpc::ServerWriteReactor<v1::Event>* DataPlaneService::Subscribe(grpc::CallbackServerContext*,
                                                                 const v1::SubscribeRequest*) {
  const auto stream = Dispatcher::EventStream::create(Dispatcher::kEventCapacity);
  stream->StartSendInitialMetadata();  // the client knows from here on that it misses nothing
  executor_.post([this, stream] { dispatcher_.subscribe(stream); });
  return stream.get();
}

grpc::ServerBidiReactor<v1::PuntFromControl, v1::PuntToControl>* DataPlaneService::Punt(grpc::CallbackServerContext*) {
  const auto stream = PuntStream::create(executor_, [this](const auto& message) { handle_punt(message); });
  executor_.post([this, stream] { dispatcher_.attach(stream); });
  return stream.get();
}

void DataPlaneService::send(const v1::Datagram& datagram) {
  backend_.send_datagram(remotes_from(datagram), bytes_of(datagram.payload()));
}

void DataPlaneService::handle_punt(const v1::PuntFromControl& message) {
  if (message.has_tunnel_control()) {
    const auto peer = key_from(message.tunnel_control().peer());
    if (!peer) return spdlog::debug("in-tunnel control for a malformed key");
    backend_.send_control(*peer, bytes_of(message.tunnel_control().payload()));
  } else if (message.has_datagram()) {
    send(message.datagram());
  }
}

}  // namespace penstock::rpc
