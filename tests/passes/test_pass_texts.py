"""Passes from text to text, compared word for word."""

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


def check(pipeline: str, before: str, after: str) -> None:
    assert run(pipeline, before) == dedent(after).lstrip()


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


def test_lora_adapts_one_module_from_what_was_quantized() -> None:
    check(
        'lora{rank=2, alpha=3.0, targets="up_proj"}',
        MLP,
        """
        graph @m {
          input %x: f32[3,8]
          weight %layers.0.mlp.up_proj.weight: t2[4,8]
          weight %layers.0.mlp.down_proj.weight: t2[8,4]
          param %layers.0.mlp.up_proj.lora_A.weight: f32[2,8]
          param %layers.0.mlp.up_proj.lora_B.weight: f32[4,2]
          %q: q8[3,8] = quantize(%x) @layers.0/mlp
          %up.base: f32[3,4] = ternary_matmul(%q, %layers.0.mlp.up_proj.weight) @layers.0/mlp
          %up.lora.1: f32[3,2] = matmul(%x, %layers.0.mlp.up_proj.lora_A.weight) {transpose_b=true} @layers.0/mlp
          %up.lora.2: f32[3,2] = scale(%up.lora.1) {factor=1.5} @layers.0/mlp
          %up.lora.3: f32[3,4] = matmul(%up.lora.2, %layers.0.mlp.up_proj.lora_B.weight) {transpose_b=true} @layers.0/mlp
          %up: f32[3,4] = add(%up.base, %up.lora.3) @layers.0/mlp
          %down: f32[3,8] = ternary_matmul(%up, %layers.0.mlp.down_proj.weight) @layers.0/mlp
          return %down
        }
        """,  # noqa: E501
    )


def test_lora_adapts_everything_without_targets() -> None:
    check(
        "lora{rank=1, alpha=1}",
        MLP,
        """
        graph @m {
          input %x: f32[3,8]
          weight %layers.0.mlp.up_proj.weight: t2[4,8]
          weight %layers.0.mlp.down_proj.weight: t2[8,4]
          param %layers.0.mlp.up_proj.lora_A.weight: f32[1,8]
          param %layers.0.mlp.up_proj.lora_B.weight: f32[4,1]
          param %layers.0.mlp.down_proj.lora_A.weight: f32[1,4]
          param %layers.0.mlp.down_proj.lora_B.weight: f32[8,1]
          %q: q8[3,8] = quantize(%x) @layers.0/mlp
          %up.base: f32[3,4] = ternary_matmul(%q, %layers.0.mlp.up_proj.weight) @layers.0/mlp
          %up.lora.1: f32[3,1] = matmul(%x, %layers.0.mlp.up_proj.lora_A.weight) {transpose_b=true} @layers.0/mlp
          %up.lora.2: f32[3,1] = scale(%up.lora.1) {factor=1.0} @layers.0/mlp
          %up.lora.3: f32[3,4] = matmul(%up.lora.2, %layers.0.mlp.up_proj.lora_B.weight) {transpose_b=true} @layers.0/mlp
          %up: f32[3,4] = add(%up.base, %up.lora.3) @layers.0/mlp
          %down.base: f32[3,8] = ternary_matmul(%up, %layers.0.mlp.down_proj.weight) @layers.0/mlp
          %down.lora.1: f32[3,1] = matmul(%up, %layers.0.mlp.down_proj.lora_A.weight) {transpose_b=true} @layers.0/mlp
          %down.lora.2: f32[3,1] = scale(%down.lora.1) {factor=1.0} @layers.0/mlp
          %down.lora.3: f32[3,8] = matmul(%down.lora.2, %layers.0.mlp.down_proj.lora_B.weight) {transpose_b=true} @layers.0/mlp
          %down: f32[3,8] = add(%down.base, %down.lora.3) @layers.0/mlp
          return %down
        }
        """,  # noqa: E501
    )


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


def test_lora_leaves_a_graph_without_ternary_products_alone() -> None:
    text = "graph @m {\n  input %x: f32[2]\n  %y: f32[2] = relu(%x)\n  return %y\n}\n"
    assert run("lora", text) == text


# grad


