# ruff: noqa: ARG002, ARG005  (what frameworks call has their arguments)
"""A small training under each framework, saved in burst, killed, and gone on with.

    python framework_runs.py FRAMEWORK FOLDER [RANKS]

Every run trains three times in processes of its own: without a stop; until it is killed after a
save; and from that save on. The weights, the optimizer and the random numbers at the end must be
those of the first, bit for bit. What differs is told on stderr.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

KILLED_AT = 4
LAST = 6


def seeded(seed: int = 3) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def small_model() -> torch.nn.Module:
    seeded()
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 2)
    )


def kill() -> None:
    """As an operator or a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def digest(*states: Any) -> str:
    """Of every tensor and number in some states, in order."""
    import hashlib

    found = hashlib.sha256()

    def add(value: Any) -> None:
        value = value.to_local() if hasattr(value, "to_local") else value
        if isinstance(value, torch.Tensor):
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, np.ndarray):
            found.update(value.tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for one in value:
                add(one)
        else:
            found.update(repr(value).encode())

    for state in states:
        add(state)
    return found.hexdigest()


def ended(folder: Path, *states: Any) -> None:
    """Leave what the end looked like on this rank."""
    name = f"{os.environ['RUN_MODE']}-{os.environ.get('RANK', '0')}"
    drawn = [[torch.get_rng_state()], [random.getstate()], [np.random.get_state()]]
    (folder / name).write_text("\n".join(digest(state) for state in [*states, *drawn]))


def run_lightning(folder: Path, mode: str) -> None:
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader, TensorDataset

    from weftline.burst.lightning import BurstCheckpointIO

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"width": 16})
            self.net = small_model()

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            made = torch.optim.AdamW(self.parameters(), lr=1e-2)
            return {
                "optimizer": made,
                "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(made, [2, 4]),
            }

    class Stop(pl.Callback):
        """Keeps random numbers, which Lightning leaves out, and kills where it is to be killed."""

        def state_dict(self) -> dict[str, Any]:
            return {"rng": torch.get_rng_state()}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.rng = state["rng"]

        def on_train_start(self, trainer: Any, module: Any) -> None:
            if hasattr(self, "rng"):
                torch.set_rng_state(self.rng)

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if mode == "killed" and trainer.current_epoch == KILLED_AT:
                trainer.strategy.checkpoint_io._keeper.settle()
                kill()

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    data = torch.Generator().manual_seed(1)
    loader = DataLoader(
        TensorDataset(
            torch.randn(16, 8, generator=data), torch.randint(0, 2, (16,), generator=data)
        ),
        batch_size=4,
        generator=torch.Generator(),  # its own: an iterator draws when it begins
    )
    place = folder / mode.replace("resumed", "killed")
    io = BurstCheckpointIO(place / "store")
    saving = pl.callbacks.ModelCheckpoint(
        dirpath=place / "named",
        save_top_k=2,
        monitor="epoch",
        mode="max",
        save_last="link",
        filename="{epoch}",
        save_on_train_epoch_end=True,
        every_n_epochs=1,
    )
    module = Module()
    trainer = pl.Trainer(
        max_epochs=LAST,
        accelerator="cpu",
        plugins=[io],
        callbacks=[Stop(), saving],
        logger=False,
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(place),
    )
    module.log = lambda *a, **k: None
    seeded(5)
    trainer.fit(module, loader, ckpt_path="last" if mode == "resumed" else None)
    ended(folder, module.state_dict(), trainer.optimizers[0].state_dict())
    if os.environ.get("RANK", "0") == "0" and mode != "killed":
        from weftline.burst import Store

        files = sorted(p for p in (place / "named").iterdir() if not p.is_symlink())
        assert len(files) == 2, files
        with Store.open(place / "store", read_only=True) as store:
            assert len(store.checkpoints()) == 2, store.checkpoints()
        again = io.load_checkpoint(str(place / "store"))
        assert again["epoch"] == LAST - 1
        assert again["hyper_parameters"] == {"width": 16}


