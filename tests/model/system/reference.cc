#include "tests/model/system/reference.h"

#include <algorithm>

#include "tests/model/system/portal_host.h"
#include "tests/model/system/reference_times.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

constexpr Duration kNoUse = Duration::max() / 2;

Duration outage(Duration how_long) {
  return how_long < 10s ? settle::kOutage : settle::kLongOutage;
}

}  // namespace

Reference::Reference(const Scenario& plan) : plan_(plan) {
  disturbances_.resize(plan.clients.size(), std::vector<std::vector<Disturbance>>(plan.sites));
  deaf_.resize(plan.flows.size());
  rights_.resize(plan.clients.size(), std::vector<std::vector<Right>>(plan.sites));
  for (const auto& client : plan.clients) client_network_.push_back(client.network);
  for (const Event& event : plan_.events) {
    const Duration end = event.at + event.how_long;
    switch (event.kind) {
      case Mishap::portal_down:
      case Mishap::portal_cut_client:
      case Mishap::portal_cut_gateway:
      case Mishap::gateway_link_down:
      case Mishap::client_link_down:
        away_.push_back({event.at, end + settle::kPortalBack, Away::whole});
        break;
      case Mishap::control_killed:
      case Mishap::control_stopped:
      case Mishap::control_ended:
      case Mishap::gateway_off:
        away_.push_back({event.at, end + settle::kControlBack, Away::whole});
        break;
      case Mishap::client_nat_reset:
      case Mishap::client_nat_moves:
      case Mishap::client_roams:
        away_.push_back({event.at, event.at + settle::kStreamBack, Away::of_client});
        break;
      case Mishap::gateway_nat_reset:
        away_.push_back({event.at, event.at + settle::kStreamBack, Away::of_gateway});
        break;
      case Mishap::gateway_nat_moves:  // seen by the tick, so that another stream is dialled at once
        away_.push_back({event.at, event.at + settle::kStreamBack, Away::of_client});
        break;
      default:
        break;
    }
  }
  for (const Event& event : plan_.events) take(event);
  for (auto& client : disturbances_)
    for (auto& list : client)
      std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.from < b.from; });
}

void Reference::add(unsigned client, unsigned site, Duration from, Duration until, const Event& event, bool reset) {
  disturbances_[client][site].push_back({from, until, &event, reset});
  // A gateway that was silent for so long may have been left for another, where the flow begins anew.
  const auto gateways = std::count_if(plan_.gateways.begin(), plan_.gateways.end(),
                                      [&](const GatewayPlan& gateway) { return gateway.site == site; });
  if (gateways > 1 && until - from >= settle::kLeft) deafen(client, site, from, until, event);
}
void Reference::deafen(unsigned client, unsigned site, Duration from, Duration until, const Event& event) {
  for (unsigned flow = 0; flow < plan_.flows.size(); ++flow)
    if (plan_.flows[flow].client == client && plan_.flows[flow].site == site)
      deaf_[flow].push_back({from, next_use(flow, until) + settle::kTunnel, &event});
}
void Reference::add_client(unsigned client, Duration from, Duration until, const Event& event, bool reset) {
  for (unsigned site = 0; site < plan_.sites; ++site) add(client, site, from, until, event, reset);
}
void Reference::add_site(unsigned site, Duration from, Duration until, const Event& event, bool reset) {
  for (unsigned client = 0; client < plan_.clients.size(); ++client) add(client, site, from, until, event, reset);
}

Duration Reference::informed(Duration at, bool streams) const {
  Duration out = at;
  for (bool moved = true; moved;) {
    moved = false;
    for (const Away& away : away_)
      if ((streams || away.stream != Away::of_client) && away.from <= out && out < away.until) {
        out = away.until;
        moved = true;
      }
  }
  return out;
}

Duration Reference::next_use(unsigned client, unsigned site, Duration after) const {
  Duration next = kNoUse;
  for (unsigned flow = 0; flow < plan_.flows.size(); ++flow)
    if (plan_.flows[flow].client == client && plan_.flows[flow].site == site)
      next = std::min(next, next_use(flow, after));
  return next;
}

Duration Reference::next_use(unsigned flow, Duration after) const {
  Duration next = kNoUse;
  for (const Traffic& traffic : plan_.traffic) {
    if (traffic.flow != flow) continue;
    // Its first packet from then on; it may have sent its last one before.
    const auto sent = traffic.from >= after ? 0 : (after - traffic.from + traffic.gap - Duration{1}) / traffic.gap;
    const Duration use = traffic.from + sent * traffic.gap;
    if (use < traffic.until) next = std::min(next, use);
  }
  return next;
}