def test_grad_goes_back_from_the_loss_to_the_params() -> None:
    check(
        "grad",
        """
        graph @m {
          input %x: f32[3,8]
          input %y: f32[3,4]
          param %w: f32[4,8]
          %h: f32[3,4] = matmul(%x, %w) {transpose_b=true} @fc
          %a: f32[3,4] = squared_relu(%h) @fc
          %r: f32[3,4] = add(%a, %h)
          %loss: f32[] = dot(%r, %y) @loss
          return %loss, %r
        }
        """,
        """
        graph @m {
          input %x: f32[3,8]
          input %y: f32[3,4]
          param %w: f32[4,8]
          %h: f32[3,4] = matmul(%x, %w) {transpose_b=true} @fc
          %a: f32[3,4] = squared_relu(%h) @fc
          %r: f32[3,4] = add(%a, %h)
          %loss: f32[] = dot(%r, %y) @loss
          %full_like.1: f32[] = full_like(%loss) {value=1.0} @loss/grad
          %d.loss.1: f32[3,4] = mul_scalar(%y, %full_like.1) @loss/grad
          %d.loss.2: f32[3,4] = mul_scalar(%r, %full_like.1) @loss/grad
          %d.a.1: f32[3,4] = relu(%h) @fc/grad
          %d.a.2: f32[3,4] = scale(%d.a.1) {factor=2.0} @fc/grad
          %d.a.3: f32[3,4] = mul(%d.loss.1, %d.a.2) @fc/grad
          %d.h.1: f32[3,4] = add(%d.loss.1, %d.a.3) @fc/grad
          %d.h.2: f32[3,8] = matmul(%d.h.1, %w) {transpose_b=false} @fc/grad
          %w.grad: f32[4,8] = contract_rows(%d.h.1, %x) @fc/grad
          return %loss, %r, %w.grad
        }
        """,
    )


def test_grad_and_dce_leave_what_does_not_lead_to_a_param() -> None:
    """The quantizer passes the gradient on; the first product and the norm's weight get none."""
    check(
        "grad,dce",
        """
        graph @m {
          input %x: f32[3,8]
          weight %u: t2[8,8]
          weight %n: f32[8]
          weight %v: t2[8,8]
          param %w: f32[8,8]
          %p: f32[3,8] = ternary_matmul(%x, %u) @first
          %h: f32[3,8] = matmul(%p, %w) {transpose_b=false}
          %s: f32[3,8] = rms_norm(%h, %n) {eps=1e-05}
          %q: q8[3,8] = quantize(%s)
          %y: f32[3,8] = ternary_matmul(%q, %v)
          %loss: f32[] = dot(%y, %x)
          return %loss
        }
        """,
        """
        graph @m {
          input %x: f32[3,8]
          weight %u: t2[8,8]
          weight %n: f32[8]
          weight %v: t2[8,8]
          param %w: f32[8,8]
          %p: f32[3,8] = ternary_matmul(%x, %u) @first
          %h: f32[3,8] = matmul(%p, %w) {transpose_b=false}
          %s: f32[3,8] = rms_norm(%h, %n) {eps=1e-05}
          %q: q8[3,8] = quantize(%s)
          %y: f32[3,8] = ternary_matmul(%q, %v)
          %loss: f32[] = dot(%y, %x)
          %full_like.1: f32[] = full_like(%loss) {value=1.0} @loss/grad
          %d.loss.1: f32[3,8] = mul_scalar(%x, %full_like.1) @grad
          %d.y.1: f32[3,8] = ternary_matmul_t(%d.loss.1, %v) @grad
          %d.s.1: f32[3,8] = rms_norm_grad(%d.y.1, %h, %n) {eps=1e-05} @grad
          %w.grad: f32[8,8] = contract_rows(%p, %d.s.1) @grad
          return %loss, %w.grad
        }
        """,
    )


def test_params_that_share_a_gradient_get_one_each() -> None:
    check(
        'grad{loss="total"}',
        """
        graph @m {
          param %a: f32[]
          param %b: f32[]
          %total: f32[] = add(%a, %b)
          return %total
        }
        """,
        """
        graph @m {
          param %a: f32[]
          param %b: f32[]
          %total: f32[] = add(%a, %b)
          %a.grad: f32[] = full_like(%total) {value=1.0} @loss/grad
          %b.grad: f32[] = scale(%a.grad) {factor=1.0}
          return %total, %a.grad, %b.grad
        }
        """,
    )


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


