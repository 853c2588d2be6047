"""What passes refuse, and the sentence that says why. What they make is in cases/."""

from textwrap import dedent

import pytest
from bitgraph.graph.types import GraphError
from bitgraph.passes.manager import PassManager
from bitgraph.passes.pipeline import parse_pipeline
from graphs import read


def run(pipeline: str, text: str) -> str:
    graph = read(text)
    result = PassManager(parse_pipeline(pipeline)).run(graph)
    assert str(graph) == dedent(text).lstrip()
    return str(result)


def check_refused(pipeline: str, text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        run(pipeline, text)


# lora


MLP = """
    graph @m {
      input %x: f32[3,8]
      weight %layers.0.mlp.up_proj.weight: t2[4,8]
      weight %layers.0.mlp.down_proj.weight: t2[8,4]
      %q: q8[3,8] = quantize(%x) @layers.0/mlp
      %up: f32[3,4] = ternary_matmul(%q, %layers.0.mlp.up_proj.weight) @layers.0/mlp
      %down: f32[3,8] = ternary_matmul(%up, %layers.0.mlp.down_proj.weight) @layers.0/mlp
      return %down
    }
"""


@pytest.mark.parametrize("targets", ["up_proj", "mlp.up_proj", "layers.0.mlp.up_proj", "up_proj,"])
def test_a_target_is_the_end_of_a_path(targets: str) -> None:
    text = run(f'lora{{rank=2, targets="{targets}"}}', MLP)
    assert text.count("param ") == 2
    assert "up_proj.lora_A" in text


@pytest.mark.parametrize("target", ["proj", "q_proj", "p_proj", "up_proj.weight", "layers.0"])
def test_a_target_that_is_no_module_is_named(target: str) -> None:
    message = f"no ternary product belongs to a module named '{target}'"
    check_refused(f'lora{{targets="up_proj,{target}"}}', MLP, message)


@pytest.mark.parametrize("rank", [0, -1])
def test_lora_needs_a_rank(rank: int) -> None:
    check_refused(f"lora{{rank={rank}}}", MLP, f"LoRA needs a rank of at least 1, not {rank}")


def test_lora_is_applied_once() -> None:
    check_refused("lora,lora", MLP, "%layers.0.mlp.up_proj.lora_A.weight is defined twice")


# grad


LOSS = """
    graph @m {
      input %x: f32[3]
      input %k: i32[3]
      param %p: f32[3]
      param %o: f32[3]
      %y: f32[3] = mul(%x, %p)
      %z: f32[3] = mul(%y, %o)
      %s: f32[3] = silu(%z)
      %loss: f32[] = dot(%s, %x)
      return %loss, %s
    }
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("param", "weight", "graph @m has no params to differentiate for"),
        ("mul(%y, %o)", "mul(%y, %y)", "%loss does not depend on the param %o"),
        ("= silu", "= relu", r"relu has no gradient \(only the gradient of squared_relu uses it\)"),
        ("return %loss, ", "return ", "graph @m has no output named 'loss'"),
        ("input %k: i32[3]", "input %p.grad: f32[3]", "%p.grad is defined twice"),
    ],
)
def test_what_cannot_be_differentiated_is_named(old: str, new: str, message: str) -> None:
    text = LOSS.replace(old, new)
    assert text != LOSS
    check_refused("grad", text, message)


def test_only_a_scalar_is_differentiated() -> None:
    check_refused('grad{loss="s"}', LOSS, r"%s: f32\[3\] is not a scalar to differentiate")


def test_an_operand_without_gradient_is_named() -> None:
    check_refused(
        "grad",
        """
        graph @m {
          input %x: f32[2,1,4]
          param %t: f32[2,4]
          %y: f32[2,1,4] = rope(%x, %t) {inverse=false} @attn
          %loss: f32[] = dot(%y, %x)
          return %loss
        }
        """,
        r"rope has no gradient for its operand table \(%t\)",
    )


# adamw


GRADIENTS = """
    graph @m {
      input %ga: f32[2]
      input %gb: f32[3]
      param %a: f32[2]
      param %b: f32[3]
      %a.grad: f32[2] = scale(%ga) {factor=1.0}
      %b.grad: f32[3] = scale(%gb) {factor=1.0}
      %loss: f32[] = dot(%a, %ga)
      return %loss, %a.grad, %b.grad
    }
"""


def test_adamw_needs_gradients_and_a_loss() -> None:
    check_refused('adamw{loss="mean"}', GRADIENTS, "graph @m has no output named 'mean'")
    text = GRADIENTS.replace(", %b.grad\n", "\n")
    check_refused("adamw", text, "the param %b has no gradient; run the pass grad first")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("beta1=1.0", "betas 1.0, 0.999 are not in"),
        ("beta2=-0.1", "betas 0.9, -0.1 are not in"),
        ("eps=0", "eps 0.0 is not positive"),
        ("weight_decay=-1", "weight_decay -1.0 is negative"),
        ("max_norm=-1", "max_norm -1.0 is negative"),
        ("max_norm=nan", "max_norm nan is negative"),
    ],
)
def test_adamw_checks_its_options(options: str, message: str) -> None:
    check_refused(f"adamw{{{options}}}", GRADIENTS, message)


# surrogate and promote


STAIRCASE = """
    graph @m {
      input %x: f32[3,8]
      weight %table: f16[9,8]
      weight %w: t2[4,8]
      input %ids: i32[3]
      %q: q8[3,8] = quantize(%x) @a
      %y: f32[3,4] = ternary_matmul(%q, %w) @a
      %e: f32[3,8] = gather_rows(%table, %ids) @b
      return %y, %e
    }
"""


def test_promote_needs_a_smooth_graph() -> None:
    check_refused("promote", STAIRCASE, "no float64 form; run the pass surrogate first")


# checkpoint


LAYER = """
    graph @step {
      input %x: f32[64,4]
      weight %w: f32[64,4]
      %h: f32[64,64] = matmul(%x, %w) {transpose_b=true} @layers.0
      %a: f32[64,64] = squared_relu(%h) @layers.0
      %y: f32[64,4] = matmul(%a, %w) {transpose_b=false} @layers.0
      %k: f32[64,64] = matmul(%y, %w) {transpose_b=true} @layers.1
      %b: f32[64,64] = squared_relu(%k) @layers.1
      %z: f32[64,4] = matmul(%b, %w) {transpose_b=false} @layers.1
      %loss: f32[] = dot(%z, %z) @loss
      %dz: f32[64,4] = scale(%z) {factor=2.0} @loss/grad
      %dwb: f32[64,4] = contract_rows(%b, %dz) @layers.1/grad
      %dy: f32[64,4] = sub(%y, %dz) @layers.1/grad
      %dwa: f32[64,4] = contract_rows(%a, %dy) @layers.0/grad
      return %loss, %dwb, %dwa
    }
"""


@pytest.mark.parametrize("pipeline", ["checkpoint{budget=1KiB}", 'checkpoint{budget="1 KiB"}'])
def test_checkpoint_says_the_smallest_budget(pipeline: str) -> None:
    check_refused(pipeline, LAYER, "is too small for @step; the smallest that works is 35KiB")
    assert "a.re" in run("checkpoint{budget=35KiB}", LAYER)


@pytest.mark.parametrize("scope", ["layers.0/mlp", "mlp"])
def test_checkpoint_needs_layers_with_a_backward_pass_to_save_for(scope: str) -> None:
    text = MLP.replace("layers.0/mlp", scope)
    check_refused("checkpoint{budget=1B}", text, "the smallest that works is")
