"""What two machines find out about each other before torch is imported: each case ends in time, with a sentence."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.doctor.checks import pinned
from megatron_patch.launch.cluster import rendezvous
from megatron_patch.launch.cluster.connection import interface_of

from .machines import REPOSITORY, Machine, place, wait_for

Values = Callable[..., list[str]]
Pair = tuple[Machine, Machine]
PATIENCE = 400
"""Seconds; nothing takes this long unless it hangs."""


def soon(rank: int, master: str, **more: str) -> dict[str, str]:
    """A place whose rendezvous gives up after 5 seconds, for those that meet nobody."""
    return place(rank, master, MP_RENDEZVOUS_TIMEOUT_SECONDS="5", **more)


def patient(rank: int, master: str, **more: str) -> dict[str, str]:
    """A place for those that meet: on a busy machine one may come much later than the other."""
    return place(rank, master, MP_RENDEZVOUS_TIMEOUT_SECONDS=str(PATIENCE), **more)


def outcome(pair: Pair, typed: list[list[str]], environs: list[dict[str, str]], **before: str) -> list[str]:
    """Start both, expect both to end with 1, and return their screens."""
    started = [
        machine.start(values, environ, before=before.get(f"before_{number}", ""))
        for number, (machine, values, environ) in enumerate(zip(pair, typed, environs, strict=True))
    ]
    assert [one.wait(PATIENCE) for one in started] == [1, 1], "\n".join(one.said() for one in started)
    said = [one.said() for one in started]
    assert all("nothing was started" in text for text in said)
    return said


def test_machines_that_meet_nobody(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """At the same time: a first one whose second does not come, and a second one that asks at another port."""
    first, second = pair
    tokenizer, outputs = str(world / "tokenizer"), [tmp_path / "first", tmp_path / "second"]
    waits = first.start(values(outputs[0]), soon(0, first.address, MP_TOKENIZER_PATH=tokenizer))
    asks = second.start(values(outputs[1]), soon(1, first.address, MP_TOKENIZER_PATH=tokenizer, MASTER_PORT="29512"))
    assert [run.wait(PATIENCE) for run in (waits, asks)] == [1, 1]
    assert f"node 0 ({first.name}): node 1 of 2 did not come within 5 s" in waits.said()
    assert not list(outputs[0].glob(".rendezvous_*"))
    assert not (outputs[0] / "plan.json").exists()
    assert f"node 1 ({second.name}): nobody answers at MASTER_ADDR:MASTER_PORT 10.77.0.1:29512 for 5 s" in asks.said()


@pytest.mark.slow
def test_a_late_machine(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """Within the time-out it is met (here to be told of another value); after it, neither waits for the other."""
    first, second = pair
    environs = [
        place(
            rank, first.address, MP_RENDEZVOUS_TIMEOUT_SECONDS=str(PATIENCE), MP_TOKENIZER_PATH=str(world / "tokenizer")
        )
        for rank in (0, 1)
    ]
    early = first.start(values(tmp_path / "out"), environs[0])
    time.sleep(3)
    late = second.start(values(tmp_path / "out", {5: "2e-3"}), environs[1])
    assert [one.wait(PATIENCE) for one in (early, late)] == [1, 1]
    assert all("position 5 LR is 0.002 there, 0.001 here" in one.said() for one in (early, late))
    environs = [environ | {"MP_RENDEZVOUS_TIMEOUT_SECONDS": "5"} for environ in environs]
    early = first.start(values(tmp_path / "out"), environs[0])
    assert early.wait(PATIENCE) == 1
    late = second.start(values(tmp_path / "out"), environs[1])
    assert late.wait(PATIENCE) == 1
    assert f"node 0 ({first.name}): node 1 of 2 did not come within 5 s" in early.said()
    assert f"node 1 ({second.name}): nobody answers at MASTER_ADDR:MASTER_PORT" in late.said()


def test_a_wrong_address(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """One that no machine has, and a name that nobody knows."""
    tokenizer, typed = str(world / "tokenizer"), values(tmp_path / "out")
    environs = [
        soon(0, "10.77.0.9", MP_TOKENIZER_PATH=tokenizer),
        soon(1, "no-such-machine", MP_TOKENIZER_PATH=tokenizer),
    ]
    first, second = outcome(pair, [typed, typed], environs)
    assert "MASTER_ADDR 10.77.0.9 is not an address of this machine, whose RANK is 0" in first
    assert "nobody answers at MASTER_ADDR:MASTER_PORT no-such-machine:29511" in second


def test_two_different_commands(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """Another learning rate, and another seed: both are named, with both values, on both screens."""
    tokenizer = str(world / "tokenizer")
    typed = [values(tmp_path / "out"), values(tmp_path / "out", {5: "2e-3"})]
    address = pair[0].address
    environs = [
        patient(0, address, MP_TOKENIZER_PATH=tokenizer, NCCL_ALGO="Ring"),
        patient(1, address, MP_TOKENIZER_PATH=tokenizer, MP_SEED="7"),
    ]
    who = f"node 1 ({pair[1].name}) and node 0 ({pair[0].name}) differ"
    for said in outcome(pair, typed, environs):
        assert f"{who}: position 5 LR is 0.002 there, 0.001 here" in said
        assert f"{who}: MP_SEED is 7 there, 1234 here" in said
    assert "have different environments: NCCL_ALGO is absent there, Ring here" in pair[0].started[0].said()


def test_machines_compare_what_computes_on_gpus() -> None:
    """All that requirements-gpu.txt pins beyond requirements.txt."""
    assert set(pinned("requirements-gpu.txt")) - set(pinned("requirements.txt")) <= set(rendezvous.PACKAGES)


def test_a_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may not even show its folder for a while, and shows no file at another machine's path."""
    late = tmp_path / "out" / "probe"

    def nap(seconds: float) -> None:
        naps.append(seconds)
        late.parent.mkdir(exist_ok=True)
        if len(naps) == 3:
            late.touch()

    naps: list[float] = []
    monkeypatch.setattr(rendezvous.time, "sleep", nap)
    assert rendezvous._appears(late) and len(naps) == 3
    monkeypatch.setattr(rendezvous, "SHARED_SECONDS", 0.0)
    assert not rendezvous._appears(tmp_path / "other" / "probe")


