"""The two NATs: nftables masquerade in the kinds a lab can choose.

kind  `preserving`  keeps the source port when it is free
      `random`      a fully random port for every destination: what punching cannot beat from both sides
after a reset, what the NAT does not expect is dropped silently (`drop`) or answered (`reject`).

A reset forgets every mapping and gives new ports afterwards. The preserving kind then gives every inside port another
outside one, the same towards every destination: as predictable as before, but nowhere where anybody knew it.
"""

from . import topology
from .wire import is_wire

UNEXPECTED = ("drop", "reject")
INSIDE = {"cnat": "lan", "cnat2": "lan", "cgn": "lan", "aftr": "lan", "gnat": "site"}


def rules(kind, unexpected, resets, host):
    if is_wire(kind):
        return f"""
table ip penstock_nat {{}}
delete table ip penstock_nat
table ip penstock_nat {{
  counter to_gateway {{}}
  chain count {{
    type filter hook forward priority filter - 1;
    iifname "{INSIDE[host]}" ip daddr {topology.GNAT_WAN} counter name to_gateway
  }}
}}
"""
    if kind == "random":
        masquerade = "masquerade fully-random"
    elif resets == 0:
        masquerade = "masquerade"
    else:
        low = 20000 + (resets * 3000) % 36000
        masquerade = (f"meta l4proto tcp masquerade to :{low}-{low + 2999}\n"
                      f"    oifname \"wan\" meta l4proto udp masquerade to :"
                      f"jhash th sport mod 40000 seed {resets} offset 20000")
    verdict = "drop" if unexpected == "drop" else "reject with icmp type port-unreachable"
    return f"""
table ip penstock_nat {{}}
delete table ip penstock_nat
table ip penstock_nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "wan" {masquerade}
    oifname "wan" masquerade
  }}
  chain input {{
    type filter hook input priority filter;
    iifname "wan" ct state established,related accept
    iifname "wan" icmp type echo-request accept
    iifname "wan" {verdict}
  }}
  chain forward {{
    type filter hook forward priority filter;
    iifname "wan" ct state new {verdict}
  }}
  counter to_gateway {{}}
  chain count {{
    type filter hook forward priority filter - 1;
    iifname "{INSIDE[host]}" ip daddr {topology.GNAT_WAN} counter name to_gateway
  }}
}}
"""


def apply(network, host, kind, unexpected, resets=0):
    network.inside(host, "nft", "-f", "-", text_input=rules(kind, unexpected, resets, host))


def reset(network, host, kind, unexpected, resets):
    """Every mapping forgotten, new ports afterwards. Rules first: a packet between the two makes a new mapping."""
    apply(network, host, kind, unexpected, resets)
    network.inside(host, "conntrack", "-F")


def forget_some(network, host, kind, unexpected, resets, wanted):
    """Forgets the UDP mappings for which `wanted(entry)` holds; entry: src, dst, sport, dport as sent from inside. They
    get new ports, the others keep theirs. Returns how many were forgotten."""
    apply(network, host, kind, unexpected, resets)
    forgotten = 0
    for line in network.inside(host, "conntrack", "-L", "-p", "udp", capture=True).splitlines():
        entry = {}
        for word in line.split():
            key, equals, value = word.partition("=")
            if equals:
                entry.setdefault(key, value)  # the first of each: the original direction
        if not wanted(entry):
            continue
        network.inside(host, "conntrack", "-D", "-p", "udp", "--orig-src", entry["src"], "--orig-dst", entry["dst"],
                       "--orig-port-src", entry["sport"], "--orig-port-dst", entry["dport"], check=False)
        forgotten += 1
    return forgotten


def packets_to_gateway(network):
    """Packets from the client's side towards the gateway's public address since the NAT was set up."""
    text = network.inside("cnat", "nft", "list", "counter", "ip", "penstock_nat", "to_gateway", capture=True)
    words = text.split()
    return int(words[words.index("packets") + 1])
