r"""The PyTorch side of `bitgraph bench`: transformers and PEFT on the geometry of a model.

The model is built from its configuration alone, with random weights in bfloat16, so nothing is
downloaded. Its linear layers are plain ones: without the online quantizer that BitNet trains with,
this is the fastest that PyTorch does, not the most exact. Attention is sdpa.

Training: LoRA of rank 16, alpha 32, on all seven projections, forward, loss over all tokens,
backward, clipping to norm 1 and the fused AdamW. The adapters are float32 under autocast to
bfloat16, PEFT's default and what `bf16=True` of the Trainer of transformers does; an
`adapter_dtype` of bfloat16 takes them without autocast. No step waits for the one before.

Decoding: batch 1, greedy, with a static cache; once eagerly and once as a CUDA graph of a token's
step, replayed, through torch.compile if asked. Tokens stay on the device until the end, which
streaming could not do. Adapters, if any, are bfloat16 and unmerged.

A script of its own, for an interpreter that has PyTorch and may have nothing of this project:

    python torch_side.py train '{"geometry": {...}, "batch": 4, "length": 512, "steps": 20}'

The result is printed as one line of JSON.
"""

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any, NamedTuple

RANK, ALPHA, CLIP = 16, 32, 1.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WARMUP = 3
"""Steps that are run before the measured ones."""


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
        raise SystemExit("PyTorch sees no CUDA device; try --torch-device cpu with a small model")
    return libraries


