"""What a machine can do at most, and what bounds a network's layers there: rows of text and sentences. No torch."""

from collections.abc import Callable

from cnnprof import units
from cnnprof.comparison.roofline import time_by_bound
from cnnprof.records import Candidate, LayerRoof, MachineReport, Peaks, Run
from cnnprof.reporting.tables import Table

BOUND_BY = {"compute": "arithmetic", "memory": "memory", "overhead": "the cost of calls"}


def roof_table(candidate: Candidate, most: int = 24) -> Table | None:
    """Each layer's forward pass against its roof, the longest first; the shortest are left out."""
    if not candidate.roofline:
        return None
    longest = sorted(candidate.roofline, key=lambda roof: -roof.time_s)[:most]
    time_unit = units.column_unit(units.SECONDS, [roof.time_s for roof in longest])
    flops = units.column_unit(units.FLOPS, [roof.flops_per_s for roof in longest])
    moved = units.column_unit(units.BYTES_A_SECOND, [roof.bytes_per_s for roof in longest])
    columns = (
        "layer",
        "kind",
        f"forward, {time_unit.name}",
        "FLOP / byte",
        flops.name,
        moved.name,
        "bound by",
        "% of roof",
    )
    rows = tuple(
        (
            roof.path or "(itself)",
            roof.kind,
            units.in_unit(roof.time_s, time_unit, 2),
            units.in_unit(roof.intensity, units.COUNTS[-1], 1),
            units.in_unit(roof.flops_per_s, flops, 1),
            units.in_unit(roof.bytes_per_s, moved, 1),
            BOUND_BY[roof.bound],
            f"{units.percent(roof.share, 0)}{'*' if roof.transformed else ''}",
        )
        for roof in longest
    )
    words = frozenset({"layer", "kind", "bound by"})
    return Table(
        f"{candidate.name} against the machine's limits", columns, rows, words, ("kind", moved.name, flops.name)
    )


def roof_sentence(candidate: Candidate) -> str:
    """Say what bounds its forward pass: 78 % arithmetic, 20 % memory, 2 % the cost of calls; 71 % of its roofs."""
    whole = sum(roof.time_s for roof in candidate.roofline)
    if not whole:
        return ""
    shares = ((BOUND_BY[bound], seconds / whole) for bound, seconds in time_by_bound(candidate.roofline).items())
    listed = ", ".join(f"{share:.0%} {what}" for what, share in shares if share >= 0.005)
    roof = sum(roof.attainable_s for roof in candidate.roofline) / whole
    marked = any(roof.transformed for roof in candidate.roofline)
    note = " * Winograd or FFT: fewer products than are counted." if marked else ""
    return f"What bounds {candidate.name}'s forward pass: {listed}. It reaches {roof:.0%} of its roofs.{note}"


def why(run: Run) -> str:
    """Say why fewer MACs are not as much faster, where both candidates were put against the roofs."""
    if len(run.profiles) != 2 or not all(profile.roofline for profile in run.profiles):
        return ""
    baseline, candidate = run.profiles
    macs, time = (_ratio(baseline, candidate, of) for of in (_flops, _seconds))
    if macs is None or time is None or macs <= 1 or time >= macs:
        return ""
    there, here = (time_by_bound(each.roofline)["compute"] / _seconds(each) for each in (baseline, candidate))
    speed = _ratio(baseline, candidate, lambda each: _flops(each) / _seconds(each)) or 1.0
    return (
        f"{units.factor(macs)} fewer MACs are {units.factor(time)} in time: arithmetic bounds {here:.0%} of "
        f"{candidate.name}'s forward pass ({baseline.name}: {there:.0%}), and its FLOPs take "
        f"{units.factor(speed)} as long."
    )


def _flops(candidate: Candidate) -> float:
    return sum(roof.flops for roof in candidate.roofline)


def _seconds(candidate: Candidate) -> float:
    return sum(roof.time_s for roof in candidate.roofline)


def _ratio(baseline: Candidate, candidate: Candidate, of: Callable[[Candidate], float]) -> float | None:
    return of(baseline) / of(candidate) if of(candidate) else None


# The machine ---------------------------------------------------------------------------------------------------------


def machine_header(report: MachineReport) -> str:
    """Intel Xeon, 2 cores · cpu, 2 threads · torch 2.14.1."""
    here = report.machine
    device = f"{here.device} ({here.device_name})" if here.device_name else here.device
    cores = units.plural(here.logical_cores or 0, "core")
    return " · ".join(
        (
            f"{here.cpu}, {cores}, {units.bytes_(here.memory_bytes)}",
            f"{device}, {units.plural(report.peaks.threads, 'thread')}",
            f"torch {here.torch.partition('+')[0]}",
            here.os,
        )
    )


def products_table(peaks: Peaks) -> Table:
    """The fastest matrix product of each dtype."""
    unit = units.column_unit(units.FLOPS, [product.flops_per_s for product in peaks.products])
    decimals = units.decimals_for(unit, [product.flops_per_s for product in peaks.products])
    rows = tuple((p.dtype, units.in_unit(p.flops_per_s, unit, decimals), f"{p.side:,}") for p in peaks.products)
    return Table("Matrix products", ("matrix product", unit.name, "N"), rows, frozenset({"matrix product"}))


def bandwidth_table(peaks: Peaks) -> Table:
    """The bandwidth over the working set."""
    unit = units.column_unit(units.BYTES_A_SECOND, [each.bytes_per_s for each in peaks.bandwidths])
    rows = tuple(
        (
            units.bytes_(each.working_set_bytes),
            units.in_unit(each.copy_bytes_per_s, unit, 1),
            units.in_unit(each.update_bytes_per_s, unit, 1),
        )
        for each in peaks.bandwidths
    )
    columns = ("working set", f"copy, {unit.name}", f"update, {unit.name}")
    return Table("Bandwidth", columns, rows, frozenset({"working set"}))


def machine_sentences(report: MachineReport) -> tuple[str, ...]:
    """What a call costs, and how quiet it is here."""
    peaks, noise = report.peaks, report.noise
    best = max(each.bytes_per_s for each in peaks.bandwidths)
    last = peaks.bandwidths[-1]
    said = [
        f"A call costs {units.seconds(peaks.call_s)}; memory near the cores is {units.factor(best / last.bytes_per_s)} "
        f"as fast as {units.bytes_(last.working_set_bytes)} are."
    ]
    if noise is not None and noise.ci95 is not None and noise.ratio is not None:
        waited = "" if noise.waited_share is None else f"; threads waited {noise.waited_share:.1%} of their time"
        said.append(
            f"Two equal calls came out {noise.verdict}: {units.factor(noise.ratio, noise.ci95)} "
            f"{units.span(noise.ci95, 3)}{waited}."
        )
    elif noise is not None:
        said.append("Two equal calls could not be compared: too busy.")
    return tuple(said)


def machine_foot(report: MachineReport) -> tuple[tuple[str, str], ...]:
    """Command, date and method."""
    method = (
        "Roofs are the best of many samples. Matrix products of N x N count 2 N^3 FLOPs; on CPUs they are tried as "
        "convolutions, too. A working set is copied from one half to the other, or read, changed and written in place; "
        "the cost of a call is taken off. Roofs are measured once and kept in the user's cache; cnnprof doctor --anew "
        "measures them again."
    )
    return (("command", report.command), ("date", report.created), ("method", method))


def achieved(roofs: tuple[LayerRoof, ...]) -> tuple[LayerRoof, ...]:
    """Return the layers that have FLOPs, which a roofline can show."""
    return tuple(roof for roof in roofs if roof.flops and roof.intensity)
