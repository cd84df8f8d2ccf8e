r"""Units at the end of an answer: `5 \text{ cm}^2` is 5 and cm^2. Pure."""

import re

_ALIASES = {
    "m": "m meter meters metre metres", "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
    "kg": "kg kilogram kilograms", "g": "g gram grams gm", "mg": "mg milligram milligrams",
    "lb": "lb lbs pound pounds", "oz": "oz ounce ounces", "t": "ton tons tonne tonnes",
    "s": "s sec secs second seconds", "min": "min mins minute minutes",
    "h": "h hr hrs hour hours", "day": "day days", "week": "week weeks", "month": "month months",
    "year": "yr yrs year years", "l": "l liter liters litre litres L",
    "ml": "ml mL milliliter milliliters millilitre millilitres", "gal": "gal gallon gallons",
    "deg": "degree degrees deg", "rad": "rad radian radians",
    "dollar": "dollar dollars", "cent": "cent cents", "euro": "euro euros",
    "K": "K kelvin", "J": "J joule joules", "N": "N newton newtons", "W": "W watt watts",
    "V": "V volt volts", "A": "A ampere amperes amp amps", "Hz": "Hz hertz", "Pa": "Pa pascal",
    "eV": "eV", "mol": "mol mole moles", "C": "coulomb coulombs",
}  # fmt: skip
UNITS = {alias: unit for unit, aliases in _ALIASES.items() for alias in aliases.split()}
_WHOLE_WORDS = {"mph": "mi/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h", "fps": "ft/s"}
_TEXT = re.compile(r"(.*?) ?\\text\{([^{}]*)\} ?(?:\^ ?\{? ?(\d) ?\}?)?")
_AFTER_SPACE = re.compile(r"(.*[\d}%)]) ([A-Za-z][A-Za-z/. ]*)(?:\^ ?\{?(\d)\}?)?")
_ATTACHED = re.compile(r"(.*\d)([A-Za-z]{2,})(?:\^ ?\{?(\d)\}?)?")
_DEGREES = "^{\\circ}"
_OF_ANGLES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_COUNTED = re.compile(r"[\d)}]$|\\pi$|\\infty$")


def without_unit(text: str) -> tuple[str, str | None]:
    """(the number, its unit) of a quantity; unit None where none is named that this file knows, as
    of 24 ways. An answer that is no quantity comes back as it is.
    """
    core = text.removesuffix(_DEGREES)
    if core != text and _COUNTED.search(core) and not _OF_ANGLES.search(core):
        return core, "deg"
    found = _TEXT.fullmatch(text)
    if found and _COUNTED.search(found[1]):
        return found[1], unit_of(found[2], found[3])
    found = _AFTER_SPACE.fullmatch(text) or _ATTACHED.fullmatch(text)
    if found and re.fullmatch(r"[-+\d.,/ ]*(?:\\frac\{\d+\}\{\d+\})?", found[1]):
        words = found[2].strip()
        unit = unit_of(words, found[3])
        is_noun = len(words) > 3 and " " in text
        if unit or is_noun:
            return found[1], unit
    return text, None


def unit_of(words: str, power: str | None = None) -> str | None:
    """The unit by its usual sign: `square meters` and m with power 2 are m^2."""
    words = " ".join(words.replace(".", "").replace("-", " ").split())
    words = words if words in UNITS or words in _WHOLE_WORDS else words.lower()
    for name, exponent in (("square ", "2"), ("sq ", "2"), ("cubic ", "3"), ("cu ", "3")):
        if words.startswith(name):
            words, power = words.removeprefix(name), exponent
    if words in _WHOLE_WORDS:
        return _WHOLE_WORDS[words]
    parts = [UNITS.get(part.strip()) for part in re.split(r"/| per ", words)]
    if None in parts:
        return None
    unit = "/".join(part for part in parts if part)
    return f"{unit}^{power}" if power not in (None, "1") else unit
