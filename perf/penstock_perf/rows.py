"""Figures as the suites write them, JSON objects. Checked here, so that a typing error is not a hole."""

import json

from penstock_perf import goals

COMMON = ("suite", "name", "value", "unit", "limit", "peer", "peer_value", "ratio")
EXTRA = ("spread", "best", "goal", "floor", "better", "goal_ratio", "goal_share", "reference_only", "stages",
         "distribution", "note")


class BadRow(Exception):
    pass


def read(path, suite):
    """The rows of one suite, complete (absent keys are None) and in order. A file is a list, or has one row per
    line."""
    text, out = path.read_text(), []
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if
                                                                      line.strip()]
    except json.JSONDecodeError as error:
        raise BadRow(f"{suite}: {error}") from None
    for number, row in enumerate(rows, 1):
        out.append(complete(row, f"{suite}: row {number}", suite))
    return out


def complete(row, where, suite):
    unknown = set(row) - set(COMMON) - set(EXTRA)
    if unknown:
        raise BadRow(f"{where}: unknown keys {', '.join(sorted(unknown))}")
    if row.get("suite") != suite or not row.get("name") or not isinstance(row.get("unit"), str):
        raise BadRow(f"{where}: needs suite ({suite}), name and unit")
    if not isinstance(row.get("value"), (int, float)):
        raise BadRow(f"{where}: {row['name']}: the value is no number")
    full = {key: row.get(key) for key in COMMON + EXTRA}
    goals.fill_in(full)
    if full["ratio"] is None and full["peer_value"]:
        better_less = full["better"] == "less"
        full["ratio"] = (full["peer_value"] / full["value"] if better_less else full["value"] / full["peer_value"])
    return full


def without_blanks(row):
    """The row with every common key, and of the others those that say something."""
    return {key: value for key, value in row.items() if key in COMMON or value is not None}


def verdict(row, reference):
    """'met', 'missed', 'below floor', or '' when nothing was aimed at (here)."""
    less = row["better"] == "less"
    judged = [(row["ratio"], row["goal_ratio"], False)]
    if row["limit"] and row["goal_share"]:
        judged.append((row["value"] / row["limit"], row["goal_share"], less))
    if reference or not row["reference_only"]:
        if row["floor"] is not None and (row["value"] > row["floor"] if less else row["value"] < row["floor"]):
            return "below floor"
        judged.append((row["value"], row["goal"], less))
    judged = [(value, goal, down) for value, goal, down in judged if value is not None and goal is not None]
    if not judged:
        return ""
    return "met" if all(value <= goal if down else value >= goal for value, goal, down in judged) else "missed"
