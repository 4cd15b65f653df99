#include "tests/model/system/run_seeds.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>

#include "tests/model/system/system.h"

namespace penstock::model {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Digest {
 public:
  void add(std::uint64_t value) {
    for (int i = 0; i < 8; ++i) {
      hash_ = (hash_ ^ (value & 0xff)) * 1099511628211ULL;
      value >>= 8;
    }
  }
  [[nodiscard]] std::string text() const {
    char out[17];
    std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(hash_));
    return out;
  }

 private:
  std::uint64_t hash_ = 14695981039346656037ULL;
};

std::string digest_of(const System& system) {
  Digest digest;
  for (const Flow& flow : system.ledger.flows)
    for (const auto* list : {&flow.requests, &flow.pushes})
      for (const Fate& fate : *list)
        for (const Instant at : {fate.sent, fate.arrived, fate.echoed})
          digest.add(static_cast<std::uint64_t>(at.time_since_epoch().count()));
  const auto& statistics = system.network.statistics();
  for (const std::uint64_t count : {statistics.sent, statistics.delivered, statistics.lost, statistics.filtered})
    digest.add(count);
  return digest.text();
}

struct Child {
  pid_t pid = -1;
  int from = -1;
  std::uint64_t seed = 0;
  std::string said;
  Clock::time_point started;
};

Child start_child(const Scenario& plan) {
  int pipe_ends[2];
  if (::pipe(pipe_ends) != 0) std::abort();
  std::fflush(nullptr);
  Child out;
  out.seed = plan.seed;
  out.started = Clock::now();
  out.pid = ::fork();
  if (out.pid < 0) std::abort();
  if (out.pid == 0) {
    ::close(pipe_ends[0]);
    const Outcome outcome = play(plan);
    const std::string text = (outcome.ok ? "ok\n" : "bad\n") + outcome.digest + "\n" + outcome.violation;
    for (std::size_t at = 0; at < text.size();) {
      const auto written = ::write(pipe_ends[1], text.data() + at, text.size() - at);
      if (written <= 0) break;
      at += static_cast<std::size_t>(written);
    }
    ::_exit(0);
  }
  ::close(pipe_ends[1]);
  out.from = pipe_ends[0];
  return out;
}

Outcome outcome_of(const Child& child, int status) {
  Outcome out;
  out.seed = child.seed;
  out.seconds = seconds_since(child.started);
  const auto first = child.said.find('\n');
  const auto second = first == std::string::npos ? first : child.said.find('\n', first + 1);
  if (second != std::string::npos) {
    out.ok = child.said.substr(0, first) == "ok";
    out.digest = child.said.substr(first + 1, second - first - 1);
    out.violation = child.said.substr(second + 1);
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || second == std::string::npos) {
    out.ok = false;
    out.violation = WIFSIGNALED(status) ? "crashed by signal " + std::to_string(WTERMSIG(status))
                                        : "ended with status " + std::to_string(WEXITSTATUS(status));
  }
  return out;
}