def test_adamw_updates_in_place() -> None:
    check(
        "adamw{weight_decay=0.1, max_norm=2}",
        GRADIENTS,
        """
        graph @m {
          input %ga: f32[2]
          input %gb: f32[3]
          param %a: f32[2]
          param %b: f32[3]
          state %sound: i32[]
          input %lr: f32[]
          input %step: i32[]
          state %a.m: f32[2]
          state %a.v: f32[2]
          state %b.m: f32[3]
          state %b.v: f32[3]
          %a.grad: f32[2] = scale(%ga) {factor=1.0}
          %b.grad: f32[3] = scale(%gb) {factor=1.0}
          %loss: f32[] = dot(%a, %ga)
          %grad_norm.raw: f32[] = global_norm(%a.grad, %b.grad) @optimizer
          %grad_norm: f32[], %sound.new: i32[] = guard(%grad_norm.raw, %loss, %sound) @optimizer
          %clip: f32[] = clip_factor(%grad_norm) {max_norm=2.0} @optimizer
          %a.new: f32[2], %a.m.new: f32[2], %a.v.new: f32[2] = adamw(%a, %a.grad, %a.m, %a.v, %clip, %lr, %step) {beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.1} @optimizer
          %b.new: f32[3], %b.m.new: f32[3], %b.v.new: f32[3] = adamw(%b, %b.grad, %b.m, %b.v, %clip, %lr, %step) {beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.1} @optimizer
          return %loss, %grad_norm, %sound.new -> %sound, %a.new -> %a, %a.m.new -> %a.m, %a.v.new -> %a.v, %b.new -> %b, %b.m.new -> %b.m, %b.v.new -> %b.v
        }
        """,  # noqa: E501
    )


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


# cse


def test_cse_merges_equal_nodes_and_what_becomes_equal() -> None:
    check(
        "cse",
        """
        graph @m {
          input %x: f32[2,2]
          %a: f32[2,2] = relu(%x) @one
          %b: f32[2,2] = relu(%x) @two
          %c: f32[2,2] = add(%a, %b)
          %d: f32[2,2] = add(%b, %a)
          %e: f32[2,2] = add(%a, %x)
          %f: f32[2,2] = add(%x, %a)
          %g: f32[2,2] = mul(%c, %d)
          %h: f32[2,2] = mul(%e, %f)
          return %g, %h
        }
        """,
        """
        graph @m {
          input %x: f32[2,2]
          %a: f32[2,2] = relu(%x) @one
          %c: f32[2,2] = add(%a, %a)
          %e: f32[2,2] = add(%a, %x)
          %f: f32[2,2] = add(%x, %a)
          %g: f32[2,2] = mul(%c, %c)
          %h: f32[2,2] = mul(%e, %f)
          return %g, %h
        }
        """,
    )


def test_cse_keeps_outputs_other_attributes_and_what_is_recomputed() -> None:
    text = """
        graph @m {
          input %x: f32[2,2]
          %a: f32[2,2] = relu(%x)
          %out: f32[2,2] = relu(%x)
          %s: f32[2,2] = scale(%a) {factor=0.0}
          %t: f32[2,2] = scale(%a) {factor=-0.0}
          %u: f32[2,2] = relu(%x) @layers.0/recompute
          %v: f32[2,2] = relu(%x) @layers.1/recompute
          %w: f32[2,2] = add(%u, %v)
          return %out, %s, %t, %w
        }
    """
    check("cse", text, text)


def test_cse_merges_nodes_of_several_results_as_one() -> None:
    check(
        "cse",
        """
        graph @m {
          input %h: f32[2,4]
          weight %e: f16[9,4]
          input %labels: i32[2]
          %nll: f32[2], %lse: f32[2] = linear_cross_entropy(%h, %e, %labels)
          %nll2: f32[2], %lse2: f32[2] = linear_cross_entropy(%h, %e, %labels)
          %d: f32[] = dot(%nll, %lse2)
          return %d, %nll
        }
        """,
        """
        graph @m {
          input %h: f32[2,4]
          weight %e: f16[9,4]
          input %labels: i32[2]
          %nll: f32[2], %lse: f32[2] = linear_cross_entropy(%h, %e, %labels)
          %d: f32[] = dot(%nll, %lse)
          return %d, %nll
        }
        """,
    )


