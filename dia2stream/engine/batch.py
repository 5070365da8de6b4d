"""One step of the conversations that can use one."""

from dia2.steps.stepper import Stepper
from dia2stream.conversation.conversation import Conversation


def step(stepper: Stepper, conversations: list[Conversation]) -> None:
    """One step of conversations that all `can_step`."""
    for conversation in conversations:
        conversation.prepare()
    actions = stepper.act([conversation.slot for conversation in conversations])
    stepper.complete([c.advance(action) for c, action in zip(conversations, actions, strict=True)])
    for conversation in conversations:
        conversation.emit()
