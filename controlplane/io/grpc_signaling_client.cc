// The stream to the portal: whom to dial and when, which of the dials becomes the stream, and when to try again.
#include <grpcpp/grpcpp.h>

#include <deque>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "controlplane/core/backoff.h"
#include "controlplane/io/grpc_signaling_attempt.h"
#include "controlplane/io/portal_addresses.h"
#include "controlplane/io/signaling_client.h"

namespace penstock::io {
namespace {

using namespace std::chrono_literals;

constexpr Duration kStagger = 250ms;     // between the addresses of one round (RFC 8305 §5)
constexpr Duration kRoundTimeout = 10s;  // dial, TLS and acceptance
constexpr Duration kFirstDelay = 250ms;
constexpr Duration kLongestDelay = 30s;
constexpr Duration kSuspectInterval = 1s;
constexpr Duration kSameSuspicion = 50ms;  // what is said so soon after a dial began is the reason for that dial
constexpr std::size_t kMaxAddresses = 8;

std::string target_of(const Endpoint& to) {
  return (to.address.is_v4() ? "ipv4:" : "ipv6:") + to.to_string();
}

std::shared_ptr<grpc::Channel> open_channel(const std::string& target, const std::string& server_name,
                                            const SignalingConfig& config) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a second dial is a second TCP connection
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  // Never from the environment: what a daemon does shall stand in its configuration.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, config.proxy.empty() ? 0 : 1);
  if (!config.proxy.empty()) arguments.SetString(GRPC_ARG_HTTP_PROXY, "http://" + config.proxy);
  arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, 64 << 20);  // a gateway's Welcome names every authorisation
  arguments.SetSslTargetNameOverride(server_name);
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = config.ca_pem;
  return grpc::CreateCustomChannel(target, grpc::SslCredentials(tls), arguments);
}

std::string describe(const grpc::Status& status) {
  std::string text = status.error_message().empty() ? "stream closed" : status.error_message();
  return text + " (code " + std::to_string(static_cast<int>(status.error_code())) + ")";
}

}  // namespace

template <typename Outgoing, typename Incoming>
struct SignalingClient<Outgoing, Incoming>::Impl : std::enable_shared_from_this<Impl> {
  using Stream = Attempt<Outgoing, Incoming>;

  Impl(Loop& loop_in, Random& random_in, SignalingConfig config_in, Callbacks callbacks_in)
      : random(random_in),
        config(std::move(config_in)),
        callbacks(std::move(callbacks_in)),
        gate(std::make_shared<PostGate>(loop_in)),
        retry_timer(loop_in.add_timer([this] { begin_round(); })),
        stagger_timer(loop_in.add_timer([this] { dial_next(); })),
        suspect_timer(loop_in.add_timer([this] { suspect(); })),
        round_timer(loop_in.add_timer([this] { end_round("no answer from the portal within 10 s"); })) {}

  void shut() {
    running = false;
    ++round;
    retry_timer.set(kNever);
    stagger_timer.set(kNever);
    suspect_timer.set(kNever);
    round_timer.set(kNever);
    in_round = false;
    abandon_dials();
    if (current) current->abandon();
    current.reset();
  }

  // At most one dial a second for it, but none of them is forgotten: what is suspected after a dial began may concern
  // the stream that this dial brings.
  void suspect() {
    if (!running) return;
    const Instant now = Loop::now().monotonic;
    if (in_round) {
      suspected_in_round = suspected_in_round || now - round_began > kSameSuspicion;
      // TCP asks again later and later (a network that has just come back may be waited for until 7 s): once more,
      // beside it.
      if (now - last_suspicion < kSuspectInterval || now - round_began < kSuspectInterval) return;
      last_suspicion = now;
      waiting.assign(targets.begin(), targets.end());
      dial_next();
    } else if (now - last_suspicion < kSuspectInterval) {
      suspect_timer.set(last_suspicion + kSuspectInterval);
    } else {
      last_suspicion = now;
      begin_round();
    }
  }

  void abandon_dials() {
    for (auto& [id, stream] : dials) stream->abandon();
    dials.clear();
    waiting.clear();
  }

  void begin_round() {
    if (!running || in_round) return;
    in_round = true;
    const std::uint64_t number = ++round;
    round_began = Loop::now().monotonic;
    suspected_in_round = false;
    last_error.clear();
    targets.clear();
    retry_timer.set(kNever);
    suspect_timer.set(kNever);
    round_timer.set(Loop::now().monotonic + kRoundTimeout);
    const auto host_port = parse_host_port(config.address);
    if (!host_port) return end_round("the portal's address is malformed: " + config.address);
    // The proxy resolves the portal's name: here nobody may be able to.
    if (!config.proxy.empty()) return resolved({"dns:///" + config.address});
    if (const auto address = IpAddress::parse(host_port->host))
      return resolved({target_of({*address, host_port->port})});
    std::thread([weak = this->weak_from_this(), gate_copy = gate, number, host_port] {
      std::string error;
      auto endpoints = resolve_blocking(*host_port, error);
      gate_copy->post([weak, number, error, endpoints = std::move(endpoints)] {
        const auto self = weak.lock();
        if (!self || self->round != number || !self->in_round) return;
        if (endpoints.empty()) return self->end_round(error);
        std::vector<std::string> found;
        for (const Endpoint& endpoint : endpoints) found.push_back(target_of(endpoint));
        self->resolved(std::move(found));
      });
    }).detach();
  }

  void resolved(std::vector<std::string> found) {
    targets = std::move(found);
    if (targets.size() > kMaxAddresses) targets.resize(kMaxAddresses);
    waiting.assign(targets.begin(), targets.end());
    dial_next();
  }

