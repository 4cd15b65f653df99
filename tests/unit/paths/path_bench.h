// A PathAgent with a gateway that answers probes over links the test switches on and off, under virtual time.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>
#include <vector>

#include "controlplane/core/paths/path_agent.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/probe.h"
#include "dataplane/core/wireguard/reception_report.h"
#include "tests/model/seeded_random.h"

namespace penstock::paths {

using namespace std::chrono_literals;

inline Endpoint endpoint(const char* text) {
  return *Endpoint::parse(text);
}

inline const Endpoint kSocket = endpoint("0.0.0.0:41000");
inline const Endpoint kSocket6 = endpoint("[::]:41000");
inline const Endpoint kGateway = endpoint("203.0.113.7:51820");
inline const Endpoint kGateway6 = endpoint("[2001:db8::7]:51820");
inline const Path kDirect{kSocket, kGateway, 0};
inline const Path kRelayed{kSocket, kGateway, 1};
inline const Path kOtherRelay{kSocket, kGateway, 2};
inline constexpr std::uint32_t kSession = 0x12345678;

class PathBench : public ::testing::Test {
 protected:
  struct Link {
    bool up = true;
    bool sends = true;  // false: what leaves now is lost, answers that are under way still come
    Duration rtt = 20ms;
    std::size_t carries = 9000;  // bytes of an inner packet
  };
  struct Reply {
    Path path;
    wireguard::Probe probe;
    std::size_t size;
    wireguard::ReceptionReport report{};
  };
  struct SentProbe {
    Instant at;
    Path path;
    wireguard::Probe probe;
  };

  explicit PathBench(std::uint16_t inner_mtu = SizeSearch::kBase) : agent(random, false, {}, inner_mtu) {}

  // Relay and direct, as after a grant.
  void start(std::vector<LocalBase> bases = {{kSocket, 0, true}, {kSocket, 1, true}}) {
    agent.set_bases(bases, false, now());
    const Candidate candidates[] = {{CandidateKind::server_reflexive, kGateway}};
    agent.set_remote_candidates(candidates, now());
    drain();
  }
  void session_up(const Path& path = kRelayed) {
    agent.handle_session_up(path, now());
    drain();
  }

  Now now() const {
    const auto wall = wall_offset + time.time_since_epoch();
    return {time, {static_cast<std::uint64_t>(wall / 1s), static_cast<std::uint32_t>(wall % 1s / 1ns)}};
  }

  void drain() {
    while (auto event = agent.poll_event()) {
      events.push_back(event->kind);
      switch (event->kind) {
        case AgentEvent::Kind::send_probe: {
          const auto control = wireguard::parse_control(event->bytes);
          ASSERT_TRUE(control);
          EXPECT_EQ(control->direction, wireguard::ControlDirection::to_gateway);
          const auto probe = wireguard::parse_probe(control->payload);
          ASSERT_TRUE(probe);
          if (!probe->sized) probes.push_back({time, event->path, *probe});
          const Link& link = links[event->path];
          if (link.up && link.sends && event->bytes.size() <= link.carries)
            replies.emplace(time + link.rtt, answer(event->path, *probe, event->bytes.size()));
          break;
        }
        case AgentEvent::Kind::resend:
          ++resent;
          arrive(event->path, event->bytes);
          break;
        case AgentEvent::Kind::path_changed:
          changes.push_back({time, event->path});
          break;
        default:
          break;
      }
    }
  }
  // A gateway that does not report answers like an older one.
  Reply answer(const Path& path, const wireguard::Probe& probe, std::size_t size) const {
    Reply out{path, wireguard::reply_to(probe), size, {kSession, window.snapshot()}};
    out.probe.report = probe.report && reports;
    if (probe.report && !reports) out.size = wireguard::kProbePacketSize;
    return out;
  }
  void arrive(const Path& path, Bytes bytes) {
    if (!links[path].up || !links[path].sends) return;
    const auto number =
        static_cast<std::uint32_t>(reinterpret_cast<const wireguard::DataHeader*>(bytes.data())->counter.get());
    if (loses && loses(number)) return;
    window.accept(number);
    order.push_back(number);
    delivered.insert(number);
  }

  // Time passes; the application sends `rate` packets a second.
  void run(Duration how_long, unsigned rate = 0, std::size_t size = 100) {
    const Instant until = time + how_long;
    const Duration gap = rate == 0 ? how_long + 1s : Duration{1s} / rate;
    Instant next_packet = time + gap;
    for (;;) {
      Instant next = std::min({until, agent.poll_timeout().at, next_packet});
      if (!replies.empty()) next = std::min(next, replies.begin()->first);
      time = std::max(time, next);
      while (!replies.empty() && replies.begin()->first <= time) {
        const auto [path, probe, length, report] = replies.begin()->second;
        replies.erase(replies.begin());
        if (!links[path].up) continue;
        agent.note_received(path, false, now());
        auto packet = wireguard::make_sized_probe_packet(probe, wireguard::ControlDirection::to_client, length);
        if (probe.report) wireguard::write_report(MutableBytes{packet}.last(wireguard::kReportSize), report);
        const Bytes payload = Bytes{packet}.subspan(wireguard::kControlHeaderSize);
        EXPECT_EQ(agent.handle_probe_reply(payload, now()), DropReason::local_consumed);
        drain();
      }
      if (agent.poll_timeout().at <= time) {
        agent.handle_timeout(now());
        drain();
        // trap: paths-21
        ASSERT_GT(agent.poll_timeout().at, time) << agent.poll_timeout().why;
      }
      if (time >= next_packet) {
        send(size);
        next_packet += gap;
      }
      if (time >= until) return;
    }
  }
  void send(std::size_t size = 100) {
    std::vector<std::uint8_t> bytes(size);
    const std::uint32_t number = sent++;
    auto* header = reinterpret_cast<wireguard::DataHeader*>(bytes.data());
    header->type.set(static_cast<std::uint32_t>(wireguard::MessageType::data));
    header->receiver.set(kSession);
    header->counter.set(number);
    const auto ways = agent.data_paths(bytes, now());
    drain();
    for (const Path& path : ways) arrive(path, bytes);
    copies += ways.size();
  }
  std::size_t count(AgentEvent::Kind kind) const {
    return static_cast<std::size_t>(std::count(events.begin(), events.end(), kind));
  }
  std::size_t lost_since(std::uint32_t first) const {
    std::size_t lost = 0;
    for (std::uint32_t number = first; number < sent; ++number) lost += delivered.contains(number) ? 0 : 1;
    return lost;
  }
  std::size_t probes_on(const Path& path) const {
    return static_cast<std::size_t>(
        std::count_if(probes.begin(), probes.end(), [&](const SentProbe& p) { return p.path == path; }));
  }

  model::SeededRandom random{11};
  PathAgent agent;
  Instant time{1h};
  Duration wall_offset = std::chrono::seconds{1'800'000'000};
  std::map<Path, Link> links;
  std::multimap<Instant, Reply> replies;
  std::vector<SentProbe> probes;
  std::vector<AgentEvent::Kind> events;
  std::vector<std::pair<Instant, Path>> changes;
  std::set<std::uint32_t> delivered;
  std::vector<std::uint32_t> order;
  std::uint32_t sent = 0;
  std::size_t copies = 0;
  std::size_t resent = 0;
  bool reports = false;  // the gateway says what has arrived
  wireguard::ReplayWindow window;
  std::function<bool(std::uint32_t)> loses;  // which of these packets are lost, whatever the path
};

}  // namespace penstock::paths
