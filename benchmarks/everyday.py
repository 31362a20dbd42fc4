"""Bare everyday words over pictures kept apart: python -m benchmarks everyday --recipe FOLDER/recipe.toml.

Precision of the first five hits and of the first, and how often the line says "nothing" with and without an answer.
A picture is right for a word that its name, its keywords or, of several captions, two of them hold.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.line import CACHE, drawn, judged
from numpy.typing import NDArray

from sightline.calibration.phrases import phrases
from sightline.encoders.base import load_encoder
from sightline.evaluate.run import image_vectors
from sightline.text import table
from sightline.train.config import read_document, record
from sightline.train.data import Captioned, read_set
from sightline.train.distil.settings import DistilSettings

NOUNS = {
    "dog": r"dogs?|pupp(y|ies)",
    "cat": r"cats?|kittens?",
    "car": r"cars?",
    "cup of coffee": r"coffee|cups?|mugs?",
    "flower": r"flowers?|sunflowers?|lotus|water lil\w*",
    "pizza": r"pizzas?",
    "chair": r"chairs?|armchairs?|stools?",
    "lamp": r"lamps?|chandeliers?",
    "bed": r"beds?|bedroom",
    "bicycle": r"bicycles?|bikes?|biker|bmx",
    "table": r"tables?|desks?",
    "tree": r"trees?|forest|woods",
    "snow": r"snow\w*|ski\w*",
    "beach": r"beach\w*|shore|coast|sand",
    "ocean": r"ocean|sea|waves?|surf\w*",
    "mountain": r"mountains?|hills?|cliffs?",
    "bird": r"birds?|flamingos?|emus?|pigeons?|ducks?",
    "horse": r"horses?",
    "bear": r"bears?",
    "sheep": r"sheep|lambs?",
    "bus": r"bus(es)?",
    "train": r"trains?|railroad",
    "boat": r"boats?|schooners?|ships?|kayaks?|canoes?",
    "airplane": r"(air)?planes?|jets?",
    "motorcycle": r"motorcycles?|motorbikes?",
    "truck": r"trucks?|vans?",
    "laptop": r"laptops?|computers?",
    "book": r"books?|bookcase|bookshelf",
    "camera": r"cameras?",
    "piano": r"pianos?",
    "guitar": r"guitars?|bass",
    "ball": r"balls?|soccer|football|basketball|tennis|baseball",
    "skateboard": r"skateboard\w*|skate\w*",
    "surfboard": r"surf\w*",
    "frisbee": r"frisbees?",
    "kitchen": r"kitchens?|stoves?|ovens?|refrigerators?",
    "bathroom": r"bathrooms?|toilets?|shower|bath",
    "toilet": r"toilets?",
    "couch": r"couch(es)?|sofas?",
    "refrigerator": r"refrigerators?|fridges?",
    "dress": r"dress(es)?|skirts?|costumes?",
    "hat": r"hats?|caps?|helmets?",
    "sunglasses": r"sunglasses|glasses|goggles",
    "umbrella": r"umbrellas?",
    "watch": r"watch(es)?|clocks?",
    "sandwich": r"sandwich(es)?|burgers?|hamburgers?|hot dogs?",
    "cake": r"cakes?|cupcakes?|cheesecakes?",
    "salad": r"salads?|vegetables?|broccoli",
    "fruit": r"fruits?|apples?|bananas?|oranges?|strawberr\w*|pomegranates?",
    "butterfly": r"butterfl(y|ies)",
    "bridge": r"bridges?",
    "river": r"rivers?|streams?|creek|lake|water",
    "sunset": r"sunsets?|sunrise|sun",
    "building": r"buildings?|houses?|church(es)?|towers?|skyscrapers?|palace",
    "street": r"streets?|roads?|sidewalks?",
    "baby": r"bab(y|ies)|infants?|toddlers?",
    "child": r"child|children|kids?|boys?|girls?|bab(y|ies)|toddlers?",
    "cellphone": r"cellphones?|phones?",
    "swimming pool": r"pools?|swim\w*",
    "zebra": r"zebras?",
}
MORE = {
    **{word: word for word in ("grass", "football", "baseball", "swing", "fountain", "playground", "window", "sign")},
    **{word: rf"{word}s?" for word in ("fence", "bench", "tent", "slide", "jacket", "plate", "mirror", "pillow")},
    **{word: rf"{word}s?" for word in ("kangaroo", "starfish", "hedgehog", "flamingo", "crocodile", "wrench", "tie")},
    **{word: rf"{word}s?" for word in ("rope", "statue", "bottle", "towel", "suitcase", "knife", "door", "stapler")},
    "climbing": r"climb\w*|rock",
    "a man": r"m[ae]n|guys?|players?",
    "a woman": r"wom[ae]n|lad(y|ies)|girls?",
    "basketball": r"basketball",
    "wedding": r"wedding|bride",
    "crowd of people": r"crowds?|people|group",
    "food": r"food|pizza|cake|salad|sandwich|soup|rice|meat|chicken|fried|cream",
    "a room": r"\w*room|lounge|hall",
    "leopard": r"leopards?|cheetahs?",
}
ABSENT = """volcano submarine rocket astronaut telescope microscope stethoscope syringe tractor bulldozer lighthouse
windmill igloo castle sphinx dinosaur dragon unicorn whale shark octopus jellyfish seahorse penguin walrus koala panda
gorilla chimpanzee camel rhinoceros hippopotamus scorpion tarantula mosquito beehive cactus bonsai pumpkin mushroom
pineapple watermelon coconut avocado asparagus sushi spaghetti croissant lasagna popcorn champagne whiskey harp trumpet
trombone clarinet bagpipes accordion harmonica xylophone cello typewriter printer photocopier projector calculator
abacus thermometer barometer compass sundial hourglass chessboard dartboard roulette jigsaw origami parachute zeppelin
hovercraft gondola snowmobile ambulance limousine forklift excavator combine tank cannon sword crossbow armour
handcuffs gravestone mummy skeleton fossil crystal diamond crown sceptre throne passport banknote stamp newspaper
envelope blueprint tornado lightning eclipse aurora glacier geyser stalactite oasis pagoda mosque cathedral obelisk
colosseum""".split()
Right = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, help="of a distillation; its gallery is what it keeps apart")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--list", action="store_true", help="every word with its hits")
    options = parser.parse_args()
    if not options.recipe:
        print("left out: it needs --recipe")
        return
    pictures, needed = gallery(options.recipe)
    encoder = load_encoder(options.model)
    vectors = image_vectors(encoder, [picture.path for picture in pictures], CACHE).vectors
    words = [text.lower() for picture in pictures for text in picture.texts]
    asked = {word: right(pattern, pictures, needed) for word, pattern in {**NOUNS, **MORE}.items()}
    absent = [word for word in ABSENT if not any(re.search(rf"\b{word}", text) for text in words)][:100]
    present = [word for word, found in asked.items() if found.sum() >= 3][:100]

    line = drawn(vectors, encoder.encode_texts(list(phrases(2_000))))
    texts = np.concatenate([encoder.encode_texts([word]) for word in [*present, *absent]])
    best, likely = judged(line, vectors, texts, 5)
    rows = [["word", "right pictures", "right of 5", "first right", "likely of 5"]]
    for word, at, above in zip(present, best, likely, strict=False):
        found = asked[word]
        rows.append([word, f"{found.sum()}", f"{found[at].sum()}", "yes" if found[at[0]] else "no", f"{above.sum()}"])
    if options.list:
        print(table(rows, right=frozenset(range(1, 5))), end="\n\n")
    nouns = [n for n, word in enumerate(present) if word in NOUNS]
    fives = [asked[present[n]][best[n]].mean() for n in nouns]
    firsts = [asked[present[n]][best[n, 0]] for n in nouns]
    told = np.array([not row.any() for row in likely[: len(present)]])
    stopped = np.array([not row.any() for row in likely[len(present) :]])
    print(
        f"{len(pictures):,} pictures, {len(nouns)} nouns: precision@5 {interval(fives)}, first right {interval(firsts)}"
    )
    print(f"{len(present)} words with right pictures told nothing: {told.sum()} ({listed(present, told)})")
    print(f"{len(absent)} words without told nothing: {stopped.sum()} (not: {listed(absent, ~stopped)})")


def gallery(recipe: Path) -> tuple[list[Captioned], NDArray[np.int64]]:
    """The pictures that a recipe keeps apart, and how many of a picture's texts must hold a word."""
    settings = record(DistilSettings, read_document(recipe))
    found: dict[Path, Captioned] = {}
    needed = Counter[Path]()
    for one in [*settings.measure, *(one for one in settings.data if one.hold_out_percent)]:
        for picture in read_set(one, recipe.parent, is_held_out=one.hold_out_percent > 0).pictures:
            if "fashion" not in one.table:
                found[picture.path] = picture
                needed[picture.path] = 2 if one in settings.measure else 1
    return list(found.values()), np.array([needed[path] for path in found])


def right(pattern: str, pictures: Sequence[Captioned], needed: NDArray[np.int64]) -> Right:
    """(n,): the pictures that a word is right for."""
    whole = re.compile(rf"\b({pattern})\b")
    times = [sum(bool(whole.search(text.lower())) for text in picture.texts) for picture in pictures]
    return np.array(times) >= needed


def interval(values: Sequence[float]) -> str:
    """Mean in percent with its 95 % interval."""
    return f"{100 * np.mean(values):.1f} % +- {196 * np.std(values) / len(values) ** 0.5:.1f}"


def listed(words: Sequence[str], which: Right) -> str:
    return ", ".join(word for word, is_one in zip(words, which, strict=True) if is_one)


if __name__ == "__main__":
    main()
