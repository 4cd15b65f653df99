#include "tests/model/system/system.h"

#include "controlplane/core/broker/credentials.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

const Endpoint kPortal4 = *Endpoint::parse("198.51.100.10:443");
const Endpoint kPortal6 = *Endpoint::parse("[2001:db8:10::10]:443");
constexpr std::uint32_t kRelays = 0xc6336414;        // 198.51.100.20 …
constexpr std::uint32_t kGatewaysOutside = 0xcb007107;  // 203.0.113.7 …
constexpr std::uint16_t kRelayPort = 3478;
const char* const kRelaySecret = "a secret of the relays";

std::string number(const char* what, std::size_t n) {
  return what + std::to_string(n);
}

wireguard::PrivateKey key_of(std::uint8_t kind, std::size_t n) {
  wireguard::PrivateKey out;
  out.bytes.fill(static_cast<std::uint8_t>(n + 1));
  out.bytes[0] = static_cast<std::uint8_t>(kind << 4);
  out.bytes[31] = 0x40;
  return out;
}

IpAddress v6(std::uint16_t net, std::uint16_t sub, std::uint16_t host) {
  return IpAddress::v6({0x20, 0x01, 0x0d, 0xb8, static_cast<std::uint8_t>(net >> 8), static_cast<std::uint8_t>(net),
                        static_cast<std::uint8_t>(sub >> 8), static_cast<std::uint8_t>(sub), 0, 0, 0, 0, 0, 0,
                        static_cast<std::uint8_t>(host >> 8), static_cast<std::uint8_t>(host)});
}

std::string name_of_server(unsigned site, unsigned server) {
  return "web" + std::to_string(server) + ".s" + std::to_string(site) + ".corp.example";
}
std::uint16_t server_id(unsigned site, unsigned server) {
  return static_cast<std::uint16_t>(site * 10 + server);
}

}  // namespace

System::System(const Scenario& plan, std::function<void(const std::string&)> log)
    : network(plan.seed), signaling(network), reference(plan), plan_(plan), log_(std::move(log)) {
  rights_.resize(plan_.clients.size(), std::vector<bool>(plan_.sites, true));
  sent_before_.resize(plan_.clients.size());
  began_ = network.time();
  build_portal();
  build_gateways();
  build_clients();
}

void System::log(const std::string& text) {
  if (log_) log_(std::to_string(since_start() / 1ms) + " ms  " + text);
}

broker::BrokerConfig System::config() const {
  broker::BrokerConfig out;
  for (unsigned site = 0; site < plan_.sites; ++site) {
    out.sites.insert(number("s", site));
    v1::Resource resource;
    resource.set_id(number("r", site));
    resource.set_site(number("s", site));
    resource.set_kind(v1::RESOURCE_KIND_DNS);
    resource.set_pattern("**.s" + std::to_string(site) + ".corp.example");
    out.resources[resource.id()] = resource;
  }
  for (std::size_t g = 0; g < plan_.gateways.size(); ++g)
    out.gateways[number("g", g)] = {number("s", plan_.gateways[g].site), broker::sha256(number("token-g", g))};
  for (std::size_t c = 0; c < plan_.clients.size(); ++c) {
    out.clients[number("c", c)] = {broker::sha256(number("token-c", c)), {number("group", c)}, {}};
    for (unsigned site = 0; site < plan_.sites; ++site)
      if (rights_[c][site]) out.policies.push_back({number("group", c), number("r", site), {}});
  }
  for (unsigned r = 0; r < plan_.relays; ++r)
    out.relays.push_back({number("relay", r), {{IpAddress::v4(kRelays + r), kRelayPort}}, "penstock.test", kRelaySecret,
                          {}});
  return out;
}

void System::build_portal() {
  portal = std::make_unique<PortalHost>(network, signaling, config(), std::vector{kPortal4, kPortal6});
  portal->log = [this](const std::string& text) { log(text); };
  Link link;
  link.latency = kPortalLatency;
  network.attach(*portal, kPortal4.address, nullptr, link);
  network.attach(*portal, kPortal6.address, nullptr, link);
  for (unsigned r = 0; r < plan_.relays; ++r) {
    TurnServer::Config relay;
    relay.listen = {IpAddress::v4(kRelays + r), kRelayPort};
    relay.relay_v4 = relay.listen.address;
    relay.mobility = relay.garbles_moves = plan_.relay_mobility;  // as coturn does
    relay.shared_secret = kRelaySecret;
    relays.push_back(std::make_unique<RelayNode>(relay, network.random));
    Link relay_link;
    relay_link.latency = plan_.relay_latency;
    relay_link.jitter = plan_.jitter;
    network.attach(*relays.back(), relay.listen.address, nullptr, relay_link);
  }
}