bool Reference::translated(unsigned flow, Duration sent) const {
  const Duration arrived = sent - kDelivery;
  Duration last = Duration::min();
  for (const Traffic& traffic : plan_.traffic)
    if (traffic.flow == flow && traffic.from <= arrived)
      last = std::max(last, std::min(traffic.until - traffic.gap, arrived));
  return last != Duration::min() && sent - last < settle::kUdpIdle;
}

Duration Reference::round_trip(unsigned client, unsigned site, Duration at) const {
  Duration own = plan_.clients[client].latency, far = kPortalLatency;
  for (const Event& event : plan_.events) {
    if (event.who != client || event.at > at) continue;
    if (event.kind == Mishap::client_link_slow) own = std::chrono::milliseconds{event.value};
    if (event.kind == Mishap::client_roams) own = plan_.clients[client].latency;
  }
  for (const GatewayPlan& gateway : plan_.gateways)
    if (gateway.site == site) far = std::max(far, gateway.latency);
  return 2 * (own + 2 * plan_.relay_latency + far + 4 * plan_.jitter);
}

Duration Reference::settles(Duration at_least, unsigned client, unsigned site, Duration at, int trips) const {
  const Duration goal = 300ms + 4 * round_trip(client, site, at);  // paths.md
  return std::max(at_least, goal + trips * round_trip(client, site, at));
}

bool Reference::asleep(unsigned client, unsigned site, Duration at) const {
  Duration since = at - settle::kIdleAfter;
  for (const Event& event : plan_.events) {
    if (event.at >= at) continue;
    const bool own = event.kind == Mishap::client_restarts && event.who == client;
    const bool gateways = (event.kind == Mishap::gateway_off || event.kind == Mishap::data_plane_restarts ||
                           event.kind == Mishap::control_ended) &&
                          plan_.gateways[event.who].site == site;
    if (own || gateways) since = std::max(since, event.at + event.how_long);
  }
  return std::none_of(plan_.traffic.begin(), plan_.traffic.end(), [&](const Traffic& traffic) {
    const FlowPlan& flow = plan_.flows[traffic.flow];
    // It takes a moment to set a tunnel up.
    return flow.client == client && flow.site == site && traffic.from + settle::kTunnel < at && traffic.until > since;
  });
}

void Reference::add_reset(unsigned client, unsigned site, const Event& event, bool anew, bool told, bool lossless) {
  const Duration usual = settles(settle::kNatReset, client, site, event.at, anew ? settle::kAnewTrips : 0);
  Duration until = event.at + usual;
  const bool awake = !asleep(client, site, event.at);
  // An idle end notices with its next keepalive, or when it is used and gets no answer.
  if (!awake) until = missed(client, site, event.at, usual);
  const Duration known = told ? informed(until) : until;
  // What is kept to be sent again is at most two seconds old.
  const bool all = lossless && awake && known == until && usual <= settle::kKept;
  add(client, site, event.at, known, event, all);
}

bool Reference::moves_near(unsigned client, Duration at) const {
  return std::any_of(plan_.events.begin(), plan_.events.end(), [&](const Event& event) {
    if (event.at < at - settle::kNatReset || event.at > at + settle::kNatReset) return false;
    if (event.kind == Mishap::client_roams) return event.who == client;
    // Which network its NAT is of then is not looked at: a client that moves among them is as hard to find.
    return event.kind == Mishap::client_nat_reset || event.kind == Mishap::client_nat_moves;
  });
}

bool Reference::gateway_filters(unsigned site) const {
  return std::any_of(plan_.gateways.begin(), plan_.gateways.end(),
                     [&](const GatewayPlan& gateway) { return gateway.site == site && gateway.nat; });
}

Duration Reference::missed(unsigned client, unsigned site, Duration end, Duration usual) const {
  return std::max(end + usual, std::min(end + settle::kKeepalive, next_use(client, site, end)) + settle::kMissed);
}

