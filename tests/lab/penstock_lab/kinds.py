"""Kinds of NATs by name, and which pairs of them let a direct path come about (RFC 4787, RFC 5128 §3.3)."""

import dataclasses

from .topology import LabError

NFTABLES = ("preserving", "random")
MAPPINGS = ("independent", "address", "port")
PORTS = ("random", "preserving", "parity", "sequential", "overloading")
WIRE = "wire:"


@dataclasses.dataclass(frozen=True)
class Kind:
    mapping: str
    filtering: str
    ports: str

    @property
    def fixed(self):
        """Whether the tunnel's port shows the same outside whoever it is sent to. A single inside host's port is free,
        so a NAT that keeps ports keeps this one."""
        return self.mapping == "independent" or self.ports in ("preserving", "overloading")


def parse(name):
    """The kind that a name on the command line means."""
    if name == "preserving":
        return Kind("port", "port", "preserving")
    if name == "random":
        return Kind("port", "port", "random")
    if not name.startswith(WIRE):
        raise LabError(f"unknown kind of NAT {name}; there are: {' '.join(NFTABLES)} "
                       "wire:MAPPING,FILTERING,PORTS[,...]")
    words = name[len(WIRE):].split(",")
    if words[0] == "none":
        return Kind("independent", "independent", "preserving")
    if len(words) < 3 or words[0] not in MAPPINGS or words[1] not in MAPPINGS or words[2] not in PORTS:
        raise LabError(f"{name}: a wire's kind is MAPPING,FILTERING,PORTS[,...] or none[,...], with mapping and "
                       f"filtering of {' '.join(MAPPINGS)} and ports of {' '.join(PORTS)}")
    return Kind(*words[:3])


def direct_is_possible(client, gateway):
    """The reference for a client and a gateway behind these kinds, each with one outside address and ports that nobody
    can guess: both send to where the other is seen by a STUN server."""
    if client.fixed and gateway.fixed:
        return True
    # One end shows another port than it told: the other must let an unknown port of a known address in.
    if client.fixed:
        return client.filtering != "port"
    if gateway.fixed:
        return gateway.filtering != "port"
    # Neither is where it said, save on the mapping made towards the STUN server: somebody must accept anything there,
    # and the other must accept that the answer comes from another port.
    return ((gateway.filtering == "independent" and client.filtering != "port")
            or (client.filtering == "independent" and gateway.filtering != "port"))
