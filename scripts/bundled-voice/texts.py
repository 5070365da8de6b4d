"""What the voices read while the model learns: `texts.py OUT.txt [--seed 1]`, one utterance a line, no two alike.

Four kinds, because each teaches something else: WordNet's example sentences (grammar and a wide vocabulary), everyday
sentences from templates (numbers, names, times, questions, what a phone call is made of), lists of common words (every
one of the 12,000 most frequent is heard a few times, whatever the sentences hold) and single short replies.
Nothing of the two test lists is among them.
"""

import argparse
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

from wordfreq import top_n_list

HERE = Path(__file__).parent
WORDNET = Path("/usr/share/wordnet")
COMMON_WORDS = 12_000
LIST_PASSES = 4  # how often each common word is read in a list
EVERYDAY = 14_000

_SPEAKABLE = re.compile(r"[A-Za-z0-9 ,.?!'$%-]+")

NAMES = """Anna Ben Carol David Emma Frank Grace Henry Isabel Jack Karen Liam Maria Nathan Olivia Peter Rachel Sam Tina
Victor Wendy Alex Julia Thomas Sarah Michael Linda James Susan Robert Laura Daniel Kate Paul Nancy Mark Helen George
Alice Bob Jenny Kevin Diana Oscar Martha Steven Lucy Martin Joan Philip Ruth Adam Eric Amy""".split()
SURNAMES = """Smith Johnson Brown Miller Davis Wilson Taylor Clark Lewis Walker Hall Young King Green Baker Carter
Turner Parker Cooper Reed Bailey Morgan Murphy Hill Scott Adams Nelson Mitchell Campbell Roberts Evans""".split()
PLACES = """London Paris Boston Chicago Denver Berlin Madrid Rome Dublin Seattle Austin Dallas Houston Phoenix Toronto
Sydney Tokyo Miami Atlanta Portland Oxford Cambridge Glasgow Vienna Geneva Lisbon Athens Oslo""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
THINGS = """book phone table chair window door key letter box bag coat shoe shirt hat ring watch clock camera laptop
computer screen printer cable battery charger lamp light mirror picture map ticket passport wallet card bottle glass cup
plate knife fork spoon pan pot oven fridge kettle towel pillow blanket bed sofa desk bike car bus train boat plane ball
guitar piano drum radio parcel package form invoice contract report menu newspaper magazine bridge wall fence gate roof
garden tree flower umbrella suitcase ladder hammer bucket candle basket""".split()
FOODS = """apple orange banana lemon pear tomato potato onion carrot sandwich pizza salad soup cake pie cookie bread
cheese butter egg chicken fish rice pasta burger steak coffee tea juice water milk sugar salt pepper
chocolate""".split()
ADJECTIVES = """big small old new red blue green white black yellow brown cheap expensive heavy light long short clean
dirty warm cold hot dry wet quiet loud fast slow easy hard nice strange broken empty full open closed soft strong round
square lovely beautiful simple useful famous important different special wooden plastic""".split()
FEELINGS = """happy sad tired angry busy hungry thirsty sorry glad ready late early sure afraid excited worried
surprised bored proud nervous sick fine alone lost""".split()
PEOPLE = """my mother|my father|my brother|my sister|the doctor|the teacher|our neighbor|the driver|a friend of mine|the
manager|his wife|her husband|my boss|the waiter|the nurse|a customer|the children|the students|the police|my uncle|my
aunt|the captain|the engineer|the farmer|the lawyer|the baker|the lady next door|everyone|somebody|nobody|the whole
family|the new assistant|an old friend|the girl|the boy|the man|the woman""".replace("\n", " ").split("|")
PLACE_PHRASES = """in the kitchen|at the station|near the river|in the park|at school|at work|on the table|under the
bed|behind the house|next to the bank|across the street|in the garden|at the airport|in the office|on the second
floor|by the window|in the car|at the hotel|in the city|on the beach|at home|in the hospital|outside the
library|around the corner|in front of the museum|between the two shops|at the end of the road|on top of the
hill""".replace("\n", " ").split("|")
TIME_PHRASES = """today|tomorrow|yesterday|this morning|this afternoon|this evening|tonight|last night|last week|next
week|last year|next month|in the morning|after lunch|before dinner|at noon|at midnight|every day|twice a week|once a
year|in the summer|during the winter|a few days ago|as soon as possible|right now|in a minute|all day long|on the
weekend|for the first time|from time to time|sooner or later""".replace("\n", " ").split("|")
VERBS_PAST = """found|lost|bought|sold|opened|closed|cleaned|carried|broke|fixed|painted|forgot|took|brought|moved|saw|
dropped|needed|wanted|liked|borrowed|returned|ordered|washed|hid|showed me|gave me|sent us|left|kept|threw away|put
down|picked up|talked about|looked at|asked for|paid for|waited for""".replace("\n", " ").split("|")
VERBS_BASE = """find|buy|sell|open|close|clean|carry|break|fix|paint|forget|take|bring|move|see|drop|use|keep|borrow|
return|order|wash|hide|show me|give me|send us|leave|check|replace|look at|pay for|wait for|change|cancel|print|
sign""".replace("\n", " ").split("|")
ACTIVITIES = """reading a book|cooking dinner|playing chess|watching television|walking the dog|writing a letter|driving
to work|learning to swim|cleaning the house|listening to music|waiting for the bus|talking on the phone|working
late|planning a trip|running in the park|looking for a job|painting the fence|singing in the shower|riding a
bike|making breakfast|fixing the roof|building a boat|drinking coffee|feeding the birds|washing the dishes|studying for
the exam|shopping for shoes|sleeping on the sofa|taking pictures|growing tomatoes|telling a joke|having
lunch""".replace("\n", " ").split("|")
REPLIES = """Yes.|No.|Okay.|Sure.|Maybe.|Of course.|Not yet.|I see.|Thank you.|Thanks a lot.|You're welcome.|Hello.|Hi
there.|Good morning.|Good afternoon.|Good evening.|Good night.|Goodbye.|Bye.|See you later.|See you tomorrow.|Take
care.|Excuse me.|I'm sorry.|Pardon?|What?|Why?|Who is it?|How are you?|I'm fine, thanks.|And you?|That's right.|That's
wrong.|Exactly.|Really?|I don't know.|I think so.|I don't think so.|I hope so.|Never mind.|No problem.|Just a
moment, please.|One second.|Hold on.|Wait.|Stop.|Go ahead.|Come in.|Sit down.|Hurry up.|Be careful.|Good luck.|Well
done.|Great.|Perfect.|Wonderful.|Let's go.|I agree.|Absolutely.|Not at all.|It depends.|Nice to meet you.|How can I help
you?|Can you hear me?|Please say that again.|I understand.|Sounds good.|All right.|Got it.|Let me check.|Right away.|
Anything else?|That's all.|What a pity.|Congratulations!|Happy birthday!|Welcome back.|Long time no see.|Are you
there?|Who's calling, please?|Speaking.|Please hold the line.""".replace("\n", " ").split("|")

