"""Train, save without stopping, lose the process, and go on from the newest whole checkpoint."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from weftline.burst import Options, Retention, Store
from weftline.burst.pytorch import load, save


def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A small model and its optimizer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 8))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> float:
    """Some steps; the last loss."""
    loss = torch.zeros(())
    for step in steps:
        optimizer.zero_grad()
        batch = torch.randn(32, 64, generator=torch.Generator().manual_seed(step))
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "checkpoints"
    model, optimizer = fresh()
    with Store.open(path, options=Options(retention=Retention(last=2))) as store:
        for step in (10, 20, 30):
            train(model, optimizer, range(step - 10, step))
            state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "step": step}
            save(state, store, step=step, wait=False)  # returns after the copy
        store.wait()
        kept = [c.step for c in store.checkpoints()]
        sys.stdout.write(f"kept the checkpoints of steps {kept}\n")
    wanted = train(model, optimizer, range(30, 40))

    model, optimizer = fresh()  # another process, later
    state = load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optim"])
    found = train(model, optimizer, range(state["step"], 40))
    sys.stdout.write(
        f"went on from step {state['step']}; loss {found:.6f}, without the break {wanted:.6f}\n"
    )
    with Store.open(path, read_only=True) as store:
        sys.stdout.write(f"damage found: {store.verify() or 'none'}\n")
