"""What is said: sentences by kind, texts that are interrupted, and what interrupts them. All of it is our own writing.

The words are common ones, because a recogniser that guesses at rare words says little about a voice.
"""

import random
from dataclasses import dataclass

from speaking import Interruption, Task

SENTENCES = {
    "statement": [
        "We walked along the river until it got dark.",
        "There is nothing wrong with your computer.",
        "My sister works in a hospital near the station.",
        "The children were playing in the garden all morning.",
        "They built a wooden bridge across the stream.",
        "It takes twenty minutes to cook the rice.",
        "He opened the letter and read it twice.",
        "Music makes people happy and helps them relax.",
    ],
    "question": [
        "What time does the meeting start tomorrow?",
        "Can you help me carry these boxes upstairs?",
        "Hello, how are you doing today?",
        "Would you like to come with us on Sunday?",
        "Where did you put the keys to the house?",
        "How much does a ticket to the city cost?",
        "Could you tell me your name again, please?",
        "Have you seen the doctor about your back?",
    ],
    "service": [
        "Thank you for calling, please hold the line.",
        "I am afraid that the shop is closed right now.",
        "Your order has been sent and will arrive on Monday.",
        "I can help you with that, give me one moment.",
        "Please tell me what I can do for you.",
        "We are open from Monday to Friday.",
        "I have found your account, and everything looks good.",
        "You can pay by card when you get here.",
    ],
    "figures": [
        "The train leaves at 4:30 on March 3.",
        "That will be $25, please.",
        "There are 12 rooms on the 2nd floor.",
        "About 50% of them came back in 1995.",
        "He is 45 and she is 38 years old.",
        "The box weighs 7 kg.",
        "It costs 19 dollars and takes 3 weeks.",
        "We have 100 chairs and 20 tables.",
    ],
    "long": [
        "The old man told us a story about the sea, and when he had finished, nobody said a word for a long time.",
        "I think it is going to rain this afternoon, so please close the window before you leave the house.",
        "She bought three apples and a loaf of bread, and then she went home to make dinner for the whole family.",
        "The teacher asked everyone to be quiet, but the children in the last row went on talking and laughing.",
    ],
    "dialogue": [
        "[S1] Did you sleep well? [S2] Yes, thank you, very well. [S1] Then let us go.",
        "[S2] Where are you going? [S1] I am going to the market. [S2] Please bring some milk.",
        "[S1] The bus is late again. [S2] We can walk to the station. [S1] That is too far.",
        "[S2] Is this your coat? [S1] No, mine is the black one. [S2] Then it must be his.",
    ],
}

# Texts that are interrupted, in one voice and in two.
INTERRUPTED = [
    "[S1] I think it is going to rain this afternoon, so please close the window before you leave.",
    "[S2] The train to London leaves at half past nine, and it takes about twenty minutes to get there.",
    "[S1] My brother works in a small hospital near the station. [S2] The old man told us a story about the sea.",
    "[S2] She bought three apples and a loaf of bread. [S1] Music makes people happy and helps them relax.",
]
REPLIES = [
    "Sorry, what time does the meeting start?",
    "[S1] Please tell me your name again.",
    "[S2] There is nothing wrong with your computer.",
    "Of course, we can do that tomorrow.",
]
# Where the listener was, in ms. The steps between them are no whole frames: interruptions fall anywhere into words.
INTERRUPTED_AT = (1100, 1720, 2450)
_SHIFT_MS = 37