# dce


def test_dce_keeps_what_outputs_need_and_what_has_an_owner() -> None:
    check(
        "dce",
        """
        graph @m {
          input %x: f32[2]
          input %idle: f32[2]
          weight %w: f32[2]
          param %p: f32[2]
          state %s: f32[2]
          %a: f32[2] = mul(%x, %w)
          %b: f32[2] = relu(%x)
          %c: f32[2] = add(%b, %idle)
          return %b
        }
        """,
        """
        graph @m {
          input %x: f32[2]
          param %p: f32[2]
          state %s: f32[2]
          %b: f32[2] = relu(%x)
          return %b
        }
        """,
    )


def test_dce_keeps_a_node_for_one_of_its_results() -> None:
    text = """
        graph @m {
          input %h: f32[2,4]
          weight %e: f16[9,4]
          input %labels: i32[2]
          %nll: f32[2], %lse: f32[2] = linear_cross_entropy(%h, %e, %labels)
          return %lse
        }
    """
    check("dce", text, text)


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


def test_surrogate_replaces_the_quantizer_by_the_identity() -> None:
    check(
        "surrogate",
        STAIRCASE,
        """
        graph @m {
          input %x: f32[3,8]
          weight %table: f16[9,8]
          weight %w: t2[4,8]
          input %ids: i32[3]
          %y: f32[3,4] = ternary_matmul(%x, %w) @a
          %e: f32[3,8] = gather_rows(%table, %ids) @b
          return %y, %e
        }
        """,
    )


def test_promote_makes_every_float_double() -> None:
    check(
        "surrogate,promote",
        STAIRCASE,
        """
        graph @m {
          input %x: f64[3,8]
          weight %table: f64[9,8]
          weight %w: t2[4,8]
          input %ids: i32[3]
          %y: f64[3,4] = ternary_matmul(%x, %w) @a
          %e: f64[3,8] = gather_rows(%table, %ids) @b
          return %y, %e
        }
        """,
    )


def test_promote_needs_a_smooth_graph() -> None:
    check_refused("promote", STAIRCASE, "no float64 form; run the pass surrogate first")


# checkpoint


TWO_LAYERS = """
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


def test_checkpoint_recomputes_what_the_first_layer_cannot_keep() -> None:
    """%a is read again at the very end, and takes 16 KiB while the second layer needs twice that.

    %b is read right behind the forward pass, so it is saved. The inputs take 2 KiB.
    """
    check(
        "checkpoint{budget=40KiB}",
        TWO_LAYERS,
        """
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
          %h.re: f32[64,64] = matmul(%x, %w) {transpose_b=true} @layers.0/recompute
          %a.re: f32[64,64] = squared_relu(%h.re) @layers.0/recompute
          %dwa: f32[64,4] = contract_rows(%a.re, %dy) @layers.0/grad
          return %loss, %dwb, %dwa
        }
        """,
    )


def test_checkpoint_leaves_alone_what_fits() -> None:
    before = dedent(TWO_LAYERS).lstrip()
    assert run("checkpoint{budget=1GiB}", TWO_LAYERS) == before
    assert run("checkpoint", TWO_LAYERS) == before


@pytest.mark.parametrize("pipeline", ["checkpoint{budget=1KiB}", 'checkpoint{budget="1 KiB"}'])
def test_checkpoint_says_the_smallest_budget(pipeline: str) -> None:
    check_refused(pipeline, TWO_LAYERS, "is too small for @step; the smallest that works is 35KiB")
    assert "a.re" in run("checkpoint{budget=35KiB}", TWO_LAYERS)


def test_checkpoint_needs_a_backward_pass_to_save_for() -> None:
    check_refused("checkpoint{budget=1B}", MLP, "the smallest that works is")
