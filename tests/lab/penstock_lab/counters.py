"""What the client's machine counts while something happens to its tunnel: DNS queries, TCP resets."""

TABLE = """
table inet penstock_count {
  counter dns {}
  chain out { type filter hook output priority filter; udp dport 53 counter name dns; tcp dport 53 counter name dns; }
}
"""
RESETS = ("EstabResets", "OutRsts")


def install(network):
    network.inside("client", "nft", "-f", "-", text_input=TABLE)


def dns_queries(network):
    """Queries that left any program on the client's machine, the stub resolver's own included."""
    text = network.inside("client", "nft", "list", "counter", "inet", "penstock_count", "dns", capture=True)
    words = text.split()
    return int(words[words.index("packets") + 1])


def tcp_resets(network, host):
    """Connections reset and resets sent, by that host's kernel."""
    lines = [line.split() for line in network.inside(host, "cat", "/proc/net/snmp", capture=True).splitlines()
             if line.startswith("Tcp:")]
    names, values = lines
    return sum(int(value) for name, value in zip(names, values) if name in RESETS)


RELAYS = """
table ip penstock_relays {{
  counter relay {{}}
  counter relay2 {{}}
  chain in {{ type filter hook input priority filter;
    ip saddr != {gateway} ip daddr {relay} udp dport 3478 counter name relay
    ip saddr != {gateway} ip daddr {relay2} udp dport 3478 counter name relay2 }}
}}
"""


def install_relay_counters(network, relay, relay2, gateway):
    network.inside("inet", "nft", "-f", "-", text_input=RELAYS.format(relay=relay, relay2=relay2, gateway=gateway))


def relay_packets(network, name):
    """Packets that this relay's TURN port got from anybody but the gateway."""
    text = network.inside("inet", "nft", "list", "counter", "ip", "penstock_relays", name, capture=True)
    words = text.split()
    return int(words[words.index("packets") + 1])
