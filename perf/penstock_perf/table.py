"""Tables for a terminal: this project, its limit and its peers side by side."""


def number(value):
    """Three significant figures, with a thousands separator where they are large."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.3g}"


def spread(row):
    if not row["spread"]:
        return ""
    low, high = row["spread"]
    return f"{number(low)} – {number(high)}"


def aim(row, reference):
    """What the row aims at, in words as short as the column."""
    sign = "≤" if row["better"] == "less" else "≥"
    parts = []
    if row["goal"] is not None:
        only = "" if reference or not row["reference_only"] else " (AVX-512)"
        parts.append(f"{sign} {number(row['goal'])}{only}")
    if row["goal_ratio"] is not None:
        parts.append(f"≥ {number(row['goal_ratio'])} ×")
    if row["goal_share"] is not None:
        parts.append(f"{sign} {row['goal_share'] * 100:.0f} % of limit")
    return ", ".join(parts)


def cells(row, verdict, reference):
    share = f"{100 * row['value'] / row['limit']:.0f} %" if row["limit"] else ""
    return [row["name"], number(row["value"]), row["unit"], spread(row), number(row["limit"]), share, row["peer"] or "",
            number(row["peer_value"]), f"{number(row['ratio'])} ×" if row["ratio"] is not None else "",
            aim(row, reference), verdict]


HEADER = ["figure", "Penstock", "unit", "spread", "limit", "of limit", "peer", "peer's", "ratio", "goal", ""]
RIGHT = {1, 4, 5, 7, 8}


def render(suite, rows, verdict, reference):
    """The table of one suite, with notes below."""
    lines = [HEADER] + [cells(row, verdict(row, reference), reference) for row in rows]
    used = [i for i in range(len(HEADER)) if any(line[i] for line in lines[1:])]
    widths = {i: max(len(line[i]) for line in lines) for i in used}
    out = [suite, ""]
    for index, line in enumerate(lines):
        out.append("  " + "  ".join(line[i].rjust(widths[i]) if i in RIGHT else line[i].ljust(widths[i])
                                    for i in used).rstrip())
        if index == 0:
            out.append("  " + "  ".join("-" * widths[i] for i in used))
    notes = dict.fromkeys(f"  {row['name']}: {row['note']}" for row in rows if row["note"])
    return "\n".join(out + ([""] + list(notes) if notes else [])) + "\n"
