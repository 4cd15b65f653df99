#include <grpcpp/grpcpp.h>

#include <atomic>
#include <deque>
#include <map>
#include <mutex>

#include "controlplane/io/portal_addresses.h"
#include "controlplane/io/post_gate.h"
#include "controlplane/io/signaling_metadata.h"
#include "controlplane/io/signaling_server.h"
#include "penstock/v1/signaling.grpc.pb.h"

namespace penstock::io {
namespace {

constexpr std::size_t kMaxQueued = 4096;
constexpr std::size_t kMaxTokenSize = 1024;

grpc::StatusCode code_of(StreamEnd end) {
  switch (end) {
    case StreamEnd::unauthenticated:
      return grpc::StatusCode::UNAUTHENTICATED;
    case StreamEnd::replaced:
      return grpc::StatusCode::ABORTED;
    case StreamEnd::bad_message:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case StreamEnd::exhausted:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case StreamEnd::ending:
      return grpc::StatusCode::UNAVAILABLE;
  }
  return grpc::StatusCode::UNAVAILABLE;
}

// "ipv4:1.2.3.4:5" or "ipv6:%5B::1%5D:5".
Endpoint parse_peer(std::string peer) {
  for (const auto& [code, text] : {std::pair{"%5B", "["}, std::pair{"%5D", "]"}, std::pair{"%25", "%"}})
    for (std::size_t at = peer.find(code); at != std::string::npos; at = peer.find(code)) peer.replace(at, 3, text);
  const std::size_t colon = peer.find(':');
  if (colon == std::string::npos) return {};
  std::string rest = peer.substr(colon + 1);
  const std::size_t zone = rest.find('%');
  const std::size_t bracket = rest.find(']');
  if (zone != std::string::npos && bracket != std::string::npos && zone < bracket) rest.erase(zone, bracket - zone);
  return Endpoint::parse(rest).value_or(Endpoint{});
}

// What the loop knows of a stream of either kind.
class AnyStream {
 public:
  virtual ~AnyStream() = default;
  virtual void accept() = 0;
  virtual void finish(const grpc::Status& status) = 0;

  std::uint64_t id = 0;
  bool is_gateway = false;
  std::string token;
  Endpoint from;
  bool announced = false;  // loop's thread
};

template <typename Incoming, typename Outgoing>
class Stream final : public grpc::ServerBidiReactor<Incoming, Outgoing>, public AnyStream {
 public:
  struct Hooks {  // from gRPC's threads; each posts to the loop
    std::function<void(std::shared_ptr<Stream>)> read;
    std::function<void(std::uint64_t)> gone;
    std::function<void(std::uint64_t)> done;
  };

  Stream(grpc::CallbackServerContext* context, Hooks hooks) : context_(context), hooks_(std::move(hooks)) {}

  void keep(std::shared_ptr<Stream> self) { self_ = std::move(self); }

  void accept() override {
    const std::lock_guard lock{mutex_};
    if (finished_) return;
    context_->AddInitialMetadata(kAcceptedMetadata, "1");
    this->StartSendInitialMetadata();
    this->StartRead(&incoming_);
  }
  // Loop's thread: the message has been handled.
  void read_on() {
    const std::lock_guard lock{mutex_};
    if (!finished_) this->StartRead(&incoming_);
  }
  [[nodiscard]] const Incoming& incoming() const { return incoming_; }

  // False when the other side does not read.
  bool send(Outgoing message) {
    const std::lock_guard lock{mutex_};
    if (finished_) return true;
    if (queue_.size() >= kMaxQueued) return false;
    queue_.push_back(std::move(message));
    if (queue_.size() == 1) this->StartWrite(&queue_.front());
    return true;
  }

  // Once; later calls are ignored. A write under way is waited for, and cut short when the call is dead already.
  void finish(const grpc::Status& status) override {
    const std::lock_guard lock{mutex_};
    if (finished_) return;
    finished_ = true;
    status_ = status;
    if (queue_.empty())
      this->Finish(status_);
    else if (status.error_code() != grpc::StatusCode::UNAUTHENTICATED)
      context_->TryCancel();
  }

