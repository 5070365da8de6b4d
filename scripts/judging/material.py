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


# A second set, of which nothing was known when the way to interrupt was chosen.
HELD_OUT = [
    "[S1] The garden behind the house is full of flowers, and every morning the birds come to eat the bread.",
    "[S2] You can leave your bags at the hotel, because the museum does not allow them inside the building.",
    "[S1] Our flight was late by almost two hours. [S2] Perhaps there was too much snow on the ground.",
    "[S2] First we looked at the map, then we asked a farmer, and in the end we found the right road.",
    "[S2] Have you ever been to Italy in summer? [S1] Only once, when I was still a student.",
    "[S1] The engine makes a strange noise when I start it, so I would rather take the bus to work today.",
]
HELD_OUT_REPLIES = [
    "Wait a minute, I have another question.",
    "[S2] My number has changed since last year.",
    "Yes, but how long will it take?",
    "[S1] Could you say that a little slower?",
    "No problem, we have plenty of time.",
]
_HELD_OUT_FROM_MS, _HELD_OUT_TO_MS, _HELD_OUT_SEED = 700, 3900, 7000


@dataclass(frozen=True)
class Said:
    """A task, and the kind of text it is."""

    kind: str
    task: Task


def sentences(count: int) -> list[Said]:
    """So many sentences: kinds and speakers take turns, and each has another seed."""
    said: list[Said] = []
    longest = max(map(len, SENTENCES.values()))
    for number in range(longest):
        for kind, texts in SENTENCES.items():
            if number < len(texts):
                text = texts[number]
                tag = "" if text.startswith("[S") else f"[S{1 + (number + len(said)) % 2}] "
                said.append(Said(kind, Task(tag + text, seed=1000 + len(said))))
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