# {x} is filled from the table of the same name, each time anew.
TEMPLATES = """
{Person} {past} the {adjective} {thing} {place}.
{Person} {past} {a_thing} {time}.
Did you {base} the {thing} {time}?
Could you {base} the {adjective} {thing}, please?
Can I {base} this {thing} {time}?
Please {base} the {thing} before {day}.
I want to {base} the {thing} {place}.
We should {base} {a_thing} {time}.
Don't {base} the {thing}, {name}.
I was {activity} when {person} called.
{Person} was {activity} {place}.
{name} is {activity} {time}.
Are you {feeling} because of the {thing}?
I'm {feeling}, but {person} is {feeling}.
{Person} looked {feeling} {time}.
Where is the {adjective} {thing}?
Where did {person} put the {thing}?
The {thing} is {place}, {name}.
There is {a_thing} {place}.
There were {number} {things} {place}.
I have {number} {things} and {number} {things}.
She bought {number} {foods} and some {food}.
Would you like some {food} or some {food}?
I'd like {a_food} with {food}, please.
We had {food} and {food} for dinner {time}.
The {food} tastes better with {food}.
My name is {name} {surname}.
This is {name} {surname} speaking, how can I help you?
Hello {name}, how are you {time}?
Is {name} {surname} there?
{name} and {name} went to {city} {time}.
{name} lives in {city} with {person}.
Have you ever been to {city}?
The train to {city} leaves at {clock}.
The next bus to {city} comes in {number} minutes.
Your flight from {city} to {city} is on time.
The meeting starts at {clock} on {day}.
Let's meet at {clock} {place}.
What time does the {shop} open on {day}?
The {shop} closes at {clock}.
It is {clock} now.
Wake me up at {clock}, please.
Your appointment is on {day}, {month} {ordinal}, at {clock}.
My birthday is on {month} {ordinal}.
He was born in {year}.
The house was built in {year}.
It costs {number} dollars and {number} cents.
That will be {number} dollars, please.
The ticket is {number} dollars.
Your order number is {digits}.
My phone number is {digits}.
Please press {digit} to speak with {person}.
The code is {digits}.
The room is on floor {number}, number {digits}.
It is {number} degrees {time}.
About {number} percent of the {things} are {adjective}.
I think it is going to {weather} {time}.
The weather in {city} is {adjective} {time}.
How many {things} do you need?
How much is the {adjective} {thing}?
Which {thing} do you like better, the {adjective} one or the {adjective} one?
Why is {person} so {feeling}?
Who {past} my {thing}?
When will {person} {base} the {thing}?
What happened {place} {time}?
Do you know how to {base} {a_thing}?
I don't know where the {thing} is.
I can't {base} the {thing} without {a_thing}.
If you {base} the {thing}, I will {base} the {thing}.
Because it was {adjective}, we {past} the {thing}.
The {thing} was too {adjective} and too {adjective}.
{Person} said that the {thing} was {adjective}.
{Person} told {person} about the {adjective} {thing} {place}.
You can {base} it {time} if you are {feeling}.
It takes about {number} minutes to {base} the {thing}.
We walked {place} until it got dark.
Thank you for {activity}, {name}.
I am sorry, the {thing} is {adjective} {time}.
One moment, let me {base} the {thing}.
Sorry, I did not hear you, could you say that again?
Nothing is wrong with your {thing}.
They {past} {a_thing}, {a_thing} and {a_thing}.
{city} is {number} miles from {city}.
{number} plus {number} is {number}.
The answer is {number}.
Turn {side} at the {shop} and go straight for {number} minutes.
""".strip().split("\n")