// Reads what children say; ends those that take too long. Returns who is done.
std::vector<Outcome> wait_for_some(std::vector<Child>& children, unsigned patience) {
  std::vector<pollfd> polled;
  for (const Child& child : children) polled.push_back({child.from, POLLIN, 0});
  ::poll(polled.data(), polled.size(), 1000);
  std::vector<Outcome> out;
  for (std::size_t i = children.size(); i-- > 0;) {
    Child& child = children[i];
    bool over = false;
    const bool late = seconds_since(child.started) > patience;
    if (late) ::kill(child.pid, SIGKILL);
    if (polled[i].revents != 0 || late) {
      char buffer[4096];
      const auto got = ::read(child.from, buffer, sizeof buffer);
      if (got > 0)
        child.said.append(buffer, static_cast<std::size_t>(got));
      else
        over = true;
    }
    if (!over) continue;
    int status = 0;
    ::waitpid(child.pid, &status, 0);
    ::close(child.from);
    Outcome outcome = outcome_of(child, status);
    if (late) outcome.violation = "hangs: not done after " + std::to_string(patience) + " s";
    out.push_back(std::move(outcome));
    children.erase(children.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return out;
}

}  // namespace

Outcome play(const Scenario& plan, const std::function<void(const std::string&)>& log,
             std::pair<Duration, Duration> traced) {
  const auto started = Clock::now();
  Outcome out;
  out.seed = plan.seed;
  try {
    System system{plan, log};
    if (log && traced.second > traced.first)
      system.network.trace = [&](const std::string& text) {
        const Duration at = system.since_start();
        if (traced.first <= at && at < traced.second)
          log(std::to_string(at / std::chrono::milliseconds{1}) + " ms  . " + text);
      };
    system.run();
    out.ok = system.ledger.violations.empty();
    out.digest = digest_of(system);
    if (!out.ok) out.violation = system.ledger.violations.front();
    if (log) {
      for (const auto& client : system.clients)
        for (const auto& [what, count] : client->kinds())
          log(client->id() + ": " + std::to_string(count) + " x " + what);
      for (const auto& gateway : system.gateways)
        if (DataPlane* plane = gateway->data_plane()) log(gateway->id() + " " + plane->describe_drops());
    }
  } catch (const std::exception& problem) {
    out.violation = problem.what();
  }
  out.seconds = seconds_since(started);
  return out;
}

Outcome play_apart(const Scenario& plan, unsigned patience) {
  std::vector<Child> children;
  children.push_back(start_child(plan));
  for (;;) {
    auto done = wait_for_some(children, patience);
    if (!done.empty()) return done.front();
  }
}

void run_seeds(const std::vector<std::uint64_t>& seeds, const std::function<Scenario(std::uint64_t)>& scenario,
               unsigned jobs, unsigned patience, const std::function<bool(const Outcome&)>& done) {
  std::vector<Child> children;
  std::size_t next = 0;
  bool going = true;
  while ((going && next < seeds.size()) || !children.empty()) {
    while (going && next < seeds.size() && children.size() < jobs)
      children.push_back(start_child(scenario(seeds[next++])));
    for (const Outcome& outcome : wait_for_some(children, patience)) going = done(outcome) && going;
  }
}

Scenario with_only(const Scenario& plan, const std::vector<unsigned>& kept) {
  Scenario out = plan;
  out.events.clear();
  for (const unsigned i : kept)
    if (i < plan.events.size()) out.events.push_back(plan.events[i]);
  return out;
}

Minimised minimise(const Scenario& plan, unsigned budget, unsigned patience) {
  Minimised out;
  for (unsigned i = 0; i < plan.events.size(); ++i) out.kept.push_back(i);
  const auto fails = [&](const std::vector<unsigned>& kept) {
    ++out.runs;
    Outcome outcome = play_apart(with_only(plan, kept), patience);
    if (outcome.ok) return false;
    out.outcome = std::move(outcome);
    return true;
  };
  if (!fails(out.kept)) return out;
  // What comes after the failure cannot matter; then ever smaller pieces are left out.
  for (std::size_t piece = std::max<std::size_t>(1, out.kept.size() / 2); out.runs < budget;) {
    bool smaller = false;
    for (std::size_t at = out.kept.size(); at > 0 && out.runs < budget;) {
      const std::size_t from = at > piece ? at - piece : 0;
      std::vector<unsigned> fewer(out.kept.begin(), out.kept.begin() + static_cast<std::ptrdiff_t>(from));
      fewer.insert(fewer.end(), out.kept.begin() + static_cast<std::ptrdiff_t>(at), out.kept.end());
      if (fails(fewer)) {
        out.kept = std::move(fewer);
        smaller = true;
      }
      at = from;
    }
    if (piece == 1 && !smaller) break;
    piece = std::max<std::size_t>(1, piece / 2);
  }
  return out;
}

}  // namespace penstock::model
