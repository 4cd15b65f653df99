"""The two NATs: nftables masquerade in the kinds a lab can choose.

kind  `preserving`  keeps the source port when it is free
      `random`      a fully random port for every destination: what punching cannot beat from both sides
after a reset, what the NAT does not expect is dropped silently (`drop`) or answered (`reject`).

A reset forgets every mapping and gives new ports afterwards: the preserving kind moves to a new port range, as a NAT
does whose old port is held by the stray packet that came in first.
"""

from . import topology

KINDS = ("preserving", "random")
UNEXPECTED = ("drop", "reject")
INSIDE = {"cnat": "lan", "gnat": "site"}


def rules(kind, unexpected, resets, host):
    if kind == "random":
        masquerade = "masquerade fully-random"
    elif resets == 0:
        masquerade = "masquerade"
    else:
        low = 20000 + (resets * 3000) % 36000
        masquerade = f"meta l4proto {{ tcp, udp }} masquerade to :{low}-{low + 2999}"
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


def packets_to_gateway(network):
    """Packets from the client's side towards the gateway's public address since the NAT was set up."""
    text = network.inside("cnat", "nft", "list", "counter", "ip", "penstock_nat", "to_gateway", capture=True)
    words = text.split()
    return int(words[words.index("packets") + 1])