def build_model(libraries: Libraries, geometry: dict[str, Any], device: str) -> Any:
    """The model in bfloat16 with random weights; `geometry` are fields of its configuration."""
    torch, transformers, _ = libraries
    torch.manual_seed(0)
    config = transformers.BitNetConfig(
        **geometry, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1
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
    geometry: dict[str, Any],
    batch: int,
    length: int,
    steps: int,
    *,
    device: str = "cuda",
    adapter_dtype: str = "float32",
    compiled: bool = False,
    checkpointing: bool = False,
) -> dict[str, Any]:
    """Train on random tokens and measure.

    Args:
        geometry: of the model.
        batch: sequences a step.
        length: tokens of each, all labelled.
        steps: measured ones, after `WARMUP` others.
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
    model = add_adapters(libraries, build_model(libraries, geometry, device), mixed)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=2e-4, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if compiled else model
    ids = torch.randint(0, geometry["vocab_size"], (batch, length), device=device)

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16) if mixed else nullcontext():
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    reset_memory(torch, device)
    loss, seconds = timed(torch, device, step, steps)
    times = spread("step_seconds", seconds)
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
        **times,
        "tokens_per_second": batch * length / times["step_seconds"],
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


def timed(torch: Any, device: str, work: Callable[[], Any], rounds: int) -> tuple[Any, list[float]]:
    """What the last round of some work gives, and the seconds of each, `WARMUP` others before."""
    for _ in range(WARMUP):
        work()
    clock = Clock(torch, device)
    for _ in range(rounds):
        result = work()
        clock.lap()
    return result, clock.seconds()


class Decoder:
    """Greedy decoding whose token, position and output are tensors that stay where they are."""

    def __init__(
        self, libraries: Libraries, model: Any, prompt: Any, tokens: int, step_model: Any = None
    ) -> None:
        """Prepare to continue `prompt` [1, P] by `tokens` tokens, the first of the prefill.

        `step_model` does the steps, if it is another one than for the prompt.
        """
        torch = self._torch = libraries.torch
        self._model, self._step_model = model, step_model or model
        self._prompt, self._steps = prompt, tokens - 1
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

    def speeds(self, step: Callable[[], None], rounds: int) -> tuple[list[int], list[float]]:
        """The tokens behind the prompt, and tokens per second of some rounds."""
        runs = [self.run(step) for _ in range(rounds)]
        return runs[-1][0], [self._steps / seconds for _, seconds in runs]

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
        logits = self._step_model(
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
    geometry: dict[str, Any],
    tokens: int,
    *,
    rounds: int = 1,
    prompt: int = 64,
    lora: bool = False,
    compiled: bool = False,
    device: str = "cuda",
) -> dict[str, Any]:
    """Continue a random prompt greedily and measure.

    Args:
        geometry: of the model.
        tokens: to generate, more than `WARMUP`.
        rounds: measured ones.
        prompt: tokens of the prompt.
        lora: with adapters, unmerged.
        compiled: through torch.compile.
        device: "cuda", or "cpu" without the CUDA graph.

    Returns:
        A dictionary that JSON can hold: what ran, "mode" (eager, or how the quickest was made),
        "tokens_per_second" of that mode without the prefill, the median of the rounds,
        "eager_per_second", "same_tokens" (whether both ways gave the same), "graph_error" (why
        there is no graph, if CUDA has none), and on CUDA "memory_allocated" and "memory_reserved",
        the allocator's peaks in bytes.
    """
    libraries = import_libraries(device)
    torch = libraries.torch
    model = prepared(libraries, geometry, device, lora)
    forward = torch.compile(model, dynamic=False) if compiled else model
    ids = torch.randint(0, geometry["vocab_size"], (1, prompt), device=device)
    reset_memory(torch, device)
    with torch.no_grad():
        decoder = Decoder(libraries, model, ids, tokens, forward)
        decoder.run(decoder.step, WARMUP)
        given, speeds = decoder.speeds(decoder.step, rounds)
        mode = "compile" if compiled else "eager"
        same = problem = eager = None
        if device == "cuda":
            try:
                replay = decoder.capture()
                decoder.run(replay, WARMUP)
                eager, (graph, speeds) = speeds, decoder.speeds(replay, rounds)
                same = graph == given
                mode = f"{mode} + CUDA graph" if compiled else "CUDA graph"
            except RuntimeError as error:  # what has been measured is kept
                problem = str(error)
    return {
        **describe(libraries, device),
        "mode": mode,
        "tokens": tokens,
        "prompt": prompt,
        "rounds": rounds,
        "lora": lora,
        **spread("tokens_per_second", speeds),
        "without_graph_per_second": statistics.median(eager) if eager else None,
        "same_tokens": same,
        "graph_error": problem,
        **memory(torch, device),
    }


def run_prefill(
    geometry: dict[str, Any],
    prompt: int,
    *,
    rounds: int = 5,
    lora: bool = False,
    compiled: bool = False,
    device: str = "cuda",
) -> dict[str, Any]:
    """Feed a prompt into an empty static cache and choose the token behind it.

    Returns:
        "prefill_seconds", the median of the rounds, and what `run_decode` gives beside it.
    """
    libraries = import_libraries(device)
    torch = libraries.torch
    model = prepared(libraries, geometry, device, lora)
    forward = torch.compile(model, dynamic=False) if compiled else model
    ids = torch.randint(0, geometry["vocab_size"], (1, prompt), device=device)
    reset_memory(torch, device)
    with torch.no_grad():
        decoder = Decoder(libraries, forward, ids, 64)
        _, seconds = timed(torch, device, decoder.prefill, rounds)
    times = spread("prefill_seconds", seconds)
    return {
        **describe(libraries, device),
        "mode": "compile" if compiled else "eager",
        "prompt": prompt,
        "rounds": rounds,
        "lora": lora,
        **times,
        "tokens_per_second": prompt / times["prefill_seconds"],
        **memory(torch, device),
    }


def run_products(
    shapes: list[list[int]], *, rounds: int = 20, device: str = "cuda"
) -> dict[str, Any]:
    """Products x w^T in bfloat16, [rows, inner] by [columns, inner]: what cuBLAS does.

    Args:
        shapes: rows, columns and inner length of each.
        rounds: measured ones, each of so many products that it takes a while.
        device: "cuda" or "cpu".

    Returns:
        "products": for each shape, "seconds" of one product and "operations_per_second".
    """
    libraries = import_libraries(device)
    torch = libraries.torch
    found = []
    for rows, columns, inner in shapes:
        x = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
        w = torch.randn(columns, inner, device=device, dtype=torch.bfloat16)
        operations = 2 * rows * columns * inner
        repeats = max(1, min(100, int(2e11 / operations)))

        def products(x: Any = x, w: Any = w, repeats: int = repeats) -> None:
            for _ in range(repeats):
                x @ w.T

        _, seconds = timed(torch, device, products, rounds)
        times = spread("seconds", [lap / repeats for lap in seconds])
        name = f"{rows}x{columns}x{inner}"
        speed = operations / times["seconds"]
        found.append({"shape": name, **times, "operations_per_second": speed})
    return {**describe(libraries, device), "mode": "bf16", "products": found}


def prepared(libraries: Libraries, geometry: dict[str, Any], device: str, lora: bool) -> Any:
    """The model ready to answer, perhaps with adapters."""
    model = build_model(libraries, geometry, device)
    if lora:
        model = add_adapters(libraries, model, float32=False)
    return model.eval()


def spread(name: str, values: list[float]) -> dict[str, Any]:
    """The median under a name; least, quartiles and largest beside it."""
    parts = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {name: parts[1], f"{name}_spread": [min(values), parts[0], parts[2], max(values)]}


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
    """Run what the command line names with the arguments that it gives as JSON."""
    jobs: dict[str, Callable[..., dict[str, Any]]] = {
        "train": run_train,
        "decode": run_decode,
        "prefill": run_prefill,
        "products": run_products,
    }
    name, arguments = sys.argv[1:]
    print(json.dumps(jobs[name](**json.loads(arguments))))


if __name__ == "__main__":
    main()
