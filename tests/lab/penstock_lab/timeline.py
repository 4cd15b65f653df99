"""A drawing of one event: every packet, the way it took, how long it took, and what changed when. Plain SVG."""

import collections
import dataclasses

WIDTH, LEFT, RIGHT = 1200, 130, 20
COLOURS = {"direct": "#1f6fb4", "relayed": "#e08214", "lost": "#c0182a", "other": "#8a8a8a"}
STYLE = """
text { font: 12px sans-serif; fill: #222 } .small { font-size: 10px; fill: #555 } .title { font-size: 15px }
.axis { stroke: #999; stroke-width: 1 } .grid { stroke: #e4e4e4; stroke-width: 1 }
.event { stroke: #222; stroke-dasharray: 4 3 }
"""


@dataclasses.dataclass
class Point:
    """One packet of the application."""
    sent: float
    delay: float | None   # None: never arrived
    path: str             # by which its first copy arrived: direct, relayed; lost
    again: bool           # what arrived was not its first transmission


def by_key(seen, out, size):
    """Transmissions of the application's packets in one direction, in order: key -> list of Seen."""
    table = collections.OrderedDict()
    for packet in seen:
        if packet.kind == "data" and packet.out == out and packet.size == size:
            table.setdefault(packet.key, []).append(packet)
    return table


def points(flow, sender_seen, receiver_seen, size):
    """Joins the meter's numbers with what was on the wire. The n-th sealed packet of this size is number n."""
    sent_copies = by_key(sender_seen, True, size)
    arrived_copies = by_key(receiver_seen, False, size)
    out = []
    for number, (key, copies) in zip(sorted(flow.sent), sent_copies.items()):
        sent = flow.sent[number]
        if number not in flow.arrived:
            out.append(Point(sent, None, "lost", False))
            continue
        arrivals = arrived_copies.get(key, [])
        first = arrivals[0] if arrivals else None
        relayed = first.relayed if first is not None else copies[0].relayed
        again = len(copies) > 1 and copies[0].relayed != relayed
        out.append(Point(sent, flow.arrived[number] - sent, "relayed" if relayed else "direct", again))
    return out


class Drawing:
    def __init__(self, begin, end, origin):
        self.begin, self.end, self.origin = begin, end, origin
        self.parts, self.height = [], 40

    def x(self, at):
        return LEFT + (at - self.begin) / (self.end - self.begin) * (WIDTH - LEFT - RIGHT)

    def text(self, x, y, words, css="", anchor="start"):
        words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{words}</text>')

    def line(self, x1, y1, x2, y2, css="axis", colour=None):
        style = f' style="stroke:{colour}"' if colour else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"{style}/>')

    def delays(self, title, flow_points):
        """A panel: time of sending across, time taken up."""
        top, tall = self.height, 170
        shown = [p for p in flow_points if self.begin <= p.sent < self.end]
        most = max((p.delay for p in shown if p.delay is not None), default=0.01)
        step = next(s for s in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 100) if most / s <= 5)
        top_value = (int(most / step) + 1) * step

        def y(delay):
            return top + tall - delay / top_value * (tall - 20)
        self.text(8, top + 16, title)
        value = 0.0
        while value <= top_value + 1e-9:
            self.line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid")
            self.text(LEFT - 6, y(value) + 4, f"{value * 1000:g} ms", "small", "end")
            value += step
        for p in shown:
            x = self.x(p.sent)
            if p.delay is None:
                self.line(x - 3, y(0) - 3, x + 3, y(0) + 3, colour=COLOURS["lost"])
                self.line(x - 3, y(0) + 3, x + 3, y(0) - 3, colour=COLOURS["lost"])
            elif p.again:
                self.parts.append(f'<circle cx="{x:.1f}" cy="{y(p.delay):.1f}" r="2.2" fill="none" '
                                  f'stroke="{COLOURS[p.path]}"/>')
            else:
                self.parts.append(f'<circle cx="{x:.1f}" cy="{y(p.delay):.1f}" r="1.4" fill="{COLOURS[p.path]}"/>')
        lost = sum(1 for p in shown if p.delay is None)
        self.text(8, top + 34, f"{len(shown)} packets", "small")
        self.text(8, top + 48, f"{lost} lost", "small")
        self.height += tall + 16

    def lane(self, title, moments, colour):
        """A row of ticks: when something was on the wire."""
        y = self.height
        self.text(8, y + 12, title, "small")
        self.line(LEFT, y + 14, WIDTH - RIGHT, y + 14, "grid")
        for at in moments:
            if self.begin <= at < self.end:
                self.line(self.x(at), y + 2, self.x(at), y + 13, colour=colour)
        self.height += 18

    def events(self, marks):
        """Vertical lines with words, top to bottom."""
        bottom = self.height
        for row, (at, words) in enumerate(marks):
            if not self.begin <= at < self.end:
                continue
            x = self.x(at)
            self.line(x, 36, x, bottom + 16 + row * 16, "event")
            left = x < WIDTH * 0.7
            self.text(x + (5 if left else -5), bottom + 18 + row * 16,
                      f"{(at - self.origin) * 1000:+.0f} ms  {words}", "", "start" if left else "end")
        self.height = bottom + 30 + 16 * len(marks)

    def scale(self):
        y = self.height
        step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 100) if (self.end - self.begin) / s <= 14)
        mark = int((self.begin - self.origin) / step) * step
        while self.origin + mark < self.end:
            if self.origin + mark >= self.begin:
                x = self.x(self.origin + mark)
                self.line(x, y, x, y + 5)
                self.text(x, y + 18, f"{mark:+.2f} s", "small", "middle")
            mark += step
        self.height += 30

    def legend(self, words):
        self.text(8, 20, words, "title")
        x = WIDTH - 460
        for name, shown in (("direct", "direct"), ("relayed", "over the relay"), ("lost", "lost")):
            self.parts.append(f'<circle cx="{x}" cy="16" r="4" fill="{COLOURS[name]}"/>')
            self.text(x + 9, 20, shown)
            x += 120
        self.parts.append(f'<circle cx="{x}" cy="16" r="4" fill="none" stroke="{COLOURS["other"]}"/>')
        self.text(x + 9, 20, "sent again")

    def svg(self):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" '
                f'viewBox="0 0 {WIDTH} {self.height}"><style>{STYLE}</style>'
                f'<rect width="100%" height="100%" fill="#fff"/>{"".join(self.parts)}</svg>\n')


