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
# it was three times.
HELD_OUT_SENTENCES = {
    "statement": [
        "The farmer sold his old horse to a friend.",
        "Our plane landed an hour later than planned.",
        "A small bird built its nest under the window.",
        "She keeps her money in a tin behind the clock.",
    ],
    "question": [
        "Why did nobody answer the door this morning?",
        "Do you still play football after school?",
        "Which of these two roads goes to the harbor?",
        "When will the new library be finished?",
    ],
    "service": [
        "Your table for four is ready at eight tonight.",
        "I have sent the form to your new address.",
        "The doctor can see you on Wednesday afternoon.",
        "Please keep this number until the problem is solved.",
    ],
    "several sentences": [
        "[S1] The soup is too hot. Let it stand for a while. I will cut the bread.",
        "[S2] We sold the boat last summer. It was too big for us. Now we rent one.",
        "[S1] Listen to the wind. It has blown since midnight. The tall tree may fall.",
        "[S2] My first job was in a bank. I counted coins all day. It was rather dull.",
        "[S1] Hold the ladder, please. I want to paint the ceiling. It will not take long.",
        "[S2] What a surprise! I thought you were in Spain. Come in and take off your coat.",
        "[S1] This lamp is broken. Take the one from the hall. We can buy another tomorrow.",
        "[S2] Go down the hill. Cross the square, and look for a green gate. I live there.",
    ],
    "dialogue": [
        "[S1] Who painted this picture? [S2] My aunt did. [S1] It looks just like the lake.",
        "[S2] Is dinner ready yet? [S1] In five minutes. [S2] Then I can feed the cat.",
        "[S1] You forgot your hat. [S2] Thank you, I need it. [S1] It is very cold today.",
        "[S2] How was the journey? [S1] Long, but quiet. [S2] You should rest before we eat.",
    ],
}
HELD_OUT = [
    "[S1] Every winter the river froze, and the whole town came down to the bank to skate and drink hot tea.",
    "[S2] The manager called me yesterday and said that my new desk would not arrive before the end of the month.",
    "[S1] Has anyone seen my blue bag? [S2] I think you left it on the seat when we got off the bus.",
    "[S2] Take the second door on the right. There is a long hall, and the kitchen is at the very end of it.",
    "[S2] The dog ran away during the storm. [S1] A farmer brought it back on Monday, wet and hungry.",
    "[S1] Your old phone still works. Only the battery is weak, and a new one does not cost much at all.",
]
HELD_OUT_REPLIES = [
    "Hold on, can you say that once more?",
    "[S2] Where should I leave my car?",
    "No, that is not what I meant.",
    "[S1] Thanks, but I have to go now.",
    "Great, let us do it on Tuesday then.",
]
_HELD_OUT_FROM_MS, _HELD_OUT_TO_MS, _HELD_OUT_SEED = 700, 3900, 14700


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
