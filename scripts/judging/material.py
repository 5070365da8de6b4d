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


# A second set, written when all choices had been made. Nothing may be chosen by it: then it has to be written anew.
HELD_OUT_SENTENCES = {
    "statement": [
        "The nurse wrote his number on a yellow card.",
        "Nobody in our family has ever liked fish.",
        "We painted the fence before the guests arrived.",
        "A strong wind broke the branches of the apple tree.",
    ],
    "question": [
        "Which of these two roads is the shorter one?",
        "Do you want me to wait outside?",
        "Why did they move the table to the other room?",
        "Is there a bank anywhere near here?",
    ],
    "service": [
        "One of my colleagues will call you back today.",
        "Your table is ready, please follow me.",
        "I need your name and the date of your birth.",
        "We can change the room if you do not like it.",
    ],
    "several sentences": [
        "[S1] The lift does not work. Take the stairs at the end of the hall. My door is the second one.",
        "[S2] I know her well. We went to the same school. She plays the piano, and her brother sings.",
        "[S1] Sit here, it is warmer. The fire needs more wood. Shall I bring you a blanket?",
        "[S2] It is late. The last bus has gone. You can sleep in our guest room tonight.",
        "[S1] Do not worry. Everything will be fine. I have done this many times before.",
        "[S2] What a day! First the car would not start, then I lost my phone. Now it rains.",
        "[S1] They live by the sea. Their house is small, but the garden is lovely. You should visit them.",
        "[S2] Let me see. Yes, that is the right one. Put it back when you have finished.",
    ],
    "dialogue": [
        "[S1] Is anybody home? [S2] I am up here. [S1] Come down, dinner is ready.",
        "[S2] How long have you lived here? [S1] Almost ten years. [S2] Then you know everyone.",
        "[S1] I cannot find my glasses. [S2] They are on your nose. [S1] Oh, so they are.",
        "[S2] Shall we play cards? [S1] Not tonight. I am too tired. [S2] Maybe tomorrow.",
    ],
}
HELD_OUT = [
    "[S1] The farmer sold his old horse in spring, and with the money he bought a little red tractor.",
    "[S2] When the lesson was over, the boys ran out to the field and played football until the sun went down.",
    "[S1] Do you remember the winter of the big snow? [S2] Of course, we could not open the front door.",
    "[S2] Water the plants twice a week. The key is under the stone, and the cat sleeps in the kitchen.",
    "[S2] My brother has a new job in the north. [S1] I hope that he took his warm coat with him.",
    "[S1] This machine is easy to use. Press the green button, wait for the light, and take your ticket.",
]
HELD_OUT_REPLIES = [
    "Stop, that is the wrong address.",
    "[S2] Did anybody ask for me?",
    "Okay, but I can only pay on Monday.",
    "[S1] Tell me more about the second one.",
    "Good, then we will see you at noon.",
]
_HELD_OUT_FROM_MS, _HELD_OUT_TO_MS, _HELD_OUT_SEED = 700, 3900, 9000


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