void System::build_gateways() {
  for (unsigned site = 0; site < plan_.sites; ++site) {
    lans.push_back(std::make_unique<Lan>(ledger));
    for (unsigned s = 0; s < 3; ++s) {
      Lan::Server server;
      server.id = server_id(site, s);
      server.mac = {0x02, 0, 0, 1, static_cast<std::uint8_t>(site), static_cast<std::uint8_t>(s)};
      if (s != 1) server.v4 = IpAddress::v4(0xc0a80a50U + (site << 8) + s);
      if (s != 0) server.v6 = v6(0x1a, static_cast<std::uint16_t>(site), static_cast<std::uint16_t>(0x80 + s));
      lans.back()->servers.push_back(server);
    }
  }
  for (std::size_t g = 0; g < plan_.gateways.size(); ++g) {
    const GatewayPlan& plan = plan_.gateways[g];
    GatewayHost::Config config;
    config.id = number("g", g);
    config.key = key_of(2, g);
    config.token = number("token-g", g);
    config.portal = {kPortal4, kPortal6};
    const IpAddress outside = IpAddress::v4(kGatewaysOutside + static_cast<std::uint32_t>(g));
    config.wan_v4 = plan.nat ? IpAddress::v4(0x0a640007U + (static_cast<std::uint32_t>(g) << 8)) : outside;
    if (plan.has_v6) config.wan_v6 = v6(0x70, static_cast<std::uint16_t>(g), 7);
    config.lan_v4 = IpAddress::v4(0xc0a80a01U + (plan.site << 8) + static_cast<std::uint32_t>(g));
    config.lan_v6 = v6(0x1a, static_cast<std::uint16_t>(plan.site), static_cast<std::uint16_t>(1 + g));
    config.zone = [this](const std::string& name,
                         gateway_agent::Family family) -> std::optional<gateway_agent::DnsAnswer> {
      if (!names_up_) return std::nullopt;
      using Status = gateway_agent::DnsAnswer::Status;
      for (unsigned site = 0; site < plan_.sites; ++site)
        for (unsigned s = 0; s < 3; ++s) {
          if (name != name_of_server(site, s)) continue;
          const Lan::Server& server = lans[site]->servers[s];
          const IpAddress& address = family == gateway_agent::Family::v4 ? server.v4 : server.v6;
          if (address.is_unspecified()) return gateway_agent::DnsAnswer{Status::no_data, {}, 0};
          return gateway_agent::DnsAnswer{Status::ok, {address}, 30};
        }
      return gateway_agent::DnsAnswer{Status::no_such_name, {}, 0};
    };
    gateways.push_back(std::make_unique<GatewayHost>(network, signaling, *lans[plan.site], config));
    gateways.back()->log = [this](const std::string& text) { log(text); };
    NatBox* nat = nullptr;
    if (plan.nat) nat = &network.add_nat(*plan.nat, {outside});
    gateway_nats.push_back(nat);
    Link link;
    link.latency = plan.latency;
    link.jitter = plan_.jitter;
    network.attach(*gateways.back(), config.wan_v4, nat, link);
    if (plan.has_v6) network.attach(*gateways.back(), config.wan_v6, nullptr, link);
  }
}

void System::build_clients() {
  for (std::size_t n = 0; n < plan_.networks.size(); ++n) {
    const NetworkPlan& plan = plan_.networks[n];
    std::vector<IpAddress> outside;
    for (unsigned i = 0; i < plan.outside_addresses; ++i)
      outside.push_back(IpAddress::v4(0xc6336482U + static_cast<std::uint32_t>(n) * 4 + i));  // 198.51.100.130 …
    network_nats.push_back(plan.nat ? &network.add_nat(*plan.nat, outside) : nullptr);
  }
  moved_.resize(plan_.networks.size() + plan_.gateways.size());
  for (std::size_t c = 0; c < plan_.clients.size(); ++c) {
    ClientHost::Config config;
    config.id = number("c", c);
    config.key = key_of(1, c);
    config.token = number("token-c", c);
    config.portal = {kPortal4, kPortal6};
    clients.push_back(std::make_unique<ClientHost>(network, signaling, config));
    clients.back()->log = [this](const std::string& text) { log(text); };
    clients.back()->on_packet = [this, c](Bytes packet) {
      if (const auto app = parse_app_packet(packet))
        ledger.arrives_at_client(c, app->what, network.time());
      else
        ++ledger.unreachable;
    };
    client_network.push_back(plan_.clients[c].network);
    attach_client(static_cast<unsigned>(c), plan_.clients[c].network);
  }
  for (std::size_t f = 0; f < plan_.flows.size(); ++f) {
    Flow flow;
    flow.id = static_cast<std::uint16_t>(f);
    flow.client = plan_.flows[f].client;
    flow.server = server_id(plan_.flows[f].site, plan_.flows[f].server);
    flow.name = name_of_server(plan_.flows[f].site, plan_.flows[f].server);
    flow.local.port = static_cast<std::uint16_t>(20000 + f);
    ledger.flows.push_back(flow);
  }
}

