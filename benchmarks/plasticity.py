"""What the plasticity library costs, as ratios measured in one run.

    python -m benchmarks.plasticity [--gpu] [--json FILE] [--write]

Every ratio compares two ways of doing the same thing in interleaved rounds; the fastest of each
counts, as other processes only ever slow things down.
--write puts the table into docs/plasticity.md.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from isorl.plasticity import (
    AdamO,
    NetworkSpec,
    build_mlp,
    build_nature_cnn,
    diagnose,
    empirical_ntk,
    initialise_,
    parameter_groups,
    project_,
)
from isorl.plasticity.diagnostics import DEFAULT_METRICS
from isorl.plasticity.diagnostics.spectra import masked_singular_values
from isorl.plasticity.networks.activations import MaxMin

DOCS = Path(__file__).parents[1] / "docs" / "plasticity.md"
IMAGE = (4, 84, 84)
Row = tuple[str, str, str, str]


def main() -> None:
    """Runs all comparisons and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="measure on CUDA instead of one CPU thread")
    parser.add_argument("--write", action="store_true", help="write the table into docs/plasticity.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows are kept")
    arguments = parser.parse_args()
    device = torch.device("cuda" if arguments.gpu else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[Row] = []
    with threadpool_limits(1, "blas"):  # numpy's
        for section in SECTIONS:
            for row in attempted(section, device):
                print(" | ".join(row), flush=True)
                rows.append(row)
                if arguments.json:
                    arguments.json.write_text(json.dumps({"where": where(device), "rows": rows}))
    if arguments.write:
        write(rows, device.type, where(device))


def attempted(section: Callable[[torch.device], list[Row]], device: torch.device) -> list[Row]:
    """Returns the rows of a section; one that says why, where it fails: the others are measured all the same."""
    try:
        return section(device)
    except Exception as error:
        return [(section.__name__, "-", f"failed: {str(error).splitlines()[0]}", "-")]


def kernels(device: torch.device) -> list[Row]:
    """The empirical NTK of 128 samples and 4 outputs against vmap(jacrev)."""
    cases = {
        "Nature CNN": (cnn(NetworkSpec(), 4), torch.rand(128, *IMAGE), 15),
        "MLP 4 x 512": (mlp(NetworkSpec((512,) * 4), 64, 4), torch.randn(128, 64), 100),
    }
    rows = []
    for name, (network, x, goal) in cases.items():
        network, x = network.to(device), x.to(device)
        fast, slow = timed(partial(empirical_ntk, network, x), partial(ntk_by_jacrev, network, x), 1)
        K, expected = empirical_ntk(network, x), ntk_by_jacrev(network, x)
        error = ((K - expected).abs().max() / expected.abs().max()).item()
        text = f"{slow / fast:.0f} x faster ({ms(fast)} against {ms(slow)}), equal to {error:.0e}"
        rows.append((f"NTK, 128 samples x 4 outputs, {name}", "`vmap(jacrev)`", text, f"{goal} x, 1e-5"))
    return rows


def spectra(device: torch.device) -> list[Row]:
    """Spectra of 16 masked 512 x 3136 layers against svdvals."""
    W = torch.randn(512, 3136, device=device) / 56
    d = (torch.rand(16, 512, device=device) > 0.5).float()
    masked = d[:, :, None] * W
    fast, slow = timed(partial(masked_singular_values, W, d), partial(torch.linalg.svdvals, masked), 3)
    expected = torch.linalg.svdvals(masked.double()).flip(1)
    error = (masked_singular_values(W, d) - expected).abs().max().item()
    text = f"{slow / fast:.0f} x faster ({ms(fast)} against {ms(slow)}), equal to {error:.0e}"
    return [("singular values of 16 ReLU-masked 512 x 3136 layers", "`svdvals`", text, "40 x, 1e-3")]


def optimizer(device: torch.device) -> list[Row]:
    """A PPO minibatch of 256 images through the Nature CNN, and one of 64 vectors through an MLP."""
    images = torch.randint(0, 256, (256, *IMAGE), dtype=torch.uint8, device=device)
    vectors = torch.randn(64, 4, device=device)
    rows = []
    for label, every, goal in (("default iso_every", None, "1.05"), ("iso_every=1", 1, "1.15")):
        what = f"PPO minibatch with AdamO, {label}"
        ratio = adamo_ratio(shared_cnn(device), images, every, 9)
        rows.append((f"{what}, Nature CNN, batch 256", "fused Adam", f"{ratio:.3f} x the time", goal))
        ratio = adamo_ratio(pair_of_mlps(device), vectors, every, 100)
        rows.append((f"{what}, two MLPs 2 x 64, batch 64", "fused Adam", f"{ratio:.2f} x the time", "-"))
    return rows


def adamo_ratio(networks: nn.ModuleDict, x: Tensor, every: int | None, rounds: int) -> float:
    """Time of a PPO minibatch with AdamO over that with Adam.

    AdamO's step is Adam's and the isometry step, so only the latter is timed against whole minibatches: a
    difference of two whole times would drown in the noise of a busy machine.
    """
    groups = parameter_groups(networks, heads=["actor.1", "critic.1"])
    adamo = AdamO(groups, fused=True, **({} if every is None else {"iso_every": every}))
    adam = torch.optim.Adam(groups, fused=True)

    def isometry_steps() -> None:
        for _ in range(4):
            adamo.isometry_step()

    minibatches = ppo_updates(networks, adam, x)
    minibatches()  # leaves the gradients that the isometry step asks for
    extra, base = timed(isometry_steps, minibatches, rounds)
    return 1 + extra / base


def ppo_updates(networks: nn.ModuleDict, optimizer: torch.optim.Optimizer, x: Tensor) -> Callable[[], None]:
    """Four minibatches of PPO: clipped policy loss, value loss, entropy, gradient clipping, step."""
    batch = len(x)
    actions = torch.zeros(batch, dtype=torch.long, device=x.device)
    advantages, returns, old_log_prob = torch.randn(3, batch, device=x.device)

    def minibatch() -> None:
        """One update."""
        observations = x.float() / 255 if x.dtype == torch.uint8 else x
        (actor, policy_head), (critic, value_head) = networks["actor"], networks["critic"]
        features = actor(observations)
        values = value_head(features if critic is actor else critic(observations))[:, 0]
        policy = torch.distributions.Categorical(logits=policy_head(features))
        ratio = (policy.log_prob(actions) - old_log_prob).exp()
        a = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_loss = -torch.min(a * ratio, a * ratio.clamp(0.8, 1.2)).mean()
        value_loss = (values - returns).square().mean()
        optimizer.zero_grad()
        (policy_loss + 0.5 * value_loss - 0.01 * policy.entropy().mean()).backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 0.5)
        optimizer.step()

    def minibatches() -> None:  # the default isometry step comes with every fourth
        for _ in range(4):
            minibatch()

    return minibatches


