"""The policy gate: each rule passing, applying and undecided; records that no byte can change."""

from __future__ import annotations

import datetime
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.catalog import accelerator
from weftline.catalog import policy as catalogued
from weftline.cli.main import run
from weftline.decide.policy.gate import decide, performance, training_flop
from weftline.decide.policy.rules import read_declared, rules_of
from weftline.errors import InputError, WeftlineError
from weftline.plan import job_of, plan_train
from weftline.spec import Plan
from weftline.spec.options import JobOptions
from weftline.spec.serialize import write_plan

DAY = datetime.date(2026, 11, 30)
LATER = datetime.date(2027, 6, 1)
HOME = {"where": "USA", "who": "USA"}
EXAMPLES = Path(__file__).parents[3] / "examples" / "policy"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_train(job_of("llama-3.1-8b", JobOptions(tokens="1T", on="h100", chips="64")))


def of(plan: Plan, flop: float) -> Plan:
    """The same plan with as many tokens as make so many operations."""
    each = training_flop(plan) / plan.job.tokens
    return replace(plan, job=replace(plan.job, tokens=round(flop / each)))


def on(plan: Plan, chip: str) -> Plan:
    return replace(plan, cluster=replace(plan.cluster, accelerator=chip))


def outcome(plan: Plan, rule: str, declared: dict[str, Any], day: datetime.date = DAY) -> str:
    ruling = next(r for r in decide(plan, rules_of(), declared, day=day).rulings if r.rule == rule)
    assert bool(ruling.missing) == (ruling.outcome == "undecided")
    assert ruling.source
    assert ruling.date
    return ruling.outcome


@pytest.mark.parametrize(
    ("rule", "flop", "market"),
    [("eu.gpai", 1e23, "EU"), ("eu.systemic", 1e25, "EU"), ("us.ca.sb53", 1e26, "US-CA"),
     ("us.ny.raise", 1e26, "US-NY")],
)  # fmt: skip
def test_thresholds_of_compute(plan: Plan, rule: str, flop: float, market: str) -> None:
    above, below = of(plan, 1.001 * flop), of(plan, 0.999 * flop)
    assert outcome(below, rule, {"markets": (market,)}) == "pass"
    assert outcome(above, rule, {"markets": (market,)}) == "notify"
    assert outcome(above, rule, {}) == "undecided"
    assert outcome(above, rule, {"markets": ("JP",)}) == "pass"
    # Earlier training counts; of a tuned model it has to be declared.
    assert outcome(below, rule, {"markets": (market,), "prior_flop": 0.01 * flop}) == "notify"
    tuned = replace(below, job=replace(below.job, tune="lora"))
    assert outcome(tuned, rule, {"markets": (market,)}) == "undecided"


def test_a_rule_that_is_not_in_force_says_from_when(plan: Plan) -> None:
    big = of(plan, 2e26)
    told = decide(big, rules_of(), {"markets": ("US-NY",), **HOME}, day=DAY)
    ruling = next(r for r in told.rulings if r.rule == "us.ny.raise")
    assert "in force from 2027-01-01" in ruling.why
    assert outcome(big, "us.ny.raise", {"markets": ("US-NY",)}, LATER) == "notify"


@pytest.mark.parametrize(
    ("chip", "declared", "expected"),
    [
        ("h100-sxm", HOME, "pass"),
        ("h100-sxm", {}, "undecided"),
        ("h100-sxm", {"where": "USA"}, "undecided"),  # who is it for?
        ("h200-sxm", {**HOME, "who": "CHN"}, "notify"),  # named in the rule's summary
        ("b200", {"where": "CHN", "who": "CHN"}, "refuse"),
        ("mi325x", {"where": "CHN", "who": "CHN"}, "notify"),
        ("l4", {"where": "CHN", "who": "CHN"}, "undecided"),  # its die area is not known
        ("trainium1", {"where": "CHN", "who": "CHN"}, "undecided"),
        ("trainium1", {"where": "CHN", "who": "CHN", "die_area": {"trainium1": 800.0}}, "pass"),
        ("trainium1", {"where": "CHN", "who": "CHN", "die_area": {"trainium1": 400.0}}, "notify"),
        ("t4", {"where": "CHN", "who": "CHN"}, "pass"),
    ],
)
def test_chips_that_may_not_go_everywhere(
    plan: Plan, chip: str, declared: dict[str, Any], expected: str
) -> None:
    assert outcome(on(plan, chip), "us.3a090", declared) == expected


def test_performance_is_the_one_worked_out_by_hand() -> None:
    for row in catalogued()["tpp"]["examples"]:
        name = "a100-80-sxm" if row["id"] == "a100" else row["id"]
        found = performance(accelerator(name))
        assert found == pytest.approx(row["tpp"], rel=0.01), row