def run_huggingface(folder: Path, mode: str) -> None:
    from torch.utils.data import Dataset
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from weftline.burst.huggingface import BurstCallback, resume_from_checkpoint

    class Data(Dataset):
        def __len__(self) -> int:
            return 32

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            made = torch.Generator().manual_seed(i)
            ids = torch.randint(0, 64, (8,), generator=made)
            return {"input_ids": ids, "labels": ids}

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if mode == "killed" and state.global_step == KILLED_AT:
                saving._keeper.settle()
                kill()

    seeded()
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=64,
        attention_dropout=0.1,
        tie_word_embeddings=True,
    )
    place = folder / mode.replace("resumed", "killed")
    args = TrainingArguments(
        output_dir=str(place / "out"),
        max_steps=LAST,
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        learning_rate=1e-2,
    )
    saving = BurstCallback(place / "store")
    trainer = Trainer(
        model=LlamaForCausalLM(config),
        args=args,
        train_dataset=Data(),
        eval_dataset=Data(),
        callbacks=[saving, Stop()],
    )
    start = resume_from_checkpoint(place / "store", args)
    assert (start is None) == (mode != "resumed"), start
    trainer.train(resume_from_checkpoint=start)
    assert trainer.state.global_step == LAST
    steps = [line["step"] for line in trainer.state.log_history if "loss" in line]
    assert steps == list(range(1, LAST + 1)), steps
    ended(folder, trainer.model.state_dict(), trainer.optimizer.state_dict())
    assert not list((place / "out").glob("burst-resume-*")), "left behind"


def run_accelerate(folder: Path, mode: str, *, sharded: bool = False) -> None:
    from accelerate import Accelerator, PartialState
    from accelerate.utils import (
        DataLoaderConfiguration,
        DistributedType,
        FullyShardedDataParallelPlugin,
    )  # fmt: skip
    from torch.utils.data import TensorDataset
    from torchdata.stateful_dataloader import StatefulDataLoader

    from weftline.burst.accelerate import BurstState

    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(use_stateful_dataloader=True)
    )
    if sharded:  # Accelerate itself does this for GPUs and their like only
        for shared in (accelerator.state._shared_state, PartialState._shared_state):
            shared["distributed_type"] = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, cpu_ram_efficient_loading=False
        )
    model = small_model()
    made = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = torch.Generator().manual_seed(1)
    loader = StatefulDataLoader(
        TensorDataset(torch.randn(64, 8, generator=data)),
        batch_size=2,
        shuffle=accelerator.num_processes == 1,  # of many, Accelerate itself draws anew
        generator=torch.Generator(),
        num_workers=0,  # its own: an iterator draws when it begins
    )
    scheduler = torch.optim.lr_scheduler.StepLR(made, 2)
    model, made, loader, scheduler = accelerator.prepare(model, made, loader, scheduler)
    kinds = {type(p).__name__ for p in model.parameters()}
    assert kinds == ({"DTensor"} if sharded else {"Parameter"}), kinds
    seeded(7 + accelerator.process_index)
    place = folder / mode.replace("resumed", "killed")
    with BurstState(accelerator, place / "store") as state:
        done = state.load() or 0
        assert (done > 0) == (mode == "resumed")
        while done < LAST:
            for (rows,) in loader:
                loss = model(rows).square().mean() + torch.rand(())
                accelerator.backward(loss)
                made.step()
                scheduler.step()
                made.zero_grad()
                done += 1
                if done == 2:
                    state.save(done)
                if mode == "killed" and done == KILLED_AT:
                    state.wait()
                    kill()
                if done == LAST:
                    break
    if sharded:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        states = get_state_dict(model, made.optimizer)
    else:
        states = accelerator.unwrap_model(model).state_dict(), made.state_dict()
    ended(folder, *states, scheduler.state_dict())


def run_accelerate_fsdp2(folder: Path, mode: str) -> None:
    run_accelerate(folder, mode, sharded=True)