void Reference::take(const Event& event) {
  const Duration from = event.at, end = event.at + event.how_long;
  const auto site_of = [&](unsigned gateway) { return plan_.gateways[gateway].site; };
  // Needs somebody who may be away: done when all are well again.
  const auto asks = [&](Duration until) { return informed(until); };
  const auto clients_in = [&](unsigned network, auto&& visit) {
    for (unsigned c = 0; c < client_network_.size(); ++c)
      if (client_network_[c] == network) visit(c);
  };
  switch (event.kind) {
    case Mishap::client_nat_reset:
    case Mishap::client_nat_moves:
      // Without mobility the client has another relayed address afterwards, which the gateway must be told of: its NAT
      // lets nothing in from there before it has punched.
      clients_in(client_network_[event.who], [&](unsigned c) {
        const bool anew = !plan_.relay_mobility;
        for (unsigned s = 0; s < plan_.sites; ++s)
          add_reset(c, s, event, anew, anew && gateway_filters(s), event.kind == Mishap::client_nat_reset);
      });
      break;
    case Mishap::gateway_nat_reset:
      for (unsigned c = 0; c < plan_.clients.size(); ++c) add_reset(c, site_of(event.who), event, false, false, true);
      break;
    case Mishap::gateway_nat_moves:
      // Relays have no permission for the new address, nor does a client's NAT that filters know it; nor does the
      // gateway find a client that is elsewhere too: only the portal can tell of it, over a stream that the gateway
      // dials anew.
      for (unsigned c = 0; c < plan_.clients.size(); ++c) {
        const auto& nat = plan_.networks[client_network_[c]].nat;
        const bool filtered = nat && nat->filtering != Dependence::independent;
        const bool told = filtered || moves_near(c, event.at);
        add_reset(c, site_of(event.who), event, told, told, false);
      }
      break;
    case Mishap::relay_restart:
      for (unsigned c = 0; c < plan_.clients.size(); ++c)
        for (unsigned s = 0; s < plan_.sites; ++s)
          add(c, s, from, asks(from + settles(settle::kRelay, c, s, from, settle::kAgainTrips)), event);
      break;
    case Mishap::relay_down:
    case Mishap::relay_cut:
      // With another relay or a direct path it is over soon, without only when it is back.
      for (unsigned s = 0; s < plan_.sites; ++s) add_site(s, from, asks(end + outage(event.how_long)), event);
      break;
    case Mishap::client_link_down:
    case Mishap::client_sleeps:
      add_client(event.who, from, asks(end + outage(event.how_long)), event);
      break;
    case Mishap::gateway_link_down:
      add_site(site_of(event.who), from, asks(end + outage(event.how_long)), event);
      break;
    case Mishap::client_link_bad:
      add_client(event.who, from, end + settle::kLoss, event);
      break;
    case Mishap::gateway_link_bad:
      add_site(site_of(event.who), from, end + settle::kLoss, event);
      break;
    case Mishap::client_roams: {
      const int trips = plan_.relay_mobility ? 0 : settle::kAnewTrips;
      for (unsigned s = 0; s < plan_.sites; ++s)
        add(event.who, s, from, asks(from + settles(settle::kRoam, event.who, s, from, trips)), event);
      client_network_[event.who] = event.other;
      break;
    }
    case Mishap::client_restarts:
      add_client(event.who, from, asks(end + settle::kClientRestart), event);
      // Its rights went with it: the first use once it is welcomed asks for them, for which the portal must be there.
      for (unsigned s = 0; s < plan_.sites; ++s) {
        const Duration use = next_use(event.who, s, asks(end + settle::kWelcomed));
        const Duration granted = asks(use + settle::kTunnel);
        if (granted > use + settle::kTunnel) add(event.who, s, use, granted, event);
      }
      // Nobody can speak to it first until it has set a tunnel up again, which its next packet does.
      for (unsigned f = 0; f < plan_.flows.size(); ++f)
        if (plan_.flows[f].client == event.who)
          deaf_[f].push_back({from, asks(next_use(event.who, plan_.flows[f].site, end) + settle::kTunnel), &event});
      break;
    case Mishap::data_plane_restarts:
    case Mishap::gateway_off: {
      const unsigned site = site_of(event.who);
      const bool off = event.kind == Mishap::gateway_off;
      for (unsigned c = 0; c < plan_.clients.size(); ++c) {
        const Duration gone = off ? end : from;
        add(c, site, from, asks(missed(c, site, gone, off ? settle::kGatewayOff : settle::kDataPlane)), event);
        deafen(c, site, from, gone, event);  // its translations are gone
      }
      break;
    }
    case Mishap::control_ended:  // clients leave at once for another gateway, or ask for this one again
      add_site(site_of(event.who), from, asks(end + settle::kGatewayOff), event);
      break;
    case Mishap::revoked:
      rights_[event.who][event.other].push_back({from, false, informed(from + settle::kRevoked, true)});
      break;
    case Mishap::granted:
      // In force when it is asked for; the first use asks, for which the portal must be there.
      rights_[event.who][event.other].push_back(
          {from, true, std::max(informed(from + settle::kGranted, true),
                                informed(next_use(event.who, event.other, from) + settle::kTunnel, true))});
      deafen(event.who, event.other, from, from + settle::kGranted, event);  // its translations went with the right
      break;
    case Mishap::names_down:
      for (unsigned s = 0; s < plan_.sites; ++s) {
        // Only what has to be resolved anew is concerned.
        for (const Event& other : plan_.events)
          if ((other.kind == Mishap::data_plane_restarts || other.kind == Mishap::gateway_off ||
               other.kind == Mishap::control_ended || other.kind == Mishap::control_killed ||
               other.kind == Mishap::client_restarts || other.kind == Mishap::granted) &&
              other.at < end && other.at + other.how_long + 60s > from)
            add_site(s, from, end + settle::kNames, event);
      }
      break;
    case Mishap::portal_down:
    case Mishap::portal_cut_client:
    case Mishap::portal_cut_gateway:
    case Mishap::client_link_slow:
    case Mishap::client_link_doubles:
    case Mishap::client_clock:
    case Mishap::gateway_clock:
    case Mishap::control_killed:
    case Mishap::control_stopped:
    case Mishap::last:
      break;  // nothing that stands may notice
  }
}

