"""Figures as agents write them, "$42.60", "5/4", "ann@mail.com", "A7-B23"; the text front end says how they sound."""

import random
import string

from grammar import Maker

MONTHS = "January February March April May June July August September October November December".split()
SHORT_MONTHS = [month[:3] for month in MONTHS]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SMALL = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
ALPHABET = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey xray yankee zulu apple boy cat dog easy fox george henry ida john king love "
    "mary nancy ocean peter queen robert sugar tom uncle victor william young zebra"
).split()
ACRONYMS = (
    "USB HDMI PDF VPN DNS CPU GPU API URL HTML SQL ATM SUV CEO CFO FBI CIA BBC NBC IBM BMW UPS DHL FAQ GPS LED LCD MRI "
    "DNA PCR VIP DIY RSVP ETA HR PR TV DVD CD PC USA UK EU UN NBA NFL NHL MLB UFO IRS DMV IVR SMS RAM SSD ISP KPI PTO "
    "SLA CRM ERP FTP SSH XML CSV MP3 HTTP IP ID EMT ICU LLC NGO MBA PhD BA GDP IPO AI IOS HVAC AC DC FM AM"
).split()
DOMAINS = "gmail.com yahoo.com outlook.com hotmail.com icloud.com aol.com mail.com proton.me example.com example.org"
ENDS = "com org net io co.uk edu gov info app dev de us".split()
UNITS = "kg g km m cm mm mi ft in lb lbs oz L ml mph MB GB TB kWh W V Hz min hrs".split()
STATES = "AL AK AZ CA CO CT FL GA IL KS KY MA MD MI MN MO NC NJ NM NV NY OH OK PA SC TN TX UT VA WA WI".split()
STREETS = "St. Ave. Rd. Blvd. Ln. Dr. Ct. Street Avenue Road Drive Lane Way Place".split()
NUMBERS = [(2, 20), (2, 99), (100, 999)]


