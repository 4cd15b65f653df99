"""The rows of the healing table: what happens, on which network, and what may be lost or wait at most."""

import dataclasses
import json
import signal
import time

from . import counters
from . import topology as net
from .process import wait_until

# Where the goal is "no stall", what remains is the machine's own scheduling.
NOISE = 0.06


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    title: str
    event: object                  # function(Scene): makes it happen; returns when it began (wall clock)
    goal_lost: int | None = 0      # packets; None: may be lost
    goal_stall: object = None      # function(rtt in seconds) -> seconds
    goal_words: str = ""
    observe: float = 4.0           # seconds after the event
    nats: tuple | None = None      # kinds that this row needs, whatever was asked for
    parts: tuple = ()
    rate: int = 1000
    download: int = 25_000
    ping: bool = True
    prepare: object = None         # function(Scene), before every repetition
    restore: object = None         # function(Scene), after every repetition
    may_break_tcp: bool = False
    lost_within: float | None = None   # instead of goal_lost: all that is lost was sent within so many seconds
    slow: bool = False             # minutes a repetition: only when asked for
    labs: int = 1                  # at a time, at most: more where nearly all of the time is waiting


class Scene:
    """One lab with traffic running through it."""

    def __init__(self, lab, meter, row):
        self.lab, self.meter, self.row = lab, meter, row
        self.uplink = "eth0"
        self.notes = []

    def peer(self):
        answer = self.lab.penstock.ctl("client", "show", "peers", check=False)
        peers = [p for p in (answer or {}).get("peers", []) if p.get("session") == "up"]
        return peers[0] if peers else {}

    def path(self):
        return self.peer().get("path", "none")

    def flowing(self):
        """Whether anything comes out of the client's tunnel."""
        def received():
            links = json.loads(self.lab.network.ip("client", "-j", "-s", "link", "show", "type", "tun", capture=True))
            return sum(link["stats64"]["rx"]["packets"] for link in links)
        before = received()
        time.sleep(0.1)
        return received() > before

    def relay_in_use(self):
        """The relay that gets the client's packets now."""
        names = ("relay", "relay2")
        before = [counters.relay_packets(self.lab.network, name) for name in names]
        wait_until(lambda: max(counters.relay_packets(self.lab.network, name) - old
                               for name, old in zip(names, before)) > 50, 5, "traffic through a relay")
        grown = [counters.relay_packets(self.lab.network, name) - old for name, old in zip(names, before)]
        return names[grown.index(max(grown))]


def heal_within(rtt):
    return 0.3 + 4 * rtt


def within(seconds):
    return lambda rtt: seconds


# ---- events ----

def reset(which):
    def event(scene):
        began = time.time()
        scene.lab.nat_reset(which)
        return began
    return event


def forget_one(host):
    """Only the mapping of the tunnel's path in use is forgotten, as when each mapping has its own life time."""
    def event(scene):
        began = time.time()
        scene.lab.forget_tunnel_mapping(host)
        return began
    return event


def as_at_first(scene):
    """A tunnel's mapping of its own is not where STUN sees the host, so that some direct paths stay shut until all
    mappings are made anew."""
    scene.lab.nat_reset("both")


UPLINKS = {"eth0": (net.CLIENT, net.CNAT_LAN, "cnat"), "eth1": (net.CLIENT2_UPLINK, net.CNAT2_LAN, "cnat2")}


def roam(scene):
    """To the other network: one interface loses its link, the other gets address and route.

    The new link is there before, as it is where an address is to be had by it. The kernel takes up to a second to let
    frames through at both ends of a link that has come up, which is neither the network's doing nor Penstock's."""
    old, new = scene.uplink, "eth1" if scene.uplink == "eth0" else "eth0"
    scene.uplink = new
    address, router, host = UPLINKS[new]
    network = scene.lab.network
    network.ip("client", "link", "set", new, "up")
    for end, interface in (("client", new), (host, "lan")):
        wait_until(lambda end=end, interface=interface: network.operational(end, interface), 5, f"{new}'s link")
    commands = [f"link set {old} down", f"address flush dev {old}", f"address replace {address}/28 dev {new}",
                f"route replace default via {router} dev {new}"]
    network.ip("client", "-batch", "-", text_input="\n".join(commands) + "\n")
    return time.time()  # counts from when the new address is up


def restart_relay(scene):
    began = time.time()
    scene.lab.processes.kill("relay")
    scene.lab.start("relay")
    return began


def relay_gone(scene):
    """The relay that is in use disappears; the other one stays."""
    endpoint = scene.relay_in_use()
    began = time.time()
    scene.lab.processes.kill(endpoint)
    return began


def start_relays(scene):
    for name in ("relay", "relay2"):
        if not scene.lab.processes.alive(name):
            scene.lab.start(name)


def kill(process, start_again_after=None):
    def event(scene):
        began = time.time()
        scene.lab.processes.kill(process)
        if start_again_after is not None:
            time.sleep(start_again_after)
            scene.lab.start(process)
        return began
    return event


