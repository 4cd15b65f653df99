// Questions to the gateway's own resolvers through c-ares, on a thread of its own. Answers come on the loop's thread,
// in any order, each exactly once while the object lives.
//
// Servers are those given, or the system's (resolv.conf, hosts file), which are read anew when resolv.conf changes: a
// machine that has no nameserver at boot has one later (trap dns-17). Names are taken as they are, without search list.
// A question is given up after about 5 s; whoever asks has a shorter patience of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/core/gateway_agent/resolver.h"
#include "controlplane/io/loop.h"

namespace penstock::io {

class CaresResolver {
 public:
  struct Callbacks {
    std::function<void(std::uint64_t id, gateway_agent::DnsAnswer answer)> answer;
    std::function<void(std::uint64_t id, const std::string& message)> raw_answer;  // empty: failed
  };

  // `nameservers`: empty for the system's; port 0 means 53. nullptr and `error` set when c-ares cannot start.
  [[nodiscard]] static std::unique_ptr<CaresResolver> create(Loop& loop, const std::vector<Endpoint>& nameservers,
                                                             Callbacks callbacks, std::string& error);
  ~CaresResolver();

  void ask(const gateway_agent::DnsQuestion& question);
  void ask_raw(std::uint64_t id, const std::string& message);

 private:
  struct Impl;
  explicit CaresResolver(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock::io
