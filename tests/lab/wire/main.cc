// lab_wire: a router's NAT and link in user space. The router's kernel routes packets into a TUN device and what comes
// out of it on to the other side; the wire is what happens in between.
//
//   lab_wire --tun nat0 --outside 198.51.100.30 --inside 198.51.100.128/28 --own 198.51.100.129 --spec SPEC
//            --control FILE
//
// Commands are datagrams to the unix socket FILE, answered with `ok` or what is wrong: forget, cut, mend, become SPEC,
// move ADDRESS..., show.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "tests/lab/meter/clock.h"
#include "tests/lab/wire/tun.h"
#include "tests/lab/wire/wire.h"

namespace {

using penstock::Instant;
using penstock::IpAddress;
using penstock::wire::Spec;
using penstock::wire::Wire;

volatile std::sig_atomic_t stopped = 0;

Instant now() {
  return Instant{std::chrono::nanoseconds{penstock::meter::monotonic()}};
}

int open_control(const std::string& file) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (file.size() >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  std::strncpy(address.sun_path, file.c_str(), sizeof address.sun_path - 1);
  unlink(file.c_str());
  return bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? fd : -1;
}

std::string obey(Wire& wire, const std::string& command) {
  std::istringstream words(command);
  std::string verb;
  words >> verb;
  if (verb == "forget") {
    wire.forget();
  } else if (verb == "cut" || verb == "mend") {
    wire.cut(verb == "cut");
  } else if (verb == "become") {
    std::string text;
    words >> text;
    const auto spec = penstock::wire::parse_spec(text);
    if (const auto* problem = std::get_if<std::string>(&spec)) return *problem;
    wire.become(std::get<Spec>(spec));
  } else if (verb == "move") {
    std::vector<IpAddress> addresses;
    for (std::string text; words >> text;) {
      const auto address = IpAddress::parse(text);
      if (!address) return "not an address: " + text;
      addresses.push_back(*address);
    }
    if (addresses.empty()) return "move needs addresses";
    wire.move(std::move(addresses));
  } else if (verb == "show") {
    const auto& s = wire.statistics();
    std::ostringstream out;
    out << "up " << s.up << " down " << s.down << " lost " << s.lost << " too_big " << s.too_big << " duplicated "
        << s.duplicated << " mappings " << wire.mappings();
    return out.str();
  } else {
    return "unknown command: " + verb;
  }
  return "ok";
}

void serve(Wire& wire, int control) {
  char buffer[4096];
  for (;;) {
    sockaddr_un from{};
    socklen_t length = sizeof from;
    const ssize_t got =
        recvfrom(control, buffer, sizeof buffer, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &length);
    if (got < 0) return;
    const std::string answer = obey(wire, {buffer, static_cast<std::size_t>(got)});
    if (sendto(control, answer.data(), answer.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), length) < 0)
      std::perror("wire: answer");
  }
}

void run(Wire& wire, int tun, int control) {
  std::vector<std::uint8_t> buffer(65536);
  while (stopped == 0) {
    for (;;) {
      const ssize_t got = read(tun, buffer.data(), buffer.size());
      if (got <= 0) break;
      wire.handle({buffer.begin(), buffer.begin() + got}, now());
    }
    serve(wire, control);
    while (auto packet = wire.poll(now()))
      if (write(tun, packet->data(), packet->size()) < 0 && errno != EAGAIN && errno != EINVAL && errno != ENOBUFS)
        std::perror("wire: write");
    pollfd descriptors[2] = {{tun, POLLIN, 0}, {control, POLLIN, 0}};
    const Instant next = wire.next();
    const std::int64_t longest = penstock::meter::monotonic() + penstock::meter::kSecond;
    penstock::meter::wait(descriptors, 2,
                          next == penstock::kNever ? longest : std::min(longest, next.time_since_epoch().count()));
  }
}

template <typename T>
bool read_all(const std::vector<std::string>& texts, std::vector<T>& out) {
  for (const std::string& text : texts) {
    const auto value = T::parse(text);
    if (!value) {
      std::fprintf(stderr, "wire: not understood: %s\n", text.c_str());
      return false;
    }
    out.push_back(*value);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::string device, text, control_file;
  std::vector<std::string> outside, inside, own;
  std::uint64_t seed = 1;
  CLI::App app{"A NAT of any RFC 4787 kind and a link with delay, loss and more, between two sides of a router."};
  app.add_option("--tun", device, "TUN device, made by us")->required();
  app.add_option("--outside", outside, "the NAT's outside addresses");
  app.add_option("--inside", inside, "prefixes of the inside")->required();
  app.add_option("--own", own, "our inside addresses, for ICMP errors");
  app.add_option("--spec", text, "MAPPING,FILTERING,PORTS[,...] or none[,...]")->required();
  app.add_option("--control", control_file, "unix socket for commands")->required();
  app.add_option("--seed", seed, "of everything random");
  CLI11_PARSE(app, argc, argv);

  const auto spec = penstock::wire::parse_spec(text);
  if (const auto* problem = std::get_if<std::string>(&spec)) {
    std::fprintf(stderr, "wire: --spec: %s\n", problem->c_str());
    return 2;
  }
  penstock::wire::Sides sides;
  std::vector<IpAddress> own_addresses;
  if (!read_all(outside, sides.outside) || !read_all(inside, sides.inside) || !read_all(own, own_addresses)) return 2;
  sides.own_v4 = IpAddress::v4(0);
  for (const IpAddress& address : own_addresses) (address.is_v4() ? sides.own_v4 : sides.own_v6) = address;

  struct sigaction action{};
  action.sa_handler = [](int) { stopped = 1; };
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  const int tun = penstock::wire::open_tun(device), control = open_control(control_file);
  if (tun < 0 || control < 0) {
    std::perror("wire");
    return 1;
  }
  if (!penstock::meter::become_prompt()) std::fprintf(stderr, "wire: no real-time priority: delays are longer\n");
  Wire wire(std::get<Spec>(spec), std::move(sides), seed);
  run(wire, tun, control);
  return 0;
}