 private:
  void OnReadDone(bool ok) override {
    if (ok)
      hooks_.read(self_);
    else
      hooks_.gone(id);
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock{mutex_};
    queue_.pop_front();
    if (finished_) {
      queue_.clear();
      this->Finish(status_);
    } else if (ok && !queue_.empty()) {
      this->StartWrite(&queue_.front());
    } else if (!ok) {
      queue_.clear();
    }
  }
  void OnCancel() override { hooks_.gone(id); }
  void OnDone() override {
    const auto last = std::move(self_);
    hooks_.done(id);
  }

  grpc::CallbackServerContext* context_;
  Hooks hooks_;
  std::shared_ptr<Stream> self_;  // until gRPC is done with it
  Incoming incoming_;
  std::mutex mutex_;
  std::deque<Outgoing> queue_;  // the front is being written
  bool finished_ = false;
  grpc::Status status_;
};

using ClientStream = Stream<v1::ClientToPortal, v1::PortalToClient>;
using GatewayStream = Stream<v1::GatewayToPortal, v1::PortalToGateway>;

}  // namespace

struct SignalingServer::Impl final : v1::Signaling::CallbackService {
  Impl(Loop& loop, Callbacks callbacks_in)
      : callbacks(std::move(callbacks_in)), gate(std::make_shared<PostGate>(loop)) {}

  grpc::ServerBidiReactor<v1::ClientToPortal, v1::PortalToClient>* Client(
      grpc::CallbackServerContext* context) override {
    return open<ClientStream>(context, false);
  }
  grpc::ServerBidiReactor<v1::GatewayToPortal, v1::PortalToGateway>* Gateway(
      grpc::CallbackServerContext* context) override {
    return open<GatewayStream>(context, true);
  }

  // gRPC's thread.
  template <typename Kind>
  Kind* open(grpc::CallbackServerContext* context, bool is_gateway) {
    auto stream = std::make_shared<Kind>(
        context, typename Kind::Hooks{[this](std::shared_ptr<Kind> ready) {
                                        gate->post([this, ready = std::move(ready)] { on_message(ready); });
                                      },
                                      [this](std::uint64_t id) { gate->post([this, id] { on_gone(id); }); },
                                      [this](std::uint64_t id) { forget(id); }});
    stream->is_gateway = is_gateway;
    stream->from = parse_peer(context->peer());
    const auto& metadata = context->client_metadata();
    if (const auto found = metadata.find("authorization"); found != metadata.end()) {
      const std::string_view value{found->second.data(), found->second.size()};
      constexpr std::string_view kBearer = "Bearer ";
      if (value.starts_with(kBearer) && value.size() <= kBearer.size() + kMaxTokenSize)
        stream->token = value.substr(kBearer.size());
    }
    Kind* raw = stream.get();
    raw->keep(stream);
    bool ended = false;
    {
      const std::lock_guard lock{mutex};
      stream->id = ++next_id;
      streams[stream->id] = stream;
      ended = ending;
    }
    if (ended)
      raw->finish({grpc::StatusCode::UNAVAILABLE, "the portal is ending"});
    else
      gate->post([this, stream] { on_open(stream); });
    return raw;
  }

  void on_open(const std::shared_ptr<AnyStream>& stream) {
    const auto actor = stream->token.empty() ? std::nullopt : callbacks.authenticate(stream->is_gateway, stream->token);
    stream->token.clear();
    if (!actor) {
      if (callbacks.refused)
        callbacks.refused(std::string{"a "} + (stream->is_gateway ? "gateway" : "client") + " from " +
                          stream->from.to_string() + " presents no valid token");
      return stream->finish({grpc::StatusCode::UNAUTHENTICATED, "the token is not valid"});
    }
    stream->announced = true;
    stream->accept();
    callbacks.connected(stream->id, stream->is_gateway, *actor, stream->from);
  }

  template <typename Kind>
  void on_message(const std::shared_ptr<Kind>& stream) {
    if (!stream->announced) return;
    if constexpr (std::is_same_v<Kind, ClientStream>)
      callbacks.from_client(stream->id, stream->incoming());
    else
      callbacks.from_gateway(stream->id, stream->incoming());
    stream->read_on();
  }

