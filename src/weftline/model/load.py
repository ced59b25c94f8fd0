"""Find a model by short name, Hugging Face id, file, directory or ``gpt:`` numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError, InternalError, UnknownNameError
from weftline.model.config import HFConfig
from weftline.model.families import BUILDERS, REFUSED, TWO_TOWERS, Builder
from weftline.model.families.multimodal import MULTIMODAL, left_out
from weftline.model.families.plain import PLAIN, plain_llama
from weftline.model.formats import weights_format
from weftline.model.gpt import PREFIX, gpt_model
from weftline.model.ir import Model
from weftline.model.known import transformers_types
from weftline.model.names import find_name, format_of, key_of, near_in_family

__all__ = [
    "BundledModel",
    "bundled_index",
    "bundled_models",
    "bundled_name",
    "config_path",
    "load_config",
    "load_generator",
    "load_model",
]

AS: Final = "as="
"""Before what an unknown model type is to be taken as: ``as=llama:config.json``."""
_CONFIGS: Final = Path(__file__).with_name("configs")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledModel:
    """One entry of the bundled index, ``configs/index.json``."""

    name: str
    """Short name: ``llama-3.1-70b``."""
    hf_id: str | None = None
    """Repository on the Hugging Face hub."""
    file: str | None = None
    """Config file beside the index."""
    spec: str | None = None
    """``gpt:`` numbers, for shapes known from papers."""
    published_parameters: float | None = None
    """Total parameters its makers state."""
    published_active: float | None = None
    """Active parameters a token its makers state."""
    basis: str | None = None
    """``card`` (as makers state it, recalled and not read again), ``name`` (rounded, in the
    model\'s name) or ``reported`` (by others; the makers\' own page was not seen)."""
    source: str | None = None
    """Where the shape comes from, if not from the index's common source."""
    also: tuple[str, ...] = ()
    """Other repositories of the same shape."""
    licence: str | None = None
    """Licence of the weights as the model card states it; ``None`` where it is not known."""


def _entry(name: str, row: dict[str, Any]) -> BundledModel:
    return BundledModel(name=name, **(row | {"also": tuple(row.get("also", ()))}))


@lru_cache(maxsize=1)
def bundled_index() -> dict[str, BundledModel]:
    """The bundled models by short name, in alphabetical order."""
    data = json.loads((_CONFIGS / "index.json").read_text(encoding="utf-8"))
    return {name: _entry(name, row) for name, row in sorted(data["models"].items())}


def bundled_models() -> tuple[str, ...]:
    """Short names of the models that come with weftline."""
    return tuple(bundled_index())


@lru_cache(maxsize=1)
def _names() -> dict[str, tuple[str, ...]]:
    """Short name of a bundled model -> its other names: its repository, and further ones."""
    return {
        name: tuple(n for n in (entry.hf_id, *entry.also) if n)
        for name, entry in bundled_index().items()
    }


@lru_cache(maxsize=256)
def _meant(name: str) -> str | None:
    return find_name(name, _names())


def load_model(spec: str | Path) -> Model:
    """A model by short name, Hugging Face id, config.json, its directory, or ``gpt:`` numbers.

    Raises UnknownNameError with the nearest names, or InputErrors for all mistakes of a config.
    """
    if isinstance(spec, str):
        text = spec.strip()
        if text.lower().startswith(PREFIX):
            return gpt_model(text.lower())
        if text.startswith(AS):
            return _as_asked(text)
        short = _meant(text) if _may_be_name(text) else None
        if short and (text.lower() == short or not _exists(Path(text))):
            return _named(text, short)
    path = Path(spec)
    if not _exists(path):
        if isinstance(spec, Path) or path.suffix == ".json":
            raise InputError(
                f"`{spec}` does not exist", hint="give a config.json or a model's name"
            )
        raise UnknownNameError(
            "model", str(spec), near_in_family(str(spec), bundled_index()),
            hint="`weftline catalog list models` lists them; a path to a config.json or "
            "`gpt:layers=..,hidden=..` will do, too",
        )  # fmt: skip
    return load_config(HFConfig.read(path, name=_file_name(path)))


def bundled_name(text: str) -> str | None:
    """The short name of the bundled model that a name means, ``None`` where it means none."""
    return _meant(text) if text and _may_be_name(text) else None


def config_path(spec: str | Path) -> Path:
    """The file that a path or a bundled model's name means; what is neither comes back as it is."""
    short = None if _exists(Path(spec)) else _meant(str(spec))
    file = bundled_index()[short].file if short else None
    return _CONFIGS / file if file else Path(spec)


def _file_name(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.stem
    return path.resolve().parent.name if name == "config" else name


def _as_asked(text: str) -> Model:
    """``as=llama:config.json``: a file of any type as a plain stack. Raises InputError(s)."""
    kind, _, rest = text.removeprefix(AS).partition(":")
    if kind not in PLAIN:
        raise InputError(f"cannot take a model as `{kind}`", hint=f"{' or '.join(PLAIN)}")
    path = Path(rest)
    if not _exists(path):
        raise InputError(f"`{rest}` does not exist", hint="give a config.json of the model")
    return plain_llama(HFConfig.read(path, name=_file_name(path)))


def _may_be_name(text: str) -> bool:
    """Whether it can be a short name or a repository's: no path to a file or folder."""
    return text.count("/") <= 1 and not text.startswith(("/", ".", "~")) and (
        not text.endswith(".json")
    )  # fmt: skip


def load_generator(spec: str | Path) -> Model:
    """As :func:`load_model`, for a model that an engine for language models can serve.

    Raises InputError for encoders, vision and diffusion models, which keep nothing between tokens,
    and for purely recurrent ones, whose serving is not modelled.
    """
    model = load_model(spec)
    if model.kv_bytes_per_token() == 0:
        why = (
            "keeps a state and no cache by token, which is not modelled for serving"
            if model.state_bytes() else
            "makes no tokens: an engine for language models cannot serve it"
        )  # fmt: skip
        raise InputError(f"`{spec}` {why}", hint="`weftline plan train` plans its training")
    return model


@lru_cache(maxsize=256)
def _named(text: str, short: str) -> Model:
    """The bundled model, with a note where the name asked for says more than its shape."""
    model = _bundled(short)
    exact = {key_of(n) for n in (short, *_names()[short])}
    if key_of(text) in exact:
        return model
    said, form = f"`{text}` taken as `{short}`, of the same shape", model.weights_format
    if form is None and (form := format_of(text)) is not None:
        said += f"; weights in {form}, as the name says"
    return replace(model, weights_format=form, notes=(*model.notes, said))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a file name, or a NUL in it
        return False


def _built(builder: Builder, config: HFConfig) -> Model:
    try:
        model = builder(config)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        config.check()  # what was noted explains it better
        raise InputError(
            f"a field is not of the form that `{config.model_type}` has: {error}",
            where=config.source,
            hint="compare the file with the published config.json of the same family",
        ) from error
    config.refuse_unread()
    config.check()
    form, note = weights_format(config)
    return replace(
        model, weights_format=form, left_out=left_out(config),
        notes=(*model.notes, *([note] if note else [])),
    )  # fmt: skip


def load_config(config: HFConfig) -> Model:
    """The model of a config that is already read."""
    kind = config.model_type
    inside = config.section is not None
    if inside and kind in MULTIMODAL:
        text = config.text_model_type
        if text in BUILDERS:
            return _built(BUILDERS[text], config)
        config.mistake(
            "model_type", f"the language model of `{kind}` is a `{text}`, which is not known"
        )
    elif kind in BUILDERS and (kind in TWO_TOWERS or not inside):
        return _built(BUILDERS[kind], config)
    elif kind in MULTIMODAL and (text := config.as_flat()) in BUILDERS:
        return _built(BUILDERS[text], config)
    elif kind in REFUSED:
        config.mistake("model_type", f"`{kind}` cannot be counted exactly: {REFUSED[kind]}")
    elif not kind:
        config.mistake(
            "model_type", "field `model_type` is missing: it names the family",
            hint="this may be a config of another library; add a `model_type` such as `llama`",
        )  # fmt: skip
    else:
        _refuse_unknown(config, kind)
    config.check()
    raise InternalError("a config without a builder passed its check")


def _refuse_unknown(config: HFConfig, kind: str) -> None:
    near = UnknownNameError("model_type", kind, [*BUILDERS, *MULTIMODAL]).hint
    hint = near or "see docs/models.md for what is"
    if kind in transformers_types():
        hint = (
            "transformers knows it: `weftline model count` counts it exactly, and `--as llama` "
            "plans it as a plain stack"
        )
    config.mistake("model_type", f"model type `{kind}` is not known", hint=hint)


@lru_cache(maxsize=512)
def _bundled(name: str) -> Model:
    entry = bundled_index()[name]
    if entry.spec:
        model = gpt_model(entry.spec, name=name)
    else:
        path = _CONFIGS / str(entry.file)
        model = load_config(HFConfig.read(path, name=name, source=f"bundled {entry.file}"))
        model = replace(model, source=entry.hf_id or str(entry.file))
    return replace(model, published_parameters=entry.published_parameters)
