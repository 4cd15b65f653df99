#include "controlplane/io/cares_resolver.h"

#include <ares.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <mutex>
#include <thread>
#include <variant>

#include "controlplane/io/post_gate.h"

namespace penstock::io {
namespace {

using gateway_agent::DnsAnswer;
using gateway_agent::DnsQuestion;
using gateway_agent::Family;

constexpr int kTimeoutMs = 700;  // of the first try; c-ares doubles it
constexpr int kTries = 3;

struct RawQuestion {
  std::uint64_t id = 0;
  std::string message;
};
using Question = std::variant<DnsQuestion, RawQuestion>;

// When and which resolv.conf was read.
struct Stamp {
  ino_t inode = 0;
  timespec modified{};
  bool operator==(const Stamp& other) const {
    return inode == other.inode && modified.tv_sec == other.modified.tv_sec &&
           modified.tv_nsec == other.modified.tv_nsec;
  }
};

Stamp stamp_of_resolv_conf() {
  struct stat status {};
  if (stat("/etc/resolv.conf", &status) != 0) return {};
  return {status.st_ino, status.st_mtim};
}

}  // namespace

struct CaresResolver::Impl {
  struct Pending {
    Impl* owner;
    std::uint64_t id;
    Family family;
  };

  bool open(std::string& error) {
    stamp = stamp_of_resolv_conf();
    ares_options options{};
    options.timeout = kTimeoutMs;
    options.tries = kTries;
    options.ndomains = 0;  // no search list: names of Resources are complete
    const int status = ares_init_options(&channel, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_DOMAINS);
    if (status != ARES_SUCCESS) {
      error = ares_strerror(status);
      channel = nullptr;
      return false;
    }
    if (servers.empty()) return true;
    const int set = ares_set_servers_ports_csv(channel, servers.c_str());
    if (set == ARES_SUCCESS) return true;
    error = ares_strerror(set);
    return false;
  }

  void run() {
    while (!ending) {
      std::deque<Question> questions;
      {
        const std::lock_guard lock{mutex};
        questions.swap(queue);
      }
      if (!questions.empty() && servers.empty() && !(stamp_of_resolv_conf() == stamp)) {
        if (channel != nullptr) ares_destroy(channel);  // what is under way fails and is asked again
        std::string ignored;                            // without a channel every question fails, until the next change
        open(ignored);
      }
      for (const Question& question : questions) start(question);
      wait();
    }
    if (channel != nullptr) ares_destroy(channel);
  }

  void start(const Question& question) {
    if (const auto* raw = std::get_if<RawQuestion>(&question)) {
      auto* pending = new Pending{this, raw->id, Family::v4};
      if (channel == nullptr) return on_raw(pending, ARES_ECONNREFUSED, 0, nullptr, 0);
      ares_send(channel, reinterpret_cast<const unsigned char*>(raw->message.data()),
                static_cast<int>(raw->message.size()), on_raw, pending);
      return;
    }
    const auto& named = std::get<DnsQuestion>(question);
    auto* pending = new Pending{this, named.id, named.family};
    if (channel == nullptr) return on_addresses(pending, ARES_ECONNREFUSED, 0, nullptr);
    ares_addrinfo_hints hints{};
    hints.ai_family = named.family == Family::v4 ? AF_INET : AF_INET6;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = ARES_AI_NOSORT;
    ares_getaddrinfo(channel, named.name.c_str(), nullptr, &hints, on_addresses, pending);
  }

  void wait() {
    ares_socket_t sockets[ARES_GETSOCK_MAXNUM];
    const int mask = channel == nullptr ? 0 : ares_getsock(channel, sockets, ARES_GETSOCK_MAXNUM);
    pollfd fds[ARES_GETSOCK_MAXNUM + 1];
    nfds_t count = 0;
    fds[count++] = {wake, POLLIN, 0};
    for (int i = 0; i < ARES_GETSOCK_MAXNUM; ++i) {
      short events = 0;
      if (ARES_GETSOCK_READABLE(mask, i)) events |= POLLIN;
      if (ARES_GETSOCK_WRITABLE(mask, i)) events |= POLLOUT;
      if (events != 0) fds[count++] = {sockets[i], events, 0};
    }
    int timeout = -1;
    timeval left{};
    if (channel != nullptr && ares_timeout(channel, nullptr, &left) != nullptr)
      timeout = static_cast<int>(left.tv_sec * 1000 + (left.tv_usec + 999) / 1000);
    if (poll(fds, count, timeout) < 0) return;  // EINTR
    if ((fds[0].revents & POLLIN) != 0) {
      std::uint64_t value = 0;
      while (read(wake, &value, sizeof value) > 0) {
      }
    }
    if (channel == nullptr) return;
    for (nfds_t i = 1; i < count; ++i) {
      const bool readable = (fds[i].revents & (POLLIN | POLLERR | POLLHUP)) != 0;
      const bool writable = (fds[i].revents & POLLOUT) != 0;
      ares_process_fd(channel, readable ? fds[i].fd : ARES_SOCKET_BAD, writable ? fds[i].fd : ARES_SOCKET_BAD);
    }
    ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);  // time-outs
  }