void System::attach_client(unsigned client, unsigned at) {
  const NetworkPlan& plan = plan_.networks[at];
  Link link;
  link.latency = plan_.clients[client].latency;
  link.jitter = plan_.jitter;
  const std::uint32_t inside = plan.nat ? 0x0a010002U + (at << 16) : 0xc63364b4U + at * 8;  // 198.51.100.180 …
  network.attach(*clients[client], IpAddress::v4(inside + client), network_nats[at], link);
  if (plan.has_v6)
    network.attach(*clients[client], v6(0xc0, static_cast<std::uint16_t>(at), static_cast<std::uint16_t>(2 + client)),
                   nullptr, link);
  client_network[client] = at;
}

bool System::start() {
  portal->start();
  for (auto& gateway : gateways) {
    gateway->start_data_plane();
    gateway->start_control();
  }
  network.run_for(1s);
  for (auto& client : clients) client->start();
  network.run_for(1s);
  for (Flow& flow : ledger.flows) {
    const FlowPlan& plan = plan_.flows[flow.id];
    ClientHost& client = *clients[flow.client];
    const auto proxy = client.resolve(flow.name, plan.v6);
    flow.local.address = client.tunnel_address(!plan.v6);
    if (!proxy || flow.local.address.is_unspecified()) {
      ledger.violations.push_back("the resolver did not answer " + flow.name + " at once");
      return false;
    }
    flow.proxy = *proxy;
  }
  return true;
}

void System::send(unsigned id) {
  Flow& flow = ledger.flows[id];
  ClientHost& client = *clients[flow.client];
  if (!client.running() || !client.on) return;
  const AppPacket what{AppKind::request, flow.id, flow.server, ledger.sends(flow.id, AppKind::request, network.time())};
  client.send(make_app_packet(what, flow.local, {flow.proxy, kServerPort}));
}

void System::push(unsigned id) {
  (void)lans[plan_.flows[id].site]->push(static_cast<std::uint16_t>(id), network.time());
}

// One packet schedules the next: a day's traffic is never in memory at once.
void System::plan_traffic(const Traffic& traffic) {
  struct Source {
    Traffic plan;
    unsigned count = 0;
  };
  auto source = std::make_shared<Source>(Source{traffic});
  auto next = std::make_shared<std::function<void()>>();
  const std::weak_ptr<std::function<void()>> weak = next;
  *next = [this, source, weak] {
    send(source->plan.flow);
    ++source->count;
    if (source->plan.push_every != 0 && source->count % source->plan.push_every == 0) push(source->plan.flow);
    const auto self = weak.lock();
    if (since_start() + source->plan.gap < source->plan.until)
      network.schedule(network.time() + source->plan.gap, [self] { (*self)(); },
                       clients[ledger.flows[source->plan.flow].client].get());
  };
  network.schedule(began_ + traffic.from, [next] { (*next)(); }, clients[ledger.flows[traffic.flow].client].get());
}

bool System::direct(unsigned client) const {
  const auto* agent = clients[client]->agent();
  if (agent == nullptr) return false;
  const auto peers = agent->show_peers(8, clients[client]->here());
  for (const auto& peer : peers.peers())
    if (peer.path().find("direct") != std::string::npos) return true;
  return false;
}

void System::run() {
  if (!start()) return;
  for (const Traffic& traffic : plan_.traffic) plan_traffic(traffic);
  for (const Event& event : plan_.events)
    network.schedule(began_ + event.at, [this, &event] {
      log("---- " + event.to_string());
      apply(event);
    });
  // Judged as it goes, so that a day fits into memory and ends at its first violation.
  const Instant end = began_ + plan_.length;
  while (network.time() < end && ledger.violations.empty()) {
    network.run_until(std::min(end, network.time() + 10s));
    look_at_limits();
    judge(network.time() >= end);
  }
}

}  // namespace penstock::model