def orthogonality(device: torch.device) -> list[Row]:
    """The three ways to keep weights orthogonal: a whole update, and inference."""
    cases: dict[str, tuple[Callable[[NetworkSpec], nn.Module], Tensor, int, str]] = {
        "Nature CNN, batch 256": (lambda spec: cnn(spec, 4), torch.rand(256, *IMAGE), 5, "overlapping"),
        "Nature CNN of patches, batch 256": (
            lambda spec: cnn(spec, 4),
            torch.rand(256, *IMAGE),
            5,
            "patches",
        ),
        "MLP 4 x 512, batch 64": (lambda spec: mlp(spec, 64, 4), torch.randn(64, 64), 20, "auto"),
    }
    rows = []
    for name, (build, x, rounds, kind_of) in cases.items():
        x = x.to(device)
        plain = build(NetworkSpec((512,) * 4)).to(device)
        adam = update(plain, torch.optim.Adam(parameter_groups(plain), fused=True), x)
        for isometry in ("none", "soft", "projected", "hard"):
            spec = NetworkSpec((512,) * 4, "maxmin", isometry=isometry, convolutions=kind_of)
            network = build(spec).to(device)
            kind = AdamO if isometry == "soft" else torch.optim.Adam
            ours = update(network, kind(parameter_groups(network, heads=["1"]), fused=True), x)
            step, base = timed(ours, adam, rounds)
            run, run_base = timed(inference(network, x), inference(plain, x), rounds)
            text = f"{step / base:.2f} x per update, {run / run_base:.2f} x per inference of 8"
            rows.append((f"MaxMin, isometry={isometry}, {name}", "plain ReLU, Adam", text, "-"))
    return rows


