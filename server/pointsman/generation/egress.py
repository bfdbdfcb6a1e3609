"""The one way out: whatever is asked of the cloud passes the policy and the audit log here."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from pointsman.errors import BackendDownError
from pointsman.generation.answer import Answer
from pointsman.generation.backend import Question, Stream
from pointsman.generation.cloud import Cloud
from pointsman.generation.normalise import Normaliser
from pointsman.generation.prompt import escalated_question
from pointsman.policy.gate import Gate
from pointsman.values.catalog import Specialist
from pointsman.values.events import Finished, Token
from pointsman.values.policy import Screening
from pointsman.values.request import Message, Request

Leaving = Callable[[Request, str, tuple[Message, ...], Screening], Awaitable[None]]
"""Told of what leaves before it does: whose it is, the model, the messages, and what was found in them."""


class Egress:
    """The cloud, behind the gate."""

    def __init__(self, cloud: Cloud, gate: Gate, leaving: Leaving | None = None) -> None:
        self.cloud = cloud
        self._gate = gate
        self._leaving = leaving

    async def stream(self, answer: Answer, question: Question, model: str, output: str = "text") -> Stream:
        """Ask one of the cloud's models; what was replaced on the way there is put back on the way here.

        output: the format that the answer is to have

        Raises:
            PolicyError: the messages hold what must stay.
            BackendDownError, OverloadedError, InvalidRequestError

        """
        leaving = await self._gate.outbound(question.messages, answer.request, question.stop)
        restorer = leaving.redaction.restorer(as_json=output == "json")
        async with self.cloud.admission.place() as queue_ms:
            answer.queue_ms = queue_ms
            asked = replace(question, messages=leaving.messages, stop=leaving.stop)

            async def leave() -> None:
                if self._leaving is not None:
                    await self._leaving(answer.request, model, leaving.texts, leaving.screening)

            await leave()
            async with aclosing(self.cloud.client_of(model).stream(asked, again=leave)) as stream:
                async for item in stream:
                    if isinstance(item, Token):
                        if piece := restorer.feed(item.text):
                            yield replace(item, text=piece)
                        continue
                    if held := restorer.end():
                        yield Token(held)
                    yield item

    async def repeats(self, answer: Answer, question: Question, *texts: str) -> bool:
        """Whether texts, written here from a question, hold pieces of what is redacted in it: they must not leave."""
        return await self._gate.repeats(question.messages, answer.request, *texts)

    async def tellable(self, answer: Answer, specialist: Specialist, draft: str) -> str:
        """Return a specialist's draft, or nothing where it holds pieces of what the conversation leaves without."""
        question = escalated_question(answer.request, specialist, self.cloud.settings, "")
        return "" if draft and await self.repeats(answer, question, draft) else draft

    async def whole(
        self, answer: Answer, question: Question, model: str, output: str = "text"
    ) -> tuple[str, Finished]:
        """Return a whole answer, normalised, of which nobody is told while it comes. Raises what `stream` does."""
        normaliser = Normaliser(fenced=output != "text")
        async with aclosing(self.stream(answer, question, model, output)) as stream:
            async for item in stream:
                if isinstance(item, Finished):
                    normaliser.end()
                    return normaliser.text, item
                normaliser.feed(item.text)
        raise BackendDownError("the cloud ended without finishing an answer")