def stop_for(process, seconds):
    def event(scene):
        began = time.time()
        scene.lab.processes.kill(process, signal.SIGSTOP)
        time.sleep(seconds)
        scene.lab.processes.kill(process, signal.SIGCONT)
        return began
    return event


def start_if_gone(*processes):
    def restore(scene):
        for process in processes:
            if not scene.lab.processes.alive(process):
                scene.lab.start(process)
    return restore


def upgrade_dataplane(scene):
    began = time.time()
    scene.lab.restart("dataplane")
    return began


def lose_gateway(scene):
    """The host of the gateway in use vanishes: first from the networks, so that nobody says goodbye."""
    number = "2" if scene.peer().get("name") == "gw2" else ""
    began = time.time()
    for host in ("gnat", "lan"):
        for side in ("to-gw", "to-mgmt"):
            scene.lab.network.ip(host, "link", "set", f"{side}{number}", "down")
    for process in (f"gateway{number}", f"dataplane{number}"):
        scene.lab.processes.kill(process)
    return began


def bring_gateway_back(scene):
    for number in ("", "2"):
        for host in ("gnat", "lan"):
            for side in ("to-gw", "to-mgmt"):
                scene.lab.network.ip(host, "link", "set", f"{side}{number}", "up")
        for process in (f"dataplane{number}", f"gateway{number}"):
            if not scene.lab.processes.alive(process):
                scene.lab.start(process)


def idle(scene):
    """Nothing is sent for longer than it takes both ends to call the tunnel idle."""
    scene.meter.pause("client")
    scene.meter.pause("server")
    time.sleep(IDLE_AFTER)


IDLE_AFTER = 125.0


def client_speaks_first(scene):
    scene.lab.nat_reset("gateway")
    time.sleep(0.2)
    began = time.time()
    scene.meter.resume("client")
    scene.meter.resume("server")
    return began


def lan_speaks_first(scene):
    scene.lab.nat_reset("gateway")
    time.sleep(0.2)
    began = time.time()
    scene.meter.resume("server")
    return began


def client_goes_on(scene):
    scene.meter.resume("client")


ROWS = (
    Row("gateway-nat", "gateway's NAT forgets all mappings (new ports)", reset("gateway"), 0, heal_within,
        "300 ms + 4 RTT"),
    Row("client-nat", "client's NAT forgets all mappings", reset("client"), 0, heal_within, "300 ms + 4 RTT"),
    Row("both-nats", "both at once", reset("both"), 0, within(1), "1 s"),
    Row("mapping-gateway", "gateway's NAT forgets the tunnel's mapping only", forget_one("gnat"), 0, heal_within,
        "300 ms + 4 RTT", restore=as_at_first),
    Row("mapping-client", "client's NAT forgets the tunnel's mapping only", forget_one("cnat"), 0, heal_within,
        "300 ms + 4 RTT", restore=as_at_first),
    Row("idle-client-first", "reset of an idle tunnel, then the client speaks first", client_speaks_first, 0, within(1),
        "1 s", rate=10, download=0, ping=False, prepare=idle, slow=True, labs=8),
    Row("idle-lan-first", "reset of an idle tunnel, then the LAN speaks first", lan_speaks_first, 0, within(26), "26 s",
        rate=10, download=0, ping=False, prepare=idle, restore=client_goes_on, observe=30, slow=True, labs=8),
    Row("roam", "client roams to another network", roam, 0, within(1), "1 s after the new address is up",
        parts=("roaming",)),
    Row("relay-direct", "relay restarts, direct path in use", restart_relay, 0, within(NOISE), "none",
        nats=("preserving", "preserving")),
    Row("relay-restart", "relay restarts, relayed path in use", restart_relay, 0, within(1), "1 s",
        nats=("random", "random")),
    Row("relay-gone", "relay in use disappears, another is there", relay_gone, 0, within(1), "1 s",
        nats=("random", "random"), parts=("relay2",), restore=start_relays),
    Row("control-killed", "gateway's control process killed (-9) and restarted", kill("gateway", 2.0), 0, within(NOISE),
        "0", observe=5),
    Row("control-stopped", "gateway's control process stopped for 30 s", stop_for("gateway", 30), 0, within(NOISE), "0",
        observe=33, labs=2),
    Row("portal-killed", "portal killed for half a minute, restarted", kill("portal", 30), 0, within(NOISE), "0",
        observe=33, labs=2),
    Row("dataplane-restart", "data plane restarted for an upgrade", upgrade_dataplane, None, within(1), "1 s",
        lost_within=1.0),
    Row("gateway-lost", "gateway host lost, second gateway in the site", lose_gateway, None, within(3), "3 s",
        parts=("gateway2",), restore=bring_gateway_back, observe=6, may_break_tcp=True),
)
COLD = Row("cold", "the first packet through a tunnel that is not there yet", None)
BY_NAME = {row.name: row for row in ROWS}
QUICK = ("gateway-nat", "client-nat", "both-nats", "relay-direct", "control-killed")