def orthogonal_convolutions(device: torch.device) -> list[Row]:
    """Orthogonal convolutions of a library in the Nature geometry (AOC, Boissin et al. 2025), where it is installed.

    `pip install --no-deps orthogonium` beforehand.
    """
    if importlib.util.find_spec("orthogonium") is None:
        return []
    conv = importlib.import_module("orthogonium.layers.conv.AOC").AdaptiveOrthoConv2d
    linear = importlib.import_module("orthogonium.layers.linear").OrthoLinear
    network = nn.Sequential(
        conv(4, 32, 8, stride=4, padding=2), MaxMin(dim=1),
        conv(32, 64, 4, stride=2, padding=1), MaxMin(dim=1),
        conv(64, 64, 3, padding=0), MaxMin(dim=1),
        nn.Flatten(), linear(64 * 8 * 8, 512), MaxMin(),
    ).to(device)  # fmt: skip
    plain = build_nature_cnn(IMAGE, NetworkSpec()).to(device)
    x = torch.rand(256, *IMAGE).to(device)
    adam = [update(net, torch.optim.Adam(net.parameters(), fused=True), x) for net in (network, plain)]
    step, base = timed(*adam, 3)
    run, run_base = timed(inference(network, x), inference(plain, x), 3)
    text = f"{step / base:.2f} x per update, {run / run_base:.2f} x per inference of 8"
    return [("MaxMin, convolutions of orthogonium, Nature CNN, batch 256", "plain ReLU, Adam", text, "-")]


def default_diagnostics(device: torch.device) -> list[Row]:
    """`diagnose` with its default metrics for an actor and a critic, in units of a training update."""
    atari, cartpole = shared_cnn(device), pair_of_mlps(device)
    return [
        diagnose_row("Atari, shared Nature CNN, 18 actions", atari, torch.rand(256, *IMAGE).to(device), 256),
        diagnose_row("CartPole, two MLPs 2 x 64", cartpole, torch.randn(256, 4).to(device), 64),
    ]


def on_the_device(device: torch.device) -> list[Row]:
    """Spectra, dormant units and NTK of an Atari network where it trains, against the same on the CPU."""
    spectra_of_layers = ("layer_jacobian_min", "layer_jacobian_max", "layer_jacobian_spectrum")
    cases: dict[str, tuple[Sequence[str], int, str]] = {
        "all layers' spectra, 256 samples": (spectra_of_layers, 256, "50 ms, 1e-3"),
        "default metrics, 256 samples": (DEFAULT_METRICS, 256, "-, 1e-3"),
        "the NTK's spectrum, 512 samples": (("ntk_spectrum",), 512, "-, 1e-3"),
    }
    here = shared_cnn(torch.device("cpu"))["actor"]
    there = copy.deepcopy(here).to(device)
    rows = []
    for name, (metrics, samples, goal) in cases.items():
        x = torch.rand(samples, *IMAGE)
        measure = partial(diagnose, {"actor": there}, x.to(device), metrics)
        differ = largest_difference(measure(), diagnose({"actor": here}, x, metrics))
        seconds = min(lasted(measure) for _ in range(3))
        rows.append(
            (f"`diagnose`, Nature CNN, {name}", "the CPU", f"{ms(seconds)}, equal to {differ:.0e}", goal)
        )
    return rows


def largest_difference(found: Mapping[str, float | Tensor], expected: Mapping[str, float | Tensor]) -> float:
    """Returns the largest difference of two measurements, each relative to the largest number of its spectrum."""
    pairs = [(torch.as_tensor(found[name]), torch.as_tensor(value)) for name, value in expected.items()]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for a, b in pairs)


def lasted(function: Callable[[], object]) -> float:
    """Returns the seconds that a call takes."""
    start = clock()
    function()
    return clock() - start