def in_words(value: int) -> str:
    """1 to 999, as it is said."""
    words = [f"{SMALL[value // 100 - 1]} hundred"] if value >= 100 else []
    rest = value % 100
    if rest >= 20:
        words += [TENS[rest // 10 - 2]] + ([SMALL[rest % 10 - 1]] if rest % 10 else [])
    elif rest:
        words += [SMALL[rest - 1]]
    return " ".join(words)


def number(dice: random.Random) -> str:
    """Up to 999, small ones most often, in words or in figures."""
    value = dice.randint(*dice.choice(NUMBERS))
    return str(value) if dice.random() < 0.4 else in_words(value)


def big_number(dice: random.Random) -> str:
    """From four to nine digits, with commas or without, or in millions."""
    value = dice.randrange(10 ** dice.randint(3, 8)) + 1000
    if dice.random() < 0.2:
        return f"{dice.randint(1, 99)}.{dice.randint(1, 9)} {dice.choice(['million', 'billion', 'thousand'])}"
    if dice.random() < 0.3:
        value = round(value, -len(str(value)) + 1)
    return f"{value:,}" if dice.random() < 0.6 or value > 99_999 else str(value)


def money(dice: random.Random) -> str:
    """A price."""
    sign = dice.choice("$$$$$$€£")
    value = dice.choice([dice.randint(1, 20), dice.randint(20, 999), dice.randint(1000, 9999)])
    if dice.random() < 0.08:
        return f"{sign}{dice.randint(1, 9)}.{dice.randint(1, 9)} million"
    cents = dice.choice(["", "", f".{dice.randint(1, 99):02}", ".50", ".99"])
    return f"{sign}{value:,}{cents}" if value < 1000 or dice.random() < 0.7 else f"{sign}{value}{cents}"


def clock_time(dice: random.Random) -> str:
    """A time of day."""
    hour, minute = dice.randint(1, 12), dice.choice([0, 15, 30, 45, dice.randrange(60)])
    half = dice.choice(["am", "pm", " a.m.", " p.m.", " AM", " PM", "", ""])
    if dice.random() < 0.15:
        return f"{dice.randint(13, 23)}:{minute:02}"
    return f"{hour}{half}" if half and not minute and dice.random() < 0.7 else f"{hour}:{minute:02}{half}"


def date(dice: random.Random) -> str:
    """A day, with its year or without."""
    month, day, year = dice.randrange(12), dice.randint(1, 28), dice.randint(1900, 2039)
    ending = dice.choice(["", "", "th"]) if day not in (1, 2, 3, 21, 22, 23) else ""
    plain = f"{dice.choice([MONTHS, SHORT_MONTHS])[month]} {day}{ending}"
    return dice.choice(
        [
            plain,
            plain,
            f"{plain}, {year}",
            f"{MONTHS[month]} {year}",
            f"{month + 1}/{day}",
            f"{month + 1}/{day}/{year}",
            f"{year}-{month + 1:02}-{day:02}",
            f"{dice.choice(DAYS)}, {MONTHS[month]} {day}",
            f"the {ORDINALS[day % 20]} of {MONTHS[month]}",
        ]
    )


def digits(dice: random.Random, count: int) -> str:
    """So many figures."""
    return "".join(dice.choices(string.digits, k=count))


def phone(dice: random.Random) -> str:
    """A telephone number."""
    area, first, last = str(dice.randint(201, 989)), digits(dice, 3), digits(dice, 4)
    forms = [f"({area}) {first}-{last}", f"{area}-{first}-{last}", f"1-800-{first}-{last}", f"{first}-{last}"]
    return dice.choice([*forms, f"{area}.{first}.{last}", f"+1 {area} {first} {last}", f"{forms[1]} ext. {area[:2]}"])


def code(dice: random.Random) -> str:
    """Letters and figures, as on a ticket; or letters and figures with spaces, as they are read out."""
    length = dice.randint(3, 8)
    kind = dice.random()
    if kind < 0.4:
        return " ".join(dice.choices(string.ascii_uppercase + string.digits, k=length))
    mixed = dice.choices(string.ascii_uppercase, k=dice.randint(1, 3)) + list(digits(dice, dice.randint(1, 5)))
    if kind < 0.6:
        dice.shuffle(mixed)
    text = "".join(mixed)
    return f"{text}-{digits(dice, dice.randint(2, 4))}" if kind > 0.85 else text


def letters(dice: random.Random) -> str:
    """Single letters."""
    return " ".join(dice.choices(string.ascii_uppercase, k=dice.randint(2, 9)))


def measure(dice: random.Random) -> str:
    """A number and its unit."""
    amount = str(dice.randint(1, 900)) if dice.random() < 0.7 else f"{dice.randint(0, 99)}.{dice.randint(1, 9)}"
    return f"{amount} {dice.choice(UNITS)}" if dice.random() < 0.6 else amount + dice.choice(UNITS)


def address(dice: random.Random, street: str, town: str) -> str:
    """A house."""
    house = f"{dice.randint(1, 9999)} {street} {dice.choice(STREETS)}"
    flat = dice.choice(["", "", f", Apt. {dice.randint(1, 40)}", f", Suite {dice.randint(100, 999)}"])
    return f"{house}{flat}, {town}" + (f", {dice.choice(STATES)} {digits(dice, 5)}" if dice.random() < 0.5 else "")


def email(dice: random.Random, given: str, family: str) -> str:
    """An address for mail."""
    name = f"{given}{dice.choice(['.', '_', '', '-'])}{family}".lower() if dice.random() < 0.7 else family.lower()
    host = dice.choice(DOMAINS.split()) if dice.random() < 0.6 else f"{given.lower()}s.{dice.choice(ENDS)}"
    return f"{name}{dice.choice(['', '', digits(dice, 2)])}@{host}"


def url(dice: random.Random, name: str) -> str:
    """A page."""
    path = dice.choice(["", "", "/help", "/account", "/shop", f"/{name.lower()}"])
    return f"{dice.choice(['www.', '', 'https://'])}{name.lower()}.{dice.choice(ENDS)}{path}"


def clock(dice: random.Random) -> str:
    """A time of day as people say it."""
    hour = dice.choice(SMALL[:12])
    minute = f"{hour} {in_words(dice.randint(10, 59))}"
    part = dice.choice(["morning", "evening", "afternoon"])
    return dice.choice(
        [f"{hour} o'clock", f"half past {hour}", f"quarter to {hour}", minute, f"{hour} in the {part}", f"{hour} A M"]
    )


def spelt(word: str) -> str:
    """A word letter by letter."""
    return " ".join(letter for letter in word.upper() if letter.isalpha())


def makers() -> dict[str, Maker]:
    """By the names that grammar.txt has for them."""
    return {
        "number": number,
        "big_number": big_number,
        "money": money,
        "clock_time": clock_time,
        "clock": clock,
        "date": date,
        "phone": phone,
        "code": code,
        "percent": lambda dice: (
            f"{dice.choice([dice.randint(1, 100), f'{dice.randint(0, 99)}.{dice.randint(1, 9)}'])}%"
        ),
        "year": lambda dice: str(dice.randint(1100, 2050)),
        "measure": measure,
        "fraction": lambda dice: dice.choice(["1/2", "1/3", "2/3", "1/4", "3/4", "1 1/2", "2 3/4", "5/8", "7/10"]),
        "temperature": lambda dice: f"{dice.randint(-20, 110)}{dice.choice(['°', '°F', '°C', ' degrees'])}",
        "ordinal_number": lambda dice: _ordinal(dice.randint(1, 120)),
        "decimal": lambda dice: f"{dice.randint(0, 40)}.{dice.randint(0, 99)}",
        "score": lambda dice: f"{dice.randint(0, 9)}-{dice.randint(0, 9)}",
        "order_number": lambda dice: f"#{digits(dice, dice.randint(4, 8))}",
        "room": lambda dice: str(dice.randint(1, 999)),
        "last_four": lambda dice: digits(dice, 4),
        "pin": lambda dice: digits(dice, dice.randint(4, 6)),
        "letter": lambda dice: dice.choice(string.ascii_uppercase),
        "alpha": lambda dice: dice.choice(ALPHABET),
        "acronym": lambda dice: dice.choice(ACRONYMS),
        "flight": lambda dice: (
            f"{dice.choice(['AA', 'UA', 'DL', 'BA', 'LH', 'AF', 'WN', 'KL'])}{dice.randint(1, 2999)}"
        ),
        "gate": lambda dice: f"{dice.choice('ABCDEFGHK')}{dice.randint(1, 60)}",
        "house": lambda dice: str(dice.randint(1, 2500)),
        "day_ordinal": lambda dice: dice.choice(ORDINALS),
        "said_digit": lambda dice: dice.choice(SMALL[:9]),
        "said_digits": lambda dice: " ".join(dice.choices([*SMALL[:9], "zero", "oh"], k=dice.randint(3, 7))),
        "said_year": lambda dice: (
            f"{dice.choice(['nineteen', 'eighteen', 'twenty'])} {dice.choice(TENS[:1] + SMALL[9:])}"
        ),
    }


def _ordinal(value: int) -> str:
    ending = "th" if value % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value}{ending}"
