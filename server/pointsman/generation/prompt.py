"""A specialist and a conversation to the question that its model is asked."""

import json

from pointsman.catalog.output_format import can_constrain
from pointsman.decision.compare import question_to_judge
from pointsman.generation.backend import Constraint, Question
from pointsman.sections import Cloud as CloudSettings
from pointsman.values.catalog import Output, Specialist
from pointsman.values.request import Message, Request, Role

_BYTES_A_TOKEN = 4
_TOKENS_A_MESSAGE = 8
"""What a chat template adds around a message, about."""
_VERDICT_TOKENS = 8
_AGAIN = (
    "The answer above is a draft by a small model and may be wrong. Answer my last request yourself. "
    "Reply with the answer alone, in the same form as the examples, and do not mention the draft."
)
_ONWARD = (
    "Your answer above broke off. Go on exactly where it ends. Reply with what follows alone, and repeat "
    "nothing of it."
)


def local_question(
    request: Request,
    specialist: Specialist,
    adapters: tuple[float, ...] | None,
    *,
    judged: bool = False,
    repair: bool = False,
) -> Question:
    """Put the specialist's prompt and worked examples before the conversation, as much of it as fits.

    System messages of the caller join the specialist's own: chat templates expect one, and first.
    The request may ask for less than the specialist's `max_output_tokens`, not for more.

    judged: log-probabilities are needed, whether the caller wants them or not
    repair: hold decoding to the format of the specialist's output
    """
    sampling = request.sampling
    limit = min(sampling.max_tokens or specialist.max_output_tokens, specialist.max_output_tokens)
    constraint = constraint_of(specialist, repair=repair)
    stop = sampling.stop or specialist.stop
    if constraint is not None:  # a line break ends no JSON; the format itself does
        stop = tuple(text for text in stop if text.strip())
    return Question(
        messages=(*_before(request, specialist), *_history(request, specialist, limit)),
        max_tokens=limit,
        temperature=specialist.temperature if sampling.temperature is None else sampling.temperature,
        top_p=specialist.top_p if sampling.top_p is None else sampling.top_p,
        stop=stop,
        seed=sampling.seed,
        logprobs=sampling.logprobs or judged,
        adapters=adapters,
        constraint=constraint,
    )


def constraint_of(specialist: Specialist, *, repair: bool) -> Constraint | None:
    """Return what decoding is held to; None where it is free, or the engine cannot."""
    output = specialist.output
    if specialist.engine != "llama_cpp" or not can_constrain(output):
        return None
    if output.constrained != "always" and not repair:
        return None
    if output.grammar:
        return Constraint(grammar=output.grammar)
    if output.format == "choice":
        return Constraint(grammar="root ::= " + " | ".join(json.dumps(c) for c in output.choices))
    return Constraint(json_schema=output.schema)


def cloud_question(request: Request, settings: CloudSettings) -> Question:
    """Pass the conversation on as it is; what the caller leaves open is the cloud's to choose."""
    return _of_cloud(request, settings, request.messages, request.sampling.stop)


def escalated_question(
    request: Request, specialist: Specialist, settings: CloudSettings, draft: str, *, onward: bool = False
) -> Question:
    """Ask the cloud what the specialist was asked, with its draft, if there is one, as context.

    onward: the draft stands, and the cloud goes on where it ends
    """
    before = _before(request, specialist, "" if draft else _described(specialist.output))
    messages = [*before, *(m for m in request.messages if m.role is not Role.SYSTEM)]
    if draft:
        instruction = _ONWARD if onward else _AGAIN + _described(specialist.output)
        messages += [Message(Role.ASSISTANT, draft), Message(Role.USER, instruction)]
    return _of_cloud(request, settings, tuple(messages), request.sampling.stop)


def judge_question(request: Request, local: str, cloud: str) -> Question:
    """Ask whether two answers to a request are as good as each other."""
    asked = Message(Role.USER, question_to_judge(request.prompt, local, cloud))
    return Question((asked,), max_tokens=_VERDICT_TOKENS, temperature=0.0, top_p=None)


def _of_cloud(
    request: Request, settings: CloudSettings, messages: tuple[Message, ...], stop: tuple[str, ...]
) -> Question:
    sampling = request.sampling
    return Question(
        messages=messages,
        max_tokens=sampling.max_tokens or settings.max_output_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=stop,
        seed=sampling.seed,
        logprobs=sampling.logprobs,
    )


def _before(request: Request, specialist: Specialist, form: str = "") -> list[Message]:
    """Return what stands before the conversation; `form` is a sentence on what answers look like."""
    system = [specialist.system_prompt.strip()] if specialist.system_prompt.strip() else []
    system += [m.content for m in request.messages if m.role is Role.SYSTEM]
    system += [form.strip()] if form else []
    messages = [Message(Role.SYSTEM, "\n\n".join(system))] if system else []
    for shot in specialist.few_shot:
        messages += [Message(Role.USER, shot.user), Message(Role.ASSISTANT, shot.assistant)]
    return messages


def _history(request: Request, specialist: Specialist, limit: int) -> list[Message]:
    """Return the last turns: as many as the specialist wants, and as fit beside prompt and answer.

    Sizes are estimates; where one is too low, the engine refuses the prompt by its true size. The last turn
    is kept whatever its size.
    """
    turns: list[list[Message]] = []
    for message in request.messages:
        if message.role is Role.USER or (message.role is Role.ASSISTANT and not turns):
            turns.append([message])
        elif message.role is Role.ASSISTANT:
            turns[-1].append(message)
    earlier, last = turns[:-1], turns[-1]
    if specialist.history_turns is not None:
        earlier = earlier[max(0, len(earlier) - specialist.history_turns) :]
    room = specialist.context_tokens - limit - _size([*_before(request, specialist), *last])
    kept: list[list[Message]] = []
    for turn in reversed(earlier):
        room -= _size(turn)
        if room < 0:
            break
        kept.insert(0, turn)
    return [message for turn in [*kept, last] for message in turn]


def _size(messages: list[Message]) -> int:
    return sum(len(m.content.encode()) // _BYTES_A_TOKEN + _TOKENS_A_MESSAGE for m in messages)


def _described(output: Output) -> str:
    """Return the format as a sentence of an instruction; empty for free text."""
    if output.format == "json":
        schema = f" that follows this JSON Schema: {output.schema}" if output.schema else ""
        return f" The answer is one line of JSON{schema}"
    if output.format == "regex":
        return f" The whole answer matches this regular expression: {output.pattern}"
    if output.format == "choice":
        return f" The answer is one of: {', '.join(output.choices)}"
    return ""
