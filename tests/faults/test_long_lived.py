"""Verbs that live long: three hundred turns of a conversation, and a thousand requests at the server's guard, leave
memory, open files and threads as they are."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest
import tiny_runs

from whet.inference.chat import Conversation
from whet.inference.decoding import Decoding
from whet.inference.respond import Request, open_responder
from whet.inference.serve_guard import MODELS, Guard

TURNS, WARM_UP_TURNS = 300, 150
REQUESTS, WARM_UP_REQUESTS = 1000, 100
MOST_KB_PER_TURN = 20
"""of a leak: the cached keys and values of one full window of this tiny model are 128 kB; two messages and the words
that the tokenizer remembers take 2 kB. A prompt of a length that never was costs 2.7 MB, once: torch and oneDNN keep
the products that they compiled for it, 192 in whet chat"""


def rss_kb() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def num_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_hundred_turns_of_a_conversation_leave_nothing_behind(tmp_path, outcome):
    responder = open_responder(Request(name=str(tiny_runs.write_base(tmp_path / "base"))))
    conversation = Conversation(responder=responder, decoding=Decoding(max_new_tokens=4), system="Be brief.")
    growth, files, threads, prompts = [], [], [], []
    lengths = set()
    for turn in range(TURNS):
        before = rss_kb()
        "".join(conversation.ask(f"How many clips did Natalia sell on day {turn}?"))
        prompts.append(conversation.last.num_prompt_tokens)
        if turn >= WARM_UP_TURNS and prompts[-1] in lengths:
            growth.append(rss_kb() - before)
            files.append(num_files())
            threads.append(threading.active_count())
        lengths.add(prompts[-1])
    assert len(conversation.turns) == 2 * TURNS
    assert max(prompts) <= responder.context, "what the model reads is bounded by its window"
    assert len(growth) > (TURNS - WARM_UP_TURNS) / 2
    per_turn = sum(growth) / len(growth)
    is_flat = per_turn < MOST_KB_PER_TURN and max(files) == files[0] and max(threads) == threads[0]
    outcome(fault="300 turns of a chat", group="memory", tries=1, held=int(is_flat),
            note=f"{per_turn:.1f} kB more per turn of a known length; open files and threads flat")  # fmt: skip
    assert is_flat, (per_turn, set(files), set(threads))


def test_a_thousand_requests_at_the_guard_leave_nothing_behind(monkeypatch, outcome):
    """Good ones, ones for another model, ones from elsewhere, and ones that are no request."""
    monkeypatch.setenv(MODELS, "tiny")
    num_passed = 0

    async def server_behind(scope, receive, send):
        nonlocal num_passed
        num_passed += 1
        await receive()

    guard, replies = Guard(server_behind), []

    async def send(message):
        replies.append(message.get("status"))

    async def ask(number: int) -> None:
        bodies = (b'{"model": "tiny", "max_tokens": 4}', b'{"model": "other"}', b"[" * 100_000, b"\xff")
        hosts = (b"localhost", b"evil.example", b"[")
        messages = [{"type": "http.request", "body": bodies[number % 4], "more_body": False}]

        async def receive():
            return messages.pop() if messages else {"type": "http.disconnect"}

        headers = [(b"host", hosts[number % 3])]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        await guard(scope, receive, send)

    async def all_of_them() -> list[tuple[int, int]]:
        seen = []
        for number in range(REQUESTS):
            await ask(number)
            if number >= WARM_UP_REQUESTS:
                seen.append((num_files(), len(asyncio.all_tasks())))
        return seen

    seen = asyncio.run(all_of_them())
    gc.collect()
    is_flat = len(set(seen)) == 1 and 0 < num_passed < REQUESTS
    outcome(fault="1,000 requests to whet serve, good and bad", group="memory", tries=1, held=int(is_flat),
            note="open files and tasks flat")  # fmt: skip
    assert is_flat, (set(seen), num_passed)
    assert {400, 403, 404} <= set(replies)
