"""What --dump-passes writes, and the page as a browser shows it."""

import html
import json
import re
import time
from pathlib import Path

import pytest
from bitgraph.cli.dumps import Stage, Stages, dumping, page
from bitgraph.graph.errors import BitgraphError
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline
from chromium import dom_of
from graphs import read

BEFORE = """
    graph @m {
      input %x: f32[3,8]
      weight %up_proj.weight: t2[4,8]
      %q: q8[3,8] = quantize(%x) @layers.0/mlp
      %unused: f32[3,8] = relu(%x)
      %up: f32[3,4] = ternary_matmul(%q, %up_proj.weight) @layers.0/mlp
      %a: f32[3,4] = relu(%up)
      %b: f32[3,4] = silu(%a)
      return %b
    }
"""


def run(pipeline: str, stages: Stages) -> None:
    PassManager(parse_pipeline(pipeline), stages.add).run(read(BEFORE))


def stages_of(pipeline: str) -> list[Stage]:
    stages = Stages()
    run(pipeline, stages)
    return stages.done


def page_data(text: str):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(data)


def expanded(data, stage: int) -> list[str]:
    runs = data["stages"][stage]["runs"]
    spans = zip(runs[::2], runs[1::2], strict=True)
    return [data["lines"][k] for first, count in spans for k in range(first, first + count)]


def test_a_page_holds_every_stage_and_each_line_once():
    stages = stages_of("lora{rank=2},cse,dce")
    data = page_data(page(stages))
    assert len(set(data["lines"])) == len(data["lines"])
    for k, stage in enumerate(stages):
        assert expanded(data, k) == stage.text.splitlines()
        assert data["stages"][k]["name"] == stage.name
    assert [s["nodes"] for s in data["stages"]] == [5, 9, 9, 8]
    assert data["stages"][0]["runs"] == [0, 10]


def test_a_page_needs_no_network():
    text = page(stages_of("dce"))
    assert not re.search(r"https?:|<link|src=|@import|url\(", text)


def test_stages_that_an_error_ends_are_written(tmp_path):
    with pytest.raises(BitgraphError, match="rank of at least 1"), dumping(tmp_path) as stages:
        run("dce,lora{rank=0}", stages)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["00-input.txt", "01-dce.txt", "index.html", "timing.txt"]


def test_timings_are_a_table(tmp_path):
    with dumping(tmp_path) as stages:
        run("lora{rank=2},dce", stages)
    head, *rows = (tmp_path / "timing.txt").read_text().splitlines()
    assert head.split() == ["stage", "seconds", "nodes", "before", "after", "lines"]
    cells = [row.split() for row in rows]
    assert [row[0] for row in cells] == ["00-input", "01-lora", "02-dce", "all"]
    assert [row[2:] for row in cells] == [["5", "10"], ["5", "9", "16"], ["9", "8", "15"], []]
    assert all(0 <= float(row[1]) < 60 for row in cells)
    assert float(cells[-1][1]) == pytest.approx(sum(float(r[1]) for r in cells[:-1]), abs=0.002)


def rows(dom: str, side: str) -> list[tuple[str, str]]:
    """Kind and text of the rows that a side shows, from the top."""
    (pane,) = re.findall(rf'<div class="side" id="{side}">(.*?)</div></div>', dom, re.S)
    found = re.findall(
        r'<div class="row ([^"]*)" style="top: ?(\d+)px;?">(.*?)</div>', pane + "</div>", re.S
    )
    texts = sorted(
        (int(top), kind, re.sub(r"<i>.*?</i>|<[^>]*>", "", text)) for kind, top, text in found
    )
    return [(kind, html.unescape(text)) for _, kind, text in texts]


def counts(dom: str) -> list[int]:
    (text,) = re.findall(r'id="counts">(.*?)</span></span>', dom, re.S)
    return [int(n) for n in re.findall(r">\D?(\d+)", text + "</span>")]


def test_a_browser_shows_two_stages_side_by_side(tmp_path):
    stages = stages_of("lora{rank=2},dce")
    (tmp_path / "index.html").write_text(page(stages))
    dom = dom_of(tmp_path / "index.html", "0-1", tmp_path / "profile")
    before, after = (stage.text.splitlines() for stage in stages[:2])
    left, right = rows(dom, "left"), rows(dom, "right")
    shown = [
        [text for kind, text in side if kind not in ("none", "fold")] for side in (left, right)
    ]
    assert len(left) == len(right)
    assert shown[1] == after  # nothing is far enough from a change to be folded
    assert shown[0] == before
    assert [t for kind, t in right if kind in ("came", "other")] == [
        t for t in after if t not in before
    ]
    assert [t for kind, t in left if kind in ("gone", "other")] == [
        t for t in before if t not in after
    ]
    (changed,) = [k for k, (kind, _) in enumerate(left) if kind == "other"]
    assert left[changed][1].startswith("  %up: f32[3,4] = ternary_matmul")
    assert right[changed][1].startswith("  %up: f32[3,4] = add")
    same = [k for k, (kind, _) in enumerate(left) if kind == "same"]
    assert [left[k] for k in same] == [right[k] for k in same]
    assert counts(dom) == [6, 0, 1, 9]


def test_a_browser_shows_text_as_it_is(tmp_path):
    """A line that looks like HTML, and one that ends a script."""
    stages = Stages()
    stages.add(0, "input", 'graph @m {\n  %a = f() {note="<i>&amp;</i></script>"}\n}\n')
    stages.add(1, "next", "graph @m {\n}\n")
    (tmp_path / "index.html").write_text(page(stages.done))
    dom = dom_of(tmp_path / "index.html", "0-1", tmp_path / "profile")
    assert ("gone", '  %a = f() {note="<i>&amp;</i></script>"}') in rows(dom, "left")


def test_an_address_that_names_no_stage_shows_the_first(tmp_path):
    (tmp_path / "index.html").write_text(page(stages_of("dce")))
    dom = dom_of(tmp_path / "index.html", "9-99", tmp_path / "profile")
    assert counts(dom) == [0, 0, 0, 10]


@pytest.mark.parametrize("fragment", ["4-5", "5-7"])
def test_the_page_of_a_whole_2b_step_is_small_and_quick(large: Path, fragment, tmp_path):
    assert (large / "index.html").stat().st_size < 8_000_000
    dom = dom_of(large / "index.html", fragment, tmp_path / "profile")
    assert dom.count('<div class="row') < 400
    assert rows(dom, "left")
    (milliseconds,) = re.findall(r'data-milliseconds="(\d+)"', dom)
    assert int(milliseconds) < 2000
    if fragment == "4-5":
        kept, whole = (
            (large / f"{name}.txt").read_text().splitlines() for name in ("05-dce", "04-cse")
        )
        assert counts(dom) == [0, len(whole) - len(kept), 0, len(kept)]


def test_a_2b_step_is_compiled_in_ten_seconds(large: Path):
    *_, total = (large / "timing.txt").read_text().splitlines()
    assert float(total.split()[1]) > 0
    assert float((large / "cpu.txt").read_text()) < 10  # other work on the machine slows the rest


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages of a training step of the 2B model, and the seconds of a processor they took."""
    from bitgraph.cli.compile import compile_

    folder = tmp_path_factory.mktemp("large")
    options = ["--preset", "2b-4t", "--tokens", "2048", "--limits", "h100"]
    begin = time.process_time()
    compile_.main([*options, "--dump-passes", str(folder)], standalone_mode=False)
    (folder / "cpu.txt").write_text(str(time.process_time() - begin))
    return folder
