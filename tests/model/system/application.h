// What applications send: numbered UDP packets to named servers, and the ledger of what became of each.
//
// A flow is one client's socket talking to one server by name, over one family. Requests go up; the server echoes each;
// now and then the server speaks first (a push). Every packet names its flow and the server it is meant for, so that
// one that turns up elsewhere is recognised.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"

namespace penstock::model {

enum class AppKind : std::uint8_t { request = 1, echo = 2, push = 3 };

struct AppPacket {
  AppKind kind = AppKind::request;
  std::uint16_t flow = 0;
  std::uint16_t server = 0;  // whom it is meant for, or who speaks
  std::uint32_t number = 0;
};

inline constexpr std::uint16_t kServerPort = 7777;

// An IP packet with UDP and right checksums.
[[nodiscard]] std::vector<std::uint8_t> make_app_packet(const AppPacket& what, const Endpoint& from,
                                                        const Endpoint& to);
struct ParsedApp {
  AppPacket what;
  Endpoint from, to;
};
[[nodiscard]] std::optional<ParsedApp> parse_app_packet(Bytes packet);

// What became of one packet of a flow.
struct Fate {
  Instant sent{};
  Instant arrived = kNever;  // at the server (a push: at the client)
  Instant echoed = kNever;   // back at the client
};

struct Flow {
  std::uint16_t id = 0;
  std::size_t client = 0;
  std::uint16_t server = 0;
  std::string name;
  Endpoint local;   // on the client
  IpAddress proxy;  // what the resolver answered, once
  std::vector<Fate> requests;
  std::vector<Fate> pushes;
  std::uint64_t base_requests = 0, base_pushes = 0;  // numbers of the first ones kept
};

class Ledger {
 public:
  // Ends in `violations` what must never happen: a packet at the wrong place, twice, or never sent.
  std::vector<std::string> violations;
  std::vector<Flow> flows;
  std::uint64_t unreachable = 0;  // ICMP errors that applications got

  std::uint32_t sends(std::uint16_t flow, AppKind kind, Instant now);
  void arrives_at_server(std::uint16_t server, const AppPacket& what, Instant now);
  void arrives_at_client(std::size_t client, const AppPacket& what, Instant now);
  // Forgets what was sent before `before`; its fate has been judged.
  void prune(Instant before);

 private:
  Fate* find(const AppPacket& what, const char* where);
  void violation(std::string text) {
    if (violations.size() < 100) violations.push_back(std::move(text));
  }
};

}  // namespace penstock::model
