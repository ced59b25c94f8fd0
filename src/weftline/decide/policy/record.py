"""Decision records: written in one form, signed with the user's key, false if a byte is changed.

A record is JSON in exactly one spelling (sorted keys, one space of indent, a newline at the end).
The signature is Ed25519 over the decision and the public key in that spelling. A reader spells the
record again and compares every byte, so that not even a space can be changed unseen.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError, ThresholdCrossedError
from weftline.spec.decision import Decision

__all__ = ["let_go", "read_record", "record_of", "require", "signed", "verify"]

FORMAT: Final = 1
MAX_BYTES: Final = 4 << 20


def spelled(value: Any) -> bytes:
    """The one spelling of a value."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return (text + "\n").encode("ascii")


def record_of(decision: Decision) -> dict[str, Any]:
    """A record without a signature."""
    return {"format": FORMAT, "kind": "policy decision", "decision": asdict(decision)}


def signed(decision: Decision, key: Path) -> bytes:
    """The record, signed with a private Ed25519 key in PEM. Raises InputError for another key."""
    keys = _cryptography()
    private = keys.load(key, private=True)
    public = keys.raw(private.public_key())
    record = record_of(decision) | {"public_key": _base64(public)}
    return spelled(record | {"signature": _base64(private.sign(spelled(record)))})


def verify(data: bytes, key: Path) -> dict[str, Any]:
    """The decision of a record that ``key`` (a public Ed25519 key in PEM) has signed.

    Raises ThresholdCrossedError where the record was changed or another key signed it, InputError
    where it is no record.
    """
    keys = _cryptography()
    public = keys.load(key, private=False)
    record = read_record(data)
    if spelled(record) != data:
        raise ThresholdCrossedError("the record was changed after it was signed",
                                    where="RECORD")  # fmt: skip
    signature = record.pop("signature", None)
    if signature is None:
        raise ThresholdCrossedError("the record is not signed", where="RECORD")
    if record.get("public_key") != _base64(keys.raw(public)):
        raise ThresholdCrossedError("another key signed the record", where="--key")
    try:
        raw = base64.b64decode(str(signature), validate=True)
        if _base64(raw) != signature:  # bits of the last letter that decode to nothing
            raise ValueError
        public.verify(raw, spelled(record))
    except (keys.invalid, binascii.Error, ValueError):
        raise ThresholdCrossedError(
            "the record was changed after it was signed", where="RECORD"
        ) from None
    found: dict[str, Any] = record["decision"]
    return found


def require(record: Path, key: Path, plan: Path) -> None:
    """Raise where a record, signed by ``key``, does not let the plan in ``plan`` go.

    ThresholdCrossedError for a changed record, another plan, a refusal or what is undecided.
    """
    try:
        data, about = record.read_bytes(), plan.read_bytes()
    except OSError as error:
        raise InputError(error.strerror or "cannot read", where=str(error.filename)) from None
    decision = verify(data, key)
    if decision["plan_sha256"] != hashlib.sha256(about).hexdigest():
        raise ThresholdCrossedError("the record is about another plan", where=str(record))
    if decision["outcome"] not in ("pass", "notify"):
        raise ThresholdCrossedError(f"the decision is {decision['outcome']}", where=str(record))


def let_go(policy: str | None, plan: Path) -> None:
    """Raise where the gate has not let a plan go, if that is asked: ``record.json,public.pem``.

    Raises as :func:`require`.
    """
    if policy is not None:
        record, _, key = policy.partition(",")
        require(Path(record), Path(key or "public.pem"), plan)


def read_record(data: bytes) -> dict[str, Any]:
    """A record as plain values. Raises InputError where it is none."""
    if len(data) > MAX_BYTES:
        raise InputError("too large for a record", where="RECORD")
    try:
        record = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise ThresholdCrossedError("not a record: not JSON", where="RECORD") from None
    if not isinstance(record, dict) or record.get("kind") != "policy decision":
        hint = "`weftline policy check PLAN.json -o record.json` writes one"
        raise InputError("not a decision record", where="RECORD", hint=hint)
    return record


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class _Keys:
    """The few calls of ``cryptography`` that are needed."""

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

        self.invalid = InvalidSignature
        self._serialization = serialization
        self._kinds: Mapping[bool, Any] = {
            True: ed25519.Ed25519PrivateKey, False: ed25519.Ed25519PublicKey,
        }  # fmt: skip

    def load(self, path: Path, *, private: bool) -> Any:
        """A key in PEM. Raises InputError where it is none of this kind."""
        kind = "private" if private else "public"
        hint = "openssl genpkey -algorithm ed25519 -out key.pem"
        if not private:
            hint = "openssl pkey -in key.pem -pubout -out public.pem"
        try:
            data = path.read_bytes()
            key = (
                self._serialization.load_pem_private_key(data, None) if private
                else self._serialization.load_pem_public_key(data)
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"`{path}`: {error.strerror}", where="--key", hint=hint) from None
        except (ValueError, TypeError, AttributeError):
            raise InputError(f"`{path}` is not a {kind} key in PEM", where="--key",
                             hint=hint) from None  # fmt: skip
        if not isinstance(key, self._kinds[private]):
            raise InputError(f"`{path}` is not an Ed25519 key", where="--key", hint=hint)
        return key

    def raw(self, public: Any) -> bytes:
        """The 32 bytes of a public key."""
        form = self._serialization
        data: bytes = public.public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
        return data


def _cryptography() -> _Keys:
    try:
        return _Keys()
    except ImportError:
        raise InputError("signatures need the package `cryptography`", where="--key",
                         hint="pip install 'weftline[policy]'") from None  # fmt: skip