def test_terms_of_use(plan: Plan) -> None:
    assert plan.price is not None
    sold = replace(plan, price=replace(plan.price, provider="aws"))
    rule = "aws.responsible_ai"
    assert outcome(sold, rule, {"acceptable_use": "yes"}) == "pass"
    assert outcome(sold, rule, {"acceptable_use": "no"}) == "refuse"
    assert outcome(sold, rule, {}) == "undecided"
    assert outcome(replace(sold, price=None), rule, {"acceptable_use": "yes"}) == "undecided"
    assert outcome(plan, rule, {}) == "pass"  # sold by another


def test_rules_of_an_organisation(plan: Plan, tmp_path: Path) -> None:
    rules = rules_of(EXAMPLES / "organisation.yaml")
    declared = read_declared(EXAMPLES / "declaration.yaml")
    assert decide(plan, rules, declared, day=DAY).outcome == "pass"

    def told(plan: Plan, declared: dict[str, Any]) -> dict[str, str]:
        found = decide(plan, rules, declared, day=DAY).rulings
        return {r.rule: r.outcome for r in found if r.source.endswith("organisation.yaml")}

    dear = replace(plan, estimates={
        **plan.estimates, "effective_cost": plan.estimates["effective_cost"].scaled(100, "USD"),
    })  # fmt: skip
    abroad = {**declared, "where": "FRA"}
    assert told(dear, abroad) == {"home": "refuse", "purse": "refuse", "purpose": "pass"}
    known = {k: v for k, v in plan.estimates.items() if "cost" not in k}
    unknown = replace(plan, estimates=known)
    assert set(told(unknown, {}).values()) == {"undecided"}
    bad = tmp_path / "rules.yaml"
    bad.write_text("rules:\n  - {id: a, kind: limits, colour: 3}\n  - {kind: limit}\n"
                   "  - {id: eu.gpai, kind: limit, quantity: usd, most: 1}\n")  # fmt: skip
    with pytest.raises(InputError) as error:
        rules_of(bad)
    for part in (":2: unknown field `colour`", ":2: unknown kind `limits`", ":3: a rule needs id",
                 "two rules are called `eu.gpai`"):  # fmt: skip
        assert part in error.value.render()


OWN = """\
- {id: small, kind: compute, market: EU, flop_above: 1.0e+22, outcome: refuse}
- {id: chips, kind: export, countries: [CHN], tpp_at_least: 4800, tpp_and_density: [1600, 5.92],
   outcome: refuse}
- {id: home, kind: residency, allowed: [USA]}
- {id: class, kind: declaration, needs: data_class, accepted: public}
- {id: few, kind: limit, quantity: kgco2e, most: 1000}
"""


@pytest.mark.parametrize(
    ("rule", "passing", "refusing", "undecided"),
    [
        ("small", {"markets": ("JP",)}, {"markets": ("EU",)}, {}),
        ("chips", HOME, {"where": "USA", "who": "CHN"}, {"where": "USA"}),
        ("home", HOME, {"where": "CAN"}, {}),
        ("class", {"data_class": "public"}, {"data_class": "health"}, {}),
    ],
)
def test_every_kind_of_own_rule(
    plan: Plan, tmp_path: Path, rule: str, passing: dict[str, Any], refusing: dict[str, Any],
    undecided: dict[str, Any],
) -> None:  # fmt: skip
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    for declared, expected in ((passing, "pass"), (refusing, "refuse"), (undecided, "undecided")):
        found = decide(plan, rules_of(file), declared, day=DAY).rulings
        assert next(r.outcome for r in found if r.rule == rule) == expected


