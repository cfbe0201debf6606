"""``dmdkit build``: engines for a target, on the device or, for desktop RTX, anywhere."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmdkit.cli.console import err, finish, note, print_json, print_table, say
from dmdkit.cli.requirements import require
from dmdkit.errors import BundleError, ConfigError, ExitCode, MissingDependencyError

if TYPE_CHECKING:
    from dmdkit.export.targets import EnginePrecision, Target
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.engines.build import BuildResult, BuildSpec
    from dmdkit.runtime.engines.tensorrt_api import Flavour
    from dmdkit.runtime.engines.tensorrt_build import Progress

__all__ = ["build"]


class EnginePrecisionChoice(str, Enum):
    """What an engine computes in."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def _flavour(target: Target) -> Flavour:
    if target.flavour != "auto":
        return target.flavour
    from dmdkit.runtime.engines.tensorrt_api import installed_flavours

    found = installed_flavours()
    if not found:
        raise MissingDependencyError("tensorrt", "rtx", "engines for this machine's GPU")
    return found[0]


def _spec(target: Target) -> BuildSpec:
    from dmdkit.runtime.engines.build import BuildSpec

    return BuildSpec(
        target=target.name,
        flavour=_flavour(target),
        compute_capabilities=tuple(target.compute_capabilities),
        batch=(target.batch.min, target.batch.opt, target.batch.max),
        workspace_mib=target.workspace_mib,
        anywhere=target.build == "anywhere",
    )


def _missing(bundle: Bundle, kinds: list[str], precision: EnginePrecision) -> list[str]:
    """The graphs that the precision needs and the bundle lacks; GD-Units alone are fp32 in any case."""
    from dmdkit.export.targets import GRAPH_PRECISION

    names = sorted(f"{kind}.{GRAPH_PRECISION[precision]}" for kind in {"fusion", *kinds} - {"gd_homo", "gd_hetero"})
    return [name for name in names if name not in bundle.manifest.graphs]


def _check_forms(bundle: Bundle, kinds: list[str], precision: EnginePrecision, *, named: bool) -> None:
    """Refuses a precision that the bundle lacks graphs for: building leaves the bundle's graphs and verdicts as they are.

    Args:
        bundle: The bundle.
        kinds: Kinds of the graphs to build.
        precision: What to compute in.
        named: Whether the user named it; else the target prefers it.

    Raises:
        BundleError: It lacks some; names the command that adds them.
    """
    missing = ", ".join(_missing(bundle, kinds, precision))
    if not missing:
        return
    add = "export the run again: dmdkit export RUN --int8 --fp16"
    if precision == "fp16":
        add = f"add them with: dmdkit add-precision {shlex.quote(str(bundle.path))} fp16"
    if not named:
        add += "; or name another precision with --precision"
    raise BundleError(f"{bundle.path} has no {missing}, which engines in {precision} are built from; {add}")


def _graphs(bundle: Bundle, kinds: list[str], precision: EnginePrecision, target: Target) -> list[str]:
    from dmdkit.export.targets import GRAPH_PRECISION

    names = []
    for kind in kinds:
        if kind.startswith("gd_"):
            if "fp32" not in target.precisions:
                note(f"{kind} is left out: it is fp32, which {target.name} does not build; explain has its edges")
                continue
            names.append(f"{kind}.fp32")
            continue
        names.append(f"{kind}.{GRAPH_PRECISION[precision]}")
    return names


@contextmanager
def _progress(title: str) -> Iterator[Progress | None]:
    if not err.is_terminal:
        note(f"building {title}")
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err, transient=True) as bars:
        tasks: dict[str, int] = {}

        def heard(phase: str, step: int, total: int) -> bool:
            if phase not in tasks:
                tasks[phase] = bars.add_task(f"{title}: {phase}", total=total)
            bars.update(tasks[phase], completed=step, total=total)  # type: ignore[arg-type]
            return True

        yield heard


def _proven(result: BuildResult, bundle: Bundle) -> BuildResult:
    """The result with its proof, where the GPU it is for is here; without one the sidecar says that there is none yet."""
    from dmdkit.errors import EngineError
    from dmdkit.runtime.engines.choose import open_checked, prove
    from dmdkit.runtime.engines.gpu import NoGpuError
    from dmdkit.runtime.engines.record import preflight

    record = result.engine.record
    if record.check is not None and record.precision is not None:
        return result
    try:
        gpu = preflight(result.engine, bundle)
        runner = open_checked(result.engine, gpu)
        with closing(runner):
            return replace(result, engine=prove(result.engine, runner, bundle))
    except NoGpuError:
        return result
    except (EngineError, MissingDependencyError) as cause:
        note(f"{result.engine.name} is not proven here: {cause}")
        return result