  static void on_addresses(void* argument, int status, int, ares_addrinfo* list) {
    const std::unique_ptr<Pending> pending{static_cast<Pending*>(argument)};
    DnsAnswer out;
    if (status == ARES_SUCCESS) {
      out.status = DnsAnswer::Status::ok;
      int ttl = INT32_MAX;
      for (const ares_addrinfo_node* node = list->nodes; node != nullptr; node = node->ai_next) {
        if (node->ai_family == AF_INET) {
          const auto* address = reinterpret_cast<const sockaddr_in*>(node->ai_addr);
          out.addresses.push_back(IpAddress::v4(ntohl(address->sin_addr.s_addr)));
        } else if (node->ai_family == AF_INET6) {
          const auto* address = reinterpret_cast<const sockaddr_in6*>(node->ai_addr);
          out.addresses.push_back(IpAddress::from_wire(Bytes{address->sin6_addr.s6_addr, 16}));
        }
        ttl = std::min(ttl, node->ai_ttl);
      }
      out.ttl_seconds = ttl > 0 ? static_cast<std::uint32_t>(ttl) : 0;
    } else if (status == ARES_ENODATA) {
      out.status = DnsAnswer::Status::no_data;
    } else if (status == ARES_ENOTFOUND) {
      out.status = DnsAnswer::Status::no_such_name;
    }
    if (list != nullptr) ares_freeaddrinfo(list);
    Impl* owner = pending->owner;
    owner->gate->post([owner, id = pending->id, out = std::move(out)] { owner->callbacks.answer(id, out); });
  }

  static void on_raw(void* argument, int status, int, unsigned char* message, int size) {
    const std::unique_ptr<Pending> pending{static_cast<Pending*>(argument)};
    // NXDOMAIN, SERVFAIL and the like are answers too when there is a message.
    std::string out;
    if (message != nullptr && size > 0)
      out.assign(reinterpret_cast<const char*>(message), static_cast<std::size_t>(size));
    static_cast<void>(status);
    Impl* owner = pending->owner;
    owner->gate->post([owner, id = pending->id, out = std::move(out)] { owner->callbacks.raw_answer(id, out); });
  }

  void push(Question question) {
    {
      const std::lock_guard lock{mutex};
      queue.push_back(std::move(question));
    }
    const std::uint64_t one = 1;
    static_cast<void>(write(wake, &one, sizeof one));  // full: it is awake anyway
  }

  std::shared_ptr<PostGate> gate;
  Callbacks callbacks;
  std::string servers;  // "1.2.3.4:53,[2001:db8::1]:53"; empty: the system's
  ares_channel channel = nullptr;
  Stamp stamp;
  int wake = -1;
  std::atomic<bool> ending = false;
  std::mutex mutex;  // queue
  std::deque<Question> queue;
  std::thread thread;
};

std::unique_ptr<CaresResolver> CaresResolver::create(Loop& loop, const std::vector<Endpoint>& nameservers,
                                                     Callbacks callbacks, std::string& error) {
  static const int library = ares_library_init(ARES_LIB_INIT_ALL);
  if (library != ARES_SUCCESS) {
    error = ares_strerror(library);
    return nullptr;
  }
  auto impl = std::make_shared<Impl>();
  impl->gate = std::make_shared<PostGate>(loop);
  impl->callbacks = std::move(callbacks);
  for (const Endpoint& server : nameservers) {
    if (!impl->servers.empty()) impl->servers += ",";
    impl->servers += Endpoint{server.address, server.port == 0 ? std::uint16_t{53} : server.port}.to_string();
  }
  impl->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (impl->wake < 0 || !impl->open(error)) {
    if (error.empty()) error = "no descriptor left";
    if (impl->wake >= 0) close(impl->wake);
    if (impl->channel != nullptr) ares_destroy(impl->channel);
    return nullptr;
  }
  impl->thread = std::thread([raw = impl.get()] { raw->run(); });
  return std::unique_ptr<CaresResolver>(new CaresResolver(std::move(impl)));
}

CaresResolver::CaresResolver(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

CaresResolver::~CaresResolver() {
  impl_->gate->close();
  impl_->ending = true;
  impl_->push(RawQuestion{});
  impl_->thread.join();
  close(impl_->wake);
}

void CaresResolver::ask(const DnsQuestion& question) {
  impl_->push(question);
}

void CaresResolver::ask_raw(std::uint64_t id, const std::string& message) {
  impl_->push(RawQuestion{id, message});
}

}  // namespace penstock::io