def first(moments, after):
    return min((at for at in moments if at >= after), default=None)


def what_changed(event, end, title, client_seen, gateway_seen, flows):
    """Marks that the packets themselves show."""
    marks = [(event, title)]

    def add(at, words):
        if at is not None and at < end:
            marks.append((at, words))
    before = [p for p in client_seen if event - 0.3 <= p.at < event and p.kind == "data" and p.out]
    relayed_before = sum(p.relayed for p in before) > len(before) / 2
    for name, seen in (("client", client_seen), ("gateway", gateway_seen)):
        known, copy = set(), None
        for packet in seen:
            if not packet.out or packet.kind != "data":
                continue
            if packet.key in known and packet.at >= event:
                copy = packet.at
                break
            known.add(packet.key)
        add(copy, f"{name} sends packets a second time")
    moved = [p.at for p in client_seen if p.out and p.kind == "data" and p.relayed != relayed_before and p.size > 112]
    add(first(moved, event), f"client's data {'directly' if relayed_before else 'over the relay'}")
    add(first([p.at for p in client_seen if p.out and p.kind == "handshake"], event), "handshake by the client")
    for flow, words in flows:
        late = [p for p in flow if p.sent >= event - 0.05 and (p.delay is None or p.delay > 0.03)]
        if late:
            add(late[-1].sent, f"{words}: from here on nothing is late")
    return sorted(marks)


def draw(title, event, client_seen, gateway_seen, up, down, before=0.3, after=1.5):
    """`up`, `down`: Points. Returns the SVG's text."""
    drawing = Drawing(event - before, event + after, event)
    drawing.legend(title)
    drawing.delays("client to server", up)
    drawing.delays("server to client", down)
    for name, seen in (("client", client_seen), ("gateway", gateway_seen)):
        for relayed, words in ((False, "direct"), (True, "by relay")):
            data = [p.at for p in seen if p.out and p.kind == "data" and p.relayed == relayed]
            drawing.lane(f"{name} sends {words}", data, COLOURS["relayed" if relayed else "direct"])
        drawing.lane(f"{name}: STUN, handshake", [p.at for p in seen if p.out and p.kind in ("stun", "handshake")],
                     COLOURS["other"])
    drawing.events(what_changed(event, event + after, title, client_seen, gateway_seen,
                                ((up, "client to server"), (down, "server to client"))))
    drawing.scale()
    return drawing.svg()
