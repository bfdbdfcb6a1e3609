"""A specialist and a conversation to the question that its model is asked."""

from pointsman.generation.backend import Question
from pointsman.settings import Cloud as CloudSettings
from pointsman.values.catalog import Specialist
from pointsman.values.request import Message, Request, Role


def local_question(request: Request, specialist: Specialist, adapters: tuple[float, ...] | None) -> Question:
    """Put the specialist's prompt and worked examples before the conversation.

    System messages of the caller join the specialist's own: chat templates expect one, and first.
    The request may ask for less than the specialist's `max_output_tokens`, not for more.
    """
    sampling = request.sampling
    system = [specialist.system_prompt.strip()] if specialist.system_prompt.strip() else []
    system += [m.content for m in request.messages if m.role is Role.SYSTEM]
    messages = [Message(Role.SYSTEM, "\n\n".join(system))] if system else []
    for shot in specialist.few_shot:
        messages += [Message(Role.USER, shot.user), Message(Role.ASSISTANT, shot.assistant)]
    messages += [m for m in request.messages if m.role is not Role.SYSTEM]
    return Question(
        messages=tuple(messages),
        max_tokens=min(sampling.max_tokens or specialist.max_output_tokens, specialist.max_output_tokens),
        temperature=specialist.temperature if sampling.temperature is None else sampling.temperature,
        top_p=specialist.top_p if sampling.top_p is None else sampling.top_p,
        stop=sampling.stop or specialist.stop,
        seed=sampling.seed,
        logprobs=sampling.logprobs,
        adapters=adapters,
    )


def cloud_question(request: Request, settings: CloudSettings) -> Question:
    """Pass the conversation on as it is; what the caller leaves open is the cloud's to choose."""
    sampling = request.sampling
    return Question(
        messages=request.messages,
        max_tokens=sampling.max_tokens or settings.max_output_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=sampling.stop,
        seed=sampling.seed,
        logprobs=sampling.logprobs,
    )