# A second set, written when all choices had been made. Nothing may be chosen by it: then it has to be written anew, as
# it was twice.
HELD_OUT_SENTENCES = {
    "statement": [
        "The baker on our corner makes the best bread.",
        "Her uncle drives a truck for a large company.",
        "Snow covered the roofs of the whole village.",
        "They sat under a big umbrella and drank cold tea.",
    ],
    "question": [
        "Who left the light on in the kitchen?",
        "Are you sure that this is the right bus?",
        "How did you learn to cook so well?",
        "Can we meet a little later in the evening?",
    ],
    "service": [
        "Your package is waiting at the front desk.",
        "I will send you the new password in a minute.",
        "There is one free place on Thursday morning.",
        "Somebody from our team is on the way to your house.",
    ],
    "several sentences": [
        "[S1] The road is closed. You have to turn around here. There is another bridge near the mill.",
        "[S2] My father was a sailor. He was never home for long. But he wrote to us every week.",
        "[S1] Wait a moment, I hear something. It comes from the cellar. Did you lock the door?",
        "[S2] That was a good film. I liked the music most. Who was the woman with the hat?",
        "[S1] Try this one. It is softer than the other. You can wear it in summer and in winter.",
        "[S2] What a pity! We came to see the lake, but there is too much fog. Maybe it will clear up.",
        "[S1] Our neighbors are very quiet. They have two dogs, and nobody hears them. I wish ours were like that.",
        "[S2] First wash the potatoes. Then cut them in half, and put them in the oven. Salt comes last.",
    ],
    "dialogue": [
        "[S1] Have you got a minute? [S2] Of course, sit down. [S1] It is about the garden wall.",
        "[S2] Which color do you want? [S1] I think the blue one. [S2] Good, blue is cheaper today.",
        "[S1] My phone is broken again. [S2] You should buy a new one. [S1] I bought this one in June.",
        "[S2] Was the exam hard? [S1] Not at all. I knew every answer. [S2] I am so proud of you.",
    ],
}
HELD_OUT = [
    "[S1] My grandfather built this house with his own hands, and it took him almost three years to finish it.",
    "[S2] After the concert we walked home through the park, because the last train had left an hour before.",
    "[S1] Why is the shop so full today? [S2] They are selling all the winter shoes for half of the price.",
    "[S2] Turn left behind the church. You will see a yellow house, and the office is on the second floor.",
    "[S2] I lost my ring on the beach last week. [S1] A little girl found it and gave it to the police.",
    "[S1] Your bill is not very high this month. Just send the money before Friday, and keep the letter.",
]
HELD_OUT_REPLIES = [
    "Wait, I did not understand that.",
    "[S2] How far is it from the airport?",
    "Fine, but please speak a bit slower.",
    "[S1] Nobody told me about this before.",
    "Yes, I would like to hear the rest later.",
]
_HELD_OUT_FROM_MS, _HELD_OUT_TO_MS, _HELD_OUT_SEED = 700, 3900, 9600


@dataclass(frozen=True)
class Said:
    """A task, and the kind of text it is."""

    kind: str
    task: Task


def sentences(count: int, held_out: bool = False) -> list[Said]:
    """So many sentences, of the second set if held_out: kinds and speakers take turns, and each has another seed."""
    said: list[Said] = []
    material, seed = (HELD_OUT_SENTENCES, _HELD_OUT_SEED + 500) if held_out else (SENTENCES, 1000)
    longest = max(map(len, material.values()))
    for number in range(longest):
        for kind, texts in material.items():
            if number < len(texts):
                text = texts[number]
                tag = "" if text.startswith("[S") else f"[S{1 + (number + len(said)) % 2}] "
                said.append(Said(kind, Task(tag + text, seed=seed + len(said))))
    return said[:count]


def held_out_interruptions(count: int) -> list[Task]:
    """So many interruptions of the second set, each with a seed of its own, at moments that fall anywhere."""
    rng, tasks = random.Random(_HELD_OUT_SEED), []
    for number in range(count):
        text = HELD_OUT[number % len(HELD_OUT)]
        reply = HELD_OUT_REPLIES[number % len(HELD_OUT_REPLIES)]
        at = rng.randrange(_HELD_OUT_FROM_MS, _HELD_OUT_TO_MS)
        tasks.append(Task(text, seed=_HELD_OUT_SEED + number, interruption=Interruption(at, reply)))
    return tasks


def interruptions(count: int) -> list[Task]:
    """So many interruptions: texts, replies and moments take turns."""
    tasks = []
    for number in range(count):
        text = INTERRUPTED[number % len(INTERRUPTED)]
        at = INTERRUPTED_AT[number // len(INTERRUPTED) % len(INTERRUPTED_AT)]
        turn = number // (len(INTERRUPTED) * len(INTERRUPTED_AT))
        reply = REPLIES[(number + turn) % len(REPLIES)]
        tasks.append(Task(text, seed=100 + number % 7, interruption=Interruption(at + _SHIFT_MS * turn, reply)))
    return tasks
