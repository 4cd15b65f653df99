// Where a data plane that ends puts what the next one goes on with, and where that one finds it.
//
// Under a service manager that speaks systemd's protocol (NOTIFY_SOCKET) it is the manager's descriptor store: the unit
// needs `FileDescriptorStoreMax=1`. Otherwise it is a keeper: a child that the process has from its beginning, made
// before there is any thread or key, and that does nothing until it is given the memory. It then serves one process of
// the same user (both ends look at the other's credentials) on a unix socket beside the control socket, for a bounded
// time, and ends; the memory is gone when nobody has come.
//
// One thread, the main one. Nothing here is an error for the caller: without a hand-over the next start is cold.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/runtime/handover_memory.h"

namespace penstock::io {

class HandoverLink {
 public:
  // `path`: of the keeper's socket. `hold`: how long what was left waits; 0: nothing is ever left. Call it before any
  // thread is made: the keeper is forked here.
  HandoverLink(std::string path, std::chrono::milliseconds hold);
  ~HandoverLink();  // ends a keeper that was given nothing
  HandoverLink(const HandoverLink&) = delete;
  HandoverLink& operator=(const HandoverLink&) = delete;

  // What the process before has left, once; nullopt: nothing.
  std::optional<std::vector<std::uint8_t>> take();
  // Leaves it. Empty: done; otherwise why not.
  std::string leave(Bytes content);

  [[nodiscard]] bool leaves() const { return hold_.count() > 0; }

 private:
  void fork_keeper();
  [[nodiscard]] runtime::Descriptor from_manager();
  [[nodiscard]] runtime::Descriptor from_keeper() const;

  std::string path_;
  std::chrono::milliseconds hold_;
  bool manager_;
  runtime::Descriptor to_keeper_;
};

}  // namespace penstock::io
