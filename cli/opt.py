"""`bitgraph opt`: run passes on a graph in text form."""

from pathlib import Path

import click

from ..graph.errors import BitgraphError
from ..graph.text import parse_graph
from ..models.files import write_text
from ..passes.manager import PassManager
from ..passes.pipeline import PASSES, parse_pipeline
from .dumps import dumping
from .options import PATH


@click.command(epilog=f"Passes: {', '.join(PASSES)}.")
@click.argument("file", type=PATH)
@click.option("-p", "--passes", default="", help="For example 'lora{rank=8},grad,cse,dce'.")
@click.option("-o", "--out", type=PATH, help="Write the result here instead of printing it.")
@click.option("--dump-passes", type=PATH, help="Folder for texts, timings and a page of them.")
def opt(file: Path, passes: str, out: Path | None, dump_passes: Path | None) -> None:
    """Run passes on a text graph and print what comes out."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BitgraphError(f"{file} could not be read ({error}); name a text graph") from None
    with dumping(dump_passes) as stages:
        on_stage = stages.add if dump_passes else None
        result = str(PassManager(parse_pipeline(passes), on_stage).run(parse_graph(text)))
    if out is None:
        click.echo(result, nl=False)
    else:
        write_text(out, result)
