r"""The PyTorch side of the GPU comparison: transformers and PEFT on the 2B-4T geometry.

The model is built from its configuration alone, with random weights in bfloat16, so nothing is
downloaded. Its linear layers are plain ones: without the online quantizer that BitNet trains with,
this is the fastest that PyTorch does, not the most exact. Attention is sdpa.

Training: LoRA of rank 16, alpha 32, on all seven projections, forward, loss over all tokens,
backward, clipping to norm 1 and the fused AdamW. The adapters are float32 under autocast to
bfloat16, PEFT's default and what `bf16=True` of the Trainer of transformers does;
`--adapter-dtype bfloat16` takes them without autocast. No step waits for the one before.

Decoding: batch 1, greedy, with a static cache; once eagerly and once as a CUDA graph of a token's
step, replayed. Tokens stay on the device until the end, which streaming could not do. Adapters,
if any, are bfloat16 and unmerged.

Needs the `torch` extra (pip install bitgraph[torch]), nothing else of this project:

    python benchmarks/peft_gpu.py train --batch 4 --length 512
    python benchmarks/peft_gpu.py decode --tokens 256

The result is printed as one line of JSON.
"""

import argparse
import importlib
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any, NamedTuple

from peft_cpu import ALPHA, CLIP, RANK, TARGETS

WARMUP = 3
"""Steps that are run before the measured ones."""

SIZES = {
    "2b-4t": {
        "vocab_size": 128256,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 30,
        "num_attention_heads": 20,
        "num_key_value_heads": 5,
        "max_position_embeddings": 4096,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    },
}


class Libraries(NamedTuple):
    """The packages that are only imported when the benchmark runs."""

    torch: ModuleType
    transformers: ModuleType
    peft: ModuleType


