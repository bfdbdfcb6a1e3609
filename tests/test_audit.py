"""The chain of audit records: what stands in it, and that no edit or gap goes unseen."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from harness import Cloud, Site, collect, running
from pointsman.errors import ConfigError
from pointsman.ledger import auditor
from pointsman.ledger.audit import AuditLog, head_beside, records_of, verify
from pointsman.ledger.auditor import _listed
from pointsman.v1 import router_pb2
from pointsman.values.policy import NOTHING_FOUND, Action, Finding, Screening
from pointsman.values.request import Message, Request, Role

OTHER = "Compare the foreign policies of Bismarck and Metternich in an essay."
IBAN = "DE89 3704 0044 0532 0130 00"


def written(folder: Path, count: int = 5, key: str = "", outcome: str = "ok") -> Path:
    log = AuditLog(folder, key)
    for i in range(count):
        log.append("answer", f"r{i}", outcome=outcome)
    log.close()
    (file,) = folder.glob("????-??.jsonl")
    return file


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines(keepends=True)


def test_a_chain_that_nobody_touched_verifies_over_restarts(tmp_path: Path) -> None:
    written(tmp_path)
    file = written(tmp_path)
    verdict = verify(tmp_path)
    assert (verdict.records, verdict.problem) == (10, "")
    assert verdict.head.hash == json.loads(lines_of(file)[-1])["hash"]
    assert verify(tmp_path, head=verdict.head.hash).problem == ""


@pytest.mark.parametrize("at", range(5))
def test_every_edit_and_every_gap_is_found(tmp_path: Path, at: int) -> None:
    file = written(tmp_path)
    head = verify(tmp_path).head.hash
    whole = lines_of(file)
    edited = whole[at].replace('"ok"', '"no"')
    for changed in (
        [*whole[:at], edited, *whole[at + 1 :]],
        [*whole[:at], *whole[at + 1 :]],
        [*whole[: at + 1], whole[at], *whole[at + 1 :]],
        [*whole[:at], "nonsense\n", *whole[at:]],
        [*whole[:at], whole[at].replace("{", '{"outcome":"no",', 1), *whole[at + 1 :]],
        [*whole[:at], whole[at].replace(":", ": ", 1), *whole[at + 1 :]],
        [*whole[:at], *reversed(whole[at - 1 : at + 1]), *whole[at + 1 :]] if at else whole[::-1],
    ):
        file.write_text("".join(changed))
        assert verify(tmp_path, head=head).problem, changed


def test_a_chain_written_anew_is_found_by_its_key_or_its_head(tmp_path: Path) -> None:
    written(tmp_path / "ours", key="secret")
    forged = written(tmp_path / "forged", count=5)
    (tmp_path / "ours" / forged.name).write_text(forged.read_text().replace('"ok"', '"no"'))
    assert "was changed, or the key is another" in verify(tmp_path / "ours", "secret").problem
    known = verify(tmp_path / "forged").head.hash
    forged.unlink()
    (tmp_path / "forged.head").unlink()
    written(tmp_path / "forged", count=4, outcome="no")
    assert "has the hash" in verify(tmp_path / "forged", head=known).problem


@pytest.mark.parametrize("left", range(5))
def test_records_that_are_cut_off_the_end_are_missed_without_anybody_naming_a_head(
    tmp_path: Path, left: int
) -> None:
    file = written(tmp_path / "log")
    file.write_text("".join(lines_of(file)[:left]))
    assert verify(tmp_path / "log").problem.startswith(f"records {left + 1} to 5 are gone")
    file.unlink()
    assert verify(tmp_path / "log").problem.startswith("records 1 to 5 are gone")


def test_a_chain_written_anew_without_a_key_is_found_by_the_head_beside_it(tmp_path: Path) -> None:
    written(tmp_path / "log", 3)
    # Within one millisecond the same records would have the same hashes, and nothing would have been changed.
    anew = written(tmp_path / "anew", 4, outcome="no").read_text()
    (file,) = (tmp_path / "log").glob("????-??.jsonl")
    file.write_text(anew)
    assert "record 3 is not the one that was written" in verify(tmp_path / "log").problem


def test_a_writer_that_goes_on_after_a_cut_says_so_in_the_chain(tmp_path: Path) -> None:
    file = written(tmp_path / "log")
    cut = json.loads(lines_of(file)[-1])["hash"]
    file.write_text("".join(lines_of(file)[:2]))
    written(tmp_path / "log", 3)
    assert "record 3 says that records up to 5 were gone" in verify(tmp_path / "log").problem
    assert [r["hash_of_last"] for r in records_of(tmp_path / "log", "")] == [cut]
    file.write_text("".join(lines_of(file)[3:]))  # who knows of it puts away what was before
    known = verify(tmp_path / "log", first=4)
    assert (known.records, known.problem) == (3, "")


def test_a_log_without_its_head_is_sound_only_for_who_names_a_hash(tmp_path: Path) -> None:
    written(tmp_path / "log")
    beside = tmp_path / "log.head"
    elsewhere = beside.rename(tmp_path / "elsewhere")
    verdict = verify(tmp_path / "log")
    assert "log.head: no such file" in verdict.problem
    assert verify(tmp_path / "log", head=verdict.head.hash).problem == ""
    assert verify(tmp_path / "log", head_file=elsewhere).problem == ""


def test_a_head_that_is_one_record_behind_is_that_of_a_process_that_was_killed(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log", head_file=tmp_path / "head")
    log.append("answer", "a")
    before = (tmp_path / "head").read_bytes()
    log.append("answer", "b")
    log.close()
    (tmp_path / "head").write_bytes(before)
    assert verify(tmp_path / "log", head_file=tmp_path / "head").problem == ""
    written(tmp_path / "log", 1)
    assert verify(tmp_path / "log").records == 3


def test_a_head_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audit\.head: .*none/head: No such file"):
        AuditLog(tmp_path / "log", head_file=tmp_path / "none" / "head")
    AuditLog(tmp_path / "log").close()  # nobody holds the folder


def test_a_head_that_was_told_on_the_way_stands_in_a_chain_that_grew(tmp_path: Path) -> None:
    written(tmp_path, count=3)
    told = verify(tmp_path).head.hash
    file = written(tmp_path, count=2)
    assert verify(tmp_path, head=told).problem == ""
    file.write_text("".join(lines_of(file)[:2]))
    assert "has the hash" in verify(tmp_path, head=told).problem


def test_a_record_beyond_a_mebibyte_is_gone_on_from(tmp_path: Path) -> None:
    written(tmp_path, count=1)
    log = AuditLog(tmp_path)
    log.append("answer", "r", found=["x" * 3_000_000])
    log.close()
    (tmp_path / "zzz.jsonl").write_text("no month\n")
    written(tmp_path, count=1)
    verdict = verify(tmp_path)
    assert (verdict.records, verdict.problem) == (3, "")


def test_of_thousands_of_findings_the_record_counts_most(tmp_path: Path) -> None:
    findings = tuple(Finding(0, "email", 9, Action.STAY_LOCAL) for _ in range(20_000))
    listed = _listed(Screening(Action.STAY_LOCAL, findings))
    assert len(listed) == 1001
    assert listed[-1] == {"kind": "email", "count": 19_000, "action": "stay_local"}


@pytest.mark.parametrize("line", ['{"number":1,"hash":"é"}', "[" * 100_000])
def test_what_no_writer_wrote_is_named_and_not_fallen_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "2026-01.jsonl").write_text(f"{line}\n")
    assert verify(tmp_path, head="é").problem


def test_old_records_that_were_put_away_are_a_gap_unless_named(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_text("".join(lines_of(file)[2:]))
    assert "expected record 1, found 3" in verify(tmp_path).problem
    assert verify(tmp_path, first=3).problem == ""


def test_a_line_that_a_kill_cut_short_is_gone_on_from(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_text(file.read_text() + '{"number": 6, "ki')
    assert "is no record" in verify(tmp_path).problem
    written(tmp_path, count=2)
    verdict = verify(tmp_path)
    assert (verdict.records, verdict.problem) == (7, "")


def test_a_killed_process_loses_no_record_that_it_wrote(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pointsman.ledger.audit import AuditLog\n"
        f"log = AuditLog(Path({str(tmp_path)!r}))\n"
        "while True: print(log.append('answer', 'r').number, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(200)]
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    last = max([*said, *(int(line) for line in rest[:-1])])
    written(tmp_path, count=1)
    verdict = verify(tmp_path)
    assert verdict.problem == ""
    assert verdict.records >= last + 1


def test_a_folder_of_which_everything_was_taken_is_not_sound(tmp_path: Path) -> None:
    written(tmp_path, count=3)
    for file in tmp_path.glob("*.jsonl"):
        file.unlink()
    assert verify(tmp_path).problem.startswith("records 1 to 3 are gone")
    head_beside(tmp_path).unlink()
    assert verify(tmp_path).problem == "there are no records: none were written, or all were taken away"


async def test_the_head_is_told_while_it_runs(
    tmp_path: Path, log_lines: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor, "_SAY_HEAD_EVERY_S", 0.0)
    log = await asyncio.to_thread(AuditLog, tmp_path)
    book = auditor.Auditor(log)
    await book.leaving(
        Request((Message(Role.USER, "hi"),)), "big", (Message(Role.USER, "hi"),), NOTHING_FOUND
    )
    (told,) = (line for line in log_lines if line["event"] == "audit.head")
    assert (told["number"], told["hash"]) == (log.head.number, log.head.hash)
    await asyncio.to_thread(book.close)


async def test_each_time_that_the_cloud_is_asked_again_is_a_record_of_what_leaves(site: Site) -> None:
    site.fill()
    folder = site.root / "audit"
    with Cloud(500, 503, "ok") as cloud:
        settings = site.settings(cloud=cloud.settings | {"max_retries": 2}, audit={"folder": folder})
        async with running(settings, engines=False) as server:
            await collect(server.client.generate(OTHER))
        assert len(cloud.requests) == 3
        sent = [sum(len(m["content"].encode()) for m in asked["messages"]) for asked in cloud.requests]
    records = await asyncio.to_thread(
        lambda: [json.loads(line) for file in folder.glob("*.jsonl") for line in lines_of(file)]
    )
    assert [record["bytes"] for record in records if record["kind"] == "egress"] == sent


async def test_where_the_record_of_another_try_cannot_be_written_there_is_none(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.fill()
    with Cloud(500, "ok") as cloud:
        settings = site.settings(
            cloud=cloud.settings | {"max_retries": 1}, audit={"folder": site.root / "audit"}
        )
        async with running(settings, engines=False) as server:
            log = server.core.auditor._log
            assert log is not None
            append = log.append

            def failing(kind: str, request_id: str, **fields: object) -> object:
                if kind == "egress" and cloud.requests:
                    raise OSError(28, "No space left on device")
                return append(kind, request_id, **fields)

            monkeypatch.setattr(log, "append", failing)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await collect(server.client.generate(OTHER))
        assert len(cloud.requests) == 1
    assert (raised.value.details() or "").startswith("the audit log cannot be written")


def test_one_process_writes_to_a_folder(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    with pytest.raises(ConfigError, match=r"another process writes to .*; give each a folder of its own"):
        AuditLog(tmp_path)
    log.close()
    AuditLog(tmp_path).close()


async def test_what_left_and_what_stayed_stands_in_the_log_without_a_word_of_it(site: Site) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text("actions: {email: redact, iban: stay_local}")
    folder = site.root / "audit"
    settings = {"audit": {"folder": folder, "key": "k"}}
    with Cloud() as cloud:
        async with running(site.settings(cloud=cloud.settings, **settings), engines=False) as server:
            await collect(server.client.generate(f"{OTHER} Copy ann@acme-corp.com."))
            with pytest.raises(grpc.aio.AioRpcError):
                asked = router_pb2.Constraints(tier=router_pb2.TIER_CLOUD)
                await collect(server.client.generate(f"{OTHER} {IBAN}", asked))
    await asyncio.to_thread(_says, folder, cloud)


def _says(folder: Path, cloud: Cloud) -> None:
    left, answered, refused = (json.loads(line) for file in folder.glob("*.jsonl") for line in lines_of(file))
    sent = sum(len(message["content"].encode()) for message in cloud.requests[0]["messages"])
    assert (left["kind"], left["bytes"], left["model"]) == ("egress", sent, "big-model")
    assert left["redacted"] == [{"message": 1, "kind": "email", "length": 17, "action": "redact"}]
    assert (answered["kind"], answered["tier"], answered["outcome"]) == ("answer", "cloud", "ok")
    assert (refused["outcome"], refused["found"][0]["kind"], refused["action"]) == (
        "refused",
        "iban",
        "stay_local",
    )
    assert len(cloud.requests) == 1
    everything = "".join(file.read_text() for file in folder.glob("*.jsonl"))
    assert "acme" not in everything
    assert "DE89" not in everything
    assert verify(folder, "k").problem == ""
    assert len(list(records_of(folder, left["request_id"]))) == 2


async def test_where_the_log_cannot_be_written_nothing_leaves(site: Site) -> None:
    site.fill()
    folder = site.root / "audit"
    with Cloud() as cloud:
        settings = site.settings(cloud=cloud.settings, audit={"folder": folder})
        async with running(settings, engines=False) as server:
            await asyncio.to_thread(
                (folder / "9999-12.jsonl").mkdir
            )  # what it would write to next is no file
            server.core.auditor._log._month = "9999-12"
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await collect(server.client.generate(OTHER))
            await asyncio.to_thread((folder / "9999-12.jsonl").rmdir)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "nothing may leave" in (raised.value.details() or "")
    assert cloud.requests == []


def test_the_command_line_verifies_and_shows(tmp_path: Path) -> None:
    file = written(tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pointsman", "audit", *arguments, "--folder", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert "5 records, each follows from the one before" in run("verify").stdout
    assert json.loads(run("show", "r3").stdout)["number"] == 4
    assert run("show", "nobody").returncode == 1
    file.write_text(file.read_text().replace('"r2"', '"r9"'))
    broken = run("verify")
    assert broken.returncode == 1
    assert f"{file.name}:3: record 3 was changed" in broken.stdout
