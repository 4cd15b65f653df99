// Who may use the socket, and what noise on it does.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <gmock/gmock.h>

#include "server_bench.h"

namespace penstock::rpc {
namespace {

using testing::HasSubstr;

// ---- who may ask ----

TEST_F(RpcServer, TheSocketIsItsOwnersAlone) {
  struct stat status {};
  ASSERT_EQ(::stat(socket_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600U);
}

TEST_F(RpcServer, StrangersAreRefusedByCredentials) {
  const std::string path = directory_.file("strict.sock");
  std::string error;
  const auto strict =
      make_rpc_server(std::make_unique<FakeBackend>(), {.socket = path, .allowed_uids = {::getuid() + 1}}, error);
  ASSERT_NE(strict, nullptr) << error;
  const auto channel = grpc::CreateChannel("unix:" + path, grpc::InsecureChannelCredentials());
  const auto stub = v1::DataPlane::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(soon());
  v1::ApplyResponse response;
  EXPECT_EQ(stub->Apply(&context, {}, &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GT(strict->refused_connections(), 0U);
  EXPECT_EQ(server_->refused_connections(), 0U);
}

TEST_F(RpcServer, ALiveSocketIsNotTakenAwayAndAStaleOneIs) {
  std::string error;
  EXPECT_EQ(make_rpc_server(std::make_unique<FakeBackend>(), {.socket = socket_, .allowed_uids = {0}}, error), nullptr);
  EXPECT_THAT(error, HasSubstr("another process listens"));
  EXPECT_FALSE(dump().empty());

  const std::string stale = directory_.file("stale.sock");
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  stale.copy(address.sun_path, stale.size());
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::close(fd);
  EXPECT_NE(make_rpc_server(std::make_unique<FakeBackend>(), {.socket = stale, .allowed_uids = {0}}, error), nullptr);

  const std::string file = directory_.file("file");
  std::fclose(std::fopen(file.c_str(), "w"));
  EXPECT_EQ(make_rpc_server(std::make_unique<FakeBackend>(), {.socket = file, .allowed_uids = {0}}, error), nullptr);
  EXPECT_THAT(error, HasSubstr("is not a socket"));
  for (const std::string& bad : {std::string{}, std::string(200, 'x'), std::string{"/proc/none/such.sock"}}) {
    EXPECT_EQ(make_rpc_server(std::make_unique<FakeBackend>(), {.socket = bad, .allowed_uids = {0}}, error), nullptr);
    EXPECT_FALSE(error.empty());
  }
}

TEST_F(RpcServer, NoiseOnTheSocketIsHarmless) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_.copy(address.sun_path, socket_.size());
  for (const char* noise :
       {"GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff", ""}) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    (void)!::write(fd, noise, std::strlen(noise));
    ::close(fd);
  }
  EXPECT_FALSE(dump().empty());
}

}  // namespace
}  // namespace penstock::rpc
