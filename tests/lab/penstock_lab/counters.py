"""What the client's machine counts while something happens to its tunnel: DNS queries, TCP resets."""

TABLE = """
table inet penstock_count {
  counter dns {}
  counter resets {}
  chain out { type filter hook output priority filter; udp dport 53 counter name dns; tcp dport 53 counter name dns;
              oifname "penstock0" tcp flags & rst == rst counter name resets; }
  chain in { type filter hook input priority filter; iifname "penstock0" tcp flags & rst == rst counter name resets; }
}
"""


def install(network):
    network.inside("client", "nft", "-f", "-", text_input=TABLE)


def _packets(network, host, *name):
    text = network.inside(host, "nft", "list", "counter", *name, capture=True)
    words = text.split()
    return int(words[words.index("packets") + 1])


def dns_queries(network):
    """Queries that left any program on the client's machine, the stub resolver's own included."""
    return _packets(network, "client", "inet", "penstock_count", "dns")


def tcp_resets(network):
    """TCP resets through the tunnel, in either direction. The portal's connection, which is the client's own and is
    given up and made anew when it is in doubt, is none of these."""
    return _packets(network, "client", "inet", "penstock_count", "resets")


RELAYS = """
table ip penstock_relays {{
  counter relay {{}}
  counter relay2 {{}}
  chain in {{ type filter hook input priority filter;
    ip saddr != {gateway} ip daddr {relay} udp dport 3478 counter name relay
    ip saddr != {gateway} ip daddr {relay2} udp dport 3478 counter name relay2
  }}
}}
"""


def install_relay_counters(network, relay, relay2, gateway):
    network.inside("inet", "nft", "-f", "-", text_input=RELAYS.format(relay=relay, relay2=relay2, gateway=gateway))


def relay_packets(network, name):
    """Packets that this relay's TURN port got from anybody but the gateway."""
    return _packets(network, "inet", "ip", "penstock_relays", name)
