#include "controlplane/io/relay_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "controlplane/core/paths/turn_stream.h"
#include "controlplane/io/descriptor.h"
#include "controlplane/io/socket_address.h"

namespace penstock::io {
namespace {

constexpr std::size_t kMaxQueued = 256 * 1024;
constexpr std::size_t kMaxProxyAnswer = 8192;
constexpr int kReadsPerTurn = 16;  // then others have their turn

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* value) const {
    Free(value);
  }
};
using SslContext = std::unique_ptr<SSL_CTX, Freer<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Freer<SSL_free>>;

std::string tls_error(const SSL* ssl) {
  if (const long verify = SSL_get_verify_result(ssl); verify != X509_V_OK)
    return std::string{"certificate: "} + X509_verify_cert_error_string(verify);
  const unsigned long code = ERR_get_error();
  if (code == 0) return "TLS: connection closed";
  std::array<char, 256> text{};
  ERR_error_string_n(code, text.data(), text.size());
  return std::string{"TLS: "} + text.data();
}

// Adds every certificate of `pem`; false when there is none.
bool add_roots(SSL_CTX* context, const std::string& pem) {
  const std::unique_ptr<BIO, Freer<BIO_free_all>> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  bool any = false;
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    any = X509_STORE_add_cert(SSL_CTX_get_cert_store(context), certificate) == 1 || any;
    X509_free(certificate);
  }
  ERR_clear_error();  // the end of the file is reported as an error
  return any;
}

}  // namespace

struct RelayStream::Impl : std::enable_shared_from_this<Impl> {
  enum class Phase : std::uint8_t { connecting, proxy, tls, up, failing, down };

  Loop* loop = nullptr;
  RelayStreamOptions options;
  Callbacks callbacks;
  Phase phase = Phase::connecting;
  Descriptor fd;
  Loop::Source source;
  Loop::Timer failure;  // to tell of what failed before anybody could listen
  std::string failed_because;
  SslContext context;
  Ssl ssl;
  paths::TurnStreamFramer framer;
  std::vector<std::uint8_t> queued;  // plain bytes to write
  std::size_t written = 0;
  std::string proxy_answer;
  bool wants_write = false;  // TLS or a full socket

  void start();
  void fail(const std::string& why);
  void fail_soon(const std::string& why);  // from the loop: nobody is called back from inside their own call
  void ready(std::uint32_t events);
  void connected();
  void proxy_input();
  void begin_tls();
  void handshake();
  void come_up();
  void read();
  [[nodiscard]] bool flush(std::string& why);  // false: failed
  bool flushed();                              // the same, and tells of it
  void watch();
  // Bytes moved; 0: would block; -1: failed or closed (`why` says).
  ssize_t read_some(std::span<std::uint8_t> into, std::string& why);
  ssize_t write_some(Bytes from, std::string& why);
};

void RelayStream::Impl::fail(const std::string& why) {
  if (phase == Phase::down) return;
  phase = Phase::down;
  source.reset();
  const auto keep = shared_from_this();  // the callback may destroy the stream
  if (callbacks.down) callbacks.down(why);
}

void RelayStream::Impl::fail_soon(const std::string& why) {
  phase = Phase::failing;
  source.reset();
  failed_because = why;
  failure = loop->add_timer([this] { fail(failed_because); });
  failure.set(Loop::now().monotonic);
}