def run_deepspeed(folder: Path, mode: str) -> None:
    import deepspeed

    from weftline.burst.deepspeed import BurstCheckpointEngine

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    model = small_model()
    made = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine, made, _, _ = deepspeed.initialize(
        model=model, optimizer=made, dist_init_required=False,
        config={"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 1},
                "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
                "bf16": {"enabled": True}, "steps_per_print": 1000},
    )  # fmt: skip
    place = folder / mode.replace("resumed", "killed")
    engine.checkpoint_engine = BurstCheckpointEngine(place / "store")
    first = 0
    seeded(5)
    if mode == "resumed":
        _, said = engine.load_checkpoint(str(place / "named"))
        first = said["done"]
        torch.set_rng_state(said["rng"])
        assert first == KILLED_AT
    for step in range(first, LAST):
        rows = torch.Generator().manual_seed(step)
        loss = engine(torch.randn(2, 8, generator=rows).bfloat16()).float().square().mean()
        engine.backward(loss)
        engine.step()
        if step + 1 in (2, KILLED_AT):
            engine.save_checkpoint(
                str(place / "named"),
                client_state={"done": step + 1, "rng": torch.get_rng_state()},
            )
            if mode == "killed" and step + 1 == KILLED_AT:
                kill()
    for file in (place / "named").rglob("*.pt"):
        assert file.stat().st_size < 1000, f"{file} is no pointer"
    ended(folder, engine.module.state_dict(), made.state_dict()["base_optimizer_state"])
    engine.checkpoint_engine.cleanup()


def run_megatron(folder: Path, mode: str) -> None:
    from megatron.core import dist_checkpointing as checkpointing
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    from weftline.burst.megatron import BurstSaveStrategy

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    place = folder / "shared"

    def state(fill: float, count: int, mine: int) -> dict[str, Any]:
        """A tensor in rows over the ranks, one that all have, and an object of each rank."""
        rows = 8 // count
        whole = torch.arange(64.0).reshape(8, 8) + fill
        own = whole[mine * rows : (mine + 1) * rows].clone() if fill else torch.zeros(rows, 8)
        same = torch.full((4,), fill, dtype=torch.bfloat16)
        return {
            "w": ShardedTensor.from_rank_offsets("w", own, (0, mine, count)),
            "b": ShardedTensor.from_rank_offsets("b", same, replica_id=mine),
            "rng": ShardedObject("rng", {"of": mine, "t": torch.tensor([mine])} if fill else None,
                                 (count,), (mine,)),
            "iteration": 7,
        }  # fmt: skip

    if mode == "killed":
        strategy = BurstSaveStrategy(place / "store")
        for step in (1, 2, 3):
            into = place / f"iter_{step:07d}"
            into.mkdir(parents=True, exist_ok=True)
            dist.barrier()
            asked = checkpointing.save(
                state(float(step), world, rank), str(into), sharded_strategy=strategy,
                async_sharded_save=step == 2,
            )  # fmt: skip
            if asked is not None:
                assert not (into / "metadata.json").exists()
                asked.execute_sync()  # as Megatron's queue does, which needs CUDA to ask all ranks
                assert (into / "metadata.json").exists()
        dist.barrier()
        kill()
    import weftline.burst.megatron  # noqa: F401  (registers how such a folder is loaded)

    if mode == "resumed":
        for step in (1, 2, 3):
            found = checkpointing.load(state(0.0, world, rank), str(place / f"iter_{step:07d}"))
            wanted = state(float(step), world, rank)
            assert torch.equal(found["w"], wanted["w"].data)
            assert torch.equal(found["b"], wanted["b"].data)
            assert found["rng"]["of"] == rank
            assert found["iteration"] == 7
            plain = checkpointing.load_plain_tensors(str(place / f"iter_{step:07d}"))
            assert torch.equal(plain["w"], torch.arange(64.0).reshape(8, 8) + step)
    seeded()
    ended(folder)