Verdict Reference::right(unsigned client, unsigned site, Duration sent) const {
  Verdict out = Verdict::must;
  bool before = true;
  for (const Right& it : rights_[client][site]) {
    if (it.from > sent + kDelivery) break;
    if (it.has == before) {
      // Said again: nothing changes, but what was not yet in force stays so.
      continue;
    }
    before = it.has;
    out = sent < it.sure ? Verdict::may : it.has ? Verdict::must : Verdict::must_not;
  }
  return out;
}

bool Reference::calm(unsigned flow, Duration sent) const {
  const FlowPlan& plan = plan_.flows[flow];
  const auto& list = disturbances_[plan.client][plan.site];
  return std::none_of(list.begin(), list.end(),
                      [&](const Disturbance& d) { return d.from <= sent + kDelivery && sent < d.until; });
}

Verdict Reference::request(unsigned flow, Duration sent) const {
  const FlowPlan& plan = plan_.flows[flow];
  const Verdict allowed = right(plan.client, plan.site, sent);
  if (allowed != Verdict::must) return allowed;
  return calm(flow, sent) ? Verdict::must : Verdict::may;
}

Verdict Reference::downward(unsigned flow, Duration sent) const {
  const auto& deaf = deaf_[flow];
  const Verdict out = request(flow, sent);
  const bool hears = std::none_of(deaf.begin(), deaf.end(),
                                  [&](const Disturbance& d) { return d.from <= sent + kDelivery && sent < d.until; });
  return out == Verdict::must && !(hears && translated(flow, sent)) ? Verdict::may : out;
}

bool Reference::only_a_reset_near(unsigned flow, Duration sent, Duration& reset_at, Duration& by) const {
  const FlowPlan& plan = plan_.flows[flow];
  if (right(plan.client, plan.site, sent) != Verdict::must) return false;
  const Disturbance* found = nullptr;
  for (const Disturbance& d : disturbances_[plan.client][plan.site]) {
    if (d.from > sent + 5s || d.until + 5s < sent) continue;
    if (found != nullptr || !d.reset) return false;
    found = &d;
  }
  if (found == nullptr) return false;
  reset_at = found->from;
  by = std::max(sent + kDelivery, found->until);
  return true;
}

std::string Reference::why(unsigned flow, Duration sent) const {
  const FlowPlan& plan = plan_.flows[flow];
  std::string out;
  for (const Disturbance& d : disturbances_[plan.client][plan.site])
    if (d.from <= sent + 5s && sent < d.until + 30s)
      out += std::string{out.empty() ? "" : "; "} + d.event->to_string() + " (felt until " +
             std::to_string(d.until / 1ms) + " ms)";
  return out.empty() ? "nothing near" : out;
}

}  // namespace penstock::model
