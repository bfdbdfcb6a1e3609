"""The policy behind the HTTP door: what a client of OpenAI is told, and what a loopback cloud got to see."""

import json
from typing import Any

import openai
import pytest

from harness import Cloud, Site
from test_http import FAR, door

IBAN = "DE89 3704 0044 0532 0130 00"


def asks(cloud: Cloud) -> dict[str, Any]:
    """Return the sections of a server that has no engine, and nobody local to fall back on."""
    return {"engines": False, "cloud": cloud.settings, "routing": {"general_specialist": ""}}


def with_policy(site: Site, text: str) -> Site:
    (site.root / "policy.yaml").write_text(text)
    return site


async def test_what_the_policy_refuses_is_an_error_that_names_the_kind_and_no_text(site: Site) -> None:
    with Cloud() as cloud:
        async with door(with_policy(site, "actions: {iban: refuse}"), **asks(cloud)) as at:
            for stream in (False, True):
                with pytest.raises(openai.PermissionDeniedError) as refused:
                    await at.ask(f"{FAR} {IBAN}", stream=stream)
                assert "iban (message 1)" in str(refused.value)
                assert "DE89" not in str(refused.value)
    assert cloud.requests == []


async def test_what_stays_local_never_reaches_the_cloud_whatever_model_is_named(site: Site) -> None:
    with Cloud() as cloud:
        async with door(with_policy(site, "actions: {iban: stay_local}"), **asks(cloud)) as at:
            with pytest.raises(openai.PermissionDeniedError):
                await at.ask(f"{FAR} {IBAN}", model="big-model")
            with pytest.raises(openai.APIStatusError):  # there is no engine here that could answer
                await at.ask(f"{FAR} {IBAN}")
            with pytest.raises(openai.APIStatusError):
                await at.ask(FAR, stop=["so", IBAN])
    assert cloud.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_the_cloud_sees_placeholders_and_the_client_what_they_stand_for(
    site: Site, stream: bool
) -> None:
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "邮箱ann@acme-corp.com谢谢"}]},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": f"{FAR} Send it to bob@acme-corp.com."},
    ]
    with Cloud(words=("To [EMA", "IL_1] and", " [EMAIL_2]")) as cloud:
        async with door(with_policy(site, "actions: {email: redact}"), **asks(cloud)) as at:
            answer = await at.ask(messages=messages, stream=stream)
            if stream:
                pieces = [chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices]
                text = "".join(pieces)
            else:
                text = answer.choices[0].message.content
    assert text == "To ann@acme-corp.com and bob@acme-corp.com"
    seen = json.dumps(cloud.requests, ensure_ascii=False)
    assert "acme-corp" not in seen
    assert "邮箱[EMAIL_1]谢谢" in seen


@pytest.mark.parametrize("session", ["ann@acme-corp.com", "two words"])
async def test_a_session_id_that_is_a_text_is_refused(site: Site, session: str) -> None:
    async with door(site, engines=False) as at:
        answer = await at.post(
            {"messages": [{"role": "user", "content": "x"}], "pointsman": {"session_id": session}}
        )
    assert answer.status_code == 400
    assert "session_id" in answer.json()["error"]["param"]
    assert session not in answer.text
