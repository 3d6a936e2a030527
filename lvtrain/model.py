"""A trained system with its tokeniser: what `lvtrain.load` gives.

>>> model = lvtrain.load("runs/demo")
>>> model.generate(3)
>>> model.interpolate("the boy runs .", "two girls sing .", steps=5)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lvtrain.config import RunConfig, from_json, to_json
from lvtrain.data.store import Store
from lvtrain.data.tokenizer import EOS, PAD, Tokenizer
from lvtrain.errors import UserError
from lvtrain.generation.decode import DecodeConfig, decode
from lvtrain.generation.latent_space import CodeGaussian, fit_gaussian, lerp, slerp
from lvtrain.modules.latent import on_sphere
from lvtrain.randomness import Key
from lvtrain.systems import GenerativeSystem, LatentSystem, System, entry
from lvtrain.training import checkpoint

WEIGHTS, CONFIG, TOKENIZER, PRIOR = (
    "model.safetensors", "config.json", "tokenizer.json", "prior.safetensors",
)  # fmt: skip
# Sentences that the Gaussian of a plain autoencoder is fitted to.
PRIOR_SENTENCES = 20_000
# Seeds of draws that are made once a run rather than once a step.
_ONCE = -1


def build(config: RunConfig) -> System:
    """The system of a run with the parameters it starts from."""
    _, system = entry(config.system).load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(seed=config.train.seed, step=_ONCE, path=("init",)).value())
        return cast(System, system(config.model, config.vocab_size))


def read_config(folder: Path) -> RunConfig:
    """The configuration of a run; raises UserError where the folder holds none that fits."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder}: not a run: there is no {CONFIG}")
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    kind, _ = entry(str(data.get("system"))).load()
    model: Any = from_json(kind, data.pop("model", {}), f"{path}: model")
    return replace(from_json(RunConfig, {**data, "model": None}, str(path)), model=model)


class Model:
    """A trained system, ready to use.

    Where codes are asked for, the language model, which has none, raises UserError.
    """

    def __init__(
        self,
        config: RunConfig,
        system: System,
        tokenizer: Tokenizer,
        step: int,
        folder: Path,
        prior: CodeGaussian | None = None,
    ) -> None:
        self.config, self.system, self.tokenizer = config, system, tokenizer
        self.step, self.folder, self._prior = step, folder, prior
        for part in self.system.parts.values():
            part.eval()

    @classmethod
    def load(cls, folder: Path | str, which: str | int = "best") -> Model:
        """Load a run folder, at its "best" validated step, its "latest" or a given one; or a
        folder that `save_pretrained` wrote."""
        folder = Path(folder)
        if (folder / WEIGHTS).is_file():
            return cls.from_pretrained(folder)
        config = read_config(folder)
        found = checkpoint.latest(folder / "checkpoints")
        if found is None:
            raise UserError(f"{folder}: the run has no checkpoint yet")
        best = found.meta.get("best")
        step = best["step"] if which == "best" and best else which
        if isinstance(step, int) and step != found.step:
            found = checkpoint.at(folder / "checkpoints", step)
        system = build(config)
        for name, part in system.parts.items():
            state = found.tensors(name)
            part.load_state_dict(
                {n.removeprefix("module."): t for n, t in state.items() if n.startswith("module.")}
            )
        return cls(config, system, Tokenizer.load(folder / TOKENIZER), found.step, folder)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Model:
        """Load what `save_pretrained` wrote; runs no code from it."""
        folder = Path(folder)
        config = read_config(folder)
        system = build(config)
        path = folder / WEIGHTS
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a whole safetensors file: {error}") from None
        for name, part in system.parts.items():
            own = {n.removeprefix(f"{name}."): t for n, t in tensors.items()
                   if n.startswith(f"{name}.")}  # fmt: skip
            part.load_state_dict(own)
        prior = None
        if "prior.mean" in tensors:
            prior = CodeGaussian(tensors["prior.mean"], tensors["prior.factor"])
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        return cls(config, system, tokenizer, int(tensors["step"]), folder, prior)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the model alone (safetensors, JSON, tokeniser), to be used without its run."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{part}.{name}": tensor.detach().clone().contiguous()
            for part, module in self.system.parts.items()
            for name, tensor in module.state_dict().items()
        }
        tensors["step"] = torch.tensor(self.step)
        if not hasattr(self.system, "sample_codes"):
            tensors |= {f"prior.{k}": v for k, v in self.prior._asdict().items()}
        try:
            save_file(tensors, folder / WEIGHTS)
        except SafetensorError as error:
            raise UserError(f"{folder / WEIGHTS}: cannot be written: {error}") from None
        self.tokenizer.save(folder / TOKENIZER)
        (folder / CONFIG).write_text(json.dumps(to_json(self.config), indent=2))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        module = cast(nn.Module, self.system)
        return next(module.parameters()).device

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "N C"]:
        """The codes of sentences (a VAE's posterior means)."""
        tokens, lengths = self.batch(sentences)
        return self._encode(tokens, lengths)

    def decode(self, codes: Float[Tensor, "N C"], seed: int = 0, **how: Any) -> list[str]:
        """The sentences of codes; `how` holds fields of DecodeConfig, greedy by default."""
        config = replace(DecodeConfig(max_words=self.config.max_words), **how)
        key = Key(seed=seed, step=_ONCE, path=("decode",))
        return self.tokenizer.decode_batch(decode(self.system.decoder, codes, config, key))

    def generate(self, num: int, seed: int = 0, **how: Any) -> list[str]:
        """New sentences: codes from the prior or generator, decoded. A language model samples its
        words (temperature 1) unless told otherwise; the others take the likeliest."""
        if self.config.system == "lm":
            how = {"temperature": 1.0} | how
        return self.decode(self.sample_codes(num, seed), seed, **how)

    @torch.inference_mode()
    def sample_codes(self, num: int, seed: int = 0) -> Float[Tensor, "num C"]:
        """Codes from the prior or generator; from a plain autoencoder, from the Gaussian fitted to
        its codes."""
        key = Key(seed=seed, step=_ONCE, path=("sample",))
        if hasattr(self.system, "sample_codes"):
            return cast(GenerativeSystem, self.system).sample_codes(num, key, self.device)
        return self.prior.sample(key.normal(num, len(self.prior.mean), device=self.device))

    def reconstruct(self, sentences: Sequence[str]) -> list[str]:
        """Sentences through their codes and back."""
        return self.decode(self.encode(sentences))

    def interpolate(self, start: str, end: str, steps: int = 7) -> list[str]:
        """Sentences on the way from one to another: on the great circle between codes on a sphere,
        else on the straight line."""
        a, b = self.encode([start, end]).chunk(2)
        return self.decode(self.between(a, b, steps)[:, 0])

    def interpolations(self, num: int, steps: int = 7, seed: int = 0) -> list[list[str]]:
        """Sentences on the way between random codes of the prior or generator, `num` times."""
        a, b = self.sample_codes(2 * num, seed).chunk(2)
        ways = self.between(a, b, steps)
        sentences = self.decode(ways.transpose(0, 1).flatten(0, 1))
        return [sentences[i : i + steps] for i in range(0, len(sentences), steps)]

    def between(
        self, a: Float[Tensor, "B C"], b: Float[Tensor, "B C"], steps: int
    ) -> Float[Tensor, "steps B C"]:
        """Codes on the way from a to b."""
        return slerp(a, b, steps) if self.on_sphere else lerp(a, b, steps)

    def arithmetic(
        self,
        sentences: Sequence[str],
        plus: Sequence[str],
        minus: Sequence[str],
        scale: float = 1.0,
    ) -> list[str]:
        """`sentences` moved by scale · (mean code of `plus` − mean code of `minus`)."""
        offset = self.encode(plus).mean(0) - self.encode(minus).mean(0)
        codes = self.encode(sentences) + scale * offset
        if self.on_sphere:
            codes = on_sphere(codes, self._autoencoder.radius)
        return self.decode(codes)

    @property
    def on_sphere(self) -> bool:
        """Whether codes are normalised."""
        return bool(getattr(self._autoencoder, "normalize", False))

    @property
    def _autoencoder(self) -> Any:
        """The configuration of the text side."""
        return getattr(self.config.model, "autoencoder", self.config.model)

    @property
    def prior(self) -> CodeGaussian:
        """A plain autoencoder's Gaussian, fitted to codes of training sentences when first asked
        for and kept in the run folder."""
        if self._prior is None:
            path = self.folder / PRIOR
            kept = load_file(path) if path.is_file() else {}
            if kept and int(kept["step"]) == self.step:
                self._prior = CodeGaussian(kept["mean"], kept["factor"])
            else:
                self._prior = self._fit_prior()
                step = torch.tensor(self.step)
                save_file({**self._prior._asdict(), "step": step}, path)
        return self._prior

    def _fit_prior(self) -> CodeGaussian:
        from lvtrain.data.batches import Batches

        split = Store.open(self.config.store).split("train")
        size = min(1024, split.rows)
        batches = Batches(split, batch_size=size, seed=0)
        many = min(PRIOR_SENTENCES, split.rows) // size
        parts = (batches.at(i) for i in range(many))
        return fit_gaussian(torch.cat([self._encode(b.tokens, b.lengths) for b in parts]))

    @torch.inference_mode()
    def _encode(self, tokens: Tensor, lengths: Tensor, batch_size: int = 1024) -> Tensor:
        if not hasattr(self.system, "encode"):
            raise UserError(f"{self.folder}: a language model has no codes")
        latent = cast(LatentSystem, self.system)
        parts = zip(tokens.split(batch_size), lengths.split(batch_size), strict=True)
        return torch.cat([latent.encode(t[:, : int(n.max())], n) for t, n in parts])

    def batch(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sentences as ids [N, T], each ended by EOS and padded, and their lengths [N]."""
        if not sentences:
            raise UserError("expected at least one sentence, found none")
        rows = [[*ids, EOS] for ids in self.tokenizer.encode_batch(list(sentences))]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.full((len(rows), int(lengths.max())), PAD)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return tokens.to(self.device), lengths.to(self.device)