def test_a_limit_on_what_the_plan_says_itself(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    kept = {k: v for k, v in plan.estimates.items() if k != "carbon"}
    light = {**kept, "carbon": plan.estimates["carbon"].scaled(1e-6, "kgCO2e")}
    for estimates, expected in ((light, "pass"), (plan.estimates, "refuse"), (kept, "undecided")):
        found = decide(replace(plan, estimates=estimates), rules_of(file), HOME, day=DAY).rulings
        assert next(r.outcome for r in found if r.rule == "few") == expected


def test_a_wrong_declaration_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("where: America\nmarket: EU\nprior_flop: 3e24\n")
    with pytest.raises(InputError) as told:
        read_declared(file)
    assert "d.yaml:1: `America` is not a country" in told.value.render()
    assert "d.yaml:2: unknown declaration `market`" in told.value.render()


# --- records ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plan, a key pair made by openssl, and the plan's signed record."""
    pytest.importorskip("cryptography")
    folder = tmp_path_factory.mktemp("policy")
    write_plan(plan, folder / "plan.json")
    make = ["genpkey", "-algorithm", "ed25519", "-out"]
    for command in ([*make, "key.pem"], [*make, "other.pem"],
                    ["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"],
                    ["pkey", "-in", "other.pem", "-pubout", "-out", "others.pem"]):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    code = run(["policy", "check", str(folder / "plan.json"), "--key", str(folder / "key.pem"),
                "--declare", str(EXAMPLES / "declaration.yaml"), "--on", "2026-11-30",
                "-o", str(folder / "record.json")])  # fmt: skip
    assert code == 0
    return folder


def test_a_signed_record_verifies(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["policy", "verify", str(kept / "record.json"), "--key", str(kept / "public.pem")]
    assert run([*words, "--plan", str(kept / "plan.json")]) == 0
    assert "signed and unchanged: pass" in capsys.readouterr().out
    assert run([*words[:-1], str(kept / "others.pem")]) == 4
    assert "another key" in capsys.readouterr().err
    assert run([*words, "--plan", str(kept / "key.pem")]) == 4
    assert run([*words[:-1], str(kept / "key.pem")]) == 2
    # openssl itself finds the same signature good over the same bytes.
    import base64

    record = json.loads((kept / "record.json").read_text())
    signature = base64.b64decode(record.pop("signature"))
    (kept / "signed").write_text(json.dumps(record, sort_keys=True, indent=1) + "\n")
    (kept / "signature").write_bytes(signature)
    done = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in",
         "signed", "-sigfile", "signature"], cwd=kept, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@given(data=st.data())
@settings(max_examples=60)
def test_no_byte_can_be_changed(kept: Path, data: st.DataObject) -> None:
    from weftline.decide.policy import verify

    good = (kept / "record.json").read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != good[at]))
    with pytest.raises(WeftlineError):
        verify(good[:at] + bytes([byte]) + good[at + 1 :], kept / "public.pem")
    with pytest.raises(WeftlineError):
        verify(good[:at] + good[at + 1 :], kept / "public.pem")


def test_a_signature_has_one_spelling(kept: Path) -> None:
    """The last letter of base64 has bits that decode to nothing: they may not be turned either."""
    from weftline.decide.policy import verify

    good = (kept / "record.json").read_bytes()
    at = good.index(b'=="') - 1
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for letter in letters.replace(good[at : at + 1], b""):
        with pytest.raises(WeftlineError):
            verify(good[:at] + bytes([letter]) + good[at + 1 :], kept / "public.pem")


def test_only_what_was_let_go_is_exported(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(kept / "plan.json"), "--to", "torchrun", "--policy-record"]
    pair = f"{kept / 'record.json'},{kept / 'public.pem'}"
    assert run([*words, pair, "-o", str(kept / "out")]) == 0
    other = kept / "other.json"
    other.write_text((kept / "plan.json").read_text().replace("\n", "\n ", 1))
    words[1] = str(other)
    capsys.readouterr()
    assert run([*words, pair, "-o", str(kept / "not")]) == 4
    assert "about another plan" in capsys.readouterr().err
    assert not (kept / "not").exists()
    stopped = kept / "stopped.json"
    assert run(["policy", "check", str(kept / "plan.json"), "--key", str(kept / "key.pem"),
                "-o", str(stopped)]) == 4  # fmt: skip
    words[1] = str(kept / "plan.json")
    assert run([*words, f"{stopped},{kept / 'public.pem'}"]) == 4
    assert "the decision is undecided" in capsys.readouterr().err
    # Training and serving stand behind the same gate, before anything is written or loaded.
    folder = ["-o", str(kept / "run")]
    gate = ["--policy-record", f"{stopped},{kept / 'public.pem'}"]
    assert run(["train", str(kept / "plan.json"), *gate, *folder]) == 4
    assert run(["serve", str(kept / "plan.json"), *gate, "--dry-run"]) == 4
    assert not (kept / "run").exists()
    capsys.readouterr()
    assert run(["train", str(other), "--policy-record", pair, *folder]) == 4
    assert "about another plan" in capsys.readouterr().err
    assert run(["serve", str(kept), "--policy-record", pair]) == 2
    assert "a decision is about a plan" in capsys.readouterr().err


def test_the_gate_stops_what_it_cannot_let_through(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["policy", "check", str(kept / "plan.json")]) == 4
    told = capsys.readouterr()
    assert told.out.startswith("UNDECIDED")
    assert "missing: where and who" in told.out
    assert "Not legal advice" in " ".join(told.out.split())
    assert max(map(len, told.out.splitlines())) <= 80
    assert run(["policy", "rules", "--json"]) == 0
    rules = json.loads(capsys.readouterr().out)["rows"]
    assert all(r["source"] and r["date"] and r["in_force"] for r in rules)
    assert run(["policy", "check", str(kept / "plan.json"), "--key", str(kept / "key.pem")]) == 2