def import_libraries(device: str) -> Libraries:
    """Import PyTorch and the rest, with downloads off.

    Raises:
        SystemExit: one of them is not installed, or PyTorch sees no such device.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        libraries = Libraries(*(importlib.import_module(name) for name in Libraries._fields))
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed; this side of the comparison needs PyTorch: "
            "pip install bitgraph[torch]"
        ) from None
    if device == "cuda" and not libraries.torch.cuda.is_available():
        raise SystemExit("PyTorch sees no CUDA device; try --device cpu --size tiny")
    return libraries


def build_model(libraries: Libraries, size: str, device: str) -> Any:
    """The model in bfloat16 with random weights."""
    torch, transformers, _ = libraries
    torch.manual_seed(0)
    config = transformers.BitNetConfig(
        **SIZES[size], tie_word_embeddings=True, bos_token_id=0, eos_token_id=1
    )
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )


def add_adapters(libraries: Libraries, model: Any, float32: bool) -> Any:
    """The model with LoRA on all projections, the adapters in float32 or like the model."""
    config = libraries.peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    return libraries.peft.get_peft_model(model, config, autocast_adapter_dtype=float32)


def run_train(
    batch: int,
    length: int,
    steps: int,
    *,
    size: str = "2b-4t",
    device: str = "cuda",
    adapter_dtype: str = "float32",
    compiled: bool = False,
    checkpointing: bool = False,
) -> dict[str, Any]:
    """Train on random tokens and measure.

    Args:
        batch: sequences a step.
        length: tokens of each, all labelled.
        steps: measured ones, after `WARMUP` others.
        size: a key of `SIZES`.
        device: "cuda" or "cpu".
        adapter_dtype: "float32" with autocast to bfloat16, or "bfloat16" without.
        compiled: through torch.compile.
        checkpointing: with gradient checkpointing.

    Returns:
        A dictionary that JSON can hold: what ran, "step_seconds" (their median),
        "tokens_per_second" (from it), "loss" (of the last step), and on CUDA
        "memory_allocated" and "memory_reserved", the allocator's peaks in bytes.
    """
    libraries = import_libraries(device)
    torch = libraries.torch
    mixed = adapter_dtype == "float32"
    model = add_adapters(libraries, build_model(libraries, size, device), mixed)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=2e-4, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if compiled else model
    ids = torch.randint(0, SIZES[size]["vocab_size"], (batch, length), device=device)

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16) if mixed else nullcontext():
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    reset_memory(torch, device)
    for _ in range(WARMUP):
        loss = step()
    clock = Clock(torch, device)
    for _ in range(steps):
        loss = step()
        clock.lap()
    median = statistics.median(clock.seconds())
    return {
        **describe(libraries, device),
        "mode": "compile" if compiled else "eager",
        "checkpointing": checkpointing,
        "adapter_dtype": adapter_dtype,
        "batch": batch,
        "length": length,
        "steps": steps,
        "trained_parameters": sum(p.numel() for p in trainable),
        "loss": float(loss),
        "step_seconds": median,
        "tokens_per_second": batch * length / median,
        **memory(torch, device),
    }


class Clock:
    """Laps of a loop, taken on the device where it has events, so that no lap makes it wait."""

    def __init__(self, torch: Any, device: str) -> None:
        self._torch = torch if device == "cuda" else None
        if self._torch:
            self._torch.cuda.synchronize()
        self._marks = [self._mark()]

    def lap(self) -> None:
        """End a lap."""
        self._marks.append(self._mark())

    def seconds(self) -> list[float]:
        """Seconds of every lap; waits for the device."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._torch:
            self._torch.cuda.synchronize()
            return [begin.elapsed_time(end) / 1e3 for begin, end in pairs]
        return [end - begin for begin, end in pairs]

    def _mark(self) -> Any:
        if self._torch is None:
            return time.perf_counter()
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Decoder:
    """Greedy decoding whose token, position and output are tensors that stay where they are."""

    def __init__(self, libraries: Libraries, model: Any, prompt: Any, tokens: int) -> None:
        """Prepare to continue `prompt` [1, P] by `tokens` tokens, the first of the prefill."""
        torch = self._torch = libraries.torch
        self._model, self._prompt, self._steps = model, prompt, tokens - 1
        slots = prompt.shape[1] + tokens
        self._cache = libraries.transformers.StaticCache(config=model.config, max_cache_len=slots)
        self._slots = torch.arange(slots, device=prompt.device)
        self._position = torch.zeros(1, dtype=torch.long, device=prompt.device)
        self._token = torch.zeros((1, 1), dtype=torch.long, device=prompt.device)
        self._output = torch.zeros(slots, dtype=torch.long, device=prompt.device)

    def run(self, step: Callable[[], None], steps: int | None = None) -> tuple[list[int], float]:
        """The tokens behind the prompt, and the seconds of all but the first."""
        self.prefill()
        self._synchronize()
        begin = time.perf_counter()
        for _ in range(self._steps if steps is None else steps):
            step()
        self._synchronize()
        seconds = time.perf_counter() - begin
        return self._output[self._prompt.shape[1] :].tolist(), seconds

    def prefill(self) -> None:
        """Fill the empty cache with the prompt and choose the first token."""
        self._cache.reset()
        self._position.fill_(self._prompt.shape[1])
        logits = self._model(
            input_ids=self._prompt, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        ).logits
        self._choose(logits)

    def step(self) -> None:
        """Feed the token, choose the next; no value leaves the device."""
        mask = (self._slots <= self._position).view(1, 1, 1, -1)
        logits = self._model(
            input_ids=self._token,
            attention_mask=mask,
            position_ids=self._position.view(1, 1),
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        self._position.add_(1)
        self._choose(logits)

    def capture(self) -> Callable[[], None]:
        """The step as a CUDA graph; returns its replay."""
        torch = self._torch
        self.prefill()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        replay: Callable[[], None] = graph.replay
        return replay

    def _choose(self, logits: Any) -> None:
        """Keep the most probable token, under the position it will be fed at."""
        self._token.copy_(logits[:, -1].argmax(-1, keepdim=True))
        self._output.index_copy_(0, self._position, self._token.view(1))

    def _synchronize(self) -> None:
        if self._token.is_cuda:
            self._torch.cuda.synchronize()


def run_decode(
    tokens: int,
    *,
    prompt: int = 64,
    lora: bool = False,
    size: str = "2b-4t",
    device: str = "cuda",
) -> dict[str, Any]:
    """Continue a random prompt greedily and measure.

    Args:
        tokens: to generate, more than `WARMUP`.
        prompt: tokens of the prompt.
        lora: with adapters, unmerged.
        size: a key of `SIZES`.
        device: "cuda", or "cpu" without the CUDA graph.

    Returns:
        A dictionary that JSON can hold: what ran, "tokens_per_second" without the prefill ("graph"
        and "eager"), "prefill_seconds", "same_tokens" (whether both ways gave the same),
        "graph_error" (why there is no graph, if CUDA has none), and on CUDA "memory_allocated"
        and "memory_reserved", the allocator's peaks in bytes.
    """
    libraries = import_libraries(device)
    torch = libraries.torch
    model = build_model(libraries, size, device)
    if lora:
        model = add_adapters(libraries, model, float32=False)
    model.eval()
    ids = torch.randint(0, SIZES[size]["vocab_size"], (1, prompt), device=device)
    reset_memory(torch, device)
    with torch.no_grad():
        decoder = Decoder(libraries, model, ids, tokens)
        decoder.run(decoder.step, WARMUP)
        clock = Clock(torch, device)
        decoder.prefill()
        clock.lap()
        (prefill,) = clock.seconds()
        eager, seconds = decoder.run(decoder.step)
        speeds = {"eager": (tokens - 1) / seconds}
        same = problem = None
        if device == "cuda":
            try:
                replay = decoder.capture()
                decoder.run(replay, WARMUP)
                graph, seconds = decoder.run(replay)
                speeds["graph"] = (tokens - 1) / seconds
                same = graph == eager
            except RuntimeError as error:  # what has been measured is kept
                problem = str(error)
    return {
        **describe(libraries, device),
        "tokens": tokens,
        "prompt": prompt,
        "lora": lora,
        "tokens_per_second": speeds,
        "prefill_seconds": prefill,
        "same_tokens": same,
        "graph_error": problem,
        **memory(torch, device),
    }


def describe(libraries: Libraries, device: str) -> dict[str, Any]:
    """What the result was measured with."""
    name = libraries.torch.cuda.get_device_name() if device == "cuda" else "CPU"
    versions = {library.__name__: library.__version__ for library in libraries}
    return {"side": "torch", "device": name, "versions": versions}


def reset_memory(torch: Any, device: str) -> None:
    """Start the peaks of `memory` afresh."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def memory(torch: Any, device: str) -> dict[str, int]:
    """The allocator's peaks in bytes."""
    if device != "cuda":
        return {}
    return {
        "memory_allocated": torch.cuda.max_memory_allocated(),
        "memory_reserved": torch.cuda.max_memory_reserved(),
    }


def main() -> None:
    """Parse the command line, run, print the result."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--size", choices=list(SIZES), default="2b-4t", help="(default: 2b-4t)")
    common.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser = argparse.ArgumentParser(description="transformers and PEFT on the GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", parents=[common], help="LoRA training steps")
    train.add_argument("--batch", type=int, default=1, help="sequences a step (default: 1)")
    train.add_argument("--length", type=int, default=512, help="tokens of each (default: 512)")
    train.add_argument("--steps", type=int, default=20, help="measured steps (default: 20)")
    train.add_argument("--adapter-dtype", choices=["float32", "bfloat16"], default="float32")
    train.add_argument("--compile", dest="compiled", action="store_true")
    train.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    decode = commands.add_parser("decode", parents=[common], help="greedy decoding, batch 1")
    decode.add_argument("--tokens", type=int, default=256, help="to generate (default: 256)")
    decode.add_argument("--prompt", type=int, default=64, help="tokens of it (default: 64)")
    decode.add_argument("--lora", action="store_true", help="with adapters")
    options = vars(parser.parse_args())
    command = options.pop("command")
    print(json.dumps(run_train(**options) if command == "train" else run_decode(**options)))


if __name__ == "__main__":
    main()