void RelayStream::Impl::start() {
  const Endpoint& to = options.proxy ? *options.proxy : options.server;
  fd = Descriptor(::socket(to.address.is_v4() ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_soon(std::string{"socket: "} + std::strerror(errno));
  const int one = 1;
  // Small messages that must not wait for each other; without it the stream still works.
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (options.mark != 0 && ::setsockopt(fd.get(), SOL_SOCKET, SO_MARK, &options.mark, sizeof options.mark) != 0)
    return fail_soon(std::string{"SO_MARK: "} + std::strerror(errno));
  SocketAddress address(to);
  if (::connect(fd.get(), address.get(), address.size()) != 0 && errno != EINPROGRESS)
    return fail_soon(std::string{"connect: "} + std::strerror(errno));
  source = loop->add_fd(fd.get(), EPOLLOUT, [this](std::uint32_t events) { ready(events); });
}

void RelayStream::Impl::ready(std::uint32_t events) {
  const auto keep = shared_from_this();
  switch (phase) {
    case Phase::connecting:
      connected();
      break;
    case Phase::proxy:
      if ((events & EPOLLOUT) != 0 && !flushed()) return;
      if ((events & ~std::uint32_t{EPOLLOUT}) != 0) proxy_input();
      break;
    case Phase::tls:
      handshake();
      break;
    case Phase::up:
      if ((events & EPOLLOUT) != 0 && !flushed()) return;
      read();
      break;
    case Phase::failing:
    case Phase::down:
      return;
  }
  if (phase != Phase::down && phase != Phase::failing) watch();
}

void RelayStream::Impl::watch() {
  const bool writing = wants_write || (phase != Phase::tls && written < queued.size());
  source.set_events(EPOLLIN | (writing ? std::uint32_t{EPOLLOUT} : 0U));
}

void RelayStream::Impl::connected() {
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) return fail(std::string{"connect: "} + std::strerror(error));
  if (!options.proxy) return options.tls ? begin_tls() : come_up();
  phase = Phase::proxy;
  const std::string target = options.server.to_string();
  const std::string request = "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n";
  queued.assign(request.begin(), request.end());
  flushed();
}

void RelayStream::Impl::proxy_input() {
  // Byte by byte behind the headers nothing may be taken that belongs to TLS or TURN: the relay speaks only when spoken
  // to, so what is there is the proxy's answer alone.
  std::array<char, 1024> buffer;
  std::string closed;  // what it said before it closed counts for more
  while (closed.empty()) {
    const ssize_t n = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n <= 0) {
      closed = n == 0 ? "the proxy closed the connection" : std::string{"proxy: "} + std::strerror(errno);
      break;
    }
    proxy_answer.append(buffer.data(), static_cast<std::size_t>(n));
    if (proxy_answer.size() > kMaxProxyAnswer) return fail("the proxy's answer is too long");
  }
  const std::size_t end = proxy_answer.find("\r\n\r\n");
  if (end == std::string::npos) {
    if (!closed.empty()) fail(closed);
    return;
  }
  const std::string line = proxy_answer.substr(0, proxy_answer.find("\r\n"));
  const std::size_t space = line.find(' ');
  if (!line.starts_with("HTTP/1.") || space == std::string::npos || line.size() < space + 4 || line[space + 1] != '2')
    return fail("the proxy refuses: " + line);
  if (end + 4 != proxy_answer.size()) return fail("the proxy says more than its answer");
  if (!closed.empty()) return fail(closed);
  options.tls ? begin_tls() : come_up();
}

void RelayStream::Impl::begin_tls() {
  phase = Phase::tls;
  context.reset(SSL_CTX_new(TLS_client_method()));
  if (context == nullptr) return fail("TLS: out of memory");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  const bool roots = options.ca_pem.empty() ? SSL_CTX_set_default_verify_paths(context.get()) == 1
                                            : add_roots(context.get(), options.ca_pem);
  if (!roots) return fail("TLS: no certificates to trust");
  ssl.reset(SSL_new(context.get()));
  if (ssl == nullptr || SSL_set_fd(ssl.get(), fd.get()) != 1) return fail("TLS: out of memory");
  const std::string name = options.name.empty() ? options.server.address.to_string() : options.name;
  X509_VERIFY_PARAM* verify = SSL_get0_param(ssl.get());
  if (IpAddress::parse(name)) {
    if (X509_VERIFY_PARAM_set1_ip_asc(verify, name.c_str()) != 1) return fail("TLS: name");
  } else if (SSL_set1_host(ssl.get(), name.c_str()) != 1 || SSL_set_tlsext_host_name(ssl.get(), name.c_str()) != 1) {
    return fail("TLS: name");
  }
  handshake();
}

void RelayStream::Impl::handshake() {
  ERR_clear_error();
  const int done = SSL_connect(ssl.get());
  if (done == 1) {
    wants_write = false;
    return come_up();
  }
  const int error = SSL_get_error(ssl.get(), done);
  wants_write = error == SSL_ERROR_WANT_WRITE;
  if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) fail(tls_error(ssl.get()));
}