def diagnose_row(name: str, networks: nn.ModuleDict, x: Tensor, batch: int) -> Row:
    """One call on 256 samples against one update of the actor."""
    actor = networks["actor"]
    adam = update(actor, torch.optim.Adam(actor.parameters(), fused=True), x[:batch])
    measure, base = timed(lambda: diagnose(dict(networks), x), adam, 3)
    text = f"{ms(measure)} = {4 * measure / base:.0f} updates: 2 % at one call per {200 * measure / base:.0f} updates"
    return (f"`diagnose`, default metrics, {name}", f"actor update, batch {batch}", text, "2 % of training")


def cnn(spec: NetworkSpec, outputs: int) -> nn.Module:
    """A CNN body with a linear head, orthogonally initialised as PPO's."""
    body = build_nature_cnn(IMAGE, spec)
    initialise_(
        body, NetworkSpec(spec.widths, spec.activation, gain=2**0.5) if spec.isometry == "none" else spec
    )
    return nn.Sequential(body, nn.Linear(body.out_features, outputs))


def mlp(spec: NetworkSpec, inputs: int, outputs: int) -> nn.Module:
    """An MLP body with a linear head."""
    body = build_mlp(inputs, spec)
    return nn.Sequential(body, nn.Linear(body.out_features, outputs))


def shared_cnn(device: torch.device) -> nn.ModuleDict:
    """Actor and critic on one body."""
    body = build_nature_cnn(IMAGE, NetworkSpec())
    heads = {"actor": nn.Linear(512, 18), "critic": nn.Linear(512, 1)}
    return nn.ModuleDict({name: nn.Sequential(body, head) for name, head in heads.items()}).to(device)


def pair_of_mlps(device: torch.device) -> nn.ModuleDict:
    """Actor and critic apart."""
    spec = NetworkSpec(activation="tanh")
    return nn.ModuleDict({"actor": mlp(spec, 4, 2), "critic": mlp(spec, 4, 1)}).to(device)


def ntk_by_jacrev(network: nn.Module, x: Tensor) -> Tensor:
    """The kernel from the Jacobian by all parameters, 16 samples at a time to bound memory."""
    parameters = dict(network.named_parameters())

    def f(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(network, parameters, (x[None],))[0]

    jacobian = torch.func.vmap(torch.func.jacrev(f), (None, 0), chunk_size=16)
    J = torch.cat([j.flatten(2) for j in jacobian(parameters, x).values()], 2).flatten(0, 1).detach()
    return J @ J.mT


def update(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Callable[[], None]:
    """Four updates on a squared loss: the default isometry step comes with every fourth."""

    def steps() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
            project_(network)

    return steps


def inference(network: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward pass of 8 samples, as in a rollout."""

    def run() -> None:
        with torch.no_grad():
            network(x[:8])

    return run


def timed(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Seconds of both, the least of interleaved rounds after one that warms up."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + (rounds > 1)):
        for function, record in zip((first, second), times, strict=True):
            start = clock()
            function()
            if i or rounds == 1:
                record.append(clock() - start)
    return min(times[0]), min(times[1])


def clock() -> float:
    """Seconds of this process on its CPU thread, blind to what else the machine does; of the wall on a GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def ms(seconds: float) -> str:
    """Milliseconds in words."""
    return f"{1e3 * seconds:,.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


def where(device: torch.device) -> str:
    """Returns what the rows were measured on."""
    return f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'one CPU thread'}, torch {torch.__version__}"


def write(rows: Sequence[Sequence[str]], device: str, place: str) -> None:
    """Replaces the table between the markers of a device, "cpu" or "cuda", in docs/plasticity.md."""
    lines = [f"Measured on {place}.", ""]
    lines += ["| what | against | measured | goal |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    start, end = f"<!-- benchmark {device} -->", f"<!-- end benchmark {device} -->"
    pattern = re.compile(f"{start}.*?{end}", re.DOTALL)
    table = "\n".join([start, *lines, end])
    DOCS.write_text(pattern.sub(lambda _: table, DOCS.read_text()))


SECTIONS = (
    kernels,
    spectra,
    optimizer,
    orthogonality,
    orthogonal_convolutions,
    default_diagnostics,
    on_the_device,
)

if __name__ == "__main__":
    main()
