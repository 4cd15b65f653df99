// Carries the engine's events to every subscriber and its punts to the one punt stream. Executor thread only, except
// where it says otherwise.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "dataplane/rpc/backend.h"
#include "dataplane/rpc/executor.h"
#include "dataplane/rpc/punt_stream.h"
#include "dataplane/rpc/write_stream.h"
#include "penstock/v1/dataplane.pb.h"

namespace penstock::rpc {

class Dispatcher {
 public:
  using EventStream = WriteStream<v1::Event>;
  static constexpr std::size_t kEventCapacity = 4096;

  // Listens to the backend's queues at once (any thread).
  Dispatcher(Backend& backend, Executor& executor);
  // Any thread: no more from the backend, after this returns.
  void stop();

  // The newcomer first hears what holds now: sessions that are up, mapped addresses.
  void subscribe(const std::shared_ptr<EventStream>& stream);
  // The old one, if any, ends.
  void attach(const std::shared_ptr<PuntStream>& stream);
  // Mapped addresses of servers that are asked no more are forgotten.
  void set_stun_servers(const std::vector<Endpoint>& servers);

  [[nodiscard]] std::size_t subscribers() const { return subscribers_.size(); }
  [[nodiscard]] std::uint64_t lost_punts() const { return lost_punts_; }

 private:
  struct Subscriber {
    std::weak_ptr<EventStream> stream;
    std::uint64_t lost = 0;
  };
  void carry_events();
  void carry_punts();
  void give(Subscriber& subscriber, const v1::Event& event);

  Backend& backend_;
  Executor& executor_;
  std::vector<Subscriber> subscribers_;
  std::weak_ptr<PuntStream> punt_stream_;
  std::map<Endpoint, runtime::EngineEvent> mapped_;  // by server: the last that was said
  std::uint64_t lost_punts_ = 0;
};

}  // namespace penstock::rpc
