// The network behind a site's gateways: servers that answer ARP and ND, echo what applications send, and now and then
// speak first.
#pragma once

#include <map>
#include <vector>

#include "dataplane/core/packet/headers.h"
#include "tests/model/system/application.h"

namespace penstock::model {

class GatewayHost;

class Lan {
 public:
  explicit Lan(Ledger& ledger) : ledger_(ledger) {}

  struct Server {
    std::uint16_t id = 0;
    IpAddress v4, v6;  // unspecified: none
    MacAddress mac{};
    bool up = true;
  };
  std::vector<Server> servers;

  // A frame left the gateway's LAN port. Answers go back through gateway.lan_frame().
  void receive(GatewayHost& gateway, Bytes frame, Instant now);
  // The server of this flow speaks first, towards where it last saw the flow come from. False: it never has.
  bool push(std::uint16_t flow, Instant now);

 private:
  struct Seen {
    GatewayHost* gateway;
    Endpoint from, to;
  };
  void answer_neighbour(GatewayHost& gateway, Bytes packet, bool arp);

  Ledger& ledger_;
  std::map<std::uint16_t, Seen> seen_;  // by flow
};

}  // namespace penstock::model