void RelayStream::Impl::come_up() {
  phase = Phase::up;
  queued.clear();
  written = 0;
  const auto keep = shared_from_this();
  if (callbacks.up) callbacks.up();
}

ssize_t RelayStream::Impl::read_some(std::span<std::uint8_t> into, std::string& why) {
  if (ssl != nullptr) {
    ERR_clear_error();
    const int n = SSL_read(ssl.get(), into.data(), static_cast<int>(into.size()));
    if (n > 0) return n;
    const int error = SSL_get_error(ssl.get(), n);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return 0;
    why = error == SSL_ERROR_ZERO_RETURN ? "the relay closed the connection" : tls_error(ssl.get());
    return -1;
  }
  for (;;) {
    const ssize_t n = ::recv(fd.get(), into.data(), into.size(), 0);
    if (n > 0) return n;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
    why = n == 0 ? "the relay closed the connection" : std::strerror(errno);
    return -1;
  }
}

ssize_t RelayStream::Impl::write_some(Bytes from, std::string& why) {
  if (ssl != nullptr) {
    ERR_clear_error();
    const int n = SSL_write(ssl.get(), from.data(), static_cast<int>(from.size()));
    if (n > 0) return n;
    const int error = SSL_get_error(ssl.get(), n);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return 0;
    why = tls_error(ssl.get());
    return -1;
  }
  for (;;) {
    const ssize_t n = ::send(fd.get(), from.data(), from.size(), MSG_NOSIGNAL);
    if (n >= 0) return n;
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) return 0;
    why = std::strerror(errno);
    return -1;
  }
}

void RelayStream::Impl::read() {
  std::array<std::uint8_t, 16384> buffer;
  const auto keep = shared_from_this();
  // TLS may hold decrypted bytes that the descriptor does not show, so it is read until it has no more.
  for (int reads = 0; reads < kReadsPerTurn || (ssl != nullptr && SSL_pending(ssl.get()) > 0); ++reads) {
    std::string why;
    const ssize_t n = read_some(buffer, why);
    if (n < 0) return fail(why);
    if (n == 0) return;
    framer.append(Bytes{buffer}.first(static_cast<std::size_t>(n)));
    while (const auto message = framer.next()) {
      if (callbacks.message) callbacks.message(*message);
      if (phase != Phase::up) return;
    }
    if (framer.broken()) return fail("the relay does not speak TURN here");
  }
}

bool RelayStream::Impl::flushed() {
  std::string why;
  if (flush(why)) return true;
  fail(why);
  return false;
}

bool RelayStream::Impl::flush(std::string& why) {
  while (written < queued.size()) {
    const ssize_t n = write_some(Bytes{queued}.subspan(written), why);
    if (n < 0) return false;
    if (n == 0) return true;
    written += static_cast<std::size_t>(n);
  }
  queued.clear();
  written = 0;
  return true;
}

RelayStream::RelayStream(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

// May run inside one of our callbacks: they stay until the last of Impl's owners is gone.
RelayStream::~RelayStream() {
  impl_->phase = Impl::Phase::down;
  impl_->source.reset();
  impl_->failure = {};
}

std::unique_ptr<RelayStream> RelayStream::open(Loop& loop, RelayStreamOptions options, Callbacks callbacks) {
  auto impl = std::make_shared<Impl>();
  impl->loop = &loop;
  impl->options = std::move(options);
  impl->callbacks = std::move(callbacks);
  impl->start();
  return std::unique_ptr<RelayStream>(new RelayStream(std::move(impl)));
}

bool RelayStream::send(Bytes message) {
  Impl& d = *impl_;
  if (d.phase != Impl::Phase::up || d.queued.size() - d.written + message.size() > kMaxQueued) return false;
  if (d.written > 0) {
    d.queued.erase(d.queued.begin(), d.queued.begin() + static_cast<std::ptrdiff_t>(d.written));
    d.written = 0;
  }
  d.queued.insert(d.queued.end(), message.begin(), message.end());
  if (std::string why; !d.flush(why)) {
    d.fail_soon(why);
    return false;
  }
  d.watch();
  return true;
}

}  // namespace penstock::io
