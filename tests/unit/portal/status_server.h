// A gRPC server over TLS that refuses every call with one status, as proxies and busy servers do.
#pragma once

#include <cstdint>
#include <memory>

#include "tests/unit/portal/test_pki.h"

namespace penstock {

class StatusServer {
 public:
  // `code`: as in grpc::StatusCode.
  StatusServer(const TestPki& pki, int code);
  ~StatusServer();
  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] int calls() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock
