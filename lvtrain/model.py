"""A trained system with its tokeniser: what `lvtrain.load` gives.

>>> model = lvtrain.load("runs/demo")
>>> model.generate(3)
>>> model.interpolate("the boy runs .", "two girls sing .", steps=5)
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvtrain.config import RunConfig, to_json
from lvtrain.data.store import Store
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.errors import UserError, nearest
from lvtrain.generation.beam import BeamConfig
from lvtrain.generation.chosen import chosen, load_mean
from lvtrain.generation.decode import DecodeConfig, decode
from lvtrain.generation.encode import encode, rows
from lvtrain.generation.latent_space import (
    CodeGaussian,
    fit_gaussian,
    lerp,
    read_gaussian,
    slerp,
    write_gaussian,
)
from lvtrain.generation.limits import check_number
from lvtrain.generation.recorded import (
    CHECKPOINTS,
    CONFIG,
    TARGET_TOKENIZER,
    TOKENIZER,
    build_read,
    open_store,
    read_config,
    read_target_tokenizer,
    read_tokenizer,
)
from lvtrain.generation.translate import TranslateConfig, Translation, Translator
from lvtrain.generation.weights import check_shapes, read_tensors, replacing, write_tensors
from lvtrain.modules.latent import on_sphere
from lvtrain.randomness import Key
from lvtrain.systems import DecodingSystem, GenerativeSystem, LatentSystem, System
from lvtrain.systems.seq2seq import translator_of
from lvtrain.systems.seq2seq_gan import Seq2SeqGAN, standing

WEIGHTS, PRIOR = "model.safetensors", "prior.safetensors"
# Sentences of one call, and steps of one interpolation: they are all held in memory.
MOST_SENTENCES, MOST_STEPS = 100_000_000, 100_000
# Sentences that the Gaussian of a plain autoencoder is fitted to.
PRIOR_SENTENCES = 20_000
# Seeds of draws that are made once a run rather than once a step.
_ONCE = -1


class Model:
    """A trained system, ready to use.

    What a system has not (a language model codes, a translator sentences of its own) raises
    UserError where it is asked for.
    """

    def __init__(
        self,
        config: RunConfig,
        system: System,
        tokenizer: Tokenizer,
        step: int,
        folder: Path,
        prior: CodeGaussian | None = None,
        data: Path | str | None = None,
        target_tokenizer: Tokenizer | None = None,
        averaged: int = 1,
    ) -> None:
        self.config, self.system, self.tokenizer = config, system, tokenizer
        self.target_tokenizer = target_tokenizer
        self.step, self.folder, self._prior = step, folder, prior
        self.averaged = averaged
        """Checkpoints, the last at `step`, whose mean the parameters are."""
        self._data = None if data is None else Path(data)
        for part in self.system.parts.values():
            part.eval()

    @classmethod
    def load(
        cls,
        folder: Path | str,
        which: str | int = "best",
        data: Path | str | None = None,
        average: int = 1,
    ) -> Model:
        """Load a run folder, at its "best" validated step, its "latest" or a given one; or a
        folder that `save_pretrained` wrote. Runs no code from it.

        With `average` the parameters are the mean of those of so many newest checkpoints up to the
        step, or of all (Vaswani et al. 2017, §6.1). `data` is the store to measure and fit on where
        it is not the one recorded. Where the newest checkpoint or the best is damaged or missing,
        the newest whole one is taken, with a warning. Raises UserError, naming the file, where the
        files of the folder do not fit one another.
        """
        folder = Path(folder)
        if which not in ("best", "latest") and not isinstance(which, int):
            raise UserError(f"which: expected 'best', 'latest' or a step, found {which!r}")
        if (folder / WEIGHTS).is_file():
            model = cls.from_pretrained(folder, data)
            if average > 1:
                raise UserError(f"{folder}: an exported model has no checkpoints to average")
            if isinstance(which, int) and which != model.step:
                raise UserError(f"{folder}: no step {which}: the model is of step {model.step}")
            return model
        config = read_config(folder)
        found = chosen(folder, which, average)
        tokenizer = read_tokenizer(folder, config)
        target = read_target_tokenizer(folder, config)
        system = build_read(folder, config)
        load_mean(system, found)
        step = found[-1].step
        return cls(config, system, tokenizer, step, folder, None, data, target, average)

    @classmethod
    def from_pretrained(cls, folder: Path | str, data: Path | str | None = None) -> Model:
        """Load what `save_pretrained` wrote; runs no code from it."""
        folder = Path(folder)
        config = read_config(folder)
        tokenizer = read_tokenizer(folder, config)
        target = read_target_tokenizer(folder, config)
        system = build_read(folder, config)
        tensors = read_tensors(folder / WEIGHTS)
        shapes = {f"{part}.{name}": tuple(tensor.shape) for part, module in system.parts.items()
                  for name, tensor in module.state_dict().items()}  # fmt: skip
        shapes["step"] = ()
        if "averaged" in tensors:
            shapes["averaged"] = ()
        if fitted := any(name.startswith("prior.") for name in tensors):
            width = cast(DecodingSystem, system).decoder.code
            shapes |= {"prior.mean": (width,), "prior.factor": (width, width)}
        check_shapes(folder / WEIGHTS, tensors, shapes)
        for name, part in system.parts.items():
            own = {n.removeprefix(f"{name}."): t for n, t in tensors.items()
                   if n.startswith(f"{name}.")}  # fmt: skip
            part.load_state_dict(own)
        prior = CodeGaussian(tensors["prior.mean"], tensors["prior.factor"]) if fitted else None
        step, averaged = int(tensors["step"]), int(tensors.get("averaged", 1))
        return cls(config, system, tokenizer, step, folder, prior, data, target, averaged)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the model alone (safetensors, JSON, tokeniser), to be used without its run. Of a
        translator and its adversary, that is the translator: a `seq2seq`."""
        folder, config, parts = Path(folder), self.config, self.system.parts
        translator = translator_of(self.system)
        if translator is not None:
            config = replace(config, system="seq2seq", model=translator.config)
            parts = translator.parts
        tensors = {
            f"{part}.{name}": tensor
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }
        tensors["step"] = torch.tensor(self.step)
        if self.averaged > 1:
            tensors["averaged"] = torch.tensor(self.averaged)
        if translator is None and self.fits_prior:
            tensors |= {f"prior.{k}": v for k, v in self.prior._asdict().items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(folder / WEIGHTS, tensors)
            tokenizers = {TOKENIZER: self.tokenizer, TARGET_TOKENIZER: self.target_tokenizer}
            for name, tokenizer in tokenizers.items():
                if tokenizer is None:
                    continue
                with replacing(folder / name) as partial:
                    # To the byte, where there is a file: its digest stands in the configuration.
                    if (recorded := self.folder / name).is_file():
                        shutil.copyfile(recorded, partial)
                    else:
                        tokenizer.save(partial)
            with replacing(folder / CONFIG) as partial:
                partial.write_text(json.dumps(to_json(config), indent=2), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror}") from None

    @property
    def is_run(self) -> bool:
        """Whether the folder is a run's, where figures go, or holds the model alone."""
        return (self.folder / CHECKPOINTS).is_dir()

    @cached_property
    def store(self) -> Store:
        """The store trained on, or the one given for it; raises UserError for other words."""
        return open_store(self.config, self._data, self.tokenizer, self.target_tokenizer)

    @property
    def remarks(self) -> list[str]:
        """What is odd about a run that has come to this step."""
        if not isinstance(self.system, Seq2SeqGAN):
            return []
        found = standing(self.system.adversary.state_dict())
        return list(self.system.config.remarks(self.step, self.config.train.steps, found))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        module = cast(nn.Module, self.system)
        return next(module.parameters()).device

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "N C"]:
        """The codes of sentences (a VAE's posterior means)."""
        return encode(self._latent, rows(self.tokenizer, sentences), self.device)

    def decode(self, codes: Float[Tensor, "N C"], seed: int = 0, **how: Any) -> list[str]:
        """The sentences of codes; `how` holds fields of DecodeConfig, greedy by default."""
        config = self._how(how)
        width = self._decoding.decoder.code
        if not isinstance(codes, Tensor) or codes.dim() != 2 or codes.shape[1] != width:
            found = " × ".join(map(str, getattr(codes, "shape", ()))) or f"{codes!r:.60}"
            raise UserError(f"{self.folder}: expected codes of N × {width}, found {found}")
        key = Key(seed=seed, step=_ONCE, path=("decode",))
        return self.tokenizer.decode_batch(decode(self._decoding.decoder, codes, config, key))

    def generate(self, num: int, seed: int = 0, **how: Any) -> list[str]:
        """New sentences: codes from the prior or generator, decoded. A language model samples its
        words (temperature 1) unless told otherwise; the others take the likeliest."""
        if self.config.system == "lm":
            how = {"temperature": 1.0} | how
        self._how(how)  # A mistake is told before the codes are drawn.
        return self.decode(self.sample_codes(num, seed), seed, **how)

    def translate(self, sentences: Sequence[str], **how: Any) -> list[str]:
        """The best translation of each sentence; `how` holds fields of TranslateConfig and of
        BeamConfig."""
        if how.get("nbest", 1) != 1:
            raise UserError(
                f"nbest: translate gives the best of each sentence; translations(…, "
                f"nbest={how['nbest']}) gives so many with their scores"
            )
        return [best[0].text for best in self.translations(sentences, **how)]

    def translations(
        self, sentences: Sequence[str], config: TranslateConfig | None = None, **how: Any
    ) -> list[list[Translation]]:
        """The `nbest` translations of each sentence with their scores, the best first; `how` holds
        fields of TranslateConfig and of BeamConfig, which replace those of `config`."""
        translator, config = self.translator, config or TranslateConfig()
        searching = _names(BeamConfig)
        _check_known(how, [*searching, *(n for n in _names(TranslateConfig) if n != "search")])
        search = {name: value for name, value in how.items() if name in searching}
        rest = {name: value for name, value in how.items() if name not in searching}
        config = replace(config, search=replace(config.search, **search), **rest)
        return translator.translate(sentences, config)

    @property
    def translator(self) -> Translator:
        """The model as a translator; raises UserError for another system."""
        if (model := translator_of(self.system)) is None:
            raise UserError(f"{self.folder}: '{self.config.system}' does not translate")
        assert self.target_tokenizer is not None
        return Translator(model, self.tokenizer, self.target_tokenizer, self.config.max_words)

    @torch.inference_mode()
    def sample_codes(self, num: int, seed: int = 0) -> Float[Tensor, "num C"]:
        """Codes from the prior or generator; from a plain autoencoder, from the Gaussian fitted to
        its codes."""
        check_number("num", num, 1, MOST_SENTENCES)
        key = Key(seed=seed, step=_ONCE, path=("sample",))
        self._decoding  # noqa: B018  # raises for a translator
        if not self.fits_prior:
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
        self.require_codes()
        check_number("steps", steps, 2, MOST_STEPS)
        check_number("num", num, 1, MOST_SENTENCES // steps)
        a, b = self.sample_codes(2 * num, seed).chunk(2)
        ways = self.between(a, b, steps)
        sentences = self.decode(ways.transpose(0, 1).flatten(0, 1))
        return [sentences[i : i + steps] for i in range(0, len(sentences), steps)]

    def between(
        self, a: Float[Tensor, "B C"], b: Float[Tensor, "B C"], steps: int
    ) -> Float[Tensor, "steps B C"]:
        """Codes on the way from a to b, both included."""
        check_number("steps", steps, 2, MOST_STEPS)
        return slerp(a, b, steps) if self.on_sphere else lerp(a, b, steps)

    def arithmetic(
        self,
        sentences: Sequence[str],
        plus: Sequence[str],
        minus: Sequence[str],
        scale: float = 1.0,
    ) -> list[str]:
        """`sentences` moved by scale · (mean code of `plus` − mean code of `minus`)."""
        check_number("scale", scale, -math.inf)
        offset = self.encode(plus).mean(0) - self.encode(minus).mean(0)
        codes = self.encode(sentences) + scale * offset
        if self.on_sphere:
            codes = on_sphere(codes, self._autoencoder.radius)
        if not codes.isfinite().all():
            raise UserError(f"scale: expected one that leaves codes finite, found {scale:g}")
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
    def fits_prior(self) -> bool:
        """Whether codes are drawn from a Gaussian fitted to a store's sentences."""
        return not hasattr(self.system, "sample_codes")

    @cached_property
    def prior(self) -> CodeGaussian:
        """A plain autoencoder's Gaussian, fitted to codes of training sentences when first asked
        for. That of the store trained on is kept in the run folder, where that can be written and
        the parameters are those of a step."""
        own = self._data is None or self.store.digest == self.config.store_digest
        if own and self._prior is not None:
            return self._prior
        path, kept = self.folder / PRIOR, own and self.averaged == 1
        width = self._decoding.decoder.code
        found = read_gaussian(path, self.step, width) if kept else None
        if found is None:
            found = self._fit_prior()
            if kept and self.is_run and self.store.digest == self.config.store_digest:
                with contextlib.suppress(OSError):
                    write_gaussian(path, found, self.step)
        return found

    @torch.inference_mode()
    def _fit_prior(self) -> CodeGaussian:
        from lvtrain.data.batches import Batches

        split = self.store.split("train")
        size = min(1024, split.rows)
        batches = Batches(split, batch_size=size, seed=0, device=self.device)
        parts = (batches.at(i) for i in range(min(PRIOR_SENTENCES, split.rows) // size))
        return fit_gaussian(torch.cat([self._latent.encode(b.tokens, b.lengths) for b in parts]))

    def _how(self, how: dict[str, Any]) -> DecodeConfig:
        """How to decode: as told, else greedily and no longer than a sentence of the store."""
        _check_known(how, _names(DecodeConfig))
        return replace(DecodeConfig(max_words=self.config.max_words), **how)

    def require_codes(self) -> None:
        """Raise UserError where the system gives sentences no codes."""
        self._decoding  # noqa: B018  # raises for a translator
        if not hasattr(self.system, "encode"):
            raise UserError(f"{self.folder}: a language model has no codes")

    def require_fitted_prior(self) -> None:
        """Raise UserError where a store would have no effect on what is drawn."""
        self._decoding  # noqa: B018  # raises for a translator
        if not self.fits_prior:
            raise UserError(
                f"{self.folder}: --data: expected of a plain autoencoder alone, whose prior is "
                f"fitted to a store, found '{self.config.system}'"
            )

    @property
    def _decoding(self) -> DecodingSystem:
        if translator_of(self.system) is not None:
            raise UserError(
                f"{self.folder}: a translator has no codes or sentences of its own: see "
                "lvtrain translate"
            )
        return cast(DecodingSystem, self.system)

    @property
    def _latent(self) -> LatentSystem:
        self.require_codes()
        return cast(LatentSystem, self.system)


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _check_known(how: Iterable[str], known: Sequence[str]) -> None:
    """Raise UserError for a keyword that is none of those known."""
    for name in how:
        if name not in known:
            raise UserError(
                f"unknown setting '{name}'{nearest(name, known)}: expected {', '.join(known)}"
            )