  void dial_next() {
    if (!in_round || waiting.empty()) return;
    const std::string to = waiting.front();
    waiting.pop_front();
    const auto host_port = parse_host_port(config.address);
    const std::string name = config.server_name.empty() ? host_port->host : config.server_name;
    const std::uint64_t id = ++next_dial;
    auto stream = std::make_shared<Stream>(gate, live, open_channel(to, name, config), config.token);
    dials[id] = stream;
    // The hooks run only while the object lives: the destructor abandons every stream first.
    stream->start({[this, id] { accepted(id); },
                   {},
                   [this, id, to](const grpc::Status& status) {
                     dial_failed(id, to + ": " + describe(status), status);
                   }});
    stagger_timer.set(waiting.empty() ? kNever : Loop::now().monotonic + kStagger);
  }

  void accepted(std::uint64_t id) {
    const auto found = dials.find(id);
    if (found == dials.end()) return;
    const auto stream = found->second;
    dials.erase(found);
    abandon_dials();
    in_round = false;
    stagger_timer.set(kNever);
    round_timer.set(kNever);
    if (current) current->abandon();
    current = stream;
    rehook(stream);
    if (std::exchange(suspected_in_round, false)) suspect();
    if (callbacks.connected) callbacks.connected();
  }

  // From now on the stream speaks to the owner.
  void rehook(const std::shared_ptr<Stream>& stream);

  void dial_failed(std::uint64_t id, const std::string& why, const grpc::Status& status) {
    dials.erase(id);
    last_error = why;
    if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) return refused(why);
    if (!waiting.empty()) return dial_next();
    if (dials.empty()) end_round(last_error);
  }

  void refused(const std::string& why) {
    shut();
    if (callbacks.unauthenticated) callbacks.unauthenticated(why);
  }

  void end_round(const std::string& why) {
    if (!in_round) return;
    in_round = false;
    ++round;
    stagger_timer.set(kNever);
    round_timer.set(kNever);
    abandon_dials();
    if (!current) retry_timer.set(Loop::now().monotonic + backoff.next(random));
    if (callbacks.attempt_failed) callbacks.attempt_failed(why);
  }

  void lost(const grpc::Status& status) {
    current.reset();
    const std::string why = describe(status);
    if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
      if (callbacks.disconnected) callbacks.disconnected(why);
      return refused(why);
    }
    if (!in_round) retry_timer.set(Loop::now().monotonic + backoff.next(random));
    if (callbacks.disconnected) callbacks.disconnected(why);
  }

  Random& random;
  SignalingConfig config;
  Callbacks callbacks;
  std::shared_ptr<PostGate> gate;
  std::shared_ptr<LiveCount> live = std::make_shared<LiveCount>();
  Loop::Timer retry_timer;
  Loop::Timer stagger_timer;
  Loop::Timer suspect_timer;
  Loop::Timer round_timer;
  Backoff backoff{kFirstDelay, kLongestDelay};
  bool running = false;
  bool in_round = false;
  std::uint64_t round = 0;
  std::uint64_t next_dial = 0;
  std::string last_error;
  Instant last_suspicion{};
  Instant round_began{};
  bool suspected_in_round = false;
  std::vector<std::string> targets;  // of this round
  std::deque<std::string> waiting;   // those to dial yet
  std::map<std::uint64_t, std::shared_ptr<Stream>> dials;
  std::shared_ptr<Stream> current;
};

template <typename Outgoing, typename Incoming>
void SignalingClient<Outgoing, Incoming>::Impl::rehook(const std::shared_ptr<Stream>& stream) {
  stream->set_hooks({{},
                     [this](Incoming message) {
                       backoff.reset();
                       // The callback may stop or destroy the client.
                       const auto keep = this->shared_from_this();
                       if (callbacks.message) callbacks.message(std::move(message));
                     },
                     [this](const grpc::Status& status) {
                       const auto keep = this->shared_from_this();
                       lost(status);
                     }});
}

template <typename Outgoing, typename Incoming>
SignalingClient<Outgoing, Incoming>::SignalingClient(Loop& loop, Random& random, SignalingConfig config,
                                                     Callbacks callbacks)
    : impl_(std::make_shared<Impl>(loop, random, std::move(config), std::move(callbacks))) {}

template <typename Outgoing, typename Incoming>
SignalingClient<Outgoing, Incoming>::~SignalingClient() {
  impl_->shut();
  impl_->live->wait_idle();
  impl_->gate->close();
}

template <typename Outgoing, typename Incoming>
void SignalingClient<Outgoing, Incoming>::start() {
  if (impl_->running) return;
  impl_->running = true;
  impl_->backoff.reset();
  impl_->begin_round();
}

template <typename Outgoing, typename Incoming>
void SignalingClient<Outgoing, Incoming>::stop() {
  impl_->shut();
}

template <typename Outgoing, typename Incoming>
bool SignalingClient<Outgoing, Incoming>::send(Outgoing message) {
  if (!impl_->current) return false;
  if (impl_->current->send(std::move(message))) return true;
  const auto stuck = std::move(impl_->current);
  impl_->current.reset();
  stuck->abandon();
  impl_->lost(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the portal does not read"));
  return false;
}

template <typename Outgoing, typename Incoming>
void SignalingClient<Outgoing, Incoming>::suspect() {
  impl_->suspect();
}

template <typename Outgoing, typename Incoming>
bool SignalingClient<Outgoing, Incoming>::connected() const {
  return impl_->current != nullptr;
}

std::string check_portal_address(const std::string& address) {
  return parse_host_port(address) ? std::string{} : "must be host:port, 1.2.3.4:port or [v6]:port";
}

template class SignalingClient<v1::ClientToPortal, v1::PortalToClient>;
template class SignalingClient<v1::GatewayToPortal, v1::PortalToGateway>;

}  // namespace penstock::io
