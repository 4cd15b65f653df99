// Serves penstock.v1.Inspect on a unix socket: what `penstockctl status` and `show` ask a control process.
//
// The rows are the messages of inspect.proto (plain protobuf; no gRPC here). Questions are answered on the loop's
// thread, so a callback reads its process's state without locks. A question without a callback is answered
// UNIMPLEMENTED, with `elsewhere` saying which process to ask. No reply may hold a key other than public ones.
//
// The socket has mode 0600 from its first instant; a stale file is replaced, a live one is an error. The socket's
// directory is created when absent.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "controlplane/io/loop.h"
#include "penstock/v1/inspect.pb.h"

namespace penstock::io {

struct InspectAnswers {
  // `limit` 0: all.
  std::function<v1::StatusReply()> status;
  std::function<v1::PeersReply(std::uint32_t limit)> peers;
  std::function<v1::FlowsReply(std::uint32_t limit)> flows;
  std::function<v1::NamesReply(std::uint32_t limit)> names;
  std::function<v1::DropsReply(std::uint32_t limit)> drops;
  std::function<v1::PortsReply(std::uint32_t limit)> ports;
  std::function<v1::NeighboursReply(std::uint32_t limit)> neighbours;
  std::string elsewhere;  // e.g. "ask the data plane: penstockctl --socket /run/penstock/dataplane.sock"
};

class InspectServer {
 public:
  // nullptr and `error` set when the socket cannot be had. `loop` outlives the server.
  [[nodiscard]] static std::unique_ptr<InspectServer> listen(Loop& loop, const std::string& socket_path,
                                                             InspectAnswers answers, std::string& error);
  // Questions under way are cancelled. The socket file is removed.
  ~InspectServer();

 private:
  struct Impl;
  explicit InspectServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::io
