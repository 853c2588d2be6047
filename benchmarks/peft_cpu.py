r"""The PyTorch side of the CPU comparison: LoRA fine-tuning with transformers and PEFT.

Trains all seven projections of a packed BitNet model in float32 on instruction records
(Alpaca format), at the settings of the comparison: rank 16, alpha 32, AdamW at 2e-3 without
weight decay, 6 warm-up steps then a cosine to zero over the steps that are run, batches of 8 in
an order drawn from the seed, at most 256 tokens a record, loss on the response's tokens and EOS
alone, gradients clipped to norm 1, one epoch. The model's own activation quantizer stays on.

The loop is written by hand, because the Trainer of transformers refuses packed ("offline")
BitNet models. Attention is PyTorch's sdpa, AdamW its fused kernel: the faster choices here.

Needs the `torch` extra (pip install bitgraph[torch]), nothing else of this project:

    python benchmarks/peft_cpu.py --model HF_FOLDER --data TRAIN.json \
        --eval-data EVAL.json --max-steps 20 --threads 2 --json OUT.json

The result (see `run`) is written as JSON; tokens per second count real tokens, not padding, over
the whole of each step: forward, backward, clipping, optimizer. The first step, in which PyTorch
prepares its kernels, is left out of the speed unless it is the only one.
"""

import argparse
import importlib
import json
import math
import os
import platform
import random
import resource
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

RANK = 16
ALPHA = 32
LEARNING_RATE = 2e-3
WARMUP_STEPS = 6
BATCH = 8
MAX_TOKENS = 256
CLIP = 1.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100  # label of a position that carries no loss


class Libraries(NamedTuple):
    """The packages that are only imported when the benchmark runs."""

    torch: ModuleType
    transformers: ModuleType
    peft: ModuleType
    tokenizers: ModuleType


class Example(NamedTuple):
    """Token ids of one record, and per position the same id or IGNORED."""

    ids: list[int]
    labels: list[int]


def import_libraries() -> Libraries:
    """Import PyTorch and the rest, with compilation and downloads off.

    Raises:
        SystemExit: one of them is not installed.
    """
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # or the first call runs a C++ compiler
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return Libraries(*(importlib.import_module(name) for name in Libraries._fields))
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed; this side of the comparison needs PyTorch: "
            "pip install bitgraph[torch]"
        ) from None


def prompt_of(record: dict[str, str]) -> str:
    """Alpaca's prompt, up to and including the line break before the response."""
    given = record.get("input", "")
    task = (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. "
        if given
        else "Below is an instruction that describes a task. "
    )
    middle = f"### Input:\n{given}\n\n" if given else ""
    return (
        f"{task}Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{record['instruction']}\n\n{middle}### Response:\n"
    )


def load_examples(path: Path, tokenizer: Any, bos: int, eos: int) -> list[Example]:
    """Tokenize prompt and response apart: BOS, prompt, response, EOS, cut at MAX_TOKENS."""
    examples = []
    for record in json.loads(path.read_text(encoding="utf-8")):
        prompt = tokenizer.encode(prompt_of(record), add_special_tokens=False).ids
        response = tokenizer.encode(record["output"], add_special_tokens=False).ids
        ids = [bos, *prompt, *response, eos]
        labels = [IGNORED] * (1 + len(prompt)) + ids[1 + len(prompt) :]
        if any(label != IGNORED for label in labels[:MAX_TOKENS]):
            examples.append(Example(ids[:MAX_TOKENS], labels[:MAX_TOKENS]))
    return examples


def collate(torch: Any, examples: list[Example]) -> dict[str, Any]:
    """Pad on the right to the longest of the batch."""
    width = max(len(example.ids) for example in examples)

    def padded(rows: list[list[int]], fill: int) -> Any:
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows])

    return {
        "input_ids": padded([example.ids for example in examples], 0),
        "attention_mask": padded([[1] * len(example.ids) for example in examples], 0),
        "labels": padded([example.labels for example in examples], IGNORED),
    }


def learning_rate_factor(step: int, steps: int) -> float:
    """Share of the full rate at `step` (from 1): linear warm-up, then a cosine to zero."""
    if step <= WARMUP_STEPS:
        return step / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.5 * (1 + math.cos(math.pi * progress))