def run_torchtitan(folder: Path, mode: str) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    from weftline.burst.torchtitan import BurstCheckpointManager

    dist.init_process_group("gloo")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = small_model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model, mesh=mesh)
    made = torch.optim.AdamW(model.parameters(), lr=1e-2)

    class Optimizers:
        def state_dict(self) -> dict[str, Any]:
            from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

            return get_optimizer_state_dict(model, made)

        def load_state_dict(self, state: dict[str, Any]) -> None:
            from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

            set_optimizer_state_dict(model, made, state)

    class Train:
        step = 0

        def state_dict(self) -> dict[str, Any]:
            return {"step": self.step, "rng": torch.get_rng_state()}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.step = state["step"]
            torch.set_rng_state(state["rng"])

    place = folder / mode.replace("resumed", "killed")
    train = Train()
    from weftline.burst.pytorch import PerRank

    loader = StatefulDataLoader(list(range(64)), batch_size=2, generator=torch.Generator())
    manager = BurstCheckpointManager.Config(
        enable=True,
        interval=2,
        folder="ckpt",
        async_mode=os.environ.get("TITAN", "async"),
        keep_latest_k=2,
        last_save_model_only=False,
    ).build(
        dataloader=PerRank(loader),
        model_parts=[model],
        optimizers=Optimizers(),
        lr_schedulers=torch.optim.lr_scheduler.StepLR(made, 2),
        states={"train_state": train},
        sd_adapter=None,
        base_folder=str(place),
    )
    seeded(9)
    assert manager.load() == (mode == "resumed")
    seen = []
    rows = iter(loader)
    while train.step < LAST:
        seen.append(next(rows).tolist())
        made.zero_grad()
        model(torch.randn(2, 8) + seen[-1][0]).square().mean().backward()
        made.step()
        train.step += 1
        manager.maybe_wait_for_saving()
        manager.save(train.step, last_step=train.step == LAST)
        if mode == "killed" and train.step == KILLED_AT + 1:
            manager.maybe_wait_for_saving()
            kill()
    manager.maybe_wait_for_saving()
    full = {k: v.full_tensor() for k, v in model.state_dict().items()}
    ended(folder, full, seen[-1])
    assert manager._find_load_step() == LAST
    manager.close()


RUNS: dict[str, Callable[[Path, str], None]] = {
    name.removeprefix("run_"): run for name, run in list(globals().items()) if name[:4] == "run_"
}


def main(framework: str, folder: Path, ranks: int) -> int:
    """Raises where a run failed or differs."""
    for mode in ("whole", "killed", "resumed"):
        port = str(free_port())
        children = []
        for rank in range(ranks):
            env = os.environ | {"RUN_MODE": mode, "OMP_NUM_THREADS": "1"}
            env |= {"MKL_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "ACCELERATE_USE_CPU": "1"}
            if ranks > 1 or framework not in ("lightning", "huggingface", "accelerate"):
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
                env |= {"LOCAL_WORLD_SIZE": str(ranks), "NODE_RANK": "0", "GROUP_RANK": "0"}
                env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            children.append(
                subprocess.Popen([sys.executable, __file__, framework, str(folder)], env=env)
            )
        codes = [child.wait(timeout=300) for child in children]
        # Of ranks that are killed one after the other, some fail first: their peers are gone.
        fine = -signal.SIGKILL in codes and 0 not in codes if mode == "killed" else not any(codes)
        assert fine, f"{framework}, {mode}: {codes}"
    for rank in range(ranks):
        ends = [(folder / f"{mode}-{rank}").read_text().split() for mode in ("whole", "resumed")]
        differ = [i for i, (a, b) in enumerate(zip(*ends, strict=True)) if a != b]
        assert not differ, f"{framework}, rank {rank}: resumed, states {differ} ended elsewhere"
    return 0


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    place = Path(sys.argv[2])
    if "RUN_MODE" in os.environ:
        RUNS[sys.argv[1]](place, os.environ["RUN_MODE"])
    else:
        sys.exit(main(sys.argv[1], place, int(sys.argv[3]) if len(sys.argv) > 3 else 1))
