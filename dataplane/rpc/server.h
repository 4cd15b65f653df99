// The data plane's gRPC server: penstock.v1.DataPlane for the control process and penstock.v1.Inspect for penstockctl,
// on one unix socket. Plain C++; gRPC stays in the .cc files.
//
// Theory of operation. The socket has mode 0600 from its first instant. Connections are accepted here, not by gRPC: the
// peer's credentials (SO_PEERCRED) are compared with `allowed_uids` before gRPC sees the descriptor, and a stranger's
// connection is closed and counted. gRPC's threads never touch the engine: every call is handed to one executor thread,
// which answers in order of arrival, so Apply is atomic towards Dump, and a call that waits for a grace period holds up
// nobody's packets. Events fan out to any number of subscribers through bounded queues (a slow one is told how many it
// lost); a new subscriber first hears of the sessions that are up and the mapped addresses known. Of punt streams there
// is one: a new one ends the old one.
//
// Threads: make and destroy from main(), between Engine::start() and Engine::stop().
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/rpc/backend.h"

namespace penstock::rpc {

struct ServerOptions {
  std::string socket = "/run/penstock/dataplane.sock";  // its directory is created when absent
  std::vector<std::uint32_t> allowed_uids = {0};
};

class Server {
 public:
  virtual ~Server() = default;  // ends every call; removes the socket
  // Connections closed because of who made them.
  [[nodiscard]] virtual std::uint64_t refused_connections() const = 0;
};

// nullptr and `error` set when the socket cannot be had. A stale socket file is replaced, a live one is an error.
[[nodiscard]] std::unique_ptr<Server> make_rpc_server(std::unique_ptr<Backend> backend, const ServerOptions& options,
                                                      std::string& error);
[[nodiscard]] std::unique_ptr<Server> make_rpc_server(runtime::Engine& engine, runtime::PolicyStore& store,
                                                      const ServerOptions& options, std::string& error);

}  // namespace penstock::rpc
