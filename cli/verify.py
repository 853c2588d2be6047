"""`bitgraph verify`: is this device right, and are the gradients?"""

from collections.abc import Iterable
from itertools import groupby

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..backends.equivalence import Finding, check_ops
from ..graph.errors import BitgraphError
from ..graph.program import Backend
from .options import backend_option, device_option, make_backend
from .selfcheck import model_checks


@click.command()
@backend_option
@device_option
@click.option("--seed", default=0, show_default=True, help="Of the random operands.")
@click.option("--symbolic", is_flag=True, help="Prove the gradients of all ops; uses no device.")
def verify(backend: str, device: str | None, seed: int, symbolic: bool) -> None:
    """Compare every op and a whole model on your device with the NumPy reference."""
    console = Console(highlight=False)
    if symbolic:
        if device is not None:
            raise BitgraphError("--symbolic uses no device; leave out --device")
        _prove(console)
        return
    chosen = make_backend(backend, device)
    findings = [*_with_progress(console, chosen, seed)]
    table = Table("what", "checks", "largest error", "allowed", "")
    for subject, group in groupby(findings, key=lambda f: f.subject.split("(")[0].split(" ")[0]):
        members = list(group)
        worst = max(members, key=lambda f: f.error / f.tolerance if f.tolerance else f.error)
        verdict = "ok" if all(f.holds for f in members) else "WRONG"
        table.add_row(
            subject, str(len(members)), f"{worst.error:.1e}", f"{worst.tolerance:.0e}", verdict
        )
    console.print(table)
    wrong = [finding for finding in findings if not finding.holds]
    if wrong:
        raise BitgraphError(
            f"{len(wrong)} of {len(findings)} checks fail, the first at {wrong[0].subject}; "
            "update the driver, or choose another --device or --backend numpy"
        )
    console.print(f"all {len(findings)} checks hold")


def _with_progress(console: Console, backend: Backend, seed: int) -> Iterable[Finding]:
    with console.status("checking") as status:
        for finding in (*check_ops(backend, seed), *model_checks(backend, seed)):
            status.update(f"checking {finding.subject.split('(')[0]}")
            yield finding


def _prove(console: Console) -> None:
    """Print what is proved of each gradient.

    Raises:
        BitgraphError: one is not proved, or sympy is not there.
    """
    try:
        from ..graph.symbolic.prove import Verdict, prove_all  # sympy is not always installed
    except ModuleNotFoundError:
        raise BitgraphError(
            "--symbolic needs sympy; install it with pip install 'bitgraph[symbolic]'"
        ) from None
    table = Table("gradient of", "operands", "", "seconds", "for")
    proofs = []
    with console.status("proving") as status:
        for proof in prove_all():
            status.update(f"proved {proof.op}")
            proofs.append(proof)
            seconds = f"{proof.seconds:.1f}"
            table.add_row(proof.op, escape(proof.operands), proof.verdict, seconds, proof.note)
    console.print(table)
    failed = [proof for proof in proofs if proof.verdict is not Verdict.PROVED]
    if failed:
        raise BitgraphError(
            f"{len(failed)} of {len(proofs)} gradients are not proved, the first that of "
            f"{failed[0].op}: {failed[0].note}; mend its vjp in graph/ops"
        )
    console.print(f"all {len(proofs)} gradients are the transposed Jacobian of the op's meaning")
