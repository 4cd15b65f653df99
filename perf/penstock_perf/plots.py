"""The plots of a run: whatever its rows allow. Returns the files written."""

from penstock_perf import svg

SIZES = ["64", "256", "imix", "576", "1420", "8900"]


def draw(rows, directory, footer):
    written = []
    for painter in (throughput_by_size, beside_peers, by_count, latency, stages):
        written += painter(rows, directory, footer)
    return written


def _sizes(rows):
    return [size for size in SIZES if any(row["name"].endswith("/" + size) for row in rows)]


def throughput_by_size(rows, directory, footer):
    """Both directions beside the AEAD alone and peers, by packet size."""
    written = []
    for unit, file in (("Gbit/s", "throughput-gbit.svg"), ("Mpps", "throughput-mpps.svg")):
        ours = {(row["name"]): row for row in rows
                if row["suite"] == "pipeline" and row["unit"] == unit and row["name"].count("/") == 1}
        sizes = _sizes(list(ours.values()))
        if not sizes:
            continue
        series = []
        for direction, label in (("up", "up (WireGuard in, NAT64, LAN out)"),
                                 ("down", "down (LAN in, NAT64, WireGuard out)"),
                                 ("nat64", "NAT64 alone")):
            found = [ours.get(f"{direction}/{size}") for size in sizes]
            if any(found):
                series.append((label, [row and row["value"] for row in found],
                               [row and row["spread"] for row in found]))
        limits = [(ours.get(f"up/{size}") or ours.get(f"down/{size}") or {}).get("limit") for size in sizes]
        if any(limits):
            series.append(("limit: the AEAD alone", limits, None))
        for peer, values in _peers(ours, sizes).items():
            series.append((peer, values, None))
        svg.bars(directory / file, "Throughput of one worker by inner packet size",
                 "medians; lines show the spread of windows",
                 unit, [size if size == "imix" else f"{size} bytes" for size in sizes], series, footer)
        written.append(file)
    return written


def _peers(ours, sizes):
    peers = {}
    for index, size in enumerate(sizes):
        for direction in ("up", "down", "nat64"):
            row = ours.get(f"{direction}/{size}")
            if row and row["peer"] and row["peer_value"]:
                peers.setdefault(row["peer"], [None] * len(sizes))[index] = row["peer_value"]
    return peers


def beside_peers(rows, directory, footer):
    """Ratios to every peer of the run, on a logarithmic axis."""
    chosen = [row for row in rows if row["suite"] == "compare" and row["peer"] and row["peer_value"] and row["ratio"]]
    if not chosen:
        return []
    written = []
    for unit in dict.fromkeys(row["unit"] for row in chosen):
        of_unit = [row for row in chosen if row["unit"] == unit]
        file = "peers-" + "".join(c if c.isalnum() else "-" for c in unit.lower()).strip("-") + ".svg"
        svg.bars(directory / file, "Beside others, in the same run", "logarithmic", unit,
                 [f"{row['name']} : {row['peer']}" if len(of_unit) < 4 else row["name"] for row in of_unit],
                 [("Penstock", [row["value"] for row in of_unit], [row["spread"] for row in of_unit]),
                  ("peer", [row["peer_value"] for row in of_unit], None)], footer, log=True)
        written.append(file)
    return written


def by_count(rows, directory, footer):
    """Throughput by number of peers and of flows."""
    written = []
    for what in ("peers", "flows"):
        series = []
        for suffix in dict.fromkeys(row["name"].partition("/")[2].partition("/")[2] for row in rows
                                    if row["name"].startswith(what + "/") and row["unit"] == "Mpps"):
            points = []
            for row in rows:
                name, _, rest = row["name"].partition("/")
                count, _, kind = rest.partition("/")
                if name == what and row["unit"] == "Mpps" and kind == suffix and count.isdigit():
                    points.append((int(count), row["value"]))
            if len(points) > 1:
                series.append((suffix or f"by {what}", points, False))
        if series:
            svg.lines(directory / f"{what}.svg", f"Throughput of one worker by number of {what}", "", what, "Mpps",
                      series, footer, log_x=True)
            written.append(f"{what}.svg")
    return written


def latency(rows, directory, footer):
    series = [(row["name"], [(x, 100 * y) for x, y in row["distribution"]], False)
              for row in rows if row["distribution"]]
    if not series:
        return []
    svg.lines(directory / "latency.svg", "Time through the gateway", "share of packets that took no longer",
              "microseconds", "% of packets", series, footer, log_x=True, y_top=100)
    return ["latency.svg"]


def stages(rows, directory, footer):
    """Rows with `stages`, and rows named FIGURE/stage/STAGE."""
    columns = {}
    for row in rows:
        figure, separator, stage = row["name"].partition("/stage/")
        if row["stages"]:
            columns[row["name"].removesuffix("/rest")] = row["stages"]
        elif separator and row["unit"] == "cycles":
            columns.setdefault(figure, {})[stage] = row["value"]
    if not columns:
        return []
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    svg.stacked(directory / "stages.svg", "Where the cycles go", "TSC cycles per packet and stage", "cycles per packet",
                list(columns), names, list(columns.values()), footer)
    return ["stages.svg"]
