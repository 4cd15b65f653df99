#include "controlplane/ctl/cli.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>

#include "controlplane/ctl/views.h"
#include "penstock/v1/inspect.grpc.pb.h"

namespace penstock::ctl {
namespace {

constexpr int kAnswered = 0;
constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr auto kPatience = std::chrono::seconds{10};
constexpr const char* kProcesses[] = {"dataplane", "gateway", "client", "portal"};

struct Settings {
  std::string socket;
  std::string process;
  std::string directory;
  std::uint32_t limit = 0;
  bool json = false;
  ViewOptions view;
};

// Who has what; for those who asked the wrong process.
const char* who_has(std::string_view what) {
  if (what == "ports" || what == "neighbours") return "dataplane";
  if (what == "flows" || what == "drops") return "dataplane or client";
  if (what == "peers" || what == "names") return "dataplane, gateway or client";
  return "dataplane, gateway, client or portal";
}

// The socket to ask; empty and `error` set when that is not clear.
std::string socket_of(const Settings& settings, std::string& error) {
  const auto path_of = [&](const std::string& process) { return settings.directory + "/" + process + ".sock"; };
  if (!settings.socket.empty()) return settings.socket;
  if (!settings.process.empty()) return path_of(settings.process);
  std::vector<std::string> found;
  for (const char* process : kProcesses) {
    std::error_code ignored;
    if (std::filesystem::exists(path_of(process), ignored)) found.emplace_back(process);
  }
  if (found.size() == 1) return path_of(found[0]);
  if (found.empty()) {
    error = fmt::format("no process of Penstock has a socket in {}; name one with --socket", settings.directory);
  } else {
    std::string names;
    for (const std::string& process : found) names += (names.empty() ? "" : ", ") + process;
    error = fmt::format("several processes run here: say which with --process ({})", names);
  }
  return {};
}

// A plain connection first: the operating system's reason is clearer than gRPC's.
std::string reach(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return "the path is longer than a socket's may be";
  path.copy(address.sun_path, path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::strerror(errno);
  const int result = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int reason = errno;
  ::close(fd);
  if (result == 0) return {};
  switch (reason) {
    case ENOENT:
      return "no such socket; is the process running?";
    case ECONNREFUSED:
      return "nobody listens there any more; the process has ended";
    case EACCES:
    case EPERM:
      return fmt::format("permission denied for user {}; try as root", ::geteuid());
    default:
      return std::strerror(reason);
  }
}

std::string explain(const grpc::Status& status, std::string_view what) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNIMPLEMENTED:
      if (!status.error_message().empty())
        return fmt::format("this process has no {}: {}", what, status.error_message());
      return fmt::format("this process has no {}; ask with --process {}", what, who_has(what));
    case grpc::StatusCode::UNAVAILABLE:
      return fmt::format("the process closed the connection ({}); is user {} among its control.allowed_uids?",
                         status.error_message(), ::geteuid());
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return fmt::format("no answer within {} s", kPatience.count());
    default:
      return fmt::format("{} (code {})", status.error_message(), static_cast<int>(status.error_code()));
  }
}

class Asking {
 public:
  Asking(const Settings& settings, std::ostream& out, std::ostream& err) : settings_(settings), out_(out), err_(err) {}

  template <typename Request, typename Reply>
  int ask(std::string_view what, grpc::Status (v1::Inspect::Stub::*call)(grpc::ClientContext*, const Request&, Reply*),
          const Request& request) {
    std::string error;
    const std::string path = socket_of(settings_, error);
    if (path.empty()) return fail(error);
    error = reach(path);
    if (!error.empty()) return fail(path + ": " + error);

    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);  // a table of a million flows is a large answer
    const auto channel = grpc::CreateCustomChannel("unix:" + path, grpc::InsecureChannelCredentials(), arguments);
    const auto stub = v1::Inspect::NewStub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    Reply reply;
    const grpc::Status status = (stub.get()->*call)(&context, request, &reply);
    if (!status.ok()) return fail(path + ": " + explain(status, what));
    out_ << (settings_.json ? to_json(reply) : view(reply, settings_.view));
    out_.flush();
    return out_ ? kAnswered : fail("cannot write the answer");
  }

 private:
  int fail(const std::string& reason) {
    err_ << "penstockctl: " << reason << "\n";
    return kFailed;
  }

  const Settings& settings_;
  std::ostream& out_;
  std::ostream& err_;
};

}  // namespace

int run(std::vector<std::string> arguments, std::ostream& out, std::ostream& err, const std::string& socket_directory) {
  Settings settings;
  settings.directory = socket_directory;
  CLI::App app("Looks inside a process of Penstock on this machine", "penstockctl");
  app.set_version_flag("--version", "penstockctl " PENSTOCK_VERSION);
  app.fallthrough();
  app.require_subcommand(1);
  auto* socket = app.add_option("--socket", settings.socket, "the process's control socket")->type_name("PATH");
  app.add_option("--process", settings.process, "whose default socket to use; not needed where only one runs")
      ->type_name("NAME")
      ->check(CLI::IsMember({"dataplane", "gateway", "client", "portal"}))
      ->excludes(socket);
  app.add_flag("--json", settings.json, "machine-readable, every field");
  app.add_flag("--wide", settings.view.wide, "shorten nothing");

  std::function<int(Asking&)> command;
  auto* status = app.add_subcommand("status", "state, versions and the most important numbers");
  status->callback([&] {
    command = [](Asking& asking) { return asking.ask("status", &v1::Inspect::Stub::Status, v1::StatusRequest{}); };
  });
  auto* show = app.add_subcommand("show", "tables");
  show->fallthrough();
  show->require_subcommand(1);
  const auto table = [&](const char* what, const char* words, auto call) {
    auto* sub = show->add_subcommand(what, words);
    sub->fallthrough();
    sub->add_option("--limit", settings.limit, "at most so many rows")->type_name("N");
    sub->callback([&command, &settings, what, call] {
      command = [&settings, what, call](Asking& asking) {
        v1::ShowRequest request;
        request.set_limit(settings.limit);
        return asking.ask(what, call, request);
      };
    });
    return sub;
  };
  table("peers", "tunnels: session, endpoint, traffic", &v1::Inspect::Stub::ShowPeers);
  table("flows", "translated flows", &v1::Inspect::Stub::ShowFlows);
  table("names", "names under Resources and their addresses", &v1::Inspect::Stub::ShowNames);
  table("drops", "dropped packets by reason", &v1::Inspect::Stub::ShowDrops)
      ->add_flag("--all", settings.view.all, "reasons that never occurred, too");
  table("ports", "network ports and buffers", &v1::Inspect::Stub::ShowPorts);
  table("neighbours", "ARP and neighbour discovery", &v1::Inspect::Stub::ShowNeighbours)->alias("neighbors");

  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes a vector
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, err) == 0 ? kAnswered : kUsage;
  }
  Asking asking{settings, out, err};
  return command(asking);
}

}  // namespace penstock::ctl