SHOPS = """shop|bank|library|museum|post office|restaurant|bakery|pharmacy|school|supermarket|station|theater|gym|
market|hotel|office|cafe""".replace("\n", " ").split("|")
WEATHER = "rain|snow|get cold|get warm|be sunny|be cloudy|be windy|clear up".split("|")
ORDINALS = """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
fifteenth sixteenth seventeenth eighteenth nineteenth twentieth""".split()
SMALL = """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number(dice: random.Random) -> str:
    """Up to 999, small ones most often, in words or in figures."""
    value = dice.choice([dice.randint(2, 20), dice.randint(2, 99), dice.randint(100, 999)])
    if dice.random() < 0.4:
        return str(value)
    words = [f"{SMALL[value // 100 - 1]} hundred"] if value >= 100 else []
    rest = value % 100
    if rest >= 20:
        words += [TENS[rest // 10 - 2]] + ([SMALL[rest % 10 - 1]] if rest % 10 else [])
    elif rest:
        words += [SMALL[rest - 1]]
    return " ".join(words)


def clock(dice: random.Random) -> str:
    """A time of day as people say it or, without its colon, as a script writes it."""
    hour = dice.choice(SMALL[:12])
    return dice.choice(
        [
            f"{hour} o'clock",
            f"half past {hour}",
            f"quarter to {hour}",
            f"{hour} thirty",
            f"{hour} {dice.choice(TENS[:4])} {dice.choice(SMALL[:9])}",
            f"{dice.randint(1, 12)} {dice.choice(['am', 'pm'])}".replace("am", "a m").replace("pm", "p m"),
            f"{dice.randint(1, 12)} {dice.randint(10, 59)}",
            f"{hour} in the {dice.choice(['morning', 'evening', 'afternoon'])}",
        ]
    )


def plural(word: str) -> str:
    """Good enough for the words above."""
    if word.endswith(("s", "x", "ch", "sh", "to")):
        return word + "es"
    if word.endswith("fe"):
        return word[:-2] + "ves"
    return word[:-1] + "ies" if re.search("[^aeiou]y$", word) else word + "s"


def fill(template: str, dice: random.Random) -> str:
    """A template with its blanks filled."""
    an = lambda word: f"{'an' if word[0] in 'aeiou' else 'a'} {word}"  # noqa: E731
    blanks = {
        "name": lambda: dice.choice(NAMES),
        "surname": lambda: dice.choice(SURNAMES),
        "city": lambda: dice.choice(PLACES),
        "day": lambda: dice.choice(DAYS),
        "month": lambda: dice.choice(MONTHS),
        "ordinal": lambda: dice.choice(ORDINALS),
        "thing": lambda: dice.choice(THINGS),
        "things": lambda: plural(dice.choice(THINGS)),
        "a_thing": lambda: an(dice.choice(THINGS)),
        "food": lambda: dice.choice(FOODS),
        "foods": lambda: plural(dice.choice(FOODS)),
        "a_food": lambda: an(dice.choice(FOODS)),
        "adjective": lambda: dice.choice(ADJECTIVES),
        "feeling": lambda: dice.choice(FEELINGS),
        "person": lambda: dice.choice(PEOPLE),
        "place": lambda: dice.choice(PLACE_PHRASES),
        "time": lambda: dice.choice(TIME_PHRASES),
        "past": lambda: dice.choice(VERBS_PAST),
        "base": lambda: dice.choice(VERBS_BASE),
        "activity": lambda: dice.choice(ACTIVITIES),
        "shop": lambda: dice.choice(SHOPS),
        "weather": lambda: dice.choice(WEATHER),
        "side": lambda: dice.choice(["left", "right"]),
        "number": lambda: number(dice),
        "clock": lambda: clock(dice),
        "digit": lambda: dice.choice(SMALL[:9]),
        "digits": lambda: " ".join(dice.choices([*SMALL[:9], "zero"], k=dice.randint(3, 7))),
        "year": lambda: dice.choice(["nineteen", "eighteen", "twenty"]) + " " + dice.choice(TENS[:1] + SMALL[9:]),
    }
    filled = re.sub(r"\{(\w+)\}", lambda blank: blanks[blank[1].lower()](), template)
    return filled[0].upper() + filled[1:]


def wordnet() -> Iterator[str]:
    """Example sentences of WordNet's glosses."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text(encoding="utf-8").splitlines():
            for example in re.findall(r'"([^"]+)"', line.partition("|")[2]):
                text = " ".join(example.replace("`", "'").replace(";", ",").replace(":", ",").split())
                if 3 <= len(text.split()) <= 24 and _SPEAKABLE.fullmatch(text):
                    yield text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def everyday(dice: random.Random) -> Iterator[str]:
    """Sentences from the templates, without end."""
    while True:
        yield fill(dice.choice(TEMPLATES), dice)