  void on_gone(std::uint64_t id) {
    if (const auto stream = find(id)) end(stream, {grpc::StatusCode::CANCELLED, "gone"});
  }

  void end(const std::shared_ptr<AnyStream>& stream, const grpc::Status& status) {
    const bool tell = std::exchange(stream->announced, false);
    stream->finish(status);
    if (tell) callbacks.disconnected(stream->id);
  }

  std::shared_ptr<AnyStream> find(std::uint64_t id) {
    const std::lock_guard lock{mutex};
    const auto found = streams.find(id);
    return found == streams.end() ? nullptr : found->second;
  }

  // gRPC's thread: the stream is over for good.
  void forget(std::uint64_t id) {
    const std::lock_guard lock{mutex};
    streams.erase(id);
  }

  template <typename Kind, typename Message>
  void send(std::uint64_t id, Message message) {
    const auto stream = find(id);
    if (!stream || !stream->announced || stream->is_gateway != std::is_same_v<Kind, GatewayStream>) return;
    if (static_cast<Kind&>(*stream).send(std::move(message))) return;
    // Not from inside the owner's call: it is told in the next turn.
    gate->post([this, stream] { end(stream, {grpc::StatusCode::RESOURCE_EXHAUSTED, "messages are not read"}); });
  }

  Callbacks callbacks;
  std::shared_ptr<PostGate> gate;
  std::mutex mutex;  // streams, next_id, ending
  std::map<std::uint64_t, std::shared_ptr<AnyStream>> streams;
  std::uint64_t next_id = 0;
  bool ending = false;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

std::unique_ptr<SignalingServer> SignalingServer::listen(Loop& loop, const SignalingServerConfig& config,
                                                         Callbacks callbacks, std::string& error) {
  const auto endpoint = Endpoint::parse(config.listen);
  if (!endpoint) {
    error = "must be an address and port";
    return nullptr;
  }
  auto impl = std::make_unique<Impl>(loop, std::move(callbacks));
  grpc::SslServerCredentialsOptions tls;
  tls.pem_key_cert_pairs.push_back({config.key_pem, config.certificate_pem});
  grpc::ServerBuilder builder;
  builder.AddListeningPort(config.listen, grpc::SslServerCredentials(tls), &impl->port);
  const auto keepalive =
      static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(config.keepalive).count());
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 16);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second portal on the same port is a mistake
  builder.SetMaxReceiveMessageSize(1 << 20);
  builder.RegisterService(impl.get());
  impl->server = builder.BuildAndStart();
  if (!impl->server || impl->port == 0) {
    error = "cannot listen on " + config.listen + " (address in use, or certificate and key do not load)";
    return nullptr;
  }
  return std::unique_ptr<SignalingServer>(new SignalingServer(std::move(impl)));
}

SignalingServer::SignalingServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

SignalingServer::~SignalingServer() {
  impl_->gate->close();
  std::vector<std::shared_ptr<AnyStream>> streams;
  {
    const std::lock_guard lock{impl_->mutex};
    impl_->ending = true;
    for (const auto& [id, stream] : impl_->streams) streams.push_back(stream);
  }
  for (const auto& stream : streams) stream->finish({grpc::StatusCode::UNAVAILABLE, "the portal is ending"});
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds{1});
  impl_->server->Wait();
}

void SignalingServer::send(std::uint64_t stream, v1::PortalToClient message) {
  impl_->send<ClientStream>(stream, std::move(message));
}

void SignalingServer::send(std::uint64_t stream, v1::PortalToGateway message) {
  impl_->send<GatewayStream>(stream, std::move(message));
}

void SignalingServer::close(std::uint64_t stream, StreamEnd end, const std::string& detail) {
  const auto found = impl_->find(stream);
  if (!found) return;
  // The owner asked for it, but hears of the end in the next turn like of any other.
  impl_->gate->post(
      [impl = impl_.get(), found, status = grpc::Status{code_of(end), detail}] { impl->end(found, status); });
}

std::uint16_t SignalingServer::port() const {
  return static_cast<std::uint16_t>(impl_->port);
}

}  // namespace penstock::io