def load_model(libraries: Libraries, folder: Path) -> Any:
    """The packed model in float32 with fresh LoRA layers."""
    libraries.transformers.utils.logging.disable_progress_bar()
    model = libraries.transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=libraries.torch.float32, attn_implementation="sdpa"
    )
    model.get_input_embeddings().float()  # transformers 5.23 leaves these (the tied head) in bf16
    config = libraries.peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    return libraries.peft.get_peft_model(model, config)


def evaluate(libraries: Libraries, model: Any, examples: list[Example]) -> float:
    """Mean loss over all labelled tokens of the examples."""
    total, count = 0.0, 0
    model.eval()
    with libraries.torch.no_grad():
        for start in range(0, len(examples), BATCH):
            batch = collate(libraries.torch, examples[start : start + BATCH])
            labelled = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += float(model(**batch).loss) * labelled
            count += labelled
    model.train()
    return total / count


def train_step(torch: Any, model: Any, optimizer: Any, batch: dict[str, Any]) -> float:
    """One update; the loss is the one before it."""
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    trainable = [p for p in model.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(trainable, CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def run(
    model: Path,
    data: Path,
    *,
    eval_data: Path | None = None,
    max_steps: int | None = None,
    threads: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tune and measure.

    Args:
        model: packed Hugging Face folder with tokenizer.json.
        data: training records, a JSON array of {instruction, input, output}.
        eval_data: records whose loss is taken before and after training.
        max_steps: stop after so many steps; None runs one epoch.
        threads: CPU threads of PyTorch.
        seed: of the order of the records and of LoRA's start.

    Returns:
        A dictionary that JSON can hold: what ran ("versions", "threads", ...), "steps", "tokens"
        (real ones, of all steps), "tokens_per_second", "step_seconds_median", "losses" (per step,
        before its update), "eval_loss_before" and "eval_loss_after" (None without eval_data),
        "peak_rss_bytes".
    """
    libraries = import_libraries()
    torch = libraries.torch
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    network = load_model(libraries, model)
    tokenizer = libraries.tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    bos, eos = network.config.bos_token_id, network.config.eos_token_id
    examples = load_examples(data, tokenizer, bos, eos)
    random.Random(seed).shuffle(examples)
    batches = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    batches = batches[:max_steps]
    held_out = load_examples(eval_data, tokenizer, bos, eos) if eval_data else []
    before = evaluate(libraries, network, held_out) if held_out else None
    losses, seconds = train(torch, network, batches)
    after = evaluate(libraries, network, held_out) if held_out else None
    tokens = [sum(len(example.ids) for example in batch) for batch in batches]
    timed = slice(1, None) if len(batches) > 1 else slice(None)
    return {
        "versions": {
            "python": platform.python_version(),
            **{library.__name__: library.__version__ for library in libraries},
        },
        "model": model.name,
        "data": data.name,
        "threads": threads,
        "seed": seed,
        "steps": len(batches),
        "tokens": sum(tokens),
        "tokens_per_second": sum(tokens[timed]) / sum(seconds[timed]),
        "step_seconds_median": statistics.median(seconds[timed]),
        "losses": losses,
        "eval_loss_before": before,
        "eval_loss_after": after,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def train(torch: Any, model: Any, batches: list[list[Example]]) -> tuple[list[float], list[float]]:
    """Run every batch once; losses and seconds per step."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    losses, seconds = [], []
    model.train()
    for step, examples in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_factor(step, len(batches))
        start = time.perf_counter()
        losses.append(train_step(torch, model, optimizer, collate(torch, examples)))
        seconds.append(time.perf_counter() - start)
        print(f"step {step}/{len(batches)}: loss {losses[-1]:.4f}", file=sys.stderr)
    return losses, seconds


def positive(text: str) -> int:
    """Read a count from the command line."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {count}")
    return count


def main() -> None:
    """Parse the command line, run, print and write the result."""
    parser = argparse.ArgumentParser(
        description="LoRA fine-tuning of a BitNet model with transformers and PEFT on the CPU."
    )
    parser.add_argument("--model", type=Path, required=True, help="packed Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="training records (JSON)")
    parser.add_argument("--eval-data", type=Path, help="records to take the loss of")
    parser.add_argument("--max-steps", type=positive, help="stop early (default: one epoch)")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="order and LoRA's start (default: 0)")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = vars(parser.parse_args())
    target = options.pop("json")
    result = run(**options)
    if target is not None:
        target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for key in ("tokens_per_second", "step_seconds_median", "eval_loss_before", "eval_loss_after"):
        if result[key] is not None:
            print(f"{key:20} {result[key]:.3f}")


if __name__ == "__main__":
    main()