def word_lists(dice: random.Random) -> Iterator[str]:
    """Every common word in lists of a few, with pauses between some."""
    words = [word for word in top_n_list("en", COMMON_WORDS * 2) if re.fullmatch(r"[a-z]{2,}('[a-z]+)?|a|i|o", word)]
    for _ in range(LIST_PASSES):
        order = words[:COMMON_WORDS]
        dice.shuffle(order)
        rest = iter(order)
        while chosen := list(itertools.islice(rest, dice.randint(4, 9))):
            yield "".join(word + dice.choice([" ", " ", ", "]) for word in chosen).strip(" ,").capitalize() + "."


def test_sentences() -> set[str]:
    """What must not be trained on."""
    return {line.strip().lower() for path in HERE.glob("test-*.txt") for line in path.read_text().splitlines()}


def texts(seed: int) -> list[str]:
    """All utterances, shuffled."""
    dice = random.Random(seed)
    sources = [wordnet(), itertools.islice(everyday(dice), EVERYDAY), word_lists(dice), REPLIES]
    found = {text.strip(): None for source in sources for text in source}
    held_out = test_sentences()
    chosen = [text for text in found if text.lower() not in held_out]
    dice.shuffle(chosen)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    lines = texts(given.seed)
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} utterances, {sum(len(line.split()) for line in lines)} words")


if __name__ == "__main__":
    main()
