// Programs many peers over gRPC, as the control process does when it synchronises: begin_sync, every peer with one
// right, end_sync. Prints the seconds it took.
//
// Usage: perf-scale-program SOCKET PEERS PEERS_PER_CALL
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "penstock/v1/dataplane.grpc.pb.h"

namespace {

using Clock = std::chrono::steady_clock;

std::string big_endian(std::uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

std::string key_of(std::uint32_t peer) {
  std::string out(32, '\x5a');
  out.replace(0, 4, big_endian(peer * 2654435761U + 1));
  out.replace(4, 4, big_endian(peer));
  return out;
}

void add_peer(penstock::v1::ApplyRequest& request, std::uint32_t peer) {
  const std::string key = key_of(peer);
  auto& spec = *request.add_operations()->mutable_upsert_peer();
  spec.set_public_key(key);
  spec.set_preshared_key(std::string(32, static_cast<char>(peer | 1)));
  spec.mutable_tunnel()->set_v4(big_endian(0x64400002U + peer));
  spec.set_control(true);
  auto& right = *request.add_operations()->mutable_upsert_authorisation();
  right.set_id(std::to_string(peer));
  right.set_peer(key);
  right.mutable_resource()->set_id("corp");
  right.mutable_resource()->set_kind(penstock::v1::RESOURCE_KIND_DNS);
  right.mutable_resource()->set_pattern("**.corp.example");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s SOCKET PEERS PEERS_PER_CALL\n", argv[0]);
    return 2;
  }
  const auto peers = static_cast<std::uint32_t>(std::atol(argv[2]));
  const auto per_call = static_cast<std::uint32_t>(std::atol(argv[3]));
  const auto channel = grpc::CreateChannel(std::string("unix:") + argv[1], grpc::InsecureChannelCredentials());
  const auto stub = penstock::v1::DataPlane::NewStub(channel);
  double slowest = 0;
  const auto started = Clock::now();
  for (std::uint32_t first = 0; first < peers; first += per_call) {
    penstock::v1::ApplyRequest request;
    penstock::v1::ApplyResponse response;
    request.set_generation(1);
    request.set_begin_sync(first == 0);
    for (std::uint32_t peer = first; peer < std::min(first + per_call, peers); ++peer) add_peer(request, peer);
    request.set_end_sync(first + per_call >= peers);
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    const auto before = Clock::now();
    const grpc::Status status = stub->Apply(&context, request, &response);
    slowest = std::max(slowest, std::chrono::duration<double>(Clock::now() - before).count());
    if (!status.ok() || response.errors_size() > 0) {
      std::fprintf(stderr, "Apply failed: %s\n",
                   status.ok() ? response.errors(0).message().c_str() : status.error_message().c_str());
      return 1;
    }
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
  std::printf("{\"seconds\": %.4f, \"slowest_call_s\": %.4f}\n", seconds, slowest);
  return 0;
}
