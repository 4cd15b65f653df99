#include <set>
#include <utility>

#include "controlplane/core/backoff.h"
#include "tests/model/system/signal_net.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

// As in controlplane/io/grpc_signaling_client.cc.
constexpr Duration kStagger = 250ms;
constexpr Duration kRoundTimeout = 10s;
constexpr Duration kFirstDelay = 250ms;
constexpr Duration kLongestDelay = 30s;
constexpr Duration kSuspectInterval = 1s;
constexpr Duration kSameSuspicion = 50ms;

}  // namespace

struct PortalLink::State : std::enable_shared_from_this<State> {
  State(SignalNet& signal_net, Network& simulated, Host& machine, std::shared_ptr<Process> whose, broker::Role role_in,
        std::string token_in, std::vector<Endpoint> portal_in, Random& random_in, Hooks hooks_in)
      : net(signal_net),
        network(simulated),
        host(machine),
        process(std::move(whose)),
        role(role_in),
        token(std::move(token_in)),
        portal(std::move(portal_in)),
        random(random_in),
        hooks(std::move(hooks_in)) {}

  void after(Duration wait, std::function<void(State&)> work) {
    later(
        network, network.time() + wait, process,
        [weak = weak_from_this(), work = std::move(work)] {
          if (const auto self = weak.lock()) work(*self);
        },
        &host);
  }

  void begin_round() {
    if (!running || in_round) return;
    in_round = true;
    round_began = network.time();
    suspected_in_round = false;
    ++suspicion;
    const std::uint64_t number = ++round;
    fill_waiting();
    after(kRoundTimeout, [number](State& me) {
      if (me.round == number) me.end_round();
    });
    if (waiting.empty()) return end_round();
    dial_next();
  }

  void fill_waiting() {
    waiting.clear();
    for (const Endpoint& to : portal)
      if (!network.address_of(host, to.address.is_v4()).is_unspecified()) waiting.push_back(to);
  }

  void dial_next() {
    if (!in_round || waiting.empty()) return;
    const Endpoint to = waiting.front();
    waiting.pop_front();
    const auto weak = weak_from_this();
    const auto id = std::make_shared<SignalNet::StreamId>(0);
    *id = net.dial(host, process, to, role, token,
                   {[weak, id] {
                      if (const auto self = weak.lock()) self->accepted(*id);
                    },
                    [weak, id](const std::string& message) {
                      const auto self = weak.lock();
                      if (!self || self->current != *id) return;
                      self->backoff.reset();
                      self->hooks.message(message);
                    },
                    [weak, id](const std::string&, bool unauthenticated) {
                      if (const auto self = weak.lock()) self->closed(*id, unauthenticated);
                    }});
    dials.insert(*id);
    const std::uint64_t number = round;
    if (!waiting.empty())
      after(kStagger, [number](State& me) {
        if (me.round == number) me.dial_next();
      });
  }

  void accepted(SignalNet::StreamId id) {
    if (dials.erase(id) == 0) return;
    abandon_dials();
    in_round = false;
    ++round;
    if (current != 0) net.abandon(current);
    current = id;
    if (std::exchange(suspected_in_round, false)) suspect();
    hooks.connected();
  }

  void suspect() {
    if (!running) return;
    const Instant now = network.time();
    if (in_round) {
      suspected_in_round = suspected_in_round || now - round_began > kSameSuspicion;
      if (now - last_suspicion < kSuspectInterval || now - round_began < kSuspectInterval) return;
      last_suspicion = now;
      fill_waiting();
      dial_next();
    } else if (now - last_suspicion < kSuspectInterval) {
      after(last_suspicion + kSuspectInterval - now, [number = ++suspicion](State& me) {
        if (me.suspicion == number) me.suspect();
      });
    } else {
      last_suspicion = now;
      begin_round();
    }
  }

  void closed(SignalNet::StreamId id, bool unauthenticated) {
    if (dials.erase(id) != 0) {
      if (unauthenticated) return shut();
      if (!waiting.empty()) return dial_next();
      if (dials.empty()) end_round();
      return;
    }
    if (id != current) return;
    current = 0;
    if (unauthenticated) {
      shut();
    } else if (!in_round) {
      retry();
    }
    hooks.disconnected();
  }

  void end_round() {
    if (!in_round) return;
    in_round = false;
    ++round;
    abandon_dials();
    if (current == 0) retry();
  }

  void retry() {
    const std::uint64_t number = ++attempt;
    after(backoff.next(random), [number](State& me) {
      if (me.attempt == number && me.current == 0) me.begin_round();
    });
  }

  void abandon_dials() {
    for (const SignalNet::StreamId id : dials) net.abandon(id);
    dials.clear();
    waiting.clear();
  }

  void shut() {
    running = false;
    ++round;
    ++attempt;
    in_round = false;
    abandon_dials();
    if (current != 0) net.abandon(current);
    current = 0;
  }

  SignalNet& net;
  Network& network;
  Host& host;
  std::shared_ptr<Process> process;
  broker::Role role;
  std::string token;
  std::vector<Endpoint> portal;
  Random& random;
  Hooks hooks;
  Backoff backoff{kFirstDelay, kLongestDelay};
  bool running = false;
  bool in_round = false;
  std::uint64_t round = 0;
  std::uint64_t attempt = 0;
  Instant last_suspicion{};
  Instant round_began{};
  bool suspected_in_round = false;
  std::uint64_t suspicion = 0;  // the latest that waits
  std::deque<Endpoint> waiting;
  std::set<SignalNet::StreamId> dials;
  SignalNet::StreamId current = 0;
};

PortalLink::PortalLink(SignalNet& net, Network& network, Host& host, std::shared_ptr<Process> process,
                       broker::Role role, std::string token, std::vector<Endpoint> portal, Random& random, Hooks hooks)
    : state_(std::make_shared<State>(net, network, host, std::move(process), role, std::move(token), std::move(portal),
                                     random, std::move(hooks))) {}

PortalLink::~PortalLink() {
  state_->shut();
}

void PortalLink::start() {
  if (state_->running) return;
  state_->running = true;
  state_->backoff.reset();
  state_->begin_round();
}

void PortalLink::stop() {
  state_->shut();
}

void PortalLink::send(std::string message) {
  if (state_->current != 0) state_->net.send_to_server(state_->current, std::move(message));
}

void PortalLink::suspect() {
  state_->suspect();
}

bool PortalLink::connected() const {
  return state_->current != 0;
}

}  // namespace penstock::model
