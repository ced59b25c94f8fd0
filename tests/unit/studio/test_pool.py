"""The queue: turns by session, bounds with reasons, places that are told."""

from __future__ import annotations

import asyncio

import pytest

from weftline.studio.pool import Full, Job, Pool, Size


def test_sessions_take_turns_and_a_greedy_one_waits() -> None:
    async def play() -> tuple[list[str], list[int]]:
        pool = Pool(Size(per_session=10))
        jobs = [pool.submit("greedy", "plan", {"n": i}) for i in range(4)]
        jobs += [pool.submit(name, "plan", {}) for name in ("b", "c")]
        ahead = [pool.ahead(job) for job in jobs]
        order = [await pool._next() for _ in jobs]
        assert [ahead[jobs.index(job)] for job in order] == list(range(len(jobs)))
        await pool.stop()
        return [job.session for job in order], ahead

    order, _ = asyncio.run(play())
    assert order == ["greedy", "b", "c", "greedy", "greedy", "greedy"]


def test_what_is_too_much_is_refused_with_the_reason() -> None:
    async def play() -> None:
        pool = Pool(Size(per_session=2, waiting=3))
        mine = [pool.submit("a", "plan", {}) for _ in range(2)]
        with pytest.raises(Full, match="2 questions of this session") as full:
            pool.submit("a", "plan", {})
        assert full.value.retry_after_s >= 1
        pool.submit("b", "plan", {})
        with pytest.raises(Full, match="3 questions of all sessions"):
            pool.submit("c", "plan", {})
        pool.cancel(mine[0])
        assert (pool.waiting, mine[0].state) == (2, "cancelled")
        pool.submit("c", "plan", {})
        assert pool.find(mine[1].id, "b") is None  # another session's
        assert pool.find(mine[1].id, "a") is mine[1]
        await pool.stop()

    asyncio.run(play())


def test_a_change_between_looking_and_waiting_is_not_missed() -> None:
    async def play() -> None:
        job = Job(session="a", task="plan", asked={})
        change = job.change(60)
        job.touch()
        await asyncio.wait_for(change, 1)

    asyncio.run(play())


def test_fifty_sessions_at_one_worker_are_all_answered_in_turns() -> None:
    """Also one that asks four times at once: its second waits until all had their first."""

    async def play() -> tuple[list[Job], list[Job]]:
        order: list[Job] = []

        async def note(job: Job) -> None:
            order.append(job)

        pool = Pool(Size(workers=1), after=note)
        query = "kind=train&model=smollm2-135m&tokens=1B&on=h100-sxm&chips=8"
        asked = {"query": query, "prefix": "a-"}
        jobs = [pool.submit("greedy", "plan", asked) for _ in range(4)]
        jobs += [pool.submit(f"session {i}", "plan", asked) for i in range(49)]
        await pool.start()
        await asyncio.wait_for(asyncio.gather(*(job.end() for job in jobs)), 120)
        await pool.stop()
        return jobs, order

    jobs, order = asyncio.run(play())
    assert {job.state for job in jobs} == {"done"}
    assert [order.index(job) for job in jobs[:4]] == [0, 50, 51, 52]


@pytest.mark.slow
def test_a_worker_that_would_take_too_much_memory_says_so_and_lives() -> None:
    async def play() -> list[Job]:
        pool = Pool(Size(workers=1, memory_bytes=70 * 10**6))
        await pool.start()
        large = "kind=train&model=llama-3.1-405b&tokens=1T&on=h100-sxm,b200&max_chips=4096"
        jobs = [pool.submit("a", "plan", {"query": query, "prefix": "a-"})
                for query in (large, "kind=train&model=nothing")]  # fmt: skip
        await asyncio.wait_for(asyncio.gather(*(job.end() for job in jobs)), 120)
        await pool.stop()
        return jobs

    large, wrong = asyncio.run(play())
    assert "more memory" in large.failed["errors"][0]["what"]
    assert wrong.failed["code"] == 2