@pytest.mark.slow
def test_an_output_folder_that_is_not_shared(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """The second machine has another disk at the same path."""
    folder = tmp_path / "disk"
    folder.mkdir()
    tokenizer, typed, address = str(world / "tokenizer"), values(folder / "out"), pair[0].address
    environs = [patient(rank, address, MP_TOKENIZER_PATH=tokenizer) for rank in (0, 1)]
    for said in outcome(pair, [typed, typed], environs, before_1=f"mount -t tmpfs tmpfs {folder};"):
        assert f"node 1 ({pair[1].name}) does not see what node 0 ({pair[0].name}) writes" in said
        assert "one folder that all machines share" in said


def test_the_interface_of_an_address() -> None:
    """IPv4 and IPv6; an address that this machine does not have is nobody's."""
    assert [interface_of(address) for address in ("127.0.0.1", "::1", "203.0.113.7", "2001:db8::7")] == [
        "lo",
        "lo" if Path("/proc/net/if_inet6").exists() else None,
        None,
        None,
    ]


def test_two_machines_with_one_rank(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """Of three machines, two say that they are the second."""
    first, second = pair
    tokenizer, typed = str(world / "tokenizer"), values(tmp_path / "out", {4: "6"})
    runs = [
        machine.start(typed, patient(rank, first.address, nodes=3, MP_TOKENIZER_PATH=tokenizer))  # type: ignore[arg-type]
        for machine, rank in ((first, 0), (second, 1), (second, 1))
    ]
    assert [run.wait(PATIENCE) for run in runs] == [1, 1, 1]
    assert any("both say RANK 1: every machine needs its own" in run.said() for run in runs)


def test_a_port_that_is_taken(values: Values, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No namespace: one socket is enough."""
    from megatron_patch.launch.driver import main

    with socket.create_server(("", 0)) as taken:
        environ = place(0, "127.0.0.1", port=taken.getsockname()[1], MP_TOKENIZER_PATH=str(world / "tokenizer"))
        assert main(values(tmp_path / "out"), environ) == 1
    assert f"MASTER_PORT {environ['MASTER_PORT']} cannot be used here" in capsys.readouterr().err


def test_a_signal_before_the_machines_have_met(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """As process 1 of a container only a handler hears it; what was written for the others goes with it."""
    first, _ = pair
    run = first.start(values(tmp_path / "out"), patient(0, first.address, MP_TOKENIZER_PATH=str(world / "tokenizer")))
    wait_for(lambda: list((tmp_path / "out").glob(".rendezvous_*")), PATIENCE, "it waits for node 1", run)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(PATIENCE) == 143
    assert "SIGTERM before the machines had met: nothing was started" in run.said()
    assert not list((tmp_path / "out").glob(".rendezvous_*"))


def test_a_first_machine_that_cannot_write(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """What node 0 says is what node 1 says: not that node 0 was killed."""
    (tmp_path / "out" / "logs").mkdir(parents=True)
    (tmp_path / "out" / "logs" / "launcher.lock").symlink_to("/no/such/disk")
    first, _ = pair
    typed, address = values(tmp_path / "out"), first.address
    runs = [
        machine.start(typed, patient(rank, address, MP_TOKENIZER_PATH=str(world / "tokenizer")))
        for rank, machine in enumerate(pair)
    ]
    assert [run.wait(PATIENCE) for run in runs] == [2, 2], "\n".join(run.said() for run in runs)
    assert f"{tmp_path}/out cannot be written" in runs[0].said()
    assert f"node 0 ({first.name}) cannot write into {tmp_path}/out" in runs[1].said()
    assert "newest checkpoint" not in runs[1].said()


def test_something_else_answers(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """A stranger at MASTER_PORT, as an SSH server would be, until the machine is switched off."""
    first, second = pair
    stranger = (
        "printf 'SSH-2.0-stranger\\r\\n' | python3 -c \"import signal,socket,sys; "
        "s = socket.create_server(('', 29511)); c = s.accept()[0]; "
        'c.sendall(sys.stdin.buffer.read()); signal.pause()";'
    )
    other = first.start([], {}, before=f"{stranger} exit;")
    run = second.start(values(tmp_path / "out"), patient(1, first.address, MP_TOKENIZER_PATH=str(world / "tokenizer")))
    assert run.wait(PATIENCE) == 1
    assert "does not speak this protocol" in run.said(), other.said()


def test_a_machine_with_other_code(pair: Pair, values: Values, world: Path, tmp_path: Path) -> None:
    """One file of the project was changed on one machine only."""
    copy = tmp_path / "other"
    for name in ("megatron_patch", "examples", "toolkits"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "megatron_patch" / "trainer" / "step.py").open("a") as file:
        file.write("# changed here\n")
    first, second = pair
    typed, address = values(tmp_path / "out"), first.address
    environs = [patient(rank, address, MP_TOKENIZER_PATH=str(world / "tokenizer")) for rank in (0, 1)]
    runs = [first.start(typed, environs[0]), second.start(typed, environs[1], repository=copy)]
    assert [run.wait(PATIENCE) for run in runs] == [1, 1]
    assert all("differ: the project's code is another" in run.said() for run in runs)
