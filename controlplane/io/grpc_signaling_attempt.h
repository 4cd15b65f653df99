// One dial of the portal's signaling stream, as gRPC's callbacks see it: what they say is passed to the loop's thread
// (PostGate), where alone hooks are called and messages handed in. At most kMaxQueuedMessages wait to be written.
// Of grpc_signaling_client.cc, which says when whom to dial.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "controlplane/io/live_count.h"
#include "controlplane/io/post_gate.h"
#include "controlplane/io/signaling_metadata.h"
#include "controlplane/io/write_queue.h"
#include "penstock/v1/signaling.grpc.pb.h"

namespace penstock::io {

inline constexpr std::size_t kMaxQueuedMessages = 4096;

// One dial of one address. Lives until gRPC is done with it, and dies on the loop's thread.
template <typename Outgoing, typename Incoming>
class Attempt final : public grpc::ClientBidiReactor<Outgoing, Incoming>,
                      public std::enable_shared_from_this<Attempt<Outgoing, Incoming>> {
 public:
  struct Hooks {  // on the loop's thread
    std::function<void()> accepted;
    std::function<void(Incoming)> message;
    std::function<void(const grpc::Status&)> done;
  };

  Attempt(std::shared_ptr<PostGate> gate, std::shared_ptr<LiveCount> live, std::shared_ptr<grpc::Channel> channel,
          const std::string& token)
      : gate_(std::move(gate)), live_(std::move(live)), stub_(v1::Signaling::NewStub(std::move(channel))) {
    context_.AddMetadata("authorization", "Bearer " + token);
  }

  void start(Hooks hooks) {
    hooks_ = std::move(hooks);
    self_ = this->shared_from_this();
    live_->enter();
    if constexpr (std::is_same_v<Outgoing, v1::ClientToPortal>)
      stub_->async()->Client(&context_, this);
    else
      stub_->async()->Gateway(&context_, this);
    this->AddHold();
    this->StartRead(&incoming_);
    this->StartCall();
  }

  // Loop's thread. A hook may replace the hooks it was called through.
  void set_hooks(Hooks hooks) { hooks_ = std::move(hooks); }

  // Loop's thread. False when the queue is full.
  bool send(Outgoing message) { return queue_.send(std::move(message)); }

  // Loop's thread. No hook is called any more.
  void abandon() {
    hooks_ = {};
    context_.TryCancel();
    release();
  }

 private:
  void release() {
    if (std::exchange(released_, true)) return;
    queue_.close();
    this->RemoveHold();
  }

  template <typename Work>
  void on_loop(Work work) {
    gate_->post([self = this->shared_from_this(), work = std::move(work)] { work(*self); });
  }

  void OnReadInitialMetadataDone(bool ok) override {
    if (!ok) return;
    // A refusal also counts as initial metadata (trailers only), hence the portal's mark.
    const auto& metadata = context_.GetServerInitialMetadata();
    if (metadata.find(kAcceptedMetadata) == metadata.end()) return;
    on_loop([](Attempt& attempt) {
      const auto hook = attempt.hooks_.accepted;
      if (hook) hook();
    });
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      on_loop([](Attempt& attempt) {
        attempt.context_.TryCancel();  // a server that closed its half while ours is open would otherwise linger
        attempt.release();
      });
      return;
    }
    on_loop([message = std::move(incoming_)](Attempt& attempt) {
      const auto hook = attempt.hooks_.message;
      if (hook) hook(message);
    });
    incoming_ = {};
    this->StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override { queue_.written(ok); }

  void OnDone(const grpc::Status& status) override {
    const auto live = live_;
    gate_->post([self = std::move(self_), status] {
      const auto hook = self->hooks_.done;
      if (hook) hook(status);
    });
    live->leave();
  }

  std::shared_ptr<PostGate> gate_;
  std::shared_ptr<LiveCount> live_;
  std::unique_ptr<v1::Signaling::Stub> stub_;
  grpc::ClientContext context_;
  Incoming incoming_;  // gRPC's while a read is under way
  WriteQueue<Outgoing> queue_{kMaxQueuedMessages, [this](const Outgoing& message) { this->StartWrite(&message); }};
  bool released_ = false;  // loop's thread
  Hooks hooks_;            // loop's thread
  std::shared_ptr<Attempt> self_;
};

}  // namespace penstock::io
