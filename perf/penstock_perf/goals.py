"""The goals of the suites that measure without knowing them: (suite, figure, unit) -> what docs/performance.md aims at.

Rates and Gbit/s were set for one core with AVX-512 and IFMA; shares and cycles besides the AEAD hold everywhere."""

AVX512 = {"reference_only": True}

_THROUGHPUT = {
    "64": ("Mpps", 7, 5, 0.27), "imix": ("Gbit/s", 14, 10, 0.55), "1420": ("Gbit/s", 22, 18, 0.75),
}
_REST = {"64": 290, "imix": 245, "1420": 345}

GOALS = {}
for _way in ("up", "down"):
    for _size, (_unit, _goal, _floor, _share) in _THROUGHPUT.items():
        GOALS["pipeline", f"{_way}/{_size}", _unit] = dict(goal=_goal, floor=_floor, goal_share=_share, **AVX512)
        GOALS["pipeline", f"{_way}/{_size}/rest", "cycles"] = dict(goal=_REST[_size], better="less")
GOALS["pipeline", "nat64/64", "Mpps"] = dict(goal=15, **AVX512)
GOALS["pipeline", "nat64/1420", "Mpps"] = dict(goal=10, **AVX512)


def fill_in(row):
    """Gives a row its goal, where it brings none and there is one."""
    for key, value in GOALS.get((row["suite"], row["name"], row["unit"]), {}).items():
        if row.get(key) is None:
            row[key] = value