def _print_results(results: list[BuildResult]) -> None:
    rows = []
    for result in results:
        record = result.engine.record
        rows.append(
            [
                result.engine.name,
                ", ".join(record.compute_capabilities),
                f"{record.plan_bytes / 1e6:.2f} MB",
                "cached" if result.cached else f"{record.build_seconds:.1f} s",
                record.precision.status if record.precision else "not run",
                "not run" if record.check is None else "passed" if record.check.passed else "failed",
            ]
        )
    heads = ["engine", "compute capability", "size", "built in", "precision proof", "golden check"]
    print_table(heads, rows, title="engines", right=["size", "built in"])
    for sentence in dict.fromkeys(text for result in results for text in result.engine.record.notes):
        say(sentence)


def _check_and_pack(
    bundle: Bundle, graphs: list[str], target: Target, precision: str, kit: Path | None, *, force: bool, json: bool
) -> None:
    """The dry run, and the kit where one was asked for."""
    require("checking graphs for a device", "export", "onnx")
    from dmdkit.export.dry_run import dry_run
    from dmdkit.export.kit import write_kit

    findings = dry_run(bundle, graphs, target, precision)
    if json:
        print_json({"target": target.name, "checks": [finding.to_json() for finding in findings]})
    else:
        rows = [[finding.graph, finding.check, finding.status, finding.detail] for finding in findings]
        print_table(["graph", "check", "status", "detail"], rows, title=f"dry run for {target.name}")
    if kit is not None:
        write_kit(bundle, graphs, target, findings, kit, force=force)
        finish(f"{kit}/", "copy it to the device, and there: python3 build_and_check.py")
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(int(ExitCode.NOT_PASSED))


def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory.")],
    target: Annotated[str, typer.Option(help="Device to build for; `dmdkit targets` names them all.")] = "auto",
    precision: Annotated[
        EnginePrecisionChoice | None, typer.Option(help="What to compute in; without it, what the target prefers.")
    ] = None,
    graph: Annotated[
        list[str] | None, typer.Option(help="fusion, explain, text, gd_homo, gd_hetero; without it, all there are.")
    ] = None,
    kit: Annotated[
        Path | None, typer.Option(help="Write a folder to take to the device, which builds there without torch or modelopt.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all that can be checked without the device, and list the rest.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an existing kit, but its engines/; build also where an engine is there already."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the sidecars, or the checks, as JSON.")] = False,
) -> None:
    """Build TensorRT engines into the bundle's engines/ folder.

    Desktop RTX engines are built anywhere; engines for Jetson and data-centre GPUs on the device itself. The second call
    with the same graph, TensorRT and target takes the plan from a cache. Graphs that a precision needs are made by
    `dmdkit export --int8 --fp16` or `dmdkit add-precision`, not here.

    Example: dmdkit build face.dmd --target rtx-ada --precision fp16
    """
    from dmdkit.export.targets import load_target
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.engines.build import build_engine, gpu_for
    from dmdkit.runtime.engines.tensorrt_api import module_of

    chosen = load_target(target)
    wanted = chosen.precision(precision.value if precision is not None else None)
    opened = Bundle.open(bundle)
    known = {record.kind for record in opened.manifest.graphs.values()}
    kinds = graph or [kind for kind in ("fusion", "explain", "text", "gd_homo", "gd_hetero") if kind in known]
    for kind in graph or []:
        if kind not in known:
            raise ConfigError(f"--graph {kind}: the bundle has {', '.join(sorted(known))}")
    kinds = list(dict.fromkeys(kinds))
    if kit is not None:
        chosen.check_kit()
    if kit is None and not dry_run:  # what cannot be built here needs no further graphs either
        spec = _spec(chosen)
        gpu_for(spec)
        module_of(spec.flavour)
    _check_forms(opened, kinds, wanted, named=precision is not None)
    graphs = _graphs(opened, kinds, wanted, chosen)
    if kit is not None or dry_run:
        _check_and_pack(opened, graphs, chosen, wanted, kit, force=force, json=json)
        return
    results = []
    for name in graphs:
        with _progress(f"{target} {name}") as progress:
            results.append(_proven(build_engine(opened, name, spec, progress, force=force), opened))
    if json:
        print_json({"engines": [r.engine.record.model_dump(mode="json") | {"cached": r.cached} for r in results]})
    else:
        _print_results(results)
    for name, graph_record in opened.manifest.graphs.items():
        if graph_record.verdict.status != "passed" and any(result.engine.record.graph == name for result in results):
            verdict = graph_record.verdict
            note(
                f"{name} is {verdict.status} ({verdict.reason}): a runtime opens its engine only where it is asked for by name"
            )
    quoted = shlex.quote(str(bundle))
    written = dict.fromkeys(f"{result.engine.path.parent}/" for result in results)  # a read-only bundle's are in a cache
    finish(", ".join(written), f"dmdkit predict {quoted} --data FEATURES")
    failed = [r for r in results if r.engine.record.precision and r.engine.record.precision.status == "failed"]
    failed += [r for r in results if r.engine.record.check is not None and not r.engine.record.check.passed]
    if failed:
        note("no runtime opens an engine that failed; --force builds it again")
        raise typer.Exit(int(ExitCode.NOT_PASSED))
